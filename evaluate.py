"""Evaluate orchestrators: frozen policies and heuristics, in simulation or on real training, on your fleet or your images."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    from scenarios import Scenario


AGREEMENT_SCENARIOS = "farm-lte,lan-gpu-closet,phones,field-hub"
IMAGE_SCENARIOS = "farm-lte,lan-gpu-closet,field-gateways,scale-home-lines"
"""Of the same, where a person's images take the place of the scenarios' own data."""


@dataclass(frozen=True)
class Options:
    """Evaluate orchestrators, on the simulated tier or on real federated training.

    Simulation: every agent plays the same held-out episodes of every scenario.
    Training (`--tier training`, or any `--data`): every agent drives real federated self-supervised training; the
    trained encoders are then probed beside two references that keep them honest, the untrained encoder and raw pixels.

    PATH of `--data` is a folder or a zip of images (class sub-folders, or with a counts.csv: a column `file`, optionally a
    group column such as slide or site, one column per kind counted), or an npz (`x`, and optionally `y`, `count`, `group`,
    `test`, `classes`). Machines get images by group where there are groups. Scenarios that train on text (phones) take a .txt
    file or a folder of them, UTF-8, 32 MiB at most.

    Finished cells are kept in the output folder: the same command goes on where an interrupted one stopped.
    """

    policy: Path | None = None
    """Frozen policy: a file, or ppo-default or dqn-default; by default the newest under runs/, and none at all where there is
    none."""
    agents: str = ""
    """Comma-separated agents to play beside it: heuristics (equal, fedavg, oort, enough, ...: a wrong name lists them),
    best-static, greedy-mpc, FILE.py:NAME (docs/submit.md); by default all heuristics in simulation, and equal and the best two
    by simulation on real training."""
    scenarios: Annotated[str, tyro.conf.arg(aliases=["--scenario"])] = ""
    """Comma-separated names or YAML files; by default farm-lte, and four different ones with --agreement."""
    tier: Literal["orchestration", "training"] = "orchestration"
    """Simulation, or real training."""
    engine: Literal["inprocess", "flower", "ray"] = "inprocess"
    """How real training reaches its machines: all in this process, over Flower's SuperLink and SuperNodes, started here
    for a trial (docs/deploy.md has several machines), or as Ray actors, on the cluster that RAY_ADDRESS names or else here.
    Both imply the training tier; seconds and bytes are measured. With --benchmark, ray plays its cells on that cluster, or else
    on --workers cores here."""
    shaped: bool = False
    """With --engine flower: every machine in a network namespace of its own with the scenario's link rates, recorded ones
    replayed, and a part of a core that makes it as fast as the scenario says; what rounds took is held against both simulated
    tiers. Linux, root and iproute2 are needed."""
    precision: Literal["fp32", "bf16", "int8"] | None = None
    """With --engine flower or ray: of trained blocks on the way up; by default as the scenario says
    (decision.wire_precision)."""
    context_precision: Literal["fp32", "bf16", "int8"] = "fp32"
    """With --engine flower or ray: of what machines see and do not train; bf16 and int8 send what has changed since they were
    asked last, rounded."""
    data: Path | None = None
    """Your images, or text where a scenario's encoder reads it; implies the training tier."""
    episodes: int = 30
    """Held-out simulated episodes per agent and scenario."""
    runs: int | None = None
    """Real runs per agent and scenario; by default 1, and 3 with --agreement."""
    workers: int = 2
    """Processes for real runs, one core each."""
    agreement: bool = False
    """Play the same policies on both tiers and report whether simulation ranks them as real training does: --scenarios (by
    default four), --agents (by default nine heuristics and four fixed decisions), --runs real runs each (by default 3),
    --episodes simulated ones."""
    benchmark: bool = False
    """Play the benchmark in simulation: --agents (by default every heuristic, searched fixed decision and planner, and the
    policy; also FILE.py:NAME, see docs/submit.md) on --splits, or on --scenarios (also folders of YAML files), --episodes
    seeds each. Writes leaderboard.md, report.html, tables and plots into --out."""
    page: Path | None = None
    """Of the benchmark: write the Markdown page to this file too, as docs/leaderboard.md was, its two plots beside it; what the
    file has below "## Told by hand" stays."""
    splits: str = ""
    """Of the benchmark, comma-separated; by default all: named, in-distribution, out-of-distribution, larger-fleets, traces,
    faults."""
    traces: Path = Path("../shared/data/traces")
    """Folder of recorded links (CSV) for the benchmark's split traces, which is left out where there are none."""
    planned: int = 3
    """Episodes of each scenario that the clairvoyant planner plays in the benchmark."""
    real_runs: int = 0
    """Real runs of the benchmark's best agents, per agent and scenario."""
    out: Path = Path("runs")
    """Folder of all runs; results go to a folder in it."""


def main() -> None:
    """Command line."""
    options = tyro.cli(Annotated[Options, tyro.conf.arg(name="")], description=Options.__doc__)
    from agents.cli import console, natural, positive
    from fedcore.files import need_writable
    from scenarios import InputError, load
    from scenarios.loader import refuse_namesakes

    for name in ("episodes", "runs", "workers"):
        positive(name, getattr(options, name))
    options = replace(options, runs=options.runs or (3 if options.agreement else 1))
    if options.page is not None and (not options.benchmark or options.page.is_dir()):
        raise InputError(f"--page {options.page} is the benchmark's page, expected a file, and --benchmark")
    need_writable(options.out)
    if options.page is not None:
        need_writable(options.page.parent)
    rounded = options.precision is not None or options.context_precision != "fp32"
    if options.benchmark:
        if options.engine == "flower" or options.shaped or rounded:
            raise InputError(
                "--benchmark plays simulated episodes; expected it without --engine flower, --shaped, --precision and "
                "--context-precision"
            )
        if options.agreement or options.tier == "training" or options.data is not None:
            raise InputError(
                "--benchmark plays simulated episodes, and --real-runs of its best agents on the scenarios' own data; expected "
                "it without --agreement, --tier training and --data"
            )
        natural("planned", options.planned)
        natural("real-runs", options.real_runs)
        return compete(options)
    four = IMAGE_SCENARIOS if options.data else AGREEMENT_SCENARIOS
    spoken = options.scenarios or (four if options.agreement else "farm-lte")
    chosen = [load(name.strip()) for name in spoken.split(",") if name.strip()]
    refuse_namesakes(chosen)
    if not chosen:
        raise InputError("--scenarios is empty, expected names or YAML files separated by commas")
    if options.data is not None and not options.data.exists():
        raise InputError(f"--data {options.data} does not exist, expected a folder, a zip or an npz of images, or text")
    with console.status("loading"):
        from agents.benchmark import is_agent, known_agents
        from agents.frozen import load_policy, newest_policy, policy_path
        from agents.heuristics import HEURISTICS
        from agents.judge import bring, images_for
        from fedcore.files import content_key
        from fedcore.workload import check_workload
        from fedcore.world import calibration_note

    chosen = [bring(scenario, options.data) for scenario in chosen]
    for scenario in chosen:
        check_workload(scenario.workload, scenario.name, images=images_for(scenario, options.data) is not None)
        note = calibration_note(scenario)
        if note is not None and options.data is None:
            console.print(f"[yellow]note:[/yellow] {note}", highlight=False)
    if options.shaped and options.engine != "flower":
        raise InputError("--shaped shapes real machines; expected it with --engine flower")
    if options.engine != "inprocess":
        if options.agreement:
            raise InputError(f"--agreement compares both tiers in this process; expected it without --engine {options.engine}")
        if options.engine == "flower":
            from fedcore.flower.superlink import need_flower

            need_flower()
        else:
            from fedcore.ray_pool import need_ray

            need_ray()
        if options.shaped:
            from fedcore.flower.namespaces import need_namespaces

            need_namespaces()
            if options.data is not None:
                raise InputError("--shaped compares with simulation of the scenario's own data; expected it without --data")
            if rounded:
                raise InputError(
                    "--shaped holds bytes against simulation, which counts decision.wire_precision; expected it without "
                    "--precision and --context-precision"
                )
    elif rounded:
        raise InputError("--precision and --context-precision are of real machines; expected them with --engine flower or ray")
    path = None if options.policy is None else policy_path(options.policy)
    if path is None:
        path = newest_policy(options.out)
        found = f"the newest frozen policy, {path}" if path else f"heuristics only: no frozen policy under {options.out}/"
        console.print(f"--policy not given: {found}")
    if path is not None:
        load_policy(path)  # refuse a bad file before anything long begins
    names = [name.strip() for name in options.agents.split(",") if name.strip()]
    unknown = [n for n in names if not is_agent(n)]
    if unknown:
        raise InputError(f"--agents has {unknown[0]!r}, expected {known_agents()}")
    folder = options.out / f"evaluation-{content_key(*vars(options).values(), path)}"
    if options.engine != "inprocess":
        from agents.real_machines import Simulated, on_machines

        agents = everyone(path, names or ([] if path else ["equal"]))
        against = Simulated(options.episodes, options.workers) if options.shaped else None
        wire: dict[str, str | None] = {"precision": options.precision, "context_precision": options.context_precision}
        on_machines(chosen, agents, options.runs or 1, options.data, options.out, folder, against, wire, options.engine)
    elif options.agreement:
        both_tiers(options, chosen, path, names, folder)
    elif options.tier == "training" or options.data is not None:
        on_training(options, chosen, path, names, folder)
    else:
        in_simulation(options, chosen, path, names or [*HEURISTICS, "best-static"], folder)


def everyone(path: Path | None, names: list[str]) -> list[str]:
    """Spellings of all who play, each once: the policy's file first, where there is one."""
    return list(dict.fromkeys([*([str(path)] if path else []), *names]))


def compete(options: Options) -> None:
    """Play the benchmark and write its pages."""
    import shlex
    import sys

    from agents.cli import console
    from agents.frozen import named_policies, newest_policy, policy_path
    from agents.leaderboard import AGENTS, Played, run, scenario_key
    from agents.splits import cases
    from fedcore.files import content_key

    path = policy_path(options.policy) if options.policy else newest_policy(options.out)
    chosen, skipped = cases(options.splits, options.scenarios, options.traces)
    for sentence in skipped:
        console.print(sentence)
    names = [name.strip() for name in options.agents.split(",") if name.strip()] or [*named_policies(), *AGENTS]
    agents = tuple(everyone(path, names))
    what = Played(
        agents, tuple(chosen), options.episodes, options.planned, options.workers, cluster=options.engine == "ray"
    )
    played = content_key(agents, *map(scenario_key, chosen), options.episodes, options.planned)
    command = shlex.join(["python", "evaluate.py", *sys.argv[1:]])
    run(what, options.out / f"benchmark-{played}", command, options.real_runs, page=options.page)


def in_simulation(options: Options, chosen: list[Scenario], path: Path | None, names: list[str], folder: Path) -> None:
    """Play on the fast tier and report."""
    from agents.benchmark import benchmark, compare, orchestrator, summarise
    from agents.cli import console, progress_bar
    from agents.naming import name_apart
    from agents.report import Report, score_bars, trade_off
    from agents.tables import comparison_grid, simulation_grid
    from fedcore.files import write_text

    results, spelled = [], everyone(path, names)
    with progress_bar() as bar:
        task = bar.add_task("held-out episodes", total=len(chosen) * len(spelled) * options.episodes, note="")
        for scenario in chosen:
            bar.update(task, note=scenario.name)
            agents = [orchestrator(name, scenario) for name in spelled]
            shown = name_apart(spelled, agents)
            results += benchmark(agents, scenario, options.episodes, on_episode=lambda: bar.advance(task))
    summaries = summarise(results)
    report = Report("Orchestrators in simulation", folder)
    for scenario in chosen:
        grid = simulation_grid(summaries, scenario.name)
        console.print(grid.rich())
        report.grid(grid)
        own = [s for s in summaries if s.scenario == scenario.name]
        report.figure(f"scores-{scenario.name}", score_bars(own), f"{scenario.title}: held-out scores")
        report.figure(f"tradeoff-{scenario.name}", trade_off([r for r in results if r.scenario == scenario.name]), "Cost")
    if path is not None and len(spelled) > 1:
        policy, *others = shown.values()
        grid = comparison_grid([compare(results, policy, other) for other in others], f"{policy} over all scenarios, paired")
        console.print(grid.rich())
        report.grid(grid)
    write_text(folder / "results.json", json.dumps([asdict(s) for s in summaries], indent=1))
    console.print(f"report: {report.write()}")


def on_training(options: Options, chosen: list[Scenario], path: Path | None, names: list[str], folder: Path) -> None:
    """Play on real training and report."""
    from agents.benchmark import benchmark, orchestrator, summarise
    from agents.cli import console, judge_with_bars
    from agents.heuristics import HEURISTICS
    from agents.judge import Cell, cell_path, cell_scenario, encoder_path, images_for
    from agents.own_target import own_target
    from agents.report import Report, real_curves
    from agents.tables import probe_grids, real_grid
    from fedcore.files import slug, write_bytes, write_text

    report = Report("Orchestrators on real federated training", folder)
    everything = []
    for scenario in chosen:
        picked = names
        if not picked:
            played = benchmark([orchestrator(n, scenario) for n in HEURISTICS], scenario, 10)
            best = [s.agent for s in summarise(played) if s.agent != "equal"][:2]
            picked = ["equal", *best]
        data = images_for(scenario, options.data)
        target = own_target(scenario, data, console.print, options.workers)
        plain = cell_scenario(scenario)
        agents = everyone(path, picked)
        assert options.runs is not None
        cells = [Cell(agent, plain, run, data, *target) for run in range(options.runs) for agent in agents]
        labels = [f"{'policy' if c.agent == str(path) else c.agent}, run {c.seed}" for c in cells]
        console.print(f"[bold]{scenario.title}[/bold] ({scenario.name}), real training")
        cells_folder = options.out / "cells"
        judgements = judge_with_bars(cells, labels, cells_folder, options.workers, encoders=True)
        for cell, judgement in zip(cells, judgements, strict=True):
            trained = folder / "encoders" / f"{scenario.name}-{slug(judgement.result.agent)}-run{cell.seed}.safetensors"
            write_bytes(trained, encoder_path(cell_path(cells_folder, cell)).read_bytes())
        what = options.data.name if options.data else scenario.workload.data
        for grid in (
            real_grid(judgements, f"Real federated training: {scenario.name} on {what}"),
            *probe_grids(judgements, f"What the encoders are worth on {what}, beside two references"),
        ):
            console.print(grid.rich())
            report.grid(grid)
        report.figure(f"real-{scenario.name}", real_curves(judgements), f"{scenario.title}: progress against cost")
        everything += judgements
    write_text(folder / "results.json", json.dumps([asdict(j) for j in everything], indent=1))
    console.print(f"trained encoders: {folder / 'encoders'} (python -m fedcore.embed --encoder FILE --data PATH)")
    console.print(f"report: {report.write()}")


def both_tiers(options: Options, chosen: list[Scenario], path: Path | None, names: list[str], folder: Path) -> None:
    """Play on both tiers and report how they agree."""
    from agents.agreement import POLICIES, agreement, agreement_grid, agreement_plot, policy_grid
    from agents.benchmark import benchmark, orchestrator
    from agents.cli import console, judge_with_bars, progress_bar
    from agents.judge import Cell, cell_scenario, images_for
    from agents.naming import labels, name_apart
    from agents.own_target import own_target
    from agents.report import Report
    from fedcore.files import write_text

    agents = list(dict.fromkeys((names or list(POLICIES)) + ([str(path)] if path else [])))
    assert options.runs is not None
    shown = labels(agents)
    simulated = []
    with progress_bar() as bar:
        task = bar.add_task("simulated episodes", total=len(chosen) * len(agents) * options.episodes, note="")
        for scenario in chosen:
            players = [orchestrator(name, scenario) for name in agents]
            name_apart(agents, players)
            simulated += benchmark(players, scenario, options.episodes, on_episode=lambda: bar.advance(task))
    cells, spoken = [], []
    for scenario in chosen:
        data = images_for(scenario, options.data)
        target = own_target(scenario, data, console.print, options.workers)
        cells += [Cell(name, cell_scenario(scenario), run, data, *target) for run in range(options.runs) for name in agents]
        spoken += [f"{scenario.name}, {shown[name]}, {run}" for run in range(options.runs) for name in agents]
    judgements = judge_with_bars(cells, spoken, options.out / "cells", options.workers)
    found = agreement(simulated, [j.result for j in judgements])
    report = Report("Simulation and real training", folder)
    for grid in (agreement_grid(found), *(policy_grid(a) for a in found)):
        console.print(grid.rich())
        report.grid(grid)
    report.figure("agreement", agreement_plot(found), "Every policy on both tiers; on the line, simulation tells the truth")
    write_text(folder / "agreement.md", "\n\n".join(g.markdown() for g in (agreement_grid(found), *map(policy_grid, found))))
    write_text(folder / "results.json", json.dumps([asdict(j) for j in judgements], indent=1))
    console.print(f"report: {report.write()}")


if __name__ == "__main__":
    from scenarios.errors import told

    with told("interrupted before anything began"):
        from agents.cli import run

        run(main)
