"""Shared by the environments' tests: a calibration of their own, so that no test leans on the shipped one's numbers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.observation import View
from scenarios import Scenario, load

CALIBRATION = {
    "name": "test",
    "dynamics": {
        "rate": 0.25, "ceiling": 1.5, "share_power": 0.1,
        "scaling": 0.8, "steps_power": 0.7, "cover_power": 0.5, "overlap_power": 0.1,
        "data_power": 0.2, "rest_samples": 0.5, "rest_power": 1.5, "fresh_part": 0.2,
        "gap_fade": 0.01, "context_power": 0.4, "noise": 0.015,
        "run_spread": 0.05, "machine_spread": 0.05, "tilt_spread": 0.02,
    },
    "untrained_infonce": 6.0,
    "target_infonce": 4.5,
    "fit": {},
}  # fmt: skip

Calibrated = Callable[..., Scenario]


@pytest.fixture(scope="session")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    """Scenarios, by name or given, on the tests' calibration; further sections are updated field by field."""
    path = tmp_path_factory.mktemp("calibration") / "test.json"
    path.write_text(json.dumps(CALIBRATION))

    def change(scenario: str | Scenario = "farm-lte", **sections: dict[str, Any]) -> Scenario:
        content = (load(scenario) if isinstance(scenario, str) else scenario).model_dump(mode="json")
        content["workload"]["calibration"] = str(path)
        for section, fields in sections.items():
            content[section].update(fields)
        return Scenario.model_validate(content)

    return change


@pytest.fixture(scope="session")
def tiny(calibrated: Calibrated) -> Scenario:
    """Two machines, 24 images each, an encoder of eight channels: a real round takes milliseconds."""
    content = calibrated().model_dump(mode="json")
    groups = content["fleet"]["groups"]
    for group in groups:
        group.update(count=1, images=24)
    content["name"] = "tiny"
    content["workload"].update(image_px=16, batch_size=8, encoder_options={"widths": [8, 8, 8]}, precision="fp32")
    content["decision"]["sync_intervals"] = [1, 2]
    content["reference"]["sync_interval"] = 2
    return Scenario.model_validate(content)


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the tests' own, shared between them."""
    path = tmp_path_factory.getbasetemp() / "intrafed-cache"
    monkeypatch.setenv("INTRAFED_CACHE", str(path))
    return path


@pytest.fixture
def hand() -> Callable[..., View]:
    """Makes what is seen of a fleet whose machines are alike but for what is said of them."""

    def make(**machine: list[float]) -> View:
        n = len(next(iter(machine.values())))
        ones = ("exists", "available", "max_share", "charge", "teaches")
        neutral = {**dict.fromkeys(ones, 1.0), "step_saving": 0.5, "data": 0.5}
        features = ("step_time", "upload_time", "download_time", "step_energy", "radio_energy", "idle_energy", "leaves",
                    "measurement_age", "surplus")  # fmt: skip
        fleet = {"energy_weight": 0.5, "teaches": 1.0, "reference_rounds": 0.75}
        fleet |= dict.fromkeys(("time_vs_reference", "energy_vs_reference", "bytes_vs_reference"), 0.0)
        return View(
            {
                **{name: np.zeros(n) for name in features},
                **{name: np.full(n, value) for name, value in neutral.items()},
                **{name: np.array(value) for name, value in machine.items()},
            },
            {name: np.array(value) for name, value in fleet.items()},
        )

    return make
