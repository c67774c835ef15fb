import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.freshness import FRESH_STEPS, refresh, taught_parts, variety_of


def parts(shares, samples) -> np.ndarray:
    return taught_parts(np.array(shares, dtype=float), np.array(samples, dtype=float))


def test_whole_layers_are_taught_in_proportion_to_samples():
    assert parts([1, 1, 0], [30, 60, 10]) == pytest.approx([1 / 3, 2 / 3, 0])
    assert parts([0, 0.3, 0], [30, 60, 10]).tolist() == [0, 1, 0]


def test_what_a_machine_holds_alone_it_teaches_alone():
    # Of two that hold half of the layer each, a half meets nobody, and is theirs; the rest is split 3 to 1.
    assert parts([0.5, 0.5], [30, 10]) == pytest.approx(np.array([0.5 + 0.5 * 0.75, 0.5 + 0.5 * 0.25]) / 1.5)
    # A whole layer beside small shares: most of it meets nobody, however few the samples.
    assert parts([1, 0.1], [24, 240])[0] > 0.9


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0.02, 1.0), st.integers(16, 500)), min_size=1, max_size=8))
def test_parts_agree_with_blocks_drawn_at_random(fleet):
    shares, samples = (np.array(field, dtype=float) for field in zip(*fleet, strict=True))
    rng = np.random.default_rng(0)
    holds = rng.random((20_000, len(fleet))) < shares
    weights = holds * samples
    taught = weights / np.maximum(weights.sum(axis=1, keepdims=True), 1e-9)
    mean = taught.sum(axis=0) / taught.sum()
    assert taught_parts(shares, samples).sum() == pytest.approx(1.0)
    assert taught_parts(shares, samples) == pytest.approx(mean, abs=0.12)


def test_the_last_steps_samples_are_kishs_effective_number():
    samples, part = np.array([30.0, 60.0, 0.0]), np.zeros(3)
    everyone, first = np.array([1.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0])
    # Everyone in proportion to their samples: as many as there are.
    assert refresh(part, everyone, samples, 10.0) == pytest.approx(90.0)
    assert part == pytest.approx([1 / 3, 2 / 3, 0.0])
    # Then the first alone: its part grows with the steps.
    left = 2 / 3 * np.exp(-40.0 / FRESH_STEPS)
    assert refresh(part, first, samples, 40.0) == pytest.approx(1 / ((1 - left) ** 2 / 30 + left**2 / 60))
    assert part == pytest.approx([1 - left, left, 0.0])
    assert refresh(part, first, samples, 1e9) == pytest.approx(30.0)


def test_variety_is_how_many_machines_teach_evenly():
    part, samples = np.zeros(4), np.full(4, 50.0)
    refresh(part, np.array([0.5, 0.5, 0.5, 0.0]), samples, 10.0)
    assert variety_of(part) == pytest.approx(3.0)
    refresh(part, np.array([1.0, 0.0, 0.0, 0.0]), samples, 1e9)
    assert variety_of(part) == pytest.approx(1.0)
