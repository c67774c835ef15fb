"""The files that a scenario reads, told apart by what is in them: results are kept by it, and files change."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from scenarios.errors import InputError
from scenarios.schema import Scenario


def traces_of(scenario: Scenario) -> list[Path]:
    """Its recorded links and presences, group by group."""
    sections = [section for group in scenario.fleet.groups for section in (group.link, group.availability)]
    return [Path(section.trace) for section in sections if section is not None and section.trace is not None]


def file_state(path: str | Path) -> str:
    """Digest of a file, or of all files below a folder, by path, size and time of change: images may be gigabytes.

    Raises:
        InputError: it does not exist.
    """
    root = Path(path).resolve()
    try:
        files = sorted(file for file in root.rglob("*") if file.is_file()) if root.is_dir() else [root]
        known = [(str(file), (state := file.stat()).st_size, state.st_mtime_ns) for file in files]
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); expected a file or a folder") from None
    return _digest(map(repr, [str(root), *known]))


def sources_of(scenario: Scenario) -> list[str]:
    """Digests of everything that a scenario reads beside itself; empty where all of it is made by the program.

    Raises:
        InputError: a file does not exist.
    """
    found = []
    for trace in traces_of(scenario):
        try:
            found.append(hashlib.sha256(trace.read_bytes()).hexdigest())
        except OSError as error:
            raise InputError(f"trace {trace} cannot be read ({error.strerror or error}); expected a CSV file") from None
    if os.path.exists(scenario.workload.data):  # a name too long for the file system, for one, is no file
        found.append(file_state(scenario.workload.data))
    return found


def _digest(parts: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
