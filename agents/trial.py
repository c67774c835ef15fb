"""What a learner's policy is worth while it learns: the same few episodes, played without exploration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.vecenv import BatchedVecEnv
from envs.menu import MenuAction
from envs.orchestration import OrchestrationEnv
from fedcore.world import World

EPISODES, ROUNDS = 256, 60
TRIAL_SEED = 5_000_000  # far from training's and from the held-out episodes'


def trial(model: BaseAlgorithm, worlds: Sequence[World]) -> float:
    """Mean log-efficiency of `EPISODES` episodes, always the same; one that goes on after `ROUNDS` counts as ended there.

    Args:
        model: its policy takes its likeliest moves.
        worlds: that episodes draw from.
    """
    env = BatchedVecEnv(worlds, EPISODES, TRIAL_SEED, menu=True)
    observation, score = env.reset(), np.full(EPISODES, np.nan)
    for _ in range(ROUNDS):
        env.step_async(model.predict(observation, deterministic=True)[0])
        observation, _, ended, infos = env.step_wait()
        for b in np.flatnonzero(ended & np.isnan(score)):
            score[b] = infos[b]["log_efficiency"]
        if not np.isnan(score).any():
            break
    return float(np.where(np.isnan(score), env.core.log_efficiency(), score).mean())


def episode_picture(model: BaseAlgorithm, world: World) -> NDArray[np.uint8]:
    """The end of an episode, always the same one, that a learner plays by its likeliest moves, (height, width, 3)."""
    env = MenuAction(OrchestrationEnv(world.scenario, render_mode="rgb_array", max_machines=len(world.samples)))
    observation, _ = env.reset(seed=TRIAL_SEED)
    for _ in range(ROUNDS):
        observation, _, ended, _, _ = env.step(int(model.predict(observation, deterministic=True)[0]))
        if ended:
            break
    picture = env.render()
    assert isinstance(picture, np.ndarray)
    return picture
