"""Synthetic batches for training and validation. Batch i depends on (seed, i) alone, so resuming is exact.

Every batch is a dict: image0, image1 (B, 1, H, W) in [0, 1]; valid0, valid1 (B, 1, H, W) bool fields of view; H_0to1
(B, 3, 3) float64; bend_0to1, where a pair may be of a round eye, what its true map adds (`core.dense`); vessel_mask0
(B, 1, H, W) bool; vessel_keypoints, vessel_keypoints1 (B, N, 2) px of image 0 and 1, NaN-padded, the annotated
junctions; true_keypoints (B, N, 2) px of image 0, all junctions however thin, for judging only; modalities, a list of
(fixed, moving); sample_ids, names under which image 0's frame comes back, "" if it never does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..core import geometry
from ..data import augment
from ..data.sources import ByteCache, pack, unpack
from .cameras import RoundOptions, random_eye, round_camera
from .drawing import anatomy_of, rasterise, view_matrix, visible_junctions
from .render import render
from .shown import CachedView, Shown, junctions_of, scene_of, true_map
from .vasculature import GrowthOptions, grow_retina
from .wide_looks import wide_field


@dataclass(frozen=True)
class SyntheticOptions:
    """What synthetic pairs look like. Sizes in px, angles in degrees."""

    size_px: int = 256  # side of the square images
    relative: geometry.TransformRange = geometry.TransformRange()  # image 0 → image 1
    absolute_rotation_deg: float = 180.0  # turn of image 0 itself
    zoom: tuple[float, float] = (0.38, 1.5)  # image 0 is drawn at so much of the cached resolution, log-uniform
    field_deg: tuple[float, float] = (18.0, 60.0)  # field of view of the 640 px cache
    fixed: tuple[str, ...] = ("CF", "CF", "CF", "CF", "OCT")  # drawn with equal chances
    moving: tuple[str, ...] = ("FA", "OCT", "OCTA")
    annotated_share: float = 1.0  # of the junctions; the others are true but nobody marked them
    frames_per_retina: int = 0  # 0: image 0 looks elsewhere every time; n: one of n frames, so that a sample comes back
    min_overlap: float = 0.25  # of image 1 inside image 0; otherwise another transform is drawn
    appearance: augment.AppearanceRange = augment.AppearanceRange()
    growth: GrowthOptions = GrowthOptions()
    round_share: float = 0.0  # of pairs of round eyes; of them H_0to1 is the best affine map
    eye: RoundOptions = RoundOptions()
    looks: tuple[tuple[str, str], ...] = ()  # (fixed, moving) of rarer kinds, drawn with equal chances
    looks_share: float = 0.0  # of pairs that are of one of these kinds; wide looks get wide fields

    def __post_init__(self):
        if self.looks_share and not self.looks:
            raise ValueError(
                f"looks: takes pairs of names such as ('UWF', 'FA'), as looks_share is {self.looks_share:g}"
            )


CACHE_PX = 640
VIEW_CACHE_BYTES = 128 * 2**20  # of each process; some 1000 retinas


def draw_view(seed: int, index: int, options: SyntheticOptions) -> CachedView:
    """Grow and draw retina number ``index`` of a seed, looking from beyond the fovea to the far side of the disc."""
    rng = np.random.default_rng([seed, index])
    retina = grow_retina(rng, options.growth)
    low, high = np.log(options.field_deg)
    field = float(np.exp(rng.uniform(low, high)))
    center = retina.disc_xy * rng.uniform(-0.4, 1.6) * min(1, field / 30) + rng.normal(0, 0.08 * field, 2)
    px_from_deg = view_matrix((CACHE_PX, CACHE_PX), field, tuple(center))
    layers = rasterise(retina, px_from_deg, (CACHE_PX, CACHE_PX))
    xy, _, width = visible_junctions(retina, px_from_deg, (CACHE_PX, CACHE_PX))
    annotated = np.random.default_rng([seed, index, 3]).random(len(xy)) < options.annotated_share
    return CachedView(layers, px_from_deg, anatomy_of(retina), xy, width, annotated)


_views = ByteCache(VIEW_CACHE_BYTES)  # of this process


def draw_cached_view(seed: int, index: int, options: SyntheticOptions) -> CachedView:
    """`draw_view`, kept in memory, compressed: .03 to .2 MB and 2 to 5 ms to restore."""

    def draw() -> tuple[list[tuple], CachedView]:
        view = draw_view(seed, index, options)
        return [pack(layer) for layer in view.layers], replace(view, layers=np.zeros(0, np.uint8))

    packed, view = _views.get((seed, index, options), draw)
    return replace(view, layers=np.stack([unpack(*layer) for layer in packed]))


class SyntheticPairs:
    """Endless pairs from a pool of ``pool_size`` retinas, drawn on first use (.1 s each), rendered anew every time."""

    def __init__(self, seed: int, pool_size=600, options=SyntheticOptions(), pool_seed: int | None = None):
        self.seed, self.pool_size, self.options = seed, pool_size, options
        self.pool_seed = seed if pool_seed is None else pool_seed

    def view(self, index: int, kind: tuple[str, str] | None = None) -> CachedView:
        """Retina ``index`` of the pool, from the cache. kind: of a pair whose looks may ask for a wide field."""
        options = self.options
        if wide := wide_field(kind or ()):
            options = replace(options, field_deg=wide.field_deg, growth=wide.growth(options.growth))
        return draw_cached_view(self.pool_seed, index, options)

    def batch(self, index: int, batch_size: int, strength: float = 1.0) -> dict:
        """Batch number ``index``; ``strength`` in [0, 1] narrows the relative transform (curriculum)."""
        rng = np.random.default_rng([self.seed, 1, index])
        g = torch.Generator().manual_seed(int(rng.integers(2**63)))
        o, hw = self.options, (self.options.size_px, self.options.size_px)
        retinas = rng.integers(0, self.pool_size, batch_size)
        frames = rng.integers(0, o.frames_per_retina, batch_size) if o.frames_per_retina else np.zeros(batch_size, int)
        kinds = self._rarer_kinds(index, list(zip(retinas, frames, strict=True)))
        views = [self.view(int(i), kind) for i, kind in zip(retinas, kinds, strict=True)]
        own = [np.random.default_rng([self.pool_seed, 2, i, k]) for i, k in zip(retinas, frames, strict=True)]
        looks = own if o.frames_per_retina else [rng] * batch_size
        H_view_to_0 = np.stack([self._frame0(view, look) for view, look in zip(views, looks, strict=True)])
        valid = augment.random_field_of_view(2 * batch_size, hw, g)
        H_0to1 = self._relative(batch_size, hw, strength, g)
        H = np.concatenate([H_view_to_0, H_0to1.numpy() @ H_view_to_0])
        cameras = self._round_cameras(index, views, H, list(zip(retinas, frames, strict=True)))
        fixed, moving = ([str(rng.choice(pool)) for _ in views] for pool in (o.fixed, o.moving))
        for k, kind in enumerate(kinds):
            fixed[k], moving[k] = kind or (fixed[k], moving[k])
        shown = [Shown(v, m, hw, camera) for v, m, camera in zip(views + views, H, cameras, strict=True)]
        image, vessels, known = self._render(shown, fixed + moving, hw, g)
        valid = valid & known
        image = augment.randomise_appearance(image, g, o.appearance)
        image = augment.apply_field_of_view(image, valid, g, o.appearance)
        b, seen = batch_size, list(zip(shown, valid, strict=True))
        points = geometry.pad_points([junctions_of(*each) for each in seen])
        H_0to1, bend = true_map(H_0to1, shown[:b], shown[b:])
        return bend | {
            "image0": image[:b],
            "image1": image[b:],
            "valid0": valid[:b],
            "valid1": valid[b:],
            "H_0to1": H_0to1,
            "vessel_mask0": vessels[:b] & valid[:b],
            "vessel_keypoints": points[:b],
            "vessel_keypoints1": points[b:],
            "true_keypoints": geometry.pad_points([junctions_of(*each, all_of_them=True) for each in seen[:b]]),
            "modalities": list(zip(fixed, moving, strict=True)),
            "sample_ids": [f"{i}.{k}" if o.frames_per_retina else "" for i, k in zip(retinas, frames, strict=True)],
        }

    def _frame0(self, view: CachedView, rng: np.random.Generator) -> np.ndarray:
        """(3, 3) cache px → image 0 px: any turn, a zoom, and a look at a junction-rich place."""
        o = self.options
        points, turn_deg = view.junctions_xy, o.absolute_rotation_deg
        center, zoom, angle = augment.random_place(rng, points, o.zoom, turn_deg, CACHE_PX, o.size_px)
        return geometry.similarity(angle, zoom, center, geometry.image_center((o.size_px, o.size_px)))

    def _rarer_kinds(self, index: int, places: list) -> list[tuple[str, str] | None]:
        """For each pair (fixed, moving) of `looks`, or None. places: retina and frame; one that comes back has the same
        kind, for the kind decides what is in view."""
        o, rng, kinds = self.options, np.random.default_rng([self.seed, 6, index]), []
        for place in places:
            own = np.random.default_rng([self.pool_seed, 7, *place]) if o.frames_per_retina else rng
            kinds.append(o.looks[own.integers(len(o.looks))] if own.random() < o.looks_share else None)
        return kinds

    def _round_cameras(self, index: int, views: list[CachedView], H: np.ndarray, places: list) -> list:
        """A camera for each image 0 and then each image 1, None for flat eyes. places: retina and frame of each pair; a
        frame that comes back is seen by the same camera. H: (2 B, 3, 3) as if all were flat."""
        o, count = self.options, len(views)
        rng, cameras = np.random.default_rng([self.seed, 4, index]), [None] * 2 * count
        for k, (view, place) in enumerate(zip(views, places, strict=True)):
            own = np.random.default_rng([self.pool_seed, 5, *place]) if o.frames_per_retina else rng
            if own.random() < o.round_share:
                eye, hw = random_eye(o.eye, own), (o.size_px, o.size_px)
                for j, draws in ((k, own), (k + count, rng)):
                    cameras[j] = round_camera(H[j] @ view.px_from_deg, hw, eye, o.eye, draws)
        return cameras

    def _relative(self, count: int, hw, strength: float, g: torch.Generator) -> torch.Tensor:
        """(count, 3, 3) transforms with at least min_overlap, or weak ones when 20 draws have it not."""
        ranges, chosen = self.options.relative.scaled(strength), []
        for _ in range(count):
            draws = geometry.random_homographies(20, hw, ranges, g)
            good = (H for H in draws if geometry.overlap_fraction(H.numpy(), hw, hw, 8) >= self.options.min_overlap)
            H = next(good, None)
            chosen.append(geometry.random_homographies(1, hw, ranges.scaled(0.3), g)[0] if H is None else H)
        return torch.stack(chosen)

    def _render(self, shown: list[Shown], modalities: list[str], hw, g):
        """Pictures (B, 1, H, W), vessels, and what the views cover, bool; images of one modality are drawn together."""
        image, vessels = torch.empty(len(shown), 1, *hw), torch.empty(len(shown), 1, *hw, dtype=torch.bool)
        known = torch.empty_like(vessels)
        for modality in sorted(set(modalities)):
            index = [i for i, m in enumerate(modalities) if m == modality]
            scene, known[index] = scene_of([shown[i] for i in index])
            picture = render(modality, scene, g)
            image[index] = augment.to_gray_batch(picture, g) if picture.shape[1] == 3 else picture
            vessels[index] = scene.vessels
        return image, vessels, known
