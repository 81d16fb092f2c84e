"""One real pair before any method sees it: images, truth in the forms that figures need, vessel maps, and what can be
told of it.

A row is a plain dict; errors are px of a fixed image whose longer side measures 768.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from ..core.geometry import corners, describe, warp_points
from ..core.images import as_array, to_gray
from ..data.annotation import fixed_residuals, true_homography
from ..data.layouts.fire import FIRE_PAIR
from ..data.records import PairRecord
from ..registration.result import Registration
from .methods import as_registration
from .metrics import LONGER_SIDE_PX, inlier_rate, judge, point_errors
from .vessel_overlap import Maps, vessel_agreement, vessel_maps

FIT = "annotation fit"  # the annotation's own transform, judged at its points
COMPUTED_PX = 0.01  # nobody clicks so well: points that leave less open, at 768, were computed from a transform
RIGHT_MATCH_PX = 5.0  # at 768, from the truth
ORACLE = ", oracle keypoints"  # what follows the name of a method where the true points were its keypoints


def pair_facts(record: PairRecord) -> dict:
    """What is known of a pair before any method sees it: sizes, kind of truth, the annotation's own fit (errors_px at
    768), leave-one-out residual (median of its points, px of the fixed image at 768; None where they were computed),
    true turn and scale, Dice under the truth. ``problem`` says why it cannot be used, or is ""; ``mask_problem`` why
    its vessel mask cannot."""
    row = about(record) | {"method": FIT, "problem": ""}
    try:
        fixed, moving = read_pair(record)
        hw0, hw1 = fixed.shape[:2], moving.shape[:2]
        truth = truth_points(record, hw1)
        H_1to0 = None if truth is None else np.linalg.inv(true_homography(record))
    except (ValueError, OSError) as error:
        return row | {"problem": str(error)}
    row |= {"size_fixed": list(hw0), "size_moving": list(hw1), "outcome": "answered", "rescale": 768 / max(hw0)}
    row |= {"mask_problem": _mask_problem(record)}
    row["truth"] = "none"
    if truth is None:
        return row
    errors, residual_px = point_errors(H_1to0, *truth, hw0), _residual(record)
    computed = residual_px is not None and residual_px < COMPUTED_PX
    row["truth"] = kind_of_truth(record, computed)
    row |= {
        "errors_px": errors,
        "outcome": judge(errors),
        "residual_px": None if computed else residual_px,
        **true_pose(record, np.eye(3), hw1),
    }
    return row | {"dice": vessel_dice(record, as_registration(H_1to0 / H_1to0[2, 2], hw0, hw1))}


def _residual(record: PairRecord) -> float | None:
    """Median over the points of what each leaves open, px at 768; None without points."""
    residuals = fixed_residuals(record)
    return float(np.median(residuals)) if len(residuals) else None


def kind_of_truth(record: PairRecord, computed: bool = False) -> str:
    """In words for the inventory. computed: its points come from a transform, not from clicks."""
    parts = (
        [] if record.points0_xy is None else [f"{len(record.points0_xy)} {'computed ' if computed else ''}point pairs"]
    )
    return " + ".join(parts + ([] if record.H_0to1 is None else ["matrix"])) or "none"


def truth_points(record: PairRecord, moving_hw) -> tuple[np.ndarray, np.ndarray] | None:
    """Points of the moving image and where they belong in the fixed one, (N, 2) px each; None without truth. The
    annotated points; with a matrix alone the corners of the moving image."""
    if record.points0_xy is not None:
        return record.points1_xy, record.points0_xy
    if record.H_0to1 is None:
        return None
    return corners(moving_hw), warp_points(corners(moving_hw), np.linalg.inv(record.H_0to1))


def claims_nothing(method: str) -> bool:
    """Whether a row of this name is an oracle: an answer that was given the truth."""
    return method == FIT or method.endswith(ORACLE)


def true_pose(record: PairRecord, R: np.ndarray, moving_hw) -> dict[str, float]:
    """Turn (deg, 0 to 180) and scale of the true way from the altered moving image to the fixed one."""
    shape = describe(np.linalg.inv(R @ true_homography(record)), moving_hw)
    return {"true_turn_deg": abs(shape.angle_deg), "true_scale": shape.scale}


def read_pair(record: PairRecord) -> tuple[np.ndarray, np.ndarray]:
    """Fixed and moving image (H, W, 3), gray ones repeated, as image libraries read files by default; ImageError when
    one is unreadable."""
    return _image(*_version(record.image0)), _image(*_version(record.image1))


def _version(path: Path) -> tuple[str, int]:
    return str(path), path.stat().st_mtime_ns if path.is_file() else 0


@lru_cache(maxsize=4)
def _image(path: str, changed_ns: int) -> np.ndarray:
    image = as_array(path)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


@lru_cache(maxsize=8)
def _maps(path: str, changed_ns: int) -> Maps:
    return vessel_maps(_image(path, changed_ns))


def right_matches(record: PairRecord, result: Registration, R: np.ndarray = np.eye(3)) -> float:
    """MIR: share of a registration's matches, refused ones included, that lie within RIGHT_MATCH_PX (px at 768) of the
    truth; 0 without a match. R: px of the moving image → px of the altered one that was registered."""
    threshold_px = RIGHT_MATCH_PX * max(result.fixed_hw) / LONGER_SIDE_PX
    return inlier_rate(result.matches0, result.matches1, R @ true_homography(record), threshold_px)


def vessel_dice(record: PairRecord, result: Registration) -> float | None:
    """Dice of vessel maps; the mask that a record has goes before the ridges of its fixed image. None without a
    transform, and where the mask cannot be read."""
    if not result.ok:
        return None
    maps0, maps1 = (_maps(*_version(path)) for path in (record.image0, record.image1))
    try:
        mask0 = _mask(record)
    except (ValueError, OSError):  # pair_facts tells of it
        return None
    if mask0 is not None:
        maps0 = maps0[0], cv2.resize(mask0, maps0[0].shape[::-1], interpolation=cv2.INTER_AREA) > 0.5
    return vessel_agreement(maps0, maps1, result)


def _mask(record: PairRecord) -> np.ndarray | None:
    """Gray (h, w) in [0, 1] of the vessel mask, None for a record without one; ImageError when it is unreadable."""
    return None if record.vessel_mask0 is None else to_gray(_image(*_version(record.vessel_mask0)))


def _mask_problem(record: PairRecord) -> str:
    try:
        _mask(record)
    except (ValueError, OSError) as error:
        return f"evaluated without vessel mask, so without Dice: {error}"
    return ""


def about(record: PairRecord) -> dict:
    """Names of the pair, its eye, its kind and FIRE's category, as every row has them."""
    category = FIRE_PAIR.fullmatch(record.pair_id) if record.modality0 == record.modality1 == "CF" else None
    return {
        "pair": record.pair_id,
        "eye": record.eye_id,
        "kind": f"{record.modality0}-{record.modality1}",
        "category": category[1][0] if category else "",
    }


def pair_print(record: PairRecord) -> str:
    """Changes with the images, the truth or the names of a pair."""
    digest = hashlib.sha256(json.dumps([*about(record).values()]).encode())
    for path in filter(None, (record.image0, record.image1, record.vessel_mask0)):
        digest.update(path.read_bytes() if path.is_file() else b"missing")
    for array in (record.points0_xy, record.points1_xy, record.H_0to1):
        digest.update(b"none" if array is None else array.tobytes())
    return digest.hexdigest()
