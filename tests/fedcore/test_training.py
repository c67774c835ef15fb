import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fedcore.augment import Augmentation, normalise, random_view
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods import IntraLayer
from fedcore.model import Model, build_model
from fedcore.probes import HeldOutInfoNCE
from fedcore.probes.features import to_tensor
from fedcore.samples import Samples
from fedcore.training import FederatedTraining, ProgressScale

torch.set_num_threads(1)

RECIPE = LocalRecipe(batch_size=16, precision="fp32")


def gratings(n: int, size: int, seed: int) -> np.ndarray:
    """Noisy stripes of any period, direction and sharpness: little images that differ in what a small net can learn."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    period, angle, phase, sharp = (
        rng.uniform(low, high, (n, 1, 1)) for low, high in ((0.2, 2.2), (0, np.pi), (0, 6.28), (0.3, 4))
    )
    wave = np.tanh(sharp * np.sin(period * (x * np.cos(angle) + y * np.sin(angle)) + phase)) / np.tanh(sharp)
    return np.clip(128 + 40 * wave + 25 * rng.normal(size=wave.shape), 0, 255).astype(np.uint8)[..., None]


def tiny(objective: str = "simclr", **options) -> Model:
    return build_model(
        (1, 16, 16), "convnet", objective, {"widths": (8, 16, 24)}, {"hidden": 48, "outputs": 32, **options}
    )


def federation(
    model: Model, sizes: tuple[int, ...] = (40, 24, 12), recipe: LocalRecipe = RECIPE, engine=None, **options
) -> FederatedTraining:
    images = np.split(gratings(sum(sizes), 16, 0), np.cumsum(sizes)[:-1])
    engine = engine or InProcessEngine([Samples(to_tensor(part)) for part in images], recipe)
    method = {name: options.pop(name) for name in ("context", "rule", "server_step") if name in options}
    names = [f"node-{k}" for k in range(len(sizes))]
    probe = HeldOutInfoNCE(gratings(96, 16, 1))
    return FederatedTraining(model, engine, names, probe, None, method=IntraLayer(**method), **options)


class PlainConvSimCLR(nn.Module):
    """The same network out of torch.nn's own modules."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        inputs = 1
        for width, stride, side in ((8, 2, 5), (16, 1, 3), (24, 2, 3)):
            self.convs.append(nn.Conv2d(inputs, width, side, stride, side // 2, bias=False))
            self.norms.append(nn.GroupNorm(1, width))
            inputs = width
        self.hidden, self.norm, self.out = nn.Linear(24, 48, bias=False), nn.BatchNorm1d(48), nn.Linear(48, 32, bias=False)
        with torch.no_grad():
            for name, parameter in self.named().items():
                parameter.copy_(weights[name])

    def named(self) -> dict[str, nn.Parameter]:
        names = {}
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True), 1):
            names |= {f"conv{i}.weight": conv.weight, f"conv{i}.gain": norm.weight, f"conv{i}.bias": norm.bias}
        return names | {
            "projector.hidden.weight": self.hidden.weight,
            "projector.hidden.gain": self.norm.weight,
            "projector.hidden.bias": self.norm.bias,
            "projector.out.weight": self.out.weight,
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(conv(x)).relu()
        return self.out(self.norm(self.hidden(x.mean((2, 3)))).relu())


def plain_local_training(weights, images, steps, generator):
    net = PlainConvSimCLR(weights)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-4, fused=True)
    n = min(16, len(images))
    for _ in range(steps):
        x = normalise(images[torch.randperm(len(images), generator=generator)[:n]])
        views = [random_view(x, Augmentation(), generator) for _ in range(2)]
        z = F.normalize(net(torch.cat(views)), dim=1)
        logits = (z @ z.T / 0.1).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
        loss = F.cross_entropy(logits, (torch.arange(2 * n) + n) % (2 * n))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return {name: parameter.detach() for name, parameter in net.named().items()}


def plain_fedavg(weights, images, steps, rounds, seed):
    for r in range(rounds):
        locals_ = []
        for k in range(len(images)):
            entropy = int(np.random.SeedSequence((seed, 2, r, k)).generate_state(1, np.uint64)[0] >> 1)
            locals_.append(plain_local_training(weights, images[k], steps, torch.Generator().manual_seed(entropy)))
        n = [len(part) * steps for part in images]
        weights = {
            name: (sum(w[name].double() * n_k for w, n_k in zip(locals_, n, strict=True)) / sum(n)).float()
            for name in weights
        }
    return weights


@pytest.mark.parametrize("rule", ["random", "fixed"])
def test_whole_shares_are_fedavg_bit_for_bit(rule):
    training = federation(tiny(), rule=rule, seed=11)
    start = {name: value.clone() for name, value in training.state.items()}
    expected = plain_fedavg(start, [s.x for s in training.engine.samples], 3, 2, seed=11)
    for _ in range(2):
        training.play([1.0, 1.0, 1.0], 3)
    assert set(training.state) == set(expected)
    for name, value in expected.items():
        assert torch.equal(training.state[name], value), name
        assert not torch.equal(start[name], value), name


def test_one_whole_machine_is_plain_local_training_bit_for_bit():
    training = federation(tiny(), sizes=(40,), seed=3)
    start = training.state
    entropy = int(np.random.SeedSequence((3, 2, 0, 0)).generate_state(1, np.uint64)[0] >> 1)
    expected = plain_local_training(start, training.engine.samples[0].x, 5, torch.Generator().manual_seed(entropy))
    training.play([1.0], 5)
    for name, value in expected.items():
        assert torch.equal(training.state[name], value), name


def played(objective: str, seed: int, rounds: int = 2, **options) -> tuple[FederatedTraining, list]:
    training = federation(tiny(objective), seed=seed, server_step=0.7, guard_images=gratings(32, 16, 2), **options)
    return training, [training.play([0.5, 0.0, 1.0], 2) for _ in range(rounds)]


@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_one_seed_gives_one_result_bit_for_bit_and_another_seed_another(objective):
    (one, reports), (two, again), (other, different) = (played(objective, seed) for seed in (5, 5, 6))
    for a, b in zip(reports, again, strict=True):
        assert (a.infonce, a.progress, a.feature_std, a.effective_rank) == (
            b.infonce, b.progress, b.feature_std, b.effective_rank,
        )  # fmt: skip
        assert np.array_equal(a.losses, b.losses, equal_nan=True)
    assert all(torch.equal(value, two.state[name]) for name, value in one.state.items())
    if objective == "byol":
        assert all(torch.equal(value, two.target[name]) for name, value in one.target.items())
    assert reports[0].infonce != different[0].infonce
    assert not torch.equal(one.state["conv1.weight"], other.state["conv1.weight"])


def test_a_machines_draws_do_not_depend_on_who_else_trains():
    shares = [0.3, 0.3, 0.3]
    alone, together = federation(tiny(), rule="fixed"), federation(tiny(), rule="fixed")
    a = alone.play(shares, 2, survives=[False, True, False])
    b = together.play(shares, 2)
    assert a.losses[1] == b.losses[1]
    assert np.isnan(a.losses[[0, 2]]).all()
    rows = a.blocks[1].trained["conv1"]
    assert torch.equal(alone.state["conv1.weight"][rows], together.state["conv1.weight"][rows])


@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_progress_rises(objective):
    # BYOL is the slower one: a quicker target and steps twice as long show the same in as few rounds.
    options, rate = ({"target_momentum": 0.9}, 6e-3) if objective == "byol" else ({}, 3e-3)
    recipe = LocalRecipe(batch_size=24, precision="fp32", learning_rate=rate)
    training = federation(tiny(objective, **options), (64, 64, 64), recipe)
    reports = [training.play([0.5] * 3, 10) for _ in range(12)]
    last = np.mean([report.infonce for report in reports[-3:]])
    assert last < training.untrained - 0.15
    assert all(np.isfinite(report.losses).all() and not report.refused for report in reports)
    progress = [report.progress for report in reports]
    assert progress == pytest.approx([1 - report.infonce / training.untrained for report in reports])
    assert np.mean(progress[-3:]) > max(0.0, progress[0])


def test_nobody_taking_part_changes_nothing():
    training = federation(tiny("byol"))
    state, target = dict(training.state), dict(training.target)
    report = training.play([0.0, 0.0, 0.0], 4)
    assert np.isnan(report.losses).all()
    assert report.blocks == (None, None, None)
    assert report.progress == 0.0
    report = training.play([1.0, 1.0, 0.0], 4, survives=[False, False, True])
    assert report.infonce == training.untrained
    assert training.round_index == 2
    assert all(torch.equal(value, state[name]) for name, value in training.state.items())
    assert all(torch.equal(value, target[name]) for name, value in training.target.items())


class Spoiling:
    """An engine whose named machines send back what they should not."""

    def __init__(self, inner: InProcessEngine, spoil: dict[int, float]) -> None:
        self.inner, self.spoil = inner, spoil
        self.samples, self.recipe = inner.samples, inner.recipe

    def train(self, method, model, state, target, tasks):
        results = self.inner.train(method, model, state, target, tasks)
        return [
            dataclasses.replace(
                result, trained={n: t * self.spoil.get(task.machine, 1.0) for n, t in result.trained.items()}
            )
            for task, result in zip(tasks, results, strict=True)
        ]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_a_bad_machine_is_named_and_never_reaches_the_state(value, objective):
    model = tiny(objective)
    good = federation(model, rule="fixed")
    engine = Spoiling(good.engine, {1: value})
    bad = federation(model, rule="fixed", engine=engine)
    report = bad.play([1.0, 0.5, 0.3], 2)
    assert len(report.refused) == 1
    assert report.refused[0].startswith("machine node-1: ")
    good.play([1.0, 0.5, 0.3], 2, survives=[True, False, True])
    for name, tensor in bad.state.items():
        assert torch.isfinite(tensor).all()
        assert torch.equal(tensor, good.state[name])
    assert np.isfinite(report.infonce)

    everyone = federation(model, engine=Spoiling(good.engine, dict.fromkeys(range(3), value)))
    before, target = dict(everyone.state), everyone.target
    assert len(everyone.play([1.0, 0.5, 0.3], 2).refused) == 3
    assert all(torch.equal(tensor, before[name]) for name, tensor in everyone.state.items())
    assert everyone.target is target


@pytest.mark.parametrize("steps", [1, 4])
def test_the_target_moves_once_per_round_by_its_momentum_to_the_power_of_the_steps(steps):
    training = federation(tiny("byol", target_momentum=0.8), server_step=0.5)
    assert set(training.target) == {n for n in training.state if not n.startswith("predictor")}
    assert all(torch.equal(value, training.state[name]) for name, value in training.target.items())
    for _ in range(2):
        old = training.target
        training.play([1.0, 0.0, 0.5], steps)
        for name, value in training.target.items():
            keep = 0.8**steps
            torch.testing.assert_close(value, keep * old[name] + (1 - keep) * training.state[name])
            assert not torch.equal(value, old[name])


def test_simclr_has_no_target():
    assert federation(tiny()).target is None


def test_progress_scale():
    scale = ProgressScale(5.5, 4.5)
    assert [scale.progress(v) for v in (5.5, 5.0, 4.5, 4.0, 6.0)] == [0.0, 0.5, 1.0, 1.5, -0.5]


def test_a_run_starts_at_zero_on_its_own_scale():
    training = federation(tiny())
    aimed = FederatedTraining(
        training.model, training.engine, training.machine_names, training.probe, ProgressScale(99.0, 4.0), seed=8
    )
    assert aimed.untrained == training.probe(training.model, aimed.state)
    assert aimed.scale == ProgressScale(aimed.untrained, 4.0)
    assert aimed.play([0.0] * 3, 1).progress == 0.0


def test_a_collapsed_encoder_says_so():
    training, reports = played("simclr", 0, rounds=1)
    assert not reports[0].collapsed
    assert reports[0].effective_rank > 3
    for name in training.state:
        if name.startswith("conv3") and not name.endswith("weight"):
            training.state[name] = torch.ones_like(training.state[name]) * name.endswith("bias")
    report = training.play([0.0] * 3, 1)
    assert report.collapsed
    assert report.feature_std == pytest.approx(0.0, abs=1e-5)
    assert report.infonce == pytest.approx(training.probe.chance, abs=1e-5)


def test_the_guard_is_silent_without_images():
    report = federation(tiny()).play([0.1, 0.0, 0.0], 1)
    assert np.isnan(report.effective_rank)
    assert not report.collapsed
