"""Worker processes that hold every machine's samples and train whatever task they are given next."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from fedcore.engines.arena import Arena, from_band, in_band, pack
from fedcore.local import LocalRecipe, LocalResult, LocalTask
from fedcore.parallel import single_threaded, worker_environment
from fedcore.samples import Samples

RESULT_SPARE = 4
"""A result may be this many times as large as the round's weights before its tensors go through the pipe instead."""


def _work(connection: Connection, train_task: Callable[..., LocalResult]) -> None:
    single_threaded()
    samples, recipe = from_band(connection.recv())
    down: Arena | None = None
    up: Arena | None = None
    round_: tuple[Any, ...] = ()
    while True:
        try:
            kind, content = connection.recv()
        except EOFError:  # the parent is gone
            return
        if kind == "arenas":
            round_ = ()
            for arena in (down, up):
                if arena is not None:
                    arena.close()
            down, up = (Arena(size, name) for name, size in content)
        elif kind == "round":
            assert down is not None
            round_ = ()  # lets the last round's views go
            round_ = down.read(content, copy=False)
        else:
            assert up is not None
            try:
                task: LocalTask = from_band(content)
                connection.send(("result", up.write(train_task(*round_, task, samples[task.machine], recipe))))
            except Exception:
                connection.send(("error", traceback.format_exc()))


class Workers:
    """A fixed set of single-threaded processes.

    Weights travel through shared memory: the round's go out once for all, a result is copied out before its worker gets
    the next task.

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
        self._connections: list[Connection] = []
        self._processes = []
        self._down: Arena | None = None
        self._up: list[Arena] = []
        with worker_environment():
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, train_task), daemon=True)
                process.start()
                theirs.close()
                self._connections.append(ours)
                self._processes.append(process)
        packed = in_band((samples, recipe))
        for connection in self._connections:
            connection.send(packed)

    def _make_room(self, message: Any) -> None:
        """Arenas in which this round's message and its results fit."""
        _, buffers = pack(message)
        size = max(1 << 16, sum(buffer.raw().nbytes + 64 for buffer in buffers))
        if self._down is not None and size <= self._down.size:
            return
        self._free()
        try:
            self._down = Arena(size)
            self._up = [Arena(RESULT_SPARE * size) for _ in self._connections]
        except OSError:  # little shared memory: tensors travel through the pipes
            self._free()
            self._down, self._up = Arena(1 << 12), [Arena(1 << 12) for _ in self._connections]
        for connection, up in zip(self._connections, self._up, strict=True):
            connection.send(("arenas", ((self._down.name, self._down.size), (up.name, up.size))))

    def _free(self) -> None:
        for arena in ([] if self._down is None else [self._down]) + self._up:
            arena.close()
        self._down, self._up = None, []

    def train(self, method: Any, model: Any, state: Any, target: Any, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """Results in the order of the tasks; whoever is free takes the next task.

        Raises:
            RuntimeError: a task failed in its process; the message carries its traceback.
        """
        round_ = (method, model, state, target)
        self._make_room(round_)
        assert self._down is not None
        packed = self._down.write(round_)
        results: list[LocalResult | None] = [None] * len(tasks)
        waiting = list(range(len(tasks)))[::-1]
        busy: dict[int, int] = {}
        number = {id(connection): i for i, connection in enumerate(self._connections)}
        for i, connection in enumerate(self._connections[: len(tasks)]):
            connection.send(("round", packed))
            busy[i] = waiting.pop()
            connection.send(("task", in_band(tasks[busy[i]])))
        failure = ""
        while busy:
            for ready in wait([self._connections[i] for i in busy]):
                i = number[id(ready)]
                try:
                    kind, content = self._connections[i].recv()
                except EOFError:
                    kind, content = "error", "a worker process died (out of memory?)"
                index = busy.pop(i)
                if kind == "error":
                    failure, waiting = content, []
                    continue
                results[index] = self._up[i].read(content, copy=True)
                if waiting:
                    busy[i] = waiting.pop()
                    self._connections[i].send(("task", in_band(tasks[busy[i]])))
        if failure:
            raise RuntimeError(f"local training failed in a worker process:\n{failure}")
        return [result for result in results if result is not None]

    def close(self) -> None:
        """End the processes and let their memory go."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.terminate()
            process.join()
        self._free()
