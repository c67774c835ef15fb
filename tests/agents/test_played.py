"""Real rounds that heuristics decide, and what a calibration foretells of them."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from agents.heuristics import HEURISTICS
from agents.played import FIRST_RUN, PlayedOptions, foretold, heuristic_of, played_run, random_fleet, record, simulated_rounds
from fedcore.calibrate import CalibrateOptions, calibrate, calibrated_workload, records_folder
from fedcore.dynamics import FOLDER, load_calibration
from fedcore.fit_dynamics import as_rounds
from fedcore.recorded import played_path, read_records
from scenarios import InputError, load

TEXT = PlayedOptions("grammar-gpt-next-token", "phones", runs=40, switches=10, steps=300, played=32)
WORKLOAD = load("phones").workload


def test_every_heuristic_plays_and_none_is_always_held_out():
    number = len(HEURISTICS)
    for turn in range(4):
        assert {heuristic_of(turn * number + i) for i in range(number)} == set(HEURISTICS)
    assert {heuristic_of(run) for run in range(4 * number) if run % 4 == 0} == set(HEURISTICS)


def test_fleets_differ_and_have_the_workload():
    fleets = [random_fleet(WORKLOAD, run) for run in range(6)]
    assert len({fleet.name for fleet in fleets}) == 6
    assert all(fleet.workload == WORKLOAD for fleet in fleets)
    assert random_fleet(WORKLOAD, 3) == fleets[3]


def test_a_played_run_is_a_record_that_a_fit_takes_and_the_same_again():
    scenario = random_fleet(WORKLOAD, 12).model_dump(mode="json")
    scenario["budgets"]["rounds"] = 3
    found = played_run(scenario, 12)
    assert found["run"] == FIRST_RUN + 12
    assert json.loads(json.dumps(found)) == found == played_run(scenario, 12)
    assert 1 <= len(found["rounds"]) <= 3
    shares = np.array([entry["shares"] for entry in found["rounds"]])
    assert shares.shape[1] == len(found["images"])
    assert (shares > 0).any(axis=1).all()
    rounds = as_rounds([found], 1.9)
    assert rounds.after[-1] > 0.0
    assert rounds.steps.tolist() == [entry["steps"] for entry in found["rounds"]]


@pytest.mark.parametrize("name", ["grammar-gpt-next-token", "soil-mixed-convnet-simclr", "soil-mixed-convnet-vicreg"])
def test_what_is_committed_is_of_64_runs_that_got_to_the_target(name):
    assert read_records(played_path(FOLDER, name), "other") == {}  # of other work
    records = json.loads(gzip.decompress(played_path(FOLDER, name).read_bytes()))["records"]
    rounds = as_rounds(list(records.values()), load_calibration(name).target_infonce)
    assert set(np.unique(rounds.run)) == set(range(FIRST_RUN, FIRST_RUN + 64))
    assert np.isfinite(rounds.after).all()
    ends = [rounds.after[rounds.run == run][-1] for run in np.unique(rounds.run)]
    assert np.mean(np.array(ends) >= 1.0) > 0.9


def test_simulated_rounds_are_those_from_which_something_came_back():
    scenario = load("farm-lte")
    assert simulated_rounds(scenario, "equal", [5])[0] > 3
    nobody = scenario.model_dump(mode="json")
    nobody["decision"]["deadline_s"], nobody["budgets"]["rounds"] = 1e-3, 2
    with pytest.raises(InputError):  # a reference that never gets there compiles to nothing
        simulated_rounds(type(scenario).model_validate(nobody), "equal", [5])


def test_the_table_puts_real_beside_simulated(monkeypatch):
    monkeypatch.setattr("agents.played.SIMULATED", 4)
    records = list(read_records(played_path(FOLDER, TEXT.name), folder_name(TEXT)).values())
    assert len(records) == 64
    grid = foretold(TEXT, records[:2])
    assert [row[0] for row in grid.rows] == [heuristic_of(0), heuristic_of(1)]
    assert [int(row[2]) for row in grid.rows] == [len(found["rounds"]) for found in records[:2]]
    for row in grid.rows:
        assert float(row[4]) == pytest.approx(float(row[3]) / int(row[2]), abs=0.02)
        assert 0.0 <= float(row[5]) <= 1.0
    assert "geometric mean" in grid.note


def folder_name(options: CalibrateOptions) -> str:
    return records_folder(options, calibrated_workload(options)).name


def test_committed_runs_are_not_played_again_and_a_fit_takes_them_where_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("INTRAFED_CACHE", str(tmp_path / "cache"))
    for path in FOLDER.glob(f"{TEXT.name}.*"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("agents.played.played_run", None)
    here = replace(TEXT, output=tmp_path, workers=1)
    before = played_path(tmp_path, TEXT.name).read_bytes()
    assert len(record(replace(here, played=3))) == 3
    assert played_path(tmp_path, TEXT.name).read_bytes() == before

    class FittedToError(Exception):
        pass

    def fit(records, target):
        raise FittedToError(sum(found["run"] >= FIRST_RUN for found in records), len(records))

    monkeypatch.setattr("fedcore.calibrate.as_rounds", fit)
    plain = CalibrateOptions(**{name: value for name, value in vars(here).items() if name != "played"})
    for options, expected in ((plain, (0, 104)), (replace(plain, played_too=True), (64, 168))):
        with pytest.raises(FittedToError) as told:
            calibrate(options)
        assert told.value.args == expected


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(InputError, match=r"workload\.calibration"):
        record(replace(TEXT, output=tmp_path))
    with pytest.raises(InputError, match="--played is 0, expected at least 1"):
        record(replace(TEXT, played=0))
    for field in ("encoder", "objective"):
        with pytest.raises(InputError, match=rf"workload\.{field}"):
            calibrate(replace(CalibrateOptions(), **{field: "nothing"}))  # type: ignore[arg-type]
