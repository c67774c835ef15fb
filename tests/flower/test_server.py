"""The ServerApp."""

import pytest

pytest.importorskip("flwr")

from types import SimpleNamespace

from agents import flower_server
from agents.real_run import FAILED
from fedcore.claim import claimed


@pytest.fixture
def call(monkeypatch, tmp_path):
    """The app as Flower calls it; returns the folders of the jobs that it plays."""
    played = []
    monkeypatch.setattr(flower_server, "GRACE_S", 0.1)
    monkeypatch.setattr(flower_server, "end_with_parent", lambda grace_s: None)
    monkeypatch.setattr(flower_server, "FlowerTransport", lambda grid: grid)
    monkeypatch.setattr(flower_server, "Job", SimpleNamespace(read=lambda path: SimpleNamespace(folder=str(path))))
    monkeypatch.setattr(flower_server, "run_job", lambda job, transport: played.append(job.folder))

    def call() -> list[str]:
        flower_server.app(None, SimpleNamespace(run_config={"job": str(tmp_path)}))
        return played

    return call


def test_a_run_that_was_submitted_twice_is_played_once(call, tmp_path, capsys):
    with claimed(tmp_path / flower_server.OWN, "run"):
        assert call() == []
    assert "in use by another run" in capsys.readouterr().out
    assert not (tmp_path / FAILED).exists()
    assert not (tmp_path / flower_server.PROCESS).exists()
    assert call() == [str(tmp_path)]
    assert (tmp_path / flower_server.PROCESS).exists()


def test_why_it_failed_is_left_in_its_folder(call, tmp_path, monkeypatch):
    def fail(job, transport):
        raise ValueError("so")

    monkeypatch.setattr(flower_server, "run_job", fail)
    with pytest.raises(ValueError, match="so"):
        call()
    assert "ValueError: so" in (tmp_path / FAILED).read_text()
