"""Compare federated methods at equal cost: `python -m fedcore.compare --scenario farm-lte --methods all --seeds 3`.

Every method trains the same encoder on the same images or text over the same simulated fleet, until it has spent what FedAvg
spends in `--rounds` rounds, in time, energy and bytes. Finished runs are kept, so an interrupted comparison resumes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedcore.comparison.entries import chosen, entry_of
from fedcore.comparison.measures import INFONCE, SIGNALS, signal_of
from fedcore.comparison.plots import COLOURS, draw
from fedcore.comparison.probe_table import probe_table
from fedcore.comparison.runs import REFERENCE, RunSpec, play
from fedcore.comparison.tables import cells, csv_text, foretold, markdown, row_of, target_of
from fedcore.files import cache_folder, content_key, need_writable, slug, write_bytes, write_text
from fedcore.parallel import Job, run_kept
from fedcore.workload import reads_text
from scenarios import Scenario, load, parse
from scenarios.errors import InputError, need_at_least, told
from scenarios.sources import sources_of

VERSION = 7
"""Part of every kept run's name: raise it when a change of the code changes what a run gives."""


@dataclass(frozen=True)
class CompareOptions:
    """Compare federated methods at equal simulated time, energy and bytes.

    Attributes:
        scenario: name or file.
        data: folder, zip or npz of images to train on instead of the scenario's, or a .txt file or a folder of them where its
            encoder reads text.
        methods: all, study (intra-layer parallelism against its own knobs), or names of `fedcore/comparison/entries.py`.
        seeds: runs per method.
        rounds: that the reference, FedAvg, plays; its time, energy and bytes are everyone's budgets.
        steps: local steps H per round.
        every: rounds between checkpoints.
        longest: no method trains more than this many times the local steps of all the reference's machines together.
        split: how images are dealt to machines, as `workload.split`; None keeps the scenario's.
        workers: processes, one core each.
        output: folder for table, CSV and picture.
        plot: methods in the picture beside the reference, at most nine; empty takes the best by quality at equal time.
    """

    scenario: str = "farm-lte"
    data: Path | None = None
    methods: tuple[str, ...] = ("all",)
    seeds: int = 3
    rounds: int = 30
    steps: int = 10
    every: int = 3
    longest: float = 1.5
    split: str | None = None
    workers: int = 2
    output: Path = Path("runs/comparison")
    plot: tuple[str, ...] = ()


def specs_of(options: CompareOptions) -> list[RunSpec]:
    """Every run of a comparison, seed by seed, so that a first answer for all methods comes early.

    Raises:
        InputError: unknown scenario, method or split, or numbers out of range.
    """
    need_at_least(options, seeds=1, rounds=2, steps=1, every=1, workers=1)
    if not 1 <= options.longest < float("inf"):
        raise InputError(f"--longest is {options.longest}, expected at least 1")
    scenario = load(options.scenario)
    text, content = reads_text(scenario.workload), scenario.model_dump(mode="json")
    if options.split is not None:
        content["workload"]["split"] = options.split
    if options.data is not None and not options.data.exists():
        kind = "a .txt file or a folder of them" if text else "a folder, a zip or an npz of images"
        raise InputError(f"--data is {options.data}, which does not exist; expected {kind}")
    if options.data is not None and text:
        content["workload"]["data"] = str(options.data)
    scenario = parse(content, options.scenario)
    if scenario.decision.wire_precision != "fp32":
        raise InputError(
            f"scenario {scenario.name}: decision.wire_precision is {scenario.decision.wire_precision}, but methods are "
            "compared at what their own messages cost; expected fp32"
        )
    methods = chosen(options.methods)
    absent = [name for name in options.plot if name not in methods]
    if absent:
        raise InputError(f"--plot has {absent[0]!r}, which is not played; expected some of --methods")
    if len(options.plot) > len(COLOURS) - 1:
        raise InputError(f"--plot has {len(options.plot)} methods, expected at most {len(COLOURS) - 1} beside the reference")
    need_writable(options.output)
    data = None if options.data is None or text else str(options.data)
    return [
        RunSpec(
            name, scenario.model_dump(mode="json"), data, seed, options.rounds, options.steps, options.every, options.longest
        )
        for seed in range(options.seeds)
        for name in methods
    ]


def key_of(spec: RunSpec) -> str:
    """Names a run by content: entry with its parameters, scenario with the traces that it reads, data by sizes and dates."""
    sources = sources_of(Scenario.model_validate(spec.scenario), spec.data)
    return content_key(VERSION, repr(asdict(spec)), repr(entry_of(spec.entry)), *sources)


def compare(options: CompareOptions) -> dict[str, list[dict[str, Any]]]:
    """Play what is missing; entry -> one record per seed."""
    specs = specs_of(options)
    folder = cache_folder("comparison")
    paths = [folder / f"{slug(spec.entry)}-{spec.seed}-{key_of(spec)}.json" for spec in specs]
    jobs: dict[Path, Job] = {path: (play, (spec,)) for path, spec in zip(paths, specs, strict=True)}
    kept = run_kept(jobs, options.workers, "comparison")
    runs: dict[str, list[dict[str, Any]]] = {}
    for path, spec in zip(paths, specs, strict=True):
        runs.setdefault(spec.entry, []).append(kept[path])
    return runs


def write(options: CompareOptions, runs: dict[str, list[dict[str, Any]]]) -> str:
    """Write table.md, curves.csv and curves.png; returns the Markdown."""
    if "refused" in runs[REFERENCE][0]:
        raise InputError(runs[REFERENCE][0]["refused"])
    for run in runs[REFERENCE]:
        if run.get("merged") == 0:
            why = run["turned_down"][1] if run["turned_down"][0] else "no block came back"
            raise InputError(f"{REFERENCE}, whose costs are everyone's budgets, learned nothing: {why}")
    refused = {name: [run["refused"] for run in group if "refused" in run] for name, group in runs.items()}
    refused = {name: sentences for name, sentences in refused.items() if sentences}
    played = {name: group for name, group in runs.items() if name not in refused}
    quality = played[REFERENCE][0]["report"]["headline"]
    target = target_of(played[REFERENCE])
    rows = [row_of(name, group, target) for name, group in played.items()]
    text = markdown(cells(rows, quality))
    first = played[REFERENCE][0]
    beside = "" if first["raw"] is None else f"; raw pixels: {first['raw']:.3f}"
    floor = first["report"].get("floor")
    least = "" if floor is None else f"; the text's own source: {floor:.3f}"
    text += f"\nUntrained encoder: {sum(rows[0].untrained) / len(rows[0].untrained):.3f}{beside}. "
    text += f"Target: {SIGNALS[signal_of(first)]} {target:.3f}{least}.\n"
    for name, group in played.items():
        own = [quality for run in group for quality in run["personal"]]
        if own:
            mean = sum(own) / len(own)
            text += f"\n{name}: the machines' own models reach {mean:.3f} on average, on what all are tested on.\n"
        home = [pair for run in group for pair in run.get("at_home", [])]  # runs that an older version kept have none
        if home:
            own_model, shared = (sum(qualities) / len(home) for qualities in zip(*home, strict=True))
            text += f"On test images like a machine's own alone they reach {own_model:.3f}, the global model {shared:.3f}.\n"
    for name, group in played.items():
        lacking = dict.fromkeys(machine for run in group for machine in run["lacking"])
        if lacking:
            text += f"\n{name}: too little memory for its blocks, so resting in all or some rounds: {', '.join(lacking)}.\n"
    for name, group in played.items():  # runs that an older version kept say nothing of it
        bad = [run["turned_down"] for run in group if run.get("turned_down", [0])[0]]
        if bad:
            text += f"\n{name}: {sum(count for count, _ in bad)} blocks were refused, such as: {bad[0][1]}\n"
        thin = [run["unprotected"] for run in group if run.get("unprotected", [0])[0]]
        if thin:
            text += f"\n{name}: in {sum(count for count, _ in thin)} rounds too few blocks came back: {thin[0][1]}\n"
        flat = sum(run.get("collapsed", False) for run in group)
        if flat:
            text += f"\n{name}: the encoder has collapsed in {flat} of {len(group)} runs: all images look alike to it.\n"
    for name, sentences in refused.items():
        text += f"\n{name} was not played: {sentences[0]}\n"
    signals = foretold(played) if signal_of(first) == INFONCE and quality != "-InfoNCE" else []
    if len(signals) > 1:
        text += "\n" + markdown(signals)
    probes = probe_table(played)
    if len(probes[0]) > 1:
        text += "\nThe encoders that runs end with, NOT at equal cost: runs go on until all three budgets are spent or are cut "
        items = "images" if signal_of(first) == INFONCE else "windows"
        text += f"short at the longest length (in brackets 95 % intervals over test {items}, means over seeds):\n\n"
        text += markdown(probes)
    best = sorted(rows[1:], key=lambda row: -sum(row.quality["time_s"]))
    names = options.plot or tuple(row.name for row in best[:9])
    shown = {name: played[name] for name in dict.fromkeys((REFERENCE, *names)) if name in played}
    write_text(options.output / "table.md", text)
    write_text(options.output / "curves.csv", csv_text(played))
    write_bytes(options.output / "curves.png", draw(shown, quality, f"{options.scenario}, {options.data or 'its own data'}"))
    return text


def main() -> None:
    """Command line."""
    import tyro

    options = tyro.cli(CompareOptions)
    with told("interrupted; finished runs are kept, and the same command goes on"):
        text = write(options, compare(options))
    print(text)
    print(f"table.md, curves.csv and curves.png are in {options.output}")


if __name__ == "__main__":
    main()
