"""The files that a scenario reads, told apart by what is in them: results are kept by it, and files change."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from scenarios.errors import InputError
from scenarios.schema import Scenario, Workload


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
    return hashlib.sha256("\0".join(map(repr, [str(root), *known])).encode()).hexdigest()[:16]


def data_of(workload: Workload) -> list[str]:
    """State of the files that a workload's data are read from; empty where the program makes them."""
    # A name too long for the file system, for one, is no file.
    return [file_state(workload.data)] if os.path.exists(workload.data) else []


def sources_of(scenario: Scenario, brought: str | Path | None = None) -> list[str]:
    """Digests of everything that a scenario reads beside itself; empty where all of it is made by the program.

    Args:
        scenario: which.
        brought: path of data that are brought along in place of its own.

    Raises:
        InputError: a file does not exist.
    """
    sections = [section for group in scenario.fleet.groups for section in (group.link, group.availability)]
    found = []
    for trace in (section.trace for section in sections if section is not None and section.trace is not None):
        try:
            found.append(hashlib.sha256(Path(trace).read_bytes()).hexdigest())
        except OSError as error:
            raise InputError(f"trace {trace} cannot be read ({error.strerror or error}); expected a CSV file") from None
    return [*found, *data_of(scenario.workload), *([] if brought is None else [file_state(brought)])]
