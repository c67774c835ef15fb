import numpy as np
import pytest

from fedcore.comparison.capacity import LEVELS, capacity_shares
from fedcore.costs import BlockCost
from scenarios.schema import Device, Fleet, Group, Link, Scenario

WHOLE = BlockCost(1e9, 4e5, 4e5, 1e7)


def fleet(*machines: tuple[float, float]) -> Scenario:
    groups = tuple(
        Group(
            name=f"g{i}", count=1, images=16, link=Link(uplink_mbps=up, downlink_mbps=10),
            device=Device(throughput_gflops=speed, step_overhead_s=0, memory_mb=64, active_power_w=2, idle_power_w=1),
        )
        for i, (speed, up) in enumerate(machines)
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
    np.testing.assert_allclose(capacity_shares(fleet(*machines), WHOLE), expected)
    assert set(expected) <= set(LEVELS)
