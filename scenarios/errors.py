"""The one exception that a person's bad input raises, and how a command tells it: its sentence, and exit code 2."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input, told in one sentence that names the file, the field, the value and what was expected."""


def need_at_least(options: object, **least: int) -> None:
    """Refuse a command's numbers that are too small.

    Args:
        options: of the command.
        least: field -> the least that it takes.

    Raises:
        InputError: one is less.
    """
    for name, wanted in least.items():
        if getattr(options, name) < wanted:
            raise InputError(f"--{name} is {getattr(options, name)}, expected at least {wanted}")


@contextmanager
def told(interrupted: str) -> Iterator[None]:
    """End a command as all of ours do: bad input prints its one sentence and exits with 2, Ctrl-C exits with 130.

    Args:
        interrupted: what Ctrl-C prints.
    """
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would only disturb the tidying up
        print(interrupted, file=sys.stderr)
        sys.exit(130)
