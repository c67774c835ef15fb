"""Which images are held out: whole groups for probes, a part of every group where only membership may differ."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedcore.data.catalogue import Catalogue
from fedcore.data.holdout import hold_out, hold_out_within


@given(sizes=st.lists(st.integers(5, 40), min_size=4, max_size=9), fraction=st.floats(0.1, 0.4), seed=st.integers(0, 99))
def test_whole_groups_are_held_out_or_a_part_of_each(sizes: list[int], fraction: float, seed: int) -> None:
    group = np.repeat(np.arange(len(sizes)), sizes)
    rows = Catalogue(len(group), group=group)
    whole = hold_out(rows, fraction, np.random.default_rng(seed))
    assert all(whole[group == g].all() or not whole[group == g].any() for g in range(len(sizes)))
    within = hold_out_within(rows, fraction, np.random.default_rng(seed))
    assert within.sum() == round(fraction * len(group))
    for g, n in enumerate(sizes):
        assert abs(within[group == g].sum() - fraction * n) <= 1.5
