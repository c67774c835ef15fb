"""What a block costs, beside what the formulas say: `python benchmarks/blocks.py`.

On the machine: seconds of a local step (views, forward, backward, optimiser; one thread) against share and context, for
layers of several widths. Variants are measured in turns, in seconds of processor time, which other load disturbs less, and
ratios are medians over the turns; "net" is without drawing the views, which no share makes cheaper. Of a round: bytes, the
server's seconds of planning, slicing and merging, and the seconds that the whole round takes on this machine's cores, K x H
of those local steps and the server's part, against the number of machines and beside the FLOP formula.
"""

from __future__ import annotations

import csv
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

from fedcore.allocation import allocate
from fedcore.blocks import Block, slice_weights
from fedcore.costs import cost_of_block
from fedcore.local import LocalRecipe, LocalTask, has_fast_bf16, train_block
from fedcore.merge import Update, merge
from fedcore.model import Model, build_model
from fedcore.parallel import worker_pool
from fedcore.samples import Samples

MODELS: dict[str, tuple[str, tuple[int, ...]]] = {
    "conv 24-48-96": ("convnet", (24, 48, 96)),
    "conv 48-96-192": ("convnet", (48, 96, 192)),
    "conv 96-192-384": ("convnet", (96, 192, 384)),
    "mlp 256-256-128": ("mlp", (256, 256, 128)),
    "mlp 1024-1024-512": ("mlp", (1024, 1024, 512)),
}
CONTEXTS = (1.0, 0.0)


@dataclass(frozen=True)
class Options:
    """Cost of blocks: seconds beside formulas.

    Attributes:
        models: which of the models above.
        shares: of every layer's neurons; the first is what the others are compared with.
        precisions: of the encoder; "auto" is bf16 where the processor has it.
        machines: numbers of machines in a round.
        interval: local steps H of a round.
        batch: images per step.
        image_px: side of the images.
        turns: how often every variant is measured.
        seconds: shortest time of one measurement.
        csv: file for the table of local steps; none is written without it.
    """

    models: tuple[str, ...] = tuple(MODELS)
    shares: tuple[float, ...] = (1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16)
    precisions: tuple[str, ...] = ("fp32", "auto")
    machines: tuple[int, ...] = (4, 16, 64, 256)
    interval: int = 10
    batch: int = 32
    image_px: int = 32
    turns: int = 3
    seconds: float = 0.15
    csv: Path | None = None


@dataclass(frozen=True)
class Row:
    """One variant of a local step; ratios are to the first share of the same model and precision."""

    model: str
    precision: str
    context: float
    share: float
    milliseconds: float
    time_ratio: float
    net_ratio: float
    flop_ratio: float
    gflops_per_s: float
    memory_mb: float
    upload_kb: float
    step_gflop: float
    row_gflop: float


@dataclass(frozen=True)
class DeviceFit:
    """The fields of a scenario's `device` that explain measured steps best, and how well they do.

    Attributes:
        throughput_gflops: see `scenarios.schema.Device`.
        half_rows: see there.
        step_overhead_s: see there; it includes drawing the views.
        median_error: of predicted over measured seconds, relative.
        worst_error: the largest.
        flops_only: the largest where the step is FLOPs over one throughput, fitted to the whole models.
    """

    throughput_gflops: float
    half_rows: float
    step_overhead_s: float
    median_error: float
    worst_error: float
    flops_only: float


def fit_device(rows: list[Row]) -> DeviceFit:
    """Non-negative least squares of relative errors; rows must be of one precision."""
    seconds = np.array([row.milliseconds / 1e3 for row in rows])
    terms = np.array([(row.step_gflop, row.row_gflop, 1.0) for row in rows])
    weights, _ = nnls(terms / seconds[:, None], np.ones(len(rows)))
    error = np.abs(terms @ weights / seconds - 1.0)
    whole = np.array([row.share == 1.0 for row in rows])
    rate = np.median(terms[whole, 0] / seconds[whole])
    plain = np.abs(terms[:, 0] / rate / seconds - 1.0)
    return DeviceFit(
        1.0 / weights[0], weights[1] / weights[0], weights[2], float(np.median(error)), float(error.max()), float(plain.max())
    )


def build(name: str, image_px: int) -> Model:
    encoder, widths = MODELS[name]
    return build_model((1, image_px, image_px), encoder, "simclr", {"widths": widths})


def block_of(model: Model, share: float, context: float) -> Block:
    block = allocate(model.neuron_map, [share], context, "random", 0, np.random.default_rng(0))[0]
    assert block is not None
    return block


def step_rows(name: str, precision: str, options: Options) -> list[Row]:
    """Local steps of one model in one precision; runs in a process of its own."""
    model = build(name, options.image_px)
    generator = torch.Generator().manual_seed(0)
    state = model.init_state(generator)
    shape = (options.batch, 1, options.image_px, options.image_px)
    samples = Samples(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8))
    recipe = LocalRecipe(batch_size=options.batch, precision=precision)
    variants = [(share, context) for context in CONTEXTS for share in options.shares if share < 1 or context == CONTEXTS[0]]
    blocks = {variant: block_of(model, *variant) for variant in variants}

    def run(block: Block, steps: int) -> float:
        start = time.process_time()
        train_block(model, state, None, LocalTask(0, block, steps, (0,)), samples, recipe, torch.Generator().manual_seed(1))
        return (time.process_time() - start) / steps

    def draw(steps: int) -> float:
        start, chosen = time.process_time(), torch.arange(options.batch)
        for _ in range(steps):
            model.objective.draw(samples, chosen, recipe.augmentation, generator)
        return (time.process_time() - start) / steps

    steps = {}
    for variant, block in blocks.items():
        run(block, 1)
        steps[variant] = max(2, int(np.ceil(options.seconds / run(block, 2))))
    seconds = {variant: np.zeros(options.turns) for variant in variants}
    views = np.zeros(options.turns)
    for turn in range(options.turns):
        for variant, block in blocks.items():
            seconds[variant][turn] = run(block, steps[variant])
        views[turn] = draw(max(2, steps[variants[-1]]))
    first = variants[0]
    base = cost_of_block(model, blocks[first], options.batch)
    rows = []
    for variant, block in blocks.items():
        cost, median = cost_of_block(model, block, options.batch), float(np.median(seconds[variant]))
        rows.append(
            Row(
                name, precision, variant[1], variant[0], 1e3 * median,
                float(np.median(seconds[variant] / seconds[first])),
                float(np.median((seconds[variant] - views) / (seconds[first] - views))),
                cost.step_flops / base.step_flops,
                cost.step_flops / median / 1e9, cost.memory_bytes / 1e6, cost.upload_bytes / 1e3,
                cost.step_flops / 1e9, cost.row_flops / 1e9,
            )
        )  # fmt: skip
    return rows


@dataclass(frozen=True)
class Round:
    """One round of equal machines; bytes are of all of them together, ratios to the first share with as many machines."""

    machines: int
    share: float
    context: float
    coverage: float
    upload_mb: float
    download_mb: float
    plan_ms: float
    slice_ms: float
    merge_ms: float
    seconds: float
    time_ratio: float
    flop_ratio: float


def round_row(machines: int, step: Row, options: Options, base_s: float | None) -> Round:
    """One round's bytes and seconds: the server's are medians over the turns, the machines' those of measured local steps.

    Args:
        machines: K.
        step: the local step of everyone.
        options: of the benchmark.
        base_s: seconds of the round that it is compared with; None is this one.
    """
    model = build(step.model, options.image_px)
    state = model.init_state(torch.Generator().manual_seed(0))
    server = np.zeros((options.turns, 3))
    for turn in range(options.turns):
        marks = [time.process_time()]
        shares = [step.share] * machines
        blocks = allocate(model.neuron_map, shares, step.context, "random", 0, np.random.default_rng(turn))
        marks.append(time.process_time())
        cut = [slice_weights(state, model.neuron_map, block) for block in blocks if block is not None]
        marks.append(time.process_time())
        updates = [
            Update(str(k), block, {n: t.detach() for n, t in weights.trained.items()}, 1.0)
            for k, (block, weights) in enumerate(zip(blocks, cut, strict=True))
            if block is not None
        ]
        merge(state, model.neuron_map, updates)
        marks.append(time.process_time())
        server[turn] = np.diff(marks)
    cost = cost_of_block(model, block_of(model, step.share, step.context), options.batch)
    local_s = machines * options.interval * step.milliseconds / 1e3 / (os.cpu_count() or 1)
    seconds = local_s + float(np.median(server, axis=0).sum())
    return Round(
        machines, step.share, step.context, machines * step.share,
        machines * cost.upload_bytes / 1e6, machines * cost.download_bytes / 1e6,
        *(1e3 * np.median(server, axis=0)), seconds, seconds / (base_s or seconds), step.flop_ratio,
    )  # fmt: skip


def round_rows(steps: list[Row], options: Options) -> list[Round]:
    """Rounds of all numbers of machines with one model's local steps; runs in a process of its own."""
    rows = []
    for machines in options.machines:
        base_s = None
        for step in steps:
            rows.append(round_row(machines, step, options, base_s))
            base_s = base_s or rows[-1].seconds
    return rows


def fraction(share: float) -> str:
    return f"1/{1 / share:.0f}" if share < 1 and (1 / share).is_integer() else f"{share:g}"


def main() -> None:
    import tyro
    from rich.console import Console
    from rich.table import Table

    options = tyro.cli(Options)
    console, rows = Console(), []
    with worker_pool(1) as pool:
        for precision in options.precisions:
            meaning = f"auto = {'bf16' if has_fast_bf16() else 'fp32'}" if precision == "auto" else precision
            for name in options.models:
                title = f"{name}, {meaning}, batch {options.batch}, {options.image_px} px: one local step"
                heads = ("context", "share", "ms", "time", "net", "FLOPs", "net / FLOPs", "GFLOP/s", "memory MB", "upload kB")
                table = Table(*heads, title=title)
                for row in pool.submit(step_rows, name, precision, options).result():
                    rows.append(row)
                    table.add_row(
                        f"{row.context:g}", fraction(row.share), f"{row.milliseconds:.1f}", f"{row.time_ratio:.3f}",
                        f"{row.net_ratio:.3f}", f"{row.flop_ratio:.3f}", f"{row.net_ratio / row.flop_ratio:.2f}",
                        f"{row.gflops_per_s:.1f}",
                        f"{row.memory_mb:.1f}", f"{row.upload_kb:.0f}",
                    )  # fmt: skip
                console.print(table)
        heads = ("precision", "models", "throughput_gflops", "half_rows", "step_overhead_s", "error", "worst", "FLOPs only")
        table = Table(*heads, title="what a scenario's `device` should say of this processor, and how well it predicts steps")
        for precision in options.precisions:
            for kind in ("conv", "mlp"):
                own = [row for row in rows if row.precision == precision and row.model.startswith(kind)]
                if len(own) > 3:
                    fit = fit_device(own)
                    table.add_row(
                        precision, kind, f"{fit.throughput_gflops:.0f}", f"{fit.half_rows:.0f}", f"{fit.step_overhead_s:.4f}",
                        f"{fit.median_error:.1%}", f"{fit.worst_error:.1%}", f"{fit.flops_only:.1%}",
                    )  # fmt: skip
        console.print(table)
        name, precision = options.models[0], options.precisions[0]
        heads = (
            "machines", "context", "share", "coverage", "up MB", "down MB", "plan ms", "slice ms", "merge ms", "round s",
            "time", "FLOPs",
        )  # fmt: skip
        title = f"{name}, {precision}: one round of H = {options.interval}, all machines on the cores of this one"
        table = Table(*heads, title=title)
        steps = [row for row in rows if row.model == name and row.precision == precision]
        for r in pool.submit(round_rows, steps, options).result():
            table.add_row(
                str(r.machines), f"{r.context:g}", fraction(r.share), f"{r.coverage:g}", f"{r.upload_mb:.2f}",
                f"{r.download_mb:.2f}", f"{r.plan_ms:.1f}", f"{r.slice_ms:.1f}", f"{r.merge_ms:.1f}", f"{r.seconds:.2f}",
                f"{r.time_ratio:.3f}", f"{r.flop_ratio:.3f}",
            )  # fmt: skip
        console.print(table)
    if options.csv is not None and rows:
        with options.csv.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(asdict(rows[0])))
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
        console.print(f"wrote {options.csv}")


if __name__ == "__main__":
    main()
