import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.probes.geometry import alignment, centred_sphere, geometry_of, uniformity

torch.set_num_threads(1)


def points(n: int, d: int, seed: int) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_both_by_hand():
    square = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])
    # A quarter turn moves every point by sqrt(2); of six pairs four are sqrt(2) apart and two are 2.
    assert alignment(square, square.roll(1, 0)) == pytest.approx(2.0)
    assert alignment(square, -square) == pytest.approx(4.0)
    assert uniformity(square) == pytest.approx(np.log((4 * np.exp(-4) + 2 * np.exp(-8)) / 6))
    assert uniformity(torch.tensor([[1.0, 0], [-1, 0]])) == pytest.approx(-8.0)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 30), d=st.integers(2, 12), seed=st.integers(0, 999))
def test_bounds_and_identical_views(n, d, seed):
    one, two = centred_sphere(points(n, d, seed), points(n, d, seed + 1000))
    assert alignment(one, one) == 0.0
    assert 0 <= alignment(one, two) <= 4 + 1e-4
    assert -8 - 1e-4 <= uniformity(one) <= 0
    assert uniformity(one.roll(1, 0)) == pytest.approx(uniformity(one), abs=1e-4)


def test_collapsed_features_have_both_at_zero():
    same = torch.full((20, 5), 0.7)
    assert geometry_of(same, same) == geometry_of(0 * same, 0 * same)
    assert geometry_of(same, same).alignment == geometry_of(same, same).uniformity == 0.0


def test_scale_and_offset_do_not_matter_and_spread_points_are_more_uniform():
    a, b = points(60, 8, 0), points(60, 8, 1)
    plain, moved = geometry_of(a, a + 0.1 * b), geometry_of(9 * a + 4, 9 * (a + 0.1 * b) + 4)
    assert moved.alignment == pytest.approx(plain.alignment, rel=1e-3)
    assert moved.uniformity == pytest.approx(plain.uniformity, rel=1e-3)
    one, two = centred_sphere(a, a + 0.1 * b)
    assert plain.uniformity == pytest.approx((uniformity(one) + uniformity(two)) / 2)
    clumped = geometry_of(a * torch.tensor([9.0, *[0.1] * 7]), a + 0.1 * b)
    assert clumped.uniformity > plain.uniformity
