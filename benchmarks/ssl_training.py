"""Federated SSL rounds beside a plain torch loop: `python benchmarks/ssl_training.py`.

FedAvg on SimCLR over the embedded set, K = 6 machines, H = 10, batch 32, two views: ours against the loop that one would
write first, torch.nn modules with kornia augmentation (`pip install kornia`). Seconds per round in turns, medians, and the
held-out InfoNCE on the way, since speed counts only on the same learning curve. Both start from the same weights.
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
EVERY = 6
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

    rounds: int = 24
    seeds: int = 3
    only: str | None = None
    seed: int = 0


def ours(rounds: int, seed: int, workers: int, precision: str) -> dict[str, object]:
    from fedcore.methods import FedAvg
    from fedcore.reference import bare_scenario
    from fedcore.workload import build_training, prepare_data
    from scenarios.schema import Workload

    scenario = bare_scenario(MACHINES, Workload(precision=precision), IMAGES)
    data = prepare_data(scenario, seed=seed)
    training = build_training(scenario, data, None, seed, FedAvg(), workers=workers)
    training.guard_images = None  # the plain loop measures nothing between rounds, so ours is not timed with it
    probe, training.probe = training.probe, lambda model, state: 1.0
    seconds, curve = [], [training.untrained]
    with training.engine:
        for r in range(rounds):
            start = time.perf_counter()
            training.play([1.0] * MACHINES, STEPS)
            seconds.append(time.perf_counter() - start)
            if (r + 1) % EVERY == 0:
                curve.append(probe(training.model, training.state))
    return {"seconds": seconds[1:], "curve": curve}


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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.projector(self.encoder(x))

    def our_names(self) -> dict[str, torch.Tensor]:
        """All weights by our names: both declare them in forward order."""
        names = [f"conv{i}.{part}" for i in range(1, len(WIDTHS) + 1) for part in ("weight", "gain", "bias")]
        names += ["projector.hidden.weight", "projector.hidden.gain", "projector.hidden.bias", "projector.out.weight"]
        return dict(zip(names, (p.detach() for p in self.parameters()), strict=True))


def plain(rounds: int, seed: int, threads: int) -> dict[str, object]:
    import kornia.augmentation as K

    from fedcore.augment import normalise
    from fedcore.probes import HeldOutInfoNCE
    from fedcore.probes.features import to_tensor
    from fedcore.reference import bare_scenario
    from fedcore.workload import model_for, prepare_data
    from scenarios.schema import Workload

    scenario = bare_scenario(MACHINES, Workload(), IMAGES)
    data = prepare_data(scenario, seed=seed)
    torch.manual_seed(seed)
    clients = [normalise(to_tensor(data.dataset.images[index])) for index in data.clients]
    # Views as ours are drawn: normalised first, crops square, mirrored corners, nothing clipped.
    augment = K.AugmentationSequential(
        K.RandomResizedCrop((32, 32), scale=(0.16, 1.0), ratio=(1.0, 1.0)), K.RandomHorizontalFlip(),
        K.RandomAffine(180.0, padding_mode="reflection", p=1.0),
        K.RandomBrightness((0.8, 1.2), clip_output=False, p=1.0), K.RandomContrast((0.6, 1.4), clip_output=False, p=1.0),
        K.RandomGaussianBlur((3, 3), (0.5, 1.0), p=0.3),
    )  # fmt: skip
    net = SimCLRNet()
    model = model_for(scenario.workload, 1)
    # Both start from the same weights, so that learning curves can be held beside each other.
    initial = model.init_state(torch.Generator().manual_seed(seed))
    for name, tensor in net.our_names().items():
        tensor.copy_(initial[name])
    probe = HeldOutInfoNCE(data.server_images)
    curve = [probe(model, net.our_names())]
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    torch.set_num_threads(threads)
    partner = (torch.arange(2 * BATCH) + BATCH) % (2 * BATCH)
    seconds = []
    for r in range(rounds):
        start = time.perf_counter()
        total = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in weights.items()}
        for images in clients:
            net.load_state_dict(weights)
            optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-4)
            for _ in range(STEPS):
                x = images[torch.randperm(len(images))[:BATCH]]
                views = torch.cat([augment(x), augment(x)])
                z = F.normalize(net(views), dim=1)
                logits = (z @ z.T / 0.1).masked_fill(torch.eye(2 * BATCH, dtype=torch.bool), -torch.inf)
                optimiser.zero_grad()
                F.cross_entropy(logits, partner).backward()
                optimiser.step()
            for name, value in net.state_dict().items():
                total[name] += value / len(clients)
        weights = {name: value.to(weights[name].dtype) for name, value in total.items()}
        seconds.append(time.perf_counter() - start)
        if (r + 1) % EVERY == 0:
            net.load_state_dict(weights)
            curve.append(probe(model, net.our_names()))
    return {"seconds": seconds[1:], "curve": curve}


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
    curves = {name: np.array([r["curve"] for r in runs]) for name, runs in records.items()}
    rounds = [f"after {EVERY * i}" if i else "InfoNCE untrained" for i in range(next(iter(curves.values())).shape[1])]
    table = Table("engine", "client-steps/s", "ours in fp32 is faster by", *rounds,
                  title=f"SimCLR, K = {MACHINES}, H = {STEPS}, batch {BATCH}, {options.seeds} seeds")  # fmt: skip
    for name, seconds in median.items():
        low, mean, high = curves[name].min(axis=0), curves[name].mean(axis=0), curves[name].max(axis=0)
        table.add_row(name, f"{MACHINES * STEPS / seconds:,.1f}", f"x {seconds / ours_fp32:.2f}",
                      *(f"{m:.3f} [{a:.3f}, {b:.3f}]" for a, m, b in zip(low, mean, high, strict=True)))  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    main()
