"""Loading: the library, round trips, and one clear sentence for everything that is wrong."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from scenarios import InputError, Scenario, load, names, parse
from scenarios.loader import MAX_BYTES, read_yaml


def content() -> dict[str, Any]:
    return load("farm-lte").model_dump(mode="json")


def message_of(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert 10 < len(message) < 700
    return message


def test_the_library_is_there() -> None:
    assert len(names()) >= 6
    assert names() == sorted(names())
    assert "farm-lte" in names()


@pytest.mark.parametrize("name", names())
def test_every_library_scenario_loads_and_survives_a_round_trip(name: str, tmp_path: Path) -> None:
    scenario = load(name)
    assert scenario.name == name
    assert scenario.title
    assert parse(scenario.model_dump(), "dump") == scenario
    assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario
    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(scenario.model_dump(mode="json")), encoding="utf-8")
    assert load(path) == load(str(path)) == scenario


def test_unknown_name_is_told_with_a_suggestion() -> None:
    message = message_of(lambda: load("farm-lt"))
    assert "'farm-lt'" in message
    assert "did you mean 'farm-lte'?" in message
    assert "phones" in message_of(lambda: load("zzzz"))
    assert "a" * 50 in message_of(lambda: load("a" * 300))
    assert "''" in message_of(lambda: load(""))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert f"{missing} does not exist" in message_of(lambda: load(missing))
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    assert str(folder) in message_of(lambda: load(folder))
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    assert str(binary) in message_of(lambda: load(binary))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1, 2", "not valid YAML"),
        ("a: &x [1]\nb: *x\n", "aliases are not allowed"),
        ("a: !!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a: 2001-99-99", "not valid YAML"),
        ("- 1\n- 2\n", "expected a mapping"),
        ("name: a\nname: b\n", "'name' stands there twice"),
        ("? [1]\n: 2\n", "not valid YAML"),
        ("just text", "got str"),
        ("", "got NoneType"),
        ("[" * 5000, "not valid YAML"),
    ],
)
def test_files_that_are_no_scenario(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yml"
    path.write_text(text, encoding="utf-8")
    message = message_of(lambda: load(path))
    assert expected in message
    assert str(path) in message


def test_oversized_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text("#" * (MAX_BYTES + 1), encoding="utf-8")
    message = message_of(lambda: load(path))
    assert str(path) in message
    assert str(MAX_BYTES + 1) in message


def edited(where: str, value: Any = None, delete: bool = False) -> dict[str, Any]:
    out = content()
    *parents, last = where.split(".")
    at: Any = out
    for part in parents:
        at = at[int(part)] if isinstance(at, list) else at[part]
    if delete:
        del at[last]
    else:
        at[last] = value
    return out


@pytest.mark.parametrize(
    ("where", "value", "expected"),
    [
        ("fleet.groups.0.link.uplink_mbps", -1.5, ["fleet.groups.0.link.uplink_mbps", "-1.5", "greater than 0"]),
        ("fleet.groups.1.device.throughput_gflops", "fast", ["fleet.groups.1.device.throughput_gflops", "'fast'"]),
        ("fleet.groups.0.device.memroy_mb", 5, ["fleet.groups.0.device.memroy_mb", "did you mean 'memory_mb'?"]),
        ("fleet.groups.0.load.zzz", 5, ["fleet.groups.0.load.zzz is unknown", "slowdown, mean_busy_s, mean_free_s"]),
        ("workloads", {}, ["field workloads", "did you mean 'workload'?"]),
        ("fleet.groups.0.link.via", ["cel"], ["fleet", "goes via ['cel']", "['cell']"]),
        ("fleet.groups.0.link.at", "mast", ["fleet.groups.0.link", "at 'mast' and via ['cell'] exclude each other"]),
        ("fleet.links.0.between", ["mast", "mast"], ["fleet.links.0", "between has 'mast' twice"]),
        ("fleet.links.0.between", ["mast"], ["fleet.links.0.between.1"]),
        ("fleet.groups.1.name", "new-gateway", ["fleet", "group names must be unique", "new-gateway"]),
        ("name", "Farm LTE", ["field name", "'Farm LTE'"]),
        ("decision.sync_intervals", [5, 2], ["decision", "must ascend", "[5, 2]"]),
        ("fleet.groups", [], ["fleet.groups", "at least 1"]),
        ("fleet.start_hour", 24, ["fleet.start_hour", "24", "less than 24"]),
        ("reward.energy_weight", None, ["reward.energy_weight", "None"]),
        ("budgets.rounds", 0, ["budgets.rounds", "0"]),
    ],
)
def test_one_sentence_names_file_field_and_value(where: str, value: Any, expected: list[str]) -> None:
    message = message_of(lambda: parse(edited(where, value), "my/fleet.yaml"))
    assert message.startswith("my/fleet.yaml: ")
    for part in expected:
        assert part in message


def test_a_missing_field_is_named_and_further_faults_are_counted() -> None:
    message = message_of(lambda: parse(edited("fleet.groups.0.device.memory_mb", delete=True), "f.yaml"))
    assert message == "f.yaml: field fleet.groups.0.device.memory_mb is missing"
    # A group that is not whole is told beside its fault, and is none of its own.
    assert "more)" not in message_of(lambda: parse(edited("fleet.groups.0.count", 0), "f.yaml"))
    broken = edited("fleet.groups.0.device.memory_mb", delete=True)
    broken["budgets"]["rounds"] = -3
    assert "(and 1 more)" in message_of(lambda: parse(broken, "f.yaml"))
    assert "field fleet is missing" in message_of(lambda: parse({"name": "x"}, "f.yaml"))


def test_files_that_a_scenario_names_lie_beside_it_or_where_the_command_runs(tmp_path: Path, monkeypatch: Any) -> None:
    content = edited("workload.data", "own.txt")
    content["workload"]["calibration"] = "mine.json"
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "there" / "own.txt").write_text("beside")
    workload = load(tmp_path / "there" / "mine.yaml").workload
    assert workload.data == str(tmp_path / "there" / "own.txt")
    assert workload.calibration == "mine.json"  # not there: as it is told
    with pytest.raises(InputError, match="is a folder: expected a file"):
        load(tmp_path / "there")


def paths(at: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = at.items() if isinstance(at, dict) else enumerate(at) if isinstance(at, list) else ()
    return [p for key, value in items for p in [(*here, key), *paths(value, (*here, key))]]


CONTENT = content()
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.one_of(st.text(max_size=3), st.integers(), st.none()), st.integers(), max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(path=st.sampled_from(paths(CONTENT)), value=VALUES, rename=st.booleans())
def test_whatever_stands_in_a_field_is_taken_or_told(path: tuple[Any, ...], value: Any, rename: bool) -> None:
    broken = copy.deepcopy(CONTENT)
    at = broken
    for part in path[:-1]:
        at = at[part]
    if rename and isinstance(at, dict):
        at[value if value.__hash__ else "other"] = at.pop(path[-1])
    else:
        at[path[-1]] = value
    told = ""
    try:
        scenario: Scenario | None = parse(broken, "f.yaml")
    except InputError as error:
        scenario, told = None, str(error)
    # Anything else that is raised fails the test.
    assert told.startswith("f.yaml: ") if scenario is None else isinstance(scenario, Scenario)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000.0), ("2.5E-1", 0.25), ("1.0e+2", 100.0), ("+1e1", 10.0), ("010", 10), ("-08", -8), ("1_000", 1000),
        ("1:30", "1:30"), ("0b11", "0b11"), ("0x1f", "0x1f"),
    ],
)  # fmt: skip
def test_numbers_are_what_people_mean(text: str, value: float | str, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(f"a: {text}")
    assert read_yaml(file) == {"a": value}
