"""Unequal machines out of one: a network namespace each with the scenario's link rates, and a part of one core.

Every machine gets a namespace and a veth pair to a bridge on which the server listens; token buckets (`tc tbf`) hold both
directions to the link's rates, and follow a recorded trace second by second where the scenario replays one. Its training
process gets a quota of processor time (cgroups, CFS bandwidth) such that a step of the whole model takes what the scenario
says of its device. Linux, root and Debian's iproute2 are needed. Latency is added where the kernel has `netem`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from scenarios.errors import InputError
from scenarios.schema import Fleet
from scenarios.traces import LinkTrace, read_link_trace

NETWORK = "198.18.0"
"""Of the range that RFC 2544 keeps for benchmarks."""
BURST_BYTES = 16_384
QUEUE_MS = 400
LEAST_BPS = 8_000.0
"""A token bucket does not take rate 0."""
PERIOD_US = 100_000
SPARED_CORES = 0.5
"""Of this machine's cores, for the server and Flower's own processes."""
CGROUPS = Path("/sys/fs/cgroup")
HOST = "eth0"


def lacking() -> str:
    """What keeps this machine from shaping others; empty where nothing does."""
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if sys.platform != "linux":
        return "not Linux"
    if missing:
        return f"{' and '.join(missing)} of iproute2 missing"
    if os.geteuid() != 0:
        return "not run by root"
    return "" if os.access(_cpu_groups(), os.W_OK) else f"{_cpu_groups()} may not be written"


def need_namespaces() -> None:
    """Refuse to go on where machines cannot be shaped.

    Raises:
        InputError: not Linux, not root, or something is missing.
    """
    if why := lacking():
        raise InputError(
            f"--shaped cannot make machines out of this one ({why}): expected Linux, root, iproute2 and cgroups that limit "
            "processor time"
        )


def need_own_links(fleet: Fleet) -> None:
    """Refuse a fleet whose machines share links.

    Raises:
        InputError: they do.
    """
    if fleet.links:
        raise InputError(f"link {fleet.links[0].name!r} is shared, expected none in a shaped trial: every machine its own")


def _cpu_groups() -> Path:
    """Where processor time is limited: version 1 of cgroups, or 2."""
    return CGROUPS / "cpu" if (CGROUPS / "cpu").is_dir() else CGROUPS


def quotas(device_step_s: Sequence[float], host_step_s: float, cores: int) -> list[float]:
    """Part of a core for every machine.

    Args:
        device_step_s: what a step of the whole model takes on every machine, by the scenario.
        host_step_s: processor seconds that it takes on this one.
        cores: of this one.

    Raises:
        InputError: they ask for more than there is.
    """
    wanted = [host_step_s / step for step in device_step_s]
    if max(wanted) > 1.0 or sum(wanted) > cores - SPARED_CORES:
        raise InputError(
            f"the scenario's devices need {max(wanted):.2f} of a core here at most and {sum(wanted):.2f} together, expected at "
            f"most 1 and {cores - SPARED_CORES:g}: lower throughput_gflops or raise step_overhead_s"
        )
    return wanted


class Quota:
    """A part of a core for the processes that join; it goes when it is closed and they have ended.

    Args:
        name: unique on this machine.
        part: of a core.

    Raises:
        InputError: the system refuses.
    """

    def __init__(self, name: str, part: float) -> None:
        self.folder = _cpu_groups() / name
        try:
            self.folder.mkdir()
            self.limit(part)
        except OSError as error:
            self.close()
            why = error.strerror or error
            raise InputError(f"{self.folder}: no quota ({why}); expected cgroups that limit processor time") from None

    def limit(self, part: float) -> None:
        """Change it."""
        allowed = round(part * PERIOD_US)
        if (self.folder / "cpu.cfs_quota_us").exists():
            (self.folder / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self.folder / "cpu.cfs_quota_us").write_text(str(allowed))
        else:
            (self.folder / "cpu.max").write_text(f"{allowed} {PERIOD_US}")

    @property
    def processes(self) -> Path:
        """Whoever writes 0 or its number to this file joins, and so do its children."""
        return self.folder / "cgroup.procs"

    def close(self) -> None:
        """Remove it, once its last process has ended."""
        _remove(self.folder)


def _remove(group: Path) -> None:
    for _ in range(50):
        try:
            return group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.1)


def sweep() -> None:
    """Remove what a killed trial has left behind.

    Raises:
        InputError: another trial is running: both would have the same addresses.
    """
    for number in re.findall(r"^\d+: if(\d+)b:", _told("ip", "-o", "link"), re.MULTILINE):
        if Path(f"/proc/{number}").exists():
            raise InputError(f"process {number} runs a shaped trial on this machine, expected one at a time")
        for space in re.findall(rf"^if{number}-\d+", _told("ip", "netns"), re.MULTILINE):
            _quiet("ip", "netns", "del", space)
        _quiet("ip", "link", "del", f"if{number}b")
        for group in _cpu_groups().glob(f"if{number}-*"):
            _remove(group)


class Namespaces:
    """Makes the machines of a fleet; leaving the context removes all of it.

    Args:
        fleet: without shared links.
        parts: of a core, per machine.
        rng: of where in its trace a link begins.
        say: told in a line what cannot be had here.

    Raises:
        InputError: the fleet has shared links, or the system refuses.
    """

    server = f"{NETWORK}.1"

    def __init__(
        self, fleet: Fleet, parts: Sequence[float], rng: np.random.Generator, say: Callable[[str], None] = lambda text: None
    ) -> None:
        need_own_links(fleet)
        self._fleet, self._parts, self._rng, self._say = fleet, list(parts), rng, say
        self._token = f"if{os.getpid()}"
        self._index = {name: k for k, name in enumerate(fleet.machine_names)}
        self._quotas: list[Quota] = []
        self._ended = threading.Event()
        self._replay: threading.Thread | None = None

    def networked(self, machine: str, command: Sequence[str]) -> list[str]:
        """See `hosts.Hosts.networked`."""
        return ["ip", "netns", "exec", self._space(self._index[machine]), *command]

    def computing(self, machine: str, command: Sequence[str]) -> list[str]:
        """See `hosts.Hosts.computing`."""
        joined = self._quotas[self._index[machine]].processes
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(joined), *command]

    def limit(self, parts: Sequence[float]) -> None:
        """Change what part of a core every machine has."""
        for quota, part in zip(self._quotas, parts, strict=True):
            quota.limit(part)

    def connect(self, machine: str, on: bool) -> None:
        """Cut a machine off, or bring it back."""
        _run("ip", "link", "set", self._outer(self._index[machine]), "up" if on else "down")

    def __enter__(self) -> Namespaces:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove namespaces, bridge and quotas; what is not there is left out."""
        self._ended.set()
        if self._replay is not None:
            self._replay.join()
        for k in range(len(self._index)):
            _quiet("ip", "link", "del", self._outer(k))
            _quiet("ip", "netns", "del", self._space(k))
        for quota in self._quotas:
            quota.close()
        _quiet("ip", "link", "del", self._bridge)

    @property
    def _bridge(self) -> str:
        return f"{self._token}b"

    def _outer(self, k: int) -> str:
        return f"{self._token}v{k}"

    def _space(self, k: int) -> str:
        return f"{self._token}-{k}"

    def _build(self) -> None:
        sweep()
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "address", "add", f"{self.server}/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        replayed: list[tuple[int, LinkTrace, int]] = []
        for k, group in enumerate(self._fleet.machines):
            self._wire(k)
            link = group.link
            rates = (link.uplink_mbps * 1e6, link.downlink_mbps * 1e6)
            if link.trace is not None:
                trace = read_link_trace(link.trace)
                begins = int(self._rng.integers(len(trace.up_bps)))
                replayed.append((k, trace, begins))
                rates = _rates(trace, begins)
            self._shape("add", k, rates)
            self._delay(k, link.latency_s)
            self._quotas.append(Quota(self._space(k), self._parts[k]))
        if replayed:
            self._replay = threading.Thread(target=self._follow, args=(replayed,), daemon=True)
            self._replay.start()

    def _wire(self, k: int) -> None:
        space, outer, inner = self._space(k), self._outer(k), f"{self._token}p{k}"
        _run("ip", "netns", "add", space)
        _run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
        _run("ip", "link", "set", inner, "netns", space, "name", HOST)
        _run("ip", "link", "set", outer, "master", self._bridge, "up")
        _run("ip", "-n", space, "address", "add", f"{NETWORK}.{k + 2}/24", "dev", HOST)
        for device in (HOST, "lo"):
            _run("ip", "-n", space, "link", "set", device, "up")

    def _ends(self, k: int) -> tuple[tuple[list[str], str], tuple[list[str], str]]:
        """Where `tc` finds the two ends of a machine's link, what it sends and what is sent to it: options and device."""
        return (["-n", self._space(k)], HOST), ([], self._outer(k))

    def _shape(self, verb: str, k: int, rates: tuple[float, float]) -> None:
        for (where, device), rate in zip(self._ends(k), rates, strict=True):
            bucket = ["rate", f"{max(rate, LEAST_BPS):.0f}bit", "burst", str(BURST_BYTES), "latency", f"{QUEUE_MS}ms"]
            _run("tc", *where, "qdisc", verb, "dev", device, "root", "handle", "1:", "tbf", *bucket)

    def _delay(self, k: int, latency_s: float) -> None:
        if latency_s <= 0.0:
            return
        for where, device in self._ends(k):
            delay = ["netem", "delay", f"{latency_s * 1e3:.3f}ms"]
            done = _quiet("tc", *where, "qdisc", "add", "dev", device, "parent", "1:1", "handle", "10:", *delay)
            if not done:
                return self._say(f"latency of {latency_s:g} s is not added: this kernel has no netem")

    def _follow(self, replayed: Sequence[tuple[int, LinkTrace, int]]) -> None:
        """Change rates every second until the end."""
        began, second = time.monotonic(), 0
        while not self._ended.wait(max(began + second + 1 - time.monotonic(), 0.0)):
            second += 1
            for k, trace, begins in replayed:
                self._shape("change", k, _rates(trace, begins + second))


def _rates(trace: LinkTrace, second: int) -> tuple[float, float]:
    at = second % len(trace.up_bps)
    return float(trace.up_bps[at]), float(trace.down_bps[at])


def _told(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _quiet(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InputError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}; expected a kernel that allows it")
