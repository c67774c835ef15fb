"""What lies on the slide: organisms and soil grains drawn at random, and stamped as distance fields.

Everything is in micrometres of the slide; a tile is the square [0, TILE_UM) x [0, TILE_UM). Centres are drawn in a
square a few micrometres wider, so that some of what is seen at the tile's edge has its centre beyond it. Two primitives
are enough: tapered capsules (rods, cocci, hyphae, worms) and convex polygons (grains).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

TILE_UM = 40.0
"""Width of one tile on the slide, in micrometres: 1.25 um per pixel at 32 px."""

_STAMP_ELEMENTS = 1_500_000
"""Pixels handled at a time while stamping; bounds memory, changes nothing else."""


@dataclass(frozen=True)
class Shapes:
    """P primitives of one layer, each a part of some object in one image.

    Attributes:
        image: (P,) int64, the image that the primitive lies in.
        centre_um: (P, 2) x and y of the middle of the primitive.
        reach_um: (P,) distance from the centre beyond which it is nowhere visible.
        radius_um: (P,) half its thickness, the scale of its inner structure.
        soft_um: (P,) width of its edge: small is in focus.
        strength: (P,) how strongly it absorbs (negative: it is brighter than its surroundings).
        half_um: (P, 2) vector from the centre to the second end (capsules), or None.
        taper_um: (P,) radius at the second end less radius at the centre (capsules), or None.
        normals: (P, F, 2) outward unit normals of the F faces (polygons), or None.
        faces_um: (P, F) distance of the faces from the centre (polygons), or None.
    """

    image: Ints
    centre_um: Floats
    reach_um: Floats
    radius_um: Floats
    soft_um: Floats
    strength: Floats
    half_um: Floats | None = None
    taper_um: Floats | None = None
    normals: Floats | None = None
    faces_um: Floats | None = None

    def distance_um(self, which: Ints, dx: Floats, dy: Floats) -> Floats:
        """Signed distance (negative inside) of points dx, dy (len(which), M) off the centres of primitives `which`."""
        if self.half_um is not None and self.taper_um is not None:
            hx, hy = self.half_um[which, 0, None], self.half_um[which, 1, None]
            along = np.clip((dx * hx + dy * hy) / np.maximum(hx * hx + hy * hy, np.float32(1e-6)), -1, 1)
            radius = self.radius_um[which, None] + along * self.taper_um[which, None]
            return (np.hypot(dx - along * hx, dy - along * hy) - radius).astype(np.float32)
        assert self.normals is not None
        assert self.faces_um is not None
        distance = np.full(dx.shape, -np.inf, np.float32)
        for face in range(self.normals.shape[1]):
            nx, ny = self.normals[which, face, 0, None], self.normals[which, face, 1, None]
            np.maximum(distance, dx * nx + dy * ny - self.faces_um[which, face, None], out=distance)
        return distance


def stamp(shapes: Shapes, images: range, canvas_px: int, px_per_um: float) -> tuple[Ints, Floats, Ints]:
    """Union of the shapes of some images, as the pixels they reach on canvases centred on the tile.

    Args:
        shapes: the primitives of one layer.
        images: the images wanted.
        canvas_px: width of the square canvas of each image, pixels.
        px_per_um: canvas pixels per micrometre.

    Returns:
        pixel: (M,) flat indices into (len(images), canvas_px, canvas_px), each once, ascending.
        distance: (M,) signed distance to the nearest primitive's edge, micrometres, negative inside.
        owner: (M,) that primitive.
    """
    nearest = np.full(len(images) * canvas_px * canvas_px, np.inf, np.float32)
    owner = np.full(len(nearest), -1, np.int64)
    shift_px = canvas_px / 2 - TILE_UM / 2 * px_per_um
    for which, half in _batches(shapes, images, px_per_um):
        centre = shapes.centre_um[which] * np.float32(px_per_um) + np.float32(shift_px)
        corner = np.floor(centre).astype(np.int64)
        offset = np.arange(-half, half + 1)
        column = corner[:, :1] + offset
        row = corner[:, 1:] + offset
        seen = ((row >= 0) & (row < canvas_px))[:, :, None] & ((column >= 0) & (column < canvas_px))[:, None, :]
        flat = (shapes.image[which] - images.start)[:, None, None] * canvas_px**2
        pixel = (flat + row[:, :, None] * canvas_px + column[:, None, :]).reshape(len(which), -1)
        dx = ((column + 0.5 - centre[:, :1]) / px_per_um).astype(np.float32)
        dy = ((row + 0.5 - centre[:, 1:]) / px_per_um).astype(np.float32)
        side = len(offset)
        distance = shapes.distance_um(which, np.tile(dx, (1, side)), np.repeat(dy, side, axis=1))
        seen = seen.reshape(pixel.shape) & (distance < (shapes.reach_um - shapes.radius_um)[which, None])
        pixel, distance = pixel[seen], distance[seen]
        np.minimum.at(nearest, pixel, distance)
        won = distance <= nearest[pixel]
        owner[pixel[won]] = np.broadcast_to(which[:, None], seen.shape)[seen][won]
    hit = np.flatnonzero(owner >= 0)
    return hit, nearest[hit], owner[hit]


def _batches(shapes: Shapes, images: range, px_per_um: float) -> Iterator[tuple[Ints, int]]:
    """The primitives of `images` in batches of alike patch sizes: (indices, half width of their patch in pixels)."""
    wanted = np.flatnonzero((shapes.image >= images.start) & (shapes.image < images.stop))
    need = np.ceil(shapes.reach_um[wanted] * px_per_um).astype(np.int64) + 1
    while len(wanted):
        half = int(need.min() * 1.3) + 1
        now = need <= half
        group = wanted[now]
        wanted, need = wanted[~now], need[~now]
        step = max(1, _STAMP_ELEMENTS // (2 * half + 1) ** 2)
        for start in range(0, len(group), step):
            yield group[start : start + step], half


def _uniform(rng: np.random.Generator, low: float, high: float, size: int | tuple[int, ...]) -> Floats:
    return (low + (high - low) * rng.random(size, dtype=np.float32)).astype(np.float32)


def _normal(rng: np.random.Generator, size: int | tuple[int, ...]) -> Floats:
    return rng.standard_normal(size, dtype=np.float32)


def _unit(angle: Floats) -> Floats:
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _scatter(mean: NDArray[np.float64], pad_um: float, rng: np.random.Generator) -> tuple[Ints, Floats]:
    """Poisson points, `mean[i]` per tile on average in image i, over the tile and `pad_um` around it."""
    wide = TILE_UM + 2 * pad_um
    number = rng.poisson(mean * (wide / TILE_UM) ** 2)
    image = np.repeat(np.arange(len(mean)), number)
    return image, _uniform(rng, -pad_um, TILE_UM + pad_um, (len(image), 2))


def _count(image: Ints, centre_um: Floats, n_images: int) -> Ints:
    """Objects whose centre lies in the tile, per image."""
    inside = ((centre_um >= 0) & (centre_um < TILE_UM)).all(axis=1)
    return np.bincount(image[inside], minlength=n_images).astype(np.int64)


def _defocus(rng: np.random.Generator, n: int, share: float) -> Floats:
    """Edge widths in micrometres: most objects lie in the plane of focus, `share` of them above or below it."""
    return np.where(rng.random(n) < share, _uniform(rng, 0.7, 2.0, n), _uniform(rng, 0.12, 0.3, n)).astype(np.float32)


def _capsules(image: Ints, a: Floats, b: Floats, ra: Floats, rb: Floats, soft: Floats, strength: Floats) -> Shapes:
    """Capsules from ends a, b (P, 2) with radii ra, rb (P,), micrometres."""
    half, radius, taper = ((x / 2).astype(np.float32) for x in (b - a, ra + rb, rb - ra))
    # The halo and the soft edge reach beyond the body; 1.5 um and 3 edge widths hold all that shading draws.
    beyond = np.abs(taper) + 1.5 + 3 * soft
    reach = np.sqrt((half**2).sum(axis=1)) + radius + beyond
    return Shapes(image, a + half, reach, radius, soft, strength, half_um=half, taper_um=taper)


def bacteria(
    mean: NDArray[np.float64], rod_share: float, cluster_um: float, rng: np.random.Generator
) -> tuple[Shapes, Ints]:
    """Rods and cocci in clusters; counted by their centres.

    Args:
        mean: (n_images,) expected bacteria per tile.
        rod_share: part of them that are rods; the others are cocci. Each cluster leans to one of the two.
        cluster_um: standard deviation of a cluster's spread.
        rng: generator of every draw.

    Returns:
        The capsules, and (n_images,) counts.
    """
    pad, per_image = 6.0, 3
    image, centre = _scatter(mean, pad, rng)
    n = len(image)
    nest = image * per_image + np.minimum(rng.geometric(0.5, n) - 1, per_image - 1)
    nests = len(mean) * per_image
    nest_centre = _uniform(rng, -pad, TILE_UM + pad, (nests, 2))
    nest_angle = _uniform(rng, 0, np.pi, nests)
    nest_rods = rng.beta(max(1.3 * rod_share, 1e-3), max(1.3 * (1 - rod_share), 1e-3), nests)
    clustered = rng.random(n) < 0.7
    around = nest_centre[nest] + np.float32(cluster_um) * _normal(rng, (n, 2))
    centre[clustered] = around[clustered]
    # Folding back what fell outside the wide square keeps the density even, so that `mean` is exact.
    centre = (centre + pad) % (TILE_UM + 2 * pad) - pad
    rod = rng.random(n) < nest_rods[nest]
    angle = nest_angle[nest] + 0.5 * _normal(rng, n)
    half_length = np.where(rod, _uniform(rng, 0.9, 2.0, n), _uniform(rng, 0.0, 0.12, n)).astype(np.float32)
    radius = np.where(rod, _uniform(rng, 0.7, 0.9, n), _uniform(rng, 1.0, 1.3, n)).astype(np.float32)
    half = half_length[:, None] * _unit(angle)
    strength = _uniform(rng, 1.0, 1.2, n)
    shapes = _capsules(image, centre - half, centre + half, radius, radius, _defocus(rng, n, 0.05), strength)
    return shapes, _count(image, centre, len(mean))


def fungi(mean: NDArray[np.float64], hypha_width_um: float, rng: np.random.Generator) -> tuple[Shapes, Ints]:
    """Hyphal trees: three or four wandering hyphae from one root point, with side branches and septa.

    Args:
        mean: (n_images,) expected trees per tile.
        hypha_width_um: thickness of a hypha at its root.
        rng: generator of every draw.

    Returns:
        The capsules, and (n_images,) counts of trees, each counted where its ROOT point lies.
    """
    arms, steps, twigs, twig_steps = 4, 12, 2, 6
    image, root = _scatter(mean, 3.0, rng)
    n = len(image)
    size = _uniform(rng, 0.85, 1.15, n)
    width = hypha_width_um * _uniform(rng, 0.85, 1.15, n)
    strength, soft = _uniform(rng, 0.8, 1.05, n), _defocus(rng, n, 0.05)
    kept_arms = np.arange(arms) < rng.integers(3, arms + 1, n)[:, None]

    heading = _uniform(rng, 0, 2 * np.pi, (n, 1)) + np.arange(arms, dtype=np.float32) * (2 * np.pi / 3.4)
    heading = heading + 0.3 * _normal(rng, (n, arms))
    arm, arm_heading = _walk(root[:, None], heading, 1.35 * size[:, None], steps, 0.2, rng)
    start = rng.integers(2, steps - 1, (n, arms, twigs))
    side = np.where(rng.random((n, arms, twigs)) < 0.5, -1, 1) * _uniform(rng, 0.6, 1.2, (n, arms, twigs))
    twig_root = np.take_along_axis(arm, start[..., None], axis=2)
    twig_heading = np.take_along_axis(arm_heading, start, axis=2) + side.astype(np.float32)
    twig, _ = _walk(twig_root, twig_heading, 1.2 * size[:, None, None], twig_steps, 0.22, rng)
    kept_twigs = kept_arms[..., None] & (rng.random((n, arms, twigs)) < 0.6)

    parts = []
    for points, kept, thin in ((arm, kept_arms, 1.0), (twig, kept_twigs, 0.85)):
        last = points.shape[-2] - 1
        tree = np.broadcast_to(np.arange(n).reshape((n,) + (1,) * (kept.ndim - 1)), kept.shape)[kept]
        path = points[kept]
        fade = np.linspace(1.0, 0.75, last + 1, dtype=np.float32) * (1 + 0.08 * _normal(rng, path.shape[:2]))
        radius = np.maximum(0.5 * thin * width[tree, None] * fade, 0.25).astype(np.float32)
        septum = 1 + 0.35 * (rng.random((len(path), last)) < 0.2)
        tree = np.repeat(tree, last)
        parts.append(
            _capsules(
                image[tree],
                path[:, :-1].reshape(-1, 2),
                path[:, 1:].reshape(-1, 2),
                radius[:, :-1].ravel(),
                radius[:, 1:].ravel(),
                soft[tree],
                (strength[tree] * septum.ravel()).astype(np.float32),
            )
        )
    spore = 0.75 * width.astype(np.float32)
    parts.append(_capsules(image, root, root, spore, spore, soft, strength * np.float32(1.2)))
    return _join(parts), _count(image, root, len(mean))


def _walk(
    start: Floats, heading: Floats, step_um: Floats, steps: int, wander: float, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Paths of `steps` steps from start (..., 2): points (..., steps + 1, 2) and headings (..., steps + 1)."""
    turn = np.cumsum(wander * _normal(rng, (*heading.shape, steps)), axis=-1, dtype=np.float32)
    angle = heading[..., None].astype(np.float32) + turn
    move = np.cumsum(step_um[..., None, None] * _unit(angle), axis=-2, dtype=np.float32)
    origin = np.broadcast_to(start, (*heading.shape, 2))[..., None, :]
    return np.concatenate([origin, origin + move], axis=-2), np.concatenate([angle[..., :1], angle], axis=-1)


def _join(parts: list[Shapes]) -> Shapes:
    def joined(name: str) -> NDArray:
        return np.concatenate([getattr(part, name) for part in parts])

    names = ("image", "centre_um", "reach_um", "radius_um", "soft_um", "strength", "half_um", "taper_um")
    return Shapes(**{name: joined(name) for name in names})


def nematodes(mean: NDArray[np.float64], width_um: float, rng: np.random.Generator) -> tuple[Shapes, Ints]:
    """Sinuous worms, blunt at the head and drawn out at the tail; counted by the middle of the body.

    They are short for their kind (17 to 25 um, where real juveniles pass 150), so that one body fits one tile.

    Args:
        mean: (n_images,) expected worms per tile.
        width_um: thickness of the body at its widest.
        rng: generator of every draw.

    Returns:
        The capsules, and (n_images,) counts.
    """
    steps = 22
    image, middle = _scatter(mean, 4.0, rng)
    n = len(image)
    u = np.linspace(0, 1, steps + 1, dtype=np.float32)
    wave = _uniform(rng, 0.5, 1.1, (n, 1)) * np.sin(
        2 * np.pi * (_uniform(rng, 0.7, 1.4, (n, 1)) * u[:-1] + rng.random((n, 1), dtype=np.float32))
    )
    angle = _uniform(rng, 0, 2 * np.pi, (n, 1)) + wave + 1.2 * _normal(rng, (n, 1)) * (u[:-1] - 0.5)
    step = _uniform(rng, 17.0, 25.0, (n, 1, 1)) / steps
    path = np.zeros((n, steps + 1, 2), np.float32)
    np.cumsum(step * _unit(angle), axis=1, out=path[:, 1:])
    path += (middle - path[:, steps // 2])[:, None]
    taper = np.minimum(1, 0.45 + 3.5 * u) * np.minimum(1, 1.6 * (1 - u) ** 0.8 + 0.06)
    radius = (0.5 * width_um * _uniform(rng, 0.85, 1.2, (n, 1)) * taper).astype(np.float32)
    shapes = _capsules(
        np.repeat(image, steps),
        path[:, :-1].reshape(-1, 2),
        path[:, 1:].reshape(-1, 2),
        radius[:, :-1].ravel(),
        radius[:, 1:].ravel(),
        np.repeat(_defocus(rng, n, 0.05), steps),
        np.repeat(_uniform(rng, 0.8, 1.05, n), steps),
    )
    return shapes, _count(image, middle, len(mean))


def grains(mean: NDArray[np.float64], radius_um: float, rng: np.random.Generator) -> Shapes:
    """Mineral grains and clods: angular, as small as a coccus or a third of a tile wide, often out of focus.

    Args:
        mean: (n_images,) expected grains per tile.
        radius_um: median radius.
        rng: generator of every draw.
    """
    sides = 7
    image, centre = _scatter(mean, 6.0, rng)
    n = len(image)
    radius = np.clip(radius_um * np.exp(0.6 * _normal(rng, n)), 0.6, 8.0).astype(np.float32)
    angle = _uniform(rng, 0, 2 * np.pi, (n, 1)) + np.arange(sides, dtype=np.float32) * (2 * np.pi / sides)
    normals = _unit((angle + 0.25 * _normal(rng, (n, sides))).astype(np.float32))
    faces = radius[:, None] * _uniform(rng, 0.6, 1.15, (n, sides))
    strength = _uniform(rng, 0.5, 1.1, n) * np.where(rng.random(n) < 0.7, -1, 1).astype(np.float32)
    soft = _defocus(rng, n, 0.35)
    reach = 1.8 * radius + 1.5 + 3 * soft
    return Shapes(image, centre, reach, radius, soft, strength, normals=normals, faces_um=faces)
