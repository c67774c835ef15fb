from itertools import pairwise

import numpy as np
import pytest

from fedcore.data import text
from fedcore.data.text import Corpus, deal_text, load_text
from scenarios.errors import InputError


def corpus(*lengths: int) -> Corpus:
    """Documents whose tokens tell document and place (as far as a byte can)."""
    return Corpus("made", tuple((np.arange(n) % 251).astype(np.uint8) + i for i, n in enumerate(lengths)))


def dealt(made: Corpus, machines: int, window: int = 10):
    return deal_text(made, machines, window, np.random.default_rng(0))


def test_files_are_read_in_order_and_junk_is_passed_over(tmp_path):
    folder = tmp_path / "letters"
    (folder / "b").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "b" / "two.TXT").write_bytes("\ufeffé\r\nx\ry".encode())
    (folder / "a.txt").write_text("first")
    (folder / "empty.txt").write_text("  \n")
    (folder / "image.png").write_bytes(b"\x89PNG\0")
    (folder / ".hidden" / "c.txt").write_text("hidden")
    (folder / "._a.txt").write_bytes(b"\0\1")
    loaded = load_text(folder)
    assert loaded.name == "letters"
    assert [bytes(d) for d in loaded.documents] == [b"first", "é\nx\ny".encode()]
    assert load_text(folder / "a.txt").name == "a"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.txt", None, "gone.txt: does not exist; expected a .txt file or a folder of .txt files"),
        ("a.zip", b"PK", "a.zip: has the extension '.zip'; expected a .txt file"),
        ("a.txt", b"", "a.txt: holds no text"),
        ("a.txt", b"abc\xff\xfe", "a.txt: byte 3 is not UTF-8; expected plain text"),
        ("a.txt", b"ab\0cd", "a.txt: holds zero bytes, so it is not text"),
        ("sub/a.md", b"text", "folder has no .txt files"),
    ],
)
def test_bad_text_is_told_in_one_sentence(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        load_text(tmp_path / "sub" if name.startswith("sub") else path)
    assert "\n" not in str(raised.value)


def test_too_much_text_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x" * 100)
    monkeypatch.setattr(text, "MAX_BYTES", 99)
    with pytest.raises(InputError, match="holds 100 bytes of text; expected at most 99"):
        load_text(tmp_path / "a.txt")


def test_one_file_becomes_contiguous_segments_whose_ends_are_held_out():
    made = corpus(4001)
    clients, held_out = dealt(made, 4)
    assert [len(c) for c in clients] == [90] * 4
    assert held_out.shape == (40, 11)
    windows = np.concatenate([*clients, held_out])
    assert windows.dtype == np.int64
    # Windows lie end to end: every token but the first is the target of exactly one window.
    places = {tuple(made.documents[0][i : i + 11].tolist()): i for i in range(0, 251 * 10, 10)}
    assert len(places) == 251
    for client in clients:
        starts = [places[tuple(row.tolist())] for row in client]
        assert all((b - a) % 2510 == 10 for a, b in pairwise(starts))
    assert len(windows) == 400
    assert (windows[:, 1:] - windows[:, :-1] != 0).all()


def test_every_target_is_dealt_once():
    rng = np.random.default_rng(0)
    document = rng.integers(0, 256, 3001).astype(np.uint8)
    clients, held_out = deal_text(Corpus("noise", (document,)), 3, 20, np.random.default_rng(1))
    got = sorted(map(tuple, np.concatenate([*clients, held_out]).tolist()))
    expected = sorted(tuple(document[i : i + 21].tolist()) for i in range(0, 3000, 20))
    assert got == expected
    assert len(set(got)) == 150


def test_whole_files_go_to_machines_and_sizes_even_out():
    made = corpus(1001, 601, 401, 301, 201)
    clients, held_out = dealt(made, 3)
    # 100 | 60 + 20 | 40 + 30, less the tenth of each that is held out
    assert sorted(len(c) for c in clients) == [63, 72, 90]
    assert len(held_out) == 10 + 6 + 4 + 3 + 2


def test_fewer_files_than_machines_are_cut_where_they_are_longest():
    clients, held_out = dealt(corpus(2001, 501), 4)
    assert sorted(len(c) for c in clients) == [45, 59, 60, 60]
    assert len(held_out) == 5 + 7 * 3


def test_a_machine_with_too_little_makes_the_rest_be_cut_further():
    clients, _ = dealt(corpus(3001, 31), 2)
    assert min(len(c) for c in clients) >= text.MIN_WINDOWS
    assert sum(len(c) for c in clients) >= 260


def test_too_little_text_is_told():
    message = (
        "made: gives 20 windows of 11 bytes; expected at least 27, 8 for each of 3 machines and some held out: bring more "
        "text or choose a smaller window"
    )
    with pytest.raises(InputError, match=message):
        dealt(corpus(201), 3)
    with pytest.raises(InputError, match="gives 0 windows"):
        dealt(corpus(5), 1)
    clients, held_out = dealt(corpus(271), 3)
    assert [len(c) for c in clients] == [8, 8, 8]
    assert len(held_out) == 3


def test_the_split_is_seeded():
    made = corpus(1001, 601, 401)
    one, two = (deal_text(made, 3, 10, np.random.default_rng(4))[0] for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    orders = {tuple(len(c) for c in deal_text(made, 3, 10, np.random.default_rng(s))[0]) for s in range(8)}
    assert len(orders) > 1
