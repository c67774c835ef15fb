"""Splits: what is in them, and what a person may bring."""

from pathlib import Path

import pytest
import yaml

from agents.splits import LARGE, SPLITS, cases, drawn, family, larger, traced
from fedcore.world import compile_world
from scenarios import InputError, load, names
from scenarios.loader import LIBRARY


def test_every_default_case_has_its_own_name_and_the_library_is_all_there(tmp_path: Path) -> None:
    chosen, told = cases(traces=tmp_path)
    assert len({case.scenario.name for case in chosen}) == len(chosen)
    assert [case.scenario.name for case in chosen if case.split == "named"] == names()
    assert {case.split for case in chosen} == set(SPLITS) - {"traces"}
    assert told == [f"left out: split traces needs recorded links, and {tmp_path} has no .csv file: expected --traces FOLDER"]


def test_random_cases_come_from_their_range_and_are_always_the_same() -> None:
    inside, outside = drawn("in", "train", 3), drawn("out", "ood", 3)
    assert all(2 <= len(case.scenario.fleet.machines) <= 16 for case in inside)
    assert all(len(case.scenario.fleet.machines) >= 11 for case in outside)
    assert drawn("in", "train", 3) == inside


def test_larger_fleets_have_32_to_64_machines() -> None:
    sizes = [len(case.scenario.fleet.machines) for case in larger(6)]
    assert all(32 <= size <= LARGE for size in sizes), sizes
    world = compile_world(larger(1)[0].scenario, LARGE)
    assert world.reference.rounds < 200


def test_traced_links_replay_files(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("second,uplink_mbps,downlink_mbps\n0,1,5\n5,3,7\n9,2,6\n")
    (case,) = traced(tmp_path, ("farm-lte",))
    for group in case.scenario.fleet.groups:
        assert group.link.trace == str(tmp_path / "a.csv")
        assert 1.0 < group.link.uplink_mbps < 3.0
    assert compile_world(case.scenario).reference.time_s > 0


def test_bursts_of_faults_cost_the_reference_time() -> None:
    chosen, _ = cases("faults")
    for case in chosen:
        if case.scenario.name in ("faults-lab-lan", "faults-farm-lte"):
            usual = compile_world(load(case.scenario.name.removeprefix("faults-"))).reference
            assert compile_world(case.scenario).reference.time_s > usual.time_s


def test_a_person_brings_files_and_folders(tmp_path: Path) -> None:
    for name in ("two-servers", "lab-lan"):
        (tmp_path / f"{name}.yaml").write_text((LIBRARY / f"{name}.yaml").read_text())
    chosen, _ = cases(scenarios=str(tmp_path))
    assert [case.scenario.name for case in chosen] == ["lab-lan", "two-servers"]
    (tmp_path / "more" / "deep").mkdir(parents=True)
    (tmp_path / "more" / "deep" / "phones.yml").write_text((LIBRARY / "phones.yaml").read_text())
    again, told = cases(scenarios=str(tmp_path))
    assert again == chosen
    assert told == [
        f"left out: what lies in folders within --scenarios {tmp_path} ({tmp_path}/more/deep): expected them named themselves"
    ]
    content = yaml.safe_load((LIBRARY / "two-servers.yaml").read_text())
    content["fleet"]["groups"][0]["count"] = 40
    (tmp_path / "two-servers.yaml").write_text(yaml.safe_dump(content))
    assert cases(scenarios=str(tmp_path / "two-servers.yaml"))[0][0].scenario.fleet.machine_names[39]
    with pytest.raises(InputError, match="two scenarios are named 'lab-lan'"):
        cases(scenarios=f"lab-lan,{tmp_path / 'lab-lan.yaml'}")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"has no \.yaml file"):
        cases(scenarios=str(tmp_path / "none"))
    with pytest.raises(InputError, match="--splits faults and --scenarios lab-lan both say what to play, expected one of them"):
        cases("faults", "lab-lan")
    with pytest.raises(InputError, match="--splits has 'in', expected some of named"):
        cases("in")
    with pytest.raises(InputError, match="needs recorded links"):
        cases("traces", traces=tmp_path / "none")


def test_families() -> None:
    assert [family(name) for name in ("farm-lte", "field-mesh", "lab-lan", "phones", "one-strong-many-weak")] == [
        "field", "field", "lan", "phones", "edge"
    ]  # fmt: skip
