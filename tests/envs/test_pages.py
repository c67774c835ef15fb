"""The committed pages are what the docstrings say."""

import io

import gymnasium as gym
import pytest
from PIL import Image

import envs  # noqa: F401 - registers
from envs.observation import FLEET_FEATURES, MACHINE_FEATURES
from envs.pages import ENVIRONMENTS, FOLDER, episode, meanings, page

SECTIONS = ["Description", "Observation Space", "Action Space", "Reward", "Starting State", "Episode End", "Arguments",
            "Version History"]  # fmt: skip


def test_every_registered_environment_has_a_page() -> None:
    assert {f"IntraFed/{name}" for name in ENVIRONMENTS} == {i for i in gym.registry if i.startswith("IntraFed/")}
    for name, cls in ENVIRONMENTS.items():
        entry = gym.spec(f"IntraFed/{name}").entry_point
        assert entry == f"{cls.__module__}:{cls.__name__}"


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_committed_pages_are_up_to_date(name: str) -> None:
    committed = (FOLDER / f"{name}.md").read_text()
    assert committed == page(name), "run `python -m envs.pages` and commit what it writes"
    headings = [line[3:] for line in committed.splitlines() if line.startswith("## ")]
    assert headings == SECTIONS


def test_every_feature_is_in_the_table_with_its_meaning() -> None:
    assert list(meanings("MACHINE_FEATURES")) == list(MACHINE_FEATURES)
    assert list(meanings("FLEET_FEATURES")) == list(FLEET_FEATURES)
    text = page("Orchestration-v0")
    assert "| `teaches` | how far its data alone can lead" in text
    assert "| `teaches` | how far all machines' data can lead" in text
    assert "| 2 of each machine | `step_time` | log10 of predicted seconds per step at share 1" in text
    assert text.count(" of each machine | ") == len(MACHINE_FEATURES)
    assert text.count(" of the fleet | ") == len(FLEET_FEATURES)


def test_the_picture_moves_and_is_small() -> None:
    committed = (FOLDER / "episode.gif").read_bytes()
    assert len(committed) < 1_000_000
    with Image.open(io.BytesIO(committed)) as image:
        assert getattr(image, "n_frames", 1) >= 8
        size = image.size
    with Image.open(io.BytesIO(episode(rounds=2))) as image:
        assert image.size == size
        assert getattr(image, "n_frames", 1) == 2
