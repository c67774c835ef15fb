"""What every move of the menu is worth in the rounds of simulated episodes, found by playing on from there.

In a round each move is kept to the end of the episode, in a future drawn anew. Whoever then makes the best one, and asks
again in the next round, does better than any one move kept throughout: a rollout algorithm (Bertsekas 2005, "Dynamic
programming and suboptimal control: a survey from ADP to MPC"). Such a search knows the simulator and the episode's hidden luck;
who learns its scores from observations alone learns what they are on average where observations do not tell more.

Who has learnt that can be improved on in the same way: each move is made once, and its own moves follow (policy iteration with
rollouts, Lagoudakis and Parr 2003).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.network import MenuNetwork
from agents.rollout import earned_from, play_out
from agents.vecenv import BatchedVecEnv
from envs.core import Core
from envs.menu import LEVELS, PATTERNS, menu_actions, menu_size
from fedcore.world import World

TRIED = (
    "crew", "crew-singly", "best", "two", "thriftiest", "most-data", "turns-teaches", "proven", "turns-proven",
    "proven-teaches", "proven-in-turn", "proven-only",
)  # fmt: skip
"""Patterns that the search tries: those by which the best move kept was better anywhere, and that policies then made."""
LEAST_LEVEL = LEVELS - 2
"""Of the intervals on the menu, the two longest are tried."""
EVERY = 3
"""Of so many rounds of an episode one is searched: its neighbours look much alike, and other episodes do not."""
ONCE = 0.3
"""A move made once costs about so much of what it costs if it is kept."""
STRAY = 0.1
WORST = 2.0
"""What the worst moves, and those that are not tried, lose at most: what is certain to lose more is not played to the end."""


def moves_tried() -> NDArray[np.int64]:
    """Moves of the menu that the search tries."""
    patterns = [list(PATTERNS).index(name) for name in TRIED]
    return np.array([pattern * LEVELS + level for pattern in patterns for level in range(LEAST_LEVEL, LEVELS)])


def scores_of(
    core: Core, which: NDArray[np.int64], rng: np.random.Generator, follows: MenuNetwork | None = None
) -> NDArray[np.float64]:
    """What every move scores if it is kept from here to the episode's end, or made once.

    Futures are drawn anew, the same for all moves of an episode: what the episode is going to meet stays unknown.

    Args:
        core: simulated episodes that have begun and not ended; left as they are.
        which: (N,) of them.
        rng: of the futures.
        follows: whose moves are made from the next round on; None keeps the move.

    Returns:
        (N, moves tried) log-efficiencies; minus infinity where a move is certain to lose more than `WORST`, or
        `ONCE` times that where moves are made once.
    """
    moves, n = moves_tried(), len(which)
    most = WORST if follows is None else ONCE * WORST
    copies = core.copies(np.repeat(which, len(moves)))
    copies.key = np.repeat(rng.integers(2**63, size=n, dtype=np.int64).astype(np.uint64), len(moves))
    tried, round_ = np.tile(moves, n), count()

    def decide(rows: NDArray[np.int64], seen: NDArray[np.float32]) -> NDArray[np.float32]:
        first = next(round_) == 0
        return menu_actions(tried[rows] if first or follows is None else likeliest(follows, seen), seen)

    def floor(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.repeat(scores.reshape(n, -1).max(axis=1) - most, len(moves))

    return play_out(copies, decide, floor).reshape(n, len(moves))


def lost(scores: NDArray[np.float64], once: bool = False) -> NDArray[np.float32]:
    """(B, menu) how much less than the best every move of the menu scores, at most `WORST`.

    Args:
        scores: (B, moves tried).
        once: moves were made once; what they lose is told as if they had been kept.
    """
    out = np.full((len(scores), menu_size()), WORST, dtype=np.float32)
    loses = scores.max(axis=1, keepdims=True) - scores
    out[:, moves_tried()] = np.minimum(loses / ONCE if once else loses, WORST)
    return out


@dataclass(frozen=True)
class Lessons:
    """Rounds of episodes.

    Attributes:
        observations: (N, size).
        lost: (N, menu) how much less than the best move every other scores, kept from there to the episode's end, or as if.
        taken: (N,) the move that was played.
        earned: (N,) what was earned from there to the episode's end, NaN where that was not seen.
    """

    observations: Tensor
    lost: Tensor
    taken: Tensor
    earned: Tensor


def join(parts: Sequence[Lessons]) -> Lessons:
    """All in one."""
    return Lessons(*(torch.cat(field) for field in zip(*(vars(part).values() for part in parts), strict=True)))


def lessons(
    worlds: Sequence[World], network: MenuNetwork | None, envs: int, rounds: int, seed: int, once: bool = False
) -> Lessons:
    """Play episodes, with a stray move now and then, and find what every move would be worth in one of `EVERY` rounds.

    Args:
        worlds: to draw episodes from.
        network: whose moves are played; None plays the best ones of the last search.
        envs: episodes side by side; an ended one is followed by another.
        rounds: of each.
        seed: of everything.
        once: moves are made once, and the network's follow; otherwise they are kept.
    """
    env, rng, moves = BatchedVecEnv(worlds, envs, seed, menu=True), np.random.default_rng([seed, 2]), moves_tried()
    observation, best = env.reset(), rng.choice(moves, size=envs)
    seen, losses, taken = (list[Tensor]() for _ in range(3))
    asked = [np.flatnonzero((np.arange(envs) + t) % EVERY == 0) for t in range(rounds)]
    rewards, ends = np.zeros((rounds, envs)), np.zeros((rounds, envs), dtype=np.bool_)
    for t, which in enumerate(asked):
        loses = lost(scores_of(env.core, which, rng, network if once else None), once)
        best[which] = loses.argmin(axis=1)
        chosen = best if network is None else likeliest(network, observation)
        played = np.where(rng.random(envs) < STRAY, rng.choice(moves, size=envs), chosen)
        for kept, value in ((seen, observation[which]), (losses, loses), (taken, played[which])):
            kept.append(torch.from_numpy(value.copy()))
        env.step_async(played)
        observation, rewards[t], ends[t], _ = env.step_wait()
    from_here = earned_from(rewards, ends).astype(np.float32)
    earned = torch.from_numpy(np.concatenate([from_here[t][which] for t, which in enumerate(asked)]))
    return Lessons(torch.cat(seen), torch.cat(losses), torch.cat(taken), earned)


@torch.inference_mode()
def likeliest(network: MenuNetwork, observation: NDArray[np.float32]) -> NDArray[np.int64]:
    """(B,) the moves of the menu that a network rates highest, from observations (B, size)."""
    return np.asarray(network(torch.from_numpy(observation)).argmax(dim=1))
