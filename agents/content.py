"""What code a result hangs on, as a digest, so that kept results are played again where it changed and only there."""

from __future__ import annotations

import ast
import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

OWN = ("scenarios", "fedcore", "envs", "agents")


@lru_cache(maxsize=1024)
def _source(module: str) -> str | None:
    """Text of one of our modules, None where there is no such module."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin).read_text(encoding="utf-8") if spec is not None and spec.origin else None


def imported(text: str) -> set[str]:
    """Our modules that a module's text imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # What is imported from a package may be a module of it.
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] in OWN}


@lru_cache(maxsize=1024)
def code_of(*modules: str) -> str:
    """Digest of the modules' source and of all that they import of ours, directly or not. The packages that they lie in are
    left out: those register names, and registering another one changes no result."""
    waiting, texts = list(modules), {}
    while waiting:
        module = waiting.pop()
        if module in texts or (text := _source(module)) is None:
            continue
        texts[module] = text
        waiting += imported(text)
    digest = hashlib.sha256()
    for module in sorted(texts):
        digest.update(f"{module}\0{texts[module]}\0".encode())
    return digest.hexdigest()[:16]
