"""Whatever bytes lie in a file that a person hands us: it reads, or is refused in one sentence, and nothing else happens."""

import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from agents.frozen import FrozenPolicy, PolicyCard, freeze, load_policy
from agents.network import MenuNetwork
from envs.menu import menu_size
from fedcore.data.loading import load_images
from fedcore.encoder_file import CARD, load_encoder, save_encoder
from fedcore.workload import model_for
from scenarios import InputError, load, parse
from scenarios.schema import Workload
from scenarios.traces import read_link_trace


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(32):
            picture = io.BytesIO()
            Image.new("L", (8, 8), 7 * i).save(picture, "PNG")
            archive.writestr(f"{i}.png", picture.getvalue())
        rows = "".join(f"{i}.png,{i % 4},{i // 3}\n" for i in range(32))
        archive.writestr("counts.csv", f"file,site,worms\n{rows}")
    return buffer.getvalue()


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.arange(32 * 64, dtype=np.uint16).reshape(32, 8, 8).astype(np.uint8), y=np.arange(32) % 2)
    return buffer.getvalue()


def _policy() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "p.safetensors"
        freeze(FrozenPolicy(MenuNetwork(menu_size(), 4), PolicyCard("ppo", 4, "here", 0, 1)), path)
        return path.read_bytes()


def _encoder() -> bytes:
    workload = Workload(image_px=8, encoder_options={"widths": [4, 4, 4]}, objective_options={"hidden": 4, "outputs": 4})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "e.safetensors"
        save_encoder(path, model_for(workload, 1).init_state(torch.Generator().manual_seed(0)), workload, 1)
        return path.read_bytes()


def _scenario() -> bytes:
    return (Path(__file__).parents[1] / "scenarios" / "library" / "two-servers.yaml").read_bytes()


TRACE = b"second,uplink_mbps,downlink_mbps\n0,1.5,6\n1,0.2,4\n2,3,8\n"
READERS: dict[str, tuple[bytes, str, Callable[[str], object]]] = {
    "zip": (_zip(), "images.zip", lambda path: load_images(path, size_px=8)),
    "npz": (_npz(), "images.npz", lambda path: load_images(path, size_px=8)),
    "trace": (TRACE, "trace.csv", read_link_trace),
    "scenario": (_scenario(), "mine.yaml", load),
    "policy": (_policy(), "p.safetensors", load_policy),
    "encoder": (_encoder(), "e.safetensors", load_encoder),
}


@pytest.mark.parametrize("kind", READERS)
def test_whole_files_read(kind: str, tmp_path: Path) -> None:
    content, name, read = READERS[kind]
    (tmp_path / name).write_bytes(content)
    assert read(str(tmp_path / name)) is not None


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_damaged_files_read_or_are_refused(kind: str, data: st.DataObject) -> None:
    content, name, read = READERS[kind]
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4), label="wounds")):
        at = data.draw(st.integers(0, max(len(damaged) - 1, 0)), label="at")
        how = data.draw(st.sampled_from(("cut", "write", "insert", "drop")), label="how")
        some = data.draw(st.binary(min_size=1, max_size=12), label="some")
        if how == "cut":
            del damaged[at:]
        elif how == "write":
            damaged[at : at + len(some)] = some
        elif how == "insert":
            damaged[at:at] = some
        else:
            del damaged[at : at + len(some)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(bytes(damaged))
        told = ""
        try:
            read(str(path))
        except InputError as error:
            told = str(error)
        assert told == "" or len(told) > 20
        assert [p.name for p in Path(folder).iterdir()] == [name]


@pytest.mark.parametrize("kind", READERS)
@settings(max_examples=40, deadline=None)
@given(content=st.binary(max_size=300))
def test_other_bytes_are_refused(kind: str, content: bytes) -> None:
    _, name, read = READERS[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        with pytest.raises(InputError):
            read(str(path))


HUGE = st.one_of(
    st.integers(min_value=-(10**30)), st.floats(), st.booleans(), st.none(), st.text(max_size=5), st.just([[1]]),
    st.sampled_from([0, 2, 10**9, 10**400]),
)  # fmt: skip


def _with_card(path: Path, card: str) -> Path:
    """The encoder's weights under another card."""
    whole = path.with_name("whole.safetensors")
    whole.write_bytes(_encoder())
    with safe_open(str(whole), framework="pt") as file:
        save_file({name: file.get_tensor(name) for name in file.keys()}, path, {CARD: card})  # noqa: SIM118 - not a mapping
    return path


def _card(**changes: object) -> dict[str, object]:
    workload = Workload(image_px=8, encoder_options={"widths": [4, 4, 4]}, objective_options={"hidden": 4, "outputs": 4})
    return {"format": 1, "channels": 1, "workload": workload.model_dump(mode="json") | changes}


@settings(max_examples=80, deadline=None)
@given(channels=HUGE, widths=st.lists(HUGE, max_size=4), hidden=HUGE, image_px=HUGE)
def test_cards_of_encoders_that_fill_any_memory_are_refused(
    channels: object, widths: list[object], hidden: object, image_px: object
) -> None:
    """One thing wrong at a time, so that no other is what it is refused for."""
    cards = [
        _card() | {"channels": channels},
        _card(encoder_options={"widths": widths}),
        _card(objective_options={"hidden": hidden, "outputs": 4}),
        _card(image_px=image_px),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for card in cards:
            with suppress(InputError):
                load_encoder(_with_card(Path(folder) / "e.safetensors", json.dumps(card)))


@pytest.mark.parametrize(
    "card",
    [
        "[" * 100_000, json.dumps(_card(encoder_options={"widths": [200_000, 200_000, 8]})),
        json.dumps(_card() | {"channels": 10**9}), json.dumps(_card() | {"channels": 10**400}),
        json.dumps(_card() | {"channels": float("inf")}),
    ],
)  # fmt: skip
def test_a_card_that_asks_for_terabytes_or_has_no_end_is_refused_in_one_sentence(card: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"encoder file .* expected"):
        load_encoder(_with_card(tmp_path / "e.safetensors", card))


NAMES = st.one_of(
    st.sampled_from(["..", "../../evil", "/tmp/evil", "a/../../evil", ".hidden", "a\\b", "a\nb", "a\0b", "\x1b[2J"]),
    st.text(max_size=20),
)


@settings(max_examples=200, deadline=None)
@given(name=NAMES)
def test_no_machines_name_leads_out_of_the_runs_folder(name: str) -> None:
    content = load("two-servers").model_dump(mode="json")
    content["fleet"]["groups"][0]["name"] = name
    with suppress(InputError):
        for machine in parse(content, "mine.yaml").fleet.machine_names:
            assert (Path("/run") / machine).resolve().parent == Path("/run").resolve()
            assert machine.isprintable()


@pytest.mark.parametrize("name", ["../../evil", "/tmp/evil-of-intrafed", "..", "a/b", "a\\b", ".a", "a\tb"])
def test_a_machine_whose_name_is_a_path_is_refused_by_its_field(name: str) -> None:
    content = load("two-servers").model_dump(mode="json")
    content["fleet"]["groups"][0]["name"] = name
    with pytest.raises(InputError, match=r"fleet\.groups\.0\.name.*expected one without '/'"):
        parse(content, "mine.yaml")
