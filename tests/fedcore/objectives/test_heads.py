import pytest
import torch
from torch import nn

from fedcore.blocks import whole_weights
from fedcore.neurons import Layer, NeuronMap, kaiming_state
from fedcore.objectives.heads import apply_head, mlp_head


def test_a_head_is_linear_norm_relu_linear():
    neuron_map = NeuronMap((Layer("in", 6),), ()) + mlp_head("p", "in", 6, 9, 4)
    generator = torch.Generator().manual_seed(0)
    state = kaiming_state(neuron_map, generator, frozenset({"p.hidden.gain"}))
    state["p.hidden.gain"] += 0.3 * torch.randn(9, generator=generator)
    state["p.hidden.bias"] += 0.3 * torch.randn(9, generator=generator)
    net = nn.Sequential(nn.Linear(6, 9, bias=False), nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 4, bias=False))
    net[0].weight.data, net[3].weight.data = state["p.hidden.weight"], state["p.out.weight"]
    net[1].weight.data, net[1].bias.data = state["p.hidden.gain"], state["p.hidden.bias"]
    x = torch.randn(12, 6, generator=generator)
    torch.testing.assert_close(apply_head(whole_weights(state), "p", x), net(x))
    # There are no running statistics: a head under inference mode uses the batch's own all the same.
    with torch.inference_mode():
        torch.testing.assert_close(apply_head(whole_weights(state), "p", x), net(x))


def test_only_the_output_keeps_its_width():
    head = mlp_head("p", "in", 6, 9, 4)
    assert [(layer.name, layer.always_visible) for layer in head.layers] == [("p.hidden", False), ("p.out", True)]
    with pytest.raises(ValueError, match="does not fit"):
        NeuronMap((Layer("in", 5),), ()) + head
