"""Fit the learning-dynamics model to recorded real rounds: `python -m fedcore.calibrate`.

Plays random decisions on real federated training over fleets of several sizes, records every round, fits, and writes
`fedcore/calibrations/NAME.json`. Each run is kept as it ends, so that an interrupted calibration resumes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.dynamics import FOLDER, Calibration, Dynamics, remember, variety
from fedcore.files import cache_folder, write_text
from fedcore.parallel import Job, run_kept
from fedcore.training import FederatedTraining
from scenarios.schema import Device, Fleet, Group, Link, Scenario, Workload

TARGET_ROUNDS = 36
"""Progress 1 is what equal half shares and H = 10 reach on six machines after this many rounds."""


@dataclass(frozen=True)
class CalibrateOptions:
    """Fit the learning-dynamics model to recorded real rounds.

    Attributes:
        name: of the calibration file.
        runs: recorded runs of random decisions; and longer ones: half as many with few machines, a sixth with all.
        steps: local steps per run (rounds times H).
        encoder: registered encoder.
        objective: registered objective.
        workers: processes, one core each.
        output: folder of the JSON file.
    """

    name: str = "soil-mixed-convnet-simclr"
    runs: int = 24
    steps: int = 250
    encoder: str = "convnet"
    objective: str = "simclr"
    workers: int = 2
    output: Path = FOLDER


def bare_scenario(machines: int, workload: Workload, images: int = 160) -> Scenario:
    """A scenario whose fleet has that many alike machines: calibration cares for learning, not for cost."""
    device = Device(throughput_gflops=10, memory_mb=4096, active_power_w=5, idle_power_w=1)
    group = Group(
        name="node", count=machines, device=device, link=Link(uplink_mbps=10, downlink_mbps=10), images=images
    )
    return Scenario(name="calibration", fleet=Fleet(groups=(group,)), workload=workload)


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
        Record with `untrained`, `images` per machine, and one entry per round: H, shares, InfoNCE after it.
    """
    from fedcore.workload import build_training, prepare_data

    rng = np.random.default_rng([run, 11])
    machines = int(rng.integers(3, 9))
    scenario = bare_scenario(machines, workload)
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
    return {"run": run, "images": sizes, "untrained": training.untrained, "rounds": rounds}


def target_run(workload: Workload, seed: int) -> tuple[float, float]:
    """(untrained, reached) InfoNCE of the reference policy on six machines."""
    from fedcore.workload import build_training, prepare_data

    scenario = bare_scenario(6, workload)
    training = build_training(scenario, prepare_data(scenario, seed=seed), None, seed=seed)
    return training.untrained, reach_target(training, scenario)


def reach_target(training: FederatedTraining, scenario: Scenario) -> float:
    """InfoNCE that the reference policy reaches in `TARGET_ROUNDS` rounds, mean of the last three: progress 1."""
    machines = len(scenario.fleet.machines)
    tail = []
    for r in range(TARGET_ROUNDS):
        report = training.play([scenario.reference.share] * machines, scenario.reference.sync_interval)
        if r >= TARGET_ROUNDS - 3:
            tail.append(report.infonce)
    return float(np.mean(tail))


@dataclass(frozen=True)
class Rounds:
    """Recorded rounds as arrays (R,): what the fit sees."""

    run: NDArray[np.int64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    steps: NDArray[np.float64]
    coverage: NDArray[np.float64]
    data: NDArray[np.float64]
    variety: NDArray[np.float64]


def as_rounds(records: list[dict[str, Any]], target: float) -> Rounds:
    """Stack records, InfoNCE turned into progress of each run's own scale."""
    rows = []
    for record in records:
        before = 0.0
        span = record["untrained"] - target
        data = np.array([record["images"]]) / sum(record["images"])
        took_part = np.zeros(data.shape)
        for r, entry in enumerate(record["rounds"]):
            shares = np.array([entry["shares"]])
            took_part = remember(took_part, shares > 0, np.array([r]))
            after = (record["untrained"] - entry["infonce"]) / span
            here, lately = float(data[shares > 0].sum()), float(variety(took_part, data)[0])
            rows.append((record["run"], before, after, entry["steps"], float(shares.sum()), here, lately))
            before = after
    table = np.array(rows, dtype=np.float64)
    return Rounds(table[:, 0].astype(np.int64), *(table[:, i] for i in range(1, 7)))


def fit_dynamics(rounds: Rounds) -> Dynamics:
    """Least squares over whole runs (the path of progress, not only its increments), then noise and luck."""
    from scipy.optimize import least_squares

    def unpack(x: NDArray[np.float64]) -> Dynamics:
        h, a, b, d, v = (float(value) for value in x[2:7])
        return Dynamics(float(np.exp(x[0])), float(np.exp(x[1])), h, a, b, d, v, 0.0, 0.0)

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        model = unpack(x)
        path = predict_paths(model, rounds)
        step = model.advance(rounds.before, _work(model, rounds), rounds.variety)
        # Increments pin the local response, paths keep small biases from adding up.
        return np.concatenate([rounds.after - step, 0.3 * (rounds.after - path)])

    start = np.array([np.log(0.15), np.log(3.0), 0.7, 0.5, 0.1, 0.2, 0.2])
    bounds = ([-8, -3, 0, 0, -0.5, 0, 0], [2, 3, 1.5, 2, 1.5, 2, 2])
    model = unpack(least_squares(residuals, start, bounds=bounds, loss="soft_l1", f_scale=0.05).x)
    return replace(model, noise=measurement_noise(model, rounds), run_spread=run_spread(model, rounds))


def measurement_noise(model: Dynamics, rounds: Rounds) -> float:
    """Standard deviation of progress about the path, from differences of neighbouring residuals, which slow misfit and a
    run's luck leave alone."""
    residual = rounds.after - predict_paths(model, rounds)
    same = np.diff(rounds.run) == 0
    jumps = np.diff(residual)[same]
    return float(1.4826 * np.median(np.abs(jumps)) / np.sqrt(2.0))


def run_spread(model: Dynamics, rounds: Rounds) -> float:
    """Standard deviation over runs of the ln factor on the rate that fits each run's path best."""
    factors = np.exp(np.linspace(-1.5, 1.5, 61))
    best = []
    paths = [predict_paths(replace(model, rate=model.rate * f), rounds) for f in factors]
    for run in np.unique(rounds.run):
        own = rounds.run == run
        errors = [np.square(rounds.after[own] - path[own]).sum() for path in paths]
        best.append(np.log(factors[int(np.argmin(errors))]))
    return float(np.std(best))


def _work(model: Dynamics, rounds: Rounds) -> NDArray[np.float64]:
    return model.work(rounds.coverage, rounds.data, rounds.steps)


def predict_paths(model: Dynamics, rounds: Rounds) -> NDArray[np.float64]:
    """Progress after every round when each run is predicted from its start alone, (R,)."""
    work = _work(model, rounds)
    out = np.empty_like(work)
    starts = np.flatnonzero(np.diff(rounds.run, prepend=-1))
    lengths = np.diff(np.append(starts, len(work)))
    progress = np.zeros(len(starts))
    # All runs advance side by side, one round at a time.
    for r in range(int(lengths.max())):
        going = lengths > r
        at = starts[going] + r
        progress[going] = model.advance(progress[going], work[at], rounds.variety[at])
        out[at] = progress[going]
    return out


def fit_report(records: list[dict[str, Any]], target: float) -> tuple[Dynamics, dict[str, Any]]:
    """Fit on all runs, and judge on every fourth run by a fit that did not see it."""
    rounds = as_rounds(records, target)
    held = rounds.run % 4 == 0

    def subset(mask: NDArray[np.bool_]) -> Rounds:
        return Rounds(*(value[mask] for value in vars(rounds).values()))

    judge = fit_dynamics(subset(~held))
    unseen = subset(held)
    path_error = unseen.after - predict_paths(judge, unseen)
    step = judge.advance(unseen.before, _work(judge, unseen), unseen.variety)
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
    workload = Workload(encoder=options.encoder, objective=options.objective)
    folder = cache_folder("calibrate", "server-set", options.name, workload.model_dump_json(), options.steps)
    jobs: dict[Path, Job] = {folder / f"target{TARGET_ROUNDS}-{seed}.json": (target_run, (workload, seed)) for seed in range(3)}
    jobs |= {folder / f"run-{run:04d}.json": (random_run, (workload, run, options.steps)) for run in range(options.runs)}
    first = options.runs
    jobs |= {
        folder / f"{who}-{run:04d}.json": (random_run, (workload, run, 3 * options.steps, who))
        for who, begin, number in (("few", first, first // 2), ("all", 2 * first, first // 6))
        for run in range(begin, begin + number)
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
