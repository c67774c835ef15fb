"""Tables of real runs: what was not measured has no column, and a table of nothing is none."""

from types import SimpleNamespace
from typing import Any

import pytest

from agents.probing import Probes
from agents.tables import probe_grids
from fedcore.probes.intervals import Estimate


def judged(agent: str, groups: int | None = None, **probes: float) -> Any:
    own, plain = (
        Probes(**{name: Estimate(f * v, f * v - 0.1, f * v + 0.2) for name, v in probes.items()}, images=40, groups=groups)
        for f in (1.0, 0.5)
    )
    return SimpleNamespace(result=SimpleNamespace(agent=agent), probes=own, untrained=plain, raw=plain)


def test_columns_are_what_was_measured_and_figures_means_over_runs() -> None:
    runs = [judged("ppo", count_r2=0.25, count_mae=2.0), judged("ppo", count_r2=0.5, count_mae=1.0)]
    runs.append(judged("equal", count_r2=0.0, count_mae=4.0))
    [grid] = probe_grids(runs, "worth")
    assert grid.columns == ("encoder trained by", "R2 of log counts", "count MAE")
    assert [row[0] for row in grid.rows] == ["ppo", "equal", "untrained encoder", "raw pixels"]
    assert grid.rows[0][1:] == ("0.375 (0.28 .. 0.57)", "1.500 (1.40 .. 1.70)")


@pytest.mark.parametrize(("groups", "told"), [(None, "over 40 held-out images"), (6, "over 6 groups of 40 held-out images")])
def test_the_table_says_what_its_intervals_are_over(groups: int | None, told: str) -> None:
    [grid] = probe_grids([judged("ppo", groups, knn=0.5)], "worth")
    assert told in grid.note


def test_of_text_there_is_no_table() -> None:
    assert probe_grids([judged("ppo"), judged("equal")], "worth") == []
