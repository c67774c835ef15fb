"""What machines only see as changes: both ends read the same, nothing drifts, and bytes are what the accounting says."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.allocation import allocate
from fedcore.blocks import slice_weights
from fedcore.costs import cost_of_block
from fedcore.local import LocalTask
from fedcore.model import build_model
from fedcore.wire import Packet, decode_task, encode_task
from fedcore.wire.mirror import Mirror
from fedcore.wire.task import task_bytes
from fedcore.workload import model_for
from scenarios import InputError, load

HEADS = {"hidden": 12, "outputs": 6}
MODELS = {
    "convnet, simclr": build_model((1, 12, 12), "convnet", "simclr", {"widths": (6, 9, 8)}, HEADS),
    "resnet, byol": build_model((3, 16, 16), "resnet", "byol", {"widths": (6, 8, 8)}, HEADS),
    "gpt": build_model((20, 8), "gpt", "next-token", {"dim": 12, "depth": 2, "heads": 3}, {}),
}


def block_of(model, share, context, seed):
    return allocate(model.neuron_map, [share, 0.3], context, "random", 0, np.random.default_rng(seed))[0]


def weights(model, seed):
    return model.init_state(torch.Generator().manual_seed(seed))


def moved(state, seed, size):
    generator = torch.Generator().manual_seed(seed)
    return {name: value + size * torch.randn(value.shape, generator=generator) for name, value in state.items()}


def send(model, block, state, target, server, node, precision):
    """One message: (its bytes, what the node reads)."""
    task = LocalTask(0, block, 3, (1,))
    content = encode_task(model, state, target, task, "fp32", precision, server).to_bytes()
    return content, decode_task(Packet.from_bytes(content, "x"), model, mirror=node)


@settings(deadline=None, max_examples=10)
@given(
    st.sampled_from(sorted(MODELS)), st.sampled_from([0.05, 0.5, 1.0]), st.sampled_from([0.0, 0.4, 1.0]),
    st.sampled_from(["bf16", "int8"]), st.integers(0, 9),
)  # fmt: skip
def test_trained_rows_are_exact_and_the_rest_follows(name, share, context, precision, seed):
    model = MODELS[name]
    server, node = Mirror.blank(model), Mirror.blank(model)
    state = weights(model, seed)
    for r in range(4):
        state = moved(state, r, 0.05) if r < 2 else state
        target = model.target_of(moved(state, 50 + r, 0.01))
        block = block_of(model, share, context, seed + r)
        _, sent = send(model, block, state, target, server, node, precision)
        assert server.known == node.known
        here, far = (slice_weights(s, model.neuron_map, block) for s in (state, sent.state))
        assert all(torch.equal(here.trained[n], far.trained[n]) for n in here.trained)
        assert (target is None) == (sent.target is None)
        for n, exact in here.frozen.items():
            # The largest of a row bounds what its rounding leaves out, whatever the row was before.
            off = (exact - far.frozen[n]).abs().max() if exact.numel() else torch.zeros(())
            assert float(off) <= (0.0 if r == 0 else 0.02 * float(exact.abs().max() + 0.3)), (n, r)
        for n in model.objective.statistics:
            assert torch.equal(sent.state[n], state[n])


def test_what_rounding_leaves_out_comes_with_the_next_change():
    """Unmoved weights are met better every round, to float32's own precision: an error that stayed would be seen."""
    model = MODELS["resnet, byol"]
    block = block_of(model, 0.3, 1.0, 0)
    server, node = Mirror.blank(model), Mirror.blank(model)
    state, target = weights(model, 0), model.target_of(weights(model, 1))
    send(model, block, state, target, server, node, "int8")
    state, target = moved(state, 5, 0.1), model.target_of(moved(state, 6, 0.1))
    errors = []
    for _ in range(4):
        _, sent = send(model, block, state, target, server, node, "int8")
        pairs = [(slice_weights(a, model.neuron_map, block).frozen, slice_weights(b, model.neuron_map, block).frozen)
                 for a, b in ((state, sent.state), (target, sent.target))]  # fmt: skip
        errors.append(max(float((a[n] - b[n]).abs().max()) for a, b in pairs for n in a))
    assert errors[0] > 1e-4
    assert errors[1] < errors[0] / 50
    assert errors[3] < 1e-6


def test_fp32_context_needs_no_mirror_and_changes_need_the_right_one():
    model = MODELS["convnet, simclr"]
    block = block_of(model, 0.5, 1.0, 0)
    state = weights(model, 0)
    server, node = Mirror.blank(model), Mirror.blank(model)
    send(model, block, state, None, None, node, "fp32")
    assert node.known is None
    send(model, block, state, None, server, node, "int8")
    send(model, block, moved(state, 1, 0.1), None, server, node, "int8")
    for other in (Mirror.blank(model), None):
        with pytest.raises(InputError, match="changes of weights that this machine does not have"):
            send(model, block, state, None, server, other, "int8")
    # It has not read what was sent to the others meanwhile.
    with pytest.raises(InputError, match="does not have, expected whole ones"):
        send(model, block, state, None, server, node, "int8")


def test_a_message_that_does_not_read_leaves_no_half_mirror():
    model = MODELS["convnet, simclr"]
    block = block_of(model, 0.5, 1.0, 0)
    server, node = Mirror.blank(model), Mirror.blank(model)
    send(model, block, weights(model, 0), None, server, node, "int8")
    packet = encode_task(model, weights(model, 1), None, LocalTask(0, block, 3, (1,)), "fp32", "int8", server)
    for arrays, words in (
        ({"context": packet.arrays["context"][1:]}, "array context is"),
        ({"context": packet.arrays["context"].float()}, "array context is"),
    ):
        known = node.known
        with pytest.raises(InputError, match=rf"^the server: {words}"):
            decode_task(Packet(packet.values, packet.arrays | arrays), model, mirror=node)
        assert node.known is None
        node.known = known
    with pytest.raises(InputError, match="context_precision is 'fp8'"):
        decode_task(Packet(packet.values | {"context_precision": "fp8"}, packet.arrays), model, mirror=node)


@pytest.mark.parametrize("scenario", ["farm-lte", "phones"])
@pytest.mark.parametrize("share", [0.25, 0.5])
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_bytes_are_within_five_percent_of_the_accounting(scenario, share, precision):
    workload = load(scenario).workload
    model = model_for(workload, 1)
    block = block_of(model, share, 1.0, 0)
    server, node = Mirror.blank(model), Mirror.blank(model)
    state, cost = weights(model, 0), cost_of_block(model, block, workload.batch_size)
    assert task_bytes(model, block, "fp32") == cost.download_bytes
    first, _ = send(model, block, state, None, server, node, precision)
    assert len(first) == pytest.approx(cost.download_bytes, rel=0.05)
    later, _ = send(model, block, moved(state, 1, 0.1), None, server, node, precision)
    assert len(later) == pytest.approx(task_bytes(model, block, precision), rel=0.05)
    assert len(later) < 0.8 * len(first)
