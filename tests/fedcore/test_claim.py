"""One command in a folder at a time."""

import subprocess
import sys

import pytest

from fedcore.claim import claimed
from scenarios import InputError

HOLD = """
import sys, time
from pathlib import Path
from fedcore.claim import claimed
with claimed(Path(sys.argv[1]), "x"):
    print("in", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_one_processes_until_that_ends_however_it_does(tmp_path):
    folder = tmp_path / "a" / "b"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(InputError, match="b is in use by another run; expected"), claimed(folder, "run"):
            pass
        other.kill()
    with claimed(folder, "run"), claimed(tmp_path / "a", "run"):
        pass
    with claimed(folder, "run"):
        pass
