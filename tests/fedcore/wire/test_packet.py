"""Messages: what goes in comes out, and any damage is noticed and told by name."""

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.wire import Packet
from fedcore.wire.packet import plain
from scenarios import InputError

names = st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__")
values = st.dictionaries(
    st.text(max_size=12), st.one_of(st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False), st.text())
)
DTYPES = (torch.float32, torch.bfloat16, torch.int8, torch.uint8, torch.int64)


@st.composite
def arrays(draw):
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    return torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99)))).to(
        draw(st.sampled_from(DTYPES))
    )


@settings(deadline=None, max_examples=60)
@given(values, st.dictionaries(names, arrays(), max_size=4))
def test_what_goes_in_comes_out(values, tensors):
    read = Packet.from_bytes(Packet(values, tensors).to_bytes(), "x")
    assert read.values == values
    assert read.arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read.arrays[name].dtype == tensor.dtype
        assert torch.equal(read.arrays[name], tensor)


CONTENT = Packet({"steps": 3, "name": "a"}, {"w": torch.arange(40.0), "b": torch.zeros(3, dtype=torch.uint8)}).to_bytes()


@settings(deadline=None, max_examples=200)
@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_one_changed_byte_anywhere_is_refused_by_name(place, flip):
    damaged = bytearray(CONTENT)
    damaged[place] ^= flip
    with pytest.raises(InputError, match=r"^machine old-gateway-1: "):
        Packet.from_bytes(bytes(damaged), "machine old-gateway-1")


@settings(deadline=None, max_examples=60)
@given(st.one_of(st.integers(0, len(CONTENT) - 1).map(lambda n: CONTENT[:n]), st.binary(max_size=200)))
def test_what_is_cut_short_or_none_of_ours_is_refused(content):
    with pytest.raises(InputError, match=r"^machine m: "):
        Packet.from_bytes(content, "machine m")


def test_a_pickle_is_never_loaded(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("broken-in").touch, ())

    with pytest.raises(InputError):
        Packet.from_bytes(pickle.dumps(Evil()), "machine m")
    assert not (tmp_path / "broken-in").exists()


@pytest.mark.parametrize("value", [None, True, "3", float("nan"), -1, 2.5, 2**70])
def test_values_are_checked(value):
    with pytest.raises(InputError, match=r"^machine m: steps is .*expected a whole number of at least 1"):
        Packet({"steps": value}, {}).whole("steps", "machine m", 1)


@pytest.mark.parametrize("value", [None, True, "3", float("nan"), float("inf"), 10**400, -(10**400), -1, [], {}])
def test_numbers_are_checked(value):
    packet = Packet.from_bytes(Packet({"loss": value}, {}).to_bytes(), "machine m")
    with pytest.raises(InputError, match=r"^machine m: loss is .*expected a finite number of at least 0"):
        packet.number("loss", "machine m", 0.0)


def test_what_is_nested_deep_is_refused_before_anybody_shows_it():
    deep: list = []
    for _ in range(300):
        deep = [deep]
    for values in ({"why": deep}, {"why": {"a": {"b": {"c": {"d": {}}}}}}):
        with pytest.raises(InputError, match=r"^machine m: a message holds dict in place of plain named values"):
            Packet.from_bytes(Packet(values, {}).to_bytes(), "machine m")


def test_what_a_sender_says_is_cut_and_printable():
    assert plain("no\x1b[2J such\nfile \ud800é", 12) == "no?[2J such?"
    assert plain(None) == "None"


def test_arrays_are_checked():
    packet = Packet({}, {"w": torch.zeros(3)})
    assert packet.array("w", torch.float32, 3, "m") is packet.arrays["w"]
    for name, dtype, length in (("v", torch.float32, 3), ("w", torch.int8, 3), ("w", torch.float32, 4)):
        with pytest.raises(InputError, match=rf"^m: array {name} is .*expected \({length},\)"):
            packet.array(name, dtype, length, "m")
