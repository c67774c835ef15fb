import numpy as np
import pytest
import torch

from fedcore.augment import Augmentation
from fedcore.model import build_model
from fedcore.probes import HeldOutInfoNCE
from scenarios import InputError

torch.set_num_threads(1)

STILL = Augmentation(1.0, False, 0.0, 0.0, 0.0, 0.0)
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
MODEL = build_model((1, 8, 8), "mlp", "simclr", {"widths": (32,)})


class Given:
    """A model whose features are whatever a function makes of the pixels."""

    def __init__(self, features) -> None:
        self.encoder = self
        self._features = features

    def features(self, weights, x):
        return self._features(x)


def test_features_that_tell_nothing_apart_are_at_chance():
    probe = HeldOutInfoNCE(IMAGES)
    assert probe.chance == pytest.approx(np.log(40))
    for features in (lambda x: torch.zeros(len(x), 5), lambda x: torch.full((len(x), 5), 0.3)):
        assert probe(Given(features), {}) == pytest.approx(probe.chance, abs=1e-5)


def test_good_features_are_below_chance_and_the_value_is_the_cross_entropy():
    views = Augmentation(1.0, rotate=False, brightness=0.1, contrast=0.1, blur_probability=0.0, noise=0.3)
    probe = HeldOutInfoNCE(IMAGES, views, temperature=0.1)
    # A picture plus its mirror image is the same in every such view but for noise.
    good = probe(Given(lambda x: (x + x.flip(3)).flatten(1)), {})
    assert good < 0.1 * probe.chance
    probe.two = probe.one
    features = probe.one.flatten(1).numpy().astype(np.float64)
    features -= features.mean(0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    logits = features @ features.T / 0.1
    expected = np.mean(np.log(np.exp(logits).sum(1)) - np.diag(logits))
    assert probe(Given(lambda x: x.flatten(1)), {}) == pytest.approx(expected, rel=1e-4)
    assert 0 < expected < 0.1 * probe.chance


def test_it_is_symmetric_in_the_views_and_blind_to_scale_and_offset():
    probe = HeldOutInfoNCE(IMAGES, temperature=0.1)
    features = lambda x: x.flatten(1)[:, :20]  # noqa: E731
    value = probe(Given(features), {})
    assert probe(Given(lambda x: 7 * features(x) + 3), {}) == pytest.approx(value, rel=1e-4)
    probe.one, probe.two = probe.two, probe.one
    assert probe(Given(features), {}) == pytest.approx(value, rel=1e-5)
    assert abs(value - probe.chance) > 0.01


def test_it_is_fixed_by_its_seed():
    state = MODEL.init_state(torch.Generator().manual_seed(0))
    values = [HeldOutInfoNCE(IMAGES, seed=seed)(MODEL, state) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    probe = HeldOutInfoNCE(IMAGES)
    torch.manual_seed(5)
    assert probe(MODEL, state) == probe(MODEL, state) == values[0]


def test_it_uses_at_most_so_many_images():
    probe = HeldOutInfoNCE(IMAGES, STILL, size=16)
    assert probe.chance == pytest.approx(np.log(16))
    assert len(probe.one) == len(probe.two) == 16


def test_the_loss_of_given_features_is_that_of_the_weights():
    probe = HeldOutInfoNCE(IMAGES)
    state = MODEL.init_state(torch.Generator().manual_seed(0))
    one, two = probe.features(MODEL, state)
    assert one.shape == two.shape == (40, 32)
    assert probe.loss(one, two) == probe(MODEL, state)


def test_one_image_has_nothing_to_be_told_from():
    with pytest.raises(InputError, match="1 test images, expected at least 2"):
        HeldOutInfoNCE(IMAGES[:1])
