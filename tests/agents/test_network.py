"""What the network derives from an observation is what the patterns of the menu decide by."""

from typing import Any

import numpy as np
import torch

import agents
from agents.network import MANY_MACHINES, derived
from envs.crews import WEIGHTS
from envs.menu import LEVELS, PATTERNS, interval_at
from envs.observation import N_FLEET, N_MACHINE, split
from envs.patterns import ready
from envs.vector import OrchestrationVectorEnv
from scenarios import load, parse


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


def test_machines_in_order_are_told_as_pair_by_pair() -> None:
    env = OrchestrationVectorEnv(40, [load(name) for name in ("phones", "field-nb-iot", "lan-gpu-closet", "mobile-buses")])
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        observations = env.step(rng.uniform(-1, 1, (40, 17)).astype(np.float32))[0]
        x = torch.from_numpy(observations.copy())
        body = x[:, :-N_FLEET].view(len(x), -1, N_MACHINE)
        args = body, x[:, -N_FLEET:], torch.from_numpy(ready(split(observations)))
        assert torch.allclose(derived(*args), derived(*args, by_order=True), atol=1e-5)


def test_a_decision_for_many_machines_takes_them_in_order() -> None:
    content = load("phones").model_dump(mode="json")
    content["fleet"]["groups"] = [group | {"count": 64} for group in content["fleet"]["groups"]]
    env = OrchestrationVectorEnv(4, parse(content, "many"), max_machines=64 * len(content["fleet"]["groups"]))
    policy, observations = agents.load("ppo-default"), env.reset(seed=0)[0].copy()
    assert env.core.max_machines > MANY_MACHINES
    for _ in range(4):
        actions = policy.decide_batch(observations)  # pair by pair
        for one, action in zip(observations, actions, strict=True):
            assert (policy.decide(one) == action).all()
        observations = env.step(actions)[0].copy()
