"""One round: hand-computed seconds, joules and bytes, every way to fail, and independence of the batch."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcore.costs import GRID
from fedcore.fleet import columns as c
from fedcore.fleet.compile import FleetArrays, compile_fleet, stack_fleets
from fedcore.fleet.conditions import begin, begin_rows
from fedcore.fleet.draws import JITTER, LEAVE, normal, of_round, uniform
from fedcore.fleet.round import _mean_intensity, play_round, play_rounds, scratch_shape
from scenarios.schema import Fleet

Floats = NDArray[np.float64]
KEY = np.uint64(987654321)
HALF = GRID // 2

# Costs that are easy on the head: 2 GFLOP per step, 1 MB x share up, 1 MB down, 100 MB x share of memory.
GRID_SHARE = np.arange(GRID + 1) / GRID
COSTS = np.stack(
    [np.full(GRID + 1, 2e9), 1e6 * GRID_SHARE, np.full(GRID + 1, 1e6), 100e6 * GRID_SHARE, np.full(GRID + 1, 1e7)], axis=1
)
COSTS[0] = 0.0

# What a half share with H = 5 takes on the standard machine: latency 0.02, 8 Mbit down at 16 Mbit/s, 5 x (0.1 + 2) s,
# latency, 4 Mbit up at 8 Mbit/s.
DOWN_END, COMPUTE, FINISH = 0.52, 10.5, 0.52 + 10.5 + 0.02 + 0.5


def group(name: str = "a", device: dict[str, Any] | None = None, link: dict[str, Any] | None = None, **more: Any):  # type: ignore[no-untyped-def]
    return {
        "name": name,
        "device": {
            "throughput_gflops": 1.0, "step_overhead_s": 0.1, "memory_mb": 90.0, "active_power_w": 5.0,
            "idle_power_w": 2.0, "step_jitter": 0.0, **(device or {}),
        },
        "link": {
            "uplink_mbps": 8.0, "downlink_mbps": 16.0, "latency_s": 0.02, "transmit_nj_per_bit": 300.0,
            "receive_nj_per_bit": 100.0, **(link or {}),
        },
        **more,
    }  # fmt: skip


SERVER = {"nj_per_bit": 5.0, "round_overhead_s": 0.5, "wait_s": 30.0}


class Played:
    """One fleet that plays rounds."""

    def __init__(
        self, *groups: dict[str, Any], deadline_s: float | None = None, max_machines: int = 4, most: int = GRID, **fleet: Any
    ):
        described = Fleet.model_validate({"groups": list(groups), "server": SERVER, **fleet})
        self.arrays: FleetArrays = compile_fleet(described, deadline_s, max_machines)
        self.arrays.parameters[:, c.MOST] = most
        self.fleets = stack_fleets([self.arrays])
        self._conditions = np.zeros((1, max_machines, c.N_CONDITIONS))
        begin(self.fleets, 0, KEY, self._conditions, 0)
        self.conditions = self._conditions[0]
        self.conditions[:, c.ON] = 1.0
        self.conditions[:, c.BUSY] = 0.0
        # Rows beyond the fleet's machines are never written.
        self._telemetry, self._totals = np.zeros((1, max_machines, c.N_TELEMETRY)), np.full((1, c.N_TOTALS), np.nan)
        self._telemetry[0, : self.arrays.machines] = np.nan
        self.telemetry, self.totals = self._telemetry[0], self._totals[0]

    def play(self, shares: list[int], steps: int = 5, counter: int = 0, elapsed: float = 0.0) -> "Played":
        index = np.zeros((1, len(self.telemetry)), dtype=np.int64)
        index[0, : len(shares)] = shares
        play_round(
            self.fleets, COSTS[None], 0, self._conditions, index, steps, elapsed, np.uint64(of_round(KEY, counter)),
            self._telemetry, self._totals, 0, np.zeros(scratch_shape(len(self.telemetry), self.fleets.via.shape[2])),
        )  # fmt: skip
        return self

    def status(self, k: int = 0) -> int:
        return int(self.telemetry[k, c.STATUS])


def test_one_machine_by_hand() -> None:
    got = Played(group()).play([HALF])
    t = got.telemetry[0]
    assert got.status() == c.DONE
    assert t[c.STEP_S] == pytest.approx(2.1)
    assert t[c.DOWNLOAD_S] == pytest.approx(DOWN_END)
    assert t[c.COMPUTE_S] == pytest.approx(COMPUTE)
    assert t[c.UPLOAD_S] == pytest.approx(0.5)
    assert t[c.FINISH_S] == pytest.approx(FINISH)
    assert t[c.RECEIVED_BYTES] == pytest.approx(1e6)
    assert t[c.SENT_BYTES] == pytest.approx(0.5e6)
    assert t[c.MEASURED_DOWN_BPS] == pytest.approx(16e6)
    assert t[c.MEASURED_UP_BPS] == pytest.approx(8e6)
    round_s = FINISH + 0.5
    assert got.totals[c.ROUND_S] == pytest.approx(round_s)
    assert t[c.IDLE_S] == pytest.approx(round_s - COMPUTE)
    joules = 5.0 * COMPUTE + 2.0 * (round_s - COMPUTE) + 4e6 * 300e-9 + 8e6 * 100e-9
    assert t[c.ENERGY_J] == pytest.approx(joules)
    assert got.totals[c.TOTAL_BYTES] == pytest.approx(1.5e6)
    assert got.totals[c.TOTAL_ENERGY_J] == pytest.approx(joules + 12e6 * 5e-9)
    assert (got.telemetry[1:] == 0).all()


def test_carbon_is_kwh_times_pue_times_intensity() -> None:
    got = Played(group(), pue=1.2, grid_gco2e_per_kwh=369.0).play([HALF])
    assert got.totals[c.TOTAL_CO2E_KG] == pytest.approx(got.totals[c.TOTAL_ENERGY_J] / 3.6e6 * 1.2 * 0.369)
    assert Played(group(), grid_gco2e_per_kwh=0.0).play([HALF]).totals[c.TOTAL_CO2E_KG] == 0.0


def test_load_and_jitter_stretch_the_step() -> None:
    load = {"slowdown": 3.0, "mean_busy_s": 10.0, "mean_free_s": 10.0}
    got = Played(group(device={"step_jitter": 0.2}, load=load))
    got.conditions[0, c.BUSY] = 1.0
    got.play([HALF], counter=7)
    assert got.telemetry[0, c.STEP_S] == pytest.approx(2.1 * 3.0 * np.exp(0.2 * normal(np.uint64(of_round(KEY, 7)), JITTER, 0)))


def test_link_state_scales_the_rates() -> None:
    got = Played(group(link={"variability": 0.5}))
    got.conditions[0, c.LINK_X] = 1.0
    got.play([HALF])
    factor = np.exp(0.5 - 0.125)
    assert got.telemetry[0, c.MEASURED_UP_BPS] == pytest.approx(8e6 * factor)
    assert got.telemetry[0, c.DOWNLOAD_S] == pytest.approx(0.02 + 0.5 / factor)


def test_the_round_lasts_until_the_last_machine_is_in() -> None:
    slow = group("slow", device={"throughput_gflops": 0.5})
    got = Played(group(), slow).play([HALF, HALF])
    assert got.telemetry[0, c.FINISH_S] == pytest.approx(FINISH)
    assert got.telemetry[1, c.FINISH_S] == pytest.approx(FINISH + 10.0)
    assert got.totals[c.ROUND_S] == pytest.approx(FINISH + 10.5)
    # The fast one waits for it, at its idle power.
    assert got.telemetry[0, c.IDLE_S] == pytest.approx(FINISH + 10.5 - COMPUTE)
    alone = Played(group(), slow).play([HALF, 0])
    assert alone.totals[c.ROUND_S] == pytest.approx(FINISH + 0.5)
    assert alone.status(1) == c.RESTING


def test_a_shared_link_slows_both_down() -> None:
    cell = {"name": "cell", "uplink_mbps": 8.0, "downlink_mbps": 16.0}
    got = Played(group(count=2, link={"via": ["cell"]}), links=[cell]).play([HALF, HALF])
    assert got.telemetry[:2, c.DOWNLOAD_S] == pytest.approx([1.02, 1.02])
    assert got.telemetry[:2, c.UPLOAD_S] == pytest.approx([1.0, 1.0])
    assert got.totals[c.TOTAL_BYTES] == pytest.approx(3e6)


def test_who_does_not_take_part() -> None:
    battery = {"capacity_j": 1000.0, "reserve_fraction": 0.1}
    got = Played(group(count=2), group("charged", battery=battery), max_machines=5)
    got.conditions[0, c.ON] = 0.0
    got.conditions[2, c.CHARGE_J] = 99.0
    got.play([HALF, 0, HALF, HALF])
    assert [got.status(k) for k in range(5)] == [c.AWAY, c.RESTING, c.AWAY, c.ABSENT, c.ABSENT]
    # Nobody: the server waits, and nothing is spent.
    assert got.totals[c.ROUND_S] == pytest.approx(30.5)
    assert got.totals[c.TOTAL_ENERGY_J] == got.totals[c.TOTAL_BYTES] == 0.0
    assert (got.telemetry[:, c.STATUS + 1 :] == 0).all()


def test_a_block_over_the_memory_is_infeasible() -> None:
    got = Played(group(), most=100).play([100])
    assert got.status() == c.DONE
    got = Played(group(), most=100).play([101])
    assert got.status() == c.INFEASIBLE
    assert got.totals[c.ROUND_S] == pytest.approx(30.5)


@pytest.mark.parametrize(
    ("deadline", "received", "computed", "sent"),
    [
        (0.01, 0.0, 0.0, 0.0),  # before the first bit
        (0.27, 0.5e6, 0.0, 0.0),  # half of the download
        (5.52, 1e6, 5.0, 0.0),
        (FINISH - 0.25, 1e6, COMPUTE, 0.25e6),  # half of the upload
        (FINISH - 0.51, 1e6, COMPUTE, 0.0),  # waiting for the network
    ],
)
def test_a_late_machine_pays_for_what_it_did(deadline: float, received: float, computed: float, sent: float) -> None:
    got = Played(group(), deadline_s=deadline).play([HALF])
    t = got.telemetry[0]
    assert got.status() == c.LATE
    assert t[c.FINISH_S] == deadline
    assert got.totals[c.ROUND_S] == pytest.approx(deadline + 0.5)
    assert t[c.RECEIVED_BYTES] == pytest.approx(received)
    assert t[c.COMPUTE_S] == pytest.approx(computed)
    assert t[c.SENT_BYTES] == pytest.approx(sent)
    idle = deadline + 0.5 - computed
    joules = 5.0 * computed + 2.0 * idle + 8 * (sent * 300e-9 + received * 100e-9)
    assert t[c.ENERGY_J] == pytest.approx(joules)


def test_a_deadline_that_is_met_changes_nothing() -> None:
    got = Played(group(), deadline_s=FINISH + 1e-6).play([HALF])
    assert got.status() == c.DONE
    assert got.totals[c.ROUND_S] == pytest.approx(FINISH + 0.5)


@pytest.mark.parametrize("leaves_at", [0.27, 5.52, FINISH - 0.25, FINISH + 0.1])
def test_a_machine_that_leaves_loses_its_block(leaves_at: float) -> None:
    on_s = leaves_at / -np.log(uniform(np.uint64(of_round(KEY, 3)), LEAVE, 0))
    leaver = group(availability={"mean_on_s": on_s, "mean_off_s": 1e12})
    got = Played(leaver, group("b", device={"throughput_gflops": 2.0})).play([HALF, HALF], counter=3)
    t = got.telemetry[0]
    if leaves_at > FINISH:
        assert got.status() == c.DONE
        return
    assert got.status() == c.LEFT
    assert got.status(1) == c.DONE
    assert t[c.FINISH_S] == pytest.approx(leaves_at)
    assert t[c.RECEIVED_BYTES] == pytest.approx(1e6 * min(1.0, (leaves_at - 0.02) / 0.5))
    assert t[c.SENT_BYTES] == pytest.approx(0.25e6 if leaves_at == FINISH - 0.25 else 0.0)
    # It burns nothing once it is gone.
    assert t[c.COMPUTE_S] + t[c.IDLE_S] == pytest.approx(leaves_at)
    assert got.conditions[0, c.ON] == 0.0
    got.play([HALF, HALF], counter=4)
    assert got.status() == c.AWAY


# 2 W for 0.52 s and 8 Mbit at 100 nJ, then 5 W for 10.5 s, 2 W for 0.02 s, 2 W for 0.5 s and 4 Mbit at 300 nJ.
@pytest.mark.parametrize(
    ("charge_j", "flat_s", "received", "computed", "sent"),
    [
        (0.02, 0.01, 0.0, 0.0, 0.0),
        (0.04 + 0.9, 0.27, 0.5e6, 0.0, 0.0),  # half of the download: 0.25 s at 2 W, 4 Mbit at 100 nJ
        (1.84 + 25.0, 5.52, 1e6, 5.0, 0.0),
        (1.84 + 52.5 + 0.02, FINISH - 0.51, 1e6, COMPUTE, 0.0),
        (1.84 + 52.5 + 0.04 + 1.1, FINISH - 0.25, 1e6, COMPUTE, 0.25e6),  # half of the upload: 0.25 s at 2 W, 2 Mbit at 300 nJ
    ],
)
def test_a_battery_that_runs_down_stops_there_and_gives_what_it_had(
    charge_j: float, flat_s: float, received: float, computed: float, sent: float
) -> None:
    battery = {"capacity_j": 200.0, "initial_fraction": charge_j / 200.0, "reserve_fraction": 0.0}
    got = Played(group(battery=battery), start_hour=0).play([HALF])
    t = got.telemetry[0]
    assert got.status() == c.FLAT
    assert t[c.FINISH_S] == pytest.approx(flat_s)
    assert got.totals[c.ROUND_S] == pytest.approx(flat_s + 0.5)  # nobody waits for it
    assert t[c.COMPUTE_S] == pytest.approx(computed)
    assert t[c.RECEIVED_BYTES] == pytest.approx(received)
    assert t[c.SENT_BYTES] == pytest.approx(sent)
    assert t[c.ENERGY_J] == pytest.approx(charge_j)
    assert got.totals[c.TOTAL_ENERGY_J] == pytest.approx(charge_j + 8 * (received + sent) * 5e-9)
    assert got.conditions[0, c.CHARGE_J] == 0.0
    assert got.play([HALF], counter=1).status() == c.AWAY


def test_who_leaves_gives_its_part_of_a_link_to_the_others() -> None:
    cell = {"name": "cell", "uplink_mbps": 100.0, "downlink_mbps": 8.0}
    on_s = 0.52 / -np.log(uniform(np.uint64(of_round(KEY, 3)), LEAVE, 0))
    leaver = group(availability={"mean_on_s": on_s, "mean_off_s": 1e12}, link={"via": ["cell"]})
    got = Played(leaver, group("b", link={"via": ["cell"]}), links=[cell]).play([HALF, HALF], counter=3)
    assert [got.status(k) for k in range(2)] == [c.LEFT, c.DONE]
    # 4 Mbit/s each for half a second; then 6 Mbit at 8.
    assert got.telemetry[0, c.RECEIVED_BYTES] == pytest.approx(0.25e6)
    assert got.telemetry[1, c.DOWNLOAD_S] == pytest.approx(0.52 + 0.75)


def test_a_flat_machine_sends_nothing_and_nobody_shares_with_it() -> None:
    cell = {"name": "cell", "uplink_mbps": 8.0, "downlink_mbps": 100.0}
    battery = {"capacity_j": 200.0, "initial_fraction": 0.1, "reserve_fraction": 0.0}
    got = Played(
        group(battery=battery, link={"via": ["cell"]}), group("b", link={"via": ["cell"]}), links=[cell], start_hour=0
    ).play([HALF, HALF])
    assert [got.status(k) for k in range(2)] == [c.FLAT, c.DONE]
    assert got.telemetry[1, c.UPLOAD_S] == pytest.approx(0.5)


def test_at_a_deadline_a_link_has_carried_no_more_than_it_can() -> None:
    cell = {"name": "cell", "uplink_mbps": 100.0, "downlink_mbps": 4.0}
    small = group("small", link={"via": ["cell"], "downlink_mbps": 2.0})
    got = Played(group(count=3, link={"via": ["cell"]}), small, links=[cell], deadline_s=1.02).play([HALF] * 4)
    assert 8 * got.telemetry[:, c.RECEIVED_BYTES].sum() == pytest.approx(4e6)


# Until its block is in, it needs 10.5 s at 5 W, 1.04 s at 2 W, 4 Mbit at 300 nJ and 8 Mbit at 100 nJ: 56.58 J.
@pytest.mark.parametrize(("charge_j", "status"), [(56.5, c.FLAT), (56.7, c.DONE), (100.0, c.DONE)])
def test_a_battery_that_runs_down_while_it_waits_for_others_costs_no_block(charge_j: float, status: float) -> None:
    battery = {"capacity_j": 200.0, "initial_fraction": charge_j / 200.0, "reserve_fraction": 0.1}
    slow = group("b", device={"throughput_gflops": 0.1})
    got = Played(group(battery=battery), slow, start_hour=0).play([HALF, HALF])
    assert got.telemetry[:2, c.STATUS].tolist() == [status, c.DONE]
    assert got.telemetry[0, c.ENERGY_J] == pytest.approx(charge_j)
    assert got.conditions[0, c.CHARGE_J] == 0.0
    assert got.play([HALF], counter=1).status() == c.AWAY


@pytest.mark.parametrize("initial_fraction", [0.4, 0.9])
def test_charge_before_and_harvest_are_charge_after_and_energy(initial_fraction: float) -> None:
    battery = {
        "capacity_j": 100.0, "initial_fraction": initial_fraction, "reserve_fraction": 0.1, "solar_peak_w": 2.0,
        "cloudiness": 0.0,
    }  # fmt: skip
    got = Played(group(battery=battery), start_hour=11.9999)
    before = got.conditions[0, c.CHARGE_J]
    got.play([HALF])
    harvest = 2.0 * got.totals[c.ROUND_S]
    assert got.conditions[0, c.CHARGE_J] == pytest.approx(before + harvest - got.telemetry[0, c.ENERGY_J], abs=0.01)


def test_the_sun_follows_the_elapsed_time() -> None:
    battery = {"capacity_j": 1e6, "initial_fraction": 0.5, "solar_peak_w": 10.0, "cloudiness": 0.0}
    got = Played(group(battery=battery), start_hour=0).play([0])
    assert got.conditions[0, c.CHARGE_J] == pytest.approx(5e5)
    got.play([0], counter=1, elapsed=12 * 3600.0 - 15.0)
    assert got.conditions[0, c.CHARGE_J] == pytest.approx(5e5 + 10.0 * 30.5, abs=0.1)


def test_working_does_not_change_how_often_a_machine_is_there() -> None:
    # On for 60 s and off for 60 s on average, whether or not it is asked to train in rounds of about 12 s.
    there = {"mean_on_s": 60.0, "mean_off_s": 60.0}
    got = Played(group(count=8, availability=there), group("steady"), max_machines=9)
    on, rounds = np.zeros(8), 3000
    for r in range(rounds):
        got.play([HALF] * 9, counter=r)
        on += got.conditions[:8, c.ON]
    assert on.sum() / (8 * rounds) == pytest.approx(0.5, abs=0.03)


def test_a_batch_is_its_fleets_one_by_one() -> None:
    fleets = [
        Played(group(count=3, link={"variability": 0.4}, device={"step_jitter": 0.1})),
        Played(group(count=2, availability={"mean_on_s": 20.0, "mean_off_s": 10.0}), group("b"), deadline_s=14.0),
        Played(group(count=4, load={"slowdown": 2.0, "mean_busy_s": 5.0, "mean_free_s": 5.0})),
    ]
    keys = np.array([5, 6, 7], dtype=np.uint64)

    def batch(order: list[int]) -> tuple[Floats, Floats, Floats]:
        stacked, n = stack_fleets([fleets[i].arrays for i in order]), len(order)
        conditions, world = np.zeros((n, 4, c.N_CONDITIONS)), np.arange(n)
        begin_rows(stacked, world, keys[order], world, conditions)
        telemetry, totals = np.zeros((n, 4, c.N_TELEMETRY)), np.zeros((n, c.N_TOTALS))
        elapsed = np.zeros(n)
        for r in range(6):
            play_rounds(
                stacked, np.stack([COSTS] * n), world, conditions, np.full((n, 4), HALF, dtype=np.int64),
                np.full(n, 3, dtype=np.int64), elapsed.copy(), keys[order], np.full(n, r, dtype=np.int64), telemetry, totals,
                np.full(scratch_shape(4, stacked.via.shape[2]), np.nan),
            )  # fmt: skip
            elapsed += totals[:, c.ROUND_S]
        return conditions, telemetry, totals

    together, turned = batch([0, 1, 2]), batch([2, 0, 1])
    for a, b in zip(together, turned, strict=True):
        assert np.array_equal(a, b[[1, 2, 0]])
    for i in range(3):
        for a, alone in zip(together, batch([i]), strict=True):
            assert np.array_equal(a[i], alone[0])
    assert len({float(t) for t in together[2][:, c.ROUND_S]}) == 3


def test_small_products_waste_throughput() -> None:
    got = Played(group(device={"half_rows": 30.0})).play([HALF])
    assert got.telemetry[0, c.STEP_S] == pytest.approx(0.1 + (2e9 + 30 * 1e7) / 1e9)


def test_a_recorded_link_gives_its_mean_rate_over_the_transfer(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "t.csv"
    path.write_text("second,uplink_mbps,downlink_mbps\n0,2,4\n1,2,12\n2,2,4\n3,2,12\n")
    played = Played(group(link={"trace": str(path), "latency_s": 0.0}))
    played.conditions[0, c.TRACE_S] = 1.0
    t = played.play([HALF], elapsed=2.0).telemetry[0]
    # 8 Mbit down from second 3 on: 12 Mbit/s until they are through; 4 Mbit up at 2 Mbit/s whenever.
    assert t[c.MEASURED_DOWN_BPS] == pytest.approx(12e6)
    assert t[c.DOWNLOAD_S] == pytest.approx(8 / 12)
    assert t[c.MEASURED_UP_BPS] == pytest.approx(2e6)
    t = played.play([HALF], elapsed=1.5).telemetry[0]
    # 2 Mbit by second 3, the other 6 in half a second.
    assert t[c.DOWNLOAD_S] == pytest.approx(0.5 + 0.5)
    assert t[c.MEASURED_DOWN_BPS] == pytest.approx(8e6)


def test_a_machine_whose_hours_end_leaves_and_comes_back() -> None:
    worker = group(availability={"daily_hours": [[9, 10]]})
    played = Played(worker, start_hour=9.0)
    t = played.play([HALF], elapsed=3600.0 - 5.52).telemetry[0]
    assert played.status() == c.LEFT
    assert t[c.FINISH_S] == pytest.approx(5.52)
    assert t[c.COMPUTE_S] == pytest.approx(5.0)
    assert played.play([HALF], elapsed=3600.0 + 1.0).status() == c.AWAY
    assert played.play([HALF], elapsed=24 * 3600.0).status() == c.DONE


@pytest.mark.parametrize(
    ("start", "hours", "grams"),
    [
        (8.5, 0.4, 100.0), (9.0, 1.0, 400.0), (10.0, 1.0, 100.0), (8.5, 1.0, 250.0), (8.75, 1.5, 450 / 1.5),
        (23.5, 1.0, 100.0), (23.5, 24.0, 100 + 300 / 24), (9.5, 25.0, 100 + 300 * 1.5 / 25),
    ],
)  # fmt: skip
def test_carbon_goes_by_the_hours_that_a_round_lies_in(start: float, hours: float, grams: float) -> None:
    hourly = [100.0] * 9 + [400.0] + [100.0] * 14
    arrays = Played(group(), grid_gco2e_per_kwh=hourly, start_hour=start)
    got = _mean_intensity(arrays.fleets.fleet[0], 3600 * start, 3600 * hours)
    assert got == pytest.approx(grams / 1000 / 3.6e6)
    totals = arrays.play([HALF]).totals
    now = 400.0 if int(start) == 9 else 100.0
    assert totals[c.TOTAL_CO2E_KG] == pytest.approx(totals[c.TOTAL_ENERGY_J] / 3.6e6 * now / 1000)
