"""VICReg (Bardes et al. 2022): views agree, every dimension varies, no two dimensions say the same."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcore.augment import Augmentation
from fedcore.blocks import Weights
from fedcore.encoders.base import Encoder
from fedcore.objectives.base import Features, Objective
from fedcore.objectives.heads import apply_head, mlp_head
from fedcore.samples import Batch, Samples
from scenarios.errors import InputError

EPSILON = 1e-4
"""Under the root of the standard deviation (equation 2)."""


def variance_term(z: Tensor) -> Tensor:
    """v(Z): how far below 1 the standard deviation of every dimension is, on average (VICReg, equations 1 and 2).

    Args:
        z: (N, D).
    """
    return F.relu(1.0 - (z.var(dim=0) + EPSILON).sqrt()).mean()


def covariance_term(z: Tensor) -> Tensor:
    """c(Z): squared covariances off the diagonal, summed, over D (VICReg, equations 3 and 4).

    Args:
        z: (N, D).
    """
    z = z - z.mean(dim=0)
    covariance = z.T @ z / (len(z) - 1)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / z.shape[1]


class VICReg(Objective):
    """lambda s(Z, Z') + mu (v(Z) + v(Z')) + nu (c(Z) + c(Z')) through an expander (VICReg, equation 6).

    s is the mean squared difference over samples AND dimensions, as in the paper's algorithm 1, for which the default
    weights are meant; its equation 5 leaves out the division by D.

    Args:
        encoder: what it sits on.
        hidden: expander's hidden units.
        outputs: D, width of the expansion.
        invariance: lambda.
        variance: mu.
        covariance: nu.
    """

    def __init__(
        self,
        encoder: Encoder,
        hidden: int = 256,
        outputs: int = 256,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> None:
        self.heads = mlp_head("projector", encoder.feature_columns, encoder.feature_dim, hidden, outputs)
        self.norm_gains = frozenset({"projector.hidden.gain"})
        self.invariance, self.variance, self.covariance = invariance, variance, covariance

    def draw(self, samples: Samples, chosen: Tensor, how: Augmentation, generator: torch.Generator) -> Batch:
        """See `Objective.draw`.

        Raises:
            InputError: a single sample, of which there is no variance.
        """
        if len(chosen) < 2:
            raise InputError(
                f"objective vicreg drew a batch of {len(chosen)}, expected at least 2: raise batch_size, or leave out machines "
                "with a single sample"
            )
        return super().draw(samples, chosen, how, generator)

    def loss_numbers(self, batch: int) -> int:
        """See `Objective.loss_numbers`: the covariances of both views, kept, and four matrices on the way back."""
        return 6 * self.heads.layer("projector.out").neurons ** 2

    def loss(self, features: Features, weights: Weights, target: Weights | None, batch: Batch) -> Tensor:
        """See `Objective.loss`."""
        one, two = apply_head(weights, "projector", features(weights, torch.cat(batch.views))).chunk(2)
        return (
            self.invariance * F.mse_loss(one, two)
            + self.variance * (variance_term(one) + variance_term(two))
            + self.covariance * (covariance_term(one) + covariance_term(two))
        )
