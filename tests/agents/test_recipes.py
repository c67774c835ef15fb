"""What training logs."""

import scenarios
from agents.recipes import PARTS_OF_SCORE, PPORecipe, train
from fedcore.world import compile_world

RECIPE = PPORecipe(num_envs=8, rollout=16, minibatch=64, epochs=1, width=16, warm_episodes=0)


def test_tensorboard_has_the_scores_parts_and_the_spread_of_decisions(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, curve = train("ppo", [compile_world(scenarios.load("two-servers"))], 0, tmp_path, steps=4096, recipe=RECIPE)
    folder = next((tmp_path / "tensorboard").iterdir())
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    assert {f"score/{name}" for name in PARTS_OF_SCORE} <= set(tags["scalars"])
    assert {"orchestration/log_efficiency", "orchestration/asked", "score/reached"} <= set(tags["scalars"])
    assert {"orchestration/shares", "orchestration/sync_intervals"} <= set(tags["histograms"])
    rounds = events.Scalars("score/rounds")[-1].value
    assert 1.0 < rounds < 200.0
    assert len(curve) > 10
