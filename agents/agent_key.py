"""What decides an agent's decisions: kept results are named by it."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from contextlib import suppress
from pathlib import Path

from agents.best_static import STATICS
from agents.clairvoyant import CLAIRVOYANT
from agents.content import code_of
from agents.fixed import FIXED
from agents.frozen import named_policies
from agents.greedy_mpc import PLANNERS
from agents.heuristics import HEURISTICS
from agents.outside import file_of, is_outside
from agents.tuned import TUNED, found, tunable
from fedcore.files import content_key

RUNS, WEIGHTS = "runs", frozenset({
    ".bin", ".ckpt", ".cleanrl_model", ".h5", ".keras", ".model", ".msgpack", ".onnx", ".pickle", ".pkl", ".pt", ".pth", ".tar",
    ".zip",
})  # fmt: skip
"""The folder where ours writes, as CleanRL does, and endings of the files in it that a person's agent may load."""
PASSED_OVER = frozenset({".log", ".jsonl", ".pyc", ".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff"})
"""Endings of what no agent loads, and of images, of which there may be thousands."""
OURS = "report.html"
"""In a folder that an evaluation has written, which changes with every one of them."""
MOST_FILES = 5000
"""That are looked at."""


def beside(file: Path) -> str:
    """Digest of what a person's agent may load from its folder and those below, by path, size and time: weights, settings,
    modules, whatever they are called; of `RUNS` what has an ending of `WEIGHTS`, and nothing that is hidden, a log or where an
    evaluation has written. Of a folder too large to look through it is another every time, so that nothing is kept of it."""
    found, own = [], file.resolve().parent
    for folder, below, files in os.walk(own):
        if OURS in files and Path(folder) != own:
            below.clear()
            continue
        below[:] = sorted(name for name in below if name != "__pycache__" and not name.startswith("."))
        in_runs = RUNS in Path(folder).relative_to(own).parts
        for place in (Path(folder, name) for name in sorted(files) if not name.startswith(".")):
            if place.is_file() and (place.suffix.lower() in WEIGHTS if in_runs else place.suffix.lower() not in PASSED_OVER):
                with suppress(FileNotFoundError):  # gone meanwhile
                    state = place.stat()
                    found.append((str(place), state.st_size, state.st_mtime_ns))
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
        return agent + code_of("agents.clairvoyant") + content_key(*map(agent_key, named_policies()))
    if agent.startswith(FIXED):
        return agent + code_of("agents.fixed")
    file = file_of(agent)
    if not file.is_file():
        return agent
    content = hashlib.sha256(file.read_bytes()).hexdigest()
    if is_outside(agent):
        return content_key(agent.rpartition(":")[2], content, beside(file), code_of("agents.outside"))
    return content_key(content, code_of("agents.frozen"))
