from typing import NamedTuple

import numba
import numpy as np
import pytest
from numba.core.errors import NumbaError
from numpy.typing import NDArray

from fedcore.kernel import kernel


class Pair(NamedTuple):
    values: NDArray[np.float64]
    out: NDArray[np.float64]


@kernel(cache=False)  # compiled code that comes from the cache cannot be looked at
def _double(pair, n):
    for i in range(n):
        part = pair.out[i:]
        if pair.values[i] > 0.0:
            part[0] = 2.0 * pair.values[i]


@kernel(cache=False)
def _makes(n):
    return np.zeros(n)


def assembly(compiled, pair):
    compiled(pair, 3)
    (text,) = compiled.inspect_asm().values()
    return text.split("cpython")[0]


def test_a_kernel_counts_no_references_where_numba_does():
    pair = Pair(np.arange(3.0), np.zeros(3))
    ours, plain = assembly(_double, pair), assembly(numba.njit(_double.py_func), pair)
    assert pair.out.tolist() == [0.0, 2.0, 4.0]
    assert "NRT_incref" in plain
    assert "NRT_incref" not in ours
    assert "NRT_decref" not in ours


def test_one_that_makes_arrays_is_refused():
    with pytest.raises(NumbaError, match="Only accept returning of array passed"):
        _makes(3)
