import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fedcore.allocation import allocate, context_count, trained_count
from fedcore.blocks import Block, freeze, slice_weights, whole_block
from fedcore.costs import GRID, context_bytes, cost_of_block, cost_of_share, cost_table
from fedcore.local import LocalRecipe, LocalTask, train_block
from fedcore.model import Model, build_model
from fedcore.samples import Batch, Samples

torch.set_num_threads(1)

ENCODERS = {
    "convkan": {"widths": (6, 8), "strides": (2, 2)},
    "convnet": {"widths": (8, 16, 12), "strides": (2, 1, 2)},
    "mlp": {"widths": (32, 24)},
    "resnet": {"widths": (8, 16, 12)},
    "vit": {"patch": 4, "dim": 16, "depth": 2, "heads": 4},
}
MEMORY_CASES = [(1.0, 1.0), (0.5, 1.0), (0.5, 0.5), (0.5, 0.0), (0.1, 1.0), (0.1, 0.5), (0.1, 0.0)]
IMAGES = 8
OUTPUTS = 16


def model_of(encoder: str, objective: str) -> Model:
    return build_model((1, 16, 16), encoder, objective, ENCODERS[encoder], {"hidden": 24, "outputs": OUTPUTS})


def cut(model: Model, share: float, context: float):
    state = model.init_state(torch.Generator().manual_seed(0))
    block = allocate(model.neuron_map, [share], context, "random", 0, np.random.default_rng(0))[0]
    weights = slice_weights(state, model.neuron_map, block)
    target = {name: state[name] for name in model.target_parameters}
    aim = freeze(slice_weights(target, model.neuron_map, block)) if target else None
    return block, weights, aim


cases = pytest.mark.parametrize(
    ("share", "context"), [(1.0, 1.0), (0.5, 1.0), (0.1, 1.0), (0.3, 0.5), (0.25, 0.0), (0.02, 0.0)]
)


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
@pytest.mark.parametrize("objective", ["simclr", "byol"])
@cases
def test_step_flops_are_those_that_torch_counts(encoder, objective, share, context):
    model = model_of(encoder, objective)
    block, weights, aim = cut(model, share, context)
    one, two = torch.randn(2, IMAGES, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    # torch counts the products of attention only where it does them one by one.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.objective.loss(model.encoder.features, weights, aim, Batch((one, two))).backward()
    counted = counter.get_total_flops()
    if objective == "simclr":
        # The similarity matrix z @ z.T, forward and twice backward, belongs to no neuron.
        counted -= 3 * 2 * (2 * IMAGES) ** 2 * OUTPUTS
    cost = cost_of_block(model, block, IMAGES)
    assert cost.step_flops == pytest.approx(counted, rel=0.02)
    assert cost == cost_of_share(model, share, context, IMAGES)


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
@pytest.mark.parametrize("objective", ["simclr", "byol"])
@cases
def test_bytes_are_those_of_the_serialised_tensors(encoder, objective, share, context):
    model = model_of(encoder, objective)
    block, weights, aim = cut(model, share, context)
    cost = cost_of_block(model, block, IMAGES)

    def payload(tensors: dict[str, torch.Tensor]) -> int:
        # A safetensors file is an 8-byte length, a header of that length, then the numbers.
        file = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
        return len(file) - 8 - int.from_bytes(io.BytesIO(file).read(8), "little")

    down = payload(weights.trained) + payload(weights.frozen) + (payload(aim.frozen) if aim else 0)
    assert cost.upload_bytes == payload(weights.trained)
    assert cost.download_bytes == down


def measured_peak(live_tensors: type, model: Model, block: Block, batch: int, x: torch.Tensor) -> int:
    """Peak bytes of two local steps, the second of which finds moments and gradients; the server's state is not counted."""
    state = model.init_state(torch.Generator().manual_seed(0))
    target = model.target_of(state)
    samples = Samples(x)
    if x.dtype == torch.uint8:
        samples.images(torch.arange(1))  # what a machine keeps of its images is not working memory
    with live_tensors([*state.values(), *(target or {}).values(), x]) as live:
        train_block(
            model, state, target, LocalTask(0, block, 2, (1,)), samples, LocalRecipe(batch, precision="fp32"),
            torch.Generator().manual_seed(2),
        )  # fmt: skip
    return live.peak


def images(batch: int, channels: int = 1) -> torch.Tensor:
    return torch.randint(0, 256, (batch, channels, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def drawn(model: Model, share: float, context: float) -> Block:
    block = allocate(model.neuron_map, [share], context, "random", 0, np.random.default_rng(0))[0]
    assert block is not None
    return block


@pytest.mark.parametrize("objective", ["simclr", "byol"])
@pytest.mark.parametrize(
    ("encoder", "batch"), [*((encoder, 8) for encoder in sorted(ENCODERS)), ("convnet", 32), ("mlp", 32)]
)
def test_memory_is_what_is_alive_at_the_worst_moment_of_a_step(encoder, objective, batch, live_tensors):
    model = model_of(encoder, objective)
    for share, context in MEMORY_CASES:
        block = drawn(model, share, context)
        peak = measured_peak(live_tensors, model, block, batch, images(batch))
        assert cost_of_block(model, block, batch).memory_bytes == pytest.approx(peak, rel=0.1), (share, context)


def test_memory_of_colour_images_and_large_layers(live_tensors):
    model = build_model((3, 16, 16), "mlp", "byol", {"widths": (300, 200)}, {"hidden": 100, "outputs": 50})
    for share, context in MEMORY_CASES:
        block = drawn(model, share, context)
        peak = measured_peak(live_tensors, model, block, 16, images(16, 3))
        assert cost_of_block(model, block, 16).memory_bytes == pytest.approx(peak, rel=0.1), (share, context)


@pytest.mark.parametrize("encoder", ["convnet", "mlp"])
def test_frozen_layers_before_the_first_trained_one_keep_nothing(encoder, live_tensors):
    model = model_of(encoder, "simclr")
    block = whole_block(model.neuron_map)
    early = model.encoder.stages[0][0]
    block.context[early], block.trained[early] = block.trained[early], block.context[early]
    frozen, whole = (cost_of_block(model, b, 32) for b in (block, whole_block(model.neuron_map)))
    state = model.init_state(torch.Generator().manual_seed(0))
    weights = slice_weights(state, model.neuron_map, block)
    one, two = torch.randn(2, 32, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with FlopCounterMode(display=False) as counter:
        model.objective.loss(model.encoder.features, weights, None, Batch((one, two))).backward()
    # The similarity matrix belongs to no neuron.
    assert frozen.step_flops == pytest.approx(counter.get_total_flops() - 3 * 2 * 64**2 * OUTPUTS, rel=0.02)
    assert frozen.memory_bytes == pytest.approx(measured_peak(live_tensors, model, block, 32, images(32)), rel=0.1)
    assert frozen.memory_bytes < whole.memory_bytes
    assert frozen.download_bytes == whole.download_bytes


def test_memory_of_tokens(live_tensors):
    model = build_model((40, 24), "gpt", "next-token", {"dim": 32, "depth": 2})
    x = torch.randint(0, 40, (8, 25), generator=torch.Generator().manual_seed(1))
    for share in (1.0, 0.5):
        block = drawn(model, share, 1.0)
        peak = measured_peak(live_tensors, model, block, 8, x)
        assert cost_of_block(model, block, 8).memory_bytes == pytest.approx(peak, rel=0.1)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(sorted(ENCODERS)),
    st.sampled_from(["simclr", "byol"]),
    st.floats(0, 1),
    st.integers(2, 128),
)
def test_the_table_is_monotone_and_sitting_out_is_free(encoder, objective, context, samples):
    model = model_of(encoder, objective)
    table = cost_table(model, context, samples)
    assert table.shape == (GRID + 1, 5)
    assert (table[0] == 0).all()
    assert (table[1:] > 0).all()
    assert (np.diff(table[:, :4], axis=0) >= 0).all()
    for i in (1, 77, GRID):
        cost = cost_of_share(model, i / GRID, context, samples)
        assert tuple(table[i, :3]) == (cost.step_flops, cost.upload_bytes, cost.download_bytes)
        # The whole model has no frozen part, whose gradients need room of their own: the table says what all smaller ones do.
        assert table[i, 3] == max(cost_of_share(model, j / GRID, context, samples).memory_bytes for j in range(1, i + 1))


def test_context_rules_that_measure_send_means_up_and_constants_down():
    model = model_of("mlp", "simclr")
    plain = cost_of_share(model, 0.25, 0.5, 16)
    more = cost_of_share(model, 0.25, 0.5, 16, "compensated")
    layers = model.neuron_map.layers
    seen = {x.name: trained_count(0.25, x.neurons) + context_count(0.5, 0.25, x) for x in layers}
    up, down = context_bytes(model, seen, "compensated")
    assert up > 0
    assert down > 0
    assert more.upload_bytes == plain.upload_bytes + up
    assert more.download_bytes == plain.download_bytes + down
    # A rule that only chooses by what is measured has nothing to send down, and all of a layer leaves nothing to make up for.
    chosen = cost_of_share(model, 0.25, 0.5, 16, "important")
    assert (chosen.upload_bytes, chosen.download_bytes) == (more.upload_bytes, plain.download_bytes)
    assert cost_of_share(model, 0.25, 1.0, 16, "compensated") == cost_of_share(model, 0.25, 1.0, 16)


def test_share_saves_upload_and_only_context_saves_forward_and_download():
    model = model_of("convnet", "simclr")
    whole = cost_of_share(model, 1.0, 1.0, 16)
    half = cost_of_share(model, 0.5, 1.0, 16)
    alone = cost_of_share(model, 0.5, 0.0, 16)
    assert half.download_bytes == whole.download_bytes == whole.upload_bytes
    assert half.upload_bytes == pytest.approx(whole.upload_bytes / 2, rel=0.01)
    # Weight gradients are about a third of a step; the first layer has no input gradients.
    assert 0.6 < half.step_flops / whole.step_flops < 0.9
    assert alone.download_bytes < 0.45 * whole.download_bytes
    assert alone.step_flops < 0.45 * whole.step_flops
    assert cost_of_share(model, 0.5, 1.0, 32).step_flops == 2 * half.step_flops
