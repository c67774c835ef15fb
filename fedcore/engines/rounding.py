"""Blocks that come back as over a wire of lower precision: rounded, and what is left out is added to the next."""

from __future__ import annotations

from collections.abc import Sequence, Sized

from fedcore.engines.base import Engine
from fedcore.local import LocalRecipe, LocalResult, LocalTask
from fedcore.methods import Method
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.wire import Sent, decode_result, encode_result
from fedcore.wire.task import check_carried
from scenarios.errors import InputError

SENDER = "it"


class RoundingEngine:
    """Trains as another engine does, and hands on what a server would have read of every block.

    Weights are those of `RemoteEngine` at that precision, bit for bit.

    Args:
        engine: that trains.
        precision: of blocks on the way up, a name in `wire.PRECISIONS`.
    """

    def __init__(self, engine: Engine, precision: str) -> None:
        self.engine, self.precision = engine, precision
        self._left: dict[int, State] = {}  # machine -> what rounding has left out, as a node keeps it

    @property
    def recipe(self) -> LocalRecipe:
        """See `Engine.recipe`."""
        return self.engine.recipe

    @property
    def samples(self) -> Sequence[Sized]:
        """See `Engine.samples`."""
        return self.engine.samples

    def train(
        self, method: Method, model: Model, state: State, target: State | None, tasks: Sequence[LocalTask]
    ) -> list[LocalResult]:
        """See `Engine.train`.

        Raises:
            InputError: the method sends more than blocks of the global weights, see `wire.task.check_carried`.
        """
        for task in tasks:
            check_carried(task)
        results = self.engine.train(method, model, state, target, tasks)
        return [self._rounded(method, model, state, target, *pair) for pair in zip(tasks, results, strict=True)]

    def _rounded(
        self, method: Method, model: Model, state: State, target: State | None, task: LocalTask, result: LocalResult
    ) -> LocalResult:
        if result.lost:
            return result
        residual = self._left.setdefault(task.machine, {})
        packet = encode_result(model, Sent(task, state, target, self.precision), result, residual, 0.0)
        extras = method.extras(model, task.block)
        try:
            return decode_result(packet, model, state, task.block, self.precision, SENDER, extras)
        except InputError as error:  # what diverged costs its block, as over a wire
            return LocalResult.nothing(str(error).removeprefix(f"{SENDER}: "))

    def close(self) -> None:
        """See `Engine.close`."""
        self.engine.close()
