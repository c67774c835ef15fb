"""Where numba keeps compiled functions: by the content of everything that they may call.

On its own numba looks at a function's own file only: one that calls a function of another file would be taken from the cache,
with the old callee in it, after that file has changed.
"""

from __future__ import annotations

import os
from pathlib import Path

import numba

from fedcore.files import cache_folder, content_key


def keep_by_content(*folders: Path) -> None:
    """Keep what is compiled from now on apart for every content of these folders' modules.

    Args:
        folders: whose `*.py` files the compiled functions lie in and call into.
    """
    key = content_key(*(file.read_bytes() for folder in folders for file in sorted(folder.glob("*.py"))))
    own = os.environ.get("NUMBA_CACHE_DIR")
    numba.config.CACHE_DIR = str(Path(own) / key if own else cache_folder("numba", key))
