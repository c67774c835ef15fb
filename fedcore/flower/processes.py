"""Processes that are started together and end together, whatever ends whoever started them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

MARK = "INTRAFED_PROCESSES"
"""Environment variable by which children are found wherever they have gone."""
GRACE_S = 3.0
"""Between asking a process group to end and killing it."""
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """On Linux, a killed parent takes its children along; elsewhere only an orderly end does."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def flower_environment(home: Path) -> dict[str, str]:
    """Environment of Flower's processes: its files in a folder of ours, nothing sent anywhere, no wait between tasks."""
    return {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        # Flower's own interval between two looks for a task to start is 1 s.
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": os.environ.get("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "0.5"),
        # Flower starts its own commands by name.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def wait_for_port(host: str, port: int, timeout_s: float, process: subprocess.Popen[bytes]) -> bool:
    """Whether something listens at a port of this machine before the time is over or its process has ended."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                return True
        time.sleep(0.1)
    return False


class Processes:
    """Process groups; leaving the context, SIGTERM included, ends every one of them, with all that they have started."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []
        self._mark = f"{os.getpid()}-{time.time_ns()}"
        self._before: Callable[[int, FrameType | None], Any] | int | None = None

    def start(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start a command in a group of its own; what it prints goes to a file."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            process = subprocess.Popen(
                list(command), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env={**environment, MARK: self._mark},
                start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip
        self._started.append(process)
        return process

    def stop(self, process: subprocess.Popen[bytes], with_signal: int = signal.SIGTERM) -> None:
        """End one group: asked first, killed after `GRACE_S`."""
        for sent, patience_s in ((with_signal, GRACE_S), (signal.SIGKILL, GRACE_S)):
            # A group outlives its leader: children that the leader left behind are still in it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, sent)
            until = time.monotonic() + patience_s
            while time.monotonic() < until:
                process.poll()
                if not _alive(process.pid):
                    break
                time.sleep(0.05)
            else:
                continue
            break
        process.wait()
        if process in self._started:
            self._started.remove(process)

    def close(self) -> None:
        """End all groups, the last started first; all are asked before any is waited for."""
        for process in reversed(self._started):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in list(reversed(self._started)):
            self.stop(process)
        # What they have started in sessions of its own, as a SuperLink does, is in none of the groups.
        until = time.monotonic() + GRACE_S
        while (left := _marked(self._mark)) and time.monotonic() < until:
            for number in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.05)

    def __enter__(self) -> Processes:
        if threading.current_thread() is threading.main_thread():
            # A service manager's way to say Ctrl-C; by default it would end this process and none of its children.
            self._before = signal.signal(signal.SIGTERM, _leave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _marked(mark: str) -> list[int]:
    """Processes that inherited a mark; where there is no /proc, none are found."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in entry.read_bytes().split(b"\0"):
                found.append(int(entry.parent.name))
    return found


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def end_with_parent(grace_s: float = 0.0) -> None:
    """End this process so long after whoever started it has ended, however that happened."""
    parent = os.getppid()

    def follow() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        time.sleep(grace_s)
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
