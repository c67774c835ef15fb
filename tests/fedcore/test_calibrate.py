"""Recording, fitting and refusals of `python -m fedcore.calibrate`."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fedcore.calibrate import CalibrateOptions, calibrate, random_run
from fedcore.dynamics import load_calibration
from scenarios import InputError, load

WORKLOAD = load("phones").workload


def shares(record) -> np.ndarray:
    return np.array([entry["shares"] for entry in record["rounds"]])


@pytest.mark.parametrize("who", ["some", "few", "all", "switch", "turns"])
def test_a_run_is_recorded_and_the_same_again(who):
    record = random_run(WORKLOAD, 3, 60, who)
    assert record == random_run(WORKLOAD, 3, 60, who)
    assert json.loads(json.dumps(record)) == record
    asked = (shares(record) > 0).sum(axis=1)
    assert 60 <= sum(entry["steps"] for entry in record["rounds"]) < 60 + 40
    assert (asked >= 1).all()
    assert record["rounds"][-1]["infonce"] < record["untrained"]
    if who == "all":
        assert (asked == len(record["images"])).all()
    if who == "switch":
        assert asked[0] <= 3 < asked[-1] == len(record["images"])


def test_machines_of_unequal_data_take_turns():
    records = [random_run(WORKLOAD, run, 60, "turns") for run in range(1000, 1006)]
    for record in records:
        asked = (shares(record) > 0).sum(axis=1)
        assert len(set(asked)) == 1
        assert asked[0] <= 2
    assert {int((shares(record) > 0).sum(axis=1)[0]) for record in records} == {1, 2}
    assert any((shares(record).max(axis=1) == 1.0).all() for record in records)
    images = np.concatenate([record["images"] for record in records])
    assert images.min() >= 16
    assert images.max() > 5 * images.min()


@pytest.mark.slow
def test_a_calibration_is_made_kept_and_made_again_without_training(tmp_path, monkeypatch):
    monkeypatch.setenv("INTRAFED_CACHE", str(tmp_path / "cache"))
    options = CalibrateOptions("tiny", "phones", 8, 2, 4, steps=60, output=tmp_path, plot=tmp_path / "x.png")
    made = calibrate(options)
    assert load_calibration(str(tmp_path / "tiny.json")) == made
    assert made.target_infonce < made.untrained_infonce
    assert made.fit["runs"] == 8 + 4 + 2 + 2 + 4
    assert (tmp_path / "x.png").stat().st_size > 10_000
    # From the records beside it alone, wherever the cache went.
    monkeypatch.setenv("INTRAFED_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr("fedcore.calibrate.random_run", None)
    assert calibrate(options) == made


@pytest.mark.parametrize(("name", "value"), [("runs", 1), ("steps", 0), ("switches", -1), ("turns", -1), ("workers", 0)])
def test_numbers_out_of_range_are_told_before_anything_trains(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"--{name} is {value}, expected at least"):
        calibrate(replace(CalibrateOptions(), **{name: value}))  # type: ignore[arg-type]
