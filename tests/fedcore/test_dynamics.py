import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.dynamics import (
    FOLDER,
    N_WORTH,
    SPREAD_SAMPLES,
    Calibration,
    Dynamics,
    learn,
    load_calibration,
    recent_samples,
    remember,
    spreads_of,
    teaching,
)  # fmt: skip
from fedcore.freshness import refresh
from scenarios.errors import InputError

KNOWN = Dynamics(
    rate=0.12, ceiling=1.5, share_power=0.1, scaling=0.8, steps_power=0.7, cover_power=0.6, overlap_power=0.15, data_power=0.3,
    rest_samples=8.0, rest_power=1.5, fresh_part=0.4, gap_fade=0.02, context_power=0.4, noise=0.01, run_spread=0.1,
    machine_spread=0.2, tilt_spread=0.0,
)  # fmt: skip
PLENTY = 1e12


def work(coverage: float = 1.0, data: float = 1.0, steps: float = 10.0) -> float:
    return float(KNOWN.work(*(np.array([v]) for v in (coverage, data, steps)))[0])


def advance(
    learned: float, amount: float, rote: float = 0.0, luck: float = 1.0, variety: float = 1.0, dynamics: Dynamics = KNOWN
) -> tuple[float, float]:
    after = dynamics.advance(*(np.array([v]) for v in (learned, rote, amount)), luck=luck, variety=variety)
    return float(after[0][0]), float(after[1][0])


def gap(rote: float, samples: float, fresh: float | None = None) -> float:
    return float(KNOWN.gap(np.array(rote), np.array(samples), np.array(samples if fresh is None else fresh)))


def learned_after(learned: float, amount: float) -> float:
    return advance(learned, amount)[0]


def test_the_reference_round_is_one_unit_of_work_and_moves_by_about_the_rate():
    assert work() == 1.0
    assert learned_after(0.0, 1e-6) == pytest.approx(0.12e-6, rel=1e-4)
    # The rest to the ceiling falls as a power of work: C (1 + w rate / (s C))^-s.
    assert learned_after(0.0, 10.0) == pytest.approx(1.5 - 1.5 * (1.0 + 10 * 0.12 / (0.8 * 1.5)) ** -0.8)


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


def test_a_thinner_context_slows_everything_alike():
    half = KNOWN.in_context(0.5)
    assert half.rate == pytest.approx(0.12 * 0.5**0.4)
    assert dataclasses.replace(half, rate=0.12) == KNOWN
    assert KNOWN.in_context(1.0) == KNOWN
    assert 0 < KNOWN.in_context(0.0).rate < KNOWN.in_context(0.05).rate


amounts = st.floats(0.01, 1.0)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["coverage", "data", "steps"]), amounts, amounts, st.floats(-0.2, 1.2))
def test_more_of_anything_gives_no_less(which, a, b, progress):
    low, high = sorted((a, b))
    scale = {"coverage": 6.0, "steps": 40.0}.get(which, 1.0)
    few, many = (work(**{which: scale * v}) for v in (low, high))
    assert 0 < few <= many
    assert progress < learned_after(progress, few) <= learned_after(progress, many)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(-0.5, 1.4), st.floats(0.0, 5.0), st.floats(0.001, 20), st.floats(0.05, 0.95), st.sampled_from([0.7, 1.0, 1.9]),
    st.floats(1.0, 9.0),
)  # fmt: skip
def test_a_round_integrates_exactly(learned, rote, amount, cut, onset, variety):
    known = dataclasses.replace(KNOWN, onset=onset, variety_power=-0.4)
    whole = advance(learned, amount, rote, 1.0, variety, known)
    first = advance(learned, cut * amount, rote, 1.0, variety, known)
    assert advance(first[0], (1 - cut) * amount, first[1], 1.0, variety, known) == pytest.approx(whole, abs=1e-9)
    # ... and follows the equations of the module's text.
    little = 1e-5
    slope = (np.array(advance(learned, little, rote, 1.0, variety, known)) - (learned, rote)) / little
    assert slope[1] == pytest.approx(0.12 - 0.02 * rote, rel=1e-3, abs=1e-6)
    if abs(learned) > 0.05:  # at the start itself the slope of u is 0 or infinite where k is not 1
        y = np.copysign(abs(learned / 1.5) ** (1.0 / onset), learned)
        pace = onset * abs(y) ** (onset - 1.0) * variety**-0.4
        assert slope[0] == pytest.approx(0.12 * pace * (1 - y) ** (1 + 1 / 0.8), rel=1e-3)


def test_training_that_takes_its_time_to_begin():
    slow = dataclasses.replace(KNOWN, onset=2.0)
    ends = np.array([advance(0.0, amount, dynamics=slow)[0] for amount in (0.01, 0.02, 0.04, 1e4)])
    assert ends[1:3] / ends[:2] == pytest.approx([4.0, 4.0], rel=0.01)
    assert 1.4 < ends[3] < 1.5


def test_what_several_machines_are_worth_depends_on_how_far_training_has_come():
    bent = dataclasses.replace(KNOWN, variety_power=-0.3, variety_later=0.9)
    for learned, power in ((0.0, -0.3), (0.5, 0.0), (1.0, 0.3), (-0.2, -0.3)):
        assert advance(learned, 1.0, 0.2, variety=4.0, dynamics=bent)[0] == pytest.approx(advance(learned, 4.0**power, 0.2)[0])
        # What is learnt by heart is the same, whoever teaches.
        assert advance(learned, 1.0, 0.2, variety=4.0, dynamics=bent)[1] == advance(learned, 1.0, 0.2)[1]


def test_nothing_lies_beyond_the_ceiling():
    assert 1.4 < learned_after(0.0, 1e4) < 1.5
    assert learned_after(1.6, 5.0) == 1.6


def test_luck_speeds_what_is_learned_and_not_the_gap():
    lucky, plain = advance(0.2, 1.0, luck=2.0), advance(0.2, 2.0)
    assert lucky[0] == pytest.approx(plain[0])
    assert lucky[1] < plain[1]


def path(samples: float, rounds: int) -> list[float]:
    at, out = (0.0, 0.0), []
    for _ in range(rounds):
        at = advance(at[0], 1.0, at[1])
        out.append(at[0] - gap(at[1], samples))
    return out


def test_few_samples_are_overfitted_and_many_are_not():
    few, many = path(30, 120), path(2000, 120)
    assert max(few) > few[-1]
    assert max(few) < max(many) == many[-1]
    # Near the start everybody learns alike.
    assert few[0] == pytest.approx(many[0], abs=0.02)


def test_the_gap_is_of_the_samples_that_take_part_now():
    rote = advance(0.0, 50.0)[1]
    # What few have learnt by heart matters no more once all take part, whatever they did before.
    assert gap(rote, 80.0) == pytest.approx(gap(rote, 8.0) * 10**-1.5) == pytest.approx(rote * 10**-1.5)
    assert gap(rote, PLENTY) == pytest.approx(0.0, abs=1e-12)
    few, all_ = (play([8, 392], shares, 30, seeds=2) for shares in ([1.0, 0.0], [1.0, 1.0]))
    assert (few[1] - few[0]).mean() > 50 * abs((all_[1] - all_[0]).mean())


def test_a_part_of_the_gap_follows_the_last_steps():
    # A hundred samples lately, ten of them in the last steps: (10 / 100)^1.5 of the gap for 0.6 of it, all for 0.4.
    assert gap(1.0, 100.0, 10.0) == pytest.approx(0.6 * gap(1.0, 100.0) + 0.4 * gap(1.0, 10.0))


def test_a_round_on_next_to_nothing_dips_and_the_next_on_more_mends():
    still = dataclasses.replace(KNOWN, noise=0.0, run_spread=0.0, machine_spread=0.0)
    rounds = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]] * 12)
    path = [float(play([8, 400], rounds[: r + 1], r + 1, still, seeds=1)[0][0]) for r in range(len(rounds))]
    gained = np.diff(path, prepend=0.0).reshape(-1, 3)
    assert (gained[:, :2] > 0).all()
    # The more has been learnt by heart, the more it is.
    assert (gained[-6:, 2] < 0).all()
    assert (np.diff(gained[:, 2]) < 0).all()
    # More of it in a row, and it dips the deeper.
    thrice = np.concatenate([rounds, [[1.0, 0.0]] * 2])
    assert play([8, 400], thrice, len(thrice), still, seeds=1)[0][0] < path[-1]


@pytest.mark.parametrize("onset", [1.0, 1.8])
@pytest.mark.parametrize("samples", [12.0, 40.0, 200.0])
def test_the_peak_is_the_best_that_so_many_samples_lead_to(samples, onset):
    still = dataclasses.replace(KNOWN, gap_fade=0.0, onset=onset)
    at, best = (np.zeros(1), np.zeros(1)), 0.0
    for _ in range(4000):
        at = still.advance(*at, np.full(1, 0.05))
        best = max(best, float((at[0] - still.gap(at[1], np.full(1, samples), np.full(1, samples)))[0]))
    assert still.peak(np.array(samples)) == pytest.approx(best, abs=1e-4)
    assert still.peak(np.array([samples, 4.0, samples])) == pytest.approx([best, 0.0, best], abs=1e-4)
    assert dataclasses.replace(still, rest_samples=0.0).peak(np.array(samples)) == pytest.approx(1.5, abs=1e-4)


def test_parameters_may_be_arrays_one_value_per_episode():
    many = dataclasses.replace(KNOWN, rate=np.array([0.1, 0.2]), rest_samples=np.zeros(2))
    learned, rote = many.advance(np.zeros(2), np.zeros(2), np.ones(2))
    assert learned == pytest.approx([1.5 - 1.5 * (1 + r / 1.2) ** -0.8 for r in (0.1, 0.2)])
    assert rote == pytest.approx([(1 - np.exp(-0.02)) / 0.02 * r for r in (0.1, 0.2)])
    assert many.gap(rote, np.ones(2), np.ones(2)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("onset", [1.0, 1.8])
def test_work_done_runs_from_zero_to_one_along_the_path(onset):
    known = dataclasses.replace(KNOWN, onset=onset)
    assert known.work_done(np.array([0.0, 1.0])).tolist() == [0.0, 1.0]
    needed = 1.2 / 0.12 * ((1 - (1 / 1.5) ** (1 / onset)) ** (-1 / 0.8) - 1)
    assert advance(0.0, needed, dynamics=known)[0] == pytest.approx(1.0)
    for part in (0.1, 0.5, 0.9):
        assert known.work_done(np.array([advance(0.0, part * needed, dynamics=known)[0]]))[0] == pytest.approx(part)
    assert np.isfinite(known.work_done(np.array([5.0])))
    assert known.work_done(np.array([-0.2]))[0] < 0


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


def samples_after(schedule, machines: int, rounds: int = 60) -> float:
    took_part = np.zeros((1, machines))
    for r in range(rounds):
        done = np.isin(np.arange(machines), schedule(r))[None]
        took_part = remember(took_part, done, np.array([r]))
    return float(recent_samples(took_part, np.ones((1, machines)))[0])


def test_taking_turns_keeps_the_samples_many():
    assert samples_after(lambda r: range(6), 6) == pytest.approx(6.0, abs=1e-3)
    assert samples_after(lambda r: [r % 3, r % 3 + 3], 6) > 5.4
    assert samples_after(lambda r: [r % 6], 6) > 4.2
    assert samples_after(lambda r: [2], 6) == pytest.approx(1.0, abs=1e-3)
    assert samples_after(lambda r: [r % 6], 6, rounds=1) == pytest.approx(1.0, abs=1e-3)


def test_recent_samples_are_those_of_the_machines_that_took_part():
    took_part = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert recent_samples(took_part, np.array([[90.0, 10.0]] * 2)) == pytest.approx([90.0, 10.0], abs=0.01)


def play(samples, shares, rounds: int, dynamics: Dynamics = KNOWN, seeds: int = 400):
    """`learn` over that many episodes with the same decision each round, or one of (rounds, K) each: (progress, learned,
    rote)."""
    machines = len(samples)
    keys = np.random.default_rng(0).integers(2**63, size=seeds).astype(np.uint64)
    table = np.tile(dataclasses.astuple(dynamics), (seeds, 1))
    participation, last_part, *drawn, taught = (np.full((seeds, machines), fill) for fill in (0.0, 0.0, *[np.nan] * 3))
    worth, there, one = np.full((seeds, N_WORTH), np.nan), np.array([samples], dtype=float), np.zeros(seeds, dtype=np.int64)
    tilt, learned, rote, progress = (np.full(seeds, fill) for fill in (np.nan, np.nan, np.nan, 0.0))
    for r, now in enumerate(np.broadcast_to(shares, (rounds, machines))):
        held, done = np.tile(now, (seeds, 1)), np.tile(now > 0, (seeds, 1))
        steps = np.full(seeds, 10)
        teaching(there, one, done, held, steps, table, last_part, taught, worth, np.full(machines, np.nan))
        learn(
            there, one, done, steps, np.full(seeds, r), keys, table, taught, worth, participation, *drawn, tilt, learned, rote,
            progress,
        )  # fmt: skip
    return progress, learned, rote


def test_small_shares_level_off_below_whole_layers():
    def end(share: float, learned: float = 0.0) -> float:
        at = KNOWN.advance(*(np.array([v]) for v in (learned, 0.0, 1e12)), share)
        return float(at[0][0])

    assert end(1.0) == pytest.approx(1.5, rel=1e-6)
    assert end(0.25) == pytest.approx(1.5 * 0.25**0.1, rel=1e-6)
    # What whole layers have learned is not lost by them.
    assert end(0.25, learned=1.45) == 1.45


def test_learn_is_the_dynamics_round_by_round():
    bends = {"variety_power": 0.3, "onset": 1.4, "variety_later": 0.5}
    still = dataclasses.replace(KNOWN, noise=0.0, run_spread=0.0, machine_spread=0.0, **bends)
    progress, learned, rote = play([30, 50, 20], [0.5, 0.25, 0.0], 3, still, seeds=2)
    took_part, part, at = np.zeros((1, 3)), np.zeros(3), (np.zeros(1), np.zeros(1))
    there = np.array([[30.0, 50.0, 20.0]])
    for r in range(3):
        fresh = refresh(part, np.array([0.5, 0.25, 0.0]), there[0], 10.0)
        took_part = remember(took_part, np.array([[True, True, False]]), np.array([r]))
        amount = still.work(np.array([0.75]), np.array([0.8]), np.array([10.0]))
        at = still.advance(*at, amount, 0.375, variety=1.0 / np.square(part).sum())
    assert learned == pytest.approx([at[0][0]] * 2)
    assert rote == pytest.approx([at[1][0]] * 2)
    gap = still.gap(at[1], recent_samples(took_part, there), np.array([fresh]))
    assert progress == pytest.approx(learned - gap)


def test_no_draw_of_one_episode_and_round_comes_again_in_another():
    # Nothing is learned, so what is measured is the noise alone; episodes were once shifted copies of each other.
    still = dataclasses.replace(KNOWN, rate=1e-300, noise=1.0)
    z = np.array([play([50], [1.0], r, still, seeds=128)[0] for r in range(1, 7)])
    assert len(np.unique(z)) == z.size
    assert z.std() == pytest.approx(1.0, abs=0.1)
    assert abs(np.corrcoef(z[1:, :-1].ravel(), z[:-1, 1:].ravel())[0, 1]) < 0.15


def test_one_machine_has_the_more_varied_runs():
    # In one small round what is learned is the luck times the rate.
    def luck(shares, rounds: int = 1):
        return play([50] * 4, shares, rounds, dataclasses.replace(KNOWN, rate=1e-6))[1] / 1e-6

    assert np.log(luck([1, 0, 0, 0])).std() == pytest.approx(np.hypot(0.1, 0.2), rel=0.12)
    assert np.log(luck([1, 1, 1, 1])).std() == pytest.approx(np.hypot(0.1, 0.1), rel=0.12)
    # It is the machines' of the round, the same whenever they come.
    first, second = np.eye(4)[0], np.eye(4)[1]
    both = luck([first, second], 2)
    assert both == pytest.approx(luck(first) + luck([second], 1), rel=1e-3)


def test_a_machine_tilts_what_is_measured_until_others_have_trained():
    # Nothing is learned, and nothing is noise: what is measured is the tilt alone.
    still = dataclasses.replace(KNOWN, rate=1e-300, noise=0.0, tilt_spread=0.1)
    a, b = np.eye(2)

    def tilt(*rounds):
        return play([50, 50], rounds, len(rounds), still)[0]

    left = np.exp(-10.0 / 8.0)
    alone = tilt(a) / (1.0 - left)
    assert alone.std() == pytest.approx(0.1, rel=0.1)
    assert abs(alone.mean()) < 0.02
    assert tilt(a, a) == pytest.approx(alone * (1.0 - left**2))
    other = tilt(b) / (1.0 - left)
    assert abs(np.corrcoef(alone, other)[0, 1]) < 0.15
    assert tilt(a, b) == pytest.approx(alone * (1.0 - left) * left + other * (1.0 - left))
    assert tilt(a + b) == pytest.approx((1.0 - left) * (alone + other) / 2)
    assert tilt(a, 0 * a) == pytest.approx(tilt(a))


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
    assert stored.dynamics.ceiling > 1
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


def test_spreads_fall_with_samples_by_their_power():
    luck, tilt = spreads_of(np.array([SPREAD_SAMPLES, 4 * SPREAD_SAMPLES, 0.0]), 0.5, 0.1, 0.5)
    assert luck[:2] == pytest.approx([0.5, np.sqrt(np.log1p(np.expm1(0.25) / 4))])
    assert tilt[:2] == pytest.approx([0.1, 0.05])
    assert np.isfinite(luck[2])
    assert spreads_of(30.0, 0.5, 0.1, 0.0) == pytest.approx((0.5, 0.1))


def test_luck_varies_less_between_machines_of_many_samples():
    wide = dataclasses.replace(KNOWN, noise=0.0, run_spread=0.0, machine_spread=0.4, rest_samples=0.0, spread_power=1.0)
    few, many = (play([n], [1.0], 1, wide)[1] for n in (40, 640))
    assert few.mean() == pytest.approx(many.mean(), rel=0.15)
    assert few.std() > 5 * many.std()
