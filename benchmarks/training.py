"""Speed of the training loop beside its peers: `python benchmarks/training.py`.

Federated supervised rounds: ours, a plain torch loop, pfl and Flower's simulation, each in a process of its own, in turns,
medians over rounds and repeats. The peers are extras of this benchmark: `pip install "pfl==0.6.0" "flwr[simulation]" kornia`;
what is not installed is left out by name. Federated SSL rounds (SimCLR): `python benchmarks/ssl_training.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
NEEDS = {"pfl": "pfl", "Flower": "flwr"}


@dataclass(frozen=True)
class Options:
    """Speed of federated supervised rounds.

    Attributes:
        cases: conv (K = 8), mlp (K = 32), or both.
        rounds: measured per repeat, after one that warms up.
        repeats: turns that every engine gets.
        only: play one engine in this process and print its seconds as JSON (what this script runs itself with).
    """

    cases: tuple[str, ...] = ("conv", "mlp")
    rounds: int = 10
    repeats: int = 3
    only: str | None = None


def measure(engine: str, case: str, rounds: int) -> list[float]:
    """Seconds per round of one engine, in a fresh process."""
    environment = {**os.environ, "RAY_DEDUP_LOGS": "0", "PYTHONPATH": str(ROOT), "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    command = [sys.executable, __file__, "--cases", case, "--rounds", str(rounds), "--only", engine]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise RuntimeError(f"{engine} failed:\n{done.stderr[-3000:]}")
    return [float(v) for v in json.loads(done.stdout.strip().splitlines()[-1])]


def main() -> None:
    import tyro
    from rich.console import Console
    from rich.table import Table

    from benchmarks.peers.engines import ENGINES
    from benchmarks.peers.nets import CLIENTS, STEPS

    options = tyro.cli(Options)
    if options.only is not None:
        print(json.dumps(ENGINES[options.only](options.cases[0], options.rounds)))
        return
    console = Console()
    missing = {name for name, module in NEEDS.items() if find_spec(module) is None}
    for name in sorted(missing):
        console.print(f"{name} is not installed and is left out: see this script's first lines")
    engines = [name for name in ENGINES if not any(name.startswith(m) for m in missing)]
    for case in options.cases:
        seconds: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(options.repeats):
            for name in engines:
                seconds[name] += measure(name, case, options.rounds)
        rates = {name: CLIENTS[case] * STEPS / float(np.median(s)) for name, s in seconds.items()}
        ours = next(iter(rates.values()))
        table = Table("engine", "client-steps/s (median)", "ours is faster by", title=f"{case}, K = {CLIENTS[case]}")
        for name, rate in rates.items():
            table.add_row(name, f"{rate:,.0f}", f"x {ours / rate:.2f}")
        console.print(table)


if __name__ == "__main__":
    main()
