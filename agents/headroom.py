"""How much each library scenario leaves to be gained: `python -m agents.headroom`, written to docs/scenarios.md and a page
for each scenario in docs/scenarios/.

Plays every heuristic, the best fixed decision and the clairvoyant planner on the same held-out simulated episodes of every
scenario. Finished scenarios are kept, so an interrupted run resumes, and a changed scenario is the only one that is played
again, as long as the code is the same.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from os.path import relpath
from pathlib import Path
from typing import Any

import numpy as np

from agents.agent_key import agent_key
from agents.benchmark import HELD_OUT_SEED, Comparison, EpisodeResult, benchmark, compare, summarise
from agents.best_static import search_static
from agents.clairvoyant import CLAIRVOYANT, play_clairvoyant
from agents.content import code_of
from agents.heuristics import HEURISTICS
from agents.scenario_page import scenario_page
from agents.tables import Grid
from envs.orchestration import OrchestrationEnv
from fedcore.dynamics import load_calibration
from fedcore.files import cache_folder, content_key, write_text
from fedcore.parallel import Job, run_kept
from fedcore.world import compile_world
from scenarios import Scenario, load, names
from scenarios.errors import need_at_least
from scenarios.loader import LIBRARY, refuse_namesakes
from scenarios.sources import sources_of

LEAST_FACTOR = 1.05
"""A scenario on which the best fixed decision gains less over the best heuristic teaches nothing; one on which clairvoyance
gains less over the best fixed decision leaves nothing to react to."""


@dataclass(frozen=True)
class HeadroomOptions:
    """Write the page of all library scenarios: what each is hard about, and what it leaves to be gained.

    Attributes:
        scenarios: names or files; all of the library by default.
        episodes: held-out simulated episodes of each agent.
        workers: processes, one core each.
        output: the page of all; the library's own pages go into the folder of that name beside it.
    """

    scenarios: tuple[str, ...] = ()
    episodes: int = 24
    workers: int = 1
    output: Path = Path("docs/scenarios.md")


@dataclass(frozen=True)
class Headroom:
    """What one scenario leaves to be gained.

    Attributes:
        scenario: name.
        title: what it is hard about.
        machines: how many.
        reference_s: seconds that the reference policy needs.
        heuristic: name of the best one on these episodes.
        heuristic_mean: its mean log-efficiency.
        static: the best fixed decision, in words.
        static_mean: its mean log-efficiency.
        comparison: best-static over the best heuristic.
        clairvoyant_mean: mean log-efficiency of the clairvoyant planner.
        foresight: clairvoyant over best-static.
    """

    scenario: str
    title: str
    machines: int
    reference_s: float
    heuristic: str
    heuristic_mean: float
    static: str
    static_mean: float
    comparison: Comparison
    clairvoyant_mean: float
    foresight: Comparison

    @property
    def over_heuristic(self) -> float:
        """Clairvoyant over the best heuristic, a factor, on the same episodes."""
        return float(np.exp(self.clairvoyant_mean - self.heuristic_mean))


def measure(scenario: Scenario, episodes: int) -> Headroom:
    """Search the best fixed decision, and play it, every heuristic and the clairvoyant planner.

    Args:
        scenario: which.
        episodes: of each agent, seeds `HELD_OUT_SEED` onwards; the search has its own.

    Raises:
        InputError: the scenario does not compile.
    """
    world = compile_world(scenario)
    static = search_static(world)
    agents = [static.policy, *(cls() for cls in HEURISTICS.values())]
    results: list[EpisodeResult] = benchmark(agents, scenario, episodes)
    env = OrchestrationEnv(scenario, reward="efficiency")
    results += [play_clairvoyant(env, HELD_OUT_SEED + e) for e in range(episodes)]
    means = {s.agent: s.mean for s in summarise(results)}
    best = max(HEURISTICS, key=lambda name: means[name])
    return Headroom(
        scenario.name, scenario.title, world.arrays.machines, world.reference.time_s, best, means[best], static.description,
        means[static.policy.name], compare(results, static.policy.name, best), means[CLAIRVOYANT],
        compare(results, CLAIRVOYANT, static.policy.name),
    )  # fmt: skip


def measured(content: dict[str, Any], episodes: int) -> dict[str, Any]:
    """`measure` from and to JSON values, for worker processes."""
    return asdict(measure(Scenario.model_validate(content), episodes))


def headrooms(options: HeadroomOptions) -> list[Headroom]:
    """Measure what is missing; one per scenario, in the order asked for.

    Raises:
        InputError: unknown scenario, or numbers out of range.
    """
    need_at_least(options, episodes=1, workers=1)
    jobs: dict[Path, Job] = {}
    code = code_of("agents.headroom") + agent_key(CLAIRVOYANT)
    chosen = [load(name) for name in options.scenarios or names()]
    refuse_namesakes(chosen)
    for scenario in chosen:
        calibration = load_calibration(scenario.workload.calibration).to_json()
        key = content_key(code, scenario.model_dump_json(), calibration, options.episodes, *sources_of(scenario))
        path = cache_folder("headroom") / f"{scenario.name}-{key}.json"
        jobs[path] = (measured, (scenario.model_dump(mode="json"), options.episodes))
    kept = run_kept(jobs, options.workers, "headroom")
    compared = ("comparison", "foresight")
    return [Headroom(**{**kept[path], **{name: Comparison(**kept[path][name]) for name in compared}}) for path in jobs]


def _factor(comparison: Comparison) -> str:
    return f"x {comparison.factor:.2f} ({np.exp(comparison.low):.2f} .. {np.exp(comparison.high):.2f})"


def grid(rows: list[Headroom], folder: str) -> Grid:
    """The table; `folder` has the pages of the library's own."""
    own = names()
    return Grid(
        "Head-room",
        ("scenario", "what it is hard about", "machines", "T_ref, s", "best heuristic", "ln efficiency", "best-static",
         "ln efficiency", "best-static over heuristic", "clairvoyant", "clairvoyant over best-static", "over heuristic"),
        tuple(
            (
                f"[{h.scenario}]({folder}/{h.scenario}.md)" if h.scenario in own else h.scenario,
                h.title,
                str(h.machines),
                f"{h.reference_s:.0f}",
                h.heuristic,
                f"{h.heuristic_mean:+.2f}",
                h.static,
                f"{h.static_mean:+.2f}",
                _factor(h.comparison),
                f"{h.clairvoyant_mean:+.2f}",
                _factor(h.foresight),
                f"x {h.over_heuristic:.2f}",
            )
            for h in rows
        ),
    )  # fmt: skip


def page(rows: list[Headroom], episodes: int, folder: str = "scenarios") -> str:
    """The page in Markdown; `folder` has each scenario's own."""
    usual, often = Counter(h.static for h in rows).most_common(1)[0]
    there = [h.foresight.factor for h in rows if h.static == usual]
    still = [h.scenario for h in rows if h.foresight.factor < LEAST_FACTOR]
    thin = [h.scenario for h in rows if max(h.comparison.factor, h.over_heuristic) < LEAST_FACTOR]
    beaten = sum(h.comparison.factor < 1.0 for h in rows)
    text = f"""# Scenarios

Made by `python -m agents.headroom --episodes {episodes}`. The first word of a name is its family (older names aside). Each
has a page of its own with its fleet (first column), made from its file in [scenarios/library](../scenarios/library), which
marks what is a citable figure and what an assumption; `python -m scenarios.fit_links` turns recorded links into a file's
`link:` fields, and `random_scenario` ([scenarios/generate.py](../scenarios/generate.py)) draws fleets for training, validation
and out of distribution.

Simulated, {episodes} held-out episodes each (seeds {HELD_OUT_SEED} onwards). *ln efficiency* is 0 for the reference policy,
which needs T_ref seconds. The best of {len(HEURISTICS)} heuristics is chosen on these very episodes, which favours it a little;
best-static is the best of some hundred fixed decisions, searched on other episodes. Their ratio (95 % bootstrap interval over
paired episodes) is what the best heuristic leaves to a decision that never changes; on {beaten} of {len(rows)} scenarios it
leaves nothing, being better than any. On {often} of {len(rows)} scenarios the best fixed decision is "{usual}".

How much there is to react to is what the last two columns tell. The *clairvoyant* planner
([agents/clairvoyant.py](../agents/clairvoyant.py)) has the hidden state of these very episodes and tries their futures out; in
none does it score less than any of the fixed decisions searched. Its ratio to best-static is what changing the decision from
round to round can gain: by reacting to load, links and presence and by taking turns, as an orchestrator can, but also by
knowing what nobody can, such as the links to come, which machine's images teach more, or in which round measured progress
happens to be high. So no orchestrator should be expected to gain all of it; where the ratio is near 1, there is nothing to
react to. Its plans come from rollouts, not from an exhaustive search: even better ones may exist.
Where the best fixed decision is "{usual}", it gains x {min(there):.2f} to x {max(there):.2f}.

{grid(rows, folder).markdown()}
"""
    if thin:
        text += f"\nNeither gains x {LEAST_FACTOR} over the best heuristic, so with nothing to teach: {', '.join(thin)}.\n"
    if still:
        text += f"\nClairvoyance gains less than x {LEAST_FACTOR}, so with nothing to react to: {', '.join(still)}.\n"
    return text


def main() -> None:
    """Command line."""
    import tyro

    options = tyro.cli(HeadroomOptions)
    rows = headrooms(options)
    folder = options.output.with_suffix("")
    for row in rows:
        if row.scenario in names():
            file = Path(relpath(LIBRARY / f"{row.scenario}.yaml", folder)).as_posix()
            write_text(
                folder / f"{row.scenario}.md",
                scenario_page(load(row.scenario), row, options.episodes, file, f"../{options.output.name}"),
            )
    text = page(rows, options.episodes, folder.name)
    write_text(options.output, text)
    print(text)


if __name__ == "__main__":
    from agents.cli import run

    run(main)
