import pickle

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fedcore.blocks import freeze, slice_weights
from fedcore.costs import cost_of_block
from fedcore.local import LocalRecipe, LocalTask
from fedcore.methods import FjORD, Server
from fedcore.methods.fjord import prefix
from fedcore.model import build_model
from fedcore.samples import Batch, Samples
from scenarios.errors import InputError

torch.set_num_threads(1)

RECIPE = LocalRecipe(batch_size=4, precision="fp32", weight_decay=0.0)


def model_of(objective="simclr"):
    return build_model(
        (1, 8, 8), "convnet", objective, {"widths": (10, 15), "strides": (1, 2)}, {"hidden": 20, "outputs": 6}
    )


def block_of(model, shares, method=None):
    state = model.init_state(torch.Generator().manual_seed(0))
    server = Server(model, state, None, tuple("abcd"[: len(shares)]), (9,) * len(shares), 0)
    return server, (method or FjORD()).blocks(server, shares, np.random.default_rng(0))


def test_a_machine_draws_from_the_widths_up_to_its_own():
    model = model_of()
    _, blocks = block_of(model, [1.0, 0.6, 0.5, 0.1])
    widths = [[n["conv1"] for n in FjORD().levels(model.neuron_map, block)] for block in blocks]
    assert widths == [[2, 4, 6, 8, 10], [2, 4, 6], [2, 4, 5], [1]]
    assert all(n["projector.out"] == 6 for n in FjORD().levels(model.neuron_map, blocks[0]))


def test_a_prefix_is_the_narrow_network_and_gradients_reach_nothing_else():
    model = model_of()
    server, (block, narrow) = block_of(model, [1.0, 0.4])
    weights = slice_weights(server.state, model.neuron_map, block)
    counts = {layer.name: len(narrow.trained[layer.name]) for layer in model.neuron_map.layers}
    seen = prefix(weights, model.neuron_map, counts, scaler=False)
    expected = slice_weights(server.state, model.neuron_map, narrow)
    views = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(1)).unbind()
    losses = [model.objective.loss(model.encoder.features, w, None, Batch(views)) for w in (seen, expected)]
    assert losses[0].item() == losses[1].item()
    for loss in losses:
        loss.backward()
    for p in model.neuron_map.parameters:
        grad = weights.trained[p.name].grad
        rows = slice(counts[p.rows])
        inside = grad[rows] if p.cols is None else grad[rows, : counts[p.cols]]
        torch.testing.assert_close(inside, expected.trained[p.name].grad)
        assert grad.count_nonzero() == inside.count_nonzero() > 0


def test_training_depends_on_its_arguments_alone():
    model = model_of("byol")
    server, (block,) = block_of(model, [0.8])
    samples = Samples(torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    target = model.target_of(server.state)
    tasks = [LocalTask(0, block, 6, seed) for seed in ((1, 2), (1, 2), (1, 3))]
    one, again, other = (
        pickle.loads(pickle.dumps(FjORD())).train(
            model, server.state, target, task, samples, RECIPE, torch.Generator().manual_seed(1)
        )
        for task in tasks
    )
    assert all(torch.equal(value, again.trained[key]) for key, value in one.trained.items())
    # Only the widths go by the task's seed here.
    assert not torch.equal(one.trained["conv1.weight"], other.trained["conv1.weight"])


def test_every_batch_draws_its_width_uniformly(monkeypatch):
    import fedcore.methods.fjord as module

    drawn = []
    original = module.prefix
    monkeypatch.setattr(module, "prefix", lambda *a: drawn.append(a[2]["conv1"]) or original(*a))
    model = model_of()
    server, (block,) = block_of(model, [1.0])
    samples = Samples(torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)))
    task = LocalTask(0, block, 200, (1, 2, 3))
    result = FjORD().train(model, server.state, None, task, samples, RECIPE, torch.Generator().manual_seed(1))
    counts = np.bincount(drawn, minlength=11)
    assert counts.nonzero()[0].tolist() == [2, 4, 6, 8]
    assert len(drawn) + 40 == pytest.approx(200, abs=24)  # the rest went through the whole width
    assert np.abs(counts[[2, 4, 6, 8]] - 40).max() < 24
    assert result.trained["conv2.weight"].shape == (15, 10, 3, 3)


def nested_merge(state, model, blocks, results, weights, widths):
    """As the paper says it: widest first, every narrower width overwrites what it covers."""
    out = {key: value.clone() for key, value in state.items()}
    for p in model.neuron_map.parameters:
        for width in sorted(widths, reverse=True):
            able = [k for k, share in enumerate(widths) if share >= width]
            rows = len(blocks[widths.index(width)].trained[p.rows])
            cols = None if p.cols is None else len(blocks[widths.index(width)].trained[p.cols])
            cut = (slice(rows),) if cols is None else (slice(rows), slice(cols))
            total = sum(results[k].trained[p.name][cut].double() * weights[k] for k in able)
            out[p.name][cut] = (total / sum(weights[k] for k in able)).float()
    return out


def test_the_merge_is_the_papers_nested_one():
    from fedcore.merge import Update

    model, widths = model_of(), [1.0, 0.6, 0.2]
    server, blocks = block_of(model, widths)
    sizes = (9, 6, 4)
    tasks = [LocalTask(k, block, 3, (0, k)) for k, block in enumerate(blocks)]
    draw = torch.Generator().manual_seed(5)
    samples = [Samples(torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=draw)) for n in sizes]
    results = [
        FjORD().train(model, server.state, None, task, s, RECIPE, torch.Generator().manual_seed(k))
        for k, (task, s) in enumerate(zip(tasks, samples, strict=True))
    ]
    updates = [
        Update("m", t.block, r.trained, float(r.samples * r.steps)) for t, r in zip(tasks, results, strict=True)
    ]
    expected = nested_merge(server.state, model, blocks, results, [27.0, 18.0, 12.0], widths)
    before = server.state
    FjORD().merge(server, tasks, results, updates)
    for key, value in expected.items():
        torch.testing.assert_close(server.state[key], value, rtol=0, atol=1e-7)
        assert not torch.equal(before[key], value)


def counted_by_width(model, server, block, batch, aim=None):
    """FLOPs of a step that torch counts, for every width of the block."""
    views = torch.randn(2, batch, 1, 8, 8, generator=torch.Generator().manual_seed(1)).unbind()
    counted = []
    for counts in FjORD().levels(model.neuron_map, block):
        seen = prefix(slice_weights(server.state, model.neuron_map, block), model.neuron_map, counts, False)
        with FlopCounterMode(display=False) as counter:
            model.objective.loss(model.encoder.features, seen, aim, Batch(views)).backward()
        counted.append(counter.get_total_flops())
    return counted


def test_a_step_costs_the_mean_over_the_widths():
    model, batch = model_of(), 4
    server, (block, *_) = block_of(model, [0.6, 0.4, 0.2])
    cost = FjORD().cost(server, 0, block, 10, RECIPE)
    similarities = 3 * 2 * (2 * batch) ** 2 * 6
    counted = [flops - similarities for flops in counted_by_width(model, server, block, batch)]
    assert len(counted) == 3
    assert cost.step_flops == pytest.approx(np.mean(counted), rel=0.02)
    widest = cost_of_block(model, block, batch)
    assert (cost.upload_bytes, cost.download_bytes) == (widest.upload_bytes, widest.download_bytes)
    assert cost.memory_bytes == widest.memory_bytes


def test_a_momentum_target_is_paid_for_in_full_width():
    model, batch = model_of("byol"), 4
    server, (block, *_) = block_of(model, [0.6, 0.4, 0.2])
    cost = FjORD().cost(server, 0, block, 10, RECIPE)
    aim = freeze(slice_weights(model.target_of(server.state), model.neuron_map, block))
    counted = counted_by_width(model, server, block, batch, aim)
    assert cost.step_flops == pytest.approx(np.mean(counted), rel=0.02)


def test_the_scaler_follows_the_width_of_the_batch():
    model = model_of()
    server, (block, narrow) = block_of(model, [0.6, 0.2], FjORD(scaler=True))
    weights = slice_weights(server.state, model.neuron_map, block)
    counts = {layer.name: len(narrow.trained[layer.name]) for layer in model.neuron_map.layers}
    assert weights.context_scale["conv1"].tolist() == pytest.approx([10 / 6] * 6)
    assert prefix(weights, model.neuron_map, counts, True).context_scale["conv1"].tolist() == [5.0, 5.0]
    assert prefix(weights, model.neuron_map, counts, False).context_scale == {}


@pytest.mark.parametrize("widths", [(), (0.5, 0.2), (0.0, 1.0), (0.5, 1.5), (0.5, 0.5)])
def test_widths_that_do_not_ascend_are_refused(widths):
    with pytest.raises(InputError, match="fjord: widths are"):
        FjORD(widths=widths)
