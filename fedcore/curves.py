"""Learning curves of the recipe: `python -m fedcore.curves` makes docs/recipe.png and the table of docs/recipe.md.

Central, FedAvg, cooperative and half-context training on the embedded bright-field set, the same number of local steps
each, mean and spread over seeds.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.files import cache_folder, write_bytes, write_text
from fedcore.parallel import Job, run_kept
from scenarios.errors import need_at_least, told
from scenarios.schema import Device, Fleet, Group, Link, Scenario, Workload

MACHINES, IMAGES, STEPS = 6, 525, 10


@dataclass(frozen=True)
class Mode:
    """One way to train.

    Attributes:
        label: in plot and table.
        share: of every machine.
        context: that every machine sees.
        context_rule: how; the naive one shows what rescaling costs.
        central: all images on one machine instead.
        server_step: of the merge.
    """

    label: str
    share: float = 1.0
    context: float = 1.0
    context_rule: str = "random-unscaled"
    central: bool = False
    server_step: float = 1.0


MODES = {
    "central": Mode("central, all images in one place", central=True),
    "fedavg": Mode("FedAvg, whole models"),
    "cooperative": Mode("cooperative, random halves", share=0.5),
    "half-context": Mode("random halves, context 0.5", share=0.5, context=0.5, context_rule="random"),
}


@dataclass(frozen=True)
class CurvesOptions:
    """Measure the recipe's learning curves.

    Attributes:
        rounds: of ten local steps.
        seeds: repetitions per mode.
        every: rounds between probes.
        workers: processes, one core each.
        output: folder of recipe.png and recipe-table.md.
    """

    rounds: int = 60
    seeds: int = 3
    every: int = 10
    workers: int = 2
    output: Path = Path("docs")


def record(name: str, seed: int, rounds: int, every: int) -> list[list[float]]:
    """One run: per probe (round, R2 of log counts, InfoNCE, megabytes uploaded per machine so far)."""
    from fedcore.costs import cost_of_share
    from fedcore.probes import count_regression, extract_features
    from fedcore.workload import PreparedData, build_training, prepare_images

    mode = MODES[name]
    device = Device(throughput_gflops=10, memory_mb=4096, active_power_w=5, idle_power_w=1)
    machines = 1 if mode.central else MACHINES
    content = {"data": "soil-micrographs", "batch_size": 64}
    content |= {"context": mode.context, "context_rule": mode.context_rule, "server_step": mode.server_step}
    workload = Workload.model_validate(content)

    def scenario(count: int) -> Scenario:
        group = Group(name="n", count=count, device=device, link=Link(uplink_mbps=9, downlink_mbps=9), images=IMAGES)
        return Scenario(name="curves", fleet=Fleet(groups=(group,)), workload=workload)

    data = prepare_images(scenario(MACHINES), seed=seed)
    if mode.central:
        data = PreparedData(data.dataset, (np.concatenate(data.clients),), data.server_images)
    training = build_training(scenario(machines), data, None, seed)
    upload = cost_of_share(training.model, mode.share, mode.context, 1).upload_bytes / 1e6
    dataset = data.dataset
    assert dataset.counts is not None
    train, test = ~dataset.test, dataset.test

    def probe(r: int) -> list[float]:
        features = extract_features(training.model, training.state, dataset.images)
        score = count_regression(features[train], dataset.counts[train], features[test], dataset.counts[test])  # type: ignore[index]
        return [r, score.r2_log, training.probe(training.model, training.state), 0.0 if mode.central else r * upload]

    rows = [probe(0)]
    for r in range(1, rounds + 1):
        training.play([mode.share] * machines, STEPS)
        if r % every == 0:
            rows.append(probe(r))
    return rows


def draw(curves: dict[str, Any]) -> bytes:
    """Plot R2 and InfoNCE against rounds: mean and range over seeds; PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    colours = ("#000000", "#0072B2", "#D55E00", "#009E73")
    for (name, table), colour in zip(curves.items(), colours, strict=False):
        for axes, column in zip(panels, (1, 2), strict=True):
            values = table[:, :, column]
            axes.plot(table[0, :, 0], values.mean(0), color=colour, lw=2, label=MODES[name].label)
            axes.fill_between(table[0, :, 0], values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)
    for axes, label in zip(panels, ("R2 of log counts, held-out images", "held-out InfoNCE (progress signal)"), strict=True):
        axes.set_xlabel("rounds of 10 local steps")
        axes.set_ylabel(label)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def main() -> None:
    """Command line."""
    import tyro

    options = tyro.cli(CurvesOptions)
    need_at_least(options, seeds=1, rounds=1, every=1, workers=1)
    folder = cache_folder("curves", options.rounds, options.every, IMAGES, repr(MODES), Workload().model_dump_json())
    jobs: dict[Path, Job] = {
        folder / f"{name}-{seed}.json": (record, (name, seed, options.rounds, options.every))
        for seed in range(options.seeds)
        for name in MODES
    }
    kept = run_kept(jobs, options.workers, "learning curves")
    curves = {
        name: np.array([kept[folder / f"{name}-{seed}.json"] for seed in range(options.seeds)]) for name in MODES
    }
    lines = [
        "| training | R2 untrained | R2 after | spread (min .. max) | InfoNCE after | upload per machine, MB |",
        "|---|---|---|---|---|---|",
    ]
    for name, table in curves.items():
        last = table[:, -1]
        lines.append(
            f"| {MODES[name].label} | {table[:, 0, 1].mean():.3f} | {last[:, 1].mean():.3f} | "
            f"{last[:, 1].min():.3f} .. {last[:, 1].max():.3f} | {last[:, 2].mean():.3f} | {last[:, 3].mean():.1f} |"
        )
    write_bytes(options.output / "recipe.png", draw(curves))
    write_text(options.output / "recipe-table.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    with told("interrupted: finished curves are kept; the same command goes on from there"):
        main()
