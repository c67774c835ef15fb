"""Images listed in a counts.csv: which group each comes from, and how many objects of each kind it shows."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from fedcore.data.archive import FileSource, one_line
from fedcore.data.catalogue import Catalogue, number_names
from fedcore.data.decode import EXTENSIONS
from scenarios.errors import InputError

GROUP_COLUMNS = (
    "group", "slide", "site", "plate", "station", "patient", "subject", "sample", "location", "device",
    "client",
)  # fmt: skip
_YES = frozenset({"1", "true", "yes", "test"})
_NO = frozenset({"0", "false", "no", "train"})
_COUNT = re.compile(r"\+?[0-9]+(\.0*)?")
_MAX_COUNT = 10**9
_MAX_CSV_BYTES = 64 * 2**20


def find_counts_csv(source: FileSource) -> str | None:
    """Return the name of the set's counts.csv or None; raises InputError where there are several."""
    found = [name for name in source.names if PurePosixPath(name).name.lower() == "counts.csv"]
    if len(found) > 1:
        raise InputError(f"{source.path}: there are {len(found)} counts.csv ({', '.join(found[:3])}); expected one")
    return found[0] if found else None


def list_counts_csv(source: FileSource, csv_name: str) -> Catalogue:
    """List the images that counts.csv names, sorted by name; others are left out, with a warning.

    Columns (names in any case, `,` `;` or tab between them, UTF-8): `file`, relative to counts.csv, or a bare
    name when the images lie in a sub-folder; optionally one of `GROUP_COLUMNS` (`_id` may follow, as in
    `slide_id`); optionally `test` (1/0, true/false, yes/no, test/train); every other column is a kind and
    holds whole numbers from 0. Without kinds the set just has groups.

    Raises:
        InputError: a column is missing, unnamed or double, a cell is not what its column needs, a file is
            missing or named twice: the line is named.
    """
    where = f"{source.path}: {csv_name}"
    header, rows = _rows(source, csv_name, where)
    columns = _columns(header, where)
    find = _Finder(source, csv_name)
    lines: dict[str, int] = {}
    found: list[tuple[str, str, bool, list[int]]] = []
    for line, row in rows:
        at = f"{where} line {line}"
        if len(row) != len(header):
            raise InputError(f"{at}: has {len(row)} fields; expected {len(header)}, one per column")
        file = find(row[columns.file].strip(), at)
        if file in lines:
            raise InputError(f"{at}: file '{file}' was named in line {lines[file]} already; expected it once")
        lines[file] = line
        for column in columns.unnamed:
            if row[column].strip():
                raise InputError(
                    f"{at}: column {column + 1} has '{row[column]}' but no name; expected a name in line 1"
                )
        group = "" if columns.group is None else row[columns.group].strip()
        if columns.group is not None and not group:
            raise InputError(f"{at}: column '{header[columns.group]}' is empty; expected the name of a group")
        test = columns.test is not None and _truth(row[columns.test], f"{at}: column '{header[columns.test]}'")
        kinds = [_count(row[column], f"{at}: column '{header[column]}'") for column in columns.kinds]
        found.append((file, group, test, kinds))
    if not found:
        raise InputError(f"{where}: has no line after its header; expected one line per image")
    _warn_of_unlisted(source, csv_name, set(lines))

    found.sort(key=lambda entry: entry[0])
    group_of, group_names = number_names([entry[1] for entry in found])
    grouped, counted = columns.group is not None, bool(columns.kinds)
    return Catalogue(
        n=len(found),
        files=tuple(entry[0] for entry in found),
        counts=np.array([entry[3] for entry in found], dtype=np.int64) if counted else None,
        group=group_of if grouped else None,
        test=np.array([entry[2] for entry in found]) if columns.test is not None else None,
        kinds=tuple(header[column] for column in columns.kinds),
        group_names=group_names if grouped else (),
    )


@dataclass(frozen=True)
class _Columns:
    file: int
    group: int | None
    test: int | None
    kinds: list[int]
    unnamed: list[int]  # a spreadsheet's trailing commas, or an index that pandas wrote


def _rows(source: FileSource, csv_name: str, where: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    data = source.read(csv_name)
    if len(data) > _MAX_CSV_BYTES:
        raise InputError(f"{where}: has {len(data):,} bytes; expected at most {_MAX_CSV_BYTES:,}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: byte {error.start} is not UTF-8; expected the file saved as CSV in UTF-8"
        ) from error
    first = text.lstrip().split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"{where} line {reader.line_num}: not a readable CSV line ({one_line(error)})") from error
    if not rows:
        raise InputError(f"{where}: is empty; expected a header line with a 'file' column, then one line per image")
    return [cell.strip() for cell in rows[0][1]], rows[1:]


def _columns(header: list[str], where: str) -> _Columns:
    lowered = [name.lower() for name in header]
    named = [name for name in lowered if name]
    doubles = {name for name in named if named.count(name) > 1}
    if doubles:
        raise InputError(f"{where} line 1: column '{min(doubles)}' occurs twice; expected every column once")
    if "file" not in lowered:
        raise InputError(f"{where} line 1: has no 'file' column, only {', '.join(map(repr, header))}; expected 'file'")
    groups = [i for i, name in enumerate(lowered) if re.sub(r"[_ ]id$", "", name) in GROUP_COLUMNS]
    if len(groups) > 1:
        raise InputError(
            f"{where} line 1: has {len(groups)} group columns, {', '.join(repr(header[i]) for i in groups)}; "
            "expected one of them, the unit that train and test must not share"
        )
    file = lowered.index("file")
    test = lowered.index("test") if "test" in lowered else None
    unnamed = [i for i, name in enumerate(lowered) if not name]
    kinds = [i for i in range(len(header)) if i not in (file, test, *groups, *unnamed)]
    return _Columns(file, groups[0] if groups else None, test, kinds, unnamed)


class _Finder:
    """Finds the file that a cell means: relative to counts.csv, else by its bare name in any sub-folder."""

    def __init__(self, source: FileSource, csv_name: str) -> None:
        parent = PurePosixPath(csv_name).parent.as_posix()
        self._prefix = "" if parent == "." else parent + "/"
        self._names = set(source.names)
        self._by_bare_name: dict[str, list[str]] = defaultdict(list)
        for name in source.names:
            if name.startswith(self._prefix):
                self._by_bare_name[name.rsplit("/", 1)[-1]].append(name)

    def __call__(self, cell: str, at: str) -> str:
        if not cell:
            raise InputError(f"{at}: column 'file' is empty; expected the name of an image file")
        wanted = unicodedata.normalize("NFC", cell.replace("\\", "/")).removeprefix("./")
        if self._prefix + wanted in self._names:
            return self._prefix + wanted
        candidates = self._by_bare_name.get(wanted, [])
        if len(candidates) > 1:
            raise InputError(f"{at}: file '{cell}' could be {' or '.join(candidates[:3])}; expected its folder too")
        if not candidates:
            raise InputError(f"{at}: file '{cell}' does not exist; expected a file beside or below counts.csv")
        return candidates[0]


def _truth(cell: str, at: str) -> bool:
    value = cell.strip().lower()
    if value not in _YES | _NO:
        raise InputError(f"{at} has '{cell}'; expected 1/0, true/false, yes/no or test/train")
    return value in _YES


def _count(cell: str, at: str) -> int:
    value = cell.strip()
    if not _COUNT.fullmatch(value) or len(value) > 15 or int(value.split(".")[0]) > _MAX_COUNT:
        raise InputError(
            f"{at} has '{cell}'; expected a whole number from 0, as every column but file, test and a group's "
            f"({', '.join(GROUP_COLUMNS)}) counts a kind: remove it where it does not"
        )
    return int(value.split(".")[0])


def _warn_of_unlisted(source: FileSource, csv_name: str, listed: set[str]) -> None:
    unlisted = [n for n in source.names if PurePosixPath(n).suffix.lower() in EXTENSIONS and n not in listed]
    if unlisted:
        warnings.warn(
            f"{source.path}: {len(unlisted)} images, such as '{unlisted[0]}', are not in {csv_name} and are left out",
            stacklevel=2,
        )
