"""A picture of an orchestrator in the middle of a simulated episode."""

from __future__ import annotations

import io
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from envs.orchestration import OrchestrationEnv
from scenarios import Scenario


class _Decides(Protocol):
    def begin(self, scenario: Scenario) -> None: ...

    def decide(self, observation: NDArray[np.floating]) -> NDArray[np.float32]: ...


def snapshot(agent: _Decides, scenario: Scenario, rounds: int = 8, seed: int = 1_000_000) -> bytes:
    """PNG of the rendered environment after some rounds, or at the episode's end if that comes first.

    Args:
        agent: who decides.
        scenario: where.
        rounds: how many to play.
        seed: of the episode.
    """
    env = OrchestrationEnv(scenario, reward="efficiency", render_mode="rgb_array")
    observation, _ = env.reset(seed=seed)
    agent.begin(scenario)
    for _ in range(rounds):
        observation, _, ended, _, _ = env.step(agent.decide(observation))
        if ended:
            break
    frame = env.render()
    assert isinstance(frame, np.ndarray)
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG")
    return buffer.getvalue()
