import copy

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fedcore.blocks import freeze, slice_weights, whole_block
from fedcore.local import LocalRecipe, LocalTask
from fedcore.methods.base import Server
from fedcore.methods.split import Wire, bottom_of, train_halves
from fedcore.methods.splitfed import SplitFedV1
from fedcore.methods.splitnn import SplitNN
from fedcore.model import Model, build_model
from fedcore.samples import Batch, Samples
from scenarios.errors import InputError

torch.set_num_threads(1)

ENCODERS = {
    "mlp": {"widths": (12, 10, 8)},
    "convnet": {"widths": (6, 8, 8)},
    "resnet": {"widths": (6, 8), "blocks": (1, 1), "strides": (2, 1)},
    "convkan": {"widths": (4, 6), "strides": (2, 2)},
    "vit": {"dim": 8, "depth": 3, "heads": 2},
}
IMAGES = 6
RECIPE = LocalRecipe(batch_size=IMAGES, precision="fp32")


def model_of(encoder: str, objective: str = "simclr") -> Model:
    return build_model((1, 12, 12), encoder, objective, ENCODERS[encoder], {"hidden": 12, "outputs": 6})


def cut_weights(model: Model):
    state = model.init_state(torch.Generator().manual_seed(0))
    block = whole_block(model.neuron_map)
    target = model.target_of(state)
    aim = None if target is None else freeze(slice_weights(target, model.neuron_map, block))
    return slice_weights(state, model.neuron_map, block), aim


def batch() -> Batch:
    one, two = torch.randn(2, IMAGES, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    return Batch((one, two))


def server_of(model: Model) -> Server:
    state = model.init_state(torch.Generator().manual_seed(0))
    return Server(model, state, model.target_of(state), ("a",), (IMAGES,), 0, kept=[{}])


cuts = pytest.mark.parametrize(
    ("encoder", "cut"), [(name, cut) for name in sorted(ENCODERS) for cut in ((1, 2) if name in ("mlp", "vit") else (1,))]
)


@cuts
@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_only_the_wire_joins_the_halves_and_together_they_give_the_whole_gradient(encoder, cut, objective):
    model = model_of(encoder, objective)
    (whole, aim), (halves, _) = cut_weights(model), cut_weights(model)
    expected = model.objective.loss(model.encoder.features, whole, aim, batch())
    expected.backward()
    wire = Wire(model.encoder, cut, "fp32")
    loss = model.objective.loss(wire.features, halves, aim, batch())
    assert torch.equal(loss, expected)
    below = {p.name for p in model.encoder.prefix(cut).neuron_map.parameters}
    loss.backward()
    assert all((halves.trained[name].grad is None) == (name in below) for name in halves.trained)
    wire.backward()
    for name, weight in whole.trained.items():
        assert torch.equal(halves.trained[name].grad, weight.grad), name
    assert any(name not in below for name in whole.trained)


@cuts
@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_bytes_are_those_of_activations_gradients_and_the_bottoms_weights(encoder, cut, objective):
    model = model_of(encoder, objective)
    weights, aim = cut_weights(model)
    wire = Wire(model.encoder, cut, "fp32")
    up, down = [], []
    top = wire.top

    def spy(weights, activation):
        up.append(activation.nbytes)
        if activation.requires_grad:
            activation.register_hook(lambda grad: down.append(grad.nbytes))
        return top(weights, activation)

    wire.top = spy
    model.objective.loss(wire.features, weights, aim, batch()).backward()
    below = {p.name for p in model.encoder.prefix(cut).neuron_map.parameters}
    weight_bytes = sum(t.nbytes for name, t in weights.trained.items() if name in below)
    cost = SplitNN(cut=cut).cost(server_of(model), 0, whole_block(model.neuron_map), 5, RECIPE)
    assert cost.upload_bytes == 5 * sum(up) + weight_bytes
    assert cost.download_bytes == 5 * sum(down) + weight_bytes * (1 if aim is None else 2)
    assert cost.exchanges == 5


@cuts
def test_flops_of_machine_and_server_are_those_that_torch_counts(encoder, cut):
    model = model_of(encoder)
    weights, _ = cut_weights(model)
    wire = Wire(model.encoder, cut, "fp32")
    with FlopCounterMode(display=False) as machine, sdpa_kernel(SDPBackend.MATH):
        activation = wire.bottom(weights, torch.cat(batch().views))
        activation.backward(torch.ones_like(activation))
    cost = SplitNN(cut=cut).cost(server_of(model), 0, whole_block(model.neuron_map), 3, RECIPE)
    # A ConvKAN's scaling of its splines costs a little beside its products.
    assert cost.step_flops == pytest.approx(machine.get_total_flops(), rel=0.02)
    with FlopCounterMode(display=False) as both, sdpa_kernel(SDPBackend.MATH):
        model.objective.loss(wire.features, weights, None, batch()).backward()
        wire.backward()
    similarity = 3 * 2 * (2 * IMAGES) ** 2 * 6
    assert cost.step_flops + cost.server_flops / 3 == pytest.approx(both.get_total_flops() - similarity, rel=0.02)


def test_a_deeper_cut_costs_the_machine_more_memory_and_never_the_whole_models():
    model = model_of("vit")
    block = whole_block(model.neuron_map)
    costs = [SplitFedV1(cut=cut).cost(server_of(model), 0, block, 3, RECIPE) for cut in (1, 2)]
    whole = bottom_of(model, 3)
    assert costs[0].memory_bytes < costs[1].memory_bytes
    assert costs[0].step_flops < costs[1].step_flops
    assert costs[0].server_flops > costs[1].server_flops
    assert [p.name for p in whole.neuron_map.parameters] == [p.name for p in model.encoder.neuron_map.parameters]
    assert model.objective.heads.parameters


def test_a_single_step_resumed_twice_is_two_steps_bit_for_bit():
    model = model_of("convnet", "byol")
    state = model.init_state(torch.Generator().manual_seed(0))
    target = model.target_of(state)
    samples = Samples(torch.randint(0, 256, (9, 1, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(2)))
    recipe = LocalRecipe(batch_size=IMAGES, precision="fp32", moving_target=True)
    def run(start, target, steps, extra, generator):
        task = LocalTask(0, whole_block(model.neuron_map), steps, (0,), extra=extra)
        return train_halves(model, 1, start, target, task, samples, recipe, generator, resumable=True)

    together = run(state, target, 2, {}, torch.Generator().manual_seed(5))
    first = run(state, target, 1, {}, torch.Generator().manual_seed(5))
    kept = copy.deepcopy(first.extra)
    second = run(state | first.trained, first.extra["target"], 1, first.extra, torch.Generator().manual_seed(99))
    assert all(torch.equal(value, second.trained[name]) for name, value in together.trained.items())
    assert all(torch.equal(value, second.extra["target"][name]) for name, value in together.extra["target"].items())
    assert all(torch.equal(t, first.extra[kind][n]) for kind in ("draws",) for n, t in kept[kind].items())


@pytest.mark.parametrize(
    ("encoder", "cut", "told"),
    [("convnet", 0, "cut is 0, expected 1 to 2"), ("convnet", 3, "cut is 3, expected 1 to 2"), ("vit", -1, "cut is -1")],
)
def test_a_cut_outside_the_encoder_is_refused(encoder, cut, told):
    with pytest.raises(InputError, match=told):
        SplitFedV1(cut=cut).check(model_of(encoder), RECIPE)


def test_a_single_stage_and_labels_are_refused():
    one = build_model((1, 12, 12), "mlp", "simclr", {"widths": (6,)})
    with pytest.raises(InputError, match="single stage"):
        SplitNN().check(one, RECIPE)
    with pytest.raises(InputError, match="labels to the server"):
        SplitNN().check(build_model((1, 12, 12), "mlp", "supervised"), RECIPE)
    SplitNN().check(model_of("convnet"), RECIPE)
