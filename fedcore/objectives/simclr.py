"""SimCLR (Chen et al. 2020): each view must find its partner among all views of the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcore.blocks import Weights
from fedcore.encoders.base import Encoder
from fedcore.objectives.base import Features, Objective
from fedcore.objectives.heads import apply_head, mlp_head
from fedcore.samples import Batch
from scenarios.errors import InputError


def nt_xent(z: Tensor, temperature: float) -> Tensor:
    """Normalised temperature-scaled cross entropy (SimCLR, equation 1).

    Args:
        z: (2N, D); rows i and i + N are views of one image.
        temperature: tau.

    Returns:
        Mean over all 2N anchors.
    """
    z = F.normalize(z, dim=1)
    similarity = z @ z.T / temperature
    similarity.fill_diagonal_(float("-inf"))
    n = len(z) // 2
    partner = torch.arange(2 * n).roll(n)
    return F.cross_entropy(similarity, partner)


class SimCLR(Objective):
    """NT-Xent through a projector with batch norm in its hidden layer.

    Args:
        encoder: what it sits on.
        hidden: projector's hidden units.
        outputs: width of the projection.
        temperature: tau.

    Raises:
        InputError: a temperature that is not above 0.
    """

    def __init__(self, encoder: Encoder, hidden: int = 256, outputs: int = 128, temperature: float = 0.1) -> None:
        if not 0.0 < temperature < float("inf"):
            raise InputError(f"simclr: temperature is {temperature}, expected a finite number above 0")
        self.heads = mlp_head("projector", encoder.feature_columns, encoder.feature_dim, hidden, outputs)
        self.norm_gains = frozenset({"projector.hidden.gain"})
        self.temperature = temperature

    def loss_numbers(self, batch: int) -> int:
        """See `Objective.loss_numbers`: log-probabilities of all pairs of views, and their gradient."""
        return 2 * (self.head_views * batch) ** 2

    def loss(self, features: Features, weights: Weights, target: Weights | None, batch: Batch) -> Tensor:
        """See `Objective.loss`."""
        z = apply_head(weights, "projector", features(weights, torch.cat(batch.views)))
        return nt_xent(z, self.temperature)
