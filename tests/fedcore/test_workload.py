from dataclasses import astuple
from typing import get_args

import numpy as np
import pytest

from fedcore.allocation import RULES
from fedcore.context import CONTEXT_RULES
from fedcore.costs import GRID, cost_of_share
from fedcore.data.dataset import Dataset
from fedcore.data.splits import split_clients
from fedcore.methods import IntraLayer
from fedcore.reference import bare_scenario
from fedcore.training import ProgressScale
from fedcore.workload import build_training, model_for, prepare_data, recipe_of, workload_costs
from scenarios.errors import InputError
from scenarios.schema import Workload

SMALL = {"image_px": 16, "encoder_options": {"widths": [4, 8], "strides": [2, 1]}, "precision": "fp32"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "rnn"}, "scenario farm: workload.encoder is 'rnn', expected one of .*convnet.* mlp"),
        ({"objective": "moco"}, "scenario farm: workload.objective is 'moco', expected one of byol, .*simclr"),
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
    assert table[GRID // 2].tolist() == list(astuple(cost))
    assert workload_costs(workload) is table
    assert workload_costs(workload, channels=3)[-1, 0] > table[-1, 0]
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 1


@pytest.mark.parametrize("name", ["soil-micrographs", "soil-micrographs-mixed"])
def test_every_machine_has_a_site_of_its_own_and_nothing_that_is_held_out(name):
    scenario = bare_scenario(3, Workload(**SMALL, data=name), images=16)
    data = prepare_data(scenario, seed=4)
    assert [len(index) for index in data.clients] == [16, 16, 16]
    # The seed says which machine has which site.
    assert sorted(set(data.dataset.group[index]).pop() for index in data.clients) == [0, 1, 2]
    orders = {tuple(c[0] for c in (data.dataset.group[i] for i in prepare_data(scenario, seed=s).clients)) for s in range(9)}
    assert len(orders) > 2
    for index in data.clients:
        assert len(set(data.dataset.group[index])) == 1
        assert not data.dataset.test[index].any()
        assert (np.diff(index) > 0).all()
    assert data.dataset.name == name
    again = prepare_data(scenario, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(data.clients, again.clients, strict=True))
    assert np.array_equal(data.dataset.images, again.dataset.images)


def test_training_is_built_as_the_workload_says():
    workload = Workload(
        **SMALL, objective="byol", batch_size=6, learning_rate=0.01, weight_decay=0.2, context=0.25,
        selection="rolling", server_step=0.4, context_rule="compensated",
    )  # fmt: skip
    recipe = recipe_of(workload)
    assert (recipe.batch_size, recipe.learning_rate, recipe.weight_decay, recipe.precision) == (6, 0.01, 0.2, "fp32")
    scenario = bare_scenario(2, workload, images=16)
    training = build_training(scenario, prepare_data(scenario), ProgressScale(1.0, 0.5), seed=3)
    assert training.method == IntraLayer(0.4, context=0.25, rule="rolling", context_rule="compensated")
    assert training.seed == 3
    assert training.scale.target == 0.5
    assert training.machine_names == scenario.fleet.machine_names
    report = training.play([0.5, 1.0], 2)
    assert np.isfinite(report.losses).all()
    assert np.isfinite(report.effective_rank)
    assert report.refused == ()


def brought(groups: int = 4, labels: bool = True) -> Dataset:
    rng = np.random.default_rng(0)
    return Dataset(
        "brought",
        rng.integers(0, 256, (240, 16, 16, 1), dtype=np.uint8),
        np.arange(240) % groups,
        np.arange(240) % 5 == 0,
        rng.integers(0, 6, 240) if labels else None,
        group_names=tuple("abcdefgh"[:groups]),
    )


@pytest.mark.parametrize("split", ["auto", "group", "site", "class", "dirichlet", "iid"])
def test_brought_images_are_dealt_as_the_workload_says(split):
    scenario = bare_scenario(3, Workload(**SMALL, split=split, dirichlet_alpha=0.05), images=16)
    data = prepare_data(scenario, brought(), seed=2)
    expected = split_clients(brought(), 3, np.random.default_rng([2, 3]), split, 0.05)
    assert all(np.array_equal(a, b) for a, b in zip(data.clients, expected, strict=True))
    if split == "site":
        with pytest.raises(InputError, match="of 2 groups; expected at least 3 for the split 'site'"):
            prepare_data(scenario, brought(groups=2))
    if split == "class":
        with pytest.raises(InputError, match="brought: has no labels"):
            prepare_data(scenario, brought(labels=False))


def held_sites(split: str, alpha: float = 0.3) -> list[np.ndarray]:
    scenario = bare_scenario(3, Workload(**SMALL, split=split, dirichlet_alpha=alpha), images=24)
    data = prepare_data(scenario, seed=1)
    dealt = np.concatenate(data.clients)
    assert len(np.unique(dealt)) == len(dealt) == 72
    assert not data.dataset.test[dealt].any()
    return [np.bincount(data.dataset.group[index], minlength=3) for index in data.clients]


def test_embedded_sites_are_one_each_or_mixed():
    for split in ("auto", "group", "site"):
        assert sorted(counts.tolist() for counts in held_sites(split)) == [[0, 0, 24], [0, 24, 0], [24, 0, 0]]
    assert min(counts.min() for counts in held_sites("iid")) >= 3
    assert max(counts.max() for counts in held_sites("dirichlet", 0.01)) == 24
    with pytest.raises(InputError, match=r"workload.split is 'class', but soil-micrographs-mixed has no classes; expected"):
        held_sites("class")


def test_text_is_not_split_like_images():
    workload = Workload(data="grammar", encoder="gpt", objective="next-token", split="iid")
    with pytest.raises(InputError, match=r"workload.split is 'iid', but text is dealt by site .*; expected auto"):
        prepare_data(bare_scenario(2, workload, images=16))


def test_costs_count_what_the_context_rule_moves():
    plain, compensated = (
        workload_costs(Workload(**SMALL, context=0.5, context_rule=rule)) for rule in ("nested", "compensated")
    )
    assert (compensated[1 : GRID // 2, 1:3] > plain[1 : GRID // 2, 1:3]).all()
    assert np.array_equal(compensated[:, [0, 3]], plain[:, [0, 3]])
    assert np.array_equal(compensated[0], plain[0])


def test_the_schema_knows_every_rule():
    fields = Workload.model_fields
    assert set(get_args(fields["context_rule"].annotation)) == set(CONTEXT_RULES)
    assert set(get_args(fields["selection"].annotation)) == set(RULES)


def test_data_that_do_not_load_are_told_by_scenario_and_field():
    scenario = bare_scenario(2, Workload(**SMALL, data="/nowhere/at-all.zip"))
    with pytest.raises(InputError, match=r"calibration: workload\.data.*soil-micrographs.*/nowhere/at-all\.zip.*not exist"):
        prepare_data(scenario)
