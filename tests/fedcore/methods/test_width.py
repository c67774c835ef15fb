import numpy as np
import pytest
import torch
from safetensors.torch import save

from fedcore.blocks import slice_weights, whole_weights
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods import METHODS, FedAvg, Method, Server
from fedcore.methods.width import width_count
from fedcore.model import Model, build_model
from fedcore.objectives.heads import apply_head
from fedcore.probes import HeldOutInfoNCE
from fedcore.probes.features import to_tensor
from fedcore.samples import Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

WIDTH_SCALED = ("ist", "heterofl", "federated-dropout", "fjord", "fedrolex")
RECIPE = LocalRecipe(batch_size=16, precision="fp32")


def stripes(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    period, angle, phase, sharp = (
        rng.uniform(low, high, (n, 1, 1)) for low, high in ((0.2, 2.2), (0, np.pi), (0, 6.28), (0.3, 4))
    )
    wave = np.tanh(sharp * np.sin(period * (x * np.cos(angle) + y * np.sin(angle)) + phase)) / np.tanh(sharp)
    return np.clip(128 + 40 * wave + 25 * rng.normal(size=wave.shape), 0, 255).astype(np.uint8)[..., None]


def tiny(objective: str = "simclr", encoder: str = "convnet") -> Model:
    return build_model((1, 16, 16), encoder, objective, {"widths": (8, 16, 24)}, {"hidden": 32, "outputs": 12})


def federation(method: Method, sizes=(40, 24, 12), objective="simclr", seed=2, recipe=RECIPE) -> FederatedTraining:
    images = np.split(stripes(sum(sizes), 0), np.cumsum(sizes)[:-1])
    engine = InProcessEngine([Samples(to_tensor(part)) for part in images], recipe)
    names = [f"node-{k}" for k in range(len(sizes))]
    probe = HeldOutInfoNCE(stripes(96, 1))
    return FederatedTraining(tiny(objective), engine, names, probe, None, method=method, seed=seed)


def blocks_of(method: Method, model: Model, shares: list[float], round_index: int = 0, seed: int = 0):
    state = model.init_state(torch.Generator().manual_seed(0))
    server = Server(model, state, None, tuple("abcdefgh"[: len(shares)]), (10,) * len(shares), seed, round_index)
    return method.blocks(server, shares, np.random.default_rng([seed, round_index]))


@pytest.mark.parametrize(
    ("rate", "neurons", "count"),
    [(0.5, 8, 4), (0.5, 9, 5), (0.0625, 24, 2), (0.01, 8, 1), (1.0, 7, 7), (0.1, 30, 3), (0.7, 10, 7), (1 / 3, 24, 8)],
)
def test_a_rate_stands_for_its_ceiling(rate, neurons, count):
    assert width_count(rate, neurons) == count


@pytest.mark.parametrize("name", WIDTH_SCALED)
def test_narrow_networks_see_only_what_they_train_and_whole_outputs(name):
    model = tiny("byol")
    blocks = blocks_of(METHODS[name](), model, [0.5, 0.0, 0.25, 0.02])
    assert blocks[1] is None
    for block in (blocks[0], blocks[2], blocks[3]):
        for layer in model.neuron_map.layers:
            held = block.trained[layer.name].numpy()
            assert held.dtype == np.int64
            assert (np.diff(held) > 0).all()
            assert held.min(initial=0) >= 0
            assert held.max() < layer.neurons
            assert len(held) >= 1
            assert len(block.context[layer.name]) == 0
            if layer.always_visible:
                assert len(held) == layer.neurons
    sizes = [len(blocks[k].trained["conv3"]) for k in (0, 2, 3)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[1] > sizes[2]


@pytest.mark.parametrize("objective", ["simclr", "byol"])
@pytest.mark.parametrize("name", [*WIDTH_SCALED, "exclusive"])
def test_one_whole_machine_is_fedavg_bit_for_bit(name, objective):
    # FjORD only where it has nothing to draw.
    method = METHODS[name](widths=(1.0,)) if name == "fjord" else METHODS[name]()
    ours, plain = federation(method, objective=objective), federation(FedAvg(), objective=objective)
    for _ in range(2):
        a, b = ours.play([1.0, 0.0, 0.0], 2), plain.play([1.0, 0.0, 0.0], 2)
        assert a.losses[0] == b.losses[0]
    assert all(torch.equal(value, plain.state[key]) for key, value in ours.state.items())
    if objective == "byol":
        assert all(torch.equal(value, plain.target[key]) for key, value in ours.target.items())


@pytest.mark.parametrize("name", ["federated-dropout", "fjord", "exclusive", "heterofl", "fedrolex"])
def test_whole_machines_are_fedavg_weighted_by_samples_or_by_count(name):
    method = METHODS[name](widths=(1.0,)) if name == "fjord" else METHODS[name]()
    ours, plain = federation(method), federation(FedAvg())
    losses = [t.play([1.0] * 3, 2).losses for t in (ours, plain)]
    np.testing.assert_array_equal(*losses)
    same = all(torch.equal(value, plain.state[key]) for key, value in ours.state.items())
    assert same == (name not in ("heterofl", "fedrolex"))
    # With as many samples on every machine the plain mean is FedAvg too.
    ours, plain = federation(method, (16, 16, 16)), federation(FedAvg(), (16, 16, 16))
    for training in (ours, plain):
        training.play([1.0] * 3, 2)
    for key, value in ours.state.items():
        torch.testing.assert_close(value, plain.state[key], rtol=0, atol=1e-7)


def test_count_averaging_is_the_plain_mean_over_holders():
    training = federation(METHODS["heterofl"]())
    start = {key: value.clone() for key, value in training.state.items()}
    shares = [1.0, 0.5, 0.25]
    blocks = training.plan(shares)
    tasks = [training.method.task(training.server, k, block, 2) for k, block in enumerate(blocks)]
    results = training.method.run(training.server, training.engine, tasks)
    training.play(shares, 2)
    for p in training.model.neuron_map.parameters:
        total, count = np.zeros(p.shape), np.zeros(p.shape)
        for block, result in zip(blocks, results, strict=True):
            rows = len(block.trained[p.rows])
            where = (slice(rows),) if p.cols is None else (slice(rows), slice(len(block.trained[p.cols])))
            total[where] += result.trained[p.name].numpy().astype(float)
            count[where] += 1
        assert count.max() == 3  # the first neurons belong to everyone, whatever their samples
        np.testing.assert_allclose(training.state[p.name].numpy(), total / count, rtol=1e-6, atol=1e-7)
        assert not torch.equal(start[p.name], training.state[p.name])


def copies(model: Model, narrow: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A whole network of pairs of like neurons, j and j + n / 2: what one of each pair computes, both do, once the sums
    over what a neuron reads are halved."""
    state = {}
    for p in model.neuron_map.parameters:
        w = narrow[p.name]
        if not model.neuron_map.layer(p.rows).always_visible:
            w = torch.cat([w, w])
        state[p.name] = w if p.cols is None else torch.cat([w, w], dim=1) / 2
    return state


@pytest.mark.parametrize("encoder", ["convnet", "mlp"])
@pytest.mark.parametrize(("name", "scaler"), [(name, scaler) for name in WIDTH_SCALED for scaler in (True, False)])
def test_the_scaler_makes_training_and_full_network_agree_in_scale(name, scaler, encoder):
    model, small = tiny(encoder=encoder), build_model(
        (1, 16, 16), encoder, "simclr", {"widths": (4, 8, 12)}, {"hidden": 16, "outputs": 12}
    )  # fmt: skip
    state = copies(model, small.init_state(torch.Generator().manual_seed(3)))
    # Halves of every layer that hold one neuron of every pair: prefixes and windows do; random groups are made to.
    block = blocks_of(METHODS[name](scaler=scaler), model, [0.5], round_index=3 if name == "fedrolex" else 0)[0]
    for layer in model.neuron_map.layers:
        if not layer.always_visible:
            n, held = layer.neurons, block.trained[layer.name]
            assert len(held) == n // 2
            if name in ("ist", "federated-dropout"):
                side = torch.randint(2, (n // 2,), generator=torch.Generator().manual_seed(n))
                block.trained[layer.name] = (torch.arange(n // 2) + n // 2 * side).sort().values
            else:
                assert sorted((held % (n // 2)).tolist()) == list(range(n // 2))
    x = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(1))

    def projection(weights):
        features = model.encoder.features(weights, x)
        return features, apply_head(weights, "projector", features)

    _, whole = projection(whole_weights(state))
    features, narrow = projection(slice_weights(state, model.neuron_map, block))
    # Norms make everything before the last sum indifferent to scale; that sum over half of the columns is half of it.
    torch.testing.assert_close(narrow.detach(), whole if scaler else whole / 2, rtol=0, atol=0.02)
    assert whole.abs().max() > 0.5
    assert features.shape == (6, 12)


@pytest.mark.parametrize("name", [*WIDTH_SCALED, "exclusive"])
def test_it_learns(name):
    shares = [1.0, 1.0, 0.5] if name == "exclusive" else [1.0, 0.6, 0.5]
    training = federation(METHODS[name](), (48, 48, 48), recipe=LocalRecipe(16, 6e-3, precision="fp32"))
    reports = [training.play(shares, 8) for _ in range(7)]
    assert all(not report.refused for report in reports)
    assert np.mean([report.infonce for report in reports[-2:]]) < training.untrained - 0.1


@pytest.mark.parametrize("name", WIDTH_SCALED)
def test_costs_are_those_of_the_bytes_that_move(name):
    training = federation(METHODS[name]())
    model, shares = training.model, [0.5, 0.25, 0.2]
    header = len(save({"": torch.zeros(0)}))
    for k, block in enumerate(training.plan(shares)):
        weights = slice_weights(training.state, model.neuron_map, block)
        assert weights.frozen == {}
        numbers = sum(value.numel() for value in weights.trained.values())
        sent = len(save({key: value.detach().contiguous() for key, value in weights.trained.items()}))
        cost = training.method.cost(training.server, k, block, 2, RECIPE)
        assert cost.upload_bytes == cost.download_bytes == 4 * numbers
        assert 0 < sent - cost.upload_bytes < header + 100 * len(weights.trained)


@pytest.mark.parametrize("name", WIDTH_SCALED)
def test_less_than_a_neuron_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"machine b: share 1e-06 is below one neuron of the widest layer; expected 0, which"):
        blocks_of(METHODS[name](), tiny(), [1.0, 1e-6])
