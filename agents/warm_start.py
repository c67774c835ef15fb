"""Warm start: what moves are worth is found by search and learnt first, and improved on then.

Where many machines could be asked in many ways, PPO from scratch spends most of its steps on finding what a search of the
simulator knows (`agents.lessons`). The first lessons come from episodes that the search itself plays; in later ones the policy
plays as it has learnt so far and is told what would have been better, so that it knows its way back from its own mistakes
(DAgger, Ross et al. 2011); and in the last, what would be better before its own moves. Those alone would not do: a move that
costs little once, and all when repeated, is told by the others. Where several states look alike, the best answer is the move
that is best on average, not the one that is best most often. So the actor learns every tried move's score and not the best
move's name (as AWAC, Nair et al. 2020, but with all moves' advantages known): its distribution comes near to
exp(mean score / temperature). Critics learn what these episodes went on to earn, values of moves both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from agents.lessons import ONCE, Lessons, join, lessons
from agents.network import MenuNetwork
from agents.resuming import read_checkpoint
from agents.sb3_policies import EquivariantActorCritic, EquivariantDQN
from agents.torch_files import write_torch
from fedcore.parallel import worker_pool
from fedcore.world import World
from scenarios.errors import InputError

PARTS = 2
"""Lessons of a pass are made in so many parts, side by side where there are processes for it."""
PER_WORLD = 64
"""Episodes side by side that one scenario has use for."""
BATCH = 256


@dataclass(frozen=True)
class WarmStart:
    """How much is taught, and how.

    Attributes:
        passes: of lessons: in the first the best moves are played, in the others what has been learnt from those before.
        once: in so many passes, the last, moves are made once; in the others they are kept.
        envs: at most so many episodes side by side in each of `PARTS` parts of a pass, and `PER_WORLD` for each world.
        rounds: of each.
        epochs: through all lessons so far, after every pass.
        learning_rate: of Adam at the start of every pass; it falls to 0 in a line.
        temperature: of the actor.
    """

    passes: int = 3
    once: int = 1
    envs: int = 1024
    rounds: int = 128
    epochs: int = 16
    learning_rate: float = 3e-3
    temperature: float = 0.5


def warm_start(
    model: BaseAlgorithm,
    worlds: Sequence[World],
    recipe: WarmStart,
    seed: int,
    workers: int = 1,
    on_note: Callable[[str], None] = lambda note: None,
    kept: Path | None = None,
    passes: Path | None = None,
) -> Lessons:
    """Teach a fresh model, by new lessons or by those that another has left.

    Args:
        model: PPO with an `EquivariantActorCritic`, or DQN with an `EquivariantDQN`; changed.
        worlds: to draw episodes from.
        recipe: how much and how.
        seed: of the episodes and of the order of lessons.
        workers: processes to make lessons in; the result does not depend on it.
        on_note: told in words how far it has come.
        kept: file of lessons: where there is one, they are learnt and no others made; else it is written.
        passes: folder where every pass's lessons are kept until all are made, so that an interrupted search goes on there.

    Returns:
        All that it was taught.
    """
    if kept is not None and kept.is_file():
        known = _read(kept)
        on_note(f"learning from {len(known.taken):,} searches that are known")
        teach(model, known, recipe, seed)
        return known
    taught: list[Lessons] = []
    envs = min(recipe.envs, PER_WORLD * len(worlds))
    with worker_pool(min(workers, PARTS)) if workers > 1 else nullcontext() as pool:
        for number in range(recipe.passes):
            on_note(f"search, pass {number + 1} of {recipe.passes}")
            made = None if passes is None else passes / f"pass-{number}.pt"
            if made is not None and made.is_file():
                taught = [_read(made)]
                teach(model, taught[0], recipe, seed)
                continue
            network = actor(model) if number else None
            first = PARTS * (seed * recipe.passes + number)
            once = network is not None and number >= recipe.passes - recipe.once
            jobs = [(worlds, network, envs, recipe.rounds, first + part, once) for part in range(PARTS)]
            if pool is None:
                taught += [lessons(*job) for job in jobs]
            else:
                taught += [job.result() for job in [pool.submit(lessons, *job) for job in jobs]]
            taught = [join(taught)]
            if made is not None:
                write_torch(made, vars(taught[0]))
            on_note(f"learning from {len(taught[0].taken):,} searches")
            teach(model, taught[0], recipe, seed)
    if kept is not None:
        write_torch(kept, vars(taught[0]))
    return taught[0]


def _read(path: Path) -> Lessons:
    """Kept lessons.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return Lessons(**read_checkpoint(path))
    except TypeError:
        raise InputError(f"lessons {path} are of another kind: expected those that training wrote; delete them") from None


def actor(model: BaseAlgorithm) -> MenuNetwork:
    """The network whose highest rating is the move to make."""
    policy = model.policy
    network = policy.actor if isinstance(policy, EquivariantActorCritic) else cast(EquivariantDQN, policy).q_net.network
    return cast(MenuNetwork, network)


def teach(model: BaseAlgorithm, taught: Lessons, recipe: WarmStart, seed: int) -> None:
    """Go through lessons, in the order of that seed."""
    policy = model.policy
    network: nn.Module = policy if isinstance(policy, EquivariantActorCritic) else cast(EquivariantDQN, policy).q_net
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    steps = recipe.epochs * -(-len(taught.taken) // BATCH)
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(recipe.epochs):
        for part in torch.randperm(len(taught.taken), generator=generator).split(BATCH):
            if isinstance(network, EquivariantActorCritic):
                loss = _actor_critic_loss(network, taught, part, recipe.temperature)
            else:
                loss = _q_loss(network, taught, part)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            falling.step()
    if isinstance(policy, EquivariantDQN):
        policy.q_net_target.load_state_dict(policy.q_net.state_dict())


def _squared(value: Tensor, earned: Tensor) -> Tensor:
    """Mean squared error where it is known what was earned."""
    known = ~earned.isnan()
    return (value - earned)[known].square().mean() if known.any() else torch.zeros(())


def apart(rated: Tensor, loses: Tensor) -> Tensor:
    """Mean squared error of ratings whose differences should be what moves lose."""
    return ((rated - rated.mean(dim=1, keepdim=True)) + (loses - loses.mean(dim=1, keepdim=True))).square().mean()


def own_moves_lose(log: Tensor, rated: Tensor, loses: Tensor) -> Tensor:
    """What moves of these log-probabilities lose on average, less their entropy at the temperature by which `rated` is told."""
    return (log.exp() * (loses + rated)).sum(dim=1).mean()


def _actor_critic_loss(policy: EquivariantActorCritic, taught: Lessons, part: Tensor, temperature: float) -> Tensor:
    """Squared errors of what moves lose, as the actor's log-probabilities rate it, and what its own moves lose on average.

    The second alone would settle on the first good move; the first alone weighs bad moves as much as good ones.
    """
    value, log = policy.rated(taught.observations[part])
    loses, rated = taught.lost[part], temperature * log
    own = own_moves_lose(log, rated, loses)  # first: gradients add up in the order of what is computed, to the last bit
    return 0.5 * _squared(value[:, 0], taught.earned[part]) + 5.0 * apart(rated, loses) + own


def _q_loss(network: nn.Module, taught: Lessons, part: Tensor) -> Tensor:
    """What the moves that were played earned, and by how much less other moves are worth: the same errors as the critic's and
    the actor's, in units of returns."""
    values: Tensor = network(taught.observations[part])
    played = values.gather(1, taught.taken[part][:, None])[:, 0]
    return 0.5 * _squared(played, taught.earned[part]) + 5.0 / ONCE**2 * apart(values, ONCE * taught.lost[part])
