"""What a policy is trained on: one scenario, the whole library, or random scenarios (domain randomisation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import repeat
from typing import Any

import numpy as np

from fedcore.parallel import worker_pool
from fedcore.workload import reads_text
from fedcore.world import UnreachableError, World, compile_world
from scenarios import InputError, load, names, random_scenario
from scenarios.generate import RANGES, Split
from scenarios.schema import Workload
from scenarios.sources import sources_of

RANDOM, LIBRARY = "random", "library"
DRAWS = 1920
"""Random scenarios that a policy is trained on: an episode draws one of them. Few are learnt by heart."""
MANY = 64
"""Draws that are worth processes of their own."""
ATTEMPTS = 100
TRIAL = ATTEMPTS
"""Entropy of draws that a policy is tried in: no attempt of those that it learns in has it."""
TRIAL_DRAWS = 128
"""Random scenarios, of the validation range, that decide which policy is kept."""


def random_world(entropy: Sequence[int], split: Split, workload: Workload | None = None) -> World:
    """A draw from a split of `scenarios.generate`, compiled: the first of its stream whose reference policy reaches the target
    within the budget of rounds, which nearly always is the first of all.

    Args:
        entropy: of the stream.
        split: to draw from.
        workload: in place of the drawn one; draws whose machines hold samples of another kind are passed over.

    Raises:
        InputError: of so many draws none does.
    """
    for attempt in range(ATTEMPTS):  # a 0 at the end of a seed changes no draw
        drawn = random_scenario(np.random.default_rng([*entropy, attempt]), split)
        if workload is not None:
            if reads_text(drawn.workload) != reads_text(workload):
                continue
            drawn = drawn.model_copy(update={"workload": workload})
        try:
            world = compile_world(drawn)
        except UnreachableError:
            continue
        if world.reference.rounds < world.budgets[3]:
            return world
    raise InputError(
        f"split {split}: of {ATTEMPTS} random scenarios (seeds {list(entropy)}) none has a reference policy that reaches the "
        "target; expected a calibration and ranges that let some"
    )


def random_worlds(number: int, seed: int, split: Split = "train", workers: int = 1, apart: Sequence[int] = ()) -> list[World]:
    """So many draws, the same for the same seed.

    Args:
        number: of draws.
        seed: of all.
        split: to draw from.
        workers: processes, where draws are many; the result does not depend on it.
        apart: entropy that sets them apart from others of the seed. Without, the draws of all splits are twins: the same
            places in different ranges.
    """
    streams = [(seed, i, *apart) for i in range(number)]
    if workers < 2 or number < MANY:
        return [random_world(stream, split) for stream in streams]
    with worker_pool(workers) as pool:
        return list(pool.map(random_world, streams, repeat(split), chunksize=8))


def training_worlds(name: str, seed: int, draws: int = DRAWS, workers: int = 1) -> list[World]:
    """Compiled scenarios to train on.

    Args:
        name: of a scenario or its file; "library" for all of the library, "random" for draws of the training range.
        seed: of the draws.
        draws: their number.
        workers: processes; the result does not depend on it.

    Raises:
        InputError: unknown scenario, one that does not compile, or one that pays by something else than efficiency.
    """
    if name == RANDOM:
        return random_worlds(draws, seed, workers=workers)
    scenarios = [load(one) for one in (names() if name == LIBRARY else [name])]
    for scenario in scenarios:
        if scenario.reward.kind != "efficiency":
            raise InputError(
                f"scenario {scenario.name}: reward.kind is {scenario.reward.kind!r}, but policies are trained by the score "
                "that they are judged by; expected efficiency, or gym.make and a learner of your own"
            )
    return [compile_world(scenario) for scenario in scenarios]


def trial_worlds(name: str, seed: int, worlds: Sequence[World], workers: int = 1) -> Sequence[World]:
    """Where a policy is tried while it learns: of "random", worlds that it does not learn in; else those that it does.

    Args:
        name: as of `training_worlds`.
        seed: of the draws.
        worlds: that it learns in.
        workers: processes.
    """
    if name != RANDOM:
        return worlds
    return random_worlds(TRIAL_DRAWS, seed, "validation", workers, (TRIAL,))


def contents(worlds: Sequence[World]) -> list[str]:
    """What decides what is learned in such worlds, as texts for a key."""
    return [text for w in worlds for text in (w.scenario.model_dump_json(), w.calibration.to_json(), *sources_of(w.scenario))]


def described(name: str, draws: int = DRAWS) -> dict[str, Any]:
    """Of what range such worlds are, for a policy's card."""
    return {"draws": draws, **asdict(RANGES["train"])} if name == RANDOM else {}
