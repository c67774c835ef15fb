"""Whatever bytes lie in a file that a person hands us: it reads, or is refused in one sentence, and nothing else happens."""

import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agents.frozen import FrozenPolicy, PolicyCard, freeze, load_policy
from agents.network import MenuNetwork
from envs.menu import menu_size
from fedcore.data.loading import load_images
from scenarios import InputError, load
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


def _scenario() -> bytes:
    return (Path(__file__).parents[1] / "scenarios" / "library" / "two-servers.yaml").read_bytes()


TRACE = b"second,uplink_mbps,downlink_mbps\n0,1.5,6\n1,0.2,4\n2,3,8\n"
READERS: dict[str, tuple[bytes, str, Callable[[str], object]]] = {
    "zip": (_zip(), "images.zip", lambda path: load_images(path, size_px=8)),
    "npz": (_npz(), "images.npz", lambda path: load_images(path, size_px=8)),
    "trace": (TRACE, "trace.csv", read_link_trace),
    "scenario": (_scenario(), "mine.yaml", load),
    "policy": (_policy(), "p.safetensors", load_policy),
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
