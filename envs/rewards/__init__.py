"""Reward functions by name. A new one is one file here and one line in `REWARDS`."""

from envs.rewards.base import Ledger, RewardFunction, Transition
from envs.rewards.efficiency import efficiency
from envs.rewards.lagrangian import lagrangian
from envs.rewards.ratio import ratio

REWARDS: dict[str, RewardFunction] = {"efficiency": efficiency, "ratio": ratio, "lagrangian": lagrangian}

__all__ = ["REWARDS", "Ledger", "RewardFunction", "Transition"]
