"""Federated SSL rounds beside a plain torch loop: `python benchmarks/ssl_training.py`.

FedAvg on SimCLR over the embedded set, K = 6 machines, H = 10, batch 32, two views: ours against the loop that one would
write first, torch.nn modules with kornia augmentation (`pip install kornia`). Seconds per round in turns, medians, and the
held-out InfoNCE that both reach, since speed counts only on the same learning curve.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
MACHINES, IMAGES, STEPS, BATCH = 6, 160, 10, 32
WIDTHS, STRIDES, KERNELS = (24, 48, 96), (2, 1, 2), (5, 3, 3)


@dataclass(frozen=True)
class Options:
    """Speed of federated SSL rounds.

    Attributes:
        rounds: per run.
        seeds: runs per engine, in turns.
        only: play one engine in this process and print its record (what this script runs itself with).
        seed: of that run.
    """

    rounds: int = 20
    seeds: int = 3
    only: str | None = None
    seed: int = 0


def ours(rounds: int, seed: int, workers: int, precision: str) -> dict[str, object]:
    from fedcore.calibrate import bare_scenario
    from fedcore.methods import FedAvg
    from fedcore.workload import build_training, prepare_data
    from scenarios.schema import Workload

    scenario = bare_scenario(MACHINES, Workload(precision=precision), IMAGES)
    data = prepare_data(scenario, seed=seed)
    training = build_training(scenario, data, None, seed, FedAvg(), workers=workers)
    training.guard_images = None  # the plain loop measures nothing between rounds, so ours is not timed with it
    probe, training.probe = training.probe, lambda model, state: 1.0
    seconds = []
    with training.engine:
        for _ in range(rounds):
            start = time.perf_counter()
            training.play([1.0] * MACHINES, STEPS)
            seconds.append(time.perf_counter() - start)
    return {"seconds": seconds[1:], "infonce": probe(training.model, training.state), "untrained": training.untrained}


class SimCLRNet(nn.Module):
    """The same encoder and projector out of torch.nn."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for width, stride, side in zip(WIDTHS, STRIDES, KERNELS, strict=True):
            layers += [nn.Conv2d(inputs, width, side, stride, side // 2, bias=False), nn.GroupNorm(1, width), nn.ReLU()]
            inputs = width
        self.encoder = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.projector = nn.Sequential(
            nn.Linear(inputs, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 128, bias=False)
        )
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projector(self.encoder(x))

    def our_names(self) -> dict[str, torch.Tensor]:
        """Encoder weights by our names."""
        names = ("weight", "gain", "bias")
        tensors = [p.detach() for p in self.encoder.parameters()]
        return {f"conv{i // 3 + 1}.{names[i % 3]}": t for i, t in enumerate(tensors)}


def plain(rounds: int, seed: int, threads: int) -> dict[str, object]:
    import kornia.augmentation as K

    from fedcore.calibrate import bare_scenario
    from fedcore.probes import HeldOutInfoNCE
    from fedcore.probes.features import to_tensor
    from fedcore.workload import model_for, prepare_data
    from scenarios.schema import Workload

    scenario = bare_scenario(MACHINES, Workload(), IMAGES)
    data = prepare_data(scenario, seed=seed)
    torch.manual_seed(seed)
    clients = [to_tensor(data.dataset.images[index]).float() / 255.0 for index in data.clients]
    augment = K.AugmentationSequential(
        K.RandomResizedCrop((32, 32), scale=(0.16, 1.0)), K.RandomHorizontalFlip(), K.RandomRotation(180.0, p=1.0),
        K.RandomBrightness((0.8, 1.2)), K.RandomContrast((0.6, 1.4)), K.RandomGaussianBlur((3, 3), (0.5, 1.0), p=0.3),
    )  # fmt: skip
    net = SimCLRNet()
    model = model_for(scenario.workload, 1)
    probe = HeldOutInfoNCE(data.server_images)
    untrained = probe(model, net.our_names())
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    torch.set_num_threads(threads)
    partner = (torch.arange(2 * BATCH) + BATCH) % (2 * BATCH)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        total = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in weights.items()}
        for images in clients:
            net.load_state_dict(weights)
            optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-4)
            for _ in range(STEPS):
                x = images[torch.randperm(len(images))[:BATCH]]
                views = torch.cat([augment(x), augment(x)])
                views = (views - views.mean((1, 2, 3), keepdim=True)) / (views.std((1, 2, 3), keepdim=True) + 4 / 255)
                z = F.normalize(net(views), dim=1)
                logits = (z @ z.T / 0.1).masked_fill(torch.eye(2 * BATCH, dtype=torch.bool), -torch.inf)
                optimiser.zero_grad()
                F.cross_entropy(logits, partner).backward()
                optimiser.step()
            for name, value in net.state_dict().items():
                total[name] += value / len(clients)
        weights = {name: value.to(weights[name].dtype) for name, value in total.items()}
        seconds.append(time.perf_counter() - start)
    net.load_state_dict(weights)
    return {"seconds": seconds[1:], "infonce": probe(model, net.our_names()), "untrained": untrained}


ENGINES = {
    "intrafed, 2 processes, fp32": lambda rounds, seed: ours(rounds, seed, 2, "fp32"),
    "intrafed, 2 processes, bf16 autocast": lambda rounds, seed: ours(rounds, seed, 2, "auto"),
    "plain torch + kornia, fp32, 1 thread": lambda rounds, seed: plain(rounds, seed, 1),
    "plain torch + kornia, fp32, 2 threads": lambda rounds, seed: plain(rounds, seed, 2),
}


def main() -> None:
    import tyro
    from rich.console import Console
    from rich.table import Table

    options = tyro.cli(Options)
    if options.only is not None:
        print(json.dumps(ENGINES[options.only](options.rounds, options.seed)))
        return
    records: dict[str, list[dict[str, object]]] = {name: [] for name in ENGINES}
    for seed in range(options.seeds):
        for name in ENGINES:
            command = [sys.executable, __file__, "--only", name, "--rounds", str(options.rounds), "--seed", str(seed)]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
            if done.returncode != 0:
                raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
            records[name].append(json.loads(done.stdout.strip().splitlines()[-1]))
    median = {name: float(np.median([s for r in runs for s in r["seconds"]])) for name, runs in records.items()}  # type: ignore[attr-defined]
    ours_fp32 = next(iter(median.values()))
    table = Table(
        "engine", "client-steps/s", "ours in fp32 is faster by", f"InfoNCE after {options.rounds} rounds (untrained)",
        title=f"SimCLR, K = {MACHINES}, H = {STEPS}, batch {BATCH}",
    )  # fmt: skip
    for name, runs in records.items():
        reached = [float(r["infonce"]) for r in runs]  # type: ignore[arg-type]
        start = float(np.mean([r["untrained"] for r in runs]))  # type: ignore[misc]
        table.add_row(
            name, f"{MACHINES * STEPS / median[name]:,.1f}", f"x {median[name] / ours_fp32:.2f}",
            f"{np.mean(reached):.3f} [{min(reached):.3f}, {max(reached):.3f}] ({start:.3f})",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
