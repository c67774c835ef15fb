"""Fit the learning-dynamics model to recorded real rounds: `python -m fedcore.calibrate`.

Plays random decisions on real federated training over fleets of several sizes, records every round, fits, and writes
`fedcore/calibrations/NAME.json`. Each run is kept as it ends, so that an interrupted calibration resumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.dynamics import FOLDER, FULL_AT, Calibration, Dynamics, remember
from fedcore.files import cache_folder, write_text
from fedcore.parallel import Job, run_kept
from fedcore.training import FederatedTraining
from scenarios import load
from scenarios.schema import Device, Fleet, Group, Link, Scenario, Workload

VERSION = 3
"""Part of every record's name: raise it when a change of the code changes what a run records."""
TARGET_ROUNDS = 36
"""Progress 1 is what equal half shares and H = 10 reach on six machines after this many rounds."""
TARGET_TAIL = 3
REFERENCE_MACHINES = 6


@dataclass(frozen=True)
class CalibrateOptions:
    """Fit the learning-dynamics model to recorded real rounds.

    Attributes:
        name: of the calibration file.
        scenario: whose workload is calibrated, a name or a YAML file; its fleet does not matter.
        runs: recorded runs of random decisions; and longer ones: half as many with few machines, a quarter with all.
        steps: local steps per run (rounds times H); three times as many in the longer ones.
        workers: processes, one core each.
        output: folder of the JSON file.
    """

    name: str = "soil-mixed-convnet-simclr"
    scenario: str = "farm-lte"
    runs: int = 32
    steps: int = 250
    workers: int = 2
    output: Path = FOLDER


def bare_scenario(machines: int, workload: Workload, images: int | Sequence[int] = 160) -> Scenario:
    """A scenario of that many alike machines: calibration cares for learning, not for cost.

    Args:
        machines: how many.
        workload: what is trained.
        images: on each (or windows of text); one number for all, or one per machine.
    """
    device = Device(throughput_gflops=10, memory_mb=4096, active_power_w=5, idle_power_w=1)
    link = Link(uplink_mbps=10, downlink_mbps=10)
    each = [("node", machines, images)] if isinstance(images, int) else [(f"node-{k}", 1, n) for k, n in enumerate(images)]
    groups = tuple(Group(name=name, count=count, device=device, link=link, images=n) for name, count, n in each)
    return Scenario(name="calibration", fleet=Fleet(groups=groups), workload=workload)


def random_run(workload: Workload, run: int, total_steps: int, who: str = "some") -> dict[str, Any]:
    """Record one run of random decisions; every draw follows from the run's number.

    Args:
        workload: what is trained.
        run: number of the run.
        total_steps: local steps (rounds times H) to play.
        who: "some" keeps a random style; "few" lets only one to three machines ever take part, "all" always everyone:
            whether few machines' data alone can reach the target is what decides between asking few and asking all, and
            only long runs of both show it.

    Returns:
        Record with `untrained`, `images` per machine, `context`, and one entry per round: H, shares, InfoNCE after it.
    """
    from fedcore.workload import build_training, prepare_data

    rng = np.random.default_rng([run, 11])
    machines = int(rng.integers(3, 10))
    # Fleets of one size and of many, from a handful of images to more than a few hundred steps can overfit.
    images = np.exp(rng.uniform(np.log(24), np.log(320), machines if rng.random() < 0.5 else 1)).astype(int)
    images = np.broadcast_to(images, machines).tolist()
    context = float(rng.choice([0.25, 0.5, 0.75])) if rng.random() < 0.25 else workload.context
    workload = workload.model_copy(update={"context": context})
    scenario = bare_scenario(machines, workload, images)
    data = prepare_data(scenario, seed=run)
    training = build_training(scenario, data, None, seed=run)
    sizes = [len(index) for index in data.clients]
    rounds = []
    done = 0
    # A run keeps a style (typical share, who never takes part, how often the others do, typical H) and departs from it,
    # as policies do.
    typical = rng.uniform(0.05, 1.0, machines) if rng.random() < 0.5 else np.full(machines, rng.uniform(0.1, 1.0))
    if who == "all":
        typical = np.full(machines, rng.uniform(0.3, 1.0))
    elif who == "few":
        typical = np.full(machines, rng.uniform(0.3, 1.0))
        typical[rng.permutation(machines)[int(rng.integers(1, 4)) :]] = 0.0
    elif rng.random() < 0.5:
        typical[rng.permutation(machines)[int(rng.integers(1, machines + 1)) :]] = 0.0
    absent = 0.0 if who != "some" else rng.choice([0.0, rng.uniform(0.0, 0.9)])
    usual_steps = int(rng.choice([2, 5, 10, 20, 40]))
    while done < total_steps:
        steps = usual_steps if rng.random() < 0.6 else int(rng.choice([2, 5, 10, 20, 40]))
        shares = np.where(typical > 0, np.clip(typical * rng.lognormal(0.0, 0.3, machines), 0.02, 1.0), 0.0)
        shares[rng.random(machines) < absent] = 0.0
        if not shares.any():
            shares[rng.choice(np.flatnonzero(typical))] = rng.uniform(0.2, 1.0)
        report = training.play([float(s) for s in shares], steps)
        rounds.append({"steps": steps, "shares": [round(float(s), 4) for s in shares], "infonce": report.infonce})
        done += steps
    return {"run": run, "images": sizes, "context": context, "untrained": training.untrained, "rounds": rounds}


def target_run(workload: Workload, seed: int) -> tuple[float, float]:
    """(untrained, reached) InfoNCE of the reference policy on six machines."""
    from fedcore.workload import build_training, prepare_data

    scenario = bare_scenario(REFERENCE_MACHINES, workload)
    training = build_training(scenario, prepare_data(scenario, seed=seed), None, seed=seed)
    return training.untrained, reach_target(training, scenario)


def reach_target(training: FederatedTraining, scenario: Scenario) -> float:
    """InfoNCE that the reference policy reaches in `TARGET_ROUNDS` rounds, mean of the last `TARGET_TAIL`: progress 1."""
    machines = len(scenario.fleet.machines)
    tail = []
    for r in range(TARGET_ROUNDS):
        report = training.play([scenario.reference.share] * machines, scenario.reference.sync_interval)
        if r >= TARGET_ROUNDS - TARGET_TAIL:
            tail.append(report.infonce)
    return float(np.mean(tail))


@dataclass(frozen=True)
class Rounds:
    """Recorded rounds as arrays (R,): what the fit sees.

    Attributes:
        run: number of the run, ascending blocks.
        before: progress.
        after: progress.
        steps: H.
        coverage: sum of the shares, m.
        data: fraction of the fleet's samples that took part, D.
        samples: that have been taking part lately, N.
        context: c.
        machines: how many alike machines' samples have been taking part lately.
    """

    run: NDArray[np.int64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    steps: NDArray[np.float64]
    coverage: NDArray[np.float64]
    data: NDArray[np.float64]
    samples: NDArray[np.float64]
    context: NDArray[np.float64]
    machines: NDArray[np.float64]

    def where(self, mask: NDArray[np.bool_]) -> Rounds:
        """Those rounds alone."""
        return Rounds(*(value[mask] for value in vars(self).values()))


def as_rounds(records: list[dict[str, Any]], target: float) -> Rounds:
    """Stack records, InfoNCE turned into progress of each run's own scale."""
    rows = []
    for record in records:
        before = 0.0
        span = record["untrained"] - target
        images = np.array([record["images"]], dtype=np.float64)
        took_part = np.zeros(images.shape)
        for r, entry in enumerate(record["rounds"]):
            shares = np.array([entry["shares"]])
            took_part = remember(took_part, shares > 0, np.array([r]))
            after = (record["untrained"] - entry["infonce"]) / span
            each = images * -np.expm1(-took_part / FULL_AT)
            rows.append(
                (record["run"], before, after, entry["steps"], shares.sum(), images[shares > 0].sum() / images.sum(),
                 each.sum(), record["context"], each.sum() ** 2 / np.square(each).sum())
            )  # fmt: skip
            before = after
    table = np.array(rows, dtype=np.float64)
    return Rounds(table[:, 0].astype(np.int64), *(table[:, i] for i in range(1, 9)))


# rate, C - 1, s, h, a, b, d, N_0, v, f, q; the first three and N_0 as logarithms.
START = (np.log(0.15), np.log(0.5), 0.0, 0.7, 0.5, 0.1, 0.2, np.log(3.0), 1.0, 0.01, 0.3)
BOUNDS = ((-8, -4, -3, 0, 0, -0.5, 0, -7, 0.1, 0, 0), (2, 2, 3, 1.5, 2, 1.5, 2, 6, 4, 1, 3))


ANCHOR = 10.0
"""Weight of what progress 1 means in the fit."""


def reference_end(model: Dynamics) -> float:
    """Predicted progress of the reference policy where it is 1 by definition, see `reach_target`."""
    bare = bare_scenario(REFERENCE_MACHINES, Workload())
    share, steps = REFERENCE_MACHINES * bare.reference.share, float(bare.reference.sync_interval)
    samples = np.array(float(sum(group.images for group in bare.fleet.machines)))
    work = model.work(np.array(share), np.array(1.0), np.array(steps))
    learned, gap, tail = np.zeros(()), np.zeros(()), []
    for r in range(TARGET_ROUNDS):
        learned, gap = model.advance(learned, gap, work, samples)
        if r >= TARGET_ROUNDS - TARGET_TAIL:
            tail.append(learned - gap)
    return float(np.mean(tail))


def fit_dynamics(rounds: Rounds) -> Dynamics:
    """Least squares over whole runs (the path of progress, not only its increments), then noise and luck."""
    from scipy.optimize import least_squares

    def unpack(x: NDArray[np.float64]) -> Dynamics:
        rate, room, s, h, a, b, d, rest, v, f, q = (float(value) for value in x)
        rate, room, s, rest = (float(np.exp(value)) for value in (rate, room, s, rest))
        return Dynamics(rate, 1.0 + room, s, h, a, b, d, rest, v, f, q, 0.0, 0.0, 0.0)

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        model = unpack(x)
        path, step = predict(model, rounds)
        # Increments pin the local response, paths keep small biases from adding up, and what progress 1 means is exact.
        return np.concatenate([rounds.after - step, 0.3 * (rounds.after - path), [ANCHOR * (1.0 - reference_end(model))]])

    model = unpack(least_squares(residuals, START, bounds=BOUNDS, loss="soft_l1", f_scale=0.05).x)
    run, machine = luck_spreads(model, rounds)
    return replace(model, noise=measurement_noise(model, rounds), run_spread=run, machine_spread=machine)


def measurement_noise(model: Dynamics, rounds: Rounds) -> float:
    """Standard deviation of progress about the path, from differences of neighbouring residuals, which slow misfit and a
    run's luck leave alone."""
    residual = rounds.after - predict(model, rounds)[0]
    same = np.diff(rounds.run) == 0
    jumps = np.diff(residual)[same]
    return float(1.4826 * np.median(np.abs(jumps)) / np.sqrt(2.0))


def luck_spreads(model: Dynamics, rounds: Rounds) -> tuple[float, float]:
    """Standard deviations of ln luck between runs and between machines.

    The luck of a run is the factor on the gain that fits its path best; its square is run_spread^2 + machine_spread^2 / n
    in expectation, n the machines that have been taking part.
    """
    from scipy.optimize import nnls

    factors = np.exp(np.linspace(-1.5, 1.5, 61))
    paths = [predict(model, rounds, f)[0] for f in factors]
    squares, inverse = [], []
    for run in np.unique(rounds.run):
        own = rounds.run == run
        errors = [np.square(rounds.after[own] - path[own]).sum() for path in paths]
        squares.append(np.square(np.log(factors[int(np.argmin(errors))])))
        inverse.append(np.mean(1.0 / rounds.machines[own]))
    variances, _ = nnls(np.column_stack([np.ones(len(inverse)), inverse]), np.array(squares))
    return float(np.sqrt(variances[0])), float(np.sqrt(variances[1]))


def _work(model: Dynamics, rounds: Rounds) -> NDArray[np.float64]:
    context = np.asarray(model.in_context(rounds.context).rate) / model.rate
    return model.work(rounds.coverage, rounds.data, rounds.steps) * context


def predict(model: Dynamics, rounds: Rounds, luck: float = 1.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Progress after every round, (R,) each: predicted from the run's start alone, and from what was measured before it."""
    work = _work(model, rounds)
    path, step = np.empty_like(work), np.empty_like(work)
    starts = np.flatnonzero(np.diff(rounds.run, prepend=-1))
    lengths = np.diff(np.append(starts, len(work)))
    learned, gap = np.zeros(len(starts)), np.zeros(len(starts))
    # All runs advance side by side, one round at a time.
    for r in range(int(lengths.max())):
        going = lengths > r
        at = starts[going] + r
        now = (work[at], rounds.samples[at], luck)
        near, _ = model.advance(rounds.before[at] + gap[going], gap[going], *now)
        learned[going], gap[going] = model.advance(learned[going], gap[going], *now)
        path[at], step[at] = learned[going] - gap[going], near - gap[going]
    return path, step


def fit_report(records: list[dict[str, Any]], target: float) -> tuple[Dynamics, dict[str, Any]]:
    """Fit on all runs, and judge on every fourth run by a fit that did not see it."""
    rounds = as_rounds(records, target)
    held = rounds.run % 4 == 0
    judge, unseen = fit_dynamics(rounds.where(~held)), rounds.where(held)
    path, step = predict(judge, unseen)
    path_error = unseen.after - path
    gained, guessed = unseen.after - unseen.before, step - unseen.before
    return fit_dynamics(rounds), {
        "runs": len(records),
        "rounds": len(rounds.run),
        "held_out_rounds": int(held.sum()),
        "held_out_path_rmse": float(np.sqrt((path_error**2).mean())),
        "held_out_path_bias": float(path_error.mean()),
        "held_out_increment_r2": float(1 - ((gained - guessed) ** 2).sum() / ((gained - gained.mean()) ** 2).sum()),
    }


def calibrate(options: CalibrateOptions) -> Calibration:
    """Record what is missing, fit, write the file.

    Args:
        options: see `CalibrateOptions`.
    """
    # What the scenario says of calibrations is not part of what is trained.
    workload = load(options.scenario).workload.model_copy(update={"calibration": ""})
    folder = cache_folder("calibrate", VERSION, workload.model_dump_json(), options.steps)
    jobs: dict[Path, Job] = {folder / f"target{TARGET_ROUNDS}-{seed}.json": (target_run, (workload, seed)) for seed in range(3)}
    # The longest jobs first, so that the processes end together.
    first = options.runs
    for who, begin, number in (("all", 2 * first, first // 4), ("few", first, first // 2), ("some", 0, first)):
        steps = options.steps * (1 if who == "some" else 3)
        jobs |= {
            folder / f"{who}-{run:04d}.json": (random_run, (workload, run, steps, who)) for run in range(begin, begin + number)
        }
    kept = list(run_kept(jobs, options.workers, "real rounds").values())
    targets, records = kept[:3], kept[3:]
    untrained, target = (float(np.mean([pair[i] for pair in targets])) for i in (0, 1))
    dynamics, fit = fit_report(records, target)
    result = Calibration(options.name, dynamics, untrained, target, fit)
    write_text(options.output / f"{options.name}.json", result.to_json())
    return result


def main() -> None:
    """Command line."""
    import tyro
    from rich import print as rich_print

    result = calibrate(tyro.cli(CalibrateOptions))
    rich_print(result)


if __name__ == "__main__":
    main()
