"""The orchestrator's network: permutation-equivariant over machines, for fleets of any size.

Deep Sets (Zaheer et al. 2017): every machine is encoded alone together with the fleet's features, encodings are pooled
over the machines that are there, and the moves of `envs.menu` are rated by the pool. The fleet chooses as one: choices made
for each machine alone cannot say "one of these, in turn", and that is what most fleets need. What is the fleet's is computed
once and not per machine, and activations are ReLU: that makes learning fast on a processor (docs/speed.md).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from envs.observation import FLEET_FEATURES, MACHINE_FEATURES, N_FLEET, N_MACHINE, TEACHES_ALL

N_DERIVED = 11
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
        waited longer, and how many have, over 10; 1 for the machines of `envs.patterns.crew`, the first whose
        data suffice together, and how far these lead with all better ones; 0 for machines that cannot be asked.
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
    teaches = body[:, :, _M["teaches"]]
    without, own = torch.bmm(better, data[:, :, None])[:, :, 0], (better * teaches[:, None, :]).amax(dim=2)
    needed = (_reach(without, own, data, teaches, fleet) < 1.0 / TEACHES_ALL).to(body.dtype)
    led = _reach(without + data, torch.maximum(own, teaches), data, teaches, fleet)
    crew = torch.stack([needed, needed * led], dim=2)
    return torch.cat([both, above, before, turn, crew], dim=2) * near[:, :, None]


def _reach(pooled: Tensor, alone: Tensor, data: Tensor, teaches: Tensor, fleet: Tensor) -> Tensor:
    """How far so much data lead, alone or pooled, as `envs.patterns.together` estimates it; (B, K) all but fleet."""
    largest, best = data.amax(dim=1, keepdim=True).clamp_min(1e-9), teaches.amax(dim=1, keepdim=True)
    way = _log(pooled / largest) / _log(data.sum(dim=1, keepdim=True) / largest).clamp_min(1e-9)
    together = best + (fleet[:, None, _F["teaches"]] - best) * way.clamp_max(1.0)
    return torch.maximum(alone, torch.where(way > 0.0, together, torch.zeros_like(together)))


class FleetEncoder(nn.Module):
    """Observation to one encoding of the fleet.

    Args:
        width: of all hidden layers.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.machine, self.fleet = nn.Linear(N_MACHINE + N_DERIVED, width), nn.Linear(N_FLEET, width, bias=False)
        self.second = nn.Linear(width, width)
        self.pool = nn.Linear(2 * width + N_FLEET, width)
        self.trim = True  # to the machines that there are; off where a graph is traced once for any batch

    def forward(self, observation: Tensor) -> Tensor:
        """Encode.

        Args:
            observation: (B, K_max x N_MACHINE + N_FLEET).

        Returns:
            (B, width). Only machines up to the last that exists anywhere in the batch are looked at: padding costs nothing.
        """
        machines = (observation.shape[1] - N_FLEET) // N_MACHINE
        body = observation[:, : machines * N_MACHINE].view(-1, machines, N_MACHINE)
        fleet = observation[:, machines * N_MACHINE :]
        there = body[:, :, _M["exists"]] > 0.5
        if self.trim:
            used = max(1, int(there.any(dim=0).sum()))
            body, there = body[:, :used], there[:, :used]
        askable = there & (body[:, :, _M["available"]] > 0.5) & (body[:, :, _M["max_share"]] > 0.0)
        own = torch.cat([body, derived(body, fleet, askable)], dim=2)
        hidden = torch.relu(self.machine(own) + self.fleet(fleet)[:, None, :])
        encoded = torch.relu(self.second(hidden)) * there.to(hidden.dtype)[:, :, None]
        mean = encoded.sum(dim=1) / there.sum(dim=1, keepdim=True).clamp_min(1).to(hidden.dtype)
        # ReLU encodings are not below 0, so 0, which padding has, is neutral for the maximum.
        return torch.relu(self.pool(torch.cat([mean, encoded.amax(dim=1), fleet], dim=1)))


class MenuNetwork(nn.Module):
    """Rates the moves of the Discrete menu: log-probabilities up to a constant (PPO), or values (DQN).

    Every move asks somebody wherever anybody can be asked (tests/envs/test_patterns.py), so no move needs a mask.

    Args:
        moves: their number.
        width: of all hidden layers.
    """

    def __init__(self, moves: int, width: int = 64) -> None:
        super().__init__()
        self.encoder = FleetEncoder(width)
        last = nn.Linear(width, moves)
        nn.init.orthogonal_(last.weight, 0.01)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)

    def forward(self, observation: Tensor) -> Tensor:
        """(B, size) observations to (B, moves) ratings; the highest is the move to make."""
        return self.head(self.encoder(observation))
