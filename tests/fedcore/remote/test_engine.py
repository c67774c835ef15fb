"""The engine over real machines: the same weights as in process, and every fault told in one line and kept out."""

import math
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedcore.blocks import whole_block
from fedcore.engines import InProcessEngine
from fedcore.engines.remote import RemoteEngine
from fedcore.engines.rounding import RoundingEngine
from fedcore.local import LocalTask, seeded
from fedcore.methods import FedAvg
from fedcore.remote import load
from fedcore.remote.ear import Ear
from fedcore.remote.node import Node
from fedcore.remote.residual import Residual
from fedcore.remote.transport import GoneError
from fedcore.training import FederatedTraining
from fedcore.wire import Packet, encode_task
from fedcore.workload import method_of, model_for, recipe_of
from scenarios import InputError
from scenarios.schema import Privacy, Workload

SHARES = [[0.5, 1.0, 0.25], [1.0, 0.0, 0.5], [0.34, 0.33, 0.33]]


def training(engine, workload, names) -> FederatedTraining:
    model = model_for(workload, 1)
    return FederatedTraining(model, engine, names, lambda model, state: 1.0, None, method=method_of(workload), seed=4)


def remote(transport, workload, names, lines=None, **options) -> tuple[RemoteEngine, FederatedTraining]:
    engine = RemoteEngine(
        transport, workload, names, on_event=[].append if lines is None else lines.append, **options
    )
    engine.gather(30.0)
    return engine, training(engine, workload, names)


def same(a: FederatedTraining, b: FederatedTraining) -> bool:
    pairs = [(a.state, b.state)] + ([] if a.target is None or b.target is None else [(a.target, b.target)])
    return all(torch.equal(x[name], y[name]) for x, y in pairs for name in x)


@pytest.mark.parametrize("changes", [
    {}, {"objective": "byol"}, {"objective": "dino", "objective_options": {}}, {"context": 0.5},
    {"context": 0.4, "context_rule": "important"}, {"selection": "importance"}, {"encoder": "resnet", "image_px": 16},
])  # fmt: skip
def test_weights_equal_those_of_the_in_process_engine_bit_for_bit(connected, workload, names, held, changes):
    if "encoder" in changes:
        changes = changes | {"encoder_options": {}}
    workload = workload.model_copy(update=changes)
    here = training(InProcessEngine(held, recipe_of(workload)), workload, names)
    engine, there = remote(connected, workload, names)
    for shares in SHARES:
        a, b = here.play(shares, 2), there.play(shares, 2)
        np.testing.assert_array_equal(a.losses, b.losses)
        assert b.came_back == tuple(share > 0 for share in shares)
    assert same(here, there)
    assert engine.measured[0].status == "done"
    assert engine.measured[0].compute_s > 0


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precisions_go_up_smaller_and_end_close(connected, workload, names, held, precision):
    here = training(InProcessEngine(held, recipe_of(workload)), workload, names)
    engine, there = remote(connected, workload, names, precision=precision)
    start = {name: value.clone() for name, value in here.state.items()}
    here.play(SHARES[0], 2)
    there.play(SHARES[0], 2)
    for name, value in here.state.items():
        change = float((value - start[name]).abs().max())
        assert float((value - there.state[name]).abs().max()) <= 0.01 * change + 1e-7
    assert not same(here, there)
    assert engine.measured[0].sent_bytes < 0.75 * engine.measured[0].received_bytes


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@pytest.mark.parametrize("changes", [{}, {"objective": "dino", "objective_options": {}}, {"selection": "importance"}])
def test_rounding_in_process_is_that_of_the_wire_bit_for_bit(connected, workload, names, held, precision, changes):
    workload = workload.model_copy(update=changes)
    here = training(RoundingEngine(InProcessEngine(held, recipe_of(workload)), precision), workload, names)
    _, there = remote(connected, workload, names, precision=precision)
    for shares in SHARES:
        here.play(shares, 2)
        there.play(shares, 2)
    assert same(here, there)


def test_what_diverges_costs_its_block_when_rounded_in_process_too(workload, names, held):
    workload = workload.model_copy(update={"context": 0.5, "context_rule": "important", "learning_rate": 1e30})
    federation = training(RoundingEngine(InProcessEngine(held, recipe_of(workload)), "int8"), workload, names)
    before = {name: value.clone() for name, value in federation.state.items()}
    report = federation.play([0.5, 0.5, 0.5], 3)
    assert report.came_back == (False, False, False)
    assert all("is not finite" in text for text in (*report.lost, *report.refused))
    assert all(torch.equal(federation.state[name], before[name]) for name in before)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_context_as_changes_comes_down_smaller_and_ends_close(connected, workload, names, held, precision):
    here = training(InProcessEngine(held, recipe_of(workload)), workload, names)
    engine, there = remote(connected, workload, names, context_precision=precision)
    start = {name: value.clone() for name, value in here.state.items()}
    received = []
    for _ in range(3):
        here.play([0.34, 0.33, 0.33], 2)
        assert there.play([0.34, 0.33, 0.33], 2).came_back == (True, True, True)
        received.append(engine.measured[0].received_bytes)
    assert received[1] < 0.85 * received[0]
    assert received[2] == pytest.approx(received[1], rel=0.02)
    assert not same(here, there)
    for name, value in here.state.items():
        change = float((value - start[name]).abs().max())
        assert float((value - there.state[name]).abs().max()) <= 0.1 * change + 1e-6


def test_a_machine_that_may_not_have_read_its_changes_is_sent_whole_weights(connected, workload, names, held, tmp_path):
    lines: list[str] = []
    engine, federation = remote(connected, workload, names, lines, context_precision="int8")
    shares = [0.34, 0.33, 0.33]
    federation.play(shares, 1)
    whole = [engine.measured[k].received_bytes for k in range(3)]
    federation.play(shares, 1)
    assert all(engine.measured[k].received_bytes < 0.85 * whole[k] for k in range(3))
    # Another node in its place, while the server has seen nothing of the change.
    connected.kill(100)
    connected.join(300, Node("north", lambda workload: held[0], tmp_path / "north"))
    until = time.monotonic() + 20
    while not engine.available()[0] or engine.roll.node_of[0] != 300:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert federation.play(shares, 1).came_back == (True, True, True)
    assert engine.measured[0].received_bytes > 0.95 * whole[0] > engine.measured[1].received_bytes
    # The same node, its memory gone: it says so, and gets them in the round after.
    connected.join(300, Node("north", lambda workload: held[0], tmp_path / "north"))
    report = federation.play(shares, 1)
    assert report.came_back == (False, True, True)
    assert "changes of weights that this machine does not have" in report.lost[0]
    assert federation.play(shares, 1).came_back == (True, True, True)


def test_a_node_killed_in_mid_round_is_lost_and_back_two_rounds_later(connected, workload, names, held, tmp_path):
    lines: list[str] = []
    engine, federation = remote(connected, workload, names, lines)
    connected.delay_s[101] = 60.0
    threading.Timer(0.3, connected.kill, (101,)).start()
    report = federation.play([0.5, 0.5, 0.5], 1)
    assert report.came_back == (True, False, True)
    assert report.lost == ("machine south: its node went away",)
    assert engine.available() == [True, False, True]
    assert federation.play([0.5, 0.5, 0.5], 1).lost == ("machine south: it is not connected",)
    connected.delay_s.clear()
    connected.join(205, Node("south", lambda workload: held[1], tmp_path / "south"))
    until = time.monotonic() + 20
    while not engine.available()[1]:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert federation.play([0.5, 0.5, 0.5], 1).came_back == (True, True, True)
    assert [line for line in lines if "south" in line and "back" in line]
    assert sum("machine south left" in line for line in lines) == 2


@pytest.mark.parametrize(("delay_s", "patience"), [(10.0, 20.0), pytest.param(13.0, 10.0, marks=pytest.mark.slow)])
def test_a_node_ten_times_slower_than_the_deadline_is_late_busy_and_its_block_dropped(
    connected, workload, names, delay_s, patience, monkeypatch
):
    monkeypatch.setattr("fedcore.engines.remote.PATIENCE", patience)  # deadlines until it is forgotten
    lines: list[str] = []
    engine, federation = remote(connected, workload, names, lines, deadline_s=1.0)
    connected.delay_s[102] = delay_s
    before = time.monotonic()
    report = federation.play([0.5, 0.5, 0.5], 1)
    assert time.monotonic() - before < 3.0
    assert report.came_back == (True, True, False)
    assert "within the deadline of 1 s" in report.lost[0]
    assert engine.available() == [True, True, False]
    weights = {name: value.clone() for name, value in federation.state.items()}
    connected.delay_s.clear()
    until = time.monotonic() + 60
    while not engine.available()[2]:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert any("block of round 0 came" in line and "dropped" in line for line in lines) == (delay_s < patience)
    assert all(torch.equal(federation.state[name], weights[name]) for name in weights)
    time.sleep(max(before + delay_s + 1.0 - time.monotonic(), 0.0))  # until it really has answered
    assert federation.play([0.5, 0.5, 0.5], 1).came_back == (True, True, True)


def changed(change):
    """Answers to tasks, changed on the way and sealed anew."""

    def tamper(content: bytes) -> bytes:
        packet = Packet.from_bytes(content, "x")
        if packet.values["kind"] == "train":
            change(packet)
        return packet.to_bytes()

    return tamper


BAD = {
    "nan": (lambda p: p.arrays["trained"].fill_(float("nan")), "is not finite"),
    "enormous": (lambda p: p.arrays["trained"].mul_(1e6), "is absurd beside weights"),
    "wrong shape": (lambda p: p.arrays.update(trained=p.arrays["trained"][:-3].clone()), "array trained is"),
    "stale": (lambda p: p.values.update(round=p.values["round"] - 1), "sent a block of round 0, expected round 1"),
    "another machine's": (lambda p: p.values.update(machine=0, name="north"), "sent a block as machine 'north'"),
    "many samples": (lambda p: p.values.update(samples=10**6), "says 1000000 samples and 1 steps, expected 10 and 1"),
    "seconds that were not": (lambda p: p.values.update(compute_s=1e6), "compute_s is '1000000.0', expected a finite"),
    "joules without end": (lambda p: p.values.update(joules=1e300, meter="RAPL"), "joules is '1e+300', expected a finite"),
    "endless seconds": (lambda p: p.values.update(compute_s=10**400), "compute_s is '1000"),
    "an extra": (lambda p: p.arrays.update({"extra:a:x": torch.zeros(9)}), "sent array 'extra:a:x', which nobody asked for"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_block_is_refused_by_name_and_leaves_no_trace(connected, workload, names, held, what):
    change, words = BAD[what]
    lines: list[str] = []
    _, federation = remote(connected, workload, names, lines)
    federation.play([0.5, 0.5, 0.5], 1)
    connected.tamper[101] = changed(change)
    report = federation.play([0.5, 0.5, 0.5], 1)
    told = [*report.refused, *report.lost]
    assert len(told) == 1
    assert told[0].startswith("machine south: ")
    assert words in told[0]
    # The rest of the round went on as if that machine had been away.
    alone = training(InProcessEngine(held, recipe_of(workload)), workload, names)
    alone.play([0.5, 0.5, 0.5], 1)
    alone.play([0.5, 0.5, 0.5], 1, [True, False, True])
    assert same(alone, federation)


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from([10**400, 2**63, "fp32", "north", "\ud800"]),
        st.text(max_size=8),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=8,
)  # fmt: skip
FIELDS = ("kind", "round", "machine", "steps", "samples", "loss", "precision", "compute_s", "node_s", "joules", "meter", "name",
          "charge", "why", "other")  # fmt: skip
ARRAYS = ("trained", "statistics", "extra:activations:conv1", "extra:activations", "extra:", "other")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int8, torch.int64, torch.bool)


@pytest.fixture
def answered(connected, workload, names):
    """How an engine reads the answer of south, and the honest one with what it is read by."""
    asking = workload.model_copy(update={"context": 0.4, "context_rule": "important"})
    engine, federation = remote(connected, asking, names)
    kept: list[tuple] = []
    read = engine._read
    engine._read = lambda *args: kept.append(args) or read(*args)
    federation.play([0.5, 0.5, 0.5], 1)
    [args] = [each for each in kept if each[3].machine == 1]
    return read, args


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=3), st.sets(st.sampled_from(FIELDS), max_size=1),
    st.dictionaries(
        st.sampled_from(ARRAYS), st.tuples(st.lists(st.integers(0, 40), max_size=3), st.sampled_from(DTYPES)), max_size=2
    ),
)  # fmt: skip
def test_whatever_a_sound_message_holds_costs_its_own_block_at_most(answered, values, gone, arrays):
    read, (content, *rest) = answered
    packet = Packet.from_bytes(content, "x")
    packet.values.update(values)
    for name in gone:
        packet.values.pop(name, None)
    packet.arrays.update({name: torch.ones(shape).to(dtype) for name, (shape, dtype) in arrays.items()})
    result = read(packet.to_bytes(), *rest)
    assert result.lost.isprintable()
    if not result.lost:
        assert math.isnan(result.loss) or math.isfinite(result.loss)
        assert all(torch.isfinite(mean).all() for mean in result.extra["activations"].values())


def test_means_that_lie_leave_no_trace_in_the_means(connected, workload, names, held):
    """Of a rule that measures: NaN, short and missing ones are refused, and everybody else's are merged."""
    asking = workload.model_copy(update={"context": 0.4, "context_rule": "important"})
    _, federation = remote(connected, asking, names)
    federation.play([0.5, 0.5, 0.5], 1)
    means = ("extra:activations:conv1", "extra:activations:conv3")
    for change in (
        lambda p: p.arrays[means[0]].fill_(float("nan")),
        lambda p: p.arrays.update({means[1]: p.arrays[means[1]][:-1].clone()}),
        lambda p: p.arrays.pop(means[1]),
    ):
        connected.tamper[101] = changed(change)
        report = federation.play([0.5, 0.5, 0.5], 1)
        assert report.came_back == (True, False, True)
        assert "array extra:activations:" in report.lost[0]
    alone = training(InProcessEngine(held, recipe_of(asking)), asking, names)
    for south in (True, False, False, False):
        alone.play([0.5, 0.5, 0.5], 1, [True, south, True])
    assert same(alone, federation)
    kept, wanted = (f.server.memory["activations"] for f in (federation, alone))
    assert all(torch.equal(kept[layer], wanted[layer]) for layer in wanted)


def test_a_node_that_goes_between_being_seen_and_being_sent_to_is_left(connected, workload, names, held, monkeypatch):
    _, federation = remote(connected, workload, names)
    send = connected.send

    def refusing(node, content, lifetime_s):
        if node in (101, 300):
            raise GoneError("the carrier took no message for it")
        return send(node, content, lifetime_s)

    monkeypatch.setattr(connected, "send", refusing)
    connected.join(300, Node("nobody", lambda workload: held[0]))  # is to be greeted, and cannot be
    report = federation.play([0.5, 0.5, 0.5], 1)
    assert report.came_back == (True, False, True)
    assert report.lost == ("machine south: the carrier took no message for it",)
    assert federation.engine.available() == [True, True, True]
    monkeypatch.undo()
    assert federation.play([0.5, 0.5, 0.5], 1).came_back == (True, True, True)


def test_no_message_of_a_private_run_foretells_its_noise(connected, workload, names, held, monkeypatch):
    """What a node is told, and even everybody's data and the run's seed, against the change that is published."""
    private = workload.model_copy(update={"privacy": Privacy(clip_norm=1e-3, noise_multiplier=1e3)})
    told: list[Packet] = []
    send = connected.send

    def spying(node, content, lifetime_s):
        if node == 102:
            told.append(Packet.from_bytes(content, "the server"))
        return send(node, content, lifetime_s)

    monkeypatch.setattr(connected, "send", spying)
    engine, federation = remote(connected, private, names)
    before = dict(federation.state)
    federation.play([1.0, 1.0, 1.0], 1)
    # What machines changed is a thousandth of the noise: this is it.
    published = {name: (federation.state[name] - before[name]).flatten() for name in before}
    [task] = [p for p in told if p.values["kind"] == "train"]
    assert engine.secret not in b"".join(p.to_bytes() for p in told)
    assert engine.secret.hex() not in str([p.values for p in told])
    seed = task.values["seed"][0]
    assert seed == federation.seed  # guessed, or told: it is no secret
    generator = seeded((seed, 8, 0))
    drawn = {p.name: torch.empty(p.shape).normal_(generator=generator) for p in federation.model.neuron_map.parameters}
    guesses = [drawn]
    for again in (training(InProcessEngine(held, recipe_of(private)), private, names), remote(connected, private, names)[1]):
        again.play([1.0, 1.0, 1.0], 1)
        guesses.append({name: again.state[name] - before[name] for name in drawn})
    for guess in guesses:
        flat = torch.cat([guess[name].flatten() for name in drawn])
        both = torch.stack([flat, torch.cat([published[name] for name in drawn])])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.15


def test_a_damaged_answer_is_refused_by_name(connected, workload, names):
    _, federation = remote(connected, workload, names)
    connected.tamper[100] = lambda content: content[:-9] + bytes(9)
    report = federation.play([0.5, 0.5, 0.5], 1)
    assert report.came_back == (False, True, True)
    assert report.lost[0].startswith("machine north: a message of ")
    assert "damaged or cut short" in report.lost[0]


def test_two_nodes_with_one_identity_and_strangers_are_turned_away(connected, workload, names, held):
    lines: list[str] = []
    connected.join(300, Node("east", lambda workload: held[0]))
    connected.join(301, Node("nobody", lambda workload: held[0]))
    engine, federation = remote(connected, workload, names, lines)
    for _ in range(20):
        engine.available()
        time.sleep(0.02)
    turned = [line for line in lines if line.startswith("turned away")]
    assert len(turned) == 2
    assert any("machine east, which node" in line for line in turned)
    assert any("says it is machine 'nobody', expected one of north, south, east" in line for line in turned)
    taken = set(engine.roll.node_of.values())
    assert len(taken) == 3
    assert len(taken & {102, 300}) == 1
    assert federation.play([0.5, 0.5, 0.5], 1).came_back == (True, True, True)


def test_a_key_is_bound_to_the_name_that_it_is_registered_with(connected, workload, names, held):
    lines: list[str] = []
    for number, name in zip((100, 101, 102), names, strict=True):
        connected.registered[number] = name
    connected.kill(101)
    connected.registered[300] = "east"
    connected.join(300, Node("south", lambda workload: held[1]))  # while south is away
    engine = RemoteEngine(connected, workload, names, on_event=lines.append)
    with pytest.raises(InputError, match="machines south have not connected"):
        engine.gather(2.0)
    words = "node 300 says it is machine 'south', but its key is registered as 'east'; expected the name that it is registered"
    assert [words in line for line in lines if line.startswith("turned away")] == [True]
    connected.join(301, Node("south", lambda workload: held[1]))  # registered without a name
    engine.gather(20.0)
    assert engine.roll.node_of == {0: 100, 1: 301, 2: 102}


def test_a_run_that_goes_on_does_not_wait_for_who_has_gone_meanwhile(connected, workload, names):
    lines: list[str] = []
    engine, _ = remote(connected, workload, names, lines)
    connected.kill(101)
    engine.available()
    kept = engine.roll.to_dict()
    assert kept["there"] == [0, 2]
    kept["charges"] = [[1, 0.25, 100.0]]  # as a machine with a battery would have said
    connected.kill(100)

    def goes_on() -> RemoteEngine:
        other = RemoteEngine(connected, workload, names, on_event=lines.append)
        other.roll.recall(kept)
        other.gather(1.0, kept["there"])
        return other

    after = goes_on()  # south was away, north has gone with the server
    assert lines[-1] == "machines north have not connected within 1 s: going on without them"
    assert after.available() == [False, False, True]
    assert after.charges() == {1: 0.25}
    assert time.monotonic() - after.roll.charge_at[1] > 100.0
    assert [len(held) for held in after.samples] == [len(held) for held in engine.samples] == [9, 10, 11]
    connected.kill(102)
    with pytest.raises(InputError, match="machines north, east have not connected within 1 s; expected a node of at least one"):
        goes_on()


def test_a_machine_that_never_connects_is_named(threads, workload, names, held):
    threads.join(1, Node("north", lambda workload: held[0]))
    engine = RemoteEngine(threads, workload, names)
    with pytest.raises(InputError, match=r"^machines south, east have not connected within 0.3 s"):
        engine.gather(0.3)


def test_what_only_the_in_process_engine_can_do_is_refused(connected, workload, names):
    engine, _ = remote(connected, workload, names)
    with pytest.raises(InputError, match="method fedavg differs from the workload's own"):
        engine.train(FedAvg(), model_for(workload, 1), {}, None, [])
    with pytest.raises(InputError, match="precision is 'fp8'"):
        RemoteEngine(connected, workload, names, precision="fp8")
    with pytest.raises(InputError, match="context_precision is 'fp8'"):
        RemoteEngine(connected, workload, names, context_precision="fp8")


def test_a_node_tells_what_is_wrong_with_itself(threads, workload, names, held):
    missing = "/data: does not exist; expected a folder of images, a .zip or an .npz"

    def no_data(workload):
        raise InputError(missing)

    lines: list[str] = []
    threads.join(1, Node("north", no_data))
    engine = RemoteEngine(threads, workload, names, on_event=lines.append)
    with pytest.raises(InputError, match="have not connected"):
        engine.gather(0.5)
    assert lines == [f"turned away: node 1 cannot take part: {missing}"]


def test_residuals_survive_a_restart_of_the_node_and_damage_of_their_file(connected, workload, names, held, tmp_path):
    _, federation = remote(connected, workload, names, precision="int8")
    federation.play([1.0, 1.0, 1.0], 1)
    file, model = tmp_path / "south" / "residual.safetensors", model_for(workload, 1)
    kept = Residual.read(file.parent, model)
    assert kept.round_index == 0
    assert any(bool((value != 0).any()) for value in kept.after.values())
    other = model_for(workload.model_copy(update={"encoder_options": {"widths": [6, 8, 9]}}), 1)
    assert Residual.read(file.parent, other).after == {}
    file.write_bytes(file.read_bytes()[:40])
    assert Residual.read(file.parent, model) == Residual()


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_residual_is_its_runs_own_and_a_round_that_comes_again_finds_it_as_it_was(workload, held, tmp_path, precision):
    wider = workload.model_copy(update={"encoder_options": {"widths": [8, 8, 8]}})

    def answer(node: Node, run: str, round_index: int, of: Workload = workload) -> bytes:
        model = model_for(of, 1)
        state = model.init_state(torch.Generator().manual_seed(0))
        task = LocalTask(0, whole_block(model.neuron_map), 2, (1, 2, round_index, 0), round_index=round_index)
        packet = encode_task(model, state, model.target_of(state), task, precision)
        packet.values.update(kind="train", run=run, workload=of.model_dump_json(exclude_defaults=True), channels=1)
        answered = Packet.from_bytes(node.answer(packet.to_bytes()), "node")
        assert answered.values["kind"] == "train", answered.values
        return answered.arrays["trained"].view(torch.uint8).numpy().tobytes()

    def fresh(name: str) -> Node:
        return Node("north", lambda workload: held[0], tmp_path / name)

    node = fresh("one")
    first, second = answer(node, "a", 0), answer(node, "a", 1)
    assert answer(fresh("bare"), "a", 1) != second  # it does add what the first round left out
    assert answer(node, "a", 1) == second
    node = fresh("one")  # and after a restart of its own
    assert answer(node, "a", 1) == second
    third = answer(node, "a", 2)
    # Another run, on whose weights nothing was left out; then another model's; then the first again.
    assert answer(node, "b", 0) == first
    assert answer(node, "b", 0, wider) == answer(fresh("two"), "c", 0, wider)
    assert answer(fresh("three"), "c", 2) == answer(node, "a", 2) != third


@pytest.fixture
def telling(threads, held, monkeypatch):
    """As `connected`, with an ear for the load of nodes that tell it twice a second, as `pace` has it."""
    pace = {"s": 0.1}
    monkeypatch.setattr(load, "LOOKS_S", 0.05)
    monkeypatch.setattr(load, "enough_pieces", lambda: 1)
    monkeypatch.setattr(load, "work", lambda pieces: pace["s"])
    monkeypatch.setattr(load, "PART", 1.0)
    for k, name in enumerate(("north", "south", "east")):
        server = None if name == "east" else "127.0.0.1"
        threads.join(100 + k, Node(name, lambda workload, k=k: held[k], server=server, tell_every_s=0.05))
    return threads, pace


def until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_load_of_machines_that_rest_is_heard_and_silence_is_told_once(telling, workload, names, monkeypatch):
    transport, pace = telling
    lines: list[str] = []
    engine, _ = remote(transport, workload, names, lines, ear=Ear())
    timed = engine.roll.timed()
    assert set(timed) == {0, 1, 2}
    assert all(seconds > 0 for seconds in timed.values())
    assert engine.roll.timed() == {}
    here = [True, True, True]
    engine.slowness(here, {0: 1.5, 1: 1.0})
    until(lambda: set(engine.slowness(here, {})) == {0, 1})
    assert engine.slowness(here, {}) == pytest.approx({0: 1.5, 1: 1.0})
    pace["s"] = 0.4
    until(lambda: engine.slowness(here, {}).get(0) == pytest.approx(6.0))
    assert 0 not in engine.slowness([False, True, True], {})
    monkeypatch.setattr("fedcore.engines.remote.SILENT_S", 0.0)
    for _ in range(3):
        engine.slowness(here, {})
    told = [line for line in lines if "not heard" in line]
    assert told == [
        f"machine east is not heard of its load: UDP port {engine.ear.port} of the server may be out of its reach; its own "
        "steps stand"
    ]
    engine.close()


def test_a_node_that_is_greeted_again_tells_nobody_else(telling, workload, names):
    transport, _ = telling
    first, _ = remote(transport, workload, names, ear=Ear())
    second, _ = remote(transport, workload, names, ear=Ear())
    until(lambda: second.slowness([True] * 3, {}) or not second.ear.silent(second.roll.heard_as[0]))
    first.ear.hear()
    heard = [each.count for each in first.ear._senders]
    time.sleep(0.5)
    first.ear.hear()
    assert [each.count for each in first.ear._senders] == heard


def test_an_ear_that_does_not_read_is_refused_by_the_node(held, workload):
    node = Node("north", lambda workload: held[0], server="127.0.0.1")
    text = workload.model_dump_json(exclude_defaults=True)
    for ear in (3, {"port": 1}, {"port": 1, "sender": 0, "key": "xyz"}):
        answer = Packet.from_bytes(node.answer(Packet({"kind": "hello", "workload": text, "ear": ear}, {}).to_bytes()), "it")
        assert answer.values["kind"] == "failed"
        assert "expected its port, sender and key" in answer.values["why"]
