import numpy as np
import pytest

from fedcore.probes import effective_rank, feature_std


def isotropic(n: int = 4000, d: int = 16) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)


def test_isotropic_features_are_healthy():
    assert feature_std(isotropic()) == pytest.approx(1.0, abs=0.02)
    assert effective_rank(isotropic()) == pytest.approx(16, abs=0.1)


@pytest.mark.parametrize("value", [0.0, 2.5])
def test_constant_features_are_collapsed(value):
    features = np.full((50, 8), value, np.float32)
    assert feature_std(features) == pytest.approx(0.0, abs=1e-6)
    assert effective_rank(features) == 1.0


def test_features_on_a_line_have_rank_one_and_in_a_plane_two():
    line = isotropic()[:, :1] * np.arange(1, 9, dtype=np.float32)
    assert effective_rank(line + 5) == pytest.approx(1.0, abs=0.01)
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 2)))[0].T.astype(np.float32)
    assert effective_rank(isotropic(d=2) @ basis) == pytest.approx(2.0, abs=0.01)
    # Singular values 3 : 1 by hand: exp of the entropy of (3/4, 1/4).
    cross = np.array([[3, 0], [-3, 0], [0, 1], [0, -1]], np.float32)
    assert effective_rank(cross) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))


def test_nearly_alike_features_show_in_the_spread_whatever_their_scale():
    near = 0.01 * isotropic() + np.ones(16, np.float32)
    assert feature_std(near) == pytest.approx(0.01, rel=0.1)
    assert feature_std(1000 * near) == pytest.approx(feature_std(near), rel=1e-3)
