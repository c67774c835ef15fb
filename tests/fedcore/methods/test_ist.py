import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedcore.costs import cost_of_block
from fedcore.methods import IST, Server
from fedcore.methods.ist import apportion
from fedcore.model import build_model
from scenarios.errors import InputError


def mlp(d: int = 24, d_out: int = 10):
    return build_model((1, 6, 6), "mlp", "simclr", {"widths": (d,)}, {"hidden": d, "outputs": d_out})


def blocks_of(model, shares, seed=0):
    state = model.init_state(torch.Generator().manual_seed(0))
    server = Server(model, state, None, tuple("abcdefgh"[: len(shares)]), (10,) * len(shares), 0)
    return IST().blocks(server, shares, np.random.default_rng(seed))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=7), st.integers(7, 60))
def test_groups_are_in_proportion_and_never_more_than_all(rates, neurons):
    counts = apportion(dict(enumerate(rates)), neurons)
    quota = np.array(rates) / max(1.0, sum(rates)) * neurons
    got = np.array([counts[k] for k in range(len(rates))])
    assert got.min() >= 1
    assert got.sum() <= neurons
    assert got.sum() == max(len(rates), int(quota.sum() + 0.5 + 1e-9))
    if quota.min() >= 1:
        assert np.abs(got - quota).max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("rates", "neurons", "counts"),
    [
        ([1.0, 1.0], 10, [5, 5]),
        ([0.25] * 4, 10, [3, 3, 2, 2]),  # 2.5 each: what is left over goes to the first of equals
        ([0.5, 0.2], 10, [5, 2]),
        ([1.0, 0.5, 0.5], 8, [4, 2, 2]),
        ([1.0, 0.001], 4, [3, 1]),
    ],
)
def test_apportionment_by_hand(rates, neurons, counts):
    assert list(apportion(dict(enumerate(rates)), neurons).values()) == counts


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.just(0.0), st.floats(0.03, 1.0)), min_size=1, max_size=6), st.integers(0, 99))
def test_every_hidden_weight_has_one_owner_at_most(shares, seed):
    model = mlp()
    owners = {p.name: np.zeros(p.shape, int) for p in model.neuron_map.parameters}
    for block in blocks_of(model, shares, seed):
        if block is None:
            continue
        for p in model.neuron_map.parameters:
            rows = block.trained[p.rows].numpy()
            index = (rows,) if p.cols is None else np.ix_(rows, block.trained[p.cols].numpy())
            owners[p.name][index] += 1
    assert max(count.max() for count in owners.values()) <= 1  # the projector's output has neither gain nor bias
    if sum(shares) >= 1:
        assert owners["fc1.weight"].min() == 1


def test_the_cut_is_drawn_anew():
    model = mlp()
    one, two, again = (blocks_of(model, [0.5, 0.5], seed) for seed in (1, 2, 1))
    assert torch.equal(one[0].trained["fc1"], again[0].trained["fc1"])
    assert not torch.equal(one[0].trained["fc1"], two[0].trained["fc1"])
    assert not torch.equal(one[0].trained["fc1"], one[0].trained["projector.hidden"])


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_bytes_per_worker_are_the_papers(n):
    d, d_out, d_in = 24, 10, 36
    model = mlp(d, d_out)
    for block in blocks_of(model, [1.0] * n):
        cost = cost_of_block(model, block, 8)
        weights = 2 * (d_in * d / n + d * d / n**2 + d * d_out / n)
        norms = 2 * (4 * d / n)  # gain and bias of two layers, up and down; the paper has none
        assert (cost.upload_bytes + cost.download_bytes) / 4 == weights + norms


def test_more_machines_than_neurons_are_refused():
    with pytest.raises(InputError, match="ist: 4 machines take part but layer fc1 has 3 neurons"):
        blocks_of(mlp(d=3), [0.1] * 4)
