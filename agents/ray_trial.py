"""A run whose machines are Ray actors: on this machine's cores, or on the cluster that RAY_ADDRESS names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from agents.real_run import RESULT, Job, own_samples, result_of, run_job
from fedcore.engines.ray import RayTransport
from scenarios import parse

ADDRESS = "RAY_ADDRESS"


def play_over_ray(job: Job, on_event: Callable[[dict[str, Any]], None] = lambda event: None) -> dict[str, Any]:
    """Play a job with an actor per machine, each on a core of its own, or on its part of them where there are fewer.

    Args:
        job: what to run; one that was interrupted goes on from its checkpoint, one that has ended is read.
        on_event: told every event of `real_run.Events`.

    Returns:
        What `real_run` wrote as its result.

    Raises:
        InputError: Ray is not installed or has no room for the actors.
    """
    folder = Path(job.folder)
    if not (folder / RESULT).is_file():
        names = parse(job.scenario, "scenario").fleet.machine_names
        cores = 1.0 if ADDRESS in os.environ else min(1.0, (os.cpu_count() or 1) / len(names))
        run_job(job, RayTransport(names, own_samples(job), cores), lambda line: None, on_event)
    return result_of(folder)
