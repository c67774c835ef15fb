"""Load a scenario by name or from a YAML file."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from scenarios.errors import InputError
from scenarios.schema import Scenario

LIBRARY = Path(__file__).parent / "library"
MAX_BYTES = 1_000_000  # a scenario is a page of text: anything larger is a mistake or an attack


class _NoAliasLoader(yaml.SafeLoader):
    """SafeLoader without aliases, which only serve to blow a small file up."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            event = self.get_event()
            raise yaml.YAMLError(f"aliases are not allowed ({event.start_mark})")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base class, but of two equal keys the last would win in silence."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key, count in Counter(keys).items():
            if count > 1:
                raise yaml.YAMLError(f"{key!r} stands there twice ({node.start_mark})")
        return super().construct_mapping(node, deep)


# YAML 1.1 takes 1e3 for a word (its floats need a point and a sign), 010 for 8 and 1:30 for 90.
_INT = "tag:yaml.org,2002:int"
_NoAliasLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in forms if tag != _INT]
    for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_NoAliasLoader.add_implicit_resolver(_INT, re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
_NoAliasLoader.add_constructor(_INT, lambda loader, node: int(node.value.replace("_", "")))
_NoAliasLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def names() -> list[str]:
    """Names of the scenarios that come with the package, sorted."""
    return sorted(path.stem for path in LIBRARY.glob("*.yaml"))


def refuse_namesakes(scenarios: Iterable[Scenario]) -> None:
    """Results are kept, told and written by scenarios' names.

    Raises:
        InputError: two have the same.
    """
    told = Counter(scenario.name for scenario in scenarios)
    twice = min((name for name, count in told.items() if count > 1), default=None)
    if twice is not None:
        raise InputError(f"two scenarios are named {twice!r}: expected names that differ")


def load(name_or_path: str | Path) -> Scenario:
    """Load and validate a scenario.

    Args:
        name_or_path: a name in `names()`, or the path of a YAML file.

    Raises:
        InputError: unknown name, unreadable file, or a field that does not validate.
    """
    text = str(name_or_path)
    path = Path(text)
    if path.suffix.lower() not in (".yaml", ".yml") and not os.path.isfile(path):
        if os.path.isdir(path):
            raise InputError(f"scenario {text[:60]!r} is a folder: expected a file (evaluate.py --benchmark takes folders)")
        path = LIBRARY / f"{text}.yaml"
        if text not in names():
            close = difflib.get_close_matches(text, names(), 1)
            hint = f" (did you mean {close[0]!r}?)" if close else ""
            raise InputError(f"scenario {text[:60]!r} is unknown{hint}: expected a YAML file or one of {', '.join(names())}")
    return parse(_with_files_beside(read_yaml(path), path.parent), str(path))


def _with_files_beside(content: Any, folder: Path) -> Any:
    """Parsed YAML in which relative paths of traces, data and a calibration are taken from the file's own folder."""
    workload = content.get("workload") if isinstance(content, dict) else None
    if isinstance(workload, dict):
        for name in ("data", "calibration"):
            told = workload.get(name)
            # What is not there may be the name of a set or a calibration, or else lies where the command is run.
            if isinstance(told, str) and told and os.path.exists(folder / told):
                workload[name] = str((folder / told).resolve())
    fleet = content.get("fleet") if isinstance(content, dict) else None
    groups = fleet.get("groups") if isinstance(fleet, dict) else None
    for group in groups if isinstance(groups, list) else ():
        for section in (group.get("link"), group.get("availability")) if isinstance(group, dict) else ():
            if isinstance(section, dict) and isinstance(section.get("trace"), str):
                section["trace"] = str((folder / section["trace"]).resolve())
    return content


def read_yaml(path: Path) -> Any:
    """Parse one YAML file.

    Raises:
        InputError: missing, unreadable, too large, or not YAML.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: {path.stat().st_size} bytes, expected a scenario of at most {MAX_BYTES}")
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_NoAliasLoader)  # a SafeLoader
    except FileNotFoundError:
        raise InputError(f"scenario file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"scenario file {path} cannot be read: {error}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        if isinstance(error, InputError):
            raise
        raise InputError(f"scenario file {path} is not valid YAML: {detail}") from None


def parse(content: Any, source: str) -> Scenario:
    """Validate parsed YAML.

    Args:
        content: mapping of sections.
        source: file name for the message.

    Raises:
        InputError: with the first faulty field, its value and what was expected.
    """
    if not isinstance(content, dict):
        raise InputError(f"{source}: expected a mapping with name, fleet, ..., got {type(content).__name__}")
    try:
        return Scenario.model_validate(content)
    except ValidationError as error:
        found = error.errors()
        # A faulty field of a group leaves no whole group, which is told too and is no fault of its own.
        inner = {p["loc"][:n] for p in found for n in range(len(p["loc"]))}
        problems = [p for p in found if p["loc"] not in inner] or found
        # A misspelt field is told before the one that is missing for it.
        problems.sort(key=lambda p: p["type"] != "extra_forbidden")
        raise InputError(f"{source}: {_sentence(problems[0], len(problems))}") from None


def _sentence(problem: Any, total: int) -> str:
    # Where a field may be of several types, pydantic names the type too.
    where = ".".join(part for part in map(str, problem["loc"]) if not part.startswith(("constrained-", "tuple["))) or "scenario"
    more = f" (and {total - 1} more)" if total > 1 else ""
    if problem["type"] == "extra_forbidden":
        parent = problem["loc"][:-1]
        known = _fields_at(parent)
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, 1)
        hint = f", did you mean {close[0]!r}?" if close else f", expected one of {', '.join(known)}"
        return f"field {where} is unknown{hint}{more}"
    if problem["type"] == "missing":
        return f"field {where} is missing{more}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    return f"field {where} has value {problem['input']!r:.80}: {message}{more}"


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    """Field names of the section at a location such as ('fleet', 'groups', 0, 'device')."""
    model: Any = Scenario
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next(t for t in _flatten(annotation) if hasattr(t, "model_fields"))
    return list(model.model_fields)


def _flatten(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", None)
    return [annotation] if not inner else [t for part in inner for t in _flatten(part)]
