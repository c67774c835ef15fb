from itertools import pairwise

import numpy as np
import pytest
import torch

from fedcore.allocation import allocate
from fedcore.augment import normalise, random_view
from fedcore.blocks import slice_weights, whole_block, whole_weights
from fedcore.local import LocalRecipe, LocalTask, features_in, has_fast_bf16, train_block
from fedcore.model import build_model
from fedcore.samples import Batch, Samples

torch.set_num_threads(1)

RECIPE = LocalRecipe(batch_size=8, precision="fp32")


def setting(objective: str = "simclr", **options):
    model = build_model((1, 8, 8), "mlp", objective, {"widths": (12, 6)}, {"hidden": 10, "outputs": 7, **options})
    generator = torch.Generator().manual_seed(0)
    state = model.init_state(generator)
    images = torch.randint(0, 256, (20, 1, 8, 8), generator=generator, dtype=torch.uint8)
    target = {n: state[n].clone() for n in model.target_parameters} or None
    return model, state, target, images


def train(model, state, target, images, block=None, steps=3, recipe=RECIPE, seed=5):
    block = whole_block(model.neuron_map) if block is None else block
    task = LocalTask(0, block, steps, (seed,))
    return train_block(model, state, target, task, Samples(images), recipe, torch.Generator().manual_seed(seed))


def test_training_returns_moved_rows_and_leaves_the_global_weights_alone():
    model, state, _, images = setting()
    before = {n: t.clone() for n, t in state.items()}
    block = allocate(model.neuron_map, [0.4], 0.5, "random", 0, np.random.default_rng(0))[0]
    result = train(model, state, None, images, block)
    cut = slice_weights(state, model.neuron_map, block)
    assert set(result.trained) == set(cut.trained)
    for name, tensor in result.trained.items():
        assert tensor.shape == cut.trained[name].shape
        assert tensor.dtype == torch.float32
        assert not tensor.requires_grad
        assert torch.equal(state[name], before[name])
    assert not torch.equal(result.trained["fc1.weight"], cut.trained["fc1.weight"])
    assert (result.steps, result.samples) == (3, 20)


def test_the_loss_is_the_mean_over_the_steps():
    model, state, _, images = setting()
    recipe = LocalRecipe(batch_size=8, precision="fp32", learning_rate=0.0, weight_decay=0.0)
    generator = torch.Generator().manual_seed(5)
    losses = []
    for _ in range(3):
        x = normalise(images[torch.randperm(20, generator=generator)[:8]])
        one, two = (random_view(x, recipe.augmentation, generator) for _ in range(2))
        losses.append(float(model.objective.loss(model.encoder.features, whole_weights(state), None, Batch((one, two)))))
    assert train(model, state, None, images, recipe=recipe).loss == pytest.approx(np.mean(losses), rel=1e-6)


def test_a_machine_with_fewer_images_than_a_batch_uses_all_of_them():
    model, state, _, images = setting()
    few = train(model, state, None, images[:5], recipe=LocalRecipe(batch_size=64, precision="fp32"))
    same = train(model, state, None, images[:5], recipe=LocalRecipe(batch_size=5, precision="fp32"))
    assert torch.equal(few.trained["fc1.weight"], same.trained["fc1.weight"])
    assert few.samples == 5


@pytest.mark.parametrize("objective", ["simclr", "byol"])
def test_every_draw_comes_from_the_generator(objective):
    model, state, target, images = setting(objective)
    one, two, other = (train(model, state, target, images, seed=s) for s in (5, 5, 6))
    assert all(torch.equal(t, two.trained[n]) for n, t in one.trained.items())
    assert one.loss == two.loss != other.loss
    assert not torch.equal(one.trained["fc1.weight"], other.trained["fc1.weight"])


def test_a_target_stays_frozen_unless_it_is_asked_to_move():
    model, state, target, images = setting("byol", target_momentum=0.5)
    before = {n: t.clone() for n, t in target.items()}
    moving = LocalRecipe(batch_size=8, precision="fp32", moving_target=True)
    still = [train(model, state, target, images, steps=steps) for steps in (1, 4)]
    moved = [train(model, state, target, images, steps=steps, recipe=moving) for steps in (1, 4)]
    assert all(torch.equal(t, before[n]) for n, t in target.items())  # the server's own is never touched
    # The target moves after a step, so the first step is the same and later ones are not.
    assert still[0].loss == moved[0].loss
    assert torch.equal(still[0].trained["fc1.weight"], moved[0].trained["fc1.weight"])
    assert still[1].loss != moved[1].loss


def test_a_moving_target_follows_the_machines_own_weights():
    model, state, target, images = setting("byol", target_momentum=0.25)
    block = allocate(model.neuron_map, [0.5], 1.0, "random", 0, np.random.default_rng(1))[0]
    seen: list[tuple[dict, dict]] = []
    loss = model.objective.loss

    def spy(features, weights, aim, batch):
        seen.append((
            {n: t.clone() for n, t in aim.frozen.items()},
            {n: weights.vector(n).detach().clone() for n in aim.frozen},
        ))
        return loss(features, weights, aim, batch)

    model.objective.loss = spy
    train(model, state, target, images, block, 3, LocalRecipe(batch_size=8, precision="fp32", moving_target=True))
    assert set(seen[0][0]) == model.target_parameters
    for (old, _), (new, online) in pairwise(seen):
        for name in new:
            torch.testing.assert_close(new[name], 0.25 * old[name] + 0.75 * online[name])


def test_weight_decay_and_learning_rate_reach_the_optimiser():
    model, state, _, images = setting()
    recipe = LocalRecipe(batch_size=8, precision="fp32", learning_rate=0.1, weight_decay=0.0)
    step = train(model, state, None, images, steps=1, recipe=recipe).trained["fc1.weight"] - state["fc1.weight"]
    # The first step of Adam is the learning rate times the sign of the gradient.
    assert float(step.abs().max()) == pytest.approx(0.1, rel=1e-3)
    decayed = LocalRecipe(batch_size=8, precision="fp32", learning_rate=0.1, weight_decay=0.5)
    other = train(model, state, None, images, steps=1, recipe=decayed).trained["fc1.weight"] - state["fc1.weight"]
    torch.testing.assert_close(other - step, -0.05 * state["fc1.weight"], atol=1e-5, rtol=1e-4)


def test_precision_of_the_encoder():
    model, state, _, images = setting()
    x, weights = normalise(images), whole_weights(state)
    exact = features_in(model.encoder, "fp32")(weights, x)
    coarse = features_in(model.encoder, "bf16")(weights, x)
    assert coarse.dtype == exact.dtype == torch.float32
    assert not torch.equal(coarse, exact)
    torch.testing.assert_close(coarse, exact, atol=0.1, rtol=0.05)
    auto = features_in(model.encoder, "auto")(weights, x)
    assert torch.equal(auto, coarse if has_fast_bf16() else exact)
    assert train(model, state, None, images, recipe=LocalRecipe(precision="bf16")).trained["fc1.weight"].dtype == (
        torch.float32
    )
