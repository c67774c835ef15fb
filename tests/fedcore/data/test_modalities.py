import numpy as np
import pytest

from fedcore.data.modalities import MODALITIES, mixed_instruments


def field(n: int = 4, size: int = 24, seed: int = 0) -> np.ndarray:
    """Dark discs on a bright ground."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    cy, cx = rng.integers(7, size - 7, (2, n, 1, 1))
    disc = np.hypot(y - cy, x - cx) < 4
    return (180 - 100 * disc + rng.normal(0, 2, (n, size, size))).round().clip(0, 255).astype(np.uint8)[..., None]


def shown(name: str, images: np.ndarray, seed: int = 0) -> np.ndarray:
    method = list(MODALITIES).index(name)
    return mixed_instruments(images, np.full(len(images), method), seed)


@pytest.mark.parametrize("name", list(MODALITIES))
def test_every_method_gives_pictures_that_still_show_the_objects(name):
    images = field()
    before = images.copy()
    out = shown(name, images)
    assert out.shape == images.shape
    assert out.dtype == np.uint8
    assert np.array_equal(images, before)
    spread = out[..., 0].std((1, 2))
    assert (spread > 5).all()
    clipped = ((out == 0) | (out == 255)).mean()
    assert clipped < (0.9 if name == "dark-field" else 0.2)
    # Two fields with their objects elsewhere stay different pictures.
    assert np.abs(out[0].astype(int) - out[1]).mean() > 2


def test_what_each_method_does_to_dark_objects_on_a_bright_ground():
    images = field(1)
    disc = images[0, ..., 0] < 130
    bright = {name: shown(name, images)[0, ..., 0].astype(float) for name in MODALITIES}
    assert np.array_equal(bright["bright-field"], images[0, ..., 0])
    assert np.array_equal(bright["negative-phase"], 255 - images[0, ..., 0])
    for name, sign in {"negative-phase": 1, "fluorescence": 1, "phase": -1}.items():
        assert sign * (bright[name][disc].mean() - bright[name][~disc].mean()) > 20
    inside = disc & np.roll(disc, 2, 0) & np.roll(disc, -2, 0) & np.roll(disc, 2, 1) & np.roll(disc, -2, 1)
    edge = disc & ~inside
    assert bright["dark-field"][edge].mean() > bright["dark-field"][inside].mean() + 50
    # Relief: one flank bright, the other dark.
    assert bright["interference"].max() > 220
    assert bright["interference"].min() < 40


@pytest.mark.parametrize(
    ("name", "grey"), [("bright-field", 180), ("negative-phase", 75), ("interference", 128), ("phase", 128),
                       ("dark-field", 0)],
)  # fmt: skip
def test_an_empty_field_stays_empty(name, grey):
    assert np.unique(shown(name, np.full((2, 16, 16, 1), 180, np.uint8))).tolist() == [grey]


def test_sites_take_the_methods_in_turn():
    images = np.concatenate([field()] * 8)
    site = np.repeat(np.arange(8), 4)
    out = mixed_instruments(images, site, seed=0).reshape(8, 4, 24, 24)
    names = list(MODALITIES)
    for k, name in enumerate([*names, *names][:8]):
        if name != "fluorescence":
            assert np.array_equal(out[k], shown(name, field())[..., 0])
    assert np.array_equal(out[0], out[6])
    assert len({part.tobytes() for part in out[:6]}) == 6


def test_more_sites_leave_the_earlier_ones_alone_and_the_seed_makes_the_noise():
    images, site = np.concatenate([field()] * 6), np.repeat(np.arange(6), 4)
    out = mixed_instruments(images, site, seed=0)
    fewer = mixed_instruments(images[:20], site[:20], seed=0)
    assert np.array_equal(out[:20], fewer)
    other = mixed_instruments(images, site, seed=1)
    same = (out == other).reshape(6, -1).all(1)
    assert same.tolist() == [name != "fluorescence" for name in MODALITIES]


def test_the_noise_of_one_site_is_not_that_of_another():
    method = list(MODALITIES).index("fluorescence")
    images = np.concatenate([field()] * 2)
    out = mixed_instruments(images, np.repeat([method, method + len(MODALITIES)], 4), seed=0)
    assert not np.array_equal(out[:4], out[4:])
