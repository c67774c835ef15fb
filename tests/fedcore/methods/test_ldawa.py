import pytest
import torch

from fedcore.blocks import Block
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe, LocalResult, LocalTask
from fedcore.merge import Update
from fedcore.methods import FedAvg, Server
from fedcore.methods.ldawa import LDAWA, cosine
from fedcore.model import build_model
from fedcore.neurons import Layer, NeuronMap, Parameter
from fedcore.samples import Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

TWO = NeuronMap((Layer("a", 2),), (Parameter("a.w", (2, 2), "a"), Parameter("a.bias", (2,), "a")))


class Declared:
    """Just enough of a model for a merge."""

    neuron_map = TWO


def block(rows: list[int]) -> Block:
    return Block({"a": torch.tensor(rows)}, {"a": torch.tensor([r for r in (0, 1) if r not in rows], dtype=torch.int64)})


def merged(method, updates: list[tuple[list[int], list, list, float]], bias=(1.0, 0.0), round_index: int = 9):
    state = {"a.w": torch.tensor([[1.0, 0.0], [0.0, 0.0]]), "a.bias": torch.tensor(bias), "centre": torch.ones(3)}
    server = Server(Declared(), state, None, ("m",) * len(updates), (1,) * len(updates), 0, round_index)
    sent = [
        Update("m", block(rows), {"a.w": torch.tensor(w), "a.bias": torch.tensor(b)}, weight) for rows, w, b, weight in updates
    ]
    tasks = [LocalTask(k, update.block, 1, (0,)) for k, update in enumerate(sent)]
    method.merge(server, tasks, [LocalResult({}, 0.0, 1, 1) for _ in sent], sent)
    assert torch.equal(server.state["centre"], state["centre"])
    return server.state


# Cosines with [[1, 0], [0, 0]]: 1 for twice itself, 0.6, and -1; the biases' with (1, 0) are 0.8, 1 and 0.
AHEAD = ([0, 1], [[2.0, 0.0], [0.0, 0.0]], [4.0, 3.0], 10.0)
ASIDE = ([0, 1], [[3.0, 0.0], [4.0, 0.0]], [2.0, 0.0], 30.0)
BACK = ([0, 1], [[-5.0, 0.0], [0.0, 0.0]], [0.0, 7.0], 20.0)


def test_cosine():
    a = torch.tensor([[3.0, 0.0], [4.0, 0.0]])
    assert cosine(a, torch.tensor([[1.0, 0.0], [0.0, 0.0]])) == pytest.approx(0.6)
    assert cosine(a, -2 * a) == pytest.approx(-1.0)
    assert cosine(torch.full((9,), 0.1), torch.full((9,), 0.3)) <= 1.0
    assert cosine(a, torch.zeros(2, 2)) == cosine(torch.zeros(2, 2), a) == 1.0


def test_as_published_by_hand():
    state = merged(LDAWA(renormalise=False), [AHEAD, ASIDE, BACK])
    expected = (1.0 * 2 + 0.6 * 3 + -1.0 * -5) / 3, 0.6 * 4 / 3
    assert state["a.w"].flatten().tolist() == pytest.approx([expected[0], 0.0, expected[1], 0.0])
    assert state["a.bias"].tolist() == pytest.approx([(0.8 * 4 + 1 * 2 + 0) / 3, (0.8 * 3 + 0) / 3])


def test_renormalised_by_hand():
    state = merged(LDAWA(), [AHEAD, ASIDE, BACK])
    weights = 10 * 1.0, 30 * 0.6  # the third turned round: it counts nothing
    assert state["a.w"][0, 0] == pytest.approx((weights[0] * 2 + weights[1] * 3) / sum(weights))
    assert state["a.w"][1, 0] == pytest.approx(weights[1] * 4 / sum(weights))
    assert state["a.bias"].tolist() == pytest.approx([(8 * 4 + 30 * 2) / 38, 8 * 3 / 38])


def test_the_published_rule_shrinks_what_the_other_keeps():
    turned = [([0, 1], [[0.6, 0.8], [0.0, 0.0]], [1.0, 0.0], 1.0), ([0, 1], [[0.6, -0.8], [0.0, 0.0]], [1.0, 0.0], 1.0)]
    assert merged(LDAWA(renormalise=False), turned)["a.w"][0].tolist() == pytest.approx([0.36, 0.0])
    assert merged(LDAWA(), turned)["a.w"][0].tolist() == pytest.approx([0.6, 0.0])


@pytest.mark.parametrize("renormalise", [True, False])
def test_tensors_without_a_direction_and_the_server_step(renormalise):
    one = ([0, 1], [[2.0, 0.0], [0.0, 0.0]], [1.0, 3.0], 1.0)
    state = merged(LDAWA(0.5, renormalise=renormalise), [one], bias=(0.0, 0.0))
    assert state["a.bias"].tolist() == [0.5, 1.5]
    assert state["a.w"][0].tolist() == pytest.approx([1.5, 0.0])


def test_on_blocks_a_cosine_is_that_of_the_entries_trained():
    # Row 0 alone: cosine 0.6 with (1, 0). Row 1 had no direction. Nobody's entries keep their value.
    upper = ([0], [[3.0, 4.0]], [2.0], 5.0)
    assert merged(LDAWA(renormalise=False), [upper])["a.w"].flatten().tolist() == pytest.approx([1.8, 2.4, 0.0, 0.0])
    assert merged(LDAWA(), [upper])["a.w"].tolist() == [[3.0, 4.0], [0.0, 0.0]]
    back = ([0], [[-3.0, 4.0]], [-2.0], 5.0)
    kept = merged(LDAWA(), [back])
    assert kept["a.w"].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert kept["a.bias"].tolist() == [1.0, 0.0]
    # A robust rule goes over those that still count.
    assert merged(LDAWA(merge_rule="median"), [AHEAD, ASIDE, BACK])["a.w"][0, 0] == pytest.approx(2.5)


def test_it_warms_up_with_fedavg():
    for round_index, warm in ((0, True), (2, True), (3, False)):
        one, two = (merged(m, [AHEAD, ASIDE, BACK], round_index=round_index) for m in (LDAWA(), FedAvg()))
        assert torch.equal(one["a.w"], two["a.w"]) == warm
    assert not torch.equal(
        merged(LDAWA(warmup_rounds=0), [AHEAD, ASIDE], round_index=0)["a.w"], merged(FedAvg(), [AHEAD, ASIDE])["a.w"]
    )


def test_in_training_it_leaves_fedavg_after_the_warm_up_and_costs_the_same():
    runs = []
    for method in (LDAWA(warmup_rounds=1), FedAvg()):
        model = build_model((1, 8, 8), "mlp", "simclr", {"widths": (12, 6)}, {"hidden": 10, "outputs": 7})
        generator = torch.Generator().manual_seed(0)
        samples = [Samples(torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)) for n in (18, 9)]
        recipe = LocalRecipe(batch_size=6, precision="fp32", learning_rate=0.02)
        training = FederatedTraining(
            model, InProcessEngine(samples, recipe), "ab", lambda model, state: 1.0, None, method=method, seed=4
        )
        cost = method.cost(training.server, 0, training.plan([1.0, 1.0])[0], 3, recipe)
        states = []
        for _ in range(2):
            training.play([1.0, 1.0], 3)
            states.append(training.state["fc1.weight"])
        runs.append((states, cost))
    (one, cost), (two, same) = runs
    assert cost == same
    assert torch.equal(one[0], two[0])
    assert not torch.equal(one[1], two[1])
    assert float((one[1] - two[1]).norm()) < 0.1 * float((two[1] - two[0]).norm())
    assert one[1].isfinite().all()


def test_what_cannot_work_is_refused():
    with pytest.raises(InputError, match=r"^l-dawa: warmup_rounds is -1, expected at least 0$"):
        LDAWA(warmup_rounds=-1)
    with pytest.raises(InputError, match=r"^l-dawa: selection is 'importance', .* expected another selection$"):
        LDAWA(partial=True, rule="importance")
