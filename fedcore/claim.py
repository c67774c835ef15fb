"""A folder that one command works in at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from scenarios.errors import InputError

NAME = ".in-use"
LOOKS_S = 0.2
"""Between looks whether a folder is free."""


class InUseError(InputError):
    """Another process works in the folder."""


@contextmanager
def claimed(folder: Path, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Work in a folder alone; the system takes the claim back from whoever ends, however that happens.

    Args:
        folder: made where it is not there.
        what: works in it, for the message.
        wait_s: for another to end.

    Raises:
        InUseError: another process works in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / NAME).open("a") as file:
        until = time.monotonic() + wait_s
        while not _locks(file):
            if time.monotonic() >= until:
                raise InUseError(f"{folder} is in use by another {what}; expected one of its own, or its end")
            time.sleep(LOOKS_S)
        yield


def _locks(file: TextIO) -> bool:
    """Lock a file for this process; where there are no locks everybody has it, as before there were any."""
    try:
        import fcntl
    except ImportError:  # Windows, where nothing of ours asks for it but trials
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # such a file system
        pass
    return True
