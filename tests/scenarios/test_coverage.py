"""What the library has, random scenarios of some split have too: no named scenario lies outside of them all."""

from collections.abc import Callable

import numpy as np
import pytest

from fedcore.world import compile_world
from scenarios import Scenario, load, names, random_scenario
from scenarios.schema import Group

Figure = Callable[[Scenario, Group], float | None]


def _busy(scenario: Scenario, group: Group) -> float | None:
    return group.load and group.load.mean_busy_s / (group.load.mean_busy_s + group.load.mean_free_s)


def _away(scenario: Scenario, group: Group) -> float | None:
    presence = group.availability
    return presence.mean_off_s / presence.mean_on_s if presence and presence.mean_on_s and presence.mean_off_s else None


FIGURES: dict[str, Figure] = {
    "machines": lambda s, g: len(s.fleet.machines),
    "throughput_gflops": lambda s, g: g.device.throughput_gflops,
    "memory_mb": lambda s, g: g.device.memory_mb,
    "active_power_w": lambda s, g: g.device.active_power_w,
    "idle of active power": lambda s, g: g.device.idle_power_w / g.device.active_power_w,
    "half_rows": lambda s, g: g.device.half_rows,
    "uplink_mbps": lambda s, g: g.link.uplink_mbps,
    "latency_s": lambda s, g: g.link.latency_s,
    "transmit_nj_per_bit": lambda s, g: g.link.transmit_nj_per_bit,
    "load.slowdown": lambda s, g: g.load and g.load.slowdown,
    "load, busy": _busy,
    "thermal.slowdown": lambda s, g: g.device.thermal and g.device.thermal.slowdown,
    "away over there": _away,
    "outages.rate_fraction": lambda s, g: g.link.outages and g.link.outages.rate_fraction,
    "images": lambda s, g: g.images,
    "shortest H": lambda s, g: s.decision.sync_intervals[0],
    "budget of rounds": lambda s, g: s.budgets.rounds,
    "pue": lambda s, g: s.fleet.pue,
    "energy_weight": lambda s, g: s.reward.energy_weight,
    "reference share": lambda s, g: s.reference.share,
    "reference H": lambda s, g: s.reference.sync_interval,
}


def _values(scenarios: list[Scenario], figure: Figure) -> list[float]:
    found = [figure(s, g) for s in scenarios for g in s.fleet.groups]
    return [float(value) for value in found if value is not None]


@pytest.fixture(scope="module")
def drawn() -> list[Scenario]:
    return [random_scenario(np.random.default_rng([9, i]), split) for i in range(800) for split in ("train", "ood")]


@pytest.mark.parametrize("name", FIGURES)
def test_the_library_lies_within_what_is_drawn(drawn: list[Scenario], name: str) -> None:
    random, library = _values(drawn, FIGURES[name]), _values([load(n) for n in names()], FIGURES[name])
    # A twentieth beyond the extremes of so many draws is still their range.
    assert min(random) <= min(library) * 1.05
    assert max(random) >= max(library) * 0.95


def test_memory_binds_now_and_then(drawn: list[Scenario]) -> None:

    worlds = [compile_world(scenario) for scenario in drawn[:60]]
    largest = np.concatenate([w.max_share_index[: w.arrays.machines] for w in worlds])
    assert 0.05 < (largest < 256).mean() < 0.3
    assert (largest > 0).all()
