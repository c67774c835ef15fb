"""Judge orchestrators on the real tier: cells of (agent, seed), each in a process of its own, kept as they end."""

from __future__ import annotations

import concurrent.futures
import json
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agents.agent_key import agent_key
from agents.benchmark import HELD_OUT_SEED, EpisodeResult, orchestrator, play_episode
from agents.probing import Probes, probe_encoder, probe_raw, probe_untrained
from fedcore.dynamics import load_calibration
from fedcore.encoder_file import save_encoder
from fedcore.files import content_key, read_kept, write_text
from fedcore.parallel import lately, tell, telling, worker_pool
from fedcore.workload import reads_text
from fedcore.world import room_for
from scenarios import Scenario, parse
from scenarios.sources import sources_of


@dataclass(frozen=True)
class Cell:
    """One real run to play.

    Attributes:
        agent: a name that `benchmark.orchestrator` takes.
        scenario: as a plain dictionary, so that it crosses processes.
        seed: number of the run; its episode's seed is `HELD_OUT_SEED` + seed.
        data: path of a user's images, or None.
        target_infonce: of that data, or None for the scenario's calibration.
        reference_rounds: that the reference policy needs to get there, or None for those of simulation.
    """

    agent: str
    scenario: dict[str, Any]
    seed: int
    data: str | None = None
    target_infonce: float | None = None
    reference_rounds: float | None = None

    def key(self) -> str:
        """Names the cell by content: an agent by its code or file, data by sizes and dates of all files, traces by what is
        in them; not by the code that trains."""
        calibration = load_calibration(self.scenario["workload"]["calibration"]).to_json()
        scenario = json.dumps(self.scenario, sort_keys=True)
        sources = sources_of(Scenario.model_validate(self.scenario), self.data)
        aim = (self.target_infonce, self.reference_rounds)
        return content_key(calibration, agent_key(self.agent), scenario, self.seed, *aim, *sources)


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
            Probes.from_dict(content["probes"]),
            Probes.from_dict(content["untrained"]),
            Probes.from_dict(content["raw"]),
            content["collapsed"],
            tuple(content["refused"]),
        )


def cell_path(folder: Path, cell: Cell) -> Path:
    """Where a cell is kept in a folder."""
    return folder / f"{cell.key()}.json"


def encoder_path(cell: Path) -> Path:
    """Where the encoder that a kept cell trained is."""
    return cell.with_suffix(".encoder.safetensors")


def play_cell(cell: Cell, label: str = "", encoder: Path | None = None) -> Judgement:
    """Play one cell in this process; what it has trained is written to the file `encoder`."""
    from envs.training import TrainingEnv
    from fedcore.data.loading import load_images
    from fedcore.workload import PreparedData

    scenario = parse(cell.scenario, "scenario")
    dataset = None
    if cell.data is not None:
        dataset = load_images(cell.data, size_px=scenario.workload.image_px)
    env = TrainingEnv(
        scenario, "efficiency", room_for(scenario), dataset=dataset, target_infonce=cell.target_infonce,
        reference_rounds=cell.reference_rounds,
    )  # fmt: skip
    agent = orchestrator(cell.agent, scenario)
    collapsed, refused = False, []

    def on_round(info: dict[str, Any]) -> None:
        nonlocal collapsed
        collapsed = collapsed or info["collapsed"]
        refused.extend(info["refused"])
        tell((label, info["round"], info["progress"]))

    result = play_episode(agent, env, HELD_OUT_SEED + cell.seed, on_round)
    training, data = env.learner.training, env.learner.data
    assert training is not None
    assert data is not None
    if encoder is not None:
        save_encoder(encoder, training.state, scenario.workload, data.channels)
    probes = untrained = raw = Probes()
    if isinstance(data, PreparedData):  # text has no labels to probe: its held-out loss is in the result
        probes = probe_encoder(training.model, training.state, data.dataset)
        untrained = probe_untrained(training.model, training.seed, data.dataset)
        raw = probe_raw(data.dataset)
    return Judgement(result, probes, untrained, raw, collapsed, tuple(refused))


def _play_to_dict(cell: Cell, label: str, encoder: Path | None) -> dict[str, Any]:
    return asdict(play_cell(cell, label, encoder))


def judge(
    cells: Sequence[Cell],
    folder: Path,
    workers: int = 2,
    on_round: Callable[[int, int, float], None] = lambda index, rounds, progress: None,
    encoders: bool = False,
) -> list[Judgement]:
    """Play cells side by side, each single-threaded; cells that a folder already holds, whole, are read, not played.

    Args:
        cells: what to play.
        folder: one JSON file per finished cell.
        workers: processes.
        on_round: called with (index of the cell, rounds so far, progress); progress is infinite when a cell has ended.
        encoders: keep what was trained too, at `encoder_path`.

    Returns:
        Judgements in the order of the cells.
    """
    paths = [cell_path(folder, cell) for cell in cells]
    kept = [_kept(path) for path in paths]
    todo = [
        i for i, path in enumerate(paths) if kept[i] is None or (encoders and not encoder_path(path).is_file())
    ]
    for i in set(range(len(cells))) - set(todo):
        on_round(i, 0, float("inf"))
    if todo:
        updates = multiprocessing.get_context("spawn").Queue()
        with worker_pool(min(workers, len(todo)), telling, (updates,)) as pool:
            jobs = {pool.submit(_play_to_dict, cells[i], str(i), encoder_path(paths[i]) if encoders else None): i for i in todo}
            waiting = set(jobs)
            while waiting:
                done, waiting = concurrent.futures.wait(waiting, timeout=0.3)
                for label, rounds, progress in lately(updates):
                    on_round(int(label), rounds, progress)
                for job in done:
                    write_text(paths[jobs[job]], json.dumps(job.result()))
                    kept[jobs[job]] = _kept(paths[jobs[job]])
                    on_round(jobs[job], 0, float("inf"))
    return [judgement for judgement in kept if judgement is not None]


def _kept(path: Path) -> Judgement | None:
    """A finished cell; None where there is none, or what is there is none of ours."""
    try:
        return Judgement.from_dict(read_kept(path))
    except (TypeError, KeyError):
        return None


def cell_scenario(scenario: Scenario) -> dict[str, Any]:
    """A scenario as a dictionary that crosses processes."""
    return dict(scenario.model_dump(mode="json"))


def bring(scenario: Scenario, data: Path | None) -> Scenario:
    """A scenario whose encoder reads text, with a person's in place of its own; any other as it is, see `images_for`."""
    if data is None or not reads_text(scenario.workload):
        return scenario
    return scenario.model_copy(update={"workload": scenario.workload.model_copy(update={"data": str(data.resolve())})})


def images_for(scenario: Scenario, data: Path | None) -> str | None:
    """Path of a person's images that take the place of a scenario's own; None where there are none, or its encoder reads
    text."""
    return None if data is None or reads_text(scenario.workload) else str(data)
