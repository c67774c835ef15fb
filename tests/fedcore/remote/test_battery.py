"""Charge of a battery, from the file to the server."""

import socket

import pytest

from fedcore.engines.remote import RemoteEngine
from fedcore.remote.battery import read_charge
from fedcore.remote.ear import Ear
from fedcore.remote.load import Word
from fedcore.remote.node import Node
from fedcore.training import FederatedTraining
from fedcore.workload import method_of, model_for
from scenarios import InputError


def test_charge_is_read_from_percent(tmp_path):
    file = tmp_path / "capacity"
    for content, charge in (("87\n", 0.87), ("0", 0.0), ("100", 1.0), ("12.5", 0.125)):
        file.write_text(content)
        assert read_charge(file) == charge
    for content in ("", "full", "nan", "-1", "100.5"):
        file.write_text(content)
        with pytest.raises(InputError, match="capacity has no number from 0 to 100; expected a file that holds its charge"):
            read_charge(file)
    with pytest.raises(InputError, match=r"battery .*nowhere has no number"):
        read_charge(tmp_path / "nowhere")


def test_nodes_tell_their_charge_as_they_come_and_with_every_block(threads, held, workload, names, tmp_path):
    file = tmp_path / "capacity"
    file.write_text("60")
    for k, name in enumerate(names):
        threads.join(100 + k, Node(name, lambda workload, k=k: held[k], battery=file if k == 0 else None))
    engine = RemoteEngine(threads, workload, names)
    engine.gather(20.0)
    assert engine.charges() == {0: 0.6}
    file.write_text("45")
    method = method_of(workload)
    training = FederatedTraining(model_for(workload, 1), engine, names, lambda model, state: 1.0, None, method=method)
    training.play([1.0, 0.0, 0.0], 1)
    assert engine.charges() == {0: 0.45}
    file.write_text("unplugged")  # what it said last stands, and its block comes
    assert training.play([1.0, 0.0, 0.0], 1).came_back[0]
    assert engine.charges() == {0: 0.45}


def test_a_word_that_is_older_than_an_answer_does_not_outdo_it(threads, held, workload, names, tmp_path):
    (tmp_path / "capacity").write_text("45")
    threads.join(100, Node(names[0], lambda workload: held[0], battery=tmp_path / "capacity"))
    engine = RemoteEngine(threads, workload, names[:1])
    engine.gather(20.0)
    engine.ear = Ear()
    told = engine.ear.admit()
    engine.roll.heard_as[0] = told["sender"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth:
        word = Word(told["sender"], 1, 0.1, 0.9).to_bytes(bytes.fromhex(told["key"]))
        mouth.sendto(word, ("127.0.0.1", told["port"]))
    method = method_of(workload)
    training = FederatedTraining(model_for(workload, 1), engine, names[:1], lambda model, state: 1.0, None, method=method)
    training.play([1.0], 1)
    assert engine.charges() == {0: 0.45}
    assert not engine.ear.silent(told["sender"])
    engine.close()


def test_a_charge_that_is_none_is_refused(threads, held, workload, names):
    class Boasting(Node):
        def _charge(self):
            return 1.5

    threads.join(100, Boasting(names[0], lambda workload: held[0]))
    lines = []
    engine = RemoteEngine(threads, workload, names[:1], on_event=lines.append)
    with pytest.raises(InputError, match="have not connected"):
        engine.gather(2.0)
    assert lines == ["turned away: node 100: charge is 1.5, expected a number from 0 to 1"]
