"""BYOL (Grill et al. 2020): predict the momentum target's projection of the other view."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcore.blocks import Weights
from fedcore.encoders.base import Encoder
from fedcore.objectives.base import Features, Objective
from fedcore.objectives.heads import apply_head, mlp_head
from fedcore.objectives.momentum import check_momentum
from fedcore.samples import Batch


class BYOL(Objective):
    """Symmetric squared distance of normalised predictions to normalised target projections (BYOL, equation 2).

    Batch norm in projector and predictor is not optional: without it training collapsed within 20 rounds.

    Args:
        encoder: what it sits on.
        hidden: hidden units of projector and predictor.
        outputs: width of projection and prediction.
        target_momentum: tau of the exponential moving average per local step, at the start.
        schedule_steps: K, local steps in which tau rises to 1 along half a cosine; None keeps it constant.
    """

    def __init__(
        self,
        encoder: Encoder,
        hidden: int = 256,
        outputs: int = 128,
        target_momentum: float = 0.99,
        schedule_steps: int | None = None,
    ) -> None:
        check_momentum("byol", target_momentum, schedule_steps)
        projector = mlp_head("projector", encoder.feature_columns, encoder.feature_dim, hidden, outputs)
        predictor = mlp_head("predictor", None, outputs, hidden, outputs)
        self.heads = projector + predictor
        self.norm_gains = frozenset({"projector.hidden.gain", "predictor.hidden.gain"})
        self.online_only = frozenset(p.name for p in predictor.parameters)
        self.target_momentum, self.schedule_steps = target_momentum, schedule_steps

    def loss(self, features: Features, weights: Weights, target: Weights | None, batch: Batch) -> Tensor:
        """See `Objective.loss`."""
        if target is None:
            raise ValueError("BYOL needs a momentum target")
        views = torch.cat(batch.views)
        with torch.no_grad():
            aim = apply_head(target, "projector", features(target, views))
            aim = F.normalize(aim.roll(len(batch.views[0]), dims=0), dim=1)
        z = apply_head(weights, "projector", features(weights, views))
        prediction = F.normalize(apply_head(weights, "predictor", z), dim=1)
        # Twice the mean over both directions is the symmetric loss 2 (2 - 2 cos).
        return 2.0 * (2.0 - 2.0 * (prediction * aim).sum(dim=1)).mean()
