"""The Discrete face."""

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from envs.menu import LEVELS, PATTERNS, MenuAction, interval_at, menu_actions, menu_size
from envs.observation import MACHINE_FEATURES, N_FLEET, N_MACHINE, split
from envs.orchestration import OrchestrationEnv
from envs.spaces import decode
from envs.vector import OrchestrationVectorEnv
from scenarios import names


def test_gymnasium_and_sb3_accept_it(calibrated: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = MenuAction(OrchestrationEnv(calibrated("phones")))
        check_env(env, skip_render_check=True)
        check_env_sb3(env)
    # That it is a wrapper is what it is for; nothing else may be said.
    told = [str(w.message) for w in caught if "different from the unwrapped version" not in str(w.message)]
    assert told == []
    assert env.action_space == spaces.Discrete(menu_size())


def test_every_move_is_a_valid_action_and_batch_equals_single(calibrated: Any) -> None:
    env = OrchestrationVectorEnv(18, [calibrated(name) for name in names()])
    rng = np.random.default_rng(0)
    observation = env.reset(seed=0)[0]
    for _ in range(4):
        observation = env.step(rng.uniform(-1, 1, (18, 17)).astype(np.float32))[0]
    moves = np.arange(menu_size())
    for o in observation:
        together = menu_actions(moves, np.repeat(o[None], menu_size(), axis=0))
        assert together.dtype == np.float32
        assert env.single_action_space.contains(together[0])
        assert (np.abs(together) <= 1).all()
        for move in (0, 7, 32, menu_size() - 1):
            assert menu_actions(np.array([move]), o[None])[0] == pytest.approx(together[move], abs=1e-5)
    mixed = rng.integers(menu_size(), size=18)
    batch = menu_actions(mixed, observation)
    single = [menu_actions(mixed[i : i + 1], observation[i : i + 1])[0] for i in range(18)]
    assert batch == pytest.approx(np.stack(single), abs=1e-5)


def test_moves_by_hand(calibrated: Any) -> None:
    env = OrchestrationEnv(calibrated("farm-lte"))
    observation = env.reset(seed=0)[0]
    intervals = env.core.world().scenario.decision.sync_intervals
    assert len(intervals) == LEVELS
    for index, (name, share) in enumerate((("whole", 1.0), ("half", 0.5), ("quarter", 0.25), ("tenth", 0.1))):
        assert list(PATTERNS)[index] == name
        for level in range(LEVELS):
            action = menu_actions(np.array([index * LEVELS + level]), observation[None])
            shares, got = decode(action, np.array([LEVELS]))
            assert shares[0, :6] == pytest.approx([share] * 6, abs=1e-6)
            assert (shares[0, 6:] == 0).all()
            assert got[0] == level
    ends = interval_at(observation, np.array([0, LEVELS - 1]))
    assert ends == pytest.approx([intervals[0], intervals[-1]], rel=1e-5)


def test_masks_are_the_moves_that_ask_somebody(calibrated: Any) -> None:
    env = MenuAction(OrchestrationEnv(calibrated("farm-lte")))
    env.reset(seed=0)
    core = env.unwrapped.core  # type: ignore[attr-defined]
    for _ in range(3):
        env.step(3)
        mask = env.action_masks()
        assert mask.dtype == np.bool_
        assert mask.shape == (menu_size(),)
        assert mask[: 4 * LEVELS].all()
        for move in np.flatnonzero(mask)[::7]:
            assert (env.action(int(move))[:-1] > -1).any()
        for move in np.flatnonzero(~mask):
            assert (env.action(int(move))[:-1] == -1).all()
    # Nobody there: every move is as good, and none of them asks anybody.
    core.observed[:, MACHINE_FEATURES.index("available") : -N_FLEET : N_MACHINE] = 0.0
    assert env.action_masks().all()
    assert (env.action(0)[:-1] == -1).all()


def test_a_move_is_made_on_the_last_observation(calibrated: Any) -> None:
    env, bare = MenuAction(OrchestrationEnv(calibrated("phones"))), OrchestrationEnv(calibrated("phones"))
    seen, _ = env.reset(seed=4)
    observation = bare.reset(seed=4)[0]
    assert np.array_equal(seen, observation)
    for move in (26, 2, 41, 33, 17):
        action = menu_actions(np.array([move]), observation[None])[0]
        seen, reward, *_ = env.step(move)
        observation, expected, *_ = bare.step(action)
        assert np.array_equal(seen, observation)
        assert reward == expected
    assert split(seen).fleet["rounds_used"] > 0


def test_a_reset_comes_first(calibrated: Any) -> None:
    env = MenuAction(OrchestrationEnv(calibrated("phones")))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    with pytest.raises(gym.error.ResetNeeded):
        env.action_masks()
    with pytest.raises(TypeError, match="got CartPoleEnv, expected one of intrafed's"):
        MenuAction(gym.make("CartPole-v1"))


@pytest.mark.parametrize("move", [-1, menu_size(), 10**6, 2.5, "crew"])
def test_what_is_no_move_is_refused(calibrated: Any, move: Any) -> None:
    env = MenuAction(OrchestrationEnv(calibrated("phones")))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="expected a move of the menu"):
        env.step(move)


def test_maskable_ppo_learns_on_it(calibrated: Any) -> None:
    contrib = pytest.importorskip("sb3_contrib")
    env = MenuAction(OrchestrationEnv(calibrated("phones"), reward="efficiency"))
    model = contrib.MaskablePPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(128)
    observation, _ = env.reset(seed=0)
    for _ in range(5):
        masks = env.action_masks()
        move, _ = model.predict(observation, action_masks=masks, deterministic=True)
        assert masks[move]
        observation, _, ended, _, _ = env.step(int(move))
        if ended:
            break


def test_it_wraps_the_box_and_nothing_else(calibrated: Any) -> None:
    env = gym.make("IntraFed/Orchestration-v0", scenario=calibrated())
    for between in (MenuAction(env), gym.wrappers.RescaleAction(env, np.float32(0), np.float32(1))):
        with pytest.raises(TypeError, match=r"the wrapped environment takes .* that of ours itself"):
            MenuAction(between)
    MenuAction(gym.wrappers.RecordEpisodeStatistics(env))
    observations = np.zeros((2, 16 * 20 + 24), dtype=np.float32)
    for moves in (np.array([-1, 0]), np.array([0, menu_size()]), np.array([0.5, 1.0]), np.array([1])):
        with pytest.raises(ValueError, match=f"expected 2 whole numbers from 0 to {menu_size() - 1}"):
            menu_actions(moves, observations)
