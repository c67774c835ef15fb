"""From a scenario's workload to something that trains: data per machine, model, recipe, progress probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.costs import cost_table
from fedcore.data.dataset import Dataset
from fedcore.data.micrographs import soil_micrographs
from fedcore.data.modalities import mixed_instruments
from fedcore.data.splits import mix_sites, split_clients
from fedcore.dynamics import load_calibration
from fedcore.encoders import ENCODERS
from fedcore.engines import Engine, InProcessEngine
from fedcore.engines.rounding import RoundingEngine
from fedcore.local import LocalRecipe
from fedcore.methods import IntraLayer, Method
from fedcore.methods.private import Private
from fedcore.model import Model, build_model
from fedcore.neurons import State
from fedcore.objectives import OBJECTIVES
from fedcore.probes import HeldOutInfoNCE
from fedcore.probes.features import to_tensor
from fedcore.samples import Samples
from fedcore.text_workload import GRAMMAR, is_text, prepare_text, vocabulary_of
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


def reads_text(workload: Workload) -> bool:
    """Whether its encoder reads tokens; an unknown one reads images until it is refused."""
    return workload.encoder in ENCODERS and ENCODERS[workload.encoder].reads == "tokens"


def check_workload(workload: Workload, scenario: str, images: bool = False) -> None:
    """Refuse unknown names, and data that the encoder does not read.

    Args:
        workload: the scenario's section.
        scenario: its name, for messages.
        images: images are brought along in place of `workload.data`.

    Raises:
        InputError: they are, or one is.
    """
    _options("encoder", workload.encoder, ENCODERS, scenario)
    _options("objective", workload.objective, OBJECTIVES, scenario)
    start = f"scenario {scenario}: workload.encoder is {workload.encoder!r}, which reads"
    if reads_text(workload) and (images or workload.data in EMBEDDED):
        given = "images were given" if images else f"workload.data is {workload.data!r}, which is images"
        raise InputError(f"{start} text, but {given}; expected {GRAMMAR!r}, a .txt file or a folder of .txt files")
    if not reads_text(workload) and not images and is_text(workload.data):
        readers = ", ".join(sorted(name for name, encoder in ENCODERS.items() if encoder.reads == "tokens"))
        raise InputError(
            f"{start} images, but workload.data is {workload.data!r}, which is text; expected one of {', '.join(EMBEDDED)}, "
            f"a path to images, or an encoder that reads text: {readers}"
        )


def model_for(workload: Workload, channels: int, scenario_name: str = "?") -> Model:
    """The model of a workload.

    Args:
        workload: the scenario's section.
        channels: of the images, 1 or 3; text has none.
        scenario_name: for messages.

    Raises:
        InputError: unknown encoder or objective, what does not go together, or options that it does not take.
    """
    check_workload(workload, scenario_name)
    shape: tuple[int, int, int] | tuple[int, int] = (channels, workload.image_px, workload.image_px)
    if reads_text(workload):
        shape = (vocabulary_of(workload.data), workload.window)
    try:
        return build_model(
            shape, workload.encoder, workload.objective, workload.encoder_options, workload.objective_options
        )
    except (TypeError, ValueError) as error:
        raise InputError(f"scenario {scenario_name}: workload does not build: {error}") from None


@lru_cache(maxsize=64)
def _cached_costs(key: str, channels: int, batch: int, wire_precision: str) -> NDArray[np.float64]:
    workload = Workload.model_validate_json(key)
    model = model_for(workload, channels)
    table = cost_table(model, workload.context, batch, workload.context_rule, wire_precision)
    table.setflags(write=False)
    return table


def workload_costs(
    workload: Workload, channels: int = 1, batch: int | None = None, wire_precision: str = "fp32"
) -> NDArray[np.float64]:
    """Cost table of a workload, (GRID + 1, 5), see `costs.cost_table`; cached, read-only.

    Args:
        workload: a scenario's section.
        channels: of the images, 1 or 3.
        batch: samples of a step; None takes the workload's own.
        wire_precision: of blocks on the way up.
    """
    return _cached_costs(workload.model_dump_json(), channels, batch or workload.batch_size, wire_precision)


class Prepared(Protocol):
    """Data dealt to machines: images (`PreparedData`) or text (`text_workload.PreparedText`)."""

    @property
    def clients(self) -> Sequence[Sized]:
        """Per machine, its training samples or their indices."""

    @property
    def channels(self) -> int:
        """Of the images."""

    @property
    def guard_images(self) -> NDArray[np.uint8] | None:
        """For the collapse guard; None where there is nothing to guard."""

    def samples(self) -> list[Samples]:
        """What every machine trains on."""

    def probe(self) -> Callable[[Model, State], float]:
        """The progress signal: (model, state) -> a loss."""


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

    @property
    def channels(self) -> int:
        """See `Prepared.channels`."""
        return self.dataset.images.shape[3]

    @property
    def guard_images(self) -> NDArray[np.uint8]:
        """See `Prepared.guard_images`: some of the server's."""
        return self.server_images[:: max(1, len(self.server_images) // GUARD_IMAGES)]

    def samples(self) -> list[Samples]:
        """See `Prepared.samples`."""
        labels = self.dataset.labels
        return [
            Samples(to_tensor(self.dataset.images[index]), None if labels is None else torch.from_numpy(labels[index]))
            for index in self.clients
        ]

    def probe(self) -> HeldOutInfoNCE:
        """See `Prepared.probe`."""
        return HeldOutInfoNCE(self.server_images)


def _embedded(name: str, sites: int, per_site: int, size_px: int, seed: int) -> Dataset:
    dataset = soil_micrographs(sites, per_site, size_px, seed)
    if name == "soil-micrographs-mixed":
        images = mixed_instruments(dataset.images, dataset.group, seed)
        dataset = replace(dataset, name=name, images=images)
    return dataset


def made_here(workload: Workload) -> bool:
    """Whether a workload's data are made by the program, anew for every episode, rather than read from files."""
    return workload.data in (*EMBEDDED, GRAMMAR)


def target_holds(workload: Workload, brought: bool = False) -> bool:
    """Whether the calibration says what progress 1 is: where it was made of the same encoder, objective and data, and where it
    is a file of a person's own.

    Args:
        workload: the scenario's section.
        brought: data are brought along in place of `workload.data`.
    """
    return workload.calibration.endswith(".json") or (not brought and load_calibration(workload.calibration).is_of(workload))


def prepare_data(scenario: Scenario, dataset: Dataset | None = None, seed: int = 0) -> Prepared:
    """Deal a scenario's images or text to its machines; arguments as `prepare_images`.

    Raises:
        InputError: the encoder does not read such data, or they are too few for the fleet.
    """
    check_workload(scenario.workload, scenario.name, dataset is not None)
    if reads_text(scenario.workload):
        if scenario.workload.split != "auto":
            raise InputError(
                f"scenario {scenario.name}: workload.split is {scenario.workload.split!r}, but text is dealt by site or by "
                "whole files; expected auto"
            )
        return prepare_text(scenario, seed)
    return prepare_images(scenario, dataset, seed)


def prepare_images(scenario: Scenario, dataset: Dataset | None = None, seed: int = 0) -> PreparedData:
    """Deal a scenario's images to its machines.

    The embedded set gives every machine a site of its own (the seed says which), or mixes the sites where
    `workload.split` says so. Any other set is dealt as `workload.split` says, see `splits.split_clients`.

    Args:
        scenario: whose fleet and workload.
        dataset: images that a user brought; None loads what the workload names.
        seed: of generation and split.

    Raises:
        InputError: the set is too small for the fleet, or cannot be split so.
    """
    machines = scenario.fleet.machines
    if dataset is None and scenario.workload.data not in EMBEDDED:
        from fedcore.data.loading import load_images

        try:
            dataset = load_images(scenario.workload.data, size_px=scenario.workload.image_px)
        except InputError as error:
            names = ", ".join(sorted(EMBEDDED))
            raise InputError(f"scenario {scenario.name}: workload.data, which is none of {names}: {error}") from None
    if dataset is not None:
        height, width = dataset.images.shape[1:3]
        if (height, width) != (scenario.workload.image_px,) * 2:
            raise InputError(
                f"scenario {scenario.name}: workload.image_px is {scenario.workload.image_px}, but {dataset.name} has "
                f"images of {height} x {width}; expected load_images(..., size_px={scenario.workload.image_px})"
            )
        split, alpha = scenario.workload.split, scenario.workload.dirichlet_alpha
        clients = split_clients(dataset, len(machines), np.random.default_rng([seed, 3]), split, alpha)
        return PreparedData(dataset, tuple(clients), dataset.images[dataset.test])
    most = max(group.images for group in machines)
    # A quarter of every site is held out for probes.
    per_site = int(np.ceil(most / 0.75))
    dataset = _embedded(scenario.workload.data, len(machines), per_site, scenario.workload.image_px, 0)
    # The same images for every fleet, from all six kinds of site, so that progress means the same everywhere.
    server = _embedded(scenario.workload.data, SERVER_SITES, SERVER_PER_SITE, scenario.workload.image_px, 1)
    rng = np.random.default_rng([seed, 3])
    return PreparedData(dataset, tuple(_deal_embedded(dataset, scenario, rng)), server.images)


def _deal_embedded(dataset: Dataset, scenario: Scenario, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    split, sizes = scenario.workload.split, [group.images for group in scenario.fleet.machines]
    if split == "class":
        raise InputError(
            f"scenario {scenario.name}: workload.split is 'class', but {dataset.name} has no classes; expected auto, site, "
            "group, dirichlet (over sites) or iid"
        )
    training = np.flatnonzero(~dataset.test)
    if split == "iid" or split == "dirichlet":
        alpha = scenario.workload.dirichlet_alpha
        return [training[part] for part in mix_sites(dataset.group[training], sizes, rng, split, alpha)]
    sites = rng.permutation(len(sizes))
    own = (training[dataset.group[training] == site] for site in sites)
    return [np.sort(rng.permutation(index)[:size]) for index, size in zip(own, sizes, strict=True)]


def recipe_of(workload: Workload) -> LocalRecipe:
    """How machines train in this workload."""
    return LocalRecipe(
        workload.batch_size, workload.learning_rate, workload.weight_decay, precision=workload.precision
    )


def method_of(workload: Workload) -> IntraLayer:
    """The method that an orchestrator's decisions drive: intra-layer parallelism as the workload sets it."""
    options: dict[str, Any] = {
        "server_step": workload.server_step,
        "context": workload.context,
        "rule": workload.selection,
        "context_rule": workload.context_rule,
    }
    return IntraLayer(**options) if workload.privacy is None else Private(**options, **workload.privacy.model_dump())


def build_training(
    scenario: Scenario,
    data: Prepared,
    scale: ProgressScale | None,
    seed: int,
    method: Method | None = None,
    recipe: LocalRecipe | None = None,
    workers: int = 1,
    engine: Engine | None = None,
    auxiliary: Samples | None = None,
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
        engine: carries tasks to machines; None trains here, on `data`, and rounds blocks as `decision.wire_precision` says.
        auxiliary: samples of the server's own, for methods that train on it.
    """
    workload = scenario.workload
    if engine is None:
        engine = InProcessEngine(data.samples(), recipe or recipe_of(workload), workers)
        if scenario.decision.wire_precision != "fp32":
            engine = RoundingEngine(engine, scenario.decision.wire_precision)
    model = model_for(workload, data.channels, scenario.name)
    return FederatedTraining(
        model,
        engine,
        scenario.fleet.machine_names,
        data.probe(),
        scale,
        method=method or method_of(workload),
        seed=seed,
        guard_images=data.guard_images,
        auxiliary=auxiliary,
    )
