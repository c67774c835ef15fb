"""The round loop: a decision becomes blocks, blocks are trained, what comes back is merged, progress is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.allocation import allocate
from fedcore.blocks import Block
from fedcore.engines import InProcessEngine, LocalTask
from fedcore.merge import Update, merge, refusal
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.probes import HeldOutInfoNCE, effective_rank, extract_features, feature_std

COLLAPSE_RANK = 1.5


@dataclass(frozen=True)
class ProgressScale:
    """Held-out InfoNCE to progress: the untrained encoder is 0, the target is 1.

    Attributes:
        untrained: InfoNCE before training.
        target: InfoNCE that counts as done.
    """

    untrained: float
    target: float

    def progress(self, infonce: float) -> float:
        """Progress of a value; above 1 beyond the target, below 0 behind the start."""
        return (self.untrained - infonce) / (self.untrained - self.target)


@dataclass(frozen=True)
class RoundReport:
    """What a round gave, beside what it cost.

    Attributes:
        progress: after the round.
        infonce: after the round.
        losses: per machine, NaN where it did not train.
        refused: one sentence per refused update.
        blocks: what each machine held, None where it sat out.
        feature_std: spread of the features, 1 isotropic, 0 collapsed.
        effective_rank: of the features.
        collapsed: whether the encoder no longer tells images apart.
    """

    progress: float
    infonce: float
    losses: NDArray[np.float64]
    refused: tuple[str, ...] = ()
    blocks: tuple[Block | None, ...] = field(default=(), repr=False)
    feature_std: float = float("nan")
    effective_rank: float = float("nan")
    collapsed: bool = False


class FederatedTraining:
    """Real federated training of one encoder; every draw follows from the seed and the round's number.

    Args:
        model: encoder and objective.
        engine: trains blocks.
        machine_names: of the machines, for messages.
        probe: the progress signal.
        scale: InfoNCE to progress; None takes `untrained` from this run's start and puts the target at 0.
        context: fraction of the other neurons that every machine sees.
        rule: how S is drawn, a name in `allocation.RULES`.
        server_step: see `merge`.
        seed: of the initial weights and everything after.
        guard_images: (N, H, W, C) uint8 images for the collapse guard.
    """

    def __init__(
        self,
        model: Model,
        engine: InProcessEngine,
        machine_names: Sequence[str],
        probe: HeldOutInfoNCE,
        scale: ProgressScale | None,
        *,
        context: float = 1.0,
        rule: str = "random",
        server_step: float = 1.0,
        seed: int = 0,
        guard_images: NDArray[np.uint8] | None = None,
    ) -> None:
        self.model, self.engine, self.probe = model, engine, probe
        self.machine_names = tuple(machine_names)
        self.context, self.rule, self.server_step, self.seed = context, rule, server_step, seed
        self.guard_images = guard_images
        self.round_index = 0
        self.state: State = model.init_state(torch.Generator().manual_seed(seed))
        self.target: State | None = None
        if model.objective.target_momentum is not None:
            self.target = {name: self.state[name].clone() for name in sorted(model.target_parameters)}
        self.untrained = probe(model, self.state)
        # Every run starts at exactly 0: initial weights differ from seed to seed.
        self.scale = ProgressScale(self.untrained, 0.0 if scale is None else scale.target)

    def play(self, shares: Sequence[float], steps: int, survives: Sequence[bool] | None = None) -> RoundReport:
        """Play one round.

        Args:
            shares: per machine, in [0, 1].
            steps: H.
            survives: per machine, whether its block comes back; lost blocks are not trained at all, since nobody
                would ever see the result. None: all come back.

        Returns:
            The report; the global weights have moved.
        """
        r = self.round_index
        rng = np.random.default_rng([self.seed, 1, r])
        blocks = allocate(self.model.neuron_map, shares, self.context, self.rule, r, rng)
        tasks = [
            LocalTask(k, block, steps, (self.seed, 2, r, k))
            for k, block in enumerate(blocks)
            if block is not None and (survives is None or survives[k])
        ]
        results = self.engine.train(self.state, self.target, tasks)
        losses = np.full(len(blocks), np.nan)
        updates, refused = [], []
        for task, result in zip(tasks, results, strict=True):
            losses[task.machine] = result.loss
            weight = float(result.samples * result.steps)
            update = Update(self.machine_names[task.machine], task.block, result.trained, weight)
            problem = refusal(update, self.state, self.model.neuron_map)
            if problem is None:
                updates.append(update)
            else:
                refused.append(problem)
        if updates:
            self.state = merge(self.state, self.model.neuron_map, updates, self.server_step)
            self._move_target(steps)
        self.round_index += 1
        infonce = self.probe(self.model, self.state)
        spread, rank = float("nan"), float("nan")
        if self.guard_images is not None:
            features = extract_features(self.model, self.state, self.guard_images)
            spread, rank = feature_std(features), effective_rank(features)
        return RoundReport(
            progress=self.scale.progress(infonce),
            infonce=infonce,
            losses=losses,
            refused=tuple(refused),
            blocks=tuple(blocks),
            feature_std=spread,
            effective_rank=rank,
            collapsed=rank < COLLAPSE_RANK,
        )

    def _move_target(self, steps: int) -> None:
        """The server's momentum target: one exponential step per merged round, its exponent scaled by H."""
        if self.target is None or self.model.objective.target_momentum is None:
            return
        keep = self.model.objective.target_momentum**steps
        self.target = {name: value.lerp(self.state[name], 1.0 - keep) for name, value in self.target.items()}
