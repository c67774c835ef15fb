"""What a resting machine tells of its load, beside what its steps would show: `python benchmarks/load.py` (Linux, root).

A process gets a part of a core (cgroups), others that only burn time join it, and both its steps and its words are taken.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from statistics import median

import torch
import tyro

from agents.shaped import whole_steps
from fedcore.flower.namespaces import Quota, need_namespaces
from fedcore.remote.load import enough_pieces, work
from scenarios import load
from scenarios.errors import told

PARTS = (1.0, 0.5, 0.2, 0.125)
OTHERS = (0, 1, 3)
TURNS = 7
REST_S = 2.0


def main() -> None:
    """Print what a resting machine tells of its load, beside what its steps take, as a table; as root, on Linux."""
    need_namespaces()
    torch.set_num_threads(1)
    train = whole_steps(load("benchmarks/four-hosts.yaml"), 10)

    def steps_s() -> float:
        began = time.perf_counter()
        train()
        return time.perf_counter() - began

    steps_s()
    pieces = enough_pieces()
    print("| part of a core | others on it | steps, x | told, x | smallest and largest word, x |\n|---|---|---|---|---|")
    for part in PARTS:
        with closing(Quota(f"if-load-{os.getpid()}", part)) as quota:
            free_s, free_pace = 0.0, 0.0
            for others in OTHERS:
                quota.processes.write_text(str(os.getpid()))
                burning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(others)]
                for process in burning:
                    quota.processes.write_text(str(process.pid))
                try:
                    took, paces = [], []
                    for _ in range(TURNS):
                        time.sleep(REST_S)
                        paces.append(work(pieces))
                        took.append(steps_s())
                finally:
                    for process in burning:
                        process.kill()
                        process.wait()
                if not others:
                    free_s, free_pace = median(took), median(paces)
                words = [pace / free_pace for pace in paces]
                figures = f"{median(took) / free_s:.2f} | {median(words):.2f} | {min(words):.2f} .. {max(words):.2f}"
                print(f"| {part:g} | {others} | {figures} |", flush=True)
            (quota.folder.parent / "cgroup.procs").write_text(str(os.getpid()))


if __name__ == "__main__":
    with told("interrupted"):
        tyro.cli(main)
