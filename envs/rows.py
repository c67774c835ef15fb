"""Array kernels over the rows of a batch, on as many threads as this process may use."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np

LEAST = 256
"""Rows of a step below which a second thread costs more than it gains."""


@cache
def _threads() -> int:
    own = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, int(own)) if own.isdigit() and int(own) > 0 else cores


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), thread_name_prefix="rows")


def in_rows(
    kernel: Callable[..., None],
    shared: tuple[Any, ...],
    rows: tuple[np.ndarray[Any, Any], ...],
    scratch: tuple[int, ...] | None = None,
    least: int = LEAST,
) -> None:
    """Call a kernel that releases the interpreter lock on parts of a batch side by side.

    Every row's result depends on that row alone, so the number of threads changes nothing.

    Args:
        kernel: compiled with `nogil`; writes to its row arguments.
        shared: its first arguments, the same for all.
        rows: its further arguments, each with a leading dimension B.
        scratch: shape of the working memory that is its last argument, every part's own; None: it takes none.
        least: rows below which a second thread costs more than it gains.
    """
    count = len(rows[0])
    parts = min(_threads(), count // least)
    own = [() if scratch is None else (np.empty(scratch),) for _ in range(max(parts, 1))]
    if parts < 2:
        kernel(*shared, *rows, *own[0])
        return
    ends = [count * i // parts for i in range(parts + 1)]
    # The process's number is part of the key: a forked child has none of its parent's threads.
    pool = _pool(os.getpid())
    first, *others = [(*(row[a:b] for row in rows), *memory) for (a, b), memory in zip(pairwise(ends), own, strict=True)]
    running = [pool.submit(kernel, *shared, *part) for part in others]
    kernel(*shared, *first)
    for part in running:
        part.result()
