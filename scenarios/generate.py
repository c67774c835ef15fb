"""Random scenarios for domain randomisation, with a training split and one out of distribution.

The out-of-distribution split is disjoint from training in what matters: larger fleets, harsher load and links, and a
wider spread between the strongest and the weakest machine. Ranges cover the library's; constants without a citable
source are varied most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scenarios.schema import Scenario

Split = Literal["train", "ood"]


@dataclass(frozen=True)
class Ranges:
    """Inclusive ranges that a split draws from.

    Attributes:
        machines: of the fleet.
        throughput_gflops: median throughput, log-uniform.
        spread: ratio of strongest to weakest machine, log-uniform.
        uplink_mbps: median uplink, log-uniform.
        variability: of links.
        slowdown: of background load.
        busy_fraction: of background load.
    """

    machines: tuple[int, int]
    throughput_gflops: tuple[float, float]
    spread: tuple[float, float]
    uplink_mbps: tuple[float, float]
    variability: tuple[float, float]
    slowdown: tuple[float, float]
    busy_fraction: tuple[float, float]


RANGES: dict[Split, Ranges] = {
    "train": Ranges((3, 10), (2.0, 60.0), (1.5, 12.0), (0.6, 30.0), (0.1, 0.6), (1.5, 5.0), (0.1, 0.4)),
    "ood": Ranges((11, 16), (1.0, 120.0), (12.0, 40.0), (0.3, 100.0), (0.6, 1.0), (5.0, 8.0), (0.4, 0.6)),
}


def random_scenario(rng: np.random.Generator, split: Split = "train") -> Scenario:
    """Draw one scenario.

    Args:
        rng: every draw comes from it.
        split: "train" or "ood".

    Returns:
        A validated scenario named `random-<split>-<hex>`.

    Raises:
        KeyError: unknown split.
    """
    r = RANGES[split]

    def log_uniform(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    machines = int(rng.integers(r.machines[0], r.machines[1] + 1))
    kinds = int(rng.integers(1, min(4, machines) + 1))
    sizes = np.ones(kinds, dtype=int) + rng.multinomial(machines - kinds, np.full(kinds, 1 / kinds))
    throughput, spread = log_uniform(*r.throughput_gflops), log_uniform(*r.spread)
    uplink = log_uniform(*r.uplink_mbps)
    # Time constants follow the length of a reference round, so that conditions change within an episode.
    round_s = 10 * 2.3 / throughput * np.sqrt(spread) + 1.6 / uplink + 0.5
    shared = rng.random() < 0.5
    groups: list[dict[str, Any]] = []
    for kind, count in enumerate(sizes):
        place = kind / max(kinds - 1, 1) - 0.5
        gflops = throughput * spread**place * log_uniform(0.9, 1.1)
        mbps = uplink * log_uniform(0.5, 2.0)
        active = 1.5 * gflops**0.6 * log_uniform(0.7, 1.4)
        nj = 200.0 / np.sqrt(mbps) * log_uniform(0.3, 3.0)
        group: dict[str, Any] = {
            "name": f"kind-{kind}",
            "count": int(count),
            "images": int(rng.integers(80, 320)),
            "device": {
                "throughput_gflops": gflops,
                "step_overhead_s": 0.05 / gflops,
                "memory_mb": log_uniform(128, 4096),
                "active_power_w": active,
                "idle_power_w": active * rng.uniform(0.15, 0.5),
                "step_jitter": rng.uniform(0.01, 0.15),
            },
            "link": {
                "uplink_mbps": mbps,
                "downlink_mbps": mbps * log_uniform(1.0, 6.0),
                "latency_s": log_uniform(0.002, 0.15),
                "variability": rng.uniform(*r.variability),
                "correlation_s": round_s * log_uniform(3, 20),
                "transmit_nj_per_bit": nj,
                "receive_nj_per_bit": nj * rng.uniform(0.2, 0.8),
                "via": ["backhaul"] if shared else [],
            },
        }
        if rng.random() < 0.8:
            busy, cycle_s = rng.uniform(*r.busy_fraction), round_s * log_uniform(8, 60)
            group["load"] = {
                "slowdown": rng.uniform(*r.slowdown),
                "mean_busy_s": busy * cycle_s,
                "mean_free_s": (1 - busy) * cycle_s,
            }
        if rng.random() < 0.25:
            on_s = round_s * log_uniform(20, 100)
            group["availability"] = {"mean_on_s": on_s, "mean_off_s": on_s * rng.uniform(0.1, 0.5)}
        if rng.random() < 0.2:
            group["battery"] = {
                "capacity_j": active * round_s * log_uniform(10, 60),
                "initial_fraction": rng.uniform(0.5, 1.0),
                "reserve_fraction": rng.uniform(0.05, 0.3),
                "solar_peak_w": active * rng.uniform(0.0, 1.5),
                "cloudiness": rng.uniform(0.1, 0.6),
            }
        groups.append(group)
    if all("battery" in group for group in groups):
        # A fleet that runs on batteries alone may take thousands of rounds, or never get there: one kind has mains.
        del max(groups, key=lambda group: group["count"])["battery"]
    links = []
    if shared:
        total = uplink * machines * rng.uniform(0.3, 1.0)
        links.append({"name": "backhaul", "uplink_mbps": total, "downlink_mbps": total * log_uniform(1.0, 6.0)})
    return Scenario.model_validate(
        {
            "name": f"random-{split}-{int(rng.integers(2**32)):08x}",
            "title": f"Random scenario ({split})",
            "fleet": {
                "groups": groups,
                "links": links,
                "server": {"round_overhead_s": round_s * rng.uniform(0.01, 0.1), "wait_s": 2 * round_s},
                "start_hour": rng.uniform(0, 23.9),
            },
            "reward": {"energy_weight": rng.uniform(0.2, 0.8)},
        }
    )
