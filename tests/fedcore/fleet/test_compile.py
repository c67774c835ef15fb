"""Scenario figures become SI arrays, padded."""

from typing import Any

import numpy as np
import pytest

from fedcore.fleet import columns as c
from fedcore.fleet.compile import MAX_LINKS, _windows, compile_fleet, stack_fleets
from scenarios import InputError
from scenarios.schema import Availability, Fleet


def group(name: str = "a", **changes: Any) -> dict[str, Any]:
    device = {
        "throughput_gflops": 3.0, "step_overhead_s": 0.01, "memory_mb": 256.0, "active_power_w": 5.0,
        "idle_power_w": 2.0, "step_jitter": 0.1,
    }  # fmt: skip
    link = {
        "uplink_mbps": 1.5, "downlink_mbps": 6.0, "latency_s": 0.03, "variability": 0.4, "correlation_s": 70.0,
        "transmit_nj_per_bit": 300.0, "receive_nj_per_bit": 100.0,
    }  # fmt: skip
    device, link = {**device, **changes.pop("device", {})}, {**link, **changes.pop("link", {})}
    return {"name": name, "device": device, "link": link, **changes}


def compiled(*groups: dict[str, Any], deadline_s: float | None = None, max_machines: int = 4, **changes: Any):  # type: ignore[no-untyped-def]
    return compile_fleet(Fleet.model_validate({"groups": list(groups), **changes}), deadline_s, max_machines)


def test_every_figure_lands_in_its_column_in_si_units() -> None:
    full = group(
        load={"slowdown": 2.0, "mean_busy_s": 10.0, "mean_free_s": 20.0},
        availability={
            "mean_on_s": 300.0, "mean_off_s": 30.0, "daily_hours": [[22, 6], [12, 13]], "joins_after_s": 60.0,
        },
        link={
            "mean_spread": 0.5, "outages": {"mean_up_s": 500.0, "mean_down_s": 20.0, "rate_fraction": 0.02},
        },
        device={"half_rows": 12.0, "thermal": {"slowdown": 2.5, "heating_s": 120.0, "cooling_s": 240.0}},
        battery={
            "capacity_j": 1000.0, "initial_fraction": 0.7, "reserve_fraction": 0.2, "solar_peak_w": 4.0,
            "cloudiness": 0.25, "cloud_correlation_s": 600.0,
        },
        images=99,
    )  # fmt: skip
    fleet = compiled(full)
    row = fleet.parameters[0]
    assert fleet.windows.tolist() == [[12 * 3600.0, 13 * 3600.0], [22 * 3600.0, 30 * 3600.0]]
    expected = {
        c.FLOPS_PER_S: 3e9, c.STEP_OVERHEAD_S: 0.01, c.MEMORY_BYTES: 256e6, c.ACTIVE_W: 5.0, c.IDLE_W: 2.0,
        c.STEP_JITTER: 0.1, c.UP_BPS: 1.5e6, c.DOWN_BPS: 6e6, c.LATENCY_S: 0.03, c.LINK_SIGMA: 0.4,
        c.LINK_TAU_S: 70.0, c.TX_J_PER_BIT: 3e-7, c.RX_J_PER_BIT: 1e-7, c.SLOWDOWN: 2.0, c.BUSY_S: 10.0,
        c.FREE_S: 20.0, c.ON_S: 300.0, c.OFF_S: 30.0, c.BATTERY_J: 1000.0, c.BATTERY_START: 0.7,
        c.BATTERY_RESERVE: 0.2, c.SOLAR_W: 4.0, c.CLOUDINESS: 0.25, c.CLOUD_TAU_S: 600.0, c.IMAGES: 99.0,
        c.HALF_ROWS: 12.0, c.THROTTLE: 2.5, c.HEAT_S: 120.0, c.COOL_S: 240.0, c.OUTAGE_FACTOR: 0.02, c.OUTAGE_UP_S: 500.0,
        c.OUTAGE_DOWN_S: 20.0, c.LINK_SPREAD: 0.5, c.JOIN_S: 60.0, c.TRACE: -1.0, c.WINDOWS: 0.0, c.N_WINDOWS: 2.0,
        c.PERIOD_S: 86400.0, c.WINDOWS_BY_CLOCK: 1.0, c.OF_BATCH: 1.0, c.MOST: np.inf,
    }  # fmt: skip
    assert sorted(expected) == list(range(c.N_PARAMETERS))
    for column, value in expected.items():
        assert row[column] == pytest.approx(value), column


def test_fleet_figures() -> None:
    server = {"nj_per_bit": 7.0, "round_overhead_s": 0.4, "wait_s": 12.0, "uplink_mbps": 500.0, "downlink_mbps": 600.0}
    got = compiled(group(), server=server, start_hour=6.5, pue=1.5, grid_gco2e_per_kwh=400.0, deadline_s=33.0)
    assert got.fleet[c.SERVER_J_PER_BIT] == pytest.approx(7e-9)
    assert got.fleet[[c.OVERHEAD_S, c.WAIT_S, c.DEADLINE_S, c.START_S]].tolist() == [0.4, 12.0, 33.0, 6.5 * 3600]
    # 1 kWh = 3.6 MJ costs 1.5 x 0.4 kg.
    assert got.fleet[c.KG_CO2E_PER_J] * 3.6e6 == pytest.approx(0.6)
    assert got.link_up_bps[0] == 500e6
    assert got.link_down_bps[0] == 600e6
    assert compiled(group()).fleet[c.DEADLINE_S] == 0.0


def test_padding_and_links() -> None:
    shared = [{"name": n, "uplink_mbps": u, "downlink_mbps": 2 * u} for n, u in (("cell", 6.0), ("wan", 50.0))]
    got = compiled(group("a", count=2, link={"via": ["wan"]}), group("b", link={"via": ["cell", "wan"]}), links=shared)
    assert got.machines == 3
    assert got.names == ("a-0", "a-1", "b")
    assert (got.parameters[3, : c.OUTAGE_FACTOR] == 0).all()
    assert got.parameters[3, [c.OUTAGE_FACTOR, c.TRACE]].tolist() == [1.0, -1.0]
    assert not got.via[3].any()
    assert got.via[:3, :3].tolist() == [[True, False, True], [True, False, True], [True, True, True]]
    assert not got.via[:, 3:].any()
    assert got.link_up_bps[1:3].tolist() == [6e6, 50e6]
    assert got.link_down_bps[1:3].tolist() == [12e6, 100e6]
    assert np.isinf(got.link_up_bps[3:]).all()
    assert np.array_equal(got.parameters[0], got.parameters[1])


def test_a_fleet_that_does_not_fit_is_told() -> None:
    with pytest.raises(InputError, match="5 machines, expected at most max_machines=4"):
        compiled(group(count=5))
    links = [{"name": f"l{i}", "uplink_mbps": 1.0, "downlink_mbps": 1.0} for i in range(MAX_LINKS)]
    with pytest.raises(InputError, match=f"{MAX_LINKS} shared links, expected at most {MAX_LINKS - 1}"):
        compiled(group(), links=links)


def test_fleets_stack_with_their_own_traces_and_windows(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name, rate in (("one", 2), ("two", 3)):
        (tmp_path / f"{name}.csv").write_text(f"second,uplink_mbps,downlink_mbps\n0,{rate},{2 * rate}\n2,1,1\n")
    (tmp_path / "there.csv").write_text("on_s,off_s\n5,10\n20,40\n")
    traced = {"link": {"trace": str(tmp_path / "two.csv")}, "availability": {"trace": str(tmp_path / "there.csv")}}
    first = compiled(group("a", link={"trace": str(tmp_path / "one.csv")}), group("b"))
    second = compiled(group("a"), group("b", count=2, **traced))
    both = stack_fleets([first, second])
    assert both.parameters[:, :3, c.TRACE].tolist() == [[0, -1, -1], [-1, 1, 1]]
    assert both.trace_at.tolist() == [0, 4, 8]
    assert both.trace_bits[0].tolist() == [0, 2e6, 4e6, 5e6, 0, 3e6, 6e6, 7e6]
    assert both.trace_bits[1].tolist() == [0, 4e6, 8e6, 9e6, 0, 6e6, 12e6, 13e6]
    assert both.windows.tolist() == [[5, 10], [20, 40], [5, 10], [20, 40]]
    assert both.parameters[1, 1:3, c.WINDOWS].tolist() == [0, 2]
    assert both.parameters[1, 1, [c.PERIOD_S, c.WINDOWS_BY_CLOCK]].tolist() == [40, 0]
    assert both.fleet[:, c.MACHINES].tolist() == [2, 3]


def test_carbon_by_the_hour() -> None:
    hourly = [float(h) for h in range(24)]
    got = compiled(group(), grid_gco2e_per_kwh=hourly).fleet[c.KG_CO2E_PER_J :]
    assert got * 3.6e9 == pytest.approx(hourly)


@pytest.mark.parametrize(
    ("hours", "windows"),
    [
        ([[0, 24]], []),
        ([[12, 24], [0, 12]], []),
        ([[22, 24], [0, 6]], [[22, 30]]),
        ([[8, 12], [12, 18]], [[8, 18]]),
        ([[8, 12.5], [12, 18], [20, 21]], [[8, 18], [20, 21]]),
        ([[22, 6], [5, 7], [1, 2]], [[22, 31]]),
        ([[8, 12], [13, 18]], [[8, 12], [13, 18]]),
    ],
)
def test_equal_timetables_are_equal(hours, windows) -> None:  # type: ignore[no-untyped-def]
    joined, period_s, by_clock = _windows(Availability(daily_hours=hours))
    assert np.array(joined).reshape(-1, 2) / 3600.0 == pytest.approx(np.array(windows).reshape(-1, 2))
    assert (period_s, by_clock) == ((86400.0, True) if windows else (0.0, False))


def test_a_presence_trace_goes_on_over_its_seam(tmp_path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "p.csv"
    for rows, windows in (("0,20", []), ("0,10\n15,20", [(15.0, 30.0)]), ("1,10\n15,20", [(1.0, 10.0), (15.0, 20.0)])):
        file.write_text(f"on_s,off_s\n{rows}\n")
        assert _windows(Availability(trace=str(file)))[0] == windows
