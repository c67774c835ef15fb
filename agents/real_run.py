"""One run on real machines: the orchestrator is asked every round, what happens is told, and nothing finished is ever lost."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.agent_key import agent_key
from agents.benchmark import orchestrator
from agents.checkpoint import Kept, read_kept, restore, save_checkpoint
from agents.episodes import EpisodeResult, curve_point
from envs.measured import MeasuredEnv
from envs.training import learner_seed
from fedcore.data.loading import load_images
from fedcore.dynamics import load_calibration
from fedcore.encoder_file import save_encoder
from fedcore.engines.remote import RemoteEngine
from fedcore.files import content_key, write_text
from fedcore.methods.private import Private
from fedcore.remote.ear import Ear
from fedcore.remote.transport import Transport
from fedcore.samples import Samples
from fedcore.training import ProgressScale
from fedcore.workload import Prepared, made_here, prepare_data
from fedcore.world import room_for
from scenarios import InputError, Scenario, parse
from scenarios.sources import sources_of

EVENTS, RESULT, CHECKPOINT, ENCODER, FAILED = (
    "events.jsonl", "result.json", "checkpoint.safetensors", "encoder.safetensors", "failed.txt",
)  # fmt: skip


ELSEWHERE = ("folder", "gather_s", "load_port")
"""Of a job: where it is kept, and how machines are reached. What it plays does not hang on them."""


@dataclass(frozen=True)
class Job:
    """What to run.

    Attributes:
        agent: a name that `benchmark.orchestrator` takes.
        scenario: as a plain dictionary.
        seed: of the episode.
        folder: where events, checkpoint and result go.
        data: path of images that the server measures progress on, or None for the scenario's own.
        target_infonce: progress 1 on that data, or None for the scenario's calibration.
        reference_rounds: that the reference policy needs to get there; None takes those of simulation.
        precision: of blocks on the way up; None takes the scenario's.
        context_precision: of what machines only see, on the way down: as `RemoteEngine`'s.
        deadline_s: after which a block is lost; None takes the scenario's, which may have none.
        gather_s: to wait for all machines at the start, or where a run goes on for those that were there when it stopped.
        load_port: UDP port at which machines that rest tell their load; 0 takes a free one, None does without.
    """

    agent: str
    scenario: dict[str, Any]
    seed: int
    folder: str
    data: str | None = None
    target_infonce: float | None = None
    reference_rounds: float | None = None
    precision: str | None = None
    context_precision: str = "fp32"
    deadline_s: float | None = None
    gather_s: float = 600.0
    load_port: int | None = 0

    def identity(self) -> str:
        """Names the run by content, for its checkpoint: not by what is in `ELSEWHERE`. What the calibration says is part of
        it, as observations and the score are told beside its reference, and what is in the files that are read."""
        known = {name: value for name, value in asdict(self).items() if name not in ELSEWHERE}
        scenario = Scenario.model_validate(self.scenario)
        known["precision"] = self.precision or scenario.decision.wire_precision
        policy = agent_key(self.agent)
        calibration = load_calibration(self.scenario["workload"]["calibration"]).to_json()
        sources = sources_of(scenario, self.data)
        return content_key(json.dumps(known, sort_keys=True), policy, calibration, *sources)

    def write(self, path: Path) -> None:
        """To a file."""
        write_text(path, json.dumps(asdict(self)))

    @staticmethod
    def read(path: Path) -> Job:
        """From a file.

        Raises:
            InputError: there is none, or it does not read.
        """
        try:
            return Job(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise InputError(f"job {path} does not read ({error}); expected a file that evaluate.py wrote") from None


class Events:
    """What happens in a run, line by line in a file that others may read meanwhile.

    Args:
        path: of the file; lines are added.
        tell: told every line of text too.
        on_event: given every event too.
    """

    def __init__(
        self,
        path: Path,
        tell: Callable[[str], None] = lambda line: None,
        on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._tell, self._on_event = path, tell, on_event

    def write(self, kind: str, **values: Any) -> None:
        """One event."""
        event = {"kind": kind, "at": time.time(), **values}
        self._on_event(event)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")
        except OSError as error:
            # A full disk must not end a run that only wanted to tell of it.
            text = f"events are not written: {error.strerror or error}"
            self._on_event({"kind": "log", "at": event["at"], "text": text})
            self._tell(text)

    def say(self, text: str) -> None:
        """One line of log."""
        self.write("log", text=text)
        self._tell(text)


def result_of(folder: Path) -> dict[str, Any]:
    """What a run that has ended told."""
    return dict(json.loads((folder / RESULT).read_text(encoding="utf-8")))


def own_samples(job: Job) -> Sequence[Samples]:
    """Per machine, its own samples: the same that training in process would give it."""
    scenario = parse(job.scenario, "scenario")
    return (_from_files(job, scenario) or prepare_data(scenario, seed=learner_seed(job.seed))).samples()


def _from_files(job: Job, scenario: Scenario) -> Prepared | None:
    """A person's data, dealt to the scenario's machines; None where they are made by the program."""
    if job.data is not None:
        return prepare_data(scenario, load_images(job.data, size_px=scenario.workload.image_px))
    return None if made_here(scenario.workload) else prepare_data(scenario)


def run_job(
    job: Job,
    transport: Transport,
    tell: Callable[[str], None] = print,
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
) -> EpisodeResult:
    """Play a run to its end, from its checkpoint where there is one.

    Args:
        job: what to run.
        transport: to the machines' nodes; closed at the end.
        tell: told one line per thing that happens.
        on_event: given every event, as `Events`.

    Raises:
        InputError: machines are missing at the start, or job, policy, data or checkpoint are bad.
    """
    scenario, folder = parse(job.scenario, "scenario"), Path(job.folder)
    events = Events(folder / EVENTS, tell, on_event)
    agent = orchestrator(job.agent, scenario)
    data = _from_files(job, scenario)
    deadline_s = scenario.decision.deadline_s if job.deadline_s is None else job.deadline_s
    ear = None if job.load_port is None else Ear(job.load_port)
    engine = RemoteEngine(
        transport, scenario.workload, scenario.fleet.machine_names, 1 if data is None else data.channels,
        job.precision or scenario.decision.wire_precision, deadline_s, events.say, context_precision=job.context_precision,
        ear=ear,
    )  # fmt: skip
    scale = None if job.target_infonce is None else ProgressScale(np.inf, job.target_infonce)
    try:
        kept = read_kept(folder / CHECKPOINT, job.identity()) if (folder / CHECKPOINT).is_file() else None
        if kept is not None:
            engine.roll.recall(kept.log["roll"])
        engine.gather(job.gather_s, None if kept is None else kept.log["roll"]["there"])
        env = MeasuredEnv(scenario, engine, data, scale, room_for(scenario), job.reference_rounds)
        return _play(job, env, engine, agent, events, kept)
    finally:
        engine.close()


def _play(
    job: Job, env: MeasuredEnv, engine: RemoteEngine, agent: Any, events: Events, kept: Kept | None
) -> EpisodeResult:
    folder = Path(job.folder)
    checkpoint = folder / CHECKPOINT
    _, info = env.reset(seed=job.seed)
    agent.begin(env.core.world().scenario)
    curve: list[list[float]] = []
    decisions: list[dict[str, Any]] = []
    shown: list[NDArray[np.float32]] = []
    if kept is not None:
        shown = restore(kept, env, agent)
        curve, decisions, engine.run = kept.log["curve"], kept.log["decisions"], kept.log["run"]
        events.say(f"going on from the checkpoint after round {env.core.round[0]}")
        info = env.core.info(0)
    ended = bool(env.core.end_reasons()[0]) if curve else False
    names = env.core.world().arrays.names
    training, data = env.learner.training, env.learner.data
    assert training is not None
    assert data is not None

    def spent() -> dict[str, float]:
        """Of the privacy of the machine that took part most often; nothing where the run keeps none, or adds no noise."""
        epsilon = training.method.epsilon(training.server) if isinstance(training.method, Private) else math.inf
        return {"epsilon": epsilon} if math.isfinite(epsilon) else {}

    while not ended:
        shown.append(env.observation().copy())
        action = agent.decide(shown[-1])
        _, _, ended, _, info = env.step(action)
        curve.append(curve_point(info))
        decisions.append({"shares": [float(s) for s in info["shares"][: info["machines"]]], "steps": info["sync_interval"]})
        for text in info["refused"]:
            events.say(f"round {info['round'] - 1}: refused: {text}")
        if info["collapsed"]:
            events.say(f"round {info['round'] - 1}: the encoder has collapsed: it no longer tells images apart")
        events.write(
            "round", round=info["round"], progress=info["progress"], seconds=info["round_time_s"], bytes=info["round_bytes"],
            joules=info["round_energy_j"], meter=info["meter"], steps=info["sync_interval"],
            status=dict(zip(names, info["status"], strict=True)), machines=info["measured"], slowness=info["slowness"],
            charge=info["charge"], **spent(),
        )  # fmt: skip
        log = {"curve": curve, "decisions": decisions, "run": engine.run, "roll": engine.roll.to_dict()}
        try:
            save_checkpoint(checkpoint, env, shown, log, job.identity())
        except InputError as error:
            events.say(f"round {info['round'] - 1}: no new checkpoint, the one before is kept: {error}")
    result = EpisodeResult.of(
        agent.name, env.core.world().scenario.name, job.seed, info, float(env.core.log_efficiency()[0]),
        bool(env.core.progress[0] >= 1.0), curve,
    )  # fmt: skip
    save_encoder(folder / ENCODER, training.state, env.core.world().scenario.workload, data.channels)
    told = {"result": result.to_dict(), "decisions": decisions, "meter": info.get("meter", "none"), **spent()}
    write_text(folder / RESULT, json.dumps(told))
    return result
