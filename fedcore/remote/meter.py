"""Seconds and joules of a stretch of work: joules from a meter of the machine's own, or the processor's counter (RAPL)."""

from __future__ import annotations

import math
import time
from pathlib import Path
from types import TracebackType

from fedcore.files import read_number
from scenarios.errors import InputError

RAPL = Path("/sys/class/powercap")
MODEL, COUNTER, SUPPLIED = KINDS = ("power model", "RAPL", "supplied meter")


def _packages(root: Path) -> dict[Path, int]:
    """Microjoules of every processor package, by its folder; empty where they cannot be read."""
    found = {}
    for folder in sorted(root.glob("intel-rapl:[0-9]*")):
        if folder.name.count(":") == 1:
            try:
                found[folder] = int((folder / "energy_uj").read_text())
            except (OSError, ValueError):
                continue
    return found


def read_joules(file: Path) -> float:
    """Joules since whenever, by a meter that keeps writing them to a file, one number.

    Raises:
        InputError: there is no such file, or no number in it.
    """
    joules = read_number(file)
    if not math.isfinite(joules):
        raise InputError(f"meter {file} has no number; expected a file that holds the joules used so far, and keeps growing")
    return joules


class Meter:
    """Measures its body.

    Args:
        root: where the kernel shows its counters.
        file: of a meter, see `read_joules`; it goes before counters.

    Attributes:
        seconds: of the body.
        joules: by the meter, or else of all processor packages over the body, whoever worked on them; None where there is
            neither, and the server takes the device's power model instead.

    Raises:
        InputError: before or after the body, where the meter's file does not read.
    """

    def __init__(self, root: Path = RAPL, file: Path | None = None) -> None:
        self._root, self._file = root, file
        self.seconds = 0.0
        self.joules: float | None = None

    @property
    def kind(self) -> str:
        """Which of the three."""
        return MODEL if self.joules is None else COUNTER if self._file is None else SUPPLIED

    def __enter__(self) -> Meter:
        self._used_j = 0.0 if self._file is None else read_joules(self._file)
        self._before, self._began = _packages(self._root), time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._began
        if self._file is not None:
            if error is None:
                self.joules = max(read_joules(self._file) - self._used_j, 0.0)
            return
        after = _packages(self._root)
        if self._before and after.keys() == self._before.keys():
            self.joules = sum(self._moved(folder, value) for folder, value in after.items()) * 1e-6

    def _moved(self, folder: Path, value: int) -> int:
        moved = value - self._before[folder]
        if moved >= 0:
            return moved
        try:  # the counter has wrapped
            return moved + int((folder / "max_energy_range_uj").read_text())
        except (OSError, ValueError):
            return 0
