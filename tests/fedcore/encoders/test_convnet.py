import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedcore.blocks import whole_weights
from fedcore.encoders import ENCODERS, ConvNet
from fedcore.neurons import kaiming_state

torch.set_num_threads(1)


def test_it_is_registered():
    assert ENCODERS["convnet"] is ConvNet


@pytest.mark.parametrize(
    ("shape", "widths", "strides", "kernel"),
    [((1, 16, 16), (6, 8, 10), (2, 1, 2), 5), ((3, 13, 9), (4,), (2,), 3), ((3, 15, 15), (5, 7), (1, 3), 7)],
)
def test_features_are_those_of_plain_modules(shape, widths, strides, kernel):
    encoder = ConvNet(shape, widths, strides, kernel)
    generator = torch.Generator().manual_seed(0)
    state = kaiming_state(encoder.neuron_map, generator, encoder.norm_gains)
    state = {n: t + 0.2 * torch.randn(t.shape, generator=generator) for n, t in state.items()}
    images = torch.randn(4, *shape, generator=generator)
    x, inputs = images, shape[0]
    for i, (width, stride) in enumerate(zip(widths, strides, strict=True), 1):
        side = kernel if i == 1 else 3
        conv = nn.Conv2d(inputs, width, side, stride, side // 2, bias=False)
        conv.weight.data = state[f"conv{i}.weight"]
        norm = nn.GroupNorm(1, width)
        norm.weight.data, norm.bias.data = state[f"conv{i}.gain"], state[f"conv{i}.bias"]
        x, inputs = F.relu(norm(conv(x))), width
        layer = encoder.neuron_map.layer(f"conv{i}")
        assert layer.positions == x.shape[2] * x.shape[3]
        weight = next(p for p in encoder.neuron_map.parameters if p.name == f"conv{i}.weight")
        assert weight.macs == layer.positions
        assert weight.shape == tuple(conv.weight.shape)
    torch.testing.assert_close(encoder.features(whole_weights(state), images), x.mean((2, 3)))
    assert encoder.feature_dim == widths[-1]
    assert encoder.feature_layer == f"conv{len(widths)}"


def test_features_do_not_depend_on_the_rest_of_the_batch():
    encoder = ConvNet((1, 16, 16))
    state = kaiming_state(encoder.neuron_map, torch.Generator().manual_seed(0), encoder.norm_gains)
    x = torch.randn(5, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    both = encoder.features(whole_weights(state), x)
    torch.testing.assert_close(encoder.features(whole_weights(state), x[2:3]), both[2:3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (4, 8)}, "2 widths, 3 strides"),
        ({"strides": (2,)}, "3 widths, 1 strides"),
        ({"first_kernel": 4}, "odd kernel"),
        ({"strides": (4, 2, 2)}, "too small for strides"),
        ({"strides": (2, 0, 2)}, "at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConvNet((1, 16, 16), **options)
