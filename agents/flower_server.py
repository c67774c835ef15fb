"""The ServerApp: plays a job over the grid of the SuperLink that it runs at."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from agents.real_run import FAILED, Job, run_job
from fedcore.claim import InUseError, claimed
from fedcore.files import write_text
from fedcore.flower.processes import end_with_parent
from fedcore.flower.transport import FlowerTransport
from scenarios import InputError

PROCESS, OWN = "server.pid", "server"
"""In a run's folder: the number of this process, and the folder that it claims."""
GRACE_S = 10.0
"""For Flower's own end of this process after the SuperLink's, which now and then hangs."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the job that `--run-config job=...` names, unless another run plays it: whoever was interrupted before a run showed
    itself submits it twice. Why it failed is left in its folder."""
    end_with_parent(GRACE_S)
    job = Job.read(Path(str(context.run_config["job"])))
    try:
        with claimed(Path(job.folder) / OWN, "run", 2 * GRACE_S):
            _play(job, grid)
    except InUseError as told:
        print(f"{told}; this run leaves it alone")


def _play(job: Job, grid: Grid) -> None:
    folder = Path(job.folder)
    write_text(folder / PROCESS, str(os.getpid()))
    try:
        run_job(job, FlowerTransport(grid))
    except InputError as error:
        write_text(folder / FAILED, str(error))
        raise
    except Exception:
        write_text(folder / FAILED, traceback.format_exc())
        raise
