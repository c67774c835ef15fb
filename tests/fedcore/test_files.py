import errno
import os

import pytest

from fedcore.files import cache_folder, cache_root, content_key, write_bytes, write_page, write_text
from scenarios.errors import InputError


def test_files_are_written_whole_and_folders_made(tmp_path):
    path = tmp_path / "new" / "folder" / "x.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"\x00two")
    assert path.read_bytes() == b"\x00two"
    write_text(path, "Bodenprobe µ")
    assert path.read_bytes() == "Bodenprobe µ".encode()
    assert os.listdir(path.parent) == ["x.bin"]


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize("old", [b"old", None])
def test_a_full_disk_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch, call, old):
    path = tmp_path / "x.bin"
    if old is not None:
        path.write_bytes(old)

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(InputError, match=r"x\.bin cannot be written: No space left on device"):
        write_bytes(path, b"new")
    assert os.listdir(tmp_path) == ([] if old is None else ["x.bin"])
    assert old is None or path.read_bytes() == old


def test_an_interrupt_passes_through_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new")
    assert os.listdir(tmp_path) == ["x.bin"]
    assert path.read_bytes() == b"old"


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "x.bin", b"new")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder cannot be written"):
        write_bytes(tmp_path / "folder", b"new")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_keys_tell_contents_and_their_boundaries_apart():
    assert content_key("a", 1) == content_key("a", 1)
    assert len({content_key(*parts) for parts in (("a", 1), ("a", 2), ("a1",), ("a", "1", ""), ("1", "a"))}) == 5
    assert len(content_key()) == 16


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("INTRAFED_CACHE", str(tmp_path))
    folder = cache_folder("calibrate", "x")
    assert folder.parent == tmp_path
    assert folder.name == f"calibrate-{content_key('calibrate', 'x')}"
    monkeypatch.delenv("INTRAFED_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder("a").parent == tmp_path / "home/.cache/intrafed"


def test_a_page_made_anew_keeps_what_was_told_by_hand(tmp_path):
    page = tmp_path / "page.md"
    write_page(page, "# Made\n\n1\n")
    assert page.read_text() == "# Made\n\n1\n"
    page.write_text("# Made\n\n1\n\n## Told by hand\n\nMine.\n")
    write_page(page, "# Made\n\n2\n")
    assert page.read_text() == "# Made\n\n2\n\n## Told by hand\n\nMine.\n"


def test_the_cache_follows_the_desktops_rule_where_nothing_of_ours_is_said(tmp_path, monkeypatch):
    monkeypatch.delenv("INTRAFED_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "intrafed"
    monkeypatch.setenv("INTRAFED_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"
