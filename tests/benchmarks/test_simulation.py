"""The benchmark's toy has our spaces, so that the same learner learns on both."""

import runpy
from pathlib import Path

import pytest


@pytest.mark.parametrize("toy", [False, True])
def test_the_same_learner_takes_ours_and_the_toy(toy: bool) -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "simulation.py"))
    for learner in script["LEARNERS"]:
        assert script["ppo"](learner, 1, 1, toy) > 0.0
