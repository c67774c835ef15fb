import dataclasses

import numpy as np
import pytest
import torch

from fedcore.blocks import whole_block
from fedcore.costs import cost_of_block
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods import FedAvg, IntraLayer
from fedcore.methods.fedprox import FedProx
from fedcore.model import build_model
from fedcore.objectives.simclr import SimCLR
from fedcore.samples import Samples
from fedcore.slices import trained_slice
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

SGD = LocalRecipe(batch_size=6, learning_rate=0.1, weight_decay=0.0, optimizer="sgd", precision="fp32")
ADAMW = LocalRecipe(batch_size=6, precision="fp32")


def federation(method, recipe=ADAMW, objective="simclr") -> FederatedTraining:
    model = build_model((1, 8, 8), "mlp", objective, {"widths": (12, 6)}, {"hidden": 10, "outputs": 7})
    generator = torch.Generator().manual_seed(0)
    samples = [Samples(torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)) for n in (18, 12, 9)]
    return FederatedTraining(
        model, InProcessEngine(samples, recipe), "abc", lambda model, state: 1.0, None, method=method, seed=4
    )


@pytest.mark.parametrize(
    ("neutral", "reference"),
    [
        (FedProx(mu=0.0), FedAvg()),
        (FedProx(mu=0.0, partial=True, context=0.5), IntraLayer(context=0.5)),
    ],
)
def test_without_the_term_it_is_the_method_below_bit_for_bit(neutral, reference):
    one, two = federation(neutral), federation(reference)
    for _ in range(2):
        np.testing.assert_array_equal(one.play([1.0, 0.0, 0.5], 3).losses, two.play([1.0, 0.0, 0.5], 3).losses)
    assert all(torch.equal(value, two.state[name]) for name, value in one.state.items())


class Penalised(SimCLR):
    """The proximal term as the paper writes it: a penalty in the loss, for autograd to differentiate."""

    anchor: dict
    mu: float

    def loss(self, features, weights, target, batch):
        distance = sum((weights.trained[name] - self.anchor[name]).square().sum() for name in weights.trained)
        return super().loss(features, weights, target, batch) + self.mu / 2 * distance


@pytest.mark.parametrize("recipe", [SGD, ADAMW])
@pytest.mark.parametrize("method", [FedProx(mu=0.7), FedProx(mu=0.7, partial=True, context=0.5)])
def test_it_trains_the_penalised_loss(recipe, method):
    training = federation(method, recipe)
    block = training.plan([0.5, 1.0, 1.0])[0]
    task = method.task(training.server, 0, block, 4)
    args = (training.state, None, task, training.engine.samples[0], recipe)
    result = method.train(training.model, *args, torch.Generator().manual_seed(1))

    plain = federation(FedAvg(), recipe)
    objective = Penalised(plain.model.encoder, hidden=10, outputs=7)
    objective.anchor, objective.mu = trained_slice(training.state, training.model.neuron_map, block), 0.7
    plain.model.objective = objective
    expected = FedAvg().train(plain.model, *args, torch.Generator().manual_seed(1))
    free = FedAvg().train(training.model, *args, torch.Generator().manual_seed(1))
    for name, value in result.trained.items():
        torch.testing.assert_close(value, expected.trained[name], atol=2e-5, rtol=2e-4)
    apart = [float((result.trained[n] - free.trained[n]).abs().max()) for n in result.trained]
    assert max(apart) > 1e-4


def test_a_larger_mu_keeps_machines_nearer():
    moved = []
    for mu in (0.0, 1.0, 4.0):
        training = federation(FedProx(mu=mu), SGD)
        before = training.state
        training.play([1.0, 1.0, 1.0], 20)
        moved.append(sum(float((value - before[name]).square().sum()) for name, value in training.state.items()))
    assert moved[0] > 1.1 * moved[1] > 1.2 * 1.1 * moved[2]


def test_cost_is_that_of_fedavg_and_one_more_copy_of_what_is_trained():
    training = federation(FedProx())
    block = training.plan([1.0, 0.0, 0.0])[0]
    cost = training.method.cost(training.server, 0, block, 5, ADAMW)
    base = FedAvg().cost(training.server, 0, block, 5, ADAMW)
    copy = sum(4 * value.numel() for value in training.state.values())
    assert cost == dataclasses.replace(base, memory_bytes=base.memory_bytes + copy)
    assert base.upload_bytes == cost_of_block(training.model, whole_block(training.model.neuron_map), 6).upload_bytes == copy
    assert FedProx(mu=0.0).cost(training.server, 0, block, 5, ADAMW) == base


@pytest.mark.parametrize("mu", [-0.1, float("nan"), float("inf")])
def test_a_mu_that_is_none_is_refused(mu):
    with pytest.raises(InputError, match=r"^fedprox: mu is .*, expected a finite number of at least 0$"):
        FedProx(mu=mu)
