"""Fine-tuning on the real tier: PPO goes on from a frozen policy, and every step is a round of real training.

Real rounds are dear, so there are few: the critic, which a frozen policy has not, is first taught what the policy earns in
simulated episodes of the scenario, with the encoder that it shares with the actor left as it is; and PPO takes small steps.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

import envs  # noqa: F401 - registers
from agents.frozen import FrozenPolicy
from agents.network import MenuNetwork
from agents.own_target import own_target
from agents.recipes import PARTS_OF_SCORE, content_digest
from agents.resuming import of_this_training, read_checkpoint
from agents.rollout import earned_from
from agents.sb3_policies import EquivariantActorCritic
from agents.torch_files import write_torch
from agents.vecenv import BatchedVecEnv
from agents.warm_start import actor
from envs.menu import MenuAction, menu_size
from fedcore.world import World, room_for
from scenarios.errors import InputError

CRITIC_ENVS, CRITIC_ROUNDS, CRITIC_EPOCHS, CRITIC_BATCH = 256, 80, 20, 512
RECENT = 8
"""Episodes that a point of the learning curve is the mean of."""


@dataclass(frozen=True)
class FineTuneRecipe:
    """Hyper-parameters of fine-tuning.

    Attributes:
        steps: real rounds.
        rollout: of them between two updates; a rollout that is interrupted is played again.
        sharpness: ratings are multiplied by it first: the warm start leaves the policy exploring more than real rounds pay for.
    """

    steps: int = 320
    rollout: int = 40
    epochs: int = 4
    learning_rate: float = 3e-5
    clip_range: float = 0.1
    target_kl: float = 0.02
    value_weight: float = 0.1
    gae_lambda: float = 0.95
    sharpness: float = 3.0


def fine_tune(
    policy: FrozenPolicy,
    world: World,
    seed: int,
    folder: Path,
    steps: int | None = None,
    on_step: Callable[[int, float], None] = lambda done, score: None,
    on_note: Callable[[str], None] = lambda note: None,
    recipe: FineTuneRecipe | None = None,
) -> tuple[FrozenPolicy, list[tuple[int, float]]]:
    """Go on from a policy, or where a checkpoint in the folder stopped.

    Args:
        policy: to start from, trained by PPO; left as it is.
        world: the scenario.
        seed: of everything.
        folder: for TensorBoard files and the checkpoint.
        steps: real rounds; None takes the recipe's.
        on_step: told (rounds done, mean log-efficiency of the last episodes) after every episode.
        on_note: told in words what goes on before the first round.
        recipe: None takes the default.

    Returns:
        The policy after the last update, ready to freeze, and its learning curve: (rounds, mean log-efficiency of the last
        `RECENT` episodes, played with exploration).

    Raises:
        InputError: the policy was not trained by PPO.
    """
    if policy.card.algorithm != "ppo":
        raise InputError(f"policy {policy.name} was trained by {policy.card.algorithm}, expected one trained by PPO")
    recipe = recipe or FineTuneRecipe()
    total = steps or recipe.steps
    checkpoint = folder / "checkpoint.pt"
    model = _model(policy, world, seed, folder, recipe)
    watch = _Watch(checkpoint, on_step)
    if checkpoint.is_file():
        _go_on(model, watch, checkpoint)
    else:
        on_note("the critic learns from simulated episodes")
        _teach_critic(model, world, seed)
    # What has been played is not played again: after an interruption other episodes follow.
    model.env.seed(seed + model.num_timesteps)  # type: ignore[union-attr]
    if total > model.num_timesteps:
        model.learn(total - model.num_timesteps, callback=watch, reset_num_timesteps=False, tb_log_name="fine-tune")
        watch.save(model)
    network = MenuNetwork(menu_size(), policy.card.width)
    network.load_state_dict(actor(model).state_dict())
    evaluation = {"recipe": asdict(recipe), "fine_tuned_from": {"policy": policy.name, "digest": policy.card.digest}}
    card = replace(
        policy.card, scenario=world.scenario.name, seed=seed, steps=total, evaluation=evaluation,
        curve=content_digest(watch.curve),
    )  # fmt: skip
    return FrozenPolicy(network, card), watch.curve


def _go_on(model: PPO, watch: _Watch, checkpoint: Path) -> None:
    """What was learnt and noted before an interruption.

    Raises:
        InputError: the checkpoint is damaged, or of another learner.
    """
    kept = read_checkpoint(checkpoint)
    with of_this_training(checkpoint):
        model.set_parameters(kept["parameters"], device="cpu")
        model.num_timesteps = kept["steps"]
        watch.recall(kept["noted"])


def _model(policy: FrozenPolicy, world: World, seed: int, folder: Path, recipe: FineTuneRecipe) -> PPO:
    target = own_target(world.scenario, None, print)
    options: dict[str, Any] = {"target_infonce": target.infonce, "reference_rounds": target.rounds}
    options["max_machines"] = room_for(world.scenario)
    env = DummyVecEnv([lambda: MenuAction(gym.make("IntraFed/Training-v0", scenario=world.scenario, **options))])
    model = PPO(
        EquivariantActorCritic, env, learning_rate=recipe.learning_rate, n_steps=recipe.rollout, batch_size=recipe.rollout,
        n_epochs=recipe.epochs, gamma=1.0, gae_lambda=recipe.gae_lambda, clip_range=recipe.clip_range,
        vf_coef=recipe.value_weight, target_kl=recipe.target_kl, policy_kwargs={"width": policy.card.width},
        tensorboard_log=str(folder / "tensorboard"), seed=seed, device="cpu",
    )  # fmt: skip
    network = actor(model)
    network.load_state_dict(policy.network.state_dict())
    last = cast(nn.Linear, network.head[-1])
    with torch.no_grad():
        last.weight.mul_(recipe.sharpness)
        last.bias.mul_(recipe.sharpness)
    return model


def _teach_critic(model: PPO, world: World, seed: int) -> None:
    """Fit what the policy's own moves earn from each round of simulated episodes to their end."""
    policy = cast(EquivariantActorCritic, model.policy)
    env = BatchedVecEnv([world], CRITIC_ENVS, seed, menu=True)
    observation, seen = env.reset(), []
    rewards, ends = np.zeros((CRITIC_ROUNDS, CRITIC_ENVS)), np.zeros((CRITIC_ROUNDS, CRITIC_ENVS), dtype=np.bool_)
    for t in range(CRITIC_ROUNDS):
        seen.append(torch.from_numpy(observation.copy()))
        env.step_async(model.predict(observation)[0])
        observation, rewards[t], ends[t], _ = env.step_wait()
    wanted = torch.from_numpy(earned_from(rewards, ends).astype(np.float32)).flatten()
    known = ~wanted.isnan()  # of episodes that ended
    with torch.no_grad():
        pooled = policy.actor.encoder(torch.cat(seen)[known])
    wanted, optimizer = wanted[known], torch.optim.Adam(policy.critic.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(CRITIC_EPOCHS):
        for part in torch.randperm(len(wanted), generator=generator).split(CRITIC_BATCH):
            loss = (policy.critic(pooled[part])[:, 0] - wanted[part]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class _Watch(BaseCallback):
    """Notes the scores of episodes and saves a checkpoint before every rollout; what is decided in a rollout, and what its
    episodes' scores are made of, goes to TensorBoard as means."""

    def __init__(self, checkpoint: Path, report: Callable[[int, float], None]) -> None:
        super().__init__()
        self.checkpoint, self.report = checkpoint, report
        self.curve: list[tuple[int, float]] = []
        self._recent: list[float] = []

    def save(self, model: BaseAlgorithm) -> None:
        """Write what was learnt so far, and what was noted."""
        noted = json.dumps({"curve": self.curve, "recent": self._recent})
        write_torch(self.checkpoint, {"steps": model.num_timesteps, "parameters": model.get_parameters(), "noted": noted})

    def recall(self, noted: str) -> None:
        """Go on from what `save` has noted."""
        kept = json.loads(noted)
        self.curve, self._recent = [(int(done), float(score)) for done, score in kept["curve"]], kept["recent"]

    def _on_rollout_start(self) -> None:
        self.save(self.model)

    def _on_step(self) -> bool:
        (core,) = self.training_env.get_attr("core")
        for info in self.locals["infos"]:
            shares = info["shares"][: info["machines"]]
            self.logger.record_mean("orchestration/asked", float((shares > 0.0).mean()))
            self.logger.record_mean("orchestration/share", float(shares.sum() / max((shares > 0.0).sum(), 1)))
            self.logger.record_mean("orchestration/sync_interval", float(info["sync_interval"]))
            if "log_efficiency" in info:
                self._recent = [*self._recent, info["log_efficiency"]][-RECENT:]
                mean = float(np.mean(self._recent))
                self.curve.append((self.num_timesteps, mean))
                self.logger.record("orchestration/log_efficiency", mean)
                spent = [info[name] for name in ("time_s", "energy_j", "bytes")] / core.reference[0, :3]
                for name, part in zip(PARTS_OF_SCORE, [*spent, info["round"]], strict=True):
                    self.logger.record_mean(f"score/{name}", float(part))
                self.logger.record_mean("score/reached", float(info["reached"]))
                self.report(self.num_timesteps, mean)
        return True
