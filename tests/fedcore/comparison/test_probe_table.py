"""The table of all probes: columns by what the set's labels allow, means over seeds of figures and of their intervals."""

from dataclasses import asdict, replace

from fedcore.comparison.probe_table import figures, probe_table
from fedcore.probes.accuracy import Accuracy
from fedcore.probes.counts import CountEstimates
from fedcore.probes.fewshot import FewShot
from fedcore.probes.intervals import Estimate
from fedcore.probes.report import ProbeReport

BARE = ProbeReport("a set", "-InfoNCE", False, False, 9, 9, "image", 9, 4.0, 5.0, 1.0, -1.0, 3.0, 0.5)


def around(value: float) -> Estimate:
    return Estimate(value, value - 0.125, value + 0.25)


def accuracy(value: float) -> Accuracy:
    return Accuracy(around(0.75), around(value))


def labelled(linear: float) -> ProbeReport:
    shots = (FewShot(0.01, 9, 5, around(0.5), around(0.25)), FewShot(0.1, 90, 5, around(0.5), around(0.375)))
    return replace(BARE, knn=accuracy(0.5), linear=accuracy(linear), few_shot=shots)


def test_classes_give_knn_linear_and_few_shot() -> None:
    told = figures(labelled(0.625), ())
    assert {name: e.value for name, e in told.items()} == {
        "balanced kNN accuracy": 0.5,
        "balanced linear accuracy": 0.625,
        "balanced linear accuracy, 1% of labels": 0.25,
        "balanced linear accuracy, 10% of labels": 0.375,
    }


def test_counts_give_every_kind_its_own_figures() -> None:
    pairs = [(around(x), around(x + 0.5)) for x in (0.25, 3.0, -1.0)]
    told = figures(replace(BARE, counts=CountEstimates(around(0.5), *pairs)), ("rods", "cocci"))
    assert list(told) == ["count R2", "rods: R2", "rods: MAE", "rods: bias", "cocci: R2", "cocci: MAE", "cocci: bias"]
    assert (told["cocci: R2"], told["rods: MAE"], told["cocci: bias"]) == (around(0.75), around(3.0), around(-0.5))


def test_the_table_has_means_over_seeds() -> None:
    def runs(*linear: float) -> list[dict]:
        return [{"report": asdict(labelled(value)), "kinds": []} for value in linear]

    table = probe_table({"fedavg": runs(0.5, 0.75), "ist": runs(0.25)})
    assert table[0][:3] == ["method", "balanced kNN accuracy", "balanced linear accuracy"]
    assert [line[2] for line in table[1:]] == ["0.625 (0.500 .. 0.875)", "0.250 (0.125 .. 0.500)"]


def test_a_set_without_labels_has_no_columns() -> None:
    assert probe_table({"fedavg": [{"report": asdict(BARE), "kinds": []}]}) == [["method"], ["fedavg"]]
