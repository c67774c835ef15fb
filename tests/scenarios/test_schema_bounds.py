"""Figures that no link and no device has are refused before anything hangs on them."""

import pytest

from scenarios import InputError, load, parse


@pytest.mark.parametrize(("section", "field"), [("link", "variability"), ("link", "mean_spread"), ("device", "step_jitter")])
def test_a_spread_in_percent_is_refused_by_name(section: str, field: str) -> None:
    content = load("farm-lte").model_dump(mode="json")
    content["fleet"]["groups"][0][section][field] = 50
    with pytest.raises(InputError, match=rf"fleet\.groups\.0\.{section}\.{field}"):
        parse(content, "mine.yaml")
