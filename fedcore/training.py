"""The round loop: a decision becomes blocks, blocks are trained, what comes back is merged, progress is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.blocks import Block, whole_block
from fedcore.engines import Engine
from fedcore.local import LocalResult, LocalTask
from fedcore.merge import MOST_MOVED, Update, refusal
from fedcore.methods import IntraLayer, Method, Server
from fedcore.model import Model
from fedcore.neurons import Layer, NeuronMap, Parameter, State
from fedcore.probes import effective_rank, extract_features, feature_std
from fedcore.robust import MERGES, check_rule, unprotected
from fedcore.samples import Samples
from scenarios.errors import InputError

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
        lost: one sentence per machine whose block never came back.
        came_back: per machine, whether its block came back and was merged.
        unprotected: one sentence where so few blocks came back that the robust merge rule left out nobody of those who hold
            a neuron; "" otherwise.
        blocks: what each machine held, None where it sat out.
        feature_std: spread of the features, 1 isotropic, 0 collapsed.
        effective_rank: of the features.
        collapsed: whether the encoder no longer tells images apart.
    """

    progress: float
    infonce: float
    losses: NDArray[np.float64]
    refused: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    came_back: tuple[bool, ...] = ()
    unprotected: str = ""
    blocks: tuple[Block | None, ...] = field(default=(), repr=False)
    feature_std: float = float("nan")
    effective_rank: float = float("nan")
    collapsed: bool = False


class FederatedTraining:
    """Real federated training of one encoder; every draw follows from the seed and the round's number.

    Args:
        model: encoder and objective.
        engine: carries tasks to machines and back.
        machine_names: of the machines, for messages.
        probe: the progress signal: (model, state) -> a loss.
        scale: InfoNCE to progress; None takes `untrained` from this run's start and puts the target at 0.
        method: what is sent, how machines train, how it is merged; None is intra-layer with its defaults.
        seed: of the initial weights and everything after.
        guard_images: (N, H, W, C) uint8 images for the collapse guard.
        auxiliary: unlabelled samples of the server's own, for methods that train on it (LW-FedSSL's calibration).

    Raises:
        InputError: the method cannot train this model with the engine's recipe, its robust merge rule leaves out nobody in so
            small a fleet, or the target is no improvement.
    """

    def __init__(
        self,
        model: Model,
        engine: Engine,
        machine_names: Sequence[str],
        probe: Callable[[Model, State], float],
        scale: ProgressScale | None,
        *,
        method: Method | None = None,
        seed: int = 0,
        guard_images: NDArray[np.uint8] | None = None,
        auxiliary: Samples | None = None,
    ) -> None:
        self.method: Method = IntraLayer() if method is None else method
        self.method.check(model, engine.recipe)
        check_rule(self.method.merge_rule, len(machine_names))
        self.engine, self.probe, self.seed = engine, probe, seed
        self.guard_images = guard_images
        state = model.init_state(torch.Generator().manual_seed(seed))
        names = tuple(machine_names)
        samples = tuple(len(s) for s in engine.samples)
        kept: list[dict[str, State]] = [{} for _ in names]
        self.server = Server(
            model, state, model.target_of(state), names, samples, seed, kept=kept, recipe=engine.recipe, auxiliary=auxiliary,
            secret=getattr(engine, "secret", None),  # of real machines only
        )  # fmt: skip
        self.method.start(self.server)
        self.untrained = probe(model, state)
        if scale is not None and not scale.target < self.untrained:
            raise InputError(
                f"the target of progress is {scale.target:.4g} and the untrained model is at {self.untrained:.4g}; expected a "
                "lower target: a calibration (workload.calibration) holds for its own data, encoder and objective"
            )
        # Every run starts at exactly 0: initial weights differ from seed to seed.
        self.scale = ProgressScale(self.untrained, 0.0 if scale is None else scale.target)

    @property
    def model(self) -> Model:
        """What is trained now; layer-wise methods let it grow."""
        return self.server.model

    @property
    def state(self) -> State:
        """Global weights."""
        return self.server.state

    @property
    def target(self) -> State | None:
        """The server's momentum target."""
        return self.server.target

    @property
    def machine_names(self) -> tuple[str, ...]:
        """Of the machines."""
        return self.server.machine_names

    @property
    def round_index(self) -> int:
        """Rounds played."""
        return self.server.round_index

    def plan(self, shares: Sequence[float]) -> list[Block | None]:
        """The blocks that the next round will send out for these shares; `play` draws the same ones.

        Raises:
            InputError: a robust merge rule would leave out nobody where these blocks overlap too little, even if all came back.
        """
        self.method.begin_round(self.server)
        rng = np.random.default_rng([self.seed, 1, self.round_index])
        blocks = self.method.blocks(self.server, shares, rng)
        if problem := self._unprotected([block for block in blocks if block is not None]):
            raise InputError(problem)
        return blocks

    def play(self, shares: Sequence[float], steps: int, survives: Sequence[bool] | None = None) -> RoundReport:
        """Play one round.

        Args:
            shares: per machine, in [0, 1].
            steps: H.
            survives: per machine, whether its block comes back; lost blocks are not trained at all, since nobody
                would ever see the result. None: all come back.

        Returns:
            The report; the global weights have moved.

        Raises:
            InputError: see `plan`. Blocks that are lost raise nothing: the report has a word of it.
        """
        server, method = self.server, self.method
        blocks = self.plan(shares)
        tasks = [
            method.task(server, k, block, steps)
            for k, block in enumerate(blocks)
            if block is not None and (survives is None or survives[k])
        ]
        results = method.run(server, self.engine, tasks)
        losses = np.full(len(blocks), np.nan)
        accepted: list[tuple[LocalTask, LocalResult, Update]] = []
        refused, lost = [], []
        came_back = [False] * len(blocks)
        for task, result in zip(tasks, results, strict=True):
            if result.lost:
                lost.append(f"machine {self.machine_names[task.machine]}: {result.lost}")
                continue
            losses[task.machine] = result.loss
            weight = float(result.samples * result.steps)
            update = Update(self.machine_names[task.machine], task.block, result.trained, weight)
            problem = refusal(update, server.state if task.start is None else task.start, server.model.neuron_map)
            problem = problem or self._bad_statistic(update.machine, result)
            if problem is None:
                came_back[task.machine] = True
                accepted.append((task, result, update))
            else:
                refused.append(problem)
        thin = self._unprotected([update.block for _, _, update in accepted])
        if accepted:
            tasks_, results_, updates = ([row[i] for row in accepted] for i in range(3))
            method.merge(server, tasks_, results_, updates)  # type: ignore[arg-type]
            self._merge_statistics(results_, updates)  # type: ignore[arg-type]
            method.after_merge(server, steps)
            server.steps_done += steps
        server.round_index += 1
        infonce = self.probe(server.model, server.state)
        spread, rank = float("nan"), float("nan")
        if self.guard_images is not None:
            features = extract_features(server.model, server.state, self.guard_images)
            spread, rank = feature_std(features), effective_rank(features)
        return RoundReport(
            progress=self.scale.progress(infonce),
            infonce=infonce,
            losses=losses,
            refused=tuple(refused),
            lost=tuple(lost),
            came_back=tuple(came_back),
            unprotected=thin,
            blocks=tuple(blocks),
            feature_std=spread,
            effective_rank=rank,
            collapsed=rank < COLLAPSE_RANK,
        )

    def _unprotected(self, blocks: Sequence[Block]) -> str:
        return unprotected(self.method.merge_rule, self.model.neuron_map, blocks)

    def _bad_statistic(self, machine: str, result: LocalResult) -> str | None:
        """As `refusal`, for vectors that are no weights and whose entries are of the order of 1."""
        for name, length in self.model.objective.statistics.items():
            value = result.statistics.get(name)
            if value is None or value.shape != (length,) or not torch.isfinite(value).all():
                return f"machine {machine}: statistic {name} is not a vector of {length} finite numbers"
            old = self.server.state[name].double()
            moved, size = (float(torch.linalg.vector_norm(v)) for v in (value.double() - old, old))
            if moved > MOST_MOVED * (size + length**0.5):
                return f"machine {machine}: statistic {name} moved by {moved:.3g}, which is absurd beside its norm {size:.3g}"
        return None

    def _merge_statistics(self, results: Sequence[LocalResult], updates: Sequence[Update]) -> None:
        """By the method's merge rule: every machine saw all of a statistic, as of a layer that it trains whole."""
        state, sizes = self.server.state, self.server.model.objective.statistics
        if not sizes:
            return
        layers = tuple(Layer(name, size) for name, size in sizes.items())
        vectors = NeuronMap(layers, tuple(Parameter(name, (size,), name) for name, size in sizes.items()))
        whole = whole_block(vectors)
        told = [replace(u, block=whole, trained=r.statistics) for r, u in zip(results, updates, strict=True)]
        state |= MERGES[self.method.merge_rule](state, vectors, told, 1.0)
