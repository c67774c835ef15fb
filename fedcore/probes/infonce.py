"""Held-out InfoNCE: the label-free progress signal.

A fixed server-side set of unlabeled images, two fixed views of each, one fixed temperature. It falls smoothly while
labelled probes first get worse, and a collapsed encoder goes to chance by itself (DESIGN section 6).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedcore.augment import Augmentation, normalise, random_view
from fedcore.blocks import whole_weights
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.probes.features import to_tensor
from fedcore.probes.geometry import centred_sphere
from scenarios.errors import InputError

PROBE_VIEWS = Augmentation(min_scale=0.7)
"""Milder than training's: the signal keeps falling for longer. The temperature is high enough that an untrained encoder
is better than chance, so that a collapsed one falls below where it began."""


class HeldOutInfoNCE:
    """InfoNCE (van den Oord et al. 2018) of features between two fixed views of held-out images.

    Args:
        images: (N, H, W, C) uint8 held-out images; chance is ln N.
        augmentation: what the views look like.
        seed: of the views and of the choice of images.
        size: how many images to use at most.
        temperature: fixed, so that values compare between objectives and runs.

    Raises:
        InputError: fewer than two images.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        augmentation: Augmentation = PROBE_VIEWS,
        seed: int = 0,
        size: int = 256,
        temperature: float = 0.5,
    ) -> None:
        if len(images) < 2:
            raise InputError(f"held-out InfoNCE tells images from each other: {len(images)} test images, expected at least 2")
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(images), generator=generator)[:size].numpy()
        x = normalise(to_tensor(images[np.sort(chosen)]))
        self.one = random_view(x, augmentation, generator)
        self.two = random_view(x, augmentation, generator)
        self.temperature = temperature

    @property
    def chance(self) -> float:
        """Value of features that tell nothing apart, ln N."""
        return float(np.log(len(self.one)))

    @torch.inference_mode()
    def features(self, model: Model, state: State) -> tuple[Tensor, Tensor]:
        """Features of both views of every image, (N, feature_dim) each."""
        weights = whole_weights(state)
        one, two = (
            torch.cat([model.encoder.features(weights, part) for part in view.split(256)]) for view in (self.one, self.two)
        )
        return one, two

    @torch.inference_mode()
    def loss(self, one: Tensor, two: Tensor) -> float:
        """The loss of such features; symmetric over the two views, features centred and normalised."""
        a, b = centred_sphere(one, two)
        logits = a @ b.T / self.temperature
        target = torch.arange(len(a))
        loss = torch.nn.functional.cross_entropy
        return float(0.5 * (loss(logits, target) + loss(logits.T, target)))

    def __call__(self, model: Model, state: State) -> float:
        """The loss of these weights."""
        return self.loss(*self.features(model, state))
