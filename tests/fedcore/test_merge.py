import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.allocation import RULES, allocate
from fedcore.blocks import Block, slice_weights, whole_block
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.merge import Update, merge, refusal
from fedcore.methods import IntraLayer
from fedcore.model import build_model
from fedcore.neurons import Layer, NeuronMap, Parameter
from fedcore.probes import HeldOutInfoNCE
from fedcore.samples import Samples
from fedcore.training import FederatedTraining

torch.set_num_threads(1)

MODELS = {
    "convnet": build_model((1, 8, 8), "convnet", "byol", {"widths": (5, 7), "strides": (2, 1)}, {"hidden": 9}),
    "mlp": build_model((1, 8, 8), "mlp", "simclr", {"widths": (12, 6)}, {"hidden": 10, "outputs": 7}),
}

SMALL = NeuronMap(
    (Layer("a", 2), Layer("b", 3)),
    (
        Parameter("a.w", (2, 4), "a"),
        Parameter("a.bias", (2,), "a"),
        Parameter("b.w", (3, 2, 2), "b", "a"),
    ),
)


def small_state(fill: float = 0.0) -> dict[str, torch.Tensor]:
    return {p.name: torch.full(p.shape, fill) for p in SMALL.parameters}


def small_block(a: list[int], b: list[int], see_a: list[int], see_b: list[int]) -> Block:
    def index(x: list[int]) -> torch.Tensor:
        return torch.tensor(x, dtype=torch.int64)

    return Block({"a": index(a), "b": index(b)}, {"a": index(see_a), "b": index(see_b)})


def constant(name: str, block: Block, value: float, weight: float) -> Update:
    trained = {n: torch.full_like(t, value) for n, t in slice_weights(small_state(), SMALL, block).trained.items()}
    return Update(name, block, trained, weight)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=5),
    st.floats(0, 1),
    st.sampled_from(sorted(RULES)),
    st.sampled_from(sorted(MODELS)),
    st.integers(0, 50),
    st.sampled_from([0.3, 0.7, 1.0, 1.3]),
)
def test_slicing_and_merging_unchanged_updates_is_the_identity(shares, context, rule, name, round_index, server_step):
    model = MODELS[name]
    state = model.init_state(torch.Generator().manual_seed(round_index))
    blocks = allocate(model.neuron_map, shares, context, rule, round_index, np.random.default_rng(round_index))
    updates = []
    for k, block in enumerate(blocks):
        if block is not None:
            trained = {n: t.detach() for n, t in slice_weights(state, model.neuron_map, block).trained.items()}
            # Powers of two: the mean of equal numbers is then exact.
            updates.append(Update(f"m{k}", block, trained, 2.0**k))
            assert refusal(updates[-1], state, model.neuron_map) is None
    merged = merge(state, model.neuron_map, updates, server_step)
    assert set(merged) == set(state)
    for parameter, value in state.items():
        torch.testing.assert_close(merged[parameter], value, atol=0, rtol=3e-7)
        if server_step == 1.0:
            assert torch.equal(merged[parameter], value)


def test_entries_come_from_their_owner_and_what_nobody_trained_keeps_its_value():
    one = constant("one", small_block([0], [2], [1], [0, 1]), 1.0, 5.0)
    two = constant("two", small_block([1], [0], [], []), 2.0, 9.0)
    merged = merge(small_state(-1.0), SMALL, [one, two])
    assert merged["a.w"].tolist() == [[1.0] * 4, [2.0] * 4]
    assert merged["a.bias"].tolist() == [1.0, 2.0]
    # Row 0 of b is machine two's, which sees only column 1; row 1 rests; row 2 is machine one's, which sees both.
    assert merged["b.w"][:, :, 0].tolist() == [[-1.0, 2.0], [-1.0, -1.0], [1.0, 1.0]]
    assert torch.equal(merged["b.w"][:, :, 0], merged["b.w"][:, :, 1])


def test_overlapping_entries_are_the_weighted_mean():
    one = constant("one", small_block([0, 1], [0, 1, 2], [], []), 1.0, 30.0)
    two = constant("two", small_block([1], [1], [], []), 4.0, 10.0)
    merged = merge(small_state(-1.0), SMALL, [one, two])
    assert merged["a.bias"].tolist() == [1.0, 1.75]
    assert merged["b.w"][:, :, 0].tolist() == [[1.0, 1.0], [1.0, 1.75], [1.0, 1.0]]


def test_columns_follow_the_visible_order_of_the_slice():
    block = small_block([1], [0], [0], [])
    values = torch.arange(4.0).view(1, 2, 2)  # first column neuron 1 (trained), then neuron 0 (context)
    update = Update("m", block, {"a.w": torch.zeros(1, 4), "a.bias": torch.zeros(1), "b.w": values}, 1.0)
    merged = merge(small_state(9.0), SMALL, [update])
    assert merged["b.w"][0].tolist() == [[2.0, 3.0], [0.0, 1.0]]


def test_the_server_step_goes_part_of_the_way():
    whole = constant("m", whole_block(SMALL), 3.0, 1.0)
    assert merge(small_state(1.0), SMALL, [whole], 0.25)["a.bias"].tolist() == [1.5, 1.5]
    assert merge(small_state(1.0), SMALL, [whole], 1.5)["a.bias"].tolist() == [4.0, 4.0]


def test_merging_nothing_and_not_touching_the_old_state():
    state = small_state(1.0)
    assert all(torch.equal(v, state[n]) for n, v in merge(state, SMALL, []).items())
    merge(state, SMALL, [constant("m", whole_block(SMALL), 3.0, 1.0)])
    assert all(torch.equal(v, torch.ones_like(v)) for v in state.values())


@pytest.mark.parametrize("context", [1.0, 0.5, 0.0])
def test_a_round_of_disjoint_blocks_equals_a_merge_by_hand(context):
    model = MODELS["mlp"]
    generator = torch.Generator().manual_seed(3)
    images = [torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8) for n in (20, 9)]
    engine = InProcessEngine([Samples(part) for part in images], LocalRecipe(batch_size=8, precision="fp32"))
    sent: list = []

    class Listening:
        samples, recipe = engine.samples, engine.recipe

        def train(self, method, model, state, target, tasks):
            results = engine.train(method, model, state, target, tasks)
            sent.extend(zip(tasks, results, strict=True))
            return results

    probe = HeldOutInfoNCE(images[0].permute(0, 2, 3, 1).numpy())
    training = FederatedTraining(model, Listening(), ["one", "two"], probe, None, method=IntraLayer(context=context))
    before = {name: value.clone() for name, value in training.state.items()}
    blocks = training.play([0.5, 0.25], 1).blocks
    assert not any(set(blocks[0].trained[n].tolist()) & set(blocks[1].trained[n].tolist()) for n in blocks[0].trained)
    expected = {name: value.clone() for name, value in before.items()}
    for task, result in sent:
        for p in model.neuron_map.parameters:
            for i, row in enumerate(task.block.trained[p.rows].tolist()):
                if p.cols is None:
                    expected[p.name][row] = result.trained[p.name][i]
                    continue
                for j, col in enumerate([*task.block.trained[p.cols].tolist(), *task.block.context[p.cols].tolist()]):
                    expected[p.name][row, col] = result.trained[p.name][i, j]
    moved = 0
    for name, value in training.state.items():
        assert torch.equal(value, expected[name])
        moved += int((value != before[name]).sum())
    held = sum(t.numel() for _, result in sent for t in result.trained.values())
    assert held * 0.7 < moved <= held  # a weight that reads a dark unit stays; AdamW moves every other one


def bad(update: Update, name: str, value: torch.Tensor | None) -> Update:
    trained = dict(update.trained)
    if value is None:
        del trained[name]
    else:
        trained[name] = value
    return Update(update.machine, update.block, trained, update.weight)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_updates_that_are_not_finite_are_refused_by_name(value):
    good = constant("gateway-3", whole_block(SMALL), 1.0, 1.0)
    tensor = torch.ones(3, 2, 2)
    tensor[1, 0, 1] = value
    assert refusal(good, small_state(), SMALL) is None
    assert refusal(bad(good, "b.w", tensor), small_state(), SMALL) == (
        "machine gateway-3: update of b.w is not finite"
    )


@pytest.mark.parametrize("value", [torch.ones(3, 2), torch.ones(2, 2, 2), torch.ones(()), None])
def test_updates_of_a_wrong_shape_are_refused_by_name(value):
    update = bad(constant("phone", whole_block(SMALL), 1.0, 1.0), "b.w", value)
    shape = None if value is None else tuple(value.shape)
    assert refusal(update, small_state(), SMALL) == (
        f"machine phone: update of b.w has shape {shape}, expected (3, 2, 2)"
    )


def test_absurd_norms_are_refused_by_name():
    state = small_state(1.0)
    size = sum(v.numel() for v in state.values()) ** 0.5
    within = constant("m", whole_block(SMALL), 1.0 + 9.9 * (size + 1) / size, 1.0)
    beyond = constant("m", whole_block(SMALL), 1.0 + 10.1 * (size + 1) / size, 1.0)
    assert refusal(within, state, SMALL) is None
    message = refusal(beyond, state, SMALL)
    assert message.startswith("machine m: update of norm")
    assert "absurd" in message
    assert refusal(within, state, SMALL, max_relative_norm=5.0) is not None
    assert "absurd" in refusal(constant("m", whole_block(SMALL), 3e38, 1.0), small_state(-3e38), SMALL)
