"""Makes the machines of a scenario out of this one, for a trial whose seconds mean something: `fedcore.flower.namespaces`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from fedcore.blocks import whole_block
from fedcore.engines.inprocess import train_task
from fedcore.flower.namespaces import Namespaces, Quota, quotas
from fedcore.local import LocalTask
from fedcore.parallel import worker_pool
from fedcore.workload import build_training, method_of, prepare_data, recipe_of
from fedcore.world import compile_world
from scenarios import Scenario

STEPS, TURNS = 5, 4
REHEARSED = 0.25
"""Part of a core that steps are rehearsed on."""


def host_step_s(scenario: Scenario) -> float:
    """Processor seconds of a local step of the whole model here, while as many machines as the scenario has share its cores:
    the median of a few turns. Caches are cold after every pause, so a part of a core is slower than that part."""
    machines = len(scenario.fleet.machine_names)
    with ExitStack() as stack:
        rooms = [stack.enter_context(closing(Quota(f"if{os.getpid()}-rehearsal-{k}", REHEARSED))) for k in range(machines)]
        pool = stack.enter_context(worker_pool(machines))
        jobs = [pool.submit(_step_seconds, scenario, room.processes) for room in rooms]
        return float(np.median([job.result() for job in jobs]))


def _step_seconds(scenario: Scenario, joined: Path) -> list[float]:
    data = prepare_data(scenario)
    training, samples = build_training(scenario, data, None, 0), data.samples()[0]
    model, recipe, method = training.model, recipe_of(scenario.workload), method_of(scenario.workload)
    task = LocalTask(0, whole_block(model.neuron_map), STEPS, (0,))
    seconds = []
    for turn in range(TURNS + 1):
        began = time.process_time()
        train_task(method, model, training.state, training.target, task, samples, recipe)
        seconds.append((time.process_time() - began) / STEPS)
        if not turn:
            joined.write_text("0")
    return seconds[1:]  # the first warms up


def device_step_s(scenario: Scenario) -> list[float]:
    """Seconds of such a step on every machine of the scenario, as it says."""
    flops, _, _, _, row = compile_world(scenario).costs[-1]
    devices = [group.device for group in scenario.fleet.machines]
    return [d.step_overhead_s + (flops + d.half_rows * row) / (1e9 * d.throughput_gflops) for d in devices]


def shaped(scenario: Scenario, host_s: float, seed: int, say: Callable[[str], None] = lambda text: None) -> Namespaces:
    """Surroundings for one run.

    Args:
        scenario: whose machines they are.
        host_s: `host_step_s` of it.
        seed: of where recorded links begin.
        say: told in a line what cannot be had here.

    Raises:
        InputError: the scenario's devices are faster than this machine, or its links cannot be made.
    """
    parts = quotas(device_step_s(scenario), host_s, os.cpu_count() or 1)
    return Namespaces(scenario.fleet, parts, np.random.default_rng([seed, 4]), say)
