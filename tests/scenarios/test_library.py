"""The library: every scenario compiles and uses what it declares, and nothing that the schema offers is without one."""

from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
import yaml
from pydantic import BaseModel

from fedcore.fleet.graph import fleet_graph, route, routing_tree
from fedcore.world import compile_world
from scenarios import load, names
from scenarios.loader import LIBRARY
from scenarios.schema import Budgets, Decision, Fleet, Reference, Reward

FAMILIES = ("field", "lan", "phones", "edge-cloud", "mobile", "scale")
LEFT_OUT = {"Link.trace", "Availability.trace", "Reward.kind", "Decision.wire_precision"}
"""The package carries no recordings, so no scenario of its library can name one (test_traces.py does); how a learner is
paid, and how finely blocks are rounded, is no feature of a world: any scenario may be given either."""


def content(name: str) -> dict[str, Any]:
    return yaml.safe_load((LIBRARY / f"{name}.yaml").read_text(encoding="utf-8"))


def models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in models_in(part)]


def offered(model: type[BaseModel]) -> set[str]:
    """Section.field of a section and all below it."""
    out = set()
    for name, field in model.model_fields.items():
        out.add(f"{model.__name__}.{name}")
        for inner in models_in(field.annotation):
            out |= offered(inner)
    return out


def written(model: type[BaseModel], at: Any) -> set[str]:
    """Section.field of what a file says itself, defaults left out."""
    out = set()
    for entry in at if isinstance(at, list) else [at]:
        for name, value in entry.items():
            out.add(f"{model.__name__}.{name}")
            for inner in models_in(model.model_fields[name].annotation):
                if isinstance(value, dict | list) and value:
                    out |= written(inner, value)
    return out


def test_every_family_has_its_scenarios() -> None:
    assert len(names()) >= 16
    for family in FAMILIES:
        assert any(name.startswith(family) for name in names()), family


@pytest.mark.parametrize("name", names())
def test_scenarios_say_what_they_are_hard_about(name: str) -> None:
    scenario = load(name)
    assert 10 < len(scenario.title) < 60
    assert len(scenario.description) > 100
    lines = (LIBRARY / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert max(len(line) for line in lines) <= 128


@pytest.mark.parametrize("name", names())
def test_machines_and_links_are_used(name: str) -> None:
    scenario = load(name)
    world = compile_world(scenario)
    assert 8 < world.reference.rounds < 60
    assert (world.max_share_index[: world.arrays.machines] > 0).all()
    # A shared link that its flows cannot fill, all at once, is an ornament; one that closes a mesh's ring stands by.
    tree = routing_tree(fleet_graph(scenario.fleet))
    ways = {machine: route(tree, machine) for machine in scenario.fleet.machine_names}
    for link in scenario.fleet.links:
        machines = zip(scenario.fleet.machine_names, scenario.fleet.machines, strict=True)
        flows = sum(group.link.uplink_mbps for name, group in machines if link.name in ways[name])
        assert flows > link.uplink_mbps or (flows == 0 and link.between is not None), link.name


def test_nothing_that_the_schema_offers_is_without_a_scenario() -> None:
    sections: dict[str, type[BaseModel]] = {
        "fleet": Fleet, "decision": Decision, "reference": Reference, "reward": Reward, "budgets": Budgets,
    }  # fmt: skip
    used: set[str] = set()
    for name in names():
        at = content(name)
        for section, model in sections.items():
            used |= written(model, at[section]) if section in at else set()
    everything = set().union(*(offered(model) for model in sections.values()))
    assert len(everything) > 60
    assert everything - used == LEFT_OUT


def test_some_scenario_has_each_kind_of_network_and_clock() -> None:
    fleets = {name: load(name).fleet for name in names()}
    assert any(len(g.link.via) == 2 for f in fleets.values() for g in f.groups)
    # A mesh: more than one way, and machines three shared hops away.
    mesh = fleet_graph(fleets["field-mesh"])
    assert not nx.is_tree(mesh)
    assert max(len(route(routing_tree(mesh), name)) for name in fleets["field-mesh"].machine_names) == 3
    assert any(isinstance(f.grid_gco2e_per_kwh, tuple) for f in fleets.values())
    assert max(len(f.machines) for f in fleets.values()) == 16
    assert any(len(f.machines) in (12, 13, 14) for f in fleets.values())
    # Few images on fast machines: the fastest kind holds less than a tenth of what the average machine does.
    skew = [
        max(f.groups, key=lambda g: g.device.throughput_gflops).images / np.mean([g.images for g in f.machines])
        for f in fleets.values()
    ]
    assert min(skew) < 0.1
    # Memory binds somewhere: a machine that cannot take the reference's half.
    assert (compile_world(load("edge-cloud-tiny")).max_share_index[:8] < 128).any()


@pytest.mark.parametrize("name", names())
def test_timetables_change_during_an_episode(name: str) -> None:
    scenario = load(name)
    world = compile_world(scenario)
    episode_s = world.budgets[0]  # it may last so long
    for group in scenario.fleet.groups:
        if group.availability is None:
            continue
        assert group.availability.joins_after_s < world.reference.time_s
    edges = [
        (hour - scenario.fleet.start_hour) * 3600
        for group in scenario.fleet.groups
        if group.availability is not None
        for window in group.availability.daily_hours
        for hour in window
    ]
    assert not edges or any(0 < edge < episode_s for edge in edges)


def test_the_library_is_the_folder() -> None:
    assert {path.stem for path in Path(LIBRARY).iterdir()} == set(names())


@pytest.mark.parametrize("name", names())
def test_figures_without_a_source_are_marked_as_assumptions(name: str) -> None:
    first = (LIBRARY / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# A figure with no source beside it is an assumption; scenarios/generate.py varies it")
