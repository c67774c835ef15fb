import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fedcore.allocation import allocate
from fedcore.augment import Augmentation
from fedcore.blocks import slice_weights, whole_weights
from fedcore.costs import cost_of_block
from fedcore.engines import InProcessEngine
from fedcore.local import LocalRecipe
from fedcore.methods import IntraLayer
from fedcore.model import build_model
from fedcore.objectives import OBJECTIVES, VICReg
from fedcore.objectives.vicreg import covariance_term, variance_term
from fedcore.probes import HeldOutInfoNCE
from fedcore.probes.features import to_tensor
from fedcore.samples import Batch, Samples
from fedcore.training import FederatedTraining
from scenarios.errors import InputError

torch.set_num_threads(1)


def by_loops(z: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """s, v(Z) + v(Z') and c(Z) + c(Z') as the paper writes them (Bardes et al. 2022, equations 1 to 5), number by number."""
    n, d = z.shape
    s = sum((z[i, j] - other[i, j]) ** 2 for i in range(n) for j in range(d)) / (n * d)
    v = c = 0.0
    for part in (z, other):
        mean = [sum(part[:, j]) / n for j in range(d)]
        cov = [
            [sum((part[i, a] - mean[a]) * (part[i, b] - mean[b]) for i in range(n)) / (n - 1) for b in range(d)]
            for a in range(d)
        ]
        v += sum(max(0.0, 1 - (cov[j][j] + 1e-4) ** 0.5) for j in range(d)) / d
        c += sum(cov[a][b] ** 2 for a in range(d) for b in range(d) if a != b) / d
    return s, v, c


def test_equation_6_by_hand():
    model = build_model((1, 4, 4), "mlp", "vicreg", {"widths": (9, 6)}, {"hidden": 11, "outputs": 4})
    state = model.init_state(torch.Generator().manual_seed(0))
    one, two = torch.randn(2, 7, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    h = model.encoder.features(whole_weights(state), torch.cat([one, two])) @ state["projector.hidden.weight"].T
    h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()
    z, other = (h.relu() @ state["projector.out.weight"].T).double().numpy().reshape(2, 7, 4)
    s, v, c = by_loops(z, other)
    for weights in ((25.0, 25.0, 1.0), (2.0, 3.0, 5.0)):
        options = dict(zip(("invariance", "variance", "covariance"), weights, strict=True))
        objective = VICReg(model.encoder, 11, 4, **options)
        loss = objective.loss(model.encoder.features, whole_weights(state), None, Batch((one, two)))
        assert float(loss) == pytest.approx(np.dot(weights, (s, v, c)), rel=1e-5)
    assert (model.objective.invariance, model.objective.variance, model.objective.covariance) == (25, 25, 1)


def test_terms_of_little_matrices():
    # Columns (0, 2): variance 2 (unbiased), no cost; columns (1, 1): variance 0, all but the root of epsilon.
    z = torch.tensor([[0.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    assert float(variance_term(z)) == pytest.approx((0 + (1 - 1e-4**0.5)) / 2)
    assert float(covariance_term(z)) == 0.0
    # Columns (0, 2) and (0, -2): covariance -2, off the diagonal twice, over D = 2.
    z = torch.tensor([[0.0, 0.0], [2.0, -2.0]], dtype=torch.float64)
    assert float(covariance_term(z)) == pytest.approx((4 + 4) / 2)
    assert float(variance_term(z)) == 0.0


@pytest.mark.parametrize("encoder", ["convnet", "mlp"])
@pytest.mark.parametrize(("share", "context"), [(1.0, 1.0), (0.3, 1.0), (0.3, 0.5), (0.2, 0.0)])
def test_step_flops_are_those_that_torch_counts(encoder, share, context):
    outputs, n = 16, 8
    model = build_model((1, 16, 16), encoder, "vicreg", {"widths": (8, 12, 12)}, {"hidden": 24, "outputs": outputs})
    state = model.init_state(torch.Generator().manual_seed(0))
    block = allocate(model.neuron_map, [share], context, "random", 0, np.random.default_rng(0))[0]
    one, two = torch.randn(2, n, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    weights = slice_weights(state, model.neuron_map, block)
    with FlopCounterMode(display=False) as counter:
        model.objective.loss(model.encoder.features, weights, None, Batch((one, two))).backward()
    # The two covariance matrices, forward and twice backward, belong to no neuron.
    counted = counter.get_total_flops() - 2 * 3 * 2 * n * outputs**2
    assert cost_of_block(model, block, n).step_flops == pytest.approx(counted, rel=0.02)


def test_memory_is_what_is_alive_at_the_worst_moment_of_a_step(peak_bytes):
    model = build_model((1, 16, 16), "convnet", "vicreg", {"widths": (8, 16, 12)}, {"hidden": 48, "outputs": 32})
    images = torch.randint(0, 256, (24, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    for share, context in ((1.0, 1.0), (0.3, 1.0), (0.3, 0.0)):
        block = allocate(model.neuron_map, [share], context, "random", 0, np.random.default_rng(0))[0]
        peak = peak_bytes(model, block, Samples(images))
        assert cost_of_block(model, block, 24).memory_bytes == pytest.approx(peak, rel=0.1), (share, context)


def test_partial_blocks_with_full_context_see_the_whole_loss():
    model = build_model((1, 8, 8), "mlp", "vicreg", {"widths": (9, 6)}, {"hidden": 11, "outputs": 8})
    state = model.init_state(torch.Generator().manual_seed(0))
    batch = Batch(tuple(torch.randn(2, 7, 1, 8, 8, generator=torch.Generator().manual_seed(1))))
    whole = model.objective.loss(model.encoder.features, whole_weights(state), None, batch)
    block = allocate(model.neuron_map, [0.4], 1.0, "random", 0, np.random.default_rng(0))[0]
    weights = slice_weights(state, model.neuron_map, block)
    part = model.objective.loss(model.encoder.features, weights, None, batch)
    torch.testing.assert_close(part, whole)


def test_it_learns(tiny_images):
    model = build_model((1, 16, 16), "convnet", "vicreg", {"widths": (8, 16, 24)}, {"hidden": 48, "outputs": 32})
    engine = InProcessEngine(
        [Samples(to_tensor(part)) for part in np.split(tiny_images(192, 0), 3)], LocalRecipe(batch_size=24, precision="fp32")
    )
    probe = HeldOutInfoNCE(tiny_images(96, 1))
    training = FederatedTraining(model, engine, "abc", probe, None, method=IntraLayer())
    reports = [training.play([0.5] * 3, 10) for _ in range(8)]
    assert np.mean([report.infonce for report in reports[-3:]]) < training.untrained - 0.15
    assert np.nanmean(reports[-1].losses) < 0.85 * np.nanmean(reports[0].losses)


def test_one_sample_has_no_variance():
    model = build_model((1, 8, 8), "mlp", "vicreg", {"widths": (9, 6)})
    assert OBJECTIVES["vicreg"] is VICReg
    assert model.objective.target_momentum is None
    samples = Samples(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(InputError, match="batch of 1, expected at least 2"):
        model.objective.draw(samples, torch.tensor([1]), Augmentation(), torch.Generator())
    assert len(model.objective.draw(samples, torch.tensor([1, 2]), Augmentation(), torch.Generator()).views) == 2
