"""One command in a folder at a time."""

import subprocess
import sys
import threading

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


def test_who_waits_gets_a_folder_that_becomes_free(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        threading.Timer(0.5, other.kill).start()
        with claimed(tmp_path, "run", wait_s=60.0):
            assert other.wait() != 0
