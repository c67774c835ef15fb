"""Orchestrators from outside, whatever made them: a function or a class in a person's own Python file."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Orchestrator
from agents.frozen import policy_path
from envs.observation import machines_of
from fedcore.files import content_key
from scenarios import InputError, Scenario

_beside: set[str] = set()
"""Folders of the files that were loaded, as far as they were not importable from before."""
_introduced: dict[str, str] = {}
"""Modules that a person's file has imported from its own folder -> that folder."""


class Outside(Orchestrator):
    """A plain function as an orchestrator; what it returns is checked in every round.

    Args:
        decide: observation (size,) to action (K_max + 1,).
        name: for tables.
    """

    def __init__(self, decide: Callable[[NDArray[np.floating]], Any], name: str) -> None:
        self._decide, self.name = decide, name

    def decide(self, observation: NDArray[np.floating]) -> NDArray[np.float32]:
        """See `Orchestrator.decide`.

        Raises:
            InputError: the function returned something else than an action.
        """
        with _told_of(self.name, "in decide"):
            action = self._decide(observation)
        return checked(action, observation, self.name)


class OutsideClass(Outside):
    """An object with `decide(observation)`, made anew for every episode; it may have `begin(scenario)`.

    Args:
        make: the class.
        name: for tables.
    """

    def __init__(self, make: Callable[[], Any], name: str) -> None:
        super().__init__(lambda observation: None, name)
        self._make = make

    def begin(self, scenario: Scenario) -> None:
        """Make the object for a new episode."""
        with _told_of(self.name, "as its episode begins"):
            player = self._make()
            if hasattr(player, "begin"):
                player.begin(scenario)
        if not callable(getattr(player, "decide", None)):
            raise InputError(f"agent {self.name}: a {type(player).__name__} has no decide(observation), expected one")
        self._decide = player.decide


def _what(error: BaseException) -> str:
    """What was raised, and where."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{where}"


@contextmanager
def _told_of(name: str, when: str) -> Iterator[None]:
    """Around a person's code: what it raises is told with the agent and the line."""
    try:
        yield
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"agent {name} raises {_what(error)} {when}") from error


def checked(action: Any, observation: NDArray[np.floating], name: str) -> NDArray[np.float32]:
    """An action that the environment takes.

    Raises:
        InputError: wrong shape, or not finite numbers.
    """
    wanted = machines_of(observation.shape[-1]) + 1
    try:
        plain = action.detach().cpu() if hasattr(action, "detach") else action
        if np.iscomplexobj(plain):
            raise TypeError("complex")
        out = np.asarray(plain, dtype=np.float32)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(f"agent {name} returned {str(action)[:60]!r}, expected {wanted} numbers in [-1, 1]") from None
    if out.shape != (wanted,) or not np.isfinite(out).all():
        what = f"shape {out.shape}" if out.shape != (wanted,) else "NaN or infinity"
        raise InputError(f"agent {name} returned an action with {what}, expected {wanted} finite numbers in [-1, 1]")
    return out


def is_outside(name: str) -> bool:
    """Whether a name of an agent is FILE.py:NAME."""
    return ".py:" in name


def file_of(name: str) -> Path:
    """The file that an agent's name means, if it means one: FILE of FILE.py:NAME, a named policy's, else the name as a path."""
    return policy_path(name.rpartition(":")[0] if is_outside(name) else name)


def _module(name: str, path: Path) -> ModuleType:
    """A person's file, run as a module that may import what lies beside it."""
    folder = str(path.resolve().parent)
    for other, owner in list(_introduced.items()):
        first = Path(folder, other.partition(".")[0])
        if owner != folder and (first.is_dir() or first.with_suffix(".py").is_file()):
            sys.modules.pop(other, None)  # another agent's of the same name
            del _introduced[other]
    # Behind everything else: what lies there must not stand for a package of ours or of the library.
    if folder in _beside:
        sys.path.remove(folder)
    if folder not in sys.path:
        first_of_ours = min((sys.path.index(p) for p in _beside if p in sys.path), default=len(sys.path))
        sys.path.insert(first_of_ours, folder)
        _beside.add(folder)
    importlib.invalidate_caches()
    known = set(sys.modules)
    own = f"outside_{path.stem}_{content_key(folder)}"
    spec = importlib.util.spec_from_file_location(own, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[own] = module  # dataclasses and pickle look it up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[own]
        raise InputError(f"agent {name!r}: {path} raises {_what(error)}") from error
    for other in set(sys.modules) - known - {own}:
        at = getattr(sys.modules[other], "__file__", None)
        if at is not None and Path(folder) in Path(at).parents:
            _introduced[other] = folder
    return module


def load_outside(name: str) -> Orchestrator:
    """An orchestrator from FILE.py:NAME, where NAME is a function `observation -> action`, a class with `decide(observation)`
    (and `begin(scenario)`, if it likes) that is made anew for every episode, or an `agents.base.Orchestrator`.

    Raises:
        InputError: no such file or name, or the file raises.
    """
    file, _, wanted = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"agent {name!r}: file {file} does not exist, expected FILE.py:NAME")
    module = _module(name, path)
    if not hasattr(module, wanted):
        here = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"agent {name!r}: {file} has no {wanted!r}, expected one of {', '.join(here)[:200]}")
    found = getattr(module, wanted)
    if isinstance(found, Orchestrator):
        return found
    if inspect.isclass(found):
        return OutsideClass(found, wanted)
    if not callable(found):
        raise InputError(f"agent {name!r}: {wanted} is a {type(found).__name__}, expected a function or a class")
    return Outside(found, wanted)
