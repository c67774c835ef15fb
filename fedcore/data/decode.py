"""One image file to square 8-bit pixels, whatever its colour mode, depth, orientation and size."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fedcore.data.archive import FileSource, one_line
from scenarios.errors import InputError

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"})
# Only these decoders may run: a user's .png that is really an EPS would start Ghostscript.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
_ALPHA_MODES = {"RGBA", "LA", "PA", "RGBa", "La"}
_PERCENTILES = (0.5, 99.5)
MAX_SET_BYTES = 8 * 2**30


def decode_images(source: FileSource, names: Sequence[str], size_px: int) -> NDArray[np.uint8]:
    """Decode the named files, in that order.

    Returns:
        (N, size_px, size_px, C) uint8; C is 1 where every image is grey (by its pixels, not its file mode),
        else 3.

    Warns:
        UserWarning: files have several pages (or frames), of which the first is the image.

    Raises:
        InputError: files are damaged, are no images, or have more pixels than PIL's MAX_IMAGE_PIXELS; the first is told, and
            the others are named.
    """
    images = np.empty((len(names), size_px, size_px, 1), dtype=np.uint8)
    paged, failed, why = list[str](), list[str](), ""
    with warnings.catch_warnings():
        # PIL only warns up to twice MAX_IMAGE_PIXELS; an image above it is refused here.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for i, name in enumerate(names):
            try:
                pixels, pages = _decode(source, name, size_px)
            except InputError as error:  # look at the others too: whoever mends one wants to know of all
                failed.append(name)
                why = why or str(error)
                continue
            paged += [name] if pages > 1 else []
            if pixels.ndim == 3 and images.shape[3] == 1:
                images = np.repeat(images, 3, axis=3)
            images[i] = pixels if pixels.ndim == 3 else pixels[:, :, None]
    if failed:
        more = f", and {len(failed) - 1} more cannot be read: {', '.join(failed[1:6])}{', ...' if len(failed) > 6 else ''}"
        raise InputError(why + (more if len(failed) > 1 else ""))
    if paged:
        warnings.warn(
            f"{source.path}: {len(paged)} images, such as '{paged[0]}', have several pages (or frames): the first of each is "
            "read; save every page that should be an image as a file of its own",
            stacklevel=2,
        )
    return images


def resize_images(images: NDArray[np.uint8], size_px: int) -> NDArray[np.uint8]:
    """Resize (N, H, W, C) uint8 to (N, size_px, size_px, C), unchanged where they have that size."""
    if images.shape[1:3] == (size_px, size_px):
        return images
    resized = np.empty((len(images), size_px, size_px, images.shape[3]), dtype=np.uint8)
    for i, image in enumerate(images):
        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        resized[i] = np.asarray(_resize(picture, size_px)).reshape(size_px, size_px, -1)
    return resized


def _decode(source: FileSource, name: str, size_px: int) -> tuple[NDArray[np.uint8], int]:
    data = source.read(name)
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as file:
            # Behind a phone's JPEG lies a preview or a depth map, which is no second picture.
            pages = 1 if file.format in ("JPEG", "MPO") else getattr(file, "n_frames", 1)
            # JPEG can decode at a half, quarter or eighth: twice the final size is kept for the area resize.
            file.draft(None, (2 * size_px, 2 * size_px))
            deep = any(";16" in str(tile[-1]) for tile in file.tile)
            picture = _to_8_bit(ImageOps.exif_transpose(file))
            if deep and picture.mode == "RGB" and np.asarray(picture).max() < _DARK:
                raise ValueError(_TOO_DEEP)
            pixels = np.asarray(_resize(picture, size_px))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"{source.path}: image '{name}' has too many pixels; expected at most {Image.MAX_IMAGE_PIXELS:,}"
        ) from error
    except Exception as error:  # PIL's decoders raise nearly every built-in exception on damaged files
        reason = "not in a known format" if isinstance(error, Image.UnidentifiedImageError) else one_line(error)
        raise InputError(
            f"{source.path}: image '{name}' cannot be decoded ({reason}); expected an undamaged "
            "png, jpg, tif, bmp, webp or gif"
        ) from error
    if pixels.ndim == 3 and (pixels == pixels[:, :, :1]).all():
        return pixels[:, :, 0], pages
    return pixels, pages


_DARK = 64
"""Of 255. Of colour deeper than 8 bit the decoder gives the upper byte, which is all of a full range and next to nothing of the
10, 12 or 14 bit that cameras write into 16."""
_TOO_DEEP = "it is 16-bit colour of which less than 14 bit are used, and only the upper 8 are read: convert it to 8 bit"


def _to_8_bit(picture: Image.Image) -> Image.Image:
    """Return the image in mode L or RGB; transparent parts become white, as a bright field's ground is."""
    mode = picture.mode
    if mode[0] in "IF":
        return Image.fromarray(_stretch(np.asarray(picture, dtype=np.float64)))
    if mode in _ALPHA_MODES or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    if mode in ("1", "L"):
        return picture.convert("L")
    return picture.convert("RGB")


def _stretch(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Scale deep grey to 8 bit between the file's 0.5 and 99.5 percentiles.

    Cameras write 10, 12 or 14 bit into 16: by the full range of the file type most micrographs would be
    nearly black. The price is that brightness is comparable within a file only.
    """
    if not np.isfinite(values).all():
        raise ValueError("it has NaN or infinite pixels")
    low, high = np.percentile(values, _PERCENTILES)
    if high <= low:  # fewer than 1 % of the pixels differ from the rest
        low, high = values.min(), values.max()
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    return np.rint(np.clip((values - low) / (high - low), 0.0, 1.0) * 255.0).astype(np.uint8)


def _resize(picture: Image.Image, size_px: int) -> Image.Image:
    if picture.size == (size_px, size_px):
        return picture
    shrinks = min(picture.size) >= size_px
    # BOX averages areas when shrinking, but shows blocks when enlarging.
    return picture.resize((size_px, size_px), Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR)
