"""A run on machines of your own: submit it to a SuperLink that is up, on the SuperLink's machine, and watch it.

    python -m agents.flower_submit --scenario FILE --agent POLICY --superlink HOST:8000 --root-certificates ca.crt --out FOLDER

The same command goes on from the last checkpoint where a run was interrupted. docs/deploy.md has the whole procedure.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from agents.benchmark import HELD_OUT_SEED, orchestrator
from agents.judge import cell_scenario
from agents.own_target import OwnTarget, own_target
from agents.real_run import EVENTS, FAILED, RESULT, Job
from fedcore.claim import claimed
from fedcore.flower.app import write_connection
from fedcore.flower.processes import flower_environment
from fedcore.flower.superlink import need_flower, submit
from fedcore.wire import PRECISIONS
from scenarios import InputError, load
from scenarios.errors import told


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--scenario", required=True, help="name or YAML file; its fleet names the machines")
    parser.add_argument("--agent", required=True, help="frozen policy, or the name of a heuristic")
    parser.add_argument("--superlink", default="127.0.0.1:8000", help="host:port")
    parser.add_argument("--root-certificates", type=Path, help="certificate of who signed the SuperLink's; none: no TLS")
    parser.add_argument("--out", type=Path, default=Path("runs/machines/own"), help="folder of the run")
    parser.add_argument("--data", type=Path, help="images that the server measures progress on; the scenario's by default")
    parser.add_argument("--target", type=float, help="InfoNCE that is progress 1 on data of your own; measured by default")
    parser.add_argument("--precision", choices=PRECISIONS, help="of blocks on the way up; the scenario's by default")
    parser.add_argument(
        "--context-precision", choices=PRECISIONS, default="fp32",
        help="of what machines only see: fp32 as it is, else what has changed since they were asked last",
    )  # fmt: skip
    parser.add_argument("--deadline-s", type=float, help="after which a block is lost; the scenario's by default")
    parser.add_argument(
        "--load-port", type=int, default=8010, help="UDP port of this machine at which nodes that rest tell their load; 0: none"
    )
    parser.add_argument(
        "--wait-s", type=float, default=600.0, help="for all machines at the start, or where a run goes on for those it had"
    )
    options = parser.parse_args()
    need_flower()
    scenario = load(options.scenario)
    orchestrator(options.agent, scenario)  # refuse a bad file before anything begins
    for name in ("deadline_s", "wait_s"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise InputError(f"--{name.replace('_', '-')} is {value}, expected a number of seconds above 0")
    if not 0 <= options.load_port < 2**16:
        raise InputError(f"--load-port is {options.load_port}, expected a port, or 0 for none")
    for path in (options.root_certificates, options.data):
        if path is not None and not path.exists():
            raise InputError(f"{path} does not exist, expected a file")
    # Here, so that --help and bad input need no Flower.
    from agents.flower_server import PROCESS
    from agents.flower_trial import SERVER_APP, goes_on, news_of, watch

    folder: Path = options.out.resolve()
    agent = str(Path(options.agent).resolve()) if Path(options.agent).is_file() else options.agent
    data = None if options.data is None else str(options.data.resolve())
    target = own_target(scenario, data, print) if options.target is None else OwnTarget(options.target)
    job = Job(
        agent, cell_scenario(scenario), HELD_OUT_SEED, str(folder), data, *target, options.precision,
        options.context_precision, options.deadline_s, options.wait_s,
        options.load_port or None,
    )  # fmt: skip
    with claimed(folder, "flower_submit"):
        news = news_of(folder / EVENTS)
        if goes_on(folder):
            if Job.read(folder / "job.json").identity() != job.identity():
                raise InputError(f"another run goes on in {folder}; expected a folder of its own, or its end (flwr stop)")
            print(f"the run in {folder} goes on; its news from here:", flush=True)
        else:
            for stale in (FAILED, PROCESS, RESULT):
                (folder / stale).unlink(missing_ok=True)
            job.write(folder / "job.json")
            write_connection(folder / "flower", options.superlink, options.root_certificates)
            run = submit(folder, flower_environment(folder / "flower"), SERVER_APP, folder / "job.json")
            print(f"the SuperLink has taken the run{f' {run}' if run else ''}", flush=True)
        try:
            watch(folder, news, _show, lambda: True)
        except KeyboardInterrupt:
            print("the run goes on at the SuperLink: the same command shows it again, flwr stop ends it", file=sys.stderr)
            raise
    print(f"done: {folder / RESULT}")


def _show(event: dict[str, Any]) -> None:
    if event["kind"] == "log":
        print(event["text"], flush=True)
        return
    spent = f", epsilon {event['epsilon']:.3g}" if "epsilon" in event else ""
    status = ", ".join(f"{name} {state}" for name, state in event["status"].items())
    print(
        f"round {event['round']}: progress {event['progress']:.3f}, {event['seconds']:.1f} s, {event['bytes'] / 1e6:.2f} MB, "
        f"{event['joules']:.0f} J ({event['meter']}), H {event['steps']}{spent}; {status}",
        flush=True,
    )


if __name__ == "__main__":
    with told("interrupted"):
        main()
