import numpy as np
import pytest

from fedcore.calibrate import bare_scenario
from fedcore.costs import GRID, cost_of_share
from fedcore.methods import IntraLayer
from fedcore.training import ProgressScale
from fedcore.workload import build_training, model_for, prepare_data, recipe_of, workload_costs
from scenarios.errors import InputError
from scenarios.schema import Workload

SMALL = {"image_px": 16, "encoder_options": {"widths": [4, 8], "strides": [2, 1]}, "precision": "fp32"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "resnet"}, "scenario farm: workload.encoder is 'resnet', expected one of convnet, mlp"),
        ({"objective": "moco"}, "scenario farm: workload.objective is 'moco', expected one of byol, simclr"),
        ({"encoder_options": {"depth": 3}}, "scenario farm: workload does not build: .*depth"),
        ({"objective_options": {"tau": 3}}, "scenario farm: workload does not build: .*tau"),
        ({"encoder_options": {"widths": [4]}}, "scenario farm: workload does not build: .*1 widths, 3 strides"),
        ({"image_px": 8, "encoder_options": {"strides": [4, 4, 1]}}, "too small for strides"),
    ],
)
def test_a_workload_that_does_not_build_is_told(options, message):
    with pytest.raises(InputError, match=message):
        model_for(Workload(**options), 1, "farm")


def test_costs_are_those_of_two_views_per_image():
    workload = Workload(**SMALL, objective="byol", context=0.5, batch_size=8)
    table = workload_costs(workload)
    model = model_for(workload, 1)
    cost = cost_of_share(model, 0.5, 0.5, 8)
    assert table[GRID // 2].tolist() == [cost.step_flops, cost.upload_bytes, cost.download_bytes, cost.memory_bytes]
    assert workload_costs(workload) is table
    assert workload_costs(workload, channels=3)[-1, 0] > table[-1, 0]
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 1


@pytest.mark.parametrize("name", ["soil-micrographs", "soil-micrographs-mixed"])
def test_every_machine_has_a_site_of_its_own_and_nothing_that_is_held_out(name):
    scenario = bare_scenario(3, Workload(**SMALL, data=name), images=16)
    data = prepare_data(scenario, seed=4)
    assert [len(index) for index in data.clients] == [16, 16, 16]
    for k, index in enumerate(data.clients):
        assert set(data.dataset.group[index]) == {k}
        assert not data.dataset.test[index].any()
        assert (np.diff(index) > 0).all()
    assert data.dataset.name == name
    again = prepare_data(scenario, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(data.clients, again.clients, strict=True))
    assert np.array_equal(data.dataset.images, again.dataset.images)


def test_training_is_built_as_the_workload_says():
    workload = Workload(
        **SMALL, objective="byol", batch_size=6, learning_rate=0.01, weight_decay=0.2, context=0.25,
        selection="rolling", server_step=0.4,
    )  # fmt: skip
    recipe = recipe_of(workload)
    assert (recipe.batch_size, recipe.learning_rate, recipe.weight_decay, recipe.precision) == (6, 0.01, 0.2, "fp32")
    scenario = bare_scenario(2, workload, images=16)
    training = build_training(scenario, prepare_data(scenario), ProgressScale(1.0, 0.5), seed=3)
    assert training.method == IntraLayer(0.4, context=0.25, rule="rolling")
    assert training.seed == 3
    assert training.scale.target == 0.5
    assert training.machine_names == scenario.fleet.machine_names
    report = training.play([0.5, 1.0], 2)
    assert np.isfinite(report.losses).all()
    assert np.isfinite(report.effective_rank)
    assert report.refused == ()
