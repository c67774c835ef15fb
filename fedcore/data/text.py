"""Text that a user brings: .txt files become windows of bytes, dealt to machines and held out for the probe.

The vocabulary is the 256 bytes of UTF-8. Every machine knows it without having seen the others' text, nothing falls
outside it, and what a model costs does not depend on what it reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scenarios.errors import InputError

VOCABULARY = 256
MAX_BYTES = 32 * 2**20
"""Of text in all; windows of int64 tokens take eight times as much memory."""
MIN_WINDOWS = 8
"""That every machine trains on at least."""
HELD_OUT = 0.1
"""Part of every piece of text that is held out: its end."""

Windows = NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Text in memory.

    Attributes:
        name: short name for tables and messages.
        documents: one uint8 array of bytes per file, none of them empty.
    """

    name: str
    documents: tuple[NDArray[np.uint8], ...]


def load_text(path: str | Path) -> Corpus:
    """Read a .txt file, or every .txt file below a folder, in sorted order; hidden files and empty ones are passed over.

    A byte order mark is dropped and line ends become single line feeds.

    Args:
        path: the file or folder.

    Raises:
        InputError: there is no such file, no text in it, it is not UTF-8, or it is more than `MAX_BYTES`.
    """
    source = Path(path).expanduser()
    wanted = "expected a .txt file or a folder of .txt files"
    if source.is_dir():
        files = sorted(
            file
            for file in source.rglob("*")
            if file.suffix.lower() == ".txt" and file.is_file() and not _hidden(file.relative_to(source))
        )
        if not files:
            raise InputError(f"{path}: folder has no .txt files; {wanted}")
    elif not source.is_file():
        raise InputError(f"{path}: does not exist; {wanted}")
    elif source.suffix.lower() != ".txt":
        raise InputError(f"{path}: has the extension '{source.suffix}'; {wanted}")
    else:
        files = [source]
    size = sum(file.stat().st_size for file in files)
    if size > MAX_BYTES:
        raise InputError(f"{path}: holds {size:,} bytes of text; expected at most {MAX_BYTES:,}: take a part of it")
    texts = [_read(file) for file in files]
    documents = tuple(np.frombuffer(text, dtype=np.uint8) for text in texts if text.strip())
    if not documents:
        raise InputError(f"{path}: holds no text; {wanted} that are not empty")
    return Corpus(source.resolve().stem, documents)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)


def _read(file: Path) -> bytes:
    try:
        raw = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); expected a readable text file") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: byte {error.start} is not UTF-8; expected plain text, saved as UTF-8") from None
    if "\0" in text:
        raise InputError(f"{file}: holds zero bytes, so it is not text; expected plain text, saved as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n").encode()


def deal_text(
    corpus: Corpus, machines: int, window: int, rng: np.random.Generator
) -> tuple[tuple[Windows, ...], Windows]:
    """Deal text to machines: whole files where there are enough of them, else contiguous pieces of files.

    Files are cut, always where the pieces are longest, until there is a piece for every machine with at least
    `MIN_WINDOWS` windows on each. Pieces go to machines, the longest first, each to the machine that has least. The last
    tenth of every piece is held out, so that the probe reads every machine's kind of text and nothing that was trained on.
    Windows lie end to end and share one token: what is the last target of one is the first input of the next.

    Args:
        corpus: the text.
        machines: how many.
        window: T, tokens that a model reads at once.
        rng: which machine gets which hand of pieces.

    Returns:
        Per machine (N_k, T + 1) int64 windows, and (M, T + 1) held-out windows.

    Raises:
        InputError: too little text.
    """
    documents = [_windows(document, window) for document in corpus.documents]
    documents = [document for document in documents if len(document)]
    total = sum(len(document) for document in documents)
    least = machines * (MIN_WINDOWS + 1)
    if total >= least:
        first = max(len(documents), machines)
        for count in range(first, first + least):
            hands, held_out = _deal(_cut(documents, count), machines)
            if len(held_out) and min(len(hand) for hand in hands) >= MIN_WINDOWS:
                return tuple(hands[k] for k in rng.permutation(machines)), held_out
    raise InputError(
        f"{corpus.name}: gives {total} windows of {window + 1} bytes; expected at least {least}, {MIN_WINDOWS} for each of "
        f"{machines} machines and some held out: bring more text or choose a smaller window"
    )


def _windows(document: NDArray[np.uint8], window: int) -> Windows:
    """(n, window + 1) int64; what does not fill a window at the end is dropped."""
    count = (len(document) - 1) // window
    starts = np.arange(count)[:, None] * window
    return document[starts + np.arange(window + 1)].astype(np.int64)


def _cut(documents: Sequence[Windows], pieces: int) -> list[Windows]:
    """Cut documents into that many contiguous pieces, as even as whole cuts allow."""
    cuts = np.ones(len(documents), dtype=np.int64)
    sizes = np.array([len(document) for document in documents])
    for _ in range(pieces - len(documents)):
        cuts[np.argmax(sizes / cuts)] += 1
    return [
        part for document, n in zip(documents, cuts, strict=True) for part in np.array_split(document, int(n)) if len(part)
    ]


def _deal(pieces: Sequence[Windows], machines: int) -> tuple[list[Windows], Windows]:
    """Training windows per machine, and held-out windows."""
    hands: list[list[Windows]] = [[pieces[0][:0]] for _ in range(machines)]
    held_out: list[Windows] = []
    sizes = np.zeros(machines, dtype=np.int64)
    for piece in sorted(pieces, key=len, reverse=True):  # stable: ties stay in the order of the text
        machine = int(np.argmin(sizes))
        kept = len(piece) - int(np.ceil(HELD_OUT * len(piece))) if len(piece) > 1 else 1
        hands[machine].append(piece[:kept])
        held_out.append(piece[kept:])
        sizes[machine] += kept
    return [np.concatenate(hand) for hand in hands], np.concatenate(held_out)
