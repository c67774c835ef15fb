"""Precisions on the wire: `python benchmarks/wire.py`. Bytes of real messages beside the accounting, and what rounding costs.

Every machine trains a share of the neurons in the context of the others, through the messages of a real run (`fedcore.wire`)
that are handed over in this process. Bytes are of the last round and one machine, "off by" from what `fedcore.costs` accounts
for at that precision; what protobuf, HTTP and TLS add is not in them.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fedcore.costs import cost_of_block
from fedcore.engines.remote import RemoteEngine
from fedcore.remote.node import Node
from fedcore.remote.transport import Arrival
from fedcore.training import ProgressScale
from fedcore.wire.result import result_bytes
from fedcore.workload import build_training, prepare_data
from fedcore.world import compile_world
from scenarios import Scenario, load

PAIRS = (("fp32", "fp32"), ("bf16", "bf16"), ("int8", "fp32"), ("fp32", "int8"), ("int8", "int8"))
"""Precisions of blocks on the way up and of context on the way down."""


@dataclass(frozen=True)
class Options:
    """What precisions on the wire cost and save.

    Attributes:
        scenarios: whose fleets' data and workloads.
        shares: of every machine.
        rounds: of training.
        seeds: runs of each; progress is their mean.
    """

    scenarios: tuple[str, ...] = ("farm-lte", "phones")
    shares: tuple[float, ...] = (0.25, 0.5)
    rounds: int = 12
    seeds: int = 3


class Direct:
    """A transport to nodes in this process; they answer at once."""

    def __init__(self, nodes: dict[int, Node]) -> None:
        self._nodes, self._answers, self._count = nodes, dict[str, bytes](), itertools.count()

    def nodes(self) -> set[int]:
        """See `Transport`."""
        return set(self._nodes)

    def name_of(self, node: int) -> str | None:
        """See `Transport`."""
        return None

    def send(self, node: int, content: bytes, lifetime_s: float) -> str:
        """See `Transport`."""
        ticket = str(next(self._count))
        self._answers[ticket] = self._nodes[node].answer(content)
        return ticket

    def receive(self, tickets: Collection[str]) -> list[Arrival]:
        """See `Transport`."""
        return [Arrival(ticket, self._answers.pop(ticket)) for ticket in list(tickets) if ticket in self._answers]

    def close(self) -> None:
        """See `Transport`."""


@dataclass(frozen=True)
class Outcome:
    """Of one run.

    Attributes:
        down: bytes to the first machine in the last round.
        up: bytes from it.
        plain_down: what fp32 takes by the cost formulas.
        plain_up: the same.
        accounted_up: what the way up takes at its precision by the cost formulas.
        progress: at the end.
    """

    down: int
    up: int
    plain_down: float
    plain_up: float
    accounted_up: int
    progress: float


def play(scenario: Scenario, share: float, up: str, context: str, rounds: int, seed: int) -> Outcome:
    """One run of everyone at one share and the reference's H."""
    world, names = compile_world(scenario), scenario.fleet.machine_names
    data = prepare_data(scenario, seed=seed)
    nodes = {k: Node(name, lambda workload, k=k: data.samples()[k]) for k, name in enumerate(names)}
    engine = RemoteEngine(Direct(nodes), scenario.workload, names, data.channels, up, context_precision=context)
    engine.gather(60.0)
    scale = ProgressScale(world.calibration.untrained_infonce, world.calibration.target_infonce)
    training = build_training(scenario, data, scale, seed, engine=engine)
    for _ in range(rounds):
        report = training.play([share] * len(names), scenario.reference.sync_interval)
    block = report.blocks[0]
    assert block is not None
    sent, cost = engine.measured[0], cost_of_block(training.model, block, scenario.workload.batch_size)
    accounted = result_bytes(training.model, block, up)
    return Outcome(sent.received_bytes, sent.sent_bytes, cost.download_bytes, cost.upload_bytes, accounted, report.progress)


def main() -> None:
    """Command line."""
    options = tyro.cli(Options)
    title = f"after {options.rounds} rounds, mean of {options.seeds} runs; bytes of one machine in the last round"
    names = ("scenario", "share", "up", "context", "down B", "of fp32", "up B", "of fp32", "off by", "progress", "spread")
    table = Table(*names, title=title)
    cases = list(itertools.product(options.scenarios, options.shares, PAIRS))
    for name, share, (up, context) in track(cases, description="runs"):
        played = [play(load(name), share, up, context, options.rounds, seed) for seed in range(options.seeds)]
        last, progress = played[-1], np.array([each.progress for each in played])
        table.add_row(
            name, f"{share:g}", up, context, f"{last.down:,}", f"{last.down / last.plain_down:.3f}", f"{last.up:,}",
            f"{last.up / last.plain_up:.3f}", f"{last.up / last.accounted_up - 1.0:+.1%}",
            f"{progress.mean():.3f}", f"{np.ptp(progress):.3f}",
        )  # fmt: skip
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
