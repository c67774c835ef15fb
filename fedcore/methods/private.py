"""Differential privacy of whole machines: clipped updates, noise on their sum, and what that spends."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedcore.blocks import places
from fedcore.local import LocalRecipe, LocalResult, LocalTask
from fedcore.merge import Update
from fedcore.methods.base import Server
from fedcore.methods.intralayer import IntraLayer
from fedcore.model import Model
from fedcore.neurons import NeuronMap, State
from fedcore.slices import trained_slice
from scenarios.errors import InputError


def clipped(state: State, neuron_map: NeuronMap, update: Update, clip_norm: float) -> State:
    """An update's change, scaled down to an L2 norm of at most `clip_norm` over all its entries together."""
    start = trained_slice(state, neuron_map, update.block)
    change = {name: update.trained[name].double() - old.double() for name, old in start.items()}
    norm = sum(float(value.square().sum()) for value in change.values()) ** 0.5
    # A little below the bound, so that rounding never leaves it above.
    factor = min(1.0, clip_norm * (1.0 - 1e-12) / norm) if norm > 0.0 else 1.0
    return {name: value * factor for name, value in change.items()}


SECRET = "private_secret"
"""Under which the server remembers what noise is drawn from; checkpoints keep it, as a list of bytes."""


def noise_key(secret: bytes, round_index: int, updates: Sequence[Update]) -> bytes:
    """What a round's noise is drawn from. Whoever does not know the secret cannot foresee it; a round that is played again
    with the same updates has the same noise, and with others one that has nothing to do with it, as the difference of both
    would be without any."""
    digest = hashlib.sha256(secret + round_index.to_bytes(8, "little"))
    for update in updates:
        digest.update(f"{update.machine} {sorted(update.trained)}".encode())
        for name in sorted(update.trained):
            digest.update(update.trained[name].contiguous().numpy().data)
    return digest.digest()


def normal_draws(key: bytes, name: str, shape: Sequence[int]) -> Tensor:
    """Independent N(0, 1) of that shape, float64, that follow from key and name, and from which neither can be had: torch's
    own generator has 32 bits of seed, all of which can be tried out."""
    count = int(np.prod(shape))
    bits = np.frombuffer(hashlib.shake_256(key + name.encode()).digest(8 * count), dtype=np.uint64)
    uniform = ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return torch.special.ndtri(torch.from_numpy(uniform)).reshape(tuple(shape))


def private_merge(
    state: State,
    neuron_map: NeuronMap,
    updates: Sequence[Update],
    server_step: float,
    clip_norm: float,
    noise_multiplier: float,
    key: bytes,
) -> State:
    """Every entry moves by (sum of clipped changes + N(0, (z S)^2)) / number of machines that trained it.

    Which machine is given which neurons is decided before anybody trains, so counts are no secret. Entries that nobody
    trained keep their value.

    Args:
        state: weights before the round; not changed.
        neuron_map: the model.
        updates: accepted ones; their weights do not count, being what a machine says of its own data.
        server_step: how far to go.
        clip_norm: S.
        noise_multiplier: z.
        key: of the noise, as `noise_key`.
    """
    changes = [clipped(state, neuron_map, update, clip_norm) for update in updates]
    merged: State = {}
    for p in neuron_map.parameters:
        old = state[p.name]
        total, count = (torch.zeros(old.shape, dtype=torch.float64) for _ in range(2))
        for update, change in zip(updates, changes, strict=True):
            if len(update.block.trained[p.rows]):
                index = places(p, update.block.trained[p.rows], update.block)
                total[index] += change[p.name]
                count[index] += 1.0
        noise = normal_draws(key, p.name, old.shape)
        moved = (total + noise_multiplier * clip_norm * noise) / count.clamp_min(1.0)
        merged[p.name] = torch.where(count > 0, (old.double() + server_step * moved).to(old.dtype), old)
    return merged


@dataclass(frozen=True)
class Private(IntraLayer):
    """Intra-layer training with central differential privacy for every machine as a whole (DP-FedAvg, McMahan et al. 2018,
    with fixed participation: who takes part is the orchestrator's decision, so nothing is gained from sampling).

    Replacing all that a machine's data contributed by nothing moves the sum of clipped changes by at most S in L2, over all
    layers of its block together; one round is a Gaussian mechanism of multiplier z for every machine in it, and what
    follows from merged weights (momentum target, importance, held-out progress) is post-processing. The server is trusted:
    it sees updates before the noise. Losses and telemetry that machines report are outside the guarantee.

    Attributes:
        clip_norm: S, of a machine's whole change in a round.
        noise_multiplier: z; the noise on the sum has standard deviation z S. 0 only clips, and promises nothing.
        delta: at which `epsilon` is told.
    """

    name = "private"

    clip_norm: float = 2.5
    noise_multiplier: float = 1.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 < self.clip_norm < float("inf"):
            raise InputError(f"clip_norm is {self.clip_norm}, expected a finite number above 0")
        if not 0.0 <= self.noise_multiplier < float("inf"):
            raise InputError(f"noise_multiplier is {self.noise_multiplier}, expected a finite number of at least 0")
        if not 0.0 < self.delta < 1.0:
            raise InputError(f"delta is {self.delta}, expected a number between 0 and 1")
        if self.merge_rule != "mean":
            raise InputError(f"merge_rule is {self.merge_rule!r}, expected 'mean', which is what method private bounds")

    def check(self, model: Model, recipe: LocalRecipe) -> None:
        """See `Method.check`: what would leave the machines without noise is refused."""
        super().check(model, recipe)
        if model.objective.statistics:
            raise InputError(
                f"the objective merges {', '.join(model.objective.statistics)} of the machines without noise, which method "
                "private cannot bound; expected another objective, such as simclr or byol"
            )
        if self._measures:
            raise InputError(
                f"context_rule is {self.context_rule!r}, which sends mean activations without noise; expected random or "
                "random-unscaled with method private"
            )

    def start(self, server: Server) -> None:
        """See `Method.start`; a run that could not say what it spends does not begin."""
        super().start(server)
        spent_epsilon(1, self.noise_multiplier, self.delta)
        server.memory["private_rounds"] = [0] * len(server.machine_names)
        server.memory[SECRET] = list(server.secret or hashlib.sha256(f"simulated {server.seed}".encode()).digest())

    def merge(
        self, server: Server, tasks: Sequence[LocalTask], results: Sequence[LocalResult], updates: Sequence[Update]
    ) -> None:
        """See `Method.merge`."""
        super().merge(server, tasks, results, updates)
        for task in tasks:
            server.memory["private_rounds"][task.machine] += 1

    def epsilon(self, server: Server) -> float:
        """What the machine that took part most often has spent so far, at `delta`."""
        return spent_epsilon(max(server.memory["private_rounds"]), self.noise_multiplier, self.delta)

    def merged(self, server: Server, updates: Sequence[Update]) -> State:
        """See `Method.merged`. Of real machines noise follows from a secret of the server's; of simulated ones from the run's
        seed, so that runs can be repeated, and nothing is guaranteed to anybody who knows it."""
        return private_merge(
            server.state, server.model.neuron_map, updates, self.server_step, self.clip_norm, self.noise_multiplier,
            noise_key(bytes(server.memory[SECRET]), server.round_index, updates),
        )  # fmt: skip


def spent_epsilon(rounds: int, noise_multiplier: float, delta: float) -> float:
    """What so many rounds spend of a machine's privacy: the epsilon of (epsilon, delta).

    Rounds compose to one Gaussian mechanism of multiplier z / sqrt(rounds), whose epsilon is known exactly (Balle and Wang
    2018, theorem 8; computed by Google's dp-accounting).

    Args:
        rounds: that the machine took part in.
        noise_multiplier: z.
        delta: in (0, 1).

    Returns:
        0 without rounds, infinite without noise.

    Raises:
        InputError: dp-accounting is not installed.
    """
    if rounds == 0:
        return 0.0
    if noise_multiplier == 0.0:
        return float("inf")
    try:
        from dp_accounting import get_epsilon_gaussian
    except ImportError:
        raise InputError(
            "workload.privacy needs the package dp-accounting to say what is spent, which is not installed; expected: "
            'pip install "intrafed[privacy]"'
        ) from None
    return float(get_epsilon_gaussian(noise_multiplier / rounds**0.5, delta))
