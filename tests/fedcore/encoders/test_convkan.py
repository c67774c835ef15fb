from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline
from torch import nn
from torch.nn import functional as F

from fedcore.allocation import allocate
from fedcore.blocks import Block, slice_weights, whole_block, whole_weights
from fedcore.encoders import ENCODERS, ConvKAN
from fedcore.encoders.convkan import _Expand, spline_bases
from fedcore.local import features_in
from fedcore.model import build_model

torch.set_num_threads(1)


def scipy_bases(x: np.ndarray, grid: int) -> np.ndarray:
    """(..., G + 3) from scipy, on knots at -k, ..., G + k intervals from -1."""
    knots = -1 + 2 / grid * np.arange(-3, grid + 4)
    return np.stack([BSpline(knots, row, 3)(x) for row in np.eye(grid + 3)], axis=-1)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_bases_are_those_of_scipy(grid, values):
    x = np.array([*values, -1.0, 0.0, 1.0])
    ours = spline_bases(torch.from_numpy(x), grid)
    np.testing.assert_allclose(ours.numpy(), scipy_bases(x, grid), atol=1e-12)
    np.testing.assert_allclose(ours.sum(-1), 1.0, atol=1e-12)
    single = spline_bases(torch.from_numpy(x.astype(np.float32)), grid)
    np.testing.assert_allclose(single.numpy(), ours.numpy(), atol=1e-5)


@pytest.mark.parametrize("grid", [1, 5])
def test_maps_are_silu_and_bases_of_every_channel_and_their_gradient_is_right(grid):
    x = (2 * torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1).requires_grad_()
    maps = _Expand.apply(x, grid).unflatten(1, (3, 1 + grid + 3))
    torch.testing.assert_close(maps[:, :, 0], F.silu(x))
    torch.testing.assert_close(maps[:, :, 1:].movedim(2, -1), torch.from_numpy(scipy_bases(x.detach().numpy(), grid)))
    assert torch.autograd.gradcheck(lambda t: _Expand.apply(t, grid), (x,))


class PlainKAN(nn.Module):
    """One KAN convolution by unfolding: every kernel entry is a function of one pixel, evaluated and summed."""

    def __init__(self, base, spline, scaler, stride: int, grid: int) -> None:
        super().__init__()
        self.base, self.spline, self.scaler = nn.Parameter(base), nn.Parameter(spline), nn.Parameter(scaler)
        self.stride, self.grid = stride, grid

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, _, h, w = x.shape
        side = self.base.shape[-1]
        # Padding adds pixels that add nothing, not pixels of value 0, whose bases are not 0.
        unfold = nn.Unfold(side, padding=side // 2, stride=self.stride)
        pixels, inside = unfold(x), unfold(torch.ones_like(x)).unsqueeze(-1)
        bases = torch.from_numpy(scipy_bases(pixels.detach().numpy(), self.grid)).float() * inside
        base, scaler = self.base.flatten(1), self.scaler.flatten(1)
        spline = self.spline.movedim(2, -1).flatten(1, 3)
        out = torch.einsum("oe,nep->nop", base, F.silu(pixels))
        out = out + torch.einsum("oej,oe,nepj->nop", spline, scaler, bases)
        return out.unflatten(2, (-(-h // self.stride), -(-w // self.stride)))


def noisy(encoder: ConvKAN, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = encoder.init_state(generator)
    return {n: t + 0.3 * torch.randn(t.shape, generator=generator) for n, t in state.items()}


@pytest.mark.parametrize(
    ("shape", "widths", "strides", "kernel", "grid"),
    [
        ((1, 12, 12), (5, 6, 4), (2, 1, 2), 3, 5),
        ((3, 13, 9), (4,), (2,), 5, 3),
        ((2, 9, 9), (4, 3), (1, 3), 1, 1),
    ],
)
def test_features_are_those_of_functions_on_unfolded_pixels(shape, widths, strides, kernel, grid):
    encoder = ENCODERS["convkan"](shape, widths=widths, strides=strides, kernel=kernel, grid=grid)
    state = noisy(encoder)
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    x = torch.tanh(images)
    for i, (width, stride) in enumerate(zip(widths, strides, strict=True), 1):
        layer = PlainKAN(*(state[f"kan{i}.{part}"] for part in ("base", "spline", "scaler")), stride, grid)
        norm = nn.GroupNorm(1, width)
        norm.weight.data, norm.bias.data = state[f"kan{i}.gain"], state[f"kan{i}.bias"]
        x = torch.tanh(norm(layer(x)))
        assert encoder.neuron_map.layer(f"kan{i}").positions == x.shape[2] * x.shape[3]
    torch.testing.assert_close(encoder.features(whole_weights(state), images), x.mean((2, 3)), atol=2e-5, rtol=1e-4)
    assert (encoder.feature_layer, encoder.feature_dim) == (f"kan{len(widths)}", widths[-1])


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_weight_gradients_are_those_of_ordinary_autograd(share):
    """Of the first layer, which computes the image's maps again, and of the second, against plain operations."""
    encoder = ConvKAN((2, 8, 8), (5, 4), (2, 1), grid=3)
    state = noisy(encoder)
    block = allocate(encoder.neuron_map, [share], 1.0, "random", 0, np.random.default_rng(0))[0]
    images = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    weights = slice_weights(state, encoder.neuron_map, block)
    (encoder.features(weights, images) ** 2).sum().backward()

    leaves = {name: value.clone().requires_grad_() for name, value in state.items()}
    x = torch.tanh(images)
    for i, stride in ((1, 2), (2, 1)):
        maps = torch.cat([F.silu(x).unsqueeze(2), spline_bases_of_maps(x, 3)], dim=2).flatten(1, 2)
        spline = leaves[f"kan{i}.spline"] * leaves[f"kan{i}.scaler"].unsqueeze(2)
        kernel = torch.cat([leaves[f"kan{i}.base"].unsqueeze(2), spline], dim=2).flatten(1, 2)
        y = F.conv2d(maps, kernel, stride=stride, padding=1)
        x = torch.tanh(F.group_norm(y, 1, leaves[f"kan{i}.gain"], leaves[f"kan{i}.bias"]))
    (x.mean((2, 3)) ** 2).sum().backward()
    for p in encoder.neuron_map.parameters:
        expected = leaves[p.name].grad[block.trained[p.rows]]
        if p.cols is not None:
            expected = expected[:, block.visible(p.cols)]
        torch.testing.assert_close(weights.trained[p.name].grad, expected, atol=1e-5, rtol=1e-3)
        assert expected.abs().sum() > 0


def spline_bases_of_maps(x: torch.Tensor, grid: int) -> torch.Tensor:
    """The bases by Cox and de Boor's recursion, which autograd differentiates, on dimension 2."""
    knots = -1 + 2 / grid * torch.arange(-3, grid + 4, dtype=x.dtype).view(-1, 1, 1)
    x = x.unsqueeze(2)
    bases = ((x >= knots[:-1]) & (x < knots[1:])).to(x.dtype)
    for k in (1, 2, 3):
        left = (x - knots[: -k - 1]) / (knots[k:-1] - knots[: -k - 1])
        right = (knots[k + 1 :] - x) / (knots[k + 1 :] - knots[1:-k])
        bases = left * bases[:, :, :-1] + right * bases[:, :, 1:]
    return bases


def test_a_thinned_context_rescales_what_kernels_read_and_the_features():
    encoder = ConvKAN((1, 10, 10), (9, 8), (2, 1), grid=3)
    state = noisy(encoder)
    block = allocate(encoder.neuron_map, [0.3], 0.5, "random", 0, np.random.default_rng(0))[0]
    weights = slice_weights(state, encoder.neuron_map, block)
    first, second = weights.context_scale["kan1"], weights.context_scale["kan2"]
    images = torch.randn(3, 1, 10, 10, generator=torch.Generator().manual_seed(1))
    visible, rows = block.visible("kan1"), block.visible("kan2")
    # A whole model of the visible neurons whose second layer's weights carry the factors.
    small = ConvKAN((1, 10, 10), (len(visible), len(rows)), (2, 1), grid=3)
    reduced = {n: t[visible if n.startswith("kan1") else rows] for n, t in state.items()}
    for part in ("base", "spline", "scaler"):
        reduced[f"kan2.{part}"] = reduced[f"kan2.{part}"][:, visible]
    reduced["kan2.base"] = reduced["kan2.base"] * first.view(-1, 1, 1)
    reduced["kan2.spline"] = reduced["kan2.spline"] * first.view(-1, 1, 1, 1)
    expected = small.features(whole_weights(reduced), images) * second
    torch.testing.assert_close(encoder.features(weights, images), expected, atol=1e-5, rtol=1e-4)
    inner = encoder.stage(0, weights, images)
    assert inner.abs().max() <= 1.0
    torch.testing.assert_close(encoder.prefix(1).features(weights, images), inner.mean((2, 3)) * first)


def test_the_start_is_efficient_kans():
    encoder = ConvKAN((2, 12, 12), (16, 24), (2, 2), grid=5)
    one, two, other = (encoder.init_state(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in one if not name.endswith(("gain", "bias")))
    points = np.linspace(-1, 1, 6)
    for name, inputs in (("kan1", 2), ("kan2", 16)):
        for part in ("base", "scaler"):
            bound = 1 / (inputs * 9) ** 0.5
            assert one[f"{name}.{part}"].abs().max() <= bound
            assert one[f"{name}.{part}"].std() == pytest.approx(bound / 3**0.5, rel=0.1)
        spline = one[f"{name}.spline"].movedim(2, -1).numpy()
        noise = spline @ scipy_bases(points, 5).T
        assert np.abs(noise).max() <= 0.05 / 5 + 1e-6
        assert noise.std() == pytest.approx(0.1 / 5 / 12**0.5, rel=0.1)
        # Least norm: nothing in the coefficients that the points do not see.
        np.testing.assert_allclose(spline, noise @ np.linalg.pinv(scipy_bases(points, 5)).T, atol=1e-6)
        assert bool((one[f"{name}.gain"] == 1).all())
        assert bool((one[f"{name}.bias"] == 0).all())


def test_parameters_are_ten_times_an_ordinary_convolutions():
    encoder = ConvKAN((1, 12, 12), (5, 6), (2, 2))
    by_name = {p.name: p for p in encoder.neuron_map.parameters}
    assert by_name["kan2.spline"].shape == (6, 5, 8, 3, 3)
    assert all(by_name[f"kan2.{part}"].cols == "kan1" for part in ("base", "spline", "scaler"))
    kernels = sum(prod(by_name[f"kan2.{part}"].shape) for part in ("base", "spline", "scaler"))
    assert kernels == 10 * 6 * 5 * 9


def test_what_an_image_expands_to_is_not_kept():
    model = build_model((1, 16, 16), "convkan", "simclr", {"widths": (6, 4), "strides": (2, 2)}, {"hidden": 8, "outputs": 4})
    weights = slice_weights(model.init_state(torch.Generator().manual_seed(0)), model.neuron_map, whole_block(model.neuron_map))
    sizes = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    x = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.encoder.features(weights, x)
    # The largest is the first layer's maps for the second: 6 channels of 8x8 by 1 + G + k.
    assert max(sizes) == 5 * 6 * 64 * 9
    assert 5 * 256 * 9 not in sizes


def test_it_runs_in_bf16():
    encoder = ConvKAN((1, 12, 12), (8, 12), (2, 2))
    state = encoder.init_state(torch.Generator().manual_seed(0))
    block = Block(
        {"kan1": torch.arange(5), "kan2": torch.arange(7)}, {"kan1": torch.arange(5, 8), "kan2": torch.arange(7, 12)}
    )
    images = torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    results = []
    for precision in ("fp32", "bf16"):
        weights = slice_weights(state, encoder.neuron_map, block)
        features = features_in(encoder, precision)(weights, images)
        (features**2).sum().backward()
        results.append((features.detach(), {n: t.grad for n, t in weights.trained.items()}))
    (one, slopes), (two, coarse) = results
    torch.testing.assert_close(two, one, atol=0.02, rtol=0.05)
    for name, slope in slopes.items():
        assert coarse[name].dtype == torch.float32
        assert (coarse[name] - slope).norm() < 0.1 * slope.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (4, 8)}, "2 widths, 3 strides"),
        ({"kernel": 4}, "odd kernel"),
        ({"grid": 0}, "at least one interval"),
        ({"strides": (4, 2, 2)}, "too small for strides"),
        ({"strides": (2, 0, 2)}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConvKAN((1, 16, 16), **options)
    assert not ConvKAN((1, 16, 16)).takes(15, 16)
    assert ConvKAN((1, 16, 16)).takes(40, 16)
