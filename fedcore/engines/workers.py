"""Worker processes that hold every machine's samples and train whatever task they are given next."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch import Tensor

from fedcore.local import LocalRecipe, LocalResult, LocalTask
from fedcore.samples import Samples

# Read by the C library and OpenMP when a process starts. Keeping freed memory saves a quarter of a convolution step.
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
    "MALLOC_TOP_PAD_": "268435456",
}


def _numpy(value: Any) -> Any:
    """Tensors to arrays, all the way down: torch's own pickling would open one file descriptor per tensor."""
    if isinstance(value, Tensor):
        return ("tensor", value.detach().contiguous().numpy())
    if isinstance(value, dict):
        return {k: _numpy(v) for k, v in value.items()}
    return value


def _torch(value: Any) -> Any:
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str) and value[0] == "tensor":
        return torch.from_numpy(value[1])
    if isinstance(value, dict):
        return {k: _torch(v) for k, v in value.items()}
    return value


def _pack_task(task: LocalTask) -> LocalTask:
    block = replace(task.block, trained=_numpy(task.block.trained), context=_numpy(task.block.context))
    return replace(task, block=block, start=_numpy(task.start), target=_numpy(task.target), extra=_numpy(task.extra))


def _unpack_task(task: LocalTask) -> LocalTask:
    block = replace(task.block, trained=_torch(task.block.trained), context=_torch(task.block.context))
    return replace(task, block=block, start=_torch(task.start), target=_torch(task.target), extra=_torch(task.extra))


def _pack_result(result: LocalResult) -> LocalResult:
    return replace(
        result, trained=_numpy(result.trained), statistics=_numpy(result.statistics), extra=_numpy(result.extra)
    )


def _unpack_result(result: LocalResult) -> LocalResult:
    return replace(
        result, trained=_torch(result.trained), statistics=_torch(result.statistics), extra=_torch(result.extra)
    )


def _work(connection: Connection, train_task: Callable[..., LocalResult]) -> None:
    from fedcore.parallel import single_threaded

    single_threaded()
    arrays, recipe = connection.recv()
    samples = [Samples(_torch(x), _torch(labels)) for x, labels in arrays]
    round_: tuple[Any, ...] = ()
    while True:
        try:
            kind, content = connection.recv()
        except EOFError:  # the parent is gone
            return
        if kind == "round":
            method, model, state, target = content
            round_ = (method, model, _torch(state), _torch(target))
            continue
        try:
            task = _unpack_task(content)
            connection.send(("result", _pack_result(train_task(*round_, task, samples[task.machine], recipe))))
        except Exception:
            connection.send(("error", traceback.format_exc()))


class Workers:
    """A fixed set of single-threaded processes.

    Args:
        count: how many.
        train_task: module-level function that trains one task.
        samples: per machine; every process gets all of them, so that any may train any machine.
        recipe: how machines train.
    """

    def __init__(
        self, count: int, train_task: Callable[..., LocalResult], samples: Sequence[Samples], recipe: LocalRecipe
    ) -> None:
        context = multiprocessing.get_context("spawn")
        before = {name: os.environ.get(name) for name in WORKER_ENVIRONMENT}
        os.environ.update(WORKER_ENVIRONMENT)
        self._connections: list[Connection] = []
        self._processes = []
        try:
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, train_task), daemon=True)
                process.start()
                theirs.close()
                self._connections.append(ours)
                self._processes.append(process)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        arrays = [(_numpy(s.x), _numpy(s.labels)) for s in samples]
        for connection in self._connections:
            connection.send((arrays, recipe))

    def train(
        self, method: Any, model: Any, state: Any, target: Any, tasks: Sequence[LocalTask]
    ) -> list[LocalResult]:
        """Results in the order of the tasks; whoever is free takes the next task.

        Raises:
            RuntimeError: a task failed in its process; the message carries its traceback.
        """
        round_ = ("round", (method, model, _numpy(state), _numpy(target)))
        results: list[LocalResult | None] = [None] * len(tasks)
        waiting = list(range(len(tasks)))[::-1]
        busy: dict[Connection, int] = {}
        for connection in self._connections[: len(tasks)]:
            connection.send(round_)
            busy[connection] = waiting.pop()
            connection.send(("task", _pack_task(tasks[busy[connection]])))
        failure = ""
        while busy:
            for ready in wait(list(busy)):
                connection = next(c for c in busy if c is ready)
                try:
                    kind, content = connection.recv()
                except EOFError:
                    kind, content = "error", "a worker process died (out of memory?)"
                index = busy.pop(connection)
                if kind == "error":
                    failure, waiting = content, []
                    continue
                results[index] = _unpack_result(content)
                if waiting:
                    busy[connection] = waiting.pop()
                    connection.send(("task", _pack_task(tasks[busy[connection]])))
        if failure:
            raise RuntimeError(f"local training failed in a worker process:\n{failure}")
        return [result for result in results if result is not None]

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.terminate()
            process.join()
