"""Warm start: what the strongest heuristic does is learnt first (behaviour cloning, Pomerleau 1991), and improved on then.

Where many machines could be asked in many ways, PPO from scratch spends most of its steps on finding what `enough` knows.
Episodes are played by `enough`; the actor learns the choices nearest to its decisions by maximum likelihood, the critic what
these episodes went on to earn.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from stable_baselines3 import PPO

from agents.heuristics import HEURISTICS
from agents.sb3_policies import EquivariantActorCritic
from agents.vecenv import BatchedVecEnv
from fedcore.world import World

TEACHER = "enough"
ENVS = 128
BATCH, EPOCHS, LEARNING_RATE = 512, 6, 2e-3


def lessons(
    worlds: list[World], rounds: int, seed: int, on_round: Callable[[int], None] = lambda done: None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Play the teacher.

    Args:
        worlds: to draw episodes from.
        rounds: of each of `ENVS` episodes side by side; an ended one is followed by another.
        seed: of the episodes.
        on_round: called with the number of decisions made so far.

    Returns:
        (N, size) observations, (N, K_max + 1) the teacher's actions, (N,) what was earned from there to the episode's end,
        NaN where that was not seen.
    """
    env = BatchedVecEnv(worlds, ENVS, seed)
    observation = env.reset()
    teachers = [HEURISTICS[TEACHER]() for _ in range(ENVS)]
    for b, teacher in enumerate(teachers):
        teacher.begin(env.core.world(b).scenario)
    seen, taken = [], []
    rewards, ends = np.zeros((rounds, ENVS)), np.zeros((rounds, ENVS), dtype=np.bool_)
    for t in range(rounds):
        actions = np.stack([teacher.decide(observation[b]) for b, teacher in enumerate(teachers)])
        seen.append(torch.from_numpy(observation.copy()))
        taken.append(torch.from_numpy(actions))
        env.step_async(actions)
        observation, rewards[t], ends[t], _ = env.step_wait()
        for ended in map(int, np.flatnonzero(ends[t])):
            teachers[ended].begin(env.core.world(ended).scenario)
        on_round((t + 1) * ENVS)
    earned, ahead = np.zeros((rounds, ENVS)), np.full(ENVS, np.nan)
    for t in reversed(range(rounds)):
        ahead = rewards[t] + np.where(ends[t], 0.0, ahead)
        earned[t] = ahead
    return torch.cat(seen), torch.cat(taken), torch.from_numpy(earned.astype(np.float32)).flatten()


def warm_start(model: PPO, worlds: list[World], decisions: int, seed: int) -> float:
    """Teach a fresh PPO model.

    Args:
        model: with an `EquivariantActorCritic`; changed.
        worlds: to draw episodes from.
        decisions: of the teacher, rounded up to whole rounds.
        seed: of the episodes and of the order of lessons.

    Returns:
        Mean log-likelihood of the teacher's decisions in the last epoch.
    """
    policy = model.policy
    assert isinstance(policy, EquivariantActorCritic)
    observations, actions, earned = lessons(worlds, -(-decisions // ENVS), seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=LEARNING_RATE)
    generator, likelihood = torch.Generator().manual_seed(seed), 0.0
    for _ in range(EPOCHS):
        likelihoods = []
        for part in torch.randperm(len(actions), generator=generator).split(BATCH):
            value, log_prob, _ = policy.evaluate_actions(observations[part], actions[part])
            known = ~earned[part].isnan()
            wrong = (value[:, 0] - earned[part])[known].square().mean() if known.any() else torch.zeros(())
            loss = -log_prob.mean() + 0.5 * wrong
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            likelihoods.append(float(log_prob.mean()))
        likelihood = float(np.mean(likelihoods))
    return likelihood
