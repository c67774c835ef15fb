"""Features of an image set under whole weights."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedcore.augment import normalise
from fedcore.blocks import whole_weights
from fedcore.model import Model
from fedcore.neurons import State


def to_tensor(images: NDArray[np.uint8]) -> Tensor:
    """(N, H, W, C) uint8 array to (N, C, H, W) uint8 tensor, contiguous."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


@torch.inference_mode()
def extract_features(model: Model, state: State, images: NDArray[np.uint8], batch_size: int = 256) -> NDArray[np.float32]:
    """Features of every image, (N, feature_dim) float32."""
    weights = whole_weights(state)
    tensor = to_tensor(images)
    parts = [model.encoder.features(weights, normalise(chunk)) for chunk in tensor.split(batch_size)]
    return torch.cat(parts).numpy()


def raw_pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Pixels as features, (N, H*W*C) float32 in [0, 1]: the reference that keeps an encoder honest."""
    return images.reshape(len(images), -1).astype(np.float32) / 255.0


RAW_COMPONENTS = 128
"""Principal components of raw pixels that linear probes see."""


def principal(features: NDArray[np.float32], some: NDArray[np.int64], seed: int) -> NDArray[np.float32]:
    """(N, at most `RAW_COMPONENTS`) principal components of many features, such as raw pixels; as they are where they are few.
    No more than one for eight images that they are found on: probes give every component the same spread, and the last ones
    are noise.

    Args:
        features: (N, D).
        some: indices of those that the components are found on.
        seed: of the randomised solver.
    """
    if features.shape[1] <= RAW_COMPONENTS:
        return features
    from sklearn.decomposition import PCA

    pca = PCA(min(RAW_COMPONENTS, max(2, len(some) // 8)), svd_solver="randomized", random_state=seed)
    return np.asarray(pca.fit(features[some]).transform(features))
