"""Guards against collapse: do the features still tell images apart?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def feature_std(features: NDArray[np.float32]) -> float:
    """Mean standard deviation of the normalised features' entries times sqrt(D): 1 is isotropic, 0 is collapsed."""
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return float(unit.std(axis=0).mean() * np.sqrt(features.shape[1]))


def effective_rank(features: NDArray[np.float32]) -> float:
    """exp of the entropy of the normalised singular values of the centred features (Roy and Vetterli 2007)."""
    values = np.linalg.svd(features - features.mean(0), compute_uv=False)
    total = values.sum()
    if total <= 1e-12:
        return 1.0
    p = values / total
    p = p[p > 1e-12]
    return float(np.exp(-(p * np.log(p)).sum()))
