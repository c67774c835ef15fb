"""Charge of a machine's battery, from a file that its kernel or its charge controller keeps writing."""

from __future__ import annotations

from pathlib import Path

from fedcore.files import read_number
from scenarios.errors import InputError


def read_charge(file: Path) -> float:
    """Charge now, 0 empty to 1 full.

    Args:
        file: of one number, percent, such as `/sys/class/power_supply/BAT0/capacity`.

    Raises:
        InputError: there is no such file, or no such number in it.
    """
    percent = read_number(file)
    if not 0.0 <= percent <= 100.0:
        raise InputError(
            f"battery {file} has no number from 0 to 100; expected a file that holds its charge in percent, such as "
            "/sys/class/power_supply/BAT0/capacity"
        )
    return percent / 100.0
