"""The default engine: machines train one after the other in this process, or one process per core side by side.

On a CPU, client by client in single-threaded processes beats every way of stacking clients (the working set stays in
cache). Results do not depend on the number of processes, bit for bit: every draw is seeded by the task, and one thread
does all of a task's arithmetic in either case.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from fedcore.engines.workers import Workers
from fedcore.local import LocalRecipe, LocalResult, LocalTask, seeded
from fedcore.methods import Method
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.parallel import one_thread
from fedcore.samples import Samples


def train_task(
    method: Method,
    model: Model,
    state: State,
    target: State | None,
    task: LocalTask,
    samples: Samples,
    recipe: LocalRecipe,
) -> LocalResult:
    """One machine's round; a function of its arguments alone."""
    return method.train(model, state, target, task, samples, recipe, seeded(task.seed))


class InProcessEngine:
    """Trains tasks.

    Args:
        samples: per machine, its own.
        recipe: how machines train.
        workers: processes, one core each; 1 trains in this process. Close the engine (or use it as a context manager)
            to end them.
    """

    def __init__(self, samples: Sequence[Samples], recipe: LocalRecipe, workers: int = 1) -> None:
        self.samples = samples
        self.recipe = recipe
        self.workers = workers
        self._pool: Workers | None = None

    def train(
        self, method: Method, model: Model, state: State, target: State | None, tasks: Sequence[LocalTask]
    ) -> list[LocalResult]:
        """Results in the order of the tasks."""
        if self.workers > 1 and len(tasks) > 1:
            if self._pool is None:
                self._pool = Workers(self.workers, train_task, self.samples, self.recipe)
            return self._pool.train(method, model, state, target, tasks)
        with one_thread():
            return [
                train_task(method, model, state, target, task, self.samples[task.machine], self.recipe) for task in tasks
            ]

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __enter__(self) -> InProcessEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
