"""Features of images by a trained encoder: `python -m fedcore.embed --encoder FILE --data PATH --output features.npz`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fedcore.data.loading import read_images
from fedcore.encoder_file import load_encoder
from fedcore.files import write_bytes
from scenarios.errors import InputError, told


@dataclass(frozen=True)
class EmbedOptions:
    """Write the features that a trained encoder gives every image: an npz of `features` (N, D) float32 and `files` (N,).

    Attributes:
        encoder: file that `evaluate.py --data` or a real run wrote.
        data: folder, zip or npz of images; they are decoded and squeezed as in training.
        output: npz file to write.
    """

    encoder: Path
    data: Path
    output: Path = Path("features.npz")


def embed(options: EmbedOptions) -> tuple[int, int]:
    """Do it; (images, features of each).

    Raises:
        InputError: encoder or images do not read, or do not go together.
    """
    encoder = load_encoder(options.encoder)
    images, files = read_images(options.data, encoder.workload.image_px)
    if images.shape[3] > encoder.channels:
        raise InputError(f"--data {options.data} has colour images, expected grey ones: the encoder was trained on those")
    if images.shape[3] < encoder.channels:  # as a set of which only some are grey
        images = np.repeat(images, encoder.channels, axis=3)
    features = encoder.embed(images)
    content = io.BytesIO()
    np.savez_compressed(content, features=features, files=np.array(files))
    write_bytes(options.output, content.getvalue())
    return features.shape


def main() -> None:
    """Command line."""
    import tyro

    options = tyro.cli(EmbedOptions)
    images, width = embed(options)
    print(f"wrote {options.output}: {width} features of each of {images} images")


if __name__ == "__main__":
    with told("interrupted: nothing was written"):
        main()
