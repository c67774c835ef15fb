"""From a scenario's workload to something that trains: data per machine, model, recipe, progress probe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.costs import cost_table
from fedcore.data.dataset import Dataset
from fedcore.data.micrographs import soil_micrographs
from fedcore.data.modalities import mixed_instruments
from fedcore.data.splits import split_clients
from fedcore.encoders import ENCODERS
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods import IntraLayer, Method
from fedcore.model import Model, build_model
from fedcore.objectives import OBJECTIVES
from fedcore.probes import HeldOutInfoNCE
from fedcore.probes.features import to_tensor
from fedcore.samples import Samples
from fedcore.training import FederatedTraining, ProgressScale
from scenarios.errors import InputError
from scenarios.schema import Scenario, Workload

EMBEDDED = ("soil-micrographs", "soil-micrographs-mixed")
"""Sets made by the program: all sites bright-field, or every site under another contrast method."""
GUARD_IMAGES = 128
SERVER_SITES, SERVER_PER_SITE = 6, 44


def _options(which: str, name: str, known: dict[str, Any], scenario: str) -> None:
    if name not in known:
        raise InputError(f"scenario {scenario}: workload.{which} is {name!r}, expected one of {', '.join(sorted(known))}")


def model_for(workload: Workload, channels: int, scenario_name: str = "?") -> Model:
    """The model of a workload.

    Args:
        workload: the scenario's section.
        channels: 1 or 3.
        scenario_name: for messages.

    Raises:
        InputError: unknown encoder or objective, or options that it does not take.
    """
    _options("encoder", workload.encoder, ENCODERS, scenario_name)
    _options("objective", workload.objective, OBJECTIVES, scenario_name)
    shape = (channels, workload.image_px, workload.image_px)
    try:
        return build_model(
            shape, workload.encoder, workload.objective, workload.encoder_options, workload.objective_options
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"scenario {scenario_name}: workload does not build: {error}") from None


@lru_cache(maxsize=64)
def _cached_costs(key: str, channels: int) -> NDArray[np.float64]:
    workload = Workload.model_validate_json(key)
    model = model_for(workload, channels)
    table = cost_table(model, workload.context, workload.batch_size)
    table.setflags(write=False)
    return table


def workload_costs(workload: Workload, channels: int = 1) -> NDArray[np.float64]:
    """Cost table of a workload, (GRID + 1, 4), see `costs.cost_table`; cached, read-only."""
    return _cached_costs(workload.model_dump_json(), channels)


@dataclass(frozen=True)
class PreparedData:
    """Images dealt to machines.

    Attributes:
        dataset: the whole set.
        clients: per machine, indices of its training images.
        server_images: (N, H, W, C) uint8 unlabeled images that the server measures progress on.
    """

    dataset: Dataset
    clients: tuple[NDArray[np.int64], ...]
    server_images: NDArray[np.uint8]


def _embedded(name: str, sites: int, per_site: int, size_px: int, seed: int) -> Dataset:
    dataset = soil_micrographs(sites, per_site, size_px, seed)
    if name == "soil-micrographs-mixed":
        images = mixed_instruments(dataset.images, dataset.group, seed)
        dataset = replace(dataset, name=name, images=images)
    return dataset


def prepare_data(scenario: Scenario, dataset: Dataset | None = None, seed: int = 0) -> PreparedData:
    """Deal a scenario's images to its machines.

    The embedded set gives every machine a site of its own. Any other set is split by its groups where it has any.

    Args:
        scenario: whose fleet and workload.
        dataset: images that a user brought; None loads what the workload names.
        seed: of generation and split.

    Raises:
        InputError: the set is too small for the fleet.
    """
    machines = scenario.fleet.machines
    if dataset is None and scenario.workload.data not in EMBEDDED:
        from fedcore.data.loading import load_images

        dataset = load_images(scenario.workload.data, size_px=scenario.workload.image_px)
    if dataset is not None:
        clients = split_clients(dataset, len(machines), np.random.default_rng([seed, 3]))
        return PreparedData(dataset, tuple(clients), dataset.images[dataset.test])
    most = max(group.images for group in machines)
    # A quarter of every site is held out for probes.
    per_site = int(np.ceil(most / 0.75))
    dataset = _embedded(scenario.workload.data, len(machines), per_site, scenario.workload.image_px, 0)
    # The same images for every fleet, from all six kinds of site, so that progress means the same everywhere.
    server = _embedded(scenario.workload.data, SERVER_SITES, SERVER_PER_SITE, scenario.workload.image_px, 1)
    rng = np.random.default_rng([seed, 3])
    clients_ = []
    for k, group in enumerate(machines):
        own = np.flatnonzero((dataset.group == k) & ~dataset.test)
        clients_.append(np.sort(rng.permutation(own)[: group.images]))
    return PreparedData(dataset, tuple(clients_), server.images)


def recipe_of(workload: Workload) -> LocalRecipe:
    """How machines train in this workload."""
    return LocalRecipe(
        workload.batch_size, workload.learning_rate, workload.weight_decay, precision=workload.precision
    )


def method_of(workload: Workload) -> IntraLayer:
    """The method that an orchestrator's decisions drive: intra-layer parallelism as the workload sets it."""
    return IntraLayer(workload.server_step, context=workload.context, rule=workload.selection)


def build_training(
    scenario: Scenario,
    data: PreparedData,
    scale: ProgressScale | None,
    seed: int,
    method: Method | None = None,
    recipe: LocalRecipe | None = None,
    workers: int = 1,
) -> FederatedTraining:
    """Real training of a scenario's workload, ready for its first round.

    Args:
        scenario: whose workload.
        data: from `prepare_data`.
        scale: of progress; None for calibration.
        seed: of weights, blocks, batches and views.
        method: None is the workload's own, intra-layer.
        recipe: None is the workload's own.
        workers: processes that train; 1 trains in this one.
    """
    dataset, workload = data.dataset, scenario.workload
    model = model_for(workload, dataset.images.shape[3], scenario.name)
    samples = [
        Samples(
            to_tensor(dataset.images[index]),
            None if dataset.labels is None else torch.from_numpy(dataset.labels[index]),
        )
        for index in data.clients
    ]
    return FederatedTraining(
        model,
        InProcessEngine(samples, recipe or recipe_of(workload), workers),
        scenario.fleet.machine_names,
        HeldOutInfoNCE(data.server_images),
        scale,
        method=method or method_of(workload),
        seed=seed,
        guard_images=data.server_images[:: max(1, len(data.server_images) // GUARD_IMAGES)],
    )
