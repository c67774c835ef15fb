"""Real rounds beside simulated ones, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from agents.episodes import EpisodeResult
from agents.truth import Truth, own_seconds, per_round, truth_grid, truth_plot
from scenarios.schema import Fleet


def result(agent: str, time_s: float, rounds: int, score: float) -> EpisodeResult:
    return EpisodeResult(agent, "here", 0, score, True, 1.0, time_s, 10.0, 1e6 * rounds, 0.0, rounds, [])


REAL = [result("equal", 100.0, 10, 0.0), result("few", 60.0, 5, 1.0), result("slow", 90.0, 3, -1.0)]
FAST = [
    result("equal", 80.0, 10, 0.1), result("equal", 140.0, 10, -0.1),  # together 11 s a round
    result("few", 50.0, 5, 0.8), result("slow", 60.0, 3, -0.5),
]  # fmt: skip
SAME = [replace(each, log_efficiency=float("nan")) for each in REAL]


def test_rounds_of_all_episodes_count_alike():
    assert per_round(FAST, "equal", "time_s") == pytest.approx(11.0)
    assert per_round(FAST, "equal", "bytes") == pytest.approx(1e6)
    assert np.isnan(per_round(FAST, "nobody", "time_s"))


def test_the_table_tells_how_far_off_rounds_are_and_whether_the_order_holds():
    truth = Truth(REAL, {"fast": FAST, "same": SAME}, {"equal": 2.0, "few": 3.14, "slow": 1.0})
    assert truth.agents == ["few", "equal", "slow"]
    assert truth.off("fast", "time_s") == pytest.approx({"few": 10 / 12, "equal": 1.1, "slow": 20 / 30})
    assert truth.spearman("fast") == pytest.approx(1.0)
    grid = truth_grid(truth, "here")
    assert grid.rows[0] == ("few", "12.0", "3.1", "1.00", "+1.00", "0.83", "1.00", "+0.80", "1.00", "1.00")
    both = ("1 of 3 within 15%", "3 of 3 within 15%")
    assert grid.rows[-1][5:] == (*both, "Spearman 1.00", "3 of 3 within 15%", "3 of 3 within 15%")
    assert all(len(row) == len(grid.columns) for row in grid.rows)
    assert len(truth_plot(truth).axes) == 2


def test_own_seconds_are_what_neither_training_nor_a_steady_link_explains():
    device = {"throughput_gflops": 50, "memory_mb": 512, "active_power_w": 5, "idle_power_w": 1}
    link = {"uplink_mbps": 2.0, "downlink_mbps": 8.0}
    replayed = {**link, "trace": "../../shared/data/traces/att-lte-driving.csv"}
    groups = [{"name": "a", "device": device, "link": link}, {"name": "b", "device": device, "link": replayed}]
    fleet = Fleet.model_validate({"groups": groups})
    one = {"status": "done", "elapsed_s": 9.0, "node_s": 3.0, "received_bytes": 2_000_000, "sent_bytes": 500_000}
    rounds = [{"a": one, "b": one}, {"a": {**one, "status": "late"}}]
    assert own_seconds(rounds, fleet) == pytest.approx([9.0 - 3.0 - 2.0 - 2.0])
