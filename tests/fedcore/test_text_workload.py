import pickle

import numpy as np
import pytest
import torch

from fedcore.data import grammar
from fedcore.data.dataset import Dataset
from fedcore.engines.inprocess import train_task
from fedcore.reference import bare_scenario
from fedcore.text_workload import PreparedText, is_text, vocabulary_of
from fedcore.workload import build_training, model_for, prepare_data, workload_costs
from scenarios.errors import InputError
from scenarios.schema import Workload

torch.set_num_threads(1)

GPT = {
    "data": "grammar",
    "encoder": "gpt",
    "objective": "next-token",
    "encoder_options": {"dim": 24, "depth": 1, "heads": 3},
    "window": 16,
    "precision": "fp32",
}


def prepared(machines: int = 3, images: int = 16, seed: int = 0, **options) -> PreparedText:
    data = prepare_data(bare_scenario(machines, Workload(**(GPT | options)), images=images), seed=seed)
    assert isinstance(data, PreparedText)
    return data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"data": "soil-micrographs"},
            "workload.encoder is 'gpt', which reads text, but workload.data is 'soil-micrographs', which is images; expected "
            "'grammar', a .txt file or a folder of .txt files",
        ),
        ({"objective": "simclr"}, "encoder gpt reads tokens but objective simclr trains on images; .*: next-token"),
        (
            {"encoder": "convnet", "objective": "simclr", "encoder_options": {}},
            "workload.encoder is 'convnet', which reads images, but workload.data is 'grammar', which is text; expected one "
            "of soil-micrographs",
        ),
        ({"encoder": "vit", "data": "a.TXT"}, "'vit', which reads images, but workload.data is 'a.TXT', which is text"),
        (
            {"encoder": "convnet", "data": "soil-micrographs", "encoder_options": {}},
            "encoder convnet reads images but objective next-token trains on tokens",
        ),
        ({"encoder_options": {"dim": 10, "heads": 3}}, "does not build: dim is 10, expected a multiple of the 3 heads"),
        ({"encoder_options": {"widths": [3]}}, "does not build: .*widths"),
    ],
)
def test_what_does_not_go_together_is_told_in_one_sentence(options, message):
    with pytest.raises(InputError, match=message) as raised:
        model_for(Workload(**(GPT | options)), 1, "farm")
    assert str(raised.value).startswith("scenario farm: ")
    assert "\n" not in str(raised.value)


def test_data_of_the_wrong_kind_are_told_before_they_are_loaded():
    images = Dataset("mine", np.zeros((40, 8, 8, 1), np.uint8), np.zeros(40, np.int64), np.arange(40) % 4 == 0)
    scenario = bare_scenario(2, Workload(**GPT))
    with pytest.raises(InputError, match="which reads text, but images were given"):
        prepare_data(scenario, images)
    with pytest.raises(InputError, match=r"but workload.data is 'grammar', which is text"):
        prepare_data(bare_scenario(2, Workload(data="grammar")))
    with pytest.raises(InputError, match=r"workload.encoder is 'rnn', expected one of"):
        prepare_data(bare_scenario(2, Workload(encoder="rnn")))
    with pytest.raises(InputError, match=r"nowhere: does not exist; expected a .txt file"):
        prepare_data(bare_scenario(2, Workload(**(GPT | {"data": "nowhere"}))))
    assert [is_text(name) for name in ("grammar", "x.txt", "soil-micrographs", "folder")] == [True, True, False, False]
    assert vocabulary_of("grammar") == grammar.VOCABULARY
    assert vocabulary_of("folder") == vocabulary_of("x.txt") == 256


def test_every_machine_has_a_site_of_its_own_and_the_server_the_same_windows_for_every_fleet():
    data, other = prepared(seed=1), prepared(machines=8, images=20, seed=2)
    assert [c.shape for c in data.clients] == [(16, 17)] * 3
    assert [c.shape for c in other.clients] == [(20, 17)] * 8
    assert np.array_equal(data.held_out, other.held_out)
    again = prepared(seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(data.clients, again.clients, strict=True))
    assert not np.array_equal(data.clients[0], other.clients[0][:16])
    # Each machine's text is likelier under its own site than under the others.
    sources = grammar.site_sources(6, 0)
    big = prepared(images=300)
    for k, client in enumerate(big.clients):
        losses = [grammar.true_nats([source], client) for source in sources[:3]]
        assert losses[k] == min(losses)
    mean = np.mean([source.entropy for source in sources])
    assert data.floor == pytest.approx(mean, abs=0.2)
    assert mean < data.floor < data.probe().chance
    assert data.guard_images is None


def test_a_text_file_trains(tmp_path):
    (tmp_path / "book.txt").write_text("every good worm finds a root. " * 120)
    data = prepared(data=str(tmp_path / "book.txt"), seed=3)
    assert data.name == "book"
    assert data.floor is None
    assert min(len(c) for c in data.clients) >= 8
    scenario = bare_scenario(3, Workload(**(GPT | {"data": str(tmp_path / "book.txt"), "batch_size": 4})))
    training = build_training(scenario, data, None, seed=0)
    assert training.model.encoder.vocabulary == 256
    for _ in range(3):
        report = training.play([0.5, 1.0, 0.3], 4)
        assert report.refused == ()
    assert report.infonce < training.untrained - 0.5
    assert np.isnan(report.effective_rank)
    assert not report.collapsed


@pytest.mark.parametrize("context", [1.0, 0.0])
def test_half_shares_learn_the_grammar(context):
    scenario = bare_scenario(3, Workload(**GPT, batch_size=16, learning_rate=5e-3, context=context), images=200)
    data = prepare_data(scenario)
    training = build_training(scenario, data, None, seed=0)
    start = training.untrained
    assert start == pytest.approx(training.probe.chance, abs=0.1)
    for _ in range(12):
        report = training.play([0.5] * 3, 10)
    # 1.9 nats lie between chance and the true model.
    assert start - report.infonce > 0.6 * (start - data.floor)
    assert report.infonce > data.floor


def test_a_machines_result_depends_on_what_is_sent_alone():
    scenario = bare_scenario(2, Workload(**GPT, batch_size=4))
    training = build_training(scenario, prepare_data(scenario), None, seed=5)
    block = training.plan([0.5, 0.4])[1]
    assert block is not None
    task = training.method.task(training.server, 1, block, 3)
    samples, recipe = training.engine.samples[1], training.engine.recipe
    arguments = (training.method, training.model, training.state, None, task, samples, recipe)
    here, there = train_task(*arguments), train_task(*pickle.loads(pickle.dumps(arguments)))
    assert here.loss == there.loss
    assert all(torch.equal(here.trained[n], there.trained[n]) for n in here.trained)


def test_costs_follow_the_window_and_the_vocabulary():
    short, long = (workload_costs(Workload(**(GPT | {"window": w}))) for w in (16, 32))
    wide = workload_costs(Workload(**(GPT | {"data": "x.txt"})))
    assert long[-1, 0] > 2 * short[-1, 0]  # attention grows with the square
    assert long[-1, 1] == short[-1, 1] + 4 * 24 * 16  # positions
    assert wide[-1, 1] == short[-1, 1] + 4 * (256 - 32) * (24 + 24 + 1)
