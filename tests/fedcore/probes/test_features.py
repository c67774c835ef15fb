import numpy as np
import torch

from fedcore.augment import normalise
from fedcore.blocks import whole_weights
from fedcore.model import build_model
from fedcore.probes import extract_features, raw_pixels
from fedcore.probes.features import to_tensor

torch.set_num_threads(1)

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 8, 6, 3), dtype=np.uint8)


def test_channels_come_first_and_nothing_else_moves():
    tensor = to_tensor(IMAGES)
    assert tensor.is_contiguous()
    assert tensor.dtype == torch.uint8
    assert tensor.shape == (7, 3, 8, 6)
    assert tensor[4, 2, 5, 1] == IMAGES[4, 5, 1, 2]


def test_features_are_the_encoders_whatever_the_batch_size():
    model = build_model((3, 8, 6), "mlp", "simclr", {"widths": (10, 5)})
    state = model.init_state(torch.Generator().manual_seed(0))
    expected = model.encoder.features(whole_weights(state), normalise(to_tensor(IMAGES))).numpy()
    for size in (1, 3, 256):
        got = extract_features(model, state, IMAGES, batch_size=size)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_raw_pixels():
    pixels = raw_pixels(IMAGES)
    assert pixels.shape == (7, 144)
    assert pixels.dtype == np.float32
    assert np.array_equal(np.rint(pixels * 255), IMAGES.reshape(7, -1))
    assert pixels.min() >= 0
    assert pixels.max() <= 1
