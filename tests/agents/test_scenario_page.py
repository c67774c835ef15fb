"""A scenario's own page says what its file says; the committed pages are those of today's library."""

import re
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from agents.benchmark import Comparison
from agents.headroom import Headroom
from agents.scenario_page import fleet_grid
from agents.scenario_page import scenario_page as page_of
from evaluate import Options
from scenarios import load, names
from scenarios.schema import Availability, Battery, Link, Outages, Scenario

PAGES = Path(__file__).parents[2] / "docs" / "scenarios"
MEASURED = Headroom(
    "x", "X", 3, 12.3, "equal", 0.5, "all 0.5, H = 10", 0.25,
    Comparison("best-static", "equal", -0.25, -0.5, 0.0, 0.78, 2), 1.5,
    Comparison("clairvoyant", "best-static", 1.25, 1.0, 1.5, 3.49, 2),
)  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_the_committed_pages_have_todays_fleets(name: str) -> None:
    scenario = load(name)
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {scenario.title} (`{name}`)")
    assert fleet_grid(scenario).markdown() in text
    assert scenario.description.strip() in text
    # And its own figures are those of the page of all.
    [row] = [line for line in (PAGES.parent / "scenarios.md").read_text().splitlines() if line.startswith(f"| [{name}](")]
    _, _, _, reference_s, heuristic, heuristic_mean, static, static_mean, _, clairvoyant_mean, *_ = row.split(" | ")
    assert f"it takes\n  {reference_s} s." in text
    for policy, mean in (
        (f"best fixed decision found: {static}", static_mean),
        (f"best heuristic: `{heuristic}`", heuristic_mean),
        ("clairvoyant planner", clairvoyant_mean),
    ):
        assert f"| {policy} | {mean} |" in text


def test_the_links_and_the_command_of_a_page_work() -> None:
    text = (PAGES / "phones.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        assert (PAGES / target).is_file(), target
    [command] = re.findall(r"`python evaluate\.py (.*)`", text)
    options = tyro.cli(Annotated[Options, tyro.conf.arg(name="")], args=command.split())
    assert (options.scenarios, str(options.policy)) == ("phones", "ppo-default")


def test_no_page_is_left_of_a_scenario_that_is_gone() -> None:
    assert {path.stem for path in PAGES.glob("*.md")} == set(names())


def changed(**fields: object) -> tuple[str, ...]:
    scenario = load("two-servers")
    group = scenario.fleet.groups[0].model_copy(update=fields)
    fleet = scenario.fleet.model_copy(update={"groups": (group,)})
    return fleet_grid(Scenario.model_copy(scenario, update={"fleet": fleet})).rows[0]


def test_what_a_kind_of_machine_has_is_told() -> None:
    link = Link(
        uplink_mbps=2, downlink_mbps=8, variability=0.5, correlation_s=60, mean_spread=0.25,
        outages=Outages(mean_up_s=90, mean_down_s=10), at="barn",
    )  # fmt: skip
    presence = Availability(mean_on_s=300, mean_off_s=60, daily_hours=((22, 6),), joins_after_s=40)
    battery = Battery(capacity_j=9000, initial_fraction=0.7, solar_peak_w=5)
    row = changed(link=link, availability=presence, battery=battery)
    assert row[6] == "2 / 8, ln spread 0.5 over 60 s, 0.25 between episodes, outages of 10 s every 100 s"
    assert row[7] == "at barn"
    assert row[9] == "300 s there, 60 s away; from 22 to 6 h; from second 40 on"
    assert row[10] == "9 kJ, 70% full, panel of 5 W"
    assert changed(link=link.model_copy(update={"trace": "bus.csv"}))[6] == "2 / 8, a recorded trace"
    assert changed(availability=Availability(trace="shifts.csv"))[9] == "a recorded trace"


def scenario_page(scenario: Scenario, measured: Headroom, episodes: int) -> str:
    return page_of(scenario, measured, episodes, "x.yaml", "../scenarios.md")


def test_budgets_that_a_file_gives_are_told() -> None:
    assert "An episode ends at the target, or when 1200 s," in scenario_page(load("phones-commute"), MEASURED, 7)
    assert "18 kJ" in scenario_page(load("field-solar-dusk"), MEASURED, 7)


def test_the_page_tells_what_is_to_be_gained() -> None:
    text = scenario_page(load("edge-cloud-deadline"), MEASURED, 7)
    assert "| best fixed decision found: all 0.5, H = 10 | +0.25 |" in text
    assert "| best heuristic: `equal` | +0.50 |" in text
    assert "x 3.49 of\nthe best fixed decision and x 2.72 of the best heuristic" in text
    assert f"a block later than {load('edge-cloud-deadline').decision.deadline_s:g} s is lost" in text
    assert "| shared link |" not in scenario_page(load("two-servers"), MEASURED, 7)
    assert "| modem | 5.5 / 22 | 0.05 | gate and server |" in scenario_page(load("field-mesh"), MEASURED, 7)
