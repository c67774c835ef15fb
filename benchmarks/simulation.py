"""Speed of the fast tier: `python benchmarks/simulation.py`. Environment steps per second, medians of repeated runs.

One environment by `gym.make`; batches by `gym.make_vec` against the number of machines and of environments, with links that
are shared and short (as in farm-lte) and with links of their own; PPO end to end, by the default recipe and by
stable-baselines3's own network, on ours and on a toy of the same spaces that does a few NumPy operations per step, which is as
fast as the learner can be fed; one decision of a frozen policy.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium import spaces
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

import envs  # noqa: F401 - registers
from agents.frozen import FrozenPolicy, PolicyCard
from agents.network import MenuNetwork
from agents.recipes import DQNRecipe, PPORecipe, build
from agents.vecenv import BatchedVecEnv
from envs.menu import menu_size
from envs.observation import observation_space
from envs.spaces import action_space
from fedcore.world import compile_world
from scenarios import Scenario, load, parse

LARGEST_COUNT = 64  # of one group


@dataclass(frozen=True)
class Options:
    """Speed of the simulated tier.

    Attributes:
        machines: sizes of the fleets.
        num_envs: sizes of the batches.
        most: machines x environments that a batch may have.
        repeats: measurements, after one that warms up.
        ppo_steps: environment steps of the end-to-end runs; 0 leaves them out.
    """

    machines: tuple[int, ...] = (4, 16, 64, 256)
    num_envs: tuple[int, ...] = (64, 512, 4096, 16384)
    most: int = 1 << 20
    repeats: int = 5
    ppo_steps: int = 200_000


def fleet(machines: int, shared: bool) -> Scenario:
    """farm-lte's two kinds of gateway, half of the machines each, its backhaul in proportion or none at all."""
    content = load("farm-lte").model_dump(mode="json")
    wanted, groups = [machines - machines // 2, machines // 2], []
    for group, count in zip(content["fleet"]["groups"], wanted, strict=True):
        if not shared:
            group["link"]["via"] = []
        parts = [min(LARGEST_COUNT, count - start) for start in range(0, count, LARGEST_COUNT)]
        groups += [group | {"name": f"{group['name']}-{i}", "count": part} for i, part in enumerate(parts)]
    content["fleet"]["groups"] = groups
    content["name"] = f"farm-{machines}"
    for link in content["fleet"]["links"]:
        for way in ("uplink_mbps", "downlink_mbps"):
            link[way] *= machines / 6
    return parse(content, "farm")


def rate(play: Callable[[], int], repeats: int) -> float:
    """Median of steps per second."""
    play()
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        steps = play()
        rates.append(steps / (time.perf_counter() - start))
    return float(np.median(rates))


def single(scenario: Scenario | str, repeats: int) -> float:
    env = gym.make("IntraFed/Orchestration-v0", scenario=scenario)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(500)]

    def play() -> int:
        for action in actions:
            if env.step(action)[2]:
                env.reset()
        return len(actions)

    return rate(play, repeats)


def batched(scenario: Scenario, num_envs: int, machines: int, repeats: int) -> float:
    env = gym.make_vec("IntraFed/Orchestration-v0", num_envs=num_envs, scenario=scenario, max_machines=machines, copy=False)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(4)]
    turns = max(4, 320_000 // (num_envs * machines))

    def play() -> int:
        for i in range(turns):
            env.step(actions[i % 4])
        return turns * num_envs

    return rate(play, repeats)


class Toy(VecEnv):
    """Our spaces, episodes of 30 steps, and next to nothing to compute."""

    def __init__(self, num_envs: int, menu: bool, max_machines: int = 16) -> None:
        self.render_mode = None
        action: gym.Space[Any] = spaces.Discrete(menu_size()) if menu else action_space(max_machines)
        super().__init__(num_envs, observation_space(max_machines), action)
        self._state = np.zeros((num_envs, *observation_space(max_machines).shape), dtype=np.float32)
        self._age, self._actions = np.arange(num_envs) % 30, np.zeros(num_envs)

    def reset(self) -> NDArray[np.float32]:
        return self._state.copy()

    def step_async(self, actions: NDArray[Any]) -> None:
        self._actions = actions

    def step_wait(self):  # type: ignore[no-untyped-def]
        self._state = 0.9 * self._state + 0.1
        self._age = (self._age + 1) % 30
        done = self._age == 0
        self._state[done] = 0.0
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for i in np.flatnonzero(done):
            infos[i]["terminal_observation"] = self._state[i]
        return self._state.copy(), -np.square(self._actions.reshape(self.num_envs, -1)[:, 0]), done, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


LEARNERS = {"the recipe, on the menu": True, "MlpPolicy, on the menu": True, "MlpPolicy, on the Box": False}
"""Learner -> whether it acts on the menu: the default recipe (the warm start left out), and stable-baselines3's own network
with its defaults but for the batch."""
STOCK_ENVS, STOCK = 1024, {"n_steps": 16, "batch_size": 4096, "n_epochs": 2}


def ppo(learner: str, steps: int, threads: int, toy: bool) -> float:
    """Steps per second of PPO end to end, learning included."""
    torch.set_num_threads(threads)
    world, recipe, menu = compile_world(fleet(16, True)), PPORecipe(), LEARNERS[learner]
    model: PPO
    if learner == "the recipe, on the menu":
        model, num_envs = build("ppo", [world], 0, None, recipe), recipe.num_envs
        if toy:
            model.set_env(Toy(num_envs, menu))
    else:
        env, num_envs = Toy(STOCK_ENVS, menu) if toy else BatchedVecEnv([world], STOCK_ENVS, 0, menu=menu), STOCK_ENVS
        model = PPO("MlpPolicy", env, seed=0, device="cpu", **STOCK)  # type: ignore[arg-type]
    model.learn(num_envs * model.n_steps)  # compiles, and warms up
    start = time.perf_counter()
    model.learn(steps, reset_num_timesteps=True)
    return model.num_timesteps / (time.perf_counter() - start)


def decision_ms(policy: FrozenPolicy, scenario: Scenario, repeats: int) -> float:
    """Milliseconds of one decision for one fleet, median."""
    env = gym.make("IntraFed/Orchestration-v0", scenario=scenario)
    observation, _ = env.reset(seed=0)
    torch.set_num_threads(1)

    def play() -> int:
        for _ in range(200):
            policy.decide(observation)
        return 200

    return 1e3 / rate(play, repeats)


def main() -> None:
    options, console = tyro.cli(Options), Console()
    table = Table("gym.make", "steps/s", title="one environment")
    for label, scenario in (("farm-lte, 6 machines", "farm-lte"), ("16 machines", fleet(16, True))):
        table.add_row(label, f"{single(scenario, options.repeats):,.0f}")
    console.print(table)
    for shared in (True, False):
        words = "one backhaul for all, short" if shared else "every machine's link its own"
        table = Table("environments", *(f"{k} machines" for k in options.machines), title=f"gym.make_vec, steps/s: {words}")
        for num_envs in options.num_envs:
            cells = [
                f"{batched(fleet(k, shared), num_envs, k, options.repeats):,.0f}" if k * num_envs <= options.most else "-"
                for k in options.machines
            ]
            table.add_row(f"{num_envs:,}", *cells)
        console.print(table)
    if options.ppo_steps:
        columns = ("learner's threads", "intrafed", "toy of the same spaces", "ratio")
        table = Table("learner", *columns, title="PPO end to end, 16 machines, steps/s: medians of turns")
        for learner in LEARNERS:
            for threads in (1, 2):
                play = partial(ppo, learner, options.ppo_steps, threads)
                ours, toys = np.array([[play(False), play(True)] for _ in range(options.repeats)]).T
                cells = (f"{np.median(ours):,.0f}", f"{np.median(toys):,.0f}", f"{np.median(ours / toys):.2f}")
                table.add_row(learner, str(threads), *cells)
        console.print(table)
    table = Table("frozen policy, 16 machines", "ms", title="one decision")
    for algorithm, recipe in (("ppo", PPORecipe()), ("dqn", DQNRecipe())):
        policy = FrozenPolicy(MenuNetwork(menu_size(), recipe.width), PolicyCard(algorithm, 0, "", 0, 0))
        table.add_row(algorithm, f"{decision_ms(policy, fleet(16, True), options.repeats):.2f}")
    console.print(table)


if __name__ == "__main__":
    main()
