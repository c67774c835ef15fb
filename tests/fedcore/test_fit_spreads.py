import numpy as np
import pytest

from fedcore.dynamics import SPREAD_SAMPLES, TILT_STEPS
from fedcore.fit_spreads import Surprises, fit_spreads


def made(
    noise: float, run: float, machine: float, tilt: float, held: tuple[float, ...] = (SPREAD_SAMPLES,) * 4, power: float = 0.0
) -> list[Surprises]:
    """Runs of four machines in turns that differ by so much, as the model has it."""
    rng, out, runs, rounds = np.random.default_rng(0), [], 60, 40
    times = (SPREAD_SAMPLES / np.array(held)) ** power
    for _ in range(runs):
        who = rng.integers(4, size=rounds)
        steps = rng.choice([5.0, 10.0, 40.0], size=rounds)
        gain = 0.3 * 0.9 ** np.arange(rounds) + 0.01
        luck, leaning = machine * times * rng.normal(size=4), tilt * times * rng.normal(size=4)
        level, levels = 0.0, [0.0]
        for k, h in zip(who, steps, strict=True):
            left = np.exp(-h / TILT_STEPS)
            level = left * level + (1.0 - left) * leaning[k]
            levels.append(level)
        measured = np.append(0.0, noise * rng.normal(size=rounds))
        surprise = gain * (run * rng.normal() + luck[who]) + np.diff(levels) + np.diff(measured)
        out.append(Surprises(surprise, gain, np.eye(4)[who], steps, np.array(held)))
    return out


@pytest.mark.parametrize("true", [(0.02, 0.2, 0.4, 0.05), (0.02, 0.2, 0.0, 0.1), (0.01, 0.0, 0.5, 0.0)])
def test_known_spreads_are_found(true):
    noise, run, machine, tilt, _ = fit_spreads(made(*true))
    assert noise == pytest.approx(true[0], rel=0.1)
    assert run == pytest.approx(true[1], abs=0.08)
    assert np.sqrt(np.expm1(machine**2)) == pytest.approx(true[2], abs=0.07)
    assert tilt == pytest.approx(true[3], abs=0.015)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_how_spreads_fall_with_samples_is_found(power):
    _, _, machine, tilt, found = fit_spreads(made(0.01, 0.1, 0.3, 0.05, (40.0, 80.0, 320.0, 640.0), power))
    assert found == pytest.approx(power, abs=0.1)
    assert np.sqrt(np.expm1(machine**2)) == pytest.approx(0.3, abs=0.07)
    assert tilt == pytest.approx(0.05, abs=0.015)


def test_what_the_model_does_not_know_of_is_not_told_as_noise():
    rng = np.random.default_rng(1)
    runs = [
        Surprises(run.surprise + 0.03 * rng.normal(size=len(run.gain)), run.gain, run.taught, run.steps, run.held)
        for run in made(0.01, 0.1, 0.3, 0.05)
    ]
    assert fit_spreads(runs)[0] == pytest.approx(0.01, abs=0.004)
