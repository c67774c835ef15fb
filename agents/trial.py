"""What a learner's policy is worth while it learns: the same few episodes, played without exploration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from agents.vecenv import BatchedVecEnv
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
