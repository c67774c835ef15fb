"""What is left to gain over `proven`? `python benchmarks/what_is_left.py` prints the table of docs/policies.md.

The strongest heuristic asks, again and again, the machine whose rounds pay best, by prediction and by what they have shown
(`surplus`). Beside it and the learned policies, three players tell what knowing more would be worth: one who reckons by Bayes'
rule what is learned and each machine's luck and tilt; one to whom the simulator tells the latter; and one who is told whether
a shorter last round would do. The last two cheat: no orchestrator can know that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import tyro
from gymnasium.utils.seeding import np_random
from numpy.typing import NDArray
from rich.progress import track

from agents.frozen import load_policy
from agents.splits import larger
from agents.tables import Grid
from agents.worlds import random_worlds
from envs.core import REACHED, Core, SimulatedLearner
from envs.crews import WEIGHTS, in_turn
from envs.menu import LEVELS, PATTERNS, interval_at, menu_actions
from envs.observation import split
from envs.spaces import share_entries
from fedcore.dynamics import TILT_STEPS, learned_round, recent_samples, remember, rote_after, round_work, spreads_of
from fedcore.fleet.draws import PROGRESS, TILT, normal, of_round
from fedcore.freshness import refresh_by, taught_parts, variety_of
from fedcore.world import World, compile_world
from scenarios import load, names

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FIRST_SEED, DRAWS_SEED = 9_500_000, 424_242
LONGEST = LEVELS - 1
PROVEN = list(PATTERNS).index("proven") * LEVELS


class Player:
    """Makes `proven` at the longest interval in all episodes of a core.

    Args:
        core: episodes of one world, not begun.
    """

    def __init__(self, core: Core) -> None:
        d = self.dynamics = core.world().dynamics
        self.samples = core.samples[0]
        self.luck_spreads, self.tilt_spreads = spreads_of(self.samples, d.machine_spread, d.tilt_spread, d.spread_power)

    def decide(self, core: Core, rows: Ints, seen: NDArray[np.float32]) -> NDArray[np.float32]:
        """Actions of the episodes that still run, `rows` of those there were."""
        return menu_actions(np.full(len(rows), PROVEN + LONGEST), seen)


class Learned(Player):
    """A frozen policy's likeliest moves."""

    def __init__(self, policy: str, core: Core) -> None:
        super().__init__(core)
        self.policy = load_policy(policy)

    def decide(self, core: Core, rows: Ints, seen: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Player.decide`."""
        return self.policy.decide_batch(seen)


class Ending(Player):
    """`proven`, with the shortest interval that reaches the target in this very round, where one does."""

    def decide(self, core: Core, rows: Ints, seen: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Player.decide`."""
        actions = super().decide(core, rows, seen)
        for level in reversed(range(LONGEST)):
            shorter = menu_actions(np.full(len(rows), PROVEN + level), seen)
            _, reason = core.copies(np.arange(len(rows))).step(shorter)
            actions[reason == REACHED] = shorter[reason == REACHED]
        return actions


class Told(Player):
    """`proven` that also weighs machines by their true luck and tilt."""

    tilt_weight = 5.0

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        machines = core.max_machines
        starts = [np.uint64(of_round(key, -1)) for key in core.key]
        luck = np.array([[normal(start, PROGRESS, 1 + k) for k in range(machines)] for start in starts])
        tilt = np.array([[normal(start, TILT, k) for k in range(machines)] for start in starts])
        # Luck has a mean of 1, whatever its spread.
        self.worth = self.luck_spreads * luck - 0.5 * self.luck_spreads**2 + self.tilt_weight * self.tilt_spreads * tilt

    def decide(self, core: Core, rows: Ints, seen: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Player.decide`."""
        view = split(seen.astype(np.float64))
        view.machine["surplus"] = WEIGHTS["proven"][3] * view.machine["surplus"] + self.worth[rows]
        return whole_models(seen, in_turn(view, interval_at(seen, np.full(len(rows), LONGEST)), 0.0, surplus=1.0))


class Bayes(Player):
    """An extended Kalman filter over what is learned, the present tilt, and every machine's luck and tilt, jointly.

    It knows the model that it is judged in, and all of its parameters. A machine is worth the square of what a round on it is
    expected to gain, its luck taken `HOPE` standard deviations above the mean, as an upper confidence bound.
    """

    HOPE = 0.3

    def __init__(self, core: Core) -> None:
        super().__init__(core)
        d, b, k = self.dynamics, core.num_envs, core.max_machines
        at = np.arange(k)
        self.learned, self.tilt, self.rote, self.gap = np.zeros(b), np.zeros(b), np.zeros(b), np.zeros(b)
        self.mean = np.concatenate([np.ones((b, k)), np.zeros((b, k))], axis=1)  # of luck, then of tilts
        self.spread = np.zeros((b, 2 + 2 * k, 2 + 2 * k))
        self.spread[:, 2 : 2 + k, 2 : 2 + k] = np.expm1(d.run_spread**2)
        self.spread[:, 2 + at, 2 + at] += np.expm1(self.luck_spreads**2)
        self.spread[:, 2 + k + at, 2 + k + at] = self.tilt_spreads**2
        self.participation, self.parts = np.zeros((b, k)), np.zeros((b, k))
        self.table, self.rounds = core.dynamics_table[0], 0

    def _after(self, b: int, back: Floats, steps: float, luck: float) -> tuple[float, float, float, Floats, Floats]:
        """What is learned after a round of episode b, learnt by heart, its gap, and whose samples are behind all of it."""
        d = self.dynamics
        parts = self.parts[b].copy()
        fresh = refresh_by(parts, taught_parts(back, self.samples), self.samples, steps)
        work, share = round_work(back, self.samples, steps, self.table)
        learned = learned_round(self.learned[b], work, share, variety_of(parts), max(luck, 0.02), self.table)
        rote = rote_after(self.rote[b], work, d.rate, d.gap_fade)
        lately = remember(self.participation[b : b + 1], back[None] > 0.0, np.array([self.rounds]))
        gap = d.gap(np.array([rote]), recent_samples(lately, self.samples[None]), np.array([fresh]))
        return float(learned), float(rote), float(gap[0]), lately[0], parts

    def _take_in(self, b: int, back: Floats, steps: float, measured: float) -> None:
        k, mean, d = len(back), self.mean[b], self.dynamics
        taught, small = taught_parts(back, self.samples), 1e-4
        luck = float(taught @ mean[:k])
        learned, rote, gap, lately, parts = self._after(b, back, steps, luck)
        by_luck = (self._after(b, back, steps, luck + small)[0] - learned) / small
        self.learned[b] += small
        by_learned = (self._after(b, back, steps, luck)[0] - learned) / small
        left = float(np.exp(-steps / TILT_STEPS))
        move = np.eye(2 + 2 * k)
        move[0, 0], move[0, 2 : 2 + k], move[1, 1], move[1, 2 + k :] = by_learned, by_luck * taught, left, (1 - left) * taught
        before = move @ self.spread[b] @ move.T
        tilt = left * self.tilt[b] + (1.0 - left) * float(taught @ mean[k:])
        seen = before[:, 0] + before[:, 1]
        gains = seen / (seen[0] + seen[1] + d.noise**2)
        beyond = measured - (learned - gap + tilt)
        self.learned[b], self.tilt[b] = learned + gains[0] * beyond, tilt + gains[1] * beyond
        self.mean[b] += gains[2:] * beyond
        self.spread[b] = before - np.outer(gains, seen)
        self.rote[b], self.gap[b], self.participation[b], self.parts[b] = rote, gap, lately, parts

    def decide(self, core: Core, rows: Ints, seen: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Player.decide`."""
        machines = core.max_machines
        if core.round[0] > 0:
            back = np.where(core.came_back, core.shares, 0.0)
            for at, b in enumerate(rows):
                if back[at].any():
                    self._take_in(b, back[at], float(core.steps[at]), float(core.progress[at]))
                else:
                    lately = remember(self.participation[b : b + 1], back[at][None] > 0.0, np.array([self.rounds]))
                    self.participation[b] = lately[0]
            self.rounds = int(core.round[0])
        view = split(seen.astype(np.float64))
        steps = interval_at(seen, np.full(len(rows), LONGEST))
        worth = np.zeros(view.machine["surplus"].shape)
        for at, b in enumerate(rows):
            left = float(np.exp(-steps[at] / TILT_STEPS))
            now = self.learned[b] - self.gap[b] + self.tilt[b]
            for k in np.flatnonzero(view.machine["max_share"][at] > 0.0):
                alone = np.zeros(machines)
                alone[k] = view.machine["max_share"][at, k]
                luck = self.mean[b, k] + self.HOPE * np.sqrt(max(self.spread[b, 2 + k, 2 + k], 0.0))
                learned, _, gap, _, _ = self._after(b, alone, float(steps[at]), luck)
                tilt = left * self.tilt[b] + (1.0 - left) * self.mean[b, machines + k]
                worth[at, k] = 2.0 * np.log(max(learned - gap + tilt - now, 0.003))
        view.machine["surplus"] = worth
        return whole_models(seen, in_turn(view, steps, 0.0, surplus=1.0))


PLAYERS: dict[str, Callable[[Core], Player]] = {
    "`proven`, longest H": Player,
    "ppo-default": partial(Learned, "ppo-default"),
    "dqn-default": partial(Learned, "dqn-default"),
    "`proven`, expected gains by Bayes' rule in place of `surplus`": Bayes,
    "`proven`, told when a shorter last round will do": Ending,
    "`proven`, told every machine's luck and tilt": Told,
}
"""Name -> who plays; the first is what the others are held against."""


def whole_models(seen: NDArray[np.float32], shares: NDArray[np.floating]) -> NDArray[np.float32]:
    """Actions that give these shares (B, K_max), at the longest interval."""
    actions = menu_actions(np.full(len(seen), PROVEN + LONGEST), seen)
    actions[:, :-1] = share_entries(shares)
    return actions


def play(begin: Callable[[Core], Player], world: World, episodes: int, first_seed: int) -> Floats:
    """ln efficiencies of held-out episodes."""
    core = Core([world], episodes, SimulatedLearner(), "efficiency")
    core.reset(np.arange(episodes), [np_random(first_seed + i)[0] for i in range(episodes)])
    player, scores, rows = begin(core), np.zeros(episodes), np.arange(episodes)
    while len(rows):
        _, reason = core.step(player.decide(core, rows, core.observe().copy()))
        scores[rows[reason > 0]] = core.log_efficiency()[reason > 0]
        goes_on = np.flatnonzero(reason == 0)
        rows, core = rows[goes_on], core.copies(goes_on)
    return scores


@dataclass(frozen=True)
class Options:
    """What is left to gain over `proven`.

    Attributes:
        episodes: per player and scenario.
        draws: random scenarios of each range.
        larger: random fleets of 32 to 64 machines.
        policies: files of other frozen policies, to be played too.
    """

    episodes: int = 48
    draws: int = 24
    larger: int = 8
    policies: tuple[str, ...] = ()


def main() -> None:
    """Command line."""
    options = tyro.cli(Options)
    torch.set_num_threads(1)
    where = {"library": [compile_world(load(name)) for name in names()]}
    for split_, title in (("validation", "validation"), ("ood", "out of distribution")):
        where[title] = random_worlds(options.draws, DRAWS_SEED, split_)  # type: ignore[arg-type]
    where["larger fleets"] = [compile_world(case.scenario) for case in larger(options.larger)]
    players = PLAYERS | {policy: partial(Learned, policy) for policy in options.policies}
    rows, first = list[tuple[str, ...]](), dict[str, Floats]()
    for name, begin in track(players.items(), "players"):
        cells = []
        for title, worlds in where.items():
            seeds = range(FIRST_SEED, FIRST_SEED + options.episodes * len(worlds), options.episodes)
            got = np.stack([play(begin, each, options.episodes, seed) for each, seed in zip(worlds, seeds, strict=True)])
            beyond = (got - first.setdefault(title, got)).mean(axis=1)  # luck is another in every scenario
            error = 1.96 * float(beyond.std(ddof=1)) / np.sqrt(len(worlds))
            cells.append(f"{got.mean():.2f}" + ("" if got is first[title] else f" ({beyond.mean():+.3f} +- {error:.3f})"))
        rows.append((name, *cells))
    print(Grid("mean ln efficiency", ("player", *where), tuple(rows)).markdown())


if __name__ == "__main__":
    main()
