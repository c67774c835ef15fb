"""Judge orchestrators on the real tier: cells of (agent, seed), each in a process of its own, kept as they end."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
import os
import queue
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.agent_key import agent_key
from agents.benchmark import HELD_OUT_SEED, EpisodeResult, orchestrator, play_episode
from agents.probing import Probes, probe_encoder, probe_raw, probe_untrained
from fedcore.dynamics import load_calibration
from fedcore.files import cache_folder, content_key, write_text
from fedcore.parallel import single_threaded, worker_pool
from fedcore.reference import TARGET_PART, TARGET_ROUNDS, play_reference, target_between
from scenarios import Scenario, parse

_updates: Any = None


@dataclass(frozen=True)
class Cell:
    """One real run to play.

    Attributes:
        agent: a name that `benchmark.orchestrator` takes.
        scenario: as a plain dictionary, so that it crosses processes.
        seed: number of the run; its episode's seed is `HELD_OUT_SEED` + seed.
        data: path of a user's images, or None.
        target_infonce: of that data, or None for the scenario's calibration.
    """

    agent: str
    scenario: dict[str, Any]
    seed: int
    data: str | None = None
    target_infonce: float | None = None

    def key(self) -> str:
        """Names the cell by content: an agent by its code or file, data by size and date; not by the code that trains."""
        calibration = load_calibration(self.scenario["workload"]["calibration"]).to_json()
        scenario = json.dumps(self.scenario, sort_keys=True)
        parts: list[object] = [calibration, agent_key(self.agent), scenario, self.seed, self.target_infonce]
        if self.data is not None:
            parts += [os.path.abspath(self.data), os.stat(self.data).st_size, os.stat(self.data).st_mtime_ns]
        return content_key(*parts)


@dataclass(frozen=True)
class Judgement:
    """What a real run gave.

    Attributes:
        result: the episode.
        probes: of the trained encoder.
        untrained: of the encoder before training.
        raw: of raw pixels.
        collapsed: whether any round reported a collapsed encoder.
        refused: sentences about refused updates.
    """

    result: EpisodeResult
    probes: Probes
    untrained: Probes
    raw: Probes
    collapsed: bool
    refused: tuple[str, ...]

    @staticmethod
    def from_dict(content: dict[str, Any]) -> Judgement:
        """From JSON."""
        return Judgement(
            EpisodeResult(**content["result"]),
            Probes(**content["probes"]),
            Probes(**content["untrained"]),
            Probes(**content["raw"]),
            content["collapsed"],
            tuple(content["refused"]),
        )


def _start(updates: Any) -> None:
    global _updates
    single_threaded()
    _updates = updates


def play_cell(cell: Cell, label: str = "") -> Judgement:
    """Play one cell in this process."""
    from envs.training import TrainingEnv
    from fedcore.data.loading import load_images
    from fedcore.workload import PreparedData

    scenario = parse(cell.scenario, "scenario")
    dataset = None
    if cell.data is not None:
        dataset = load_images(cell.data, size_px=scenario.workload.image_px)
    env = TrainingEnv(scenario, reward="efficiency", dataset=dataset, target_infonce=cell.target_infonce)
    agent = orchestrator(cell.agent, scenario)
    collapsed, refused = False, []

    def on_round(info: dict[str, Any]) -> None:
        nonlocal collapsed
        collapsed = collapsed or info["collapsed"]
        refused.extend(info["refused"])
        if _updates is not None:
            _updates.put((label, info["round"], info["progress"]))

    result = play_episode(agent, env, HELD_OUT_SEED + cell.seed, on_round)
    training, data = env.learner.training, env.learner.data
    assert training is not None
    assert data is not None
    probes = untrained = raw = Probes()
    if isinstance(data, PreparedData):  # text has no labels to probe: its held-out loss is in the result
        probes = probe_encoder(training.model, training.state, data.dataset)
        untrained = probe_untrained(training.model, training.seed, data.dataset)
        raw = probe_raw(data.dataset)
    return Judgement(result, probes, untrained, raw, collapsed, tuple(refused))


def _play_to_dict(cell: Cell, label: str) -> dict[str, Any]:
    return asdict(play_cell(cell, label))


def judge(
    cells: Sequence[Cell],
    folder: Path,
    workers: int = 2,
    on_round: Callable[[int, int, float], None] = lambda index, rounds, progress: None,
) -> list[Judgement]:
    """Play cells side by side, each single-threaded; cells that a folder already holds are read, not played.

    Args:
        cells: what to play.
        folder: one JSON file per finished cell.
        workers: processes.
        on_round: called with (index of the cell, rounds so far, progress); progress is infinite when a cell has ended.

    Returns:
        Judgements in the order of the cells.
    """
    paths = [folder / f"{cell.key()}.json" for cell in cells]
    todo = [i for i, path in enumerate(paths) if not path.is_file()]
    for i in set(range(len(cells))) - set(todo):
        on_round(i, 0, float("inf"))
    if todo:
        updates = multiprocessing.get_context("spawn").Queue()
        with worker_pool(min(workers, len(todo)), _start, (updates,)) as pool:
            jobs = {pool.submit(_play_to_dict, cells[i], str(i)): i for i in todo}
            waiting = set(jobs)
            while waiting:
                done, waiting = concurrent.futures.wait(waiting, timeout=0.3)
                while True:
                    try:
                        label, rounds, progress = updates.get_nowait()
                    except queue.Empty:
                        break
                    on_round(int(label), rounds, progress)
                for job in done:
                    write_text(paths[jobs[job]], json.dumps(job.result()))
                    on_round(jobs[job], 0, float("inf"))
    return [Judgement.from_dict(json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def cell_scenario(scenario: Scenario) -> dict[str, Any]:
    """A scenario as a dictionary that crosses processes."""
    return dict(scenario.model_dump(mode="json"))


def target_of(scenario: Scenario, data: str, seed: int = 0) -> float:
    """InfoNCE at progress 1 on images that no calibration has seen.

    Plays the reference policy (everyone, equal shares) for as many rounds as calibrations do, in a process of its own;
    kept in the cache by content.

    Raises:
        InputError: the images do not load, or are too few for the fleet.
    """
    cell = Cell("reference", cell_scenario(scenario), seed, data)
    path = cache_folder("targets", TARGET_ROUNDS, TARGET_PART) / f"{cell.key()}.json"
    if not path.is_file():
        with worker_pool(1) as pool:
            write_text(path, json.dumps(pool.submit(_reach_target, cell).result()))
    return float(json.loads(path.read_text(encoding="utf-8")))


def _reach_target(cell: Cell) -> float:
    from fedcore.data.loading import load_images
    from fedcore.workload import build_training, prepare_data

    scenario = parse(cell.scenario, "scenario")
    dataset = load_images(str(cell.data), size_px=scenario.workload.image_px)
    training = build_training(scenario, prepare_data(scenario, dataset), None, cell.seed)
    return target_between(training.untrained, play_reference(training, scenario))
