"""Gymnasium environments of intrafed; importing this package registers them."""

from pathlib import Path

import gymnasium as gym

from fedcore.fleet import HERE
from fedcore.fleet.compiled import keep_by_content

keep_by_content(HERE, HERE.parent, Path(__file__).parent)

gym.register(
    id="IntraFed/Orchestration-v0",
    entry_point="envs.orchestration:OrchestrationEnv",
    vector_entry_point="envs.vector:OrchestrationVectorEnv",
)
gym.register(id="IntraFed/Training-v0", entry_point="envs.training:TrainingEnv")
gym.register(
    id="IntraFed/Orchestration-MO-v0",
    entry_point="envs.multi_objective:MultiObjectiveEnv",
    vector_entry_point="envs.multi_objective:MultiObjectiveVectorEnv",
    disable_env_checker=True,
)
