import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedcore.blocks import whole_block
from fedcore.engines import InProcessEngine
from fedcore.engines.inprocess import train_task
from fedcore.local import LocalRecipe, LocalTask
from fedcore.methods.fedavg import FedAvg
from fedcore.methods.splitnn import SplitNN
from fedcore.model import build_model
from fedcore.samples import Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

RECIPE = LocalRecipe(batch_size=6, precision="fp32")


def blobs() -> list[Samples]:
    generator = torch.Generator().manual_seed(0)
    small = [torch.rand(n, 1, 3, 3, generator=generator) for n in (9, 10, 7)]
    return [Samples((255 * F.interpolate(x, (12, 12), mode="bilinear")).to(torch.uint8)) for x in small]


def federation(method, objective="simclr", engine=None, options=None) -> FederatedTraining:
    options = {"hidden": 12, "outputs": 6} if options is None else options
    model = build_model((1, 12, 12), "convnet", objective, {"widths": (6, 8, 8)}, options)
    engine = engine or InProcessEngine(blobs(), RECIPE)
    return FederatedTraining(model, engine, "abc", lambda model, state: 1.0, None, method=method, seed=4)


def relayed(training, machines, steps, round_index=0):
    """Plain local training of the whole model, each machine from where the one before it ended."""
    state = dict(training.state)
    for k in machines:
        task = LocalTask(k, whole_block(training.model.neuron_map), steps, (4, 2, round_index, k))
        own = training.engine.samples[k]
        state |= train_task(FedAvg(), training.model, state, training.target, task, own, RECIPE).trained
    return state


@pytest.mark.parametrize("objective", ["simclr", "byol"])
@pytest.mark.parametrize("cut", [1, 2])
def test_it_is_a_relay_of_local_training_bit_for_bit(objective, cut):
    training = federation(SplitNN(cut=cut), objective)
    for r, shares in enumerate(([1, 1, 1], [0, 1, 1])):
        expected = relayed(training, [k for k in range(3) if shares[k]], 3, r)
        training.play(shares, 3)
        assert all(torch.equal(training.state[name], value) for name, value in expected.items())
    assert training.method.one_by_one


def test_a_momentum_target_follows_every_step_of_the_relay():
    training = federation(SplitNN(), "byol")
    before = dict(training.target)
    training.play([1, 0, 1], 3)
    keep = training.model.objective.target_momentum ** (2 * 3)
    for name, old in before.items():
        torch.testing.assert_close(training.target[name], old.lerp(training.state[name], 1 - keep))


def test_the_server_step_goes_part_of_the_way_to_the_last_state():
    training = federation(SplitNN(0.5))
    before, expected = dict(training.state), relayed(training, [0, 1, 2], 2)
    training.play([1, 1, 1], 2)
    for name, value in expected.items():
        assert torch.equal(training.state[name], torch.lerp(before[name], value, 0.5))


class Spoiling:
    def __init__(self, inner, machine, value) -> None:
        self.inner, self.machine, self.value = inner, machine, value
        self.samples, self.recipe = inner.samples, inner.recipe

    def train(self, method, model, state, target, tasks):
        return [
            dataclasses.replace(result, trained={n: t * self.value for n, t in result.trained.items()})
            if task.machine == self.machine
            else result
            for task, result in zip(tasks, self.inner.train(method, model, state, target, tasks), strict=True)
        ]


@pytest.mark.parametrize("machine", [0, 1, 2])
@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_a_bad_machine_is_named_and_hands_nothing_over(machine, value):
    training = federation(SplitNN(), engine=Spoiling(InProcessEngine(blobs(), RECIPE), machine, value))
    expected = relayed(training, [k for k in range(3) if k != machine], 2)
    report = training.play([1, 1, 1], 2)
    assert len(report.refused) == 1
    assert report.refused[0].startswith(f"machine {'abc'[machine]}: ")
    assert all(torch.equal(training.state[name], value) for name, value in expected.items())


def test_statistics_are_those_that_the_relay_ends_with():
    options = {"hidden": 12, "bottleneck": 6, "prototypes": 8, "local_crops": 0}
    training = federation(SplitNN(), "dino", options=options)
    ended = []
    train = training.engine.train

    def listen(*args):
        results = train(*args)
        ended.extend(result.statistics for result in results)
        return results

    training.engine.train = listen
    training.play([1, 1, 1], 2)
    assert len(ended) == 3
    for name, value in ended[-1].items():
        assert torch.equal(training.state[name], value)
        assert not torch.equal(ended[0][name], value)


def test_it_learns():
    training = federation(SplitNN())
    losses = [training.play([1, 1, 1], 5).losses.mean() for _ in range(8)]
    assert np.mean(losses[-2:]) < 0.7 * losses[0]


@pytest.mark.parametrize("rule", ["median", "trimmed-mean", "norm-clipping"])
def test_a_relay_has_nobody_to_leave_out(rule):
    with pytest.raises(InputError, match=f"^splitnn: merge_rule is '{rule}', which leaves out nobody in a relay"):
        federation(SplitNN(merge_rule=rule))
