from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch.utils.flop_counter import FlopCounterMode

from fedcore.augment import Augmentation, normalise, random_view
from fedcore.blocks import whole_weights
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods import FedAvg, IntraLayer
from fedcore.methods.pfedme import PFedMe
from fedcore.model import build_model
from fedcore.samples import Batch, Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)

RATE = 0.005
SIZES = (18, 13, 5)
RECIPE = LocalRecipe(batch_size=6, learning_rate=RATE, weight_decay=0.0, optimizer="sgd", precision="fp32")


def federation(method, objective="simclr", recipe=RECIPE) -> FederatedTraining:
    model = build_model((1, 8, 8), "mlp", objective, {"widths": (12, 6)}, {"hidden": 10, "outputs": 7})
    generator = torch.Generator().manual_seed(0)
    samples = [Samples(torch.randint(0, 256, (n, 1, 8, 8), generator=generator, dtype=torch.uint8)) for n in SIZES]
    return FederatedTraining(
        model, InProcessEngine(samples, recipe), "abc", lambda model, state: 1.0, None, method=method, seed=4
    )


def plain_round(model, w, images, r, k, *, rounds, inner, lam, eta, mu):
    """Algorithm 1 on one machine, whole tensors and autograd."""
    entropy = int(np.random.SeedSequence((4, 2, r, k)).generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator().manual_seed(entropy)
    theta, w = dict(w), dict(w)
    for _ in range(rounds):
        x = normalise(images[torch.randperm(len(images), generator=generator)[: min(6, len(images))]])
        batch = Batch(tuple(random_view(x, Augmentation(), generator) for _ in range(2)))
        for _ in range(inner):
            leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
            distance = sum((leaves[name] - w[name]).square().sum() for name in w)
            size = sum(leaf.square().sum() for leaf in leaves.values())
            loss = model.objective.loss(model.encoder.features, whole_weights(leaves), None, batch)
            (loss + lam / 2 * distance + mu / 2 * size).backward()
            theta = {name: (leaf - RATE * leaf.grad).detach() for name, leaf in leaves.items()}
        w = {name: w[name] - eta * lam * (w[name] - theta[name]) for name in w}
    return w, theta


@pytest.mark.parametrize(("beta", "lam", "eta"), [(1.0, 15.0, 0.005), (0.5, 30.0, 0.02)])
def test_two_rounds_equal_the_algorithm_written_out(beta, lam, eta):
    options = {"lambda_": lam, "eta": eta, "personal_steps": 3, "mu": 0.1}
    training = federation(PFedMe(beta, **options))
    w = start = dict(training.state)
    personal = [None, None, None]
    assert PFedMe().personal_states(training.server) == personal
    for r, present in enumerate([(0, 1), (0, 2)]):
        parts = {
            k: plain_round(
                training.model, w, training.engine.samples[k].x, r, k, rounds=2, inner=3, lam=lam, eta=eta, mu=0.1
            )
            for k in present
        }
        total = sum(SIZES[k] for k in present)
        mean = {name: sum(SIZES[k] * part[0][name] for k, part in parts.items()) / total for name in w}
        w = {name: (1 - beta) * w[name] + beta * mean[name] for name in w}
        for k, part in parts.items():
            personal[k] = part[1]
        training.play([float(k in present) for k in range(3)], 2)
    for name in w:
        torch.testing.assert_close(training.state[name], w[name], atol=1e-5, rtol=1e-4)
        assert float((w[name] - start[name]).abs().max()) > 1e-4
        for k, state in enumerate(PFedMe().personal_states(training.server)):
            torch.testing.assert_close(state[name], personal[k][name], atol=1e-5, rtol=1e-4)
    assert not torch.equal(PFedMe().personal_states(training.server)[0]["fc1.weight"], training.state["fc1.weight"])


@pytest.mark.parametrize(
    ("options", "reference"),
    [({}, FedAvg()), ({"partial": True, "context": 0.5, "rule": "rolling"}, IntraLayer(context=0.5, rule="rolling"))],
)
def test_one_inner_step_that_the_local_model_follows_is_plain_sgd(options, reference):
    # eta lambda = 1 puts w_k onto theta after every step, so that the pull is zero whenever a gradient is taken.
    one = federation(PFedMe(lambda_=4.0, eta=0.25, personal_steps=1, mu=0.0, **options))
    two = federation(reference)
    for _ in range(2):
        np.testing.assert_allclose(one.play([0.5, 0.0, 0.5], 3).losses, two.play([0.5, 0.0, 0.5], 3).losses, rtol=1e-5)
    for name, value in one.state.items():
        torch.testing.assert_close(value, two.state[name], atol=1e-5, rtol=1e-4)


def test_a_target_moves_with_the_local_model_where_it_is_asked_to():
    method = {"lambda_": 4.0, "eta": 0.25, "personal_steps": 1, "mu": 0.0}
    recipe = replace(RECIPE, moving_target=True)
    one, two = federation(PFedMe(**method), "byol", recipe), federation(FedAvg(), "byol", recipe)
    still = federation(PFedMe(**method), "byol")
    losses = [each.play([1.0, 0.0, 0.0], 4).losses[0] for each in (one, two, still)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-5)


def test_personal_models_fit_their_machine_and_blocks_keep_what_they_trained():
    training = federation(PFedMe(partial=True, context=0.5, lambda_=1.0))
    blocks = training.play([0.5, 0.0, 0.3], 2).blocks
    states = PFedMe().personal_states(training.server)
    assert states[1] is None
    for k in (0, 2):
        own = training.server.kept[k]["personal"]
        for layer in ("fc1", "fc2"):
            rows = own[f"{layer}.bias"].isfinite()
            assert rows.nonzero().flatten().tolist() == blocks[k].trained[layer].tolist()
            assert torch.equal(states[k][f"{layer}.bias"][~rows], training.state[f"{layer}.bias"][~rows])
            assert not torch.equal(states[k][f"{layer}.bias"][rows], training.state[f"{layer}.bias"][rows])
        assert all(value.isfinite().all() for value in states[k].values())


def test_costs():
    method = PFedMe(partial=True, context=0.5, personal_steps=4)
    training = federation(method, "byol", replace(RECIPE, augmentation=Augmentation(blur_probability=0.0)))
    block = training.plan([0.5, 0.0, 0.0])[0]
    task = method.task(training.server, 0, block, 3)
    with FlopCounterMode(display=False) as counter:
        result = method.train(
            training.model, training.state, training.target, task, training.engine.samples[0], training.engine.recipe,
            torch.Generator().manual_seed(0),
        )  # fmt: skip
    cost, base = (m.cost(training.server, 0, block, 3, RECIPE) for m in (method, FedAvg()))
    assert 3 * cost.step_flops == pytest.approx(counter.get_total_flops(), rel=0.02)
    file = save(result.trained)
    sent = len(file) - 8 - int.from_bytes(file[:8], "little")
    assert cost.upload_bytes == base.upload_bytes == sent
    assert cost.download_bytes == base.download_bytes
    assert cost.memory_bytes == base.memory_bytes + sent
    assert result.steps == 3


def test_what_cannot_work_is_refused():
    model = federation(FedAvg()).model
    with pytest.raises(InputError, match=r"^pfedme: optimizer is 'adamw' .*, which the personal steps are made of$"):
        PFedMe().check(model, LocalRecipe())
    with pytest.raises(InputError, match=r"^pfedme: learning_rate is 0.2 .* diverges, choose a learning_rate below 0.133$"):
        PFedMe().check(model, replace(RECIPE, learning_rate=0.2))
    PFedMe().check(model, replace(RECIPE, learning_rate=0.13))
    for field, value in (("lambda_", 0.0), ("eta", -1.0), ("mu", -0.1), ("personal_steps", 0)):
        with pytest.raises(InputError, match=rf"^pfedme: {field} is {value}, expected "):
            PFedMe(**{field: value})
