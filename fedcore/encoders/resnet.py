"""A small residual ConvNet (He et al. 2016): a stem, then stages of basic blocks, mean-pooled at the end."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcore.blocks import Weights
from fedcore.encoders.base import Encoder
from fedcore.neurons import Layer, NeuronMap, Parameter


class ResNet(Encoder):
    """Stages of basic blocks relu(x + norm(conv(relu(norm(conv(x)))))), group norm with one group throughout.

    Residual additions tie every channel of a stage to the same channel of all the convolutions that write to it. So
    a stage has one layer for its residual stream, named "stageI", whose neurons own the rows of all its writers (stem,
    shortcut and the outer convolution of every block), and one layer "stageI.blockJ" per block for the channels
    between its two convolutions. Only the first block of a stage changes shapes; between stages the channels are drawn
    anew, so there the shortcut is always a 1x1 projection.

    A thinned context hides channels between convolutions, or those of the streams as well (`whole_stream`). With
    shares of 0.5 (soil micrographs, four sites, 150 steps, two seeds) held-out InfoNCE fell from 5.40 to 4.63 with all
    context, to 4.68 and 4.78 with context 0.5 and 0 in whole streams, to 4.85 and 5.10 in thinned ones: a whole stream
    without context learned more than a thinned one with half, for fewer FLOPs (0.46 and 0.50 of a whole step's).
    Blocks that start as shortcuts (last gain 0) learned more slowly, 5.01 with all context, so gains start at 1.

    ReLU is positively homogeneous, hence scaling the gain and bias of every writer by the factors of a thinned
    context scales the whole stream by them once, however many blocks add to it, and costs no pass over a map.

    Args:
        image_shape: (C, H, W) of the images.
        widths: channels per stage.
        blocks: basic blocks per stage.
        strides: per stage, of the stem in the first and of the first block in the others.
        stem_kernel: side of the stem's kernel; blocks are 3x3.
        whole_stream: keep every channel of the residual streams visible whatever the context: a machine then adds to
            the very stream of the whole model, and its compute and download fall in proportion to the channels within
            blocks that it sees. Otherwise streams are thinned like any other layer, all falls with the square, and
            HeteroFL and its kin are what they are in their papers.

    Raises:
        ValueError: unequal numbers of widths, blocks and strides, a stage without a block, an even kernel, or an image
            too small for the strides.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        widths: Sequence[int] = (24, 48, 96),
        blocks: Sequence[int] = (1, 1, 1),
        strides: Sequence[int] = (2, 2, 2),
        stem_kernel: int = 5,
        whole_stream: bool = True,
    ) -> None:
        channels, height, width = image_shape
        if not len(widths) == len(blocks) == len(strides) or stem_kernel % 2 == 0 or min(blocks, default=0) < 1:
            raise ValueError(
                f"got {len(widths)} widths, blocks {list(blocks)}, {len(strides)} strides and kernel {stem_kernel}, expected "
                "equally many widths, blocks and strides, at least one block per stage and an odd kernel"
            )
        if min(strides, default=1) < 1:
            raise ValueError(f"strides are {list(strides)}, expected whole numbers of at least 1")
        self.image_shape, self.strides = image_shape, tuple(strides)
        if not self.takes(height, width):
            raise ValueError(f"images of {height}x{width} are too small for strides {list(strides)}")
        layers: list[Layer] = []
        parameters: list[Parameter] = []
        stages = []
        read: str | None = None  # what the next stage declares as its columns
        inputs = channels
        for i, (n, depth) in enumerate(zip(widths, blocks, strict=True)):
            stream = f"stage{i + 1}"
            columns = None if whole_stream else stream
            height, width = (-(-height // strides[i]), -(-width // strides[i]))
            places = height * width
            inner = tuple(f"{stream}.block{j + 1}" for j in range(depth))
            if i == 0:
                # Columns of the stem are input channels, not neurons: they stay inside per_pair.
                shape = (n, inputs, stem_kernel, stem_kernel)
                parameters += _normed(f"{stream}.stem", shape, stream, None, places, reads_data=True)
            for j, block in enumerate(inner):
                enters = i > 0 and j == 0
                width_in, cols = (inputs, read) if enters else (n, columns)
                parameters += _normed(block, (n, width_in, 3, 3), block, cols, places)
                if enters:
                    parameters += _normed(f"{stream}.shortcut", (n, width_in, 1, 1), stream, cols, places)
                parameters += _normed(f"{block}.out", (n, n, 3, 3), stream, block, places)
                # Kept for the backward pass: what a norm reads, and what a ReLU gives.
                layers.append(Layer(block, n, positions=places, stored=2.0, rescaled=False))
            # The same for the stem and every block; a shortcut is a norm without a ReLU of its own.
            kept = 2.0 * depth + (2.0 if i == 0 else 1.0)
            layers.append(
                Layer(
                    stream, n, positions=places, stored=kept, always_visible=whole_stream, rescaled=False, residual=True
                )
            )
            stages.append((*inner, stream))
            read, inputs = columns, n
        self.neuron_map = NeuronMap(tuple(layers), tuple(parameters))
        self.norm_gains = frozenset(p.name for p in parameters if p.name.endswith(".gain"))
        self.stages = tuple(stages)

    def takes(self, height: int, width: int) -> bool:
        """See `Encoder.takes`: any that leaves two places at the end."""
        return min(height, width) >= 2 * prod(self.strides)

    def stage(self, index: int, weights: Weights, x: Tensor) -> Tensor:
        """See `Encoder.stage`."""
        *blocks, stream = self.stages[index]
        if index == 0:
            x = torch.relu(_conv_norm(weights, x, f"{stream}.stem", stream, self.strides[0]))
        for j, block in enumerate(blocks):
            enters = index > 0 and j == 0
            stride = self.strides[index] if enters else 1
            h = torch.relu(_conv_norm(weights, x, block, block, stride))
            h = _conv_norm(weights, h, f"{block}.out", stream)
            x = torch.relu(h + (_conv_norm(weights, x, f"{stream}.shortcut", stream, stride) if enters else x))
        return x

    def pool(self, x: Tensor) -> Tensor:
        """See `Encoder.pool`."""
        return x.mean(dim=(2, 3))


def _normed(
    name: str, shape: tuple[int, ...], rows: str, cols: str | None, macs: int, reads_data: bool = False
) -> list[Parameter]:
    """Weight, gain and bias of a normalised convolution that need not carry the name of the layer it writes to."""
    return [
        Parameter(f"{name}.weight", shape, rows, cols, macs=macs, reads_data=reads_data),
        Parameter(f"{name}.gain", shape[:1], rows),
        Parameter(f"{name}.bias", shape[:1], rows),
    ]


def _conv_norm(weights: Weights, x: Tensor, name: str, rows: str, stride: int = 1) -> Tensor:
    """Convolution and norm; the rescaling of thinned context goes into gain and bias, ahead of the ReLU."""
    gain, bias = (weights.rescale(weights.vector(f"{name}.{v}"), rows, dim=0) for v in ("gain", "bias"))
    return F.group_norm(weights.conv2d(x, f"{name}.weight", stride), 1, gain, bias)
