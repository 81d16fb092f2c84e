"""The result of a registration: transform, matches, judgement, and what to do with them (warp, overlay, save)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import cv2
import numpy as np

from ..core.files import read_json, to_plain, write_json, write_text
from ..core.geometry import (
    as_homography,
    describe,
    inside,
    lattice,
    pixel_grid,
    rescale_homography,
    resize_matrix,
    warp_points,
)
from ..core.images import as_array
from ..core.overlays import overlay
from .transforms import Fit, Quadratic

FINER = 0.7  # fixed px per moving px, below which bilinear reading would skip pixels
STRIP_PX = 2**18  # pixels warped at a time: coordinates of a whole 6000 x 6000 image would take gigabytes
CONVENTION = "pixel centres at integers, x right, y down; H_1to0 maps moving to fixed"


@dataclass(frozen=True)
class Registration:
    """Where a moving image lies in a fixed one. Pixels are those of the images as given, centres at integers.

    status: "ok", or why it was refused; H_1to0: (3, 3) float64 moving → fixed, None unless ok; confidence in [0, 1];
    matches0, matches1: (N, 2) px in the fixed and moving image; inliers: (N,) bool; sizes (h, w); evidence: what the
    confidence was made of; quadratic: what that model puts in place of H; H_tried: as H, also of a refused result, for
    diagnosis only.
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
    quadratic: Quadratic | None = None
    H_tried: np.ndarray | None = None

    @classmethod
    def from_fit(
        cls, fit: Fit, original0_from_frame, frame_from_original1, points0, points1, fixed_hw, moving_hw
    ) -> Registration:
        """From a fit in a frame between the images, the matrices into and out of it, and the points, px of the
        frame."""
        H = as_homography(original0_from_frame @ fit.H_1to0 @ frame_from_original1)
        frames, quadratic = (original0_from_frame, frame_from_original1), None
        if fit.quadratic_1to0 is not None:
            quadratic = Quadratic(*frames, fit.quadratic_1to0, fit.quadratic_0to1)
        matches0 = warp_points(points0, original0_from_frame)
        matches1 = warp_points(points1, np.linalg.inv(frame_from_original1))
        found = (matches0, matches1, fit.inliers.copy(), tuple(fixed_hw), tuple(moving_hw))
        return cls("ok", H, 0.0, *found, model=fit.model, quadratic=quadratic, H_tried=H)

    def refuse(self, reason: str) -> Registration:
        """The same matches and evidence without a transform."""
        return replace(self, status=reason, H_1to0=None, quadratic=None)

    @property
    def ok(self) -> bool:
        return self.status == "ok"

    @property
    def H_0to1(self) -> np.ndarray | None:
        """(3, 3) fixed pixel → moving pixel; None unless ok. H_0to1[2, 2] is 1, or -1 for an origin behind the
        horizon."""
        if not self.ok:
            return None
        inverse = np.linalg.inv(self.H_1to0)
        return inverse / max(abs(inverse[2, 2]), 1e-12)

    def map_to_fixed(self, points1_xy: np.ndarray) -> np.ndarray:
        """Moving px (N, 2) → fixed px. ValueError for a refused result."""
        self._need_ok("map points")
        return self.quadratic.map_to_fixed(points1_xy) if self.quadratic else warp_points(points1_xy, self.H_1to0)

    def map_to_moving(self, points0_xy: np.ndarray) -> np.ndarray:
        """Fixed px (N, 2) → moving px. ValueError for a refused result."""
        self._need_ok("map points")
        return self.quadratic.map_to_moving(points0_xy) if self.quadratic else warp_points(points0_xy, self.H_0to1)

    def warp(self, moving, labels: bool = False) -> np.ndarray:
        """The moving image (path or array of the registered size) warped into the fixed frame: its dtype, 0 where it
        has no data. labels: take the nearest pixel, so that values stay values. ValueError for another size and for a
        refused result."""
        self._need_ok("warp")
        image = as_array(moving, "moving image")
        if image.shape[:2] != self.moving_hw:
            (height, width), (h, w) = image.shape[:2], self.moving_hw
            raise ValueError(f"this result is for a moving image of {w} x {h} px, not {width} x {height}")
        return self._warp(image, cv2.INTER_NEAREST) if labels else self._warp(image)

    def _warp(self, image: np.ndarray, how: int = cv2.INTER_LINEAR) -> np.ndarray:
        """`warp` of a checked image. Finer pixels than the fixed image's are averaged first: no aliasing."""
        scale = describe(self.H_1to0, self.moving_hw).scale
        small_hw = tuple(max(round(n * scale), 1) for n in self.moving_hw)
        if how == cv2.INTER_LINEAR and scale < FINER and small_hw != self.moving_hw:
            small = cv2.resize(image, small_hw[::-1], interpolation=cv2.INTER_AREA)
            return self.resized(self.fixed_hw, small_hw)._warp(small)
        warped = np.zeros((*self.fixed_hw, *image.shape[2:]), image.dtype)
        for strip, source in self._strips(warped):
            strip[:] = cv2.remap(image, source[..., 0], source[..., 1], how, borderMode=cv2.BORDER_CONSTANT)
        return warped

    def _strips(self, picture: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Views of a few rows of a picture of the fixed frame, each with the (h, w, 2) moving px that its pixels
        show."""
        rows = max(STRIP_PX // picture.shape[1], 1)
        for top in range(0, len(picture), rows):
            strip = picture[top : top + rows]
            grid = pixel_grid(strip.shape[:2]).reshape(-1, 2).numpy().astype(np.float64) + (0, top)
            source = np.nan_to_num(self.map_to_moving(grid), nan=-1e6).astype(np.float32)
            yield strip, source.reshape(*strip.shape[:2], 2)

    def inverse(self) -> Registration:
        """The same registration seen from the other side: what was fixed moves. ValueError for a refused result."""
        self._need_ok("invert")
        H, quadratic = self.H_0to1, self.quadratic and self.quadratic.inverse()
        turned = replace(self, H_1to0=H, H_tried=H, quadratic=quadratic, angle_deg=-self.angle_deg)
        sizes, matches = (self.moving_hw, self.fixed_hw), (self.matches1, self.matches0)
        return turned._between(*sizes, *matches)

    def resized(self, fixed_hw, moving_hw) -> Registration:
        """The same registration between copies of both images at other sizes (h, w), such as small ones to look at."""
        resize0, resize1 = resize_matrix(self.fixed_hw, fixed_hw), resize_matrix(self.moving_hw, moving_hw)

        def moved(H):
            return None if H is None else as_homography(rescale_homography(H, resize1, resize0))

        quadratic = self.quadratic and self.quadratic.resized(resize0, resize1)
        small = replace(self, H_1to0=moved(self.H_1to0), H_tried=moved(self.H_tried), quadratic=quadratic)
        matches = warp_points(self.matches0, resize0), warp_points(self.matches1, resize1)
        return small._between(fixed_hw, moving_hw, *matches)

    def _between(self, fixed_hw, moving_hw, matches0: np.ndarray, matches1: np.ndarray) -> Registration:
        """With other sizes and matches."""
        sizes = {"fixed_hw": tuple(fixed_hw), "moving_hw": tuple(moving_hw)}
        return replace(self, **sizes, matches0=matches0, matches1=matches1)

    def covered(self) -> np.ndarray:
        """(H, W) bool in the fixed frame: where the warped moving image has data."""
        return self.warp(np.full(self.moving_hw, 255, np.uint8)) > 254

    def overlay(self, fixed, moving) -> np.ndarray:
        """Two-colour picture (H, W, 3) float in [0, 1]: fixed and warped moving image, see `core.overlays`."""
        return overlay(as_array(fixed, "fixed image"), self.warp(moving), self.covered())

    # -------------------------------------------------------------- files

    def to_dict(self) -> dict:
        """Everything as plain JSON types; what is missing is null."""
        known = {f.name: getattr(self, f.name) for f in fields(Registration) if f.name != "H_tried"}
        known |= {"ok": self.ok, "H_0to1": self.H_0to1, "quadratic": self.quadratic and asdict(self.quadratic)}
        known |= {"matches0": np.round(self.matches0, 3), "matches1": np.round(self.matches1, 3)}
        known |= {"confidence": round(self.confidence, 6), "angle_deg": round(self.angle_deg, 4)}
        return to_plain(known | {"convention": CONVENTION}, lambda name: None)

    @classmethod
    def from_dict(cls, d: dict) -> Registration:
        """The inverse of `to_dict`; a confidence of null, of a method that gives none, is NaN."""
        known = {f.name: d[f.name] for f in fields(cls) if f.name != "H_tried"}
        known |= {name: np.asarray(d[name], np.float64).reshape(-1, 2) for name in ("matches0", "matches1")}
        known |= {name: float("nan") if d[name] is None else d[name] for name in ("angle_deg", "confidence")}
        known |= {name: tuple(d[name]) for name in ("fixed_hw", "moving_hw")}
        known |= {"H_1to0": None if d["H_1to0"] is None else np.asarray(d["H_1to0"])}
        quadratic = d["quadratic"] and Quadratic(**{k: np.asarray(v) for k, v in d["quadratic"].items()})
        return cls(**known | {"inliers": np.asarray(d["inliers"], bool), "quadratic": quadratic})

    @classmethod
    def load(cls, path: str | Path) -> Registration:
        """Read a result written by `save`; ValueError when the file is something else."""
        d = read_json(path)
        wanted = {f.name for f in fields(cls)} - {"H_tried"}
        missing = sorted(wanted - set(d)) if isinstance(d, dict) else ["everything"]
        if missing:
            raise ValueError(f"{path} was not written by Registration.save: {', '.join(missing)} missing")
        return cls.from_dict(d)

    def save(self, path: str | Path) -> list[Path]:
        """Write ``path`` (JSON) and, when ok, beside it an ITK transform (.tfm) and ``<stem>_transformation.txt``, the
        matrix moving → fixed as i2k tools read it. Returns the files; none is left over from an earlier result of that
        name. ValueError for a path in .tfm or .txt."""
        path = Path(path).expanduser()
        if path.suffix.lower() in (".tfm", ".txt"):
            name = path.with_suffix(".json").name
            raise ValueError(
                f"{path}: give the name of the JSON file, such as {name}; the others are written beside it"
            )
        path, itk, matrix = saved_files(path)
        written = [write_json(path, self.to_dict())]
        for old in (itk, matrix):
            old.unlink(missing_ok=True)
        if self.ok:
            rows = [" ".join(f"{v:.10g}" for v in row) for row in self.H_1to0]
            written += [write_text(itk, itk_text(self)), write_text(matrix, "\n".join(rows) + "\n")]
        return written

    def _need_ok(self, what: str) -> None:
        if not self.ok:
            raise ValueError(f"cannot {what}: this registration was refused ({self.status})")


def refused(reason: str, fixed_hw, moving_hw) -> Registration:
    """A registration that did not get as far as matches."""
    none = np.zeros((0, 2))
    return Registration(reason, None, 0.0, none, none, np.zeros(0, bool), tuple(fixed_hw), tuple(moving_hw))


def saved_files(path: str | Path) -> tuple[Path, Path, Path]:
    """What `Registration.save` may write for ``path``: JSON, ITK transform, matrix."""
    path = Path(path).expanduser()
    path = path if path.suffix.lower() == ".json" else path.with_name(path.name + ".json")
    return path, path.with_name(path.stem + ".tfm"), path.with_name(path.stem + "_transformation.txt")


def itk_text(result: Registration) -> str:
    """ITK resamples by mapping fixed points to moving ones: the affine H_0to1. Another model is replaced by its best
    affine over the part of the fixed frame that the moving image covers, which a comment says."""
    H, note = result.H_0to1, "affine"
    if np.abs(H[2, :2]).max() > 1e-12 or result.quadratic is not None:
        note = f"best affine of a {result.model}"
        grid = lattice(result.fixed_hw, 25)
        target = result.map_to_moving(grid)
        seen = inside(target, result.moving_hw)
        seen = seen if seen.sum() >= 6 else np.isfinite(target).all(1)
        terms = np.column_stack([grid, np.ones(len(grid))])
        H = np.vstack([np.linalg.lstsq(terms[seen], target[seen], rcond=None)[0].T, [0, 0, 1]])
    numbers = " ".join(f"{v:.12g}" for v in (*H[0, :2], *H[1, :2], H[0, 2], H[1, 2]))
    about = f"# fixed to moving, {note}, unit spacing, origin at the first pixel centre"
    kind = "Transform: AffineTransform_double_2_2"
    lines = ("#Insight Transform File V1.0", about, "#Transform 0", kind, f"Parameters: {numbers}")
    return "\n".join((*lines, "FixedParameters: 0 0")) + "\n"
