import pytest
import torch

from fedcore.neurons import Layer, NeuronMap, Parameter, kaiming_state


def test_a_map_refuses_names_that_repeat():
    layer = Layer("a", 3)
    with pytest.raises(ValueError, match="unique"):
        NeuronMap((layer, layer), ())
    weight = Parameter("w", (3, 2), "a")
    with pytest.raises(ValueError, match="unique"):
        NeuronMap((layer,), (weight, weight))


@pytest.mark.parametrize(("shape", "cols"), [((4, 2), None), ((3, 5), "b"), ((3,), "b")])
def test_a_map_refuses_parameters_that_do_not_fit_their_layers(shape, cols):
    with pytest.raises(ValueError, match="does not fit"):
        NeuronMap((Layer("b", 2), Layer("a", 3)), (Parameter("w", shape, "a", cols),))


def test_a_map_refuses_what_holds_nothing():
    with pytest.raises(ValueError, match="layer a has 0 neurons"):
        NeuronMap((Layer("a", 0),), ())
    with pytest.raises(ValueError, match="at least 1"):
        NeuronMap((Layer("a", 3),), (Parameter("w", (3, 2, -1, -1), "a"),))


def test_maps_add_up_and_the_sum_checks_columns_that_only_it_knows():
    head = NeuronMap((Layer("h", 4),), (Parameter("h.w", (4, 3), "h", "a"),))
    both = NeuronMap((Layer("a", 3),), ()) + head
    assert [layer.name for layer in both.layers] == ["a", "h"]
    assert both.layer("h").neurons == 4
    with pytest.raises(ValueError, match="does not fit"):
        NeuronMap((Layer("a", 2),), ()) + head


def test_entries_per_pair():
    assert Parameter("w", (8, 4, 3, 3), "a", "b").per_pair == 9
    assert Parameter("w", (8, 3, 5, 5), "a").per_pair == 75  # the input's channels are no neurons
    assert Parameter("b", (8,), "a").per_pair == 1


def test_initial_weights_are_he_normal_gains_one_and_biases_zero():
    layers = (Layer("a", 200), Layer("b", 150))
    parameters = (
        Parameter("a.gain", (200,), "a"),
        Parameter("a.bias", (200,), "a"),
        Parameter("b.w", (150, 200, 3, 3), "b", "a"),
    )
    neuron_map = NeuronMap(layers, parameters)
    state = kaiming_state(neuron_map, torch.Generator().manual_seed(0), frozenset({"a.gain"}))
    assert torch.equal(state["a.gain"], torch.ones(200))
    assert torch.equal(state["a.bias"], torch.zeros(200))
    assert float(state["b.w"].std()) == pytest.approx((2 / (200 * 9)) ** 0.5, rel=0.01)
    again = kaiming_state(neuron_map, torch.Generator().manual_seed(0), frozenset({"a.gain"}))
    other = kaiming_state(neuron_map, torch.Generator().manual_seed(1), frozenset({"a.gain"}))
    assert torch.equal(state["b.w"], again["b.w"])
    assert not torch.equal(state["b.w"], other["b.w"])
