"""Weighted k-nearest-neighbour classification of frozen features (Wu et al. 2018, as DINO and EasyFL evaluate)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


@torch.inference_mode()
def knn_accuracy(
    train_features: NDArray[np.float32],
    train_labels: NDArray[np.int64],
    test_features: NDArray[np.float32],
    test_labels: NDArray[np.int64],
    k: int = 20,
    temperature: float = 0.1,
    balanced: bool = False,
) -> float:
    """Accuracy of cosine kNN with votes weighted by exp(similarity / temperature).

    Args:
        train_features: (N, D).
        train_labels: (N,).
        test_features: (M, D).
        test_labels: (M,).
        k: neighbours, at most N.
        temperature: of the votes.
        balanced: mean over classes of the accuracy within each, for imbalanced sets.
    """
    bank = torch.nn.functional.normalize(torch.from_numpy(train_features - train_features.mean(0)), dim=1)
    query = torch.nn.functional.normalize(torch.from_numpy(test_features - train_features.mean(0)), dim=1)
    labels = torch.from_numpy(train_labels)
    classes = int(max(train_labels.max(), test_labels.max())) + 1
    guesses = []
    for part in query.split(512):
        similarity, index = (part @ bank.T).topk(min(k, len(bank)), dim=1)
        votes = torch.zeros(len(part), classes)
        votes.scatter_add_(1, labels[index], (similarity / temperature).exp())
        guesses.append(votes.argmax(dim=1))
    right = torch.cat(guesses).numpy() == test_labels
    if balanced:
        return float(np.mean([right[test_labels == c].mean() for c in np.unique(test_labels)]))
    return float(right.mean())
