"""Warm start: the best move of the menu in every scenario is found by play and learnt first, and improved on then.

Where many machines could be asked in many ways, PPO from scratch spends most of its steps on finding what a simple rule knows.
So moves of `envs.menu`, each kept for a whole episode, are tried in all training scenarios at once; then the best one of each
scenario is played and cloned (behaviour cloning, Pomerleau 1991), with stray moves in between so that the policy knows its way
back (as in DART, Laskey et al. 2017). Actors learn by maximum likelihood, critics by what these episodes went on to earn,
values of moves by both. Which move is best must be read off the observation, as nobody tells the policy its scenario.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from agents.sb3_policies import EquivariantActorCritic, EquivariantDQN
from agents.vecenv import BatchedVecEnv
from envs.menu import LEVELS, menu_actions
from envs.patterns import PATTERNS
from fedcore.world import World

TRIED = ("crew", "crew-turns", "best", "fastest-half", "balanced-half", "speed", "whole", "half", "quarter")
LEAST_LEVEL = LEVELS - 3
"""Of the intervals on the menu, the three longest are tried."""
ENVS, STRAY = 512, 0.1
MARGIN = 0.3
BATCH, EPOCHS, LEARNING_RATE = 512, 6, 2e-3


def moves_tried() -> NDArray[np.int64]:
    """Moves of the menu that the search tries."""
    patterns = [list(PATTERNS).index(name) for name in TRIED]
    return np.array([pattern * LEVELS + level for pattern in patterns for level in range(LEAST_LEVEL, LEVELS)])


def best_moves(worlds: Sequence[World], episodes: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The move that scores best if it is kept for a whole episode, in every world.

    Args:
        worlds: where.
        episodes: of every move in every world, on average: they are drawn by chance.
        seed: of the episodes and the moves.

    Returns:
        (W,) moves, (W,) their mean log-efficiencies, minus infinity where no episode ended.
    """
    env, rng, moves = BatchedVecEnv(worlds, 4 * ENVS, seed), np.random.default_rng([seed, 1]), moves_tried()
    total, count = np.zeros((len(worlds), len(moves))), np.zeros((len(worlds), len(moves)))
    observation, kept = env.reset(), rng.integers(len(moves), size=env.num_envs)
    while count.sum() < episodes * count.size:
        world = env.core.world_index.copy()
        env.step_async(menu_actions(moves[kept], observation))
        observation, _, ended, infos = env.step_wait()
        for b in np.flatnonzero(ended):
            total[world[b], kept[b]] += infos[b]["log_efficiency"]
            count[world[b], kept[b]] += 1
        kept[ended] = rng.integers(len(moves), size=int(ended.sum()))
    mean = np.where(count > 0, total / np.maximum(count, 1), -np.inf)
    # Of few episodes the luckiest looks best: those played less than half as often as most do not count.
    mean = np.where(2 * count >= episodes, mean, np.minimum(mean, mean.min(axis=1, keepdims=True)))
    return moves[mean.argmax(axis=1)], mean.max(axis=1)


@dataclass(frozen=True)
class Lessons:
    """Rounds of episodes in which the best moves were played, and now and then a stray one.

    Attributes:
        observations: (N, size).
        best: (N,) the best move there.
        taken: (N,) the move that was played.
        earned: (N,) what was earned from there to the episode's end, NaN where that was not seen.
    """

    observations: Tensor
    best: Tensor
    taken: Tensor
    earned: Tensor


def lessons(worlds: Sequence[World], best: NDArray[np.int64], rounds: int, seed: int) -> Lessons:
    """Play the best moves.

    Args:
        worlds: to draw episodes from.
        best: (W,) the move to learn in each.
        rounds: of each of `ENVS` episodes side by side; an ended one is followed by another.
        seed: of the episodes.
    """
    env, rng, moves = BatchedVecEnv(worlds, ENVS, seed), np.random.default_rng([seed, 2]), moves_tried()
    observation = env.reset()
    seen: list[Tensor] = []
    wanted: list[Tensor] = []
    taken: list[Tensor] = []
    rewards, ends = np.zeros((rounds, ENVS)), np.zeros((rounds, ENVS), dtype=np.bool_)
    for t in range(rounds):
        move = best[env.core.world_index]
        played = np.where(rng.random(ENVS) < STRAY, rng.choice(moves, size=ENVS), move)
        for kept, value in ((seen, observation), (wanted, move), (taken, played)):
            kept.append(torch.from_numpy(value.copy()))
        env.step_async(menu_actions(played, observation))
        observation, rewards[t], ends[t], _ = env.step_wait()
    earned, ahead = np.zeros((rounds, ENVS)), np.full(ENVS, np.nan)
    for t in reversed(range(rounds)):
        ahead = rewards[t] + np.where(ends[t], 0.0, ahead)
        earned[t] = ahead
    everything = torch.from_numpy(earned.astype(np.float32)).flatten()
    return Lessons(torch.cat(seen), torch.cat(wanted), torch.cat(taken), everything)


def warm_start(model: BaseAlgorithm, worlds: Sequence[World], episodes: int, rounds: int, seed: int) -> float:
    """Teach a fresh model.

    Args:
        model: PPO with an `EquivariantActorCritic`, or DQN with an `EquivariantDQN`; changed.
        worlds: to draw episodes from.
        episodes: as `best_moves` has them.
        rounds: as `lessons` has them.
        seed: of the episodes and of the order of lessons.

    Returns:
        Mean loss in the last epoch.
    """
    best, _ = best_moves(worlds, episodes, seed)
    taught = lessons(worlds, best, rounds, seed)
    policy = model.policy
    if isinstance(policy, EquivariantActorCritic):
        actions = torch.from_numpy(menu_actions(taught.best.numpy(), taught.observations.numpy()))
        return _learn(policy, len(actions), seed, lambda part: _actor_critic_loss(policy, taught, actions, part))
    assert isinstance(policy, EquivariantDQN)
    loss = _learn(policy.q_net, len(taught.best), seed, lambda part: _q_loss(policy.q_net, taught, part))
    policy.q_net_target.load_state_dict(policy.q_net.state_dict())
    return loss


def _learn(network: nn.Module, count: int, seed: int, loss_of: Callable[[Tensor], Tensor]) -> float:
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    generator, mean = torch.Generator().manual_seed(seed), 0.0
    for _ in range(EPOCHS):
        losses = []
        for part in torch.randperm(count, generator=generator).split(BATCH):
            loss = loss_of(part)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            losses.append(float(loss.detach()))
        mean = float(np.mean(losses))
    return mean


def _squared(value: Tensor, earned: Tensor) -> Tensor:
    """Mean squared error where it is known what was earned."""
    known = ~earned.isnan()
    return (value - earned)[known].square().mean() if known.any() else torch.zeros(())


def _actor_critic_loss(policy: EquivariantActorCritic, taught: Lessons, actions: Tensor, part: Tensor) -> Tensor:
    value, log_prob, _ = policy.evaluate_actions(taught.observations[part], actions[part])
    return 0.5 * _squared(value[:, 0], taught.earned[part]) - log_prob.mean()


def _q_loss(network: nn.Module, taught: Lessons, part: Tensor) -> Tensor:
    """What moves earned, and a margin by which the best one's value exceeds all others (DQfD, Hester et al. 2018)."""
    values: Tensor = network(taught.observations[part])
    best = taught.best[part][:, None]
    rivals = (values + MARGIN).scatter(1, best, values.gather(1, best)).amax(dim=1)
    short = (rivals - values.gather(1, best)[:, 0]).mean()
    return _squared(values.gather(1, taught.taken[part][:, None])[:, 0], taught.earned[part]) + short
