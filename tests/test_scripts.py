"""The two scripts as a person runs them: sentences and exit codes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

ROOT = Path(__file__).parents[1]


def script(name: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def refused(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize("name", ["train_agent.py", "evaluate.py"])
def test_help_reads_like_documentation(name, tmp_path):
    done = script(name, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "simulat" in done.stdout
    assert "default" in done.stdout


def test_unknown_scenario(tmp_path):
    refused(script("train_agent.py", "--scenario", "farm-lt", cwd=tmp_path), "farm-lt", "did you mean 'farm-lte'")


def test_negative_bandwidth_and_misspelt_field(tmp_path):
    content = yaml.safe_load((ROOT / "scenarios" / "library" / "two-servers.yaml").read_text())
    content["fleet"]["groups"][0]["link"]["uplink_mbps"] = -3
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(content))
    refused(script("evaluate.py", "--scenarios", "bad.yaml", cwd=tmp_path), "bad.yaml", "uplink_mbps", "-3")
    content["fleet"]["groups"][0]["link"]["uplink_mbps"] = 3
    content["fleet"]["groups"][0]["link"]["downlink_mpbs"] = 3
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(content))
    refused(script("evaluate.py", "--scenarios", "bad.yaml", cwd=tmp_path), "bad.yaml", "downlink_mpbs")


def test_policy_cut_short(tmp_path):
    (tmp_path / "p.safetensors").write_bytes(b"\x10\x00\x00")
    refused(script("evaluate.py", "--policy", "p.safetensors", cwd=tmp_path), "p.safetensors", "cut short")


def test_data_that_is_not_there_or_not_data(tmp_path):
    refused(script("evaluate.py", "--data", "nowhere", cwd=tmp_path), "nowhere", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(script("evaluate.py", "--data", "empty", "--agents", "equal", cwd=tmp_path), "empty")
    np.savez(tmp_path / "set.npz", images=np.zeros((4, 8, 8), np.uint8))
    refused(script("evaluate.py", "--data", "set.npz", "--agents", "equal", cwd=tmp_path), "set.npz", "x")


def test_wrong_numbers(tmp_path):
    refused(script("evaluate.py", "--episodes", "0", cwd=tmp_path), "--episodes", "0")
    refused(script("train_agent.py", "--steps", "-5", cwd=tmp_path), "--steps", "-5")
    refused(script("train_agent.py", "--seed", "-1", cwd=tmp_path), "--seed is -1", "at least 0")


def test_a_folder_that_nothing_can_be_written_to_is_told_before_the_work(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    for name in ("train_agent.py", "evaluate.py"):
        refused(script(name, "--out", "file/runs", cwd=tmp_path), "file/runs cannot be written to")


def test_measuring_the_recipe_refuses_wrong_numbers(tmp_path):
    command = [sys.executable, "-m", "fedcore.curves", "--workers", "0"]
    refused(subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False), "--workers is 0")


def test_two_scenarios_of_one_name_and_what_a_benchmark_does_not_play(tmp_path):
    refused(script("evaluate.py", "--scenarios", "farm-lte,farm-lte", cwd=tmp_path), "two scenarios are named 'farm-lte'")
    refused(script("evaluate.py", "--benchmark", "--agreement", cwd=tmp_path), "--benchmark", "without --agreement")
    refused(script("evaluate.py", "--benchmark", "--planned", "-1", cwd=tmp_path), "--planned is -1")


def test_a_page_is_the_benchmarks_and_a_file(tmp_path):
    refused(script("evaluate.py", "--page", "page.md", cwd=tmp_path), "--page page.md", "--benchmark")
    refused(script("evaluate.py", "--benchmark", "--page", ".", cwd=tmp_path), "--page .", "expected a file")


def test_fine_tuning_goes_on_from_what_start_or_from_names(tmp_path):
    for name in ("--start", "--from"):
        done = script("train_agent.py", "--tier", "training", name, "nobody", cwd=tmp_path)
        refused(done, "policy file nobody does not exist")


def test_files_of_one_name_and_other_content_have_results_of_their_own(tmp_path):
    content = yaml.safe_load((ROOT / "scenarios" / "library" / "two-servers.yaml").read_text())
    for rounds in (5, 6):
        content["budgets"] = {"rounds": rounds}
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
        options = ("--benchmark", "--agents", "equal", "--scenarios", "mine.yaml", "--episodes", "2", "--planned", "0")
        done = script("evaluate.py", *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs").glob("benchmark-*/leaderboard.md"))) == 2


def test_what_real_machines_cannot_do(tmp_path):
    """Without Flower it says what to install, with it that both tiers are compared in process."""
    refused(script("evaluate.py", "--engine", "flower", "--agreement", cwd=tmp_path), "--engine flower")


def test_full_disk(tmp_path):
    """/dev/full is always full: writing the checkpoint fails there as on a full disk."""
    target = tmp_path / "file"
    target.write_text("not a folder")
    refused(script("evaluate.py", "--scenarios", "two-servers", "--agents", "equal", "--episodes", "1", "--out", "file",
                   cwd=tmp_path), "file")  # fmt: skip


def test_evaluation_in_simulation_ends_with_a_report(tmp_path):
    done = script("evaluate.py", "--scenarios", "two-servers", "--agents", "equal,speed", "--episodes", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "heuristics only" in done.stdout
    report = next((tmp_path / "runs").glob("*/report.html")).read_text()
    assert "data:image/png;base64," in report
    assert "two-servers" in report
