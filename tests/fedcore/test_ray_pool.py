"""Jobs over Ray give what they give on this machine's cores."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from fedcore import ray_pool as module
from fedcore.parallel import run_kept
from fedcore.ray_pool import ray_pool
from scenarios import InputError

ROOT = Path(__file__).parents[2]


def test_without_ray_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^--engine ray needs Ray.*pip install 'intrafed\[ray\]'$"), ray_pool(1):
        pass


needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'intrafed[ray]'")


@pytest.mark.slow
@needs_ray
def test_results_are_kept_and_bad_input_is_told(tmp_path):
    jobs = {tmp_path / f"{n}.json": (json.loads, (f"[{n}]",)) for n in range(3)}
    assert run_kept(jobs, 2, "jobs", ray_pool) == {path: json.loads(path.read_text()) for path in jobs}
    from scenarios import load

    with pytest.raises(InputError, match="no-such-scenario"):
        run_kept({tmp_path / "bad.json": (load, ("no-such-scenario",))}, 1, "jobs", ray_pool)
    assert not (tmp_path / "bad.json").exists()


@pytest.mark.slow
@needs_ray
def test_the_benchmark_over_ray_has_the_same_table(tmp_path, monkeypatch):
    tables = []
    for engine in ("ray", "inprocess"):
        monkeypatch.setenv("INTRAFED_CACHE", str(tmp_path / engine))
        command = [sys.executable, "evaluate.py", "--benchmark", "--scenarios", "two-servers,farm-lte", "--episodes", "3"]
        command += ["--agents", "equal,enough,ppo-default", "--engine", engine, "--out", str(tmp_path / "runs" / engine)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        [page] = (tmp_path / "runs" / engine).glob("*/leaderboard.md")
        tables.append([line for line in page.read_text().splitlines() if line.startswith("|")])
    assert tables[0] == tables[1]
    assert len(tables[0]) > 5
