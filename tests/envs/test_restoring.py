"""States, pickles and copies in the middle of an episode: what comes after is the same, bit for bit."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FrameStackObservation

from envs.levels import LevelAction
from envs.menu import MenuAction
from envs.multi_objective import MultiObjectiveEnv
from envs.orchestration import OrchestrationEnv
from envs.training import TrainingEnv
from envs.vector import OrchestrationVectorEnv
from scenarios import Scenario

Make = Callable[[Any], gym.Env[Any, Any]]
MAKE: dict[str, Make] = {
    "plain": lambda s: OrchestrationEnv(s, render_mode="ansi"),
    "multi-objective": lambda s: MultiObjectiveEnv(s),
    "menu": lambda s: MenuAction(OrchestrationEnv(s)),
    "levels": lambda s: LevelAction(OrchestrationEnv(s, "lagrangian")),
    "history": lambda s: FrameStackObservation(OrchestrationEnv(s), 3),
    "menu over history": lambda s: MenuAction(FrameStackObservation(MultiObjectiveEnv(s), 4)),
}
COPIES: dict[str, Callable[[Any], Any]] = {"pickle": lambda env: pickle.loads(pickle.dumps(env)), "deepcopy": copy.deepcopy}


def plain(value: Any) -> Any:
    """Something that compares: arrays as bytes at any depth, and NaN equal to itself."""
    if isinstance(value, np.ndarray):
        return value.tobytes() if value.dtype != object else [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return repr(value) if isinstance(value, float) else value


def future(env: gym.Env[Any, Any], actions: list[Any], resets: bool = True) -> list[Any]:
    """Everything that steps, pictures and the episode after next tell."""
    out = []
    for action in actions:
        step = env.step(action)
        out.append(plain(step))
        if isinstance(env, MenuAction | LevelAction):
            out.append(plain(env.action_masks()))
        if step[2]:
            out.append(plain(env.reset()))
    if env.render_mode is not None:
        out.append(env.render())
    return [*out, plain(env.reset()), plain(env.step(actions[0]))] if resets else out


def middle(env: gym.Env[Any, Any]) -> list[Any]:
    """Play into an episode; the actions that may follow."""
    env.action_space.seed(0)
    env.reset(seed=8)
    for _ in range(4):
        if env.step(env.action_space.sample())[2]:
            env.reset()
    return [env.action_space.sample() for _ in range(12)]


@pytest.fixture
def several(calibrated: Any) -> list[Scenario]:
    return [calibrated(name, budgets={"rounds": 9}) for name in ("phones", "farm-lte")]


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("which", MAKE)
def test_copies_go_on_alike_and_apart(which: str, how: str, several: list[Scenario]) -> None:
    env = MAKE[which](several)
    actions = middle(env)
    twin, third = COPIES[how](env), COPIES[how](env)
    expected = future(env, actions)
    assert future(twin, actions) == expected
    assert future(third, actions) == expected
    assert future(third, actions) != expected


@pytest.mark.parametrize("which", [name for name in MAKE if "history" not in name])
def test_states_restore_what_is_wrapped(which: str, several: list[Scenario]) -> None:
    env = MAKE[which](several)
    actions = middle(env)
    state = env.unwrapped.get_state()  # type: ignore[attr-defined]
    expected = future(env, actions)
    for other in (env, MAKE[which](several)):
        for _ in range(2):
            other.unwrapped.set_state(state)  # type: ignore[attr-defined]
            assert future(other, actions) == expected


def test_a_state_survives_a_pickle(several: list[Scenario]) -> None:
    env = OrchestrationEnv(several)
    actions = middle(env)
    state = pickle.loads(pickle.dumps(env.get_state()))
    expected = future(env, actions)
    env.set_state(state)
    assert future(env, actions) == expected


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_batches_go_on_alike(mode: AutoresetMode, several: list[Scenario]) -> None:
    def make() -> OrchestrationVectorEnv:
        return OrchestrationVectorEnv(5, several, autoreset_mode=mode)

    actions = np.random.default_rng(0).uniform(-1, 1, (25, 5, 17)).astype(np.float32)
    # Restored in every phase: also right after episodes ended, when the next step restarts them.
    for begin in range(10):
        env = make()
        env.reset(seed=3)
        for a in actions[:begin]:
            env.step(a)
        state, others = env.get_state(), [copy_of(env) for copy_of in COPIES.values()]
        expected = [plain(env.step(a)) for a in actions[begin:]]
        other = make()
        other.set_state(state)
        env.set_state(state)
        for again in (env, other, *others):
            assert [plain(again.step(a)) for a in actions[begin:]] == expected


def test_a_state_of_another_size_is_refused(several: list[Scenario]) -> None:
    state = OrchestrationVectorEnv(3, several).get_state()
    with pytest.raises(ValueError, match="the state is of 3 episodes with max_machines=16, expected 1 with max_machines=12"):
        OrchestrationEnv(several, max_machines=12).set_state(state)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("how", COPIES)
def test_real_training_goes_on_alike(how: str, tiny: Scenario) -> None:
    env = TrainingEnv(tiny)
    actions = list(np.random.default_rng(0).uniform(-1, 1, (4, 17)).astype(np.float32))
    env.reset(seed=2)
    env.step(actions[0])
    twin = COPIES[how](env)
    for action in actions[1:]:
        told, again = env.step(action), twin.step(action)
        for name in ("feature_std", "effective_rank"):
            # Numpy's float32 sums depend on where in memory the features lie, in the last digits; nothing follows from them.
            assert told[4].pop(name) == pytest.approx(again[4].pop(name), rel=1e-5, nan_ok=True)
        assert plain(told) == plain(again)
    states = [e.learner.training.state for e in (env, twin)]  # type: ignore[union-attr]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert plain(env.reset()) == plain(twin.reset())


def test_a_state_of_another_kind_of_environment_is_refused(several: list[Scenario]) -> None:
    own = OrchestrationEnv(several[0])
    own.reset(seed=0)
    others = (OrchestrationEnv(several[1]), OrchestrationEnv(several), OrchestrationEnv(several[0], reward="ratio"))
    for other in others:
        other.reset(seed=0)
        with pytest.raises(ValueError, match="of other scenarios, another reward or the other tier"):
            other.set_state(own.get_state())
    alike = OrchestrationEnv(several[0].model_copy(deep=True))
    alike.set_state(own.get_state())
    assert (alike.observation() == own.observation()).all()
