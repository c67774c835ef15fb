"""How array code is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba


def kernel(**options: Any) -> Callable[[Any], Any]:
    """`numba.njit` for code that makes no arrays, and so counts no references to those that it is given.

    Numba counts references to an array by atomic operations wherever one is taken out of a tuple, sliced or assigned, and
    threads that share the array wait for each other at each of them, which took half of the simulator's time. Without (`_nrt`),
    making an array in a kernel is refused when it is compiled: who calls it hands working memory in.

    Args:
        options: further ones of `numba.njit`, or others.
    """
    return numba.njit(**{"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False} | options)
