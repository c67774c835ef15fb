"""The tables of docs/learning-dynamics.md from the committed calibrations: `python -m fedcore.dynamics_card`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np

from fedcore.comparison.tables import markdown
from fedcore.dynamics import FOLDER, Calibration, load_calibration
from fedcore.files import write_text

PAGE = Path("docs/learning-dynamics.md")
BEGIN, END = "<!-- made by python -m fedcore.dynamics_card -->", "<!-- end -->"
SAMPLES = (40, 160, 320, 960, 2000)


def card(calibrations: list[Calibration]) -> str:
    """Parameters, fit errors, and how far so many samples lead, one column per calibration."""
    head = ("", *(c.name for c in calibrations))
    dynamics = [asdict(c.dynamics) for c in calibrations]
    fitted = [{**c.fit, "untrained": c.untrained_infonce, "target": c.target_infonce} for c in calibrations]
    blocks = [
        [(name, *(f"{row[name]:.3g}" for row in rows)) for name in rows[0]]
        for rows in (dynamics, fitted)
    ]  # fmt: skip
    peaks = [(f"{n} samples", *(f"{c.dynamics.peak(np.array(float(n))):.2f}" for c in calibrations)) for n in SAMPLES]
    return "\n".join(
        [
            "Parameters:\n\n" + markdown([head, *blocks[0]]),
            "Fit (`held_out_*` come from a fit that did not see every fourth run; whether it has a g was chosen by them):\n\n"
            + markdown([head, *blocks[1]]),
            "The highest progress that so many samples lead to:\n\n" + markdown([head, *peaks]),
        ]
    )


def page(text: str) -> str:
    """The page with its tables made anew.

    Raises:
        ValueError: the page has no place for them.
    """
    if BEGIN not in text or END not in text:
        raise ValueError(f"{PAGE} has no {BEGIN} and {END}, expected both around its tables")
    calibrations = [load_calibration(path.stem) for path in sorted(FOLDER.glob("*.json"))]
    return text[: text.index(BEGIN) + len(BEGIN)] + "\n\n" + card(calibrations) + "\n" + text[text.index(END) :]


def main() -> None:
    """Make the tables of docs/learning-dynamics.md anew from the calibrations."""
    write_text(PAGE, page(PAGE.read_text(encoding="utf-8")))


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
