import dataclasses

import numpy as np
import pytest

from fedcore.calibrate import as_rounds, fit_dynamics, fit_report, predict_paths
from fedcore.dynamics import Dynamics, remember, variety

TRUE = Dynamics(
    rate=0.12, decay=2.5, steps_power=0.75, cover_power=0.6, overlap_power=0.15, data_power=0.35, variety_power=0.5,
    noise=0.004, run_spread=0.1,
)  # fmt: skip
UNTRAINED, TARGET = 5.6, 4.6


def synthetic(runs: int, noisy: bool, seed: int = 0) -> list[dict]:
    """Records as `random_run` makes them, from known dynamics."""
    rng = np.random.default_rng(seed)
    records = []
    for run in range(runs):
        machines = int(rng.integers(2, 8))
        images = rng.integers(50, 200, machines)
        data = (images / images.sum())[None]
        # Some runs know only one machine, some everyone, as `random_run`'s do.
        present = rng.choice([0.2, 0.5, 1.0])
        style = rng.choice([0.08, 0.3, 0.8])
        luck = np.exp(noisy * TRUE.run_spread * rng.normal())
        p, took_part, rounds = 0.0, np.zeros((1, machines)), []
        for r in range(12):
            shares = np.where(rng.random(machines) < present, np.clip(style * rng.lognormal(0, 0.4, machines), 0, 1), 0)
            if not shares.any():
                shares[0] = style
            shares = np.round(shares, 4)
            steps = int(rng.choice([2, 5, 10, 20, 40]))
            took_part = remember(took_part, shares[None] > 0, np.array([r]))
            here = np.array([data[0][shares > 0].sum()])
            amount = TRUE.work(np.array([shares.sum()]), here, np.array([steps]))
            p = float(TRUE.advance(np.array([p]), luck * amount, variety(took_part, data))[0])
            measured = p + noisy * TRUE.noise * rng.normal()
            rounds.append(
                {"steps": steps, "shares": shares.tolist(), "infonce": UNTRAINED - measured * (UNTRAINED - TARGET)}
            )
        records.append({"run": run, "images": images.tolist(), "untrained": UNTRAINED, "rounds": rounds})
    return records


def test_records_become_rounds():
    records = [
        {
            "run": 7,
            "images": [30, 10],
            "untrained": 5.0,
            "rounds": [
                {"steps": 5, "shares": [0.5, 0.25], "infonce": 4.8},
                {"steps": 20, "shares": [0.0, 1.0], "infonce": 4.5},
            ],
        }
    ]
    rounds = as_rounds(records, target=4.0)
    assert rounds.run.tolist() == [7, 7]
    assert rounds.before == pytest.approx([0.0, 0.2])
    assert rounds.after == pytest.approx([0.2, 0.5])
    assert rounds.steps.tolist() == [5, 20]
    assert rounds.coverage == pytest.approx([0.75, 1.0])
    assert rounds.data == pytest.approx([1.0, 0.25])
    assert rounds.variety == pytest.approx([1.0, 0.75 * (1 - np.exp(-10 * 0.8 / 1.8)) + 0.25], abs=1e-3)


def test_paths_are_predicted_from_the_start_alone():
    rounds = as_rounds(synthetic(5, noisy=False), TARGET)
    assert predict_paths(TRUE, rounds) == pytest.approx(rounds.after, abs=1e-6)
    shuffled = dataclasses.replace(rounds, before=np.full_like(rounds.before, np.nan))
    assert predict_paths(TRUE, shuffled) == pytest.approx(rounds.after, abs=1e-6)


def test_the_fit_recovers_known_parameters_without_noise():
    got = dataclasses.asdict(fit_dynamics(as_rounds(synthetic(25, noisy=False), TARGET)))
    known = dataclasses.asdict(TRUE)
    for name in [n for n in known if n not in ("noise", "run_spread")]:
        assert got[name] == pytest.approx(known[name], rel=0.01, abs=0.005), name
    assert got["noise"] < 1e-4
    assert got["run_spread"] < 0.03


def test_the_fit_recovers_known_parameters_with_noise_and_says_how_well():
    records = synthetic(40, noisy=True)
    got, report = fit_report(records, TARGET)
    for name, tolerance in {
        "rate": 0.02, "decay": 0.5, "steps_power": 0.1, "cover_power": 0.15, "overlap_power": 0.1, "data_power": 0.15,
        "variety_power": 0.2,
    }.items():  # fmt: skip
        assert getattr(got, name) == pytest.approx(getattr(TRUE, name), abs=tolerance), name
    assert got.noise == pytest.approx(TRUE.noise, rel=0.4)
    assert got.run_spread == pytest.approx(TRUE.run_spread, rel=0.5)
    assert (report["runs"], report["rounds"], report["held_out_rounds"]) == (40, 480, 120)
    assert report["held_out_path_rmse"] < 0.06
    assert abs(report["held_out_path_bias"]) < 0.03
    assert 0.8 < report["held_out_increment_r2"] < 1.0
