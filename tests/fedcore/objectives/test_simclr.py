import numpy as np
import pytest
import torch

from fedcore.blocks import whole_weights
from fedcore.encoders import MLP
from fedcore.model import Model, build_model
from fedcore.objectives import OBJECTIVES, SimCLR
from fedcore.objectives.simclr import nt_xent
from fedcore.samples import Batch
from scenarios.errors import InputError


def test_two_images_by_hand():
    # Views at 0 and 60 degrees of one image, at 90 and 180 degrees of the other; lengths must not matter.
    degrees, lengths = np.array([0.0, 90.0, 60.0, 180.0]), np.array([1.0, 5.0, 0.2, 3.0])
    z = lengths[:, None] * np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1)
    tau = 0.5
    # cosines: (0,60) = 1/2; (0,90) = 0; (0,180) = -1; (90,60) = sqrt(3)/2; (90,180) = 0; (60,180) = -1/2
    e = {
        frozenset(pair): np.exp(cosine / tau)
        for pair, cosine in {(0, 2): 0.5, (0, 1): 0, (0, 3): -1, (1, 2): 3**0.5 / 2, (1, 3): 0, (2, 3): -0.5}.items()
    }
    expected = 0.0
    for i, partner in ((0, 2), (1, 3), (2, 0), (3, 1)):
        others = sum(e[frozenset((i, j))] for j in range(4) if j != i)
        expected -= np.log(e[frozenset((i, partner))] / others) / 4
    assert float(nt_xent(torch.from_numpy(z), tau)) == pytest.approx(expected, rel=1e-12)


def test_bounds_of_the_loss():
    n = 8
    eye = torch.eye(n, dtype=torch.float64)
    assert float(nt_xent(torch.ones(2 * n, 3, dtype=torch.float64), 0.1)) == pytest.approx(np.log(2 * n - 1))
    assert float(nt_xent(torch.cat([eye, eye]), 0.1)) == pytest.approx(np.log1p((2 * n - 2) * np.exp(-10)))
    assert nt_xent(torch.cat([eye, eye.roll(1, 0)]), 0.1) > np.log(2 * n - 1)


def test_the_loss_goes_through_projector_with_batch_norm():
    encoder = MLP((1, 4, 4), (9, 6))
    model = Model(encoder, SimCLR(encoder, hidden=5, outputs=3, temperature=0.2))
    state = model.init_state(torch.Generator().manual_seed(0))
    one, two = torch.randn(2, 7, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    h = encoder.features(whole_weights(state), torch.cat([one, two])) @ state["projector.hidden.weight"].T
    h = (h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt()
    z = h.relu() @ state["projector.out.weight"].T
    loss = model.objective.loss(encoder.features, whole_weights(state), None, Batch((one, two)))
    assert float(loss) == pytest.approx(float(nt_xent(z, 0.2)), rel=1e-5)
    swapped = model.objective.loss(encoder.features, whole_weights(state), None, Batch((two, one)))
    assert float(swapped) == pytest.approx(float(loss), rel=1e-5)


def test_it_has_no_target():
    assert OBJECTIVES["simclr"] is SimCLR
    model = build_model((1, 8, 8), "mlp", "simclr")
    assert model.objective.target_momentum is None
    assert model.target_parameters == frozenset()
    with pytest.raises(TypeError):
        build_model((1, 8, 8), "mlp", "simclr", None, {"tau": 0.1})
    with pytest.raises(InputError, match="temperature is 0"):
        build_model((1, 8, 8), "mlp", "simclr", None, {"temperature": 0})
