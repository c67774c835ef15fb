"""RLlib's PPO: `pip install "ray[rllib]"` first. Run with ray 2.60.0, one short iteration; no tuning."""

import sys

import gymnasium as gym
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env


def make(config: dict[str, str]) -> gym.Env:
    """RLlib's workers do not see Gymnasium's registry: they call this."""
    return gym.make("envs:IntraFed/Orchestration-v0", scenario=config["scenario"])


def main(iterations: int = 20, batch: int = 4000) -> int:
    """Train for so many iterations; environment steps sampled in all."""
    register_env("intrafed", make)
    config = (
        PPOConfig()
        .environment("intrafed", env_config={"scenario": "phones"})
        .env_runners(num_env_runners=0)
        .training(train_batch_size_per_learner=batch, minibatch_size=128, num_epochs=4, gamma=1.0)
    )
    algorithm = config.build_algo()
    for _ in range(iterations):
        result = algorithm.train()
    algorithm.stop()
    return int(result["num_env_steps_sampled_lifetime"])


if __name__ == "__main__":
    print(main(*map(int, sys.argv[1:])), "steps")
