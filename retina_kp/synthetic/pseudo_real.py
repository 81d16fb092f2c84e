"""A "pseudo-real" clinic: CF-FA pairs of a look that the training renderer never draws, annotated as if by hand.

They stand in for patients' pairs wherever phase 4 (sim-to-real) is shown. Fixed is a hazy, over-sharpened photograph of
a tessellated fundus: the choroid's broad bands cross the retina's vessels. Moving is a late angiogram: its dye stains
the walls of these vessels, which become double lines. Behind them the choroid fills with bright single lines that the
photograph does not show. Half of the eyes carry laser scars. Pairs are written in layout 2, aligned eyes in layout 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from ..core.files import write_text
from ..core.geometry import corners, image_center, inside, overlap_fraction, pixel_grid, similarity, warp_points
from ..core.images import write_image
from .drawing import LESIONS, UNITS, rasterise, view_matrix, visible_junctions
from .pairs import SamplePair
from .vasculature import GrowthOptions, Retina, grow_retina

GROWTH = GrowthOptions(tortuosity=(0.04, 0.07), trunk_radius_deg=(0.15, 0.2), lesion_probability=0.8)
CHOROID_LIGHT = (0.25, 0.45)  # of its vessels, of white
ROTATION_DEG, SCALE, SHIFT, SHEAR = 30.0, (0.75, 1.35), 0.12, 0.02  # of image 1 against image 0; SHIFT in widths
POINT_COUNT, NOISE_PX, OUTLIER_SHARE, OUTLIER_MIN_PX = (10, 20), 2.0, 0.05, 25.0
SEED_DOMAIN = 40_401  # keeps these eyes apart from those of `pairs` and `training_pairs` of the same seed
_soft = partial(cv2.GaussianBlur, ksize=(0, 0))


@dataclass(frozen=True)
class PseudoRealPair(SamplePair):
    """With annotated points (N, 2) px, NOISE_PX off in both images; where ``gross`` (N,), image 1's lies anywhere."""

    points0_xy: np.ndarray
    points1_xy: np.ndarray
    gross: np.ndarray


def write_pseudo_real(
    root: str | Path,
    count: int,
    seed: int = 0,
    size_px: int = 512,
    choroid_light=CHOROID_LIGHT,
    turn_deg: tuple[float, float] = (0.0, ROTATION_DEG),
) -> Path:
    """Write pairs as ROOT/operation_pre_filtered_cffa/<eye>_<visit>/<eye>_{01,02}.{png,txt}, two per eye; → ROOT."""
    for index in range(count):
        pair, eye = pseudo_real_pair(seed, index, size_px, choroid_light, turn_deg), f"{index // 2 + 1:03d}"
        stem = Path(root) / "operation_pre_filtered_cffa" / f"{eye}_{index % 2 + 1:02d}" / eye
        for side, image, points_xy in (("01", pair.fixed, pair.points0_xy), ("02", pair.moving, pair.points1_xy)):
            write_image(f"{stem}_{side}.png", image)
            write_text(f"{stem}_{side}.txt", "".join(f"{x:.2f} {y:.2f}\n" for x, y in points_xy))
    return Path(root)


def write_pseudo_generated(root: str | Path, count: int, seed: int = 0, size_px: int = 512) -> Path:
    """Write aligned eyes of the clinic's look in layout 1, ROOT/<n>_N/<n>_N_{cf,fa,seg}.png; → ROOT."""
    for index in range(count):
        name = f"{index + 1}_N"
        for suffix, image in zip(("cf", "fa", "seg"), aligned_images(seed, index, size_px), strict=True):
            write_image(Path(root) / name / f"{name}_{suffix}.png", image)
    return Path(root)


def aligned_images(seed: int, index: int, size_px: int = 512) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fundus (S, S, 3), late angiogram (S, S) and vessel mask (S, S) in one frame, uint8, of an eye in no pair."""
    rng = np.random.default_rng([SEED_DOMAIN, seed, index, 2])
    retina, choroid, hw = _eye(rng), _choroid(rng), (size_px, size_px)
    looks_at = retina.disc_xy * rng.uniform(0.2, 0.6) + rng.normal(0, 1.0, 2)
    view = view_matrix(hw, rng.uniform(34, 48), tuple(looks_at), rng.uniform(-8, 8))
    valid = _in_field(pixel_grid(hw).numpy(), hw)
    fixed, vessels = _photograph(rng, _fundus, retina, view, valid)
    look = partial(_late_angiogram, choroid=_behind(choroid, view, hw), choroid_light=CHOROID_LIGHT)
    moving = _photograph(rng, look, retina, view, valid)[0][..., 1].copy()
    return fixed, moving, (vessels & valid).astype(np.uint8) * 255


def pseudo_real_pair(
    seed: int,
    index: int,
    size_px: int = 512,
    choroid_light: tuple[float, float] = CHOROID_LIGHT,
    turn_deg: tuple[float, float] = (0.0, ROTATION_DEG),
) -> PseudoRealPair:
    """Pair number ``index`` of a seed with its truth; pairs 2k and 2k + 1 show one eye.

    size_px: longer side of image 0. choroid_light: range of the light of the vessels that only the angiogram shows; (0,
    0) leaves them out, and the pair is easier. turn_deg: range of the turn's size; its sense is either.
    """
    rng = np.random.default_rng([SEED_DOMAIN, seed, index])
    own = np.random.default_rng([SEED_DOMAIN, seed, index // 2, 1])
    retina, choroid = _eye(own), _choroid(own)
    hw0, hw1 = (round(0.8 * size_px), size_px), (round(0.75 * size_px), round(0.9 * size_px))
    valid0, valid1 = (_in_field(pixel_grid(hw).numpy(), hw) for hw in (hw0, hw1))
    for _ in range(100):
        view0, H_0to1 = _cameras(rng, retina, hw0, hw1, turn_deg)
        junctions = visible_junctions(retina, view0, hw0, min_width_px=1.5)[0]
        junctions = junctions[_in_field(junctions, hw0, 6.0)]
        shared = junctions[_in_field(warp_points(junctions, H_0to1), hw1, 6.0)]
        if len(shared) >= POINT_COUNT[1]:
            break
    else:
        why = f"in 100 tries no cameras shared {POINT_COUNT[1]} junctions of vessels at least 1.5 px wide"
        raise RuntimeError(f"pair {index} of seed {seed}: {why}; take a larger size_px, or another seed")
    fixed, vessels = _photograph(rng, _fundus, retina, view0, valid0)
    look = partial(_late_angiogram, choroid=_behind(choroid, H_0to1 @ view0, hw1), choroid_light=choroid_light)
    moving = _photograph(rng, look, retina, H_0to1 @ view0, valid1)[0][..., 1].copy()
    true0 = _well_spread(rng, shared, int(rng.integers(POINT_COUNT[0], POINT_COUNT[1] + 1)))
    annotation = _annotate(rng, true0, warp_points(true0, H_0to1), hw0, hw1)
    truth = (H_0to1, vessels & valid0, junctions, valid0, valid1)
    return PseudoRealPair(fixed, moving, *truth, ("CF", "FA"), overlap_fraction(H_0to1, hw0, hw1), *annotation)


def _eye(rng) -> Retina:
    """A retina; every other one with laser scars on a rough grid around the macula."""
    retina, spacing = grow_retina(rng, GROWTH), rng.uniform(1.8, 2.6)
    xy = np.stack(np.meshgrid(*[np.arange(-26, 26, spacing)] * 2), -1).reshape(-1, 2)
    xy = xy + rng.normal(0, 0.22 * spacing, xy.shape)
    xy = xy[(np.linalg.norm(xy, axis=1) > rng.uniform(7, 10)) & (rng.random(len(xy)) < 0.7 * rng.integers(2))]
    kind, radius = np.full(len(xy), LESIONS.index("scar")), rng.uniform(0.2, 0.4, len(xy))
    scars = np.column_stack([kind, xy, radius, rng.integers(2**31, size=len(xy))])
    return replace(retina, lesions=np.vstack([retina.lesions, scars]))


def _choroid(rng) -> list[tuple[Retina, np.ndarray]]:
    """Two more trees of vessels, each with its place (3, 3) behind the retina, its degrees → the retina's."""
    return [
        (grow_retina(rng, GROWTH), similarity(rng.uniform(0, 360), 1.0, (0, 0), tuple(rng.normal(0, 4, 2))))
        for _ in range(2)
    ]


def _behind(choroid: list[tuple[Retina, np.ndarray]], view: np.ndarray, hw) -> np.ndarray:
    """(H, W) coverage of the choroid's vessels in a view of the retina."""
    return np.max([_draw(tree, view @ placed, hw)[:2].max(0) for tree, placed in choroid], 0)


def _draw(retina: Retina, view: np.ndarray, hw) -> np.ndarray:
    """(8, H, W) float32 layers of a view."""
    return rasterise(retina, view, hw) * np.array([*UNITS.values()], np.float32)[:, None, None]


def _cameras(rng, retina: Retina, hw0, hw1, turn_deg) -> tuple[np.ndarray, np.ndarray]:
    """(3, 3) degrees → px of image 0, and H_0to1."""
    looks_at = retina.disc_xy * rng.uniform(0.2, 0.6) + rng.normal(0, 1.0, 2)
    view0 = view_matrix(hw0, rng.uniform(34, 48), tuple(looks_at), rng.uniform(-8, 8))
    scale, turn = np.exp(rng.uniform(*np.log(SCALE))), rng.uniform(-1, 1)
    angle = turn * (turn_deg[1] - turn_deg[0]) + np.copysign(turn_deg[0], turn)
    shear, target = np.eye(3), np.array(image_center(hw1)) + rng.uniform(-SHIFT, SHIFT, 2) * hw1[1]
    shear[:2, :2] += rng.uniform(-SHEAR, SHEAR, (2, 2))
    return view0, similarity(angle, scale, image_center(hw0), target) @ shear


def _in_field(xy: np.ndarray, image_hw, border_px: float = 0.0) -> np.ndarray:
    """Points (..., 2) in the field of view, a disc cut off by the frame, at least border_px from its edge."""
    off_center = np.linalg.norm(xy - image_center(image_hw), axis=-1)
    return inside(xy, image_hw, border_px) & (off_center < 0.58 * image_hw[1] - border_px)


def _well_spread(rng, xy: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the points, each as far as can be from those before."""
    chosen = xy[rng.integers(len(xy))][None]
    while len(chosen) < count:
        chosen = np.vstack([chosen, xy[np.linalg.norm(xy[:, None] - chosen, axis=-1).min(1).argmax()]])
    return chosen


def _annotate(rng, points0: np.ndarray, points1: np.ndarray, hw0, hw1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points as clicked in both images (N, 2), and which are gross errors (N,)."""
    end0, end1 = corners(hw0)[2], corners(hw1)[2]
    anywhere = rng.uniform(0, 1, points1.shape) * end1
    gross = (rng.random(len(points1)) < OUTLIER_SHARE) & (np.linalg.norm(anywhere - points1, axis=1) > OUTLIER_MIN_PX)
    clicked0, clicked1 = (points + rng.normal(0, NOISE_PX, points.shape) for points in (points0, points1))
    return clicked0.clip(0, end0), np.where(gross[:, None], anywhere, clicked1).clip(0, end1), gross


def _photograph(rng, look, retina: Retina, view: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A look's picture (H, W, 3) uint8 with vignette, sharpening halos and JPEG blocks, and vessels (H, W) bool."""
    layers, width = _draw(retina, view, valid.shape), valid.shape[1]
    picture = look(rng, layers, float(np.sqrt(np.linalg.det(view[:2, :2]))))
    middle = np.array(image_center(valid.shape)) + rng.normal(0, 0.1 * width, 2)
    radius2 = (((pixel_grid(valid.shape).numpy() - middle) / (0.5 * width)) ** 2).sum(-1)
    vignette = (1 - rng.uniform(0.2, 0.4) * radius2.clip(0, 1.5))[..., None]
    picture = np.broadcast_to(picture * vignette, (*valid.shape, 3))
    picture = picture + rng.uniform(0.5, 2.0) * (picture - _soft(picture, sigmaX=rng.uniform(1.5, 3.5)))
    image = (np.where(valid[..., None], picture, 0.02).clip(0, 1) * 255 + 0.5).astype(np.uint8)
    packed = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(20, 50))])[1]
    vessels = np.maximum(layers[0], layers[1]) > 0.5
    return np.ascontiguousarray(cv2.imdecode(packed, cv2.IMREAD_COLOR)[..., ::-1]), vessels


def _fundus(rng, layers: np.ndarray, px_per_deg: float) -> np.ndarray:
    """(H, W, 3) RGB: vessels over the broad bands of a tessellated choroid, behind haze."""
    artery, vein, calibre, reflex, hemorrhage, exudate, _, scar = layers
    choroid = np.exp(-((_clouds(rng, vein.shape, 2.2 * px_per_deg) / rng.uniform(0.3, 0.5)) ** 2))
    light = 1 + rng.uniform(0.1, 0.26) * (choroid - 0.4) + 0.03 * _clouds(rng, vein.shape, 3)
    blood = vein * rng.uniform(0.3, 0.55) + artery * rng.uniform(0.15, 0.4)
    light = light * np.exp(-(calibre / 0.25).clip(0.2, 1) * blood - 0.5 * hemorrhage)
    light = light + reflex * rng.uniform(0.1, 0.3) + 0.3 * exudate + 0.35 * scar - 0.75 * _soft(scar, sigmaX=1.5) ** 3
    cast = np.array([rng.uniform(0.75, 1.0), rng.uniform(0.3, 0.6), rng.uniform(0.1, 0.5)], np.float32)
    haze = (rng.uniform(0.2, 0.45) + 0.1 * _clouds(rng, vein.shape, 0.3 * vein.shape[1])).clip(0, 0.75)[..., None]
    white = np.array([0.75, 0.72, 0.62], np.float32)
    return _soft(light, sigmaX=rng.uniform(0.6, 1.4))[..., None] * cast * 0.8 * (1 - haze) + haze * white


def _late_angiogram(rng, layers: np.ndarray, px_per_deg: float, choroid: np.ndarray, choroid_light) -> np.ndarray:
    """(H, W, 1) gray: stained walls around faded lumina before bright choroidal vessels, flush, leaks, film grain."""
    artery, vein, calibre, _, hemorrhage, exudate, _, scar = layers
    vessels, depth = np.maximum(artery, vein), (calibre / 0.2).clip(0.3, 1)
    walls = (_soft(vessels, sigmaX=1.6) - rng.uniform(0.4, 0.75) * vessels).clip(0) * 2
    flush = np.tanh(2.5 * _clouds(rng, vessels.shape, 1.8 * px_per_deg))
    leaks = _soft((_clouds(rng, vessels.shape, 0.4 * px_per_deg) > 2.7).astype(np.float32), sigmaX=0.12 * px_per_deg)
    image = rng.uniform(0.3, 0.45) + rng.uniform(0.03, 0.08) * flush
    image = image + rng.uniform(0.2, 0.6) * leaks + rng.uniform(0.25, 0.5) * walls
    image = image + rng.uniform(-0.12, 0.02) * vessels * depth + rng.uniform(*choroid_light) * choroid * (1 - vessels)
    image = image + 0.3 * exudate - 0.25 * hemorrhage - 0.2 * scar + 0.5 * (_soft(scar, sigmaX=2) - scar).clip(0)
    image = _soft(image, sigmaX=rng.uniform(0.6, 1.3)) + rng.uniform(0.005, 0.02) * _clouds(rng, vessels.shape, 2.2)
    return image[..., None]


def _clouds(rng, image_hw, cell_px: float) -> np.ndarray:
    noise = _soft(rng.standard_normal(image_hw).astype(np.float32), sigmaX=0.5 * cell_px)
    return (noise - noise.mean()) / noise.std()
