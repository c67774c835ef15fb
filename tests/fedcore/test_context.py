import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedcore.allocation import allocate
from fedcore.blocks import Block, freeze, slice_weights, whole_weights
from fedcore.context import CONTEXT_RULES, ActivationMeter, context_orders, corrected, merge_means
from fedcore.model import build_model
from fedcore.neurons import Layer, NeuronMap, Parameter
from fedcore.objectives.heads import apply_head

torch.set_num_threads(1)


def tiny(encoder="convnet", objective="simclr"):
    model = build_model((1, 12, 12), encoder, objective, {"widths": (6, 9, 12)}, {"hidden": 16, "outputs": 7})
    return model, model.init_state(torch.Generator().manual_seed(0))


def block_of(model, share=0.3, context=0.5, seed=0):
    return allocate(model.neuron_map, [share], context, "random", 0, np.random.default_rng(seed))[0]


def means_of(model, seed=1):
    draw = torch.Generator().manual_seed(seed)
    return {layer.name: torch.rand(layer.neurons, generator=draw) for layer in model.neuron_map.layers}


@pytest.mark.parametrize("rule", sorted(CONTEXT_RULES))
def test_factors_on_what_is_seen(rule):
    model, state = tiny()
    rule, block = CONTEXT_RULES[rule], block_of(model)
    out = corrected(rule, model.neuron_map, block, means_of(model))
    weights = slice_weights(state, model.neuron_map, out)
    assert out.trained is block.trained
    assert out.context is block.context
    for layer in model.neuron_map.layers[:-1]:
        m, seen = len(block.trained[layer.name]), len(block.context[layer.name])
        c = seen / (layer.neurons - m)
        assert 0 < c < 1
        expected = {"mean": 1 / c, "moment": c**-0.5, "none": 1.0, "constant": 1.0}[rule.correction]
        scale = weights.context_scale.get(layer.name, torch.ones(m + seen))
        assert scale.tolist() == pytest.approx([1.0] * m + [expected] * seen)
    assert model.neuron_map.layers[-1].name not in weights.context_scale
    assert bool(weights.constant) == (rule.correction == "constant")


def test_moment_scaling_keeps_the_second_moment_of_a_sum_of_independent_terms():
    n, m, seen = 40, 8, 16
    layer = Layer("a", n)
    block = Block({"a": torch.arange(m)}, {"a": torch.arange(m, m + seen)})
    out = corrected(CONTEXT_RULES["nested-moment"], NeuronMap((layer,), ()), block, {})
    scale = slice_weights({}, NeuronMap((layer,), ()), out).context_scale["a"]
    assert (scale**2).sum() == pytest.approx(n)


@pytest.mark.parametrize("encoder", ["mlp", "convnet"])
@pytest.mark.parametrize(("share", "context"), [(0.3, 0.5), (0.4, 0.0)])
def test_the_constant_is_what_unseen_neurons_add_when_they_are_at_their_mean(encoder, share, context):
    model, state = tiny(encoder)
    means = means_of(model)
    block = corrected(CONTEXT_RULES["compensated"], model.neuron_map, block_of(model, share, context), means)
    weights, whole = slice_weights(state, model.neuron_map, block), whole_weights(state)
    reads = [p for p in model.neuron_map.parameters if p.cols is not None]
    assert set(weights.constant) == {p.name for p in reads}
    for p in reads:
        visible = block.visible(p.cols)
        unseen = sorted(set(range(p.shape[1])) - set(visible.tolist()))
        shape = (5, p.shape[1], 8, 8) if len(p.shape) > 2 else (5, p.shape[1])
        x = torch.randn(shape, generator=torch.Generator().manual_seed(2))
        assert unseen
        x[:, unseen] = means[p.cols][unseen].view(-1, *[1] * (len(shape) - 2))

        def apply(w, x, name=p.name):
            return w.conv2d(x, name) if x.dim() > 2 else w.linear(x, name)

        inner = (slice(None), slice(None), *[slice(1, -1)] * (len(shape) - 2))
        rows = torch.arange(p.shape[0]) if model.neuron_map.layer(p.rows).always_visible else block.visible(p.rows)
        expected = apply(whole, x)[:, rows]
        for sliced in (weights, freeze(weights)):
            torch.testing.assert_close(apply(sliced, x[:, visible])[inner], expected[inner], rtol=1e-4, atol=1e-5)
        weights.constant.pop(p.name)
        assert not torch.allclose(apply(weights, x[:, visible])[inner], expected[inner], atol=1e-2)


def test_a_kept_order_stays_and_follows_from_the_seed():
    model, state = tiny()
    rule = CONTEXT_RULES["nested"]
    one, again, other = (context_orders(rule, model.neuron_map, s, {}, seed) for s, seed in ((state, 1), ({}, 1), ({}, 2)))
    for layer in model.neuron_map.layers:
        assert sorted(one[layer.name].tolist()) == list(range(layer.neurons))
        assert np.array_equal(one[layer.name], again[layer.name])
    assert not np.array_equal(one["projector.hidden"], other["projector.hidden"])
    assert context_orders(CONTEXT_RULES["random"], model.neuron_map, state, {}, 1) is None


def test_the_largest_contribution_comes_first_by_hand():
    neuron_map = NeuronMap((Layer("a", 3), Layer("b", 2)), (Parameter("b.weight", (2, 3, 1, 2), "b", "a"),))
    weight = torch.tensor([[[[3.0, 0.0]], [[1.0, 1.0]], [[0.0, 5.0]]], [[[4.0, 0.0]], [[1.0, 1.0]], [[0.0, 0.0]]]])
    means = {"a": torch.tensor([1.0, 4.0, 0.5])}  # times columns of norm 5, 2, 5: contributions 5, 8, 2.5
    orders = context_orders(CONTEXT_RULES["important"], neuron_map, {"b.weight": weight}, means, 0)
    assert orders["a"].tolist() == [1, 0, 2]
    kept = context_orders(CONTEXT_RULES["nested"], neuron_map, {}, {}, 0)
    assert orders["b"].tolist() == kept["b"].tolist()


def test_the_meter_gives_mean_activations_of_visible_neurons_and_changes_nothing():
    model, state = tiny("mlp")
    block = block_of(model)
    weights, meter = slice_weights(state, model.neuron_map, block), ActivationMeter()
    batches = torch.randn(2, 6, 1, 12, 12, generator=torch.Generator().manual_seed(3))
    totals = dict.fromkeys(("fc1", "fc2", "fc3", "projector.hidden"), 0.0)
    for x in batches:
        metered = meter.view(weights)
        out = apply_head(metered, "projector", model.encoder.features(metered, x))
        torch.testing.assert_close(out, apply_head(weights, "projector", model.encoder.features(weights, x)), rtol=0, atol=0)
        h = x
        for i in (1, 2, 3):
            h = F.relu(F.layer_norm((h := weights.linear(h.flatten(1), f"fc{i}.weight")), h.shape[1:],
                                    weights.vector(f"fc{i}.gain"), weights.vector(f"fc{i}.bias")))  # fmt: skip
            totals[f"fc{i}"] += h.detach().mean(0) / 2
            h = weights.rescale(h, f"fc{i}")
        h = F.batch_norm(weights.linear(h, "projector.hidden.weight"), None, None, weights.vector("projector.hidden.gain"),
                         weights.vector("projector.hidden.bias"), training=True)  # fmt: skip
        totals["projector.hidden"] += h.relu().detach().mean(0) / 2
    means = meter.means()
    assert set(means) == set(totals)
    for name, expected in totals.items():
        torch.testing.assert_close(means[name], expected, rtol=1e-5, atol=1e-6)
        assert means[name].shape == (len(block.visible(name)),)


def test_maps_are_averaged_over_places():
    model, state = tiny("convnet")
    meter, x = ActivationMeter(), torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(3))
    last = model.encoder.features(meter.view(whole_weights(state)), x)
    torch.testing.assert_close(meter.means()["conv3"], last.mean(0))


def test_means_of_machines_are_merged_where_they_were_seen():
    neuron_map = NeuronMap((Layer("a", 4), Layer("b", 2)), ())
    empty = torch.arange(0)
    one = Block({"a": torch.tensor([2]), "b": empty}, {"a": torch.tensor([0]), "b": empty})
    two = Block({"a": torch.tensor([0, 3]), "b": empty}, {"a": empty, "b": empty})
    parts = [(one, {"a": torch.tensor([5.0, 1.0])}, 3.0), (two, {"a": torch.tensor([3.0, 7.0])}, 1.0)]
    merged = merge_means({}, neuron_map, parts)
    assert set(merged) == {"a"}
    assert merged["a"].tolist() == [(3 * 1 + 3) / 4, 0.0, 5.0, 7.0]
    later = merge_means({"a": torch.tensor([9.0, 8.0, 9.0, 9.0])}, neuron_map, parts)
    assert later["a"].tolist() == [1.5, 8.0, 5.0, 7.0]
