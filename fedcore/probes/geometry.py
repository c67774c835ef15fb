"""Alignment and uniformity (Wang and Isola 2020): label-free figures of where features lie on the sphere."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Geometry:
    """Both figures of one encoder; lower is better for either, and a collapsed encoder has both at 0.

    Attributes:
        alignment: mean squared distance of positive pairs, 0 to 4.
        uniformity: log of the mean Gaussian potential, -8 to 0; -8 is out of reach for more than two points.
    """

    alignment: float
    uniformity: float


def alignment(a: Tensor, b: Tensor) -> float:
    """E ||f(x) - f(y)||^2 over positive pairs (section 4.1, alpha = 2).

    Args:
        a: (N, D) features of one view of each image, on the unit sphere.
        b: (N, D) of the other view.
    """
    return float((a - b).square().sum(dim=1).mean())


def uniformity(x: Tensor) -> float:
    """log E exp(-2 ||f(x) - f(y)||^2) over all pairs of different images (section 4.1, t = 2).

    Args:
        x: (N, D) features on the unit sphere, N at least 2.
    """
    return float(torch.pdist(x).square().mul(-2.0).exp().mean().log())


def centred_sphere(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Features of two views, (N, D) each, without their common mean and scaled to length 1: what both views share tells
    no image from another, and kNN sees features so."""
    centre = torch.cat([a, b]).mean(dim=0)
    one, two = (F.normalize(f - centre, dim=1, eps=1e-6) for f in (a, b))
    return one, two


def geometry_of(a: Tensor, b: Tensor) -> Geometry:
    """Both figures of features of two views, (N, D) each, as an encoder gives them; uniformity is the two views' mean."""
    one, two = centred_sphere(a, b)
    return Geometry(alignment(one, two), 0.5 * (uniformity(one) + uniformity(two)))
