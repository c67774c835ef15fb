import numpy as np
import pytest
import torch

from fedcore.allocation import allocate
from fedcore.blocks import slice_weights
from fedcore.context import CONTEXT_RULES
from fedcore.costs import cost_of_block, cost_of_share
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods import METHODS, FedAvg, IntraLayer
from fedcore.model import build_model
from fedcore.samples import Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

RECIPE = LocalRecipe(batch_size=8, precision="fp32")
MEASURING = sorted(name for name, rule in CONTEXT_RULES.items() if rule.measures)


def federation(method, workers=1, encoder="convnet", objective="simclr", seed=3) -> FederatedTraining:
    draw = torch.Generator().manual_seed(0)
    samples = [Samples(torch.randint(0, 256, (n, 1, 12, 12), generator=draw, dtype=torch.uint8)) for n in (12, 9, 16)]
    model = build_model((1, 12, 12), encoder, objective, {"widths": (6, 8, 10)}, {"hidden": 16, "outputs": 6})
    engine = InProcessEngine(samples, RECIPE, workers)
    return FederatedTraining(model, engine, "abc", lambda model, state: 1.0, None, method=method, seed=seed)


def test_the_random_rule_draws_what_allocate_draws():
    training = federation(IntraLayer(context=0.5, context_rule="random"))
    for block, expected in zip(
        training.plan([0.5, 0.3, 0.2]),
        allocate(training.model.neuron_map, [0.5, 0.3, 0.2], 0.5, "random", 0, np.random.default_rng([3, 1, 0])),
        strict=True,
    ):
        assert block.context_scale == block.means == block.scale == {}
        for name, index in expected.context.items():
            assert torch.equal(block.context[name], index)
            assert torch.equal(block.trained[name], expected.trained[name])


@pytest.mark.parametrize("rule", sorted(CONTEXT_RULES))
def test_rules_say_nothing_where_nothing_is_thinned(rule):
    one, other, plain = (federation(m) for m in (IntraLayer(context_rule=rule), IntraLayer(), FedAvg()))
    for training in (one, other):
        training.play([0.5, 0.3, 1.0], 2)
    assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())
    thin = federation(IntraLayer(context=0.5, context_rule=rule))
    for training in (thin, plain):
        training.play([1.0, 1.0, 1.0], 2)
    assert all(torch.equal(value, plain.state[name]) for name, value in thin.state.items())


@pytest.mark.parametrize("rule", ["nested", "compensated"])
def test_a_kept_context_shows_the_same_neurons_every_round(rule):
    training = federation(IntraLayer(context=0.5, context_rule=rule, rule="fixed"))
    first = training.plan([0.3, 0.3, 0.3])
    for _ in range(2):
        training.play([0.3, 0.3, 0.3], 1)
    for before, after in zip(first, training.plan([0.3, 0.3, 0.3]), strict=True):
        assert all(torch.equal(before.context[name], after.context[name]) for name in before.context)
    common = [set(block.visible("projector.hidden").tolist()) for block in first]
    assert len(common[0] & common[1] & common[2]) >= 4


@pytest.mark.parametrize("rule", MEASURING)
@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_measured_means_reach_the_server_and_come_back(rule, objective):
    training = federation(IntraLayer(context=0.5, context_rule=rule), objective=objective)
    shares = [0.5, 0.3, 0.25]
    assert training.plan(shares)[1].means == {}  # nothing is known before the first round
    training.play(shares, 2)
    means = training.server.memory["activations"]
    hidden = {layer.name for layer in training.model.neuron_map.layers if not layer.always_visible}
    assert set(means) == hidden
    assert all(torch.isfinite(value).all() and value.min() >= 0 < value.max() for value in means.values())
    block = training.plan(shares)[1]
    if CONTEXT_RULES[rule].correction == "constant":
        weights = slice_weights(training.state, training.model.neuron_map, block)
        assert all(torch.equal(block.means[name], means[name]) for name in hidden)
        assert all(value.abs().max() > 0 for value in weights.constant.values())
    else:
        assert block.means == {}
    report = training.play(shares, 2)
    assert report.refused == ()
    assert np.isfinite(report.losses).all()


def test_results_do_not_depend_on_the_number_of_workers():
    method = IntraLayer(context=0.5, context_rule="compensated", rule="importance")
    runs = []
    for workers in (1, 2):
        training = federation(method, workers)
        with training.engine:
            for _ in range(3):
                training.play([0.5, 0.3, 0.2], 2)
        runs.append(training.state)
    assert all(torch.equal(value, runs[1][name]) for name, value in runs[0].items())


@pytest.mark.parametrize("rule", sorted(CONTEXT_RULES))
def test_costs_count_the_constants_and_the_means_that_move(rule):
    training = federation(IntraLayer(context=0.5, context_rule=rule))
    shares = [0.4, 0.4, 0.4]
    training.play(shares, 1)
    block = training.plan(shares)[0]
    task = training.method.task(training.server, 0, block, 1)
    (result,) = training.method.run(training.server, training.engine, [task])
    plain = cost_of_block(training.model, block, 8)
    cost = training.method.cost(training.server, 0, block, 1, RECIPE)
    constants = slice_weights(training.state, training.model.neuron_map, block).constant
    up = sum(value.numel() for value in result.extra.get("activations", {}).values())
    down = sum(value.numel() for value in constants.values())
    assert cost.upload_bytes - plain.upload_bytes == 4 * up
    assert cost.download_bytes - plain.download_bytes == 4 * down
    assert (up > 0) == CONTEXT_RULES[rule].measures
    assert (down > 0) == (CONTEXT_RULES[rule].correction == "constant")
    by_share = cost_of_share(training.model, 0.4, 0.5, 8, rule)
    assert (by_share.upload_bytes, by_share.download_bytes) == (cost.upload_bytes, cost.download_bytes)


def test_importance_follows_the_merge():
    training = federation(IntraLayer(rule="importance"))
    assert "importance" not in training.server.memory
    before = {name: value.clone() for name, value in training.state.items()}
    blocks = training.plan([0.3, 0.0, 0.0])
    training.play([0.3, 0.0, 0.0], 2)
    moved = training.server.memory["importance"].moved["conv1"]
    rows = blocks[0].trained["conv1"].numpy()
    change = sum(
        (training.state[f"conv1.{n}"] - before[f"conv1.{n}"]).double().flatten(1 if n == "weight" else 0).square()
        .reshape(6, -1).sum(1)
        for n in ("weight", "gain", "bias")
    )  # fmt: skip
    np.testing.assert_allclose(moved[rows], change.sqrt().numpy()[rows])
    assert np.isnan(np.delete(moved, rows)).all()
    seen: set[int] = set(rows.tolist())
    for _ in range(2):  # those that were never trained come first
        seen |= set(training.plan([0.3, 0.0, 0.0])[0].trained["conv1"].tolist())
        training.play([0.3, 0.0, 0.0], 1)
    assert seen == set(range(6))


def test_what_cannot_be_measured_is_refused():
    model = build_model((1, 16, 16), "resnet", "simclr", {"widths": (6, 8, 8)}, {"hidden": 8, "outputs": 6})
    with pytest.raises(InputError, match=r"context_rule is 'compensated', which measures activations of encoder convnet or"):
        IntraLayer(context=0.5, context_rule="compensated").check(model, RECIPE)
    with pytest.raises(InputError, match="context_rule is 'important', which method fedprox cannot measure for"):
        METHODS["fedprox"](partial=True, context=0.5, context_rule="important")
    with pytest.raises(InputError, match="context_rule is 'nearest', expected one of compensated, "):
        IntraLayer(context_rule="nearest")


def test_a_share_below_one_neuron_is_refused_by_name():
    training = federation(IntraLayer())
    assert training.plan([0.5, 0.0, 0.5 / 16])[2] is not None  # the projector's 16 units are the widest layer
    with pytest.raises(InputError, match=r"machine b: share 0.01 is below one neuron .*; expected 0, .* 0.0312"):
        training.plan([0.5, 0.01, 0.5])
