"""Does a calibration foretell heuristics on fleets that it has not seen? `python -m agents.played` plays them for real.

Every heuristic in turn plays an episode of real training on another random fleet of the training range, with the workload that
is calibrated, and the same decisions are simulated. A calibration's own records are of random decisions only; these come beside
them, in NAME.played.json.gz, and `python -m fedcore.calibrate --played-too` fits to both.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.benchmark import orchestrator
from agents.episodes import play_episode
from agents.heuristics import HEURISTICS
from agents.tables import Grid
from agents.worlds import random_world
from envs.orchestration import OrchestrationEnv
from envs.training import TrainingEnv
from fedcore.calibrate import CalibrateOptions, calibrated_workload, records_folder
from fedcore.dynamics import load_calibration
from fedcore.fleet import columns as c
from fedcore.parallel import Job, run_kept
from fedcore.recorded import keep_records, played_path, read_records, unpack_records
from fedcore.world import room_for
from scenarios import Scenario, parse
from scenarios.errors import need_at_least, told
from scenarios.schema import Workload

FIRST_RUN = 10_000
"""Runs of random decisions have smaller numbers."""
SIMULATED = 40
"""Episodes beside each real one, of other seeds."""


@dataclass(frozen=True)
class PlayedOptions(CalibrateOptions):
    """Record real rounds that heuristics decide; those of `python -m fedcore.calibrate` say which calibration is meant.

    Attributes:
        played: episodes, each of the next heuristic on another random fleet.
    """

    played: int = 64


def heuristic_of(run: int) -> str:
    """Who plays: every heuristic once in so many runs, each time one place on, since every fourth run is held out of fits."""
    names = list(HEURISTICS)
    return names[(run + run // len(names)) % len(names)]


def random_fleet(workload: Workload, run: int) -> Scenario:
    """What a run plays on; raises as `random_world`."""
    return random_world((run, 13), "train", workload).scenario


def played_run(scenario: dict[str, Any], run: int) -> dict[str, Any]:
    """A heuristic's episode on real training, as `fedcore.calibrate.random_run` records one; rounds from which nothing came
    back trained nothing, and are none."""
    parsed = parse(scenario, "scenario")
    env = TrainingEnv(parsed, "efficiency", room_for(parsed))
    learner, rounds = env.learner, []

    def on_round(info: dict[str, Any]) -> None:
        report = learner.report
        assert report is not None
        back = np.array(report.came_back)
        if back.any():
            shares = np.where(back, info["shares"][: len(back)], 0.0)
            rounds.append(
                {"steps": info["sync_interval"], "shares": [round(float(s), 4) for s in shares], "infonce": report.infonce}
            )

    play_episode(orchestrator(heuristic_of(run), parsed), env, run, on_round)
    training, data = learner.training, learner.data
    assert training is not None
    assert data is not None
    return {
        "run": FIRST_RUN + run, "images": [len(index) for index in data.clients], "context": parsed.workload.context,
        "untrained": training.untrained, "rounds": rounds,
    }  # fmt: skip


def simulated_rounds(scenario: Scenario, heuristic: str, seeds: Iterable[int]) -> NDArray[np.int64]:
    """Rounds of simulated episodes, but for those from which nothing came back, see `played_run`."""
    env, agent = OrchestrationEnv(scenario, "efficiency", room_for(scenario)), orchestrator(heuristic, scenario)
    rounds: list[int] = []

    def on_round(info: dict[str, Any]) -> None:
        rounds[-1] += c.STATUS_NAMES[c.DONE] in info["status"]

    for seed in seeds:
        rounds.append(0)
        play_episode(agent, env, seed, on_round)
    return np.array(rounds)


def record(options: PlayedOptions) -> list[dict[str, Any]]:
    """Records of all runs; those that are missing are played.

    Raises:
        InputError: there is no such calibration, or numbers out of range.
    """
    need_at_least(options, played=1, workers=1)
    workload, folder = _workload(options), records_folder(options, calibrated_workload(options))
    place = played_path(options.output, options.name)
    unpack_records(place, folder)
    jobs: dict[Path, Job] = {
        folder / f"played-{run:04d}.json": (played_run, (random_fleet(workload, run).model_dump(mode="json"), run))
        for run in range(options.played)
    }
    kept = run_kept(jobs, options.workers, "real rounds of heuristics")
    keep_records(place, folder.name, read_records(place, folder.name) | {path.name: found for path, found in kept.items()})
    return list(kept.values())


def _workload(options: PlayedOptions) -> Workload:
    """With the calibration that is put to the test."""
    place = str(options.output / f"{options.name}.json")
    load_calibration(place)
    return calibrated_workload(options).model_copy(update={"calibration": place})


def foretold(options: PlayedOptions, records: Sequence[dict[str, Any]]) -> Grid:
    """Rounds that each real episode needed beside those of simulated ones of the same heuristic on the same fleet."""
    workload, rows, logs, ranks = _workload(options), [], [], []
    for run, found in enumerate(records):
        scenario, name, real = random_fleet(workload, run), heuristic_of(run), len(found["rounds"])
        rounds = simulated_rounds(scenario, name, range(SIMULATED * (run + 1), SIMULATED * (run + 2)))
        logs.append(np.log(rounds).mean() - np.log(real))
        ranks.append((rounds < real).mean() + 0.5 * (rounds == real).mean())
        middle = f"{np.exp(np.log(rounds).mean()):.1f}"
        rows.append((name, str(len(found["images"])), str(real), middle, f"{np.exp(logs[-1]):.2f}", f"{ranks[-1]:.2f}"))
    error = np.std(logs, ddof=1) / np.sqrt(len(logs)) if len(logs) > 1 else float("nan")
    note = (
        f"simulated over real: geometric mean {np.exp(np.mean(logs)):.2f} (x {np.exp(1.96 * error):.2f} either way, 95 %), "
        f"median {np.exp(np.median(logs)):.2f}; faster: part of {SIMULATED} simulated episodes with fewer rounds, mean "
        f"{np.mean(ranks):.2f}, spread {np.std(ranks):.2f} (0.50 and 0.29 where simulation has it right)"
    )
    columns = ("heuristic", "machines", "rounds, real", "simulated", "simulated / real", "faster")
    return Grid(f"{options.name}: rounds of heuristics on unseen fleets", columns, tuple(rows), note)


def main() -> None:
    """Command line."""
    import tyro
    from rich.console import Console

    options = tyro.cli(PlayedOptions)
    with told("interrupted; finished runs are kept, and the same command goes on"):
        Console().print(foretold(options, record(options)).rich())


if __name__ == "__main__":
    main()
