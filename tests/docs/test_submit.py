"""The page of submissions does what it says: its own code blocks are run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from envs.observation import observation_space

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "submit.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMAND = re.findall(r"```bash\npython evaluate.py (.*?)\n```", PAGE, re.DOTALL)


@pytest.fixture
def entered(tmp_path: Path) -> Path:
    """A folder with the page's file in it, memory and all."""
    policy, patient = PYTHON[:2]
    assert "def decide" in policy
    assert "class Patient" in patient
    assert len(policy.strip().splitlines()) <= 10
    (tmp_path / "my_policy.py").write_text(policy + "\n\n" + patient)
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_plays_a_file_of_ten_lines(entered: Path) -> None:
    (command,) = COMMAND
    assert "--episodes 30" in command
    quick = command.replace("--episodes 30", "--episodes 3 --planned 0").replace("best-static", "my_policy.py:Patient")
    out = run(entered, str(ROOT / "evaluate.py"), *quick.split())
    assert "decide" in out
    page = next((entered / "runs").glob("benchmark-*/leaderboard.md")).read_text()
    scores = dict(re.findall(r"^\| (\w+) \| ([+-]\d+\.\d\d) \|", page.split("## By split")[0], re.MULTILINE))
    assert set(scores) == {"decide", "Patient", "enough"}
    assert scores["decide"] == scores["Patient"]  # the same decisions, with and without a memory


def test_weights_of_another_framework_enter(entered: Path) -> None:
    block = next(block for block in PYTHON if "torch.load" in block)
    own = """import torch
from torch import nn

class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor = nn.LazyLinear(17)
"""
    (entered / "cleanrl.py").write_text(f"{own}\n\n{block}")
    made = "agent = Agent(); agent.actor(torch.zeros(1, SIZE)); torch.save(agent.state_dict(), 'agent.pt')"
    size = observation_space(16).shape[0]
    run(entered, "-c", f"{own}\n{made.replace('SIZE', str(size))}")
    command = ["--agents", "cleanrl.py:decide", "--scenarios", "two-servers", "--episodes", "2"]
    assert "decide" in run(entered, str(ROOT / "evaluate.py"), *command)


def test_a_checkpoint_of_rllib_enters(entered: Path) -> None:
    pytest.importorskip("ray.rllib")
    block = next(block for block in PYTHON if "RLModule" in block)
    (entered / "rllib_policy.py").write_text(block)
    trained = f"""import sys
sys.path.insert(0, {str(ROOT / "docs" / "examples")!r})
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env
from rllib_ppo import make
register_env("intrafed", make)
config = PPOConfig().environment("intrafed", env_config={{"scenario": "two-servers"}}).env_runners(num_env_runners=0)
algorithm = config.build_algo()
algorithm.save_to_path({str(entered / "checkpoint")!r})
algorithm.stop()
"""
    run(entered, "-c", trained)
    command = ["--agents", "rllib_policy.py:decide", "--scenarios", "two-servers", "--episodes", "2"]
    assert "decide" in run(entered, str(ROOT / "evaluate.py"), *command)


def test_the_python_interface_prints_a_ranking(entered: Path) -> None:
    script = "\n".join("    " + line for line in PYTHON[-1].splitlines())
    (entered / "script.py").write_text(f"if __name__ == '__main__':\n{script}\n")
    out = run(entered, "script.py")
    assert re.search(r"decide +[+-]\d", out)
    assert re.search(r"equal +[+-]\d", out)
