"""What a federated method is: which blocks go out, how machines train them, how what comes back is merged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import torch

from fedcore.blocks import Block
from fedcore.costs import BlockCost, cost_of_block
from fedcore.local import LocalRecipe, LocalResult, LocalTask, train_block
from fedcore.merge import Update
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.robust import MERGES
from fedcore.samples import Samples
from scenarios.errors import InputError


@dataclass
class Server:
    """What the server knows between rounds.

    Attributes:
        model: encoder and objective; layer-wise methods replace it as they grow.
        state: global weights.
        target: momentum target, or None.
        machine_names: for messages.
        samples: n_k of every machine.
        seed: of everything but what machines must not foresee: tasks tell it to them.
        round_index: rounds played.
        steps_done: local steps (sum of H) so far.
        kept: per machine, what it keeps between rounds by the method's own names; it stays on the machine.
        memory: what the method keeps on the server.
        recipe: how machines train; the server's own training, where a method has any, goes by it too.
        auxiliary: unlabelled samples of the server's own, for methods that train on it; None where it has none.
        secret: of draws that machines must not foresee, random bytes that never leave the server; None where machines are
            simulated, and such draws follow from the seed like all others.
    """

    model: Model
    state: State
    target: State | None
    machine_names: tuple[str, ...]
    samples: tuple[int, ...]
    seed: int
    round_index: int = 0
    steps_done: int = 0
    kept: list[dict[str, State]] = field(default_factory=list)
    memory: dict[str, Any] = field(default_factory=dict)
    recipe: LocalRecipe = field(default_factory=LocalRecipe)
    auxiliary: Samples | None = None
    secret: bytes | None = None


@dataclass(frozen=True)
class RoundCost:
    """What a round asks of one machine.

    Attributes:
        step_flops: of one local step, on the machine.
        upload_bytes: in the whole round.
        download_bytes: in the whole round.
        memory_bytes: peak working memory.
        exchanges: times that the machine waits for an answer of the server within the round (split learning: H).
        server_flops: that the server does for this machine in the whole round.
        row_flops: of one row of every product of a step, as `BlockCost`.
    """

    step_flops: float
    upload_bytes: float
    download_bytes: float
    memory_bytes: float
    exchanges: int = 0
    server_flops: float = 0.0
    row_flops: float = 0.0

    @staticmethod
    def of(cost: BlockCost, extra_up: float = 0.0, extra_down: float = 0.0) -> RoundCost:
        """A block's cost, and what the method sends beside it, in bytes."""
        return RoundCost(
            cost.step_flops, cost.upload_bytes + extra_up, cost.download_bytes + extra_down, cost.memory_bytes,
            row_flops=cost.row_flops,
        )  # fmt: skip


class Trainer(Protocol):
    """What carries tasks to machines: an engine."""

    def train(
        self, method: Method, model: Model, state: State, target: State | None, tasks: Sequence[LocalTask]
    ) -> list[LocalResult]:
        """Results in the order of the tasks."""


@dataclass(frozen=True)
class Method(ABC):
    """A federated method; its fields are its parameters. The base is FedAvg on whatever blocks it is given.

    Attributes:
        server_step: how far the server goes from the old weights to the merged ones; below 1 damps machines that move
            their blocks at once, each taking the others as frozen.
        merge_rule: a name in `robust.MERGES`: "mean", or a robust one.
    """

    name: ClassVar[str]
    one_by_one: ClassVar[bool] = False
    """Whether machines train one after the other within a round (split learning's relay)."""

    server_step: float = 1.0
    merge_rule: str = "mean"

    def __post_init__(self) -> None:
        if not 0.0 < self.server_step < float("inf"):
            raise InputError(f"server_step is {self.server_step}, expected a finite number above 0")
        if self.merge_rule not in MERGES:
            raise InputError(f"merge_rule is {self.merge_rule!r}, expected one of {', '.join(sorted(MERGES))}")

    def check(self, model: Model, recipe: LocalRecipe) -> None:  # noqa: B027  (most methods take anything)
        """Refuse what cannot work, in one sentence that says what to choose instead.

        Raises:
            InputError: this method cannot train this model with this recipe.
        """

    def start(self, server: Server) -> None:  # noqa: B027  (optional)
        """Set up memory before the first round."""

    def begin_round(self, server: Server) -> None:  # noqa: B027  (optional)
        """Called before the blocks of a round are chosen, perhaps more than once per round; layer-wise methods move to
        their next stage here."""

    @abstractmethod
    def blocks(self, server: Server, shares: Sequence[float], rng: np.random.Generator) -> list[Block | None]:
        """What every machine holds this round.

        Args:
            server: global state.
            shares: in [0, 1] per machine, as decided; 0 sits the round out.
            rng: every draw comes from it.
        """

    def task(self, server: Server, machine: int, block: Block, steps: int) -> LocalTask:
        """One machine's work; override to send more than the block."""
        seed = (server.seed, 2, server.round_index, machine)
        return LocalTask(machine, block, steps, seed, steps_before=server.steps_done, round_index=server.round_index)

    def extras(self, model: Model, block: Block) -> dict[str, dict[str, int]]:
        """What `LocalResult.extra` of a block has beside weights, where machines are real: kind -> name -> length of a float32
        vector. Nothing else is taken from them."""
        return {}

    def cost(self, server: Server, machine: int, block: Block, steps: int, recipe: LocalRecipe) -> RoundCost:
        """What the round asks of one machine; one that holds fewer samples than a batch trains on, and pays, only those."""
        batch = recipe.batch_of(server.samples[machine])
        return RoundCost.of(cost_of_block(server.model, block, batch, recipe.optimizer_copies))

    def train(
        self,
        model: Model,
        state: State,
        target: State | None,
        task: LocalTask,
        samples: Samples,
        recipe: LocalRecipe,
        generator: torch.Generator,
    ) -> LocalResult:
        """Local training, on the machine; must depend on nothing but its arguments. As `local.train_block`."""
        return train_block(model, state, target, task, samples, recipe, generator)

    def personal_states(self, server: Server) -> list[State | None]:
        """Models of the machines' own, for probes; empty where the method has none, None where a machine has none yet."""
        return []

    def run(self, server: Server, engine: Trainer, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """Train all tasks; relays override it."""
        return engine.train(self, server.model, server.state, server.target, tasks)

    def merge(
        self, server: Server, tasks: Sequence[LocalTask], results: Sequence[LocalResult], updates: Sequence[Update]
    ) -> None:
        """Move `server.state` by the accepted updates; the three sequences run in parallel and are never empty."""
        server.state = server.state | self.merged(server, updates)

    def merged(self, server: Server, updates: Sequence[Update]) -> State:
        """The merged weights alone, by `merge_rule`; the server is not changed."""
        return MERGES[self.merge_rule](server.state, server.model.neuron_map, updates, self.server_step)

    def after_merge(self, server: Server, steps: int) -> None:
        """The server's momentum target: one exponential step per merged round, by the product of its H momenta."""
        objective = server.model.objective
        if server.target is None or objective.target_momentum is None:
            return
        keep = objective.momentum_over(server.steps_done, steps)
        server.target = {name: value.lerp(server.state[name], 1.0 - keep) for name, value in server.target.items()}
