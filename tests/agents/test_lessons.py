"""What moves are worth, found by playing on from the rounds of episodes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import scenarios
from agents.lessons import EVERY, LEAST_LEVEL, ONCE, TRIED, WORST, lessons, lost, moves_tried, scores_of
from agents.network import MenuNetwork
from agents.rollout import play_out
from agents.vecenv import BatchedVecEnv
from envs.menu import LEVELS, PATTERNS, menu_actions, menu_size
from fedcore.world import compile_world


@pytest.fixture(scope="module")
def worlds():
    return [compile_world(scenarios.load(name)) for name in ("two-servers", "farm-lte")]


def test_moves_tried_are_of_the_menu():
    moves = moves_tried()
    assert len(set(moves.tolist())) == len(TRIED) * (LEVELS - LEAST_LEVEL)
    assert set(np.array(list(PATTERNS))[moves // LEVELS]) == set(TRIED)


def test_search_leaves_the_episodes_alone_and_is_seeded(worlds):
    env = BatchedVecEnv(worlds, 6, seed=0)
    seen, everyone = env.reset().copy(), np.arange(6)
    scores = scores_of(env.core, everyone, np.random.default_rng(1))
    assert scores.shape == (6, len(moves_tried()))
    assert np.isfinite(scores.max(axis=1)).all()
    assert np.array_equal(env.core.observe(), seen)
    assert np.array_equal(scores_of(env.core, everyone, np.random.default_rng(1)), scores)
    assert not np.array_equal(scores_of(env.core, everyone, np.random.default_rng(2)), scores)
    assert scores_of(env.core, everyone[4:], np.random.default_rng(1)).shape == (2, len(moves_tried()))


def test_only_what_is_certain_to_lose_more_than_the_worst_is_left_unplayed(worlds, monkeypatch):
    env = BatchedVecEnv(worlds, 6, seed=0)
    env.reset()
    scores = scores_of(env.core, np.arange(6), np.random.default_rng(1))
    monkeypatch.setattr("agents.lessons.play_out", lambda core, decide, floor: play_out(core, decide))
    whole = scores_of(env.core, np.arange(6), np.random.default_rng(1))
    unplayed = np.isinf(scores)
    assert unplayed.any()
    assert np.array_equal(scores[~unplayed], whole[~unplayed])
    assert np.array_equal(lost(scores), lost(whole))


def test_a_score_is_what_the_move_earns_when_it_is_kept(worlds):
    # Where nothing is left to chance, the future drawn is the future met.
    d = replace(worlds[1].dynamics, noise=0.0, run_spread=0.0, machine_spread=0.0, tilt_spread=0.0)
    scenario = worlds[1].scenario
    plain = tuple(
        group.model_copy(
            update={
                "load": None,
                "device": group.device.model_copy(update={"step_jitter": 0.0}),
                "link": group.link.model_copy(update={"variability": 0.0, "mean_spread": 0.0}),
            }
        )
        for group in scenario.fleet.groups
    )
    scenario = scenario.model_copy(update={"fleet": scenario.fleet.model_copy(update={"groups": plain})})
    world = compile_world(scenario)
    world = replace(world, calibration=replace(world.calibration, dynamics=d))
    env = BatchedVecEnv([world], 1, seed=0)
    observation = env.reset()
    first = scores_of(env.core, np.arange(1), np.random.default_rng(0))[0]
    at = int(np.argmax(first))
    move, infos = moves_tried()[at], [{}]
    while "log_efficiency" not in infos[0]:
        env.step_async(menu_actions(np.array([move]), observation))
        observation, _, _, infos = env.step_wait()
    assert infos[0]["log_efficiency"] == pytest.approx(first[at], rel=1e-9)


def test_what_moves_lose_by_hand():
    scores = np.zeros((1, len(moves_tried())))
    scores[0, 4], scores[0, 5], scores[0, 6] = 2.0, 1.5, -9.0
    out = lost(scores)[0]
    assert out.shape == (menu_size(),)
    assert out[moves_tried()[[4, 5, 6, 7]]].tolist() == [0.0, 0.5, WORST, 2.0]
    assert (np.delete(out, moves_tried()) == WORST).all()


def test_every_third_round_is_searched_and_the_best_move_or_the_networks_own_played(worlds):
    taught = lessons(worlds, None, 12, 42, seed=0)
    assert len(taught.observations) == len(taught.lost) == len(taught.taken) == len(taught.earned) == 12 * 42 // EVERY
    best = taught.lost.argmin(dim=1)
    assert (taught.lost.gather(1, best[:, None]) == 0.0).all()
    assert 0.02 < (best != taught.taken).float().mean() < 0.2
    known = ~torch.isnan(taught.earned)
    assert 0.3 < known.float().mean() < 1.0
    assert taught.earned[known].isfinite().all()
    network = MenuNetwork(menu_size(), 8)
    with torch.no_grad():
        network.head[2].weight.zero_()
        network.head[2].bias[moves_tried()[7]] = 1.0
    own = lessons(worlds, network, 12, 6, seed=0)
    assert (own.taken == moves_tried()[7]).float().mean() > 0.8
    first = 12 // EVERY
    assert torch.equal(own.observations[:first], taught.observations[:first])
    assert torch.equal(own.lost[:first], taught.lost[:first])


def test_made_once_the_networks_own_move_scores_as_if_kept_and_others_are_followed_by_it(worlds):
    env = BatchedVecEnv(worlds, 4, seed=0)
    env.reset()
    at, everyone = 7, np.arange(4)
    network = MenuNetwork(menu_size(), 8)
    with torch.no_grad():
        network.head[2].weight.zero_()
        network.head[2].bias[moves_tried()[at]] = 1.0
    kept = scores_of(env.core, everyone, np.random.default_rng(1))
    once = scores_of(env.core, everyone, np.random.default_rng(1), network)
    assert np.array_equal(once[:, at], kept[:, at])
    assert not np.array_equal(once, kept)
    # What follows brings them together.
    assert np.ptp(once, axis=1).mean() < np.ptp(kept, axis=1).mean()


def test_moves_made_once_lose_as_if_they_had_been_kept():
    scores = np.zeros((1, len(moves_tried())))
    scores[0, :3] = [0.3, 0.0, -3.0]
    out = lost(scores, once=True)[0, moves_tried()]
    assert out[:3] == pytest.approx([0.0, 0.3 / ONCE, WORST])
