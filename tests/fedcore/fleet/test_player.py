import numpy as np
import pytest

from fedcore.fleet import columns as c
from fedcore.fleet.player import FleetPlayer
from fedcore.methods import RoundCost
from scenarios.schema import Device, Fleet, Group, Link, Scenario, Server


def scenario(**server) -> Scenario:
    def group(name: str, gflops: float) -> Group:
        device = Device(
            throughput_gflops=gflops, memory_mb=10, active_power_w=5, idle_power_w=1, step_overhead_s=0, step_jitter=0
        )
        link = Link(
            uplink_mbps=8, downlink_mbps=16, latency_s=0.5, variability=0, transmit_nj_per_bit=100, receive_nj_per_bit=50
        )
        return Group(name=name, count=1, device=device, link=link, images=16)

    fleet = Fleet(groups=(group("fast", 4), group("slow", 1)), server=Server(round_overhead_s=0, nj_per_bit=0, **server))
    return Scenario(name="pair", fleet=fleet)


COST = RoundCost(step_flops=1e9, upload_bytes=1e6, download_bytes=2e6, memory_bytes=1e6)


def test_a_round_by_hand():
    played = FleetPlayer(scenario(), 0).play([COST, None], 4)
    # 0.5 s latency, 16 Mbit at 16 Mbit/s, 4 steps of 1/4 s, 0.5 s latency, 8 Mbit at 8 Mbit/s
    assert played.time_s == pytest.approx(0.5 + 1 + 1 + 0.5 + 1)
    assert played.bytes == 3e6
    radio = 8e6 * 100e-9 + 16e6 * 50e-9
    assert played.energy_j == pytest.approx(5 * 1 + 1 * 3 + radio)
    assert played.done.tolist() == [True, False]


def test_every_exchange_costs_a_round_trip():
    plain = FleetPlayer(scenario(), 0).play([COST, None], 4)
    chatty = FleetPlayer(scenario(), 0).play([RoundCost(1e9, 1e6, 2e6, 1e6, exchanges=4), None], 4)
    assert chatty.time_s == pytest.approx(plain.time_s + 4 * 2 * 0.5)


def test_machines_side_by_side_take_as_long_as_the_slowest_and_one_by_one_as_long_as_all():
    both = FleetPlayer(scenario(), 0).play([COST, COST], 4)
    relay = FleetPlayer(scenario(), 0).play([COST, COST], 4, one_by_one=True)
    alone = [FleetPlayer(scenario(), 0).play([COST if k == who else None for k in range(2)], 4) for who in range(2)]
    assert both.time_s == pytest.approx(max(p.time_s for p in alone))
    assert relay.time_s == pytest.approx(sum(p.time_s for p in alone))
    assert relay.bytes == both.bytes == 6e6
    assert relay.done.all()
    assert relay.energy_j == pytest.approx(sum(p.energy_j for p in alone))
    assert both.energy_j > relay.energy_j  # the fast one waits for the slow one


def test_what_does_not_fit_the_memory_is_not_done():
    played = FleetPlayer(scenario(), 0).play([COST, RoundCost(1e9, 1e6, 2e6, 11e6)], 1)
    assert played.done.tolist() == [True, False]
    assert played.telemetry[1, c.STATUS] == c.INFEASIBLE


def test_the_same_seed_plays_the_same_fleet():
    rough = scenario()
    groups = tuple(g.model_copy(update={"link": g.link.model_copy(update={"variability": 0.8})}) for g in rough.fleet.groups)
    rough = rough.model_copy(update={"fleet": rough.fleet.model_copy(update={"groups": groups})})
    times = {seed: [FleetPlayer(rough, seed).play([COST, COST], 4).time_s for _ in range(2)] for seed in (0, 1)}
    assert times[0][0] == times[0][1] != times[1][0]
    player = FleetPlayer(rough, 0)
    assert len(np.unique([player.play([COST, COST], 4).time_s for _ in range(4)])) == 4
