"""One run of the comparison: a method, a fleet, a data set, a seed; quality against what it has cost so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.comparison.capacity import capacity_shares, machine_costs, memory_bytes
from fedcore.comparison.entries import entry_of
from fedcore.comparison.measures import measure_of
from fedcore.costs import BlockCost
from fedcore.data.dataset import Dataset
from fedcore.data.loading import load_images
from fedcore.engines import InProcessEngine
from fedcore.fleet.player import FleetPlayer
from fedcore.methods import Method, RoundCost
from fedcore.samples import set_aside
from fedcore.training import FederatedTraining
from fedcore.workload import build_training, model_for, prepare_data, recipe_of
from scenarios import parse
from scenarios.errors import InputError
from scenarios.schema import Scenario
from scenarios.sources import file_state

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
def _images(path: str, size_px: int, state: str) -> Dataset:
    return load_images(path, size_px=size_px)


def _dataset(spec: RunSpec, scenario: Scenario) -> Dataset | None:
    if spec.data is None:
        return None
    return _images(spec.data, scenario.workload.image_px, file_state(spec.data))


def reference_budgets(
    scenario: Scenario, whole: Sequence[BlockCost], holds: NDArray[np.bool_], spec: RunSpec
) -> dict[str, float]:
    """Time, energy and bytes of `rounds` rounds of whole models on this fleet, without any training.

    Args:
        scenario: whose fleet.
        whole: cost of the whole model on every machine.
        holds: (K,) whose memory holds it; the others rest.
        spec: of the run.

    Raises:
        InputError: no machine's memory holds the whole model.
    """
    player = FleetPlayer(scenario, spec.seed)
    if not holds.any():
        raise InputError(
            f"scenario {scenario.name}: no machine has the {whole[0].memory_bytes / 1e6:.1f} MB that training the whole model "
            "takes, so FedAvg, whose costs are everyone's budgets, cannot play; expected more memory_mb, or a smaller encoder "
            "or batch"
        )
    costs = [RoundCost.of(cost) if fits else None for cost, fits in zip(whole, holds, strict=True)]
    spent = np.zeros(3)
    for _ in range(spec.rounds):
        played = player.play(costs, spec.steps)
        spent += (played.time_s, played.energy_j, played.bytes)
    return dict(zip(("time_s", "energy_j", "bytes"), (float(v) for v in spent), strict=True))


def round_costs(
    training: FederatedTraining, shares: Sequence[float], steps: int, holds_bytes: NDArray[np.float64]
) -> tuple[list[float], list[RoundCost | None]]:
    """What the next round asks of every machine; whose memory does not hold its block rests.

    Args:
        training: before that round.
        shares: that the method is given.
        steps: H.
        holds_bytes: (K,) memory.

    Returns:
        The shares without those who rest, and the costs.
    """
    method, server, left = training.method, training.server, list(shares)
    while True:
        costs = [
            None if block is None else method.cost(server, k, block, steps, training.engine.recipe)
            for k, block in enumerate(training.plan(left))
        ]
        resting = [k for k, cost in enumerate(costs) if cost is not None and cost.memory_bytes > holds_bytes[k]]
        if not resting:
            return left, costs
        # Anew without them: what one machine trains may depend on who else takes part.
        left = [0.0 if k in resting else share for k, share in enumerate(left)]


def play(spec: RunSpec) -> dict[str, Any]:
    """Play a run to the end of its last budget.

    Returns:
        A JSON record: `budgets`, `shares`, `checkpoints` (cost so far and quality), `memory_bytes` per machine (peak
        working memory of what it was given), `lacking` names of the machines that had to rest in some round because their
        memory did not hold what the method gave them, `signal` of progress in the checkpoints, `report` of the final model,
        `kinds` that it counts, `personal` qualities of the machines' own models where the method has any, and `at_home`
        those of (its own model, the global one) on what is held out from where its data come, `raw` quality of raw
        pixels (the reference's runs on images only); or `refused` with the sentence that says why this method cannot train this
        model on this fleet.

    Raises:
        InputError: nobody's memory holds the whole model.
    """
    scenario = parse(spec.scenario, "scenario")
    entry = entry_of(spec.entry)
    steps = entry.steps or spec.steps
    data = prepare_data(scenario, _dataset(spec, scenario), spec.seed)
    reference = model_for(scenario.workload, data.channels, scenario.name)
    levels = machine_costs(reference, [recipe_of(scenario.workload).batch_of(len(own)) for own in data.clients])
    whole, holds_bytes = [own[1.0] for own in levels], memory_bytes(scenario)
    holds_whole = holds_bytes >= [cost.memory_bytes for cost in whole]
    budgets, capacity = reference_budgets(scenario, whole, holds_whole, spec), capacity_shares(scenario, levels)
    speed = np.array([group.device.throughput_gflops for group in scenario.fleet.machines])
    speed[~holds_whole] = 0.0  # the fastest alone is one that can
    shares = entry.shares_of(capacity, speed)
    own = scenario.model_copy(update={"workload": entry.workload(scenario.workload)})
    try:
        longest = round(spec.longest * spec.rounds * spec.steps / steps)
        method: Method = entry.build(longest, len(reference.encoder.stages))
        recipe, held = entry.recipe(recipe_of(own.workload)), data.samples()
        held, auxiliary = set_aside(held) if entry.server_samples else (held, None)
        engine = InProcessEngine(held, recipe)
        training = build_training(own, data, None, spec.seed, method, engine=engine, auxiliary=auxiliary)
    except InputError as error:
        return {"refused": str(error), "budgets": budgets}
    measure = measure_of(data, training.probe, spec.seed)
    player = FleetPlayer(scenario, spec.seed)
    spent = {"time_s": 0.0, "energy_j": 0.0, "bytes": 0.0, "upload_bytes": 0.0, "server_flops": 0.0}
    memory, longest_steps = np.zeros(len(shares)), spec.longest * spec.rounds * spec.steps * int(holds_whole.sum())
    # Under capacity shares, a machine that holds not even the narrowest model is given nothing.
    lacks = (capacity == 0.0) & (entry.shares == "capacity")
    checkpoints: list[dict[str, float]] = []
    started = time.perf_counter()

    def check() -> None:
        told = measure.numbers(training.model, training.state)
        checkpoints.append({"round": training.round_index, **spent, **told})

    check()
    stalled, machine_steps = 0, 0
    turned_down, thin, merged, collapsed = list[str](), list[str](), 0, False
    next_check = spec.every * spec.steps
    while machine_steps < longest_steps:
        try:
            fitting, costs = round_costs(training, shares, steps, holds_bytes)
        except InputError as error:  # some methods see only with the blocks that they cannot serve this fleet
            return {"refused": str(error), "budgets": budgets}
        if not any(fitting):
            return {"refused": f"{spec.entry}: no machine's memory holds the block that it is given", "budgets": budgets}
        lacks |= np.array(fitting) < np.array(shares)
        memory = np.maximum(memory, [0.0 if cost is None else cost.memory_bytes for cost in costs])
        played = player.play(costs, steps, method.one_by_one)
        told = training.play(fitting, steps, [bool(d) for d in played.done])
        turned_down += told.refused
        thin += [told.unprotected] if told.unprotected else []
        merged += sum(told.came_back)
        collapsed = told.collapsed
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
    personal, at_home = list[float](), list[tuple[float, float]]()
    for k, state in enumerate(method.personal_states(training.server)):
        if state is None:
            continue
        personal.append(measure.numbers(training.model, state)["quality"])
        home = measure.of_machine(k)
        if home is not None:
            theirs, shared = (home.numbers(training.model, s)["quality"] for s in (state, training.state))
            at_home.append((theirs, shared))
    return {
        "budgets": budgets,
        "shares": shares,
        "checkpoints": checkpoints,
        "memory_bytes": memory.tolist(),
        "turned_down": [len(turned_down), *turned_down[:1]],
        "unprotected": [len(thin), *thin[:1]],
        "merged": merged,
        "collapsed": collapsed,
        "lacking": [name for name, lacking in zip(scenario.fleet.machine_names, lacks, strict=True) if lacking],
        "weakest": int(np.lexsort((speed, capacity))[0]),
        "signal": measure.signal,
        "report": measure.report(training.model, training.state),
        "kinds": list(measure.kinds),
        "personal": personal,
        "at_home": at_home,
        "raw": measure.raw(training.model, training.state) if spec.entry == REFERENCE else None,
        "seconds": time.perf_counter() - started,
    }



