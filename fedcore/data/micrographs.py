"""Procedural soil micrographs: stations (sites) that differ in look and content, with exact counts of what lives there.

One tile is 40 um wide whatever its pixels, so that one scene can be rendered at any size. An object counts where its
centre (of a fungus: the root point of its hyphal tree) lies in the tile; what the tile's edge cuts is drawn all the
same. Exposure, light, contrast, polarity, focus and mineral grains vary from picture to picture, so that brightness
alone tells nothing and shape tells the kinds apart.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedcore.data import micrograph_shapes as draw
from fedcore.data.dataset import Dataset
from fedcore.data.micrograph_shapes import TILE_UM, Floats, Shapes
from fedcore.files import cache_root

KINDS = ("bacteria", "fungi", "nematodes")
GENERATOR_VERSION = 2
"""Part of the cache key: raise it whenever the same arguments give other pixels."""

_MARGIN_UM = 4.0
"""What the canvas shows beyond the tile on each side, so that blur brings in true surroundings."""

_CANVAS_PIXELS = 4_000_000
"""Canvas pixels rendered at a time; bounds memory, changes nothing else."""


@dataclass(frozen=True)
class SiteStyle:
    """How one site's pictures look and what its soil holds. Intensities are parts of the camera's full range.

    Attributes:
        background_level: mean brightness of its pictures.
        dark_objects_share: part of its pictures taken in bright field (dark objects); the others are dark field.
        contrast: brightness an object takes or adds at full absorption.
        light_slope: brightness lost across the tile by uneven light, relative.
        vignette: brightness lost in the corners, relative.
        mottle: standard deviation of the background's cloudiness.
        blur_sigma_um: optical blur, median over pictures.
        halo: strength of the phase halo around objects.
        shot_noise: variance of the sensor's noise per unit of brightness.
        read_noise: standard deviation of the sensor's noise in the dark.
        grains_mean: grains per tile.
        grain_radius_um: median radius of the grains.
        bacteria_mean: bacteria per tile.
        bacteria_rod_share: part of the bacteria that are rods.
        bacteria_cluster_um: spread of their clusters.
        fungi_mean: hyphal trees per tile.
        hypha_width_um: thickness of the hyphae.
        nematodes_mean: worms per tile.
        nematode_width_um: thickness of the worms.
    """

    background_level: float = 0.5
    dark_objects_share: float = 0.95
    contrast: float = 0.52
    light_slope: float = 0.15
    vignette: float = 0.08
    mottle: float = 0.01
    blur_sigma_um: float = 0.37
    halo: float = 0.12
    shot_noise: float = 0.00025
    read_noise: float = 0.005
    grains_mean: float = 1.0
    grain_radius_um: float = 2.0
    bacteria_mean: float = 5.0
    bacteria_rod_share: float = 0.5
    bacteria_cluster_um: float = 7.0
    fungi_mean: float = 1.3
    hypha_width_um: float = 1.45
    nematodes_mean: float = 0.85
    nematode_width_um: float = 4.3


_STYLE_RANGES: dict[str, tuple[float, float]] = {
    "background_level": (0.38, 0.64),
    "dark_objects_share": (0.93, 1.0),
    "contrast": (0.45, 0.65),
    "light_slope": (0.03, 0.22),
    "vignette": (0.0, 0.12),
    "mottle": (0.003, 0.015),
    "blur_sigma_um": (0.25, 0.5),
    "halo": (0.0, 0.25),
    "shot_noise": (0.0001, 0.0004),
    "read_noise": (0.002, 0.007),
    "grains_mean": (0.3, 1.4),
    "grain_radius_um": (1.3, 2.6),
    "bacteria_mean": (2.0, 9.0),
    "bacteria_rod_share": (0.1, 0.9),
    "bacteria_cluster_um": (5.0, 10.0),
    "fungi_mean": (0.5, 2.2),
    "hypha_width_um": (1.2, 1.7),
    "nematodes_mean": (0.35, 1.4),
    "nematode_width_um": (4.0, 5.0),
}
"""From, to: what sites are drawn from."""


def draw_site_styles(n_sites: int, rng: np.random.Generator) -> list[SiteStyle]:
    """Styles of `n_sites` sites that cover every range: a Latin hypercube per six, so that no two of the six are alike.

    More sites from an equal generator begin with the same ones.
    """
    block = 6
    styles: list[SiteStyle] = []
    while len(styles) < n_sites:
        names, bounds = list(_STYLE_RANGES), np.array(list(_STYLE_RANGES.values()))
        stratum = rng.permuted(np.tile(np.arange(block), (len(names), 1)), axis=1)
        place = (stratum + rng.random(stratum.shape)) / block
        values = bounds[:, :1] + place * (bounds[:, 1:] - bounds[:, :1])
        styles += [SiteStyle(**dict(zip(names, map(float, column), strict=True))) for column in values.T]
    return styles[:n_sites]


def render(
    style: SiteStyle, n_images: int, size_px: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pictures of one site.

    Args:
        style: the site.
        n_images: how many tiles.
        size_px: pixels along a tile of 40 um. The scenes drawn from an equal generator are the same at every size; only
            the sensor's noise differs.
        rng: generator of every draw.

    Returns:
        images (n_images, size_px, size_px, 1) uint8, and counts (n_images, 3) int64 in the order of `KINDS`.
    """

    def means(mean: float, variation: float) -> NDArray[np.float64]:
        """Per-image means, gamma about the site's (so that counts are negative binomial), `variation` = std / mean."""
        return rng.gamma(variation**-2, mean * variation**2, n_images)

    grains = draw.grains(means(style.grains_mean, 0.5), style.grain_radius_um, rng)
    bacteria, n_bacteria = draw.bacteria(
        means(style.bacteria_mean, 1.0), style.bacteria_rod_share, style.bacteria_cluster_um, rng
    )
    fungi, n_fungi = draw.fungi(means(style.fungi_mean, 0.8), style.hypha_width_um, rng)
    nematodes, n_nematodes = draw.nematodes(means(style.nematodes_mean, 0.8), style.nematode_width_um, rng)
    layers = {"grains": grains, "fungi": fungi, "bacteria": bacteria, "nematodes": nematodes}
    camera = _Camera.draw(style, n_images, rng)

    # Distance fields antialias by themselves, except where objects are thinner than a pixel: draw small tiles finer.
    fineness = 2 if size_px < 64 else 1
    px_per_um = size_px * fineness / TILE_UM
    canvas_px = size_px * fineness + 2 * int(np.ceil(_MARGIN_UM * px_per_um))
    step = max(1, _CANVAS_PIXELS // canvas_px**2)
    images = np.empty((n_images, size_px, size_px, 1), np.uint8)
    for first in range(0, n_images, step):
        some = range(first, min(first + step, n_images))
        signal = _signal(layers, some, canvas_px, px_per_um, style.halo, camera.grit[first : some.stop])
        images[first : some.stop, :, :, 0] = camera.expose(signal, some, size_px, px_per_um, rng)
    return images, np.stack([n_bacteria, n_fungi, n_nematodes], axis=1)


def _signal(
    layers: dict[str, Shapes], images: range, canvas_px: int, px_per_um: float, halo: float, grit: Floats
) -> Floats:
    """Absorption on the canvases (len(images), canvas_px, canvas_px): 0 is bare slide, 1 an opaque object."""
    texture = _upsample(grit, canvas_px)
    signal = np.zeros(texture.size, np.float32)
    for kind, shapes in layers.items():
        pixel, distance, owner = draw.stamp(shapes, images, canvas_px, px_per_um)
        rough = texture.ravel()[pixel]
        if kind == "grains":
            distance = distance + 0.35 * rough  # crumbling edges
        depth, radius = -distance, shapes.radius_um[owner]
        soft = np.hypot(shapes.soft_um[owner], np.float32(0.3 / px_per_um))
        cover = 0.5 + 0.5 * np.tanh(depth / soft)
        wall = np.exp(-((depth / (0.4 * radius)) ** 2))
        core = np.clip(depth / radius, 0, 1)
        strength = shapes.strength[owner]
        if kind == "grains":
            # Dark ones absorb; bright ones refract, and show a dark rim.
            inner = strength * (0.8 + 0.25 * rough) + 0.5 * wall
        elif kind == "bacteria":
            inner = strength * (0.8 + 0.3 * core)
        elif kind == "fungi":
            inner = strength * (0.55 + 0.45 * wall)
        else:
            gut = np.exp(-(((1 - core) / 0.45) ** 2))
            inner = strength * (0.55 + 0.35 * wall + gut * (0.3 + 0.4 * rough))
        # Thin out-of-focus objects lose contrast, since their light spreads.
        inner = inner * radius / (radius + soft)
        ring = np.exp(-(((distance - 0.6 - soft) / (0.5 + soft)) ** 2)) * (1 - cover)
        # Later layers lie on top of earlier ones rather than adding up.
        signal[pixel] = signal[pixel] * (1 - 0.7 * cover) + inner * cover - halo * 0.35 * np.abs(strength) * ring
    return signal.reshape(texture.shape)


@dataclass(frozen=True)
class _Camera:
    """Light, optics and sensor of every picture of one site; each array is (n_images, ...)."""

    style: SiteStyle
    level: Floats
    contrast: Floats
    blur_um: Floats
    slope: Floats
    vignette: Floats
    vignette_at: Floats
    clouds: Floats
    grit: Floats

    @classmethod
    def draw(cls, style: SiteStyle, n: int, rng: np.random.Generator) -> _Camera:
        """Draw all but the sensor's noise, in an order that does not depend on the pictures' size."""

        def normal(*shape: int) -> Floats:
            return rng.standard_normal((n, *shape), dtype=np.float32)

        polarity = np.where(rng.random(n) < style.dark_objects_share, np.float32(-1), np.float32(1))
        direction = 2 * np.pi * rng.random(n, dtype=np.float32)
        slope = style.light_slope * np.exp(0.35 * normal())[:, None]
        return cls(
            style=style,
            level=(style.background_level - 0.06 * polarity + 0.07 * normal()).astype(np.float32),
            contrast=(polarity * style.contrast * np.exp(0.12 * normal())).astype(np.float32),
            blur_um=(style.blur_sigma_um * np.exp(0.2 * normal())).astype(np.float32),
            slope=(slope * np.stack([np.cos(direction), np.sin(direction)], axis=1)).astype(np.float32),
            vignette=np.abs(style.vignette * (1 + 0.5 * normal())).astype(np.float32),
            vignette_at=0.15 * normal(2),
            clouds=normal(7, 7),
            grit=normal(40, 40),
        )

    def expose(
        self, signal: Floats, images: range, size_px: int, px_per_um: float, rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """Pictures (m, size_px, size_px) uint8 of the canvases of `images`."""
        some = slice(images.start, images.stop)
        optics = _blur_matrices(self.blur_um[some], size_px, signal.shape[1], px_per_um)
        seen = optics @ signal @ optics.transpose(0, 2, 1)
        # The camera exposes for the mean of what it sees: brightness as such tells nothing of the content.
        seen -= seen.mean(axis=(1, 2), keepdims=True)
        at = ((np.arange(size_px, dtype=np.float32) + 0.5) / size_px - 0.5).astype(np.float32)
        x, y = at[None, None, :], at[None, :, None]
        slope, centre = self.slope[some, :, None, None], self.vignette_at[some, :, None, None]
        light = 1 + slope[:, 0] * x + slope[:, 1] * y
        light = light - 2 * self.vignette[some, None, None] * ((x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2)
        clouds = self.style.mottle * _upsample(self.clouds[some], size_px)
        level = self.level[some, None, None] + clouds
        picture = np.clip(light * (level + self.contrast[some, None, None] * seen), 0, 1)
        noise = np.sqrt(self.style.shot_noise * picture + self.style.read_noise**2)
        picture = picture + noise * rng.standard_normal(picture.shape, dtype=np.float32)
        return np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)


def _blur_matrices(blur_um: Floats, size_px: int, canvas_px: int, px_per_um: float) -> Floats:
    """(m, size_px, canvas_px): Gaussian blur and resampling to the tile's own pixels in one product per axis."""
    pixel_um = TILE_UM / size_px
    to = (np.arange(size_px, dtype=np.float32) + 0.5) * pixel_um
    start = (np.arange(canvas_px, dtype=np.float32) + 0.5 - canvas_px / 2) / px_per_um + TILE_UM / 2
    # A pixel is a box of its own width: variance width^2 / 12.
    sigma = np.sqrt(blur_um**2 + pixel_um**2 / 12)[:, None, None]
    weight = np.exp(-0.5 * ((to[:, None] - start) / sigma) ** 2)
    return (weight / weight.sum(axis=2, keepdims=True)).astype(np.float32)


def _upsample(grid: Floats, size: int) -> Floats:
    """Random smooth fields (m, size, size) of unit variance through the grids (m, g, g) of normal draws."""
    g = grid.shape[1]
    at = np.linspace(0, g - 1, size, dtype=np.float32)[:, None]
    weight = np.exp(-0.5 * ((at - np.arange(g)) / 0.6) ** 2)
    weight = (weight / np.sqrt((weight**2).sum(axis=1, keepdims=True))).astype(np.float32)
    return weight @ grid @ weight.T


def soil_micrographs(
    n_sites: int = 6,
    images_per_site: int = 700,
    size_px: int = 32,
    seed: int = 0,
    test_fraction: float = 0.25,
    cache_dir: Path | Literal["default"] | None = "default",
) -> Dataset:
    """The procedural data set: one group per site, counts of bacteria, fungi and nematodes, no labels.

    Args:
        n_sites: sites; the first ones stay the same when there are more.
        images_per_site: pictures of each site.
        size_px: pixels along a tile of 40 um.
        seed: equal seeds give equal pictures, bit for bit.
        test_fraction: part of each site's pictures that is held out, in [0, 1].
        cache_dir: where to keep the pictures; "default" is `files.cache_root`, None keeps nothing.

    Returns:
        `Dataset` of n_sites * images_per_site images (N, size_px, size_px, 1) uint8, site after site, counts (N, 3).
    """
    if n_sites < 1 or images_per_site < 1 or size_px < 8:
        raise ValueError(
            "need n_sites >= 1, images_per_site >= 1, size_px >= 8, "
            f"got {n_sites}, {images_per_site}, {size_px}"
        )
    if not 0 <= test_fraction <= 1:
        raise ValueError(f"test_fraction must lie in [0, 1], got {test_fraction}")
    arguments = (n_sites, images_per_site, size_px, seed, test_fraction)
    arrays = None
    path = None
    if cache_dir is not None:
        key = hashlib.sha256(json.dumps([GENERATOR_VERSION, *arguments]).encode()).hexdigest()[:16]
        path = (_default_cache() if cache_dir == "default" else Path(cache_dir)) / f"soil-micrographs-{key}.npz"
        arrays = _load(path, n_sites * images_per_site, size_px)
    if arrays is None:
        arrays = _generate(*arguments)
        if path is not None:
            _store(path, arrays)
    return Dataset(
        name="soil-micrographs",
        images=arrays["images"],
        group=np.repeat(np.arange(n_sites, dtype=np.int64), images_per_site),
        test=arrays["test"],
        counts=arrays["counts"],
        kinds=KINDS,
        group_names=tuple(f"site-{site}" for site in range(n_sites)),
    )


def _generate(
    n_sites: int, images_per_site: int, size_px: int, seed: int, test_fraction: float
) -> dict[str, NDArray]:
    for_styles, for_images = np.random.SeedSequence(seed).spawn(2)
    styles = draw_site_styles(n_sites, np.random.default_rng(for_styles))
    images, counts, test = [], [], []
    for style, rng in zip(styles, np.random.default_rng(for_images).spawn(n_sites), strict=True):
        held_out = np.arange(images_per_site) < round(test_fraction * images_per_site)
        test.append(rng.permutation(held_out))
        site_images, site_counts = render(style, images_per_site, size_px, rng)
        images.append(site_images)
        counts.append(site_counts)
    return {"images": np.concatenate(images), "counts": np.concatenate(counts), "test": np.concatenate(test)}


def _default_cache() -> Path:
    return cache_root()


def _load(path: Path, n: int, size_px: int) -> dict[str, NDArray] | None:
    """What the cache holds; None where it holds nothing that can be used."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("images", "counts", "test")}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
        return None
    expected = {"images": (n, size_px, size_px, 1), "counts": (n, len(KINDS)), "test": (n,)}
    return arrays if all(arrays[name].shape == shape for name, shape in expected.items()) else None


def _store(path: Path, arrays: dict[str, NDArray]) -> None:
    """Write under another name and rename: nobody reads half a file. An unwritable cache is no error."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            np.savez(file, images=arrays["images"], counts=arrays["counts"], test=arrays["test"])
        temporary.replace(path)
    except OSError:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
