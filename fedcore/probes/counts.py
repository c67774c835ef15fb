"""Count regression: how many objects of each kind are in an image, from frozen features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


@dataclass(frozen=True)
class CountScore:
    """Quality of predicted counts on held-out images.

    Attributes:
        r2_log: mean over kinds of R2 of log(1 + count), the headline.
        r2_log_per_kind: the same, per kind.
        mae_per_kind: mean absolute error in objects per image.
        bias_per_kind: mean signed error in objects per image.
    """

    r2_log: float
    r2_log_per_kind: tuple[float, ...]
    mae_per_kind: tuple[float, ...]
    bias_per_kind: tuple[float, ...]


def count_regression(
    train_features: NDArray[np.float32],
    train_counts: NDArray[np.int64],
    test_features: NDArray[np.float32],
    test_counts: NDArray[np.int64],
) -> CountScore:
    """Ridge regression (penalty by leave-one-out) of log(1 + count) on standardised features.

    Args:
        train_features: (N, D).
        train_counts: (N, kinds).
        test_features: (M, D).
        test_counts: (M, kinds).
    """
    probe = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(-1, 5, 13)))
    probe.fit(train_features, np.log1p(train_counts))
    guess = np.asarray(probe.predict(test_features)).reshape(len(test_features), -1)
    truth = np.log1p(test_counts)
    spread = np.maximum(((truth - truth.mean(0)) ** 2).sum(0), 1e-12)
    r2 = 1.0 - ((truth - guess) ** 2).sum(0) / spread
    error = np.expm1(guess) - test_counts
    return CountScore(
        float(r2.mean()),
        tuple(float(v) for v in r2),
        tuple(float(v) for v in np.abs(error).mean(0)),
        tuple(float(v) for v in error.mean(0)),
    )


def knn_count_r2(
    train_features: NDArray[np.float32],
    train_counts: NDArray[np.int64],
    test_features: NDArray[np.float32],
    test_counts: NDArray[np.int64],
    k: int = 20,
) -> float:
    """Mean R2 of log counts predicted by the k nearest neighbours; arguments as `count_regression`."""
    probe = KNeighborsRegressor(n_neighbors=min(k, len(train_features))).fit(train_features, np.log1p(train_counts))
    truth = np.log1p(test_counts)
    return float(r2_score(truth, probe.predict(test_features)))
