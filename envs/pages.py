"""Documentation pages from the environments' docstrings: `python -m envs.pages` writes docs/environments/."""

from __future__ import annotations

import inspect
import io
import re
from pathlib import Path

import numpy as np
from PIL import Image

from envs import observation
from envs.multi_objective import MultiObjectiveEnv
from envs.observation import FLEET_FEATURES, MACHINE_FEATURES, split
from envs.orchestration import OrchestrationEnv
from envs.patterns import balanced
from envs.single import SingleEnv
from envs.spaces import encode
from envs.training import TrainingEnv

ENVIRONMENTS: dict[str, type[SingleEnv]] = {
    "Orchestration-v0": OrchestrationEnv,
    "Orchestration-MO-v0": MultiObjectiveEnv,
    "Training-v0": TrainingEnv,
}
FOLDER = Path(__file__).parents[1] / "docs" / "environments"


def meanings(features: str) -> dict[str, str]:
    """Feature -> what its comment in envs/observation.py says, "" where it has none.

    Args:
        features: name of the tuple there that lists them; both tuples may have a feature of one name.
    """
    source = inspect.getsource(observation).split(f"\n{features} = (\n")[1].split("\n)\n")[0]
    found = re.findall(r'^    "(\w+)",(?:  # (.*))?$', source, flags=re.MULTILINE)
    return {name: text or "" for name, text in found}


def feature_table() -> str:
    """The observation's features, in order, as a markdown table."""
    lines = ["| place | feature | meaning |", "|---|---|---|"]
    for part, names in (("machine", MACHINE_FEATURES), ("fleet", FLEET_FEATURES)):
        told, whose = meanings(f"{part.upper()}_FEATURES"), "each machine" if part == "machine" else "the fleet"
        lines += [f"| {i} of {whose} | `{name}` | {told[name] or name.replace('_', ' ')} |" for i, name in enumerate(names)]
    return "\n".join(lines)


def page(name: str) -> str:
    """The page of an environment of `ENVIRONMENTS`, as markdown."""
    text = inspect.getdoc(ENVIRONMENTS[name]) or ""
    if ENVIRONMENTS[name] is OrchestrationEnv:
        text = text.replace("\n## Action Space", f"\n{feature_table()}\n\n## Action Space", 1)
    text = text.replace("\nAs `IntraFed/Orchestration-v0`", "\nAs [`IntraFed/Orchestration-v0`](Orchestration-v0.md)")
    return (
        f"<!-- Written by `python -m envs.pages` from {ENVIRONMENTS[name].__module__}: change the docstring there. -->\n\n"
        f"# IntraFed/{name}\n\n{text}\n\n![one simulated episode, round by round](episode.gif)\n"
    )


def episode(scenario: str = "farm-lte", seed: int = 3, rounds: int = 16) -> bytes:
    """GIF of the first rounds of a simulated episode under balanced shares, half size, 64 colours."""
    env = OrchestrationEnv(scenario, render_mode="rgb_array")
    env.reset(seed=seed)
    frames = []
    for _ in range(rounds):
        shares = balanced(split(env.observation().astype(np.float64)), 0.5, 10.0)
        levels = len(env.core.world().scenario.decision.sync_intervals)
        ended = env.step(encode(shares, levels // 2, levels, env.core.max_machines))[2]
        frame = env.render()
        assert isinstance(frame, np.ndarray)
        picture = Image.fromarray(frame)
        frames.append(picture.resize((picture.width // 2, picture.height // 2)).quantize(64))
        if ended:
            break
    buffer = io.BytesIO()
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:], duration=500, loop=0)
    return buffer.getvalue()


def main() -> None:
    """Write all pages and the picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in ENVIRONMENTS:
        (FOLDER / f"{name}.md").write_text(page(name))
    (FOLDER / "episode.gif").write_bytes(episode())


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
