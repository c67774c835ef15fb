"""A gloo group of processes on this machine: start them, run one function on all, end them whatever happens."""

from __future__ import annotations

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch.distributed as dist

from fedcore.engines.arena import from_band, in_band
from fedcore.engines.collectives import Collectives
from fedcore.parallel import single_threaded, worker_environment


def _run_rank(connection: Connection, store: str, rank: int, ranks: int, timeout_s: float) -> None:
    single_threaded()
    answer: tuple[str, Any]
    try:
        work, arguments = from_band(connection.recv())
        loopback = [name for _, name in socket.if_nameindex() if name.startswith("lo")]
        if loopback:  # otherwise gloo looks the host's name up, which may lead nowhere
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback[0])
        dist.init_process_group(
            "gloo", store=dist.FileStore(store, ranks), rank=rank, world_size=ranks, timeout=timedelta(seconds=timeout_s)
        )
        answer = ("result", in_band(work(Collectives(rank, ranks), *arguments)))
    except Exception:
        answer = ("error", traceback.format_exc())
    try:
        connection.send(answer)
        # Stay until the parent has heard everyone: a rank that leaves makes the others fail, and hides the first cause.
        connection.recv()
    except (EOFError, OSError):
        pass
    if dist.is_initialized():
        dist.destroy_process_group()


def run_ranks(
    work: Callable[..., Any], ranks: int, arguments: tuple[Any, ...] = (), timeout_s: float = 600.0
) -> list[Any]:
    """Run a function on every rank of a fresh single-threaded gloo group.

    Args:
        work: module-level function of (collectives, *arguments).
        ranks: how many processes.
        arguments: the same for all ranks.
        timeout_s: how long a rank waits for another one before it gives up.

    Returns:
        By rank, what it returned.

    Raises:
        RuntimeError: a rank failed or died; the message carries its traceback, and all ranks have been ended.
    """
    context = multiprocessing.get_context("spawn")
    connections: list[Connection] = []
    processes: list[Any] = []
    with TemporaryDirectory(prefix="intrafed-ranks-") as folder:
        try:
            with worker_environment():
                for rank in range(ranks):
                    ours, theirs = context.Pipe()
                    process = context.Process(
                        target=_run_rank, args=(theirs, str(Path(folder, "store")), rank, ranks, timeout_s), daemon=True
                    )
                    process.start()
                    theirs.close()
                    connections.append(ours)
                    processes.append(process)
            return _collect(connections, processes, (work, arguments))
        finally:
            for connection in connections:
                connection.close()
            for process in processes:
                process.join(1.0)
                if process.is_alive():
                    process.kill()
                    process.join()


def _collect(connections: list[Connection], processes: list[Any], job: tuple[Any, ...]) -> list[Any]:
    results: dict[int, Any] = {}
    packed = in_band(job)
    try:
        for connection in connections:
            connection.send(packed)
        while len(results) < len(connections):
            heard = wait([c for rank, c in enumerate(connections) if rank not in results])
            ready = [rank for rank, c in enumerate(connections) if any(c is other for other in heard)]
            # A rank that died hides behind the errors of those that waited for it: it is asked first.
            for rank in sorted(ready, key=lambda rank: processes[rank].exitcode is None):
                kind, content = connections[rank].recv()
                if kind == "error":
                    raise RuntimeError(f"rank {rank} of {len(connections)} failed:\n{content}")
                results[rank] = from_band(content)
    except (EOFError, OSError):
        for process in processes:
            process.join(0.2)
        dead = [f"rank {rank} (exit code {p.exitcode})" for rank, p in enumerate(processes) if p.exitcode is not None]
        raise RuntimeError(f"{', '.join(dead) or 'a rank'} of {len(connections)} died without a word") from None
    except RuntimeError:
        for process in processes:  # the others wait for the one that failed
            process.kill()
        raise
    for connection in connections:
        connection.send("done")
    return [results[rank] for rank in range(len(connections))]
