"""From 10 to 10,000 machines: `python benchmarks/scaling.py`. What a round asks of the server, how long it decides and merges.

Bytes are the cost formulas'; merging and deciding are measured, one thread; a round of the fast tier is measured too. Updates
are those of farm-lte's encoder, each machine's with its own block, 64 different ones in turns (so memory is told by formula).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

import envs  # noqa: F401 - registers
from agents.benchmark import orchestrator
from envs.core import Core, SimulatedLearner
from fedcore.allocation import allocate
from fedcore.costs import cost_of_block
from fedcore.merge import Update, merge
from fedcore.slices import trained_slice
from fedcore.workload import model_for
from fedcore.world import compile_world
from scenarios import Scenario, load, parse

DECIDING = ("equal", "makespan", "enough", "proven", "ppo-default")
DISTINCT = 64
LARGEST_COUNT = 64  # of one group


@dataclass(frozen=True)
class Options:
    """What large fleets cost the server.

    Attributes:
        machines: sizes of the fleets whose rounds are looked at.
        deciding: of those whose decisions and simulated rounds are.
        shares: of every machine.
        uplink_gbps: of the server, either way.
        repeats: of every measurement; the median counts.
    """

    machines: tuple[int, ...] = (10, 100, 1000, 10_000)
    deciding: tuple[int, ...] = (10, 100, 1000, 10_000)
    shares: tuple[float, ...] = (1.0, 0.5, 0.1)
    uplink_gbps: float = 1.0
    repeats: int = 3


def fleet(machines: int) -> Scenario:
    """farm-lte's first kind of gateway, so many of them, links of their own."""
    content = load("farm-lte").model_dump(mode="json")
    group = content["fleet"]["groups"][0]
    group["link"]["via"] = []
    parts = [min(LARGEST_COUNT, machines - start) for start in range(0, machines, LARGEST_COUNT)]
    content["fleet"]["groups"] = [group | {"name": f"g{i}", "count": part} for i, part in enumerate(parts)]
    content["fleet"]["links"] = []
    content["name"] = f"scale-{machines}"
    return parse(content, "scale")


def seconds(play: Callable[[], object], repeats: int) -> float:
    """Median of a call's seconds, after one that warms up."""
    play()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        play()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def traffic(machines: int, share: float, uplink_gbps: float, repeats: int) -> tuple[str, ...]:
    """A row: bytes of a round both ways, seconds on the server's link, memory of all updates, seconds to merge."""
    model = model_for(load("farm-lte").workload, 1)
    state = model.init_state(torch.Generator().manual_seed(0))
    neuron_map = model.neuron_map
    blocks = allocate(neuron_map, [share] * DISTINCT, 1.0, "random", 0, np.random.default_rng(0))
    updates = [Update("m", b, trained_slice(state, neuron_map, b), 1.0) for b in blocks if b is not None]
    cost = cost_of_block(model, updates[0].block, 32)
    up, down = machines * cost.upload_bytes, machines * cost.download_bytes
    merging = seconds(lambda: merge(state, neuron_map, list(islice(cycle(updates), machines)), 0.7), repeats)
    wire = 8 * max(up, down) / (uplink_gbps * 1e9)
    moved = f"{up / 1e6:,.1f}", f"{down / 1e6:,.1f}", f"{wire:.2f}"
    return (f"{machines:,}", f"{share:g}", *moved, f"{up / 1e9:.2f}", f"{merging:.3f}")


def deciding(machines: int, repeats: int) -> tuple[str, ...]:
    """A row: seconds to compile a fleet, milliseconds of one decision by kind, and of one round of the fast tier: of everyone,
    and of whom the policy asks."""
    scenario = fleet(machines)
    started = time.perf_counter()
    world = compile_world(scenario, machines)
    compiling = time.perf_counter() - started
    core = Core([world], 1, SimulatedLearner())
    core.reset(np.arange(1), [np.random.default_rng(0)])
    observation = core.observe()[0].copy()
    agents = {name: orchestrator(name, scenario) for name in DECIDING}
    for agent in agents.values():
        agent.begin(scenario)
    cells = [f"{1e3 * seconds(lambda a=agent: a.decide(observation), repeats):.2f}" for agent in agents.values()]
    for name in ("equal", "ppo-default"):
        action = agents[name].decide(observation)[None]
        cells.append(f"{1e3 * seconds(lambda a=action: core.step(a), repeats):.2f}")
    return (f"{machines:,}", f"{compiling:.1f}", *cells)


def main(options: Options) -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    console = Console(width=120)
    table = Table("machines", "share", "up, MB", "down, MB", f"s at {options.uplink_gbps:g} Gbit/s", "held, GB", "merge, s")
    for machines in options.machines:
        for share in options.shares:
            table.add_row(*traffic(machines, share, options.uplink_gbps, options.repeats))
    console.print("One round at the server", table)
    rounds = ("round of everyone, ms", "round of ppo-default, ms")
    table = Table("machines", "compile, s", *(f"{name}, ms" for name in DECIDING), *rounds)
    compile_world(fleet(16), 16)  # what numba compiles is no part of it
    for machines in options.deciding:
        table.add_row(*deciding(machines, options.repeats))
    console.print("One decision", table)


if __name__ == "__main__":
    main(tyro.cli(Options))
