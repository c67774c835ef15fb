"""Devices and links by kind."""

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from scenarios import InputError, load
from scenarios.presets import FOLDER, expand, presets
from scenarios.schema import Device, Link

KINDS = [(catalogue, kind) for catalogue in ("devices", "links") for kind in presets(catalogue)]


@pytest.mark.parametrize(("catalogue", "kind"), KINDS)
def test_every_kind_is_a_whole_section(catalogue: str, kind: str) -> None:
    section: type[Device] | type[Link] = Device if catalogue == "devices" else Link
    by_name = section.model_validate(kind)
    assert by_name == section.model_validate(presets(catalogue)[kind]) == section.model_validate({"like": kind})
    assert section.model_validate(by_name.model_dump()) == by_name


@pytest.mark.parametrize("kind", presets("devices"))
def test_a_device_needs_more_power_at_work(kind: str) -> None:
    device = Device.model_validate(kind)
    assert device.active_power_w > device.idle_power_w


def test_own_fields_win() -> None:
    small = Device.model_validate({"like": "raspberry-pi-4", "memory_mb": 512})
    assert small.memory_mb == 512
    assert small.throughput_gflops == Device.model_validate("raspberry-pi-4").throughput_gflops


def test_what_names_no_kind_is_left_alone() -> None:
    given = {"throughput_gflops": 1.0}
    assert expand("devices", given) is given
    assert expand("devices", 3) == 3


@pytest.mark.parametrize("section", ["raspbery", {"like": "raspbery"}, {"like": 4}, {"like": ["lte"]}, {"like": {"a": 1}}])
def test_unknown_kinds_are_told(section: Any) -> None:
    with pytest.raises(ValidationError, match="is unknown, expected one of microcontroller, raspberry-pi-4"):
        Device.model_validate(section)


def test_a_fleet_of_kinds_loads_and_a_wrong_kind_is_one_sentence(tmp_path) -> None:  # type: ignore[no-untyped-def]
    group = {"name": "pi", "count": 3, "device": "raspberry-pi-4", "link": {"like": "wifi", "latency_s": 0.2}}
    content: dict[str, Any] = {"name": "kinds", "fleet": {"groups": [group]}}
    path = tmp_path / "kinds.yaml"
    path.write_text(yaml.safe_dump(content))
    fleet = load(path).fleet
    assert fleet.machines[0].device.throughput_gflops == 8.0
    assert fleet.machines[0].link.latency_s == 0.2
    content["fleet"]["groups"][0]["link"] = "wi-fi"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert "kinds.yaml" in message
    assert "link" in message
    assert "'wi-fi' is unknown, expected one of ethernet, wifi, lte" in message
    assert "\n" not in message


def test_constants_without_a_source_are_marked() -> None:
    """Every rate and power says where it is from, or that it is assumed."""
    for name in ("devices", "links"):
        for line in (FOLDER / f"{name}.yaml").read_text().splitlines():
            if any(field in line for field in ("throughput_gflops", "power_w", "nj_per_bit")) and not line.startswith("#"):
                assert "#" in line, line
