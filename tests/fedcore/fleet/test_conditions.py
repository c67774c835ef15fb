"""Hidden conditions: stationary laws, transition probabilities, sun and batteries."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fedcore.fleet import columns as c
from fedcore.fleet.conditions import advance, daylight, initial, link_factor, present, present_all

Floats = NDArray[np.float64]
N = 2000
HOUR = 3600.0


def machines(n: int = N, **values: float) -> Floats:
    """Rows whose named columns have these values; switched on, no load, steady links unless told otherwise."""
    p = np.zeros((n, c.N_PARAMETERS))
    p[:, c.FLOPS_PER_S], p[:, c.SLOWDOWN] = 1e9, 1.0
    for name, value in values.items():
        p[:, getattr(c, name)] = value
    return p


def start(parameters: Floats, seed: int = 1) -> Floats:
    return initial(parameters, np.uint64(seed * 7919))


def move(p: Floats, x: Floats, dt: float, counter: int, consumed: float = 0.0, clock: float = 0.0, seed: int = 1) -> None:
    n = len(p)
    advance(
        p, x, np.full(n, consumed), np.zeros(n, dtype=np.bool_), np.zeros(n), clock, dt, np.uint64(seed * 7919), counter
    )


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
        assert present(p, x).all()


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
    move(p, x, 60.0, 0, consumed=100.0, clock=12 * HOUR - 30.0)
    assert x[:, c.CHARGE_J] == pytest.approx(500.0 - 100.0 + 2.0 * 60.0, abs=0.05)
    move(p, x, 60.0, 1, consumed=100.0, clock=1 * HOUR)
    assert x[:, c.CHARGE_J] == pytest.approx(420.0, abs=0.05)
    move(p, x, 6 * HOUR, 2, clock=10 * HOUR)
    assert (x[:, c.CHARGE_J] == 1000.0).all()
    move(p, x, 60.0, 3, consumed=5000.0, clock=1 * HOUR)
    assert (x[:, c.CHARGE_J] == 0.0).all()


def test_clouds_take_about_their_mean() -> None:
    for cloudiness in (0.1, 0.3, 0.6):
        p = machines(BATTERY_J=1e9, BATTERY_START=0.5, SOLAR_W=100.0, CLOUDINESS=cloudiness, CLOUD_TAU_S=900.0)
        x = start(p)
        move(p, x, 60.0, 0, clock=12 * HOUR - 30.0)
        harvest = (x[:, c.CHARGE_J] - 0.5e9) / (100.0 * 60.0)
        assert harvest.min() >= -1e-9
        assert harvest.max() <= 1 + 1e-9
        assert 1 - harvest.mean() == pytest.approx(cloudiness, abs=0.07)


def test_who_is_present() -> None:
    p = machines(4, BATTERY_RESERVE=0.2)
    p[1, c.BATTERY_J] = p[2, c.BATTERY_J] = 100.0
    p[3, c.FLOPS_PER_S] = 0.0  # padding
    x = np.zeros((4, c.N_CONDITIONS))
    x[:, c.ON] = 1.0
    x[1, c.CHARGE_J], x[2, c.CHARGE_J] = 20.0, 20.1
    assert present(p, x).tolist() == [True, False, True, False]
    x[0, c.ON] = 0.0
    assert present_all(np.stack([p, p]), np.stack([x, x])).tolist() == [[False, False, True, False]] * 2


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
        advance(p, x, np.zeros(N), np.full(N, went), np.full(N, known), 0.0, 20.0, np.uint64(5), 0)
        assert x[:, c.ON].mean() == pytest.approx(expected, abs=1e-12 if known == 20.0 else 4 * np.sqrt(0.25 / N))
