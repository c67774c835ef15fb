"""The page of a scenario file's fields follows the schema."""

import yaml

from fedcore.world import compile_world
from scenarios import parse
from scenarios.pages import INTRODUCTION, PAGE, page, sections
from scenarios.schema import Scenario, Section


def test_the_committed_page_is_what_the_schema_says() -> None:
    assert PAGE.read_text() == page(), "run `python -m scenarios.pages` and commit what it writes"


def test_every_section_and_field_is_there_with_its_meaning() -> None:
    told = dict(sections())
    assert set(told) == {kind.__name__ for kind in Section.__subclasses__()}
    for name, content in told.items():
        assert all(field.get("description") for field in content["properties"].values()), name
        assert all(f"| `{field}` |" in page() for field in content["properties"])
    assert set(told["Scenario"]["properties"]) == set(Scenario.model_fields)


def test_what_fields_take_is_told_in_words() -> None:
    lines = page().splitlines()
    assert "| `count` | whole number at least 1 and at most 64 | `1` | machines |" in lines
    assert any(line.startswith("| `thermal` | [Thermal](#thermal) or null | `null` |") for line in lines)
    assert any(line.startswith("| `daily_hours` | list of 0 to 12 ([number at least 0 and at most 24, nu") for line in lines)
    assert any(line.startswith("| `throughput_gflops` | number above 0 | required |") for line in lines)


def test_the_short_example_is_a_scenario() -> None:
    content = INTRODUCTION.split("```yaml\n")[1].split("```")[0]
    world = compile_world(parse(yaml.safe_load(content), "example"))
    assert world.arrays.machines == 2
