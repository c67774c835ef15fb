import io
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fedcore.allocation import RULES, allocate
from fedcore.blocks import Block, freeze, slice_weights, whole_block, whole_weights
from fedcore.costs import BlockCost, cost_of_block, cost_of_share
from fedcore.local import LocalRecipe, LocalTask, train_block
from fedcore.merge import Update, merge, refusal
from fedcore.model import Model, build_model
from fedcore.samples import Batch, Samples

torch.set_num_threads(1)

SAMPLES = 6
MODELS = {
    "vit": ((1, 8, 8), "simclr", {"dim": 12, "depth": 2, "heads": 4, "patch": 2, "units": 10}, {"hidden": 10, "outputs": 6}),
    "vit-byol": ((1, 8, 8), "byol", {"dim": 12, "depth": 2, "heads": 4, "patch": 2}, {"hidden": 10, "outputs": 6}),
    "gpt": ((9, 12), "next-token", {"dim": 12, "depth": 2, "heads": 4}, {}),
}
models = pytest.mark.parametrize("which", sorted(MODELS))
cases = pytest.mark.parametrize(
    ("share", "context"), [(1.0, 1.0), (0.5, 1.0), (0.1, 1.0), (0.3, 0.5), (0.25, 0.0), (0.02, 0.0)]
)


def model_of(which: str) -> Model:
    shape, objective, encoder_options, objective_options = MODELS[which]
    return build_model(shape, which.split("-")[0], objective, encoder_options, objective_options)


def state_of(model: Model, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        n: t + (0.3 * torch.randn(t.shape, generator=generator) if t.dim() == 1 else 0)
        for n, t in model.init_state(generator).items()
    }


def batch_of(which: str) -> Batch:
    generator = torch.Generator().manual_seed(9)
    if which == "gpt":
        return Batch((torch.randint(0, 9, (SAMPLES, 13), generator=generator),))
    x = torch.randn(SAMPLES, 1, 8, 8, generator=generator)
    return Batch((x, x.flip(3) + 0.1 * x.roll(1, 0)))


def block_of(model: Model, share: float, context: float, rule: str = "random") -> Block:
    block = allocate(model.neuron_map, [0.2, share], context, rule, 4, np.random.default_rng(0))[1]
    assert block is not None
    return block


def loss_of(which: str, model: Model, block: Block):
    weights = slice_weights(state_of(model), model.neuron_map, block)
    target = {name: state_of(model, 1)[name] for name in model.target_parameters}
    aim = freeze(slice_weights(target, model.neuron_map, block)) if target else None
    return model.objective.loss(model.encoder.features, weights, aim, batch_of(which)), weights, aim


@models
@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("share", [0.15, 0.5])
def test_with_all_context_loss_and_gradients_are_those_of_the_whole_network(which, rule, share):
    model = model_of(which)
    whole_loss, whole, _ = loss_of(which, model, whole_block(model.neuron_map))
    whole_loss.backward()
    block = block_of(model, share, 1.0, rule)
    loss, weights, _ = loss_of(which, model, block)
    loss.backward()
    torch.testing.assert_close(loss, whole_loss, atol=1e-5, rtol=1e-5)
    for p in model.neuron_map.parameters:
        expected = whole.trained[p.name].grad[block.trained[p.rows]]
        if p.cols is not None:
            expected = expected[:, block.visible(p.cols)]
        torch.testing.assert_close(weights.trained[p.name].grad, expected, atol=2e-5, rtol=1e-3)
        assert expected.shape[0] == len(block.trained[p.rows])
    assert all(t.grad is None for t in weights.frozen.values())


@pytest.mark.parametrize("which", ["vit", "gpt"])
def test_without_context_a_slice_is_the_network_of_its_own_heads_and_units(which):
    model = model_of(which)
    state, block = state_of(model), block_of(model, 0.5, 0.0)
    sizes = {name: len(index) for name, index in block.trained.items()}
    assert 0 < sizes["heads1"] < 4
    # The stream is whole, so the small network is one of the same width with fewer heads and units.
    shape, _, options, _ = MODELS[which]
    options = options | {"heads": sizes["heads1"], "head_dim": 3, "units": sizes["units1"]}
    small = build_model(shape, which, MODELS[which][1], options, MODELS[which][3])
    own = {
        p.name: state[p.name] if p.rows.startswith("stream") else state[p.name][block.trained[p.rows]]
        for p in model.encoder.neuron_map.parameters
    }
    x = batch_of(which).views[0][:, :12]
    weights = slice_weights(state, model.neuron_map, block)
    torch.testing.assert_close(
        model.encoder.features(weights, x), small.encoder.features(whole_weights(own), x), atol=1e-5, rtol=1e-4
    )
    assert weights.context_scale == {}


@pytest.mark.parametrize("layer", ["heads1", "units1"])
@pytest.mark.parametrize("which", ["vit", "gpt"])
def test_thinned_context_keeps_the_mean_of_what_is_added_to_the_stream(which, layer):
    model = model_of(which)
    state, encoder = state_of(model), model.encoder
    if layer == "heads1":  # units come after the heads and are not linear in them
        state["units1.out"] = torch.zeros_like(state["units1.out"])
    neurons = encoder.neuron_map.layer(layer).neurons
    trained, rest = torch.tensor([1]), [i for i in range(neurons) if i != 1]
    x = batch_of(which).views[0][:, :12]
    whole = whole_block(model.neuron_map)
    outs = []
    for chosen in combinations(rest, 2):
        block = Block(whole.trained | {layer: trained}, whole.context | {layer: torch.tensor(chosen)})
        outs.append(encoder.stage(0, slice_weights(state, model.neuron_map, block), x))
    expected = encoder.stage(0, whole_weights(state), x)
    torch.testing.assert_close(torch.stack(outs).mean(0), expected, atol=1e-5, rtol=1e-4)
    assert (outs[0] - expected).abs().max() > 0.01


@models
@cases
def test_step_flops_are_those_that_torch_counts(which, share, context):
    model = model_of(which)
    block = allocate(model.neuron_map, [share], context, "random", 0, np.random.default_rng(0))[0]
    counted = counted_flops(which, model, block)
    cost = cost_of_block(model, block, SAMPLES)
    assert cost.step_flops == pytest.approx(counted, rel=0.02)
    assert cost == cost_of_share(model, share, context, SAMPLES)


def counted_flops(which: str, model: Model, block: Block) -> int:
    # The fused CPU kernel is not counted by torch; the plain one does the products that the formula states.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss_of(which, model, block)[0].backward()
    similarity = 3 * 2 * (2 * SAMPLES) ** 2 * 6 if which == "vit" else 0  # z @ z.T of SimCLR belongs to no neuron
    return counter.get_total_flops() - similarity


@pytest.mark.parametrize("which", ["vit", "gpt"])
def test_frozen_stages_cost_their_forward_pass_alone(which):
    model = model_of(which)
    whole = whole_block(model.neuron_map)
    frozen = set(model.encoder.stages[0])
    block = Block(
        {n: i[:0] if n in frozen else i for n, i in whole.trained.items()},
        {n: whole.trained[n] if n in frozen else i for n, i in whole.context.items()},
    )
    cost, everything = cost_of_block(model, block, SAMPLES), cost_of_block(model, whole, SAMPLES)
    assert cost.step_flops == pytest.approx(counted_flops(which, model, block), rel=0.02)
    assert cost.step_flops < 0.8 * everything.step_flops
    assert cost.memory_bytes < 0.8 * everything.memory_bytes
    loss, weights, _ = loss_of(which, model, block)
    loss.backward()
    assert not any(n.split(".")[0] in frozen for n in weights.trained)


@models
@cases
def test_bytes_are_those_of_the_serialised_tensors(which, share, context):
    model = model_of(which)
    block = block_of(model, share, context)
    _, weights, aim = loss_of(which, model, block)

    def payload(tensors: dict[str, torch.Tensor]) -> int:
        # A safetensors file is an 8-byte length, a header of that length, then the numbers.
        file = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
        return len(file) - 8 - int.from_bytes(io.BytesIO(file).read(8), "little")

    cost: BlockCost = cost_of_block(model, block, SAMPLES)
    assert cost.upload_bytes == payload(weights.trained)
    assert cost.download_bytes == payload(weights.trained) + payload(weights.frozen) + (payload(aim.frozen) if aim else 0)


@pytest.mark.parametrize("which", ["vit", "gpt"])
@pytest.mark.parametrize(("share", "context"), [(1.0, 1.0), (0.3, 1.0), (0.3, 0.0)])
def test_memory_covers_weights_moments_gradients_and_what_backward_keeps(which, share, context):
    model = model_of(which)
    block = block_of(model, share, context)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, _, _ = loss_of(which, model, block)
    loss.backward()
    cost = cost_of_block(model, block, SAMPLES)
    assert 0.8 < cost.memory_bytes / (sum(kept.values()) + 3 * cost.upload_bytes) < 1.2


shares = st.floats(0.01, 1.0)
rules = st.sampled_from([rule for rule in RULES if rule != "importance"])


@models
@settings(max_examples=10, deadline=None)
@given(st.lists(shares, min_size=1, max_size=3), st.floats(0, 1), rules, st.integers(0, 1000))
def test_slicing_and_merging_unchanged_is_the_identity_whatever_the_blocks(which, taken, context, rule, seed):
    model = model_of(which)
    state = state_of(model, seed)
    updates = []
    blocks = allocate(model.neuron_map, taken, context, rule, seed, np.random.default_rng(seed))
    for k, block in enumerate([*blocks, whole_block(model.neuron_map)]):
        weights = slice_weights(state, model.neuron_map, block)
        updates.append(Update(str(k), block, {n: t.detach() for n, t in weights.trained.items()}, 3.0 + k))
        assert refusal(updates[-1], state, model.neuron_map) is None
        # FLOPs and bytes depend on a share's counts, and not on which neurons they are.
        if k < len(taken):
            assert cost_of_block(model, block, SAMPLES) == cost_of_share(model, taken[k], context, SAMPLES)
    for some in (updates, updates[-1:], updates[:-1]):
        merged = merge(state, model.neuron_map, some)
        assert set(merged) == set(state)
        assert all(torch.equal(merged[name], value) for name, value in state.items())


@pytest.mark.parametrize("which", ["vit", "gpt"])
def test_whole_blocks_merge_to_the_weighted_mean_and_only_trained_neurons_move(which):
    model = model_of(which)
    state = state_of(model)
    generator = torch.Generator().manual_seed(5)
    if which == "gpt":
        samples = Samples(torch.randint(0, 9, (10, 13), generator=generator))
    else:
        samples = Samples(torch.randint(0, 256, (10, 1, 8, 8), generator=generator, dtype=torch.uint8))
    recipe = LocalRecipe(batch_size=4, precision="fp32")
    whole, part = whole_block(model.neuron_map), block_of(model, 0.4, 0.5)
    trained = []
    for k, block in enumerate((whole, whole, part)):
        result = train_block(
            model, state, None, LocalTask(k, block, 2, (k,)), samples, recipe, torch.Generator().manual_seed(k)
        )
        trained.append(Update(str(k), block, result.trained, 1.0 + k))
    merged = merge(state, model.neuron_map, trained[:2])
    for name in state:
        mean = (trained[0].trained[name].double() + 2 * trained[1].trained[name].double()) / 3
        torch.testing.assert_close(merged[name].double(), mean, atol=1e-7, rtol=1e-6)
    moved = merge(state, model.neuron_map, trained[2:])
    for p in model.neuron_map.parameters:
        held = torch.zeros(p.shape[0], dtype=torch.bool)
        held[part.trained[p.rows]] = True
        assert torch.equal(moved[p.name][~held], state[p.name][~held])
    assert not torch.equal(moved["heads1.qkv"], state["heads1.qkv"])


@pytest.mark.parametrize("which", ["vit", "gpt"])
def test_a_prefix_is_the_first_blocks(which):
    encoder = model_of(which).encoder
    state = encoder.init_state(torch.Generator().manual_seed(0))
    first = encoder.prefix(1)
    x = batch_of(which).views[0][:, :12]
    assert {p.name for p in first.neuron_map.parameters} < set(state)
    assert first.feature_layer == "stream1"
    assert first.feature_dim == 12
    own = first.init_state(torch.Generator().manual_seed(0))
    assert all(own[n].shape == state[n].shape for n in own)
    expected = encoder.pool(encoder.stage(0, whole_weights(state), x))
    assert torch.equal(first.features(whole_weights({n: state[n] for n in own}), x), expected)


@pytest.mark.parametrize("which", ["vit", "gpt"])
def test_fresh_weights_keep_the_stream_near_unit_size(which):
    shape, _, options, _ = MODELS[which]
    encoder = build_model(shape, which, MODELS[which][1], options | {"dim": 48, "depth": 6}, MODELS[which][3]).encoder
    state = encoder.init_state(torch.Generator().manual_seed(0))
    x = batch_of(which).views[0][:, :12]
    for index in range(6):
        x = encoder.stage(index, whole_weights(state), x)
        assert 0.05 < float(x.std()) < 2
    assert all((state[n] == 1).all() for n in encoder.norm_gains)
    assert (state["units3.bias"] == 0).all()
    assert float(state["heads2.qkv"].std()) == pytest.approx(48**-0.5, rel=0.1)
