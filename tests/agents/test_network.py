"""What the network derives from an observation is what the patterns of the menu decide by."""

from typing import Any

import numpy as np
import torch

from agents.network import derived
from envs.crews import WEIGHTS
from envs.menu import LEVELS, PATTERNS, interval_at
from envs.observation import N_FLEET, N_MACHINE, split
from envs.patterns import ready
from envs.vector import OrchestrationVectorEnv
from scenarios import load


def test_it_is_told_whom_every_turn_would_ask() -> None:
    env = OrchestrationVectorEnv(40, [load(name) for name in ("phones", "field-nb-iot", "lan-gpu-closet", "mobile-buses")])
    rng = np.random.default_rng(0)
    frames: list[Any] = [env.reset(seed=0)[0]]
    frames += [env.step(rng.uniform(-1, 1, (40, 17)).astype(np.float32))[0] for _ in range(6)]
    observations = np.concatenate(frames)
    view, x = split(observations), torch.from_numpy(observations)
    body = x[:, : -N_FLEET].view(len(x), -1, N_MACHINE)
    told = derived(body, x[:, -N_FLEET:], torch.from_numpy(ready(view)))[:, :, -len(WEIGHTS) :].numpy() > 0
    for i, name in enumerate(WEIGHTS):
        asked = PATTERNS[name](view, interval_at(observations, LEVELS - 1)) > 0
        plain = (told[:, :, i].sum(axis=1) == 1) & (asked.sum(axis=1) == 1)  # no two alike, and nobody short of memory
        assert plain.sum() > 100
        assert (told[plain, :, i] == asked[plain]).all(axis=1).mean() > 0.99
