"""Training recipes: PPO and DQN over the menu, both on stable-baselines3 and the batched fast tier."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, Image

from agents.frozen import FrozenPolicy, PolicyCard
from agents.network import MenuNetwork
from agents.resuming import capture, of_this_training, read_checkpoint, resume
from agents.sb3_policies import EquivariantActorCritic, EquivariantDQN
from agents.torch_files import write_torch
from agents.trial import episode_picture, trial
from agents.vecenv import BatchedVecEnv
from agents.warm_start import WarmStart, actor, warm_start
from envs.menu import menu_size
from fedcore.world import World


@dataclass(frozen=True)
class PPORecipe:
    """Hyper-parameters of PPO (Schulman et al. 2017); the undiscounted return is the log-efficiency itself.

    Attributes:
        warm: what is learnt before, see `warm_start`; None for nothing.
    """

    steps: int = 400_000
    num_envs: int = 512
    rollout: int = 16
    minibatch: int = 1024
    epochs: int = 2
    learning_rate: float = 4e-4
    value_weight: float = 0.1  # actor and critic share an encoder: more, and the critic drags the actor along
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    target_kl: float = 0.02
    width: int = 96
    warm: WarmStart | None = field(default_factory=WarmStart)


@dataclass(frozen=True)
class DQNRecipe:
    """Hyper-parameters of DQN (Mnih et al. 2015) over the Discrete menu; the warm start's as `PPORecipe`."""

    steps: int = 10_000  # more made it worse: docs/policies.md
    num_envs: int = 16
    buffer: int = 100_000
    batch: int = 512
    learning_rate: float = 2e-4
    gamma: float = 1.0
    train_every: int = 2
    gradient_steps: int = 2
    target_every: int = 2_000
    explore_initial: float = 0.1  # it starts out with what the warm start taught
    explore_fraction: float = 0.4
    explore_final: float = 0.03
    width: int = 96
    warm: WarmStart | None = field(default_factory=WarmStart)


RECIPES: dict[str, PPORecipe | DQNRecipe] = {"ppo": PPORecipe(), "dqn": DQNRecipe()}


BOARD_ONLY = ("stdout", "log", "csv", "json")
"""Formats of stable-baselines3's logger that take numbers alone."""
PARTS_OF_SCORE = ("time_vs_reference", "energy_vs_reference", "bytes_vs_reference", "rounds")


class Watch(BaseCallback):
    """Logs what matters to TensorBoard, reports progress, and saves checkpoints so that training resumes.

    What it keeps is the best policy, by `trial`: learning may lose again what a warm start or luck has found, and learn the
    training's scenarios by heart.

    Beside stable-baselines3's own figures: log-efficiency, its parts (geometric means) and the fraction of episodes that
    reached the target, over the last 512 episodes; histograms of shares and of sync intervals in the last round; the
    recipe; and one episode of the trial in a picture, at every fifth.

    Args:
        worlds: that it is tried in.
        checkpoint: file to save to; the best policy goes beside it.
        every: environment steps between checkpoints.
        report: called with (steps done, mean log-efficiency of the trial), which together are the learning curve: what is
            learnt in is cut off at first where episodes are long, since the short ones end before the others.
        recipe: `PPORecipe` or `DQNRecipe`, to be logged.
    """

    def __init__(
        self, worlds: Sequence[World], checkpoint: Path, every: int, report: Callable[[int, float], None], recipe: Any
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self._tries = 0
        self.worlds, self.checkpoint, self.every, self.report = worlds, checkpoint, every, report
        self.best = -np.inf
        self.recent: list[dict[str, Any]] = []
        self.curve: list[tuple[int, float]] = []
        self._next = every
        self._due = True
        self._last: dict[str, Any] | None = None

    def recall(self, kept: dict[str, Any]) -> None:
        """Go on from what a checkpoint has of `capture`."""
        watched = json.loads(kept["watched"])
        self.curve = [(int(done), score) for done, score in watched["curve"]]
        self.recent, self._next, self._tries = watched["recent"], watched["next"], watched["tries"]
        self.best, self._due = watched["best"], False

    def capture(self) -> dict[str, Any]:
        """What training's future depends on, and what has been watched."""
        watched = {
            "curve": self.curve, "recent": self.recent, "next": self._next, "tries": self._tries, "best": self.best,
        }  # fmt: skip
        return {**capture(self.model), "watched": json.dumps(watched)}

    def keep(self) -> None:
        """Write where training is, or was before its last rollout where that was interrupted."""
        if self._last is not None:
            write_torch(self.checkpoint, self._last)

    def _on_rollout_start(self) -> None:
        # What DQN replays is too much to be copied every few steps.
        if self._due or not isinstance(self.model, DQN):
            self._last = self.capture()
        if self._due:
            self._due = False
            self.keep()

    def _on_training_end(self) -> None:
        self._try()
        self._last = self.capture()
        self.keep()

    def _on_training_start(self) -> None:
        flat = {name: value for name, value in vars(self.recipe).items() if isinstance(value, int | float)}
        if self.recipe.warm is not None:
            flat |= {f"warm.{name}": value for name, value in vars(self.recipe.warm).items()}
        self.logger.record("recipe", HParam(flat, {"orchestration/trial": 0.0}), exclude=BOARD_ONLY)
        if not self._tries:
            self._try()

    def _try(self) -> None:
        score = trial(self.model, self.worlds)
        self.logger.record("orchestration/trial", score)
        if self._tries % 5 == 0:
            picture = episode_picture(self.model, self.worlds[0])
            self.logger.record("orchestration/episode", Image(picture, "HWC"), exclude=BOARD_ONLY)
        self._tries += 1
        self.curve.append((self.num_timesteps, score))
        if score > self.best:
            self.best = score
            write_torch(best_path(self.checkpoint), {"score": score, "policy": self.model.policy.state_dict()})

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "log_efficiency" in info:
                parts = [float(part) for part in info["parts"]]
                self.recent.append({"log_efficiency": info["log_efficiency"], "reached": info["reached"], "parts": parts})
        if len(self.recent) > 512:
            del self.recent[:-512]
        if self.num_timesteps >= self._next:
            self._next, self._due = self.num_timesteps + self.every, True
            if self.recent:
                mean = float(np.mean([info["log_efficiency"] for info in self.recent]))
                parts = np.exp(np.log(np.maximum([info["parts"] for info in self.recent], 1e-9)).mean(axis=0))
                for name, value in zip(PARTS_OF_SCORE, parts, strict=True):
                    self.logger.record(f"score/{name}", float(value))
                self.logger.record("score/reached", float(np.mean([info["reached"] for info in self.recent])))
                self.logger.record("orchestration/log_efficiency", mean)
            core = self.training_env.core  # type: ignore[attr-defined]
            exists = core.exists
            self.logger.record("orchestration/asked", float((core.shares > 0)[exists].mean()))
            self.logger.record("orchestration/shares", torch.from_numpy(core.shares[exists]), exclude=BOARD_ONLY)
            steps = torch.from_numpy(core.steps.astype(np.float32))
            self.logger.record("orchestration/sync_intervals", steps, exclude=BOARD_ONLY)
            self._try()
            self.report(*self.curve[-1])
        return True


def best_path(checkpoint: Path) -> Path:
    """Where the best policy so far is kept, with its score."""
    return checkpoint.with_name("best.pt")


def content_digest(curve: list[tuple[int, float]]) -> str:
    """SHA-256 of a learning curve."""
    return hashlib.sha256(json.dumps(curve).encode()).hexdigest()


def go_on(model: BaseAlgorithm, watch: Watch, checkpoint: Path) -> None:
    """Put a fresh learner and its watch where those were that wrote a checkpoint.

    Raises:
        InputError: it is damaged, or of another learner.
    """
    kept = read_checkpoint(checkpoint)
    read_checkpoint(best_path(checkpoint))
    with of_this_training(checkpoint):
        resume(model, kept)
        watch.recall(kept)


def build(algorithm: str, worlds: Sequence[World], seed: int, log_dir: Path | None, recipe: Any) -> BaseAlgorithm:
    """A fresh learner.

    Args:
        algorithm: "ppo" or "dqn".
        worlds: scenarios to train on.
        seed: of everything.
        log_dir: of TensorBoard, or None.
        recipe: `PPORecipe` or `DQNRecipe`.
    """
    log = None if log_dir is None else str(log_dir)
    env = BatchedVecEnv(worlds, recipe.num_envs, seed, menu=True)
    if algorithm == "ppo":
        return PPO(
            EquivariantActorCritic,
            env,
            learning_rate=lambda left: recipe.learning_rate * max(left, 0.05),
            n_steps=recipe.rollout,
            batch_size=recipe.minibatch,
            n_epochs=recipe.epochs,
            gamma=recipe.gamma,
            gae_lambda=recipe.gae_lambda,
            clip_range=recipe.clip_range,
            vf_coef=recipe.value_weight,
            target_kl=recipe.target_kl,
            policy_kwargs={"width": recipe.width},
            tensorboard_log=log,
            seed=seed,
            device="cpu",
        )
    return DQN(
        EquivariantDQN,
        env,
        learning_rate=recipe.learning_rate,
        buffer_size=recipe.buffer,
        learning_starts=4 * recipe.batch,
        batch_size=recipe.batch,
        gamma=recipe.gamma,
        train_freq=recipe.train_every,
        gradient_steps=recipe.gradient_steps,
        target_update_interval=recipe.target_every,
        exploration_initial_eps=recipe.explore_initial,
        exploration_fraction=recipe.explore_fraction,
        exploration_final_eps=recipe.explore_final,
        policy_kwargs={"width": recipe.width},
        tensorboard_log=log,
        seed=seed,
        device="cpu",
    )


def at_once(recipe: PPORecipe | DQNRecipe) -> int:
    """Environment steps between two updates: what is learnt from is a whole number of times so many."""
    return recipe.num_envs * (recipe.rollout if isinstance(recipe, PPORecipe) else recipe.train_every)


def train(
    algorithm: str,
    worlds: Sequence[World],
    seed: int,
    folder: Path,
    steps: int | None = None,
    on_step: Callable[[int, float], None] = lambda done, score: None,
    recipe: Any = None,
    workers: int = 1,
    on_note: Callable[[str], None] = lambda note: None,
    tried_in: Sequence[World] | None = None,
    lessons: Path | None = None,
) -> tuple[FrozenPolicy, list[tuple[int, float]]]:
    """Train an orchestrator, or go on where a checkpoint in the folder stopped.

    Args:
        algorithm: "ppo" or "dqn".
        worlds: scenarios to train on.
        seed: of everything.
        folder: for TensorBoard files and the checkpoint.
        steps: environment steps, for PPO rounded up to whole rollouts; None takes the recipe's.
        on_step: progress, see `Watch`.
        recipe: None takes the default.
        workers: processes for the warm start; the result does not depend on it.
        on_note: told in words what goes on before the first step.
        tried_in: scenarios that say which policy is the best; None takes those that it learns in.
        lessons: where those of the warm start are kept, or are already.

    Returns:
        The best policy, ready to freeze, and the learning curve: (steps, mean log-efficiency of the policy's trial).
    """
    recipe = recipe or RECIPES[algorithm]
    total = steps or recipe.steps
    checkpoint = folder / "checkpoint.pt"
    model = build(algorithm, worlds, seed, folder / "tensorboard", recipe)
    watch = Watch(tried_in or worlds, checkpoint, max(total // 25, at_once(recipe)), on_step, recipe)
    if checkpoint.is_file():
        go_on(model, watch, checkpoint)
    elif recipe.warm is not None:
        warm_start(model, worlds, recipe.warm, seed, workers, on_note, lessons, folder / "lessons")
    left = total - model.num_timesteps
    if left > 0:
        try:
            model.learn(left, callback=watch, reset_num_timesteps=False, tb_log_name=algorithm)
        except BaseException:
            # Ctrl-C: the same command goes on from the last rollout's start, as if it had not been interrupted.
            watch.keep()
            raise
    shutil.rmtree(folder / "lessons", ignore_errors=True)
    model.policy.load_state_dict(read_checkpoint(best_path(checkpoint))["policy"])
    names = ",".join(dict.fromkeys(w.scenario.name for w in worlds)) if len(worlds) <= 8 else f"{len(worlds)} scenarios"
    versions = {name: metadata.version(name) for name in ("torch", "numpy", "stable-baselines3")}
    card = PolicyCard(
        algorithm, recipe.width, names, seed, total, {"recipe": asdict(recipe)}, curve=content_digest(watch.curve),
        versions=versions,
    )  # fmt: skip
    network = MenuNetwork(menu_size(), recipe.width)
    network.load_state_dict(actor(model).state_dict())
    return FrozenPolicy(network, card), watch.curve
