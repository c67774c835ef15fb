"""The pictures: right shape, the same for the same state, and drawable in every situation."""

import json
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pytest
from numpy.typing import NDArray

from envs.orchestration import OrchestrationEnv
from envs.rendering import _places, render_ansi, render_rgb
from fedcore.fleet import columns as c
from fedcore.fleet.graph import SERVER, fleet_graph, routing_tree
from scenarios import Scenario, load
from scenarios.loader import names

CALIBRATION = {
    "name": "soil-convnet-simclr",
    "dynamics": {
        "rate": 0.08, "ceiling": 1.5, "share_power": 0.1,
        "scaling": 0.8, "steps_power": 0.7, "cover_power": 0.5, "overlap_power": 0.1,
        "data_power": 0.1, "rest_samples": 0.5, "rest_power": 1.5, "fresh_part": 0.2,
        "gap_fade": 0.01, "context_power": 0.4, "noise": 0.01,
        "run_spread": 0.1, "machine_spread": 0.05, "tilt_spread": 0.02,
    },
    "untrained_infonce": 8.0,
    "target_infonce": 5.0,
    "fit": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "rendering.json"
    path.write_text(json.dumps(CALIBRATION))
    return path


def environment(scenario: Scenario, calibration: Path, mode: str = "rgb_array", **workload: Any) -> OrchestrationEnv:
    changed = scenario.workload.model_copy(update={"calibration": str(calibration), **workload})
    env = OrchestrationEnv(scenario.model_copy(update={"workload": changed}), render_mode=mode)
    env.reset(seed=3)
    return env


def play(env: OrchestrationEnv, rounds: int) -> None:
    rng = np.random.default_rng(7)
    for _ in range(rounds):
        if env.step(rng.uniform(-1, 1, env.action_space.shape))[2]:
            break


def picture(env: OrchestrationEnv) -> NDArray[np.uint8]:
    frame = env.render()
    assert isinstance(frame, np.ndarray)
    assert frame.shape == (800, 1200, 3)
    assert frame.dtype == np.uint8
    return frame


def text(env: OrchestrationEnv) -> str:
    return render_ansi(env.core, env.history, env.blocks())


def with_groups(name: str, **changes: list[dict[str, Any]]) -> Scenario:
    """A library scenario whose machine groups are changed one by one; groups without a change are left out."""
    content = load(name).model_dump(mode="json")
    groups = content["fleet"]["groups"]
    content["fleet"]["groups"] = [{**group, **change} for group, change in zip(groups, changes["groups"], strict=False)]
    return Scenario.model_validate(content)


@pytest.mark.parametrize("name", names())
def test_every_library_scenario_is_drawn_at_reset_and_later(name: str, calibration: Path) -> None:
    env = environment(load(name), calibration)
    start = picture(env)
    assert len(np.unique(start)) > 100
    assert (start[0, 0] == 255).all()
    play(env, 4)
    later = picture(env)
    assert (start != later).any(axis=2).mean() > 0.01
    described = text(env)
    for machine in env.core.world().arrays.names:
        assert machine in described
    assert max(len(line) for line in described.splitlines()) <= 100


def test_same_state_gives_same_pixels_and_another_round_others(calibration: Path) -> None:
    env, twin = environment(load("solar-field"), calibration), environment(load("solar-field"), calibration)
    play(env, 3)
    play(twin, 3)
    frame = picture(env)
    assert (frame == picture(twin)).all()
    twin.step(np.full(17, 0.2, dtype=np.float32))
    assert (frame != picture(twin)).any()


def test_drawing_leaves_the_episode_alone(calibration: Path) -> None:
    env, twin = environment(load("phones"), calibration), environment(load("phones"), calibration)
    action = np.full(17, 0.1, dtype=np.float32)
    for _ in range(2):
        text(env)
        assert (env.step(action)[0] == twin.step(action)[0]).all()
    picture(env)
    assert (env.step(action)[0] == twin.step(action)[0]).all()


def test_blocks_are_drawn_where_they_are(calibration: Path) -> None:
    # Same state, other neurons: only the strips and the coverage under them may differ.
    env = environment(load("two-servers"), calibration)
    env.step(np.full(17, 0.0, dtype=np.float32))
    moved = [[(index + 1) % 24 if len(index) < 24 else index for index in machine] for machine in env.blocks()]
    moved = [[np.sort(index) for index in machine] for machine in moved]
    differ = (picture(env) != render_rgb(env.core, env.history, moved)).any(axis=2)
    assert differ.any()
    rows, columns = np.nonzero(differ)
    assert columns.min() > 440
    assert 120 < rows.min() <= rows.max() < 594


def test_one_machine(calibration: Path) -> None:
    env = environment(with_groups("lab-lan", groups=[{}]), calibration)
    play(env, 2)
    picture(env)


def test_a_large_fleet_with_long_names(calibration: Path) -> None:
    count = 40
    name = "a-field-station-with-a-long-name-in-hesse"[:40]
    scenario = with_groups("solar-field", groups=[{"name": name, "count": count - 5}, {"count": 5}])
    changed = scenario.workload.model_copy(update={"calibration": str(calibration)})
    env = OrchestrationEnv(scenario.model_copy(update={"workload": changed}), max_machines=count, render_mode="ansi")
    env.reset(seed=0)
    play(env, 2)
    described = env.render()
    assert isinstance(described, str)
    assert f"{name}-{count - 6}" in described
    assert render_rgb(env.core, env.history, env.blocks()).shape == (800, 1200, 3)


def mesh(calibration: Path, pairs: dict[str, float], at: list[str]) -> OrchestrationEnv:
    """field-mesh on other relays, one letter each, s for the server: latency by pair, and where the four groups hang."""
    content = load("field-mesh").model_dump(mode="json")
    names = {letter: "server" if letter == "s" else f"relay-{letter}" for letter in "sabcdef"}
    content["fleet"]["links"] = [
        {"name": pair, "between": [names[end] for end in pair], "uplink_mbps": 5.0, "downlink_mbps": 5.0, "latency_s": latency}
        for pair, latency in pairs.items()
    ]
    for group, node in zip(content["fleet"]["groups"], at, strict=True):
        group["link"]["at"] = names[node]
    return environment(Scenario.model_validate(content), calibration)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("pairs", "at"),
    [
        ({"sa": 0.01, "ab": 0.01, "bc": 0.01, "cd": 0.01, "de": 0.01, "ef": 0.01, "ad": 0.5}, "fdaf"),  # deep
        ({"sa": 0.01, "sb": 0.01, "ab": 0.01, "bc": 0.01, "ac": 0.01, "de": 0.01}, "abba"),  # c without machines, d, e apart
    ],
)
def test_meshes_in_whatever_order(pairs: dict[str, float], at: str, calibration: Path) -> None:
    env = mesh(calibration, pairs, list(at))
    picture(env)
    play(env, 2)
    picture(env)


def test_a_mesh_keeps_its_relays_apart_and_shows_its_spare_links(calibration: Path) -> None:
    # Both relays' machines have the same middle: without a distance the relays would lie on each other.
    ring = {"sa": 0.01, "sb": 0.01, "ab": 0.01}
    env = mesh(calibration, ring, list("abba"))
    fleet = env.core.world().scenario.fleet
    tree = nx.bfs_tree(routing_tree(fleet_graph(fleet)), SERVER)
    depth = nx.single_source_shortest_path_length(tree, SERVER)
    places = _places(tree, dict(zip(fleet.machine_names, np.linspace(150, 500, 8).tolist(), strict=True)), depth)
    (x0, y0), (x1, y1) = places["relay-a"], places["relay-b"]
    assert x0 == x1
    assert abs(y0 - y1) == pytest.approx(50.0)
    without = mesh(calibration, {"sa": 0.01, "sb": 0.01}, list("abba"))
    differ = (picture(env) != picture(without)).any(axis=2)
    rows, columns = np.nonzero(differ)
    assert differ.any()
    assert columns.max() < 480
    assert 100 < rows.min() <= rows.max() < 520


def test_everybody_rests(calibration: Path) -> None:
    env = environment(load("one-strong-many-weak"), calibration)
    env.step(np.full(17, -1.0, dtype=np.float32))
    picture(env)
    assert text(env).count("resting") == 8


def test_every_status_is_drawn_and_named(calibration: Path) -> None:
    env = environment(load("solar-field"), calibration)
    env.step(np.full(17, 0.0, dtype=np.float32))
    env.core.telemetry[0, :8, c.STATUS] = [*range(c.AWAY, c.FLAT + 1), c.DONE]
    picture(env)
    for status in range(c.AWAY, c.FLAT + 1):
        assert f" {c.STATUS_NAMES[status]} " in text(env)


def test_the_end_is_told(calibration: Path) -> None:
    env = environment(load("two-servers"), calibration, mode="ansi")
    while not env.step(np.full(17, 0.2, dtype=np.float32))[2]:
        pass
    assert "target reached" in str(env.render())
    assert len(env.history.series("progress")) == int(env.core.round[0]) + 1
    assert env.history.series("time_s")[-1] == env.core.spent[0, 0]
    before = text(env)
    env.reset(seed=1)
    assert "target reached" not in str(env.render())
    assert before != text(env)


def test_deep_encoders_show_some_layers(calibration: Path) -> None:
    options = {"widths": [8] * 12, "strides": [1] * 12}
    env = environment(load("two-servers"), calibration, encoder_options=options)
    play(env, 1)
    picture(env)
    assert "nv12" in text(env)
