"""Speed of the fast tier: `python benchmarks/simulation.py`. Medians of repeated runs, environment steps per second."""

from __future__ import annotations

import time
from collections.abc import Callable

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table

import envs  # noqa: F401 - registers


def rate(play: Callable[[], int], repeats: int = 5) -> float:
    """Median of steps per second over repeats, after one run that warms up."""
    play()
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        steps = play()
        rates.append(steps / (time.perf_counter() - start))
    return float(np.median(rates))


def single(scenario: str) -> float:
    env = gym.make("IntraFed/Orchestration-v0", scenario=scenario)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(200)]

    def play() -> int:
        for action in actions:
            if env.step(action)[2]:
                env.reset()
        return len(actions)

    return rate(play)


def batched(scenario: str, num_envs: int) -> float:
    env = gym.make_vec("IntraFed/Orchestration-v0", num_envs=num_envs, scenario=scenario)
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = env.action_space.sample()

    def play() -> int:
        for _ in range(20):
            env.step(actions)
        return 20 * num_envs

    return rate(play)


def main() -> None:
    table = Table("environment", "farm-lte (6 machines)", "one-strong-many-weak (8)", title="environment steps per second")
    names = ("farm-lte", "one-strong-many-weak")
    table.add_row("gym.make", *(f"{single(name):,.0f}" for name in names))
    for num_envs in (64, 256, 1024, 4096):
        table.add_row(f"gym.make_vec, {num_envs}", *(f"{batched(name, num_envs):,.0f}" for name in names))
    Console().print(table)


if __name__ == "__main__":
    main()
