import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedcore.allocation import allocate
from fedcore.blocks import Block, slice_weights, whole_weights
from fedcore.costs import cost_of_share
from fedcore.encoders import ENCODERS, ResNet
from fedcore.model import build_model

torch.set_num_threads(1)


class PlainBlock(nn.Module):
    """A basic block out of torch.nn's own modules."""

    def __init__(self, inputs: int, width: int, stride: int, project: bool) -> None:
        super().__init__()
        self.inner = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.inner_norm = nn.GroupNorm(1, width)
        self.out = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.out_norm = nn.GroupNorm(1, width)
        self.shortcut = nn.Sequential()
        if project:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.GroupNorm(1, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(self.inner_norm(self.inner(x)))
        return F.relu(self.out_norm(self.out(h)) + self.shortcut(x))


def plain(state, inputs, widths, blocks, strides, kernel) -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(inputs, widths[0], kernel, strides[0], kernel // 2, bias=False), nn.GroupNorm(1, widths[0]), nn.ReLU()
    )
    pairs = [(net[0], net[1], "stage1.stem")]
    previous = widths[0]
    for i, (width, depth, stride) in enumerate(zip(widths, blocks, strides, strict=True), 1):
        for j in range(1, depth + 1):
            enters = i > 1 and j == 1
            block = PlainBlock(previous, width, stride if enters else 1, enters)
            name = f"stage{i}.block{j}"
            pairs += [(block.inner, block.inner_norm, name), (block.out, block.out_norm, f"{name}.out")]
            if enters:
                pairs.append((block.shortcut[0], block.shortcut[1], f"stage{i}.shortcut"))
            net.append(block)
            previous = width
    for conv, norm, name in pairs:
        conv.weight.data = state[f"{name}.weight"]
        norm.weight.data, norm.bias.data = state[f"{name}.gain"], state[f"{name}.bias"]
    assert sum(p.numel() for p in net.parameters()) == sum(t.numel() for t in state.values())
    return net


def noisy(encoder: ResNet, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = encoder.init_state(generator)
    return {n: t + 0.2 * torch.randn(t.shape, generator=generator) for n, t in state.items()}


@pytest.mark.parametrize(
    ("shape", "widths", "blocks", "strides", "kernel"),
    [
        ((1, 16, 16), (6, 8, 10), (1, 1, 1), (2, 2, 2), 5),
        ((3, 13, 9), (4, 4), (2, 3), (1, 3), 3),
        ((3, 15, 15), (5,), (2,), (2,), 7),
        ((1, 8, 8), (5, 5), (1, 2), (1, 1), 1),
    ],
)
@pytest.mark.parametrize("whole", [True, False])
def test_features_are_those_of_plain_modules(shape, widths, blocks, strides, kernel, whole):
    encoder = ENCODERS["resnet"](
        shape, widths=widths, blocks=blocks, strides=strides, stem_kernel=kernel, whole_stream=whole
    )
    state = noisy(encoder)
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    x = plain(state, shape[0], widths, blocks, strides, kernel)(images)
    torch.testing.assert_close(encoder.features(whole_weights(state), images), x.mean((2, 3)), atol=1e-5, rtol=1e-5)
    assert (encoder.feature_dim, encoder.feature_layer) == (widths[-1], f"stage{len(widths)}")
    assert encoder.neuron_map.layer(encoder.feature_layer).positions == x.shape[2] * x.shape[3]
    assert [len(stage) for stage in encoder.stages] == [depth + 1 for depth in blocks]


def naive(encoder: ResNet, weights, images: torch.Tensor) -> torch.Tensor:
    """Thinned features with streams left as they are and every reader's input rescaled."""

    def conv_norm(x, name, stride=1):
        w, gain, bias = (
            torch.cat([part[f"{name}.{v}"] for part in (weights.trained, weights.frozen) if f"{name}.{v}" in part])
            for v in ("weight", "gain", "bias")
        )
        return F.group_norm(F.conv2d(x, w, stride=stride, padding=w.shape[-1] // 2), 1, gain, bias)

    def read(x, layer):
        return x * weights.context_scale[layer].view(-1, 1, 1) if layer in weights.context_scale else x

    x, stream = F.relu(conv_norm(images, "stage1.stem", encoder.strides[0])), "stage1"
    for i, (*blocks, name) in enumerate(encoder.stages):
        for j, block in enumerate(blocks):
            enters = i > 0 and j == 0
            stride = encoder.strides[i] if enters else 1
            h = F.relu(conv_norm(read(x, stream), block, stride))
            shortcut = conv_norm(read(x, stream), f"{name}.shortcut", stride) if enters else x
            x, stream = F.relu(conv_norm(read(h, block), f"{block}.out") + shortcut), name
    return read(x, stream).mean((2, 3))


@pytest.mark.parametrize("scale", [1.0, 2.5])
@pytest.mark.parametrize("context", [0.3, 0.6])
def test_streams_are_rescaled_once_however_many_blocks_add_to_them(context, scale):
    encoder = ResNet((1, 12, 12), (7, 9), (3, 2), (2, 2), 3, whole_stream=False)
    state = noisy(encoder)
    block = allocate(encoder.neuron_map, [0.3], context, "random", 0, np.random.default_rng(0))[0]
    block = Block(block.trained, block.context, dict.fromkeys(block.trained, scale))
    weights = slice_weights(state, encoder.neuron_map, block)
    assert set(weights.context_scale) == set(block.trained)
    images = torch.randn(3, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    expected = naive(encoder, weights, images)
    torch.testing.assert_close(encoder.features(weights, images), expected, atol=1e-5, rtol=1e-4)
    weights.context_scale = {}
    assert not torch.allclose(naive(encoder, weights, images), expected, atol=1e-2)


def test_a_whole_stream_is_never_thinned_and_keeps_the_whole_models_order():
    encoder = ResNet((1, 12, 12), (7, 9), (1, 2), (2, 2))
    state = noisy(encoder)
    block = allocate(encoder.neuron_map, [0.3], 0.0, "random", 0, np.random.default_rng(0))[0]
    for layer in encoder.neuron_map.layers:
        stream = "block" not in layer.name
        assert layer.always_visible == stream
        assert len(block.visible(layer.name)) == (layer.neurons if stream else len(block.trained[layer.name]))
    assert encoder.feature_columns is None
    weights = slice_weights(state, encoder.neuron_map, block)
    assert set(weights.context_scale) == set()
    # Without what the blocks add, streams are the whole model's.
    for name in state:
        if name.endswith((".out.gain", ".out.bias")):
            state[name] = torch.zeros_like(state[name])
    images = torch.randn(3, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    weights = slice_weights(state, encoder.neuron_map, block)
    torch.testing.assert_close(
        encoder.features(weights, images), encoder.features(whole_weights(state), images), atol=1e-5, rtol=1e-5
    )


def test_thinning_saves_with_the_square_or_in_a_whole_stream_in_proportion():
    whole, half = {}, {}
    for stream in (False, True):
        model = build_model((1, 32, 32), "resnet", "simclr", {"whole_stream": stream}, {})
        whole[stream], half[stream] = (cost_of_share(model, share, 0.0, 32) for share in (1.0, 0.5))
    assert whole[True] == whole[False]
    assert half[False].step_flops < 0.3 * whole[False].step_flops
    assert 0.35 < half[True].step_flops / whole[True].step_flops < 0.6
    assert half[False].download_bytes < 0.3 * whole[False].download_bytes
    assert half[False].memory_bytes < half[True].memory_bytes < whole[True].memory_bytes


def test_a_default_step_costs_at_most_twice_the_default_convnet():
    cost = {
        name: cost_of_share(build_model((1, 32, 32), name, "simclr"), 1.0, 1.0, 32) for name in ("convnet", "resnet", "convkan")
    }
    assert cost["resnet"].step_flops < 2 * cost["convnet"].step_flops
    assert cost["convkan"].step_flops < 2 * cost["convnet"].step_flops


def test_every_draw_is_from_the_generator():
    encoder = ResNet((1, 12, 12), (7, 9), (1, 2), (2, 2))
    one, two, other = (encoder.init_state(torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["stage1.stem.weight"], other["stage1.stem.weight"])
    assert all(bool((one[name] == 1).all()) for name in one if name.endswith("gain"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (4, 8)}, r"2 widths, blocks \[1, 1, 1\], 3 strides"),
        ({"strides": (2,)}, "1 strides"),
        ({"blocks": (1, 0, 1)}, "at least one block"),
        ({"stem_kernel": 4}, "odd kernel"),
        ({"strides": (4, 2, 2)}, "too small for strides"),
        ({"strides": (2, 0, 2)}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ResNet((1, 16, 16), **options)
    assert not ResNet((1, 16, 16)).takes(15, 16)
    assert ResNet((1, 16, 16)).takes(40, 16)
