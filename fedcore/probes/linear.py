"""Linear probe: logistic regression on frozen, standardised features (scikit-learn)."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def linear_guesses(
    train_features: NDArray[np.float32], train_labels: NDArray[np.int64], test_features: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Class of every test image by logistic regression, (M,); with one class to learn from, that class.

    Args:
        train_features: (N, D).
        train_labels: (N,).
        test_features: (M, D).
    """
    if (train_labels == train_labels[0]).all():
        return np.full(len(test_features), train_labels[0])
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=300))
    with warnings.catch_warnings():
        # 300 L-BFGS steps are the protocol; whether the last digit has settled does not matter for a probe.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(train_features, train_labels)
    return np.asarray(probe.predict(test_features))


def linear_accuracy(
    train_features: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test_features: NDArray[np.float32],
    test_labels: NDArray[np.int64],
    balanced: bool = False,
) -> float:
    """Test accuracy of a logistic regression; arguments as `knn_accuracy`."""
    guess = linear_guesses(train_features, train_labels, test_features)
    return float(balanced_accuracy_score(test_labels, guess) if balanced else np.mean(guess == test_labels))
