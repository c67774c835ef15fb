import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedcore.data.dataset import Dataset
from fedcore.model import build_model
from fedcore.probes import (
    HeldOutInfoNCE,
    count_regression,
    effective_rank,
    extract_features,
    feature_std,
    knn_accuracy,
    linear_accuracy,
    raw_pixels,
)
from fedcore.probes.counts import knn_log_counts, score_counts
from fedcore.probes.report import ProbeReport, headline, probe_report, untrained_report
from scenarios.errors import InputError

torch.set_num_threads(1)

MODEL = build_model((1, 8, 8), "convnet", "simclr", {"widths": (6, 8), "strides": (2, 1)}, {"hidden": 8, "outputs": 4})
STATE = MODEL.init_state(torch.Generator().manual_seed(5))


def squares(labelled: bool = True, counted: bool = True, groups: int = 1) -> Dataset:
    """White squares on noise: the class is their brightness, the count their number."""
    rng = np.random.default_rng(0)
    n = 160
    labels, counts = rng.integers(0, 3, n), rng.integers(0, 5, (n, 2))
    images = rng.integers(0, 60, (n, 8, 8, 1))
    for image, label, (many, _) in zip(images, labels, counts, strict=True):
        for _ in range(many):
            y, x = rng.integers(0, 7, 2)
            image[y : y + 2, x : x + 2] = 90 + 50 * label
    return Dataset(
        "squares",
        images.astype(np.uint8),
        np.arange(n) % groups,
        np.arange(n) % 4 == 0 if groups == 1 else np.arange(n) % 9 == 0,
        labels if labelled else None,
        counts if counted else None,
        ("dim", "grey", "bright") if labelled else (),
        ("seen", "hidden") if counted else (),
        tuple("abcdefgh"[:groups]) if groups > 1 else (),
    )


def test_every_figure_is_that_of_its_own_probe():
    data = squares()
    probe = HeldOutInfoNCE(data.images[data.test])
    report = probe_report(MODEL, STATE, data, probe, seed=3)
    features = extract_features(MODEL, STATE, data.images)
    train, test = ~data.test, data.test
    classes = features[train], data.labels[train], features[test], data.labels[test]
    assert report.neighbours == 5
    assert report.knn.plain.value == knn_accuracy(*classes, k=5)
    assert report.knn.balanced.value == pytest.approx(knn_accuracy(*classes, k=5, balanced=True))
    # The order of the training images is another one: the last step of the solver differs.
    assert report.linear.plain.value == pytest.approx(linear_accuracy(*classes), abs=0.03)
    score = count_regression(features[train], data.counts[train], features[test], data.counts[test])
    assert report.counts.r2_log.value == pytest.approx(score.r2_log)
    assert [e.value for e in report.counts.mae_per_kind] == pytest.approx(score.mae_per_kind)
    assert [e.value for e in report.counts.bias_per_kind] == pytest.approx(score.bias_per_kind)
    assert report.infonce == pytest.approx(probe(MODEL, STATE))
    assert report.chance == pytest.approx(np.log(40))
    assert report.effective_rank == pytest.approx(effective_rank(features[test]), rel=1e-4)
    assert report.feature_std == pytest.approx(feature_std(features[test]), rel=1e-4)
    tenth = sum(max(1, round(0.1 * n)) for n in np.bincount(data.labels[train]))
    assert [shot.images for shot in report.few_shot] == [3, tenth]
    assert (report.train_images, report.test_images, report.unit, report.units) == (120, 40, "image", 40)
    assert report.knn_counts is None
    told = report.numbers()
    assert report.quality == told["quality"] == told["count_r2"] == score.r2_log == pytest.approx(report.counts.r2_log.value)
    assert told["count_mae"] == pytest.approx(np.mean(score.mae_per_kind))
    assert {"knn_balanced", "linear", "few_shot_1", "few_shot_10_balanced", "uniformity"} <= told.keys()
    for estimate in (report.knn.plain, report.linear.balanced, report.counts.r2_log, *report.counts.mae_per_kind):
        assert estimate.low < estimate.value < estimate.high


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize(("labelled", "counted"), [(True, True), (True, False), (False, True), (False, False)])
def test_what_the_set_allows_is_measured_and_survives_json(labelled, counted, quick):
    data = squares(labelled, counted)
    probe = HeldOutInfoNCE(data.images[data.test])
    report = probe_report(MODEL, STATE, data, probe, quick=quick)
    best = "count R2" if counted else "balanced kNN accuracy" if labelled else "-InfoNCE"
    assert report.headline == headline(data) == best
    assert (report.counts is not None) == counted
    assert (report.knn is not None) == (labelled and not (quick and counted))
    assert (report.linear is not None) == (len(report.few_shot) == 2) == (labelled and not quick)
    expected = {"count R2": report.counts and report.counts.r2_log, "-InfoNCE": None}.get(
        best, report.knn and report.knn.balanced
    )
    assert report.quality_estimate == expected
    assert report.quality == (-report.infonce if expected is None else expected.value)
    assert np.isfinite(list(report.numbers().values())).all()
    assert ProbeReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report


def test_raw_pixels_and_the_untrained_encoder_are_the_references():
    data = squares()
    probe = HeldOutInfoNCE(data.images[data.test])
    raw = probe_report(MODEL, STATE, data, probe, raw=True)
    pixels, train, test = raw_pixels(data.images), ~data.test, data.test
    assert raw.raw
    assert raw.knn.plain.value == knn_accuracy(pixels[train], data.labels[train], pixels[test], data.labels[test], k=5)
    counts = pixels[train], data.counts[train], pixels[test], data.counts[test]
    both = count_regression(*counts).r2_log, score_counts(knn_log_counts(*counts[:3]), counts[3]).r2_log
    assert (raw.counts.r2_log.value, raw.knn_counts.r2_log.value) == pytest.approx(both)
    assert raw.quality == pytest.approx(max(both))
    untrained = untrained_report(MODEL, data, probe, seed=5)
    assert untrained == probe_report(MODEL, STATE, data, probe, seed=5)
    assert not untrained.raw
    assert untrained.infonce != raw.infonce
    assert probe_report(MODEL, STATE, data, probe, raw=True) == raw
    assert ProbeReport.from_dict(json.loads(json.dumps(raw.to_dict()))) == raw


def test_wide_raw_pixels_are_reduced_for_the_linear_probes_only():
    data = squares(counted=False)
    wide = replace(data, images=np.repeat(np.repeat(data.images, 2, 1), 2, 2))
    report = probe_report(MODEL, STATE, wide, HeldOutInfoNCE(wide.images[wide.test]), raw=True)
    small = probe_report(MODEL, STATE, data, HeldOutInfoNCE(data.images[data.test]), raw=True)
    assert report.knn == small.knn
    assert report.linear.plain.value == pytest.approx(small.linear.plain.value, abs=0.15)


def test_intervals_resample_groups_where_the_test_images_come_from_several():
    data = squares(groups=8)
    probe = HeldOutInfoNCE(data.images[data.test])
    several = probe_report(MODEL, STATE, data, probe, quick=True)
    assert (several.unit, several.units) == ("group", 8)
    # Two groups in the test set are too few.
    two = replace(data, test=data.test & (data.group < 2))
    assert probe_report(MODEL, STATE, two, probe, quick=True).unit == "image"


def test_one_thread_is_used_and_given_back():
    data = squares(counted=False)
    seen = []

    class Watched(HeldOutInfoNCE):
        def features(self, model, state):
            seen.append(torch.get_num_threads())
            return super().features(model, state)

    torch.set_num_threads(2)
    try:
        probe_report(MODEL, STATE, data, Watched(data.images[data.test]), quick=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert seen == [1]


@pytest.mark.parametrize("test", [np.zeros(160, bool), np.ones(160, bool)])
def test_a_set_without_both_parts_is_refused(test):
    data = squares()
    with pytest.raises(InputError, match=r"squares: has .* expected at least 1 and 2"):
        probe_report(MODEL, STATE, replace(data, test=test), HeldOutInfoNCE(data.images[:8]))
