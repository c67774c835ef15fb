"""The world: machines, links, energy and presence, simulated round by round."""

from pathlib import Path

from fedcore.fleet.compiled import keep_by_content

HERE = Path(__file__).parent
keep_by_content(HERE, HERE.parent)
