"""Where a real run stands, in one file: weights, target, what server and observation remember, the round.

What an orchestrator remembers follows from what it has been shown: so that is kept, and shown again to whoever goes on. All
random draws of a run follow from its seed and the round's number (a private run's noise from a secret, which is kept here and
for nobody else to read), and machines keep no optimiser between rounds, so there are no generators or moments to keep: what is
here is all that the rest of the run depends on, beside what rounding left out, which nodes keep.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from agents.base import Orchestrator
from envs.measured import MeasuredEnv
from fedcore.files import write_bytes
from fedcore.importance import Importance
from fedcore.methods.private import SECRET
from fedcore.tensor_file import read_tensors
from scenarios.errors import InputError

FORMAT = 3


def _core_arrays(env: MeasuredEnv) -> dict[str, NDArray[Any]]:
    """The arrays of the episode that move."""
    shared = {id(part) for part in env.core.immutable}
    return {
        name: value for name, value in vars(env.core).items() if isinstance(value, np.ndarray) and id(value) not in shared
    }


def _tensor(array: NDArray[Any]) -> Tensor:
    # Safetensors has no unsigned 64 bit in torch's older readers: keys travel as the bits that they are.
    array = np.ascontiguousarray(array)
    return torch.from_numpy((array.view(np.int64) if array.dtype == np.uint64 else array).copy())


def save_checkpoint(
    path: Path, env: MeasuredEnv, shown: Sequence[NDArray[np.float32]], log: dict[str, Any], identity: str
) -> None:
    """Write a checkpoint; the previous one stays whole until the new one is.

    Args:
        path: of the file.
        env: in the middle of an episode.
        shown: observations that the orchestrator has decided on so far.
        log: JSON values that the caller wants back.
        identity: of the run; only the same one goes on from here.

    Raises:
        InputError: it cannot be written.
    """
    training = env.learner.training
    assert training is not None
    server = training.server
    tensors = {f"state/{n}": v.contiguous() for n, v in server.state.items()}
    if server.target is not None:
        tensors |= {f"target/{n}": v.contiguous().clone() for n, v in server.target.items()}
    counts = {kind: kept for kind, kept in server.memory.items() if isinstance(kept, list)}
    for kind, kept in server.memory.items():
        if kind in counts:
            continue
        if isinstance(kept, Importance):
            tensors |= {f"memory/{kind}/moved/{n}": _tensor(v) for n, v in kept.moved.items()}
            tensors |= {f"memory/{kind}/rested/{n}": _tensor(v) for n, v in kept.rested.items()}
        else:
            tensors |= {f"memory/{kind}/state/{n}": v.contiguous() for n, v in kept.items()}
    tensors |= {f"core/{n}": _tensor(v) for n, v in _core_arrays(env).items()}
    tensors["shown"] = torch.from_numpy(np.stack(shown))
    card = {
        "format": FORMAT, "identity": identity, "round": server.round_index, "steps_done": server.steps_done, "log": log,
        "counts": counts,
    }  # fmt: skip
    write_bytes(path, save(tensors, {"intrafed": json.dumps(card)}), 0o600 if SECRET in counts else 0o644)


@dataclass(frozen=True)
class Kept:
    """What a checkpoint holds.

    Attributes:
        card: numbers of the server, and `log`, the caller's own values.
        tensors: all others.
    """

    card: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def log(self) -> dict[str, Any]:
        """What `save_checkpoint` was given."""
        return dict(self.card["log"])


def read_kept(path: Path, identity: str) -> Kept:
    """Read a checkpoint.

    Args:
        path: of the file.
        identity: of the run that wants to go on.

    Raises:
        InputError: the file is damaged or cut short, or of another run or version.
    """
    try:
        metadata, tensors = read_tensors(path)
        card = json.loads(metadata.get("intrafed", "null"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"checkpoint {path} is damaged or cut short ({error}); expected the one that the run wrote") from None
    if isinstance(card, dict) and card.get("format") != FORMAT:
        raise InputError(f"checkpoint {path} has format {card.get('format')!r}, expected {FORMAT}: it is of another version")
    if not isinstance(card, dict) or card.get("identity") != identity:
        raise InputError(f"checkpoint {path} is of another run: expected the same scenario, policy, data and options")
    return Kept(card, tensors)


def restore(checkpoint: Kept, env: MeasuredEnv, agent: Orchestrator) -> list[NDArray[np.float32]]:
    """Put a run back where its checkpoint stands.

    Args:
        checkpoint: of the run.
        env: of the same scenario, reset with the same seed.
        agent: the same, begun; it decides again on all that it has been shown.

    Returns:
        What the orchestrator has been shown.
    """
    card, tensors = checkpoint.card, checkpoint.tensors

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    training = env.learner.training
    assert training is not None
    server = training.server
    server.state = under("state/")
    server.target = under("target/") or None
    server.round_index, server.steps_done = int(card["round"]), int(card["steps_done"])
    for kind in {name.split("/")[1] for name in tensors if name.startswith("memory/")}:
        if kind == "importance":
            kept = Importance(server.model.neuron_map)
            kept.moved = {n: v.numpy() for n, v in under(f"memory/{kind}/moved/").items()}
            kept.rested = {n: v.numpy() for n, v in under(f"memory/{kind}/rested/").items()}
            server.memory[kind] = kept
        else:
            server.memory[kind] = under(f"memory/{kind}/state/")
    server.memory |= card.get("counts", {})
    for name, array in _core_arrays(env).items():
        stored = tensors[f"core/{name}"].numpy()
        array[...] = stored.view(np.uint64) if array.dtype == np.uint64 else stored
    shown = list(tensors["shown"].numpy())
    for observation in shown:
        agent.decide(observation)
    return shown
