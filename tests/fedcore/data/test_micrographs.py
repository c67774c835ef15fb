"""The soil-micrograph generator: seeds, exact counts, sites and cache."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from fedcore.data import micrograph_shapes as draw
from fedcore.data import micrographs
from fedcore.data.micrographs import KINDS, SiteStyle, draw_site_styles, render, soil_micrographs

EMPTY = SiteStyle(bacteria_mean=0, fungi_mean=0, nematodes_mean=0, grains_mean=0)
MEANS = {"bacteria": "bacteria_mean", "fungi": "fungi_mean", "nematodes": "nematodes_mean"}


def small(**changes):
    arguments = {"n_sites": 2, "images_per_site": 12, "cache_dir": None} | changes
    return soil_micrographs(**arguments)


def same(a, b):
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("images", "counts", "test", "group"))


def test_shapes_and_names():
    data = small(n_sites=3, size_px=24)
    assert data.name == "soil-micrographs"
    assert data.images.shape == (36, 24, 24, 1)
    assert data.images.dtype == np.uint8
    assert data.counts.shape == (36, 3)
    assert data.counts.dtype == np.int64
    assert data.group.dtype == np.int64
    assert data.test.dtype == np.bool_
    assert data.kinds == KINDS
    assert data.group_names == ("site-0", "site-1", "site-2")
    assert data.labels is None
    assert [data.test[data.group == site].sum() for site in range(3)] == [3, 3, 3]


def test_equal_seeds_give_equal_bits():
    assert same(small(), small())
    assert not same(small(), small(seed=1))


def test_more_sites_keep_the_earlier_ones():
    two, eight = small(), small(n_sites=8)
    n = len(two)
    assert np.array_equal(two.images, eight.images[:n])
    assert np.array_equal(two.counts, eight.counts[:n])
    assert np.array_equal(two.test, eight.test[:n])


def test_rendering_in_parts_changes_nothing(monkeypatch):
    whole, counts = render(SiteStyle(), 20, 32, np.random.default_rng(0))
    monkeypatch.setattr(micrographs, "_CANVAS_PIXELS", 3 * 80**2)
    monkeypatch.setattr(draw, "_STAMP_ELEMENTS", 500)
    parts, counts_in_parts = render(SiteStyle(), 20, 32, np.random.default_rng(0))
    # Products of another batch size may round the last bit otherwise; a grey level is the most that makes.
    assert np.abs(whole.astype(int) - parts).max() <= 1
    assert np.array_equal(counts, counts_in_parts)


def test_one_scene_at_every_size():
    style = replace(SiteStyle(), shot_noise=0, read_noise=0.001)
    small_images, counts = render(style, 8, 32, np.random.default_rng(3))
    large_images, large_counts = render(style, 8, 128, np.random.default_rng(3))
    assert np.array_equal(counts, large_counts)
    shrunk = large_images.reshape(8, 32, 4, 32, 4).mean(axis=(2, 4))
    for a, b in zip(small_images[..., 0], shrunk, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.97


def test_empty_slide_counts_nothing():
    images, counts = render(EMPTY, 10, 32, np.random.default_rng(0))
    assert not counts.any()
    assert len(images) == 10


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_alone(kind):
    style = replace(EMPTY, **{MEANS[kind]: 3.0})
    n = 200
    _, counts = render(style, n, 16, np.random.default_rng(0))
    mine = KINDS.index(kind)
    assert not np.delete(counts, mine, axis=1).any()
    assert counts[:, mine].mean() == pytest.approx(3.0, abs=5 * counts[:, mine].std() / n**0.5)


def test_counts_are_of_centres_in_the_tile():
    mean = np.full(50, 4.0)
    shapes, counts = draw.bacteria(mean, 0.5, 4.0, np.random.default_rng(0))
    inside = ((shapes.centre_um >= 0) & (shapes.centre_um < draw.TILE_UM)).all(axis=1)
    assert np.array_equal(counts, np.bincount(shapes.image[inside], minlength=50))
    assert not inside.all()  # some lie across the edge and are seen, not counted

    # A worm's middle is where capsules 10 and 11 of its 22 meet.
    shapes, counts = draw.nematodes(mean, 4.0, np.random.default_rng(0))
    middle = (shapes.centre_um + shapes.half_um).reshape(-1, 22, 2)[:, 10]
    inside = ((middle >= 0) & (middle < draw.TILE_UM)).all(axis=1)
    assert np.array_equal(counts, np.bincount(shapes.image[::22][inside], minlength=50))

    # A tree's root is the capsule without length, one per tree.
    shapes, counts = draw.fungi(mean, 1.6, np.random.default_rng(0))
    root = (shapes.half_um == 0).all(axis=1)
    inside = ((shapes.centre_um >= 0) & (shapes.centre_um < draw.TILE_UM)).all(axis=1)
    assert np.array_equal(counts, np.bincount(shapes.image[root & inside], minlength=50))


def test_counted_bacteria_are_seen_where_they_lie():
    mean = np.full(4, 3.0)
    shapes, _ = draw.bacteria(mean, 0.5, 4.0, np.random.default_rng(1))
    px_per_um, canvas = 2.0, int(2 * draw.TILE_UM)
    pixel, distance, _ = draw.stamp(shapes, range(4), canvas, px_per_um)
    field = np.full(4 * canvas**2, np.inf)
    field[pixel] = distance
    inside = ((shapes.centre_um >= 0) & (shapes.centre_um < draw.TILE_UM)).all(axis=1)
    column, row = (shapes.centre_um[inside] * px_per_um).astype(int).T
    assert (field[shapes.image[inside] * canvas**2 + row * canvas + column] < 0).all()


def test_polygon_and_capsule_distances():
    capsule = draw._capsules(
        np.zeros(1, np.int64), *(np.array([[x, 0]], np.float32) for x in (-2, 2)), *np.ones((4, 1), np.float32)
    )
    at = np.array([[0.0, 2.0, 5.0]], np.float32), np.array([[0.0, 1.0, 0.0]], np.float32)
    assert capsule.distance_um(np.array([0]), *at)[0] == pytest.approx([-1, 0, 2])
    grain = draw.grains(np.full(5, 3.0), 2.0, np.random.default_rng(0))
    assert (grain.distance_um(np.arange(len(grain.image)), *np.zeros((2, len(grain.image), 1), np.float32)) < 0).all()


@pytest.fixture(scope="module")
def six_sites():
    return small(n_sites=6, images_per_site=150)


def test_sites_differ_in_look_and_content(six_sites):
    styles = draw_site_styles(6, np.random.default_rng(0))
    for name in asdict(styles[0]):
        values = np.array([getattr(style, name) for style in styles])
        low, high = micrographs._STYLE_RANGES[name]
        assert (values >= low).all()
        assert (values <= high).all()
        assert np.ptp(values) > 0.6 * (high - low)
    assert draw_site_styles(9, np.random.default_rng(0))[:6] == styles
    data = six_sites
    means = np.array([data.counts[data.group == site].mean(axis=0) for site in range(6)])
    assert (means.max(axis=0) > 1.5 * means.min(axis=0)).all()


def test_pixel_statistics_do_not_give_the_counts_away(six_sites):
    data = six_sites
    pixels = data.images.reshape(len(data), -1) / 255
    design = np.stack([np.ones(len(data)), pixels.mean(axis=1), pixels.std(axis=1)], axis=1)
    target = np.log1p(data.counts)
    fit = design @ np.linalg.lstsq(design, target, rcond=None)[0]
    explained = 1 - ((target - fit) ** 2).sum(axis=0) / ((target - target.mean(axis=0)) ** 2).sum(axis=0)
    assert explained.mean() < 0.25


@pytest.fixture
def generated(monkeypatch):
    """How often pictures were generated rather than read."""
    calls = []
    original = micrographs._generate
    monkeypatch.setattr(micrographs, "_generate", lambda *args: calls.append(args) or original(*args))
    return calls


def test_cache_hit_and_key(tmp_path, generated):
    first = small(cache_dir=tmp_path)
    assert same(first, small(cache_dir=tmp_path))
    assert len(generated) == 1
    small(cache_dir=tmp_path, seed=5)
    small(cache_dir=tmp_path, test_fraction=0.5)
    assert len(generated) == 3
    assert len(list(tmp_path.glob("*.npz"))) == len(list(tmp_path.iterdir())) == 3


def test_version_is_part_of_the_key(tmp_path, generated, monkeypatch):
    small(cache_dir=tmp_path)
    monkeypatch.setattr(micrographs, "GENERATOR_VERSION", -1)
    small(cache_dir=tmp_path)
    assert len(generated) == 2


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "flipped", "other arrays", "directory"])
def test_damaged_cache_is_regenerated(tmp_path, generated, damage):
    first = small(cache_dir=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    if damage == "other arrays":
        np.savez(file, images=first.images[:3], counts=first.counts, test=first.test)
    elif damage == "directory":
        file.unlink()
        file.mkdir()
    else:
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 255
        file.write_bytes({"empty": b"", "cut": whole[:-100], "garbage": b"no zip", "flipped": flipped}[damage])
    assert same(first, small(cache_dir=tmp_path))
    assert len(generated) == 2
    if damage != "directory":
        small(cache_dir=tmp_path)
        assert len(generated) == 2  # the damaged file was replaced
    assert not list(tmp_path.glob("*.tmp"))


def test_unwritable_cache_is_no_error(tmp_path, generated):
    in_the_way = tmp_path / "file"
    in_the_way.write_text("a file where the directory should be")
    assert same(small(cache_dir=in_the_way), small())


def test_default_cache_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("INTRAFED_CACHE", str(tmp_path / "deep" / "er"))
    small(cache_dir="default")
    assert len(list((tmp_path / "deep" / "er").glob("soil-micrographs-*.npz"))) == 1
    monkeypatch.delenv("INTRAFED_CACHE")
    assert micrographs._default_cache() == Path.home() / ".cache" / "intrafed"


@pytest.mark.parametrize("wrong", [{"n_sites": 0}, {"images_per_site": 0}, {"size_px": 2}, {"test_fraction": 1.5}])
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        small(**wrong)
