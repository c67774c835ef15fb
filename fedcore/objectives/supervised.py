"""Supervised classification: the reference that label-free objectives are held against, and a plain load for timing."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fedcore.augment import Augmentation, random_view
from fedcore.blocks import Weights
from fedcore.encoders.base import Encoder
from fedcore.neurons import Layer, NeuronMap, Parameter
from fedcore.objectives.base import Features, Objective
from fedcore.samples import Batch, Samples
from scenarios.errors import InputError


class Supervised(Objective):
    """Cross entropy of a linear classifier on the features, one view per image.

    Args:
        encoder: what it sits on.
        classes: number of classes; labels run from 0 to classes - 1.
        augment: whether the view is a random one; otherwise the image as it is, normalised.
    """

    views_per_sample = 1
    head_views = 1
    norm_gains = frozenset()

    def __init__(self, encoder: Encoder, classes: int = 10, augment: bool = False) -> None:
        if classes < 2:
            raise InputError(f"supervised: classes is {classes}, expected at least 2")
        self.classes, self.augment = classes, augment
        name = "classifier"
        self.heads = NeuronMap(
            (Layer(name, classes, always_visible=True),),
            (
                Parameter(f"{name}.weight", (classes, encoder.feature_dim), name, encoder.feature_columns, macs=1),
                Parameter(f"{name}.bias", (classes,), name),
            ),
        )

    def draw(self, samples: Samples, chosen: Tensor, how: Augmentation, generator: torch.Generator) -> Batch:
        """See `Objective.draw`.

        Raises:
            InputError: samples without labels, or a label beyond the classes.
        """
        if samples.labels is None:
            raise InputError("objective supervised needs samples with labels, got none: choose a labelled set or simclr")
        labels = samples.labels[chosen]
        if int(labels.min()) < 0 or int(labels.max()) >= self.classes:
            wrong = int(labels.min()) if int(labels.min()) < 0 else int(labels.max())
            raise InputError(f"supervised: classes is {self.classes}, but a sample is labelled {wrong}: raise classes")
        x = samples.images(chosen)
        return Batch((random_view(x, how, generator) if self.augment else x,), labels)

    def loss(self, features: Features, weights: Weights, target: Weights | None, batch: Batch) -> Tensor:
        """See `Objective.loss`."""
        assert batch.labels is not None
        x = features(weights, batch.views[0])
        logits = weights.linear(x, "classifier.weight") + weights.vector("classifier.bias")
        return F.cross_entropy(logits, batch.labels)
