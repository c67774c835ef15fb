"""Training that was interrupted ends where it would have ended, bit for bit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from agents import recipes
from agents.recipes import DQNRecipe, PPORecipe, train
from agents.warm_start import WarmStart
from fedcore.world import compile_world
from scenarios import InputError, load

WARM = WarmStart(2, 1, 4, 12, 2)
RECIPES = {
    "ppo": PPORecipe(num_envs=8, rollout=16, minibatch=64, epochs=2, width=16, warm=WARM),
    "dqn": DQNRecipe(num_envs=8, batch=32, buffer=4096, target_every=64, width=16, explore_initial=0.5, warm=WARM),
}
STEPS = 768


@pytest.fixture(scope="module")
def worlds():
    return [compile_world(load(name)) for name in ("two-servers", "farm-lte")]


@pytest.fixture(autouse=True, scope="module")
def quick():
    """Episodes that say which policy is the best take seconds, and training does not hang on what they say but for that."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "trial", lambda model, worlds: float(sum(p.detach().sum() for p in model.policy.parameters())))
        patch.setattr(recipes, "episode_picture", lambda model, world: np.zeros((2, 2, 3), dtype=np.uint8))
        yield
    torch.set_num_threads(threads)


class Stop(BaseException):
    """As Ctrl-C."""


def played(algorithm, worlds, folder, on_step=lambda done, score: None, on_note=lambda note: None):
    policy, curve = train(algorithm, worlds, 3, folder, STEPS, on_step, RECIPES[algorithm], on_note=on_note)
    return policy.network.state_dict(), curve


@pytest.fixture(scope="module")
def straight(worlds, quick, tmp_path_factory):
    return {name: played(name, worlds, tmp_path_factory.mktemp(name)) for name in RECIPES}


def same(got, wanted):
    assert got[1] == wanted[1]
    assert all(torch.equal(got[0][name], value) for name, value in wanted[0].items())


@pytest.mark.parametrize("at", [1, 3, 6])
@pytest.mark.parametrize("algorithm", sorted(RECIPES))
def test_an_interrupted_training_ends_as_one_that_was_not(algorithm, at, worlds, straight, tmp_path):
    told = []

    def stop(done, score):
        told.append(done)
        if len(told) == at:
            raise Stop

    with pytest.raises(Stop):
        played(algorithm, worlds, tmp_path, stop)
    torch.manual_seed(99)  # another process
    got = played(algorithm, worlds, tmp_path)
    same(got, straight[algorithm])
    assert len(straight[algorithm][1]) > 6
    assert json.loads(json.dumps(got[1], allow_nan=False))


def test_an_interrupted_search_goes_on_with_the_passes_that_it_made(worlds, straight, tmp_path, monkeypatch):
    def stop(note):
        if note.startswith("search, pass 2"):
            raise Stop

    with pytest.raises(Stop):
        played("ppo", worlds, tmp_path, on_note=stop)
    made = []
    lessons = recipes.warm_start.__globals__["lessons"]
    monkeypatch.setitem(recipes.warm_start.__globals__, "lessons", lambda *job: made.append(job) or lessons(*job))
    same(played("ppo", worlds, tmp_path), straight["ppo"])
    assert len(made) == 2  # both parts of the second pass
    assert not (tmp_path / "lessons").exists()


def test_a_finished_training_is_read_and_keeps_its_curve(worlds, straight, tmp_path):
    played("ppo", worlds, tmp_path)
    same(played("ppo", worlds, tmp_path), straight["ppo"])


@pytest.mark.parametrize("name", ["checkpoint.pt", "best.pt"])
@pytest.mark.parametrize("content", [b"", b"hello", None])
def test_damaged_checkpoints_are_refused_by_name(name, content, worlds, tmp_path):
    played("ppo", worlds, tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    with pytest.raises(InputError, match=rf"{name} is damaged .*delete it"):
        played("ppo", worlds, tmp_path)


def test_the_checkpoint_of_another_learner_is_refused(worlds, tmp_path):
    played("dqn", worlds, tmp_path)
    with pytest.raises(InputError, match=r"checkpoint.pt is of another learner"):
        played("ppo", worlds, tmp_path)
    torch.save({"steps": 3}, tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=r"checkpoint.pt is of another learner"):
        train("ppo", worlds, 3, tmp_path, STEPS, recipe=replace(RECIPES["ppo"], warm=None))
