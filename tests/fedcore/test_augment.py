import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fedcore.augment import Augmentation, normalise, random_view

torch.set_num_threads(1)

STILL = Augmentation(min_scale=1.0, rotate=False, brightness=0.0, contrast=0.0, blur_probability=0.0, noise=0.0)


def images(n: int = 16, channels: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return normalise(torch.randint(0, 256, (n, channels, 10, 10), generator=generator, dtype=torch.uint8))


def view(how: Augmentation, x: torch.Tensor, seed: int = 1) -> torch.Tensor:
    return random_view(x, how, torch.Generator().manual_seed(seed))


def mirrored(x: torch.Tensor, y: torch.Tensor, at_most: float = 1e-5) -> torch.Tensor:
    """Per image, whether y is x's mirror image (True) or x itself (False)."""
    same, mirror = ((y - z).abs().amax((1, 2, 3)) < at_most for z in (x, x.flip(3)))
    assert (same ^ mirror).all()
    return mirror


def test_images_are_normalised_one_by_one():
    x = torch.randint(0, 256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    out = normalise(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.mean((1, 2, 3)), torch.zeros(5), atol=1e-6, rtol=0)
    spread = x.float().std((1, 2, 3))
    torch.testing.assert_close(out.std((1, 2, 3)), spread / (spread + 4))
    torch.testing.assert_close(normalise(x[2:3]), out[2:3])


def test_an_empty_field_is_not_blown_up():
    empty = torch.full((2, 1, 16, 16), 200, dtype=torch.uint8)
    assert torch.equal(normalise(empty), torch.zeros(2, 1, 16, 16))
    empty[:, :, ::2] += 1
    assert float(normalise(empty).abs().max()) < 0.15


@pytest.mark.parametrize("channels", [1, 3])
def test_views_keep_shape_and_come_from_the_generator_alone(channels):
    x = images(6, channels)
    before = x.clone()
    torch.manual_seed(0)
    one = view(Augmentation(), x)
    torch.manual_seed(99)
    two = view(Augmentation(), x)
    assert one.shape == x.shape
    assert one.dtype == torch.float32
    assert torch.equal(one, two)
    assert torch.equal(x, before)
    assert not torch.allclose(one, view(Augmentation(), x, seed=2), atol=0.1)
    assert torch.isfinite(one).all()


def test_without_strength_a_view_is_the_image_or_its_mirror():
    x = images(200)
    share = mirrored(x, view(STILL, x)).float().mean()
    assert 0.35 < share < 0.65


def test_brightness_and_contrast():
    x = images(64)
    how = Augmentation(1.0, False, brightness=0.5, contrast=0.0, blur_probability=0.0, noise=0.0)
    shift = (view(how, x) - view(STILL, x)).flatten(1)
    assert (shift.std(1) < 1e-5).all()
    assert 0.3 < float(shift.abs().max()) <= 0.5
    assert shift.mean(1).min() < 0 < shift.mean(1).max()
    how = Augmentation(1.0, False, brightness=0.0, contrast=0.5, blur_probability=0.0, noise=0.0)
    out = view(how, x)
    torch.testing.assert_close(out.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-5, rtol=0)
    gain = out.std((1, 2, 3)) / x.std((1, 2, 3))
    assert 0.5 <= float(gain.min()) < 0.8
    assert 1.2 < float(gain.max()) <= 1.5001


@pytest.mark.parametrize("channels", [1, 3])
def test_blur_is_the_binomial_filter_on_the_chosen_share(channels):
    x = images(100, channels)
    how = Augmentation(1.0, False, 0.0, 0.0, blur_probability=0.3, noise=0.0)
    still, out = view(STILL, x), view(how, x)
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    filtered = F.conv2d(
        F.pad(still, (1, 1, 1, 1), mode="reflect").flatten(0, 1)[:, None], kernel[None, None]
    ).view_as(still)
    blurred = (out - filtered).abs().amax((1, 2, 3)) < 1e-5
    untouched = (out == still).all(-1).all(-1).all(-1)
    assert (blurred ^ untouched).all()
    assert 0.15 < blurred.float().mean() < 0.45


def test_noise_is_at_most_as_strong_as_said():
    x = images(64)
    how = Augmentation(1.0, False, 0.0, 0.0, 0.0, noise=0.2)
    strength = (view(how, x) - view(STILL, x)).flatten(1).std(1)
    assert float(strength.max()) < 0.2 * 1.3
    assert float(strength.min()) < 0.05
    assert float(strength.mean()) == pytest.approx(0.1, abs=0.025)


def test_crops_enlarge_a_part_of_the_image():
    ramp = torch.linspace(-1, 1, 32).expand(50, 1, 32, 32).contiguous()
    how = Augmentation(0.25, False, 0.0, 0.0, 0.0, 0.0)
    out = view(how, ramp)
    extent = (out[:, 0, 0, -1] - out[:, 0, 0, 0]).abs() / 2
    assert 0.2 < float(extent.min()) < 0.4
    assert 0.85 < float(extent.max()) <= 1.0
    assert float(out.abs().max()) <= 1.0 + 1e-6
    centres = out[:, 0, 0].mean(1)
    assert float(centres.min()) < -0.3 < 0.3 < float(centres.max())  # crops lie all over the image


def test_rotation_turns_by_any_angle_and_keeps_the_picture():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 33), torch.linspace(-1, 1, 33), indexing="ij")
    disc = torch.exp(-16 * (x**2 + y**2)).expand(40, 1, 33, 33).contiguous()
    off = torch.exp(-30 * ((x - 0.4) ** 2 + y**2)).expand(400, 1, 33, 33).contiguous()
    how = Augmentation(1.0, True, 0.0, 0.0, 0.0, 0.0)
    torch.testing.assert_close(view(how, disc), disc, atol=0.03, rtol=0)
    turned = view(how, off)
    mass = turned.sum((1, 2, 3))
    angle = torch.atan2((turned[:, 0] * y).sum((1, 2)) / mass, (turned[:, 0] * x).sum((1, 2)) / mass)
    radius = torch.hypot((turned[:, 0] * y).sum((1, 2)) / mass, (turned[:, 0] * x).sum((1, 2)) / mass)
    assert radius.numpy() == pytest.approx(np.full(400, 0.4), abs=0.03)
    assert (np.histogram(angle.numpy(), bins=8, range=(-np.pi, np.pi))[0] > 20).all()


def test_crops_of_a_chosen_range_and_size():
    ramp = torch.linspace(-1, 1, 64).expand(50, 1, 48, 64).contiguous()
    how = Augmentation(0.3, False, 0.0, 0.0, 0.0, 0.0, max_scale=0.5)
    out = random_view(ramp, how, torch.Generator().manual_seed(0), (12, 16))
    assert out.shape == (50, 1, 12, 16)
    # Outermost pixel centres lie half a pixel within the crop: 15/16 of its width apart.
    extent = (out[:, 0, 0, -1] - out[:, 0, 0, 0]).abs() / 2 * 16 / 15 * 63 / 64
    assert 0.29 < float(extent.min()) < 0.34
    assert 0.46 < float(extent.max()) < 0.51
    # The same draws at another size show the same crop.
    whole = random_view(ramp, how, torch.Generator().manual_seed(0))
    torch.testing.assert_close(whole.mean((1, 2, 3)), out.mean((1, 2, 3)), atol=1e-3, rtol=0)
