"""A convolutional Kolmogorov-Arnold network (Bodner et al. 2024): kernels whose entries are learned spline functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_weight

from fedcore.blocks import Weights
from fedcore.encoders.base import Encoder
from fedcore.neurons import Layer, NeuronMap, Parameter, State

ORDER = 3
"""k: degree of the splines (cubic)."""
NOISE = 0.1
"""Spread of the splines at the start, times 1 / G."""


class ConvKAN(Encoder):
    """KAN convolution - norm - tanh per width, then the mean over places.

    y = W_b * SiLU(x) + sum_j (W_s . c)_j * B_j(x), with * a convolution, B_j the G + k cubic B-splines on a uniform grid
    of G intervals on [-1, 1], W_s the spline weights and c a scaler per kernel entry (Bodner et al. 2024, arXiv
    2406.13155, with efficient-kan's scaler). SiLU and bases of a map are computed once and read by all output channels as
    1 + G + k maps per input channel, so that a layer is one ordinary convolution. The grid belongs to input channels that
    machines share, so it never moves: a machine that fitted it to its own data would change everyone's functions.

    The norm is group norm with one group, as in `ConvNet`; tanh then keeps inputs inside the grid, where clamping
    would leave the third of the values beyond one standard deviation without a gradient, and is kept for the backward pass
    at no cost, because the bases keep the same tensor. Images come normalised and pass through tanh alone.

    What a thinned context rescales are the summands that a kernel reads, SiLU(x) and B_j(x), not x, which would leave the
    grid. So activations between stages are not rescaled; those of the last stage, the features, are.

    Args:
        image_shape: (C, H, W) of the images.
        widths: output channels per convolution.
        strides: of each convolution.
        kernel: side of the kernels.
        grid: G, intervals of the grid.

    Raises:
        ValueError: unequal numbers of widths and strides, an even kernel, no interval, or an image too small for the
            strides.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        widths: Sequence[int] = (12, 24, 48),
        strides: Sequence[int] = (2, 2, 2),
        kernel: int = 3,
        grid: int = 5,
    ) -> None:
        channels, height, width = image_shape
        if len(widths) != len(strides) or kernel % 2 == 0 or grid < 1:
            raise ValueError(
                f"got {len(widths)} widths, {len(strides)} strides, kernel {kernel} and grid {grid}, expected as many "
                "strides as widths, an odd kernel and at least one interval"
            )
        if min(strides, default=1) < 1:
            raise ValueError(f"strides are {list(strides)}, expected whole numbers of at least 1")
        self.image_shape, self.strides = image_shape, tuple(strides)
        if not self.takes(height, width):
            raise ValueError(f"images of {height}x{width} are too small for strides {list(strides)}")
        layers, parameters = [], []
        previous, inputs = None, channels
        for i, n in enumerate(widths):
            name, last = f"kan{i + 1}", i == len(widths) - 1
            height, width = (-(-height // strides[i]), -(-width // strides[i]))
            places = height * width
            # Kept for the backward pass: what the norm reads, what tanh gives and, if a layer follows, SiLU and bases.
            read = 1.0 if last else 1.0 + grid + ORDER
            stored = 2.0 if last else 2.0 + read
            layers.append(Layer(name, n, positions=places, stored=stored, read=read, rescaled=last))
            entries, data = (n, inputs, kernel, kernel), previous is None
            splines = (n, inputs, grid + ORDER, kernel, kernel)
            parameters += [
                Parameter(f"{name}.base", entries, name, previous, macs=places, reads_data=data),
                Parameter(f"{name}.spline", splines, name, previous, macs=places, reads_data=data),
                Parameter(f"{name}.scaler", entries, name, previous, reads_data=data),
                Parameter(f"{name}.gain", (n,), name),
                Parameter(f"{name}.bias", (n,), name),
            ]
            previous, inputs = name, n
        self.neuron_map = NeuronMap(tuple(layers), tuple(parameters))
        self.norm_gains = frozenset(f"{layer.name}.gain" for layer in layers)
        self.stages = tuple((layer.name,) for layer in layers)
        self.kernel, self.grid = kernel, grid
        # The image's tanh is kept; its maps, and seven terms of a basis in the making, are there for a moment.
        self.input_stored, self.input_read = 1.0, 1.0 + grid + ORDER + 7.0

    def init_state(self, generator: torch.Generator) -> State:
        """Fresh weights, as efficient-kan's: base and scaler uniform within 1 / sqrt(fan in) (He et al. 2015 with a = sqrt 5),
        splines of least norm through uniform noise of width 0.1 / G at the G + 1 points of the grid."""
        points = torch.linspace(-1.0, 1.0, self.grid + 1, dtype=torch.float64)
        fit = torch.linalg.pinv(spline_bases(points, self.grid)).float()
        state: State = {}
        for p in self.neuron_map.parameters:
            if p.name in self.norm_gains:
                state[p.name] = torch.ones(p.shape)
            elif len(p.shape) == 1:
                state[p.name] = torch.zeros(p.shape)
            elif len(p.shape) == 4:
                uniform = torch.rand(p.shape, generator=generator) * 2 - 1
                state[p.name] = uniform / prod(p.shape[1:]) ** 0.5
            else:
                rows, cols, _, kh, kw = p.shape
                noise = (torch.rand(self.grid + 1, rows * cols * kh * kw, generator=generator) - 0.5) * NOISE / self.grid
                state[p.name] = (fit @ noise).unflatten(1, (rows, cols, kh, kw)).permute(1, 2, 0, 3, 4).contiguous()
        return state

    def takes(self, height: int, width: int) -> bool:
        """See `Encoder.takes`: any that leaves two places at the end."""
        return min(height, width) >= 2 * prod(self.strides)

    def stage(self, index: int, weights: Weights, x: Tensor) -> Tensor:
        """See `Encoder.stage`; rescaled in the last stage only."""
        name = self.stages[index][0]
        seen = None if index == 0 else weights.context_scale.get(self.stages[index - 1][0])

        def kernel(base: Tensor, spline: Tensor, scaler: Tensor) -> Tensor:
            joined = torch.cat([base.unsqueeze(2), spline * scaler.unsqueeze(2)], dim=2)
            # The factor of an input channel is cheaper on the kernel than on the channel's 1 + G + k maps.
            joined = joined if seen is None else joined * seen.view(-1, 1, 1, 1)
            return joined.flatten(1, 2)

        stride, padding = self.strides[index], self.kernel // 2
        names = (f"{name}.base", f"{name}.spline", f"{name}.scaler")
        if index == 0:
            x = torch.tanh(x)
            maps = _expanded(x, self.grid)
            y = weights.rows(names, lambda *w: _ImageConv.apply(x, maps, kernel(*w), self.grid, stride, padding))
        else:
            maps = _Expand.apply(x, self.grid)
            y = weights.rows(names, lambda *w: F.conv2d(maps, kernel(*w), stride=stride, padding=padding))
        y = F.group_norm(y, 1, weights.vector(f"{name}.gain"), weights.vector(f"{name}.bias"))
        y = torch.tanh(y)
        return weights.rescale(y, name) if index == len(self.stages) - 1 else y

    def pool(self, x: Tensor) -> Tensor:
        """See `Encoder.pool`."""
        return x.mean(dim=(2, 3))


def spline_bases(x: Tensor, grid: int) -> Tensor:
    """The G + k cubic B-splines of a uniform grid on [-1, 1] that is continued by k knots on both sides.

    On uniform knots they are shifts of one function, b(t) = (max(2 - |t|, 0)^3 - 4 max(1 - |t|, 0)^3) / 6 with t in
    intervals from its centre: no recursion, and nothing but x to keep for the backward pass.

    Args:
        x: (...) values.
        grid: G.

    Returns:
        (..., G + k), summing to 1 within [-1, 1].
    """
    return torch.stack([_bump(t) for t in _distances(x, grid)], dim=-1)


def _distances(x: Tensor, grid: int) -> Iterator[Tensor]:
    """Of x to the centre of every B-spline, in intervals of the grid."""
    u = (x + 1.0) * (grid / 2)
    for j in range(grid + ORDER):
        yield u - (j - 1.0)


def _bump(t: Tensor) -> Tensor:
    t = t.abs()
    outer, inner = (2.0 - t).clamp_min_(0.0), (1.0 - t).clamp_min_(0.0)
    return (outer * outer).mul_(outer).sub_((inner * inner).mul_(inner), alpha=4.0).mul_(1.0 / 6.0)


def _bump_slope(t: Tensor) -> Tensor:
    size = t.abs()
    outer, inner = (2.0 - size).clamp_min_(0.0), (1.0 - size).clamp_min_(0.0)
    return (outer.mul_(outer)).sub_(inner.mul_(inner), alpha=4.0).mul_(t.sign()).mul_(-0.5)


def _expanded(x: Tensor, grid: int) -> Tensor:
    """SiLU and bases of every channel, (N, C, H, W) -> (N, C (1 + G + k), H, W); one basis at a time stays in the cache."""
    maps = x.new_empty(x.shape[0], x.shape[1], 1 + grid + ORDER, *x.shape[2:])
    maps[:, :, 0] = F.silu(x)
    for j, t in enumerate(_distances(x, grid), 1):
        maps[:, :, j] = _bump(t)
    return maps.flatten(1, 2)


class _Expand(torch.autograd.Function):
    """`_expanded`, keeping x alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.grid = grid
        return _expanded(x, grid)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        parts = gradient.unflatten(1, (x.shape[1], -1))
        total = torch.zeros_like(x)
        for j, t in enumerate(_distances(x, ctx.grid), 1):
            total.addcmul_(parts[:, :, j], _bump_slope(t), value=ctx.grid / 2)
        gate = torch.sigmoid(x)
        return total.addcmul_(parts[:, :, 0], gate + gate * x * (1.0 - gate)), None


class _ImageConv(torch.autograd.Function):
    """A convolution of an image's maps that keeps the image and computes the maps again in the backward pass.

    An image has no neurons, so no share of a model would thin its maps, and without this a weak machine's memory would
    be mostly theirs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, maps: Tensor, kernel: Tensor, grid: int, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.grid, ctx.stride, ctx.padding, ctx.shape = grid, stride, padding, kernel.shape
        return F.conv2d(maps, kernel, stride=stride, padding=padding)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        maps = _expanded(x, ctx.grid).to(gradient.dtype)
        slope = conv2d_weight(maps, ctx.shape, gradient, ctx.stride, ctx.padding)
        return None, None, slope, None, None, None
