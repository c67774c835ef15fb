"""What is known of each image of a set before any of them is decoded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Catalogue:
    """One row per image, in the order of the images; None where the source says nothing.

    Attributes:
        n: how many images there are.
        files: (n) names inside the folder or zip; empty for an npz, which has no files.
        labels: (n,) int64 class of each image.
        counts: (n, kinds) int64.
        group: (n,) int64, index into `group_names`.
        test: (n,) bool, only where the source names the held-out images itself.
        classes: names in label order.
        kinds: names in column order.
        group_names: names in order of `group`.
    """

    n: int
    files: tuple[str, ...] = ()
    labels: NDArray[np.int64] | None = None
    counts: NDArray[np.int64] | None = None
    group: NDArray[np.int64] | None = None
    test: NDArray[np.bool_] | None = None
    classes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    group_names: tuple[str, ...] = ()


def number_names(names: list[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Number the names by sorted order: (n,) int64 indices and the distinct names they point to."""
    distinct = sorted(set(names))
    number = {name: i for i, name in enumerate(distinct)}
    return np.array([number[name] for name in names], dtype=np.int64), tuple(distinct)
