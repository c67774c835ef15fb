"""The examples run, in a short setting."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sb3_ppo() -> None:
    assert np.isfinite(example("sb3_ppo").main(256))


def test_single_file_ppo() -> None:
    scores = example("single_file_ppo").main(6 * 64 * 32)
    assert len(scores) > 64
    assert np.isfinite(scores).all()
    assert len((FOLDER / "single_file_ppo.py").read_text().splitlines()) < 150


def test_mo_gymnasium() -> None:
    pytest.importorskip("mo_gymnasium")
    vector, weighted = example("mo_gymnasium_weights").main()
    assert weighted == pytest.approx(vector @ [3, 1, 1, 1], rel=1e-4)
    assert vector[0] > 0.9


def test_rllib() -> None:
    pytest.importorskip("ray.rllib")
    assert example("rllib_ppo").main(1, 256) >= 256


def test_every_example_is_linked() -> None:
    text = (FOLDER.parent / "environments.md").read_text()
    for path in FOLDER.glob("*.py"):
        assert f"examples/{path.name}" in text
