"""The orchestrator's network: permutation-equivariant over machines, for fleets of any size.

Deep Sets (Zaheer et al. 2017): every machine is encoded alone together with the fleet's features, encodings are pooled
over the machines that are there, and each machine's share is read from its own encoding and the pool.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from envs.observation import FLEET_FEATURES, MACHINE_FEATURES, N_FLEET, N_MACHINE

EXISTS, AVAILABLE = MACHINE_FEATURES.index("exists"), MACHINE_FEATURES.index("available")
assert len(FLEET_FEATURES) == N_FLEET


class FleetEncoder(nn.Module):
    """Observation to per-machine and pooled encodings.

    Args:
        width: of all hidden layers.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.machine = nn.Sequential(
            nn.Linear(N_MACHINE + N_FLEET, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()
        )
        self.pool = nn.Sequential(nn.Linear(2 * width + N_FLEET, width), nn.Tanh())

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode.

        Args:
            observation: (B, K_max x N_MACHINE + N_FLEET).

        Returns:
            (B, K, width) machine encodings, (B, width) pool, (B, K) float mask of machines that can be asked; K is the
            number of machines up to the last that exists anywhere in the batch, so padding costs nothing.
        """
        machines = (observation.shape[1] - N_FLEET) // N_MACHINE
        body = observation[:, : machines * N_MACHINE].view(-1, machines, N_MACHINE)
        fleet = observation[:, machines * N_MACHINE :]
        there = body[:, :, EXISTS] > 0.5
        used = max(1, int(there.any(dim=0).sum()))
        body, there = body[:, :used], there[:, :used]
        joint = torch.cat([body, fleet[:, None, :].expand(-1, used, -1)], dim=2)
        encoded = self.machine(joint)
        weight = there.to(encoded.dtype)[:, :, None]
        mean = (encoded * weight).sum(dim=1) / weight.sum(dim=1).clamp_min(1.0)
        # tanh encodings lie above -1, so -1 is neutral for the maximum.
        top = torch.where(there[:, :, None], encoded, -torch.ones_like(encoded)).amax(dim=1)
        pooled = self.pool(torch.cat([mean, top, fleet], dim=1))
        askable = there & (body[:, :, AVAILABLE] > 0.5)
        return encoded, pooled, askable.to(encoded.dtype)


class ActorNetwork(nn.Module):
    """Mean action of a Gaussian policy: one share per machine, one sync level for the fleet.

    Args:
        width: of all hidden layers.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.encoder = FleetEncoder(width)
        last, self.level = nn.Linear(width, 1), nn.Linear(width, 1)
        self.share = nn.Sequential(nn.Linear(2 * width, width), nn.Tanh(), last)
        for layer in (last, self.level):
            nn.init.orthogonal_(layer.weight, 0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Means and the mask of entries that matter.

        Args:
            observation: (B, size).

        Returns:
            (B, K_max + 1) means, -1 (rest) for machines that cannot be asked; (B, K_max + 1) mask, 1 where it matters.
        """
        encoded, pooled, askable = self.encoder(observation)
        machines = (observation.shape[1] - N_FLEET) // N_MACHINE
        joint = torch.cat([encoded, pooled[:, None, :].expand(-1, encoded.shape[1], -1)], dim=2)
        share = self.share(joint)[:, :, 0]
        share = torch.where(askable > 0.5, share, -torch.ones_like(share))
        rest = machines - share.shape[1]
        share = nn.functional.pad(share, (0, rest), value=-1.0)
        mask = nn.functional.pad(askable, (0, rest))
        level = self.level(pooled)
        return torch.cat([share, level], dim=1), torch.cat([mask, torch.ones_like(level)], dim=1)


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


class ValueNetwork(nn.Module):
    """State value for PPO's critic; not part of a frozen policy.

    Args:
        width: of all hidden layers.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.encoder = FleetEncoder(width)
        self.head = nn.Linear(width, 1)

    def forward(self, observation: Tensor) -> Tensor:
        """(B, size) observations to (B, 1) values."""
        return self.head(self.encoder(observation)[1])
