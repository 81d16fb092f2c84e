"""Draw a vector retina in any view and at any resolution: anti-aliased layers, the junctions in view, and scenes of
several views."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from ..core.geometry import image_center, inside, pixel_grid, similarity
from .cameras import Camera, as_camera, middle_px_per_deg
from .lesions import LESIONS
from .vasculature import ARTERY, VEIN, Retina

LAYERS = ("artery", "vein", "calibre", "reflex", *LESIONS)
CALIBRE_UNIT_DEG = 0.004  # vessel width stored in one grey level of the calibre layer
UNITS = {name: CALIBRE_UNIT_DEG if name == "calibre" else 1 / 255 for name in LAYERS}  # of one grey level


@dataclass(frozen=True)
class Scene:
    """A batch of B views. layers: (B, 8, H, W) uint8 as drawn; degrees: (B, h, w, 2) float32 places of `coarse_grid`;
    px_per_deg: (B, 1, 1, 1) float32 resolution at the middle of the view; anatomy: (B, 4) disc x, y and radius, radius
    of the foveal avascular zone, degrees."""

    layers: torch.Tensor
    degrees: torch.Tensor
    px_per_deg: torch.Tensor
    anatomy: torch.Tensor

    def layer(self, name: str) -> torch.Tensor:
        """(B, 1, H, W) float32 layer by its name in UNITS: coverage in [0, 1], calibre in degrees."""
        return self.layers[:, list(UNITS).index(name), None].float().mul_(UNITS[name])

    @property
    def vessels(self) -> torch.Tensor:
        """(B, 1, H, W) bool, arteries and veins that cover more than half of a pixel."""
        return torch.maximum(self.layers[:, :1], self.layers[:, 1:2]) > 127

    def __getitem__(self, index) -> Scene:
        return Scene(self.layers[index], self.degrees[index], self.px_per_deg[index], self.anatomy[index])


def anatomy_of(retina: Retina) -> list[float]:
    """The four numbers of Scene.anatomy."""
    return [*retina.disc_xy, retina.disc_radius_deg, retina.foveal_zone_deg]


def coarse_grid(image_hw) -> torch.Tensor:
    """(h, w, 2) px: where smooth maps of a view are computed."""
    step = 4 if min(image_hw) >= 64 else 1
    return pixel_grid(image_hw)[step // 2 :: step, step // 2 :: step]


def rasterise(retina: Retina, view: Camera | np.ndarray, image_hw) -> np.ndarray:
    """Draw the retina in a view: (8, H, W) uint8, one layer per name in LAYERS.

    view: a camera, or (3, 3) degrees → pixels. `calibre` holds the width in units of CALIBRE_UNIT_DEG, the others
    coverage 0–255, vessels drawn at twice the resolution.
    """
    (h, w), camera = image_hw, as_camera(view)
    ends = camera.project(retina.segments.reshape(-1, 2)).reshape(-1, 2, 2)
    seen = np.isfinite(ends).all((1, 2)) & (ends.max(1) > -20).all(1) & (ends.min(1) < np.array([w, h]) + 20).all(1)
    ends, width, kind = ends[seen], retina.segment_width_deg[seen], retina.segment_kind[seen]
    scale = camera.px_per_deg(retina.segments[seen].reshape(-1, 2, 2).mean(1))
    fine = np.rint((2 * ends + 0.5) * 16).astype(np.int32)  # sub-pixel position on the doubled canvas
    level = np.clip(np.rint(width / CALIBRE_UNIT_DEG), 1, 255).astype(int)
    thick = np.maximum(np.rint(2 * width * scale), 1).astype(int)
    order = np.lexsort((thick, level))  # as sorted already, but for vessels of one width that are nearer or farther
    fine, kind, level, thick = (part[order] for part in (fine, kind, level, thick))
    vessels = [_draw_lines(fine[kind == k], thick[kind == k], level[kind == k], (2 * h, 2 * w)) for k in (ARTERY, VEIN)]
    cover = [cv2.resize((v > 0) * np.uint8(255), (w, h), interpolation=cv2.INTER_AREA) for v in vessels]
    calibre = np.maximum(*vessels).reshape(h, 2, w, 2).max((1, 3))
    wide = thick >= 7
    core = _draw_lines(fine[wide], np.maximum(thick[wide] // 4, 1), np.full(int(wide.sum()), 255), (2 * h, 2 * w))
    reflex = cv2.resize(core, (w, h), interpolation=cv2.INTER_AREA)
    return np.stack([*cover, calibre, reflex, *_draw_lesions(retina.lesions, camera, (h, w))])


def _draw_lines(fine, thickness, level, hw):
    canvas = np.zeros(hw, np.uint8)
    if not len(fine):
        return canvas
    breaks = np.flatnonzero(np.diff(thickness) | np.diff(level)) + 1
    first = np.r_[0, breaks]
    for lines, t, v in zip(np.split(fine, breaks), thickness[first], level[first], strict=True):
        cv2.polylines(canvas, list(lines), False, int(v), int(t), cv2.LINE_8, 4)
    return canvas


def _draw_lesions(lesions, camera, hw):
    scale = middle_px_per_deg(camera, hw)
    layers = np.zeros((len(LESIONS), *hw), np.uint8)
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    for layer, x, y, radius, seed in lesions:
        rng = np.random.default_rng(int(seed))
        waves = 0.25 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.15 * np.sin(5 * angle + rng.uniform(0, 6))
        rough = 1 + waves + rng.normal(0, 0.06, len(angle))
        outline = np.array([x, y]) + radius * (rough * np.array([np.cos(angle), np.sin(angle)])).T
        outline = camera.project(outline)
        if np.isfinite(outline).all():
            fine, level = np.rint(outline * 16).astype(np.int32), int(rng.integers(110, 256))
            cv2.fillPoly(layers[int(layer)], [fine], level, cv2.LINE_AA, 4)
    return [cv2.GaussianBlur(x, (0, 0), 0.05 * scale + 0.6) if x.any() else x for x in layers]


def view_matrix(image_hw, field_deg: float, center_deg=(0.0, 0.0), angle_deg: float = 0.0) -> np.ndarray:
    """(3, 3) degrees → pixels of a turned camera that looks at center_deg, field_deg across the longer side."""
    return similarity(angle_deg, max(image_hw) / field_deg, center_deg, image_center(image_hw))


def visible_junctions(
    retina: Retina, view: Camera | np.ndarray, image_hw, min_width_px: float = 0.9
) -> tuple[np.ndarray, ...]:
    """Junctions in view whose thinner vessel is at least min_width_px wide: (J, 2) px, kinds and widths (J,) px."""
    camera = as_camera(view)
    xy = camera.project(retina.junctions_xy)
    width = retina.junction_width_deg * camera.px_per_deg(retina.junctions_xy)
    keep = inside(xy, image_hw) & (width >= min_width_px)
    return xy[keep], retina.junction_kind[keep], width[keep]
