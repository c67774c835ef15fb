"""Actions to decisions and back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.spaces import RESTS_BELOW, action_space, decode, encode
from fedcore.costs import GRID
from fedcore.world import share_indices


def test_shares_and_levels_by_hand() -> None:
    actions = np.array([[-1.0, 0.25, 1.0, RESTS_BELOW, -1.0], [-0.425, 0.625, -0.4385, 0.4, 1.0]])
    shares, level = decode(actions, np.array([5, 3]))
    assert shares == pytest.approx(np.array([[0, 0.5, 1.0, 0.0], [0.05, 0.75, 0.041, 0.6]]))
    assert level.tolist() == [0, 2]


def test_the_level_axis_is_cut_into_equal_parts() -> None:
    axis = np.linspace(-1, 1, 1001)
    actions = np.zeros((len(axis), 2))
    actions[:, 1] = axis
    _, level = decode(actions, np.full(len(axis), 5))
    assert np.bincount(level).tolist() == pytest.approx([200] * 5, abs=2)
    assert (np.diff(level) >= 0).all()


def test_values_outside_are_clipped() -> None:
    inside, outside = np.array([[-1.0, 1.0, 1.0]]), np.array([[-7.0, 3.0, 1e9]])
    for a, b in zip(decode(inside, np.array([4])), decode(outside, np.array([4])), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    actions = np.zeros((2, 4))
    actions[1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        decode(actions, np.array([3, 3]))


@pytest.mark.parametrize("shape", [(4,), (1, 2, 3), (2, 0)])
def test_wrong_ranks_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="have shape"):
        decode(np.zeros(shape), np.array([3]))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1e-3, 1.0)), min_size=1, max_size=8),
    st.integers(1, 16),
    st.data(),
)
def test_encode_is_the_inverse(shares: list[float], levels: int, data: st.DataObject) -> None:
    level = data.draw(st.integers(0, levels - 1))
    action = encode(np.array(shares), level, levels, 8)
    assert action_space(8).contains(action)
    got, got_level = decode(action[None], np.array([levels]))
    assert got[0, : len(shares)] == pytest.approx(shares, abs=1e-6)
    assert (got[0, len(shares) :] == 0).all()
    assert got_level[0] == level


def test_grid_shares_survive_the_float32_round_trip() -> None:
    grid = np.arange(1, GRID + 1) / GRID
    got, _ = decode(encode(grid, 0, 3, len(grid))[None], np.array([3]))
    assert np.array_equal(share_indices(got[0]), np.arange(1, GRID + 1))


def test_decoding_is_the_formula_entry_by_entry() -> None:
    rng = np.random.default_rng(0)
    actions = rng.uniform(-1.4, 1.4, size=(600, 4)).astype(np.float32)
    levels = rng.integers(1, 6, size=600)
    shares, level = decode(actions, levels)
    clipped = np.clip(actions.astype(np.float64), -1.0, 1.0)
    assert np.array_equal(shares, np.maximum(clipped[:, :-1] + 0.5, 0.0) / 1.5)
    assert np.array_equal(level, np.minimum((0.5 * (clipped[:, -1] + 1.0) * levels).astype(np.int64), levels - 1))
    with pytest.raises(ValueError, match="broadcast"):
        decode(actions, levels[:7])
