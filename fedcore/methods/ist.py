"""Independent Subnet Training (Yuan et al. 2019): the network is cut into disjoint narrow ones, anew every round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedcore.methods.width import WidthScaled
from fedcore.neurons import Layer
from scenarios.errors import InputError


def apportion(rates: Mapping[int, float], neurons: int) -> dict[int, int]:
    """Whole numbers of neurons in proportion to rates: at least one each, in total at most all of them.

    Args:
        rates: machine -> rate above 0; where they sum to more than 1 they are divided by their sum.
        neurons: n, at least as many as there are machines.

    Returns:
        Machine -> count. The total is round(n x sum of rates), or one per machine where that is more; what rounding down
        leaves over goes to the largest remainders (Hamilton's method).
    """
    whole = max(1.0, sum(rates.values()))
    quota = {k: rate / whole * neurons for k, rate in rates.items()}
    counts = {k: max(1, int(q + 1e-9)) for k, q in quota.items()}
    total = max(len(rates), int(sum(quota.values()) + 0.5 + 1e-9))
    while (left := total - sum(counts.values())) != 0:
        step = 1 if left > 0 else -1
        able = [k for k, count in counts.items() if step > 0 or count > 1]
        counts[max(able, key=lambda k: step * (quota[k] - counts[k]))] += step
    return counts


@dataclass(frozen=True)
class IST(WidthScaled):
    """In every round the neurons of each hidden layer are permuted and cut into disjoint groups, one per machine.

    Machine k trains W_l[I_l^k, I_{l-1}^k] alone (section 3, algorithm 1); entries that join two groups rest in this
    round. Output rows are shared, each over its own columns, so that every weight of a hidden layer has at most one owner
    and merging is copying; only gains and biases of layers that are always visible are averaged. With n equal groups of an
    MLP a machine moves 2 (d_in d / n + d^2 / n^2 + d d_out / n) weights per round.

    The authors' code cuts equal groups only. Here groups are in proportion to the shares, which are divided by their sum
    where that is above 1: our generalisation.

    Attributes:
        scaler: see `WidthScaled`; off, since the paper leaves the scale to the norms.
    """

    name = "ist"

    def held(
        self, layer: Layer, rates: Mapping[int, float], round_index: int, rng: np.random.Generator
    ) -> dict[int, NDArray[np.int64]]:
        """See `WidthScaled.held`.

        Raises:
            InputError: there are more machines than neurons.
        """
        if len(rates) > layer.neurons:
            raise InputError(
                f"ist: {len(rates)} machines take part but layer {layer.name} has {layer.neurons} neurons to cut among them; "
                "expected fewer machines with a share above 0, a wider layer, or method federated-dropout"
            )
        counts = apportion(rates, layer.neurons)
        order, ends = rng.permutation(layer.neurons), np.cumsum(list(counts.values()))
        return {k: order[end - count : end] for (k, count), end in zip(counts.items(), ends, strict=True)}
