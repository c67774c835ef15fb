import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.allocation import allocate, trained_count
from fedcore.blocks import Block, whole_block
from fedcore.importance import FLOOR, MEMORY, Importance
from fedcore.neurons import Layer, NeuronMap, Parameter


def net(n: int = 4) -> NeuronMap:
    return NeuronMap(
        (Layer("a", n), Layer("b", 2)),
        (Parameter("a.weight", (n, 3), "a"), Parameter("a.bias", (n,), "a"), Parameter("b.weight", (2, n, 1, 1), "b", "a")),
    )


def state(a: float, n: int = 4) -> dict[str, torch.Tensor]:
    rows = torch.arange(1.0, n + 1)
    return {"a.weight": a * rows[:, None].expand(n, 3), "a.bias": 2 * a * rows, "b.weight": torch.ones(2, n, 1, 1) * a}


def test_importance_is_a_moving_average_of_how_far_rows_moved_by_hand():
    importance = Importance(net())
    assert all(np.isinf(score).all() for score in importance.scores().values())
    some = Block({"a": torch.tensor([0, 2]), "b": torch.tensor([1])}, {"a": torch.tensor([1]), "b": torch.tensor([0])})
    importance.observe(net(), state(0.0), state(1.0), [some])
    # Row j of a: three weights moved by j + 1 and the bias by 2 (j + 1), so sqrt(3 + 4) (j + 1).
    np.testing.assert_allclose(importance.moved["a"], [7**0.5, np.nan, 3 * 7**0.5, np.nan])
    np.testing.assert_allclose(importance.moved["b"], [np.nan, 2.0])
    assert importance.rested["a"].tolist() == [0, 1, 0, 1]
    importance.observe(net(), state(1.0), state(4.0), [whole_block(net())])
    first, later = 7**0.5, 3 * 7**0.5
    expected = [
        MEMORY * first + (1 - MEMORY) * later, 2 * later, MEMORY * 3 * first + (1 - MEMORY) * 3 * later, 4 * later,
    ]  # fmt: skip
    np.testing.assert_allclose(importance.moved["a"], expected)
    importance.observe(net(), state(4.0), state(9.0), [some])
    scores = importance.scores()["a"]
    moved, rested = importance.moved["a"], np.array([0, 1, 0, 1])
    np.testing.assert_allclose(scores, (moved + FLOOR * moved.mean()) * (1 + rested))
    np.testing.assert_allclose(moved[[1, 3]], np.array(expected)[[1, 3]])


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 24), st.floats(0.02, 0.5), st.lists(st.floats(0.0, 100.0), min_size=24, max_size=24), st.integers(0, 9))
def test_no_neuron_starves(n, share, speeds, seed):
    """However unequal neurons are, each is trained again and again: rest grows without bound, importance does not."""
    neuron_map = NeuronMap((Layer("a", n),), (Parameter("a.bias", (n,), "a"),))
    importance, speed = Importance(neuron_map), torch.tensor(speeds[:n])
    counts = np.zeros(n, int)
    # A turn that the rarest neuron waits for: n / m rounds if all are alike, longer by at most 1 + 1 / FLOOR of n.
    rounds = 2 * int(n / trained_count(share, n) + n * (1 + 1 / FLOOR)) + 2 * n
    before = {"a.bias": torch.zeros(n)}
    for r in range(rounds):
        rng = np.random.default_rng([seed, r])
        block = allocate(neuron_map, [share], 1.0, "importance", r, rng, importance.scores())[0]
        counts[block.trained["a"]] += 1
        after = {"a.bias": before["a.bias"].clone()}
        after["a.bias"][block.trained["a"]] += speed[block.trained["a"]]
        importance.observe(neuron_map, before, after, [block])
        before = after
    assert counts.min() >= 2


def test_important_neurons_are_trained_more_often():
    n = 12
    neuron_map = NeuronMap((Layer("a", n),), (Parameter("a.bias", (n,), "a"),))
    importance, speed = Importance(neuron_map), torch.linspace(0.1, 2.0, n)
    counts = np.zeros(n, int)
    for r in range(300):
        block = allocate(neuron_map, [0.25], 1.0, "importance", r, np.random.default_rng(r), importance.scores())[0]
        rows = block.trained["a"]
        counts[rows] += 1
        after = torch.zeros(n)
        after[rows] = speed[rows]
        importance.observe(neuron_map, {"a.bias": torch.zeros(n)}, {"a.bias": after}, [block])
    assert counts[-3:].mean() > 2 * counts[:3].mean()
    assert counts.min() > 5
