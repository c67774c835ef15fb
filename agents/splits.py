"""What the benchmark plays on: named splits of scenarios, none of which training has seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agents.worlds import random_world
from fedcore.world import compile_world
from scenarios import InputError, Scenario, load, names, parse
from scenarios.generate import RANGES, Split, random_scenario
from scenarios.loader import refuse_namesakes
from scenarios.traces import read_link_trace

SEED = 8_000_000
"""Random scenarios of the benchmark are drawn by it: far from training's and validation's."""
TRACES = Path("../shared/data/traces")
LARGE = 64
OLDER = {"farm": "field", "solar": "field", "lab": "lan", "two": "lan", "one": "edge"}
"""Families of the library's older names, whose first word is none."""


@dataclass(frozen=True)
class Case:
    """A scenario to play on.

    Attributes:
        split: which it belongs to.
        scenario: validated.
    """

    split: str
    scenario: Scenario


def family(name: str) -> str:
    """The library family of a scenario's name: its first word, older names aside."""
    first = name.split("-")[0]
    return OLDER.get(first, first)


def named() -> list[Case]:
    """All of the library."""
    return [Case("named", load(name)) for name in names()]


def drawn(split: str, source: Split, count: int) -> list[Case]:
    """Random scenarios from one of the generator's ranges, by seeds that no training draws from."""
    stream = list(RANGES).index(source)
    return [Case(split, random_world((SEED, stream, i), source).scenario) for i in range(count)]


def larger(count: int = 3) -> list[Case]:
    """Fleets of 32 to 64 machines: random ones of the training range with several times as many of every kind, and shared
    links that carry as much more."""
    out: list[Case] = []
    for i in range(count):
        rng = np.random.default_rng([SEED, len(RANGES), i])
        content = random_scenario(rng, "train").model_dump(mode="json")
        fleet = content["fleet"]
        machines = sum(group["count"] for group in fleet["groups"])
        times = min(-(-int(rng.integers(32, 55)) // machines), LARGE // machines)
        for group in fleet["groups"]:
            group["count"] *= times
        for link in fleet["links"]:
            link["uplink_mbps"] *= times
            link["downlink_mbps"] *= times
        content["name"], content["title"] = f"larger-{i}", f"{machines * times} machines"
        out.append(Case("larger-fleets", parse(content, content["name"])))
    return out


def traced(folder: Path, bases: tuple[str, ...] = ("mobile-driving-vans", "farm-lte", "phones-commute")) -> list[Case]:
    """Library scenarios whose links replay recorded capacities, one file per kind of machine in turns.

    Args:
        folder: of CSV files `second,uplink_mbps,downlink_mbps`.
        bases: names.

    Raises:
        InputError: the folder has no such file, or one that does not read.
    """
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise InputError(f"split traces needs recorded links, and {folder} has no .csv file: expected --traces FOLDER")
    out = []
    for b, base in enumerate(bases):
        content = load(base).model_dump(mode="json")
        for g, group in enumerate(content["fleet"]["groups"]):
            path = files[(b + g) % len(files)].resolve()
            trace = read_link_trace(path)
            group["link"] |= {
                "trace": str(path), "outages": None, "uplink_mbps": float(trace.up_bps.mean()) / 1e6,
                "downlink_mbps": float(trace.down_bps.mean()) / 1e6, "variability": 0.0, "mean_spread": 0.0,
            }  # fmt: skip
        content["name"], content["title"] = f"traced-{base}", f"{content['title']}, on recorded links"
        out.append(Case("traces", parse(content, content["name"])))
    return out


def faults(bases: tuple[str, ...] = ("lab-lan", "farm-lte", "field-gateways", "phones")) -> list[Case]:
    """Library scenarios struck by bursts of faults: links that all but fail, machines that vanish, loads that pile up, each
    for a few of the reference's rounds at a time."""
    out = []
    for base in bases:
        scenario = load(base)
        reference = compile_world(scenario).reference
        round_s = reference.time_s / reference.rounds
        content = scenario.model_dump(mode="json")
        for group in content["fleet"]["groups"]:
            group["link"] |= {
                "trace": None,
                "outages": {"mean_up_s": 10 * round_s, "mean_down_s": 3 * round_s, "rate_fraction": 0.05},
            }
            there: dict[str, Any] = group["availability"] or {}
            group["availability"] = there | {"mean_on_s": 15 * round_s, "mean_off_s": 3 * round_s}
            group["load"] = {"slowdown": 8.0, "mean_busy_s": 4 * round_s, "mean_free_s": 12 * round_s}
        content["name"], content["title"] = f"faults-{base}", f"{content['title']}, in bursts of faults"
        out.append(Case("faults", parse(content, content["name"])))
    return out


def brought(path: Path) -> list[Case]:
    """A user's own scenario: one YAML file, or every one of a folder.

    Raises:
        InputError: nothing there, two of one name, or a file that is no scenario.
    """
    files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
    if not files:
        raise InputError(f"--scenarios {path} has no .yaml file, expected a folder of scenarios")
    return [Case("own", load(file)) for file in files]


SPLITS: Mapping[str, Callable[[Path], list[Case]]] = {
    "named": lambda traces: named(),
    "in-distribution": lambda traces: drawn("in-distribution", "train", 6),
    "out-of-distribution": lambda traces: drawn("out-of-distribution", "ood", 6),
    "larger-fleets": lambda traces: larger(),
    "traces": traced,
    "faults": lambda traces: faults(),
}
"""Split -> its cases, given the folder of recorded links; a new split is one function and one line."""


def cases(splits: str = "", scenarios: str = "", traces: Path = TRACES) -> tuple[list[Case], list[str]]:
    """What to play.

    Args:
        splits: comma-separated, all by default.
        scenarios: comma-separated names, YAML files or folders of them.
        traces: folder of recorded links.

    Returns:
        Cases, and sentences about what was left out: splits that were asked for by default, and folders within folders.

    Raises:
        InputError: unknown split or scenario, both splits and scenarios, or two scenarios of one name.
    """
    out: list[Case] = []
    skipped: list[str] = []
    if splits.strip() and scenarios.strip():
        raise InputError(
            f"--splits {splits.strip()} and --scenarios {scenarios.strip()} both say what to play, expected one of them"
        )
    for text in re.split(r"\s*,\s*", scenarios.strip()) if scenarios.strip() else ():
        path = Path(text)
        below = sorted({str(file.parent) for file in path.rglob("*.y*ml")} - {str(path)}) if path.is_dir() else []
        if below:
            told = ", ".join(below[:3]) + (f" and {len(below) - 3} more" if len(below) > 3 else "")
            skipped.append(f"left out: what lies in folders within --scenarios {path} ({told}): expected them named themselves")
        out += brought(path) if path.is_dir() or path.is_file() else [Case("own", load(text))]
    wanted = [name for name in re.split(r"[,\s]+", splits) if name]
    unknown = [name for name in wanted if name not in SPLITS]
    if unknown:
        raise InputError(f"--splits has {unknown[0]!r}, expected some of {', '.join(SPLITS)}")
    if not out:
        for name in wanted or SPLITS:
            try:
                out += SPLITS[name](traces)
            except InputError as error:
                if wanted or name != "traces":
                    raise
                skipped.append(f"left out: {error}")
    refuse_namesakes(case.scenario for case in out)
    return out, skipped
