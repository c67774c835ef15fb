"""Words about load: signed, numbered, and worth what the machine's steps have shown."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedcore.remote import load
from fedcore.remote.ear import Ear
from fedcore.remote.load import Word
from scenarios import InputError

KEY = bytes(range(16))


@pytest.fixture
def ear():
    ear = Ear()
    yield ear
    ear.close()


def tell(ear: Ear, content: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.sendto(content, ("127.0.0.1", ear.port))
    ear.hear()


@given(st.integers(0, 10**6), st.integers(1, 10**9), st.floats(1e-6, 1e5), st.none() | st.floats(0.0, 1.0))
def test_a_word_comes_back_as_it_was_and_no_other_key_makes_it(sender, count, pace_s, charge):
    word = Word(sender, count, pace_s, charge)
    content = word.to_bytes(KEY)
    assert len(content) <= load.LONGEST
    assert Word.from_bytes(content, lambda s: KEY) == word
    with pytest.raises(ValueError, match="no word"):
        Word.from_bytes(content, lambda s: bytes(16))


@given(st.binary(max_size=300))
def test_whatever_comes_is_a_word_or_refused(content):
    with pytest.raises((ValueError, IndexError)):
        Word.from_bytes(content, lambda sender: [KEY][sender])


def test_paces_say_how_slow_steps_would_be(ear):
    given_ = ear.admit()
    sender, key = int(given_["sender"]), bytes.fromhex(given_["key"])
    assert ear.silent(sender)
    tell(ear, Word(sender, 1, 0.1).to_bytes(key))
    assert not ear.silent(sender)
    assert ear.slow(sender) is None  # nothing of its steps is known yet
    ear.worked(sender, 1.5)
    assert ear.slow(sender) is None  # its steps are the last word
    tell(ear, Word(sender, 2, 0.1).to_bytes(key))
    assert ear.slow(sender) == pytest.approx(1.5)
    for count in (3, 4):
        tell(ear, Word(sender, count, 0.3).to_bytes(key))
    assert ear.slow(sender) == pytest.approx(4.5)  # median of its last three paces
    ear.worked(sender, 4.2)
    tell(ear, Word(sender, 5, 0.3).to_bytes(key))
    assert ear.slow(sender) == pytest.approx(0.3 * (15 + 14) / 2)  # median of both trainings


def test_a_batterys_charge_is_told_once_and_by_words_that_have_one(ear):
    key = bytes.fromhex(ear.admit()["key"])
    tell(ear, Word(0, 1, 0.1).to_bytes(key))
    assert ear.take_charge(0) is None
    tell(ear, Word(0, 2, 0.1, 0.4).to_bytes(key))
    tell(ear, Word(0, 3, 0.1, 0.3).to_bytes(key))
    tell(ear, Word(0, 4, 0.1).to_bytes(key))  # its file did not read just then
    assert ear.take_charge(0) == 0.3
    assert ear.take_charge(0) is None


def test_words_that_are_old_forged_or_no_words_change_nothing(ear):
    first, second = ear.admit(), ear.admit()
    keys = [bytes.fromhex(each["key"]) for each in (first, second)]
    assert keys[0] != keys[1]
    ear.worked(0, 1.0)
    tell(ear, Word(0, 2, 0.1).to_bytes(keys[0]))
    for content in (
        Word(0, 2, 9.0).to_bytes(keys[0]),  # told before
        Word(0, 1, 9.0).to_bytes(keys[0]),  # older
        Word(0, 3, 9.0).to_bytes(keys[1]),  # signed by another
        Word(-2, 3, 9.0).to_bytes(keys[0]),
        Word(7, 3, 9.0).to_bytes(keys[0]),  # nobody's number
        Word(0, 3, float("nan")).to_bytes(keys[0]),
        Word(0, 3, -1.0).to_bytes(keys[0]),
        Word(0, 3, 9.0, 1.5).to_bytes(keys[0]),
        Word(0, 3, 9.0, float("nan")).to_bytes(keys[0]),
        b"", b"\xff" * 300, b"1 2 3", Word(0, 3, 9.0).to_bytes(keys[0]) + b"0",
    ):  # fmt: skip
        tell(ear, content)
        assert ear.slow(0) == pytest.approx(1.0)
    assert ear.silent(1)


def test_a_port_that_is_taken_is_refused_in_a_sentence(ear):
    with pytest.raises(InputError, match=f"UDP port {ear.port} is not to be had .*expected one that is free"):
        Ear(ear.port)


def test_a_piece_of_work_lasts_long_enough_to_be_timed():
    assert load.work(load.enough_pieces()) > load.PIECE_S / 4
