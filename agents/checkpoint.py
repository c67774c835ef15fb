"""Where a real run stands, in one file: weights, target, what server, orchestrator and observation remember, the round.

All random draws of a run follow from its seed and the round's number, and machines keep no optimiser between rounds, so there
are no generators or moments to keep: what is here is all that the rest of the run depends on.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from agents.base import Orchestrator
from envs.measured import MeasuredEnv
from fedcore.files import write_bytes
from fedcore.importance import Importance
from scenarios.errors import InputError

FORMAT = 1
PLAIN = (bool, int, float, str, type(None))


def _core_arrays(env: MeasuredEnv) -> dict[str, NDArray[Any]]:
    """The arrays of the episode that move."""
    shared = {id(part) for part in env.core.immutable}
    return {
        name: value for name, value in vars(env.core).items() if isinstance(value, np.ndarray) and id(value) not in shared
    }


def _agent_state(agent: Orchestrator) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What an orchestrator remembers: plain values and arrays; networks and scenarios do not move."""
    plain = {n: v for n, v in vars(agent).items() if isinstance(v, PLAIN) and n != "name"}
    arrays = {n: np.asarray(v) for n, v in vars(agent).items() if isinstance(v, np.ndarray | np.generic)}
    return plain, arrays


def _tensor(array: NDArray[Any]) -> Tensor:
    # Safetensors has no unsigned 64 bit in torch's older readers: keys travel as the bits that they are.
    array = np.ascontiguousarray(array)
    return torch.from_numpy((array.view(np.int64) if array.dtype == np.uint64 else array).copy())


def save_checkpoint(path: Path, env: MeasuredEnv, agent: Orchestrator, log: dict[str, Any], identity: str) -> None:
    """Write a checkpoint; the previous one stays whole until the new one is.

    Args:
        path: of the file.
        env: in the middle of an episode.
        agent: that decides.
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
    plain, arrays = _agent_state(agent)
    tensors |= {f"agent/{n}": _tensor(v) for n, v in arrays.items()}
    card = {
        "format": FORMAT, "identity": identity, "round": server.round_index, "steps_done": server.steps_done, "agent": plain,
        "log": log, "counts": counts,
    }  # fmt: skip
    write_bytes(path, save(tensors, {"intrafed": json.dumps(card)}))


def load_checkpoint(path: Path, env: MeasuredEnv, agent: Orchestrator, identity: str) -> dict[str, Any]:
    """Put a run back where its checkpoint stands.

    Args:
        path: of the file.
        env: of the same scenario, reset with the same seed.
        agent: the same, begun.
        identity: of the run.

    Returns:
        The caller's own values.

    Raises:
        InputError: the file is damaged or cut short, or of another run.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            card = json.loads((file.metadata() or {}).get("intrafed", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"checkpoint {path} is damaged or cut short ({error}); expected the one that the run wrote") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT or card.get("identity") != identity:
        raise InputError(f"checkpoint {path} is of another run: expected the same scenario, policy, data and options")

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
    for name, value in card["agent"].items():
        setattr(agent, name, value)
    for name, tensor in under("agent/").items():
        setattr(agent, name, tensor.numpy())
    return dict(card["log"])
