"""Gymnasium environments of intrafed; importing this package registers them."""

import gymnasium as gym

gym.register(
    id="IntraFed/Orchestration-v0",
    entry_point="envs.orchestration:OrchestrationEnv",
    vector_entry_point="envs.vector:OrchestrationVectorEnv",
)
gym.register(id="IntraFed/Training-v0", entry_point="envs.training:TrainingEnv")
gym.register(
    id="IntraFed/Orchestration-MO-v0", entry_point="envs.multi_objective:MultiObjectiveEnv", disable_env_checker=True
)
