"""Fleets on a mesh of relays: which way traffic goes, and hand-computed shares, latencies and seconds on it."""

from itertools import pairwise, permutations
from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.fleet import columns as c
from fedcore.fleet.compile import FleetArrays, compile_fleet
from fedcore.fleet.graph import SERVER, fleet_graph, route, routing_tree
from fedcore.fleet.network import max_min_rates, transfer_until
from fedcore.fleet.player import FleetPlayer
from fedcore.methods import RoundCost
from scenarios.schema import Fleet, Scenario


def group(name: str, at: str, count: int = 1, **link: Any) -> dict[str, Any]:
    device = {
        "throughput_gflops": 1.0, "memory_mb": 100.0, "active_power_w": 2.0, "idle_power_w": 1.0, "step_jitter": 0.0
    }  # fmt: skip
    own = {"uplink_mbps": 10.0, "downlink_mbps": 20.0, "latency_s": 0.1, "at": at, **link}
    return {"name": name, "count": count, "device": device, "link": own}


def hop(name: str, a: str, b: str, latency_s: float = 0.0, up: float = 1.0, down: float = 1.0) -> dict[str, Any]:
    return {"name": name, "between": [a, b], "latency_s": latency_s, "uplink_mbps": up, "downlink_mbps": down}


def routes(groups: list[dict[str, Any]], links: list[dict[str, Any]]) -> list[list[str]]:
    fleet = Fleet.model_validate({"groups": groups, "links": links})
    tree = routing_tree(fleet_graph(fleet))
    return [route(tree, name) for name in fleet.machine_names]


# server --- east --- hill --- west --- server: two stations on the hill, one in the east, one in the west.
HILL = [
    hop("east-up", "server", "east", 0.01, up=6.0, down=9.0),
    hop("hill-east", "hill", "east", 0.02, up=3.0, down=10.0),
    hop("hill-west", "west", "hill", 0.05, up=50.0, down=50.0),
    hop("west-up", "west", "server", 0.01, up=5.0, down=40.0),
]
STATIONS = [group("top", "hill", 2), group("low", "east"), group("far", "west")]


def on_the_hill() -> FleetArrays:
    return compile_fleet(Fleet.model_validate({"groups": STATIONS, "links": HILL}), None, 4)


def test_the_way_of_least_latency_is_taken() -> None:
    # From the hill 0.02 + 0.01 s eastwards, 0.05 + 0.01 s westwards, though that link is the faster one.
    assert routes(STATIONS, HILL) == [["hill-east", "east-up"]] * 2 + [["east-up"], ["west-up"]]
    # Without its hop to the east the hill goes the other way.
    assert routes(STATIONS, [HILL[0], *HILL[2:]]) == [["hill-west", "west-up"]] * 2 + [["east-up"], ["west-up"]]


def test_least_latency_beats_fewest_hops_and_fewest_hops_break_its_ties() -> None:
    mesh = [hop("direct", "a", "server", 0.3), hop("ab", "a", "b", 0.1), hop("bc", "b", "c", 0.1)]
    mesh.append(hop("cs", "c", "server", 0.05))
    assert routes([group("x", "a")], mesh) == [["ab", "bc", "cs"]]
    # 0.1 + 0.1 + 0.1 is not 0.3 in floating point; to the nanosecond it is.
    mesh[-1] = hop("cs", "c", "server", 0.1)
    assert routes([group("x", "a")], mesh) == [["direct"]]


def test_equals_go_by_name_in_whatever_order_the_file_has_them() -> None:
    mesh = [hop("1", "d", "c"), hop("2", "d", "b"), hop("3", "c", "server"), hop("4", "server", "b")]
    for order in permutations(mesh):
        assert routes([group("x", "d"), group("y", "c")], list(order)) == [["2", "4"], ["3"]]


@st.composite
def meshes(draw: st.DrawFn) -> list[dict[str, Any]]:
    nodes = [SERVER, *"abcde"]
    pairs = [(a, b) for i, a in enumerate(nodes) for b in nodes[:i]]
    joined = draw(st.lists(st.sampled_from(pairs), min_size=1, unique=True))
    return [hop(f"{a}-{b}", a, b, draw(st.sampled_from([0.0, 0.1, 0.2, 0.25]))) for a, b in joined]


@settings(max_examples=60, deadline=None)
@given(meshes())
def test_routes_are_a_tree_of_shortest_paths(mesh: list[dict[str, Any]]) -> None:
    plain = nx.Graph()
    plain.add_node(SERVER)
    for link in mesh:
        plain.add_edge(*link["between"], latency_s=link["latency_s"])
    reached = sorted(nx.node_connected_component(plain, SERVER))
    fleet = Fleet.model_validate({"groups": [group(f"at-{node}", node) for node in reached], "links": mesh})
    graph = fleet_graph(fleet)
    tree = routing_tree(graph)
    assert set(tree) == set(graph)
    assert nx.is_tree(tree.subgraph(nx.node_connected_component(tree, SERVER)))
    latency = {link["name"]: link["latency_s"] for link in mesh}
    for node in reached:
        way = route(tree, f"at-{node}")
        # The yardstick: every simple path, latency first, then hops.
        paths = list(nx.all_simple_paths(plain, node, SERVER)) if node != SERVER else [[SERVER]]
        best = min((round(nx.path_weight(plain, path, "latency_s"), 9), len(path) - 1) for path in paths)
        assert (round(sum(latency[name] for name in way), 9), len(way)) == best


def test_shares_by_hand() -> None:
    fleet = on_the_hill()
    assert fleet.via[:, :5].astype(int).tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 1]]
    on, own = np.ones(4, dtype=np.bool_), fleet.parameters[:, c.UP_BPS]
    # Up: the hill's two share its radio, 3 / 2 = 1.5 each, less than a third of east-up, 2: it binds them. What they leave
    # of east-up, 6 - 3 = 3, is the low station's. The one in the west crosses neither and has west-up's 5 alone.
    assert max_min_rates(on, own, fleet.link_up_bps, fleet.via) == pytest.approx([1.5e6, 1.5e6, 3e6, 5e6])
    # Down: a third of east-up, 9 / 3 = 3, is less than half of the hill's radio, 5: the same for all three. In the west
    # the machine's own 20 bind before west-up's 40.
    own = fleet.parameters[:, c.DOWN_BPS]
    assert max_min_rates(on, own, fleet.link_down_bps, fleet.via) == pytest.approx([3e6, 3e6, 3e6, 20e6])


def test_end_times_by_hand() -> None:
    fleet = on_the_hill()
    # 6 Mbit each. West: 6 / 5 = 1.2 s. East: at 3 Mbit/s the low one is through after 2 s; the hill's had 1.5 all along,
    # have sent 3 by then and gain nothing, since their radio still binds: 6 / 1.5 = 4 s.
    ends, _ = transfer_until(
        np.zeros(4), np.full(4, 6e6), np.ones(4, dtype=np.bool_), fleet.parameters[:, c.UP_BPS], fleet.link_up_bps, fleet.via
    )
    assert ends == pytest.approx([4.0, 4.0, 2.0, 1.2])
    # The second of the hill's is done after 2 Mbit, at 2 / 1.5 = 4/3 s: then the first has 3 alone and shares east-up's 6
    # evenly with the low one, which had 3 before. By 2 s the low one is through; the first has sent 2 + 2 of its 6 and
    # needs another 2 / 3 s.
    ends, _ = transfer_until(
        np.zeros(3), np.array([6e6, 2e6, 6e6]), np.ones(3, dtype=np.bool_), fleet.parameters[:3, c.UP_BPS], fleet.link_up_bps,
        fleet.via[:3],
    )  # fmt: skip
    assert ends == pytest.approx([8 / 3, 4 / 3, 2.0])


def test_latencies_add_up_along_the_route() -> None:
    assert on_the_hill().parameters[:, c.LATENCY_S] == pytest.approx([0.13, 0.13, 0.11, 0.11])
    via = {**group("a", ""), "link": {"uplink_mbps": 1.0, "downlink_mbps": 1.0, "latency_s": 0.1, "via": ["cell", "wan"]}}
    shared = [{"name": n, "uplink_mbps": 1.0, "downlink_mbps": 1.0, "latency_s": s} for n, s in (("wan", 0.04), ("cell", 0.02))]
    got = compile_fleet(Fleet.model_validate({"groups": [via], "links": shared}), None, 1)
    assert got.parameters[0, c.LATENCY_S] == pytest.approx(0.16)


def test_a_round_by_hand() -> None:
    server = {"round_overhead_s": 0.0, "nj_per_bit": 0.0}
    fleet = Fleet.model_validate({"groups": STATIONS, "links": HILL, "server": server})
    cost = RoundCost(step_flops=1e9, upload_bytes=0.75e6, download_bytes=1.125e6, memory_bytes=1e6)
    played = FleetPlayer(Scenario(name="hill", fleet=fleet), 0).play([cost, cost, None, cost], 2)
    # The hill's: 0.13 s, 9 Mbit at 9 / 2 Mbit/s, two steps of 1 s, 0.13 s, 6 Mbit at 3 / 2 Mbit/s. The west's: 0.11 s,
    # 9 Mbit at its own 20, 2 s, 0.11 s, 6 Mbit at 5.
    hill, west = 0.13 + 2 + 2 + 0.13 + 4, 0.11 + 0.45 + 2 + 0.11 + 1.2
    assert played.telemetry[:, c.FINISH_S] == pytest.approx([hill, hill, 0.0, west])
    assert played.time_s == pytest.approx(hill)


def test_more_links_than_machines() -> None:
    # Twenty hops in a row, one of them thin: 0.1 + 20 x 0.01 s each way, and both stations share its 1 Mbit/s.
    chain = [SERVER, *(f"r{i}" for i in range(20))]
    links = [hop(f"hop-{i}", a, b, 0.01, up=1.0 if i == 19 else 9.0, down=50.0) for i, (a, b) in enumerate(pairwise(chain))]
    fleet = Fleet.model_validate({"groups": [group("s", "r19", 2)], "links": links, "server": {"round_overhead_s": 0.0}})
    cost = RoundCost(step_flops=1e9, upload_bytes=0.25e6, download_bytes=0.25e6, memory_bytes=1e6)
    played = FleetPlayer(Scenario(name="chain", fleet=fleet), 0).play([cost, cost], 1)
    assert played.time_s == pytest.approx(0.3 + 2 / 20 + 1 + 0.3 + 2 / 0.5)


def test_a_mesh_beside_a_tree() -> None:
    # Some groups go via links of their own, some are at the server: neither sees the mesh.
    plain = {"name": "cell", "uplink_mbps": 1.0, "downlink_mbps": 1.0}
    via = group("v", "server")
    via["link"] = {"uplink_mbps": 1.0, "downlink_mbps": 1.0, "via": ["cell"]}
    assert routes([via, group("m", "hill"), group("s", "server")], [plain, *HILL]) == [["cell"], ["hill-east", "east-up"], []]
