"""What agents are called in tables: their own names, and never two of them, or one of ours and another, by the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from agents.base import Orchestrator
from agents.best_static import STATICS
from agents.clairvoyant import CLAIRVOYANT
from agents.frozen import named_policies
from agents.greedy_mpc import PLANNERS
from agents.heuristics import HEURISTICS
from agents.judge import Judgement
from agents.outside import is_outside

OURS = frozenset({*HEURISTICS, *STATICS, *PLANNERS, CLAIRVOYANT, *named_policies()})
"""Names that mean agents of ours."""


def labels(agents: Sequence[str]) -> dict[str, str]:
    """Spelling -> name for tables: a frozen policy's file name (its folder's where that is "policy"), a function's name; with
    the file's name behind it where that is the name of an agent of ours."""
    out: dict[str, str] = {}
    for agent in agents:
        name = agent.rpartition(":")[2] if is_outside(agent) else agent
        if agent.endswith(".safetensors"):
            name = Path(agent).stem if Path(agent).stem != "policy" else Path(agent).parent.name
        if name in OURS and name != agent:
            name = f"{name} of {Path(agent.rpartition(':')[0] or agent).name}"
        taken = list(out.values())
        out[agent] = name if name not in taken else f"{name} ({sum(t.startswith(name) for t in taken) + 1})"
    return out


def distinct(own: Mapping[str, str]) -> dict[str, str]:
    """Spelling -> name, from every agent's own name: that where nobody else has it (nor, of a person's agent, one of
    ours), its label otherwise."""
    labelled, count = labels(list(own)), Counter(own.values())
    apart = {agent for agent, name in own.items() if count[name] > 1 or (is_outside(agent) and name in OURS)}
    return {agent: labelled[agent] if agent in apart else name for agent, name in own.items()}


def name_apart(agents: Sequence[str], players: Sequence[Orchestrator]) -> dict[str, str]:
    """Give players that bear the same name names of their own.

    Args:
        agents: as they were spelled, all different.
        players: them.

    Returns:
        Spelling -> name.
    """
    shown = distinct({agent: player.name for agent, player in zip(agents, players, strict=True)})
    for agent, player in zip(agents, players, strict=True):
        player.name = shown[agent]
    return shown


def told_apart(agents: Sequence[str], judgements: Sequence[Judgement]) -> list[Judgement]:
    """Judgements of runs by these agents, one for each judgement, under the names that `distinct` gives them."""
    own = {agent: judgement.result.agent for agent, judgement in zip(agents, judgements, strict=True)}
    shown = distinct(own)
    return [replace(j, result=replace(j.result, agent=shown[agent])) for agent, j in zip(agents, judgements, strict=True)]
