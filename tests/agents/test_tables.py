"""Tables of real runs: what was not measured has no column, and a table of nothing is none."""

from types import SimpleNamespace
from typing import Any

from agents.probing import Probes
from agents.tables import probe_grids


def judged(agent: str, **probes: float) -> Any:
    own, plain = Probes(**probes), Probes(**{name: value / 2 for name, value in probes.items()})
    return SimpleNamespace(result=SimpleNamespace(agent=agent), probes=own, untrained=plain, raw=plain)


def test_columns_are_what_was_measured_and_figures_means_over_runs() -> None:
    runs = [judged("ppo", count_r2=0.25, count_mae=2.0), judged("ppo", count_r2=0.5, count_mae=1.0)]
    runs.append(judged("equal", count_r2=0.0, count_mae=4.0))
    [grid] = probe_grids(runs, "worth")
    assert grid.columns == ("encoder trained by", "R2 of log counts", "count MAE")
    assert [row[0] for row in grid.rows] == ["ppo", "equal", "untrained encoder", "raw pixels"]
    assert grid.rows[0][1:] == ("0.375", "1.500")


def test_of_text_there_is_no_table() -> None:
    assert probe_grids([judged("ppo"), judged("equal")], "worth") == []
