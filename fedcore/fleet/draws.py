"""Counter-based random numbers: a draw is a hash of (key, round, stream, machine).

So the draws of one environment do not depend on how many run beside it, and single and batched environments agree
bit for bit. The key comes from the environment's passed generator. Hash: splitmix64 (Steele et al. 2014).
"""

from __future__ import annotations

import numpy as np

from fedcore.kernel import kernel

# Streams: one per purpose, so that adding a purpose does not move the others.
(
    JITTER, LINK, BUSY_SWITCH, ON_SWITCH, LEAVE, CLOUD, PROGRESS, OUTAGE, LINK_LEVEL, TRACE_PHASE, HOLES_UP, HOLES_DOWN, TILT,
) = range(13)  # fmt: skip

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@kernel()
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@kernel()
def of_round(key: np.uint64, counter: np.int64) -> np.uint64:
    """What all draws of one round have in common: hash it once, then draw by `uniform` and `normal`."""
    return _mix(key + GOLDEN * np.uint64(counter + 1))


@kernel()
def uniform(round_hash: np.uint64, stream: np.int64, item: np.int64) -> float:
    """One draw in the open interval (0, 1).

    Args:
        round_hash: from `of_round`.
        stream: purpose.
        item: machine.
    """
    z = _mix(round_hash + GOLDEN * (np.uint64(stream) * np.uint64(4096) + np.uint64(item) + np.uint64(1)))
    return (np.float64(z >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@kernel()
def normal(round_hash: np.uint64, stream: np.int64, item: np.int64) -> float:
    """One standard normal draw, by the inverse of its distribution; arguments as `uniform`."""
    return normal_quantile(uniform(round_hash, stream, item))


@kernel()
def normal_quantile(u: float) -> float:
    """Quantile of the standard normal law, to about 1e-16 (Wichura 1988, algorithm AS 241, PPND16).

    Args:
        u: in (0, 1).
    """
    q = u - 0.5
    if abs(q) <= 0.425:
        r = 0.180625 - q * q
        return q * (
            ((((((2509.0809287301226727 * r + 33430.575583588128105) * r + 67265.770927008700853) * r
            + 45921.953931549871457) * r + 13731.693765509461125) * r + 1971.5909503065514427) * r
            + 133.14166789178437745) * r + 3.387132872796366608
        ) / (
            ((((((5226.495278852545925 * r + 28729.085735721942674) * r + 39307.89580009271061) * r
            + 21213.794301586595867) * r + 5394.1960214247511077) * r + 687.1870074920579083) * r
            + 42.313330701600911252) * r + 1.0
        )  # fmt: skip
    r = np.sqrt(-np.log(u if q < 0.0 else 1.0 - u))
    if r <= 5.0:
        r -= 1.6
        z = (
            ((((((7.7454501427834140764e-4 * r + 0.0227238449892691845833) * r + 0.24178072517745061177) * r
            + 1.27045825245236838258) * r + 3.64784832476320460504) * r + 5.7694972214606914055) * r
            + 4.6303378461565452959) * r + 1.42343711074968357734
        ) / (
            ((((((1.05075007164441684324e-9 * r + 5.475938084995344946e-4) * r + 0.0151986665636164571966) * r
            + 0.14810397642748007459) * r + 0.68976733498510000455) * r + 1.6763848301838038494) * r
            + 2.05319162663775882187) * r + 1.0
        )  # fmt: skip
    else:
        r -= 5.0
        z = (
            ((((((2.01033439929228813265e-7 * r + 2.71155556874348757815e-5) * r + 0.0012426609473880784386) * r
            + 0.026532189526576123093) * r + 0.29656057182850489123) * r + 1.7848265399172913358) * r
            + 5.4637849111641143699) * r + 6.6579046435011037772
        ) / (
            ((((((2.04426310338993978564e-15 * r + 1.4215117583164458887e-7) * r + 1.8463183175100546818e-5) * r
            + 7.868691311456132591e-4) * r + 0.0148753612908506148525) * r + 0.13692988092273580531) * r
            + 0.59983220655588793769) * r + 1.0
        )  # fmt: skip
    return -z if q < 0.0 else z
