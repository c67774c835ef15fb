"""Copies of rows: the same future, and no way back into the original."""

import numpy as np
import pytest

from envs.core import Core, SimulatedLearner, draw_key
from envs.spaces import decode
from envs.training import TrainingEnv
from fedcore.costs import GRID
from fedcore.world import compile_world, share_indices


def begun(calibrated, episodes=4):
    worlds = [compile_world(calibrated(name)) for name in ("phones", "farm-lte")]
    core = Core(worlds, episodes, SimulatedLearner())
    core.reset(np.arange(episodes), [np.random.default_rng(e) for e in range(episodes)])
    return core


@pytest.mark.parametrize("rounds", [0, 1, 5])
def test_copies_have_the_future_of_their_originals(calibrated, rounds):
    core, rows = begun(calibrated), np.array([2, 0, 2, 3, 3, 1])
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        core.step(rng.uniform(-1, 1, (4, 17)))
    copies = core.copies(rows)
    assert copies.observe().tobytes() == core.observe()[rows].tobytes()
    for _ in range(6):
        actions = rng.uniform(-1, 1, (4, 17))
        rewards, reason = core.step(actions)
        again, why = copies.step(actions[rows])
        assert again == pytest.approx(rewards[rows], abs=1e-12)
        assert (why == reason[rows]).all()
        assert (copies.progress == core.progress[rows]).all()
        assert (copies.spent == core.spent[rows]).all()
        assert copies.observe().tobytes() == core.observe()[rows].tobytes()


def test_copies_leave_the_original_alone(calibrated):
    core, twin = begun(calibrated), begun(calibrated)
    action = np.full((4, 17), 0.3)
    core.step(action)
    twin.step(action)
    other = core.copies(np.arange(4))
    for _ in range(3):
        other.step(-action)
    other.reset(np.arange(4), [np.random.default_rng(9)] * 4)
    core.step(action)
    twin.step(action)
    assert core.observe().tobytes() == twin.observe().tobytes()


def test_real_training_is_not_copied_in_rows(tiny):
    with pytest.raises(TypeError, match="a core with a RealLearner has no rows to copy"):
        TrainingEnv(tiny).core.copies(np.array([0]))


def test_no_episode_scores_more_than_its_bound(calibrated):
    core, rng = begun(calibrated, 32), np.random.default_rng(1)
    bound, final = np.full(32, np.inf), np.full(32, np.nan)
    while np.isnan(final).any():
        _, reason = core.step(rng.uniform(-1, 1, (32, 17)))
        ended = (reason > 0) & np.isnan(final)
        final[ended] = core.log_efficiency()[ended]
        assert (final[ended] <= bound[ended]).all()
        bound = np.where(reason == 0, np.minimum(core.log_efficiency_bound(), bound), bound)
    assert np.isfinite(bound).any()


def test_an_episodes_key_is_the_generators_own_draw():
    ours, theirs = np.random.default_rng(7), np.random.default_rng(7)
    assert [draw_key(ours) for _ in range(50)] == [int(theirs.integers(2**63)) for _ in range(50)]
    # ... of any generator, whatever its raw bits look like.
    ours, theirs = (np.random.Generator(np.random.MT19937(7)) for _ in range(2))
    assert [draw_key(ours) for _ in range(50)] == [int(theirs.integers(2**63)) for _ in range(50)]


def test_decisions_are_on_the_grid_and_nothing_of_machines_that_there_are_not(calibrated):
    core = begun(calibrated)
    actions = np.random.default_rng(1).uniform(-1.0, 1.0, size=(4, core.max_machines + 1))
    shares, level = decode(actions, core.levels)
    got = core.decisions(actions)
    assert np.array_equal(got.index, np.where(core.exists, share_indices(shares), 0))
    assert np.array_equal(got.shares, got.index / GRID)
    assert np.array_equal(got.level, level)
    assert got.steps.tolist() == [core.menu[b, level[b]] for b in range(4)]
