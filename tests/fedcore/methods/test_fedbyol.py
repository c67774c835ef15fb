from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save

from fedcore.augment import Augmentation, normalise, random_view
from fedcore.blocks import freeze, slice_weights, whole_weights
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods import METHODS, FedAvg
from fedcore.methods.fedbyol import FedBYOL, divergence, encoder_weights
from fedcore.methods.fedema import FedEMA, mixing
from fedcore.methods.fedu import FedU
from fedcore.model import build_model
from fedcore.samples import Batch, Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

RATE = 0.02
SIZES = (18, 13, 5)
RECIPE = LocalRecipe(batch_size=6, learning_rate=RATE, weight_decay=0.0, optimizer="sgd", precision="fp32")
MOMENTUM = 0.8


def model_of(objective: str):
    options = {"target_momentum": MOMENTUM} if objective == "byol" else {}
    return build_model((1, 8, 8), "mlp", objective, {"widths": (12, 6)}, {"hidden": 10, "outputs": 7, **options})


def federation(method, recipe=RECIPE) -> FederatedTraining:
    generator = torch.Generator().manual_seed(0)
    samples = [Samples(torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)) for n in SIZES]
    return FederatedTraining(
        model_of("byol"), InProcessEngine(samples, recipe), "abc", lambda model, state: 1.0, None, method=method, seed=4
    )


def plain_local(model, online, target, images, r, k, steps):
    entropy = int(np.random.SeedSequence((4, 2, r, k)).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator().manual_seed(entropy)
    for _ in range(steps):
        x = normalise(images[torch.randperm(len(images), generator=generator)[: min(6, len(images))]])
        batch = Batch(tuple(random_view(x, Augmentation(), generator) for _ in range(2)))
        leaves = {name: value.clone().requires_grad_() for name, value in online.items()}
        aim = whole_weights(target)
        model.objective.loss(model.encoder.features, whole_weights(leaves), aim, batch).backward()
        online = {name: (leaf - RATE * leaf.grad).detach() for name, leaf in leaves.items()}
        target = {name: MOMENTUM * value + (1 - MOMENTUM) * online[name] for name, value in target.items()}
    return online, target


def plain_run(model, state, images, takes_part, steps, method):
    """FedBYOL, FedU or FedEMA on whole models, with dictionaries."""
    machines = [{} for _ in images]
    lengths = []
    for r, present in enumerate(takes_part):
        sent = []
        for k in present:
            own, start = machines[k], dict(state)
            target = own.get("target", {name: state[name] for name in model.target_parameters})
            if isinstance(method, FedU) and own and own["d"] >= method.mu:
                start |= {name: own["online"][name] for name in start if name.startswith("predictor")}
            if isinstance(method, FedEMA) and own:
                if own["round"] == r - 1:
                    mu = min(1.0, own["lambda"] * own["d"])
                    start = {name: (1 - mu) * state[name] + mu * own["online"][name] for name in start}
                else:
                    target = {name: state[name] for name in target}
            online, target = plain_local(model, start, target, images[k], r, k, steps)
            d = np.mean([float((online[n] - start[n]).square().sum()) ** 0.5 for n in ("fc1.weight", "fc2.weight")])
            lengths.append(d)
            scale = own.get("lambda", getattr(method, "tau", 0.0) / d)
            machines[k] = {"online": online, "target": target, "d": d, "lambda": scale, "round": r}
            sent.append((SIZES[k], online))
        total = sum(n for n, _ in sent)
        state = {name: sum(n * online[name] for n, online in sent) / total for name in state}
    return state, machines, lengths


TAKES_PART = [(0, 1, 2), (0, 2), (1, 2), (0, 1, 2)]


@pytest.mark.parametrize("method", [FedBYOL(), FedU(mu=0.0), FedU(mu=1e9), FedEMA(), FedEMA(tau=1.0)])
def test_four_rounds_equal_the_algorithm_written_out(method):
    training = federation(method)
    assert training.target is None  # targets stay on the machines
    images = [s.x for s in training.engine.samples]
    start = dict(training.state)
    state, machines, _ = plain_run(training.model, start, images, TAKES_PART, 3, method)
    for present in TAKES_PART:
        training.play([float(k in present) for k in range(3)], 3)
    for name, value in state.items():
        torch.testing.assert_close(training.state[name], value, atol=1e-4, rtol=1e-3)
        assert float((value - start[name]).abs().max()) > 1e-3
    for kept, machine in zip(training.server.kept, machines, strict=True):
        assert set(kept["target"]) == training.model.target_parameters
        for name, value in machine["target"].items():
            torch.testing.assert_close(kept["target"][name], value, atol=1e-4, rtol=1e-3)
        if "divergence" in kept:
            assert float(kept["divergence"]["d"]) == pytest.approx(machine["d"], rel=1e-3)


def test_fedema_keeps_listening_to_the_global_model():
    # Measured from the global weights, d would hold what was mixed in before, and mu would climb to 1 and stay there.
    training = federation(FedEMA(), replace(RECIPE, optimizer="adamw", learning_rate=3e-3))
    for _ in range(8):
        training.play([1.0, 1.0, 1.0], 5)
        assert all(0.0 < mixing(kept["divergence"]) < 1.0 for kept in training.server.kept)


def test_they_differ_from_one_another():
    ends = []
    for method in (FedAvg(), FedBYOL(), FedU(mu=0.0), FedEMA()):
        training = federation(method)
        for _ in range(2):
            training.play([1.0, 1.0, 1.0], 3)
        ends.append(training.state["fc1.weight"])
    assert all(not torch.equal(ends[i], ends[j]) for i in range(4) for j in range(i))


def test_the_target_follows_the_online_network_slowly_and_in_the_right_direction():
    # Other implementations have the average reversed: with momentum near 1 the target must hardly move.
    method = FedBYOL()
    training = federation(method)
    training.model.objective.target_momentum = 0.999
    start = dict(training.state)
    training.play([1.0, 0.0, 0.0], 5)
    target = training.server.kept[0]["target"]
    moved = sum(float((target[n] - start[n]).norm()) for n in target)
    online = sum(float((training.state[n] - start[n]).norm()) for n in target)
    assert 0 < moved < 0.01 * online


@pytest.mark.parametrize("name", ["fedbyol", "fedu", "fedema"])
@pytest.mark.parametrize("context", [1.0, 0.5])
def test_blocks_move_what_a_machine_sees_of_its_target_and_nothing_else(name, context):
    options = {"fedu": {"mu": 0.0}}.get(name, {})
    training = federation(METHODS[name](partial=True, context=context, rule="rolling", **options))
    targets = [{n: training.state[n] for n in training.model.target_parameters}] * 3
    for _ in range(3):
        blocks = training.play([0.5, 0.25, 0.25], 2).blocks
        for k, block in enumerate(blocks):
            kept = training.server.kept[k]
            visible = block.visible("fc1").tolist()
            unseen = [row for row in range(12) if row not in visible]
            changed = (kept["target"]["fc1.weight"] != targets[k]["fc1.weight"]).any(dim=1)
            assert changed[block.trained["fc1"]].all()
            assert not changed[unseen].any()
            assert context == 1.0 or unseen
            assert all(value.isfinite().all() for value in kept["target"].values())
        targets = [dict(kept["target"]) for kept in training.server.kept]
    assert all(value.isfinite().all() for value in training.state.values())


@pytest.mark.parametrize("name", ["fedbyol", "fedu", "fedema"])
@pytest.mark.parametrize(("share", "context"), [(1.0, 1.0), (0.5, 1.0), (0.4, 0.5)])
def test_the_target_does_not_travel(name, share, context):
    method = METHODS[name](partial=True, context=context)
    training = federation(method)
    block = training.plan([share, 0.0, 0.0])[0]
    cost, base = (m.cost(training.server, 0, block, 5, RECIPE) for m in (method, FedAvg()))
    weights = slice_weights(training.state, training.model.neuron_map, block)
    target = {n: training.state[n] for n in training.model.target_parameters}
    aim = freeze(slice_weights(target, training.model.neuron_map, block)).frozen

    def payload(*parts) -> int:
        files = [save({n: t.detach().contiguous() for n, t in part.items()}) for part in parts if part]
        return sum(len(file) - 8 - int.from_bytes(file[:8], "little") for file in files)

    assert cost.download_bytes == payload(weights.trained, weights.frozen) == base.download_bytes - payload(aim)
    assert cost.upload_bytes == base.upload_bytes == payload(weights.trained)
    sent = {n: t for n, t in weights.trained.items() if n in encoder_weights(training.model)}
    assert cost.memory_bytes == base.memory_bytes + (0 if name == "fedbyol" else payload(sent))
    assert cost.step_flops == base.step_flops


def test_divergence_is_the_mean_length_over_the_encoders_weights():
    training = federation(FedBYOL())
    block = training.plan([1.0, 0.0, 0.0])[0]
    task = training.method.task(training.server, 0, block, 1)
    result = training.engine.train(training.method, training.model, training.state, None, [task])[0]
    for name, value in result.trained.items():
        value.copy_(training.state[name] + (0.5 if name == "fc1.weight" else 2.0))
    expected = (0.5 * (12 * 64) ** 0.5 + 2.0 * (6 * 12) ** 0.5) / 2
    assert divergence(training.model, block, training.state, result) == pytest.approx(expected, rel=1e-5)
    assert encoder_weights(training.model) == {"fc1.weight", "fc2.weight"}


@pytest.mark.parametrize("name", ["fedbyol", "fedu", "fedema"])
@pytest.mark.parametrize("objective", ["simclr", "vicreg"])
def test_objectives_without_target_and_predictor_are_refused(name, objective):
    message = rf"^{name}: objective is .*, which lacks a momentum target .* choose objective 'byol' or method 'fedavg'$"
    with pytest.raises(InputError, match=message):
        METHODS[name]().check(build_model((1, 8, 8), "mlp", objective, {"widths": (6,)}), RECIPE)
    METHODS[name]().check(model_of("byol"), RECIPE)
