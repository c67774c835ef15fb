"""Refusals of `python -m fedcore.calibrate`."""

from dataclasses import replace

import pytest

from fedcore.calibrate import CalibrateOptions, calibrate
from scenarios import InputError


@pytest.mark.parametrize(("name", "value"), [("runs", 1), ("steps", 0), ("workers", 0)])
def test_numbers_out_of_range_are_told_before_anything_trains(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"--{name} is {value}, expected at least"):
        calibrate(replace(CalibrateOptions(), **{name: value}))  # type: ignore[arg-type]
