"""The fleet as a networkx graph: machines, shared links, server; routes are its paths."""

from __future__ import annotations

from itertools import pairwise

import networkx as nx

from scenarios.schema import Fleet

SERVER = "server"


def fleet_graph(fleet: Fleet) -> nx.Graph:
    """Build the graph.

    A machine's own link leads to its first shared link's node, that one to the next, the last to the server, so a
    route is the one path from machine to server. Edges carry `uplink_mbps`, `downlink_mbps` and `shared`, the name of
    the shared link that the edge stands for (None for a machine's own).

    Args:
        fleet: a validated fleet.
    """
    graph = nx.Graph()
    graph.add_node(SERVER, kind="server")
    capacity = {link.name: link for link in fleet.links}
    for name, group in zip(fleet.machine_names, fleet.machines, strict=True):
        graph.add_node(name, kind="machine", group=group.name)
        # Hop nodes are named by the rest of the way, so that machines that share it meet.
        rest = group.link.via
        here = name
        hop: str | tuple[str, ...] = ("link", *rest) if rest else SERVER
        graph.add_edge(
            here, hop, uplink_mbps=group.link.uplink_mbps, downlink_mbps=group.link.downlink_mbps, shared=None
        )
        while rest:
            graph.nodes[hop].update(kind="link")
            link, rest = capacity[rest[0]], rest[1:]
            following: str | tuple[str, ...] = ("link", *rest) if rest else SERVER
            graph.add_edge(
                hop, following, uplink_mbps=link.uplink_mbps, downlink_mbps=link.downlink_mbps, shared=link.name
            )
            hop = following
    return graph


def route(graph: nx.Graph, machine: str) -> list[str]:
    """Names of the shared links on the way from a machine to the server, in order."""
    path = nx.shortest_path(graph, machine, SERVER)
    shared = (graph.edges[a, b]["shared"] for a, b in pairwise(path))
    return [name for name in shared if name is not None]
