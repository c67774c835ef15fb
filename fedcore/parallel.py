"""Independent jobs side by side, one single-threaded process per core, each result kept as it comes."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from fedcore.files import read_kept, write_text

# Read by OpenMP and the C library when a process starts: one process per core beats threads, and keeping freed memory
# saves a tenth to a quarter of a convolution step.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
    "MALLOC_TOP_PAD_": "268435456",
}

Job = tuple[Callable[..., Any], tuple[Any, ...]]


def single_threaded() -> None:
    """Set up a worker process: one thread, deaf to Ctrl-C, gone when its parent is."""
    import signal

    import torch

    threading.Thread(target=_follow_parent, daemon=True).start()

    # Ctrl-C belongs to the parent, which keeps what is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def _follow_parent() -> None:
    """End this process once its parent has ended, however that happened: a killed parent cannot tell its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Single-threaded arithmetic within the body: sums do not depend on how many cores there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def worker_environment() -> Iterator[None]:
    """Processes that are started within the body inherit `WORKER_ENVIRONMENT`; a user's own settings win."""
    added = {name: value for name, value in WORKER_ENVIRONMENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


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
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context, initializer=initializer, initargs=initargs)
    try:
        # The pool starts processes as jobs come in, so the environment lasts as long as the body.
        with worker_environment():
            yield pool
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


_updates: Any = None


def telling(updates: Any) -> None:
    """As `single_threaded`, for a worker that tells how far it is."""
    global _updates
    single_threaded()
    _updates = updates


def tell(update: Any) -> None:
    """Put an update into the queue that this worker was started with; nowhere, in any other process."""
    if _updates is not None:
        _updates.put(update)


def lately(updates: Any) -> Iterator[Any]:
    """What processes have told since the last look."""
    while True:
        try:
            yield updates.get_nowait()
        except queue.Empty:
            return


class Pool(Protocol):
    """Takes jobs."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> concurrent.futures.Future[Any]:
        """As `concurrent.futures.Executor.submit`."""


def run_kept(
    jobs: Mapping[Path, Job],
    workers: int,
    label: str,
    pool_of: Callable[[int], AbstractContextManager[Pool]] = worker_pool,
) -> dict[Path, Any]:
    """Run the jobs whose file is not there yet or is damaged, and read the others; interrupting loses nothing that is finished.

    Args:
        jobs: JSON file -> (module-level function, arguments); results must be JSON values.
        workers: processes.
        label: of the progress bar.
        pool_of: makes the pool of so many workers that runs them.

    Returns:
        JSON file -> result, for all jobs.
    """
    from rich.progress import Progress

    kept = {path: read_kept(path) for path in jobs}
    missing = [path for path, result in kept.items() if result is None]
    with Progress() as bar:
        task = bar.add_task(label, total=len(jobs), completed=len(jobs) - len(missing))
        if missing:
            with pool_of(workers) as pool:
                running = {pool.submit(jobs[path][0], *jobs[path][1]): path for path in missing}
                for done in concurrent.futures.as_completed(running):
                    text = json.dumps(done.result())
                    write_text(running[done], text)
                    kept[running[done]] = json.loads(text)
                    bar.advance(task)
    return kept
