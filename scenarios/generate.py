"""Random scenarios for domain randomisation, in three splits that do not overlap where it matters.

Every figure that shapes who should do what is drawn from its split's range. "ood" lies beyond training: harsher load, links
and heat, a wider spread of speeds, in fleets at the large end (larger ones yet: `agents.splits.larger`). "validation" lies
within: of five ranges it takes a band from the middle that training leaves out, so that no validation scenario could have been
a training one (every machine has a variability, and it tells the split), yet none is harder.

| figure (per kind of machine, or of the fleet) | train | validation | ood |
|---|---|---|---|
| machines of the fleet | 2 .. 16 | 2 .. 16 | 11 .. 16 |
| throughput_gflops, median | 1.2 .. 200 | 1.2 .. 200 | 1 .. 400 |
| strongest over weakest kind, before 0.9 .. 1.1 of each | 1.5 .. 3, 4.5 .. 20 | 3 .. 4.5 | 20 .. 130 |
| uplink_mbps, median | 0.15 .. 150 | 0.15 .. 150 | 0.06 .. 900 |
| link.variability | 0.1 .. 0.3, 0.4 .. 0.6 | 0.3 .. 0.4 | 0.6 .. 1 |
| link.mean_spread, in half of the kinds | 0.1 .. 0.5 | 0.1 .. 0.5 | 0.5 .. 0.9 |
| time in outages, in a third of the kinds | 0.003 .. 0.08 | 0.003 .. 0.08 | 0.08 .. 0.15 |
| load.slowdown, in four fifths | 1.2 .. 2.5, 3.2 .. 8 | 2.5 .. 3.2 | 8 .. 16 |
| busy part of the time | 0.1 .. 0.2, 0.26 .. 0.4 | 0.2 .. 0.26 | 0.4 .. 0.6 |
| thermal.slowdown, in a third | 1.2 .. 2.8 | 1.2 .. 2.8 | 2.8 .. 4 |
| half_rows, in three quarters (else 0) | 4 .. 60 | 4 .. 60 | 60 .. 150 |
| windows of text of a machine, median | 60 .. 100, 150 .. 400 | 100 .. 150 | 400 .. 800 |

In all splits alike: images or, in two fifths, text (the workloads of farm-lte and of phones), presence by chance, by the time
of day or from a late start, batteries with panels, no shared link or one or a gateway per kind in front of it or a tree of
relays, carbon by the hour, sometimes a deadline, sometimes memory for a part of every layer only. Of text, a kind in five
holds next to nothing, never half of the machines; those who stay always have enough. Powers, energies per bit, latencies,
overheads of steps and rounds, menus of H, budgets and the reference's decision are drawn too, from wide ranges where no source
can be cited. Time constants follow the length of a reference round, so that conditions change within an episode.

Now and then (draw 562 of a training by seed 3) the reference policy never gets to its target and the scenario does not compile:
`agents.worlds.random_world` draws again.

The splits together cover the library's figures (`tests/scenarios/test_coverage.py`), but for links that never vary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from scenarios.schema import Reference, Scenario

Split = Literal["train", "validation", "ood"]


@dataclass(frozen=True)
class Ranges:
    """Inclusive ranges that a split draws from.

    Attributes:
        machines: of the fleet.
        throughput_gflops: median throughput, log-uniform.
        spread: ratio of strongest to weakest machine, log-uniform.
        uplink_mbps: median uplink, log-uniform.
        variability: of links.
        slowdown: of background load, log-uniform.
        busy_fraction: of background load.
        mean_spread: of links.
        down_fraction: part of the time that a link is out.
        throttle: slowdown of a hot device.
        half_rows: of devices, log-uniform.
        windows: median number on a machine, where text is trained on, log-uniform.
    """

    machines: tuple[int, int]
    throughput_gflops: tuple[float, float]
    spread: tuple[float, float]
    uplink_mbps: tuple[float, float]
    variability: tuple[float, float]
    slowdown: tuple[float, float]
    busy_fraction: tuple[float, float]
    mean_spread: tuple[float, float]
    down_fraction: tuple[float, float]
    throttle: tuple[float, float]
    half_rows: tuple[float, float]
    windows: tuple[float, float]


BANDS: dict[str, tuple[float, float]] = {
    "spread": (3.0, 4.5),
    "variability": (0.3, 0.4),
    "slowdown": (2.5, 3.2),
    "busy_fraction": (0.2, 0.26),
    "windows": (100.0, 150.0),
}
"""What validation draws from and training leaves out."""
_TRAIN = Ranges(
    (2, 16), (1.2, 200.0), (1.5, 20.0), (0.15, 150.0), (0.1, 0.6), (1.2, 8.0), (0.1, 0.4), (0.1, 0.5), (0.003, 0.08),
    (1.2, 2.8), (4.0, 60.0), (60.0, 400.0),
)  # fmt: skip
RANGES: dict[Split, Ranges] = {
    "train": _TRAIN,
    "validation": replace(_TRAIN, **BANDS),  # type: ignore[arg-type] # every band is a pair of floats
    "ood": Ranges(
        (11, 16), (1.0, 400.0), (20.0, 130.0), (0.06, 900.0), (0.6, 1.0), (8.0, 16.0), (0.4, 0.6), (0.5, 0.9), (0.08, 0.15),
        (2.8, 4.0), (60.0, 150.0), (400.0, 800.0),
    ),
}  # fmt: skip
REFERENCE_ROUNDS = 33


@dataclass(frozen=True)
class _Kind:
    """A workload, and what its half share costs: the scale of time constants, no more.

    Attributes:
        section: of the scenario.
        step_gflop: FLOPs of a step, in 1e9, on a device without half_rows.
        row_gflop: what each of half_rows adds.
        up_mbit: of a block's upload.
        down_mbit: of its download.
        least_mb: memory that the smallest block needs.
        whole_mb: memory that the whole model needs.
    """

    section: Mapping[str, Any]
    step_gflop: float
    row_gflop: float
    up_mbit: float
    down_mbit: float
    least_mb: float
    whole_mb: float

    def step(self, half_rows: float = 25.0) -> float:
        return self.step_gflop + self.row_gflop * half_rows


IMAGES = _Kind({}, 1.75, 0.056, 1.8, 3.5, 19.9, 21.2)
TEXT = _Kind(
    {
        "data": "grammar",
        "window": 32,
        "encoder": "gpt",
        "encoder_options": {"dim": 32, "depth": 2, "heads": 2},
        "objective": "next-token",
        "learning_rate": 1e-3,
        "calibration": "grammar-gpt-next-token",
    },
    0.156, 0.0436, 0.45, 0.91, 6.08, 6.28,
)  # fmt: skip
MENUS = ((2, 5, 10, 20, 40), (5, 10, 20, 40), (1, 2, 5, 10, 20, 40))
MENU_CHANCES = (0.6, 0.2, 0.2)
THRIFTY_REFERENCE: dict[str, Any] = {"share": 0.25, "sync_interval": 20}
THRIFTY_MACHINES = 4
"""Fewer machines of a quarter each leave neurons out in every round."""
NEXT_TO_NOTHING = 32
"""Windows of text, at most, on a machine that is of no use to the others."""
LEAST_IMAGES, LEAST_WINDOWS = 320, 1200
"""On machines that are there from the start and stay, those of little memory in part: fewer do not lead to the target."""


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


@dataclass(frozen=True)
class _Source:
    """Draws from a split's ranges, around the bands that are not its own."""

    rng: np.random.Generator
    ranges: Ranges
    gaps: Mapping[str, tuple[float, float]]

    def uniform(self, field: str) -> float:
        low, high = getattr(self.ranges, field)
        if field not in self.gaps:
            return float(self.rng.uniform(low, high))
        first, last = self.gaps[field]
        x = float(self.rng.uniform(low, high - (last - first)))
        return x if x < first else x + (last - first)

    def log_uniform(self, field: str) -> float:
        low, high = getattr(self.ranges, field)
        if field not in self.gaps:
            return _log_uniform(self.rng, low, high)
        first, last = self.gaps[field]
        x = _log_uniform(self.rng, low, high * first / last)
        return x if x < first else x * last / first


def _device(source: _Source, gflops: float, round_s: float, workload: _Kind) -> dict[str, Any]:
    rng = source.rng
    active = 1.5 * gflops**0.6 * _log_uniform(rng, 0.4, 3.0)
    device = {
        "throughput_gflops": gflops,
        "step_overhead_s": workload.step() * _log_uniform(rng, 0.01, 1.0) / gflops,
        "half_rows": source.log_uniform("half_rows") if rng.random() < 0.75 else 0.0,
        "memory_mb": _log_uniform(rng, 64, 8192),
        "active_power_w": active,
        "idle_power_w": active * rng.uniform(0.05, 0.7),
        "step_jitter": rng.uniform(0.01, 0.15),
    }
    if rng.random() < 0.15:
        device["memory_mb"] = workload.least_mb + rng.uniform(0.05, 1.0) * (workload.whole_mb - workload.least_mb)
    if rng.random() < 1 / 3:
        device["thermal"] = {
            "slowdown": source.uniform("throttle"),
            "heating_s": 10 * workload.step() / gflops * _log_uniform(rng, 1, 8),
            "cooling_s": round_s * _log_uniform(rng, 2, 15),
        }
    return device


def _link(source: _Source, mbps: float, round_s: float) -> dict[str, Any]:
    rng = source.rng
    nj = 200.0 / mbps**0.7 * _log_uniform(rng, 0.2, 12.0)
    link = {
        "uplink_mbps": mbps,
        "downlink_mbps": mbps * _log_uniform(rng, 1.0, 6.0),
        "latency_s": min(_log_uniform(rng, 0.001, 1.5), 0.1 * round_s),
        "variability": source.uniform("variability"),
        "correlation_s": round_s * _log_uniform(rng, 0.3, 20),
        "transmit_nj_per_bit": nj,
        "receive_nj_per_bit": nj * rng.uniform(0.2, 0.8),
    }
    if rng.random() < 0.5:
        link["mean_spread"] = source.uniform("mean_spread")
    if rng.random() < 1 / 3:
        down, down_s = source.uniform("down_fraction"), round_s * _log_uniform(rng, 0.5, 5)
        link["outages"] = {
            "mean_up_s": down_s * (1 - down) / down,
            "mean_down_s": down_s,
            "rate_fraction": _log_uniform(rng, 0.005, 0.5),
        }
    return link


def _presence(rng: np.random.Generator, round_s: float, start_hour: float) -> dict[str, Any]:
    """Presence by chance, by the time of day with a change during the episode, or from a late start; mostly none."""
    out: dict[str, Any] = {}
    if rng.random() < 0.25:
        on_s = round_s * _log_uniform(rng, 20, 100)
        out |= {"mean_on_s": on_s, "mean_off_s": on_s * _log_uniform(rng, 0.05, 1.4)}
    timetable, episode_s = rng.random(), REFERENCE_ROUNDS * round_s
    if timetable < 0.12:
        edge, hours = (start_hour + rng.uniform(0.1, 0.8) * episode_s / 3600) % 24, rng.uniform(6, 12)
        comes = rng.random() < 0.5
        out["daily_hours"] = [[edge, (edge + hours) % 24] if comes else [(edge - hours) % 24, edge]]
    elif timetable < 0.24:
        out["joins_after_s"] = rng.uniform(0.1, 0.5) * episode_s
    return out


def _limited(group: dict[str, Any]) -> bool:
    """Whether a kind may be away for most of an episode."""
    presence = group.get("availability", {})
    return "battery" in group or "daily_hours" in presence or "joins_after_s" in presence


def _unlimit(group: dict[str, Any]) -> None:
    group.pop("battery", None)
    presence = group.pop("availability", {})
    if "mean_on_s" in presence:
        group["availability"] = {name: presence[name] for name in ("mean_on_s", "mean_off_s")}


def _deadline_s(
    rng: np.random.Generator,
    groups: list[dict[str, Any]],
    links: list[dict[str, Any]],
    routes: list[list[str]],
    workload: _Kind,
    steps: int,
) -> float:
    """A deadline that the slowest kind makes in a reference round, even hot, unless something else gets in its way."""
    kinds = list(zip(groups, routes, strict=True))
    users = {link["name"]: sum(g["count"] for g, way in kinds if link["name"] in way) for link in links}
    longest = 0.0
    for g, way in kinds:
        shared = [link for link in links if link["name"] in way]
        up = min([g["link"]["uplink_mbps"], *(link["uplink_mbps"] / users[link["name"]] for link in shared)])
        down = min([g["link"]["downlink_mbps"], *(link["downlink_mbps"] / users[link["name"]] for link in shared)])
        hot = g["device"].get("thermal", {}).get("slowdown", 1.0)
        device = g["device"]
        step_s = hot * (device["step_overhead_s"] + workload.step(device["half_rows"]) / device["throughput_gflops"])
        latency_s = 2.0 * (g["link"]["latency_s"] + sum(link["latency_s"] for link in shared))
        longest = max(longest, steps * step_s + workload.up_mbit / up + workload.down_mbit / down + latency_s)
    return longest * rng.uniform(1.5, 3.0)


def _network(
    rng: np.random.Generator, sizes: list[int], rates: list[float], uplink: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[list[str]]]:
    """Shared links between kinds of machines and the server: none, a backhaul, gateways before it, or a tree of relays.

    Args:
        rng: every draw comes from it.
        sizes: machines of each kind.
        rates: Mbit/s up of each kind's own links.
        uplink: the fleet's median of them.

    Returns:
        The links, what each kind's own link says of its way, and the names of the shared links on it.
    """
    shape = int(rng.choice(4, p=(0.35, 0.25, 0.25, 0.15)))
    if shape == 3:
        return _relays(rng, sizes, rates)
    ways = [[f"gateway-{kind}", "backhaul"][2 - shape :] for kind in range(len(sizes))]
    links = []
    if shape == 2:
        links += [_shared(rng, way[0], mbps * count) for way, mbps, count in zip(ways, rates, sizes, strict=True)]
    if shape:
        links.append(_shared(rng, "backhaul", uplink * sum(sizes)))
    return links, [{"via": way} for way in ways], ways


def _relays(
    rng: np.random.Generator, sizes: list[int], rates: list[float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[list[str]]]:
    """A tree of relays, each kind of machine at one of them; as `_network`."""
    parents = [int(rng.integers(-1, relay)) if relay else -1 for relay in range(int(rng.integers(2, 5)))]
    at = [int(rng.integers(len(parents))) for _ in sizes]
    ways = []
    for relay in at:
        way, node = [], relay
        while node >= 0:
            way.append(f"hop-{node}")
            node = parents[node]
        ways.append(way)
    links = []
    for relay, parent in enumerate(parents):
        wanted = sum(m * n for m, n, way in zip(rates, sizes, ways, strict=True) if f"hop-{relay}" in way) or max(rates)
        hop = _shared(rng, f"hop-{relay}", wanted)
        hop["downlink_mbps"] = hop["uplink_mbps"] * _log_uniform(rng, 1.0, 2.0)  # radio: much alike in both directions
        ends = [f"relay-{relay}", "server" if parent < 0 else f"relay-{parent}"]
        links.append(hop | {"latency_s": _log_uniform(rng, 0.005, 0.05), "between": ends})
    return links, [{"at": f"relay-{relay}"} for relay in at], ways


def _held(memory_mb: float, workload: _Kind) -> float:
    """About what part of the neurons so much memory holds."""
    return float(np.clip((memory_mb - workload.least_mb) / (workload.whole_mb - workload.least_mb), 0.0, 1.0))


def _samples(source: _Source, workload: _Kind, windows: float) -> int:
    """Training samples of a machine of one kind."""
    if workload is IMAGES:
        return int(_log_uniform(source.rng, 32, 480))
    if source.rng.random() < 0.2:
        return int(source.rng.integers(16, NEXT_TO_NOTHING + 1))
    return int(np.clip(windows * _log_uniform(source.rng, 0.7, 1.4), 16, None))


def random_scenario(rng: np.random.Generator, split: Split = "train") -> Scenario:
    """Draw one scenario.

    Args:
        rng: every draw comes from it.
        split: "train", "validation" or "ood"; see the table in the module's text.

    Returns:
        A validated scenario named `random-<split>-<hex>`.

    Raises:
        KeyError: unknown split.
    """
    source = _Source(rng, RANGES[split], BANDS if split == "train" else {})
    first, last = source.ranges.machines
    machines = int(rng.integers(first, last + 1))
    kinds = int(rng.integers(1, min(4, machines) + 1))
    sizes = np.ones(kinds, dtype=int) + rng.multinomial(machines - kinds, np.full(kinds, 1 / kinds))
    throughput, spread = source.log_uniform("throughput_gflops"), source.log_uniform("spread")
    uplink = source.log_uniform("uplink_mbps")
    workload = TEXT if rng.random() < 0.4 else IMAGES
    windows = source.log_uniform("windows")
    round_s = 10 * workload.step() / throughput * np.sqrt(spread) + workload.up_mbit / uplink + 0.5
    start_hour = rng.uniform(0, 23.9)
    rates = [uplink * _log_uniform(rng, 0.2, 5.0) for _ in sizes]
    links, ends, routes = _network(rng, [int(count) for count in sizes], rates, uplink)
    groups: list[dict[str, Any]] = []
    for kind, count in enumerate(sizes):
        place = kind / max(kinds - 1, 1) - 0.5
        gflops = throughput * spread**place * _log_uniform(rng, 0.9, 1.1)
        group: dict[str, Any] = {
            "name": f"kind-{kind}",
            "count": int(count),
            "images": _samples(source, workload, windows),
            "device": _device(source, gflops, round_s, workload),
            "link": _link(source, rates[kind], round_s) | ends[kind],
        }
        if rng.random() < 0.8:
            busy, cycle_s = source.uniform("busy_fraction"), round_s * _log_uniform(rng, 3, 60)
            group["load"] = {
                "slowdown": source.log_uniform("slowdown"),
                "mean_busy_s": busy * cycle_s,
                "mean_free_s": (1 - busy) * cycle_s,
            }
        presence = _presence(rng, round_s, start_hour)
        if presence:
            group["availability"] = presence
        if rng.random() < 0.2:
            active = group["device"]["active_power_w"]
            group["battery"] = {
                "capacity_j": active * round_s * _log_uniform(rng, 10, 60),
                "initial_fraction": rng.uniform(0.5, 1.0),
                "reserve_fraction": rng.uniform(0.05, 0.3),
                "solar_peak_w": active * rng.uniform(0.0, 1.5),
                "cloudiness": rng.uniform(0.1, 0.6),
                "cloud_correlation_s": round_s * _log_uniform(rng, 5, 60),
            }
        groups.append(group)
    if all(_limited(group) for group in groups):
        # Such a fleet may take thousands of rounds, or never get there: one kind has mains and is there.
        _unlimit(max(groups, key=lambda group: group["count"]))
    poor = sorted((g for g in groups if workload is TEXT and g["images"] <= NEXT_TO_NOTHING), key=lambda g: g["count"])
    kept = any("availability" not in g and "battery" not in g and g["images"] > NEXT_TO_NOTHING for g in groups)
    while poor and (not kept or 3 * sum(group["count"] for group in poor) > machines):
        # Too many, or left alone by all others at times: what they hold alone learns their few windows by heart.
        poor.pop()["images"] = int(windows)
    steady = [group for group in groups if not _limited(group)]
    hold = [g["count"] * _held(g["device"]["memory_mb"], workload) for g in steady]
    there = sum(h * g["images"] for h, g in zip(hold, steady, strict=True))
    short = (LEAST_WINDOWS if workload is TEXT else LEAST_IMAGES) - there
    if short > 0:
        steady[int(np.argmax(hold))]["images"] += int(np.ceil(short / max(hold)))
    grams = _log_uniform(rng, 40.0, 660.0)  # Sweden to Poland (codecarbon, Our World in Data)
    swing, noon = rng.uniform(0.05, 0.4), rng.uniform(0, 24)
    menu = MENUS[int(rng.choice(len(MENUS), p=MENU_CHANCES))]
    reference = Reference(**(THRIFTY_REFERENCE if rng.random() < 0.2 and machines >= THRIFTY_MACHINES else {}))
    deadline_s = _deadline_s(rng, groups, links, routes, workload, reference.sync_interval)
    hourly = [grams * (1 + swing * np.cos(2 * np.pi * (hour - noon) / 24)) for hour in range(24)]
    return Scenario.model_validate(
        {
            "name": f"random-{split}-{int(rng.integers(2**32)):08x}",
            "title": f"Random scenario ({split})",
            "fleet": {
                "groups": groups,
                "links": links,
                "server": {
                    "round_overhead_s": round_s * rng.uniform(0.01, 0.1),
                    "wait_s": round_s * rng.uniform(1.0, 4.0),
                    "nj_per_bit": _log_uniform(rng, 2.0, 10.0),
                },
                "start_hour": start_hour,
                "pue": rng.uniform(1.0, 1.5),
                "grid_gco2e_per_kwh": hourly if rng.random() < 0.3 else grams,
            },
            "workload": dict(workload.section),
            "decision": {"sync_intervals": menu, "deadline_s": deadline_s if rng.random() < 0.15 else None},
            "reference": reference.model_dump(),
            "budgets": {"of_reference": rng.uniform(2.5, 4.0), "rounds": int(rng.integers(150, 251))},
            "reward": {"energy_weight": rng.uniform(0.2, 0.8)},
        }
    )


def _shared(rng: np.random.Generator, name: str, wanted_mbps: float) -> dict[str, Any]:
    """A shared link that carries a part of what its flows could want."""
    mbps = float(wanted_mbps * rng.uniform(0.3, 1.0))
    return {"name": name, "uplink_mbps": mbps, "downlink_mbps": mbps * _log_uniform(rng, 1.0, 6.0), "latency_s": 0.0}
