"""Microscopes differ: the same scene under other contrast methods, so that sites differ in low-level statistics too.

Crude models of the optics, applied to a bright-field picture. They make machines strongly non-IID: an encoder trained
on one instrument's pictures alone learns the others' poorly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float64]


def bright_field(x: Floats, rng: np.random.Generator) -> Floats:
    """As it is: dark objects on a bright ground."""
    return x


def negative_phase(x: Floats, rng: np.random.Generator) -> Floats:
    """Negative phase contrast: objects brighter than the ground."""
    return 255.0 - x


def interference(x: Floats, rng: np.random.Generator) -> Floats:
    """Differential interference contrast (Nomarski): the gradient along the shear axis, as relief."""
    return 128.0 + 2.5 * (x - np.roll(x, (1, 1), (1, 2)))


def phase(x: Floats, rng: np.random.Generator) -> Floats:
    """Phase contrast (Zernike): local contrast with halos, slow background gone."""
    return 128.0 + 3.0 * (x - ndimage.gaussian_filter(x, (0, 2.0, 2.0)))


def fluorescence(x: Floats, rng: np.random.Generator) -> Floats:
    """Fluorescence: stained objects glow on black, blurred by out-of-focus light, photons are few."""
    glow = np.clip(np.median(x, axis=(1, 2), keepdims=True) - x, 0.0, None) * 2.0
    glow = ndimage.gaussian_filter(glow, (0, 0.8, 0.8))
    return 20.0 + glow + rng.normal(size=x.shape) * np.sqrt(glow + 10.0) * 1.5


def dark_field(x: Floats, rng: np.random.Generator) -> Floats:
    """Dark field: only edges scatter light into the objective."""
    return np.hypot(ndimage.sobel(x, 1), ndimage.sobel(x, 2))


MODALITIES: dict[str, Callable[[Floats, np.random.Generator], Floats]] = {
    "bright-field": bright_field,
    "negative-phase": negative_phase,
    "interference": interference,
    "phase": phase,
    "fluorescence": fluorescence,
    "dark-field": dark_field,
}
"""Name -> (n, size, size) grey levels to grey levels; a new one is one line."""


def mixed_instruments(images: NDArray[np.uint8], site: NDArray[np.int64], seed: int) -> NDArray[np.uint8]:
    """Give site k the k-th contrast method, cyclically.

    Args:
        images: (N, size, size, 1) uint8 bright-field pictures.
        site: (N,) site of each.
        seed: of the noise; each site has a generator of its own, so that more sites leave the earlier ones alone.

    Returns:
        (N, size, size, 1) uint8.
    """
    out = images.astype(np.float64)[..., 0]
    methods = list(MODALITIES.values())
    for k in np.unique(site):
        own = site == k
        out[own] = methods[int(k) % len(methods)](out[own], np.random.default_rng([seed, int(k), 17]))
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)[..., None]
