"""Everything the probes tell of an encoder on one image set, in one record."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fedcore.data.dataset import Dataset
from fedcore.model import Model
from fedcore.neurons import State
from fedcore.parallel import one_thread
from fedcore.probes.accuracy import Accuracy, accuracy_of
from fedcore.probes.collapse import effective_rank, feature_std
from fedcore.probes.counts import CountEstimates, estimate_counts, knn_log_counts, ridge_log_counts
from fedcore.probes.features import extract_features, principal, raw_pixels
from fedcore.probes.fewshot import FRACTIONS, FewShot, few_shot
from fedcore.probes.geometry import geometry_of
from fedcore.probes.infonce import HeldOutInfoNCE
from fedcore.probes.intervals import Estimate
from fedcore.probes.knn import knn_guesses, protocol_neighbours
from fedcore.probes.linear import linear_guesses
from scenarios.errors import InputError

LINEAR_LIMIT = 6000
"""Training images of the linear probe at most, drawn at random."""
RANK_IMAGES = 1024
"""Test images that the effective rank is measured on at most, evenly over all of them."""
SEVERAL_GROUPS = 3
"""Intervals resample groups from so many on; with two they would be nothing but the two groups' values."""

Headline = Literal["count R2", "balanced kNN accuracy", "-InfoNCE"]


def headline(dataset: Dataset) -> Headline:
    """The one number that is the quality on a set: the best that its labels allow."""
    if dataset.counts is not None:
        return "count R2"
    return "-InfoNCE" if dataset.labels is None else "balanced kNN accuracy"


@dataclass(frozen=True)
class ProbeReport:
    """Figures of one encoder on one set; None where the set lacks what a figure needs, or `quick` left it out.

    Attributes:
        dataset: its name.
        headline: which figure is the quality, see `headline`.
        raw: whether these are raw pixels, the reference that an encoder must beat to show anything.
        quick: whether only the headline and the label-free figures were measured.
        train_images: that labelled probes learn from.
        test_images: that they are judged on.
        unit: what intervals resample: "group" (a slide or site) where the test images come from several, else "image".
        units: how many of them.
        infonce: held-out InfoNCE, the progress signal.
        chance: its value for features that tell nothing apart.
        alignment: of the same fixed views, see `geometry`.
        uniformity: of the same.
        effective_rank: of test features.
        feature_std: of test features; 1 isotropic, 0 collapsed.
        neighbours: k of the kNN.
        knn: accuracy of weighted kNN.
        linear: accuracy of the linear probe.
        few_shot: accuracy of the linear probe on 1 % and 10 % of the labels.
        counts: ridge regression of log counts.
        knn_counts: kNN regression of log counts, for raw pixels, where it may beat ridge.
    """

    dataset: str
    headline: Headline
    raw: bool
    quick: bool
    train_images: int
    test_images: int
    unit: Literal["image", "group"]
    units: int
    infonce: float
    chance: float
    alignment: float
    uniformity: float
    effective_rank: float
    feature_std: float
    neighbours: int | None = None
    knn: Accuracy | None = None
    linear: Accuracy | None = None
    few_shot: tuple[FewShot, ...] = ()
    counts: CountEstimates | None = None
    knn_counts: CountEstimates | None = None

    @property
    def quality(self) -> float:
        """The headline's value; more is better. For raw pixels the better of ridge and kNN where counts are guessed."""
        best = self.quality_estimate
        return -self.infonce if best is None else best.value

    @property
    def quality_estimate(self) -> Estimate | None:
        """The headline with its interval; None for -InfoNCE, which has none."""
        if self.headline == "count R2":
            return max((c.r2_log for c in (self.counts, self.knn_counts) if c is not None), key=lambda e: e.value)
        return None if self.knn is None or self.headline == "-InfoNCE" else self.knn.balanced

    def numbers(self) -> dict[str, float]:
        """The measured figures by name, without intervals: what a checkpoint keeps and `prediction.Run.of` reads.

        Always `quality` and the label-free `infonce`, `alignment`, `uniformity`, `effective_rank`, `feature_std`; where
        measured `knn`, `linear`, `few_shot_1` and `few_shot_10`, each also with `_balanced`, `count_r2`, and `count_mae`
        and `count_bias`, means over kinds.
        """
        names = ("quality", "infonce", "alignment", "uniformity", "effective_rank", "feature_std")
        told: dict[str, float] = {name: getattr(self, name) for name in names}
        for name, accuracy in (("knn", self.knn), ("linear", self.linear)):
            if accuracy is not None:
                told |= {name: accuracy.plain.value, f"{name}_balanced": accuracy.balanced.value}
        for shot in self.few_shot:
            name = f"few_shot_{100 * shot.fraction:g}"
            told |= {name: shot.accuracy.value, f"{name}_balanced": shot.balanced.value}
        if self.counts is not None:
            told["count_r2"] = self.counts.r2_log.value
            told["count_mae"] = float(np.mean([e.value for e in self.counts.mae_per_kind]))
            told["count_bias"] = float(np.mean([e.value for e in self.counts.bias_per_kind]))
        return told

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @staticmethod
    def from_dict(content: dict[str, Any]) -> ProbeReport:
        """From JSON."""
        made = dict(content)
        for name in ("knn", "linear"):
            made[name] = made[name] and Accuracy(**{k: Estimate(**v) for k, v in made[name].items()})
        for name in ("counts", "knn_counts"):
            made[name] = made[name] and _count_estimates(made[name])
        made["few_shot"] = tuple(
            FewShot(**{**f, "accuracy": Estimate(**f["accuracy"]), "balanced": Estimate(**f["balanced"])})
            for f in made["few_shot"]
        )
        return ProbeReport(**made)


def _count_estimates(content: dict[str, Any]) -> CountEstimates:
    lists = {name: tuple(Estimate(**e) for e in value) for name, value in content.items() if name != "r2_log"}
    return CountEstimates(Estimate(**content["r2_log"]), **lists)


def resampled_groups(dataset: Dataset) -> NDArray[np.int64] | None:
    """(test images,) the group of each, which intervals resample; None where they resample images, see `SEVERAL_GROUPS`."""
    groups = dataset.group[dataset.test]
    return groups if dataset.has_groups and len(np.unique(groups)) >= SEVERAL_GROUPS else None


def probe_report(
    model: Model,
    state: State,
    dataset: Dataset,
    progress_probe: HeldOutInfoNCE,
    seed: int = 0,
    *,
    quick: bool = False,
    raw: bool = False,
) -> ProbeReport:
    """Measure an encoder with everything that a set's labels allow.

    Args:
        model: whose encoder.
        state: its weights.
        dataset: labelled probes learn from its training images and are judged on its test images.
        progress_probe: the held-out InfoNCE; its fixed views are those of alignment and uniformity too.
        seed: of the bootstrap, of few-shot draws and of which images a linear probe learns from.
        quick: the headline and the label-free figures only.
        raw: measure raw pixels in place of the encoder's features; model and state are not read.

    Raises:
        InputError: the set has no training or fewer than 2 test images.
    """
    train, test = np.flatnonzero(~dataset.test), np.flatnonzero(dataset.test)
    if len(train) == 0 or len(test) < 2:
        raise InputError(
            f"{dataset.name}: has {len(train)} training and {len(test)} test images; expected at least 1 and 2 for probes"
        )
    # Sums, and so the last digit, must not depend on how many cores there are.
    with one_thread(), threadpool_limits(1):
        if raw:
            features = raw_pixels(dataset.images)
            views = progress_probe.one.flatten(1), progress_probe.two.flatten(1)
        else:
            features = extract_features(model, state, dataset.images)
            views = progress_probe.features(model, state)
        geometry = geometry_of(*views)
        some = features[test[:: -(-len(test) // RANK_IMAGES)]]
        groups = resampled_groups(dataset)
        report = ProbeReport(
            dataset.name,
            headline(dataset),
            raw,
            quick,
            len(train),
            len(test),
            "image" if groups is None else "group",
            len(test) if groups is None else len(np.unique(groups)),
            progress_probe.loss(*views),
            progress_probe.chance,
            geometry.alignment,
            geometry.uniformity,
            effective_rank(some),
            feature_std(some),
        )
        return _Labelled(dataset, features, train, test, groups, seed).fill(report)


@dataclass(frozen=True)
class _Labelled:
    """The labelled probes of one report."""

    dataset: Dataset
    features: NDArray[np.float32]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    group: NDArray[np.int64] | None
    seed: int

    def fill(self, report: ProbeReport) -> ProbeReport:
        if self.dataset.labels is not None and not (report.quick and report.headline != "balanced kNN accuracy"):
            report = self._classify(report, self.dataset.labels)
        if self.dataset.counts is not None:
            report = self._count(report, self.dataset.counts)
        return report

    def _classify(self, report: ProbeReport, labels: NDArray[np.int64]) -> ProbeReport:
        features, train, test = self.features, self.train, self.test
        k = protocol_neighbours(len(train), len(np.unique(labels[train])))
        guesses = knn_guesses(features[train], labels[train], features[test], k)
        report = replace(report, neighbours=k, knn=accuracy_of(guesses, labels[test], self.seed, self.group))
        if report.quick:
            return report
        some = np.sort(np.random.default_rng([self.seed, 1]).permutation(train)[:LINEAR_LIMIT])
        if report.raw:
            features = principal(features, some, self.seed)
        guesses = linear_guesses(features[some], labels[some], features[test])
        shots = tuple(
            few_shot(features[train], labels[train], features[test], labels[test], f, self.seed, group=self.group)
            for f in FRACTIONS
        )
        return replace(report, linear=accuracy_of(guesses, labels[test], self.seed, self.group), few_shot=shots)

    def _count(self, report: ProbeReport, counts: NDArray[np.int64]) -> ProbeReport:
        features = self.features[self.train], counts[self.train], self.features[self.test]
        truth = counts[self.test]
        report = replace(report, counts=estimate_counts(ridge_log_counts(*features), truth, self.seed, self.group))
        if report.raw:
            neighbours = knn_log_counts(*features)
            report = replace(report, knn_counts=estimate_counts(neighbours, truth, self.seed, self.group))
        return report


def untrained_report(
    model: Model, dataset: Dataset, progress_probe: HeldOutInfoNCE, seed: int = 0, *, quick: bool = False
) -> ProbeReport:
    """The same of the encoder before training: the weights that a run of this seed starts from."""
    state = model.init_state(torch.Generator().manual_seed(seed))
    return probe_report(model, state, dataset, progress_probe, seed, quick=quick)
