"""SplitFed (Thapa et al. 2022): split learning whose machines train side by side and average their halves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fedcore.local import LocalRecipe, LocalResult, LocalTask
from fedcore.merge import Update, refusal
from fedcore.methods.base import Server, Trainer
from fedcore.methods.split import Split, train_halves
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.samples import Samples


@dataclass(frozen=True)
class SplitFedV1(Split):
    """The server keeps one copy of its half per machine, and both halves are averaged at the end of the round: FedAvg,
    computed in two places (algorithm 1)."""

    name = "splitfed-v1"


@dataclass(frozen=True)
class SplitFedV2(Split):
    """The server's half is one copy, moved in every step by one machine after the other; the machines' halves are
    averaged at the end of the round (algorithm 2).

    The order is drawn anew every round. Machines work side by side: the server only queues their activations. Its
    optimiser is one over the whole round.
    """

    name = "splitfed-v2"

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
        """See `Method.train`."""
        return train_halves(model, self.cut, state, target, task, samples, recipe, generator, resumable=True)

    def run(self, server: Server, engine: Trainer, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """See `Method.run`: step by step, machine by machine. A machine whose step would be refused stops there, and the
        server goes on from the half before it."""
        model = server.model
        below = {p.name for p in model.encoder.prefix(self.cut).neuron_map.parameters}
        order = np.random.default_rng([server.seed, 3, server.round_index]).permutation(len(tasks))
        held = server.state
        moments: State = {}
        target_top: State = {}
        last: dict[int, LocalResult] = {}
        losses = np.zeros(len(tasks))
        refused: set[int] = set()
        for step in range(max((task.steps for task in tasks), default=0)):
            for i in (int(i) for i in order):
                task = tasks[i]
                if i in refused or step >= task.steps:
                    continue
                start, extra, target = held, {}, task.target
                if i in last:
                    start = held | {name: value for name, value in last[i].trained.items() if name in below}
                    extra = last[i].extra | {"top": moments}
                elif moments:
                    extra = {"top": moments}
                if "target" in extra:
                    target = extra["target"] | target_top
                now = replace(
                    task, steps=1, start=start, target=target, extra=extra, steps_before=task.steps_before + step
                )
                [result] = engine.train(self, model, server.state, server.target, [now])
                last[i] = result
                losses[i] += result.loss / task.steps
                update = Update(server.machine_names[task.machine], task.block, result.trained, 1.0)
                if refusal(update, start, model.neuron_map) is not None:
                    refused.add(i)
                    continue
                held = held | {n: v for n, v in result.trained.items() if n not in below} | result.statistics
                moments = result.extra["top"]
                target_top = {n: v for n, v in result.extra.get("target", {}).items() if n not in below}
        return [
            replace(
                last[i],
                trained={n: v if n in below or i in refused else held[n] for n, v in last[i].trained.items()},
                statistics={n: v if i in refused else held[n] for n, v in last[i].statistics.items()},
                loss=float(losses[i]),
                steps=task.steps,
                extra={"target": last[i].extra["target"] | target_top} if "target" in last[i].extra else {},
            )
            for i, task in enumerate(tasks)
        ]
