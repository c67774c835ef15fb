"""Counter-based random numbers: a draw is a hash of (key, round, stream, machine).

So the draws of one environment do not depend on how many run beside it, and single and batched environments agree
bit for bit. The key comes from the environment's passed generator. Hash: splitmix64 (Steele et al. 2014).
"""

from __future__ import annotations

import numba
import numpy as np

# Streams: one per purpose, so that adding a purpose does not move the others.
JITTER, LINK, BUSY_SWITCH, ON_SWITCH, LEAVE, CLOUD, PROGRESS = range(7)


@numba.njit(cache=True)
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@numba.njit(cache=True)
def _hash(key: np.uint64, counter: np.int64, stream: np.int64, item: np.int64) -> np.uint64:
    golden = np.uint64(0x9E3779B97F4A7C15)
    z = _mix(key + golden * np.uint64(counter + 1))
    return _mix(z + golden * (np.uint64(stream) * np.uint64(4096) + np.uint64(item) + np.uint64(1)))


@numba.njit(cache=True)
def uniform(key: np.uint64, counter: np.int64, stream: np.int64, item: np.int64) -> float:
    """One draw in the open interval (0, 1)."""
    return (np.float64(_hash(key, counter, stream, item) >> np.uint64(11)) + 0.5) / 9007199254740992.0


@numba.njit(cache=True)
def normal(key: np.uint64, counter: np.int64, stream: np.int64, item: np.int64) -> float:
    """One standard normal draw (Box-Muller over two hashes)."""
    u = uniform(key, counter, stream, item)
    v = uniform(key, counter, stream, item + 2048)
    return np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)
