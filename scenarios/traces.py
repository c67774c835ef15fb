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
    """Read a capacity trace; a row holds until the next one's second, the last one for a second.

    Args:
        path: of the CSV file, with a header.

    Raises:
        InputError: unreadable, wrong columns, not a number, negative, seconds that do not ascend, or no capacity at all.
    """
    return _link_trace(str(path), _changed(path))


def read_presence(path: str | Path) -> NDArray[np.float64]:
    """Read a presence trace: (W, 2) seconds at which a machine comes and goes, ascending and disjoint.

    Args:
        path: of the CSV file, with a header.

    Raises:
        InputError: unreadable, wrong columns, not a number, or rows that do not ascend.
    """
    rows = _rows(Path(path), ("on_s", "off_s"))
    flat = rows.ravel()
    bad = np.flatnonzero(np.diff(flat) <= 0)
    if len(bad):
        line = int(bad[0] + 1) // 2 + 2
        raise InputError(f"{path}: line {line}: {_text(rows[line - 2])} does not follow, expected times that ascend")
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
    rows = _rows(Path(path), ("second", "uplink_mbps", "downlink_mbps"))
    seconds, rates = rows[:, 0], rows[:, 1:] * 1e6
    bad = np.flatnonzero(np.diff(seconds) <= 0)
    if len(bad):
        raise InputError(f"{path}: line {bad[0] + 3}: second {seconds[bad[0] + 1]:g} does not follow {seconds[bad[0]]:g}, "
                         "expected seconds that ascend")  # fmt: skip
    length = math.ceil(seconds[-1] - seconds[0]) + 1
    if length > MAX_SECONDS:
        raise InputError(f"{path}: spans {length} seconds, expected at most {MAX_SECONDS}")
    held = np.searchsorted(seconds - seconds[0], np.arange(length), side="right") - 1
    if not (rates > 0).any(axis=0).all():
        raise InputError(f"{path}: a direction has no capacity at all, expected some rate above 0 in both")
    return LinkTrace(rates[held, 0].copy(), rates[held, 1].copy())


def _rows(path: Path, columns: tuple[str, ...]) -> NDArray[np.float64]:
    """Named columns of a CSV file as numbers, (N, len(columns)), all finite and at least 0."""
    _changed(path)
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: {path.stat().st_size} bytes, expected a trace of at most {MAX_BYTES}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            missing = [name for name in columns if name not in (reader.fieldnames or [])]
            if missing:
                raise InputError(f"{path}: column {missing[0]} is missing, expected a header with {','.join(columns)}")
            rows = []
            for line, row in enumerate(reader, start=2):
                values = []
                for name in columns:
                    try:
                        value = float(row[name])
                    except (TypeError, ValueError):
                        raise InputError(f"{path}: line {line}: {name} is {row[name]!r}, expected a number") from None
                    if not math.isfinite(value) or value < 0:
                        raise InputError(f"{path}: line {line}: {name} is {value:g}, expected a finite number of at least 0")
                    values.append(value)
                rows.append(values)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"trace {path} cannot be read: {error}") from None
    if not rows:
        raise InputError(f"{path}: has no rows, expected at least one below its header")
    return np.array(rows, dtype=np.float64)
