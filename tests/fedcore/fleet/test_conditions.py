"""Hidden conditions: stationary laws, transition probabilities, sun and batteries."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcore.fleet import columns as c
from fedcore.fleet.compile import MAX_LINKS, Fleets
from fedcore.fleet.conditions import (
    advance,
    begin,
    daylight,
    is_present,
    link_factor,
    mean_daylight,
    rate_factor,
    slowdown,
    stays_s,
)
from fedcore.fleet.draws import of_round

Floats = NDArray[np.float64]
N = 2000
HOUR = 3600.0


def machines(n: int = N, **values: float) -> Floats:
    """Rows whose named columns have these values; switched on, no load, steady links unless told otherwise."""
    p = np.zeros((n, c.N_PARAMETERS))
    p[:, c.FLOPS_PER_S], p[:, c.SLOWDOWN], p[:, c.THROTTLE] = 1e9, 1.0, 1.0
    p[:, c.OUTAGE_FACTOR], p[:, c.TRACE] = 1.0, -1.0
    for name, value in values.items():
        p[:, getattr(c, name)] = value
    return p


def fleet_of(parameters: Floats, windows: Any = (), start_s: float = 0.0) -> Fleets:
    fleet = np.zeros((1, c.N_FLEET))
    fleet[0, c.MACHINES], fleet[0, c.START_S] = len(parameters), start_s
    links, via = np.full((1, MAX_LINKS), np.inf), np.zeros((1, len(parameters), MAX_LINKS), dtype=np.bool_)
    rows = np.array(windows, dtype=np.float64).reshape(-1, 2)
    return Fleets(parameters[None], fleet, links, links, via, rows, np.zeros(1, dtype=np.int64), np.zeros((2, 0)))


def start(parameters: Floats, seed: int = 1) -> Floats:
    conditions = np.zeros((1, len(parameters), c.N_CONDITIONS))
    begin(fleet_of(parameters), 0, np.uint64(seed * 7919), conditions, 0)
    return conditions[0]


def move(
    p: Floats, x: Floats, dt: float, counter: int, clock: float = 0.0, seed: int = 1, windows: Any = (), **told: float
) -> None:
    """One round; what the telemetry tells of every machine goes by its column's name."""
    telemetry = np.zeros((1, len(p), c.N_TELEMETRY))
    for name, value in told.items():
        telemetry[0, :, getattr(c, name)] = value
    key = np.uint64(of_round(np.uint64(seed * 7919), counter))
    advance(fleet_of(p, windows), 0, x[None], 0, telemetry, clock, dt, key)


def present(p: Floats, x: Floats, windows: Any = (), elapsed: float = 0.0, start_s: float = 0.0) -> list[bool]:
    f = fleet_of(p, windows, start_s)
    return [is_present(f.parameters, 0, k, x[None], 0, f.windows, start_s, elapsed) for k in range(len(p))]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (c.BUSY, {"SLOWDOWN": 3.0, "BUSY_S": 30.0, "FREE_S": 60.0}),
        (c.ON, {"ON_S": 30.0, "OFF_S": 60.0}),
    ],
)
def test_two_state_chains_start_and_stay_stationary(column: int, values: dict[str, float]) -> None:
    p = machines(**values)
    x = start(p)
    sigma = np.sqrt(1 / 3 * 2 / 3 / N)
    assert x[:, column].mean() == pytest.approx(1 / 3, abs=4 * sigma)
    means = []
    for r in range(40):
        move(p, x, 10.0, r)
        assert set(np.unique(x[:, column])) <= {0.0, 1.0}
        means.append(x[:, column].mean())
    # Rounds correlate by exp(-10 (1/30 + 1/60)) = 0.61, so 40 of them are worth about 10.
    assert np.mean(means) == pytest.approx(1 / 3, abs=4 * sigma / np.sqrt(10))


@pytest.mark.parametrize("dt", [1.0, 20.0, 500.0])
def test_transition_probabilities_are_those_of_the_continuous_chain(dt: float) -> None:
    p = machines(SLOWDOWN=3.0, BUSY_S=30.0, FREE_S=60.0)
    forget = np.exp(-dt * (1 / 30 + 1 / 60))
    for state in (0.0, 1.0):
        x = start(p)
        x[:, c.BUSY] = state
        move(p, x, dt, 5)
        expected = 1 / 3 + (state - 1 / 3) * forget
        assert x[:, c.BUSY].mean() == pytest.approx(expected, abs=4 * np.sqrt(0.25 / N))


def test_unloaded_and_always_on_machines_stay_so() -> None:
    p = machines(50)
    x = start(p)
    for r in range(20):
        move(p, x, 100.0, r)
        assert (x[:, c.BUSY] == 0).all()
        assert all(present(p, x))


def test_link_rates_keep_their_mean_and_forget_exponentially() -> None:
    sigma = 0.6
    p = machines(LINK_SIGMA=sigma, LINK_TAU_S=60.0)
    x = start(p)
    before = x[:, c.LINK_X].copy()
    move(p, x, 30.0, 0)
    after = x[:, c.LINK_X]
    for z in (before, after):
        assert z.mean() == pytest.approx(0.0, abs=4 / np.sqrt(N))
        assert z.std() == pytest.approx(1.0, abs=0.07)
    assert np.corrcoef(before, after)[0, 1] == pytest.approx(np.exp(-0.5), abs=0.06)
    factors = np.array([link_factor(z, sigma) for z in np.concatenate([before, after])])
    assert factors.mean() == pytest.approx(1.0, abs=0.06)
    assert np.log(factors).std() == pytest.approx(sigma, abs=0.04)
    assert link_factor(2.5, 0.0) == 1.0


def test_daylight() -> None:
    assert daylight(12 * HOUR) == pytest.approx(1.0)
    assert daylight(9 * HOUR) == pytest.approx(np.sqrt(0.5))
    assert daylight(3 * HOUR) == daylight(22 * HOUR) == 0.0
    assert daylight(36 * HOUR) == pytest.approx(1.0)
    hours = np.array([daylight(t * HOUR) for t in np.arange(0, 24, 0.05)])
    assert hours.mean() * 24 == pytest.approx(24 / np.pi, rel=1e-3)


def test_batteries_balance_and_stay_within_their_size() -> None:
    p = machines(4, BATTERY_J=1000.0, BATTERY_START=0.5, SOLAR_W=2.0, CLOUDINESS=0.0, CLOUD_TAU_S=900.0)
    x = start(p)
    assert x[:, c.CHARGE_J] == pytest.approx(500.0)
    move(p, x, 60.0, 0, ENERGY_J=100.0, clock=12 * HOUR - 30.0)
    assert x[:, c.CHARGE_J] == pytest.approx(500.0 - 100.0 + 2.0 * 60.0, abs=0.05)
    move(p, x, 60.0, 1, ENERGY_J=100.0, clock=1 * HOUR)
    assert x[:, c.CHARGE_J] == pytest.approx(420.0, abs=0.05)
    move(p, x, 6 * HOUR, 2, clock=10 * HOUR)
    assert (x[:, c.CHARGE_J] == 1000.0).all()
    move(p, x, 60.0, 3, ENERGY_J=5000.0, clock=1 * HOUR)
    assert (x[:, c.CHARGE_J] == 0.0).all()


def test_clouds_take_about_their_mean() -> None:
    for cloudiness in (0.1, 0.3, 0.6):
        p = machines(BATTERY_J=1e9, BATTERY_START=0.5, SOLAR_W=100.0, CLOUDINESS=cloudiness, CLOUD_TAU_S=900.0)
        x = start(p)
        move(p, x, 60.0, 0, clock=12 * HOUR - 30.0)
        harvest = (x[:, c.CHARGE_J] - 0.5e9) / (100.0 * 60.0)
        assert harvest.min() >= -1e-9
        assert harvest.max() <= 1 + 1e-9
        assert 1 - harvest.mean() == pytest.approx(cloudiness, abs=0.02)


def test_who_is_present() -> None:
    p = machines(4, BATTERY_RESERVE=0.2)
    p[1, c.BATTERY_J] = p[2, c.BATTERY_J] = 100.0
    p[3, c.FLOPS_PER_S] = 0.0  # padding
    x = np.zeros((4, c.N_CONDITIONS))
    x[:, c.ON] = 1.0
    x[1, c.CHARGE_J], x[2, c.CHARGE_J] = 20.0, 20.1
    assert present(p, x) == [True, False, True, False]
    x[0, c.ON] = 0.0
    assert present(p, x) == [False, False, True, False]


def test_presence_moves_only_over_what_the_round_left_open() -> None:
    p = machines(ON_S=30.0, OFF_S=60.0)
    for went, known, expected in (
        (False, 20.0, 1.0),  # on to the very end
        (True, 20.0, 0.0),  # left at the very end
        (False, 15.0, 1 / 3 + 2 / 3 * np.exp(-5 * (1 / 30 + 1 / 60))),
        (True, 15.0, 1 / 3 - 1 / 3 * np.exp(-5 * (1 / 30 + 1 / 60))),
    ):
        x = start(p)
        x[:, c.ON] = 1.0
        move(p, x, 20.0, 0, FINISH_S=known, STATUS=c.LEFT if went else c.DONE)
        assert x[:, c.ON].mean() == pytest.approx(expected, abs=1e-12 if known == 20.0 else 4 * np.sqrt(0.25 / N))


def test_outages_come_as_often_as_said() -> None:
    p = machines(OUTAGE_FACTOR=0.05, OUTAGE_UP_S=90.0, OUTAGE_DOWN_S=10.0)
    x = start(p)
    for r in range(3):
        assert x[:, c.OUT].mean() == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / N))
        move(p, x, 200.0, r)
    assert rate_factor(p[None], 0, 0, x[None], 0) == 1.0  # transfers play outages by the second


def test_mean_rates_differ_from_episode_to_episode_and_stay() -> None:
    p = machines(LINK_SPREAD=0.6)
    x = start(p)
    assert x[:, c.LINK_MEAN].mean() == pytest.approx(1.0, abs=0.07)
    assert np.log(x[:, c.LINK_MEAN]).std() == pytest.approx(0.6, abs=0.04)
    before = x[:, c.LINK_MEAN].copy()
    move(p, x, 500.0, 0)
    assert np.array_equal(before, x[:, c.LINK_MEAN])
    assert (start(machines())[:, c.LINK_MEAN] == 1.0).all()


def test_heat_follows_work_and_slows_down_once_it_is_hot() -> None:
    p = machines(1, THROTTLE=3.0, HEAT_S=100.0, COOL_S=200.0)
    x = start(p)
    assert x[0, c.HEAT] == 0.0
    move(p, x, 150.0, 0, COMPUTE_S=100.0)
    warm = (1 - np.exp(-1)) * np.exp(-50 / 200)
    assert x[0, c.HEAT] == pytest.approx(warm)
    assert slowdown(p[None], 0, 0, x[None], 0) == 1.0
    move(p, x, 100.0, 1, COMPUTE_S=100.0)
    hot = 1 - (1 - warm) * np.exp(-1)
    assert x[0, c.HEAT] == pytest.approx(hot)
    assert slowdown(p[None], 0, 0, x[None], 0) == pytest.approx(1 + 2 * (hot - 0.5) / 0.5)
    move(p, x, 10_000.0, 2)
    assert slowdown(p[None], 0, 0, x[None], 0) == 1.0


def stays(elapsed: float, windows: Any, start_s: float = 0.0, **columns: float) -> float:
    p = machines(1, N_WINDOWS=len(windows), **columns)
    return stays_s(p[None], 0, 0, np.array(windows, dtype=np.float64).reshape(-1, 2), start_s, elapsed)


def test_timetables() -> None:
    assert stays(1e9, []) == np.inf
    assert stays(99.0, [], JOIN_S=100.0) == 0.0
    assert stays(100.0, [], JOIN_S=100.0) == np.inf
    day = {"PERIOD_S": 24 * HOUR, "WINDOWS_BY_CLOCK": 1.0}
    night = [(22 * HOUR, 30 * HOUR)]
    assert stays(0.0, night, start_s=23 * HOUR, **day) == pytest.approx(7 * HOUR)
    assert stays(4 * HOUR, night, start_s=23 * HOUR, **day) == pytest.approx(3 * HOUR)
    assert stays(8 * HOUR, night, start_s=23 * HOUR, **day) == 0.0
    assert stays(24 * HOUR, night, start_s=23 * HOUR, **day) == pytest.approx(7 * HOUR)
    two = [(10.0, 20.0), (30.0, 50.0)]  # repeats after 50 s, whatever the time of day
    for elapsed, left in ((5.0, 0.0), (10.0, 10.0), (25.0, 0.0), (31.0, 19.0), (50.0, 0.0), (61.0, 9.0)):
        assert stays(elapsed, two, start_s=7 * HOUR, PERIOD_S=50.0) == pytest.approx(left)
    p, x = machines(1, N_WINDOWS=2, PERIOD_S=50.0), np.zeros((1, c.N_CONDITIONS))
    x[0, c.ON] = 1.0
    assert [present(p, x, two, elapsed)[0] for elapsed in (5.0, 15.0, 25.0, 35.0)] == [False, True, False, True]


def test_who_leaves_by_its_timetable_is_not_off_by_chance() -> None:
    p = machines(ON_S=1e9, OFF_S=1e9, N_WINDOWS=1, PERIOD_S=100.0)
    for finish, expected in ((10.0, 1.0), (9.0, 0.0)):  # at the window's end, and before it
        x = start(p)
        x[:, c.ON] = 1.0
        move(p, x, 20.0, 0, windows=[(0.0, 10.0)], FINISH_S=finish, STATUS=c.LEFT)
        assert (x[:, c.ON] == expected).all()


@pytest.mark.parametrize(("start_h", "hours"), [(12, 12), (3, 1), (5, 14), (22, 100), (7.3, 0.01)])
def test_mean_daylight_is_the_mean_of_daylight(start_h: float, hours: float) -> None:
    seconds = np.linspace(start_h, start_h + hours, 200_001) * 3600.0
    mean = np.mean([daylight(t % 86400.0) for t in seconds[::20]])
    assert mean_daylight(start_h * 3600.0, hours * 3600.0) == pytest.approx(mean, abs=2e-3)


def test_a_long_round_harvests_what_short_ones_do() -> None:
    p = machines(1, BATTERY_J=1e9, CLOUD_TAU_S=900.0, SOLAR_W=10.0, CLOUDINESS=0.0)
    long, short = np.zeros((1, c.N_CONDITIONS)), np.zeros((1, c.N_CONDITIONS))
    move(p, long, 43200.0, 0, clock=12 * 3600.0)
    for i in range(720):
        move(p, short, 60.0, i, clock=12 * 3600.0 + 60.0 * i)
    assert long[0, c.CHARGE_J] == pytest.approx(short[0, c.CHARGE_J], rel=1e-3)
    assert long[0, c.CHARGE_J] == pytest.approx(10.0 * 86400.0 / np.pi / 2, rel=1e-3)
