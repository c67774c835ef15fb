"""Flower's boxes and colours, taken off."""

from fedcore.flower.words import LONGEST, plain_lines, reason

BOX = """\x1b[91mLoading project configuration...\x1b[0m
\u256d\u2500 Error \u2500\u2500\u2500\u256e
\u2502 Connection to the SuperLink is unavailable.  \u2502
\u2502 Please check your network.                   \u2502
\u2570\u2500\u2500\u2500\u2500\u2500\u2500\u256f
"""


def test_what_is_in_a_box_is_said_in_one_line():
    assert plain_lines(BOX)[1:] == ["Connection to the SuperLink is unavailable.", "Please check your network."]
    assert reason(BOX).endswith("... Connection to the SuperLink is unavailable. Please check your network.")
    assert reason("\u2500\u2500\n\n") == ""
    assert len(reason("word " * 500)) <= LONGEST + 3
