"""stable-baselines3's PPO on one environment: `python docs/examples/sb3_ppo.py`."""

import sys

import gymnasium as gym
from stable_baselines3 import PPO


def main(steps: int = 20_000) -> float:
    """Train for so many steps; the log-efficiency of one episode afterwards."""
    env = gym.make("envs:IntraFed/Orchestration-v0", scenario="phones")
    model = PPO("MlpPolicy", env, n_steps=256, batch_size=64, gamma=1.0, seed=0, device="cpu")
    model.learn(steps)
    observation, _ = env.reset(seed=1_000_000)
    ended = False
    while not ended:
        action, _ = model.predict(observation, deterministic=True)
        observation, _, ended, _, info = env.step(action)
    return float(info["log_efficiency"])


if __name__ == "__main__":
    print(f"ln efficiency {main(*map(int, sys.argv[1:])):+.2f}")
