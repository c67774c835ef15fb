from pathlib import Path

import pytest

from fedcore.dynamics import FOLDER, load_calibration
from fedcore.dynamics_card import card, page

PAGE = Path(__file__).parents[2] / "docs" / "learning-dynamics.md"


def test_the_page_shows_the_committed_calibrations():
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text
    for path in FOLDER.glob("*.json"):
        assert path.stem in text


def test_a_card_has_every_parameter_and_every_fit_error():
    one = load_calibration("soil-mixed-convnet-simclr")
    made = card([one])
    for name in (*vars(one.dynamics), *one.fit):
        assert f"| {name} |" in made
    assert f"| target | {one.target_infonce:.3g} |" in made


def test_a_page_without_a_place_for_tables_is_told():
    with pytest.raises(ValueError, match="expected both around its tables"):
        page("# nothing")
