"""The last stage: a smooth displacement, read off the detector's maps of both images, coarse to fine.

Two views of a round eye differ by a map that no plane model describes. The moving image is drawn through the map found
so far. What still moves is a sum of smooth functions of the place, fitted by Gauss-Newton to all of the maps at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.polynomial import legendre

from ..core.geometry import from_cells, pixel_grid, to_cells, warp_points
from .closeup import Frame, common_frame
from .displacement import spline_rows
from .keypoints import detector_map
from .refinement import relief
from .result import Registration
from .views import MAX_ENLARGE, ImageViews

# neighbouring cells of a map err alike: so many know no more than one; fewer where bends are local
NOISE, LOCAL_NOISE = 90.0, 20.0
START_PX = 8.0  # σ of all priors until the maps are no longer blurred and WAIT rounds have settled what they can
WAIT = 2
ROUNDS, SETTLED_CELLS, DAMPING = 8, 0.01, 1e-3  # of Gauss-Newton
MIN_CELLS = 400  # that both images show; fewer carry no bend
CELLS = (16, 16)  # of the displacement that keeps the sum
STILL_PX = 0.25  # a displacement that is smaller everywhere, px of the window, is none
WORTHWHILE = 1.15  # a window is looked at if it is so much finer than the one before

DEGREE = 4  # of polynomials
SPLINE_CELLS, CURVED_PX, MOVED_PX = 10, 1.0, 4.0  # of splines: σ of second differences of knots, and of knots
SPREAD = (1e-3, 50.0)  # least and largest factor on the σ of a prior


class Terms(NamedTuple):
    """Smooth functions of the place: values (N, T) at N places; the precision (T, T) of their coefficients up to a
    factor for each group, and the group (T,) of each. Groups do not share precision."""

    values: torch.Tensor
    precision: np.ndarray
    group: np.ndarray


class Level(NamedTuple):
    """A window of px² pixels, neither image enlarged more than ``enlarge`` times; Gaussians (σ in cells) on its maps,
    one after the other; terms: a function of places (N, 2) in [-1, 1] and the px of a unit; noise: see NOISE."""

    px: float
    blurs: tuple[float, ...]
    enlarge: float
    terms: Callable[[np.ndarray, float], Terms]
    noise: float = NOISE


def polynomials(places: np.ndarray, unit_px: float = 1.0) -> Terms:
    """Products of Legendre polynomials of x and of y, up to DEGREE; a group holds those of one degree."""
    x, y = (legendre.legvander(places[:, k], DEGREE) for k in (0, 1))
    powers = [(i, total - i) for total in range(DEGREE + 1) for i in range(total + 1)]
    values = np.stack([x[:, i] * y[:, j] for i, j in powers], 1)
    return Terms(
        torch.from_numpy(values).float(), np.eye(len(powers)) * unit_px**2, np.array([i + j for i, j in powers])
    )


def splines(places: np.ndarray, unit_px: float = 1.0) -> Terms:
    """Cubic B-splines on SPLINE_CELLS² cells, their second differences and their knots held near 0."""
    count = SPLINE_CELLS + 3
    x, y = (spline_rows((places[:, k] + 1) / 2 * SPLINE_CELLS + 1, count) for k in (0, 1))
    values = (y[:, :, None] * x[:, None]).reshape(len(places), -1)
    second, one = np.diff(np.eye(count), 2, axis=0), np.eye(count)
    curved = sum(m.T @ m for m in (np.kron(second, one), np.kron(one, second)))
    precision = curved * (unit_px / CURVED_PX) ** 2 + np.eye(count**2) * (unit_px / MOVED_PX) ** 2
    return Terms(torch.from_numpy(values).float(), precision, np.zeros(count**2, int))


SMOOTH = (Level(560, (4.0, 2.0, 1.0, 0.0), MAX_ENLARGE, polynomials), Level(1200, (1.0, 0.0), 1.0, polynomials))
ELASTIC = (*SMOOTH, Level(560, (1.0, 0.0), MAX_ENLARGE, splines, LOCAL_NOISE))
BENDS = {"auto": SMOOTH, "elastic": ELASTIC}


def bend(views0: ImageViews, views1: ImageViews, result: Registration, levels: tuple[Level, ...]) -> Registration:
    """The same registration with a displacement that lays the detector's maps on each other; as it was where the
    overlap is small, the maps agree no better, or the map would fold."""
    zooms = {}
    for level in levels:
        H = views0.base_from_original @ result.H_1to0 @ np.linalg.inv(views1.base_from_original)
        frame = common_frame(views0, views1, H, level.px, level.enlarge)
        if frame is None or frame.zoom < WORTHWHILE * zooms.get(level.terms, 0):
            continue
        zooms[level.terms] = frame.zoom
        result = _bend_in(frame, views0, views1, result, level)
    return result


def _bend_in(frame: Frame, views0: ImageViews, views1: ImageViews, result: Registration, level: Level) -> Registration:
    """One level of `bend`."""
    window_from_original = frame.from_base @ views0.base_from_original
    original_from_window = np.linalg.inv(window_from_original)
    low, high = warp_points([[0, 0], [frame.hw[1] - 1, frame.hw[0] - 1]], original_from_window)
    x_px, y_px = (np.linspace(low[k], high[k], frame.hw[1 - k]) for k in (0, 1))
    pictures = views0.picture(frame.from_base, frame.hw), views1.drawn(result.map_grid(x_px, y_px))
    views = zip((views0, views1), pictures, strict=True)
    maps = tuple(detector_map(v.network, *picture, v.options, v.fast) for v, picture in views)
    stride, half = views0.network.detector_stride, np.array(maps[0].shape[::-1]) / 2

    def places(cells_xy):
        return ((cells_xy + 0.5) / half - 1).clip(-1, 1)

    terms = level.terms(places(pixel_grid(maps[0].shape).double().numpy().reshape(-1, 2)), stride)
    found = climb(maps, terms, level.blurs, level.noise)
    if found is None or (terms.values[::101] @ torch.from_numpy(found).float()).abs().max() * stride < STILL_PX:
        return result

    def target(points0_xy):
        window_px = warp_points(points0_xy, window_from_original)
        step = level.terms(places(to_cells(window_px, stride))).values.double().numpy() @ found
        return result.map_to_moving(warp_points(window_px + step * stride, original_from_window))

    seen = pixel_grid(maps[0].shape)[::3, ::3][((maps[0] > 0) & (maps[1] > 0))[::3, ::3]].double().numpy()
    return result.bent(target, low, high, CELLS, warp_points(from_cells(seen, stride), original_from_window)) or result


def climb(maps: tuple[np.ndarray, np.ndarray], terms: Terms, blurs: tuple[float, ...], noise: float = NOISE):
    """(T, 2) coefficients, in cells, of the displacement that takes places of map 0 to where map 1 (h, w) shows the
    same; None where too little is seen by both, or the maps agree no better than before.

    Maximum a posteriori by Gauss-Newton on r0(x) − g · r1(x + u(x)), r the maps' `relief`. The gain g is solved for in
    closed form. The slope is that of r0, as in the inverse step of Baker & Matthews 2004.
    """
    coefficients = np.zeros((len(terms.precision), 2))
    strict = np.full(terms.group.max() + 1, START_PX**-2.0)
    both = (maps[0] > 0) & (maps[1] > 0)
    before = now = _correlation(*(relief(m)[both] for m in maps))
    for blur in blurs:
        now = _settle(maps, terms, blur, noise, coefficients, strict, blur == blurs[-1])
        if now is None:
            return None
    return coefficients if now > before else None


def _settle(maps, terms: Terms, blur, noise, coefficients, strict: np.ndarray, earn: bool) -> float | None:
    """Move the coefficients (T, 2) uphill on maps of one blur, and the factors on the groups' precision if these are
    to be earned; the correlation at the end, None where too little is seen by both."""
    stride = max(int(blur), 1)  # blurred maps tell no more in every cell
    thin = (slice(None, None, stride),) * 2
    grid = pixel_grid(maps[0].shape).numpy()[thin]
    values = terms.values.reshape(*maps[0].shape, -1)[thin].reshape(grid[..., 0].size, -1)
    r0, r1 = (relief(m, blur) for m in maps)

    def look(picture: np.ndarray) -> np.ndarray:
        places = grid + (values @ torch.from_numpy(coefficients).float()).numpy().reshape(grid.shape)
        return cv2.remap(picture, places, None, cv2.INTER_LINEAR)

    shown = (maps[0][thin] > 0) & (look(maps[1]) > 0)
    if shown.sum() * stride**2 < MIN_CELLS:
        return None
    slopes = (cv2.Sobel(r0, cv2.CV_32F, *axis, ksize=3, scale=1 / 8)[thin][shown] for axis in ((1, 0), (0, 1)))
    known = values[torch.from_numpy(shown.ravel())]
    rows = torch.cat([known * torch.from_numpy(slope)[:, None] for slope in slopes], 1)
    told, r0 = (rows.T @ rows).double().numpy(), r0[thin][shown]
    for number in range(ROUNDS):
        read = look(r1)[shown]
        error = r0 - read * float(r0 @ read) / max(float(read @ read), 1e-12)
        variance = noise * ((1 + blur) / stride) ** 2 * float(np.mean(error**2)) + 1e-12
        pull = (rows.T @ torch.from_numpy(error)).double().numpy() / variance
        step, earned = _step(told / variance, pull, terms, coefficients, strict)
        coefficients += step
        if earn and number >= WAIT:
            strict[:] = earned
        if number > WAIT and (values[::101] @ torch.from_numpy(step).float()).abs().max() < SETTLED_CELLS:
            break
    return _correlation(r0, read)


def _step(told: np.ndarray, pull: np.ndarray, terms: Terms, coefficients: np.ndarray, strict: np.ndarray) -> tuple:
    """(T, 2), a damped step of Gauss-Newton, and the factors (groups,) on the precision of priors that it speaks for.

    A factor is the one that makes the coefficients most likely (MacKay 1992, Bayesian Interpolation): groups that explain no more
    than noise would vanish, and a flat pair keeps its affine. told: (2T, 2T) information of the maps; pull: (2T,)."""
    precision = np.kron(np.eye(2), terms.precision * strict[terms.group])
    covariance = np.linalg.inv(told + precision + DAMPING * np.diag(np.diag(told)))
    step = (covariance @ (pull - precision @ coefficients.T.ravel())).reshape(2, -1).T
    found, both, earned = coefficients + step, np.tile(terms.group, 2), strict.copy()
    for group in range(len(strict)):
        own, one = both == group, terms.group == group
        known = own.sum() - np.sum(covariance[np.ix_(own, own)] * precision[np.ix_(own, own)])
        size = np.sum(found[one] * (terms.precision[np.ix_(one, one)] @ found[one]))
        earned[group] = np.clip(max(known, 1e-6) / max(size, 1e-12), SPREAD[1] ** -2.0, SPREAD[0] ** -2.0)
    return step, earned


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Of two reliefs (N,), whose means are about 0."""
    return float(one @ other) / max(float(np.sqrt((one @ one) * (other @ other))), 1e-12)
