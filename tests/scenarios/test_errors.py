"""How a command ends."""

import subprocess
import sys

SECOND = """
import atexit, os, signal, time
from scenarios.errors import told

atexit.register(lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(0.2)))
with told("interrupted: nothing is lost"):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
"""


def test_a_second_ctrl_c_does_not_disturb_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", SECOND], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, "interrupted: nothing is lost\n")
