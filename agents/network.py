"""The orchestrator's network: permutation-equivariant over machines, for fleets of any size.

Deep Sets (Zaheer et al. 2017): every machine is encoded alone together with the fleet's features, encodings are pooled
over the machines that are there, and each machine's share is read from its own encoding and the pool. Decisions are
categorical: per machine one of a few parts of the largest block that it can hold, and one level of H for the fleet. One
encoder serves actor and critic, what is the fleet's is computed once and not per machine, and activations are ReLU: that is
what makes learning fast on a processor (docs/speed.md).
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from envs.menu import LEVELS
from envs.observation import FLEET_FEATURES, MACHINE_FEATURES, N_FLEET, N_MACHINE
from envs.spaces import RESTS_BELOW

PARTS = (0.0, 0.25, 0.5, 1.0)
"""What a machine may be asked to train: parts of the largest block that fits its memory."""
N_DERIVED = 9
_M = {name: i for i, name in enumerate(MACHINE_FEATURES)}
_F = {name: i for i, name in enumerate(FLEET_FEATURES)}
_FAR = 9.0
"""Stands for infinity among logarithms."""


def _power(exponent: Tensor) -> Tensor:
    return torch.exp(exponent * 2.302585092994046)


def _log(value: Tensor) -> Tensor:
    return torch.log(value.clamp_min(1e-9)) * 0.4342944819032518


@torch.no_grad()
def derived(body: Tensor, fleet: Tensor, askable: Tensor) -> Tensor:
    """What follows from an observation and would be hard to learn: a machine beside the others it competes with.

    Args:
        body: (B, K, N_MACHINE).
        fleet: (B, N_FLEET).
        askable: (B, K) bool.

    Returns:
        (B, K, N_DERIVED): log10 of predicted time and cost (energy and bytes, weighted) of a whole round at the longest H, as
        `envs.patterns` predicts them; how far these, and their product, lie above the best machine's; the part of the
        fleet's data on machines of a better product; their number over 10; by how much the machine that waited longest has
        waited longer, and how many have, over 10; 0 for machines that cannot be asked.
    """
    share, steps = body[:, :, _M["max_share"]], _power(fleet[:, None, _F["longest_interval"]])
    saving = body[:, :, _M["step_saving"]]
    work = 0.1 * steps * (saving + (1.0 - saving) * share)
    powers = _power(body[:, :, _M["step_time"] : _M["idle_energy"] + 1])
    at = {name: powers[:, :, _M[name] - _M["step_time"]] for name in MACHINE_FEATURES[_M["step_time"] : _M["idle_energy"] + 1]}
    time = at["download_time"] + work * at["step_time"] + at["upload_time"] * share
    energy = work * at["step_energy"] + at["radio_energy"] * (0.5 + 0.5 * share)
    weight = fleet[:, None, _F["energy_weight"]]
    cost = weight * energy + (1.0 - weight) * (1.0 + share) / 1.5
    near = askable.to(body.dtype)
    both = torch.stack([_log(time), _log(cost)], dim=2)
    all_three = torch.cat([both, both.sum(dim=2, keepdim=True)], dim=2)
    far = torch.where(askable[:, :, None], all_three, torch.full_like(all_three, _FAR))
    above = (far - far.amin(dim=1, keepdim=True)).clamp_max(_FAR)
    product = far[:, :, 2]
    better = (product[:, None, :] < product[:, :, None]).to(body.dtype) * near[:, None, :]
    data = body[:, :, _M["data"]]
    before = torch.bmm(better, torch.stack([data / data.sum(dim=1, keepdim=True).clamp_min(1e-6), torch.ones_like(data)], 2))
    before = before * torch.tensor([1.0, 0.1])
    age = torch.where(askable, body[:, :, _M["measurement_age"]], torch.full_like(data, -1.0))
    longer = (age[:, None, :] > age[:, :, None]).to(body.dtype).sum(dim=2)
    turn = torch.stack([age.amax(dim=1, keepdim=True) - age, 0.1 * longer], dim=2)
    return torch.cat([both, above, before, turn], dim=2) * near[:, :, None]


class FleetEncoder(nn.Module):
    """Observation to per-machine and pooled encodings.

    Args:
        width: of all hidden layers.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.machine, self.fleet = nn.Linear(N_MACHINE + N_DERIVED, width), nn.Linear(N_FLEET, width, bias=False)
        self.second = nn.Linear(width, width)
        self.pool = nn.Linear(2 * width + N_FLEET, width)
        self.trim = True  # to the machines that there are; off where a graph is traced once for any batch

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode.

        Args:
            observation: (B, K_max x N_MACHINE + N_FLEET).

        Returns:
            (B, K, width) machine encodings, (B, width) pool, (B, K) bool mask of machines that can be asked, (B, K) largest
            shares; K is the number of machines up to the last that exists anywhere in the batch, so padding costs nothing.
        """
        machines = (observation.shape[1] - N_FLEET) // N_MACHINE
        body = observation[:, : machines * N_MACHINE].view(-1, machines, N_MACHINE)
        fleet = observation[:, machines * N_MACHINE :]
        there = body[:, :, _M["exists"]] > 0.5
        if self.trim:
            used = max(1, int(there.any(dim=0).sum()))
            body, there = body[:, :used], there[:, :used]
        largest = body[:, :, _M["max_share"]]
        askable = there & (body[:, :, _M["available"]] > 0.5) & (largest > 0.0)
        own = torch.cat([body, derived(body, fleet, askable)], dim=2)
        hidden = torch.relu(self.machine(own) + self.fleet(fleet)[:, None, :])
        encoded = torch.relu(self.second(hidden)) * there.to(hidden.dtype)[:, :, None]
        mean = encoded.sum(dim=1) / there.sum(dim=1, keepdim=True).clamp_min(1).to(hidden.dtype)
        # ReLU encodings are not below 0, so 0, which padding has, is neutral for the maximum.
        pooled = torch.relu(self.pool(torch.cat([mean, encoded.amax(dim=1), fleet], dim=1)))
        return encoded, pooled, askable, largest


class ActorNetwork(nn.Module):
    """A categorical choice per machine among `PARTS`, and one among `LEVELS` of H.

    Args:
        width: of all hidden layers.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.encoder = FleetEncoder(width)
        self.own, self.shared = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.part, self.level = nn.Linear(width, len(PARTS)), nn.Linear(width, LEVELS)
        for layer in (self.part, self.level):
            nn.init.orthogonal_(layer.weight, 0.01)
            nn.init.zeros_(layer.bias)

    def logits(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Of the choices.

        Args:
            observation: (B, size).

        Returns:
            (B, K, parts) and (B, LEVELS) logits, the (B, width) pool, (B, K) bool mask of machines that can be asked, (B, K)
            their largest shares; K as in `FleetEncoder`.
        """
        encoded, pooled, askable, largest = self.encoder(observation)
        hidden = torch.relu(self.own(encoded) + self.shared(pooled)[:, None, :])
        return self.part(hidden), self.level(pooled), pooled, askable, largest

    def forward(self, observation: Tensor) -> Tensor:
        """(B, size) observations to the likeliest (B, K_max + 1) actions."""
        part, level, _, askable, largest = self.logits(observation)
        machines = (observation.shape[1] - N_FLEET) // N_MACHINE
        return to_actions(likeliest(part, askable), level.argmax(dim=1), askable, largest, machines)


def likeliest(logits: Tensor, askable: Tensor) -> Tensor:
    """The likeliest part of every machine; where that would ask nobody, the machine nearest to being asked is.

    Of machines that take turns each is more likely to rest than not: a round for nobody gains nothing, and the next would be
    the same.

    Args:
        logits: (B, K, parts).
        askable: (B, K) bool.

    Returns:
        (B, K) index into PARTS.
    """
    part = logits.argmax(dim=2)
    work, wanted = logits[:, :, 1:].max(dim=2)
    nearest = torch.where(askable, work - logits[:, :, 0], torch.full_like(work, -torch.inf)).argmax(dim=1, keepdim=True)
    nobody = ~((part > 0) & askable).any(dim=1, keepdim=True)
    chosen = torch.arange(part.shape[1]) == nearest
    return torch.where(nobody & chosen, wanted + 1, part)


def to_actions(part: Tensor, level: Tensor, askable: Tensor, largest: Tensor, machines: int) -> Tensor:
    """Choices as actions.

    Args:
        part: (B, K) index into PARTS.
        level: (B,) of H.
        askable: (B, K) bool; who cannot be asked rests.
        largest: (B, K) largest shares.
        machines: K_max.

    Returns:
        (B, K_max + 1) of `envs.spaces.action_space`.
    """
    share = torch.tensor(PARTS)[part] * largest
    entry = torch.where(askable & (part > 0), RESTS_BELOW + (1.0 - RESTS_BELOW) * share, torch.full_like(share, -1.0))
    entry = nn.functional.pad(entry, (0, machines - entry.shape[1]), value=-1.0)
    return torch.cat([entry, (2.0 * (level[:, None].to(entry.dtype) + 0.5) / LEVELS) - 1.0], dim=1)


def to_choices(actions: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
    """The choices that actions stand for, the nearest where they are none's.

    Args:
        actions: (B, K_max + 1).
        largest: (B, K).

    Returns:
        (B, K) index into PARTS, (B,) level of H.
    """
    share = (actions[:, : largest.shape[1]] - RESTS_BELOW) / (1.0 - RESTS_BELOW)
    middles = [0.5 * (a + b) for a, b in pairwise(PARTS)]
    part = torch.bucketize(share / largest.clamp_min(1e-6), torch.tensor(middles))
    level = (0.5 * (actions[:, -1] + 1.0) * LEVELS).long().clamp(0, LEVELS - 1)
    return part, level


class QNetwork(nn.Module):
    """Values of the moves on the Discrete menu.

    Args:
        moves: their number.
        width: of all hidden layers.
    """

    def __init__(self, moves: int, width: int = 64) -> None:
        super().__init__()
        self.encoder = FleetEncoder(width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, moves))

    def forward(self, observation: Tensor) -> Tensor:
        """(B, size) observations to (B, moves) values."""
        return self.head(self.encoder(observation)[1])
