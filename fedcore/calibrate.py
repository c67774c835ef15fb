"""Record real rounds and fit the learning-dynamics model to them: `python -m fedcore.calibrate`.

Plays random decisions on real federated training over fleets of several sizes, records every round, fits, and writes
`fedcore/calibrations/NAME.json`, with what was recorded beside it in NAME.rounds.json.gz: the same command then fits again in
seconds. Rounds that heuristics decided, recorded by `python -m agents.played`, are fitted to as well where that is asked for.
Each run is kept as it ends, so that an interrupted calibration resumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.dynamics import FOLDER, Calibration, made_of
from fedcore.files import cache_folder, write_bytes, write_text
from fedcore.fit_dynamics import as_rounds, draw_unseen, fit_report, split_runs
from fedcore.parallel import Job, run_kept
from fedcore.recorded import keep_records, played_path, read_records, recorded_path, unpack_records
from fedcore.reference import REFERENCE_MACHINES, TARGET_ROUNDS, bare_scenario, play_reference, target_between
from scenarios import load
from scenarios.errors import need_at_least, told
from scenarios.schema import Workload
from scenarios.sources import data_of

VERSION = 3
"""Part of every record's name: raise it when a change of the code changes what a run records."""


@dataclass(frozen=True)
class CalibrateOptions:
    """Fit the learning-dynamics model to recorded real rounds.

    Attributes:
        name: of the calibration file.
        scenario: whose workload is calibrated, a name or a YAML file; its fleet does not matter.
        encoder: in place of the scenario's, with its default options.
        objective: in place of the scenario's, with its default options.
        runs: recorded runs of random decisions; and longer ones: half as many with few machines, a quarter with all.
        switches: long runs that go from few machines to all: they show what becomes of overfitting, where there is any.
        turns: long runs in which one or two machines of very unequal data are asked at a time, as thrifty policies do.
        steps: local steps per run (rounds times H); three times as many in the longer ones.
        workers: processes, one core each.
        played_too: fit to the rounds that heuristics decided as well, which `python -m agents.played` has recorded.
        output: folder of the JSON file.
        plot: PNG of runs that a fit did not see, recorded and predicted.
    """

    name: str = "soil-mixed-convnet-simclr"
    scenario: str = "farm-lte"
    encoder: str | None = None
    objective: str | None = None
    runs: int = 24
    switches: int = 0
    turns: int = 24
    steps: int = 250
    workers: int = 2
    played_too: bool = False
    output: Path = FOLDER
    plot: Path | None = None


def random_run(workload: Workload, run: int, total_steps: int, who: str = "some") -> dict[str, Any]:
    """Record one run of random decisions; every draw follows from the run's number.

    Args:
        workload: what is trained.
        run: number of the run.
        total_steps: local steps (rounds times H) to play.
        who: "some" keeps a random style; "few" lets only one to three machines ever take part, "all" always everyone:
            whether few machines' data alone can reach the target is what decides between asking few and asking all, and
            only long runs of both show it. "switch" begins as "few" and goes on as "all": whether that mends what was
            learnt by heart. "turns" asks one or two at a time, the same more often than others, most with whole layers:
            what a round on next to no data does between rounds on more.

    Returns:
        Record with `untrained`, `images` per machine, `context`, and one entry per round: H, shares, InfoNCE after it.
    """
    from fedcore.workload import build_training, prepare_data

    rng = np.random.default_rng([run, 11])
    machines = int(rng.integers(3, 10))
    # Fleets of one size and of many, from a handful of images to more than a few hundred steps can overfit.
    images = np.exp(rng.uniform(np.log(24), np.log(320), machines if rng.random() < 0.5 else 1)).astype(int)
    images = np.broadcast_to(images, machines).tolist()
    if who == "turns":
        images = np.exp(rng.uniform(np.log(16), np.log(320), machines)).astype(int).tolist()
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
    elif who in ("few", "switch"):
        typical = np.full(machines, rng.uniform(0.3, 1.0))
        typical[rng.permutation(machines)[int(rng.integers(1, 4)) :]] = 0.0
    elif rng.random() < 0.5:
        typical[rng.permutation(machines)[int(rng.integers(1, machines + 1)) :]] = 0.0
    absent = 0.0 if who != "some" else rng.choice([0.0, rng.uniform(0.0, 0.9)])
    usual_steps = int(rng.choice([2, 5, 10, 20, 40]))
    if who == "turns":
        typical = np.full(machines, 1.0 if rng.random() < 0.6 else rng.uniform(0.3, 1.0))
        asked, liking = int(rng.choice([1, 1, 2])), rng.dirichlet(np.ones(machines))
        usual_steps = int(rng.choice([10, 20, 40, 40]))
    switch_at = rng.uniform(0.2, 0.6) * total_steps if who == "switch" else np.inf
    while done < total_steps:
        if done >= switch_at:
            typical = np.full(machines, typical.max())
        steps = usual_steps if rng.random() < 0.6 else int(rng.choice([2, 5, 10, 20, 40]))
        shares = np.where(typical > 0, np.clip(typical * rng.lognormal(0.0, 0.3, machines), 0.02, 1.0), 0.0)
        if who == "turns":
            shares = np.where(typical == 1.0, 1.0, shares)
            shares[np.setdiff1d(np.arange(machines), rng.choice(machines, asked, replace=False, p=liking))] = 0.0
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
    return training.untrained, play_reference(training, scenario)


def calibrated_workload(options: CalibrateOptions) -> Workload:
    """What is trained. What the scenario says of calibrations is no part of it.

    Raises:
        InputError: unknown scenario, encoder or objective, or they do not go together.
    """
    from fedcore.workload import check_workload

    scenario = load(options.scenario)
    changed: dict[str, Any] = {"calibration": ""}
    for field in ("encoder", "objective"):
        if (value := getattr(options, field)) is not None:
            changed |= {field: value, f"{field}_options": {}}
    workload = scenario.workload.model_copy(update=changed)
    check_workload(workload, scenario.name)
    return workload


def records_folder(options: CalibrateOptions, workload: Workload) -> Path:
    """Where real rounds of a workload are kept as they are recorded."""
    return cache_folder("calibrate", VERSION, workload.model_dump_json(exclude_none=True), options.steps, *data_of(workload))


def calibrate(options: CalibrateOptions) -> Calibration:
    """Record what is missing, fit, write the file.

    Args:
        options: see `CalibrateOptions`.

    Raises:
        InputError: unknown scenario, or numbers out of range.
    """
    # Every fourth run is held out, so there must be another.
    need_at_least(options, runs=2, steps=1, switches=0, turns=0, workers=1)
    workload = calibrated_workload(options)
    folder = records_folder(options, workload)
    jobs: dict[Path, Job] = {folder / f"target{TARGET_ROUNDS}-{seed}.json": (target_run, (workload, seed)) for seed in range(3)}
    # The longest jobs first, so that the processes end together.
    first = options.runs
    # Turns have numbers of their own, so that more or fewer of them leave all other records good.
    kinds = (
        ("all", 2 * first, first // 4),
        ("switch", 3 * first, options.switches),
        ("few", first, first // 2),
        ("turns", max(1000, 3 * first + options.switches), options.turns),
        ("some", 0, first),
    )
    for who, begin, number in kinds:
        steps = options.steps * (1 if who == "some" else 3)
        jobs |= {
            folder / f"{who}-{run:04d}.json": (random_run, (workload, run, steps, who)) for run in range(begin, begin + number)
        }
    for place in {FOLDER, options.output}:
        unpack_records(recorded_path(place, options.name), folder)
    everything = run_kept(jobs, options.workers, "real rounds")
    kept = list(everything.values())
    targets, records = kept[:3], kept[3:]
    if options.played_too:
        records += list(read_records(played_path(options.output, options.name), folder.name).values())
    untrained, reached = (float(np.mean([pair[i] for pair in targets])) for i in (0, 1))
    target = target_between(untrained, reached)
    rounds = as_rounds(records, target)
    judge, unseen = split_runs(rounds)
    dynamics, fit = fit_report(rounds, judge, unseen)
    result = Calibration(options.name, dynamics, untrained, target, fit, made_of(workload))
    write_text(options.output / f"{options.name}.json", result.to_json())
    keep_records(
        recorded_path(options.output, options.name), folder.name, {path.name: record for path, record in everything.items()}
    )
    if options.plot is not None:
        write_bytes(options.plot, draw_unseen(judge, unseen, options.name))
    return result


def main() -> None:
    """Command line."""
    import tyro
    from rich import print as rich_print

    options = tyro.cli(CalibrateOptions)
    with told("interrupted; finished runs are kept, and the same command goes on"):
        rich_print(calibrate(options))


if __name__ == "__main__":
    main()
