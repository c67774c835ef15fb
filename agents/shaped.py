"""Makes the machines of a scenario out of this one, for a trial whose seconds mean something: `fedcore.flower.namespaces`.

How fast this machine is changes by the minute where others share its hardware, and a part of a core is slower than that
part, since caches are cold after every pause. So a pacemaker trains beside the trial under a quota of its own, and the
machines' quotas follow what a step costs it.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType

import numpy as np

from fedcore.blocks import whole_block
from fedcore.engines.inprocess import train_task
from fedcore.files import write_text
from fedcore.fleet import columns as c
from fedcore.flower.namespaces import Namespaces, Quota, need_own_links, quotas
from fedcore.local import LocalTask
from fedcore.parallel import single_threaded, worker_environment
from fedcore.workload import build_training, method_of, prepare_data, recipe_of
from fedcore.world import compile_world
from scenarios import InputError, Scenario

PACE = 0.15
"""Part of a core that the pacemaker has."""
STEPS = 3
REMEMBERED = 7
"""Turns of so many steps; their median is what a step costs now."""
LOOKS_S = 1.0
STARTS_S = 180.0


def device_step_s(scenario: Scenario) -> list[float]:
    """Seconds of a local step of the whole model on every machine of a scenario, as it says, on as many samples as the machine
    that holds most trains on: what the pacemaker takes."""
    world = compile_world(scenario)
    flops, _, _, _, row = world.costs[-1] * world.arrays.parameters[: world.arrays.machines, c.OF_BATCH].max()
    return [group.device.step_s(flops, row) for group in scenario.fleet.machines]


def whole_steps(scenario: Scenario, steps: int) -> Callable[[], None]:
    """What makes so many local steps of a scenario's whole model on the samples of the machine that holds most, the same every
    time."""
    data = prepare_data(scenario)
    training, samples = build_training(scenario, data, None, 0), max(data.samples(), key=len)
    model, recipe, method = training.model, recipe_of(scenario.workload), method_of(scenario.workload)
    task = LocalTask(0, whole_block(model.neuron_map), steps, (0,))

    def train() -> None:
        train_task(method, model, training.state, training.target, task, samples, recipe)

    return train


def _keep_pace(scenario: Scenario, joined: Path, told: Path) -> None:
    """Train until whoever reads is gone, and tell processor seconds of a step."""
    single_threaded()
    train = whole_steps(scenario, STEPS)
    seconds: deque[float] = deque(maxlen=REMEMBERED)
    train()  # the first step is slow, and would be slower still under the quota
    joined.write_text("0")
    while told.parent.is_dir():
        began = time.process_time()
        train()
        seconds.append((time.process_time() - began) / STEPS)
        if len(seconds) == REMEMBERED:
            write_text(told, repr(float(np.median(seconds))))


class Paced:
    """Surroundings for one run, as `flower_trial.play_trial` takes them.

    Args:
        scenario: whose machines they are.
        seed: of where recorded links begin.
        say: told in a line what cannot be had here.

    Raises:
        InputError: machines share links; on entering: devices are faster than this machine, or links cannot be made.
    """

    def __init__(self, scenario: Scenario, seed: int, say: Callable[[str], None] = lambda text: None) -> None:
        need_own_links(scenario.fleet)
        self._scenario, self._seed, self._say = scenario, seed, say
        self._stack = ExitStack()

    def __enter__(self) -> Namespaces:
        with ExitStack() as stack:
            told = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="intrafed-"))) / "step"
            quota = stack.enter_context(closing(Quota(f"if{os.getpid()}-pace", PACE)))
            arguments = (self._scenario, quota.processes, told)
            process = multiprocessing.get_context("spawn").Process(target=_keep_pace, args=arguments, daemon=True)
            with worker_environment():
                process.start()
            stack.callback(process.join)
            stack.callback(process.kill)
            device_s, until = device_step_s(self._scenario), time.monotonic() + STARTS_S
            while not told.is_file():
                if not process.is_alive() or time.monotonic() > until:
                    why = f"the pacemaker has not told what a step takes within {STARTS_S:g} s"
                    raise InputError(f"{why}; expected a core that is free for it")
                time.sleep(0.1)
            parts = quotas(device_s, float(told.read_text()), os.cpu_count() or 1)
            hosts = Namespaces(self._scenario.fleet, parts, np.random.default_rng([self._seed, 4]), self._say)
            stack.enter_context(hosts)
            ended = threading.Event()

            def follow() -> None:
                while not ended.wait(LOOKS_S):
                    hosts.limit([min(float(told.read_text()) / step, 1.0) for step in device_s])

            follower = threading.Thread(target=follow, daemon=True)
            follower.start()
            stack.callback(follower.join)
            stack.callback(ended.set)
            self._stack = stack.pop_all()
        return hosts

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stack.close()
