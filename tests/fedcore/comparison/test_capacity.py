import numpy as np
import pytest
import torch

from fedcore.blocks import whole_block
from fedcore.comparison.capacity import LEVELS, capacity_shares, level_costs, machine_costs
from fedcore.costs import BlockCost, cost_of_block
from fedcore.methods.base import Server
from fedcore.methods.heterofl import HeteroFL
from fedcore.model import build_model
from scenarios.schema import Device, Fleet, Group, Link, Scenario

COSTS = {level: BlockCost(1e9 * level, 4e5, 4e5, 1e7 * level) for level in LEVELS}


def fleet(*machines: tuple[float, float], memory_mb: tuple[float, ...] = ()) -> Scenario:
    groups = tuple(
        Group(
            name=f"g{i}", count=1, images=16, link=Link(uplink_mbps=up, downlink_mbps=10),
            device=Device(throughput_gflops=speed, step_overhead_s=0, memory_mb=mb, active_power_w=2, idle_power_w=1),
        )
        for i, ((speed, up), mb) in enumerate(zip(machines, memory_mb or (64,) * len(machines), strict=True))
    )  # fmt: skip
    return Scenario(name="levels", fleet=Fleet(groups=groups))


@pytest.mark.parametrize(
    ("machines", "expected"),
    [
        ([(8, 10), (8, 10)], [1, 1]),
        ([(8, 10), (4, 10), (2, 10), (1, 10), (0.5, 10)], [1, 0.5, 0.25, 0.125, 0.0625]),
        ([(8, 10), (8, 2.6)], [1, 0.25]),  # the scarcer one counts
        ([(8, 1), (1, 8)], [1, 1]),
        ([(80, 10), (0.1, 10)], [1, 0.0625]),  # nobody falls below the lowest level
        ([(8, 10), (5.8, 10), (5.5, 10)], [1, 1, 0.5]),  # nearest on a log scale: the border is at 0.707
    ],
)
def test_levels_by_hand(machines, expected):
    np.testing.assert_allclose(capacity_shares(fleet(*machines), [COSTS] * len(machines)), expected)
    assert set(expected) <= set(LEVELS)


def test_nobody_is_given_more_than_memory_holds():
    equal = [(8, 10)] * 5
    shares = capacity_shares(fleet(*equal, memory_mb=(10, 9.9, 2.5, 1.3, 0.6)), [COSTS] * 5)
    np.testing.assert_allclose(shares, [1, 0.5, 0.25, 0.125, 0])
    # Of those that hold the whole model the strongest trains it, however slow.
    np.testing.assert_allclose(capacity_shares(fleet((8, 10), (2, 10), memory_mb=(6, 64)), [COSTS] * 2), [0.5, 1])
    slow = fleet((8, 10), (2, 10), (0.5, 10), memory_mb=(6, 64, 64))
    np.testing.assert_allclose(capacity_shares(slow, [COSTS] * 3), [0.5, 1, 0.25])


def test_a_levels_cost_is_that_of_the_block_that_width_scaling_gives():
    model = build_model((1, 16, 16), "convnet", "simclr", {"widths": (6, 8, 9)}, {"hidden": 12, "outputs": 6})
    costs = level_costs(model, 4)
    assert costs[1.0] == cost_of_block(model, whole_block(model.neuron_map), 4)
    server = Server(model, model.init_state(torch.Generator()), None, ("a",), (9,), 0)
    for level in LEVELS[:4]:
        (block,) = HeteroFL().blocks(server, [level], np.random.default_rng(0))
        assert cost_of_block(model, block, 4) == costs[level]


def test_speed_counts_what_small_products_waste():
    costs = [{level: BlockCost(1e9 * level, 4e5, 4e5, 1e7 * level, row_flops=1e7) for level in LEVELS}] * 2
    alike = fleet((8, 10), (8, 10))
    one, other = alike.fleet.groups
    wasteful = other.model_copy(update={"device": other.device.model_copy(update={"half_rows": 300.0})})  # four times as long
    wasting = alike.model_copy(update={"fleet": alike.fleet.model_copy(update={"groups": (one, wasteful)})})
    assert capacity_shares(alike, costs).tolist() == [1, 1]
    assert capacity_shares(wasting, costs).tolist() == [1, 0.25]


def test_steps_on_fewer_samples_are_lighter():
    model = build_model((1, 16, 16), "convnet", "simclr", {"widths": (6, 8, 9)}, {"hidden": 12, "outputs": 6})
    costs = machine_costs(model, [4, 16, 4])
    assert costs[0] == costs[2] == level_costs(model, 4)
    assert costs[1] == level_costs(model, 16)
    # A quarter of the samples: a quarter of the speed is as good, and less memory holds all of it.
    need_mb = costs[0][1.0].memory_bytes / 1e6 * (1 + 1e-9)
    machines = fleet((2, 10), (8, 10), (2, 10), memory_mb=(need_mb, 64, 0.9 * need_mb))
    shares = capacity_shares(machines, costs)
    assert shares[:2].tolist() == [1, 1]
    assert 0 < shares[2] < 1
