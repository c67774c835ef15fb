import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch.utils.flop_counter import FlopCounterMode

from fedcore.allocation import allocate
from fedcore.blocks import freeze, slice_weights
from fedcore.costs import GRID, cost_of_block, cost_of_share, cost_table
from fedcore.model import Model, build_model
from fedcore.samples import Batch

torch.set_num_threads(1)

ENCODERS = {
    "convnet": {"widths": (8, 16, 12), "strides": (2, 1, 2)},
    "mlp": {"widths": (32, 24)},
}
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
    with FlopCounterMode(display=False) as counter:
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


@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_memory_covers_weights_moments_gradients_and_what_backward_keeps(objective):
    model = model_of("convnet", objective)
    for share, context in ((1.0, 1.0), (0.3, 1.0), (0.3, 0.0)):
        block, weights, aim = cut(model, share, context)
        one, two = torch.randn(2, 32, 1, 16, 16, generator=torch.Generator().manual_seed(1))
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model.objective.loss(model.encoder.features, weights, aim, Batch((one, two)))
        loss.backward()
        cost = cost_of_block(model, block, 32)
        moments = 2 * cost.upload_bytes
        measured = sum(kept.values()) + cost.upload_bytes + moments
        # The backward pass also holds a gradient of the largest map, which hooks do not see.
        assert 0.8 < cost.memory_bytes / measured < 1.2


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
    assert table.shape == (GRID + 1, 4)
    assert (table[0] == 0).all()
    assert (table[1:] > 0).all()
    assert (np.diff(table, axis=0) >= 0).all()
    for i in (1, 77, GRID):
        cost = cost_of_share(model, i / GRID, context, samples)
        assert tuple(table[i]) == (cost.step_flops, cost.upload_bytes, cost.download_bytes, cost.memory_bytes)


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
