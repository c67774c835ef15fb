"""A trained encoder as one file: safetensors, and in its metadata the workload that it was trained in."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save

from fedcore.files import write_bytes
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.parallel import one_thread
from fedcore.probes.features import extract_features
from fedcore.tensor_file import read_tensors
from fedcore.workload import model_for, reads_text
from scenarios.errors import InputError
from scenarios.schema import Workload

FORMAT = 1
CARD = "intrafed-encoder"
CHANNELS = (1, 3)


@dataclass(frozen=True)
class TrainedEncoder:
    """An encoder and its weights.

    Attributes:
        workload: that it was trained in.
        channels: of the images that it reads, 1 or 3.
        model: encoder and objective.
        state: all weights, by name.
    """

    workload: Workload
    channels: int
    model: Model
    state: State

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features of images.

        Args:
            images: (N, H, W, C) uint8 with H = W = `workload.image_px`, as `data.loading.read_images` gives them.

        Returns:
            (N, D) float32.

        Raises:
            InputError: it reads text, or images of another size or number of channels.
        """
        px = self.workload.image_px
        if reads_text(self.workload):
            raise InputError(f"the encoder is a {self.workload.encoder}, which reads text: expected one that reads images")
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1:] != (px, px, self.channels):
            kind = "grey" if self.channels == 1 else "colour"
            raise InputError(
                f"images are {images.shape} {images.dtype}, expected (N, {px}, {px}, {self.channels}) uint8: the encoder was "
                f"trained on {kind} images"
            )
        with one_thread():
            return extract_features(self.model, self.state, images)


def save_encoder(path: Path, state: State, workload: Workload, channels: int) -> None:
    """Write an encoder, whole or not at all.

    Args:
        path: of the file.
        state: its weights, and its objective's.
        workload: that it was trained in.
        channels: of the images that it reads.
    """
    card = {"format": FORMAT, "channels": channels, "workload": workload.model_dump(mode="json")}
    weights = {name: value.contiguous() for name, value in state.items()}
    write_bytes(path, save(weights, {CARD: json.dumps(card)}))


def load_encoder(path: str | Path) -> TrainedEncoder:
    """Read an encoder that `save_encoder` wrote.

    Raises:
        InputError: no such file, damaged, or no encoder of ours.
    """
    path, wanted = Path(path), "expected an encoder that evaluate.py wrote"
    if not path.is_file():
        raise InputError(f"encoder file {path} does not exist: {wanted}")
    try:
        metadata, state = read_tensors(path)
    except ValueError as error:
        raise InputError(f"encoder file {path} is damaged or cut short ({error}): {wanted}") from None
    try:
        card = json.loads(metadata.get(CARD, "null"))
        if card["format"] != FORMAT:
            raise InputError(f"encoder file {path} is of format {card['format']}: expected format {FORMAT}")
        workload, channels = Workload.model_validate(card["workload"]), card["channels"]
        if channels not in CHANNELS:
            raise InputError(f"encoder file {path} reads images of {str(channels)[:40]} channels: expected 1 or 3")
    except InputError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"encoder file {path} does not say what it is: {wanted}") from None
    model = model_for(workload, int(channels), str(path))
    # By what the model would be, and not by one that is made: a card may say that it fills any memory.
    shapes: dict[str, tuple[int, ...]] = {p.name: p.shape for p in model.neuron_map.parameters}
    shapes |= {name: (length,) for name, length in model.objective.statistics.items()}
    wrong = [name for name, shape in shapes.items() if name not in state or tuple(state[name].shape) != shape]
    if wrong or state.keys() != shapes.keys():
        raise InputError(f"encoder file {path} has weights of another model ({(wrong or sorted(state))[0]}): {wanted}")
    return TrainedEncoder(workload, int(channels), model, state)
