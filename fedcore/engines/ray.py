"""Machines as Ray actors, over one machine's cores or a cluster's: for fleets on a LAN whose rounds take less than a second."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from fedcore.engines.remote import RemoteEngine
from fedcore.ray_pool import need_ray
from fedcore.remote.node import Node
from fedcore.remote.transport import Arrival, GoneError
from fedcore.samples import Samples
from scenarios.schema import Workload

GATHER_S = 300.0


class RayTransport:
    """Carries messages to one actor per machine.

    Args:
        names: of the machines.
        samples: per machine, its own; they go to its actor once.
        cores: that every actor is given, a fraction or more.

    Raises:
        InputError: Ray is not installed.
    """

    def __init__(self, names: Sequence[str], samples: Sequence[Samples], cores: float = 1.0) -> None:
        need_ray()
        import ray

        self._ray: Any = ray
        self._names = tuple(names)
        self._mine = not ray.is_initialized()
        if self._mine:
            ray.init(include_dashboard=False, log_to_driver=False, configure_logging=False)
        actor = ray.remote(num_cpus=cores)(_Actor)
        server = ray.util.get_node_ip_address()
        self._actors: dict[int, Any] = {
            k: actor.remote(name, own, server) for k, (name, own) in enumerate(zip(names, samples, strict=True))
        }
        self._waiting: dict[str, tuple[int, Any]] = {}
        self._count = 0

    def nodes(self) -> set[int]:
        """See `Transport.nodes`: actors that have not been found dead."""
        return set(self._actors)

    def name_of(self, node: int) -> str | None:
        """See `Transport.name_of`."""
        return self._names[node]

    def send(self, node: int, content: bytes, lifetime_s: float) -> str:
        """See `Transport.send`."""
        if node not in self._actors:
            raise GoneError("its Ray actor died")
        self._count += 1
        ticket = str(self._count)
        self._waiting[ticket] = (node, self._actors[node].answer.remote(content))
        return ticket

    def receive(self, tickets: Collection[str]) -> list[Arrival]:
        """See `Transport.receive`."""
        asked = {self._waiting[t][1]: t for t in tickets if t in self._waiting}
        if not asked:
            return []
        ready, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0)
        arrivals = []
        for reference in ready:
            ticket = asked[reference]
            node, _ = self._waiting.pop(ticket)
            try:
                arrivals.append(Arrival(ticket, self._ray.get(reference)))
            except self._ray.exceptions.RayActorError:
                self._actors.pop(node, None)
                arrivals.append(Arrival(ticket, None, "its Ray actor died"))
            except self._ray.exceptions.RayError as error:  # it lives, and what it did with the message failed
                arrivals.append(Arrival(ticket, None, f"its Ray actor failed: {error!r}"))
        return arrivals

    def close(self) -> None:
        """End the actors, and Ray where it was started here."""
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors = {}
        if self._mine:
            self._ray.shutdown()
            self._mine = False


class _Actor:
    """A node in a process of Ray's."""

    def __init__(self, machine: str, samples: Samples, server: str) -> None:
        self.node = Node(machine, lambda workload: samples, server=server)

    def answer(self, content: bytes) -> bytes:
        """See `Node.answer`."""
        return self.node.answer(content)


def ray_engine(
    workload: Workload,
    names: Sequence[str],
    samples: Sequence[Samples],
    *,
    channels: int = 1,
    precision: str = "fp32",
    deadline_s: float | None = None,
    cores: float = 1.0,
) -> RemoteEngine:
    """An engine whose machines are Ray actors, all of them there; arguments as `RemoteEngine` and `RayTransport`.

    Raises:
        InputError: Ray is not installed, or has no room for so many actors.
    """
    engine = RemoteEngine(RayTransport(names, samples, cores), workload, names, channels, precision, deadline_s)
    try:
        engine.gather(GATHER_S)
    except BaseException:
        engine.close()
        raise
    return engine
