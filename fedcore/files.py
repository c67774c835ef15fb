"""Files that are either whole or not there: write to a temporary name, then rename."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from scenarios.errors import InputError


def write_bytes(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file atomically, whom it is for by `mode`.

    Raises:
        InputError: the folder cannot be written to, or the disk is full; nothing half-written is left.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)  # mkstemp's own mode would shut colleagues out
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise InputError(f"{path} cannot be written: {error.strerror or error} (expected a writable, non-full disk)") from None
    except BaseException:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise


def read_number(path: Path) -> float:
    """The one number in a file; NaN where there is no such file, or no number in it."""
    try:
        return float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return math.nan


def write_text(path: Path, content: str) -> None:
    """Write a UTF-8 text file atomically; raises as `write_bytes`."""
    write_bytes(path, content.encode("utf-8"))


BY_HAND = "## Told by hand"
"""Where the part of a page begins that no command writes."""


def write_page(path: Path, text: str) -> None:
    """Write a page's made part; what it has told by hand stays below."""
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    kept = old[old.index(BY_HAND) :] if BY_HAND in old else ""
    write_text(path, f"{text.rstrip()}\n\n{kept}" if kept else text)


def need_writable(folder: Path) -> None:
    """Refuse a folder that nothing can be written to, before the work that would be lost.

    Raises:
        InputError: it is not to be made, or not to be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error.strerror or error}); expected a writable folder") from None


def read_kept(path: Path) -> Any:
    """What a JSON file of finished work holds; None where there is none, or it is damaged, and the work is to be done again."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def slug(name: str) -> str:
    """A name as part of a file's name."""
    return "".join(c if c.isalnum() else "-" for c in name)


def content_key(*parts: object) -> str:
    """Sixteen hex digits that name a content."""
    return hashlib.sha256("\x00".join(str(part) for part in parts).encode()).hexdigest()[:16]


def cache_folder(*parts: object) -> Path:
    """A folder for resumable work, named by what the work is; under `cache_root`."""
    return cache_root() / f"{parts[0]}-{content_key(*parts)}"


def cache_root() -> Path:
    """$INTRAFED_CACHE, or intrafed in $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("INTRAFED_CACHE")
    return Path(own or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "intrafed").expanduser()
