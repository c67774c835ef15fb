import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.allocation import RULES, allocate, context_count, coverage, trained_count
from fedcore.neurons import Layer, NeuronMap

rules = st.sampled_from(sorted(RULES))
shares_list = st.lists(st.one_of(st.just(0.0), st.floats(0.001, 1.0)), min_size=1, max_size=7)
widths_list = st.lists(st.integers(1, 40), min_size=1, max_size=3)


def net(*widths: int, out: int | None = None) -> NeuronMap:
    layers = tuple(Layer(f"l{i}", n) for i, n in enumerate(widths))
    return NeuronMap(layers + ((Layer("out", out, always_visible=True),) if out else ()), ())


@settings(max_examples=80, deadline=None)
@given(widths_list, shares_list, st.floats(0, 1), rules, st.integers(0, 500), st.integers(0, 99))
def test_blocks_have_their_sizes_and_are_valid(widths, shares, context, rule, round_index, seed):
    neuron_map = net(*widths, out=5)
    blocks = allocate(neuron_map, shares, context, rule, round_index, np.random.default_rng(seed))
    assert len(blocks) == len(shares)
    for share, block in zip(shares, blocks, strict=True):
        assert (block is None) == (share == 0)
        if block is None:
            continue
        for layer in neuron_map.layers:
            trained, seen = block.trained[layer.name].numpy(), block.context[layer.name].numpy()
            assert len(trained) == trained_count(share, layer.neurons) >= 1
            assert len(seen) == context_count(context, share, layer)
            assert trained.dtype == seen.dtype == np.int64
            assert (np.diff(trained) > 0).all()
            assert (np.diff(seen) > 0).all()
            visible = block.visible(layer.name).numpy()
            assert len(np.unique(visible)) == len(visible)  # trained and context are disjoint
            assert visible.min() >= 0
            assert visible.max() < layer.neurons
            assert np.array_equal(visible[: len(trained)], trained)
            if layer.always_visible or context == 1:
                assert len(visible) == layer.neurons
            elif context == 0:
                assert len(seen) == 0


@settings(max_examples=80, deadline=None)
@given(widths_list, shares_list, rules, st.integers(0, 500), st.integers(0, 99))
def test_coverage_is_even_and_blocks_are_disjoint_while_they_fit(widths, shares, rule, round_index, seed):
    neuron_map = net(*widths)
    blocks = allocate(neuron_map, shares, 1.0, rule, round_index, np.random.default_rng(seed))
    for name, counts in coverage(neuron_map, blocks).items():
        n = len(counts)
        sizes = sum(trained_count(share, n) for share in shares)
        assert counts.sum() == sizes
        assert counts.max() - counts.min() <= 1
        assert name in {layer.name for layer in neuron_map.layers}
        if sizes <= n:
            assert counts.max() <= 1


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), rules, st.integers(0, 99))
def test_shares_that_sum_to_one_give_disjoint_blocks(sizes, rule, round_index):
    total = max(sum(sizes), 1)
    blocks = allocate(net(total), [s / total for s in sizes], 1.0, rule, round_index, np.random.default_rng(0))
    counts = coverage(net(total), blocks)["l0"]
    assert counts.max() <= 1
    assert counts.sum() == sum(sizes)


@pytest.mark.parametrize(
    ("share", "neurons", "count"),
    [(0, 8, 0), (-1, 8, 0), (1e-9, 8, 1), (0.5, 8, 4), (0.3125, 8, 3), (0.31, 8, 2), (1, 8, 8), (1.5, 8, 8)],
)
def test_a_share_is_rounded_half_up_to_at_least_one_neuron(share, neurons, count):
    assert trained_count(share, neurons) == count


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_more_share_trains_no_less_and_sees_no_less(neurons, a, b, context):
    layer = Layer("l", neurons)
    low, high = sorted((a, b))
    seen = [trained_count(s, neurons) + context_count(context, s, layer) for s in (low, high)]
    assert trained_count(low, neurons) <= trained_count(high, neurons)
    assert seen[0] <= seen[1] <= neurons


def test_coverage_counts_machines_and_resting_neurons():
    blocks = allocate(net(4), [0.5, 0.0, 0.25], 1.0, "fixed", 0, np.random.default_rng(0))
    assert coverage(net(4), blocks)["l0"].tolist() == [1, 1, 1, 0]
    assert coverage(net(4), [None])["l0"].tolist() == [0, 0, 0, 0]


def trained_in(rule: str, round_index: int, n: int = 24, share: float = 0.25, seed: int = 0) -> list[int]:
    block = allocate(net(n), [share], 1.0, rule, round_index, np.random.default_rng([seed, round_index]))[0]
    return block.trained["l0"].tolist()


def test_the_fixed_rule_never_moves():
    assert {tuple(trained_in("fixed", r)) for r in range(20)} == {tuple(range(6))}


def test_the_random_rule_moves_with_the_generator_alone():
    assert trained_in("random", 3) == trained_in("random", 3)
    draws = [tuple(trained_in("random", r)) for r in range(300)]
    assert len(set(draws)) > 250
    often = np.bincount(np.concatenate(draws), minlength=24) / 300
    assert np.abs(often - 0.25).max() < 0.11  # four standard deviations


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 10, 24, 64, 128, 256])
@pytest.mark.parametrize("share", [0.01, 0.1, 1 / 3, 0.5])
def test_rolling_windows_train_every_neuron_equally_often(n, share):
    counts = np.zeros(n, int)
    for r in range(3 * n):
        counts[trained_in("rolling", r, n, share)] += 1
    assert (counts == 3 * trained_count(share, n)).all()


def test_rolling_windows_leave_most_of_themselves_every_round():
    for r in range(30):
        assert len(set(trained_in("rolling", r, share=1 / 3)) & set(trained_in("rolling", r + 1, share=1 / 3))) <= 1
    assert {i for r in range(3) for i in trained_in("rolling", r, share=1 / 3)} == set(range(24))


def test_context_is_drawn_from_all_the_rest():
    seen: set[int] = set()
    for seed in range(40):
        block = allocate(net(12), [0.25], 0.3, "fixed", 0, np.random.default_rng(seed))[0]
        seen |= set(block.context["l0"].tolist())
        assert len(block.context["l0"]) == 3
    assert seen == set(range(3, 12))


def test_layers_are_drawn_apart():
    block = allocate(net(30, 30), [0.5], 1.0, "random", 0, np.random.default_rng(0))[0]
    assert not torch.equal(block.trained["l0"], block.trained["l1"])


def important(scores, shares, seed=0, n=12, context=1.0, **options):
    rng = np.random.default_rng(seed)
    return allocate(net(n), shares, context, "importance", 0, rng, {"l0": np.array(scores, float)}, **options)


def test_the_importance_rule_trains_the_highest_scores_first():
    scores = np.random.default_rng(3).permutation(12)
    for seed in range(10):
        block = important(scores, [0.25], seed)[0]
        assert sorted(scores[block.trained["l0"].numpy()]) == [9, 10, 11]
        two = important(scores, [0.25, 0.25], seed)
        assert sorted(scores[np.concatenate([b.trained["l0"].numpy() for b in two])]) == list(range(6, 12))
        # Beyond the layer's width the highest are held by one machine more.
        counts = coverage(net(12), important(scores, [0.5, 0.5, 0.25], seed))["l0"]
        assert sorted(scores[counts == 2]) == [9, 10, 11]


def test_no_machine_keeps_the_most_important_neurons_for_itself():
    scores = list(range(12))
    best = [11 in important(scores, [0.25, 0.25], seed)[0].trained["l0"] for seed in range(200)]
    assert abs(np.mean(best) - 0.5) < 0.15


def test_equal_scores_and_none_fall_at_random():
    for options in ({"scores": {"l0": np.full(12, np.inf)}}, {}):
        draws = {
            tuple(allocate(net(12), [0.5], 1.0, "importance", 0, np.random.default_rng(s), **options)[0].trained["l0"].tolist())
            for s in range(50)
        }
        assert len(draws) > 40


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.floats(0.01, 0.9), st.floats(0.05, 0.95), rules, st.integers(0, 99))
def test_an_ordered_context_is_the_beginning_of_the_order_without_what_is_trained(n, share, context, rule, seed):
    order = np.random.default_rng(seed).permutation(n)
    block = allocate(net(n), [share], context, rule, 1, np.random.default_rng(1), None, {"l0": order})[0]
    trained, seen = set(block.trained["l0"].tolist()), block.context["l0"].tolist()
    others = [int(j) for j in order if j not in trained]
    assert sorted(others[: len(seen)]) == seen
    assert len(seen) == context_count(context, share, Layer("l0", n))


def test_an_ordered_context_leaves_what_is_trained_as_it_was():
    orders = {"l0": np.arange(12), "l1": np.arange(9)}
    plain = allocate(net(12), [0.5, 0.3], 1.0, "random", 0, np.random.default_rng(4))
    ordered = allocate(net(12, 9), [0.5, 0.3], 0.5, "random", 0, np.random.default_rng(4), None, orders)
    for a, b in zip(plain, ordered, strict=True):
        assert torch.equal(a.trained["l0"], b.trained["l0"])


def test_an_unknown_rule_is_refused():
    with pytest.raises(KeyError):
        allocate(net(3), [1.0], 1.0, "nearest", 0, np.random.default_rng(0))
