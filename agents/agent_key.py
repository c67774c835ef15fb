"""What decides an agent's decisions: kept results are named by it."""

from __future__ import annotations

import hashlib
import json

from agents.best_static import STATICS
from agents.clairvoyant import CLAIRVOYANT
from agents.content import code_of
from agents.fixed import FIXED
from agents.greedy_mpc import PLANNERS
from agents.heuristics import HEURISTICS
from agents.outside import file_of, is_outside
from agents.tuned import TUNED, found, tunable
from fedcore.files import content_key


def agent_key(agent: str) -> str:
    """Digest of an agent's code, and of its file where it has one; a name that means nothing stands for itself."""
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
    reads = "agents.outside" if is_outside(agent) else "agents.frozen"
    content = hashlib.sha256(file.read_bytes()).hexdigest()
    return content_key(agent.rpartition(":")[2] if is_outside(agent) else "", content, code_of(reads))
