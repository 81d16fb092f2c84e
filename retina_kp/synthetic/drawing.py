"""Draw a vector retina in any view and at any resolution: anti-aliased layers, and the junctions in view."""

from __future__ import annotations

import cv2
import numpy as np

from ..core.geometry import image_center, inside, jacobian, similarity, warp_points
from .vasculature import ARTERY, VEIN, Retina

LESIONS = ("hemorrhage", "exudate", "drusen", "scar")
LAYERS = ("artery", "vein", "calibre", "reflex", *LESIONS)
CALIBRE_UNIT_DEG = 0.004  # vessel width stored in one grey level of the calibre layer
UNITS = {name: CALIBRE_UNIT_DEG if name == "calibre" else 1 / 255 for name in LAYERS}  # of one grey level


def rasterise(retina: Retina, px_from_deg: np.ndarray, image_hw) -> np.ndarray:
    """Draw the retina in a view: (8, H, W) uint8, one layer per name in LAYERS.

    px_from_deg: (3, 3) degrees → pixels of the view. `calibre` holds the width in units of CALIBRE_UNIT_DEG, the others
    coverage 0–255, vessels drawn at twice the resolution.
    """
    h, w = image_hw
    scale = np.sqrt(abs(np.linalg.det(jacobian(px_from_deg, (0.0, 0.0)))))
    ends = warp_points(retina.segments.reshape(-1, 2, 2), px_from_deg)
    seen = np.isfinite(ends).all((1, 2)) & (ends.max(1) > -20).all(1) & (ends.min(1) < np.array([w, h]) + 20).all(1)
    ends, width, kind = ends[seen], retina.segment_width_deg[seen], retina.segment_kind[seen]
    fine = np.rint((2 * ends + 0.5) * 16).astype(np.int32)  # sub-pixel position on the doubled canvas
    level = np.clip(np.rint(width / CALIBRE_UNIT_DEG), 1, 255).astype(int)
    thick = np.maximum(np.rint(2 * width * scale), 1).astype(int)
    vessels = [_draw_lines(fine[kind == k], thick[kind == k], level[kind == k], (2 * h, 2 * w)) for k in (ARTERY, VEIN)]
    cover = [cv2.resize((v > 0) * np.uint8(255), (w, h), interpolation=cv2.INTER_AREA) for v in vessels]
    calibre = np.maximum(*vessels).reshape(h, 2, w, 2).max((1, 3))
    wide = thick >= 7
    core = _draw_lines(fine[wide], np.maximum(thick[wide] // 4, 1), np.full(int(wide.sum()), 255), (2 * h, 2 * w))
    reflex = cv2.resize(core, (w, h), interpolation=cv2.INTER_AREA)
    return np.stack([*cover, calibre, reflex, *_draw_lesions(retina.lesions, px_from_deg, scale, (h, w))])


def _draw_lines(fine, thickness, level, hw):
    canvas = np.zeros(hw, np.uint8)
    if not len(fine):
        return canvas
    breaks = np.flatnonzero(np.diff(thickness) | np.diff(level)) + 1
    first = np.r_[0, breaks]
    for lines, t, v in zip(np.split(fine, breaks), thickness[first], level[first], strict=True):
        cv2.polylines(canvas, list(lines), False, int(v), int(t), cv2.LINE_8, 4)
    return canvas


def _draw_lesions(lesions, px_from_deg, scale, hw):
    layers = np.zeros((len(LESIONS), *hw), np.uint8)
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    for layer, x, y, radius, seed in lesions:
        rng = np.random.default_rng(int(seed))
        waves = 0.25 * np.sin(2 * angle + rng.uniform(0, 6)) + 0.15 * np.sin(5 * angle + rng.uniform(0, 6))
        rough = 1 + waves + rng.normal(0, 0.06, len(angle))
        outline = np.array([x, y]) + radius * (rough * np.array([np.cos(angle), np.sin(angle)])).T
        outline = warp_points(outline, px_from_deg)
        if np.isfinite(outline).all():
            fine, level = np.rint(outline * 16).astype(np.int32), int(rng.integers(110, 256))
            cv2.fillPoly(layers[int(layer)], [fine], level, cv2.LINE_AA, 4)
    return [cv2.GaussianBlur(x, (0, 0), 0.05 * scale + 0.6) if x.any() else x for x in layers]


def view_matrix(image_hw, field_deg: float, center_deg=(0.0, 0.0), angle_deg: float = 0.0) -> np.ndarray:
    """(3, 3) degrees → pixels of a turned camera that looks at center_deg, field_deg across the longer side."""
    return similarity(angle_deg, max(image_hw) / field_deg, center_deg, image_center(image_hw))


def visible_junctions(
    retina: Retina, px_from_deg: np.ndarray, image_hw, min_width_px: float = 0.9
) -> tuple[np.ndarray, ...]:
    """Junctions in view whose thinner vessel is at least min_width_px wide: (J, 2) px, kinds and widths (J,) px."""
    xy = warp_points(retina.junctions_xy, px_from_deg)
    width = retina.junction_width_deg * np.sqrt(abs(np.linalg.det(jacobian(px_from_deg, (0.0, 0.0)))))
    keep = inside(xy, image_hw) & (width >= min_width_px)
    return xy[keep], retina.junction_kind[keep], width[keep]
