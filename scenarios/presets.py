"""Devices and links by kind: `device: raspberry-pi-4`, or `device: {like: raspberry-pi-4, memory_mb: 512}`."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "catalogue"


@lru_cache(maxsize=8)
def presets(catalogue: str) -> dict[str, dict[str, Any]]:
    """Kind -> fields of a section, as `catalogue/NAME.yaml` has them; a new kind is one entry there."""
    content: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / f"{catalogue}.yaml").read_text(encoding="utf-8"))
    return content


def expand(catalogue: str, section: Any) -> Any:
    """A section with the fields of the kind that it is like, its own ones winning.

    Args:
        catalogue: "devices" or "links".
        section: a kind's name, or a mapping that may name one under `like`; anything else is left alone.

    Raises:
        ValueError: no such kind.
    """
    if isinstance(section, str):
        section = {"like": section}
    if not isinstance(section, dict) or "like" not in section:
        return section
    known, kind = presets(catalogue), section["like"]
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"like {kind!r} is unknown, expected one of {', '.join(known)}")
    return {**known[kind], **{name: value for name, value in section.items() if name != "like"}}
