"""Fine-tuning: a frozen policy goes on in real training, the same from the same seed, and from where it was cut."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import agents
import scenarios
from agents.fine_tune import FineTuneRecipe, fine_tune
from agents.frozen import freeze, load_policy
from agents.recipes import PARTS_OF_SCORE
from fedcore.world import compile_world
from scenarios import InputError, parse

RECIPE = FineTuneRecipe(rollout=4, learning_rate=1e-3, target_kl=10.0)


@pytest.fixture(scope="module")
def world():
    """Two machines, 24 images each, an encoder of eight channels; episodes of four rounds."""
    content = scenarios.load("farm-lte").model_dump(mode="json")
    for group in content["fleet"]["groups"]:
        group.update(count=1, images=24)
    content["name"] = "tiny"
    content["workload"].update(image_px=16, batch_size=8, encoder_options={"widths": [8, 8, 8]}, precision="fp32")
    content["decision"]["sync_intervals"] = [1, 2]
    content["reference"]["sync_interval"] = 2
    content["budgets"].update(rounds=4, time_s=1e6, energy_j=1e12, bytes=1e12)
    return compile_world(parse(content, "tiny"))


def flat(policy) -> torch.Tensor:
    return torch.cat([value.flatten() for value in policy.network.state_dict().values()])


def test_it_goes_on_from_the_policy_and_the_seed_says_how(world, tmp_path, monkeypatch):
    monkeypatch.setattr("agents.fine_tune.CRITIC_ROUNDS", 12)
    start = agents.load("ppo-default")
    before = flat(start)
    told: list[tuple[int, float]] = []
    tuned, curve = fine_tune(start, world, 3, tmp_path / "a", 8, lambda *seen: told.append(seen), recipe=RECIPE)
    again, same = fine_tune(start, world, 3, tmp_path / "b", 8, recipe=RECIPE)
    assert torch.equal(flat(start), before)
    assert torch.equal(flat(tuned), flat(again))
    assert curve == same == told
    assert [rounds for rounds, _ in curve] == [4, 8]
    # What it decides comes from the policy that it began with: two updates move it a little.
    sharp = torch.cat([v.flatten() * (3.0 if n.startswith("head.2") else 1.0) for n, v in start.network.state_dict().items()])
    moved = (flat(tuned) - sharp).abs().max()
    assert 0.0 < moved < 0.1
    assert tuned.card.evaluation["fine_tuned_from"]["digest"] == start.card.digest
    freeze(tuned, tmp_path / "policy.safetensors")
    assert torch.equal(flat(load_policy(tmp_path / "policy.safetensors")), flat(tuned))
    # TensorBoard has what was decided, and what scores are made of, once per rollout.
    board = EventAccumulator(str(next((tmp_path / "a" / "tensorboard").iterdir()))).Reload()
    kept = {name: [event.value for event in board.Scalars(name)] for name in board.Tags()["scalars"]}
    for name in ("asked", "share", "sync_interval"):
        assert len(kept[f"orchestration/{name}"]) == 2
    assert all(0.0 < value <= 1.0 for value in kept["orchestration/asked"] + kept["orchestration/share"])
    assert all(1.0 <= value <= 2.0 for value in kept["orchestration/sync_interval"])
    assert kept["score/rounds"] == [4.0, 4.0]
    assert {f"score/{name}" for name in (*PARTS_OF_SCORE, "reached")} <= set(kept)


def test_it_goes_on_from_a_checkpoint(world, tmp_path, monkeypatch):
    monkeypatch.setattr("agents.fine_tune.CRITIC_ROUNDS", 12)
    start, notes = agents.load("ppo-default"), []
    first, _ = fine_tune(start, world, 0, tmp_path, 4, on_note=notes.append, recipe=RECIPE)
    more, curve = fine_tune(start, world, 0, tmp_path, 8, on_note=notes.append, recipe=RECIPE)
    assert len(notes) == 1  # the critic is taught once
    assert [rounds for rounds, _ in curve] == [4, 8]
    assert not torch.equal(flat(first), flat(more))
    kept, again = fine_tune(start, world, 0, tmp_path, 8, recipe=RECIPE)
    assert again == curve
    assert torch.equal(flat(kept), flat(more))


def test_only_ppo_goes_on(world, tmp_path):
    start = agents.load("dqn-default")
    with pytest.raises(InputError, match="was trained by dqn, expected one trained by PPO"):
        fine_tune(start, world, 0, tmp_path, 4)
