import json
import operator
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedcore.parallel import run_kept

ROOT = Path(__file__).parents[2]


def test_what_is_kept_is_not_run_again(tmp_path):
    (tmp_path / "1.json").write_text("99")
    # A function that any process can import: which folders a test run puts on the path differs.
    jobs = {tmp_path / f"{x}.json": (operator.mul, (x, x)) for x in (1, 2, 3)}
    assert run_kept(jobs, 2, "squares") == {tmp_path / "1.json": 99, tmp_path / "2.json": 4, tmp_path / "3.json": 9}
    assert json.loads((tmp_path / "3.json").read_text()) == 9


@pytest.mark.parametrize("content", ["", '{"a": ', "\x00"])
def test_a_damaged_result_is_made_again(content, tmp_path):
    (tmp_path / "2.json").write_text(content)
    assert run_kept({tmp_path / "2.json": (operator.mul, (2, 2))}, 1, "squares") == {tmp_path / "2.json": 4}
    assert json.loads((tmp_path / "2.json").read_text()) == 4


def alive(pid):
    """Whether a process runs; one that waits for its parent to take note of its end does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_a_parent_that_is_killed(how, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from fedcore.parallel import worker_pool\n"
        "if __name__ == '__main__':\n"
        "    with worker_pool(1) as pool:\n"
        "        print(pool.submit(os.getpid).result(), flush=True)\n"
        "        pool.submit(time.sleep, 120).result()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert alive(worker)
    parent.send_signal(how)
    parent.wait()
    waited = time.monotonic()
    while alive(worker) and time.monotonic() - waited < 30:
        time.sleep(0.05)
    assert not alive(worker)
