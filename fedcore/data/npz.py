"""A set in one npz file: images `x`, and what is known of them under other keys; never unpickled."""

from __future__ import annotations

import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.data.archive import one_line
from fedcore.data.catalogue import Catalogue
from scenarios.errors import InputError

MAX_ARRAY_BYTES = 4 * 2**30
_MAX_COUNT = 10**9
# Names close to ours, which would otherwise be passed over in silence.
_MEANT = {
    "label": "y", "labels": "y", "counts": "count", "groups": "group", "slide": "group", "site": "group",
    "plate": "group", "station": "group", "is_test": "test", "class_names": "classes", "kind": "kinds",
}  # fmt: skip
_Array = NDArray[Any]
_Header = tuple[tuple[int, ...], np.dtype[Any]]


def read_npz(path: Path) -> tuple[NDArray[np.uint8], Catalogue]:
    """Read the images, (N, H, W, C) uint8 at the size they are stored in, and what is known of them.

    Keys: `x` (N, H, W), (N, H, W, 1) or (N, H, W, 3) uint8; `y` (N,) whole numbers from 0 or names; `count`
    (N, kinds) or (N,) whole numbers from 0; `group` (N,) whole numbers or names; `test` (N,) bool; `classes`
    and `kinds` names. Other keys are not read. Labels without `classes` are renumbered 0, 1, ... in order and
    named by their old values.

    Raises:
        InputError: not an npz, `x` missing (the keys found are listed, with a way to map them), a key with a
            wrong shape, type, length or value, or one that holds pickled objects.
    """
    headers = _headers(path)
    if "x" not in headers:
        raise InputError(_no_x(path, headers))
    shape, dtype = headers["x"]
    if len(shape) not in (3, 4) or (len(shape) == 4 and shape[3] not in (1, 3)) or 0 in shape[1:]:
        raise InputError(f"{path}: x has shape {shape}; expected (N, H, W), (N, H, W, 1) or (N, H, W, 3)")
    if dtype != np.uint8:
        raise InputError(f"{path}: x has type {dtype}; expected uint8, grey or RGB levels from 0 to 255")
    for key, ours in _MEANT.items():
        if key in headers and ours not in headers:
            warnings.warn(f"{path}: array '{key}' is not read; rename it '{ours}' if that is meant", stacklevel=2)

    read = {key: _load(path, key, headers[key]) for key in _KEYS if key in headers}
    x = read["x"]
    n = len(x)
    for key in ("y", "group", "test"):
        if key in read and read[key].shape != (n,):
            raise InputError(f"{path}: {key} has shape {read[key].shape}; expected ({n},), one value per image of x")
    labels, classes = _labels(path, read)
    counts, kinds = _counts(path, read, n)
    group, group_names = _groups(path, read)
    catalogue = Catalogue(
        n=n,
        labels=labels,
        counts=counts,
        group=group,
        test=_test(path, read),
        classes=classes,
        kinds=kinds,
        group_names=group_names,
    )
    return x[..., None] if x.ndim == 3 else x, catalogue


_KEYS = ("x", "y", "count", "group", "test", "classes", "kinds")


def _headers(path: Path) -> dict[str, _Header]:
    """Shape and type of every array, read without the data, so that nothing absurd is ever allocated."""
    headers: dict[str, _Header] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if not member.filename.endswith(".npy"):
                    continue
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    if version == (1, 0):
                        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                    else:
                        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
                headers[member.filename.removesuffix(".npy")] = (shape, dtype)
    except Exception as error:  # a damaged file makes zipfile and numpy raise almost anything
        raise InputError(
            f"{path}: not a readable npz, or cut short ({one_line(error)}); expected a file written by numpy.savez"
        ) from error
    return headers


def _load(path: Path, key: str, header: _Header) -> _Array:
    shape, dtype = header
    if dtype.hasobject:
        raise InputError(
            f"{path}: {key} holds pickled Python objects, which are never loaded; expected a plain array of "
            "numbers or text"
        )
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_ARRAY_BYTES:
        raise InputError(f"{path}: {key} unpacks to {size:,} bytes; expected at most {MAX_ARRAY_BYTES:,}")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return np.asarray(arrays[key])
    except Exception as error:  # as above
        raise InputError(f"{path}: {key} cannot be read ({one_line(error)}); expected an undamaged npz") from error


def _no_x(path: Path, headers: dict[str, _Header]) -> str:
    if not headers:
        return f"{path}: holds no arrays; expected an npz with x (N, H, W) or (N, H, W, 3) uint8"
    found = ", ".join(f"{key} {shape} {dtype}" for key, (shape, dtype) in list(headers.items())[:12])
    sentence = f"{path}: has no array x; found {found}; expected x (N, H, W) or (N, H, W, 3) uint8"
    like_images = [
        key
        for key, (shape, dtype) in headers.items()
        if dtype == np.uint8 and (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3)))
    ]
    if not like_images:
        return sentence
    best = max(like_images, key=lambda key: headers[key][0][0])
    rows = headers[best][0][:1]
    beside = [key for key, (shape, _) in headers.items() if shape == rows]
    sentence += (
        f": save it anew, such as z = np.load('{path.name}'), np.savez('new.npz', x=z['{best}'], y=..., group=...)"
    )
    if beside:
        sentence += f", where {' and '.join(beside)} {'have' if len(beside) > 1 else 'has'} the length of {best}"
    return sentence


def _names(path: Path, key: str, values: _Array) -> list[str]:
    if values.dtype.kind == "S":
        try:
            values = np.char.decode(values, "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: {key} has a name that is not UTF-8; expected text") from error
    return [str(value) for value in values]


def _name_list(path: Path, key: str, read: dict[str, _Array]) -> tuple[str, ...] | None:
    if key not in read:
        return None
    values = read[key]
    if values.ndim != 1 or values.dtype.kind not in "USiu":
        raise InputError(f"{path}: {key} is {values.dtype} {values.shape}; expected one list of names")
    names = _names(path, key, values)
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: {key} has '{double}' twice; expected distinct names")
    return tuple(names)


def _numbered(path: Path, key: str, values: _Array) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    distinct, number = np.unique(values, return_inverse=True)
    return number.reshape(-1).astype(np.int64), tuple(_names(path, key, distinct))


def _labels(path: Path, read: dict[str, _Array]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    if "y" not in read:
        return None, ()
    y, classes = read["y"], _name_list(path, "classes", read)
    if y.dtype.kind in "US":
        names = _names(path, "y", y)
        order = classes if classes is not None else tuple(sorted(set(names)))
        number = {name: i for i, name in enumerate(order)}
        for i, name in enumerate(names):
            if name not in number:
                raise InputError(f"{path}: y[{i}] is '{name}'; expected one of the {len(order)} names in classes")
        return np.array([number[name] for name in names], dtype=np.int64), order
    if y.dtype.kind not in "iu":
        raise InputError(f"{path}: y has type {y.dtype}; expected whole numbers from 0, or names")
    wrong = (y < 0) if classes is None else (y < 0) | (y >= len(classes))
    if wrong.any():
        i = int(np.argmax(wrong))
        limit = "from 0" if classes is None else f"from 0 to {len(classes) - 1}, as classes has {len(classes)} names"
        raise InputError(f"{path}: y[{i}] is {y[i]}; expected whole numbers {limit}")
    return _numbered(path, "y", y) if classes is None else (y.astype(np.int64), classes)


def _counts(path: Path, read: dict[str, _Array], n: int) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    if "count" not in read:
        return None, ()
    count, kinds = read["count"], _name_list(path, "kinds", read)
    if count.ndim not in (1, 2) or len(count) != n or 0 in count.shape[1:]:
        raise InputError(f"{path}: count has shape {count.shape}; expected ({n}, kinds), one row per image of x")
    if count.dtype.kind not in "iuf":
        raise InputError(f"{path}: count has type {count.dtype}; expected whole numbers from 0")
    count = count.reshape(n, -1)
    if kinds is not None and len(kinds) != count.shape[1]:
        raise InputError(f"{path}: kinds has {len(kinds)} names; expected {count.shape[1]}, one per column of count")
    # Written so that NaN, for which every comparison is false, counts as wrong too.
    wrong = ~((count >= 0) & (count <= _MAX_COUNT) & (count == np.floor(count)))
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise InputError(f"{path}: count[{row}, {column}] is {count[row, column]}; expected whole numbers from 0")
    names = kinds if kinds is not None else tuple(f"kind_{i + 1}" for i in range(count.shape[1]))
    return count.astype(np.int64), names


def _groups(path: Path, read: dict[str, _Array]) -> tuple[NDArray[np.int64] | None, tuple[str, ...]]:
    if "group" not in read:
        return None, ()
    if read["group"].dtype.kind not in "iuUS":
        raise InputError(f"{path}: group has type {read['group'].dtype}; expected whole numbers or names")
    return _numbered(path, "group", read["group"])


def _test(path: Path, read: dict[str, _Array]) -> NDArray[np.bool_] | None:
    if "test" not in read:
        return None
    test = read["test"]
    if test.dtype.kind not in "biu" or (test.size and not np.isin(test, (0, 1)).all()):
        raise InputError(f"{path}: test has type {test.dtype}; expected bool, true for the held-out images")
    return test.astype(np.bool_)
