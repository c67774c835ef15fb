"""How fast a scenario's devices are, by its own words, and that machines made out of this one are as fast."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agents.shaped import Paced, device_step_s
from fedcore.flower.namespaces import lacking
from fedcore.world import compile_world
from scenarios import InputError, load, parse


def test_a_step_takes_what_the_simulator_says_of_it():
    scenario = load("farm-lte")
    cost = compile_world(scenario).costs[-1]
    flops = cost[0] + 25.0 * cost[4]
    new, old = 0.01 + flops / 24e9, 0.02 + flops / 8e9
    assert device_step_s(scenario) == pytest.approx([new] * 3 + [old] * 3)


STEPS = """
import sys, time
from fedcore.blocks import whole_block
from fedcore.engines.inprocess import train_task
from fedcore.local import LocalTask
from fedcore.workload import build_training, method_of, prepare_data, recipe_of
from scenarios import load
scenario = load(sys.argv[1])
data = prepare_data(scenario)
training = build_training(scenario, data, None, 0)
for steps in (1, 12):
    task, began = LocalTask(0, whole_block(training.model.neuron_map), steps, (0,)), time.monotonic()
    arguments = (training.model, training.state, training.target, task, data.samples()[0], recipe_of(scenario.workload))
    train_task(method_of(scenario.workload), *arguments)
print((time.monotonic() - began) / steps)
"""


def two(overhead_s: float, tmp_path: Path) -> Path:
    device = {"throughput_gflops": 500, "step_overhead_s": overhead_s, "memory_mb": 512, "active_power_w": 5, "idle_power_w": 1}
    link = {"uplink_mbps": 8, "downlink_mbps": 8, "latency_s": 0}
    groups = [{"name": name, "device": device, "link": link} for name in ("north", "south")]
    path = tmp_path / "two.yaml"
    content = {"name": "two", "fleet": {"groups": groups}, "workload": {"precision": "fp32"}}
    path.write_text(parse(content, "two").model_dump_json())
    return path


@pytest.mark.slow
@pytest.mark.skipif(bool(lacking()), reason=f"machines cannot be made out of this one: {lacking()}")
def test_a_machine_made_out_of_this_one_is_as_fast_as_it_is_said_to_be(tmp_path: Path) -> None:
    path = two(0.4, tmp_path)
    scenario = load(str(path))
    with Paced(scenario, 0) as hosts:
        command = hosts.computing("north", [sys.executable, "-c", STEPS, str(path)])
        single = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2], env=single)
    assert float(done.stdout) == pytest.approx(device_step_s(scenario)[0], rel=0.4)
    with pytest.raises(InputError, match="of a core here at most"), Paced(load(str(two(0.0, tmp_path))), 0):
        pass
    left = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert f"if{os.getpid()}" not in left
