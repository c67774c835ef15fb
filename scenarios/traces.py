"""Recorded traces: link capacity (`second,uplink_mbps,downlink_mbps`) and presence (`on_s,off_s`), read from CSV files."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scenarios.errors import InputError

MAX_BYTES = 64_000_000
MAX_SECONDS = 2_000_000
MAX_MBPS = 1e9
"""A thousand times the fastest port: beyond, sums of bits lose seconds."""


@dataclass(frozen=True)
class LinkTrace:
    """Capacity of one link, second by second.

    Attributes:
        up_bps: (T,) bit/s towards the server.
        down_bps: (T,) bit/s from the server.
    """

    up_bps: NDArray[np.float64]
    down_bps: NDArray[np.float64]


def read_link_trace(path: str | Path) -> LinkTrace:
    """Read a capacity trace; a row holds until the next one's second, the last one to the end of its own. Rows may lie between
    seconds: each second has the mean of what they say.

    Args:
        path: of the CSV file, with a header.

    Raises:
        InputError: unreadable, wrong columns, not a number, negative, seconds that do not ascend, no capacity at all, or more
            than any link has.
    """
    return _link_trace(str(path), _changed(path))


def read_presence(path: str | Path) -> NDArray[np.float64]:
    """Read a presence trace: (W, 2) seconds at which a machine comes and goes, ascending and disjoint.

    Args:
        path: of the CSV file, with a header.

    Raises:
        InputError: unreadable, wrong columns, not a number, or rows that do not ascend.
    """
    rows, lines = _rows(Path(path), ("on_s", "off_s"))
    flat = rows.ravel()
    bad = np.flatnonzero(np.diff(flat) <= 0)
    if len(bad):
        row = int(bad[0] + 1) // 2
        raise InputError(f"{path}: line {lines[row]}: {_text(rows[row])} does not follow, expected times that ascend")
    return rows


def _text(row: NDArray[np.float64]) -> str:
    return ",".join(f"{value:g}" for value in row)


def _changed(path: str | Path) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError as error:
        raise InputError(f"trace {path} cannot be read: {error.strerror}") from None


@lru_cache(maxsize=256)
def _link_trace(path: str, changed_ns: int) -> LinkTrace:
    rows, lines = _rows(Path(path), ("second", "uplink_mbps", "downlink_mbps"))
    seconds, rates = rows[:, 0], rows[:, 1:] * 1e6
    bad = np.flatnonzero(np.diff(seconds) <= 0)
    if len(bad):
        i = int(bad[0])
        raise InputError(f"{path}: line {lines[i + 1]}: second {seconds[i + 1]:g} does not follow {seconds[i]:g}, expected "
                         "seconds that ascend")  # fmt: skip
    fast = np.flatnonzero((rows[:, 1:] > MAX_MBPS).any(axis=1))
    if len(fast):
        i = int(fast[0])
        raise InputError(f"{path}: line {lines[i]}: {_text(rows[i])} has a rate above {MAX_MBPS:g} Mbit/s, expected one "
                         "that some link has")  # fmt: skip
    since = np.round(seconds - seconds[0], 6)  # 4.1 - 0.1 is a little less than 4
    length = math.floor(since[-1]) + 1
    if length > MAX_SECONDS:
        raise InputError(f"{path}: spans {length} seconds, expected at most {MAX_SECONDS}")
    if not (rates > 0).any(axis=0).all():
        raise InputError(f"{path}: a direction has no capacity at all, expected some rate above 0 in both")
    if (since % 1.0 == 0.0).all():
        held = np.searchsorted(since, np.arange(length), side="right") - 1
        return LinkTrace(rates[held, 0].copy(), rates[held, 1].copy())
    knots = np.append(since, float(length))
    carried = np.vstack([np.zeros(2), np.cumsum(rates * np.diff(knots)[:, None], axis=0)])
    up, down = (np.diff(np.interp(np.arange(length + 1), knots, bits)) for bits in carried.T)
    return LinkTrace(up, down)


def _rows(path: Path, columns: tuple[str, ...]) -> tuple[NDArray[np.float64], list[int]]:
    """Named columns of a CSV file as numbers, (N, len(columns)), all finite and at least 0, and the line of each row. Names
    are found whatever their case and the blanks around them."""
    _changed(path)
    if not path.is_file():
        raise InputError(f"trace {path} is no file, expected a CSV file")
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, expected a trace of at most {MAX_BYTES}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader, above = csv.DictReader(file, skipinitialspace=True), 0
            while reader.fieldnames is not None and not any(name.strip() for name in reader.fieldnames):
                above += reader.line_num  # empty lines above the header
                reader = csv.DictReader(file, skipinitialspace=True)
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
            missing = [name for name in columns if name not in reader.fieldnames]
            if missing:
                raise InputError(f"{path}: column {missing[0]} is missing, expected a header with {','.join(columns)}")
            names = list(reader.fieldnames)
            twice = [name for name in columns if names.count(name) > 1]
            if twice:
                raise InputError(f"{path}: column {twice[0]} is there twice, expected a header with {','.join(columns)}")
            rows, lines = [], []
            for row in reader:
                values, line = [], above + reader.line_num
                if any(value.strip() for value in row.get(None, ())):
                    raise InputError(f"{path}: line {line}: has more values than the header has columns ({len(names)})")
                for name in columns:
                    try:
                        value = float(row[name])
                    except (TypeError, ValueError):
                        raise InputError(f"{path}: line {line}: {name} is {row[name]!r}, expected a number") from None
                    if not math.isfinite(value) or value < 0:
                        raise InputError(f"{path}: line {line}: {name} is {value:g}, expected a finite number of at least 0")
                    values.append(value)
                rows.append(values)
                lines.append(line)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"trace {path} cannot be read: {error}") from None
    if not rows:
        raise InputError(f"{path}: has no rows, expected at least one below its header")
    return np.array(rows, dtype=np.float64), lines
