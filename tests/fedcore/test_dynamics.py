import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.dynamics import FOLDER, Calibration, Dynamics, load_calibration, remember, variety
from scenarios.errors import InputError

KNOWN = Dynamics(
    rate=0.12, decay=2.5, steps_power=0.7, cover_power=0.6, overlap_power=0.15, data_power=0.3, variety_power=0.5,
    noise=0.01, run_spread=0.1,
)  # fmt: skip

ONE = np.ones(1)


def work(coverage: float = 1.0, data: float = 1.0, steps: float = 10.0) -> float:
    return float(KNOWN.work(*(np.array([v]) for v in (coverage, data, steps)))[0])


def advance(progress: float, amount: float, lately: float = 1.0) -> float:
    return float(KNOWN.advance(*(np.array([v]) for v in (progress, amount, lately)))[0])


def test_the_reference_round_is_one_unit_of_work_and_moves_by_about_the_rate():
    assert work() == 1.0
    assert advance(0.0, 1e-6) == pytest.approx(0.12e-6, rel=1e-4)
    assert advance(0.0, 1.0) == pytest.approx(np.log1p(2.5 * 0.12) / 2.5)


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        ({"steps": 20.0}, 2**0.7),
        ({"coverage": 0.5}, 0.5**0.6),
        ({"coverage": 3.0}, 3**0.15),
        ({"data": 0.25}, 0.25**0.3),
        ({"coverage": 0.0}, 0.0),
    ],
)
def test_every_factor_of_work(change, factor):
    assert work(**change) == pytest.approx(factor)


amounts = st.floats(0.01, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["coverage", "data", "steps"]), amounts, amounts, st.floats(-0.2, 1.2))
def test_more_of_anything_gives_no_less(which, a, b, progress):
    low, high = sorted((a, b))
    scale = {"coverage": 6.0, "steps": 40.0}.get(which, 1.0)
    few, many = (work(**{which: scale * v}) for v in (low, high))
    assert 0 < few <= many
    assert progress < advance(progress, few) <= advance(progress, many)


@settings(max_examples=60, deadline=None)
@given(st.floats(-0.5, 1.5), st.floats(0.001, 20), st.floats(0.05, 0.95))
def test_work_integrates_exactly(progress, amount, cut):
    whole = advance(progress, amount)
    assert advance(advance(progress, cut * amount), (1 - cut) * amount) == pytest.approx(whole, abs=1e-12)
    # ... and follows dp/dw = rate exp(-decay p).
    little = 1e-6
    slope = (advance(progress, amount + little) - whole) / little
    assert slope == pytest.approx(0.12 * np.exp(-2.5 * whole), rel=1e-3)


def test_few_data_saturate_sooner():
    assert advance(0.3, 0.0, lately=0.2) == 0.3
    k = KNOWN.decay * 0.2**-KNOWN.variety_power
    assert advance(0.0, 1.0, lately=0.2) == pytest.approx(np.log1p(k * 0.12) / k)
    # Near the start everybody learns alike; further on, few data lose more and more.
    assert advance(0.0, 1e-6, lately=0.2) == pytest.approx(advance(0.0, 1e-6), rel=1e-3)
    gains = [advance(p, 1.0, lately=0.2) - p for p in (0.0, 0.5, 1.0)]
    full = [advance(p, 1.0) - p for p in (0.0, 0.5, 1.0)]
    ratios = np.divide(gains, full)
    assert (np.diff(ratios) < 0).all()


def test_parameters_may_be_arrays_one_value_per_episode():
    many = dataclasses.replace(KNOWN, rate=np.array([0.1, 0.2]), decay=np.array([1.0, 2.0]))
    got = many.advance(np.zeros(2), np.ones(2), np.ones(2))
    assert got == pytest.approx([np.log1p(0.1), np.log1p(0.4) / 2])


def test_work_done_runs_from_zero_to_one_along_the_path():
    assert KNOWN.work_done(np.array([0.0, 1.0])).tolist() == [0.0, 1.0]
    needed = np.expm1(2.5) / (2.5 * 0.12)
    assert advance(0.0, needed) == pytest.approx(1.0)
    for part in (0.1, 0.5, 0.9):
        assert KNOWN.work_done(np.array([advance(0.0, part * needed)]))[0] == pytest.approx(part)


def test_the_first_round_counts_in_full():
    before = np.array([[0.7, 0.2, np.pi]])
    assert remember(before, np.array([[True, False, True]]), np.array([0])).tolist() == [[1.0, 0.0, 1.0]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_memory_is_the_normalised_exponential_mean(history):
    mean = np.full((1, 1), 99.0)
    for r, done in enumerate(history):
        mean = remember(mean, np.array([[done]]), np.array([r]))
    weights = 0.8 ** np.arange(len(history))[::-1]
    assert mean[0, 0] == pytest.approx((weights * history).sum() / weights.sum(), abs=1e-12)


def test_every_episode_of_a_batch_has_its_own_clock():
    participation = np.array([[0.5], [0.5]])
    out = remember(participation, np.array([[True], [True]]), np.array([0, 10]))
    assert out[0, 0] == 1.0
    assert 0.5 < out[1, 0] < 0.7


def variety_after(schedule, machines: int, rounds: int = 60) -> float:
    data = np.full((1, machines), 1 / machines)
    took_part = np.zeros((1, machines))
    for r in range(rounds):
        done = np.isin(np.arange(machines), schedule(r))[None]
        took_part = remember(took_part, done, np.array([r]))
    return float(variety(took_part, data)[0])


def test_taking_turns_keeps_variety_high():
    everyone = variety_after(lambda r: range(6), 6)
    turns = variety_after(lambda r: [r % 6], 6)
    thirds = variety_after(lambda r: [r % 3, r % 3 + 3], 6)
    one = variety_after(lambda r: [2], 6)
    assert everyone == pytest.approx(1.0, abs=1e-3)
    assert thirds > 0.9
    assert turns > 0.7
    assert one == pytest.approx(1 / 6, abs=1e-3)
    assert variety_after(lambda r: [r % 6], 6, rounds=1) == pytest.approx(1 / 6, abs=1e-3)


def test_variety_weighs_machines_by_their_images():
    took_part = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert variety(took_part, np.array([[0.9, 0.1], [0.9, 0.1]])) == pytest.approx([0.9, 0.1], abs=1e-4)


def test_a_calibration_survives_its_file(tmp_path):
    made = Calibration("made", KNOWN, 5.5, 4.5, {"runs": 3})
    path = tmp_path / "made.json"
    path.write_text(made.to_json())
    assert load_calibration(str(path)) == made


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.json")))
def test_the_stored_calibrations_load_and_make_sense(name):
    stored = load_calibration(name)
    assert stored.name == name
    assert 0 < stored.target_infonce < stored.untrained_infonce
    assert stored.dynamics.rate > 0
    assert stored.dynamics.decay > 0
    assert stored.dynamics.noise >= 0
    assert stored.dynamics.run_spread >= 0


@pytest.mark.parametrize("name", ["no-such", "no/such.json", ""])
def test_an_unknown_calibration_is_refused_and_the_known_are_named(name):
    with pytest.raises(InputError, match=r"is unknown: expected a JSON file or one of .*soil-mixed-convnet-simclr"):
        load_calibration(name)


def stored(**changes) -> str:
    content = json.loads(Calibration("made", KNOWN, 5.5, 4.5, {}).to_json()) | changes
    return json.dumps({name: value for name, value in content.items() if value != "gone"})


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", "3", '"text"', "{}", "\udcff",
        stored(dynamics={}), stored(dynamics=[1, 2]), stored(dynamics="gone"), stored(fit="gone"), stored(extra=1),
        stored(dynamics=dataclasses.asdict(KNOWN) | {"extra": 1}),
    ],
)  # fmt: skip
def test_a_file_that_is_no_calibration_is_refused(tmp_path, content):
    path = tmp_path / "made.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"made\.json is not a calibration made by python -m fedcore\.calibrate"):
        load_calibration(str(path))
