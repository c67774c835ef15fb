"""Worker processes that hold every machine's samples and train whatever task they are given next."""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from fedcore.engines.arena import Arena, from_band, in_band, pack
from fedcore.local import LocalRecipe, LocalResult, LocalTask
from fedcore.parallel import single_threaded, worker_environment
from fedcore.samples import Samples
from scenarios.errors import InputError

DEPTH = 2
"""Tasks that a worker is given ahead, each with an arena of its own for the result, so that it never waits for the parent."""
RESULT_SPARE = 4
"""A result may be this many times as large as the round's weights before its tensors go through the pipe instead."""


def _work(connection: Connection, train_task: Callable[..., LocalResult]) -> None:
    single_threaded()
    samples, recipe = from_band(connection.recv())
    down: Arena | None = None
    up: list[Arena] = []
    round_: tuple[Any, ...] = ()
    done = 0
    while True:
        try:
            kind, content = connection.recv()
        except EOFError:
            # The parent is gone, and with it the arenas: leaving at once spares Python the attempt to close them.
            os._exit(0)
        if kind == "arenas":
            round_ = ()
            for arena in up if down is None else [down, *up]:
                arena.close()
            (size, name), *rest = content
            down, up, done = Arena(size, name), [Arena(*each) for each in rest], 0
        elif kind == "round":
            assert down is not None
            round_ = ()  # lets the last round's views go
            round_ = down.read(content, copy=False)
        else:
            try:
                task: LocalTask = from_band(content)
                result = train_task(*round_, task, samples[task.machine], recipe)
                connection.send(("result", up[done % DEPTH].write(result)))
            except InputError as error:
                connection.send(("refused", str(error)))
            except Exception:
                connection.send(("error", traceback.format_exc()))
            done += 1


class Workers:
    """A fixed set of single-threaded processes.

    Weights travel through shared memory: the round's go out once for all, and a result is copied out before its worker
    writes to the same place again.

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
        self._up: list[list[Arena]] = []
        self._read = [0] * count
        self._ahead = DEPTH
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
        self._ahead = DEPTH
        try:
            self._down = Arena(size)
            self._up = [[Arena(RESULT_SPARE * size) for _ in range(DEPTH)] for _ in self._connections]
        except OSError:  # little shared memory: tensors travel through the pipes
            self._free()
            # A worker whose result fills the pipe does not read: a second task behind it would block both sides.
            self._ahead = 1
            self._down = Arena(1 << 12)
            self._up = [[Arena(1 << 12) for _ in range(DEPTH)] for _ in self._connections]
        self._read = [0] * len(self._connections)
        for connection, up in zip(self._connections, self._up, strict=True):
            connection.send(("arenas", [(arena.size, arena.name) for arena in (self._down, *up)]))

    def _free(self) -> None:
        for arena in ([] if self._down is None else [self._down]) + [arena for up in self._up for arena in up]:
            arena.close()
        self._down, self._up = None, []

    def train(self, method: Any, model: Any, state: Any, target: Any, tasks: Sequence[LocalTask]) -> list[LocalResult]:
        """Results in the order of the tasks; whoever is free takes the next task.

        Raises:
            InputError: a task was refused in its process, as it would have been in this one.
            RuntimeError: a task failed in its process; the message carries its traceback.
        """
        round_ = (method, model, state, target)
        self._make_room(round_)
        assert self._down is not None
        packed = self._down.write(round_)
        results: list[LocalResult | None] = [None] * len(tasks)
        waiting = deque(range(len(tasks)))
        given: list[deque[int]] = [deque() for _ in self._connections]

        def give(worker: int) -> None:
            given[worker].append(waiting.popleft())
            self._connections[worker].send(("task", in_band(tasks[given[worker][-1]])))

        for connection in self._connections[: len(tasks)]:
            connection.send(("round", packed))
        for _ in range(self._ahead):
            for worker in range(len(self._connections[: len(tasks)])):
                if waiting:
                    give(worker)
        failure, refusal = "", ""
        while any(given):
            ready = wait([connection for connection, queue in zip(self._connections, given, strict=True) if queue])
            for worker, connection in enumerate(self._connections):
                if connection not in ready:
                    continue
                try:
                    kind, content = connection.recv()
                except EOFError:
                    kind, content = "error", "a worker process died (out of memory?)"
                    given[worker] = deque([given[worker][0]])
                index = given[worker].popleft()
                if kind == "error":
                    failure = content
                    waiting.clear()
                elif kind == "refused":
                    refusal = content
                    waiting.clear()
                else:
                    results[index] = self._up[worker][self._read[worker] % DEPTH].read(content, copy=True)
                self._read[worker] += 1
                if waiting:
                    give(worker)
        if failure:
            raise RuntimeError(f"local training failed in a worker process:\n{failure}")
        if refusal:
            raise InputError(refusal)
        return [result for result in results if result is not None]

    def close(self) -> None:
        """End the processes and let their memory go."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.terminate()
            process.join()
        self._free()
