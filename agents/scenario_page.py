"""A scenario's own page: its fleet in a table, what is trained and decided, and what it leaves to be gained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agents.tables import Grid, si
from fedcore.world import compile_world
from scenarios.schema import Availability, Battery, Device, Group, Link, Load, Scenario

if TYPE_CHECKING:
    from agents.headroom import Headroom

NONE = "-"


def _device(device: Device) -> str:
    hot = f", x {device.thermal.slowdown:g} slower when hot" if device.thermal else ""
    return f"{device.throughput_gflops:g} GFLOP/s{hot}"


def _power(device: Device) -> str:
    return f"{device.active_power_w:g} / {device.idle_power_w:g}"


def _link(link: Link) -> str:
    told = f"{link.uplink_mbps:g} / {link.downlink_mbps:g}"
    if link.trace is not None:
        return f"{told}, a recorded trace"
    if link.variability > 0.0:
        told += f", ln spread {link.variability:g} over {link.correlation_s:g} s"
    if link.mean_spread > 0.0:
        told += f", {link.mean_spread:g} between episodes"
    if link.outages is not None:
        told += f", outages of {link.outages.mean_down_s:g} s every {link.outages.mean_up_s + link.outages.mean_down_s:g} s"
    return told


def _load(load: Load | None) -> str:
    if load is None:
        return NONE
    return f"x {load.slowdown:g} for {load.mean_busy_s:g} s, free for {load.mean_free_s:g} s"


def _presence(presence: Availability | None) -> str:
    if presence is None:
        return "always"
    told = []
    if presence.mean_on_s is not None:
        told.append(f"{presence.mean_on_s:g} s there, {presence.mean_off_s:g} s away")
    if presence.daily_hours:
        told.append("from " + ", ".join(f"{start:g} to {end:g} h" for start, end in presence.daily_hours))
    if presence.joins_after_s > 0.0:
        told.append(f"from second {presence.joins_after_s:g} on")
    if presence.trace is not None:
        told.append("a recorded trace")
    return "; ".join(told)


def _battery(battery: Battery | None) -> str:
    if battery is None:
        return NONE
    panel = f", panel of {battery.solar_peak_w:g} W" if battery.solar_peak_w > 0.0 else ""
    return f"{battery.capacity_j / 1e3:g} kJ, {battery.initial_fraction:.0%} full{panel}"


def _row(group: Group) -> tuple[str, ...]:
    way = ", ".join(group.link.via) or (f"at {group.link.at}" if group.link.at else NONE)
    return (
        group.name, str(group.count), str(group.images), _device(group.device), f"{group.device.memory_mb:g}",
        _power(group.device), _link(group.link), way, _load(group.load), _presence(group.availability),
        _battery(group.battery),
    )  # fmt: skip


def fleet_grid(scenario: Scenario) -> Grid:
    """One line per kind of machine."""
    return Grid(
        "Fleet",
        ("machines", "number", "samples of each", "device", "memory, MB", "power active / idle, W", "link up / down, Mbit/s",
         "by way of", "background load", "there", "battery"),
        tuple(_row(group) for group in scenario.fleet.groups),
    )  # fmt: skip


def _shared(scenario: Scenario) -> str:
    grid = Grid(
        "Shared links",
        ("shared link", "up / down, Mbit/s", "latency, s", "between"),
        tuple(
            (link.name, f"{link.uplink_mbps:g} / {link.downlink_mbps:g}", f"{link.latency_s:g}",
             " and ".join(link.between) if link.between else "its machines and the server")
            for link in scenario.fleet.links
        ),
    )  # fmt: skip
    return f"\n{grid.markdown()}\n" if grid.rows else ""


def scenario_page(scenario: Scenario, measured: Headroom, episodes: int, file: str, everything: str) -> str:
    """The page in Markdown.

    Args:
        scenario: of the library.
        measured: what it leaves to be gained.
        episodes: that were played for it.
        file: where its YAML lies, seen from the page.
        everything: where the page of all scenarios lies, likewise.
    """
    time_s, energy_j, bytes_, rounds = compile_world(scenario).budgets
    decision, workload, reference = scenario.decision, scenario.workload, scenario.reference
    deadline = "no deadline" if decision.deadline_s is None else f"a block later than {decision.deadline_s:g} s is lost"
    over, foresight = measured.comparison, measured.foresight
    return f"""# {scenario.title} (`{scenario.name}`)

Made by `python -m agents.headroom --episodes {episodes}` from [its file]({file}), which
says of every figure where it is from or that it is assumed. [All scenarios]({everything})

{scenario.description.strip()}

{fleet_grid(scenario).markdown()}
{_shared(scenario)}
- Trained: `{workload.encoder}` by `{workload.objective}` on `{workload.data}`, batches of {workload.batch_size}.
- Decided: shares, and H of {", ".join(str(h) for h in decision.sync_intervals)} steps; {deadline}.
- Reference policy: share {reference.share:g} for everyone, H = {reference.sync_interval}; it takes
  {measured.reference_s:.0f} s. An episode ends at the target, or when {time_s:.0f} s, {si(energy_j, "J")}, {si(bytes_, "B")} or
  {rounds} rounds are spent.

## What it leaves to be gained

| policy | mean ln efficiency, {episodes} held-out episodes |
|---|---|
| the reference | 0 |
| best fixed decision found: {measured.static} | {measured.static_mean:+.2f} |
| best heuristic: `{measured.heuristic}` | {measured.heuristic_mean:+.2f} |
| clairvoyant planner | {measured.clairvoyant_mean:+.2f} |

The best fixed decision scores x {over.factor:.2f} of the best heuristic; who sees what is coming, x {foresight.factor:.2f} of
the best fixed decision and x {measured.over_heuristic:.2f} of the best heuristic. What these words mean:
[scenarios]({everything}).

```python
import envs, gymnasium

env = gymnasium.make("IntraFed/Orchestration-v0", scenario="{scenario.name}")
```

`python evaluate.py --scenarios {scenario.name} --policy ppo-default`
"""
