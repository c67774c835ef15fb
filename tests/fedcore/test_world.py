"""A compiled scenario: cost of the reference by hand, budgets, limits of memory, and clear refusals."""

import json
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedcore.costs import GRID
from fedcore.fleet import columns as c
from fedcore.workload import workload_costs
from fedcore.world import calibration_note, compile_world, share_indices, with_reference, with_samples
from scenarios import InputError, Scenario, load, names

DYNAMICS = {
    "rate": 0.2, "ceiling": 1.4, "share_power": 0.1,
    "scaling": 0.9, "steps_power": 0.7, "cover_power": 0.5, "overlap_power": 0.1,
    "data_power": 0.2, "rest_samples": 0.0, "rest_power": 1.0, "fresh_part": 0.0, "gap_fade": 0.0,
    "context_power": 0.5, "noise": 0.0,
    "run_spread": 0.0, "machine_spread": 0.0, "tilt_spread": 0.0,
}  # fmt: skip


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    """One machine without chance, on noise-free dynamics."""
    path = tmp_path / "exact.json"
    path.write_text(
        json.dumps(
            {"name": "exact", "dynamics": DYNAMICS, "untrained_infonce": 6.0, "target_infonce": 5.0, "fit": {}}
        )
    )
    device = {
        "throughput_gflops": 10.0, "memory_mb": 4096.0, "active_power_w": 5.0, "idle_power_w": 2.0, "step_jitter": 0.0
    }  # fmt: skip
    link = {"uplink_mbps": 8.0, "downlink_mbps": 16.0, "latency_s": 0.0}
    return {
        "name": "exact",
        "fleet": {"groups": [{"name": "a", "device": device, "link": link}]},
        "workload": {"calibration": str(path)},
        "reference": {"share": 1.0, "sync_interval": 10},
    }


def compiled(content: dict[str, Any], **options: Any):  # type: ignore[no-untyped-def]
    return compile_world(Scenario.model_validate(content), **options)


@pytest.mark.parametrize("name", names())
def test_every_library_scenario_compiles(name: str) -> None:
    world = compile_world(load(name))
    assert 5 < world.reference.rounds < world.budgets[3]
    assert all(x > 0 for x in astuple(world.reference))
    assert world.data.sum() == pytest.approx(1.0)
    assert (world.data[world.arrays.machines :] == 0).all()
    assert (world.max_share_index[: world.arrays.machines] >= 1).any()
    assert compile_world(load(name)) is world


TEXT = [name for name in names() if load(name).workload.data == "grammar"]


@pytest.mark.parametrize("name", TEXT)
def test_where_text_is_trained_no_machine_has_enough_of_it_alone(name: str) -> None:
    world = compile_world(load(name))
    machines = world.arrays.machines
    assert (world.dynamics.peak(world.samples[:machines]) < 1.0).all()
    assert world.dynamics.peak(world.samples.sum()) > 1.05


def test_reference_cost_by_hand(content: dict[str, Any]) -> None:
    world = compiled(content)
    # One machine with everything: m = D = 1, so each round is one unit of work, and (1 - 1 / C)^(-1/s) is reached linearly.
    rounds = int(np.ceil(((1 - 1 / 1.4) ** (-1 / 0.9) - 1) * 0.9 * 1.4 / 0.2))
    flops, up, down = world.costs[GRID, :3]
    compute = 10 * flops / 10e9
    round_s = down * 8 / 16e6 + compute + up * 8 / 8e6 + 0.5
    joules = 5.0 * compute + 2.0 * (round_s - compute) + 8 * (up + down) * 5e-9
    assert world.reference.rounds == pytest.approx(rounds)
    assert world.reference.time_s == pytest.approx(rounds * round_s)
    assert world.reference.energy_j == pytest.approx(rounds * joules)
    assert world.reference.bytes == pytest.approx(rounds * (up + down))


def test_a_thin_context_makes_the_reference_slower(content: dict[str, Any]) -> None:
    whole = compiled(content)
    content["workload"]["context"] = 0.25
    thin = compiled(content)
    assert thin.dynamics.rate == pytest.approx(0.2 * 0.5)
    assert thin.reference.rounds == pytest.approx(2 * whole.reference.rounds, abs=1)


def test_budgets_are_multiples_unless_given(content: dict[str, Any]) -> None:
    world = compiled(content)
    r = world.reference
    assert world.budgets == pytest.approx((3 * r.time_s, 3 * r.energy_j, 3 * r.bytes, 200))
    content["budgets"] = {"of_reference": 2.0, "time_s": 55.0, "bytes": 1e9, "rounds": 7}
    assert compiled(content).budgets == pytest.approx((55.0, 2 * r.energy_j, 1e9, 7))


def test_fewer_samples_than_a_batch_are_smaller_steps(content: dict[str, Any]) -> None:
    content["workload"] |= {"batch_size": 64}
    content["fleet"]["groups"][0] |= {"images": 64}
    full = compiled(content)
    content["fleet"]["groups"][0] |= {"images": 16}
    few = compiled(content)
    assert few.arrays.parameters[0, c.OF_BATCH] == 0.25
    assert few.reference.rounds == full.reference.rounds
    compute_s = full.reference.rounds * 10 * full.costs[GRID, 0] / 10e9
    assert full.reference.time_s - few.reference.time_s == pytest.approx(0.75 * compute_s)
    assert few.reference.bytes == full.reference.bytes
    dealt = with_samples(full, [16])
    np.testing.assert_array_equal(dealt.arrays.parameters, few.arrays.parameters)
    np.testing.assert_array_equal(with_samples(dealt, [64]).arrays.parameters, full.arrays.parameters)
    # Its activations are fewer, so that a memory that holds no whole model at a full batch holds one.
    memory = workload_costs(few.scenario.workload, batch=16)[:, 3]
    assert memory[GRID] < 0.5 * full.costs[GRID, 3]
    parameters = full.arrays.parameters.copy()
    parameters[0, c.MEMORY_BYTES] = memory[200]
    small = replace(full, arrays=replace(full.arrays, parameters=parameters))
    assert with_samples(small, [64]).max_share_index[0] < 200 <= with_samples(small, [16]).max_share_index[0] < GRID


def test_a_reference_of_other_rounds_scales_needs_and_budgets_and_no_rounds_cost(content: dict[str, Any]) -> None:
    world = compiled(content)
    other = with_reference(world, 2.5 * world.reference.rounds)
    assert astuple(other.reference) == pytest.approx([2.5 * x for x in astuple(world.reference)])
    assert other.budgets[:3] == pytest.approx([2.5 * x for x in world.budgets[:3]])
    assert other.budgets[3] == world.budgets[3]


def test_memory_limits_the_share(content: dict[str, Any]) -> None:
    assert compiled(content).max_share_index[0] == GRID
    memory = compiled(content).costs[:, 3]
    assert (np.diff(memory) >= 0).all()
    content["fleet"]["groups"][0]["device"]["memory_mb"] = memory[200] / 1e6 * (1 + 1e-9)
    world = compiled(content)
    limit = world.max_share_index[0]
    assert memory[limit] <= world.arrays.parameters[0, c.MEMORY_BYTES] < memory[limit + 1]
    assert limit >= 200
    assert (world.max_share_index[1:] == 0).all()


def test_a_reference_that_does_not_fit_takes_what_does(content: dict[str, Any]) -> None:
    memory = compiled(content).costs[:, 3]
    content["fleet"]["groups"][0]["device"]["memory_mb"] = memory[128] / 1e6 * (1 + 1e-9)
    limited = compiled(content)
    content["reference"]["share"] = float(limited.max_share_index[0]) / GRID
    assert astuple(compiled(content).reference) == pytest.approx(astuple(limited.reference))


def test_targets_out_of_reach_are_told(content: dict[str, Any]) -> None:
    content["fleet"]["groups"][0]["device"]["memory_mb"] = 0.001
    with pytest.raises(InputError, match=r"scenario exact: the reference policy .* does not reach the target"):
        compiled(content)
    content["fleet"]["groups"][0]["device"]["memory_mb"] = 4096
    content["decision"] = {"deadline_s": 0.001}
    with pytest.raises(InputError, match="deadline"):
        compiled(content)


def test_a_context_that_no_rounded_message_carries_is_told(content: dict[str, Any]) -> None:
    content["workload"] |= {"context": 0.5, "context_rule": "compensated"}
    compiled(content)
    content["decision"] = {"wire_precision": "int8"}
    with pytest.raises(InputError, match=r"decision.wire_precision is 'int8', but workload.context_rule 'compensated' sends"):
        compiled(content)
    content["workload"]["context_rule"] = "random"
    compiled(content)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("calibration", "nothing", "workload.calibration 'nothing' is unknown"),
        ("encoder", "nothing", "workload.encoder is 'nothing'"),
        ("objective", "nothing", "workload.objective is 'nothing'"),
        ("encoder_options", {"widhts": [8]}, "scenario exact: workload does not build"),
    ],
)
def test_workloads_that_do_not_exist_are_told(content: dict[str, Any], field: str, value: Any, expected: str) -> None:
    content["workload"][field] = value
    with pytest.raises(InputError) as caught:
        compiled(content)
    message = str(caught.value)
    assert message.replace("scenario ?", "scenario exact").find(expected) >= 0
    assert "\n" not in message


def test_fleets_larger_than_k_max_are_told(content: dict[str, Any]) -> None:
    content["fleet"]["groups"][0]["count"] = 17
    with pytest.raises(InputError, match="17 machines, expected at most max_machines=16"):
        compiled(content, max_machines=16)
    assert len(compiled(content, max_machines=20).data) == 20
    assert len(compiled(content).data) == 17  # room for all where nothing is said


def test_shares_on_the_grid() -> None:
    assert share_indices(np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 0.5 + 0.49 / GRID])).tolist() == [0, 0, 128, 256, 256, 128]


def workload(name: str, **changes: Any) -> Scenario:
    scenario = load(name)
    return scenario.model_copy(update={"workload": scenario.workload.model_copy(update=changes)})


def test_a_calibration_of_other_training_is_told_and_of_images_is_none_for_text() -> None:
    assert [calibration_note(load(name)) for name in names()] == [None] * len(names())
    assert calibration_note(workload("farm-lte", calibration="/somewhere/own.json", encoder="vit")) is None
    note = calibration_note(workload("farm-lte", objective="byol"))
    assert note is not None
    assert "scenario farm-lte: " in note
    assert "not made of convnet with byol" in note
    with pytest.raises(InputError, match=r"scenario phones: workload\.calibration is .* of training on images"):
        compile_world(workload("phones", calibration="soil-mixed-convnet-simclr"))
    with pytest.raises(InputError, match=r"scenario phones: workload\.calibration 'nowhere' is unknown"):
        compile_world(workload("phones", calibration="nowhere"))
