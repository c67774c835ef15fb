"""One image set in memory: what every loader returns and every trainer reads."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Dataset:
    """Images with whatever is known about them; the training loop itself only ever sees `images` and `group`.

    Attributes:
        name: short name for tables.
        images: (N, H, W, C) uint8, C is 1 or 3.
        group: (N,) int64, the unit that clients are split by (site, slide, plate); all 0 where the source has none.
        test: (N,) bool, images held out for probes; never trained on.
        labels: (N,) int64 class of each image, or None.
        counts: (N, kinds) int64 objects of each kind per image, or None.
        classes: names of the classes, in label order.
        kinds: names of the kinds counted, in column order.
        group_names: names of the groups, in order of `group`; empty where the source has no groups.
    """

    name: str
    images: NDArray[np.uint8]
    group: NDArray[np.int64]
    test: NDArray[np.bool_]
    labels: NDArray[np.int64] | None = None
    counts: NDArray[np.int64] | None = None
    classes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    group_names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.ndim != 4 or self.images.dtype != np.uint8 or self.images.shape[3] not in (1, 3):
            raise ValueError(f"images must be (N, H, W, 1 or 3) uint8, got {self.images.shape} {self.images.dtype}")
        for what, value in (("group", self.group), ("test", self.test), ("labels", self.labels), ("counts", self.counts)):
            if value is not None and len(value) != n:
                raise ValueError(f"{what} has {len(value)} rows for {n} images")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def has_groups(self) -> bool:
        """Whether the source named a unit to split clients by."""
        return len(self.group_names) > 1
