"""The warm start learns what the teacher does."""

import numpy as np
import torch

import scenarios
from agents.network import to_choices
from agents.recipes import PPORecipe, build
from agents.warm_start import ENVS, lessons, warm_start
from envs.observation import MACHINE_FEATURES, N_MACHINE
from fedcore.world import compile_world

RECIPE = PPORecipe(num_envs=8, rollout=16, minibatch=64, epochs=1, width=16)


def test_lessons_are_the_teachers_episodes():
    world = compile_world(scenarios.load("two-servers"))
    observations, actions, earned = lessons([world], 30, seed=0)
    assert observations.shape[0] == actions.shape[0] == earned.shape[0] == 30 * ENVS
    known = ~torch.isnan(earned)
    # An episode that ends within sight has earned in all what it scores: a mean of some hundred of them is the teacher's.
    assert 0.5 < known.float().mean() < 1.0
    again = lessons([world], 30, seed=0)
    assert torch.equal(again[1], actions)
    other = lessons([world], 30, seed=1)
    assert not torch.equal(other[0], observations)


def test_the_actor_comes_to_choose_as_the_teacher():
    world = compile_world(scenarios.load("farm-lte"))
    model = build("ppo", [world], 0, None, RECIPE)
    observations, actions, _ = lessons([world], 10, seed=5)
    largest = observations[:, : 6 * N_MACHINE].view(-1, 6, N_MACHINE)[:, :, MACHINE_FEATURES.index("max_share")]

    def agreement() -> float:
        chosen = model.policy.predict(observations.numpy(), deterministic=True)[0]
        own, level = to_choices(torch.from_numpy(chosen), largest)
        taught, taught_level = to_choices(actions, largest)
        return float(torch.cat([own == taught, (level == taught_level)[:, None]], dim=1).float().mean())

    before = agreement()
    warm_start(model, [world], 3000, seed=0)
    assert agreement() > max(before + 0.1, 0.85)


def test_choices_and_actions_are_each_others_inverse():
    from agents.network import PARTS, to_actions

    rng = torch.Generator().manual_seed(0)
    part, level = torch.randint(len(PARTS), (200, 5), generator=rng), torch.randint(5, (200,), generator=rng)
    largest = torch.rand((200, 5), generator=rng).clamp_min(0.05)
    actions = to_actions(part, level, torch.ones((200, 5), dtype=torch.bool), largest, 16)
    assert actions.shape == (200, 17)
    assert (actions[:, 5:16] == -1.0).all()
    assert np.isfinite(actions.numpy()).all()
    own, own_level = to_choices(actions, largest)
    assert torch.equal(own, part)
    assert torch.equal(own_level, level)
