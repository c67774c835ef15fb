"""Putting an environment back where it was in the middle of an episode, for planners that try futures out."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from envs.core import Core


class Restorable:
    """An environment whose future depends on its core and on a few attributes of its own; it also pickles and copies whole."""

    core: Core
    moving: ClassVar[tuple[str, ...]] = ()
    """Names of those attributes."""

    def get_state(self) -> dict[str, Any]:
        """Everything that the future depends on, random generators too, for `set_state`; scenarios are shared, not copied."""
        return self._copy({"core": self.core.__dict__, **{name: getattr(self, name) for name in self.moving}})

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_state` gave, here or in an environment made alike; the state can be restored again.

        Raises:
            ValueError: it is of another number of episodes or another max_machines, of other scenarios, another reward or the
                other tier.
        """
        there, here = state["core"], self.core
        if (there["num_envs"], there["max_machines"]) != (here.num_envs, here.max_machines):
            raise ValueError(
                f"the state is of {there['num_envs']} episodes with max_machines={there['max_machines']}, "
                f"expected {here.num_envs} with max_machines={here.max_machines}"
            )
        same = len(there["worlds"]) == len(here.worlds) and all(
            a is b or a.scenario == b.scenario for a, b in zip(there["worlds"], here.worlds, strict=True)
        )
        if not same or there["reward"] is not here.reward or type(there["learner"]) is not type(here.learner):
            raise ValueError("the state is of other scenarios, another reward or the other tier, expected one made alike")
        for name, value in self._copy(state).items():
            if name == "core":
                self.core.__dict__.update(value)
            else:
                setattr(self, name, value)

    def _copy(self, state: dict[str, Any]) -> dict[str, Any]:
        return copy.deepcopy(state, {id(shared): shared for shared in self.core.immutable})
