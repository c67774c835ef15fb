"""The fleet as a networkx graph: machines, shared links, relays, server; routes are its paths."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import pairwise
from typing import Any

import networkx as nx

from scenarios.schema import Fleet, Link, SharedLink

SERVER = "server"
NS_PER_S = 1e9


def _edge(link: Link | SharedLink, shared: str | None) -> dict[str, Any]:
    rates = {"uplink_mbps": link.uplink_mbps, "downlink_mbps": link.downlink_mbps}
    return {**rates, "latency_s": link.latency_s, "shared": shared}


def fleet_graph(fleet: Fleet) -> nx.Graph:
    """Build the graph.

    A machine's own link leads to its first shared link's node, that one to the next, the last to the server (`via`), or to
    a relay of the mesh (`at`) that the shared links with named ends make up. Edges carry `uplink_mbps`, `downlink_mbps`,
    `latency_s` and `shared`, the name of the shared link that the edge stands for (None for a machine's own); nodes carry
    `kind`: machine, link (where it begins), relay or server.

    Args:
        fleet: a validated fleet.
    """
    graph = nx.Graph()
    graph.add_node(SERVER, kind="server")
    links = {link.name: link for link in fleet.links}
    for link in fleet.links:
        if link.between is not None:
            graph.add_nodes_from((node for node in link.between if node != SERVER), kind="relay")
            graph.add_edge(*link.between, **_edge(link, link.name))
    for name, group in zip(fleet.machine_names, fleet.machines, strict=True):
        graph.add_node(name, kind="machine", group=group.name)
        # Hop nodes are named by the rest of the way, so that machines that share it meet.
        rest = group.link.via
        hop: Hashable = ("link", *rest) if rest else group.link.at or SERVER
        graph.add_edge(name, hop, **_edge(group.link, None))
        while rest:
            graph.nodes[hop].update(kind="link")
            link, rest = links[rest[0]], rest[1:]
            following: Hashable = ("link", *rest) if rest else SERVER
            graph.add_edge(hop, following, **_edge(link, link.name))
            hop = following
    return graph


def routing_tree(graph: nx.Graph) -> nx.Graph:
    """The graph without the links that no route takes.

    Every node sends along its path of least latency (to the nanosecond), of equals the one of fewest hops, of those the one
    whose next node's name comes first: a tree, whatever the order of a scenario's links.

    Args:
        graph: from `fleet_graph`.
    """

    def cost(a: Hashable, b: Hashable, edge: dict[str, Any]) -> int:
        # Whole numbers compare exactly: a path has fewer hops than the graph has nodes, so latency decides first.
        return round(edge["latency_s"] * NS_PER_S) * len(graph) + 1

    nearer, _ = nx.dijkstra_predecessor_and_distance(graph, SERVER, weight=cost)
    taken = {frozenset((node, min(next_nodes))) for node, next_nodes in nearer.items() if next_nodes}
    tree = graph.copy()
    tree.remove_edges_from([edge for edge in graph.edges if frozenset(edge) not in taken])
    return tree


def route(tree: nx.Graph, machine: str) -> list[str]:
    """Names of the shared links on the way from a machine to the server, in order.

    Args:
        tree: from `routing_tree`.
        machine: its name.
    """
    path = nx.shortest_path(tree, machine, SERVER)
    shared = (tree.edges[a, b]["shared"] for a, b in pairwise(path))
    return [name for name in shared if name is not None]
