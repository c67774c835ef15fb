"""Independent jobs side by side, one single-threaded process per core, each result kept as it comes."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedcore.files import write_text

Job = tuple[Callable[..., Any], tuple[Any, ...]]


def single_threaded() -> None:
    """Set up a worker process: one thread, deaf to Ctrl-C."""
    import signal

    import torch

    # Ctrl-C belongs to the parent, which keeps what is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@contextmanager
def worker_pool(
    workers: int, initializer: Callable[..., None] = single_threaded, initargs: tuple[Any, ...] = ()
) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Fresh single-threaded processes, ended at once when the body raises (Ctrl-C included).

    Args:
        workers: how many.
        initializer: run in each at its start; it should call `single_threaded`.
        initargs: its arguments.
    """
    # Inherited by the workers: one process per core beats threads.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=initializer, initargs=initargs)
    try:
        yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


def run_kept(jobs: Mapping[Path, Job], workers: int, label: str) -> dict[Path, Any]:
    """Run the jobs whose file is not there yet, and read the others; interrupting loses nothing that is finished.

    Args:
        jobs: JSON file -> (module-level function, arguments); results must be JSON values.
        workers: processes.
        label: of the progress bar.

    Returns:
        JSON file -> result, for all jobs.
    """
    from rich.progress import Progress

    missing = [path for path in jobs if not path.is_file()]
    with Progress() as bar:
        task = bar.add_task(label, total=len(jobs), completed=len(jobs) - len(missing))
        if missing:
            with worker_pool(workers) as pool:
                running = {pool.submit(jobs[path][0], *jobs[path][1]): path for path in missing}
                for done in concurrent.futures.as_completed(running):
                    write_text(running[done], json.dumps(done.result()))
                    bar.advance(task)
    return {path: json.loads(path.read_text(encoding="utf-8")) for path in jobs}
