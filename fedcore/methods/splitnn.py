"""SplitNN (Gupta and Raskar 2018; Vepakomma et al. 2018): split learning as a relay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedcore.local import LocalRecipe, LocalResult, LocalTask
from fedcore.merge import Update, refusal
from fedcore.methods.base import Server, Trainer
from fedcore.methods.split import Split
from fedcore.model import Model
from scenarios.errors import InputError


@dataclass(frozen=True)
class SplitNN(Split):
    """Machines train one after the other, in their order; each hands the bottom over to the next, by way of the server,
    and the server's half is one and the same for all.

    What the last one ends with is the new state. Weights that would be refused are not handed over: the next machine
    goes on from those before them. Both optimisers start fresh with every machine. A momentum target follows after the round,
    by as many steps as the relay has made.
    """

    name = "splitnn"
    one_by_one = True

    def check(self, model: Model, recipe: LocalRecipe) -> None:
        """See `Method.check`: a relay has one end state, among which no robust rule finds a liar."""
        super().check(model, recipe)
        if self.merge_rule != "mean":
            raise InputError(
                f"splitnn: merge_rule is {self.merge_rule!r}, which leaves out nobody in a relay, whose end is everyone's "
                "result; choose 'mean', or method splitfed-v1"
            )

    def merge(
        self, server: Server, tasks: Sequence[LocalTask], results: Sequence[LocalResult], updates: Sequence[Update]
    ) -> None:
        """See `Method.merge`."""
        super().merge(server, tasks, results, updates)
        server.memory["relayed"] = len(updates)

    def after_merge(self, server: Server, steps: int) -> None:
        """See `Method.after_merge`: H steps of every machine, one after the other."""
        for _ in range(server.memory["relayed"]):
            super().after_merge(server, steps)

    def run(self, server: Server, engine: Trainer, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """See `Method.run`: what the relay ends with is every machine's result, so that their mean is its last state."""
        held = server.state
        results, sound = [], []
        for task in tasks:
            [result] = engine.train(self, server.model, server.state, server.target, [replace(task, start=held)])
            update = Update(server.machine_names[task.machine], task.block, result.trained, 1.0)
            sound.append(refusal(update, held, server.model.neuron_map) is None)
            if sound[-1]:
                held = held | result.trained | result.statistics
            results.append(result)
        return [
            replace(
                result,
                trained={name: held[name] for name in result.trained},
                statistics={name: held[name] for name in result.statistics},
            )
            if ok
            else result
            for result, ok in zip(results, sound, strict=True)
        ]
