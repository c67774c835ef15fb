"""Which machine holds which training images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fedcore.data.dataset import Dataset
from scenarios.errors import InputError

SplitBy = Literal["auto", "group", "site", "class", "dirichlet", "iid"]
Indices = NDArray[np.int64]


def split_clients(
    dataset: Dataset,
    n_machines: int,
    rng: np.random.Generator,
    by: SplitBy = "auto",
    alpha: float = 0.3,
    *,
    min_images: int = 8,
) -> list[Indices]:
    """Deal the training images (`dataset.test` false) to the machines; every one goes to exactly one machine.

    Args:
        dataset: the set to split.
        n_machines: how many machines, at least 1.
        rng: source of all randomness.
        by: the rule.
            `group`: whole groups, the largest first, each to the machine with the fewest images; with fewer
            groups than machines the groups are cut, and every machine has images of one group only.
            `site`: the same, but no group is ever cut: every machine holds whole groups, as stations hold their own
            slides.
            `class`: as `group` with classes in place of groups: the hardest label skew.
            `dirichlet`: every class is spread by its own draw of Dirichlet(alpha) (Yurochkin et al. 2019).
            `iid`: at random, in equal parts.
            `auto`: `group` where training images come from several groups, else `dirichlet` where there are
            labels, else `iid`.
        alpha: concentration for `dirichlet`, 0.001 to 1e6: small is skewed, large is even.
        min_images: what every machine has at least. Where a rule gives one less, the machine with the most
            gives it random images of its own, even if that cuts a group; only `site` is refused instead.

    Returns:
        One sorted int64 array of indices into `dataset.images` per machine.

    Raises:
        InputError: too few training images, or no groups or labels for the rule, or too few or too small groups for
            `site`, or an argument out of range.
    """
    if by not in get_args(SplitBy):
        raise InputError(f"split is {by!r}; expected one of {', '.join(get_args(SplitBy))}")
    if n_machines < 1 or min_images < 1:
        raise InputError(f"n_machines is {n_machines} and min_images {min_images}; expected at least 1 of each")
    if not (math.isfinite(alpha) and 1e-3 <= alpha <= 1e6):
        raise InputError(f"alpha is {alpha}; expected a number from 0.001 to 1000000")
    training = np.flatnonzero(~dataset.test).astype(np.int64)
    if len(training) < n_machines * min_images:
        raise InputError(
            f"{dataset.name}: has {len(training)} training images; "
            f"expected at least {n_machines * min_images}, {min_images} for each of {n_machines} machines"
        )
    if by == "auto":
        by = _best_rule(dataset, training)
    parts = _deal(dataset, training, n_machines, rng, by, alpha)
    if by == "site":
        smallest = min(len(part) for part in parts)
        if smallest < min_images:
            raise InputError(
                f"{dataset.name}: the split 'site' leaves a machine with {smallest} training images; expected at least "
                f"{min_images}: choose fewer machines, or the split 'group', which cuts groups"
            )
        return [np.sort(part) for part in parts]
    _repair(parts, rng, min_images)
    return [np.sort(part) for part in parts]


def _best_rule(dataset: Dataset, training: Indices) -> SplitBy:
    if dataset.has_groups and len(np.unique(dataset.group[training])) > 1:
        return "group"
    return "iid" if dataset.labels is None else "dirichlet"


def _deal(
    dataset: Dataset, training: Indices, n_machines: int, rng: np.random.Generator, by: SplitBy, alpha: float
) -> list[Indices]:
    if by == "iid":
        return list(np.array_split(rng.permutation(training), n_machines))
    if by in ("group", "site"):
        if not dataset.has_groups:
            raise InputError(f"{dataset.name}: has no groups; expected some for the split '{by}', or another split")
        units = _units(training, dataset.group)
        if by == "site" and len(units) < n_machines:
            raise InputError(
                f"{dataset.name}: has training images of {len(units)} groups; expected at least {n_machines} for the split "
                "'site', one per machine: choose fewer machines, or the split 'group', which cuts groups"
            )
        return _whole_units(units, n_machines, rng)
    if dataset.labels is None:
        raise InputError(f"{dataset.name}: has no labels; expected some for the split '{by}', or another split")
    units = _units(training, dataset.labels)
    return _whole_units(units, n_machines, rng) if by == "class" else _dirichlet(units, n_machines, rng, alpha)


def _units(training: Indices, key: NDArray[np.int64]) -> list[Indices]:
    return [training[key[training] == value] for value in np.unique(key[training])]


def _whole_units(units: list[Indices], n_machines: int, rng: np.random.Generator) -> list[Indices]:
    if len(units) < n_machines:
        units = _cut(units, n_machines, rng)
    hands: list[list[Indices]] = [[] for _ in range(n_machines)]
    sizes = np.zeros(n_machines, dtype=np.int64)
    for u in _largest_first(units, rng):
        machine = int(np.argmin(sizes))
        hands[machine].append(units[u])
        sizes[machine] += len(units[u])
    # Without the shuffle machine 0 would always hold the largest unit.
    return [np.concatenate(hands[machine]) for machine in rng.permutation(n_machines)]


def _largest_first(units: list[Indices], rng: np.random.Generator) -> list[int]:
    order = rng.permutation(len(units))  # so that ties fall at random
    return [int(u) for u in sorted(order, key=lambda u: -len(units[u]))]


def _cut(units: list[Indices], n_parts: int, rng: np.random.Generator) -> list[Indices]:
    """Cut the units into `n_parts` parts of sizes as even as whole cuts of a unit allow."""
    cuts = np.ones(len(units), dtype=np.int64)
    sizes = np.array([len(unit) for unit in units])
    for _ in range(n_parts - len(units)):
        cuts[np.argmax(sizes / cuts)] += 1
    return [part for unit, n in zip(units, cuts, strict=True) for part in np.array_split(rng.permutation(unit), int(n))]


def _dirichlet(units: list[Indices], n_machines: int, rng: np.random.Generator, alpha: float) -> list[Indices]:
    hands: list[list[Indices]] = [[] for _ in range(n_machines)]
    for unit in units:
        shares = rng.dirichlet(np.full(n_machines, alpha))
        ends = np.rint(np.cumsum(shares)[:-1] * len(unit)).astype(np.int64)
        for hand, part in zip(hands, np.split(rng.permutation(unit), ends), strict=True):
            hand.append(part)
    return [np.concatenate(hand) for hand in hands]


def mix_sites(
    site: NDArray[np.int64], sizes: Sequence[int], rng: np.random.Generator, by: Literal["dirichlet", "iid"], alpha: float
) -> list[Indices]:
    """Deal images of several sites to machines that want so many each.

    Args:
        site: (N,) site of every image.
        sizes: images per machine, at least 1 each and at most N in all.
        rng: source of all randomness.
        by: `iid`: at random from all sites. `dirichlet`: every machine has its own mixture of sites, a draw of
            Dirichlet(alpha) (Hsu et al. 2019, with sites for classes); a site that has run out falls out of the mixture.
        alpha: concentration for `dirichlet`.

    Returns:
        One sorted int64 array of indices into `site` per machine; no image is dealt twice.

    Raises:
        ValueError: the machines want more images than there are.
    """
    if sum(sizes) > len(site):
        raise ValueError(f"{len(sizes)} machines want {sum(sizes)} images of {len(site)}")
    if by == "iid":
        shuffled = rng.permutation(len(site)).astype(np.int64)
        return [np.sort(part) for part in np.split(shuffled, np.cumsum(sizes))[:-1]]
    left = [rng.permutation(unit) for unit in _units(np.arange(len(site), dtype=np.int64), site)]
    parts: list[Indices] = [np.empty(0, np.int64)] * len(sizes)
    # In random order, since those who come late find sites that have run out.
    for machine in rng.permutation(len(sizes)):
        mixture, hand = rng.dirichlet(np.full(len(left), alpha)), []
        missing = sizes[machine]
        while missing:
            open_ = np.array([len(unit) > 0 for unit in left], dtype=np.float64)
            odds = mixture * open_ if (mixture * open_).sum() > 1e-12 else open_
            for s, wanted in enumerate(rng.multinomial(missing, odds / odds.sum())):
                hand.append(left[s][:wanted])
                left[s] = left[s][wanted:]
                missing -= len(hand[-1])
        parts[machine] = np.sort(np.concatenate(hand))
    return parts


def _repair(parts: list[Indices], rng: np.random.Generator, min_images: int) -> None:
    # There are enough images in all, so while one machine has too few, the largest has some to spare.
    while min(len(part) for part in parts) < min_images:
        sizes = [len(part) for part in parts]
        poor, rich = int(np.argmin(sizes)), int(np.argmax(sizes))
        moved = min(min_images - sizes[poor], sizes[rich] - min_images)
        shuffled = rng.permutation(parts[rich])
        parts[poor] = np.concatenate([parts[poor], shuffled[:moved]])
        parts[rich] = shuffled[moved:]
