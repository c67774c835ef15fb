"""What is told of the default policies."""

from agents.defaults import DefaultsOptions, page, summary
from agents.quality import Quality

ROWS = [
    Quality("one", {"p": 4.0, "enough": 2.0, "proven": 1.0, "best-static": 1.0}),
    Quality("two", {"p": 1.8, "enough": 1.0, "proven": 2.0, "best-static": 0.9}),
]


def test_ratios_are_over_the_better_heuristic_of_each_scenario() -> None:
    told = summary(ROWS, ["p"])
    assert "geometric mean x 1.34 over the best heuristic" in told  # sqrt(2 x 0.9)
    assert "at least x 1.15 in 1 and below x 0.95 in 1 of 2 scenarios, worst x 0.90 (two)" in told
    assert "x 2.83 over best-static" in told  # sqrt(4 x 2)


def test_the_page_has_a_table_for_every_range() -> None:
    text = page({"library": ROWS, "validation": ROWS[:1], "ood": ROWS[1:]}, ["p"], DefaultsOptions(episodes=7))
    assert text.count("| scenario |") == 3
    assert "Simulated, 7 held-out episodes each" in text
