"""What a whole round takes, beside the FLOP formula: `python benchmarks/rounds.py`. Quiet machine, please.

Rounds of the real loop (planning, slicing, transport to one worker per core, local steps, merging), by wall clock: K equal
machines that each train a share of the neurons, in the context of all others or of none. Whether slicing shows in seconds.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fedcore.allocation import trained_count
from fedcore.costs import cost_of_share
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods import METHODS
from fedcore.model import Model, build_model
from fedcore.samples import Samples
from fedcore.training import FederatedTraining


@dataclass(frozen=True)
class Options:
    """Seconds of whole rounds.

    Attributes:
        widths: of the ConvNet's layers.
        machines: numbers of machines in a round.
        shares: of every layer's neurons; the first is what the others are compared with.
        contexts: that the others' neurons are seen in.
        interval: local steps H of a round.
        rounds: that are timed after a first one; medians are shown.
        batch: images per step, and images of every machine.
        image_px: side of the images.
        precision: of the encoder; "auto" is bf16 where the processor has it.
        workers: processes, one core each; none is all cores.
    """

    widths: tuple[int, ...] = (24, 48, 96)
    machines: tuple[int, ...] = (4, 16, 64, 256)
    shares: tuple[float, ...] = (1.0, 1 / 2, 1 / 4, 1 / 8, 1 / 16)
    contexts: tuple[float, ...] = (1.0, 0.0)
    interval: int = 2
    rounds: int = 3
    batch: int = 32
    image_px: int = 32
    precision: str = "fp32"
    workers: int | None = None


def model_of(options: Options) -> Model:
    """What is trained."""
    return build_model((1, options.image_px, options.image_px), "convnet", "simclr", {"widths": options.widths})


def seconds_of(options: Options, machines: int, share: float, context: float) -> float:
    """Median wall seconds of a round."""
    model, generator = model_of(options), torch.Generator().manual_seed(0)
    shape = (options.batch, 1, options.image_px, options.image_px)
    held = [Samples(torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)) for _ in range(machines)]
    recipe = LocalRecipe(batch_size=options.batch, precision=options.precision)
    names, method = [str(k) for k in range(machines)], METHODS["intralayer"](context=context)
    with InProcessEngine(held, recipe, options.workers or os.cpu_count() or 1) as engine:
        training = FederatedTraining(model, engine, names, lambda model, state: 1.0, None, method=method, seed=0)
        taken = []
        for _ in range(1 + options.rounds):
            start = time.perf_counter()
            training.play([share] * machines, options.interval)
            taken.append(time.perf_counter() - start)
    return float(np.median(taken[1:]))


def main() -> None:
    """Command line."""
    options, console = tyro.cli(Options), Console()
    model = model_of(options)
    least = [min(trained_count(s, y.neurons) for y in model.neuron_map.layers) for s in options.shares]
    heads = ["machines", "context", *(f"share {s:.3g}" for s in options.shares)]
    title = f"seconds of a round of H = {options.interval}, ratio to the first share (the FLOP formula's)"
    table = Table(*heads, title=f"ConvNet {'-'.join(map(str, options.widths))}, {options.precision}: {title}")
    cells = [(k, context) for k in options.machines for context in options.contexts]
    for k, context in track(cells, "rounds", console=console):
        taken = [seconds_of(options, k, share, context if share < 1 else 1.0) for share in options.shares]
        flops = [cost_of_share(model, s, context if s < 1 else 1.0, options.batch).step_flops for s in options.shares]
        shown = [f"{t:.3g} s, {t / taken[0]:.2f} ({f / flops[0]:.3f})" for t, f in zip(taken, flops, strict=True)]
        table.add_row(str(k), f"{context:g}", *shown)
    console.print(table)
    console.print(f"fewest neurons of a layer that are trained, by share: {', '.join(map(str, least))}")


if __name__ == "__main__":
    main()
