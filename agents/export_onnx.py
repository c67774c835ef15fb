"""A frozen policy as ONNX, for where there is no Python: `python -m agents.export_onnx ppo-default policy.onnx`.

The graph goes from `observation` (batch, K_max x machine features + fleet features), as `envs.observation` describes it, to
`rating` (batch, moves), both float32: the highest is the move of `envs.menu`. Its metadata name both, and the policy. Needs the
optional extra `onnx`. More: docs/onnx.md.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from agents.frozen import FrozenPolicy, code_version, load_policy
from agents.network import for_any_fleet
from envs.menu import LEVELS, PATTERNS
from envs.observation import FLEET_FEATURES, MACHINE_FEATURES, N_FLEET, N_MACHINE
from fedcore.files import write_bytes
from scenarios.errors import InputError


@dataclass(frozen=True)
class ExportOptions:
    """Write a frozen policy as an ONNX graph."""

    policy: Annotated[str, tyro.conf.Positional]
    """A policy's file, or ppo-default or dqn-default."""
    output: Annotated[Path, tyro.conf.Positional]
    """The .onnx file."""
    max_machines: int = 16
    """Rows that observations are padded to."""


def export_onnx(policy: FrozenPolicy, path: Path, max_machines: int = 16) -> None:
    """Write a policy's network as an ONNX graph whose batch may be of any size.

    Args:
        policy: PPO or DQN.
        path: of the file.
        max_machines: K_max of the observations that it will be given.

    Raises:
        InputError: the optional extra is not installed, or the file cannot be written.
    """
    try:
        import onnx
    except ImportError:
        raise InputError("ONNX export needs the optional extra: pip install 'intrafed[onnx]'") from None
    example = torch.zeros((2, max_machines * N_MACHINE + N_FLEET))
    with tempfile.TemporaryDirectory(prefix="intrafed-") as folder, warnings.catch_warnings():
        graph = Path(folder) / "policy.onnx"
        # The tracer is the older of torch's two exporters: it needs nothing but onnx itself.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # constants are meant to be constants
        torch.onnx.export(
            for_any_fleet(policy.network), (example,), str(graph), input_names=["observation"], output_names=["rating"],
            dynamic_axes={"observation": {0: "batch"}, "rating": {0: "batch"}}, dynamo=False, verbose=False,
        )  # fmt: skip
        model = onnx.load(graph)
    onnx.helper.set_model_props(model, metadata(policy, max_machines))
    write_bytes(path, model.SerializeToString())


def metadata(policy: FrozenPolicy, max_machines: int) -> dict[str, str]:
    """What a graph says of itself, see docs/onnx.md; lists are separated by commas."""
    return {
        "policy": policy.name,
        "algorithm": policy.card.algorithm,
        "policy_sha256": policy.card.digest,
        "intrafed": code_version(),
        "max_machines": str(max_machines),
        "machine_features": ",".join(MACHINE_FEATURES),
        "fleet_features": ",".join(FLEET_FEATURES),
        "patterns": ",".join(PATTERNS),
        "levels": str(LEVELS),
        **{key: str(policy.card.spaces[key]) for key in ("observation_scaling", "pattern_constants")},
    }


def main() -> None:
    """Command line."""
    options = tyro.cli(ExportOptions)
    if options.max_machines < 1:
        raise InputError(f"--max-machines is {options.max_machines}, expected at least 1")
    export_onnx(load_policy(options.policy), options.output, options.max_machines)
    print(f"wrote {options.output}")


if __name__ == "__main__":
    from agents.cli import run

    run(main)
