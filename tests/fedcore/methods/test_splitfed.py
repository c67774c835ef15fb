import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedcore.augment import Augmentation
from fedcore.blocks import Weights
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe, make_optimizer
from fedcore.methods.fedavg import FedAvg
from fedcore.methods.splitfed import SplitFedV1, SplitFedV2
from fedcore.model import build_model
from fedcore.samples import Samples
from fedcore.training import FederatedTraining

torch.set_num_threads(1)

RECIPES = {
    "adamw": LocalRecipe(batch_size=6, precision="fp32"),
    "sgd": LocalRecipe(batch_size=6, precision="fp32", optimizer="sgd", learning_rate=0.05, sgd_momentum=0.9),
    "moving target": LocalRecipe(batch_size=6, precision="fp32", moving_target=True),
}
OPTIONS = {
    "simclr": {"hidden": 12, "outputs": 6},
    "byol": {"hidden": 12, "outputs": 6, "target_momentum": 0.9},
    "dino": {"hidden": 12, "bottleneck": 6, "prototypes": 8, "local_crops": 0},
}


def blobs(machines: int) -> list[Samples]:
    generator = torch.Generator().manual_seed(0)
    small = [torch.rand(n, 1, 3, 3, generator=generator) for n in (9, 10, 7)[:machines]]
    return [Samples((255 * F.interpolate(x, (12, 12), mode="bilinear")).to(torch.uint8)) for x in small]


def federation(method, objective="simclr", recipe="adamw", machines=3, engine=None) -> FederatedTraining:
    model = build_model((1, 12, 12), "convnet", objective, {"widths": (6, 8, 8)}, OPTIONS[objective])
    engine = engine or InProcessEngine(blobs(machines), RECIPES[recipe])
    return FederatedTraining(model, engine, "abc"[:machines], lambda model, state: 1.0, None, method=method, seed=4)


@pytest.mark.parametrize("cut", [1, 2])
@pytest.mark.parametrize("recipe", sorted(RECIPES))
@pytest.mark.parametrize("objective", sorted(OPTIONS))
def test_v1_is_fedavg_bit_for_bit(objective, recipe, cut):
    plain, split = federation(FedAvg(), objective, recipe), federation(SplitFedV1(cut=cut), objective, recipe)
    for shares in ([1, 1, 1], [0, 1, 1]):
        a, b = plain.play(shares, 3), split.play(shares, 3)
        np.testing.assert_array_equal(a.losses, b.losses)
    assert all(torch.equal(value, split.state[name]) for name, value in plain.state.items())
    if plain.target is not None:
        assert all(torch.equal(value, split.target[name]) for name, value in plain.target.items())


@pytest.mark.parametrize("recipe", sorted(RECIPES))
@pytest.mark.parametrize("objective", sorted(OPTIONS))
def test_v2_with_one_machine_is_local_training_bit_for_bit(objective, recipe):
    plain = federation(FedAvg(), objective, recipe, machines=1)
    split = federation(SplitFedV2(cut=2), objective, recipe, machines=1)
    for _ in range(2):
        a, b = plain.play([1], 3), split.play([1], 3)
        assert a.losses[0] == pytest.approx(b.losses[0])
    assert all(torch.equal(value, split.state[name]) for name, value in plain.state.items())


def plain_v2(training, cut, steps, recipe):
    """One graph per step, no wire: own bottoms, one top, one optimiser for each."""
    model, server = training.model, training.server
    below = {p.name for p in model.encoder.prefix(cut).neuron_map.parameters}
    state = {n: t.clone() for n, t in training.state.items()}
    top = {n: t.clone().requires_grad_() for n, t in state.items() if n not in below}
    bottoms = [{n: state[n].clone().requires_grad_() for n in below} for _ in training.engine.samples]
    optimisers = [make_optimizer(list(part.values()), recipe) for part in (*bottoms, top)]
    draws = [
        torch.Generator().manual_seed(int(np.random.SeedSequence((4, 2, 0, k)).generate_state(1, np.uint64)[0] >> 1))
        for k in range(len(bottoms))
    ]
    order = np.random.default_rng([server.seed, 3, 0]).permutation(len(bottoms))
    for _ in range(steps):
        for k in order:
            own = training.engine.samples[k]
            chosen = torch.randperm(len(own), generator=draws[k])[:6]
            batch = model.objective.draw(own, chosen, Augmentation(), draws[k])
            weights = Weights(bottoms[k] | top, {})
            for optimiser in optimisers:
                optimiser.zero_grad(set_to_none=True)
            model.objective.loss(model.encoder.features, weights, None, batch).backward()
            optimisers[k].step()
            optimisers[-1].step()
    n = [float(len(own)) for own in training.engine.samples]
    mean = {
        name: (sum(b[name].detach().double() * w for b, w in zip(bottoms, n, strict=True)) / sum(n)).float() for name in below
    }
    return mean | {name: t.detach() for name, t in top.items()}, list(order)


@pytest.mark.parametrize("recipe", ["adamw", "sgd"])
@pytest.mark.parametrize("cut", [1, 2])
def test_v2_moves_one_top_machine_by_machine_in_a_drawn_order_and_averages_the_bottoms(recipe, cut):
    training = federation(SplitFedV2(cut=cut), recipe=recipe)
    expected, order = plain_v2(training, cut, 3, RECIPES[recipe])
    assert order != sorted(order)
    report = training.play([1, 1, 1], 3)
    assert np.isfinite(report.losses).all()
    for name, value in expected.items():
        torch.testing.assert_close(training.state[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("objective", sorted(OPTIONS))
def test_v2_trains_targets_that_move(objective):
    training = federation(SplitFedV2(), objective, "moving target")
    before = dict(training.state)
    report = training.play([1, 0, 1], 3)
    assert np.isnan(report.losses).tolist() == [False, True, False]
    assert not report.refused
    assert not torch.equal(training.state["conv3.weight"], before["conv3.weight"])


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


@pytest.mark.parametrize("value", [float("nan"), 1e6])
def test_v2_names_a_bad_machine_and_keeps_it_from_the_shared_half(value):
    inner = InProcessEngine(blobs(3), RECIPES["adamw"])
    training = federation(SplitFedV2(), engine=Spoiling(inner, 1, value))
    before = dict(training.state)
    for _ in range(2):
        report = training.play([1, 1, 1], 3)
        assert len(report.refused) == 1
        assert report.refused[0].startswith("machine b: ")
        assert np.isfinite(report.losses[[0, 2]]).all()
    assert all(torch.isfinite(value).all() for value in training.state.values())
    assert not any(torch.equal(before[name], value) for name, value in training.state.items())


def test_v2_draws_another_order_every_round():
    training = federation(SplitFedV2())
    orders = []
    train = training.engine.train

    def listen(method, model, state, target, tasks):
        orders[-1].append(tasks[0].machine)
        return train(method, model, state, target, tasks)

    training.engine.train = listen
    for _ in range(6):
        orders.append([])
        training.play([1, 1, 1], 2)
        assert orders[-1][:3] == orders[-1][3:]
        assert sorted(orders[-1][:3]) == [0, 1, 2]
    assert len({tuple(order) for order in orders}) > 1


@pytest.mark.parametrize("method", [SplitFedV1(), SplitFedV2()])
def test_it_learns(method):
    training = federation(method)
    losses = [training.play([1, 1, 1], 8).losses.mean() for _ in range(8)]
    assert np.mean(losses[-2:]) < 0.7 * losses[0]
    assert not method.one_by_one
