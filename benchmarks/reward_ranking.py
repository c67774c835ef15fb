"""Do returns rank policies as the score does? `python benchmarks/reward_ranking.py` prints the tables of docs/rewards.md.

Twelve policies, sound and degenerate, play the same episodes under every reward. A reward is sound as far as its mean
undiscounted return puts them in the order of their mean log-efficiency.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tyro
from numpy.typing import NDArray
from scipy.stats import spearmanr

from envs.menu import PATTERNS
from envs.observation import View, split
from envs.patterns import SMALLEST, by_speed, ready, uniform
from envs.rewards import REWARDS
from envs.spaces import share_entries
from envs.vector import OrchestrationVectorEnv
from scenarios import Scenario, load

Floats = NDArray[np.float64]
Shares = Callable[[View, float], NDArray[np.floating]]
VECTOR = "vector, half of it progress"
KINDS = (*REWARDS, VECTOR)
SCENARIOS = ("farm-lte", "phones", "solar-field")


def one_machine(view: View, steps: float) -> NDArray[np.floating]:
    """Everything for the first machine, when it is there."""
    shares = uniform(view, 1.0)
    shares[..., 1:] = 0.0
    return shares


# Name -> (shares, level of H: 0 shortest, 1 the scenario's usual, 2 longest). The first five are heuristics of agents/.
POLICIES: dict[str, tuple[Shares, int]] = {
    "equal": (lambda view, steps: uniform(view, 0.5), 1),
    "fedavg": (lambda view, steps: uniform(view, 1.0), 1),
    "speed": (lambda view, steps: by_speed(view), 1),
    "makespan": (PATTERNS["balanced-half"], 1),
    "energy": (PATTERNS["thrifty-half"], 1),
    "fastest half": (PATTERNS["fastest-half"], 1),
    "always shortest H": (lambda view, steps: uniform(view, 0.5), 0),
    "always longest H": (lambda view, steps: uniform(view, 0.5), 2),
    "one machine only": (one_machine, 1),
    "nobody": (lambda view, steps: 0.0 * ready(view), 1),
    "tiny cheap rounds": (lambda view, steps: uniform(view, SMALLEST), 0),
    "random": (lambda view, steps: np.zeros(0), 1),
}


def actions_of(
    name: str, observation: NDArray[np.float32], scenario: Scenario, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Actions (B, K_max + 1) of a policy on observations (B, size)."""
    view = split(observation)
    batch, machines = view.machine["exists"].shape
    if name == "random":
        return rng.uniform(-1.0, 1.0, (batch, machines + 1)).astype(np.float32)
    shares, interval = POLICIES[name]
    menu = scenario.decision.sync_intervals
    level = (0, menu.index(scenario.reference.sync_interval), len(menu) - 1)[interval]
    actions = np.empty((batch, machines + 1), dtype=np.float32)
    actions[:, :-1] = share_entries(shares(view, float(menu[level])))
    actions[:, -1] = 2.0 * (level + 0.5) / len(menu) - 1.0
    return actions


def returns(name: str, scenario: Scenario, reward: str, episodes: int, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Of so many episodes, (episodes,) each: log-efficiency, undiscounted return, and that of the vector, in which progress
    weighs as much as the three costs together."""
    env = OrchestrationVectorEnv(episodes, scenario, reward)
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    score, total, vector = np.zeros(episodes), np.zeros(episodes), np.zeros(episodes)
    over = np.zeros(episodes, dtype=np.bool_)
    while not over.all():
        observation, rewards, ended, _, info = env.step(actions_of(name, observation, scenario, rng))
        total += np.where(over, 0.0, rewards)
        new = ended & ~over
        if new.any():
            score[new] = info["log_efficiency"][new]
            # The vector's four numbers telescope: their sums are where the episode stands at its end.
            ledger = env.core.ledger()
            vector[new] = (3.0 * ledger.progress - ledger.time - ledger.energy - ledger.bytes)[new] / 6.0
        over |= ended
    return score, total, vector


@dataclass(frozen=True)
class Ranking:
    """What one scenario gave.

    Attributes:
        scenario: its name.
        score: (12,) mean log-efficiency, in the order of POLICIES.
        returned: kind -> (12,) mean return.
    """

    scenario: str
    score: Floats
    returned: dict[str, Floats]

    def agreement(self, kind: str) -> float:
        """Spearman's rho of a reward's returns with the score."""
        return float(spearmanr(self.score, self.returned[kind]).statistic)

    def place(self, name: str, kind: str) -> int:
        """A policy's place under a reward, 1 the best."""
        means = self.returned[kind]
        return 1 + int((means > means[list(POLICIES).index(name)]).sum())


def rank(scenario: Scenario, episodes: int) -> Ranking:
    """Play every policy under every reward."""
    played = {kind: np.array([returns(name, scenario, kind, episodes) for name in POLICIES]).mean(axis=2) for kind in REWARDS}
    score, _, vector = played["efficiency"].T
    return Ranking(scenario.name, score, {**{kind: means[:, 1] for kind, means in played.items()}, VECTOR: vector})


def markdown(rankings: Sequence[Ranking], episodes: int) -> str:
    """Tables: agreement per reward and scenario, and one of means per scenario."""
    lines = [f"| reward | {' | '.join(r.scenario for r in rankings)} |", "|---" * (len(rankings) + 1) + "|"]
    lines += [f"| {kind} | {' | '.join(f'{r.agreement(kind):.2f}' for r in rankings)} |" for kind in KINDS]
    for r in rankings:
        lines += ["", f"`{r.scenario}`, means of {episodes} episodes:", ""]
        lines += [f"| policy | ln efficiency | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 2) + "|"]
        names = list(POLICIES)
        for i in np.argsort(-r.score):
            cells = (f"{r.returned[kind][i]:+.2f} ({r.place(names[i], kind)})" for kind in KINDS)
            lines.append(f"| {names[i]} | {r.score[i]:+.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print how rewards rank policies beside the score, as tables."""
    print(markdown([rank(load(name), 128) for name in SCENARIOS], 128))


if __name__ == "__main__":
    tyro.cli(main)
