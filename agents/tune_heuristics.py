"""Tunes the heuristics' few parameters by family of scenarios: `python -m agents.tune_heuristics`.

Every heuristic that has parameters (`Heuristic.tunable`) is played with its defaults and with others drawn at random from
their grid, at most as many in all as the search of the recipe had trials (docs/tuning.md; random search: Bergstra and Bengio
2012), on every scenario of the library. What is best on the scenarios of a family, on average, is that family's; what is best
on all, everyone else's. They stand beside the defaults in docs/heuristics.md, on the same scenarios and other episodes. So they
are tuned on the very scenarios that they are judged on, which no policy is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.agent_key import agent_key
from agents.benchmark import HELD_OUT_SEED
from agents.content import code_of
from agents.episodes import play_together
from agents.frozen import load_policy
from agents.heuristics import HEURISTICS
from agents.leaderboard import scenario_key
from agents.splits import Case, family
from agents.statistics import iqm
from agents.tuned import ANY, FOUND, found, tunable, with_parameters
from fedcore.comparison.tables import markdown
from fedcore.files import cache_folder, content_key, write_text
from fedcore.parallel import Job, run_kept
from scenarios import Scenario, load, names, parse

SEED = 7_000_000
"""Of the episodes that parameters are chosen by: far from those that anything is judged on."""


@dataclass(frozen=True)
class TuneHeuristicsOptions:
    """Tune the heuristics' parameters by family of scenarios.

    Attributes:
        trials: settings of each heuristic, its defaults among them.
        episodes: per setting and scenario.
        held_out: episodes per scenario that defaults and best settings are compared on.
        policy: that they stand beside.
        workers: processes.
        page: where the tables go.
    """

    trials: int = 20
    episodes: int = 12
    held_out: int = 30
    policy: str = "ppo-default"
    workers: int = 2
    page: Path = Path("docs/heuristics.md")


def settings(name: str, trials: int) -> list[dict[str, float]]:
    """The defaults, and settings of a heuristic's grid in random order; the same for the same arguments."""
    grid = HEURISTICS[name].tunable
    usual = {parameter: getattr(HEURISTICS[name], parameter) for parameter in grid}
    others = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    others = [setting for setting in others if setting != usual]
    order = np.random.default_rng([SEED, *name.encode()]).permutation(len(others))
    return [usual, *(others[i] for i in order[: trials - 1])]


def scores(name: str, setting: dict[str, float], scenario: dict[str, object], seeds: list[int]) -> list[float]:
    """ln efficiencies of a heuristic in episodes of a scenario."""
    where = parse(scenario, "scenario")
    return [result.log_efficiency for result in play_together(with_parameters(name, setting), where, seeds)]


def choose(played: dict[str, list[float]], tried: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Family -> the setting of the highest mean over its scenarios.

    Args:
        played: scenario -> mean ln efficiency by setting.
        tried: the settings.
    """
    members: dict[str, list[list[float]]] = {ANY: list(played.values())}
    for scenario, means in played.items():
        members.setdefault(family(scenario), []).append(means)
    return {name: tried[int(np.argmax(np.mean(rows, axis=0)))] for name, rows in members.items()}


Play = tuple[str, dict[str, float], Scenario]
"""A heuristic, a setting of it, and where."""


def play_all(plays: Sequence[Play], first_seed: int, episodes: int, workers: int, label: str) -> list[list[float]]:
    """ln efficiencies of every play; kept in the cache, so that an interrupted search goes on where it stopped."""
    folder, seeds = cache_folder("heuristics", first_seed, episodes), [first_seed + i for i in range(episodes)]
    simulator = code_of("agents.episodes")
    # Thousands of plays, of few heuristics in few scenarios: what is said of each of these is found once.
    agents = {name: agent_key(name) for name, _, _ in plays}
    places = {scenario.name: scenario for _, _, scenario in plays}
    where = {name: (scenario_key(Case("named", each)), each.model_dump(mode="json")) for name, each in places.items()}
    paths, jobs = list[Path](), dict[Path, Job]()
    for name, setting, scenario in plays:
        key, content = where[scenario.name]
        paths.append(folder / f"{content_key(simulator, agents[name], json.dumps(setting), key)}.json")
        jobs[paths[-1]] = (scores, (name, setting, content, seeds))
    kept = run_kept(jobs, workers, label)
    return [kept[path] for path in paths]


def tune(options: TuneHeuristicsOptions) -> None:
    """Find the best settings and write them to `tuned.FOUND`."""
    library = [load(name) for name in names()]
    tried = {name: settings(name, options.trials) for name in tunable()}
    plays = [(name, setting, scenario) for name in tried for scenario in library for setting in tried[name]]
    means = iter(np.mean(play_all(plays, SEED, options.episodes, options.workers, "settings"), axis=1))
    best = {
        name: choose({scenario.name: [float(next(means)) for _ in tried[name]] for scenario in library}, tried[name])
        for name in tried
    }
    write_text(FOUND, json.dumps(best, indent=1) + "\n")
    found.cache_clear()


def page(options: TuneHeuristicsOptions) -> str:
    """The page of what was found."""
    library = [load(name) for name in names()]
    plays: list[Play] = []
    for name in tunable():
        usual = settings(name, 1)[0]
        plays += [(name, usual, scenario) for scenario in library]
        plays += [(name, found(name)[family(scenario.name)], scenario) for scenario in library]
    held_out = np.array(play_all(plays, HELD_OUT_SEED, options.held_out, options.workers, "held-out episodes"))
    means = iqm(held_out.reshape(len(tunable()), 2, -1))
    seeds = [HELD_OUT_SEED + i for i in range(options.held_out)]
    policy = load_policy(options.policy)
    judged = [[r.log_efficiency for r in play_together(policy, scenario, seeds)] for scenario in library]
    rows = sorted(((name, *pair) for name, pair in zip(tunable(), means, strict=True)), key=lambda row: -row[2])
    table = [(name, f"{usual:+.2f}", f"{best:+.2f}", f"x {np.exp(best - usual):.2f}") for name, usual, best in rows]
    table.append((options.policy, f"{iqm(np.array(judged).ravel()):+.2f}", "", ""))
    families = sorted(set(itertools.chain.from_iterable(found(name) for name in tunable())) - {ANY})
    values = [("heuristic", "parameter", "default", *families, ANY)]
    for name, _, _ in rows:
        best = found(name)
        for parameter, default in settings(name, 1)[0].items():
            values.append((name, parameter, f"{default:g}", *(f"{best[each][parameter]:g}" for each in (*families, ANY))))
    return f"""# The heuristics, tuned

By `python -m agents.tune_heuristics --trials {options.trials} --episodes {options.episodes}`: every heuristic that has
parameters, in up to {options.trials} settings of them (its defaults, and others at random from its grid, or all of a smaller
one), as many as the search of the policies' recipe had trials ([tuning.md](tuning.md)), on {options.episodes} simulated
episodes of every scenario of the library. A family's best setting, by mean ln efficiency, is played on
{options.held_out} held-out episodes of each: interquartile means of ln
efficiency. They are tuned on the very scenarios that they are judged on here; the policy has seen none. Any is an agent:
`python evaluate.py --benchmark --agents tuned:oort,tuned:lroa`.

{markdown([("heuristic", "defaults", "tuned", "gain"), *table])}

`stretch` is H over the reference's; `{ANY}` is for scenarios of no family of the library. What parameters mean: each
heuristic's own file in [agents/heuristics](../agents/heuristics).

{markdown(values)}
"""


def main() -> None:
    """Command line."""
    import tyro

    from agents.cli import console, positive

    options = tyro.cli(TuneHeuristicsOptions)
    for name in ("trials", "episodes", "held_out", "workers"):
        positive(name, getattr(options, name))
    tune(options)
    text = page(options)
    write_text(options.page, text)
    console.print(text, highlight=False)


if __name__ == "__main__":
    from agents.cli import run

    run(main)
