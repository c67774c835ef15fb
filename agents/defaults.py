"""Makes the policies that come with the package: `python -m agents.defaults`.

Trains PPO and DQN over random scenarios (`worlds`), writes agents/policies/*-default.safetensors, and judges them on every
scenario of the library, none of which they were trained on, and on random ones of the validation and the
out-of-distribution range: docs/policies.md. An interrupted run goes on from its checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from agents.content import code_of
from agents.frozen import POLICIES, FrozenPolicy, freeze, load_policy
from agents.heuristics import HEURISTICS
from agents.quality import Quality, quality, quality_grid
from agents.worlds import DRAWS, RANDOM, TRIAL_DRAWS, contents, described, random_worlds, training_worlds, trial_worlds
from fedcore.files import content_key, write_page
from fedcore.world import World
from scenarios import load, names

HELD_OUT_DRAWS = 1_000
"""Seed of the random scenarios that policies are judged on, far from training's."""
RIVALS = ("enough", "proven")
"""The heuristics that policies are held against: the strongest."""


@dataclass(frozen=True)
class DefaultsOptions:
    """Train the default policies and judge them.

    Attributes:
        algorithms: which to train; the others are taken as they are.
        seed: of training.
        steps: environment steps of each; by default the recipes'.
        episodes: held-out simulated episodes per agent and scenario.
        draws: random scenarios per split to judge on.
        workers: processes that compile scenarios and search what training starts from.
        folder: for the policies.
        runs: folder for checkpoints and TensorBoard files.
        page: where the tables go.
    """

    algorithms: tuple[Literal["ppo", "dqn"], ...] = ("ppo", "dqn")
    seed: int = 0
    steps: int | None = None
    episodes: int = 160
    draws: int = 12
    workers: int = 2
    folder: Path = POLICIES
    runs: Path = Path("runs")
    page: Path = Path("docs/policies.md")


def trained(algorithm: str, options: DefaultsOptions, worlds: Sequence[World], tried_in: Sequence[World]) -> FrozenPolicy:
    """Train one policy in some worlds, by what it does in others, and write it.

    Raises:
        InputError: a file cannot be written.
    """
    from agents.cli import console, training_bar
    from agents.recipes import RECIPES, train

    recipe = RECIPES[algorithm]
    steps, where = options.steps or recipe.steps, contents(worlds)
    content = content_key(steps, repr(recipe), code_of("agents.recipes"), *where)
    known = content_key(repr(recipe.warm), code_of("agents.warm_start"), *where)
    folder = options.runs / f"{algorithm}-default-seed{options.seed}-{content[:6]}"
    start = time.monotonic()
    with training_bar(algorithm, steps) as (on_step, on_note):
        policy, _ = train(
            algorithm, worlds, options.seed, folder, steps, on_step,
            workers=options.workers, on_note=on_note, tried_in=tried_in,
            # Who is trained second learns from the first's lessons: what moves are worth is the same for both.
            lessons=options.runs / f"lessons-seed{options.seed}-{known[:6]}.pt",
        )  # fmt: skip
    console.print(f"{algorithm}: trained in {(time.monotonic() - start) / 60:.1f} min")
    card = replace(policy.card, scenario=RANDOM, ranges=described(RANDOM))
    policy = FrozenPolicy(policy.network, card, f"{algorithm}-default")
    freeze(policy, options.folder / f"{algorithm}-default.safetensors")
    return policy


def judged(policies: Sequence[FrozenPolicy], options: DefaultsOptions) -> dict[str, list[Quality]]:
    """Play everyone on the library and on random scenarios of both other splits, beside the strongest heuristics."""
    from agents.cli import progress_bar

    library = [load(name) for name in names()]
    with progress_bar() as bar:
        task = bar.add_task("held-out episodes", total=len(library) + 2 * options.draws, note="")

        def on_scenario(name: str) -> None:
            bar.update(task, advance=1, note=name)

        out = {"library": quality(policies, library, options.episodes, RIVALS, on_scenario)}
        for split in ("validation", "ood"):
            drawn = [w.scenario for w in random_worlds(options.draws, HELD_OUT_DRAWS, split)]
            out[split] = quality(policies, drawn, options.episodes, RIVALS, on_scenario)
    return out


def page(rows: dict[str, list[Quality]], policies: Sequence[str], options: DefaultsOptions) -> str:
    """The page of results."""
    titles = {
        "library": "The library, none of whose scenarios was trained on",
        "validation": "Random scenarios of the validation range",
        "ood": "Random scenarios out of distribution",
    }
    text = f"""# The default policies

`agents.load("ppo-default")`, `agents.load("dqn-default")`, or these names wherever a policy's file goes. Made by
`python -m agents.defaults`, which trains them over {DRAWS} random scenarios (split "train" of
[scenarios/generate.py](../scenarios/generate.py)), freezes them and writes this page. How: what every move of `envs.menu` is
worth in rounds of episodes is found by playing on from there in simulation ([lessons.py](../agents/lessons.py)) and learnt
first ([warm_start.py](../agents/warm_start.py)), then PPO or DQN ([recipes.py](../agents/recipes.py)) go on, and the best
policy by the same few episodes ([trial.py](../agents/trial.py)), of {TRIAL_DRAWS} random scenarios of the validation range, is
kept. Those that it is judged on below are other draws: which policy is kept was not chosen by them, nor by the library.

Simulated, {options.episodes} held-out episodes each. Figures are interquartile means of efficiency (the reference policy
has 1); ratios are of such means, over the better of `enough` and `proven` and over the best fixed decision, searched on each
scenario.
"""
    for split, table in rows.items():
        text += f"\n## {titles[split]}\n\n{summary(table, policies)}\n\n{quality_grid(table, policies, '').markdown()}\n"
    return text


def summary(rows: Sequence[Quality], policies: Sequence[str]) -> str:
    """Each policy's ratios in a sentence."""
    lines = []
    for policy in policies:
        rivals = [row.over(policy, [name for name in HEURISTICS if name in row.efficiency]) for row in rows]
        static = [row.over(policy, ["best-static"]) for row in rows]
        worst = rows[int(np.argmin(rivals))].scenario
        lines.append(
            f"{policy}: geometric mean x {np.exp(np.log(rivals).mean()):.2f} over the best heuristic, at least x 1.15 in "
            f"{sum(r >= 1.15 for r in rivals)} and below x 0.95 in {sum(r < 0.95 for r in rivals)} of {len(rows)} scenarios, "
            f"worst x {min(rivals):.2f} ({worst}); x {np.exp(np.log(static).mean()):.2f} over best-static."
        )
    return "\n\n".join(lines)


def main() -> None:
    """Command line."""
    import torch
    import tyro

    from agents.cli import console, natural, positive

    options = tyro.cli(DefaultsOptions)
    torch.set_num_threads(1)  # as train_agent.py
    for name in ("episodes", "draws", "steps", "workers"):
        positive(name, getattr(options, name))
    natural("seed", options.seed)
    policies: dict[str, FrozenPolicy] = {}
    if options.algorithms:
        with console.status("compiling random scenarios"):
            worlds = training_worlds(RANDOM, options.seed, workers=options.workers)
            tried_in = trial_worlds(RANDOM, options.seed, worlds, options.workers)
        policies = {algorithm: trained(algorithm, options, worlds, tried_in) for algorithm in options.algorithms}
    for path in sorted(options.folder.glob("*-default.safetensors")):
        loaded = load_policy(path)
        policies.setdefault(path.stem.removesuffix("-default"), FrozenPolicy(loaded.network, loaded.card, path.stem))
    rows = judged(list(policies.values()), options)
    spoken = [policy.name for policy in policies.values()]
    for policy in policies.values():
        scores = {split: [asdict(row) for row in table] for split, table in rows.items()}
        card = replace(policy.card, evaluation={**policy.card.evaluation, "interquartile_mean": scores})
        freeze(FrozenPolicy(policy.network, card), options.folder / f"{policy.name}.safetensors")
    text = page(rows, spoken, options)
    write_page(options.page, text)
    console.print(text, highlight=False)


if __name__ == "__main__":
    from agents.cli import run

    run(main)
