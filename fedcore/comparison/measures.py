"""What a run of the comparison is measured by at its checkpoints and in the end: images by probes of their features, text by
the tokens that are foretold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import numpy as np

from fedcore.model import Model
from fedcore.neurons import State
from fedcore.probes import HeldOutInfoNCE
from fedcore.probes.report import probe_report
from fedcore.probes.text_report import by_window, text_report
from fedcore.text_workload import PreparedText
from fedcore.workload import Prepared, PreparedData

INFONCE, NATS = "infonce", "nats"
LEAST_OWN = 8
"""Test images of a machine's own kind that are worth a measure."""
SIGNALS = {INFONCE: "InfoNCE", NATS: "nats per token"}
"""Progress signal of a run -> what it is called; the less the better."""


def signal_of(run: Mapping[str, Any]) -> str:
    """The progress signal in a run's checkpoints; records of runs on images need not name theirs."""
    return str(run.get("signal", INFONCE))


class Measure(Protocol):
    """Measures models of one data set."""

    @property
    def signal(self) -> str:
        """Of progress, a name in `SIGNALS`."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """What its images count."""

    def numbers(self, model: Model, state: State) -> dict[str, float]:
        """What a checkpoint keeps: `quality`, the more the better, the signal, and more."""

    def report(self, model: Model, state: State) -> dict[str, Any]:
        """All that can be told, for JSON, with `headline`, the name of the quality."""

    def raw(self, model: Model, state: State) -> float | None:
        """Quality of what an encoder must beat to show anything; None where there is no such thing."""

    def of_machine(self, machine: int) -> Measure | None:
        """The same on what is held out from where a machine's own data come; None where nothing tells that apart."""


@dataclass(frozen=True)
class ImageMeasure:
    """Probes of features, see `probe_report`."""

    data: PreparedData
    probe: HeldOutInfoNCE
    seed: int

    signal: ClassVar[str] = INFONCE

    @property
    def kinds(self) -> tuple[str, ...]:
        """See `Measure.kinds`."""
        return tuple(self.data.dataset.kinds)

    def numbers(self, model: Model, state: State) -> dict[str, float]:
        """See `Measure.numbers`."""
        return probe_report(model, state, self.data.dataset, self.probe, self.seed, quick=True).numbers()

    def report(self, model: Model, state: State) -> dict[str, Any]:
        """See `Measure.report`."""
        return probe_report(model, state, self.data.dataset, self.probe, self.seed).to_dict()

    def raw(self, model: Model, state: State) -> float | None:
        """See `Measure.raw`: raw pixels."""
        return probe_report(model, state, self.data.dataset, self.probe, self.seed, raw=True, quick=True).quality

    def of_machine(self, machine: int) -> ImageMeasure | None:
        """See `Measure.of_machine`: test images of its groups, or of its classes where groups tell nothing."""
        d, own = self.data.dataset, self.data.clients[machine]
        for known in (d.group, d.labels):
            alike = d.test & np.isin(known, known[own]) if known is not None else d.test
            if LEAST_OWN <= alike.sum() < d.test.sum():
                kept = alike | ~d.test
                rows = {n: v[kept] for n in ("images", "group", "test", "labels", "counts") if (v := getattr(d, n)) is not None}
                return replace(self, data=replace(self.data, dataset=replace(d, **rows)))
        return None


@dataclass(frozen=True)
class TextMeasure:
    """Tokens foretold in the server's held-out windows, see `text_report`."""

    data: PreparedText
    seed: int

    signal: ClassVar[str] = NATS
    kinds: ClassVar[tuple[str, ...]] = ()

    def numbers(self, model: Model, state: State) -> dict[str, float]:
        """See `Measure.numbers`."""
        nats, accuracy = by_window(model, state, self.data.held_out)
        return {"quality": float(accuracy.mean()), NATS: float(nats.mean())}

    def report(self, model: Model, state: State) -> dict[str, Any]:
        """See `Measure.report`."""
        return text_report(model, state, self.data.held_out, self.seed, self.data.floor).to_dict()

    def raw(self, model: Model, state: State) -> float | None:
        """See `Measure.raw`: there is none."""
        return None

    def of_machine(self, machine: int) -> None:
        """See `Measure.of_machine`: all text held out is the server's."""
        return None


def measure_of(data: Prepared, probe: object, seed: int) -> Measure:
    """What measures runs on these data.

    Args:
        data: dealt to machines.
        probe: the run's progress signal.
        seed: of bootstraps and draws.
    """
    if isinstance(data, PreparedText):
        return TextMeasure(data, seed)
    assert isinstance(data, PreparedData)
    assert isinstance(probe, HeldOutInfoNCE)
    return ImageMeasure(data, probe, seed)
