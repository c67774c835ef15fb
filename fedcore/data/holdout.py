"""Which images are held out for probes, and which are kept when fewer are wanted.

Split train/test by slide, never by tile: tiles of one slide share its stain, focus and light, and often
overlap the same organisms, so that a probe tested on the sister tiles of its training tiles reports memory,
not skill.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedcore.data.catalogue import Catalogue

MIN_GROUPS = 4  # below this, holding out a whole group would cost too much of the training set


def hold_out(catalogue: Catalogue, fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw the test images: whole groups where there are at least 4, else a fraction of every class.

    Returns:
        (n,) bool, about `fraction` of the images true; at least one is true and one false. A class keeps at
        least one training image where single images are drawn.
    """
    if catalogue.group is not None:
        sizes = np.bincount(catalogue.group)
        if np.count_nonzero(sizes) >= MIN_GROUPS:
            return _whole_groups(catalogue.group, sizes, fraction, rng)
    return hold_out_within(catalogue, fraction, rng)


def hold_out_within(catalogue: Catalogue, fraction: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """As `hold_out`, a fraction of every group and class: images that differ from those kept in nothing but not being kept.

    Returns:
        (n,) bool, as `hold_out`.
    """
    count = min(max(round(fraction * catalogue.n), 1), catalogue.n - 1)
    test = np.zeros(catalogue.n, dtype=np.bool_)
    test[_stratified(_strata(catalogue), count, rng, leave_one=True)] = True
    return test


def subsample(
    catalogue: Catalogue, test: NDArray[np.bool_], max_images: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Choose `max_images` (at least 2) in proportion to groups, classes and test share; sorted indices."""
    if max_images >= catalogue.n:
        return np.arange(catalogue.n)
    strata = _strata(catalogue)
    held_out, training = np.flatnonzero(test), np.flatnonzero(~test)
    n_test = min(max(round(max_images * len(held_out) / catalogue.n), 1), len(held_out), max_images - 1)
    n_test = max(n_test, max_images - len(training))
    kept = [
        part[_stratified(strata[part], count, rng)]
        for part, count in ((held_out, n_test), (training, max_images - n_test))
    ]
    return np.sort(np.concatenate(kept))


def _whole_groups(
    group: NDArray[np.int64], sizes: NDArray[np.int64], fraction: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    present = np.flatnonzero(sizes)
    target, total = fraction * len(group), 0
    chosen: list[int] = []
    for g in rng.permutation(present):
        size = int(sizes[g])
        if abs(total + size - target) < abs(total - target) and total + size < len(group):
            chosen.append(int(g))
            total += size
    if not chosen:  # every group is larger than twice the wanted fraction
        chosen = [int(present[np.argmin(sizes[present])])]
    return np.isin(group, chosen)


def _strata(catalogue: Catalogue) -> NDArray[np.int64]:
    known = [values for values in (catalogue.group, catalogue.labels) if values is not None]
    if not known:
        return np.zeros(catalogue.n, dtype=np.int64)
    return np.unique(np.stack(known, axis=1), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _stratified(
    strata: NDArray[np.int64], count: int, rng: np.random.Generator, leave_one: bool = False
) -> NDArray[np.int64]:
    """Draw `count` rows (fewer if `leave_one` forbids), every stratum in proportion to its size.

    Systematic sampling: the r-th of a stratum's n shuffled rows gets the key (r + u) / n, and the smallest
    keys win.
    """
    keys = np.empty(len(strata))
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        keys[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
        if leave_one:
            keys[rows[-1]] = np.inf
    chosen = np.argsort(keys, kind="stable")[:count]
    return chosen[np.isfinite(keys[chosen])]
