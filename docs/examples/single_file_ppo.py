"""PPO in one file of plain torch, in the manner of CleanRL, on the native batch: `python docs/examples/single_file_ppo.py`."""

import sys

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Normal

ENVS, ROLLOUT, EPOCHS, MINIBATCH = 64, 32, 4, 512
GAMMA, LAMBDA, CLIP, RATE = 1.0, 0.95, 0.2, 1e-3


class Agent(nn.Module):
    """A Gaussian actor and a critic."""

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(observations, 64), nn.Tanh(), nn.Linear(64, actions))
        self.critic = nn.Sequential(nn.Linear(observations, 64), nn.Tanh(), nn.Linear(64, 1))
        self.log_std = nn.Parameter(torch.full((actions,), -0.5))

    def forward(self, x: torch.Tensor) -> tuple[Normal, torch.Tensor]:
        """Distribution of actions and values (B,) of observations (B, size)."""
        return Normal(self.actor(x), self.log_std.exp()), self.critic(x)[:, 0]


def advantages(rewards: torch.Tensor, values: torch.Tensor, ended: torch.Tensor) -> torch.Tensor:
    """Generalised advantage estimates (T, B) from rewards (T, B), values (T + 1, B) and ends (T, B)."""
    out, last = torch.zeros_like(rewards), torch.zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        alive = 1.0 - ended[t]
        last = rewards[t] + GAMMA * alive * values[t + 1] - values[t] + GAMMA * LAMBDA * alive * last
        out[t] = last
    return out


def main(steps: int = 200_000) -> list[float]:
    """Train for so many environment steps; the log-efficiencies of all episodes, in the order in which they ended."""
    torch.manual_seed(0)
    same_step = {"autoreset_mode": gym.vector.AutoresetMode.SAME_STEP}  # every row of a rollout is then a real round
    env = gym.make_vec("envs:IntraFed/Orchestration-v0", num_envs=ENVS, scenario="phones", **same_step)
    agent = Agent(env.single_observation_space.shape[0], env.single_action_space.shape[0])
    optimiser = torch.optim.Adam(agent.parameters(), lr=RATE)
    observation = torch.from_numpy(env.reset(seed=0)[0])
    scores: list[float] = []
    for _ in range(max(1, steps // (ENVS * ROLLOUT))):
        rows: list[tuple[torch.Tensor, ...]] = []
        for _ in range(ROLLOUT):
            with torch.no_grad():
                law, value = agent(observation)
                action = law.sample()
            after, reward, ended, _, info = env.step(action.numpy())
            final = info.get("final_info", {})
            scores += list(np.asarray(final.get("log_efficiency", []))[final.get("_log_efficiency", [])])
            told = (torch.from_numpy(np.asarray(x, dtype=np.float32)) for x in (reward, ended))
            rows.append((observation, action, law.log_prob(action).sum(1), value, *told))
            observation = torch.from_numpy(after)
        seen, actions, old, values, rewards, ends = (torch.stack(column) for column in zip(*rows, strict=True))
        with torch.no_grad():
            gain = advantages(rewards, torch.cat([values, agent(observation)[1][None]]), ends)
        flat = [x.flatten(0, 1) for x in (seen, actions, old, gain, gain + values)]
        for _ in range(EPOCHS):
            for part in torch.randperm(len(flat[0])).split(MINIBATCH):
                x, a, before, adv, target = (column[part] for column in flat)
                law, value = agent(x)
                ratio = (law.log_prob(a).sum(1) - before).exp()
                adv = (adv - adv.mean()) / (adv.std() + 1e-8)
                policy_loss = -torch.min(ratio * adv, ratio.clamp(1 - CLIP, 1 + CLIP) * adv).mean()
                loss = policy_loss + 0.5 * (value - target).pow(2).mean()
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimiser.step()
    return scores


if __name__ == "__main__":
    ends = main(*map(int, sys.argv[1:]))
    print(f"mean ln efficiency of the first 64 episodes {np.mean(ends[:64]):+.2f}, of the last 64 {np.mean(ends[-64:]):+.2f}")
