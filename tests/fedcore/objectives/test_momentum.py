from itertools import pairwise
from math import cos, pi

import numpy as np
import pytest
import torch

from fedcore.blocks import slice_weights, whole_block
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe, LocalTask, train_block
from fedcore.methods import FedAvg
from fedcore.model import build_model
from fedcore.objectives.momentum import cosine_momentum
from fedcore.samples import Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

OPTIONS = {
    "byol": {"hidden": 10, "outputs": 6},
    "dino": {"hidden": 10, "bottleneck": 5, "prototypes": 7, "teacher_temperature": 0.07},
}


def model_of(objective: str, **options):
    return build_model((1, 8, 8), "mlp", objective, {"widths": (12, 6)}, OPTIONS[objective] | options)


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_the_schedule_by_hand():
    # Half a cosine: nothing yet at 0, half way at T / 2, 1/2 - sqrt(2)/4 of the way at T / 4, all the way from T on.
    assert [cosine_momentum(0.9, t, 8) for t in (0, 2, 4, 8, 100)] == pytest.approx(
        [0.9, 1 - 0.1 * (0.5 + 2**0.5 / 4), 0.95, 1.0, 1.0]
    )
    assert [cosine_momentum(0.9, t, None) for t in (0, 7, 10**6)] == [0.9] * 3


@pytest.mark.parametrize("objective", ["byol", "dino"])
def test_a_constant_momentum_stays_its_power(objective):
    objective = model_of(objective, target_momentum=0.97).objective
    assert objective.momentum_over(123, 17) == 0.97**17
    assert objective.momentum(5) == 0.97


@pytest.mark.parametrize("objective", ["byol", "dino"])
def test_the_servers_target_moves_by_the_product_of_a_rounds_momenta(objective):
    model = model_of(objective, target_momentum=0.6, schedule_steps=10)
    engine = InProcessEngine([Samples(images(9, k)) for k in range(2)], LocalRecipe(batch_size=6, precision="fp32"))
    training = FederatedTraining(model, engine, "ab", lambda model, state: 1.0, None, method=FedAvg())
    done = 0
    for steps in (3, 4, 5, 2):
        old = training.target
        training.play([1.0, 1.0], steps)
        keep = np.prod([1 - 0.4 * (cos(pi * min(t, 10) / 10) + 1) / 2 for t in range(done, done + steps)])
        for name, value in training.target.items():
            torch.testing.assert_close(value, float(keep) * old[name] + (1 - float(keep)) * training.state[name])
        done += steps
    assert keep == 1.0  # steps 12 and 13 lie beyond the schedule: the target stands still
    assert all(torch.equal(value, old[name]) for name, value in training.target.items())


@pytest.mark.parametrize("objective", ["byol", "dino"])
def test_a_moving_target_follows_the_same_schedule_from_where_the_run_stands(objective):
    model = model_of(objective, target_momentum=0.5, schedule_steps=12)
    state = model.init_state(torch.Generator().manual_seed(1))
    target = model.target_of(model.init_state(torch.Generator().manual_seed(2)))
    seen = []
    loss = model.objective.loss

    def spy(features, weights, aim, batch):
        seen.append((
            weights.step,
            {n: t.clone() for n, t in aim.frozen.items()},
            {n: weights.vector(n).detach().clone() for n in aim.frozen},
        ))
        return loss(features, weights, aim, batch)

    model.objective.loss = spy
    recipe = LocalRecipe(batch_size=6, precision="fp32", moving_target=True)
    task = LocalTask(0, whole_block(model.neuron_map), 4, (0,), steps_before=5)
    train_block(model, state, target, task, Samples(images(9)), recipe, torch.Generator().manual_seed(3))
    assert [step for step, _, _ in seen] == [5, 6, 7, 8]
    for (step, old, _), (_, new, online) in pairwise(seen):
        m = 1 - 0.5 * (cos(pi * step / 12) + 1) / 2
        for name in new:
            torch.testing.assert_close(new[name], m * old[name] + (1 - m) * online[name])


def test_tasks_know_the_steps_done_before_them():
    model = model_of("byol")
    recipe = LocalRecipe(batch_size=6, precision="fp32")
    training = FederatedTraining(
        model, InProcessEngine([Samples(images(9))], recipe), "a", lambda model, state: 1.0, None, method=FedAvg()
    )
    block = whole_block(model.neuron_map)
    assert training.method.task(training.server, 0, block, 3).steps_before == 0
    training.play([1.0], 3)
    training.play([1.0], 4)
    assert training.method.task(training.server, 0, block, 3).steps_before == 7
    assert slice_weights(training.state, model.neuron_map, block).step == 0


@pytest.mark.parametrize("objective", ["byol", "dino"])
def test_a_schedule_that_is_none_is_refused(objective):
    with pytest.raises(InputError, match=r"target_momentum is 1.2, expected"):
        model_of(objective, target_momentum=1.2)
    with pytest.raises(InputError, match="schedule_steps is 0, expected"):
        model_of(objective, schedule_steps=0)
