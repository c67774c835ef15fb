"""What every method that trains whole models in its own way must do: learn, and not depend on who computes it."""

import numpy as np
import pytest
import torch

from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods import METHODS
from fedcore.model import build_model
from fedcore.probes import HeldOutInfoNCE
from fedcore.probes.features import to_tensor
from fedcore.samples import Samples
from fedcore.training import FederatedTraining

torch.set_num_threads(1)

ADAMW = LocalRecipe(batch_size=16, precision="fp32", learning_rate=3e-3)
BYOL = LocalRecipe(batch_size=16, precision="fp32", learning_rate=6e-3)
SGD = LocalRecipe(batch_size=16, precision="fp32", learning_rate=0.1, optimizer="sgd", weight_decay=0.0)

CASES = {
    "fedprox": ("simclr", ADAMW, {"mu": 0.1}),
    "scaffold": ("simclr", SGD, {}),
    "pfedme": ("simclr", SGD, {"eta": 0.1, "personal_steps": 3}),
    "l-dawa": ("simclr", ADAMW, {}),
    "fedbyol": ("byol", BYOL, {}),
    "fedu": ("byol", BYOL, {}),
    "fedema": ("byol", BYOL, {}),
}


def gratings(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    period, angle, phase, sharp = (
        rng.uniform(low, high, (n, 1, 1)) for low, high in ((0.2, 2.2), (0, np.pi), (0, 6.28), (0.3, 4))
    )
    wave = np.tanh(sharp * np.sin(period * (x * np.cos(angle) + y * np.sin(angle)) + phase)) / np.tanh(sharp)
    return np.clip(128 + 40 * wave + 25 * rng.normal(size=wave.shape), 0, 255).astype(np.uint8)[..., None]


IMAGES = np.split(gratings(3 * 64, 0), 3)
HELD_OUT = gratings(96, 1)


def federation(name: str, partial: bool, engine: InProcessEngine | None = None) -> FederatedTraining:
    objective, recipe, options = CASES[name]
    momentum = {"target_momentum": 0.9} if objective == "byol" else {}
    model = build_model((1, 16, 16), "convnet", objective, {"widths": (8, 16, 24)}, {"hidden": 48, "outputs": 32, **momentum})
    engine = engine or InProcessEngine([Samples(to_tensor(part)) for part in IMAGES], recipe)
    method = METHODS[name](partial=partial, **options)
    return FederatedTraining(model, engine, "abc", HeldOutInfoNCE(HELD_OUT), None, method=method, seed=0)


@pytest.mark.parametrize(
    ("name", "partial"),
    [
        ("fedprox", False), ("scaffold", True), ("pfedme", True), ("l-dawa", False), ("l-dawa", True),
        ("fedbyol", True), ("fedu", False), ("fedema", False),
    ],
)  # fmt: skip
def test_it_learns(name, partial):
    training = federation(name, partial)
    reports = [training.play([0.5] * 3, 8) for _ in range(14 if CASES[name][0] == "byol" else 9)]
    assert not any(report.refused for report in reports)
    assert all(np.isfinite(report.losses).all() for report in reports)
    assert np.mean([report.infonce for report in reports[-3:]]) < training.untrained - 0.1


def test_results_do_not_depend_on_the_number_of_workers_bit_for_bit():
    samples = [Samples(to_tensor(part[:12])) for part in IMAGES]
    with InProcessEngine(samples, SGD) as alone, InProcessEngine(samples, SGD, 2) as side_by_side:
        for name in CASES:
            one, two = (federation(name, True, engine) for engine in (alone, side_by_side))
            for _ in range(2):
                np.testing.assert_array_equal(one.play([0.5, 1.0, 0.25], 2).losses, two.play([0.5, 1.0, 0.25], 2).losses)
            assert all(torch.equal(value, two.state[n]) for n, value in one.state.items()), name
            for a, b in zip(one.server.kept, two.server.kept, strict=True):
                assert a.keys() == b.keys()
                for kind in a:
                    assert all(torch.equal(v.nan_to_num(7.0), b[kind][n].nan_to_num(7.0)) for n, v in a[kind].items())
