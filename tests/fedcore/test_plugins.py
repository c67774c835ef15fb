"""The test of the house: a method, an objective and an encoder are one new file and one line of registration each."""

import importlib
import sys
from types import ModuleType

import numpy as np
import pytest
import torch

from fedcore.augment import Augmentation
from fedcore.costs import cost_of_block
from fedcore.encoders import ENCODERS
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods import METHODS
from fedcore.model import build_model
from fedcore.objectives import OBJECTIVES
from fedcore.probes import HeldOutInfoNCE
from fedcore.probes.features import to_tensor
from fedcore.reference import bare_scenario
from fedcore.samples import Samples
from fedcore.training import FederatedTraining
from fedcore.workload import build_training, prepare_data, recipe_of, workload_costs
from scenarios.errors import InputError
from scenarios.schema import Workload

torch.set_num_threads(1)

METHOD = '''
from dataclasses import dataclass, replace

import torch

from fedcore.allocation import allocate
from fedcore.methods.base import Method


@dataclass(frozen=True)
class Patient(Method):
    """Blocks by share; each machine takes `patience` times its steps, and counts the rounds that it has trained in."""

    name = "patient"
    patience: int = 2

    def blocks(self, server, shares, rng):
        return allocate(server.model.neuron_map, shares, 1.0, "random", server.round_index, rng)

    def task(self, server, machine, block, steps):
        kept = server.kept[machine].get("turns", {"n": torch.zeros(1)})
        return replace(super().task(server, machine, block, steps * self.patience), extra={"turns": kept})

    def train(self, model, state, target, task, samples, recipe, generator):
        result = super().train(model, state, target, task, samples, recipe, generator)
        return replace(result, extra={**result.extra, "turns": {"n": task.extra["turns"]["n"] + 1}})

    def merge(self, server, tasks, results, updates):
        super().merge(server, tasks, results, updates)
        for task, result in zip(tasks, results, strict=True):
            server.kept[task.machine]["turns"] = result.extra["turns"]
'''

OBJECTIVE = '''
import torch

from fedcore.neurons import Layer, NeuronMap, Parameter
from fedcore.objectives.base import Objective


class Whitened(Objective):
    """Two views agree in a head whose outputs are uncorrelated over the batch."""

    def __init__(self, encoder, outputs=3):
        self.heads = NeuronMap(
            (Layer("whitened", outputs, always_visible=True),),
            (
                Parameter(
                    "whitened.weight", (outputs, encoder.feature_dim), "whitened", encoder.feature_columns, macs=1
                ),
            ),
        )
        self.norm_gains = frozenset()

    def loss(self, features, weights, target, batch):
        a, b = (weights.linear(features(weights, view), "whitened.weight") for view in batch.views)
        a, b = ((z - z.mean(0)) / (z.std(0) + 1e-3) for z in (a, b))
        return (a.T @ b / (len(a) - 1) - torch.eye(a.shape[1])).square().sum()
'''

ENCODER = '''
import torch
from torch.nn import functional as F

from fedcore.encoders.base import Encoder
from fedcore.neurons import Layer, NeuronMap, normed_weight


class Squint(Encoder):
    """A dense layer over the image seen at a quarter of its size."""

    def __init__(self, input_shape, width=20):
        channels, height, _ = self.image_shape = input_shape
        self.side = height // 4
        inputs = channels * self.side**2
        self.neuron_map = NeuronMap(
            (Layer("squint", width, stored=3.0),), tuple(normed_weight("squint", (width, inputs), None, 1))
        )
        self.norm_gains = frozenset({"squint.gain"})
        self.stages = (("squint",),)

    def stage(self, index, weights, x):
        x = weights.linear(F.adaptive_avg_pool2d(x, self.side).flatten(1), "squint.weight")
        x = F.layer_norm(x, x.shape[1:], weights.vector("squint.gain"), weights.vector("squint.bias"))
        return weights.rescale(torch.tanh(x), "squint")

    def pool(self, x):
        return x
'''

SOURCES = {"patient": METHOD, "whitened": OBJECTIVE, "squint": ENCODER}
VIEWS = Augmentation(min_scale=0.8, rotate=False)
RECIPE = LocalRecipe(batch_size=24, learning_rate=0.01, precision="fp32", augmentation=VIEWS)


@pytest.fixture
def plugged(tmp_path, monkeypatch) -> dict[str, ModuleType]:
    """The three files, each with its one line of registration."""
    modules = {}
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, source in SOURCES.items():
        (tmp_path / f"plugin_{name}.py").write_text(source)
        modules[name] = importlib.import_module(f"plugin_{name}")
    monkeypatch.setitem(METHODS, "patient", modules["patient"].Patient)
    monkeypatch.setitem(OBJECTIVES, "whitened", modules["whitened"].Whitened)
    monkeypatch.setitem(ENCODERS, "squint", modules["squint"].Squint)
    yield modules
    for module in modules.values():
        del sys.modules[module.__name__]


def blobs(n: int, seed: int) -> np.ndarray:
    """A bright blob anywhere on noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    cy, cx, width = (rng.uniform(low, high, (n, 1, 1)) for low, high in ((2, 14), (2, 14), (1, 4)))
    image = 200 * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * width**2)) + rng.uniform(0, 40, (n, 16, 16))
    return image.clip(0, 255).astype(np.uint8)[..., None]


def federation(method: str, objective: str, encoder: str, workers: int = 1) -> FederatedTraining:
    options = {"hidden": 16, "outputs": 8} if objective == "simclr" else {}
    widths = {"widths": (8, 12), "strides": (2, 1)} if encoder == "convnet" else {}
    model = build_model((1, 16, 16), encoder, objective, widths, options)
    samples = [Samples(to_tensor(blobs(n, k))) for k, n in enumerate((40, 30, 24))]
    engine = InProcessEngine(samples, RECIPE, workers)
    return FederatedTraining(model, engine, "abc", HeldOutInfoNCE(blobs(64, 9)), None, method=METHODS[method](), seed=3)


@pytest.mark.parametrize(
    ("method", "objective", "encoder"),
    [
        ("patient", "simclr", "convnet"),
        ("fedavg", "whitened", "convnet"),
        ("intralayer", "simclr", "squint"),
        ("patient", "whitened", "squint"),
    ],
)
def test_each_trains_alone_and_beside_the_others(plugged, method, objective, encoder):
    training = federation(method, objective, encoder)
    start = dict(training.state)
    shares = [0.5, 1.0, 0.5]
    losses = [training.play(shares, 5).losses for _ in range(8)]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-2:]) < 0.8 * np.mean(losses[:2])
    moved = {p.name for p in training.model.neuron_map.parameters if not torch.equal(start[p.name], training.state[p.name])}
    assert moved == {p.name for p in training.model.neuron_map.parameters}


def test_what_follows_from_the_declaration_needs_no_code_of_the_plug_in(plugged):
    training = federation("patient", "whitened", "squint")
    half, whole = (training.plan([share, 0.0, 0.0])[0] for share in (0.5, 1.0))
    assert len(half.trained["squint"]) == 10
    assert training.plan([0.5, 0.0, 0.0])[1] is None
    cost = training.method.cost(training.server, 0, whole, 5, RECIPE)
    # 20 neurons of 4 x 4 pixels, a norm, and 3 outputs of the head, 4 bytes each.
    assert cost.upload_bytes == 4 * (20 * 16 + 2 * 20 + 3 * 20)
    assert cost.step_flops == cost_of_block(training.model, whole, RECIPE.batch_size, RECIPE.optimizer_copies).step_flops
    assert training.method.cost(training.server, 0, half, 5, RECIPE).upload_bytes < cost.upload_bytes


def test_the_methods_own_hooks_are_called(plugged):
    training = federation("patient", "simclr", "convnet")
    for _ in range(3):
        training.play([1.0, 0.5, 0.0], 2, survives=[True, training.round_index != 1, True])
    assert [kept.get("turns", {"n": torch.zeros(1)})["n"].item() for kept in training.server.kept] == [3, 2, 0]
    task = training.method.task(training.server, 0, training.plan([1.0, 0, 0])[0], 7)
    assert task.steps == 14


def test_worker_processes_import_the_files_and_give_the_same_result_bit_for_bit(plugged):
    alone = federation("patient", "whitened", "squint")
    side_by_side = federation("patient", "whitened", "squint", workers=2)
    with side_by_side.engine:
        for _ in range(2):
            one, two = (training.play([0.5, 1.0, 0.5], 3) for training in (alone, side_by_side))
            np.testing.assert_array_equal(one.losses, two.losses)
    assert all(torch.equal(value, side_by_side.state[name]) for name, value in alone.state.items())


def test_a_scenario_names_them(plugged):
    workload = Workload(
        image_px=16, encoder="squint", encoder_options={"width": 12}, objective="whitened",
        objective_options={"outputs": 5}, batch_size=8, precision="fp32",
    )  # fmt: skip
    scenario = bare_scenario(2, workload, images=24)
    costs = workload_costs(workload)
    assert (np.diff(costs[1:, 1]) >= 0).all()
    assert costs[-1, 1] == 4 * (12 * 16 + 2 * 12 + 5 * 12)
    training = build_training(scenario, prepare_data(scenario), None, 0, METHODS["patient"](patience=3), recipe_of(workload))
    report = training.play([0.5, 1.0], 2)
    assert np.isfinite(report.losses).all()
    assert report.refused == ()
    assert np.isfinite(report.effective_rank)
    assert training.model.encoder.feature_dim == 12
    assert training.method.name == "patient"
    bad = workload.model_copy(update={"encoder_options": {"depth": 2}})
    with pytest.raises(InputError, match=r"workload does not build: .*depth"):
        build_training(scenario.model_copy(update={"workload": bad}), prepare_data(scenario), None, 0)


def test_nothing_is_left_behind():
    assert not {"patient", "whitened", "squint"} & (METHODS.keys() | OBJECTIVES.keys() | ENCODERS.keys())
    with pytest.raises(InputError, match=r"workload.encoder is 'squint', expected one of .*convnet"):
        workload_costs(Workload(encoder="squint"))
