"""Load the images that a user brings: a folder, a zip or an npz becomes one `Dataset`."""

from __future__ import annotations

import operator
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fedcore.data.archive import FileSource, one_line, open_source
from fedcore.data.catalogue import Catalogue
from fedcore.data.counts_csv import find_counts_csv, list_counts_csv
from fedcore.data.dataset import Dataset
from fedcore.data.decode import MAX_SET_BYTES, decode_images, resize_images
from fedcore.data.holdout import hold_out, subsample
from fedcore.data.image_folder import list_image_folder
from fedcore.data.npz import read_npz
from scenarios.errors import InputError

MIN_IMAGES = 32


def load_images(
    path: str | Path,
    *,
    size_px: int = 32,
    seed: int = 0,
    test_fraction: float = 0.25,
    max_images: int | None = None,
) -> Dataset:
    """Load every image below `path`, in sorted order, with the labels, counts, groups and test split it has.

    A source is one of:

    1. a folder or .zip of images in class sub-folders, `<class>/*.jpg`, or `train/<class>/*` and
       `test/<class>/*`;
    2. a folder or .zip with `counts.csv`: columns `file`, optionally a group (`counts_csv.GROUP_COLUMNS`),
       optionally `test`, and one column of whole numbers per kind counted;
    3. a folder or .zip of images without anything: an unlabeled set;
    4. an .npz with `x` (N, H, W), (N, H, W, 1) or (N, H, W, 3) uint8 and optionally `y`, `count`, `group`,
       `test`, `classes`, `kinds`.

    Image files may be png, jpg, tif, bmp, webp or gif (first frame) of any colour mode and size. They are
    turned as EXIF says and squeezed to a square (area average; the aspect ratio is not kept); transparent
    parts become white; grey deeper than 8 bit is scaled per file between its 0.5 and 99.5 percentiles. If all
    files are grey, by their pixels, the set is grey. Hidden files, `__MACOSX` and `Thumbs.db` are
    passed over.

    Split train/test by slide, never by tile: where the source has no test images of its own and at least 4
    groups, whole groups are held out; with fewer, single images are drawn, `test_fraction` of every class. A
    test image stays one whatever `max_images` is.

    Args:
        path: the folder, .zip or .npz.
        size_px: height and width of the images returned, 8 to 1024.
        seed: for the test split and the subsample.
        test_fraction: share of images to hold out where the source does not say; between 0 and 1.
        max_images: keep only so many (at least 32), drawn in proportion to group, class and test.

    Returns:
        A `Dataset` with images (N, size_px, size_px, 1 or 3) uint8, group (N,), test (N,), labels (N,) or
        None, counts (N, kinds) or None; named after the file.

    Raises:
        InputError: anything wrong with the source or an argument, in one sentence.
    """
    size_px = _whole("size_px", size_px, 8, 1024)
    seed = _whole("seed", seed, 0, 2**63 - 1)
    if max_images is not None:
        max_images = _whole("max_images", max_images, MIN_IMAGES, 2**31)
    if not isinstance(test_fraction, (int, float)) or not 0.0 < test_fraction < 1.0:
        raise InputError(f"test_fraction is {test_fraction!r}; expected a number between 0 and 1, both excluded")
    source_path = _existing(path)

    if source_path.suffix.lower() == ".npz" and source_path.is_file():
        x, catalogue = read_npz(source_path)
        test, keep = _choose(source_path, catalogue, seed, test_fraction, max_images)
        _check_memory(source_path, len(keep), size_px)
        images = resize_images(x[keep] if len(keep) < len(x) else x, size_px)
    else:
        with open_source(source_path) as source:
            catalogue = _list(source)
            test, keep = _choose(source_path, catalogue, seed, test_fraction, max_images)
            _check_memory(source_path, len(keep), size_px)
            images = decode_images(source, [catalogue.files[i] for i in keep], size_px)

    return Dataset(
        name=source_path.resolve().name if source_path.is_dir() else source_path.stem,
        images=images,
        group=np.zeros(len(keep), dtype=np.int64) if catalogue.group is None else catalogue.group[keep],
        test=test[keep],
        labels=None if catalogue.labels is None else catalogue.labels[keep],
        counts=None if catalogue.counts is None else catalogue.counts[keep],
        classes=catalogue.classes,
        kinds=catalogue.kinds,
        group_names=catalogue.group_names,
    )


def read_images(path: str | Path, size_px: int) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Every image below `path` as `load_images` decodes it, without split or least number, for an encoder that is trained.

    Args:
        path: folder, .zip or .npz.
        size_px: height and width of the images returned.

    Returns:
        (N, size_px, size_px, 1 or 3) uint8, and the images' names: paths below `path`, or numbers in an .npz.

    Raises:
        InputError: as `load_images`.
    """
    source_path = _existing(path)
    if source_path.suffix.lower() == ".npz" and source_path.is_file():
        x, _ = read_npz(source_path)
        return resize_images(x, size_px), tuple(map(str, range(len(x))))
    with open_source(source_path) as source:
        files = _list(source).files
        _check_memory(source_path, len(files), size_px)
        return decode_images(source, files, size_px), tuple(files)


def _whole(name: str, value: object, low: int, high: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or not low <= number <= high:
        raise InputError(f"{name} is {value!r}; expected a whole number from {low} to {high}")
    return number


def _existing(path: str | Path) -> Path:
    wanted = "expected a folder of images, a .zip or an .npz"
    try:
        found = Path(path).expanduser()
        is_folder, is_file = found.is_dir(), found.is_file()
    except (OSError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{path!r}: not a path ({one_line(error)}); {wanted}") from error
    if not is_folder and not is_file:
        raise InputError(f"{path}: does not exist; {wanted}")
    if is_file and found.suffix.lower() not in (".zip", ".npz"):
        raise InputError(f"{path}: has the extension '{found.suffix}'; {wanted}")
    return found


def _list(source: FileSource) -> Catalogue:
    csv_name = find_counts_csv(source)
    return list_image_folder(source) if csv_name is None else list_counts_csv(source, csv_name)


def _choose(
    path: Path, catalogue: Catalogue, seed: int, test_fraction: float, max_images: int | None
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Test mask over all images, and the indices of those to keep."""
    if catalogue.n < MIN_IMAGES:
        raise InputError(f"{path}: has {catalogue.n} images; expected at least {MIN_IMAGES}")
    # Separate streams, so that the split does not depend on the subsample.
    split_rng, sample_rng = (np.random.default_rng([seed, stream]) for stream in (0, 1))
    if catalogue.test is None:
        test = hold_out(catalogue, test_fraction, split_rng)
    else:
        test = catalogue.test
        if test.all() or not test.any():
            lacking = "training" if test.all() else "test"
            raise InputError(
                f"{path}: its test marks leave no {lacking} images of {catalogue.n}; expected some of both"
            )
        _warn_of_shared_groups(path, catalogue, test)
    _warn_of_unknown_classes(path, catalogue, test)
    if max_images is None:
        return test, np.arange(catalogue.n)
    return test, subsample(catalogue, test, max_images, sample_rng)


def _warn_of_shared_groups(path: Path, catalogue: Catalogue, test: NDArray[np.bool_]) -> None:
    if catalogue.group is None or len(catalogue.group_names) < 2:
        return
    shared = np.intersect1d(catalogue.group[test], catalogue.group[~test])
    if len(shared):
        warnings.warn(
            f"{path}: {len(shared)} groups, such as '{catalogue.group_names[shared[0]]}', have both training "
            "and test images, so probes will look better than they are",
            stacklevel=3,
        )


def _warn_of_unknown_classes(path: Path, catalogue: Catalogue, test: NDArray[np.bool_]) -> None:
    """Whole groups are held out, and a class may be of one group alone."""
    if catalogue.labels is None:
        return
    lacking = np.setdiff1d(catalogue.labels[test], catalogue.labels[~test])
    if len(lacking):
        named = ", ".join(f"'{catalogue.classes[c]}'" for c in lacking[:3])
        warnings.warn(
            f"{path}: {len(lacking)} classes, {named}{', ...' if len(lacking) > 3 else ''}, have test images and no training "
            "images, so no probe can tell them: more groups of each class would",
            stacklevel=3,
        )


def _check_memory(path: Path, n: int, size_px: int) -> None:
    size = n * size_px * size_px * 3
    if size > MAX_SET_BYTES:
        raise InputError(
            f"{path}: {n:,} images at {size_px} px need {size:,} bytes; expected at most {MAX_SET_BYTES:,}: "
            "lower size_px, or set max_images"
        )
