"""Warm start: what the moves of the menu are worth in every scenario is found by play and learnt first, and improved on then.

Where many machines could be asked in many ways, PPO from scratch spends most of its steps on finding what a simple rule knows.
So moves of `envs.menu`, each kept for a whole episode, are tried in all training scenarios at once; then the best one of each
scenario is played, with stray moves in between so that the policy knows its way back (as in DART, Laskey et al. 2017). Nobody
tells the policy its scenario: where several look alike, the best answer is the move that is best on average, not the one that
is best most often. So the actor learns every tried move's score and not the best move's name (as AWAC, Nair et al. 2020,
but with all moves' advantages known): its distribution comes near to exp(mean score / `TEMPERATURE`). Critics
learn what these episodes went on to earn, values of moves both.
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
from envs.menu import LEVELS, menu_actions, menu_size
from envs.patterns import PATTERNS
from fedcore.world import World

TRIED = ("crew", "crew-turns", "crew-pairs", "crew-singly", "crew-more", "sure-pairs", "sure-singly", "best", "two", "singly")
LEAST_LEVEL = LEVELS - 3
"""Of the intervals on the menu, the three longest are tried."""
ENVS, STRAY = 512, 0.1
TEMPERATURE, WORST = 0.2, 4.0
"""Of the actor; and what the worst moves, and those that are not tried, lose at most."""
GAP = 0.3
"""A move made once costs about so much of what it costs if it is kept."""
BATCH, EPOCHS, LEARNING_RATE = 256, 8, 2e-3


def moves_tried() -> NDArray[np.int64]:
    """Moves of the menu that the search tries."""
    patterns = [list(PATTERNS).index(name) for name in TRIED]
    return np.array([pattern * LEVELS + level for pattern in patterns for level in range(LEAST_LEVEL, LEVELS)])


def kept_scores(worlds: Sequence[World], episodes: int, seed: int) -> NDArray[np.float64]:
    """What every move scores if it is kept for a whole episode, in every world.

    Args:
        worlds: where.
        episodes: of every move in every world, on average: they are drawn by chance.
        seed: of the episodes and the moves.

    Returns:
        (W, moves tried) mean log-efficiencies; as the world's worst where too few episodes ended to tell.
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
    # Of few episodes the luckiest looks best: moves played less than half as often as most do not count.
    counts = 2 * count >= episodes
    mean = np.where(counts, total / np.maximum(count, 1), np.inf)
    worst = mean.min(axis=1, keepdims=True)
    return np.where(counts, mean, np.where(np.isinf(worst), 0.0, worst))


def lost(scores: NDArray[np.float64]) -> NDArray[np.float32]:
    """(W, menu) how much less than the world's best every move of the menu scores, at most `WORST`."""
    out = np.full((len(scores), menu_size()), WORST, dtype=np.float32)
    out[:, moves_tried()] = np.minimum(scores.max(axis=1, keepdims=True) - scores, WORST)
    return out


@dataclass(frozen=True)
class Lessons:
    """Rounds of episodes in which the best moves were played, and now and then a stray one.

    Attributes:
        observations: (N, size).
        lost: (N, menu) how much less than the best move every other scores, kept for a whole episode.
        best: (N,) the best move there.
        taken: (N,) the move that was played.
        earned: (N,) what was earned from there to the episode's end, NaN where that was not seen.
    """

    observations: Tensor
    lost: Tensor
    best: Tensor
    taken: Tensor
    earned: Tensor


def lessons(worlds: Sequence[World], losses: NDArray[np.float32], rounds: int, seed: int) -> Lessons:
    """Play the best moves.

    Args:
        worlds: to draw episodes from.
        losses: (W, menu) of the moves in each, see `lost`.
        rounds: of each of `ENVS` episodes side by side; an ended one is followed by another.
        seed: of the episodes.
    """
    env, rng, moves = BatchedVecEnv(worlds, ENVS, seed), np.random.default_rng([seed, 2]), moves_tried()
    observation = env.reset()
    seen: list[Tensor] = []
    where: list[Tensor] = []
    taken: list[Tensor] = []
    best = losses.argmin(axis=1)
    rewards, ends = np.zeros((rounds, ENVS)), np.zeros((rounds, ENVS), dtype=np.bool_)
    for t in range(rounds):
        world = env.core.world_index
        played = np.where(rng.random(ENVS) < STRAY, rng.choice(moves, size=ENVS), best[world])
        for kept, value in ((seen, observation), (where, world), (taken, played)):
            kept.append(torch.from_numpy(value.copy()))
        env.step_async(menu_actions(played, observation))
        observation, rewards[t], ends[t], _ = env.step_wait()
    earned, ahead = np.zeros((rounds, ENVS)), np.full(ENVS, np.nan)
    for t in reversed(range(rounds)):
        ahead = rewards[t] + np.where(ends[t], 0.0, ahead)
        earned[t] = ahead
    everything = torch.from_numpy(earned.astype(np.float32)).flatten()
    worlds_seen = torch.cat(where)
    learnt = torch.from_numpy(losses)[worlds_seen], torch.from_numpy(best)[worlds_seen]
    return Lessons(torch.cat(seen), *learnt, torch.cat(taken), everything)


def warm_start(model: BaseAlgorithm, worlds: Sequence[World], episodes: int, rounds: int, seed: int) -> float:
    """Teach a fresh model.

    Args:
        model: PPO with an `EquivariantActorCritic`, or DQN with an `EquivariantDQN`; changed.
        worlds: to draw episodes from.
        episodes: as `kept_scores` has them.
        rounds: as `lessons` has them.
        seed: of the episodes and of the order of lessons.

    Returns:
        Mean loss in the last epoch.
    """
    taught = lessons(worlds, lost(kept_scores(worlds, episodes, seed)), rounds, seed)
    policy = model.policy
    if isinstance(policy, EquivariantActorCritic):
        return _learn(policy, len(taught.best), seed, lambda part: _actor_critic_loss(policy, taught, part))
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


def _actor_critic_loss(policy: EquivariantActorCritic, taught: Lessons, part: Tensor) -> Tensor:
    """Squared errors of what moves lose, as the actor's log-probabilities rate it, and what its own moves lose on average.

    The second alone would settle on the first good move; the first alone weighs bad moves as much as good ones.
    """
    value, log = policy.rated(taught.observations[part])
    loses, rated = taught.lost[part], TEMPERATURE * log
    apart = (rated - rated.mean(dim=1, keepdim=True)) + (loses - loses.mean(dim=1, keepdim=True))
    own = (log.exp() * (loses + rated)).sum(dim=1).mean()
    return 0.5 * _squared(value[:, 0], taught.earned[part]) + 5.0 * apart.square().mean() + own


def _q_loss(network: nn.Module, taught: Lessons, part: Tensor) -> Tensor:
    """What best moves earned, and by how much less other moves are worth."""
    values: Tensor = network(taught.observations[part])
    best, right = taught.best[part], taught.best[part] == taught.taken[part]
    own = values.gather(1, best[:, None])
    earned = torch.where(right, taught.earned[part], torch.full_like(taught.earned[part], torch.nan))
    apart = (values - own.detach() + GAP * taught.lost[part]).square().mean()
    return _squared(own[:, 0], earned) + 10.0 * apart
