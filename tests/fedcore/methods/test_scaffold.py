from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from fedcore.augment import Augmentation, normalise, random_view
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods import FedAvg
from fedcore.methods.scaffold import Scaffold
from fedcore.model import build_model
from fedcore.samples import Samples
from fedcore.slices import write_trained
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

RATE = 0.01
SIZES = (18, 13, 5)
RECIPE = LocalRecipe(batch_size=6, learning_rate=RATE, weight_decay=0.0, optimizer="sgd", precision="fp32")


def federation(method, objective="simclr") -> FederatedTraining:
    model = build_model((1, 8, 8), "mlp", objective, {"widths": (12, 6)}, {"hidden": 10, "outputs": 7})
    generator = torch.Generator().manual_seed(0)
    samples = [Samples(torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)) for n in SIZES]
    return FederatedTraining(
        model, InProcessEngine(samples, RECIPE), "abc", lambda model, state: 1.0, None, method=method, seed=4
    )


def plain_gradient(w, views):
    """Gradient of SimCLR over the same network, out of torch's own functions."""
    leaves = {name: value.clone().requires_grad_() for name, value in w.items()}
    x = torch.cat(views).flatten(1)
    for i in (1, 2):
        x = F.layer_norm(x @ leaves[f"fc{i}.weight"].T, (len(leaves[f"fc{i}.gain"]),))
        x = torch.relu(x * leaves[f"fc{i}.gain"] + leaves[f"fc{i}.bias"])
    x = x @ leaves["projector.hidden.weight"].T
    x = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()
    x = torch.relu(x * leaves["projector.hidden.gain"] + leaves["projector.hidden.bias"])
    z = F.normalize(x @ leaves["projector.out.weight"].T, dim=1)
    n = len(z) // 2
    logits = (z @ z.T / 0.1).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
    F.cross_entropy(logits, (torch.arange(2 * n) + n) % (2 * n)).backward()
    return {name: leaf.grad for name, leaf in leaves.items()}


def plain_views(images, chosen, generator):
    x = normalise(images[chosen])
    return [random_view(x, Augmentation(), generator) for _ in range(2)]


def plain_scaffold(x, images, takes_part, steps, option, server_rate, by_samples):
    """Algorithm 1 with dictionaries."""
    zero = {name: torch.zeros_like(value) for name, value in x.items()}
    c, own = dict(zero), [dict(zero) for _ in images]
    sizes = [len(part) for part in images]
    for r, present in enumerate(takes_part):
        moves, changes = [], []
        for k in present:
            entropy = int(np.random.SeedSequence((4, 2, r, k)).generate_state(1, np.uint64)[0] >> 1)
            generator = torch.Generator().manual_seed(entropy)
            y, size = dict(x), min(6, sizes[k])
            for _ in range(steps):
                chosen = torch.randperm(sizes[k], generator=generator)[:size]
                g = plain_gradient(y, plain_views(images[k], chosen, generator))
                y = {name: y[name] - RATE * (g[name] - own[k][name] + c[name]) for name in y}
            if option == "I":
                order, passes = torch.randperm(sizes[k], generator=generator), sizes[k] // size
                grads = [
                    plain_gradient(x, plain_views(images[k], order[i * size : (i + 1) * size], generator))
                    for i in range(passes)
                ]
                new = {name: sum(g[name] for g in grads) / passes for name in x}
            else:
                new = {name: own[k][name] - c[name] + (x[name] - y[name]) / (steps * RATE) for name in x}
            moves.append({name: y[name] - x[name] for name in x})
            changes.append({name: new[name] - own[k][name] for name in x})
            own[k] = new
        weights = [sizes[k] if by_samples else 1 for k in present]
        parts = [sizes[k] / sum(sizes) if by_samples else 1 / len(images) for k in present]
        x = {
            name: x[name] + server_rate * sum(w * m[name] for w, m in zip(weights, moves, strict=True)) / sum(weights)
            for name in x
        }
        c = {name: c[name] + sum(p * d[name] for p, d in zip(parts, changes, strict=True)) for name in c}
    return x, c, own


@pytest.mark.parametrize(
    ("option", "server_rate", "uniform"), [("II", 1.0, True), ("II", 0.6, False), ("I", 1.0, True), ("I", 1.4, False)]
)
def test_three_rounds_equal_the_algorithm_written_out(option, server_rate, uniform):
    training = federation(Scaffold(server_rate, option=option, uniform=uniform))
    start = dict(training.state)
    takes_part = [(0, 1, 2), (0, 2), (1, 2)]
    images = [s.x for s in training.engine.samples]
    x, c, own = plain_scaffold(start, images, takes_part, 3, option, server_rate, not uniform)
    for present in takes_part:
        training.play([float(k in present) for k in range(3)], 3)
    for name in start:
        torch.testing.assert_close(training.state[name], x[name], atol=2e-5, rtol=1e-4)
        torch.testing.assert_close(training.server.memory["c"][name], c[name], atol=1e-3, rtol=1e-3)
        for k in range(3):
            torch.testing.assert_close(training.server.kept[k]["c"][name], own[k][name], atol=1e-3, rtol=1e-3)
    assert float(c["fc1.weight"].abs().max()) > 0.1


def test_the_first_round_is_fedavg_and_option_two_keeps_the_mean_gradient():
    training, reference = federation(Scaffold(uniform=False)), federation(FedAvg())
    x = dict(training.state)
    for each in (training, reference):
        each.play([1.0, 1.0, 1.0], 4)
    for name, value in training.state.items():
        torch.testing.assert_close(value, reference.state[name], atol=1e-7, rtol=1e-6)
        # With all variates at zero, the weighted mean of (x - y) / (K eta) is the move of the whole, scaled.
        move = (x[name] - value) / (4 * RATE)
        torch.testing.assert_close(training.server.memory["c"][name], move, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("context", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("option", ["I", "II"])
def test_blocks_keep_their_variates_and_the_servers_is_the_mean(context, option):
    training = federation(Scaffold(partial=True, context=context, option=option))
    ever = [{n: torch.zeros_like(v) for n, v in training.state.items()} for _ in range(3)]
    shares = [0.5, 0.3, 0.25]
    for _ in range(3):
        old = [dict(kept.get("c", {})) for kept in training.server.kept]
        blocks = training.play(shares, 2).blocks
        for k, block in enumerate(blocks):
            now = write_trained(
                {n: torch.zeros_like(v) for n, v in training.state.items()},
                training.model.neuron_map,
                block,
                {n: torch.ones(()) for n in training.state if len(block.trained[n.rsplit(".", 1)[0]])},
            )
            for name, variate in training.server.kept[k]["c"].items():
                ever[k][name] = ever[k][name].maximum(now[name])
                assert not variate[ever[k][name] == 0].any()
                if old[k]:
                    assert torch.equal(variate[now[name] == 0], old[k][name][now[name] == 0])
    for name, c in training.server.memory["c"].items():
        mean = sum(kept["c"][name] for kept in training.server.kept) / 3
        torch.testing.assert_close(c, mean, atol=1e-5, rtol=1e-4)
    assert training.server.memory["c"]["fc1.weight"].any()


def payload(tensors) -> int:
    file = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
    return len(file) - 8 - int.from_bytes(file[:8], "little")


@pytest.mark.parametrize(("share", "context"), [(1.0, 1.0), (0.5, 1.0), (0.4, 0.5)])
def test_twice_the_block_goes_up_and_the_blocks_c_comes_down(share, context):
    method = Scaffold(partial=True, context=context)
    training = federation(method)
    block = training.plan([share, 0.0, 0.0])[0]
    task = method.task(training.server, 0, block, 2)
    result = method.train(
        training.model, training.state, None, task, training.engine.samples[0], RECIPE, torch.Generator().manual_seed(0)
    )
    cost, base = (m.cost(training.server, 0, block, 2, RECIPE) for m in (method, FedAvg()))
    assert cost.upload_bytes == payload(result.trained) + payload(result.extra["dc"]) == 2 * base.upload_bytes
    assert cost.download_bytes == base.download_bytes + payload(task.extra["c"])
    assert cost.memory_bytes == base.memory_bytes + 3 * payload(result.trained)
    assert cost.step_flops == base.step_flops


@pytest.mark.parametrize("option", ["I", "II"])
@pytest.mark.parametrize("machine", [0, 1, 2])
def test_flops_are_those_that_torch_counts(option, machine):
    # Machine 2 holds less than a batch.
    method = Scaffold(option=option)
    training = federation(method, "byol")
    block = training.plan([1.0, 1.0, 1.0])[machine]
    task = method.task(training.server, machine, block, 3)
    samples = training.engine.samples[machine]
    recipe = replace(RECIPE, augmentation=Augmentation(blur_probability=0.0))  # the blur counts, and its share is drawn
    counted = []
    for each in (method, FedAvg()):
        with FlopCounterMode(display=False) as counter:
            generator = torch.Generator().manual_seed(0)
            each.train(training.model, training.state, training.target, task, samples, recipe, generator)
        counted.append(counter.get_total_flops())
    cost, base = (m.cost(training.server, machine, block, 3, RECIPE) for m in (method, FedAvg()))
    extra = cost.step_flops / base.step_flops - 1
    assert extra == pytest.approx(counted[0] / counted[1] - 1, abs=1e-12)
    assert (extra > 0) == (option == "I")


@pytest.mark.parametrize("how", ["not finite", "of another shape", "missing"])
def test_a_variate_that_is_no_change_of_its_block_reaches_nobody(how):
    class Poisoned(InProcessEngine):
        def train(self, method, model, state, target, tasks):
            results = super().train(method, model, state, target, tasks)
            dc = results[1].extra["dc"]
            if how == "not finite":
                dc["fc1.weight"][0, 0] = float("nan")
            elif how == "of another shape":
                dc["fc1.weight"] = dc["fc1.weight"][:, :1].clone()
            else:
                del dc["fc1.weight"]
            return results

    training = federation(Scaffold())
    training.engine = Poisoned(training.engine.samples, RECIPE)
    training.play([1.0, 1.0, 1.0], 2)
    assert all(value.isfinite().all() for value in training.server.memory["c"].values())
    assert "c" not in training.server.kept[1]
    assert training.server.kept[0]["c"]["fc1.weight"].any()


def test_other_optimisers_and_options_are_refused():
    message = r"^scaffold: optimizer is 'adamw' .* choose optimizer 'sgd' with both 0, which the control variates' K eta_l "
    with pytest.raises(InputError, match=message):
        Scaffold().check(federation(FedAvg()).model, LocalRecipe())
    with pytest.raises(InputError, match=r"^scaffold: option is 'III', expected 'I' or 'II'$"):
        Scaffold(option="III")
