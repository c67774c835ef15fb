"""Text of a scenario's workload: windows of tokens per machine, and what progress is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fedcore.data import grammar, text
from fedcore.probes import HeldOutLoss
from fedcore.samples import Samples
from scenarios.schema import Scenario

GRAMMAR = "grammar"
"""Name of the embedded text: sentences of a small probabilistic grammar, every machine a site of its own."""
GRAMMAR_SEED = 0
SERVER_SITES, SERVER_PER_SITE = 6, 40


@dataclass(frozen=True)
class PreparedText:
    """Text dealt to machines.

    Attributes:
        name: short name for tables.
        vocabulary: number of different tokens.
        clients: per machine, (N_k, T + 1) int64 training windows.
        held_out: (M, T + 1) int64 windows that the server measures progress on.
        floor: nats per token that the true source loses on `held_out`, the least that can be reached; None where the
            source is not known.
    """

    name: str
    vocabulary: int
    clients: tuple[NDArray[np.int64], ...]
    held_out: NDArray[np.int64]
    floor: float | None = None

    channels: ClassVar[int] = 1
    """Of images: none here, and no model of text asks."""
    guard_images: ClassVar[None] = None
    """None: a language model cannot collapse unseen, its loss is what it is."""

    def samples(self) -> list[Samples]:
        """What every machine trains on."""
        return [Samples(torch.from_numpy(windows)) for windows in self.clients]

    def probe(self) -> HeldOutLoss:
        """The progress signal."""
        return HeldOutLoss(self.held_out, self.vocabulary)


def is_text(data: str) -> bool:
    """Whether a workload's data are text by their name; a folder may hold either."""
    return data == GRAMMAR or data.lower().endswith(".txt")


def vocabulary_of(data: str) -> int:
    """Number of different tokens in a workload's text; known without reading it."""
    return grammar.VOCABULARY if data == GRAMMAR else text.VOCABULARY


def prepare_text(scenario: Scenario, seed: int) -> PreparedText:
    """Deal a scenario's text to its machines.

    The embedded grammar gives every machine a site of its own (the seed says which), as many windows as its group has
    images, and the server the same windows for every fleet. Files are dealt whole where there are enough, see `text.deal_text`.

    Args:
        scenario: whose fleet and workload.
        seed: of the split, and of which of its site's text a machine holds.

    Raises:
        InputError: the text is no text, or too little for the fleet.
    """
    workload, machines = scenario.workload, scenario.fleet.machines
    if workload.data != GRAMMAR:
        corpus = text.load_text(workload.data)
        clients, held_out = text.deal_text(corpus, len(machines), workload.window, np.random.default_rng([seed, 3]))
        return PreparedText(corpus.name, text.VOCABULARY, clients, held_out)
    sources = grammar.site_sources(max(len(machines), SERVER_SITES), GRAMMAR_SEED)
    length = workload.window + 1

    def windows(site: int, count: int, stream: tuple[int, ...]) -> NDArray[np.int64]:
        return grammar.sample_windows(sources[site], count, length, np.random.default_rng([*stream, site]))

    sites = np.random.default_rng([seed, 5]).permutation(len(machines))
    clients = tuple(windows(int(site), group.images, (seed, 3)) for site, group in zip(sites, machines, strict=True))
    held_out = np.concatenate([windows(k, SERVER_PER_SITE, (GRAMMAR_SEED, 4)) for k in range(SERVER_SITES)])
    floor = grammar.true_nats(sources[:SERVER_SITES], held_out)
    return PreparedText(GRAMMAR, grammar.VOCABULARY, clients, held_out, floor)
