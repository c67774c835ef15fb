import pytest
import torch

from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods.fedbyol import FedBYOL
from fedcore.methods.fedu import FedU
from fedcore.model import build_model
from fedcore.samples import Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

RECIPE = LocalRecipe(batch_size=6, learning_rate=0.02, weight_decay=0.0, optimizer="sgd", precision="fp32")


def federation(method) -> FederatedTraining:
    model = build_model((1, 8, 8), "mlp", "byol", {"widths": (12, 6)}, {"hidden": 10, "outputs": 7})
    generator = torch.Generator().manual_seed(0)
    samples = [Samples(torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)) for n in (18, 9)]
    return FederatedTraining(
        model, InProcessEngine(samples, RECIPE), "ab", lambda model, state: 1.0, None, method=method, seed=4
    )


def test_with_an_endless_threshold_it_is_fedbyol_bit_for_bit():
    one, two = federation(FedU(mu=float("inf"))), federation(FedBYOL())
    for _ in range(3):
        for each in (one, two):
            each.play([1.0, 1.0], 3)
    assert all(torch.equal(value, two.state[name]) for name, value in one.state.items())


@pytest.mark.parametrize(("d", "local"), [(0.39, False), (0.4, True), (5.0, True)])
def test_the_predictor_is_the_machines_own_from_the_threshold_on(d, local):
    method = FedU()
    training = federation(method)
    training.play([1.0, 1.0], 2)
    kept = training.server.kept[0]
    kept["divergence"] = {"d": torch.tensor(d, dtype=torch.float64)}
    task = method.task(training.server, 0, training.plan([1.0, 1.0])[0], 2)
    start = method.begin(training.model, training.state, task)
    for name, value in training.state.items():
        own = name in training.model.objective.online_only
        assert torch.equal(start[name], kept["predictor"][name] if own and local else value)
    assert not torch.equal(kept["predictor"]["predictor.out.weight"], training.state["predictor.out.weight"])


def test_on_blocks_a_machine_has_its_own_predictor_where_it_has_ever_trained_it():
    method = FedU(mu=0.0, partial=True, rule="rolling")
    training = federation(method)
    rows: set[int] = set()
    for _ in range(2):
        rows |= set(training.play([0.3, 0.3], 2).blocks[0].trained["predictor.hidden"].tolist())
    assert 3 < len(rows) < 10
    task = method.task(training.server, 0, training.plan([0.3, 0.3])[0], 2)
    start = method.begin(training.model, training.state, task)["predictor.hidden.bias"]
    own = training.server.kept[0]["predictor"]["predictor.hidden.bias"]
    assert set(own.isfinite().nonzero().flatten().tolist()) == rows
    expected = [own[i] if i in rows else training.state["predictor.hidden.bias"][i] for i in range(10)]
    assert torch.equal(start, torch.stack(expected))


def test_a_threshold_below_zero_is_refused():
    with pytest.raises(InputError, match=r"^fedu: mu is -0.1, expected a number of at least 0$"):
        FedU(mu=-0.1)
