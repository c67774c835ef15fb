"""A trial of real machines on this one: SuperLink, one node per machine with data of its own, the run, and its progress."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

from agents.flower_server import PROCESS
from agents.real_run import EVENTS, FAILED, RESULT, Job, own_samples, result_of
from fedcore.claim import claimed
from fedcore.flower.hosts import Hosts, Loopback
from fedcore.flower.processes import Processes
from fedcore.flower.superlink import Superlink, submit
from fedcore.remote.data import deal
from scenarios import InputError, parse

SERVER_APP = "agents.flower_server:app"
LOOKS_S = 0.2
"""Between two looks for news of the run."""
SILENT_S = 600.0
"""That a run may take to show its first sign of life."""


def deal_data(job: Job) -> None:
    """Give every machine a folder with its own samples."""
    for name, samples in zip(parse(job.scenario, "scenario").fleet.machine_names, own_samples(job), strict=True):
        deal(Path(job.folder) / name, samples)


def play_trial(
    job: Job,
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    surroundings: AbstractContextManager[Hosts] | None = None,
) -> dict[str, Any]:
    """Play a job over Flower on this machine; every process that it starts is gone when it returns or raises.

    Args:
        job: what to run; one that was interrupted goes on from its checkpoint, one that has ended is
            read.
        on_event: told every event of `real_run.Events`.
        surroundings: of its machines, made when the run begins and removed when it ends; None for the loopback interface.

    Returns:
        What `real_run` wrote as its result.

    Raises:
        InputError: something does not start, or the run ended without a result.
    """
    with claimed(Path(job.folder), "run"):
        return _play(job, on_event, surroundings)


def _play(
    job: Job, on_event: Callable[[dict[str, Any]], None], surroundings: AbstractContextManager[Hosts] | None
) -> dict[str, Any]:
    folder = Path(job.folder)
    if (folder / RESULT).is_file():
        return result_of(folder)
    for stale in (FAILED, PROCESS):
        (folder / stale).unlink(missing_ok=True)
    deal_data(job)
    path = folder / "job.json"
    job.write(path)
    with (
        tempfile.TemporaryDirectory(prefix="intrafed-") as short,
        surroundings or nullcontext(Loopback()) as hosts,
        Processes() as processes,
    ):
        link = Superlink(hosts, processes, folder, Path(short))
        workers = {name: link.start_worker(name, folder / name) for name in parse(job.scenario, "x").fleet.machine_names}
        for name, worker in workers.items():
            link.start_supernode(name, worker)
        news = news_of(folder / EVENTS)
        submit(folder, link.environment, SERVER_APP, path)
        watch(folder, news, on_event, lambda: link.process.poll() is None)
    return result_of(folder)


def news_of(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Events that were added since the last look; those of an interrupted run before this one are passed over."""
    at = path.stat().st_size if path.is_file() else 0
    while True:
        found: list[dict[str, Any]] = []
        if path.is_file():
            with path.open("rb") as file:
                file.seek(at)
                content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            at += len(whole)
            found = [json.loads(line) for line in whole.splitlines()]
        yield found


def watch(
    folder: Path,
    news: Iterator[list[dict[str, Any]]],
    on_event: Callable[[dict[str, Any]], None],
    link_lives: Callable[[], bool],
) -> None:
    """Pass events on until there is a result.

    Raises:
        InputError: the run failed, or its server ended.
    """
    quiet_until = time.monotonic() + SILENT_S
    while True:
        ended = not _lives(folder / PROCESS) or not link_lives()
        for event in next(news):
            on_event(event)
        if (folder / RESULT).is_file():
            return
        if (folder / FAILED).is_file():
            text = (folder / FAILED).read_text(encoding="utf-8").strip()
            if text.startswith("Traceback"):
                raise RuntimeError(f"the run failed on the server:\n{text}")
            raise InputError(text)
        started = (folder / PROCESS).is_file()
        if (started and ended) or (not started and (not link_lives() or time.monotonic() > quiet_until)):
            log = folder / "superlink.log"
            see = f"; see {log}" if log.is_file() else "; the SuperLink's log says more"
            raise InputError(
                f"the run's server has ended without a result{see}: the same command goes on from the last checkpoint"
            )
        time.sleep(LOOKS_S)


def goes_on(folder: Path) -> bool:
    """Whether a run's server is at work in a folder now."""
    return (folder / PROCESS).is_file() and not (folder / RESULT).is_file() and _lives(folder / PROCESS)


def _lives(path: Path) -> bool:
    """Whether the process that wrote its number to a file is there; so it counts until it has."""
    try:
        number = int(path.read_text(encoding="utf-8"))
        with suppress(PermissionError):  # another user's, which is there
            os.kill(number, 0)
        command = Path(f"/proc/{number}/cmdline")
        # After a restart of the machine the number may be another's.
        return not command.is_file() or b"flwr" in command.read_bytes()
    except FileNotFoundError:
        return True
    except ProcessLookupError:
        return False
    return True

