"""What the schema refuses, and what a fleet's machines are called."""

from typing import Any

import pytest
from pydantic import ValidationError

from scenarios import InputError, load, parse
from scenarios.schema import Decision, Fleet, Scenario, Workload


def group(name: str = "a", **changes: Any) -> dict[str, Any]:
    device = {"throughput_gflops": 1.0, "memory_mb": 100.0, "active_power_w": 2.0, "idle_power_w": 1.0}
    return {"name": name, "device": device, "link": {"uplink_mbps": 1.0, "downlink_mbps": 2.0}, **changes}


def fleet(*groups: dict[str, Any], **changes: Any) -> Fleet:
    return Fleet.model_validate({"groups": list(groups), **changes})


def test_machines_are_named_and_ordered_by_group() -> None:
    got = fleet(group("a", count=2, images=50), group("b", images=70))
    assert got.machine_names == ("a-0", "a-1", "b")
    assert [g.images for g in got.machines] == [50, 50, 70]


@pytest.mark.parametrize(
    ("groups", "named"),
    [
        ([group("a", count=2), group("a-1")], "'a-1'"),
        ([group("a-1"), group("b"), group("a", count=3)], "'a-1'"),
        ([group("server"), group("b")], "'server'"),
    ],
)
def test_colliding_machine_names_are_refused(groups: list[dict[str, Any]], named: str) -> None:
    with pytest.raises(ValidationError) as caught:
        fleet(*groups)
    message = caught.value.errors()[0]["msg"]
    assert named in message
    assert "unique" in message
    assert "\n" not in message


def test_names_that_only_look_alike_are_allowed() -> None:
    got = fleet(group("a", count=2), group("a-2"), group("server", count=2))
    assert got.machine_names == ("a-0", "a-1", "a-2", "server-0", "server-1")


def test_group_and_link_names_are_unique() -> None:
    with pytest.raises(ValidationError, match="group names must be unique"):
        fleet(group("a"), group("a"))
    link = {"name": "cell", "uplink_mbps": 1.0, "downlink_mbps": 1.0}
    with pytest.raises(ValidationError, match="link names must be unique"):
        fleet(group("a"), links=[link, {**link, "uplink_mbps": 2.0}])


def test_via_names_a_shared_link() -> None:
    to_cell = group("a", link={"uplink_mbps": 1.0, "downlink_mbps": 1.0, "via": ["cel"]})
    link = {"name": "cell", "uplink_mbps": 1.0, "downlink_mbps": 1.0}
    with pytest.raises(ValidationError, match=r"'a' goes via \['cel'\], expected one of \['cell'\]"):
        fleet(to_cell, links=[link])


A_B = {"name": "a-b", "uplink_mbps": 1.0, "downlink_mbps": 1.0, "between": ["a", "b"]}
UP = {**A_B, "name": "up", "between": ["server", "a"]}


def at(node: str, name: str = "s", **link: Any) -> dict[str, Any]:
    return group(name, link={"uplink_mbps": 1.0, "downlink_mbps": 1.0, "at": node, **link})


def test_a_group_may_hang_on_any_node_of_a_mesh() -> None:
    got = fleet(at("a"), at("b", "t"), at("server", "u"), links=[A_B, UP])
    assert [g.link.at for g in got.groups] == ["a", "b", "server"]
    assert got.links[0].between == ("a", "b")


@pytest.mark.parametrize(
    ("groups", "links", "told"),
    [
        ([at("a", via=["up"])], [UP], "at 'a' and via ['up'] exclude each other: expected one of them"),
        ([at("c")], [A_B, UP], "group 's' has link.at 'c', expected one of ['a', 'b', 'server']"),
        ([at("a")], [], "group 's' has link.at 'a', expected one of ['server']"),
        (
            [at("a", "near"), at("c")],
            [UP, {**A_B, "name": "c-d", "between": ["c", "d"]}],
            "group 's' has link.at 'c', from where no links lead to 'server': expected one of ['a', 'server']",
        ),
        ([at("a")], [A_B], "group 's' has link.at 'a', from where no links lead to 'server': expected one of ['server']"),
        ([at("a", "b")], [UP, A_B], "link 'a-b' is between ['a', 'b'], but 'b' is a machine: expected 'server' or a relay"),
        ([{**at("a"), "count": 2}], [{**UP, "between": ["s-1", "server"]}], "['s-1', 'server'], but 's-1' is a machine"),
        ([at("a")], [UP, {**UP, "name": "u", "between": ["a", "server"]}], "'up' and 'u' are both between ['a', 'server']"),
        ([at("a")], [UP, {**A_B, "between": ["a", "a"]}], "between has 'a' twice, expected two nodes"),
        (
            [group(link={"uplink_mbps": 1.0, "downlink_mbps": 1.0, "via": ["up"]})],
            [UP],
            "group 'a' goes via ['up'], which joins nodes of a mesh: expected link.at, one of its nodes",
        ),
    ],
)
def test_a_mesh_that_does_not_hold_together_is_told(
    groups: list[dict[str, Any]], links: list[dict[str, Any]], told: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        fleet(*groups, links=links)
    message = caught.value.errors()[0]["msg"]
    assert told in message
    assert "\n" not in message


@pytest.mark.parametrize("change", [{"between": ["a"]}, {"between": ["a", ""]}, {"between": "ab"}, {"latency_s": -0.1}])
def test_impossible_links_are_refused(change: dict[str, Any]) -> None:
    fleet(group("m"), links=[A_B])
    with pytest.raises(ValidationError):
        fleet(group("m"), links=[{**A_B, **change}])


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("device", {"throughput_gflops": 0.0}),
        ("device", {"throughput_gflops": float("inf")}),
        ("device", {"memory_mb": float("nan")}),
        ("device", {"idle_power_w": -1.0}),
        ("link", {"uplink_mbps": -1.0}),
        ("link", {"variability": -0.1}),
        ("load", {"slowdown": 0.5, "mean_busy_s": 1.0, "mean_free_s": 1.0}),
        ("load", {"slowdown": 2.0, "mean_busy_s": 0.0, "mean_free_s": 1.0}),
        ("availability", {"mean_on_s": 1.0, "mean_off_s": -1.0}),
        ("battery", {"capacity_j": 10.0, "initial_fraction": 0.1, "reserve_fraction": 0.1}),
        ("battery", {"capacity_j": 10.0, "cloudiness": 1.1}),
    ],
)
def test_impossible_machines_are_refused(section: str, changes: dict[str, float]) -> None:
    good = group()
    fleet(good)
    with pytest.raises(ValidationError):
        fleet({**good, section: {**good.get(section, {}), **changes}})


@pytest.mark.parametrize("intervals", [[], [5, 2], [2, 2], [0, 1], [1, 2000]])
def test_sync_intervals_ascend_within_limits(intervals: list[int]) -> None:
    with pytest.raises(ValidationError):
        Decision.model_validate({"sync_intervals": intervals})


def test_sections_are_immutable_and_know_all_their_fields() -> None:
    scenario = Scenario.model_validate({"name": "x", "fleet": {"groups": [group()]}})
    with pytest.raises(ValidationError):
        scenario.name = "y"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Scenario.model_validate({"name": "x", "fleet": {"groups": [group()]}, "budget": {}})
    with pytest.raises(ValidationError):
        Scenario.model_validate({"name": "Not A Slug", "fleet": {"groups": [group()]}})


def test_splits_are_named_and_their_skew_is_limited() -> None:
    assert (Workload().split, Workload().dirichlet_alpha) == ("auto", 0.3)
    assert Workload(split="site", dirichlet_alpha=1e6).split == "site"
    for bad in ({"split": "plate"}, {"dirichlet_alpha": 0.0}, {"dirichlet_alpha": float("nan")}):
        with pytest.raises(ValidationError):
            Workload.model_validate(bad)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"count": True}, r"field fleet\.groups\.0\.count has value True: input should be a number"),
        ({"availability": {"mean_on_s": "9", "mean_off_s": 9}}, r"mean_on_s has value '9': input should be a number"),
        ({"count": "2"}, r"field fleet\.groups\.0\.count has value '2': input should be a number"),
        ({"link": {"uplink_mpbs": 1, "downlink_mbps": 1}}, r"uplink_mpbs is unknown, did you mean 'uplink_mbps'\?"),
        ({"link": {"uplink_mbps": "1", "downlink_mbps": 1}}, r"uplink_mbps has value '1': input should be a number"),
        ({"link": {"uplink_mbps": 1, "downlink_mbps": 1, "via": ["a", "a"]}}, r"via \['a'\] twice, expected every link once"),
    ],
)
def test_numbers_are_numbers_and_a_misspelt_field_is_told_first(change: dict[str, Any], says: str) -> None:
    content = load("farm-lte").model_dump(mode="json")
    content["fleet"]["links"] = [{"name": "a", "uplink_mbps": 5, "downlink_mbps": 5}]
    for group in content["fleet"]["groups"]:
        group["link"]["via"] = []
    content["fleet"]["groups"][0] |= change
    with pytest.raises(InputError, match=says):
        parse(content, "own")


def test_carbon_is_one_figure_or_one_for_every_hour() -> None:
    content = load("farm-lte").model_dump(mode="json")
    content["fleet"]["grid_gco2e_per_kwh"] = [1, 2, 3]
    with pytest.raises(InputError, match=r"field fleet\.grid_gco2e_per_kwh has value .*3 figures, expected one number"):
        parse(content, "own")
    content["fleet"]["grid_gco2e_per_kwh"] = ["much"] * 24
    with pytest.raises(InputError, match=r"field fleet\.grid_gco2e_per_kwh(\.0)? has value"):
        parse(content, "own")
    content["fleet"]["grid_gco2e_per_kwh"] = list(range(24))
    assert parse(content, "own").fleet.grid_gco2e_per_kwh == tuple(float(h) for h in range(24))
