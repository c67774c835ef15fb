"""What the two scripts share: errors as one sentence, progress bars, scenario checks, judging with bars."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agents.judge import Cell, Judgement, judge
from agents.naming import told_apart
from scenarios import InputError
from scenarios.errors import told

console = Console(width=None if sys.stdout.isatty() else 140)


def run(main: Callable[[], None]) -> None:
    """Run a script: bad input prints one sentence and exits with 2, Ctrl-C exits with 130 and says how to go on."""
    with told("interrupted: what is kept of finished work is not done again by the same command"):
        try:
            main()
        except OSError as error:
            # A full disk or an unreadable folder outside our own writers (TensorBoard, caches).
            print(f"error: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
            sys.exit(2)


def progress_bar() -> Progress:
    """A bar with time spent and time left."""
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        refresh_per_second=4,
    )


@contextmanager
def training_bar(algorithm: str, steps: int) -> Iterator[tuple[Callable[[int, float], None], Callable[[str], None]]]:
    """A bar for `recipes.train`: its `on_step` and its `on_note`."""
    with progress_bar() as bar:
        task = bar.add_task(f"training {algorithm}", total=steps, note="")

        def on_step(done: int, score: float) -> None:
            bar.update(task, completed=done, note=f"ln efficiency {score:+.2f}")

        yield on_step, lambda note: bar.update(task, note=note)
        bar.update(task, completed=steps)


MANY_CELLS = 12
"""From so many on a bar shows those that run, and one bar all: drawing a hundred of them takes a third of a core."""


def judge_with_bars(
    cells: Sequence[Cell], labels: Sequence[str], folder: Path, workers: int, encoders: bool = False
) -> list[Judgement]:
    """`judge`, with a bar per cell, and one for all where they are many; no two agents go by one name in what is told."""
    many = len(cells) >= MANY_CELLS
    with progress_bar() as bar:
        whole = bar.add_task("real runs", total=len(cells), note="", visible=many)
        tasks = [bar.add_task(label, total=1.0, note="waiting", visible=not many) for label in labels]

        def on_round(index: int, rounds: int, progress: float) -> None:
            ended = progress == float("inf")
            note = "done" if ended else f"round {rounds}, progress {progress:.2f}"
            shown = 1.0 if ended else max(0.0, min(progress, 0.99))
            bar.update(tasks[index], completed=shown, note=note, visible=not (many and ended))
            if ended:
                bar.advance(whole)

        return told_apart([cell.agent for cell in cells], judge(cells, folder, workers, on_round, encoders))


def natural(name: str, value: int) -> None:
    """Refuse a number below zero.

    Raises:
        InputError: it is.
    """
    _at_least(0, name, value)


def positive(name: str, value: int | None) -> None:
    """Refuse a number below one.

    Raises:
        InputError: it is.
    """
    if value is not None:
        _at_least(1, name, value)


def _at_least(least: int, name: str, value: int) -> None:
    if value < least:
        raise InputError(f"--{name} is {value}, expected a whole number of at least {least}")
