"""A trial of two tiny machines, and the same run once more in process."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from agents.real_run import ENCODER, EVENTS, Job
from envs.training import learner_seed
from fedcore.engines import InProcessEngine
from fedcore.workload import build_training, method_of, prepare_data, recipe_of
from scenarios import load, parse

SEED = 1_000_000


class Trial:
    """Rounds of two machines, server-0 and server-1, that take half of the neurons and two steps each."""

    def __init__(self, folder: Path, rounds: int, deadline_s: float | None = None) -> None:
        content = load("two-servers").model_dump(mode="json")
        content["budgets"].update(rounds=rounds, time_s=1e9, bytes=1e12, energy_j=1e12)
        content["workload"].update(image_px=16, batch_size=8, encoder_options={"widths": [8, 8, 8]}, precision="fp32")
        content["decision"].update(sync_intervals=[1, 2], deadline_s=deadline_s)
        content["reference"]["sync_interval"] = 2
        content["fleet"]["groups"][0]["images"] = 24
        self.folder, self.content = folder, content
        self.scenario = parse(content, "tiny")
        self.job = Job("fixed:0.5x2", content, SEED, str(folder))

    def play(self, on_event: Callable[[dict[str, Any]], None] = lambda event: None, hosts: Any = None) -> dict[str, Any]:
        from agents.flower_trial import play_trial

        return play_trial(self.job, on_event, hosts)

    def events(self, kind: str = "round") -> list[dict[str, Any]]:
        events = [json.loads(line) for line in (self.folder / EVENTS).read_text().splitlines()]
        return [event for event in events if event["kind"] == kind]

    def lines(self) -> list[str]:
        return [event["text"] for event in self.events("log")]

    def statuses(self, machine: str) -> list[str]:
        return [event["status"][machine] for event in self.events()]

    def came(self) -> list[list[bool]]:
        """Per round, whose blocks came back."""
        return [[event["status"][name] == "done" for name in self.scenario.fleet.machine_names] for event in self.events()]

    def ends_as_in_process(self, decisions: list[dict[str, Any]], came: list[list[bool]]) -> bool:
        """Whether the weights are, bit for bit, those of the same decisions in process with the same blocks lost."""
        seed = learner_seed(SEED)
        data = prepare_data(self.scenario, seed=seed)
        workload = self.scenario.workload
        engine = InProcessEngine(data.samples(), recipe_of(workload))
        training = build_training(self.scenario, data, None, seed, method_of(workload), engine=engine)
        for decision, back in zip(decisions, came, strict=True):
            training.play(decision["shares"], decision["steps"], back)
        weights = load_file(str(self.folder / ENCODER))
        state = training.state
        return weights.keys() == state.keys() and all(torch.equal(weights[name], state[name]) for name in state)

    def processes(self) -> dict[int, str]:
        """Live ones whose command or environment names the folder: number -> command."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                environment = (entry / "environ").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if command and (str(self.folder) in command or f"FLWR_HOME={self.folder}" in environment):
                found[int(entry.name)] = command
        found.pop(os.getpid(), None)
        return found


@pytest.fixture
def trial(tmp_path: Path) -> Callable[..., Trial]:
    return lambda rounds, deadline_s=None: Trial(tmp_path / "run", rounds, deadline_s)
