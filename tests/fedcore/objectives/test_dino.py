import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fedcore.allocation import allocate
from fedcore.augment import Augmentation
from fedcore.blocks import Block, Weights, freeze, slice_weights, whole_block, whole_weights
from fedcore.costs import cost_of_block, cost_of_share
from fedcore.encoders import ConvNet
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe, LocalTask, train_block
from fedcore.methods import FedAvg, IntraLayer
from fedcore.model import Model, build_model
from fedcore.neurons import State
from fedcore.objectives import DINO, OBJECTIVES
from fedcore.objectives.dino import CENTRE, Teaching, cross_view_loss
from fedcore.probes import HeldOutInfoNCE
from fedcore.probes.features import to_tensor
from fedcore.samples import Batch, Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

HEAD = {"hidden": 11, "bottleneck": 5, "prototypes": 7}
RECIPE = LocalRecipe(batch_size=8, precision="fp32")


def model_of(encoder: str = "mlp", size: int = 8, **options) -> Model:
    widths = {"mlp": (12, 6), "convnet": (6, 8, 8)}[encoder]
    return build_model((1, size, size), encoder, "dino", {"widths": widths}, HEAD | options)


def start(model: Model) -> tuple[State, State]:
    """Weights and another model's weights as the teacher, biases and centre away from zero."""
    generator = torch.Generator().manual_seed(0)
    state, teacher = (model.init_state(generator) for _ in range(2))
    for part in (state, teacher):
        for name in part:
            if name.endswith("bias"):
                part[name] = 0.3 * torch.randn(part[name].shape, generator=generator)
    state[CENTRE] = 0.2 * torch.randn(state[CENTRE].shape, generator=generator)
    return state, {name: teacher[name] for name in model.target_parameters}


def sliced(model: Model, state: State, block: Block, step: int = 0) -> Weights:
    weights = slice_weights(state, model.neuron_map, block)
    weights.statistics = {CENTRE: state[CENTRE].clone()}
    weights.step = step
    return weights


def loss_of(model: Model, weights: Weights, teacher: Weights, batch: Batch) -> torch.Tensor:
    return model.objective.loss(model.encoder.features, weights, teacher, batch)


def images(n: int, size: int = 8, seed: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return Samples(torch.randint(0, 256, (n, 1, size, size), generator=generator, dtype=torch.uint8))


def head_by_hand(state: State, h: torch.Tensor) -> np.ndarray:
    """linear - GELU (- linear - GELU) - linear - length 1 - prototypes of length 1, in float64."""
    for i in (1, 2):
        if f"head.hidden{i}.weight" in state:
            h = F.gelu(F.linear(h, state[f"head.hidden{i}.weight"], state[f"head.hidden{i}.bias"]))
    z = F.linear(h, state["head.bottleneck.weight"], state["head.bottleneck.bias"]).double().numpy()
    w = state["head.prototypes.weight"].double().numpy()
    z, w = z / np.sqrt((z**2).sum(1, keepdims=True)), w / np.sqrt((w**2).sum(1, keepdims=True))
    return z @ w.T


@pytest.mark.parametrize(("layers", "crops"), [(3, 0), (2, 3)])
def test_the_loss_is_the_mean_over_pairs_of_different_views_by_hand(layers, crops):
    model = model_of(
        head_layers=layers, local_crops=crops, student_temperature=0.2, teacher_temperature_start=0.09,
        teacher_temperature=0.05, teacher_warmup_steps=4,
    )  # fmt: skip
    state, teacher = start(model)
    views = torch.randn(2 + crops, 6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    outputs = [
        [head_by_hand(part, model.encoder.features(whole_weights(part), view)) for view in views] for part in (state, teacher)
    ]
    student, raw = outputs[0], outputs[1][:2]
    centre = state[CENTRE].numpy()
    terms = []
    for t, aim in enumerate(raw):
        p = np.exp((aim - centre) / 0.07)  # half way through the warm-up
        p /= p.sum(1, keepdims=True)
        for s, output in enumerate(student):
            if s != t:
                q = np.exp(output / 0.2)
                q /= q.sum(1, keepdims=True)
                terms.append(-(p * np.log(q)).sum(1).mean())
    assert len(terms) == 2 * (1 + crops)
    weights = sliced(model, state, whole_block(model.neuron_map), step=2)
    loss = loss_of(model, weights, whole_weights(teacher), Batch(tuple(views)))
    assert float(loss.detach()) == pytest.approx(np.mean(terms), rel=1e-5)

    # The centre waits for the step, then moves by the mean raw output of both views, and nothing else stays behind.
    assert torch.equal(weights.statistics[CENTRE], state[CENTRE])
    model.objective.update_statistics(weights)
    moved = 0.9 * centre + 0.1 * np.concatenate(raw).mean(0)
    assert set(weights.statistics) == {CENTRE}
    np.testing.assert_allclose(weights.statistics[CENTRE].numpy(), moved, rtol=1e-4, atol=1e-6)


def test_a_perfect_student_pays_the_teachers_entropy():
    p = torch.softmax(torch.randn(1, 5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64), -1)
    same = p.expand(2, 5, 9)
    entropy = -(p * p.log()).sum(-1).mean()
    assert float(cross_view_loss(same.log(), same)) == pytest.approx(float(entropy))
    other = torch.softmax(torch.randn(2, 5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), -1)
    assert cross_view_loss(other.log(), same) > entropy


def test_the_teacher_warms_up_linearly():
    assert [Teaching(0.02, 0.06, 8).at(t) for t in (0, 2, 8, 99)] == pytest.approx([0.02, 0.03, 0.06, 0.06])
    assert Teaching(0.02, 0.06, 0).at(0) == 0.06


def test_local_training_tells_the_objective_the_step():
    # A teacher that only changes its temperature: a round that starts after the warm-up sees another loss.
    model = model_of(teacher_temperature_start=0.5, teacher_temperature=0.05, teacher_warmup_steps=10)
    state, teacher = start(model)
    task = LocalTask(0, whole_block(model.neuron_map), 1, (0,))
    losses = {}
    for before in (0, 5, 10, 30):
        generator = torch.Generator().manual_seed(3)
        result = train_block(model, state, teacher, replace(task, steps_before=before), images(9), RECIPE, generator)
        losses[before] = result.loss
    assert losses[10] == losses[30]
    assert len(set(losses.values())) == 3


def test_nothing_flows_into_the_teacher_or_the_centre():
    model = model_of(local_crops=1)
    state, teacher = start(model)
    block = whole_block(model.neuron_map)
    weights, aim = sliced(model, state, block), slice_weights(teacher, model.neuron_map, block)
    batch = Batch(tuple(torch.randn(3, 6, 1, 8, 8, generator=torch.Generator().manual_seed(1))))
    loss_of(model, weights, freeze(aim), batch).backward()
    assert all(t.grad is None for t in aim.trained.values())
    assert all(t.grad is not None and t.grad.abs().sum() > 0 for t in weights.trained.values())
    assert not any(t.requires_grad for t in weights.statistics.values())
    with pytest.raises(ValueError, match="momentum target"):
        model.objective.loss(model.encoder.features, weights, None, batch)


def test_the_last_layer_can_wait():
    model = model_of(freeze_last_steps=3)
    state, teacher = start(model)
    block = whole_block(model.neuron_map)
    batch = Batch(tuple(torch.randn(2, 6, 1, 8, 8, generator=torch.Generator().manual_seed(1))))
    gradients, losses = [], []
    for step in (2, 3):
        weights = sliced(model, state, block, step)
        loss = loss_of(model, weights, whole_weights(teacher), batch)
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append({name: t.grad for name, t in weights.trained.items()})
    assert losses[0] == losses[1]
    assert not gradients[0]["head.prototypes.weight"].any()
    assert gradients[1]["head.prototypes.weight"].any()
    for name in gradients[0].keys() - {"head.prototypes.weight"}:
        assert torch.equal(gradients[0][name], gradients[1][name])
        assert gradients[0][name].any()


@pytest.mark.parametrize(("encoder", "options"), [("mlp", {"local_crops": 1}), ("convnet", {"local_crops": 2, "local_px": 8})])
def test_partial_blocks_with_full_context_see_the_whole_loss(encoder, options):
    model = model_of(encoder, 16, **options)
    state, teacher = start(model)
    batch = model.objective.draw(images(7, 16), torch.arange(7), Augmentation(), torch.Generator().manual_seed(2))
    whole = sliced(model, state, whole_block(model.neuron_map))
    expected = loss_of(model, whole, whole_weights(teacher), batch)
    expected.backward()
    model.objective.update_statistics(whole)
    centre = whole.statistics[CENTRE]
    for seed in range(3):
        block = allocate(model.neuron_map, [0.4], 1.0, "random", 0, np.random.default_rng(seed))[0]
        weights = sliced(model, state, block)
        loss = loss_of(model, weights, freeze(slice_weights(teacher, model.neuron_map, block)), batch)
        torch.testing.assert_close(loss, expected)
        loss.backward()
        rows = block.trained["head.prototypes"]
        torch.testing.assert_close(
            weights.trained["head.prototypes.weight"].grad, whole.trained["head.prototypes.weight"].grad[rows]
        )
        model.objective.update_statistics(weights)
        torch.testing.assert_close(weights.statistics[CENTRE], centre)


def test_views_are_two_global_ones_and_smaller_local_ones():
    model = model_of("convnet", 16, local_crops=3, local_px=9, local_scale=(0.3, 0.5))
    how = Augmentation(noise=0.0, blur_probability=0.0, brightness=0.0, contrast=0.0, rotate=False)
    # A ramp from left to right: the spread of a view tells how wide its crop is.
    ramp = torch.linspace(0, 255, 64).to(torch.uint8).expand(40, 1, 64, 64)
    batch = model.objective.draw(Samples(ramp.contiguous()), torch.arange(40), how, torch.Generator().manual_seed(0))
    assert [tuple(view.shape[1:]) for view in batch.views] == [(1, 64, 64)] * 2 + [(1, 9, 9)] * 3
    widths = [(view.amax((1, 2, 3)) - view.amin((1, 2, 3))) for view in batch.views]
    whole = 255 / (ramp[0].float().std() + 4)
    for width in widths[2:]:
        # Pixel centres lie half a pixel within the crop.
        assert float((width / whole).min()) > 0.3 * 8 / 9 - 0.03
        assert float((width / whole).max()) < 0.5 * 8 / 9 + 0.03
    for width in widths[:2]:
        assert float((width / whole).max()) > 0.8
    again = model.objective.draw(Samples(ramp.contiguous()), torch.arange(40), how, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(batch.views, again.views, strict=True))


cases = pytest.mark.parametrize(
    ("share", "context"), [(1.0, 1.0), (0.5, 1.0), (0.1, 1.0), (0.3, 0.5), (0.25, 0.0), (0.02, 0.0)]
)
ENCODERS = {
    "convnet": {"widths": (8, 16, 12), "strides": (2, 1, 2)},
    "mlp": {"widths": (32, 24)},
    "vit": {"dim": 16, "depth": 2, "heads": 4},
}


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("convnet", {}),
        ("convnet", {"local_crops": 6, "local_px": 9, "head_layers": 2}),  # maps of 5, 5, 3 against 8, 8, 4
        ("convnet", {"local_crops": 3, "local_px": 8}),
        ("mlp", {"local_crops": 2}),
        ("vit", {"local_crops": 6, "local_px": 8}),
    ],
)
@cases
def test_step_flops_and_bytes_are_those_that_are_counted(encoder, options, share, context):
    model = build_model((1, 16, 16), encoder, "dino", ENCODERS[encoder], {"hidden": 24, "bottleneck": 8} | options)
    n, generator = 8, torch.Generator().manual_seed(0)
    state = model.init_state(generator)
    block = allocate(model.neuron_map, [share], context, "random", 0, np.random.default_rng(0))[0]
    batch = model.objective.draw(images(n, 16), torch.arange(n), Augmentation(), generator)
    weights = sliced(model, state, block)
    aim = freeze(slice_weights(model.target_of(state), model.neuron_map, block))
    # The fused attention of a CPU is not in torch's count.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        loss_of(model, weights, aim, batch).backward()
    cost = cost_of_block(model, block, n)
    assert cost.step_flops == pytest.approx(counter.get_total_flops(), rel=0.02 if encoder == "vit" else 1e-4)
    assert cost == cost_of_share(model, share, context, n)
    size = {part: sum(4 * t.numel() for t in tensors.values()) for part, tensors in (
        ("up", weights.trained), ("frozen", weights.frozen), ("aim", aim.frozen),
    )}  # fmt: skip
    assert cost.upload_bytes == size["up"] + 4 * 1024
    assert cost.download_bytes == size["up"] + size["frozen"] + size["aim"] + 4 * 1024


@pytest.mark.parametrize(
    ("encoder", "options", "tolerance"),
    [
        ("mlp", {}, 0.1),
        ("convnet", {"prototypes": 2048}, 0.1),
        # The peak is then that of the loss, where smaller crops, and whole blocks, need less than is reckoned.
        ("convnet", {"local_crops": 4, "local_px": 16}, 0.2),
    ],
)
def test_memory_is_what_is_alive_at_the_worst_moment_of_a_step(peak_bytes, encoder, options, tolerance):
    model = build_model((1, 32, 32), encoder, "dino", {"widths": (8, 16, 12)}, options)
    for share, context in ((1.0, 1.0), (0.3, 1.0), (0.3, 0.5), (0.3, 0.0)):
        block = allocate(model.neuron_map, [share], context, "random", 0, np.random.default_rng(0))[0]
        peak = peak_bytes(model, block, images(24, 32))
        assert cost_of_block(model, block, 24).memory_bytes == pytest.approx(peak, rel=tolerance), (share, context)


def federation(sizes: tuple[int, ...], method=None, workers: int = 1, seed: int = 0, **options) -> FederatedTraining:
    # Non-IID: every machine's images are noise about a pattern of its own: a spot, a hole, a ramp.
    generator = torch.Generator().manual_seed(9)
    line = torch.linspace(-1, 1, 8)
    spot = 160 * torch.exp(-2 * (line[None, :] ** 2 + line[:, None] ** 2)) - 40
    samples = [
        Samples((128 + pattern + 20 * torch.randn(n, 1, 8, 8, generator=generator)).clamp(0, 255).to(torch.uint8))
        for n, pattern in zip(sizes, (spot, -spot, 80 * line.expand(8, 8)), strict=False)
    ]
    engine = InProcessEngine(samples, RECIPE, workers)
    names = [f"node-{k}" for k in range(len(sizes))]
    return FederatedTraining(
        model_of(**options), engine, names, lambda model, state: 1.0, None, method=method or FedAvg(), seed=seed
    )


def test_a_machines_centre_is_the_running_mean_of_its_own_raw_outputs():
    training = federation((16,), centre_momentum=0.6)
    model, state, teacher = training.model, training.state, training.target
    assert torch.equal(state[CENTRE], torch.zeros(7))
    seen = []
    loss = model.objective.loss

    def spy(features, weights, aim, batch):
        seen.append(torch.from_numpy(head_by_hand(teacher, features(whole_weights(teacher), torch.cat(batch.views)))).mean(0))
        return loss(features, weights, aim, batch)

    model.objective.loss = spy
    training.play([1.0], 3)
    centre = torch.zeros(7, dtype=torch.float64)
    for mean in seen:
        centre = 0.6 * centre + 0.4 * mean
    torch.testing.assert_close(training.state[CENTRE].double(), centre, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [FedAvg(), IntraLayer(0.7)])
def test_the_merged_centre_is_the_sample_weighted_mean_of_what_non_iid_machines_saw(method):
    training = federation((24, 12, 8), method)
    results = []
    train = training.engine.train

    def spy(*args):
        results.extend(train(*args))
        return results[-3:]

    training.engine.train = spy
    for _ in range(2):
        before = training.state[CENTRE].clone()
        training.play([1.0, 0.5, 1.0], 4)
        parts = [result.statistics[CENTRE].double() for result in results[-3:]]
        expected = (24 * parts[0] + 12 * parts[1] + 8 * parts[2]) / 44
        torch.testing.assert_close(training.state[CENTRE].double(), expected, rtol=1e-6, atol=1e-7)
        # The machines see different things, and all of them move away from where the round began.
        spread = torch.stack(parts).std(0).mean()
        assert float(spread) > 0.01
        assert all(float((part - before).abs().max()) > 0.01 for part in parts)
        assert set(results[-1].statistics) == {CENTRE}


def test_machines_do_not_leak_into_each_other():
    # The same objective trains all machines in turn: what one of them does must not depend on who came before.
    alone, together = federation((24, 12, 8)), federation((24, 12, 8))
    a = alone.play([1.0] * 3, 2, survives=[False, False, True])
    b = together.play([1.0] * 3, 2)
    assert a.losses[2] == b.losses[2]


def test_results_do_not_depend_on_the_number_of_workers_bit_for_bit():
    ends = []
    for workers in (1, 2):
        training = federation((24, 12, 8), IntraLayer(0.7, context=0.5), workers, freeze_last_steps=3, schedule_steps=9)
        with training.engine:
            losses = [training.play([0.5, 1.0, 0.3], 2).losses for _ in range(3)]
        ends.append((training.state, training.target, losses))
    (state, target, losses), (other, other_target, same) = ends
    np.testing.assert_array_equal(losses, same)
    assert all(torch.equal(state[name], other[name]) for name in state)
    assert all(torch.equal(target[name], other_target[name]) for name in target)


@pytest.mark.parametrize("rule", ["median", "norm-clipping"])
def test_a_robust_rule_keeps_a_lying_centre_out_too(rule):
    training = federation((24, 12, 8), FedAvg(merge_rule=rule))
    train = training.engine.train

    def spoil(*args):
        results = train(*args)
        lie = {CENTRE: torch.linspace(-1e3, 1e3, 7)}
        return [replace(r, statistics=lie) if i == 1 else r for i, r in enumerate(results)]

    training.engine.train = spoil
    for _ in range(3):
        report = training.play([1.0] * 3, 2)
    assert float(training.state[CENTRE].abs().max()) <= 1.0  # raw outputs are cosines
    assert np.isfinite(report.losses).all()
    assert report.losses.min() > 0.1  # a centre that makes the teacher certain leaves nothing to learn


@pytest.mark.parametrize(
    ("value", "why"),
    [(np.nan, "is not a vector of 7"), (np.inf, "is not a vector of 7"), (1e30, r"moved by .*e\+.*, which is absurd")],
)
def test_a_bad_centre_is_refused_by_name(value, why):
    training, good = federation((24, 12, 8)), federation((24, 12, 8))
    train = training.engine.train

    def spoil(*args):
        results = train(*args)
        return [replace(r, statistics={CENTRE: r.statistics[CENTRE] * value}) if i == 1 else r for i, r in enumerate(results)]

    training.engine.train = spoil
    report = training.play([1.0] * 3, 2)
    [refused] = report.refused
    assert re.match(f"machine node-1: statistic dino.centre {why}", refused)
    good.play([1.0] * 3, 2, survives=[True, False, True])
    assert all(torch.equal(tensor, good.state[name]) for name, tensor in training.state.items())


def test_it_learns(tiny_images):
    options = {"hidden": 48, "bottleneck": 32, "prototypes": 128, "target_momentum": 0.98}
    model = build_model((1, 16, 16), "convnet", "dino", {"widths": (8, 16, 24)}, options)
    samples = [Samples(to_tensor(part)) for part in np.split(tiny_images(192, 0), 3)]
    engine = InProcessEngine(samples, LocalRecipe(batch_size=24, precision="fp32"))
    training = FederatedTraining(model, engine, "abc", HeldOutInfoNCE(tiny_images(96, 1)), None, method=IntraLayer())
    reports = [training.play([0.5] * 3, 10) for _ in range(9)]
    assert np.mean([report.infonce for report in reports[-3:]]) < training.untrained - 0.2
    assert all(not report.refused for report in reports)


def test_the_teacher_has_the_whole_head_but_no_centre():
    model = model_of()
    assert OBJECTIVES["dino"] is DINO
    assert model.target_parameters == {p.name for p in model.neuron_map.parameters}
    assert model.objective.statistics == {CENTRE: 7}
    always = {layer.name for layer in model.objective.heads.layers if layer.always_visible}
    assert always == {"head.bottleneck", "head.prototypes"}


def test_local_crops_that_the_encoder_cannot_take_are_refused():
    with pytest.raises(InputError, match=r"local_px is 4, but this MLP for images of 8x8 .* local_crops to 0 or local_px to 8"):
        model_of("mlp", local_crops=2, local_px=4)
    with pytest.raises(InputError, match="ConvNet for images of 16x16 takes no crops of 5x5"):
        model_of("convnet", 16, local_crops=2, local_px=5)
    with pytest.raises(InputError, match="takes no crops of 24x24"):
        model_of("convnet", 16, local_crops=2, local_px=24)
    assert model_of("mlp", local_crops=2, local_px=8).objective.local_size == (8, 8)
    assert model_of("mlp", local_crops=2).objective.views_per_sample == 4
    wide = ConvNet((1, 16, 32), (6, 8, 8))
    assert DINO(wide, local_crops=1, local_px=8).local_size == (8, 16)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("student_temperature", 0.0), ("teacher_temperature", -1.0), ("teacher_temperature_start", 0.0), ("head_layers", 4),
        ("centre_momentum", 1.5), ("teacher_warmup_steps", -1), ("freeze_last_steps", -2), ("local_crops", -1),
        ("local_scale", (0.5, 0.2)), ("local_scale", (0.0, 0.2)),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"dino: {name} is .*expected"):
        model_of(**{name: value})
