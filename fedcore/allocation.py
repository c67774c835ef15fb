"""From shares to blocks: which neurons each machine trains and sees in this round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.blocks import Block
from fedcore.neurons import Layer, NeuronMap
from scenarios.errors import InputError


def trained_count(share: float, neurons: int) -> int:
    """Neurons of a layer that a share stands for: round half up, at least one for any share above 0."""
    return 0 if share <= 0 else max(1, min(neurons, int(np.floor(share * neurons + 0.5))))


def least_share(neuron_map: NeuronMap) -> float:
    """The smallest share above 0 that stands for a neuron of the widest layer without being rounded up to one."""
    return 0.5 / max(layer.neurons for layer in neuron_map.layers)


def refuse_slivers(neuron_map: NeuronMap, machine_names: Sequence[str], shares: Sequence[float]) -> None:
    """Refuse shares of less than a neuron.

    Raises:
        InputError: a share above 0 is below one neuron even of the widest layer.
    """
    least = least_share(neuron_map)
    for name, share in zip(machine_names, shares, strict=True):
        if 0.0 < share < least:
            raise InputError(
                f"machine {name}: share {share:g} is below one neuron of the widest layer; expected 0, which rests, or at "
                f"least {least:.3g}"
            )


def context_count(context: float, share: float, layer: Layer) -> int:
    """Neurons of a layer that are seen but not trained."""
    rest = layer.neurons - trained_count(share, layer.neurons)
    return rest if layer.always_visible else int(np.floor(context * rest + 0.5))


Scores = NDArray[np.float64] | None


def _order_random(layer: Layer, round_index: int, rng: np.random.Generator, scores: Scores) -> NDArray[np.int64]:
    return rng.permutation(layer.neurons)


def _order_rolling(layer: Layer, round_index: int, rng: np.random.Generator, scores: Scores) -> NDArray[np.int64]:
    # Thirds of the layer in turn, and one neuron further every third round: windows wander over the whole layer
    # (FedRolex rolls by one neuron; that leaves a window nearly where it was for tens of rounds).
    shift = round_index % 3 * max(1, layer.neurons // 3) + round_index // 3
    return np.roll(np.arange(layer.neurons), -shift)


def _order_fixed(layer: Layer, round_index: int, rng: np.random.Generator, scores: Scores) -> NDArray[np.int64]:
    return np.arange(layer.neurons)


def _order_importance(layer: Layer, round_index: int, rng: np.random.Generator, scores: Scores) -> NDArray[np.int64]:
    # Ties, and layers of which nothing is known yet, fall at random.
    order = rng.permutation(layer.neurons)
    return order if scores is None else order[np.argsort(-scores[order], kind="stable")]


RULES: dict[str, Callable[[Layer, int, np.random.Generator, Scores], NDArray[np.int64]]] = {
    "random": _order_random,
    "rolling": _order_rolling,
    "fixed": _order_fixed,
    "importance": _order_importance,
}
"""How the ring of neurons is ordered before machines take their segments of it."""


def allocate(
    neuron_map: NeuronMap,
    shares: Sequence[float],
    context: float,
    rule: str,
    round_index: int,
    rng: np.random.Generator,
    scores: Mapping[str, NDArray[np.float64]] | None = None,
    context_orders: Mapping[str, NDArray[np.int64]] | None = None,
) -> list[Block | None]:
    """Turn shares into blocks.

    Every layer's neurons are laid on a ring in the rule's order and each machine takes the segment after the
    previous machine's. So blocks are disjoint while their sizes (shares rounded to whole neurons, at least one) sum to
    at most the layer's width, and beyond that the coverage of any two neurons differs by at most one.

    Args:
        neuron_map: the model.
        shares: share in [0, 1] of each machine; 0 sits this round out.
        context: fraction in [0, 1] of the other neurons that each machine sees.
        rule: a name in `RULES`.
        round_index: for the rolling rule.
        rng: for the random rule, and for which context is seen.
        scores: layer -> (n_l,) for the importance rule: the highest are trained first. Which machine trains which of
            the chosen is drawn, so that none keeps the best for itself.
        context_orders: layer -> (n_l,) order in which neurons are seen as context; None draws the context.

    Returns:
        One block per machine, None where the share is 0.
    """
    trained: list[dict[str, torch.Tensor]] = [{} for _ in shares]
    seen: list[dict[str, torch.Tensor]] = [{} for _ in shares]
    for layer in neuron_map.layers:
        order = RULES[rule](layer, round_index, rng, None if scores is None else scores.get(layer.name))
        if rule == "importance":
            # Those before `favoured` are held by one machine more than the others.
            favoured = sum(trained_count(share, layer.neurons) for share in shares) % layer.neurons
            order = np.concatenate([rng.permutation(order[:favoured]), rng.permutation(order[favoured:])])
        start = 0
        for k, share in enumerate(shares):
            if share <= 0:
                continue
            count = trained_count(share, layer.neurons)
            ring = np.roll(order, -start)
            rest = ring[count:]
            n_seen = context_count(context, share, layer)
            if n_seen < len(rest):
                if context_orders is None:
                    rest = rng.choice(rest, n_seen, replace=False)
                else:
                    by_order = context_orders[layer.name]
                    rest = by_order[np.isin(by_order, rest)][:n_seen]
            trained[k][layer.name] = torch.from_numpy(np.sort(ring[:count]))
            seen[k][layer.name] = torch.from_numpy(np.sort(rest))
            start = (start + count) % layer.neurons
    return [Block(t, c) if t else None for t, c in zip(trained, seen, strict=True)]


def coverage(neuron_map: NeuronMap, blocks: Sequence[Block | None]) -> dict[str, NDArray[np.int64]]:
    """How many machines train each neuron: layer name -> (n_l,) counts; 0 means that it rests this round."""
    out = {layer.name: np.zeros(layer.neurons, dtype=np.int64) for layer in neuron_map.layers}
    for block in blocks:
        if block is not None:
            for name, index in block.trained.items():
                out[name][index.numpy()] += 1
    return out
