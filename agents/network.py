"""The orchestrator's network: permutation-equivariant over machines, for fleets of any size.

Deep Sets (Zaheer et al. 2017): every machine is encoded alone together with the fleet's features, encodings are pooled
over the machines that are there, and the moves of `envs.menu` are rated by the pool. The fleet chooses as one: choices made
for each machine alone cannot say "one of these, in turn", and that is what most fleets need. What is the fleet's is computed
once and not per machine, and activations are ReLU: that makes learning fast on a processor (docs/speed.md).
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from envs.crews import WEIGHTS
from envs.observation import FLEET_FEATURES, MACHINE_FEATURES, N_FLEET, N_MACHINE, TEACHES_ALL

N_DERIVED = 11 + len(WEIGHTS)
_M = {name: i for i, name in enumerate(MACHINE_FEATURES)}
_F = {name: i for i, name in enumerate(FLEET_FEATURES)}
_LOG10_E = 0.4342944819032518
MANY_MACHINES = 128
"""From which on it pays to put them in order."""
_FAR = 9.0
"""Stands for infinity among logarithms."""
_PART_AND_NUMBER, _WEIGHTS = torch.tensor([1.0, 0.1]), torch.tensor(tuple(WEIGHTS.values())).T


def _power(exponent: Tensor) -> Tensor:
    return torch.exp(exponent * 2.302585092994046)


def _log(value: Tensor) -> Tensor:
    return torch.log(value.clamp_min(1e-9)) * _LOG10_E


def _atanh(value: Tensor) -> Tensor:
    return 0.5 * torch.log((1.0 + value) / (1.0 - value))  # ONNX has no name for it


@torch.no_grad()
def derived(body: Tensor, fleet: Tensor, askable: Tensor, by_order: bool = False) -> Tensor:
    """What follows from an observation and would be hard to learn: a machine beside the others it competes with.

    Args:
        body: (B, K, N_MACHINE).
        fleet: (B, N_FLEET).
        askable: (B, K) bool.
        by_order: of machines, not pair by pair: the same but for rounding, at a cost that grows with K and not with its square.

    Returns:
        (B, K, N_DERIVED): log10 of predicted time and cost (energy and bytes, weighted) of a whole round at the longest H, as
        `envs.crews.prospect` predicts them; how far these, and their product, lie above the best machine's; the part of the
        fleet's data on machines of a better product; their number over 10; by how much the machine that waited longest has
        waited longer, and how many have, over 10; 1 for the machines of `envs.crews.crew`, the first whose
        data suffice together, and how far these lead with all better ones; 1 for whom each of `envs.crews.WEIGHTS` asks; 0
        for machines that cannot be asked.
    """
    share, steps = body[:, :, _M["max_share"]], _power(fleet[:, None, _F["longest_interval"]])
    saving = body[:, :, _M["step_saving"]]
    work = 0.1 * steps * (saving + (1.0 - saving) * share)
    powers = _power(body[:, :, _M["step_time"] : _M["idle_energy"] + 1])
    at = {name: powers[:, :, _M[name] - _M["step_time"]] for name in MACHINE_FEATURES[_M["step_time"] : _M["idle_energy"] + 1]}
    carried = at["download_time"] + at["upload_time"] * share
    time = carried + work * at["step_time"]
    energy = work * at["step_energy"] + at["radio_energy"] * (0.5 + 0.5 * share) + at["idle_energy"] * carried
    weight = fleet[:, None, _F["energy_weight"]]
    cost = weight * energy + (1.0 - weight) * (1.0 + share) / 1.5
    near = askable.to(body.dtype)
    both = torch.stack([_log(time), _log(cost)], dim=2)
    all_three = torch.cat([both, both.sum(dim=2, keepdim=True)], dim=2)
    far = torch.where(askable[:, :, None], all_three, torch.full_like(all_three, _FAR))
    above = (far - far.amin(dim=1, keepdim=True)).clamp_max(_FAR)
    product = far[:, :, 2]
    data, teaches = body[:, :, _M["data"]], body[:, :, _M["teaches"]]
    counted = torch.stack([data / data.sum(dim=1, keepdim=True).clamp_min(1e-6), torch.ones_like(data), data], 2)
    sums, own = (_by_order if by_order else _by_pairs)(product, counted * near[:, :, None], teaches * near)
    before, without = sums[:, :, :2] * _PART_AND_NUMBER, sums[:, :, 2]
    age = torch.where(askable, body[:, :, _M["measurement_age"]], torch.full_like(data, -1.0))
    longer = _number_above(age) if by_order else (age[:, None, :] > age[:, :, None]).to(body.dtype).sum(dim=2)
    turn = torch.stack([age.amax(dim=1, keepdim=True) - age, 0.1 * longer], dim=2)
    needed = (_reach(without, own, data, teaches, fleet) < 1.0 / TEACHES_ALL).to(body.dtype)
    led = _reach(without + data, torch.maximum(own, teaches), data, teaches, fleet)
    crew = torch.stack([needed, needed * led], dim=2)
    elapsed = (_power(2.0 * fleet[:, None, _F["reference_rounds"]]) * fleet[:, None, _F["time_vs_reference"]]).clamp_min(1.0)
    stays = (2.0 * _atanh(body[:, :, _M["leaves"]].clamp_max(0.999)) / elapsed * time).clamp_max(5.0)
    merit = product + 2.0 * (_LOG10_E * stays - _log(share))
    waited = _log(1.0 + 10.0 * _atanh(age.clamp(0.0, 0.999)))
    proven = _LOG10_E * body[:, :, _M["surplus"]]
    weights = torch.stack([waited, _log(data.clamp_min(1e-6)), _log(teaches.clamp_min(0.01)), proven], dim=2) @ _WEIGHTS
    weighed = torch.where(askable[:, :, None], merit[:, :, None] - weights, torch.full_like(weights, 4.0 * _FAR))
    asked = (weighed <= weighed.amin(dim=1, keepdim=True)).to(body.dtype)
    return torch.cat([both, above, before, turn, crew, asked], dim=2) * near[:, :, None]


def _by_pairs(product: Tensor, counted: Tensor, teaches: Tensor) -> tuple[Tensor, Tensor]:
    """Of all machines of a better product than each one's: sums of what is counted, (B, K, N), and the most that one of them
    teaches, or 0, (B, K)."""
    better = (product[:, None, :] < product[:, :, None]).to(product.dtype)
    return torch.bmm(better, counted), (better * teaches[:, None, :]).amax(dim=2)


def _by_order(product: Tensor, counted: Tensor, teaches: Tensor) -> tuple[Tensor, Tensor]:
    """As `_by_pairs`."""
    ordered, order = product.sort(dim=1)
    better = torch.searchsorted(ordered, product.contiguous())  # how many
    sums = counted.gather(1, order[:, :, None].expand_as(counted)).cumsum(dim=1)
    most = teaches.gather(1, order).cummax(dim=1).values
    sums, most = (torch.cat([torch.zeros_like(found[:, :1]), found], dim=1) for found in (sums, most))
    return sums.gather(1, better[:, :, None].expand_as(counted)), most.gather(1, better)


def _number_above(value: Tensor) -> Tensor:
    """(B, K) how many of a row are above each of it."""
    return (value.shape[1] - torch.searchsorted(value.sort(dim=1).values, value.contiguous(), right=True)).to(value.dtype)


def _reach(pooled: Tensor, alone: Tensor, data: Tensor, teaches: Tensor, fleet: Tensor) -> Tensor:
    """How far so much data lead, alone or pooled, as `envs.crews.together` estimates it; (B, K) all but fleet."""
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
        self.trim = True  # to the machines that there are; see `for_any_fleet`
        self.by_order = False

    def forward(self, observation: Tensor) -> Tensor:
        """Encode.

        Args:
            observation: (B, K_max x N_MACHINE + N_FLEET).

        Returns:
            (B, width). Only machines up to the last that exists anywhere in the batch are looked at: padding costs nothing.
        """
        return self.pooled(*self.each_machine(observation))

    def each_machine(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Its first half: encodings (B, K, width) of every machine with its fleet, which machines there are (B, K), and the
        fleet's features (B, N_FLEET)."""
        machines = (observation.shape[1] - N_FLEET) // N_MACHINE
        body = observation[:, : machines * N_MACHINE].view(-1, machines, N_MACHINE)
        fleet = observation[:, machines * N_MACHINE :]
        there = body[:, :, _M["exists"]] > 0.5
        if self.trim:
            filled = there.any(dim=0).nonzero()
            used = int(filled[-1]) + 1 if len(filled) else 1
            body, there = body[:, :used], there[:, :used]
        askable = there & (body[:, :, _M["available"]] > 0.5) & (body[:, :, _M["max_share"]] > 0.0)
        own = torch.cat([body, derived(body, fleet, askable, self.by_order)], dim=2)
        return torch.relu(self.machine(own) + self.fleet(fleet)[:, None, :]), there, fleet

    def pooled(self, hidden: Tensor, there: Tensor, fleet: Tensor) -> Tensor:
        """Its second half: (B, width) from what `each_machine` gives."""
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


def for_any_fleet(network: nn.Module, machines: int = 0) -> nn.Module:
    """A copy that looks at padding too, so that what is traced of it on one fleet holds for every other; a quick one where
    they are padded to so many machines, if they are many."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, FleetEncoder):
            module.trim, module.by_order = False, machines > MANY_MACHINES
    return network
