"""What tests of agents share."""

import pytest


@pytest.fixture(autouse=True)
def short_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies in training are tried on few episodes: how often, not how well, is what tests are about."""
    monkeypatch.setattr("agents.trial.EPISODES", 16)
