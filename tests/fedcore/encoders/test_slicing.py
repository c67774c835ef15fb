"""What every encoder owes to the blocks, held against two whose neurons are not simply one layer after another: residual
streams that several convolutions write to, and spline kernels made of several parameters."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch.utils.flop_counter import FlopCounterMode

from fedcore.allocation import RULES, allocate
from fedcore.blocks import Block, freeze, slice_weights, whole_block, whole_weights
from fedcore.costs import cost_of_block, cost_of_share
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.merge import Update, merge, refusal
from fedcore.methods import IntraLayer
from fedcore.model import Model, build_model
from fedcore.probes import HeldOutInfoNCE
from fedcore.probes.features import to_tensor
from fedcore.samples import Batch, Samples
from fedcore.training import FederatedTraining

torch.set_num_threads(1)

CASES = {
    "resnet": ("resnet", {"widths": (6, 8, 10), "blocks": (1, 2, 1), "strides": (1, 2, 2)}),
    "resnet, thinned stream": (
        "resnet", {"widths": (6, 8, 10), "blocks": (1, 2, 1), "strides": (1, 2, 2), "whole_stream": False}
    ),
    "convkan": ("convkan", {"widths": (6, 8, 10), "strides": (1, 2, 2), "grid": 4}),
}  # fmt: skip
SIZE, IMAGES, OUTPUTS = 12, 6, 8
every_case = pytest.mark.parametrize("case", sorted(CASES))


def model_of(case: str, objective: str = "simclr") -> Model:
    encoder, options = CASES[case]
    return build_model((1, SIZE, SIZE), encoder, objective, options, {"hidden": 14, "outputs": OUTPUTS})


def state_of(model: Model, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    state = model.init_state(generator)
    # Apart from 0 and 1, so that a wrong order of neurons shows; splines that matter beside SiLU.
    return {
        n: t + (0.3 if t.dim() == 1 or t.dim() == 5 else 0.0) * torch.randn(t.shape, generator=generator)
        for n, t in state.items()
    }


def block_of(model: Model, share: float, context: float, rule: str = "random", seed: int = 0) -> Block:
    block = allocate(model.neuron_map, [0.2, share], context, rule, 4, np.random.default_rng(seed))[1]
    assert block is not None
    return block


def images(n: int = IMAGES, size: int = SIZE) -> torch.Tensor:
    return torch.randn(n, 1, size, size, generator=torch.Generator().manual_seed(9))


def order_of(model: Model, block: Block) -> torch.Tensor:
    layer = model.encoder.neuron_map.layer(model.encoder.feature_layer)
    return torch.arange(layer.neurons) if layer.always_visible else block.visible(layer.name)


shares = st.floats(0.01, 1.0)
rules = st.sampled_from([rule for rule in RULES if rule != "importance"])


@every_case
@settings(max_examples=10, deadline=None)
@given(st.lists(shares, min_size=1, max_size=3), st.floats(0, 1), rules, st.integers(0, 1000))
def test_slicing_and_merging_unchanged_is_the_identity(case, taken, context, rule, seed):
    model = model_of(case)
    state = state_of(model, seed)
    blocks = allocate(model.neuron_map, taken, context, rule, seed, np.random.default_rng(seed))
    updates = []
    for k, block in enumerate([*blocks, whole_block(model.neuron_map)]):
        weights = slice_weights(state, model.neuron_map, block)
        update = Update(str(k), block, {n: t.detach() for n, t in weights.trained.items()}, 3.0 + k)
        assert refusal(update, state, model.neuron_map) is None
        updates.append(update)
    for some in (updates, updates[-1:], updates[:-1]):
        merged = merge(state, model.neuron_map, some)
        assert set(merged) == set(state)
        assert all(torch.equal(merged[name], value) for name, value in state.items())


@every_case
@settings(max_examples=10, deadline=None)
@given(shares, rules, st.integers(0, 1000))
def test_with_all_context_features_are_those_of_the_whole_model(case, share, rule, seed):
    model = model_of(case)
    state = state_of(model, seed)
    block = block_of(model, share, 1.0, rule, seed)
    weights = slice_weights(state, model.neuron_map, block)
    whole = model.encoder.features(whole_weights(state), images())
    expected = whole[:, order_of(model, block)]
    torch.testing.assert_close(model.encoder.features(weights, images()), expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(model.encoder.features(freeze(weights), images()), expected, atol=2e-5, rtol=1e-4)
    assert whole.std() > 0.01


@every_case
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_with_all_context_loss_and_gradients_are_those_of_the_whole_model(case, share):
    model = model_of(case)
    state = state_of(model)
    x = images()
    gradients = []
    block = block_of(model, share, 1.0)
    for held in (whole_block(model.neuron_map), block):
        weights = slice_weights(state, model.neuron_map, held)
        loss = model.objective.loss(model.encoder.features, weights, None, Batch((x, x.flip(3) + 0.1 * x.roll(1, 0))))
        loss.backward()
        gradients.append({name: t.grad for name, t in weights.trained.items()})
        assert all(t.grad is None for t in weights.frozen.values())
    for p in model.neuron_map.parameters:
        expected = gradients[0][p.name][block.trained[p.rows]]
        if p.cols is not None:
            expected = expected[:, block.visible(p.cols)]
        torch.testing.assert_close(gradients[1][p.name], expected, atol=5e-5, rtol=2e-3)
        assert expected.abs().sum() > 0


@every_case
@pytest.mark.parametrize("context", [0.0, 0.5])
def test_thinner_context_is_really_sliced_out(case, context):
    model = model_of(case)
    block = block_of(model, 0.3, context)
    weights = slice_weights(state_of(model), model.neuron_map, block)
    for p in model.neuron_map.parameters:
        held = sum(part[p.name].numel() for part in (weights.trained, weights.frozen) if p.name in part)
        columns = len(block.visible(p.cols)) if p.cols is not None else 1
        assert held == len(block.visible(p.rows)) * columns * p.per_pair
    features = model.encoder.features(weights, images())
    assert features.shape == (IMAGES, len(block.visible(model.encoder.feature_layer)))
    assert torch.isfinite(features).all()


@every_case
def test_stages_and_prefixes_are_the_beginning_of_the_whole(case):
    model = model_of(case)
    encoder, state = model.encoder, state_of(model)
    x = images()
    for depth in (1, 2, 3):
        shallow = encoder.prefix(depth)
        x = encoder.stage(depth - 1, whole_weights(state), x)
        layer = encoder.neuron_map.layer(shallow.feature_layer)
        assert x.shape[1] == layer.neurons == shallow.feature_dim
        assert x.shape[2] * x.shape[3] == layer.positions
        torch.testing.assert_close(shallow.features(whole_weights(state), images()), x.mean((2, 3)))
        # A head on a prefix trains.
        headed = Model(shallow, type(model.objective)(shallow, hidden=9, outputs=5))
        whole = headed.init_state(torch.Generator().manual_seed(1))
        weights = slice_weights(whole, headed.neuron_map, block_of(headed, 0.4, 0.5))
        one, two = images(), images().flip(2)
        headed.objective.loss(headed.encoder.features, weights, None, Batch((one, two))).backward()
        assert all(t.grad is not None for t in weights.trained.values())
        assert set(whole) <= set(state)


grid = pytest.mark.parametrize("context", [1.0, 0.5, 0.0])
parts = pytest.mark.parametrize("share", [1.0, 0.5, 0.25])


def cut(model: Model, share: float, context: float):
    state = model.init_state(torch.Generator().manual_seed(0))
    block = allocate(model.neuron_map, [share], context, "random", 0, np.random.default_rng(0))[0]
    weights = slice_weights(state, model.neuron_map, block)
    target = {name: state[name] for name in model.target_parameters}
    return block, weights, freeze(slice_weights(target, model.neuron_map, block)) if target else None


def counted_flops(model: Model, weights, aim) -> int:
    with FlopCounterMode(display=False) as counter:
        model.objective.loss(model.encoder.features, weights, aim, Batch((images(), images()))).backward()
    # The similarity matrix of SimCLR, forward and twice backward, belongs to no neuron.
    return counter.get_total_flops() - (3 * 2 * (2 * IMAGES) ** 2 * OUTPUTS if aim is None else 0)


@every_case
@pytest.mark.parametrize("objective", ["simclr", "byol"])
@grid
@parts
def test_step_flops_are_those_that_torch_counts(case, objective, share, context):
    model = model_of(case, objective)
    block, weights, aim = cut(model, share, context)
    cost = cost_of_block(model, block, IMAGES)
    assert cost.step_flops == pytest.approx(counted_flops(model, weights, aim), rel=0.02)
    assert cost == cost_of_share(model, share, context, IMAGES)


@every_case
@pytest.mark.parametrize("frozen", [1, 2])
def test_frozen_first_stages_cost_a_forward_pass(case, frozen):
    model = model_of(case)
    below = {name for stage in model.encoder.stages[:frozen] for name in stage}
    whole = whole_block(model.neuron_map).trained
    block = Block(
        {name: index[:0] if name in below else index for name, index in whole.items()},
        {name: index if name in below else index[:0] for name, index in whole.items()},
    )
    weights = slice_weights(state_of(model), model.neuron_map, block)
    # A whole stream's readers do not say what they read, so the 1x1 shortcut counts an input gradient too many.
    tolerance = 0.03 if case == "resnet" else 1e-6
    assert cost_of_block(model, block, IMAGES).step_flops == pytest.approx(
        counted_flops(model, weights, None), rel=tolerance
    )


@every_case
@pytest.mark.parametrize("objective", ["simclr", "byol"])
@grid
@parts
def test_bytes_are_those_of_the_serialised_tensors(case, objective, share, context):
    model = model_of(case, objective)
    block, weights, aim = cut(model, share, context)

    def payload(tensors: dict[str, torch.Tensor]) -> int:
        file = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
        return len(file) - 8 - int.from_bytes(io.BytesIO(file).read(8), "little")

    cost = cost_of_block(model, block, IMAGES)
    assert cost.upload_bytes == payload(weights.trained)
    assert cost.download_bytes == payload(weights.trained) + payload(weights.frozen) + (payload(aim.frozen) if aim else 0)


@every_case
@grid
@parts
def test_what_layers_say_they_keep_is_what_the_backward_pass_keeps(case, share, context):
    model = model_of(case)
    block, weights, _ = cut(model, share, context)
    x = images(11)  # more than any layer has neurons: kernels and maps cannot be mixed up
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 4 and len(tensor) == len(x):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = model.encoder.features(weights, x)
    features.sum().backward()
    said = sum(
        len(x) * layer.positions * layer.stored * len(block.visible(layer.name)) for layer in model.encoder.neuron_map.layers
    )
    image = x.numel()  # kept by the first layer, as it is or behind a tanh; no neuron of the model
    assert sum(kept.values()) == said + image


def gratings(n: int, seed: int) -> np.ndarray:
    """Noisy stripes of any period, direction and sharpness."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    period, angle, phase, sharp = (
        rng.uniform(low, high, (n, 1, 1)) for low, high in ((0.2, 2.2), (0, np.pi), (0, 6.28), (0.3, 4))
    )
    wave = np.tanh(sharp * np.sin(period * (x * np.cos(angle) + y * np.sin(angle)) + phase)) / np.tanh(sharp)
    return np.clip(128 + 40 * wave + 25 * rng.normal(size=wave.shape), 0, 255).astype(np.uint8)[..., None]


@pytest.mark.parametrize("case", ["resnet", "convkan"])
@pytest.mark.parametrize("share", [0.5, 0.25])
def test_shares_of_it_learn(case, share):
    encoder, options = CASES[case]
    options = options | {"widths": (8, 12, 20), "strides": (2, 2, 1)} | ({"blocks": (1, 1, 1)} if case == "resnet" else {})
    model = build_model((1, 16, 16), encoder, "simclr", options, {"hidden": 32, "outputs": 16})
    engine = InProcessEngine(
        [Samples(to_tensor(gratings(48, k))) for k in range(3)], LocalRecipe(batch_size=24, precision="fp32")
    )
    probe = HeldOutInfoNCE(gratings(96, 7))
    training = FederatedTraining(model, engine, ["a", "b", "c"], probe, None, method=IntraLayer(), seed=1)
    before = {name: value.clone() for name, value in training.state.items()}
    reports = [training.play([share] * 3, 8) for _ in range(8)]
    losses = [report.losses.mean() for report in reports]
    assert np.mean(losses[-2:]) < losses[0] - 0.7
    assert np.mean([report.infonce for report in reports[-3:]]) < training.untrained - 0.05
    assert all(not report.refused for report in reports)
    # Every weight has moved, none is left out of the merge.
    assert all((value != before[name]).float().mean() > 0.9 for name, value in training.state.items())
