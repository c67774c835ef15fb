"""The warm start finds good moves and learns them."""

import numpy as np
import torch

import scenarios
from agents.network import PARTS, ActorNetwork, likeliest, to_actions, to_choices
from agents.recipes import DQNRecipe, PPORecipe, build
from agents.vecenv import BatchedVecEnv
from agents.warm_start import ENVS, LEAST_LEVEL, TRIED, best_moves, lessons, moves_tried, warm_start
from envs.menu import LEVELS, menu_actions
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
    best, score = best_moves(worlds, 2, seed=0)
    assert set(best) <= set(moves_tried())
    assert (score > 1.0).all()
    again = best_moves(worlds, 2, seed=0)
    assert np.array_equal(again[0], best)
    assert np.array_equal(again[1], score)


def test_lessons_teach_each_worlds_own_move_and_what_it_earns():
    worlds = [compile_world(scenarios.load(name)) for name in ("two-servers", "farm-lte")]
    whole, best = (list(PATTERNS).index(name) * LEVELS + LEVELS - 1 for name in ("whole", "best"))
    taught = lessons(worlds, np.array([whole, best]), 20, seed=0)
    assert len(taught.observations) == len(taught.best) == len(taught.taken) == len(taught.earned) == 20 * ENVS
    body = taught.observations[:, : 16 * N_MACHINE].view(-1, 16, N_MACHINE)
    two = body[:, :, MACHINE_FEATURES.index("exists")].sum(dim=1) == 2
    assert (taught.best[two] == whole).all()
    assert (taught.best[~two] == best).all()
    assert 0.05 < (taught.best != taught.taken).float().mean() < 0.15
    known = ~torch.isnan(taught.earned)
    assert 0.3 < known.float().mean() < 1.0
    assert taught.earned[known].isfinite().all()


def test_the_actor_comes_to_choose_as_it_is_taught():
    worlds = [compile_world(scenarios.load("farm-lte"))]
    model = build("ppo", worlds, 0, None, RECIPE)
    found = best_moves(worlds, RECIPE.warm_episodes, seed=0)[0]
    observations = lessons(worlds, found, 6, seed=5).observations
    taught = torch.from_numpy(menu_actions(np.repeat(found, len(observations)), observations.numpy()))
    before = model.policy.evaluate_actions(observations, taught)[1].mean()
    warm_start(model, worlds, RECIPE.warm_episodes, RECIPE.warm_rounds, seed=0)
    assert model.policy.evaluate_actions(observations, taught)[1].mean() > before + 1.0


def test_values_come_to_prefer_the_best_move():
    worlds = [compile_world(scenarios.load("farm-lte"))]
    model = build("dqn", worlds, 0, None, DQNRecipe(num_envs=4, buffer=100, batch=16, width=16))
    warm_start(model, worlds, RECIPE.warm_episodes, RECIPE.warm_rounds, seed=0)
    found = best_moves(worlds, RECIPE.warm_episodes, seed=0)[0]
    observations = lessons(worlds, found, 6, seed=5).observations
    chosen = model.predict(observations.numpy(), deterministic=True)[0]
    assert (chosen == found[0]).mean() > 0.9
    target, online = model.policy.q_net_target.state_dict(), model.policy.q_net.state_dict()
    assert all(torch.equal(target[name], online[name]) for name in online)


def test_choices_and_actions_are_each_others_inverse():
    rng = torch.Generator().manual_seed(0)
    part, level = torch.randint(len(PARTS), (200, 5), generator=rng), torch.randint(5, (200,), generator=rng)
    largest = torch.rand((200, 5), generator=rng).clamp_min(0.05)
    actions = to_actions(part, level, torch.ones((200, 5), dtype=torch.bool), largest, 16)
    assert actions.shape == (200, 17)
    assert (actions[:, 5:16] == -1.0).all()
    own, own_level = to_choices(actions, largest)
    assert torch.equal(own, part)
    assert torch.equal(own_level, level)


def test_a_decision_does_not_hang_on_who_else_is_in_the_batch():
    env = BatchedVecEnv([compile_world(scenarios.load(name)) for name in ("two-servers", "scale-three-sites")], 20, seed=0)
    observation = torch.from_numpy(env.reset().copy())
    torch.manual_seed(0)
    network = ActorNetwork(16)
    torch.nn.init.normal_(network.part.weight, std=1.0)
    small = observation[:, : 16 * N_MACHINE].view(-1, 16, N_MACHINE)[:, :, 0].sum(dim=1) == 2
    assert 0 < small.sum() < 20
    with torch.inference_mode():
        together = network.logits(observation)[0][small]
        alone = network.logits(observation[small])[0]
    assert alone.shape[1] == 2
    assert torch.allclose(together[:, :2], alone, atol=1e-5)


def test_somebody_is_asked_where_anybody_can_be():
    logits = torch.zeros((3, 4, len(PARTS)))
    logits[:, :, 0] = 2.0  # everyone would rather rest
    logits[0, 2, 3] = 1.5
    logits[1, 1, 1] = 3.0  # one would not
    askable = torch.tensor([[True, True, True, False], [True] * 4, [False] * 4])
    part = likeliest(logits, askable)
    assert part[0].tolist() == [0, 0, 3, 0]
    assert part[1].tolist() == [0, 1, 0, 0]
    logits[0, 3, 3] = 1.9  # who cannot be asked is not
    assert likeliest(logits, askable)[0].tolist() == [0, 0, 3, 0]
