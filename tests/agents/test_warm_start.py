"""The warm start learns what the search finds."""

import pytest
import torch

import scenarios
from agents.lessons import join, lessons, moves_tried
from agents.network import MenuNetwork
from agents.recipes import DQNRecipe, PPORecipe, build
from agents.vecenv import BatchedVecEnv
from agents.warm_start import WarmStart, actor, warm_start
from envs.menu import menu_size
from envs.observation import N_MACHINE
from fedcore.world import compile_world

PPO = PPORecipe(num_envs=8, rollout=16, minibatch=64, epochs=1, width=32)
DQN = DQNRecipe(num_envs=4, buffer=100, batch=16, width=32)


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_what_is_taught_is_chosen(algorithm):
    worlds = [compile_world(scenarios.load(name)) for name in ("lab-lan", "one-strong-many-weak")]
    model = build(algorithm, worlds, 0, None, PPO if algorithm == "ppo" else DQN)
    warm_start(model, worlds, WarmStart(2, 0, 8, 36, epochs=100), seed=0)
    unseen = lessons(worlds, actor(model), 16, 9, seed=5)
    chosen = torch.from_numpy(model.predict(unseen.observations.numpy(), deterministic=True)[0])
    loses = unseen.lost.gather(1, chosen[:, None])[:, 0]
    # Values of moves must fit what episodes went on to earn too, which the machines' luck spreads.
    assert loses.mean() < (0.45 if algorithm == "ppo" else 0.65) * unseen.lost[:, moves_tried()].mean()
    if algorithm == "dqn":
        target, online = model.policy.q_net_target.state_dict(), model.policy.q_net.state_dict()
        assert all(torch.equal(target[name], online[name]) for name in online)


def test_the_number_of_processes_changes_nothing():
    worlds = [compile_world(scenarios.load("two-servers"))]
    weights = []
    for workers in (1, 2):
        model = build("ppo", worlds, 0, None, PPO)
        warm_start(model, worlds, WarmStart(2, 1, 2, 6, 2), seed=0, workers=workers)
        weights.append(torch.cat([value.flatten() for value in model.policy.state_dict().values()]))
    assert torch.equal(*weights)


def test_lessons_that_are_kept_teach_another_and_are_not_made_again(tmp_path, monkeypatch):
    worlds, recipe = [compile_world(scenarios.load("two-servers"))], WarmStart(1, 0, 2, 6, 2)
    path = tmp_path / "lessons.pt"
    first = build("ppo", worlds, 0, None, PPO)
    made = warm_start(first, worlds, recipe, seed=0, kept=path)
    monkeypatch.setattr("agents.warm_start.lessons", None)
    again, other = build("ppo", worlds, 0, None, PPO), build("dqn", worlds, 0, None, DQN)
    for model in (again, other):
        known = warm_start(model, worlds, recipe, seed=0, kept=path)
        assert torch.equal(known.observations, made.observations)
        assert torch.equal(known.lost, made.lost)
    # After one pass it is the same lesson in the same order.
    assert all(torch.equal(a, b) for a, b in zip(first.policy.parameters(), again.policy.parameters(), strict=True))


def test_lessons_are_joined_in_order():
    worlds = [compile_world(scenarios.load("two-servers"))]
    one, two = (lessons(worlds, None, 4, 6, seed) for seed in (0, 1))
    both = join([one, two])
    assert torch.equal(both.observations[:8], one.observations)
    assert torch.equal(both.lost[8:], two.lost)


def test_a_decision_does_not_hang_on_who_else_is_in_the_batch():
    env = BatchedVecEnv([compile_world(scenarios.load(name)) for name in ("two-servers", "scale-three-sites")], 20, seed=0)
    observation = torch.from_numpy(env.reset().copy())
    torch.manual_seed(0)
    network = MenuNetwork(menu_size(), 16)
    torch.nn.init.normal_(network.head[2].weight, std=1.0)
    small = observation[:, : 16 * N_MACHINE].view(-1, 16, N_MACHINE)[:, :, 0].sum(dim=1) == 2
    assert 0 < small.sum() < 20
    with torch.inference_mode():
        assert torch.allclose(network(observation)[small], network(observation[small]), atol=1e-5)
