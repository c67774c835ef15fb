"""Machines made out of one: what the kernel is asked for, and, where it may be, that it does it."""

import os
import socket
import subprocess
import sys
import threading
import time
from typing import Any

import numpy as np
import pytest

from fedcore.flower import namespaces
from fedcore.flower.namespaces import LEAST_BPS, Namespaces, lacking, quotas
from scenarios import InputError, parse

FLEET = {
    "groups": [
        {
            "name": name,
            "device": {"throughput_gflops": 10, "memory_mb": 512, "active_power_w": 5, "idle_power_w": 1},
            "link": {"uplink_mbps": up, "downlink_mbps": down, "latency_s": latency_s},
        }
        for name, up, down, latency_s in (("north", 2.0, 8.0, 0.0), ("south", 0.5, 1.0, 0.05))
    ]
}


def fleet(**changes: Any) -> Any:
    content = {**FLEET, **changes}
    return parse({"name": "two", "fleet": content}, "two").fleet


def test_quotas_make_every_machine_as_fast_as_it_is_said_to_be():
    assert quotas([0.2, 0.4], 0.1, 2) == [0.5, 0.25]
    with pytest.raises(InputError, match=r"need 2\.00 of a core here at most and 2\.25 together, expected at most 1 and 1\.5"):
        quotas([0.05, 0.4], 0.1, 2)
    with pytest.raises(InputError, match="lower throughput_gflops"):
        quotas([0.1, 0.1], 0.09, 2)


def test_shared_links_are_refused():
    shared = fleet(links=[{"name": "cell", "uplink_mbps": 1, "downlink_mbps": 1}])
    with pytest.raises(InputError, match="'cell' is shared, expected none"):
        Namespaces(shared, [0.1, 0.1], np.random.default_rng(0))


def test_who_is_not_root_is_told_so(monkeypatch):
    monkeypatch.setattr(namespaces.shutil, "which", lambda name: f"/sbin/{name}")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InputError, match=r"--shaped cannot.*not run by root.*expected Linux, root, iproute2 and cgroups"):
        namespaces.need_namespaces()
    monkeypatch.setattr(namespaces.shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="ip and tc of iproute2 missing"):
        namespaces.need_namespaces()


class Kernel:
    """Takes down what it is asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, netem: bool) -> None:
        self.asked: list[str] = []
        self.says: dict[str, str] = {}
        self.changed = threading.Event()
        monkeypatch.setattr(namespaces, "_run", self.run)
        monkeypatch.setattr(namespaces, "_told", lambda *command: self.says.get(command[-1], ""))
        monkeypatch.setattr(namespaces, "_quiet", lambda *command: self.run(*command) or netem)
        monkeypatch.setattr(namespaces, "CGROUPS", tmp_path)

    def run(self, *command: str) -> None:
        self.asked.append(" ".join(command))
        if "change" in command:
            self.changed.set()

    def rates(self, verb: str) -> list[str]:
        return [c.split(" rate ")[1].split()[0] for c in self.asked if f" {verb} " in c and "tbf" in c]


def test_both_directions_are_held_to_the_links_rates_and_all_of_it_is_removed(monkeypatch, tmp_path):
    kernel, said = Kernel(monkeypatch, tmp_path, netem=False), []
    with Namespaces(fleet(), [0.5, 0.2], np.random.default_rng(0), said.append) as hosts:
        assert kernel.rates("add") == ["2000000bit", "8000000bit", "500000bit", "1000000bit"]
        assert hosts.networked("south", ["ping"])[:3] == ["ip", "netns", "exec"]
        shell = hosts.computing("north", ["train", "x"])
        assert shell[-2:] == ["train", "x"]
        [quota] = (tmp_path / shell[3].split("/")[-2]).glob("cpu.max")
        assert quota.read_text() == "50000 100000"
        hosts.limit([0.3, 0.1])
        assert quota.read_text() == "30000 100000"
        quota.unlink()
        for other in tmp_path.glob("*/cpu.max"):
            other.unlink()  # the kernel's own files go with their folder
    assert said == ["latency of 0.05 s is not added: this kernel has no netem"]
    assert len([c for c in kernel.asked if "netns del" in c]) == 2
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_trial_left_is_swept_away_and_a_living_one_left_alone(monkeypatch, tmp_path):
    kernel = Kernel(monkeypatch, tmp_path, netem=True)
    (tmp_path / "if4194305-0").mkdir()  # above the largest number of a process
    kernel.says = {"link": "1: lo: <UP>\n7: if4194305b: <UP> mtu 1500\n", "netns": "if4194305-0 (id: 1)\nif4194305-1\nother\n"}
    namespaces.sweep()
    assert kernel.asked == ["ip netns del if4194305-0", "ip netns del if4194305-1", "ip link del if4194305b"]
    assert list(tmp_path.iterdir()) == []
    kernel.says = {"link": f"7: if{os.getpid()}b: <UP>"}
    with pytest.raises(InputError, match=rf"process {os.getpid()} runs a shaped trial.*one at a time"):
        namespaces.sweep()


def test_a_recorded_link_is_followed_second_by_second(monkeypatch, tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("second,uplink_mbps,downlink_mbps\n0,1,2\n1,0,4\n")
    content = fleet().model_dump(mode="json")
    content["groups"][0]["link"]["trace"] = str(trace)
    kernel = Kernel(monkeypatch, tmp_path / "none", netem=True)
    monkeypatch.setattr(namespaces, "Quota", lambda name, part: type("No", (), {"close": lambda self: None})())
    with Namespaces(fleet(groups=content["groups"]), [0.5, 0.2], np.random.default_rng(3)):
        assert kernel.changed.wait(30)
        time.sleep(0.1)
    first, then = kernel.rates("add")[:2], kernel.rates("change")[:2]
    assert {tuple(first), tuple(then)} == {("1000000bit", "2000000bit"), (f"{LEAST_BPS:.0f}bit", "4000000bit")}


SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60) as s:
    s.sendall(bytes(500_000))
    s.shutdown(socket.SHUT_WR)
    assert s.recv(1) == b"x"
"""


@pytest.mark.slow
@pytest.mark.skipif(bool(lacking()), reason=f"machines cannot be made out of this one: {lacking()}")
def test_the_kernel_really_holds_them_to_it(monkeypatch):
    took = {}
    with Namespaces(fleet(), [0.5, 0.2], np.random.default_rng(0)) as hosts, socket.socket() as listener:
        listener.bind((hosts.server, 0))
        listener.listen()
        for name in ("north", "south"):
            command = hosts.networked(name, [sys.executable, "-c", SEND, hosts.server, str(listener.getsockname()[1])])
            with subprocess.Popen(command) as sender:
                connection, _ = listener.accept()
                began = time.monotonic()
                with connection:
                    while connection.recv(1 << 16):
                        pass
                    took[name] = time.monotonic() - began
                    connection.sendall(b"x")
                assert sender.wait(60) == 0
        spin = hosts.computing("south", [sys.executable, "-c", SPIN])
        used = float(subprocess.run(spin, capture_output=True, text=True, check=True).stdout)
    # 0.5 MB are 2 s and 8 s; queues and headers take a little on either side.
    assert 1.6 < took["north"] < 3.5
    assert 7.0 < took["south"] < 11.0
    assert used < 0.35
    left = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert f"if{os.getpid()}" not in left


SPIN = """
import time
began = time.monotonic()
while time.monotonic() - began < 2.0:
    pass
print(time.process_time() / 2.0)
"""
