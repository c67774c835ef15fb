import dataclasses

import numpy as np
import pytest
from scipy.optimize import brentq

from fedcore.dynamics import N_WORTH, Dynamics, learn, recent_samples, remember, teaching
from fedcore.fit_dynamics import as_rounds, fit_dynamics, fit_report, predict, reference_end, split_runs
from fedcore.freshness import FRESH_STEPS, refresh, taught_parts, variety_of
from fedcore.reference import TARGET_PART

SHAPE = Dynamics(
    rate=0.1, ceiling=1.7, share_power=0.1, scaling=0.8, steps_power=0.75, cover_power=0.6, overlap_power=0.15,
    data_power=0.35, rest_samples=5.0, rest_power=0.9, fresh_part=0.4, gap_fade=0.0, context_power=0.4, noise=0.004,
    run_spread=0.1, machine_spread=0.0, tilt_spread=0.0, variety_power=-0.2, onset=1.3, variety_later=0.5,
)  # fmt: skip


def anchored(shape: Dynamics) -> Dynamics:
    """Of that shape, with the rate at which progress 1 is what it means."""
    rate = brentq(lambda x: TARGET_PART * reference_end(dataclasses.replace(shape, rate=x)) - 1.0, 1e-3, 0.3)
    return dataclasses.replace(shape, rate=rate)


TRUE = anchored(SHAPE)
UNTRAINED, TARGET = 5.6, 4.6


def synthetic(runs: int, noisy: bool, seed: int = 0) -> list[dict]:
    """Records as `calibrate.random_run` makes them, from known dynamics."""
    rng = np.random.default_rng(seed)
    records = []
    for run in range(runs):
        machines = int(rng.integers(2, 8))
        images = rng.integers(20, 200, machines)
        # Some runs know only one machine, some everyone, as `random_run`'s do.
        present = rng.choice([0.2, 0.5, 1.0])
        style = rng.choice([0.08, 0.3, 0.8])
        context = float(rng.choice([0.5, 1.0]))
        luck = np.exp(noisy * TRUE.run_spread * rng.normal())
        at, took_part, part, rounds = (np.zeros(1), np.zeros(1)), np.zeros((1, machines)), np.zeros(machines), []
        for r in range(16):
            shares = np.where(rng.random(machines) < present, np.clip(style * rng.lognormal(0, 0.4, machines), 0, 1), 0)
            if not shares.any():
                shares[0] = style
            shares = np.round(shares, 4)
            steps = int(rng.choice([2, 5, 10, 20, 40]))
            took_part = remember(took_part, shares[None] > 0, np.array([r]))
            here = np.array([images[shares > 0].sum() / images.sum()])
            amount = TRUE.work(np.array([shares.sum()]), here, np.array([steps]))
            fresh = refresh(part, shares, images.astype(float), float(steps))
            lately = recent_samples(took_part, images[None]), np.array([fresh])
            at = TRUE.in_context(context).advance(*at, amount, shares[shares > 0].mean(), luck, variety_of(part))
            measured = float((at[0] - TRUE.gap(at[1], *lately))[0]) + noisy * TRUE.noise * rng.normal()
            rounds.append(
                {"steps": steps, "shares": shares.tolist(), "infonce": UNTRAINED - measured * (UNTRAINED - TARGET)}
            )
        record = {"run": run, "images": images.tolist(), "context": context, "untrained": UNTRAINED, "rounds": rounds}
        records.append(record)
    return records


def test_records_become_rounds():
    records = [
        {
            "run": 7,
            "images": [30, 10],
            "context": 0.5,
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
    assert rounds.share == pytest.approx([0.375, 1.0])
    assert rounds.data == pytest.approx([1.0, 0.25])
    seldom = 30 * (1 - np.exp(-10 * 0.8 / 1.8))
    assert rounds.samples == pytest.approx([40.0, seldom + 10.0], abs=0.01)
    part, each = np.zeros(2), np.array([30.0, 10.0])
    assert rounds.fresh.tolist() == [
        refresh(part, np.array([0.5, 0.25]), each, 5.0), refresh(part, np.array([0.0, 1.0]), each, 20.0)
    ]  # fmt: skip
    assert rounds.taught == pytest.approx(np.array([taught_parts(np.array([0.5, 0.25]), each), [0.0, 1.0]]))
    first = rounds.taught[0]
    then = np.exp(-20.0 / FRESH_STEPS) * first + (1.0 - np.exp(-20.0 / FRESH_STEPS)) * rounds.taught[1]
    assert rounds.variety == pytest.approx([1.0 / np.square(first).sum(), 1.0 / np.square(then).sum()])
    assert rounds.held.tolist() == [[30.0, 10.0]] * 2
    assert rounds.context.tolist() == [0.5, 0.5]


def test_paths_are_predicted_from_the_start_alone():
    rounds = as_rounds(synthetic(5, noisy=False), TARGET)
    still = dataclasses.replace(TRUE, run_spread=0.0)
    path, step, gain = predict(still, rounds)
    assert path == pytest.approx(rounds.after, abs=1e-6)
    assert step == pytest.approx(rounds.after, abs=1e-6)
    # What is gained by a first round is all that is learned, but for the gap of it.
    first = np.flatnonzero(np.diff(rounds.run, prepend=-1))
    assert (gain > 0).all()
    assert (gain[first] >= rounds.after[first]).all()
    shuffled = dataclasses.replace(rounds, before=np.full_like(rounds.before, np.nan))
    with np.errstate(invalid="ignore"):
        assert predict(still, shuffled)[0] == pytest.approx(rounds.after, abs=1e-6)


def test_paths_are_the_mean_over_luck_that_simulation_comes_to(monkeypatch):
    monkeypatch.setattr("fedcore.fit_dynamics.DRAWS", 2000)
    wide = dataclasses.replace(TRUE, run_spread=0.2, machine_spread=0.6, spread_power=0.5, variety_power=0.2, noise=0.0)
    rounds = as_rounds(synthetic(1, noisy=False, seed=3), TARGET)
    images, n = rounds.held[0], 8000
    last_part, taught, *state = (np.zeros((n, len(images))) for _ in range(5))
    worth, one, memory = np.zeros((n, N_WORTH)), np.zeros(n, dtype=np.int64), np.zeros(len(images))
    flat = [np.zeros(n) for _ in range(4)]
    keys, table = np.random.default_rng(0).integers(2**63, size=n).astype(np.uint64), np.tile(dataclasses.astuple(wide), (n, 1))
    shares, mean = [np.array(entry["shares"]) for entry in synthetic(1, noisy=False, seed=3)[0]["rounds"]], []
    for r, now in enumerate(shares):
        held, done = np.tile(now, (n, 1)), np.tile(now > 0, (n, 1))
        steps = np.full(n, int(rounds.steps[r]))
        teaching(images[None], one, done, held, steps, table, last_part, taught, worth, memory)
        learn(images[None], one, done, steps, np.full(n, r), keys, table, taught, worth, *state, *flat)
        mean.append(flat[3].mean())
    context = dataclasses.replace(rounds, context=np.ones_like(rounds.context))
    path, *_ = predict(wide, context)
    sure, *_ = predict(dataclasses.replace(wide, run_spread=0.0, machine_spread=0.0), context)
    assert path == pytest.approx(np.array(mean), abs=0.006)
    assert (sure - np.array(mean)).max() > 0.015


def test_the_fit_recovers_known_parameters_without_noise():
    got = dataclasses.asdict(fit_dynamics(as_rounds(synthetic(40, noisy=False), TARGET)))
    known = dataclasses.asdict(TRUE)
    for name in [n for n in known if n not in ("noise", "run_spread", "machine_spread", "tilt_spread", "spread_power")]:
        assert got[name] == pytest.approx(known[name], rel=0.02, abs=0.01), name
    for name in ("noise", "run_spread", "machine_spread", "tilt_spread"):
        assert got[name] < 1e-3, name


def test_the_fit_recovers_known_parameters_with_noise_and_says_how_well():
    rounds = as_rounds(synthetic(40, noisy=True), TARGET)
    got, report = fit_report(rounds, *split_runs(rounds))
    for name, tolerance in {
        "steps_power": 0.1, "cover_power": 0.15, "overlap_power": 0.1, "data_power": 0.2, "context_power": 0.15,
        "onset": 0.25, "variety_power": 0.15,
    }.items():  # fmt: skip
        assert getattr(got, name) == pytest.approx(getattr(TRUE, name), abs=tolerance), name
    assert TARGET_PART * reference_end(got) == pytest.approx(1.0, abs=0.01)
    # Other samples and power give the same gap; what they say of few samples is what counts.
    for samples, tolerance in ((60.0, 0.35), (150.0, 0.3), (600.0, 0.25)):
        assert got.peak(np.array(samples)) == pytest.approx(TRUE.peak(np.array(samples)), abs=tolerance)
    assert got.noise == pytest.approx(TRUE.noise, rel=0.4)
    assert 0.05 < np.hypot(got.run_spread, got.machine_spread) < 0.2
    assert got.tilt_spread < 0.01
    assert (report["runs"], report["rounds"], report["held_out_rounds"]) == (40, 640, 160)
    assert report["held_out_path_rmse"] < 0.08
    assert abs(report["held_out_path_bias"]) < 0.04
    assert 0.7 < report["held_out_increment_r2"] < 1.0
