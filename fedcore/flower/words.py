"""What Flower's commands have to say, without the colours and boxes that they say it in."""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_BOX = "".join(map(chr, range(0x2500, 0x2580)))
LONGEST = 300


def plain_lines(text: str) -> list[str]:
    """Lines that say something."""
    lines = (line.translate(str.maketrans("", "", _BOX)).strip() for line in _COLOURS.sub("", text).splitlines())
    return [line for line in lines if line and line != "Error"]


def reason(text: str) -> str:
    """All of it in one line, or as much as a sentence bears."""
    said = " ".join(plain_lines(text))
    return said if len(said) <= LONGEST else said[:LONGEST] + "..."
