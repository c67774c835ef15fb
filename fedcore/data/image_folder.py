"""Images in class sub-folders, with or without train and test folders above them, or flat and unlabeled."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from fedcore.data.archive import FileSource
from fedcore.data.catalogue import Catalogue, number_names
from fedcore.data.decode import EXTENSIONS
from scenarios.errors import InputError

_TRAIN = frozenset({"train", "training"})
_TEST = frozenset({"test", "testing"})
_VALIDATION = frozenset({"val", "valid", "validation"})
_SPLITS = _TRAIN | _TEST | _VALIDATION


def list_image_folder(source: FileSource) -> Catalogue:
    """List `<class>/*`, `train/<class>/*` with `test/<class>/*`, or flat images, sorted by name.

    Folders that hold everything are looked through, so `my_set/<class>/*` is fine too. Sub-folders of a class
    belong to it. A `val` folder is the test set where there is no `test` folder, else part of the training
    set. One single folder of images is a flat set.

    Raises:
        InputError: there are no images, or some lie beside the class folders and so have no class.
    """
    files = [name for name in source.names if PurePosixPath(name).suffix.lower() in EXTENSIONS]
    if not files:
        raise InputError(_nothing_found(source))
    paths = [name.split("/") for name in files]
    while all(len(path) > 1 for path in paths):
        tops = {path[0] for path in paths}
        if len(tops) > 1 or tops.pop().lower() in _SPLITS:
            break
        paths = [path[1:] for path in paths]

    test = None
    # A class may be called "train" (beside "car"): splits are such only where nothing else lies beside them.
    if all(len(path) > 1 and path[0].lower() in _SPLITS for path in paths):
        splits = [path[0].lower() for path in paths]
        held_out = _TEST if _TEST & set(splits) else _VALIDATION
        if held_out & set(splits):
            test = np.array([split in held_out for split in splits])
        paths = [path[1:] for path in paths]

    in_class = [len(path) > 1 for path in paths]
    if not any(in_class):
        return Catalogue(n=len(files), files=tuple(files), test=test)
    if not all(in_class):
        raise InputError(
            f"{source.path}: image '{files[in_class.index(False)]}' lies beside class folders such as "
            f"'{paths[in_class.index(True)][0]}'; expected every image inside a class folder, or none"
        )
    labels, classes = number_names([path[0] for path in paths])
    return Catalogue(n=len(files), files=tuple(files), labels=labels, test=test, classes=classes)


def _nothing_found(source: FileSource) -> str:
    wanted = "expected " + ", ".join(sorted(EXTENSIONS)) + " files, in class sub-folders, flat, or with a counts.csv"
    kind = "folder" if Path(source.path).is_dir() else "zip"
    if not source.names:
        return f"{source.path}: {kind} is empty; {wanted}"
    others = sorted({PurePosixPath(name).suffix.lower() or "(none)" for name in source.names})[:6]
    return f"{source.path}: {kind} has no images, only files with extension {', '.join(others)}; {wanted}"
