import torch
from torch import nn

from fedcore.blocks import whole_weights
from fedcore.encoders import ENCODERS, MLP
from fedcore.neurons import kaiming_state

torch.set_num_threads(1)


def test_features_are_those_of_plain_modules():
    assert ENCODERS["mlp"] is MLP
    encoder = MLP((3, 6, 5), (11, 7))
    generator = torch.Generator().manual_seed(0)
    state = kaiming_state(encoder.neuron_map, generator, encoder.norm_gains)
    state = {n: t + 0.2 * torch.randn(t.shape, generator=generator) for n, t in state.items()}
    net = nn.Sequential(nn.Flatten())
    inputs = 90
    for i, width in enumerate((11, 7), 1):
        linear, norm = nn.Linear(inputs, width, bias=False), nn.LayerNorm(width)
        linear.weight.data = state[f"fc{i}.weight"]
        norm.weight.data, norm.bias.data = state[f"fc{i}.gain"], state[f"fc{i}.bias"]
        net.extend([linear, norm, nn.ReLU()])
        inputs = width
    x = torch.randn(4, 3, 6, 5, generator=generator)
    torch.testing.assert_close(encoder.features(whole_weights(state), x), net(x))
    assert (encoder.feature_layer, encoder.feature_dim) == ("fc2", 7)
    assert encoder.norm_gains == {"fc1.gain", "fc2.gain"}
    assert {p.name: p.macs for p in encoder.neuron_map.parameters if p.macs} == {"fc1.weight": 1, "fc2.weight": 1}
