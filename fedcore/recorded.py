"""The recorded rounds behind a calibration, in one file beside it: whoever has it fits again without training again."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from fedcore.files import write_bytes, write_text
from scenarios.errors import InputError


def recorded_path(folder: Path, name: str) -> Path:
    """Where a calibration's records are."""
    return folder / f"{name}.rounds.json.gz"


def played_path(folder: Path, name: str) -> Path:
    """Where the records of runs are that heuristics decided."""
    return folder / f"{name}.played.json.gz"


def keep_records(path: Path, work: str, kept: dict[str, Any]) -> None:
    """Write records.

    Args:
        path: from `recorded_path`.
        work: names what was recorded: the cache folder's own name.
        kept: file name -> record.
    """
    content = json.dumps({"work": work, "records": kept}, separators=(",", ":"))
    write_bytes(path, gzip.compress(content.encode(), mtime=0))


def read_records(path: Path, work: str) -> dict[str, Any]:
    """Records by file name; none where there is no file, or of other work.

    Raises:
        InputError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        content = json.loads(gzip.decompress(path.read_bytes()))
        recorded, records = content["work"], dict(content["records"])
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is damaged ({error}): expected records of python -m fedcore.calibrate; delete it to record anew"
        ) from None
    return records if recorded == work else {}


def unpack_records(path: Path, folder: Path) -> None:
    """Write records to a cache folder, those that it lacks; raises as `read_records`."""
    for name, record in read_records(path, folder.name).items():
        # Names come from a file: none may lead elsewhere.
        if Path(name).name == name and not (folder / name).is_file():
            write_text(folder / name, json.dumps(record))
