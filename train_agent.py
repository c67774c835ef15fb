"""Train an orchestrator in simulation, freeze it, judge it on real federated training."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class Options:
    """Train an orchestrator in simulation, freeze it into one file, and judge it.

    1. Trains PPO (or DQN) on `IntraFed/Orchestration-v0` for the scenario; TensorBoard files go to the run's folder.
    2. Freezes it into RUN/policy.safetensors, which loads without stable-baselines3.
    3. Plays it, every heuristic and the best fixed decision on the same held-out simulated episodes.
    4. Plays it and the best heuristics on REAL federated self-supervised training of the embedded soil micrographs.
    5. Writes RUN/report.html, PNG plots and results.json, and prints the tables.

    The run's folder is named after scenario, algorithm, seed, steps and content of the scenario. The same command goes on
    where an interrupted one stopped, and reads what is finished instead of doing it again. One seed, one result, on one
    machine, interrupted or not; but for fine-tuning, which after an interruption goes on in other episodes.
    """

    algo: Literal["ppo", "dqn"] = "ppo"
    """Learning algorithm."""
    scenario: str = "farm-lte"
    """Scenario: a name (see scenarios/library) or the path of a YAML file; "random" for a policy for any fleet, trained over
    random scenarios (scenarios/generate.py), "library" for one trained over the whole library. These two are judged on
    farm-lte; python evaluate.py --scenarios judges them elsewhere."""
    tier: Literal["orchestration", "training"] = "orchestration"
    """Where it learns: simulation, or fine-tuning of --start by PPO on real training of the scenario, every step a real round
    (agents/fine_tune.py)."""
    start: Annotated[str, tyro.conf.arg(aliases=["--from"])] = "ppo-default"
    """With --tier training: the frozen policy that it goes on from, a file or a name."""
    seed: int = 0
    """Of training: networks, exploration, episodes."""
    steps: int | None = None
    """Environment steps of training; by default the recipe's (agents/recipes.py, agents/fine_tune.py)."""
    episodes: int = 30
    """Held-out simulated episodes per agent."""
    real_runs: int = 1
    """Real training runs per judged agent; 0 skips the real tier."""
    workers: int = 2
    """Processes for the search that training starts from and for real runs, one core each."""
    out: Path = Path("runs")
    """Folder of all runs."""


def run_folder(options: Options, scenario_name: str, steps: int, content: str) -> Path:
    """Folder of this run, the same for the same options and the same content of scenario and calibration."""
    kind = f"{options.algo}-fine-tuned" if options.tier == "training" else options.algo
    return options.out / f"{scenario_name}-{kind}-seed{options.seed}-{steps}-{content[:6]}"


def main() -> None:
    """Command line."""
    options = tyro.cli(Annotated[Options, tyro.conf.arg(name="")], description=Options.__doc__)
    from agents.cli import console, judge_with_bars, natural, positive, progress_bar, training_bar

    for name in ("steps", "episodes", "workers"):
        positive(name, getattr(options, name))
    natural("seed", options.seed)
    with console.status("loading"):
        import torch

        import scenarios
        from agents.benchmark import BEST_STATIC, benchmark, compare, orchestrator, summarise
        from agents.best_static import search_static
        from agents.content import code_of
        from agents.fine_tune import FineTuneRecipe, fine_tune
        from agents.frozen import FrozenPolicy, freeze, load_policy
        from agents.heuristics import HEURISTICS
        from agents.judge import Cell, cell_scenario
        from agents.own_target import own_target
        from agents.recipes import RECIPES, at_once, train
        from agents.report import Report, learning_curve, real_curves, score_bars, trade_off
        from agents.tables import comparison_grid, probe_grids, real_grid, simulation_grid
        from agents.worlds import LIBRARY, RANDOM, contents, described, training_worlds, trial_worlds
        from envs.snapshot import snapshot
        from fedcore.files import content_key, need_writable, read_kept, write_text
        from fedcore.world import calibration_note, compile_world
        from scenarios import InputError

        need_writable(options.out)
        several = options.scenario in (RANDOM, LIBRARY)
        scenario = scenarios.load(Options.scenario if several else options.scenario)
        world = compile_world(scenario)
        worlds = training_worlds(options.scenario, options.seed, workers=options.workers)
        note = calibration_note(scenario)
    start = load_policy(options.start) if options.tier == "training" else None
    if start is not None and (several or options.algo != "ppo"):
        raise InputError("--tier training is PPO on one scenario; expected it without --algo dqn, random and library")
    # The networks are small: a second thread costs more than it brings.
    torch.set_num_threads(1)
    recipe = RECIPES[options.algo]
    steps = options.steps or (FineTuneRecipe() if start else recipe).steps
    code = code_of("agents.fine_tune" if start else "agents.recipes")
    content = content_key(code, *contents(worlds), *([start.card.digest] if start else []))
    folder = run_folder(options, options.scenario if several else scenario.name, steps, content)
    path = folder / "policy.safetensors"
    console.print(f"[bold]{scenario.title}[/bold] ({scenario.name}), {world.arrays.machines} machines -> {folder}")
    if note is not None:
        console.print(f"[yellow]note:[/yellow] {note}", highlight=False)
    if several:
        console.print(f"trained on {len(worlds)} scenarios ({options.scenario}), judged on this one")

    curve_path = folder / "curve.json"
    known = read_kept(curve_path)
    if path.is_file() and isinstance(known, list):
        policy: FrozenPolicy = load_policy(path)
        curve = [(int(a), float(b)) for a, b in known]
        console.print(f"training: already done, read from {path}")
    else:
        learnt_from = steps if start else -(-steps // at_once(recipe)) * at_once(recipe)
        if learnt_from > 1.1 * steps:
            console.print(f"{options.algo} learns from {at_once(recipe):,} steps at a time: {steps:,} become {learnt_from:,}")
        with training_bar(options.algo, steps) as (on_step, on_note):
            if start is not None:
                policy, curve = fine_tune(start, world, options.seed, folder, steps, on_step, on_note)
            else:
                tried_in = trial_worlds(options.scenario, options.seed, worlds, options.workers)
                policy, curve = train(
                    options.algo, worlds, options.seed, folder, steps, on_step,
                    workers=options.workers, on_note=on_note, tried_in=tried_in,
                )  # fmt: skip
        policy = FrozenPolicy(policy.network, replace(policy.card, ranges=described(options.scenario)))
        freeze(policy, path)
        write_text(curve_path, json.dumps(curve))

    static = search_static(world)
    console.print(f"best fixed decision of {static.candidates} tried: {static.description}")
    # Names tell players apart in tables, and a policy read from a file has its algorithm's.
    before = [options.start] if start and start.name != policy.name else []
    agents = [policy, *(orchestrator(name, scenario) for name in (*before, *HEURISTICS)), static.policy]
    with progress_bar() as bar:
        task = bar.add_task("held-out episodes", total=len(agents) * options.episodes, note="")
        results = benchmark(agents, scenario, options.episodes, on_episode=lambda: bar.advance(task))
    summaries = summarise(results)
    comparisons = [compare(results, policy.name, agent.name) for agent in agents[1:]]
    # The card of the file carries what is known of the policy, so it is written again with its scores.
    evaluation = {**policy.card.evaluation, "simulated": [asdict(s) for s in summaries]}
    policy = FrozenPolicy(policy.network, replace(policy.card, evaluation=evaluation), policy.name)
    freeze(policy, path)
    grids = [
        simulation_grid(summaries, scenario.name),
        comparison_grid(comparisons, f"{policy.name} against everyone, paired over the same held-out episodes"),
    ]
    for grid in grids:
        console.print(grid.rich())

    report = Report(f"{options.algo.upper()} orchestrator for {scenario.title}", folder)
    report.text("What this is", [scenario.description, f"Made by: {command(options)}"])
    shown = () if several else (policy.name, BEST_STATIC, "equal")  # the learner's trials are in other scenarios there
    levels = [(s.agent, s.mean) for s in summaries if s.agent in shown]
    of = "episodes of real training, with exploration" if start else "trial episodes, always the same, without exploration"
    report.figure("training", learning_curve(curve, levels), f"Learning: {of}; dashed: held-out scores in simulation")
    for grid in grids:
        report.grid(grid)
    report.figure("scores", score_bars(summaries), "Scores on held-out simulated episodes")
    report.figure("tradeoff", trade_off(results), "Every simulated episode: time against energy and traffic")
    report.png("episode", snapshot(policy, scenario), "The frozen policy at work in simulation")

    judgements = []
    if options.real_runs > 0:
        best = [s.agent for s in summaries if s.agent in HEURISTICS][:2]
        plain = cell_scenario(scenario)
        chosen = [str(path), *before, *best]
        target = own_target(scenario, None, console.print, options.workers)
        cells = [Cell(agent, plain, run, None, *target) for run in range(options.real_runs) for agent in chosen]
        labels = [f"real: {policy.name if c.agent == str(path) else c.agent}, run {c.seed}" for c in cells]
        judgements = judge_with_bars(cells, labels, folder / "real", options.workers)
        real = [
            real_grid(judgements, f"Real federated training: {scenario.workload.data}"),
            *probe_grids(judgements, "What the encoders are worth, beside two references"),
        ]
        if options.real_runs > 1:
            played = [j.result for j in judgements]
            pairs = [compare(played, policy.name, other) for other in [*before, *best]]
            real.insert(1, comparison_grid(pairs, "Real runs, paired"))
        for grid in real:
            console.print(grid.rich())
            report.grid(grid)
        report.figure("real", real_curves(judgements), "Progress of real runs against what it cost")

    write_text(
        folder / "results.json",
        json.dumps(
            {
                "command": command(options),
                "simulated": [asdict(s) for s in summaries],
                "comparisons": [asdict(c) for c in comparisons],
                "best_static": static.description,
                "real": [asdict(j) for j in judgements],
            },
            indent=1,
        ),
    )
    judged_on = Options.scenario if several else options.scenario
    others = ",".join(dict.fromkeys([judged_on, "phones", "solar-field"]))
    following = [
        f"python evaluate.py --policy {path} --scenarios {judged_on} --agents equal,speed,makespan --tier training",
        f"python evaluate.py --policy {path} --scenarios {others}",
        f"python evaluate.py --policy {path} --scenarios {judged_on} --data PATH_TO_YOUR_DATA",
        command(replace(options, algo="dqn" if options.algo == "ppo" else "ppo", tier="orchestration")),
        f"tensorboard --logdir {folder}",
    ]
    report.commands(following)
    console.print(f"report: {report.write()}\nnext:")
    for line in following:
        console.print(f"  {line}", highlight=False, soft_wrap=True)


def command(options: Options) -> str:
    """The command line that these options stand for."""
    parts = ["python train_agent.py"]
    default = Options()
    for name, value in vars(options).items():
        if value != getattr(default, name):
            parts.append(f"--{name.replace('_', '-')} {value}")
    return " ".join(parts)


if __name__ == "__main__":
    from scenarios.errors import told

    with told("interrupted before anything began"):
        from agents.cli import run

        run(main)
