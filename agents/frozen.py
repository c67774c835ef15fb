"""Frozen policies: one file that decides without stable-baselines3, exactly as the live policy did.

The file is safetensors: weights, and as metadata one JSON text with spaces, features, scenario, versions and evaluation.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from agents.base import Orchestrator
from agents.network import MenuNetwork, for_any_fleet
from agents.scaling import observation_digest, pattern_digest
from envs.menu import LEVELS, PATTERNS, menu_actions, menu_size
from envs.observation import FLEET_FEATURES, MACHINE_FEATURES, N_FLEET, N_MACHINE, machines_of
from envs.spaces import RESTS_BELOW
from fedcore.files import write_bytes
from fedcore.tensor_file import read_tensors
from scenarios.errors import InputError

FORMAT = 4
WIDEST = 4096
"""Of a network: a file that says more is none of ours."""
SPOKEN = {str: "text", int: "a whole number", dict: "an object"}
POLICIES = Path(__file__).parent / "policies"
"""Trained policies that come with the package, by name; `python -m agents.defaults` makes them."""


def named_policies() -> list[str]:
    """Names of the policies that come with the package."""
    return sorted(path.stem for path in POLICIES.glob("*.safetensors"))


def policy_path(name: str | Path) -> Path:
    """The file of a policy given by name or by path."""
    return POLICIES / f"{name}.safetensors" if str(name) in named_policies() else Path(name)


def spaces_card() -> dict[str, Any]:
    """What a policy depends on: the meaning of every number it reads and writes."""
    return {
        "machine_features": list(MACHINE_FEATURES),
        "fleet_features": list(FLEET_FEATURES),
        "patterns": list(PATTERNS),
        "levels": LEVELS,
        "rests_below": RESTS_BELOW,
        "observation_scaling": observation_digest(),
        "pattern_constants": pattern_digest(),
    }


@dataclass(frozen=True)
class PolicyCard:
    """What is known about a frozen policy.

    Attributes:
        algorithm: "ppo" or "dqn".
        width: of its network.
        scenario: name of what it was trained on.
        ranges: that random scenarios were drawn from, see `scenarios.generate.Ranges`; empty where it was trained on others.
        curve: SHA-256 of its learning curve, as `train_agent.py` keeps it in curve.json.
        versions: of the libraries that it was trained with.
        seed: of training.
        steps: environment steps of training.
        evaluation: its scores on held-out simulated episodes.
        spaces: `spaces_card()` at the time.
        version: of intrafed.
        digest: SHA-256 of all this and of the weights.
    """

    algorithm: str
    width: int
    scenario: str
    seed: int
    steps: int
    evaluation: dict[str, Any] = field(default_factory=dict)
    spaces: dict[str, Any] = field(default_factory=spaces_card)
    ranges: dict[str, Any] = field(default_factory=dict)
    curve: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    version: str = ""
    digest: str = ""


def code_version() -> str:
    """Version of the installed distribution, "0+unknown" where it is not installed."""
    try:
        return metadata.version("intrafed")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def _digest(card: dict[str, Any], weights: dict[str, Tensor]) -> str:
    """Of weights and of a card as JSON holds it, its own digest aside."""
    said = {name: value for name, value in json.loads(json.dumps(card)).items() if name != "digest"}
    h = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in sorted(weights):
        h.update(name.encode())
        h.update(weights[name].contiguous().numpy().tobytes())
    return h.hexdigest()


class FrozenPolicy(Orchestrator):
    """A policy that no longer learns.

    Args:
        network: a `MenuNetwork`: the actor (PPO) or the Q-network (DQN).
        card: what is known about it.
        name: for tables.
    """

    def __init__(self, network: nn.Module, card: PolicyCard, name: str | None = None) -> None:
        self.network, self.card = network.eval(), card
        self.name = name or card.algorithm
        self._traced: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what is traced, which pickle cannot take; it is traced again."""
        return {**vars(self), "_traced": {}}

    def __copy__(self) -> FrozenPolicy:
        """Another name for the same network, traced once for all of them: episodes played side by side have a copy each."""
        other = FrozenPolicy(self.network, self.card, self.name)
        other._traced = self._traced
        return other

    @torch.inference_mode()
    def decide_batch(self, observations: NDArray[np.floating]) -> NDArray[np.float32]:
        """(B, size) observations to (B, K_max + 1) actions."""
        observations = np.ascontiguousarray(observations, dtype=np.float32)
        return _moves(self.network, observations)

    @torch.inference_mode()
    def decide(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """See `Orchestrator.decide`; the network is traced once and runs without Python then, in a third of the time."""
        one = np.ascontiguousarray(observation, dtype=np.float32)[None]
        try:
            _, size = one.shape
            machines = machines_of(size)
        except ValueError:
            wanted = f"({N_MACHINE} K_max + {N_FLEET},)"
            raise InputError(f"policy {self.name}: observation has shape {one.shape[1:]}, expected {wanted}") from None
        if one.size not in self._traced:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # what replaces it needs a compiler at run time
                network = for_any_fleet(self.network, machines)
                self._traced[one.size] = torch.jit.trace(network, torch.from_numpy(one), check_trace=False)
        return _moves(self._traced[one.size], one)[0]


def _moves(network: Callable[[Tensor], Tensor], observations: NDArray[np.float32]) -> NDArray[np.float32]:
    return menu_actions(network(torch.from_numpy(observations)).argmax(dim=1).numpy(), observations)


def freeze(policy: FrozenPolicy, path: Path) -> None:
    """Write a policy to one file.

    Raises:
        InputError: the file cannot be written.
    """
    weights = {name: value.detach().clone() for name, value in policy.network.state_dict().items()}
    card = {**vars(policy.card), "version": code_version(), "format": FORMAT}
    card["digest"] = _digest(card, weights)
    write_bytes(path, save(weights, {"intrafed": json.dumps(card)}))


def load_policy(path: str | Path) -> FrozenPolicy:
    """Read a frozen policy.

    Args:
        path: of its file, or the name of one that comes with the package.

    Raises:
        InputError: no such file, cut short or damaged, not an intrafed policy, or made for other spaces.
    """
    name = str(path) if str(path) in named_policies() else None
    path = policy_path(path)
    if not path.is_file():
        known = ", ".join(named_policies())
        what = "is no file" if path.exists() else "does not exist"
        raise InputError(f"policy file {path} {what}: expected a file written by train_agent.py, or one of {known}")
    try:
        described, weights = read_tensors(path)
    except ValueError as error:
        raise InputError(
            f"policy file {path} is damaged or cut short ({error}): expected a file written by train_agent.py"
        ) from None
    try:
        raw = json.loads(described.get("intrafed", "null"))
        made = raw.get("format") if isinstance(raw, dict) else None
        if not isinstance(made, int):
            raise ValueError("no policy card")
        card = PolicyCard(**{key: value for key, value in raw.items() if key != "format"}) if made == FORMAT else None
    except (ValueError, TypeError, RecursionError):
        raise InputError(f"policy file {path} has no intrafed card: expected a file written by train_agent.py") from None
    if card is None:
        raise InputError(f"policy file {path} is of format {made}: expected format {FORMAT}; train it again with this version")
    _check_card(card, path)
    now = spaces_card()
    for key, value in now.items():
        if card.spaces.get(key) != value:
            had, wanted = _apart(card.spaces.get(key), value), _apart(value, card.spaces.get(key))
            raise InputError(
                f"policy file {path} was made for other spaces (its {key}: {had}): expected {wanted}; "
                "train it again with this version"
            )
    whole = all(weight.dtype == torch.float32 for weight in weights.values())
    if not whole or card.digest != _digest(raw, weights):
        raise InputError(f"policy file {path} does not match its own checksum: expected an unchanged file")
    network = MenuNetwork(menu_size(), card.width)
    wanted_shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    for key in sorted(wanted_shapes.keys() | shapes.keys()):
        there, expected = shapes.get(key, "missing"), wanted_shapes.get(key, "no such weights")
        if there != expected:
            raise InputError(f"policy file {path} does not fit its network: {key} is {there}, expected {expected}")
        if not weights[key].isfinite().all():
            raise InputError(f"policy file {path}: {key} has NaN or infinite weights, expected finite ones")
    network.load_state_dict(weights)
    return FrozenPolicy(network, card, name)


def _check_card(card: PolicyCard, path: Path) -> None:
    """Refuse a card with a field of another type, or of no meaning."""
    for key, hint in get_type_hints(PolicyCard).items():
        value, wanted = getattr(card, key), get_origin(hint) or hint
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise InputError(f"policy file {path}: its card's {key} is {repr(value)[:40]}, expected {SPOKEN[wanted]}")
    if card.algorithm not in ("ppo", "dqn"):
        raise InputError(f"policy file {path}: its card's algorithm is {card.algorithm[:40]!r}, expected ppo or dqn")
    if not 1 <= card.width <= WIDEST:
        width = card.width if abs(card.width) < 10**9 else "a number of many digits"
        raise InputError(f"policy file {path}: its card's width is {width}, expected 1 to {WIDEST}")


def _apart(these: Any, others: Any) -> str:
    """In a few words, what others do not have; of a list, its entries."""
    if isinstance(these, list) and isinstance(others, list):
        these = [entry for entry in these if entry not in others] or these
    return str(these)[:80]


def newest_policy(runs: Path) -> Path | None:
    """The frozen policy written last under a folder of runs, or None."""
    found = sorted(runs.glob("*/policy.safetensors"), key=lambda p: p.stat().st_mtime)
    return found[-1] if found else None
