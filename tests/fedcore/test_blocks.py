from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedcore.allocation import RULES, allocate
from fedcore.blocks import Block, Weights, freeze, slice_weights, whole_block, whole_weights
from fedcore.model import Model, build_model
from fedcore.neurons import Layer, NeuronMap, State
from fedcore.samples import Batch

torch.set_num_threads(1)

OPTIONS = {"convnet": {"widths": (7, 10, 9), "strides": (2, 1, 2)}, "mlp": {"widths": (20, 13)}}


def tiny(encoder: str, objective: str, seed: int = 0) -> tuple[Model, State]:
    model = build_model((1, 12, 12), encoder, objective, OPTIONS[encoder], {"hidden": 15, "outputs": 8})
    generator = torch.Generator().manual_seed(seed)
    state = model.init_state(generator)
    # Vectors apart from 0 and 1, so that a wrong order of neurons shows.
    return model, {
        n: t + (0.3 * torch.randn(t.shape, generator=generator) if t.dim() == 1 else 0) for n, t in state.items()
    }


def block_of(model: Model, share: float, context: float, rule: str = "random", seed: int = 0) -> Block:
    block = allocate(model.neuron_map, [0.2, share], context, rule, 4, np.random.default_rng(seed))[1]
    assert block is not None
    return block


def images(n: int = 6) -> torch.Tensor:
    return torch.randn(n, 1, 12, 12, generator=torch.Generator().manual_seed(9))


def target_of(model: Model, seed: int = 1) -> State:
    return {n: t for n, t in tiny_state(model, seed).items() if n in model.target_parameters}


def tiny_state(model: Model, seed: int) -> State:
    return model.init_state(torch.Generator().manual_seed(seed))


def loss_of(model: Model, state: State, block: Block) -> tuple[torch.Tensor, Weights]:
    weights = slice_weights(state, model.neuron_map, block)
    aim = freeze(slice_weights(target_of(model), model.neuron_map, block)) if model.target_parameters else None
    x = images()
    return model.objective.loss(model.encoder.features, weights, aim, Batch((x, x.flip(3) + 0.1 * x.roll(1, 0)))), weights


@pytest.mark.parametrize("encoder", ["convnet", "mlp"])
@pytest.mark.parametrize(("share", "context"), [(0.4, 1.0), (0.4, 0.5), (0.4, 0.0), (1.0, 0.3)])
def test_slices_hold_exactly_the_visible_entries(encoder, share, context):
    model, state = tiny(encoder, "byol")
    block = block_of(model, share, context)
    weights = slice_weights(state, model.neuron_map, block)
    for p in model.neuron_map.parameters:
        for part, rows in ((weights.trained, block.trained[p.rows]), (weights.frozen, block.context[p.rows])):
            if len(rows) == 0:
                assert p.name not in part
                continue
            expected = state[p.name][rows]
            if p.cols is not None:
                expected = expected[:, block.visible(p.cols)]
            assert torch.equal(part[p.name], expected)
            assert part[p.name].requires_grad == (part is weights.trained)
            assert part[p.name].untyped_storage().data_ptr() != state[p.name].untyped_storage().data_ptr()


@pytest.mark.parametrize("encoder", ["convnet", "mlp"])
@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("share", [0.15, 0.5, 1.0])
def test_with_all_context_a_slice_computes_what_the_whole_network_does(encoder, rule, share):
    model, state = tiny(encoder, "simclr")
    block = block_of(model, share, 1.0, rule)
    weights = slice_weights(state, model.neuron_map, block)
    whole = model.encoder.features(whole_weights(state), images())
    sliced = model.encoder.features(weights, images())
    order = block.visible(model.encoder.feature_layer)
    torch.testing.assert_close(sliced, whole[:, order], atol=1e-5, rtol=1e-5)
    assert whole.std() > 0.01


@pytest.mark.parametrize("encoder", ["convnet", "mlp"])
@pytest.mark.parametrize("objective", ["simclr", "byol"])
@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("share", [0.15, 0.5])
def test_with_all_context_loss_and_gradients_are_those_of_the_whole_network(encoder, objective, rule, share):
    model, state = tiny(encoder, objective)
    whole_loss, whole = loss_of(model, state, whole_block(model.neuron_map))
    whole_loss.backward()
    block = block_of(model, share, 1.0, rule)
    loss, weights = loss_of(model, state, block)
    loss.backward()
    torch.testing.assert_close(loss, whole_loss, atol=1e-5, rtol=1e-5)
    for p in model.neuron_map.parameters:
        expected = whole.trained[p.name].grad[block.trained[p.rows]]
        if p.cols is not None:
            expected = expected[:, block.visible(p.cols)]
        torch.testing.assert_close(weights.trained[p.name].grad, expected, atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("objective", ["simclr", "byol"])
@pytest.mark.parametrize("context", [0.0, 0.5, 1.0])
def test_gradients_exist_for_trained_rows_only(objective, context):
    model, state = tiny("convnet", objective)
    block = block_of(model, 0.3, context)
    loss, weights = loss_of(model, state, block)
    loss.backward()
    assert set(weights.trained) == set(state)
    for p in model.neuron_map.parameters:
        gradient = weights.trained[p.name].grad
        assert gradient.shape[0] == len(block.trained[p.rows])
    assert sum(float(t.grad.abs().sum()) for t in weights.trained.values()) > 0
    assert all(t.grad is None and not t.requires_grad for t in weights.frozen.values())
    assert all(not t.requires_grad and t.grad is None for t in state.values())


def test_without_context_a_slice_is_the_small_network_of_its_own_neurons():
    model, state = tiny("mlp", "simclr")
    block = block_of(model, 0.4, 0.0)
    x = images().flatten(1)
    previous = None
    for layer in model.encoder.neuron_map.layers:
        own = block.trained[layer.name]
        w = state[f"{layer.name}.weight"][own]
        w = w if previous is None else w[:, previous]
        x = F.layer_norm(x @ w.T, (len(own),), state[f"{layer.name}.gain"][own], state[f"{layer.name}.bias"][own])
        x, previous = x.relu(), own
    weights = slice_weights(state, model.neuron_map, block)
    torch.testing.assert_close(model.encoder.features(weights, images()), x, atol=1e-5, rtol=1e-5)
    assert weights.context_scale == {}


def test_thinned_context_keeps_the_mean_pre_activation():
    layer = Layer("a", 7)
    neuron_map = NeuronMap((layer,), ())
    generator = torch.Generator().manual_seed(0)
    activations, w = torch.rand(5, 7, generator=generator), torch.randn(3, 7, generator=generator)
    trained = torch.tensor([1, 4])
    rest = [0, 2, 3, 5, 6]
    for size in (1, 2, 4):
        outs = []
        for chosen in combinations(rest, size):
            block = Block({"a": trained}, {"a": torch.tensor(chosen)})
            scale = slice_weights({}, neuron_map, block).context_scale["a"]
            assert torch.equal(scale[:2], torch.ones(2))
            assert torch.allclose(scale[2:], torch.full((size,), 5 / size))
            visible = block.visible("a")
            outs.append(slice_weights({}, neuron_map, block).rescale(activations[:, visible], "a") @ w[:, visible].T)
        torch.testing.assert_close(torch.stack(outs).mean(0), activations @ w.T, atol=1e-5, rtol=1e-5)


def test_rescaling_reaches_the_channel_dimension_of_maps_and_only_thinned_layers():
    weights = Weights({}, {}, {"a": torch.tensor([1.0, 3.0])})
    x = torch.ones(2, 2, 4, 4)
    out = weights.rescale(x, "a")
    assert torch.equal(out[:, 0], x[:, 0])
    assert torch.equal(out[:, 1], 3 * x[:, 1])
    assert weights.rescale(x, "b") is x


@pytest.mark.parametrize("encoder", ["convnet", "mlp"])
def test_the_encoder_applies_the_rescaling(encoder):
    model, state = tiny(encoder, "simclr")
    weights = slice_weights(state, model.neuron_map, block_of(model, 0.3, 0.5))
    last = model.encoder.feature_layer
    scale = weights.context_scale.pop(last)
    plain = model.encoder.features(weights, images())
    weights.context_scale[last] = scale
    torch.testing.assert_close(model.encoder.features(weights, images()), plain * scale)
    first = model.neuron_map.layers[0].name
    del weights.context_scale[first]
    assert not torch.allclose(model.encoder.features(weights, images()), plain * scale, atol=1e-3)


def test_the_output_of_a_head_is_never_thinned_and_keeps_the_whole_models_order():
    model, state = tiny("mlp", "byol")
    block = block_of(model, 0.4, 0.2)
    weights = slice_weights(state, model.neuron_map, block)
    for name in ("projector", "predictor"):
        visible = block.visible(f"{name}.out")
        assert f"{name}.out" not in weights.context_scale
        assert sorted(visible.tolist()) == list(range(8)) != visible.tolist()
        h = torch.randn(5, len(block.visible(f"{name}.hidden")))
        whole = h @ state[f"{name}.out.weight"][:, block.visible(f"{name}.hidden")].T
        torch.testing.assert_close(weights.linear(h, f"{name}.out.weight"), whole)
        torch.testing.assert_close(freeze(weights).linear(h, f"{name}.out.weight"), whole)


def test_freezing_keeps_values_and_differentiates_nothing():
    model, state = tiny("convnet", "simclr")
    weights = slice_weights(state, model.neuron_map, block_of(model, 0.3, 0.5))
    frozen = freeze(weights)
    assert frozen.trained == {}
    assert not any(t.requires_grad for t in frozen.frozen.values())
    torch.testing.assert_close(
        model.encoder.features(frozen, images()), model.encoder.features(weights, images()).detach()
    )


def test_a_target_that_lacks_the_predictor_is_sliced_without_it():
    model, _ = tiny("mlp", "byol")
    weights = slice_weights(target_of(model), model.neuron_map, block_of(model, 0.5, 1.0))
    assert set(weights.trained) == set(model.target_parameters)
