"""What a policy is trained on: one scenario, the whole library, or random scenarios (domain randomisation)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from fedcore.parallel import worker_pool
from fedcore.world import World, compile_world
from scenarios import load, names, random_scenario
from scenarios.generate import RANGES, Split
from scenarios.schema import Scenario

RANDOM, LIBRARY = "random", "library"
DRAWS = 1920
"""Random scenarios that a policy is trained on: an episode draws one of them. Few are learnt by heart."""
MANY = 64
"""Scenarios that are worth processes of their own."""
TRIAL_DRAWS = 128
"""Random scenarios, of the validation range, that decide which policy is kept."""


def random_scenarios(count: int, seed: int, split: Split = "train") -> list[Scenario]:
    """Draws from a split of `scenarios.generate`, the same for the same seed."""
    return [random_scenario(np.random.default_rng([seed, i]), split) for i in range(count)]


def compiled(chosen: Sequence[Scenario], workers: int = 1) -> list[World]:
    """Scenarios compiled, in so many processes where they are many.

    Raises:
        InputError: one does not compile.
    """
    if workers < 2 or len(chosen) < MANY:
        return [compile_world(scenario) for scenario in chosen]
    with worker_pool(workers) as pool:
        return list(pool.map(compile_world, chosen, chunksize=8))


def training_worlds(name: str, seed: int, draws: int = DRAWS, workers: int = 1) -> list[World]:
    """Compiled scenarios to train on.

    Args:
        name: of a scenario or its file; "library" for all of the library, "random" for draws of the training range.
        seed: of the draws.
        draws: their number.
        workers: processes; the result does not depend on it.

    Raises:
        InputError: unknown scenario, or one that does not compile.
    """
    if name == RANDOM:
        chosen = random_scenarios(draws, seed)
    else:
        chosen = [load(one) for one in (names() if name == LIBRARY else [name])]
    return compiled(chosen, workers)


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
    return compiled(random_scenarios(TRIAL_DRAWS, seed, "validation"), workers)


def contents(worlds: Sequence[World]) -> list[str]:
    """What decides what is learned in such worlds, as texts for a key."""
    return [text for w in worlds for text in (w.scenario.model_dump_json(), w.calibration.to_json())]


def described(name: str, draws: int = DRAWS) -> dict[str, Any]:
    """Of what range such worlds are, for a policy's card."""
    return {"draws": draws, **asdict(RANGES["train"])} if name == RANDOM else {}
