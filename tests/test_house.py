"""Imports run one way: scenarios <- fedcore <- envs <- agents <- the two scripts."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["scenarios", "fedcore", "envs", "agents"]


@pytest.mark.parametrize("folder", ORDER)
def test_nothing_imports_from_above(folder):
    above = set(ORDER[ORDER.index(folder) + 1 :]) | {"train_agent", "evaluate"}
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names.append(node.module)
            wrong = {name.split(".")[0] for name in names} & above
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_the_top_level_is_what_the_design_says():
    import subprocess

    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    top = {line.split("/")[0] for line in done.stdout.splitlines()}
    known = {"pyproject.toml", "README.md", "train_agent.py", "evaluate.py", "envs", "agents", "fedcore", "scenarios", "tests",
             "docs", "benchmarks", ".ci", ".gitignore", "LICENSE", "CITATION.cff", "CHANGELOG.md"}  # fmt: skip
    assert top <= known
