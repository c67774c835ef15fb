"""What training logs."""

from dataclasses import replace

import torch

import scenarios
from agents.recipes import PARTS_OF_SCORE, PPORecipe, build, train
from agents.trial import trial
from agents.warm_start import WarmStart
from fedcore.world import compile_world

RECIPE = PPORecipe(num_envs=8, rollout=16, minibatch=64, epochs=1, width=16, warm=WarmStart(1, 0, 4, 12, 2))


def test_tensorboard_has_the_scores_parts_and_the_spread_of_decisions(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, curve = train("ppo", [compile_world(scenarios.load("two-servers"))], 0, tmp_path, steps=2048, recipe=RECIPE)
    folder = next((tmp_path / "tensorboard").iterdir())
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    assert {f"score/{name}" for name in PARTS_OF_SCORE} <= set(tags["scalars"])
    others = {"orchestration/log_efficiency", "orchestration/trial", "orchestration/asked", "score/reached"}
    assert others <= set(tags["scalars"])
    assert {"orchestration/shares", "orchestration/sync_intervals"} <= set(tags["histograms"])
    assert "orchestration/episode" in tags["images"]
    assert any(events.SummaryMetadata(name).plugin_data.plugin_name == "hparams" for name in events.summary_metadata)
    rounds = events.Scalars("score/rounds")[-1].value
    assert 1.0 < rounds < 200.0
    assert len(curve) > 10


def test_the_best_policy_is_kept_when_learning_spoils_it(tmp_path):
    worlds = [compile_world(scenarios.load("two-servers"))]
    wild = replace(RECIPE, learning_rate=1.0)  # throws the policy far off at the first step
    policy, curve = train("ppo", worlds, 0, tmp_path, steps=500, recipe=wild)
    kept = torch.load(tmp_path / "best.pt")
    # The curve is that of the trials: before the first step, after each rollout at most, after the last update.
    assert [done for done, _ in curve] == [0, 128, 256, 384, 512, 512]
    assert max(score for _, score in curve) == kept["score"]
    fresh = build("ppo", worlds, 0, None, wild)
    assert kept["score"] >= trial(fresh, worlds)
    fresh.policy.load_state_dict(kept["policy"])
    assert trial(fresh, worlds) == kept["score"]
    own = policy.network.state_dict()
    assert all(torch.equal(own[name], kept["policy"][f"actor.{name}"]) for name in own)
