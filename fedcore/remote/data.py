"""A node's own samples: a folder of images as a lab has it, or the file that a trial deals to every machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from fedcore.data.loading import load_images
from fedcore.encoders import ENCODERS
from fedcore.files import write_bytes
from fedcore.probes.features import to_tensor
from fedcore.samples import Samples
from scenarios.errors import InputError
from scenarios.schema import Workload

DEALT = "samples.safetensors"


def deal(folder: Path, samples: Samples) -> None:
    """Write a machine's samples to a folder of its own, for `load_samples`."""
    tensors = {"x": samples.x.contiguous()}
    if samples.labels is not None:
        tensors["labels"] = samples.labels.contiguous()
    write_bytes(folder / DEALT, save(tensors))


def load_samples(path: Path, workload: Workload) -> Samples:
    """A node's own samples.

    Args:
        path: a folder that `deal` wrote to, or whatever `loading.load_images` reads; test images are left out.
        workload: says how large images are, and what the encoder reads.

    Raises:
        InputError: there is nothing of the kind, or not what the encoder reads.
    """
    file = path / DEALT if path.is_dir() else path
    if file.name == DEALT and file.is_file():
        return _dealt(file, workload)
    if ENCODERS[workload.encoder].reads == "tokens":
        raise InputError(f"{path}: encoder {workload.encoder} reads text; expected {DEALT} with windows of tokens there")
    dataset = load_images(path, size_px=workload.image_px)
    chosen = np.flatnonzero(~dataset.test)
    labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[chosen])
    return Samples(to_tensor(dataset.images[chosen]), labels)


def _dealt(file: Path, workload: Workload) -> Samples:
    try:
        tensors = load_file(str(file))
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file}: is damaged or cut short ({error}); expected what a trial wrote there") from None
    x, labels = tensors.get("x"), tensors.get("labels")
    tokens = ENCODERS[workload.encoder].reads == "tokens"
    wanted = (workload.window + 1,) if tokens else (workload.image_px, workload.image_px)
    dtype = torch.int64 if tokens else torch.uint8
    if x is None or x.dtype != dtype or x.dim() != (2 if tokens else 4) or tuple(x.shape[-len(wanted) :]) != wanted:
        shown = "missing" if x is None else f"{tuple(x.shape)} {x.dtype}"
        raise InputError(f"{file}: x is {shown}, expected {'windows' if tokens else 'images'} of {wanted} {dtype}")
    if labels is not None and labels.shape != (len(x),):
        raise InputError(f"{file}: labels have shape {tuple(labels.shape)}, expected ({len(x)},)")
    return Samples(x, labels)
