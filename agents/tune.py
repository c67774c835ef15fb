"""How the default recipe's numbers were found: `python -m agents.tune`, a search by Optuna; the page is docs/tuning.md.

What policies learn from (`agents.lessons`) is made once. Each trial then teaches a fresh network with numbers that Optuna's
tree-structured Parzen estimator proposes (Bergstra et al. 2011), and plays it on random scenarios of the validation range, in
none of which it learns. Needs the optional extra `tune`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agents.content import code_of
from agents.lessons import Lessons
from agents.recipes import PPORecipe, build
from agents.trial import trial
from agents.warm_start import WarmStart, teach, warm_start
from agents.worlds import RANDOM, contents, training_worlds, trial_worlds
from fedcore.comparison.tables import markdown
from fedcore.files import content_key, write_page, write_text
from fedcore.parallel import worker_pool
from fedcore.world import World
from scenarios.errors import InputError

TURN = 2
"""Trials that are proposed together, whatever the number of processes: proposals depend on what is known, and only on that."""
WARM_UP = 8
"""Trials before the estimator takes over from chance."""


@dataclass(frozen=True)
class TuneOptions:
    """Search learning rate, temperature, epochs and width of the warm start.

    Attributes:
        trials: in all; the first is the recipe as it is.
        seed: of lessons, proposals and networks.
        lessons: part of the recipe's episodes that lessons are made of: fewer make quicker trials.
        workers: processes.
        runs: folder for lessons and finished trials; the same command goes on where an interrupted one stopped.
        page: where the table goes.
    """

    trials: int = 24
    seed: int = 0
    lessons: float = 0.5
    workers: int = 2
    runs: Path = Path("runs")
    page: Path = Path("docs/tuning.md")


def space() -> dict[str, Any]:
    """What is searched, by name: fields of `WarmStart`, and the network's width."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    return {
        "learning_rate": FloatDistribution(3e-4, 6e-3, log=True),
        "temperature": FloatDistribution(0.15, 1.5, log=True),
        "epochs": IntDistribution(4, 28, step=4),
        "width": CategoricalDistribution((32, 64, 96)),
    }


def own() -> dict[str, Any]:
    """The recipe's own numbers."""
    recipe = PPORecipe()
    return {name: getattr(recipe if name == "width" else recipe.warm, name) for name in space()}


def taught_by(values: dict[str, Any], path: Path, tried_in: list[World], seed: int) -> float:
    """Mean log-efficiency of a network taught from kept lessons with these numbers."""
    torch.set_num_threads(1)
    kept = torch.load(path, weights_only=True)
    model = build("ppo", tried_in[:1], seed, None, PPORecipe(width=values["width"]))
    warm = {name: value for name, value in values.items() if name != "width"}
    teach(model, Lessons(**kept), replace(WarmStart(), **warm), seed)
    return trial(model, tried_in)


def make_lessons(path: Path, worlds: list[World], options: TuneOptions) -> None:
    """What the recipe as it is learns from, in a file."""
    recipe = WarmStart()
    model = build("ppo", worlds, options.seed, None, PPORecipe())
    smaller = replace(recipe, envs=max(1, round(options.lessons * recipe.envs)))
    warm_start(model, worlds, smaller, options.seed, options.workers, kept=path)


def propose(known: list[dict[str, Any]], options: TuneOptions) -> list[dict[str, Any]]:
    """The numbers of the next trials, from all that is known; the same for the same."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=options.seed + len(known), n_startup_trials=WARM_UP, constant_liar=True)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for each in known:
        study.add_trial(optuna.trial.create_trial(params=each["values"], distributions=space(), value=each["score"]))
    if not known:
        study.enqueue_trial(own())
    return [study.ask(space()).params for _ in range(min(TURN, options.trials - len(known)))]


def page(known: list[dict[str, Any]], count: int, options: TuneOptions) -> str:
    """The page of results."""
    names = list(space())
    ranked = sorted(known, key=lambda each: -each["score"])
    rows = [
        (str(1 + i), *(f"{each['values'][name]:.3g}" for name in names), f"{each['score']:+.3f}",
         "the recipe" if each is known[0] else "")
        for i, each in enumerate(ranked)
    ]  # fmt: skip
    scores = np.array([each["score"] for each in known])
    return f"""# How the recipe's numbers were found

By `python -m agents.tune --trials {options.trials} --seed {options.seed} --lessons {options.lessons:g}`: {count:,} lessons of
random scenarios of the training range; every trial teaches a fresh network with other numbers (Optuna's tree-structured Parzen
estimator, the first {WARM_UP} by chance) and is scored by the mean ln efficiency of 256 simulated episodes of scenarios of the
validation range. Nothing was chosen by the library or out of distribution. One seed each; the {len(known)} trials spread by
{scores.std():.3f}, and {np.sum(scores > scores.max() - 0.02)} are within 0.02 of the best.

{markdown([("", *names, "ln efficiency", ""), *rows])}"""


def main() -> None:
    """Command line."""
    import tyro

    from agents.cli import console, natural, positive, progress_bar

    options = tyro.cli(TuneOptions)
    for name in ("trials", "workers"):
        positive(name, getattr(options, name))
    natural("seed", options.seed)
    if not 0.0 < options.lessons <= 1.0:
        raise InputError(f"--lessons is {options.lessons:g}, expected a part of at most 1")
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise InputError('Optuna is not installed, expected: pip install "intrafed[tune]"') from None
    with console.status("compiling random scenarios"):
        worlds = training_worlds(RANDOM, options.seed, workers=options.workers)
        tried_in = list(trial_worlds(RANDOM, options.seed, worlds, options.workers))
    key = content_key(WarmStart(), code_of("agents.tune"), options.seed, options.lessons, *contents(worlds))
    folder = options.runs / f"tune-{key[:6]}"
    path, finished = folder / "lessons.pt", folder / "trials.json"
    if not path.is_file():
        with console.status("making lessons"):
            make_lessons(path, worlds, options)
    count = len(torch.load(path, weights_only=True)["taken"])
    known: list[dict[str, Any]] = json.loads(finished.read_text(encoding="utf-8")) if finished.is_file() else []
    with progress_bar() as bar, worker_pool(min(options.workers, TURN)) as pool:
        task = bar.add_task("trials", total=options.trials, completed=len(known), note="")
        while len(known) < options.trials:
            values = propose(known, options)
            scores = [pool.submit(taught_by, each, path, tried_in, options.seed) for each in values]
            known += [{"values": each, "score": score.result()} for each, score in zip(values, scores, strict=True)]
            write_text(finished, json.dumps(known))
            bar.update(task, completed=len(known), note=f"best {max(each['score'] for each in known):+.3f}")
    text = page(known[: options.trials], count, options)
    write_page(options.page, text)
    console.print(text, highlight=False)


if __name__ == "__main__":
    from agents.cli import run

    run(main)
