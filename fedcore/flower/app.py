"""The Flower app: a folder with nothing but names in it. Its code is the installed package, the same on every machine."""

from __future__ import annotations

from pathlib import Path

from fedcore.files import write_text

CONNECTION = "intrafed"
_PYPROJECT = """\
[project]
name = "intrafed-run"
version = "1.0.0"
description = "A policy drives federated training on real machines"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "intrafed"

[tool.flwr.app.components]
serverapp = "{server_app}"
clientapp = "fedcore.flower.client:app"

[tool.flwr.app.config]
job = ""
"""


def write_app(folder: Path, server_app: str) -> Path:
    """Write the app that `flwr run` is given.

    Args:
        folder: where.
        server_app: "module:attribute" of the ServerApp.
    """
    write_text(folder / "pyproject.toml", _PYPROJECT.format(server_app=server_app))
    return folder


def write_connection(home: Path, address: str, root_certificates: Path | None) -> None:
    """Write the configuration that tells `flwr` where the SuperLink is.

    Args:
        home: folder that FLWR_HOME names.
        address: host:port.
        root_certificates: of its TLS; None connects without.
    """
    safety = "insecure = true" if root_certificates is None else f'root-certificates = "{root_certificates.resolve()}"'
    lines = ["[superlink]", f'default = "{CONNECTION}"', f"[superlink.{CONNECTION}]", f'address = "{address}"', safety]
    write_text(home / "config.toml", "\n".join([*lines, ""]))
