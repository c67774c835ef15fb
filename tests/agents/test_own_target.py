"""Progress 1 on data of one's own."""

import numpy as np
import pytest

from agents.judge import Cell, bring, cell_scenario, images_for, judge
from agents.own_target import RUNS, measure, own_target, target_of
from fedcore.reference import TARGET_ROUNDS
from scenarios import load, parse


@pytest.fixture
def tiny_text(monkeypatch, tmp_path):
    monkeypatch.setenv("INTRAFED_CACHE", str(tmp_path / "cache"))
    content = cell_scenario(load("phones"))
    content["workload"].update(window=8, batch_size=4, encoder_options={"dim": 16, "depth": 1, "heads": 2})
    content["decision"]["sync_intervals"] = [1, 2]
    content["reference"]["sync_interval"] = 2
    content["budgets"].update(rounds=3, time_s=1e6, energy_j=1e12, bytes=1e12)
    return parse(content, "text")


def falling(start: float, end: float, rounds: int) -> list[float]:
    """InfoNCE that falls evenly for so many rounds and stays."""
    return [*np.linspace(start, end, rounds + 1), *[end] * (36 - rounds)]


def test_rounds_are_the_geometric_mean_of_those_to_the_mean_target() -> None:
    # Nine tenths of the way from 5 to 4 is 4.1 for both: after 9 of the one's 10 rounds and after 18 of the other's 20.
    own = target_of([falling(5, 4, 10), falling(5, 4, 20)])
    assert own.infonce == pytest.approx(4.1)
    assert own.rounds == pytest.approx((9 * 18) ** 0.5)


def test_a_run_that_does_not_get_to_the_mean_target_has_taken_all_its_rounds() -> None:
    own = target_of([falling(5, 4, 10), falling(5, 4.6, 10)])
    assert own.infonce == pytest.approx((4.1 + 4.64) / 2)
    assert own.rounds == pytest.approx((7 * 36) ** 0.5)


def test_text_of_ones_own_has_a_target_of_its_own_and_goes_into_the_scenario(tmp_path, tiny_text):
    file = tmp_path / "own.txt"
    generator = np.random.default_rng(0)
    file.write_text("".join(generator.choice(list("abc "), 40_000)))
    mine = bring(tiny_text, file)
    assert mine.workload.data == str(file)
    assert images_for(mine, file) is None
    assert bring(load("farm-lte"), file) == load("farm-lte")
    assert images_for(load("farm-lte"), file) == str(file)
    said = []
    own = own_target(mine, None, said.append)
    assert len(said) == 1
    target = own.infonce
    assert target is not None
    assert 1 <= own.rounds <= 36
    # Four letters at random: no model can lose less than ln 4 by much, and an untrained one loses ln 256.
    assert 0.9 < target < np.log(256)
    assert own_target(load("phones"), None, said.append) == (None, None)
    assert len(said) == 1
    # An encoder of another width, on the same text, is none that the calibration was made of.
    assert own_target(tiny_text, None, said.append).infonce < np.log(256)
    assert len(said) == 2
    [judgement] = judge([Cell("equal", cell_scenario(mine), 0, None, *own)], tmp_path / "cells", 1)
    assert np.isfinite(judgement.result.progress)


def test_what_is_measured_is_kept_run_by_run(tmp_path, tiny_text, monkeypatch):
    file = tmp_path / "own.txt"
    file.write_text("".join(np.random.default_rng(1).choice(list("abc "), 9_000)))
    folder, mine, rounds = tmp_path / "kept", bring(tiny_text, file), []
    monkeypatch.setattr("agents.own_target.cache_folder", lambda *key: folder)
    first = measure(mine, on_round=rounds.append)
    assert rounds == sorted(rounds)
    kept = sorted(folder.glob("*.json"))
    assert len(kept) == RUNS
    kept[0].unlink()
    again, left = measure(mine, on_round=rounds.append), kept[1].stat().st_mtime_ns
    assert again == first
    assert kept[1].stat().st_mtime_ns == left
    assert rounds[-1] <= RUNS * TARGET_ROUNDS
