"""One way to read the files of a folder and of a zip; zip entries are read in memory and never extracted."""

from __future__ import annotations

import lzma
import os
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from scenarios.errors import InputError

MAX_FILE_BYTES = 256 * 2**20  # the largest image PIL accepts by default, 89 Mpx at 16 bit, is 170 MiB
MAX_ZIP_BYTES = 32 * 2**30  # all members together, unpacked
_JUNK = {"__macosx", "thumbs.db", "desktop.ini"}
# Everything that zipfile and its decompressors raise on damaged, truncated, encrypted or exotic members.
_READ_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OSError,
    ValueError,
)


class FileSource(Protocol):
    """The files below one path: `path` for messages, `names` sorted with `/` between their parts."""

    path: Path
    names: tuple[str, ...]

    def read(self, name: str) -> bytes:
        """Return the whole file; raises InputError, naming it, where it is too large or unreadable."""
        ...


def one_line(reason: BaseException) -> str:
    """Return a library's error text cut to one short line, to be quoted inside a sentence of ours."""
    text = " ".join(str(reason).split()) or type(reason).__name__
    return text if len(text) <= 160 else text[:157] + "..."


@contextmanager
def open_source(path: Path) -> Iterator[FileSource]:
    """Open a folder, or a zip file, for reading.

    Raises:
        InputError: the zip is damaged, encrypted, or has absolute, `..` or duplicate names or oversized
            members.
    """
    if path.is_dir():
        yield _Folder(path)
        return
    try:
        archive = zipfile.ZipFile(path)
    except _READ_ERRORS as error:
        raise InputError(
            f"{path}: not a readable zip, or cut short ({one_line(error)}); expected a whole .zip file"
        ) from error
    with archive:
        yield _Zip(path, archive)


def is_junk(name: str) -> bool:
    """Whether a file is the operating system's own: hidden, `__MACOSX`, `Thumbs.db`, `desktop.ini`."""
    return any(part.startswith(".") or part.lower() in _JUNK for part in name.split("/"))


def _too_large(path: Path, name: str, size: int) -> InputError:
    return InputError(f"{path}: file '{name}' unpacks to {size:,} bytes; expected at most {MAX_FILE_BYTES:,} per file")


def _add_name(names: dict[str, str], path: Path, name: str, original: str) -> None:
    # macOS stores decomposed accents where a counts.csv written elsewhere has composed ones.
    name = unicodedata.normalize("NFC", name)
    if name in names:
        raise InputError(f"{path}: file name '{name}' occurs twice; expected every name once")
    names[name] = original


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._paths: dict[str, str] = {}
        seen: set[str] = set()

        def refuse(error: OSError) -> None:
            raise InputError(f"{path}: folder cannot be read ({one_line(error)}); expected a readable folder")

        # Class folders are often links, so links are followed; `seen` breaks loops of them.
        for folder, subfolders, files in os.walk(path, onerror=refuse, followlinks=True):
            real = os.path.realpath(folder)
            if real in seen:
                subfolders.clear()
                continue
            seen.add(real)
            subfolders.sort()
            for file in files:
                full = Path(folder) / file
                name = full.relative_to(path).as_posix()
                if not is_junk(name) and full.is_file():
                    _add_name(self._paths, path, name, str(full))
        self.names = tuple(sorted(self._paths))

    def read(self, name: str) -> bytes:
        try:
            with open(self._paths[name], "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise InputError(f"{self.path}: file '{name}' cannot be read ({one_line(error)})") from error
        if len(data) > MAX_FILE_BYTES:
            raise _too_large(self.path, name, os.path.getsize(self._paths[name]))
        return data


class _Zip:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        self._members: dict[str, zipfile.ZipInfo] = {}
        originals: dict[str, str] = {}
        total = 0
        for member in archive.infolist():
            name = _entry_name(path, member)
            if member.is_dir() or not name or is_junk(name):
                continue
            _add_name(originals, path, name, name)
            self._members[unicodedata.normalize("NFC", name)] = member
            total += member.file_size
        if total > MAX_ZIP_BYTES:
            raise InputError(f"{path}: zip unpacks to {total:,} bytes; expected at most {MAX_ZIP_BYTES:,}")
        self.names = tuple(sorted(self._members))

    def read(self, name: str) -> bytes:
        member = self._members[name]
        # zipfile never yields more than the declared size, so checking that bounds what is unpacked.
        if member.file_size > MAX_FILE_BYTES:
            raise _too_large(self.path, name, member.file_size)
        if member.flag_bits & 0x1:
            raise InputError(f"{self.path}: file '{name}' is encrypted; expected a zip without a password")
        try:
            return self._archive.read(member)
        except _READ_ERRORS as error:
            raise InputError(
                f"{self.path}: file '{name}' cannot be unpacked ({one_line(error)}); expected an undamaged zip"
            ) from error


def _entry_name(path: Path, member: zipfile.ZipInfo) -> str:
    raw = member.filename
    if not member.flag_bits & 0x800:
        # Without the UTF-8 flag zipfile assumes cp437, but many tools write UTF-8 and forget the flag.
        try:
            raw = raw.encode("cp437").decode("utf-8")
        except UnicodeError:
            raw = member.filename
    raw = raw.replace("\\", "/")
    parts = raw.split("/")
    if raw.startswith("/") or re.match(r"[A-Za-z]:/", raw) or ".." in parts:
        raise InputError(f"{path}: zip entry '{raw}' leaves the archive; expected relative names without '..'")
    return "/".join(part for part in parts if part not in ("", "."))
