import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch.nn import functional as F

from fedcore.blocks import whole_block
from fedcore.engines import InProcessEngine
from fedcore.engines.inprocess import train_task
from fedcore.local import LocalRecipe, LocalTask
from fedcore.methods import METHODS
from fedcore.methods.fedavg import FedAvg
from fedcore.methods.fedlama import FedLAMA, less_critical
from fedcore.model import build_model
from fedcore.samples import Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

RECIPE = LocalRecipe(batch_size=6, precision="fp32")
SAMPLES = (9, 10, 7)


def blobs(n_machines: int = 3) -> list[Samples]:
    generator = torch.Generator().manual_seed(0)
    small = [torch.rand(SAMPLES[k], 1, 3, 3, generator=generator) for k in range(n_machines)]
    return [Samples((255 * F.interpolate(x, (12, 12), mode="bilinear")).to(torch.uint8)) for x in small]


def federation(method, objective="simclr", recipe=RECIPE, workers=1, machines=3) -> FederatedTraining:
    model = build_model((1, 12, 12), "convnet", objective, {"widths": (6, 8, 8)}, {"hidden": 12, "outputs": 6})
    engine = InProcessEngine(blobs(machines), recipe, workers)
    return FederatedTraining(model, engine, "abc"[:machines], lambda model, state: 1.0, None, method=method, seed=4)


def cost(training, machine=1, steps=2):
    block = whole_block(training.model.neuron_map)
    return training.method.cost(training.server, machine, block, steps, training.engine.recipe)


def payload(tensors) -> int:
    file = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    return len(file) - 8 - int.from_bytes(file[:8], "little")


def test_the_choice_walks_up_to_and_with_the_unit_that_crosses():
    # Of 120 in all: after the second 1 - 20/60 is not below 20/120; after the third 1 - 50/60 is below 80/120.
    assert less_critical([4.0, 1.0, 2.0], [10, 20, 30]) == [False, True, True]
    # The first of all may cross already.
    assert less_critical([1.0, 1.0, 9.0], [80, 10, 10]) == [True, False, False]
    assert less_critical([0.0, 0.0], [3, 4]) == [True, True]


def test_a_unit_is_a_kernel_with_the_vectors_behind_it():
    training = federation(FedLAMA())
    units = training.method.units(training.model.neuron_map)
    assert [list(unit.rows) for unit in units] == [
        ["conv1.weight", "conv1.gain", "conv1.bias"],
        ["conv2.weight", "conv2.gain", "conv2.bias"],
        ["conv3.weight", "conv3.gain", "conv3.bias"],
        ["projector.hidden.weight", "projector.hidden.gain", "projector.hidden.bias"],
        ["projector.out.weight"],
    ]
    assert [unit.measured for unit in units] == [(next(iter(unit.rows)),) for unit in units]


@pytest.mark.parametrize("name", ["fedlama", "fedlama-neurons"])
@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_with_phi_1_it_is_fedavg_bit_for_bit(name, objective):
    plain, lama = federation(FedAvg(0.8), objective), federation(METHODS[name](0.8, phi=1, warmup=0), objective)
    for shares in ([1, 1, 1], [1, 0, 1], [1, 1, 1]):
        plain.play(shares, 2)
        lama.play(shares, 2)
        assert cost(lama) == cost(plain)
    for name_, value in plain.state.items():
        assert torch.equal(value, lama.state[name_])
    if plain.target is not None:
        assert all(torch.equal(value, lama.target[n]) for n, value in plain.target.items())


def plain_fedlama(training, rounds, steps, phi, warmup):
    """Every machine has a whole copy of its own; what is due is averaged and set everywhere."""
    model, samples = training.model, training.engine.samples
    copies = [{n: t.clone() for n, t in training.state.items()} for _ in samples]
    known = {n: t.clone() for n, t in training.state.items()}
    kernels = [p.name for p in model.neuron_map.parameters if len(p.shape) > 1]
    owner = {p.name: max(k for k in kernels if p.name == k or p.name.rsplit(".", 1)[0] == k.rsplit(".", 1)[0])
             for p in model.neuron_map.parameters}  # fmt: skip
    interval, d, history = dict.fromkeys(kernels, 1), {}, []
    for r in range(rounds):
        for k, own in enumerate(samples):
            task = LocalTask(k, whole_block(model.neuron_map), steps, (training.server.seed, 2, r, k))
            copies[k] = copies[k] | train_task(FedAvg(), model, copies[k], None, task, own, RECIPE).trained
        n = [len(own) * steps for own in samples]
        for name, kernel in owner.items():
            if (r + 1) % interval[kernel]:
                continue
            mean = (sum(c[name].double() * w for c, w in zip(copies, n, strict=True)) / sum(n)).float()
            if name == kernel:
                spread = sum(float((mean - c[name]).double().square().sum()) for c in copies) / len(copies)
                d[kernel] = spread / (interval[kernel] * steps * mean.numel())
            known[name] = mean
            for c in copies:
                c[name] = mean.clone()
        if (r + 1) % phi == 0 and r + 1 > warmup:
            size = {k: known[k].numel() for k in kernels}
            delta = share = 0.0
            interval = dict.fromkeys(kernels, 1)
            for kernel in sorted(kernels, key=d.get):
                interval[kernel] = phi
                delta += d[kernel] * size[kernel] / sum(d[k] * size[k] for k in kernels)
                share += size[kernel] / sum(size.values())
                if 1 - share < delta:
                    break
        history.append(dict(interval))
    return known, copies, history


@pytest.mark.parametrize("phi", [2, 3])
def test_it_is_the_plain_algorithm_bit_for_bit(phi):
    training = federation(FedLAMA(phi=phi, warmup=1))
    known, copies, history = plain_fedlama(training, 7, 2, phi, 1)
    for r in range(7):
        training.play([1, 1, 1], 2)
        assert training.server.memory["interval"] == list(history[r].values())
    assert {phi, 1} == set(history[-1].values())
    assert all(torch.equal(training.state[name], value) for name, value in known.items())
    for k, kept in enumerate(training.server.kept):
        assert set(kept["local"]) == {n for n in known if not torch.equal(copies[k][n], known[n])}
        assert all(torch.equal(own, copies[k][name]) for name, own in kept["local"].items())
        assert kept["local"]


@pytest.mark.parametrize("name", ["fedlama", "fedlama-neurons"])
@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_bytes_are_those_of_what_synchronises(name, objective):
    training = federation(METHODS[name](phi=2, warmup=1), objective)
    whole = cost(federation(FedAvg(), objective))
    saved = 0
    for r in range(6):
        before, target = dict(training.state), training.target
        now, held = cost(training), dict(training.server.kept[1].get("local", {}))
        twice = {f"{n} again": t.clone() for n, t in held.items() if target is not None and n in target}
        assert now.download_bytes == whole.download_bytes - payload(held | twice)
        training.play([1, 1, 1], 2)
        moved = {
            n: value[(value != before[n]).flatten(1).any(1)] if value.dim() > 1 else value[value != before[n]]
            for n, value in training.state.items()
        }
        assert now.upload_bytes == payload(moved)
        for n, t in (training.target or {}).items():
            still = (training.state[n] == before[n]).flatten(1).all(1) if t.dim() > 1 else training.state[n] == before[n]
            assert torch.equal(t[still], target[n][still])
        saved += whole.upload_bytes - now.upload_bytes
        assert (r + 1) % 2 or now.upload_bytes == whole.upload_bytes
        assert (now.step_flops, now.memory_bytes) == (whole.step_flops, whole.memory_bytes)
    assert saved > 0


def test_a_target_moves_with_its_unit_by_the_momenta_of_all_steps_since():
    training = federation(FedLAMA(phi=2, warmup=1), "byol")
    for _ in range(3):
        training.play([1, 1, 1], 2)
    assert 2 in training.server.memory["interval"]
    target, interval = training.target, training.server.memory["interval"]
    training.play([1, 1, 1], 3)
    for unit, m in zip(training.server.memory["units"], interval, strict=True):
        for name in unit.rows:
            if name in target:
                keep = 0.99 ** (5 if m == 2 else 3)
                expected = keep * target[name] + (1 - keep) * training.state[name]
                torch.testing.assert_close(training.target[name], expected)


def test_a_machine_that_rests_loses_what_synchronised_without_it_and_keeps_the_rest():
    training = federation(FedLAMA(phi=2, warmup=1))
    for _ in range(3):
        training.play([1, 1, 1], 2)
    local = set(training.server.kept[1]["local"])
    assert 0 < len(local) < len(training.state)
    task = training.method.task(training.server, 1, whole_block(training.model.neuron_map), 2)
    for name, value in task.start.items():
        assert torch.equal(value, training.server.kept[1]["local"].get(name, training.state[name]))
    training.play([1, 0, 1], 2)  # everything synchronises
    assert not training.server.kept[1]["local"]
    assert training.method.task(training.server, 1, task.block, 2).start is None
    assert cost(training).download_bytes == cost(federation(FedAvg())).download_bytes


def test_results_do_not_depend_on_the_number_of_workers():
    one, two = federation(FedLAMA(warmup=1)), federation(FedLAMA(warmup=1), workers=2)
    with two.engine:
        for _ in range(5):
            np.testing.assert_array_equal(one.play([1, 1, 1], 2).losses, two.play([1, 1, 1], 2).losses)
    assert all(torch.equal(value, two.state[name]) for name, value in one.state.items())


@pytest.mark.parametrize("name", ["fedlama", "fedlama-neurons"])
def test_it_learns(name):
    training = federation(METHODS[name](warmup=2))
    losses = [training.play([1, 1, 1], 8).losses.mean() for _ in range(10)]
    assert np.mean(losses[-2:]) < 0.7 * losses[0]
    assert 2 in training.server.memory["interval"]


@pytest.mark.parametrize(
    ("options", "field"), [({"phi": 0}, "phi"), ({"adapt_every": 0}, "adapt_every"), ({"warmup": -1}, "warmup")]
)
def test_nonsense_is_refused_by_name(options, field):
    with pytest.raises(InputError, match=f"fedlama: {field} is"):
        FedLAMA(**options)
