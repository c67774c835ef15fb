"""A compiled function is compiled again when what it calls in another file has changed."""

import subprocess
import sys
from pathlib import Path

import numba

from fedcore.fleet.compiled import keep_by_content

INNER = "import numba\n\n@numba.njit(cache=True)\ndef inner(x):\n    return x + {}\n"
OUTER = "import numba\nfrom inner import inner\n\n@numba.njit(cache=True)\ndef outer(x):\n    return inner(x)\n"
RUN = """
import sys
from pathlib import Path
from fedcore.fleet.compiled import keep_by_content
folder = Path(sys.argv[1])
if sys.argv[2] == "apart":
    keep_by_content(folder)
sys.path.insert(0, str(folder))
from outer import outer
print(outer(1))
"""


def test_a_changed_callee_is_seen(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    root = Path(__file__).parents[3]
    monkeypatch.setenv("INTRAFED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "outer.py").write_text(OUTER)

    def run(how: str, added: int) -> str:
        (folder / "inner.py").write_text(INNER.format(added))
        command = [sys.executable, "-c", RUN, str(folder), how]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert [run("apart", 10), run("apart", 20), run("apart", 10)] == ["11", "21", "11"]


def test_the_user_s_own_folder_is_kept(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    keep_by_content(Path(__file__).parent)
    assert Path(numba.config.CACHE_DIR).parent == tmp_path
