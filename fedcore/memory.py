"""Peak memory of local training, as a function of (model, shares of its layers, batch).

What is counted are the tensors alive at the worst moment of a step, in fp32: the block's weights (trained, frozen, momentum
target), the optimiser's moments, gradients, and per batch the views and the activations. The machine's images, what the
allocator holds back, and the scratch of the arithmetic library are not: oneDNN works on copies of a convolution's maps
whose channels are rounded up to 16, on some processors only.

A step passes four kinds of moments, and the peak is at the worst of them (or, where all else is small, where the target is
cut out), V being the views' size and G the gradients':

- drawing: weights, moments, the last step's G and views (V), this step's (V), and a view in the making;
- the loss: weights, moments, G (cleared after it), 2 V (the views, and joined for the encoder) and all that the layers keep;
- a layer's own backward pass: weights, moments, 2 V, gradients of the later layers' weights, what this and all earlier
  layers keep (what later ones kept is free by then), and two maps of this layer: the gradient that comes in and the one
  that goes out;
- that of what reads it: as before, with the reader's map, and one gradient for each part (trained and frozen rows) of it.

So the largest early maps decide, not the sum of all; a frozen part costs memory though it trains nothing, because it
gives a gradient of its own. Layers before the first trained one keep nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from math import prod

from fedcore.model import Model

BYTES_PER_WEIGHT = 4
TOKEN_BYTES = 8
VIEW_IN_THE_MAKING = 5.4
"""Images that drawing one view holds beside views that are done: the normalised image, its grid of places (two numbers
each), the image and two terms of a sum, and the blurred ones (of three in ten images, with a border)."""
FORWARD_MAPS = 3
"""Maps of a layer that keeps nothing: before the norm, after it, and after the nonlinearity."""


def training_memory(
    model: Model,
    trained: Mapping[str, int],
    visible: Mapping[str, int],
    batch: int,
    optimizer_copies: int,
    activations: Mapping[str, int] | None = None,
) -> float:
    """Peak bytes of a block that trains and sees the given numbers of neurons per layer.

    Args:
        model: encoder and objective.
        trained: layer -> m_l.
        visible: layer -> v_l.
        batch: images (or windows of text) per step.
        optimizer_copies: tensors that the optimiser keeps per trained weight.
        activations: layer -> neurons whose activations are there and are read, where that is more than v_l (tensor
            parallelism gathers them).
    """
    objective, encoder = model.objective, model.encoder
    layers = model.neuron_map.layers
    place = {layer.name: i for i, layer in enumerate(layers)}
    there = visible if activations is None else activations
    in_encoder = {layer.name for layer in encoder.neuron_map.layers}
    gradients, weights, aim = [0.0] * len(layers), float(sum(objective.statistics.values())), 0.0
    for p in model.neuron_map.parameters:
        per_row = (there[p.cols] if p.cols is not None else 1) * p.per_pair
        weights += visible[p.rows] * per_row
        aim += visible[p.rows] * per_row if p.name in model.target_parameters else 0.0
        gradients[place[p.rows]] += trained[p.rows] * per_row
    all_gradients = sum(gradients)

    first = next((i for i, layer in enumerate(layers) if trained[layer.name] > 0), len(layers))
    maps, kept, plain, mixed = [], [], [], []
    for i, layer in enumerate(layers):
        views = objective.layer_views.get(layer.name, objective.views_per_sample)
        maps.append(layer.positions * there[layer.name] * batch * (views if layer.name in in_encoder else objective.head_views))
        frozen = visible[layer.name] - trained[layer.name]
        copied = layer.rescaled and 0 < frozen < layer.neurons - trained[layer.name]
        # The last frozen layer before the first trained one keeps what that one reads.
        kept.append(maps[i] * (0.0 if i < first - 1 else layer.read if i < first else layer.stored + copied))
        plain.append(layer.read == 1.0 and not copied)
        mixed.append(trained[layer.name] > 0 and frozen > 0)
    kept_until = list(accumulate(kept))

    view, plane = _view_sizes(model, batch)
    joined = objective.views_per_sample * view
    inputs = (2.0 + encoder.input_stored) * joined
    moments = [
        all_gradients + 2.0 * joined + (VIEW_IN_THE_MAKING - 2.0) * view + 2.0 * plane if plane else 0.0,
        all_gradients + inputs + sum(kept) + objective.loss_numbers(batch),
        all_gradients + inputs + encoder.input_read * joined,
    ]
    for i, layer in enumerate(layers):
        if i < first:
            moments.append(all_gradients + inputs + FORWARD_MAPS * maps[i])
            continue
        later = sum(gradients[i + 1 :])
        # A stream is read by all layers up to the next stream.
        end = next((j for j in range(i + 1, len(layers)) if layers[j].residual), i + 1) if layer.residual else i + 1
        parts = 1 + any(mixed[i + 1 : end + 1])
        # Two parts of a gradient and their sum, unless what was read was a copy, which is free by then.
        moments.append(later + inputs + kept_until[i] + maps[i] * (2 + layer.residual + (parts == 2 and plain[i])))
        if i + 1 < len(layers):
            reading = maps[i] * (layer.residual + parts * layer.read) + maps[i + 1]
            moments.append(later + inputs + kept_until[i] + reading)
    moments.append(all_gradients + inputs + maps[first if first < len(layers) else 0] + encoder.input_read * joined)
    # Cutting the target out of the whole one holds it twice, before there are moments, gradients or activations.
    return BYTES_PER_WEIGHT * (weights + aim + max(aim, optimizer_copies * all_gradients + max(moments)))


def _view_sizes(model: Model, batch: int) -> tuple[float, float]:
    """Numbers in one view of every sample, and in one of its channels; the latter is 0 for tokens, of which none are drawn."""
    if model.encoder.reads == "tokens":
        return batch * model.encoder.window * TOKEN_BYTES / BYTES_PER_WEIGHT, 0.0  # type: ignore[attr-defined]
    image = batch * prod(model.encoder.image_shape)
    return image, image / model.encoder.image_shape[0]
