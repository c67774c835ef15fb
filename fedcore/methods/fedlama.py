"""FedLAMA (Lee et al. 2023): layers whose copies stay close to each other are synchronised less often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from fedcore.blocks import Block
from fedcore.costs import BYTES_PER_WEIGHT, cost_of_block
from fedcore.local import LocalRecipe, LocalResult, LocalTask
from fedcore.merge import Update
from fedcore.methods.base import RoundCost, Server
from fedcore.methods.fedavg import FedAvg
from fedcore.neurons import NeuronMap
from scenarios.errors import InputError


@dataclass(frozen=True)
class Unit:
    """What synchronises together.

    Attributes:
        rows: parameter name -> sorted int64 indices of its rows that belong to the unit.
        measured: names of those parameters on which the discrepancy is measured.
    """

    rows: dict[str, Tensor]
    measured: tuple[str, ...]


def less_critical(discrepancies: Sequence[float], sizes: Sequence[int]) -> list[bool]:
    """Which units may synchronise less often (FedLAMA, algorithm 2).

    Units are taken in ascending order of their discrepancy per weight while what they would save, the part
    lambda of all weights, is worth more than what they would leave apart, the part delta of the whole discrepancy: up
    to and with the first unit at which 1 - lambda < delta.

    Args:
        discrepancies: d of every unit, per weight and local step.
        sizes: dim, weights of every unit.

    Returns:
        One flag per unit.
    """
    chosen = [False] * len(sizes)
    all_apart = sum(d * n for d, n in zip(discrepancies, sizes, strict=True))
    apart, weights = 0.0, 0
    for i in sorted(range(len(sizes)), key=lambda i: discrepancies[i]):
        chosen[i] = True
        apart, weights = apart + discrepancies[i] * sizes[i], weights + sizes[i]
        # Copies that agree everywhere leave nothing apart, however many of them rest.
        if all_apart > 0 and 1.0 - weights / sum(sizes) < apart / all_apart:
            break
    return chosen


@dataclass(frozen=True)
class FedLAMA(FedAvg):
    """Every unit l (a weight tensor with the vectors declared behind it) has an interval m_l in {1, phi} of rounds.

    In round r it synchronises where m_l divides r + 1; otherwise every machine goes on from its own values of it. Whenever
    a unit synchronises, d_l = mean_k ||u_l - x_l^k||^2 / (steps since it last did * dim_l) is measured, u_l being the
    merged value; whenever all do, `less_critical` chooses anew whose interval is phi. With phi = 1 it is FedAvg, bit for bit.

    What the server evaluates is what it knows: the last merged value of every unit. All of them are fresh in every
    phi-th round. A unit that synchronises takes all machines along, those that sat the round out at their next download;
    what such a machine had learned of it since is lost, as with the paper's clients, which are drawn anew only then.
    A momentum target moves with its unit, by the momenta of all steps since, so that it costs bytes no more often.

    Attributes:
        phi: rounds between synchronisations of a less critical unit.
        adapt_every: intervals are chosen anew every phi * adapt_every rounds.
        warmup: rounds before the first choice, in which everything synchronises.
    """

    name = "fedlama"

    phi: int = 2
    adapt_every: int = 1
    warmup: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, least in (("phi", 1), ("adapt_every", 1), ("warmup", 0)):
            if getattr(self, field) < least:
                raise InputError(f"{self.name}: {field} is {getattr(self, field)}, expected at least {least}")

    def units(self, neuron_map: NeuronMap) -> list[Unit]:
        """What synchronises together, in the model's order; every row of every parameter belongs to exactly one unit."""
        units: list[Unit] = []
        for p in neuron_map.parameters:
            rows = torch.arange(p.shape[0])
            if len(p.shape) > 1 or not units:
                units.append(Unit({p.name: rows}, (p.name,)))
            else:
                units[-1].rows[p.name] = rows
        return units

    def start(self, server: Server) -> None:
        """See `Method.start`."""
        units = self.units(server.model.neuron_map)
        server.memory["units"] = units
        server.memory["interval"] = [1] * len(units)
        server.memory["steps_since"] = [0] * len(units)
        server.memory["discrepancy"] = [0.0] * len(units)

    def due(self, server: Server) -> list[bool]:
        """Which units synchronise at the end of this round."""
        return [(server.round_index + 1) % interval == 0 for interval in server.memory["interval"]]

    def task(self, server: Server, machine: int, block: Block, steps: int) -> LocalTask:
        """See `Method.task`: the machine starts from its own values of what has not synchronised since it trained."""
        task = super().task(server, machine, block, steps)
        local, rows = (server.kept[machine].get(name) for name in ("local", "rows"))
        if not local:
            return task
        assert rows is not None
        start = server.state | {name: server.state[name].index_copy(0, rows[name], own) for name, own in local.items()}
        return replace(task, start=start)

    def cost(self, server: Server, machine: int, block: Block, steps: int, recipe: LocalRecipe) -> RoundCost:
        """See `Method.cost`: up goes what synchronises in this round, down comes what the machine does not hold."""
        batch = recipe.batch_of(server.samples[machine])
        whole = cost_of_block(server.model, block, batch, recipe.optimizer_copies)
        width = {p.name: prod(p.shape[1:]) for p in server.model.neuron_map.parameters}
        statistics = sum(server.model.objective.statistics.values())
        up = sum(
            len(rows) * width[name]
            for unit, due in zip(server.memory["units"], self.due(server), strict=True)
            for name, rows in unit.rows.items()
            if due
        )
        held = sum(
            own.numel() * (2 if name in server.model.target_parameters else 1)
            for name, own in server.kept[machine].get("local", {}).items()
        )
        return RoundCost(
            whole.step_flops,
            BYTES_PER_WEIGHT * (up + statistics),
            whole.download_bytes - BYTES_PER_WEIGHT * held,
            whole.memory_bytes,
            row_flops=whole.row_flops,
        )

    def merge(
        self, server: Server, tasks: Sequence[LocalTask], results: Sequence[LocalResult], updates: Sequence[Update]
    ) -> None:
        """See `Method.merge`."""
        memory, due = server.memory, self.due(server)
        merged = self.merged(server, updates)
        mask = _row_mask(server.model.neuron_map, [unit for unit, d in zip(memory["units"], due, strict=True) if d])
        server.state = server.state | {
            name: value if bool(mask[name].all()) else torch.where(_over(mask[name], value), value, server.state[name])
            for name, value in merged.items()
        }
        memory["steps_since"] = [since + tasks[0].steps for since in memory["steps_since"]]
        for i, unit in enumerate(memory["units"]):
            if due[i]:
                apart = sum(float(_apart(unit, server, result)) for result in results) / len(results)
                memory["discrepancy"][i] = apart / (memory["steps_since"][i] * _size(unit, server))
        trained = {task.machine: result.trained for task, result in zip(tasks, results, strict=True)}
        for machine, kept in enumerate(server.kept):
            _keep(kept, mask, trained.get(machine))

    def after_merge(self, server: Server, steps: int) -> None:
        """See `Method.after_merge`."""
        memory, due = server.memory, self.due(server)
        objective = server.model.objective
        if server.target is not None and objective.target_momentum is not None:
            for since in sorted({memory["steps_since"][i] for i, d in enumerate(due) if d}):
                moving = [unit for i, unit in enumerate(memory["units"]) if due[i] and memory["steps_since"][i] == since]
                mask = _row_mask(server.model.neuron_map, moving)
                keep = objective.momentum_over(server.steps_done + steps - since, since)
                server.target = {
                    name: torch.where(_over(mask[name], value), value.lerp(server.state[name], 1.0 - keep), value)
                    for name, value in server.target.items()
                }
        memory["steps_since"] = [0 if d else since for d, since in zip(due, memory["steps_since"], strict=True)]
        rounds = server.round_index + 1
        if rounds % (self.phi * self.adapt_every) == 0 and rounds > self.warmup:
            sizes = [_size(unit, server) for unit in memory["units"]]
            rest = less_critical(memory["discrepancy"], sizes)
            memory["interval"] = [self.phi if r else 1 for r in rest]


def _row_mask(neuron_map: NeuronMap, units: Sequence[Unit]) -> dict[str, Tensor]:
    """Parameter name -> (rows,) whether the row belongs to one of the units."""
    mask = {p.name: torch.zeros(p.shape[0], dtype=torch.bool) for p in neuron_map.parameters}
    for unit in units:
        for name, rows in unit.rows.items():
            mask[name][rows] = True
    return mask


def _over(mask: Tensor, value: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (value.dim() - 1))


def _size(unit: Unit, server: Server) -> int:
    return sum(server.state[name][unit.rows[name]].numel() for name in unit.measured)


def _apart(unit: Unit, server: Server, result: LocalResult) -> Tensor:
    parts = [(server.state[name] - result.trained[name])[unit.rows[name]] for name in unit.measured]
    return torch.stack([part.double().square().sum() for part in parts]).sum()


def _keep(kept: dict[str, dict[str, Tensor]], synchronised: dict[str, Tensor], trained: dict[str, Tensor] | None) -> None:
    """Leave a machine its own values of the rows that did not synchronise: new ones where it trained, else its old."""
    local, rows = kept.get("local", {}), kept.get("rows", {})
    kept["local"], kept["rows"] = {}, {}
    for name, done in synchronised.items():
        if trained is not None:
            values, index = trained[name], torch.arange(len(done))
        elif name in local:
            values, index = local[name], rows[name]
        else:
            continue
        stays = ~done[index]
        if bool(stays.any()):
            kept["local"][name], kept["rows"][name] = values[stays], index[stays]
