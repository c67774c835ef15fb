import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedcore.compare import CompareOptions, compare, key_of, specs_of, write
from fedcore.comparison.entries import ENTRIES, STUDY, Entry, chosen, compared, entry_of
from fedcore.comparison.measures import measure_of
from fedcore.comparison.runs import RunSpec, play
from fedcore.data.dataset import Dataset
from fedcore.methods import METHODS
from fedcore.samples import Samples, set_aside
from fedcore.workload import PreparedData
from scenarios import parse
from scenarios.errors import InputError

torch.set_num_threads(1)

SMALL = {
    "name": "small",
    "fleet": {
        "groups": [
            {
                "name": name, "count": 1, "images": 16,
                "device": {"throughput_gflops": speed, "memory_mb": 64, "active_power_w": 4, "idle_power_w": 1},
                "link": {"uplink_mbps": 2, "downlink_mbps": 8},
            }
            for name, speed in (("fast", 8), ("slow", 2))
        ]
    },
    "workload": {
        "data": "soil-micrographs", "image_px": 16, "encoder": "mlp", "encoder_options": {"widths": [8, 6]},
        "objective_options": {"hidden": 8, "outputs": 4}, "batch_size": 4, "precision": "fp32",
    },
}  # fmt: skip


TEXT = SMALL["workload"] | {
    "data": "grammar", "window": 6, "encoder": "gpt", "encoder_options": {"dim": 8, "depth": 1, "heads": 2},
    "objective": "next-token", "objective_options": {},
}  # fmt: skip
del TEXT["image_px"]


def spec(entry: str, **changes) -> RunSpec:
    scenario = parse(SMALL, "small").model_dump(mode="json")
    return replace(RunSpec(entry, scenario, None, 0, rounds=4, steps=2, every=2, longest=1.5), **changes)


def test_the_weakest_is_who_can_bear_least_and_of_those_the_slowest():
    assert play(spec("fedavg"))["weakest"] == 1
    scenario = parse(SMALL, "small").model_dump(mode="json")
    for group, speed in zip(scenario["fleet"]["groups"], (2.0, 2.1), strict=True):  # both can bear whole models
        group["device"]["throughput_gflops"] = speed
    assert play(spec("fedavg", scenario=scenario))["weakest"] == 0


def test_fedavg_spends_exactly_its_own_budgets():
    record = play(spec("fedavg"))
    last = record["checkpoints"][-1]
    assert last["round"] == 4
    for name, budget in record["budgets"].items():
        assert last[name] == pytest.approx(budget)
    assert [point["round"] for point in record["checkpoints"]] == [0, 2, 4]
    assert record["report"]["headline"] == "count R2"
    assert all(m > 0 for m in record["memory_bytes"])
    json.dumps(record)


def test_the_same_spec_gives_the_same_record():
    first, second = (play(spec("subnet-capacity", rounds=2)) for _ in range(2))
    for record in (first, second):
        del record["seconds"]
    assert first == second


def test_a_cheap_method_may_play_longer_but_not_for_ever():
    record = play(spec("thin-1/4"))
    assert record["checkpoints"][-1]["round"] == 6  # 1.5 times the reference's machine-steps
    assert record["checkpoints"][-1]["bytes"] < record["budgets"]["bytes"]
    lone = play(spec("fastest-alone"))
    assert lone["shares"] == [1.0, 0.0]
    assert lone["checkpoints"][-1]["round"] > 6
    assert lone["memory_bytes"][1] == 0


def with_memory(fast_mb: float, slow_mb: float, slow_gflops: float = 2) -> dict:
    content = json.loads(json.dumps(SMALL))
    for group, memory_mb, gflops in zip(content["fleet"]["groups"], (fast_mb, slow_mb), (8, slow_gflops), strict=True):
        group["device"] |= {"memory_mb": memory_mb, "throughput_gflops": gflops}
    return parse(content, "small").model_dump(mode="json")


def needs_mb(entry: str) -> float:
    return max(play(spec(entry))["memory_bytes"]) / 1e6


def test_whose_memory_does_not_hold_a_block_rests():
    between = with_memory(64, (needs_mb("ist") + needs_mb("fedavg")) / 2, slow_gflops=8)
    record = play(spec("fedavg", scenario=between))
    assert record["lacking"] == ["slow"]
    assert record["shares"] == [1.0, 1.0]
    assert record["memory_bytes"][1] == 0
    # Its budgets are those of the machines that can: alone, the fast one spends them exactly.
    assert record["checkpoints"][-1]["round"] == 4
    assert record["checkpoints"][-1]["bytes"] == pytest.approx(record["budgets"]["bytes"])
    assert record["budgets"]["bytes"] == pytest.approx(play(spec("fedavg"))["budgets"]["bytes"] / 2)
    # As fast as the other, it is given less for its memory alone, and holds that.
    narrow = play(spec("heterofl", scenario=between))
    assert narrow["lacking"] == []
    assert narrow["shares"][0] == 1.0
    assert narrow["shares"][1] < 1.0
    assert all(m > 0 for m in narrow["memory_bytes"])


def test_who_holds_not_even_the_narrowest_model_is_told_and_the_longest_run_is_of_the_others():
    record = play(spec("heterofl", scenario=with_memory(64, 0.001)))
    assert record["shares"] == [1.0, 0.0]
    assert record["lacking"] == ["slow"]
    assert record["checkpoints"][-1]["round"] <= 1.5 * 4


def test_a_method_whose_blocks_nobody_holds_is_refused_and_not_the_others():
    most = with_memory(1.02 * needs_mb("fedavg"), 0.001)  # a momentum target beside the model needs more than that
    assert "refused" not in play(spec("fedavg", scenario=most))
    assert play(spec("fedbyol", scenario=most))["refused"] == "fedbyol: no machine's memory holds the block that it is given"


def test_the_fastest_alone_is_one_that_holds_the_whole_model():
    whole_mb = max(play(spec("fedavg"))["memory_bytes"]) / 1e6
    assert play(spec("fastest-alone", scenario=with_memory(whole_mb / 2, 64)))["shares"] == [0.0, 1.0]


def test_a_fleet_without_memory_for_the_whole_model_is_refused():
    with pytest.raises(InputError, match=r"scenario small: no machine has the 0\.\d MB that training the whole model takes"):
        play(spec("ist", scenario=with_memory(0.001, 0.001)))


def test_what_cannot_train_says_why_instead_of_stopping_the_others():
    scenario = parse({**SMALL, "workload": {**SMALL["workload"], "encoder_options": {"widths": [8]}}}, "s")
    record = play(spec("splitnn", scenario=scenario.model_dump(mode="json")))
    assert "cut" in record["refused"]


def test_every_entry_builds_and_plays_its_method():
    for name, entry in (ENTRIES | STUDY).items():
        method = entry.build(rounds=12, stages=3)
        assert type(method).name == entry.method, name
    assert entry_of("lw-fedssl").build(12, 3).rounds_per_stage == 4
    assert {entry_of(name).method for name in compared()} >= set(METHODS)


@pytest.mark.parametrize(
    "name", ["lw-fedssl-aligned", "lw-fedssl-calibrated", "scaffold-1-sgd", "l-dawa-published", "fedavg-dino", "fedavg-vicreg"]
)
def test_variants_play(name):
    record = play(spec(name))
    assert record.get("refused") is None
    assert record["merged"] > 0
    # Only calibration has the server train, on a tenth of everybody's samples.
    assert (record["checkpoints"][-1]["server_flops"] > 0) == (name == "lw-fedssl-calibrated")


def test_personal_models_are_measured_at_home_too(tmp_path):
    groups = [{**group, "images": 40} for group in SMALL["fleet"]["groups"]]
    scenario = parse({**SMALL, "fleet": {"groups": groups}}, "small")
    record = play(spec("pfedme-sgd", scenario=scenario.model_dump(mode="json")))
    assert len(record["personal"]) == len(record["at_home"]) == 2
    assert np.isfinite(record["at_home"]).all()
    assert any(own != shared for own, shared in record["at_home"])
    options = CompareOptions(methods=("pfedme-sgd",), seeds=1, output=tmp_path)
    text = write(options, {"fedavg": [play(spec("fedavg"))], "pfedme-sgd": [record]})
    assert "On test images like a machine's own alone they reach " in text


def test_a_machines_own_test_images_are_of_its_groups_or_else_of_its_classes():
    n = 80
    images = np.random.default_rng(0).integers(0, 256, (n, 16, 16, 1), dtype=np.uint8)
    groups, labels = np.arange(n) % 2, np.arange(n) // 20
    test = np.arange(n) % 4 < 2  # of both groups
    for group, own_kind in ((groups, groups), (np.zeros(n, dtype=np.int64), labels)):
        dataset = Dataset("set", images, group, test, labels, classes=tuple("abcd"))
        clients = (np.flatnonzero(~test & (own_kind == 1)), np.flatnonzero(~test))
        data = PreparedData(dataset, clients, images[test])
        measure = measure_of(data, data.probe(), 0)
        home = measure.of_machine(0)
        assert set(own_kind[np.flatnonzero(test)]) > {1}
        kept = home.data.dataset
        kind = kept.group if own_kind is groups else kept.labels
        assert set(kind[kept.test].tolist()) == {1}
        assert kept.test.sum() == (test & (own_kind == 1)).sum()
        assert (~kept.test).sum() == (~test).sum()
        assert measure.of_machine(1) is None  # everything is its own


def test_what_is_set_aside_for_the_server_is_nobodys():
    held = [Samples(torch.arange(12).reshape(12, 1, 1, 1)), Samples(torch.arange(100, 125).reshape(25, 1, 1, 1))]
    left, given = set_aside(held)
    assert given.x.flatten().tolist() == [0, 10, 100, 110, 120]
    assert [len(own) for own in left] == [10, 22]
    assert sorted(torch.cat([given.x, *(own.x for own in left)]).flatten().tolist()) == [*range(12), *range(100, 125)]


def test_a_method_without_an_entry_of_its_own_is_compared_too(monkeypatch):
    monkeypatch.setitem(METHODS, "newcomer", METHODS["fedavg"])
    assert "newcomer" in chosen(("all",))
    assert chosen(("newcomer",)) == ["fedavg", "newcomer"]
    assert entry_of("newcomer").shares_of(np.array([1, 0.5]), np.array([1.0, 2.0])) == [1, 1]


@pytest.mark.parametrize(
    ("name", "shares"),
    [("fedavg", [1, 1, 1]), ("heterofl", [1, 0.5, 0.25]), ("fastest-alone", [0, 1, 0]), ("cooperative-1/2", [0.5] * 3)],
)
def test_shares_of_entries(name, shares):
    assert entry_of(name).shares_of(np.array([1, 0.5, 0.25]), np.array([1.0, 3.0, 2.0])) == shares


def test_the_reference_is_always_played_and_unknown_names_are_refused():
    assert chosen(("ist", "ist")) == ["fedavg", "ist"]
    assert chosen(("all",))[0] == "fedavg"
    assert set(chosen(("all",))) == set(compared())
    assert set(chosen(("study",))) == set(STUDY) | {"fedavg"}
    with pytest.raises(InputError, match=r"'fedsgd' is not known, expected all, study, or some of fedavg"):
        chosen(("fedsgd",))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": 0}, "--seeds is 0"),
        ({"rounds": 1}, "--rounds is 1, expected at least 2"),
        ({"longest": 0.5}, "--longest is 0.5"),
        ({"data": Path("/no/such")}, "/no/such, which does not exist"),
        ({"scenario": "nowhere"}, "nowhere"),
        ({"split": "alphabet"}, "alphabet"),
        ({"methods": ("magic",)}, "'magic' is not known"),
        ({"methods": ("ist",), "plot": ("ist", "fedprox")}, "--plot has 'fedprox', which is not played"),
        ({"plot": tuple(compared()[1:12])}, "--plot has 11 methods, expected at most 9"),
    ],
)
def test_bad_options_are_told_in_one_sentence(changes, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        specs_of(CompareOptions(**changes))
    assert "\n" not in str(error.value)


def test_a_comparison_is_kept_and_written(tmp_path, monkeypatch):
    monkeypatch.setenv("INTRAFED_CACHE", str(tmp_path / "cache"))
    scenario = tmp_path / "small.yaml"
    scenario.write_text(json.dumps(SMALL))
    options = CompareOptions(
        scenario=str(scenario), methods=("heterofl", "ist"), seeds=1, rounds=4, steps=1, every=1, workers=1,
        output=tmp_path / "out",
    )  # fmt: skip
    runs = compare(options)
    kept = sorted((tmp_path / "cache").rglob("*.json"))
    assert len(kept) == 3
    stamps = [path.stat().st_mtime_ns for path in kept]
    assert compare(options) == runs
    assert [path.stat().st_mtime_ns for path in kept] == stamps
    text = write(options, runs)
    assert (tmp_path / "out" / "table.md").read_text() == text
    assert text.count("\n| ") >= 3 + 1
    assert "| method | count R2 | " in text
    assert (tmp_path / "out" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert len((tmp_path / "out" / "curves.csv").read_text().splitlines()) > 9
    assert key_of(spec("ist")) != key_of(spec("ist", seed=1)) != key_of(spec("heterofl", seed=1))


def test_refused_blocks_and_collapse_are_told_and_a_reference_that_learns_nothing_is_refused(tmp_path):
    wild = parse(SMALL | {"workload": SMALL["workload"] | {"learning_rate": 1e4}}, "wild").model_dump(mode="json")
    record = play(spec("fedavg", scenario=wild))
    assert record["merged"] == 0
    assert record["turned_down"][0] == 8  # two machines, four rounds
    assert "absurd" in record["turned_down"][1]
    options = CompareOptions(scenario="two-servers", seeds=1, output=tmp_path / "out")
    with pytest.raises(InputError, match=r"fedavg, whose costs are everyone's budgets, learned nothing: machine .* absurd"):
        write(options, {"fedavg": [record]})
    sound = play(spec("fedavg"))
    assert sound["turned_down"] == [0]
    bad = sound | {"turned_down": [3, "machine fast: no"], "unprotected": [2, "nobody is left out"], "collapsed": True}
    text = write(options, {"fedavg": [sound], "ist": [bad]})
    assert "ist: 3 blocks were refused, such as: machine fast: no\n" in text
    assert "ist: in 2 rounds too few blocks came back: nobody is left out\n" in text
    assert "ist: the encoder has collapsed in 1 of 1 runs" in text
    assert "fedavg: " not in text
    del sound["merged"], sound["turned_down"], sound["unprotected"], sound["collapsed"]  # as an older version kept it
    assert "refused" not in write(options, {"fedavg": [sound]})


def test_a_robust_rule_on_blocks_that_overlap_too_little_is_not_played(monkeypatch):
    monkeypatch.setitem(ENTRIES, "halves", Entry("intralayer", {"merge_rule": "median"}, 1 / 2))
    groups = [group | {"count": 2} for group in SMALL["fleet"]["groups"]]
    four = parse(SMALL | {"fleet": {"groups": groups}}, "four").model_dump(mode="json")
    assert "leaves out nobody where 2 machines hold a neuron" in play(spec("halves", scenario=four))["refused"]
    assert play(spec("fedavg-median", scenario=four, rounds=2))["unprotected"] == [0]


def test_text_is_compared_by_the_tokens_foretold(tmp_path, monkeypatch):
    monkeypatch.setenv("INTRAFED_CACHE", str(tmp_path / "cache"))
    scenario, book = tmp_path / "small.yaml", tmp_path / "book.txt"
    scenario.write_text(json.dumps(SMALL | {"workload": TEXT}))
    book.write_text("the spores lie in the soil and wait for rain. " * 60)
    options = CompareOptions(
        scenario=str(scenario), methods=("heterofl", "cooperative-1/2", "fedbyol", "splitnn"), seeds=1, rounds=3, steps=2,
        every=1, workers=1, output=tmp_path / "out",
    )  # fmt: skip
    runs = compare(options)
    record = runs["fedavg"][0]
    assert record["signal"] == "nats"
    assert record["report"]["floor"] > 0
    first, last = record["checkpoints"][0], record["checkpoints"][-1]
    assert last["nats"] < first["nats"]
    assert 0 <= last["quality"] <= 1
    text = write(options, runs)
    assert "| method | next-token accuracy at equal time |" in text
    assert "| method | next-token accuracy | nats per token | perplexity |" in text
    assert "Target: nats per token " in text
    assert f"the text's own source: {record['report']['floor']:.3f}" in text
    assert "fedbyol was not played: " in text  # it needs views of images
    assert (tmp_path / "out" / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert "nats" in (tmp_path / "out" / "curves.csv").read_text().splitlines()[0].split(",")

    own = replace(options, data=book, methods=("fedavg",))
    [mine] = specs_of(own)
    assert mine.scenario["workload"]["data"] == str(book)
    key = key_of(mine)
    told = write(own, compare(own))
    assert "source" not in told
    book.write_text("and the rain comes. " * 200)
    assert key_of(mine) != key
    with pytest.raises(InputError, match="split is 'iid', but text is dealt by site"):
        compare(replace(options, split="iid", methods=("fedavg",)))
    with pytest.raises(InputError, match=r"does not exist; expected a \.txt file or a folder of them"):
        specs_of(replace(options, data=tmp_path / "nowhere.txt"))
