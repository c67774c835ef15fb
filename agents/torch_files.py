"""Files of tensors: written whole or not at all, read without unpickling."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from fedcore.files import write_bytes


def write_torch(path: Path, value: dict[str, Any]) -> None:
    """Write what `torch.load` reads, whole or not at all; raises as `write_bytes`."""
    kept = io.BytesIO()
    torch.save(value, kept)
    write_bytes(path, kept.getvalue())
