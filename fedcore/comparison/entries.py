"""What is compared: every method of the literature with the parameters of its paper, beside intra-layer parallelism.

A method that is registered plays here with its defaults and whole models; one line here gives it others.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedcore.local import LocalRecipe
from fedcore.methods import METHODS, Method
from scenarios.errors import InputError
from scenarios.schema import Workload


@dataclass(frozen=True)
class Entry:
    """One line of the comparison.

    Attributes:
        method: a name in `METHODS`.
        options: its parameters where they are not the defaults.
        shares: "all" (1 for everyone), "capacity" (`capacity_shares`), "fastest" (the strongest machine alone), or one
            number for everyone.
        objective: replaces the workload's where the method needs another.
        steps: H where it is not the comparison's.
        grows: layer by layer: its stages share the longest run that the comparison allows.
        sgd_rate: plain SGD at this rate instead of the workload's AdamW, for methods whose mathematics needs it.
        server_samples: the server trains too, on a tenth of everybody's samples, which machines then lack.
    """

    method: str
    options: dict[str, Any] = field(default_factory=dict)
    shares: str | float = "all"
    objective: str | None = None
    sgd_rate: float | None = None
    steps: int | None = None
    grows: bool = False
    server_samples: bool = False

    def build(self, rounds: int, stages: int) -> Method:
        """The method.

        Args:
            rounds: that the run lasts at most.
            stages: of the encoder.
        """
        growth = {"rounds_per_stage": max(1, round(rounds / stages))} if self.grows else {}
        return METHODS[self.method](**growth | self.options)

    def shares_of(self, capacity: NDArray[np.float64], speed: NDArray[np.float64]) -> list[float]:
        """Share of every machine.

        Args:
            capacity: from `capacity_shares`.
            speed: (K,) larger is faster, to tell machines of one capacity apart.
        """
        if self.shares == "capacity":
            return [float(s) for s in capacity]
        if self.shares == "fastest":
            return [float(k == int(np.argmax(speed))) for k in range(len(capacity))]
        return [1.0 if self.shares == "all" else float(self.shares)] * len(capacity)

    def recipe(self, recipe: LocalRecipe) -> LocalRecipe:
        """How machines train under this entry."""
        if self.sgd_rate is None:
            return recipe
        return replace(recipe, optimizer="sgd", learning_rate=self.sgd_rate, weight_decay=0.0)

    def workload(self, workload: Workload) -> Workload:
        """What is trained under this entry."""
        if self.objective is None or self.objective == workload.objective:
            return workload
        return workload.model_copy(update={"objective": self.objective, "objective_options": {}})


COOPERATIVE = {"server_step": 0.7}
THIN = COOPERATIVE | {"context": 0.5, "context_rule": "random-unscaled"}
SGD_RATE = 0.1

ENTRIES: dict[str, Entry] = {
    "fedavg": Entry("fedavg"),
    "fastest-alone": Entry("fedavg", shares="fastest"),
    "exclusive": Entry("exclusive", shares="capacity"),
    "cooperative-1/2": Entry("intralayer", COOPERATIVE, 0.5),
    "cooperative-1/3": Entry("intralayer", COOPERATIVE, 1 / 3),
    "cooperative-capacity": Entry("intralayer", COOPERATIVE, "capacity"),
    "thin-1/2": Entry("intralayer", THIN, 0.5),
    "thin-1/3": Entry("intralayer", THIN, 1 / 3),
    "thin-1/4": Entry("intralayer", THIN | {"context": 0.25}, 1 / 4),
    "thin-capacity": Entry("intralayer", THIN, "capacity"),
    "thin-capacity-1/4": Entry("intralayer", THIN | {"context": 0.25}, "capacity"),
    "subnet-capacity": Entry("intralayer", COOPERATIVE | {"context": 0.0}, "capacity"),
    "fedprox": Entry("fedprox"),
    "fedlama": Entry("fedlama"),
    "fedlama-neurons": Entry("fedlama-neurons"),
    "l-dawa": Entry("l-dawa"),
    "l-dawa-published": Entry("l-dawa", {"renormalise": False}),
    "fedavg-median": Entry("fedavg", {"merge_rule": "median"}),
    "fedavg-trimmed-mean": Entry("fedavg", {"merge_rule": "trimmed-mean"}),
    "fedavg-norm-clipping": Entry("fedavg", {"merge_rule": "norm-clipping"}),
    "private-1/2": Entry("private", COOPERATIVE | {"clip_norm": 2.5, "noise_multiplier": 0.01}, 0.5),
    "fedavg-sgd": Entry("fedavg", sgd_rate=SGD_RATE),
    "scaffold-sgd": Entry("scaffold", sgd_rate=SGD_RATE),
    "scaffold-1-sgd": Entry("scaffold", {"option": "I"}, sgd_rate=SGD_RATE),
    "pfedme-sgd": Entry("pfedme", {"eta": 0.02}, sgd_rate=SGD_RATE),
    "splitnn": Entry("splitnn"),
    "splitfed-v1": Entry("splitfed-v1"),
    "splitfed-v2": Entry("splitfed-v2"),
    "lw-fedssl": Entry("lw-fedssl", grows=True),
    "lw-fedssl-aligned": Entry("lw-fedssl", {"representation_alignment": 0.1}, grows=True),
    "lw-fedssl-calibrated": Entry("lw-fedssl", {"server_calibration_steps": 10}, grows=True, server_samples=True),
    "prog-fedssl": Entry("prog-fedssl", grows=True),
    "ist": Entry("ist"),
    "heterofl": Entry("heterofl", shares="capacity"),
    "federated-dropout": Entry("federated-dropout", shares="capacity"),
    "fjord": Entry("fjord", shares="capacity"),
    "fedrolex": Entry("fedrolex", shares="capacity"),
    "fedavg-byol": Entry("fedavg", objective="byol"),
    "cooperative-1/2-byol": Entry("intralayer", COOPERATIVE, 0.5, objective="byol"),
    "fedbyol": Entry("fedbyol", objective="byol"),
    "fedu": Entry("fedu", objective="byol"),
    "fedema": Entry("fedema", objective="byol"),
    "fedavg-dino": Entry("fedavg", objective="dino"),
    "cooperative-1/2-dino": Entry("intralayer", COOPERATIVE, 0.5, objective="dino"),
    "fedavg-vicreg": Entry("fedavg", objective="vicreg"),
    "cooperative-1/2-vicreg": Entry("intralayer", COOPERATIVE, 0.5, objective="vicreg"),
}


def _third(**options: object) -> Entry:
    return Entry("intralayer", COOPERATIVE | options, 1 / 3)


STUDY: dict[str, Entry] = {
    "fedavg, H 5": Entry("fedavg", steps=5),
    "fedavg, H 20": Entry("fedavg", steps=20),
    "fedavg, H 40": Entry("fedavg", steps=40),
    "share 1": Entry("intralayer", COOPERATIVE, 1.0),
    "share 1/2": Entry("intralayer", COOPERATIVE, 1 / 2),
    "share 1/3": Entry("intralayer", COOPERATIVE, 1 / 3),
    "share 1/4": Entry("intralayer", COOPERATIVE, 1 / 4),
    "share 1/6": Entry("intralayer", COOPERATIVE, 1 / 6),
    "share 1/12": Entry("intralayer", COOPERATIVE, 1 / 12),
    "share 1/3, H 5": Entry("intralayer", COOPERATIVE, 1 / 3, steps=5),
    "share 1/3, H 20": Entry("intralayer", COOPERATIVE, 1 / 3, steps=20),
    "share 1/3, H 40": Entry("intralayer", COOPERATIVE, 1 / 3, steps=40),
    "share 1/2, H 20": Entry("intralayer", COOPERATIVE, 1 / 2, steps=20),
    "share 1/6, H 20": Entry("intralayer", COOPERATIVE, 1 / 6, steps=20),
    "share 1/3, rolling": _third(rule="rolling"),
    "share 1/3, fixed": _third(rule="fixed"),
    "share 1/3, importance": _third(rule="importance"),
    "share 1/3, server step 0.4": _third(server_step=0.4),
    "share 1/3, server step 1": _third(server_step=1.0),
    "share 1/3, server step 1.3": _third(server_step=1.3),
    "share 1/6, server step 0.4": Entry("intralayer", {"server_step": 0.4}, 1 / 6),
    "share 1/6, server step 1": Entry("intralayer", {"server_step": 1.0}, 1 / 6),
    "share 1/3, context 0.75 unscaled": _third(context=0.75, context_rule="random-unscaled"),
    "share 1/3, context 0.5 unscaled": _third(context=0.5, context_rule="random-unscaled"),
    "share 1/3, context 0.25 unscaled": _third(context=0.25, context_rule="random-unscaled"),
    "share 1/3, context 0.5 scaled": _third(context=0.5, context_rule="random"),
    "share 1/3, context 0.5 compensated": _third(context=0.5, context_rule="compensated-random"),
    "share 1/3, context 0": _third(context=0.0),
    "share 1/6, context 0.25 unscaled, H 20": Entry("intralayer", THIN | {"context": 0.25}, 1 / 6, steps=20),
}
"""Intra-layer parallelism against its own knobs: share, H, selection rule, server step, context (docs/shares.md)."""


def entry_of(name: str) -> Entry:
    """The entry of that name, of the comparison or of the study; a method without one plays as it comes."""
    return (ENTRIES | STUDY).get(name) or Entry(name)


def compared() -> list[str]:
    """Names of the whole comparison: every entry, and every method that has none."""
    spoken = {entry.method for entry in ENTRIES.values()}
    return [*ENTRIES, *(method for method in METHODS if method not in spoken)]


def chosen(names: tuple[str, ...]) -> list[str]:
    """Names of the entries that a person asked for; "all" is the whole comparison, "study" the whole study.

    Raises:
        InputError: an unknown name.
    """
    everything = {"all": compared(), "study": list(STUDY)}
    # The reference is always played: budgets and target are its own.
    wanted = ["fedavg"]
    for name in names:
        if name not in (*everything, *compared(), *STUDY):
            known = ", ".join([*compared(), *STUDY])
            raise InputError(f"methods: {name!r} is not known, expected all, study, or some of {known}")
        wanted += everything.get(name, [name])
    return list(dict.fromkeys(wanted))
