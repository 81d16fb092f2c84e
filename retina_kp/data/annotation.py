"""Hand-picked point pairs as truth: reading and checking them, and the transform they define."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from ..core.files import read_text, write_text
from ..core.geometry import as_homography, inside, jacobian, warp_points
from ..core.images import image_size
from .records import PairRecord, Problem

COLLINEAR_RMS_PX = 0.5
HOMOGRAPHY_POINTS = 6  # with fewer point pairs, or with badly spread ones, a similarity is fitted
MIN_SPREAD = 0.05  # rms distance of the points from their best line, over the longer side of image 1
RANSAC_THRESHOLD = 0.02  # of the longer side of image 1; at 0.01 clicks that are 2 px off bend the homography
SIMPLER_WINS = 0.95  # a simpler model wins when its leave-one-out residual is below this share of the other's
LONGER_SIDE_PX = 768  # residuals are given as if the longer side of their image measured so much


def read_number_rows(path: str | Path, columns: int) -> np.ndarray:
    """Read a text file of numbers, (N, columns) float64; blanks, tabs or commas part them, empty lines are skipped.

    ValueError with file, line number and content for a row that is no ``columns`` finite numbers, or without a file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            try:
                rows.append(parse_numbers(line, columns))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
    return np.array(rows, np.float64).reshape(-1, columns)


def parse_numbers(text: str, count: int) -> list[float]:
    """The ``count`` finite numbers of a line, parted by blanks, tabs or single commas; else ValueError quotes it."""
    cells = re.split(r"\s*,\s*|\s+", text.strip())
    numeric = all(re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", cell, re.ASCII) for cell in cells)
    if not numeric or len(cells) != count or not np.isfinite([float(cell) for cell in cells]).all():
        raise ValueError(f"{count} numbers expected, found {text.strip()[:80]!r}")
    return [float(cell) for cell in cells]


def write_points(path: str | Path, points_xy: np.ndarray) -> None:
    """Write points (N, 2) px as `read_number_rows` reads them back exactly: one x y per line."""
    write_text(path, "".join(f"{float(x)!r} {float(y)!r}\n" for x, y in points_xy))


def check_points(points0_xy: np.ndarray, points1_xy: np.ndarray, image0_hw, image1_hw, minimum: int = 4) -> None:
    """Raise ValueError with the reason when point pairs (N, 2) px cannot define a transform.

    Refused are unequal counts, fewer than ``minimum`` (4 for a homography, 3 for an affine, 2 for a similarity), and two
    points on one spot. So are points outside the image, and, from 3 on, points on one line (from 4 on: all but one).
    """
    if len(points0_xy) != len(points1_xy):
        raise ValueError(f"unequal point counts: {len(points0_xy)} in image 0, {len(points1_xy)} in image 1")
    if len(points0_xy) < minimum:
        raise ValueError(f"only {len(points0_xy)} point pairs, at least {minimum} are needed")
    for number, points_xy, image_hw in ((0, points0_xy, image0_hw), (1, points1_xy, image1_hw)):
        points_xy = np.asarray(points_xy, np.float64)
        outside = np.flatnonzero(~inside(points_xy, image_hw, -0.5))
        if len(outside):
            x, y = points_xy[outside[0]]
            frame = f"image {number}, {image_hw[1]} px wide and {image_hw[0]} px high"
            first = f"the first is point {outside[0] + 1} at ({x:g}, {y:g})"
            raise ValueError(f"{len(outside)} points outside {frame}, {first}")
        _, first, counts = np.unique(points_xy, axis=0, return_index=True, return_counts=True)
        if (counts > 1).any():
            x, y = points_xy[first[counts > 1].min()]
            spot = f"{counts.max()} points lie on one spot, ({x:g}, {y:g})"
            raise ValueError(f"duplicate points in image {number}: {spot}")
        if minimum >= 3 and spread(points_xy) < COLLINEAR_RMS_PX:
            raise ValueError(f"collinear points in image {number}: all lie on one line")
        if minimum >= 4 and _spreads_without_each(points_xy).min() < COLLINEAR_RMS_PX:
            raise ValueError(f"collinear points in image {number}: all but one lie on one line")


def spread(points_xy: np.ndarray) -> float:
    """Root mean square distance (px) of points (N, 2) from the line that fits them best."""
    return float(np.linalg.svd(points_xy - points_xy.mean(0), compute_uv=False)[-1] / np.sqrt(len(points_xy)))


def _spreads_without_each(points_xy: np.ndarray) -> np.ndarray:
    """(N,) `spread` of the other points, for each point of (N, 2): by the smaller eigenvalue of their scatter, which
    is that of all points less the point's own part."""
    n, away = len(points_xy), points_xy - points_xy.mean(0)
    scatter = away.T @ away - n / (n - 1) * away[:, :, None] * away[:, None]
    smaller = np.linalg.eigvalsh(scatter)[:, 0].clip(0)
    return np.sqrt(smaller / (n - 1))


# ------------------------------------------------------------------ the transform


def true_homography(record: PairRecord) -> np.ndarray:
    """(3, 3) original px of image 0 → original px of image 1: H_0to1, else fitted to the point pairs by RANSAC.

    The model is that of `fitted_model`: clicks are noisy, and noise bends homographies. ValueError, with the pair's id,
    without matrix and points, and when the points define no transform of a retina (none found, or a mirrored one).
    """
    if record.H_0to1 is not None:
        return record.H_0to1
    points0, points1 = record.points0_xy, record.points1_xy
    if points0 is None:
        why = "has neither H_0to1 nor point pairs, so its true transform is unknown; leave it out"
        raise ValueError(f"{record.pair_id}: {why}")
    if len(points0) < 3:
        raise ValueError(f"{record.pair_id}: {len(points0)} point pairs define no transform; at least 3 are needed")
    side_px = max(image_size(record.image1))
    H = _fit(_choose_model(points0, points1, side_px)[0], points0, points1, side_px)
    if H is None:
        raise ValueError(f"{record.pair_id}: no transform fits its point pairs; look at them on the images")
    if np.linalg.det(jacobian(H, points0.mean(0))) <= 0:
        why = "its point pairs mirror the retina; check their order and which image is image 0"
        raise ValueError(f"{record.pair_id}: {why}")
    return H


def fitted_model(record: PairRecord) -> tuple[str, float]:
    """The model that fits a record's points, and its leave-one-out residual: how good the annotation is.

    "homography", "affine" or "similarity", "none" for fewer than three points. The residual is the median distance (px,
    image 1 at 768) between each point and where the transform of the others puts it; inf where they define none, NaN
    without points.
    """
    if record.points0_xy is None:
        return "none", float("nan")
    side_px = max(image_size(record.image1))
    model, residual_px = _choose_model(record.points0_xy, record.points1_xy, side_px)
    return model if len(record.points0_xy) >= 3 else "none", residual_px * LONGER_SIDE_PX / side_px


def fixed_residuals(record: PairRecord) -> np.ndarray:
    """(N,) what the annotation leaves open in the fixed image, where registrations are judged; empty without points.

    Distance between each point and where the transform of the others puts its partner, px of image 0 at 768; inf where
    the others define no transform. The transform is that of `fitted_model`, from image 1 to image 0.
    """
    if record.points0_xy is None:
        return np.zeros(0)
    points0, points1, side_px = record.points0_xy, record.points1_xy, max(image_size(record.image1))
    transforms = _without_each(_choose_model(points0, points1, side_px)[0], points0, points1, side_px)
    back = [None if H is None else np.linalg.inv(H) for H in transforms]
    return _gaps(points1, points0, back) * LONGER_SIDE_PX / max(image_size(record.image0))


def _fit(model: str, points0: np.ndarray, points1: np.ndarray, side_px: float) -> np.ndarray | None:
    """A RANSAC transform of one model, or None when the points define none."""
    threshold_px = RANSAC_THRESHOLD * side_px
    if len(points0) < {"similarity": 3, "affine": 4, "homography": 5}[model]:
        return None
    if model == "homography":
        H, _ = cv2.findHomography(points0, points1, cv2.RANSAC, threshold_px)
    else:
        estimate = cv2.estimateAffinePartial2D if model == "similarity" else cv2.estimateAffine2D
        H, _ = estimate(points0, points1, method=cv2.RANSAC, ransacReprojThreshold=threshold_px)
    try:
        return None if H is None else as_homography(H)
    except ValueError:
        return None


def _choose_model(points0: np.ndarray, points1: np.ndarray, side_px: float) -> tuple[str, float]:
    """A model, and its leave-one-out residual in px of image 1.

    A homography needs HOMOGRAPHY_POINTS well-spread pairs, and gives way where a simpler model predicts better.
    """
    many = len(points0) >= HOMOGRAPHY_POINTS and spread(points1) >= MIN_SPREAD * side_px
    chosen, best = "similarity", np.inf
    for model in ("homography", "affine", "similarity") if many else ("similarity",):
        residual = float(np.median(_gaps(points0, points1, _without_each(model, points0, points1, side_px))))
        if residual < SIMPLER_WINS * best:
            chosen, best = model, residual
    return chosen, best


def _without_each(model: str, points0: np.ndarray, points1: np.ndarray, side_px: float) -> list[np.ndarray | None]:
    """For each point the transform of the others, None where they define none."""
    others = [np.arange(len(points0)) != k for k in range(len(points0))]
    return [_fit(model, points0[rest], points1[rest], side_px) for rest in others]


def _gaps(points_from: np.ndarray, points_to: np.ndarray, transforms: list[np.ndarray | None]) -> np.ndarray:
    """(N,) px between each point, mapped by its transform, and its partner; inf without a transform."""
    triples = zip(points_from, points_to, transforms, strict=True)
    return np.array([np.inf if H is None else np.linalg.norm(warp_points(a[None], H) - b) for a, b, H in triples])


def screen(records: Iterable[PairRecord], max_residual_px: float) -> tuple[list[PairRecord], list[dict], list[Problem]]:
    """Records fit for training, one row per record (pair_id, points, model, residual_px, used), and why others are not.

    Left out: no transform, or a leave-one-out residual above max_residual_px (px at 768). The model is "given" where
    the record holds a transform.
    """
    used, rows, problems = [], [], []
    for record in records:
        (model, residual_px), why = fitted_model(record), ""
        try:
            true_homography(record)
        except ValueError as error:
            why = str(error)
        if not why and residual_px > max_residual_px:
            limit = f"leave-one-out residual {residual_px:.1f} px is above {max_residual_px:g} px"
            why = f"{record.pair_id}: {limit}; check its points"
        row = {"pair_id": record.pair_id, "points": 0 if record.points0_xy is None else len(record.points0_xy)}
        row["model"] = model if record.H_0to1 is None else "given"
        rows.append(row | {"residual_px": round(residual_px, 2), "used": not why})
        if why:
            problems.append(Problem(str(record.image1), why))
        else:
            used.append(record)
    return used, rows, problems
