"""The fleet's graph: routes are the one path to the server; test_mesh.py has those with several."""

from typing import Any

import networkx as nx

from fedcore.fleet.graph import SERVER, fleet_graph, route, routing_tree
from scenarios import load, names
from scenarios.schema import Fleet


def fleet() -> Fleet:
    def group(name: str, via: list[str], count: int = 1) -> dict[str, Any]:
        device = {"throughput_gflops": 1.0, "memory_mb": 100.0, "active_power_w": 2.0, "idle_power_w": 1.0}
        link = {"uplink_mbps": 1.0, "downlink_mbps": 2.0, "via": via}
        return {"name": name, "count": count, "device": device, "link": link}

    shared = [{"name": n, "uplink_mbps": u, "downlink_mbps": 2 * u} for n, u in (("wan", 30.0), ("cell", 10.0))]
    groups = [group("far", ["cell", "wan"], 2), group("near", ["wan"]), group("direct", [])]
    return Fleet.model_validate({"groups": groups, "links": shared})


def test_routes_follow_via_in_order() -> None:
    graph = fleet_graph(fleet())
    assert route(graph, "far-0") == route(graph, "far-1") == ["cell", "wan"]
    assert route(graph, "near") == ["wan"]
    assert route(graph, "direct") == []


def test_machines_that_share_a_link_meet_at_its_node() -> None:
    graph = fleet_graph(fleet())
    assert nx.is_tree(graph)
    # 4 machines, the server, the hop before cell and the one before wan.
    assert graph.number_of_nodes() == 7
    shared = {d["shared"]: (d["uplink_mbps"], d["downlink_mbps"]) for *_, d in graph.edges(data=True) if d["shared"]}
    assert shared == {"cell": (10.0, 20.0), "wan": (30.0, 60.0)}
    kinds = nx.get_node_attributes(graph, "kind")
    assert sorted(kinds.values()) == ["link"] * 2 + ["machine"] * 4 + ["server"]
    assert kinds[SERVER] == "server"


def test_own_links_carry_the_machines_rates() -> None:
    graph = fleet_graph(fleet())
    assert graph.edges["direct", SERVER] == {
        "uplink_mbps": 1.0, "downlink_mbps": 2.0, "latency_s": 0.02, "shared": None
    }  # fmt: skip


def test_every_library_fleet_reaches_its_server() -> None:
    for name in names():
        described = load(name).fleet
        tree = routing_tree(fleet_graph(described))
        for machine, group in zip(described.machine_names, described.machines, strict=True):
            way = route(tree, machine)
            assert way if group.link.at else way == list(group.link.via)
