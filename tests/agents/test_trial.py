"""What a policy is worth while it learns."""

from typing import Any, cast

import numpy as np
import pytest
from stable_baselines3.common.base_class import BaseAlgorithm

import scenarios
from agents.trial import TRIAL_SEED, trial
from agents.vecenv import BatchedVecEnv
from fedcore.world import compile_world


class First:
    """Takes the first move of the menu."""

    def predict(self, observation: np.ndarray, deterministic: bool) -> tuple[np.ndarray, None]:
        assert deterministic
        return np.zeros(len(observation), dtype=np.int64), None


def test_episodes_that_go_on_count_as_ended_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = [compile_world(scenarios.load("farm-lte"))]
    monkeypatch.setattr("agents.trial.EPISODES", 5)
    monkeypatch.setattr("agents.trial.ROUNDS", 2)
    env = BatchedVecEnv(worlds, 5, TRIAL_SEED, menu=True)
    env.reset()
    for _ in range(2):
        env.step_async(np.zeros(5, dtype=np.int64))
        ended = env.step_wait()[2]
        assert not ended.any()
    assert trial(cast(BaseAlgorithm, First()), worlds) == pytest.approx(env.core.log_efficiency().mean())


def test_episodes_count_once_however_long_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = [compile_world(scenarios.load("two-servers"))]
    monkeypatch.setattr("agents.trial.EPISODES", 6)
    env = BatchedVecEnv(worlds, 6, TRIAL_SEED, menu=True)
    env.reset()
    first: dict[int, float] = {}
    for _ in range(60):
        env.step_async(np.zeros(6, dtype=np.int64))
        infos: list[dict[str, Any]] = env.step_wait()[3]
        for i, info in enumerate(infos):
            if info:
                first.setdefault(i, info["log_efficiency"])
    assert 0 < len(first) < 6  # some goes on after all sixty, and some ended and began again
    expected = np.mean([first.get(i, score) for i, score in enumerate(env.core.log_efficiency())])
    assert trial(cast(BaseAlgorithm, First()), worlds) == pytest.approx(expected)
