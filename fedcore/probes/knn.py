"""Weighted k-nearest-neighbour classification of frozen features (Wu et al. 2018, as DINO and EasyFL evaluate)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

MOST_NEIGHBOURS, LEAST_NEIGHBOURS = 200, 5
TEMPERATURE = 0.1


def protocol_neighbours(n_train: int, n_classes: int) -> int:
    """k of the protocol: Wu et al.'s 200 where the mean class has 2,000 training images or more, else a tenth of the mean
    class, at least 5; with more, a small class is outvoted in its own neighbourhood.

    Args:
        n_train: training images.
        n_classes: classes among them.
    """
    return min(n_train, MOST_NEIGHBOURS, max(LEAST_NEIGHBOURS, n_train // (10 * n_classes)))


@torch.inference_mode()
def knn_guesses(
    train_features: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test_features: NDArray[np.float32],
    k: int | None = None,
    temperature: float = TEMPERATURE,
) -> NDArray[np.int64]:
    """Class of every test image by cosine kNN, features centred, votes weighted by exp(similarity / temperature).

    Args:
        train_features: (N, D).
        train_labels: (N,).
        test_features: (M, D).
        k: neighbours, at most N are used; None: `protocol_neighbours`.
        temperature: of the votes.

    Returns:
        (M,).
    """
    if k is None:
        k = protocol_neighbours(len(train_labels), len(np.unique(train_labels)))
    centre = train_features.mean(0)
    bank = torch.nn.functional.normalize(torch.from_numpy(train_features - centre), dim=1)
    query = torch.nn.functional.normalize(torch.from_numpy(test_features - centre), dim=1)
    labels = torch.from_numpy(train_labels)
    guesses = []
    for part in query.split(512):
        similarity, index = (part @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(part), int(train_labels.max()) + 1)
        votes.scatter_add_(1, labels[index], (similarity / temperature).exp())
        guesses.append(votes.argmax(dim=1))
    return torch.cat(guesses).numpy()


def knn_accuracy(
    train_features: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test_features: NDArray[np.float32],
    test_labels: NDArray[np.int64],
    k: int | None = None,
    temperature: float = TEMPERATURE,
    balanced: bool = False,
) -> float:
    """Accuracy of `knn_guesses`.

    Args:
        train_features: (N, D).
        train_labels: (N,).
        test_features: (M, D).
        test_labels: (M,).
        k: neighbours, at most N are used; None: `protocol_neighbours`.
        temperature: of the votes.
        balanced: mean over classes of the accuracy within each, for imbalanced sets.
    """
    right = knn_guesses(train_features, train_labels, test_features, k, temperature) == test_labels
    if balanced:
        return float(np.mean([right[test_labels == c].mean() for c in np.unique(test_labels)]))
    return float(right.mean())
