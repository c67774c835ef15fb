"""A learner in the middle of its training as a file, so that it goes on as if it had never stopped, bit for bit.

stable-baselines3 keeps parameters alone. What happens next also hangs on episodes that are under way, on random generators,
and on what DQN replays. Between a rollout and the next, this is all of it.
"""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer

from agents.vecenv import BatchedVecEnv
from envs.core import Core
from scenarios.errors import InputError

COUNTERS = ("_n_updates", "_episode_num", "_n_calls", "exploration_rate")
REPLAYED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def capture(model: BaseAlgorithm) -> dict[str, Any]:
    """Everything that training's future depends on, copied: what `torch.load` reads without unpickling.

    Args:
        model: PPO or DQN on a `BatchedVecEnv`, between two rollouts.
    """
    env = _env(model)
    spaces = [model.action_space.np_random.bit_generator.state, *(g.bit_generator.state for g in env.generators)]
    plain = {
        "counters": {name: getattr(model, name) for name in COUNTERS if hasattr(model, name)},
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 - stable-baselines3 draws from it
        "generators": spaces,
    }
    kept: dict[str, Any] = {
        "steps": model.num_timesteps,
        "parameters": _copied(model.get_parameters()),
        "plain": json.dumps(plain, default=_listed),
        "torch": torch.get_rng_state(),
        "starts": torch.from_numpy(np.array(model._last_episode_starts)),
        "core": _arrays(env.core, env.core),
        "learner": _arrays(env.core.learner, env.core),
        "episodes": {"returns": torch.from_numpy(env._returns.copy()), "lengths": torch.from_numpy(env._lengths.copy())},
    }
    if isinstance(model, DQN):
        buffer = _buffer(model)
        upto = buffer.buffer_size if buffer.full else buffer.pos
        kept["replay"] = {name: torch.from_numpy(getattr(buffer, name)[:upto].copy()) for name in REPLAYED}
        kept["replay_at"] = (buffer.pos, buffer.full)
    return kept


def resume(model: BaseAlgorithm, kept: dict[str, Any]) -> None:
    """Put a learner that was built alike where another was when it was captured.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: it was another kind of learner, or the content is none of ours.
    """
    env = _env(model)
    model.set_parameters(kept["parameters"], device="cpu")
    model.num_timesteps = kept["steps"]
    plain = json.loads(kept["plain"])
    for name, value in plain["counters"].items():
        setattr(model, name, value)
    for owner, arrays in ((env.core, kept["core"]), (env.core.learner, kept["learner"])):
        for name, value in arrays.items():
            setattr(owner, name, value.numpy().copy())
    env._returns, env._lengths = kept["episodes"]["returns"].numpy().copy(), kept["episodes"]["lengths"].numpy().copy()
    env.core.began = True
    env._observation = env.core.observe()
    model._last_obs, model._last_episode_starts = env._observation, kept["starts"].numpy().copy()
    if isinstance(model, DQN):
        buffer = _buffer(model)
        for name, value in kept["replay"].items():
            getattr(buffer, name)[: len(value)] = value.numpy()
        buffer.pos, buffer.full = kept["replay_at"]
    version, words, gauss = plain["python"]
    random.setstate((version, tuple(words), gauss))
    words = np.array(plain["numpy"]["state"]["key"], dtype=np.uint32)
    np.random.set_state({**plain["numpy"], "state": {**plain["numpy"]["state"], "key": words}})  # noqa: NPY002
    first, *others = plain["generators"]
    model.action_space.np_random.bit_generator.state = first
    for generator, one in zip(env.generators, others, strict=True):
        generator.bit_generator.state = one
    torch.set_rng_state(kept["torch"])


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint's content.

    Raises:
        InputError: it is damaged, or none of ours.
    """
    wanted = "expected the one that training wrote; delete it to begin anew"
    try:
        kept = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        why = _short(str(error).partition("\n")[0])
        raise InputError(f"checkpoint {path} is damaged ({why}): {wanted}") from None
    if not isinstance(kept, dict):
        raise InputError(f"checkpoint {path} holds {type(kept).__name__}: {wanted}")
    return kept


@contextmanager
def of_this_training(path: Path) -> Iterator[None]:
    """Around what puts a checkpoint's content into a learner.

    Raises:
        InputError: it does not fit.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        why = _short(str(error))
        raise InputError(
            f"checkpoint {path} is of another learner ({why}): expected one of this training; delete it to begin anew"
        ) from None


def _short(text: str) -> str:
    return " ".join(text.split())[:100]


def _env(model: BaseAlgorithm) -> BatchedVecEnv:
    assert isinstance(model.env, BatchedVecEnv)
    return model.env


def _buffer(model: DQN) -> ReplayBuffer:
    assert isinstance(model.replay_buffer, ReplayBuffer)
    return model.replay_buffer


def _arrays(owner: Any, core: Core) -> dict[str, torch.Tensor]:
    """Arrays of a core or its learner that change, copied."""
    shared = {id(part) for part in core.immutable}
    changing: dict[str, NDArray[Any]] = {
        name: value for name, value in vars(owner).items() if isinstance(value, np.ndarray) and id(value) not in shared
    }
    return {name: torch.from_numpy(value.copy()) for name, value in changing.items()}


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    """Arrays and numbers of NumPy as JSON has them."""
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else list(value)
