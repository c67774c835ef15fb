"""Random scenarios: valid, seeded, and three splits that do not overlap where it matters."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.world import compile_world
from scenarios import Scenario, parse, random_scenario
from scenarios.generate import BANDS, LEAST_IMAGES, LEAST_WINDOWS, NEXT_TO_NOTHING, RANGES, Split

SPLITS: tuple[Split, ...] = ("train", "validation", "ood")
SEEDS = st.integers(0, 2**32 - 1)


def draw(seed: int, split: Split) -> Scenario:
    return random_scenario(np.random.default_rng(seed), split)


def shown(scenario: Scenario) -> dict[str, list[float]]:
    """What of a split's ranges can be read off a scenario."""
    out: dict[str, list[float]] = {name: [] for name in (
        "variability", "slowdown", "busy_fraction", "mean_spread", "down_fraction", "throttle", "half_rows",
    )}  # fmt: skip
    for group in scenario.fleet.groups:
        link, load, outages, thermal = group.link, group.load, group.link.outages, group.device.thermal
        out["variability"].append(link.variability)
        if group.device.half_rows:
            out["half_rows"].append(group.device.half_rows)
        if link.mean_spread:
            out["mean_spread"].append(link.mean_spread)
        if load is not None:
            out["slowdown"].append(load.slowdown)
            out["busy_fraction"].append(load.mean_busy_s / (load.mean_busy_s + load.mean_free_s))
        if outages is not None:
            out["down_fraction"].append(outages.mean_down_s / (outages.mean_up_s + outages.mean_down_s))
        if thermal is not None:
            out["throttle"].append(thermal.slowdown)
    return out


@settings(max_examples=150, deadline=None)
@given(seed=SEEDS, split=st.sampled_from(SPLITS))
def test_scenarios_are_seeded_valid_and_in_range(seed: int, split: Split) -> None:
    r = RANGES[split]
    scenario = draw(seed, split)
    assert scenario == draw(seed, split)
    assert parse(scenario.model_dump(), "dump") == scenario
    assert Scenario.model_validate_json(scenario.model_dump_json()) == scenario
    assert scenario.name.startswith(f"random-{split}-")
    assert r.machines[0] <= len(scenario.fleet.machines) <= r.machines[1]
    for field, values in shown(scenario).items():
        low, high = getattr(r, field)
        for value in values:
            assert low - 1e-9 <= value <= high + 1e-9, field
            if split == "train" and field in BANDS:
                first, last = BANDS[field]
                assert not first + 1e-9 < value < last - 1e-9, field


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS)
def test_every_machine_tells_its_split(seed: int) -> None:
    # Closed bands that only touch: every variability belongs to one split.
    low, high = BANDS["variability"]
    assert all(not low < x < high for x in shown(draw(seed, "train"))["variability"])
    assert all(low <= x <= high for x in shown(draw(seed, "validation"))["variability"])
    assert all(x >= RANGES["train"].variability[1] for x in shown(draw(seed, "ood"))["variability"])


def test_text_is_trained_on_by_fleets_that_have_enough_of_it_and_windows_tell_the_split() -> None:
    medians: dict[Split, list[float]] = {split: [] for split in SPLITS}
    for seed in range(150):
        for split in SPLITS:
            scenario = draw(seed, split)
            samples = [g.images for g in scenario.fleet.machines]
            if scenario.workload.encoder == "gpt":
                assert sum(samples) >= LEAST_WINDOWS
                assert 2 * sum(n <= NEXT_TO_NOTHING for n in samples) < len(samples)
                medians[split].append(float(np.median(samples)))
            else:
                assert sum(samples) >= LEAST_IMAGES
    assert np.median(medians["ood"]) > np.median(medians["train"])
    assert min(len(m) for m in medians.values()) > 30


def test_relays_lead_to_the_server() -> None:
    drawn = [draw(seed, "train") for seed in range(120)]
    meshes = [s for s in drawn if any(link.between for link in s.fleet.links)]
    assert 5 < len(meshes) < 40
    for scenario in meshes:
        assert all(g.link.at and not g.link.via for g in scenario.fleet.groups)
    chains = [len({link.between for link in s.fleet.links if link.between and "server" not in link.between}) for s in meshes]
    assert max(chains) > 0


def test_names_do_not_repeat() -> None:
    assert len({draw(seed, split).name for seed in range(60) for split in SPLITS}) == 180


def test_one_generator_gives_different_scenarios() -> None:
    rng = np.random.default_rng(0)
    assert random_scenario(rng) != random_scenario(rng)


def test_ranges_are_disjoint_in_harshness() -> None:
    train, validation, ood = (RANGES[split] for split in SPLITS)
    assert train.machines[0] < ood.machines[0] < train.machines[1] == ood.machines[1]
    for field in (*BANDS, "mean_spread", "down_fraction", "throttle", "half_rows"):
        assert getattr(train, field)[1] <= getattr(ood, field)[0]
    for field in dataclasses.fields(train):
        low, high = getattr(train, field.name)
        assert low < high
        # Validation is no harder than training: its bands lie strictly within.
        first, last = getattr(validation, field.name)
        assert (low < first and last < high) if field.name in BANDS else (first, last) == (low, high)


def test_training_draws_on_both_sides_of_its_gaps() -> None:
    seen: dict[str, list[float]] = {field: [] for field in ("variability", "slowdown", "busy_fraction")}
    sizes: dict[Split, set[int]] = {split: set() for split in SPLITS}
    for seed in range(80):
        for split in SPLITS:
            scenario = draw(seed, split)
            sizes[split].add(len(scenario.fleet.machines))
            if split == "train":
                for field, values in seen.items():
                    values += shown(scenario)[field]
    for field, values in seen.items():
        below = np.mean(np.array(values) <= BANDS[field][0])
        assert 0.2 < below < 0.8, field
    assert max(sizes["train"]) == max(sizes["validation"]) == max(sizes["ood"]) == 16
    assert len(sizes["train"]) > 10
    assert len(sizes["ood"]) > 3


@pytest.mark.parametrize("split", SPLITS)
def test_everything_the_library_has_is_drawn(split: Split) -> None:
    groups, scenarios = [], [draw(seed, split) for seed in range(120)]
    for scenario in scenarios:
        groups += scenario.fleet.groups
    presence = [g.availability for g in groups if g.availability is not None]
    assert any(len(g.link.via) == 2 for g in groups)
    assert any(not g.link.via for g in groups)
    assert any(g.link.at for g in groups)
    text = [s.workload.encoder == "gpt" for s in scenarios]
    assert 0.25 < np.mean(text) < 0.55
    for feature in (
        [g.device.thermal for g in groups],
        [g.link.outages for g in groups],
        [g.link.mean_spread or None for g in groups],
        [g.load for g in groups],
        [g.battery for g in groups],
        [p.mean_on_s for p in presence],
        [p.daily_hours or None for p in presence],
        [p.joins_after_s or None for p in presence],
        [s.decision.deadline_s for s in scenarios],
        [s.fleet.grid_gco2e_per_kwh if isinstance(s.fleet.grid_gco2e_per_kwh, tuple) else None for s in scenarios],
    ):
        there = sum(value is not None for value in feature) / len(feature)
        assert 0.02 < there < 0.95
    # Somebody is there from the start and stays, on mains.
    for scenario in scenarios:
        assert any(
            g.battery is None and (g.availability is None or not (g.availability.daily_hours or g.availability.joins_after_s))
            for g in scenario.fleet.groups
        )


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, split=st.sampled_from(SPLITS))
def test_every_draw_compiles(seed: int, split: Split) -> None:
    assert compile_world(draw(seed, split)).reference.rounds > 1


@pytest.mark.parametrize("split", SPLITS)
def test_the_reference_reaches_the_target_within_its_budgets(split: Split) -> None:
    for seed in range(1000, 1012):
        world = compile_world(draw(seed, split))
        assert 1 < world.reference.rounds < world.budgets[3]
        for need, budget in zip(dataclasses.astuple(world.reference), world.budgets, strict=True):
            assert need < budget


def test_unknown_split_is_refused() -> None:
    with pytest.raises(KeyError):
        random_scenario(np.random.default_rng(0), "test")  # type: ignore[arg-type]
