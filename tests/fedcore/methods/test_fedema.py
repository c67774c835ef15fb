import pytest
import torch

from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods.fedbyol import FedBYOL
from fedcore.methods.fedema import FedEMA, mixing
from fedcore.model import build_model
from fedcore.samples import Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

RECIPE = LocalRecipe(batch_size=6, learning_rate=0.02, weight_decay=0.0, optimizer="sgd", precision="fp32")


def federation(method, recipe=RECIPE) -> FederatedTraining:
    model = build_model((1, 8, 8), "mlp", "byol", {"widths": (12, 6)}, {"hidden": 10, "outputs": 7})
    generator = torch.Generator().manual_seed(0)
    samples = [Samples(torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)) for n in (18, 9)]
    return FederatedTraining(
        model, InProcessEngine(samples, recipe), "ab", lambda model, state: 1.0, None, method=method, seed=4
    )


def begun(training: FederatedTraining, machine: int = 0) -> dict[str, torch.Tensor]:
    task = training.method.task(training.server, machine, training.plan([1.0, 1.0])[machine], 2)
    return training.method.begin(training.model, training.state, task)


def test_with_tau_zero_it_is_fedbyol_bit_for_bit():
    one, two = federation(FedEMA(tau=0.0)), federation(FedBYOL())
    for _ in range(3):
        for each in (one, two):
            each.play([1.0, 1.0], 3)
    assert all(torch.equal(value, two.state[name]) for name, value in one.state.items())


def test_mixing_by_hand():
    assert mixing({"d": torch.tensor(0.5), "lambda": torch.tensor(1.2)}) == pytest.approx(0.6)
    assert mixing({"d": torch.tensor(2.0), "lambda": torch.tensor(1.2)}) == 1.0
    assert mixing({"d": torch.tensor(0.0)}) == 0.0


def test_the_first_mixture_is_tau_of_its_own_and_lambda_stays():
    training = federation(FedEMA(tau=0.7))
    training.play([1.0, 1.0], 3)
    kept = training.server.kept[0]
    start = begun(training)
    assert mixing(kept["divergence"]) == pytest.approx(0.7)
    for name, value in training.state.items():  # encoder, projector and predictor alike
        torch.testing.assert_close(start[name], 0.3 * value + 0.7 * kept["online"][name])
    scale = kept["divergence"]["lambda"]
    training.play([1.0, 1.0], 1)
    later = training.server.kept[0]["divergence"]
    assert torch.equal(later["lambda"], scale)
    assert float(later["d"]) != float(kept["divergence"]["d"])
    assert mixing(later) == pytest.approx(min(1.0, float(later["d"] * scale)))


def test_whoever_missed_a_round_takes_everything_from_the_global_model_but_keeps_lambda():
    training = federation(FedEMA())
    training.play([1.0, 1.0], 2)
    scale = training.server.kept[0]["divergence"]["lambda"]
    training.play([0.0, 1.0], 2)
    task = training.method.task(training.server, 0, training.plan([1.0, 1.0])[0], 2)
    assert all(torch.equal(value, training.state[name]) for name, value in begun(training).items())
    assert all(torch.equal(value, training.state[name]) for name, value in task.extra["target"].items())
    stayed = training.method.task(training.server, 1, task.block, 2)
    assert not torch.equal(stayed.extra["target"]["fc1.weight"], training.state["fc1.weight"])
    training.play([1.0, 1.0], 2)
    assert torch.equal(training.server.kept[0]["divergence"]["lambda"], scale)
    assert not torch.equal(begun(training)["fc1.weight"], training.state["fc1.weight"])


def test_on_blocks_what_was_trained_in_the_last_round_is_mixed():
    # Half a server step: blocks that nobody shares would otherwise come back as they were sent.
    training = federation(FedEMA(0.5, partial=True, rule="rolling"))
    for _ in range(2):
        rows = training.play([0.3, 0.3], 2).blocks[0].trained["fc1"].tolist()
    start = begun(training)["fc1.bias"]
    mixed = (start != training.state["fc1.bias"]).nonzero().flatten().tolist()
    assert mixed == rows


def test_a_machine_that_cannot_move_has_no_lambda_yet():
    training = federation(FedEMA(), LocalRecipe(batch_size=6, learning_rate=0.0, weight_decay=0.0, optimizer="sgd"))
    training.play([1.0, 1.0], 2)
    assert "lambda" not in training.server.kept[0]["divergence"]
    assert all(torch.equal(value, training.state[name]) for name, value in begun(training).items())


@pytest.mark.parametrize("tau", [-0.1, 1.1, float("nan")])
def test_a_tau_that_is_no_fraction_is_refused(tau):
    with pytest.raises(InputError, match=r"^fedema: tau is .*, expected a number from 0 to 1$"):
        FedEMA(tau=tau)
