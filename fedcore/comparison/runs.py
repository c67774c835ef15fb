"""One run of the comparison: a method, a fleet, a data set, a seed; quality against what it has cost so far."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedcore.comparison.capacity import capacity_shares
from fedcore.comparison.entries import entry_of
from fedcore.costs import BlockCost, cost_of_share
from fedcore.data.dataset import Dataset
from fedcore.data.loading import load_images
from fedcore.encoders import ENCODERS
from fedcore.fleet.player import FleetPlayer
from fedcore.methods import Method, RoundCost
from fedcore.probes import HeldOutInfoNCE
from fedcore.probes.report import ProbeReport, probe_report
from fedcore.training import FederatedTraining
from fedcore.workload import build_training, model_for, prepare_images, recipe_of
from scenarios import parse
from scenarios.errors import InputError
from scenarios.schema import Scenario

STALLED_ROUNDS = 20
REFERENCE = "fedavg"


@dataclass(frozen=True)
class RunSpec:
    """One run.

    Attributes:
        entry: name of an entry.
        scenario: as a plain dictionary, so that it crosses processes.
        data: path of a user's images, or None for the scenario's own.
        seed: of weights, blocks, batches, views and fleet.
        rounds: that FedAvg plays; its time, energy and bytes are everyone's budgets.
        steps: H.
        every: rounds of H steps between checkpoints; where an entry has an H of its own, as many local steps.
        longest: no method trains more than this many times the local steps of all the reference's machines together,
            whatever of its budgets is left; so a machine that trains alone may play for many more rounds.
    """

    entry: str
    scenario: dict[str, Any]
    data: str | None
    seed: int
    rounds: int
    steps: int
    every: int
    longest: float


@lru_cache(maxsize=2)
def _images(path: str, size_px: int, changed_ns: int) -> Dataset:
    return load_images(path, size_px=size_px)


def _dataset(spec: RunSpec, scenario: Scenario) -> Dataset | None:
    if spec.data is None:
        return None
    return _images(spec.data, scenario.workload.image_px, Path(spec.data).stat().st_mtime_ns)


def reference_budgets(scenario: Scenario, whole: BlockCost, spec: RunSpec) -> dict[str, float]:
    """Time, energy and bytes of `rounds` rounds of whole models on this fleet, without any training."""
    player = FleetPlayer(scenario, spec.seed)
    cost = RoundCost.of(whole)
    spent = np.zeros(3)
    for _ in range(spec.rounds):
        played = player.play([cost] * len(scenario.fleet.machines), spec.steps)
        spent += (played.time_s, played.energy_j, played.bytes)
    return dict(zip(("time_s", "energy_j", "bytes"), (float(v) for v in spent), strict=True))


def round_costs(training: FederatedTraining, shares: list[float], steps: int) -> list[RoundCost | None]:
    """What the next round asks of every machine."""
    method, server = training.method, training.server
    return [
        None if block is None else method.cost(server, k, block, steps, training.engine.recipe)
        for k, block in enumerate(training.plan(shares))
    ]


def play(spec: RunSpec) -> dict[str, Any]:
    """Play a run to the end of its last budget.

    Returns:
        A JSON record: `budgets`, `shares`, `checkpoints` (cost so far and quality), `memory_bytes` per machine (peak
        working memory of what it was given), `report` of the final encoder, `personal` qualities of the machines' own models
        where the method has any, `raw` quality of raw pixels (the reference's runs only); or `refused` with the sentence
        that says why this method cannot train this model on this fleet.
    """
    scenario = parse(spec.scenario, "scenario")
    entry = entry_of(spec.entry)
    steps = entry.steps or spec.steps
    if ENCODERS[scenario.workload.encoder].reads != "images":
        raise InputError(
            f"scenario {scenario.name}: workload.encoder {scenario.workload.encoder} reads text, expected one for images: the "
            "comparison's probes are for image features"
        )
    data = prepare_images(scenario, _dataset(spec, scenario), spec.seed)
    channels = data.dataset.images.shape[3]
    reference = model_for(scenario.workload, channels, scenario.name)
    whole = cost_of_share(reference, 1.0, 1.0, scenario.workload.batch_size)
    budgets = reference_budgets(scenario, whole, spec)
    capacity = capacity_shares(scenario, whole)
    speed = np.array([group.device.throughput_gflops for group in scenario.fleet.machines])
    shares = entry.shares_of(capacity, speed)
    own = scenario.model_copy(update={"workload": entry.workload(scenario.workload)})
    try:
        longest = round(spec.longest * spec.rounds * spec.steps / steps)
        method: Method = entry.build(longest, len(reference.encoder.stages))
        training = build_training(own, data, None, spec.seed, method, entry.recipe(recipe_of(own.workload)))
    except InputError as error:
        return {"refused": str(error), "budgets": budgets}
    progress = training.probe
    assert isinstance(progress, HeldOutInfoNCE)
    player = FleetPlayer(scenario, spec.seed)
    spent = {"time_s": 0.0, "energy_j": 0.0, "bytes": 0.0, "upload_bytes": 0.0, "server_flops": 0.0}
    memory = np.zeros(len(shares))
    checkpoints: list[dict[str, float]] = []
    started = time.perf_counter()

    def check() -> ProbeReport:
        report = probe_report(training.model, training.state, data.dataset, progress, spec.seed, quick=True)
        checkpoints.append({"round": training.round_index, **spent, **report.numbers()})
        return report

    check()
    stalled, machine_steps = 0, 0
    next_check = spec.every * spec.steps
    while machine_steps < spec.longest * spec.rounds * spec.steps * len(shares):
        try:
            costs = round_costs(training, shares, steps)
        except InputError as error:  # some methods see only with the blocks that they cannot serve this fleet
            return {"refused": str(error), "budgets": budgets}
        memory = np.maximum(memory, [0.0 if cost is None else cost.memory_bytes for cost in costs])
        played = player.play(costs, steps, method.one_by_one)
        training.play(shares, steps, [bool(d) for d in played.done])
        for name, value in (("time_s", played.time_s), ("energy_j", played.energy_j), ("bytes", played.bytes)):
            spent[name] += value
        spent["upload_bytes"] += sum(
            cost.upload_bytes for cost, done in zip(costs, played.done, strict=True) if cost is not None and done
        )
        spent["server_flops"] += sum(
            cost.server_flops for cost, done in zip(costs, played.done, strict=True) if cost is not None and done
        )
        machine_steps += steps * int(played.done.sum())
        stalled = 0 if played.done.any() else stalled + 1
        over = all(spent[name] >= budget for name, budget in budgets.items())
        if over or stalled > STALLED_ROUNDS:
            break
        if training.round_index * steps >= next_check:
            # Ever farther apart beyond the reference's length: lone machines play for hundreds of rounds.
            next_check += spec.every * spec.steps * max(1, training.round_index * steps // (spec.rounds * spec.steps))
            check()
    if checkpoints[-1]["round"] != training.round_index:
        check()
    personal = [
        probe_report(training.model, state, data.dataset, progress, spec.seed, quick=True).quality
        for state in method.personal_states(training.server)
        if state is not None
    ]
    full = probe_report(training.model, training.state, data.dataset, progress, spec.seed)
    raw = None
    if spec.entry == REFERENCE:
        raw = probe_report(training.model, training.state, data.dataset, progress, spec.seed, raw=True, quick=True).quality
    return {
        "budgets": budgets,
        "shares": shares,
        "checkpoints": checkpoints,
        "memory_bytes": memory.tolist(),
        "weakest": int(np.argmin(capacity * 1e6 + speed)),
        "report": full.to_dict(),
        "personal": personal,
        "raw": raw,
        "seconds": time.perf_counter() - started,
    }



