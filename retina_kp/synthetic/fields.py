"""Several fields of one synthetic eye, of which every place is known in each: for mosaics and their tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core.geometry import lattice, pixel_grid
from .cameras import Camera, RoundOptions, round_cameras, shows_retina
from .drawing import view_matrix
from .pairs import CLINICAL, photograph
from .render import make_scene
from .vasculature import GrowthOptions, grow_retina

# where cameras look, degrees from the fovea: between it and the disc, at the disc, around, and beyond the disc
LOOKS_AT = ((3.0, 0.0), (17.0, 5.0), (-12.0, 5.0), (4.0, -15.0), (5.0, 16.0), (17.0, -12.0))
FIELD_DEG = 45.0
JITTER_DEG, TURN_DEG = 1.5, 12.0  # of a camera's aim, and its largest turn
DISC = 0.49  # radius of a field of view over the image's side


@dataclass(frozen=True, eq=False)
class SampleFields:
    """Images of one eye with their truth. images: (H, W, 3) or (H, W) uint8 each; valid: their fields of view, (H, W)
    bool each."""

    images: list[np.ndarray]
    valid: np.ndarray
    cameras: Sequence[Camera]

    def carried(self, here: int, there: int, points_xy: np.ndarray) -> np.ndarray:
        """Where points (N, 2) px of one image truly lie in another; NaN where its camera sees nothing."""
        return self.cameras[there].project(self.cameras[here].unproject(points_xy))

    def error_px(self, here: int, there: int, move: Callable, samples: int = 25) -> float:
        """Mean error of ``move``, a map of points (N, 2) px of one image into another, over all that the first one's
        field of view holds; px of the other one at 768."""
        xy = lattice(self.valid[here].shape, samples)
        x, y = np.rint(xy).astype(int).T
        xy = xy[self.valid[here][y, x]]
        off = np.linalg.norm(move(xy) - self.carried(here, there, xy), axis=1)
        return float(np.nanmean(off)) * 768 / max(self.valid[there].shape)


def draw_fields(seed: int, modalities: Sequence[str] = ("CF",) * 6, size_px: int = 768) -> SampleFields:
    """Fields of one round eye, at most as many as LOOKS_AT, in these modalities. Same arguments, same fields."""
    rng, hw = np.random.default_rng([seed, 12]), (size_px, size_px)
    g = torch.Generator().manual_seed(int(rng.integers(2**62)))
    retina = grow_retina(rng, GrowthOptions(reach_deg=50.0))
    places = np.array(LOOKS_AT[: len(modalities)]) * (np.sign(retina.disc_xy[0]), 1)
    aims = places + rng.normal(0, JITTER_DEG, places.shape)
    flat = [view_matrix(hw, FIELD_DEG, aim, rng.uniform(-TURN_DEG, TURN_DEG)) for aim in aims]
    cameras = round_cameras(flat, hw, RoundOptions(), rng)
    scene = make_scene([retina] * len(cameras), cameras, hw)
    disc = (pixel_grid(hw) - (size_px - 1) / 2).norm(dim=-1) < DISC * size_px
    valid = torch.stack([disc & torch.from_numpy(shows_retina(camera, hw)) for camera in cameras])[:, None]
    images = [
        photograph(modality, scene[k : k + 1], valid[k : k + 1], g, CLINICAL) for k, modality in enumerate(modalities)
    ]
    return SampleFields(images, valid[:, 0].numpy(), cameras)
