"""Blocks on the wire: what a machine reads trains as the server's own would, and bytes are what the accounting says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.allocation import allocate
from fedcore.blocks import Block, slice_weights
from fedcore.costs import cost_of_block, cost_of_share
from fedcore.local import LocalResult, LocalTask
from fedcore.model import Model, build_model
from fedcore.wire import PRECISIONS, Packet, decode_result, decode_task, encode_result, encode_task
from fedcore.wire.precision import read_int8, round_change
from fedcore.wire.result import result_bytes
from fedcore.workload import model_for
from scenarios import InputError, load

MODELS = {
    "convnet, simclr": build_model((1, 12, 12), "convnet", "simclr", {"widths": (6, 9, 8)}, {"hidden": 12, "outputs": 6}),
    "resnet, byol": build_model((3, 16, 16), "resnet", "byol", {"widths": (6, 8, 8)}, {"hidden": 12, "outputs": 6}),
    "vit, dino": build_model(
        (1, 16, 16), "vit", "dino", {"dim": 12, "depth": 2, "heads": 3}, {"hidden": 12, "bottleneck": 8, "prototypes": 20}
    ),
    "gpt": build_model((20, 8), "gpt", "next-token", {"dim": 12, "depth": 2, "heads": 3}, {}),
}


def block_of(model: Model, share: float, context: float, seed: int) -> Block:
    shares = [share, 0.3, 0.5]
    [block, *_] = allocate(model.neuron_map, shares, context, "random", 0, np.random.default_rng(seed))
    assert block is not None
    return block


def there(model: Model, block: Block, precision: str = "fp32", round_index: int = 5):
    state = model.init_state(torch.Generator().manual_seed(1))
    target = model.target_of(model.init_state(torch.Generator().manual_seed(2)))
    task = LocalTask(2, block, 7, (4, 2, round_index, 2), steps_before=35, round_index=round_index)
    content = encode_task(model, state, target, task, precision).to_bytes()
    return state, target, task, content, decode_task(Packet.from_bytes(content, "the server"), model)


@settings(deadline=None, max_examples=12)
@given(
    st.sampled_from(sorted(MODELS)), st.sampled_from([0.05, 0.3, 0.7, 1.0]), st.sampled_from([0.0, 0.4, 1.0]),
    st.integers(0, 9),
)  # fmt: skip
def test_a_machine_sees_bit_for_bit_what_the_server_would_cut_out(name, share, context, seed):
    model = MODELS[name]
    state, target, task, _, sent = there(model, block_of(model, share, context, seed))
    assert (sent.task.machine, sent.task.steps, sent.task.seed, sent.task.steps_before) == (2, 7, task.seed, 35)
    for whole, came in ((state, sent.state), (target, sent.target)):
        if whole is None:
            assert came is None
            continue
        here = slice_weights(whole, model.neuron_map, task.block)
        far = slice_weights(came, model.neuron_map, sent.task.block)
        for mine, theirs in ((here.trained, far.trained), (here.frozen, far.frozen), (here.context_scale, far.context_scale)):
            assert mine.keys() == theirs.keys()
            assert all(torch.equal(mine[n], theirs[n]) for n in mine)
    for n in model.objective.statistics:
        assert torch.equal(state[n], sent.state[n])


def trained_result(model: Model, sent, size: float, seed: int = 0) -> LocalResult:
    generator = torch.Generator().manual_seed(seed)
    start = slice_weights(sent.state, model.neuron_map, sent.task.block).trained
    moved = {n: w.detach() + size * torch.randn(w.shape, generator=generator) for n, w in start.items()}
    statistics = {n: torch.randn(length, generator=generator) for n, length in model.objective.statistics.items()}
    return LocalResult(moved, 1.25, sent.task.steps, 40, statistics, {})


ASKED = {"activations": {"l": 3, "m": 1}}
MEANS = {"activations": {"l": torch.arange(3.0), "m": torch.ones(1)}}


@settings(deadline=None, max_examples=12)
@given(
    st.sampled_from(sorted(MODELS)), st.sampled_from([0.05, 0.7, 1.0]), st.sampled_from(PRECISIONS), st.integers(0, 9),
    st.sampled_from([1e-6, 1e-2, 10.0]),
)  # fmt: skip
def test_results_come_back_exactly_or_within_their_precision(name, share, precision, seed, size):
    model = MODELS[name]
    state, _, task, _, sent = there(model, block_of(model, share, 1.0, seed), precision)
    result = replace(trained_result(model, sent, size, seed), extra=MEANS)
    content = encode_result(model, sent, result, {}, 0.5).to_bytes()
    back = decode_result(Packet.from_bytes(content, "m"), model, state, task.block, precision, "m", ASKED)
    assert (back.loss, back.steps, back.samples) == (1.25, 7, 40)
    assert torch.equal(back.extra["activations"]["l"], torch.arange(3.0))
    assert back.statistics.keys() == result.statistics.keys()
    assert all(torch.equal(back.statistics[n], result.statistics[n]) for n in back.statistics)
    start = slice_weights(state, model.neuron_map, task.block).trained
    assert back.trained.keys() == result.trained.keys()
    for n, exact in result.trained.items():
        if precision == "fp32":
            assert torch.equal(back.trained[n], exact)
        else:
            change = (exact - start[n].detach()).abs().max()
            part = 1 / 128 if precision == "bf16" else 0.5 / 127
            slack = 4e-7 * float(exact.abs().max() + start[n].detach().abs().max())
            assert float((back.trained[n] - exact).abs().max()) <= part * float(change) + slack


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_error_feedback_loses_nothing_over_rounds(precision):
    """Without it, changes far below a row's largest would never arrive; with it their sum does, up to one rounding."""
    model = MODELS["convnet, simclr"]
    block = block_of(model, 1.0, 1.0, 0)
    residual: dict = {}
    wanted: dict = {}
    came: dict = {}
    plain: dict = {}
    for r in range(40):
        state, _, task, _, sent = there(model, block, precision, r)
        start = slice_weights(state, model.neuron_map, block).trained
        result = trained_result(model, sent, 0.0)
        for w in result.trained.values():
            w.flatten()[0] += 1.0
            w.flatten()[1:] += 1e-3 if precision == "int8" else 1.0 + 2.0**-10
        kept = encode_result(model, sent, result, residual, 0.0)
        for into, packet in ((came, kept), (plain, encode_result(model, sent, result, {}, 0.0))):
            back = decode_result(packet, model, state, task.block, precision, "m")
            for n, w in back.trained.items():
                into[n] = into.get(n, 0.0) + (w - start[n].detach()).double()
        for n, w in result.trained.items():
            wanted[n] = wanted.get(n, 0.0) + (w - start[n].detach()).double()
    name = max(wanted, key=lambda n: wanted[n].numel())
    error = float((came[name] - wanted[name]).abs().max())
    worst = float((plain[name] - wanted[name]).abs().max())
    assert error < 0.02
    assert worst > 0.03


def test_a_nan_is_not_rounded_away_and_does_not_stay():
    model = MODELS["convnet, simclr"]
    state, _, task, _, sent = there(model, block_of(model, 1.0, 1.0, 0), "int8")
    result = trained_result(model, sent, 0.1)
    name = next(iter(result.trained))
    result.trained[name].flatten()[3] = float("nan")
    residual: dict = {}
    back = decode_result(encode_result(model, sent, result, residual, 0.0), model, state, task.block, "int8", "m")
    assert not torch.isfinite(back.trained[name]).all()
    assert all(torch.isfinite(r).all() for r in residual.values())


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=9))
def test_int8_is_read_as_it_was_rounded(values):
    change = torch.tensor([values, values[::-1]])
    rounded = round_change(change, "int8")
    assert torch.equal(read_int8(rounded.content, rounded.scales, change.shape), rounded.value)
    assert torch.isfinite(rounded.value).all()


@pytest.mark.parametrize("scenario", ["farm-lte", "phones"])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_bytes_are_within_five_percent_of_the_accounting(scenario, share, precision):
    workload = load(scenario).workload
    model = model_for(workload, 1)
    block = block_of(model, share, 1.0, 0)
    cost = cost_of_block(model, block, workload.batch_size)
    _, _, _, down, sent = there(model, block, precision)
    assert len(down) == pytest.approx(cost.download_bytes, rel=0.05)
    up = encode_result(model, sent, trained_result(model, sent, 0.01), {}, 0.5).to_bytes()
    accounted = result_bytes(model, block, precision)
    if precision == "fp32":
        assert accounted == cost.upload_bytes
    # What simulation counts where a scenario's decisions go at that precision.
    at_precision = cost_of_share(model, share, 1.0, workload.batch_size, wire_precision=precision)
    assert at_precision.upload_bytes == accounted
    assert replace(at_precision, upload_bytes=cost.upload_bytes) == cost
    assert len(up) == pytest.approx(accounted, rel=0.05)


def test_wrong_shapes_and_precisions_are_refused_by_name():
    model = MODELS["convnet, simclr"]
    state, _, task, _, sent = there(model, block_of(model, 0.5, 1.0, 0))
    good = encode_result(model, sent, trained_result(model, sent, 0.1), {}, 0.0)
    short = {"trained": good.arrays["trained"][:-1]}
    for packet, words in (
        (Packet(good.values, short), "array trained is"),
        (Packet(good.values, {}), "array trained is missing"),
        (Packet(good.values | {"precision": "int8"}, good.arrays), "block came at 'int8'"),
        (Packet(good.values | {"steps": 0}, good.arrays), "steps is '0'"),
    ):
        with pytest.raises(InputError, match=rf"^machine m: {words}"):
            decode_result(packet, model, state, task.block, "fp32", "machine m")


EXTRAS = {
    "missing": (lambda arrays: arrays.pop("extra:activations:l"), ASKED, "array extra:activations:l is missing"),
    "short": (lambda arrays: arrays.update({"extra:activations:l": torch.zeros(2)}), ASKED, "array extra:activations:l is"),
    "of another type": (
        lambda arrays: arrays.update({"extra:activations:m": torch.zeros(1, dtype=torch.int64)}), ASKED,
        "array extra:activations:m is",
    ),
    "of another shape": (
        lambda arrays: arrays.update({"extra:activations:l": torch.zeros(3, 1)}), ASKED, "array extra:activations:l is"
    ),
    "NaN": (lambda arrays: arrays["extra:activations:l"].fill_(float("nan")), ASKED, "array extra:activations:l is not finite"),
    "one too many": (
        lambda arrays: arrays.update({"extra:activations:k": torch.zeros(3)}), ASKED,
        "sent array 'extra:activations:k', which nobody asked for",
    ),
    "none asked for": (lambda arrays: None, {}, "sent array 'extra:activations:l', which nobody asked for"),
}  # fmt: skip


@pytest.mark.parametrize("what", EXTRAS)
def test_extras_are_what_was_asked_for_or_refused_by_name(what):
    change, asked, words = EXTRAS[what]
    model = MODELS["convnet, simclr"]
    state, _, task, _, sent = there(model, block_of(model, 0.5, 1.0, 0))
    means = {"activations": {name: value.clone() for name, value in MEANS["activations"].items()}}
    packet = encode_result(model, sent, replace(trained_result(model, sent, 0.1), extra=means), {}, 0.0)
    change(packet.arrays)
    with pytest.raises(InputError, match=rf"^machine m: {words}"):
        decode_result(packet, model, state, task.block, "fp32", "machine m", asked)


def test_a_task_that_does_not_fit_the_model_is_refused():
    model = MODELS["convnet, simclr"]
    *_, content, _ = there(model, block_of(model, 0.5, 1.0, 0))
    good = Packet.from_bytes(content, "x")
    for values, words in (({"steps": 10**9}, "steps"), ({"seed": [-1]}, "seed"), ({"precision": "fp8"}, "precision"),
                          ({"scale": [1]}, "scale"), ({"scale": {"conv1": 10**400}}, "scale")):  # fmt: skip
        with pytest.raises(InputError, match=rf"^the server: {words}"):
            decode_task(Packet(good.values | values, good.arrays), model)
    with pytest.raises(InputError, match=r"^the server: block of layer .* twice"):
        decode_task(Packet(good.values, good.arrays | {"block": torch.full_like(good.arrays["block"], 255)}), model)


def test_constants_of_unseen_neurons_are_not_carried():
    model = MODELS["convnet, simclr"]
    block = block_of(model, 0.5, 0.5, 0)
    task = LocalTask(0, Block(block.trained, block.context, means={"x": torch.zeros(3)}), 1, (0,))
    with pytest.raises(InputError, match="in-process engine"):
        encode_task(model, model.init_state(torch.Generator()), None, task, "fp32")
