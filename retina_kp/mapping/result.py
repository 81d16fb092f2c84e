"""The result of a registration: transform, matches, judgement, and what to do with them (warp, overlay, save)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from ..core.files import to_plain
from ..core.geometry import (
    as_homography,
    inside,
    lattice,
    rescale_homography,
    resize_matrix,
    warp_points,
)
from ..core.images import as_array
from ..core.overlays import overlay
from .carrying import carry
from .displacement import Displacement
from .expected_error import ErrorMap
from .saving import OPTIONAL, read_result, write_result
from .transforms import Fit, apply_quadratic
from .warping import warped

CELLS = (24, 24)  # of a displacement that stands for another smooth map, to a hundredth px
CONVENTION = "pixel centres at integers, x right, y down; H_1to0 maps moving to fixed"


@dataclass(frozen=True)
class Registration:
    """Where a moving image lies in a fixed one. Pixels are those of the images as given, centres at integers.

    status: "ok", or why it was refused; H_1to0: (3, 3) float64 moving → fixed, None unless ok; confidence in [0, 1];
    matches0, matches1: (N, 2) px in the fixed and moving image; inliers: (N,) bool; sizes (h, w); evidence: what the
    confidence was made of; displacement: what a map that bends does to fixed px before H_0to1, H_1to0 then being its
    best affine over the overlap; expected: error to be expected, of models that follow the eye; H_tried: as H, also of
    a refused result, for diagnosis only; spacings: (x, y) of a pixel as SimpleITK reads the files, which the ITK
    transform alone depends on.
    """

    status: str
    H_1to0: np.ndarray | None
    confidence: float
    matches0: np.ndarray
    matches1: np.ndarray
    inliers: np.ndarray
    fixed_hw: tuple[int, int]
    moving_hw: tuple[int, int]
    model: str = "affine"
    angle_deg: float = float("nan")
    evidence: dict = field(default_factory=dict)
    displacement: Displacement | None = None
    expected: ErrorMap | None = None
    H_tried: np.ndarray | None = None
    fixed_spacing: tuple[float, float] = (1.0, 1.0)
    moving_spacing: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def from_fit(
        cls, fit: Fit, original0_from_frame, frame_from_original1, points0, points1, fixed_hw, moving_hw
    ) -> Registration:
        """From a fit in a frame between the images, the matrices out of it and into it, and points, px of the frame."""
        H = as_homography(original0_from_frame @ fit.H_1to0 @ frame_from_original1)
        frame_from_original0, original1_from_frame = map(np.linalg.inv, (original0_from_frame, frame_from_original1))
        matches = warp_points(points0, original0_from_frame), warp_points(points1, original1_from_frame)
        result = cls(
            "ok", H, 0.0, *matches, fit.inliers.copy(), tuple(fixed_hw), tuple(moving_hw), fit.model, H_tried=H
        )
        if fit.quadratic_0to1 is None:
            return result

        def target(points0_xy):
            inner = apply_quadratic(warp_points(points0_xy, frame_from_original0), fit.quadratic_0to1)
            return warp_points(inner, original1_from_frame)

        bent = result.bent(target, (0, 0), np.array(fixed_hw[::-1]) - 1, (3, 3))
        return bent or replace(result, model="affine")

    def bent(self, target: Callable, low_xy, high_xy, cells_xy=CELLS, over_xy=None) -> Registration | None:
        """The same registration by ``target``, a smooth function of fixed px (N, 2) → moving px, followed between two
        corners in fixed px. H becomes its best affine over places over_xy (N, 2), by itself where images overlap. None
        where that would fold."""
        box = np.stack([low_xy, high_xy])
        grid = lattice((25, 25), 25) / 24 * (box[1] - box[0]) + box[0] if over_xy is None else over_xy
        there = target(grid)
        seen = inside(grid, self.fixed_hw) & inside(there, self.moving_hw)
        known = seen if seen.sum() >= 6 else np.isfinite(there).all(1)
        if known.sum() < 6:
            return None
        terms = np.column_stack([grid, np.ones(len(grid))])
        H_0to1 = np.vstack([np.linalg.lstsq(terms[known], there[known], rcond=None)[0].T, [0, 0, 1]])
        if np.linalg.det(H_0to1) < 1e-12:
            return None
        H = np.linalg.inv(H_0to1)
        displacement = Displacement.fitted(lambda points: warp_points(target(points), H), *box, cells_xy)
        return None if displacement.folds() else replace(self, H_1to0=H, H_tried=H, displacement=displacement)

    def refuse(self, reason: str) -> Registration:
        """The same matches and evidence without a transform."""
        return replace(self, status=reason, H_1to0=None, displacement=None, expected=None)

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def H_0to1(self) -> np.ndarray | None:
        """(3, 3) fixed pixel → moving pixel, None unless ok. [2, 2] is 1, or -1 for an origin behind the horizon."""
        if not self.ok:
            return None
        inverse = np.linalg.inv(self.H_1to0)
        return inverse / max(abs(inverse[2, 2]), 1e-12)

    def map_to_fixed(self, points1_xy: np.ndarray) -> np.ndarray:
        """Moving px (N, 2) → fixed px. ValueError for a refused result."""
        self._need_ok("map points")
        points0 = warp_points(points1_xy, self.H_1to0)
        return self.displacement.restored(points0) if self.displacement else points0

    def map_to_moving(self, points0_xy: np.ndarray) -> np.ndarray:
        """Fixed px (N, 2) → moving px. ValueError for a refused result."""
        self._need_ok("map points")
        moved = self.displacement.moved(points0_xy) if self.displacement else points0_xy
        return warp_points(moved, self.H_0to1)

    def warp(self, moving, labels: bool = False) -> np.ndarray:
        """The moving image (path or array of the registered size) warped into the fixed frame: its dtype, 0 where it
        has no data. labels: take the nearest pixel, so that values stay values. ValueError for another size and for a
        refused result."""
        self._need_ok("warp")
        image = as_array(moving, "moving image")
        if image.shape[:2] != self.moving_hw:
            (height, width), (h, w) = image.shape[:2], self.moving_hw
            raise ValueError(f"this result is for a moving image of {w} x {h} px, not {width} x {height}")
        return warped(self, image, labels)

    def pixel_map(self, top: int = 0, bottom: int | None = None) -> np.ndarray:
        """(H, W, 2) float64: the moving px that every pixel of the fixed image shows, or of its rows from top to
        bottom. `cv2.remap(moving, *np.float32(result.pixel_map()).transpose(2, 0, 1), cv2.INTER_LINEAR)` is a warp."""
        bottom = self.fixed_hw[0] if bottom is None else bottom
        return self.map_grid(np.arange(self.fixed_hw[1], dtype=float), np.arange(top, bottom, dtype=float))

    def map_grid(self, x_px: np.ndarray, y_px: np.ndarray) -> np.ndarray:
        """(H, W, 2) moving px of the places where rows at y_px (H,) cross columns at x_px (W,) of the fixed image."""
        self._need_ok("map pixels")
        H, bends = self.H_0to1, self.displacement
        if H[2, :2].any():
            grid = np.stack(np.meshgrid(x_px, y_px), -1)
            return warp_points(grid if bends is None else grid + bends.on_grid(x_px, y_px), H)
        moved = H[:2, 0] * x_px[:, None] + (H[:2, 1] * y_px[:, None] + H[:2, 2])[:, None]
        return moved if bends is None else moved + replace(bends, knots=bends.knots @ H[:2, :2].T).on_grid(x_px, y_px)

    def inverse(self) -> Registration:
        """The same registration seen from the other side: what was fixed moves. ValueError for a refused result."""
        self._need_ok("invert")
        sizes, matches = (self.moving_hw, self.fixed_hw), (self.matches1, self.matches0)
        H = self.H_0to1
        turned = replace(self, H_1to0=H, H_tried=H, displacement=None, expected=None, angle_deg=-self.angle_deg)
        turned = turned._between(*sizes, *matches, self.moving_spacing, self.fixed_spacing)
        if self.displacement is None:
            return turned
        box = warp_points(lattice(self.fixed_hw, 2), self.H_0to1)
        return turned.bent(self.map_to_fixed, box.min(0), box.max(0)) or turned

    def resized(self, fixed_hw, moving_hw) -> Registration:
        """The same registration between copies of both images at other sizes (h, w), such as small ones to look at."""
        resize0, resize1 = resize_matrix(self.fixed_hw, fixed_hw), resize_matrix(self.moving_hw, moving_hw)

        H, tried = (
            None if H is None else as_homography(rescale_homography(H, resize1, resize0))
            for H in (self.H_1to0, self.H_tried)
        )
        bends, expected = (each and each.resized(resize0) for each in (self.displacement, self.expected))
        small = replace(self, H_1to0=H, H_tried=tried, displacement=bends, expected=expected)
        matches = warp_points(self.matches0, resize0), warp_points(self.matches1, resize1)
        return small._between(fixed_hw, moving_hw, *matches)

    def _between(self, hw0, hw1, matches0, matches1, spacing0=(1.0, 1.0), spacing1=(1.0, 1.0)) -> Registration:
        sizes = {"fixed_hw": tuple(hw0), "moving_hw": tuple(hw1), "fixed_spacing": spacing0, "moving_spacing": spacing1}
        return replace(self, **sizes, matches0=matches0, matches1=matches1)

    def covered(self) -> np.ndarray:
        """(H, W) bool in the fixed frame: where the warped moving image has data."""
        return self.warp(np.full(self.moving_hw, 255, np.uint8)) > 254

    def overlay(self, fixed, moving) -> np.ndarray:
        """Two-colour picture (H, W, 3) float in [0, 1]: fixed and warped moving image, see `core.overlays`."""
        return overlay(as_array(fixed, "fixed image"), self.warp(moving), self.covered())

    def apply_to(self, data, to: str = "fixed", labels: bool = False):
        """``data`` of one image in the frame of the other, ``to`` "fixed" or "moving", of the same kind: a picture (path
        or array; labels as in `warp`), points (…, 2), boxes (N, 4) x0 y0 x1 y1, which become the upright boxes around
        what they hold, a list of polygons (N, 2), or a dict as in `carrying.carry_annotations`. ValueError as `warp`."""
        return carry(self, data, to, labels)

    # -------------------------------------------------------------- files

    def to_dict(self) -> dict:
        """Everything as plain JSON types; what is missing is null."""
        known = {f.name: getattr(self, f.name) for f in fields(Registration) if f.name != "H_tried"}
        known |= {"ok": self.ok, "H_0to1": self.H_0to1}
        known |= {name: known[name] and asdict(known[name]) for name in ("displacement", "expected")}
        known |= {"matches0": np.round(self.matches0, 3), "matches1": np.round(self.matches1, 3)}
        known |= {"confidence": round(self.confidence, 6), "angle_deg": round(self.angle_deg, 4)}
        return to_plain(known | {"convention": CONVENTION}, lambda name: None)

    @classmethod
    def from_dict(cls, d: dict) -> Registration:
        """The inverse of `to_dict`; a confidence of null, of a method that gives none, is NaN."""
        known = {f.name: d[f.name] for f in fields(cls) if f.name not in OPTIONAL}
        known |= {name: tuple(d[name]) for name in ("fixed_spacing", "moving_spacing") if name in d}
        known |= {name: np.asarray(d[name], np.float64).reshape(-1, 2) for name in ("matches0", "matches1")}
        known |= {name: float("nan") if d[name] is None else d[name] for name in ("angle_deg", "confidence")}
        known |= {name: tuple(d[name]) for name in ("fixed_hw", "moving_hw")}
        known |= {"H_1to0": None if d["H_1to0"] is None else np.asarray(d["H_1to0"])}
        for name, kind in (("displacement", Displacement), ("expected", ErrorMap)):
            own = d.get(name)
            known[name] = own and kind(**{k: np.asarray(v, np.float64) for k, v in own.items()})
        return cls(**known | {"inliers": np.asarray(d["inliers"], bool)})

    @classmethod
    def load(cls, path: str | Path) -> Registration:
        """Read a result written by `save`; ValueError when the file is something else, or was changed."""
        return read_result(cls, path)

    def save(self, path: str | Path) -> list[Path]:
        """Write ``path`` (JSON) and, when ok, beside it an ITK transform (.tfm) and ``<stem>_transformation.txt``, the
        matrix moving → fixed as i2k tools read it. Returns the files; none is left over from an earlier result of that
        name. ValueError for a path in .tfm or .txt."""
        return write_result(self, path)

    def _need_ok(self, what: str) -> None:
        if not self.ok:
            raise ValueError(f"cannot {what}: this registration was refused ({self.status})")


def refused(reason: str, fixed_hw, moving_hw) -> Registration:
    """A registration that did not get as far as matches."""
    none = np.zeros((0, 2))
    return Registration(reason, None, 0.0, none, none, np.zeros(0, bool), tuple(fixed_hw), tuple(moving_hw))
