import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fedcore.allocation import allocate
from fedcore.augment import Augmentation, normalise
from fedcore.blocks import slice_weights, whole_weights
from fedcore.costs import cost_of_block
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods import IntraLayer
from fedcore.model import build_model
from fedcore.objectives import OBJECTIVES, Supervised
from fedcore.samples import Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)


def setting(**options):
    model = build_model((1, 8, 8), "mlp", "supervised", {"widths": (9, 6)}, {"classes": 3, **options})
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (12, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return model, model.init_state(generator), Samples(x, torch.arange(12) % 3)


def test_the_loss_is_the_cross_entropy_of_a_linear_classifier():
    model, state, samples = setting()
    assert OBJECTIVES["supervised"] is Supervised
    state["classifier.bias"] = torch.tensor([0.3, -0.2, 0.1])
    chosen = torch.tensor([7, 2, 5, 0])
    batch = model.objective.draw(samples, chosen, Augmentation(), torch.Generator())
    assert torch.equal(batch.views[0], normalise(samples.x[chosen]))
    assert batch.labels.tolist() == [1, 2, 2, 0]
    logits = model.encoder.features(whole_weights(state), batch.views[0]) @ state["classifier.weight"].T
    p = torch.softmax(logits + state["classifier.bias"], dim=1)
    expected = -np.mean([float(p[i, label].log()) for i, label in enumerate((1, 2, 2, 0))])
    loss = model.objective.loss(model.encoder.features, whole_weights(state), None, batch)
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_a_random_view_where_it_is_asked_for():
    model, _, samples = setting(augment=True)
    chosen = torch.arange(4)
    views = [model.objective.draw(samples, chosen, Augmentation(), torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(views[0].views[0], views[1].views[0])
    assert not torch.equal(views[0].views[0], views[2].views[0])
    assert len(views[0].views) == 1
    assert torch.equal(views[0].labels, samples.labels[:4])


def test_a_partial_block_with_full_context_sees_the_whole_loss_in_the_right_order():
    model, state, samples = setting()
    state["classifier.bias"] = torch.tensor([0.3, -0.2, 0.1])
    batch = model.objective.draw(samples, torch.arange(12), Augmentation(), torch.Generator())
    whole = model.objective.loss(model.encoder.features, whole_weights(state), None, batch)
    for seed in range(4):
        block = allocate(model.neuron_map, [0.4], 1.0, "random", 0, np.random.default_rng(seed))[0]
        weights = slice_weights(state, model.neuron_map, block)
        torch.testing.assert_close(model.objective.loss(model.encoder.features, weights, None, batch), whole)


@pytest.mark.parametrize("encoder", ["convnet", "mlp"])
@pytest.mark.parametrize(("share", "context"), [(1.0, 1.0), (0.3, 1.0), (0.3, 0.5), (0.2, 0.0)])
def test_one_view_is_paid_for(encoder, share, context):
    model = build_model((1, 16, 16), encoder, "supervised", {"widths": (8, 12, 12)}, {"classes": 5})
    state = model.init_state(torch.Generator().manual_seed(0))
    block = allocate(model.neuron_map, [share], context, "random", 0, np.random.default_rng(0))[0]
    samples = Samples(torch.zeros(8, 1, 16, 16, dtype=torch.uint8), torch.arange(8) % 5)
    batch = model.objective.draw(samples, torch.arange(8), Augmentation(), torch.Generator())
    weights = slice_weights(state, model.neuron_map, block)
    with FlopCounterMode(display=False) as counter:
        model.objective.loss(model.encoder.features, weights, None, batch).backward()
    assert cost_of_block(model, block, 8).step_flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def upright_or_lying(n: int, seed: int) -> Samples:
    """Noisy stripes of any width, along one side of the image or the other."""
    generator = torch.Generator().manual_seed(seed)
    period, phase = 1 + torch.rand(n, 1, 1, generator=generator), 6 * torch.rand(n, 1, 1, generator=generator)
    x = torch.sin(period * torch.arange(16.0) + phase).expand(n, 16, 16).clone()
    labels = torch.randint(0, 2, (n,), generator=generator)
    x[labels == 1] = x[labels == 1].transpose(1, 2)
    x = 128 + 40 * x + 40 * torch.randn(x.shape, generator=generator)
    return Samples(x.clamp(0, 255).to(torch.uint8)[:, None], labels)


def test_it_learns_to_classify_what_it_has_not_seen():
    model = build_model((1, 16, 16), "convnet", "supervised", {"widths": (8, 16, 24)}, {"classes": 2})
    recipe = LocalRecipe(batch_size=24, precision="fp32", learning_rate=6e-3)
    engine = InProcessEngine([upright_or_lying(64, k) for k in range(3)], recipe)
    training = FederatedTraining(model, engine, "abc", lambda model, state: 1.0, None, method=IntraLayer())
    losses = [np.nanmean(training.play([0.5] * 3, 10).losses) for _ in range(8)]
    assert losses[-1] < 0.6 * losses[0]
    test, weights = upright_or_lying(128, 9), whole_weights(training.state)
    features = model.encoder.features(weights, normalise(test.x))
    found = (features @ training.state["classifier.weight"].T + training.state["classifier.bias"]).argmax(1)
    assert float((found == test.labels).float().mean()) > 0.8


def test_samples_that_it_cannot_learn_from_are_refused():
    model, _, samples = setting()
    chosen = torch.arange(4)
    with pytest.raises(InputError, match="needs samples with labels, got none"):
        model.objective.draw(Samples(samples.x), chosen, Augmentation(), torch.Generator())
    for wrong in (3, -1):
        labels = samples.labels.clone()
        labels[2] = wrong
        with pytest.raises(InputError, match=f"classes is 3, but a sample is labelled {wrong}"):
            model.objective.draw(Samples(samples.x, labels), chosen, Augmentation(), torch.Generator())
    with pytest.raises(InputError, match="classes is 1, expected at least 2"):
        setting(classes=1)
