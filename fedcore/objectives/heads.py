"""The two-layer head that projectors and predictors share: linear - batch norm - ReLU - linear."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcore.blocks import Weights
from fedcore.neurons import Layer, NeuronMap, Parameter


def mlp_head(prefix: str, input_layer: str | None, inputs: int, hidden: int, outputs: int) -> NeuronMap:
    """Declare a head; its hidden units are neurons like any others, its output's width is fixed.

    Args:
        prefix: of its layer and parameter names.
        input_layer: the layer that it reads, of `inputs` neurons; None for one that is always visible.
        inputs: neurons of that layer.
        hidden: hidden units.
        outputs: output units.
    """
    h, o = f"{prefix}.hidden", f"{prefix}.out"
    return NeuronMap(
        (Layer(h, hidden, stored=3.0), Layer(o, outputs, always_visible=True)),
        (
            Parameter(f"{h}.weight", (hidden, inputs), h, input_layer, macs=1),
            Parameter(f"{h}.gain", (hidden,), h),
            Parameter(f"{h}.bias", (hidden,), h),
            Parameter(f"{o}.weight", (outputs, hidden), o, h, macs=1),
        ),
    )


def apply_head(weights: Weights, prefix: str, x: Tensor) -> Tensor:
    """Run a head.

    Batch norm uses the batch's own statistics, always: there are none to merge, and heads are used in training only.
    Without it training collapses to chance at once (DESIGN section 3).

    Args:
        weights: sliced or whole weights.
        prefix: as declared.
        x: (N, visible inputs).

    Returns:
        (N, outputs).
    """
    h = weights.linear(x, f"{prefix}.hidden.weight")
    gain, bias = weights.vector(f"{prefix}.hidden.gain"), weights.vector(f"{prefix}.hidden.bias")
    h = torch.relu(F.batch_norm(h, None, None, gain, bias, training=True))
    return weights.linear(weights.rescale(h, f"{prefix}.hidden"), f"{prefix}.out.weight")
