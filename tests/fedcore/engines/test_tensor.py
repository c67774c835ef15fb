import os
import threading

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fedcore.allocation import allocate
from fedcore.blocks import slice_weights, whole_block
from fedcore.costs import cost_of_block
from fedcore.engines.collectives import Collectives
from fedcore.engines.exchanges import record
from fedcore.engines.ranks import run_ranks
from fedcore.engines.sharded import ShardedWeights, disjoint_blocks
from fedcore.engines.tensor import run_tensor_parallel, tensor_parallel_cost, train_rank, train_tensor_parallel
from fedcore.local import LocalRecipe, LocalTask, train_block
from fedcore.model import Model, build_model
from fedcore.samples import Samples
from scenarios.errors import InputError

torch.set_num_threads(1)

RECIPE = LocalRecipe(batch_size=10, precision="fp32")
ENCODERS = {
    "convkan": {"widths": (5, 7), "strides": (2, 2)},
    "convnet": {"widths": (6, 8, 7), "strides": (2, 1, 2)},
    "mlp": {"widths": (13, 9)},
    "resnet": {"widths": (6, 8, 7), "strides": (2, 1, 2)},
    "vit": {"patch": 4, "dim": 12, "depth": 2, "heads": 3, "units": 10},
}


class Mailboxes:
    """What the threads of one group share."""

    def __init__(self, ranks: int) -> None:
        self.barrier = threading.Barrier(ranks)
        self.boxes: list[list[torch.Tensor]] = [[] for _ in range(ranks)]


class ThreadCollectives(Collectives):
    """Ranks as threads of this process; messages are handed over and counted as over gloo."""

    def __init__(self, rank: int, ranks: int, shared: Mailboxes) -> None:
        super().__init__(rank, ranks)
        self.shared = shared

    def exchange(self, outgoing, shapes):
        if self.ranks == 1:
            return list(outgoing)
        self.shared.boxes[self.rank] = [tensor.detach().clone() for tensor in outgoing]
        self.shared.barrier.wait(60)
        incoming = [outgoing[r] if r == self.rank else self.shared.boxes[r][self.rank] for r in range(self.ranks)]
        self.shared.barrier.wait(60)
        for other, tensor in enumerate(incoming):
            if other != self.rank:
                assert tuple(tensor.shape) == tuple(shapes[other])
                self.received_bytes += 4 * tensor.numel()
                self.sent_bytes += 4 * outgoing[other].numel()
        self.exchanges += 1
        return incoming


class Deaf(ThreadCollectives):
    """Rank 1 forgets to add what the others send it: a missing reduction."""

    def reduce_scatter(self, parts):
        total = super().reduce_scatter(parts)
        return parts[1].clone() if self.rank == 1 else total


def on_threads(work, ranks: int, kind=ThreadCollectives) -> list:
    shared = Mailboxes(ranks)
    results: list = [None] * ranks
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(kind(rank, ranks, shared))
        except BaseException as error:
            errors.append(error)
            shared.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)), errors[0])
    return results


def setting(encoder: str, objective: str, px: int = 12, **options):
    options = options or {"hidden": 11, "outputs": 6}
    model = build_model((1, px, px), encoder, objective, ENCODERS[encoder], options)
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (14, 1, px, px), generator=generator, dtype=torch.uint8)
    return model, model.init_state(generator), Samples(images)


def alone(model: Model, state, samples, steps, recipe, seed=5):
    """One machine, one process."""
    block = whole_block(model.neuron_map)
    result = train_block(
        model, state, model.target_of(state), LocalTask(0, block, steps, (seed,)), samples, recipe,
        torch.Generator().manual_seed(seed),
    )  # fmt: skip
    return result.trained | result.statistics


def together(model: Model, state, samples, steps, recipe, blocks, seed=5, kind=ThreadCollectives):
    def work(group):
        weights = train_rank(group, model, state, model.target_of(state), samples, steps, recipe, blocks, seed)
        return weights.gather_state()

    return on_threads(work, len(blocks), kind)


def distance(one, two) -> float:
    """Largest over the parameters of |one - two| / |one|."""
    assert set(one) == set(two)
    return max(float((one[n] - two[n]).norm() / one[n].norm().clamp_min(1e-3)) for n in one)


def gradients(before, after):
    """Of one step of SGD at rate 1 without momentum or decay."""
    return {name: before[name] - after[name] for name in before}


@pytest.mark.parametrize(("shares", "objective"), [((0.7, 0.3), "simclr"), ((0.5, 0.2, 0.3), "byol")])
def test_processes_give_what_one_machine_gives_and_count_what_they_send(shares, objective):
    model, state, samples = setting("convnet", objective)
    before = {name: tensor.clone() for name, tensor in state.items()}
    run = run_tensor_parallel(model, state, samples, 3, RECIPE, shares, seed=5)
    expected = alone(model, state, samples, 3, RECIPE)
    assert distance(expected, run.state) < 1e-5
    assert distance(state, run.state) > 1e-3
    assert all(torch.equal(before[name], state[name]) for name in state)
    costs = tensor_parallel_cost(model, shares, RECIPE.batch_size, steps=3)
    assert [(t.sent_bytes, t.received_bytes, t.exchanges) for t in run.traffic] == [
        (c.upload_bytes, c.download_bytes, c.exchanges) for c in costs
    ]


@pytest.mark.parametrize("objective", ["simclr", "byol"])
@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_three_steps_on_unequal_ranks_equal_one_machine(encoder, objective):
    model, state, samples = setting(encoder, objective)
    recipe = LocalRecipe(batch_size=10, precision="fp32", moving_target=True)
    blocks = disjoint_blocks(model.neuron_map, (0.5, 0.3, 0.2))
    expected = alone(model, state, samples, 3, recipe)
    for trained in together(model, state, samples, 3, recipe, blocks):
        assert distance(expected, trained) < 1e-5


@pytest.mark.parametrize("objective", ["simclr", "byol"])
@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_the_gradient_of_every_layer_is_that_of_one_machine(encoder, objective):
    model, state, samples = setting(encoder, objective)
    recipe = LocalRecipe(10, 1.0, 0.0, "sgd", precision="fp32")
    expected = gradients(state, alone(model, state, samples, 1, recipe))
    trained = together(model, state, samples, 1, recipe, disjoint_blocks(model.neuron_map, (0.25, 0.75)))[0]
    for name, gradient in gradients(state, trained).items():
        # A step of rate 1 leaves the gradient with the rounding of the weights.
        error = float((gradient - expected[name]).norm())
        assert error <= 1e-5 * float(expected[name].norm()) + 3e-7 * float(state[name].norm()), name


def test_a_missing_reduction_on_one_rank_shows_in_the_gradients_of_the_layers_behind_it():
    model, state, samples = setting("convnet", "simclr")
    recipe = LocalRecipe(10, 1.0, 0.0, "sgd", precision="fp32")
    expected = gradients(state, alone(model, state, samples, 1, recipe))
    blocks = disjoint_blocks(model.neuron_map, (0.25, 0.75))
    wrong = gradients(state, together(model, state, samples, 1, recipe, blocks, kind=Deaf)[0])
    for name in expected:
        assert float((wrong[name] - expected[name]).norm()) > 1e-2 * float(expected[name].norm()), name


@pytest.mark.parametrize(("encoder", "objective"), [("convnet", "byol"), ("vit", "simclr"), ("resnet", "simclr")])
def test_neurons_may_lie_anywhere(encoder, objective):
    model, state, samples = setting(encoder, objective)
    # Random disjoint sets; the second rank takes what the first one leaves.
    blocks = allocate(model.neuron_map, (0.6, 0.001), 0.0, "random", 0, np.random.default_rng(1))
    for layer in model.neuron_map.layers:
        rest = np.setdiff1d(np.arange(layer.neurons), blocks[0].trained[layer.name].numpy())
        blocks[1].trained[layer.name] = torch.from_numpy(rest)
    for trained in together(model, state, samples, 2, RECIPE, blocks):
        assert distance(alone(model, state, samples, 2, RECIPE), trained) < 1e-5


@pytest.mark.parametrize(
    ("encoder", "objective", "options"),
    [
        ("convnet", "vicreg", {"hidden": 11, "outputs": 6}),
        ("convnet", "dino", {"hidden": 9, "bottleneck": 5, "prototypes": 14, "local_crops": 2, "local_px": 8}),
        ("vit", "dino", {"hidden": 9, "bottleneck": 5, "prototypes": 14, "freeze_last_steps": 1}),
    ],
)
def test_other_objectives_their_statistics_and_traffic(encoder, objective, options):
    model, state, samples = setting(encoder, objective, **options)
    blocks = disjoint_blocks(model.neuron_map, (0.6, 0.4))

    def work(group):
        weights = train_rank(group, model, state, model.target_of(state), samples, 2, RECIPE, blocks, 5)
        counted = group.sent_bytes, group.received_bytes, group.exchanges
        return weights.gather_state(), counted

    expected = alone(model, state, samples, 2, RECIPE)
    costs = tensor_parallel_cost(model, (0.6, 0.4), RECIPE.batch_size, steps=2)
    for (trained, counted), cost in zip(on_threads(work, 2), costs, strict=True):
        assert distance(expected, trained) < 1e-5
        assert counted == (cost.upload_bytes, cost.download_bytes, cost.exchanges)


def test_text():
    model = build_model((23, 8), "gpt", "next-token", {"dim": 12, "depth": 1, "heads": 3})
    state = model.init_state(torch.Generator().manual_seed(0))
    tokens = torch.randint(0, 23, (12, 9), generator=torch.Generator().manual_seed(1))
    blocks = disjoint_blocks(model.neuron_map, (0.7, 0.3))
    trained = together(model, state, Samples(tokens), 2, RECIPE, blocks)[1]
    assert distance(alone(model, state, Samples(tokens), 2, RECIPE), trained) < 1e-5


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_bytes_are_those_that_the_ranks_exchange(encoder, objective):
    model, state, samples = setting(encoder, objective)
    shares = (0.5, 0.2, 0.3)
    blocks = disjoint_blocks(model.neuron_map, shares)

    def work(group):
        train_rank(group, model, state, model.target_of(state), samples, 2, RECIPE, blocks, 5)
        return group.sent_bytes, group.received_bytes, group.exchanges

    costs = tensor_parallel_cost(model, shares, RECIPE.batch_size, steps=2)
    assert on_threads(work, 3) == [(c.upload_bytes, c.download_bytes, c.exchanges) for c in costs]


def test_bytes_by_hand():
    model, _, _ = setting("mlp", "simclr")
    own = {"fc1": 10, "fc2": 7, "projector.hidden": 8, "projector.out": 5}  # of 13, 9, 11, 6
    shares = (0.75, 0.25)
    assert {n: len(i) for n, i in disjoint_blocks(model.neuron_map, shares)[0].trained.items()} == own
    views = 2 * 10
    # Outputs of four layers over all views; gains and biases of three norms once.
    mine = views * (10 + 7 + 8 + 5) + 2 * (10 + 7 + 8)
    others = views * (3 + 2 + 3 + 1) + 2 * (3 + 2 + 3)
    # Forward: own out, others' in. Backward: gradients of others' out, of the own in.
    first, second = tensor_parallel_cost(model, shares, 10)
    assert first.upload_bytes == first.download_bytes == second.upload_bytes == 4 * (mine + others)
    assert first.exchanges == 2 * 5


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_flops_are_those_that_torch_counts_on_a_rank(encoder):
    model, state, samples = setting(encoder, "byol")
    shares = (0.7, 0.3)
    blocks = disjoint_blocks(model.neuron_map, shares)
    counted = {}
    lock = threading.Lock()

    def work(group):
        read = record(model, state)
        weights = ShardedWeights.cut(state, model.neuron_map, blocks, group, read.read)
        aim = ShardedWeights.cut(model.target_of(state), model.neuron_map, blocks, group, read.target_read, trained=False)
        batch = model.objective.draw(samples, torch.arange(10), RECIPE.augmentation, torch.Generator().manual_seed(1))
        with FlopCounterMode(display=False) as counter:
            model.objective.loss(model.encoder.features, weights, aim, batch).backward()
        with lock:
            counted[group.rank] = counter.get_total_flops()

    with sdpa_kernel(SDPBackend.MATH):  # for all threads: two that set it themselves may leave it set
        on_threads(work, 2)
    costs = tensor_parallel_cost(model, shares, 10)
    for rank, cost in enumerate(costs):
        assert cost.step_flops == pytest.approx(counted[rank], rel=0.02)
    if encoder != "vit":  # whose attention scores every rank computes
        whole = cost_of_block(model, whole_block(model.neuron_map), 10)
        assert sum(c.step_flops for c in costs) == pytest.approx(whole.step_flops, rel=1e-9)
        assert all(c.memory_bytes < whole.memory_bytes for c in costs)


@pytest.mark.parametrize(("encoder", "objective"), [("convnet", "byol"), ("mlp", "simclr"), ("resnet", "simclr")])
def test_memory_of_a_rank(encoder, objective, live_tensors):
    model, state, samples = setting(encoder, objective)
    shares = (0.7, 0.3)
    blocks, target = disjoint_blocks(model.neuron_map, shares), model.target_of(state)
    samples.images(torch.arange(1))  # what a machine keeps of its images is not working memory

    def work(group):
        with live_tensors([*state.values(), *(target or {}).values(), samples.x]) as live:
            train_rank(group, model, state, target, samples, 2, RECIPE, blocks, 5)
        return live.peak

    for peak, cost in zip(on_threads(work, 2), tensor_parallel_cost(model, shares, 10), strict=True):
        assert cost.memory_bytes == pytest.approx(peak, rel=0.1)


def test_blocks_are_disjoint_whole_and_proportional():
    model, _, _ = setting("convnet", "simclr")
    for shares in ((1.0,), (0.9, 0.1), (0.01, 0.98, 0.01), (0.5, 0.2, 0.3)):
        blocks = disjoint_blocks(model.neuron_map, shares)
        for layer in model.neuron_map.layers:
            rows = [block.trained[layer.name] for block in blocks]
            assert torch.equal(torch.cat(rows), torch.arange(layer.neurons))
            for share, index in zip(shares, rows, strict=True):
                assert len(index) >= 1
                assert len(index) == 1 or abs(len(index) - share * layer.neurons) < len(shares)


def test_one_rank_exchanges_nothing():
    model, state, samples = setting("mlp", "simclr")
    trained = together(model, state, samples, 2, RECIPE, disjoint_blocks(model.neuron_map, (1.0,)))[0]
    assert distance(alone(model, state, samples, 2, RECIPE), trained) == 0
    cost = tensor_parallel_cost(model, (1.0,), 10)[0]
    assert (cost.upload_bytes, cost.download_bytes, cost.exchanges) == (0, 0, 0)
    assert cost.step_flops == cost_of_block(model, whole_block(model.neuron_map), 10).step_flops


def test_refusals():
    model, state, samples = setting("mlp", "simclr")
    with pytest.raises(InputError, match="precision is 'auto'"):
        train_tensor_parallel(model, state, samples, 1, LocalRecipe(), (0.5, 0.5), 0)
    for shares in ((0.5, 0.4), (1.0, 0.0), ()):
        with pytest.raises(InputError, match="adding up to 1"):
            train_tensor_parallel(model, state, samples, 1, RECIPE, shares, 0)
    with pytest.raises(InputError, match=r"projector\.out has 6 neurons"):
        train_tensor_parallel(model, state, samples, 1, RECIPE, [1 / 7] * 7, 0)
    blocks = disjoint_blocks(model.neuron_map, (0.5, 0.5))
    blocks[1].trained["fc1"] = blocks[0].trained["fc1"]
    with pytest.raises(ValueError, match="fc1"):
        ShardedWeights.cut(state, model.neuron_map, blocks, Collectives(0, 2), ())


def test_a_rank_that_fails_is_told_with_its_traceback():
    model, state, _ = setting("mlp", "simclr")
    wrong = Samples(torch.zeros(4, 1, 5, 5, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match=r"rank \d of 2 failed[\s\S]*Traceback[\s\S]*shapes cannot be multiplied"):
        train_tensor_parallel(model, state, wrong, 1, RECIPE, (0.5, 0.5), 0)


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (3,)


def test_a_rank_that_dies_is_told():
    with pytest.raises(RuntimeError, match=r"rank 0 \(exit code 3\).* of 1 died"):
        run_ranks(print, 1, (Deadly(),))


def test_sliced_and_sharded_weights_agree_on_vectors():
    model, state, _ = setting("vit", "simclr")
    blocks = disjoint_blocks(model.neuron_map, (0.4, 0.6))
    plan = record(model)
    whole = slice_weights(state, model.neuron_map, whole_block(model.neuron_map))

    def work(group):
        weights = ShardedWeights.cut(state, model.neuron_map, blocks, group, plan.read)
        return {name: weights.vector(name).detach() for name in plan.read}, group.exchanges

    for vectors, exchanges in on_threads(work, 2):
        assert exchanges == 1
        for name, value in vectors.items():
            assert torch.equal(value, whole.vector(name).detach())
