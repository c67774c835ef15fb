"""Seconds and joules of a stretch of work: joules from the processor's own counter (RAPL) where it can be read."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType

RAPL = Path("/sys/class/powercap")
MODEL, COUNTER = "power model", "RAPL"


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


class Meter:
    """Measures its body.

    Args:
        root: where the kernel shows its counters.

    Attributes:
        seconds: of the body.
        joules: of all processor packages over the body, whoever worked on them; None where there is no counter, and the
            server takes the device's power model instead.
    """

    def __init__(self, root: Path = RAPL) -> None:
        self._root = root
        self.seconds = 0.0
        self.joules: float | None = None

    @property
    def kind(self) -> str:
        """Which of the two."""
        return MODEL if self.joules is None else COUNTER

    def __enter__(self) -> Meter:
        self._before, self._began = _packages(self._root), time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._began
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
