"""Orchestrators: heuristics, learned policies, frozen files, references."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agents.frozen import FrozenPolicy


def load(name: str) -> FrozenPolicy:
    """A frozen policy by name ("ppo-default", "dqn-default") or by the path of its file.

    Raises:
        InputError: as `frozen.load_policy`.
    """
    from agents.frozen import load_policy  # torch takes a second to import, and not everyone who comes by wants a policy

    return load_policy(name)
