"""A folder that one command works in at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scenarios.errors import InputError

NAME = ".in-use"


@contextmanager
def claimed(folder: Path, what: str) -> Iterator[None]:
    """Work in a folder alone; the system takes the claim back from whoever ends, however that happens.

    Args:
        folder: made where it is not there.
        what: works in it, for the message.

    Raises:
        InputError: another process does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows, where nothing of ours asks for it but trials
        yield
        return
    with (folder / NAME).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{folder} is in use by another {what}; expected a folder of its own, or to wait for it") from None
        except OSError:
            pass  # a file system without locks: as it was before there were any
        yield
