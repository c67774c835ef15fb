"""Returns rank policies as the score does, as far as docs/rewards.md says they do."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from scenarios import load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ranking() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reward_ranking", ROOT / "benchmarks" / "reward_ranking.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reward_ranking"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["farm-lte", "phones", "solar-field"])
def test_twelve_policies_in_order(name: str, ranking: ModuleType, calibrated: Any) -> None:
    r = ranking.rank(calibrated(name), 32)
    names = list(ranking.POLICIES)
    assert len(names) == 12
    assert np.ptp(r.score) > 5
    # The default's return is the score.
    assert r.returned["efficiency"] == pytest.approx(r.score, abs=1e-9)
    for kind in ("ratio", "lagrangian", ranking.VECTOR):
        assert r.agreement(kind) > 0.9
    for kind in ("efficiency", "ratio", "lagrangian"):
        assert r.place("nobody", kind) == 12
        assert r.place("tiny cheap rounds", kind) >= 9
    # The vector prices doing nothing like training badly, and never like training well.
    assert r.place("nobody", ranking.VECTOR) >= 10


@pytest.mark.parametrize("name", ["farm-lte", "phones", "solar-field"])
def test_ratio_in_order_where_targets_are_missed(name: str, ranking: ModuleType) -> None:
    assert ranking.rank(load(name), 64).agreement("ratio") > 0.9


@pytest.mark.parametrize("kind", ["efficiency", "lagrangian"])
def test_one_machine_only_is_degenerate_where_its_data_are_too_few(kind: str, ranking: ModuleType) -> None:
    r = ranking.rank(load("phones"), 32)
    assert r.place("one machine only", kind) >= 11
    assert r.place("tiny cheap rounds", kind) >= 10
    for sound in ("equal", "speed", "makespan", "energy", "always longest H"):
        assert r.place(sound, kind) <= 8


def test_the_document_shows_what_the_script_prints(ranking: ModuleType) -> None:
    text = (ROOT / "docs" / "rewards.md").read_text()
    assert "python benchmarks/reward_ranking.py" in text
    for label in (*ranking.KINDS, *ranking.POLICIES, *ranking.SCENARIOS):
        assert f"| {label} |" in text or f" {label} |" in text or f"`{label}`" in text
