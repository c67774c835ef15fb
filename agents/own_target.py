"""What progress 1 is on data that no calibration has seen: the reference policy plays there first, from several weights."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from typing import NamedTuple

import numpy as np
from rich.progress import Progress

from agents.judge import Cell, cell_path, cell_scenario
from fedcore.files import cache_folder, read_kept, write_text
from fedcore.parallel import lately, tell, telling, worker_pool
from fedcore.reference import TARGET_ROUNDS, reached_by, reference_curve, target_between
from fedcore.workload import target_holds
from fedcore.world import compile_world
from scenarios import Scenario, parse

RUNS = 4
"""Where a curve crosses progress 1 is where it is nearly flat: of single runs from other weights one may need twice the rounds
of another."""


class OwnTarget(NamedTuple):
    """What progress 1 is on a person's own data, in the order of a cell's fields; None where the calibration says it.

    Attributes:
        infonce: InfoNCE there (of text: held-out loss).
        rounds: after which the reference policy has got there.
    """

    infonce: float | None = None
    rounds: float | None = None


def own_target(scenario: Scenario, data: str | None, say: Callable[[str], None], workers: int = 2) -> OwnTarget:
    """See `OwnTarget` and `measure`.

    Args:
        scenario: where.
        data: path of images that take the place of the scenario's, or None.
        say: told in a line what takes a while.
        workers: processes.
    """
    if target_holds(scenario.workload, data is not None):
        return OwnTarget()
    compile_world(scenario)  # what is wrong with the scenario is told now, not after minutes
    say(f"{data or scenario.workload.data}: measuring what the reference policy reaches on it (progress 1)")
    with Progress() as bar:
        task = bar.add_task(f"rounds of the reference policy, {RUNS} runs", total=RUNS * TARGET_ROUNDS)
        target = measure(scenario, data, workers, lambda rounds: bar.update(task, completed=rounds))
        bar.update(task, completed=RUNS * TARGET_ROUNDS)
    return target


def measure(
    scenario: Scenario, data: str | None = None, workers: int = 2, on_round: Callable[[int], None] = lambda rounds: None
) -> OwnTarget:
    """Progress 1 on data that no calibration has seen, and how long the reference policy takes to it.

    Plays the reference policy (everyone, equal shares) for as many rounds as calibrations do, `RUNS` times, each in a process
    of its own; each is kept in the cache by content as it ends.

    Args:
        scenario: where.
        data: path of images that take the place of the scenario's, or None.
        workers: processes.
        on_round: told how many rounds have been played, of all runs.

    Raises:
        InputError: the data do not load, or are too few for the fleet.
    """
    folder = cache_folder("reference-curves", TARGET_ROUNDS)
    cells = [Cell("reference", cell_scenario(scenario), seed, data) for seed in range(RUNS)]
    curves = {cell.seed: read_kept(cell_path(folder, cell)) for cell in cells}
    todo = [cell for cell in cells if not isinstance(curves[cell.seed], list)]
    played = {cell.seed: TARGET_ROUNDS for cell in cells if cell not in todo}
    if todo:
        updates = multiprocessing.get_context("spawn").Queue()
        with worker_pool(min(workers, len(todo)), telling, (updates,)) as pool:
            jobs = {pool.submit(_curve, cell): cell for cell in todo}
            waiting = set(jobs)
            while waiting:
                done, waiting = wait(waiting, timeout=0.3, return_when=FIRST_COMPLETED)
                played |= dict(lately(updates))
                on_round(sum(played.values()))
                for job in done:
                    curves[jobs[job].seed] = job.result()
                    write_text(cell_path(folder, jobs[job]), json.dumps(job.result()))
    return target_of(list(curves.values()))


def target_of(curves: Sequence[Sequence[float]]) -> OwnTarget:
    """Progress 1 and the rounds to it, of runs of the reference policy.

    Args:
        curves: InfoNCE of the untrained encoder and after each round, of every run.

    Returns:
        The mean of the runs' targets, and the geometric mean of the rounds after which each is there (efficiencies are averaged
        as logarithms); a run that never is, has taken all of its rounds: where nothing is learned, whoever trains is told.
    """
    target = float(np.mean([target_between(curve[0], reached_by(curve[1:])) for curve in curves]))
    rounds = [next((r for r, loss in enumerate(curve) if r and loss <= target), len(curve) - 1) for curve in curves]
    return OwnTarget(target, float(np.exp(np.mean(np.log(rounds)))))


def _curve(cell: Cell) -> list[float]:
    from fedcore.data.loading import load_images
    from fedcore.workload import build_training, prepare_data

    scenario = parse(cell.scenario, "scenario")
    dataset = None if cell.data is None else load_images(cell.data, size_px=scenario.workload.image_px)
    training = build_training(scenario, prepare_data(scenario, dataset), None, cell.seed)
    untrained = training.untrained
    return [untrained, *reference_curve(training, scenario, lambda rounds: tell((cell.seed, rounds)))]
