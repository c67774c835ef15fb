"""The warm start finds good moves and learns them."""

import numpy as np
import pytest
import torch

import scenarios
from agents.network import MenuNetwork
from agents.recipes import DQNRecipe, PPORecipe, build
from agents.vecenv import BatchedVecEnv
from agents.warm_start import ENVS, LEAST_LEVEL, TRIED, WORST, kept_scores, lessons, lost, moves_tried, warm_start
from envs.menu import LEVELS, menu_size
from envs.observation import MACHINE_FEATURES, N_MACHINE
from envs.patterns import PATTERNS
from fedcore.world import compile_world

RECIPE = PPORecipe(num_envs=8, rollout=16, minibatch=64, epochs=1, width=16, warm_episodes=1, warm_rounds=6)


def test_moves_tried_are_of_the_menu():
    moves = moves_tried()
    assert len(set(moves.tolist())) == len(TRIED) * (LEVELS - LEAST_LEVEL)
    assert set(np.array(list(PATTERNS))[moves // LEVELS]) == set(TRIED)


def test_search_finds_moves_that_beat_the_reference_and_is_seeded():
    worlds = [compile_world(scenarios.load(name)) for name in ("two-servers", "farm-lte")]
    scores = kept_scores(worlds, 2, seed=0)
    assert scores.shape == (2, len(moves_tried()))
    assert np.isfinite(scores).all()
    assert (scores.max(axis=1) > 1.0).all()
    assert np.array_equal(kept_scores(worlds, 2, seed=0), scores)


def test_what_moves_lose_by_hand():
    scores = np.zeros((1, len(moves_tried())))
    scores[0, 4], scores[0, 5], scores[0, 6] = 2.0, 1.5, -9.0
    out = lost(scores)[0]
    assert out.shape == (menu_size(),)
    assert out[moves_tried()[[4, 5, 6, 7]]].tolist() == [0.0, 0.5, WORST, 2.0]
    assert (np.delete(out, moves_tried()) == WORST).all()


def test_lessons_teach_each_worlds_own_move_and_what_it_earns():
    worlds = [compile_world(scenarios.load(name)) for name in ("two-servers", "farm-lte")]
    whole, best = (list(PATTERNS).index(name) * LEVELS + LEVELS - 1 for name in ("whole", "best"))
    losses = np.ones((2, menu_size()), dtype=np.float32)
    losses[0, whole] = losses[1, best] = 0.0
    taught = lessons(worlds, losses, 20, seed=0)
    assert len(taught.observations) == len(taught.lost) == len(taught.taken) == len(taught.earned) == 20 * ENVS
    body = taught.observations[:, : 16 * N_MACHINE].view(-1, 16, N_MACHINE)
    two = body[:, :, MACHINE_FEATURES.index("exists")].sum(dim=1) == 2
    assert (taught.best[two] == whole).all()
    assert (taught.best[~two] == best).all()
    assert torch.equal(taught.lost[two][0], torch.from_numpy(losses[0]))
    assert 0.05 < (taught.best != taught.taken).float().mean() < 0.15
    known = ~torch.isnan(taught.earned)
    assert 0.3 < known.float().mean() < 1.0
    assert taught.earned[known].isfinite().all()


@pytest.mark.parametrize("algorithm", ["ppo", "dqn"])
def test_what_is_taught_is_chosen(algorithm):
    worlds = [compile_world(scenarios.load(name)) for name in ("field-hub", "one-strong-many-weak")]
    recipe = RECIPE if algorithm == "ppo" else DQNRecipe(num_envs=4, buffer=100, batch=16, width=32)
    model = build(algorithm, worlds, 0, None, recipe)
    losses = lost(kept_scores(worlds, 2, seed=0))
    taught = lessons(worlds, losses, 6, seed=5)
    warm_start(model, worlds, 2, 40, seed=0)
    chosen = torch.from_numpy(model.predict(taught.observations.numpy(), deterministic=True)[0])
    loses = taught.lost.gather(1, chosen[:, None])[:, 0]
    assert loses.mean() < 0.25 * taught.lost.mean()
    assert loses.mean() < losses.mean(axis=0).min()  # than any one move for both
    if algorithm == "dqn":
        target, online = model.policy.q_net_target.state_dict(), model.policy.q_net.state_dict()
        assert all(torch.equal(target[name], online[name]) for name in online)


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
