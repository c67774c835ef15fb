"""What decides an agent's decisions: kept results are named by it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from pathlib import Path

from agents.best_static import STATICS
from agents.clairvoyant import CLAIRVOYANT
from agents.content import code_of
from agents.fixed import FIXED
from agents.greedy_mpc import PLANNERS
from agents.heuristics import HEURISTICS
from agents.outside import file_of, is_outside
from agents.tuned import TUNED, found, tunable
from fedcore.files import content_key

LOADED = frozenset({
    ".bin", ".ckpt", ".h5", ".joblib", ".json", ".msgpack", ".npy", ".npz", ".onnx", ".pickle", ".pkl", ".pt", ".pth", ".py",
    ".safetensors", ".yaml", ".yml", ".zip",
})  # fmt: skip
"""Endings of the files beside a person's agent that it may load or import."""
MOST_FILES = 5000
"""Of them that are looked at."""


def beside(file: Path) -> str:
    """Digest of what a person's agent may load from its folder and those below, by path, size and time: weights, modules that
    it imports; not from `runs`, where ours writes. Of a folder too large to be looked through it is another every time, so that
    nothing is kept of it."""
    found = []
    for folder, below, files in os.walk(file.resolve().parent):
        below[:] = sorted(name for name in below if name not in ("runs", "__pycache__") and not name.startswith("."))
        for place in (Path(folder, name) for name in sorted(files)):
            if place.suffix in LOADED and place.is_file():
                found.append((str(place), place.stat().st_size, place.stat().st_mtime_ns))
        if len(found) > MOST_FILES:
            return secrets.token_hex()
    return content_key(*found)


def agent_key(agent: str) -> str:
    """Digest of an agent's code, and of its file where it has one, with what lies beside a person's own; a name that means
    nothing stands for itself."""
    if agent in HEURISTICS:
        return agent + code_of(HEURISTICS[agent].__module__)
    if agent.startswith(TUNED) and (name := agent.removeprefix(TUNED)) in tunable():
        return agent + code_of(HEURISTICS[name].__module__, "agents.tuned") + content_key(json.dumps(found(name)))
    if agent in STATICS:
        return agent + code_of("agents.best_static")
    if agent in PLANNERS:
        return agent + code_of("agents.greedy_mpc")
    if agent == CLAIRVOYANT:
        return agent + code_of("agents.clairvoyant")
    if agent.startswith(FIXED):
        return agent + code_of("agents.fixed")
    file = file_of(agent)
    if not file.is_file():
        return agent
    content = hashlib.sha256(file.read_bytes()).hexdigest()
    if is_outside(agent):
        return content_key(agent.rpartition(":")[2], content, beside(file), code_of("agents.outside"))
    return content_key(content, code_of("agents.frozen"))
