"""How far off a registration may be, place by place: what the maps leave open, and the bound that calibration makes
of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import map_coordinates

from ..core.geometry import warp_points

COVERAGE = 0.9  # share of places that keep their bound
SIDE_PX = 768  # the length of the fixed image's longer side that calibrated numbers belong to
BINS = 8  # of equally many places, in which the bound is measured


@dataclass(frozen=True)
class ErrorMap:
    """Px of the fixed frame, the largest error that is to be expected at COVERAGE of all places that are told so.

    px: (rows, columns), NaN where not both images show something; node (0, 0) lies at origin_xy of the fixed frame, its
    neighbours spacing_xy px apart. Between nodes it is linear.
    """

    px: np.ndarray
    origin_xy: np.ndarray
    spacing_xy: np.ndarray

    def at(self, points_xy: np.ndarray) -> np.ndarray:
        """(N,) px at points (N, 2) of the fixed frame; NaN outside the overlap."""
        nodes = (np.asarray(points_xy, np.float64).reshape(-1, 2) - self.origin_xy) / self.spacing_xy
        nodes, known = np.nan_to_num(nodes, nan=-9.0).T[::-1], np.isfinite(self.px)
        parts = (known.astype(np.float64), np.where(known, self.px, 0))
        weight, total = (map_coordinates(part, nodes, order=1, mode="constant") for part in parts)
        # at the rim of the overlap what the known nodes tell
        return np.where(weight >= 0.5, total / np.maximum(weight, 0.5), np.nan)

    def picture(self, fixed_hw: tuple[int, int], step: int = 1) -> np.ndarray:
        """(H, W) px at every ``step``-th pixel of the fixed image."""
        y, x = np.mgrid[: fixed_hw[0] : step, : fixed_hw[1] : step]
        return self.at(np.stack([x, y], -1)).reshape(x.shape)

    def resized(self, resize: np.ndarray) -> ErrorMap:
        """The same in a fixed frame that `resize_matrix` has resized."""
        scale = np.diag(resize)[:2]
        origin = warp_points(self.origin_xy[None], resize)[0]
        return ErrorMap(self.px * np.sqrt(np.prod(scale)), origin, self.spacing_xy * scale)

    def calibrated(self, bounds: Sequence[Sequence[float]], fixed_hw: tuple[int, int]) -> ErrorMap:
        """The bound, where this is what maps left open. bounds: of `fit_bounds`, or nothing, which changes nothing."""
        if not np.size(bounds):
            return self
        to_px = max(fixed_hw) / SIDE_PX
        open_, bound = np.log(np.maximum(bounds, 1e-6))
        return replace(self, px=np.exp(np.interp(np.log(np.maximum(self.px / to_px, 1e-6)), open_, bound)) * to_px)


def checked_bounds(bounds: Sequence[Sequence[float]]) -> np.ndarray:
    """(2, N) bounds as of `fit_bounds`, or (2, 0) for none; ValueError for what cannot be bounds."""
    try:
        told = np.asarray(bounds if len(bounds) else np.zeros((2, 0)), np.float64)
        sound = told.ndim == 2 and len(told) == 2 and np.isfinite(told).all() and (np.diff(told) >= 0).all()
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError("bounds of errors: two lists of finite, rising numbers are wanted: retina-kp calibrate")
    return told


def fit_bounds(open_px: np.ndarray, error_px: np.ndarray) -> list[list[float]]:
    """What maps left open (N,) at known places, and by how much the registration was off there, px at SIDE_PX → two
    lists: rising openness, and the COVERAGE quantile of errors around it, which never falls.

    Split conformal prediction in bins of equally many places (Vovk et al. 2005, Mondrian). ValueError for fewer places
    than make BINS."""
    if len(open_px) < 10 * BINS:
        raise ValueError(f"bounds of errors need {10 * BINS} places or more, not {len(open_px)}")
    order = np.argsort(open_px, kind="stable")
    bins = np.array_split(order, BINS)
    middle = [float(np.median(open_px[own])) for own in bins]
    level = [min(np.ceil((len(own) + 1) * COVERAGE) / len(own), 1.0) for own in bins]
    bound = [float(np.quantile(error_px[own], q, method="higher")) for own, q in zip(bins, level, strict=True)]
    return [[round(m, 4) for m in middle], [round(float(b), 4) for b in np.maximum.accumulate(bound)]]
