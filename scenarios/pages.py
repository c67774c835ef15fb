"""The page of a scenario file's fields, from the schema: `python -m scenarios.pages` writes docs/scenario-file.md."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from scenarios import schema, traces
from scenarios.presets import presets

PAGE = Path(__file__).parents[1] / "docs" / "scenario-file.md"
TYPES = {"number": "number", "integer": "whole number", "string": "text", "boolean": "true or false", "null": "null"}
BOUNDS = {"exclusiveMinimum": "above", "minimum": "at least", "exclusiveMaximum": "below", "maximum": "at most"}
INTRODUCTION = """# The scenario file

A YAML file that any command takes in place of a scenario's name. Unknown fields are refused, and so are values of another kind
or out of range, by one sentence that names the field. Every quantity carries its unit in its name. A short one (long ones:
[scenarios/library](../scenarios/library)):

```yaml
name: two-desks
fleet:
  groups:
    - name: desk
      count: 2
      device: desktop
      link: {like: ethernet, uplink_mbps: 50}
```"""


def _kind(field: dict[str, Any]) -> str:
    """What a field takes, in words, from its JSON schema."""
    if "$ref" in field:
        return f"[{field['$ref'].rpartition('/')[2]}](#{field['$ref'].rpartition('/')[2].lower()})"
    if "anyOf" in field:
        return " or ".join(_kind(one) for one in field["anyOf"])
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        if "prefixItems" in field:
            return f"[{', '.join(_kind(one) for one in field['prefixItems'])}]"
        few, many = field.get("minItems"), field.get("maxItems")
        number = f"{few} " if few == many and few else f"{few or 0} to {many} " if many else f"at least {few} " if few else ""
        item = _kind(field["items"])
        return f"list of {number}{item if '$ref' in field['items'] else f'({item})'}"
    if field.get("type") == "object":
        return "mapping"
    bounds = [f"{word} {field[name]:,}" for name, word in BOUNDS.items() if name in field]
    if "pattern" in field:
        bounds.append(f"matching `{field['pattern']}`")
    return " ".join([TYPES[field["type"]], *([" and ".join(bounds)] if bounds else [])])


def _default(field: dict[str, Any], required: bool) -> str:
    if required:
        return "required"
    value = field.get("default")
    if isinstance(value, dict) and value:
        return "as there"
    return "empty" if value == "" else f"`{'null' if value is None else value}`"


def sections() -> list[tuple[str, dict[str, Any]]]:
    """Names and JSON schemas of a scenario's sections, each after the one that it first appears in."""
    whole = schema.Scenario.model_json_schema()
    found: dict[str, dict[str, Any]] = {"Scenario": whole}

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name and name not in found:
                found[name] = whole["$defs"][name]
                walk(found[name]["properties"])
            for key, value in part.items():
                if key != "$defs":
                    walk(value)
        elif isinstance(part, list):
            for value in part:
                walk(value)

    walk(whole["properties"])
    return list(found.items())


def section(name: str, content: dict[str, Any]) -> str:
    """One section: what it is, and a table of its fields."""
    lines = [f"## {name}", "", inspect.cleandoc(getattr(schema, name).__doc__ or ""), ""]
    for word, catalogue in (("Device", "devices"), ("Link", "links")):
        if name == word:
            named = ", ".join(f"`{kind}`" for kind in presets(catalogue))
            file = f"[catalogue/{catalogue}.yaml](../scenarios/catalogue/{catalogue}.yaml)"
            lines += [f"`like:` takes a kind of {file}, whose figures fields beside it replace: {named}.", ""]
    lines += ["| field | takes | default | meaning |", "|---|---|---|---|"]
    needed = content.get("required", ())
    for field, told in content["properties"].items():
        meaning = str(told.get("description", "")).replace("|", "\\|")
        lines.append(f"| `{field}` | {_kind(told)} | {_default(told, field in needed)} | {meaning} |")
    return "\n".join(lines)


def page() -> str:
    """The whole page, as markdown."""
    readers = (traces.read_link_trace, traces.read_presence)
    links, presence = (" ".join(inspect.cleandoc(reader.__doc__ or "").split("\n\n")[0].split()) for reader in readers)
    parts = [
        "<!-- Written by `python -m scenarios.pages` from scenarios/schema.py: change the descriptions there. -->",
        INTRODUCTION,
        *(section(name, content) for name, content in sections()),
        "## Traces\n\nCSV files with a header, beside the scenario file or by a path of their own, of at most "
        f"{traces.MAX_BYTES / 1e6:g} MB. `python -m scenarios.fit_links` turns link traces into fields of `link` instead.\n\n"
        f"`second,uplink_mbps,downlink_mbps` (`link.trace`): {links}\n\n`on_s,off_s` (`availability.trace`): {presence}",
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write docs/scenario-file.md."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    import tyro

    tyro.cli(main)
