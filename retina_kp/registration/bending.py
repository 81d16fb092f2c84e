"""The last stage: a smooth displacement, read off the detector's maps of both images, coarse to fine.

Two views of a round eye differ by a map that no plane model describes. Its matches tell a strong bend roughly. The
moving image is drawn through the map found so far; what still moves is a sum of smooth functions of the place, fitted
by Gauss-Newton to all of the maps at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np

from ..core.geometry import from_cells, lattice, to_cells, warp_points
from ..mapping.expected_error import ErrorMap
from ..mapping.result import Registration
from ..mapping.transforms import tukey_weights
from .climbing import NOISE, PLANE, POLYNOMIALS, QUADRATIC, SPLINES, START_PX, Basis, Climbed, Terms, climb
from .closeup import Candidate, Frame, common_frame
from .views import MAX_ENLARGE, ImageViews

# correlation of maps, before or after, that are begun with anew, freer and more blurred, and how many times better they
# must agree then
POOR, FREE_PX, BLUR, GAIN = 0.3, 16.0, 8.0, 1.15
# of a quadratic of matches nearby: how far these look (base px) and how near they agree; steps in which that limit
# falls; σ of its bend, px of the window; it is worth a try where so many times the matches agree with it, and more
MATCHED_PX, AGREED_PX, FALLS, CURVE_PX, TIMES, MORE = (30.0, 60.0), 3.0, 9, 20.0, 1.1, 5
# a climb that begins with it: Gaussians (σ in cells), σ of priors; correlation below which one from afar is tried too,
# and one with all Gaussians, and how many times better these must agree
NEAR_BLURS, NEAR_PX, UNSURE, FAINT, EVEN = (1.0, 0.0), 32.0, 0.66, 0.35, 1.01
ODDS = 20.0  # nats by which maps must be likelier with a bend than without to make a flat pair and a round one even
NEXT_TO_NOTHING = 0.05  # share of a bend that is left out
DRAWN, REDRAW_PX = 6, 10.0  # a level is drawn anew, at most so often, while places move so far: px of the window
CELLS = (16, 16)  # of the displacement that keeps the sum
STILL_PX = 0.25  # a displacement that is smaller everywhere, px of the window, is none
WORTHWHILE = 1.5  # a window is looked at if it is so much finer than the one before
LEAST_AGREEMENT, NODES = 0.05, 24  # of what is told to be left open: least correlation, nodes along a side


class Level(NamedTuple):
    """A window of px² pixels, neither image enlarged more than ``enlarge`` times; Gaussians (σ in cells) on its maps,
    one after the other; noise: as NOISE, less where maps are finer or bends are local."""

    px: float
    blurs: tuple[float, ...]
    enlarge: float
    basis: Basis
    noise: float = NOISE


SMOOTH = (
    Level(560, (4.0, 2.0, 1.0, 0.0), MAX_ENLARGE, POLYNOMIALS),
    Level(1200, (1.0, 0.0), 1.0, POLYNOMIALS, NOISE / 2),
)
ELASTIC = (*SMOOTH, Level(560, (1.0, 0.0), MAX_ENLARGE, SPLINES, 10.0))
BENDS = {"auto": SMOOTH, "elastic": ELASTIC}


def bend(
    views0: ImageViews,
    views1: ImageViews,
    result: Registration,
    levels: Sequence[Level],
    candidate: Candidate | None = None,
) -> Registration:
    """The same registration with a displacement that lays the detector's maps on each other; as it was where the
    overlap is small, the maps agree no better, or the map would fold. candidate: that the result was told by, so that
    the first level need not see its window again."""
    zooms, begun = {}, None if candidate is None else _told_by_matches(candidate, views0.network.detector_stride)
    for number, level in enumerate(levels):
        H = views0.base_from_original @ result.H_1to0 @ np.linalg.inv(views1.base_from_original)
        frame, maps = common_frame(views0, views1, H, level.px, level.enlarge), (None, None)
        if number == 0 and candidate is not None:
            frame, maps = candidate.warped.window.frame, candidate.maps(views0.network.detector_stride)
        if frame is None or frame.zoom < WORTHWHILE * zooms.get(level.basis.line, 0):
            continue
        zooms[level.basis.line], (map0, map1) = frame.zoom, maps
        map0 = views0.detector_map(*views0.picture(frame.from_base, frame.hw)) if map0 is None else map0
        for drawn in range(1, DRAWN + 1):
            result, moved_px = _bend_in(frame, (map0, map1), views0, views1, result, level, begun)
            begun = None
            if moved_px < REDRAW_PX / drawn:  # where a bend is strong, its end tells much
                break
            map1 = None
    return result


def _told_by_matches(candidate: Candidate, stride: int) -> np.ndarray | None:
    """Coefficients (6, 2), in cells, of the quadratic displacement that matches tell in the candidate's window; None
    where hardly more of them agree with it than with none. It bridges what is too far for a climb."""
    warped, step = candidate.warped, candidate.step
    hw, zoom = warped.window.features0.detector.shape, warped.window.zoom
    found, most = None, 0
    for radius_px in MATCHED_PX:
        points0, points1 = warped.matches(radius_px * zoom, step)
        moved_px = warp_points(points1, step) - points0
        values = QUADRATIC.at(_in_square(to_cells(points0, stride), hw))
        coefficients, bent = np.zeros((len(QUADRATIC.i), 2)), QUADRATIC.group > 1
        for limit_px in np.geomspace(radius_px, AGREED_PX, FALLS) * zoom:
            weighed = values * tukey_weights(values @ coefficients, moved_px, limit_px)[:, None]
            known = values.T @ weighed + np.diag(bent * (AGREED_PX / CURVE_PX) ** 2 + 1e-9)
            coefficients = np.linalg.solve(known, weighed.T @ moved_px)
        agree, before = (
            np.count_nonzero(np.linalg.norm(each - moved_px, axis=1) < AGREED_PX * zoom)
            for each in (values @ coefficients, 0)
        )
        if agree > max(most, TIMES * before + MORE):
            found, most = coefficients / stride, agree
    return found


def _bend_in(
    frame: Frame,
    maps: tuple,
    views0: ImageViews,
    views1: ImageViews,
    result: Registration,
    level: Level,
    begun: np.ndarray | None = None,
) -> tuple[Registration, float]:
    """One climb of `bend`, and how far it moved a place, px of the frame; maps: the detector's in the frame, that of
    the moving image None where it must be seen anew; begun: as `climb`."""
    window_from_original = frame.from_base @ views0.base_from_original
    original_from_window = np.linalg.inv(window_from_original)
    x_px, y_px = frame.axes_px(views0)
    low, high = (x_px[0], y_px[0]), (x_px[-1], y_px[-1])
    if maps[1] is None:
        maps = maps[0], views1.detector_map(*views1.drawn(result.map_grid(x_px, y_px)))
    stride, hw = views0.network.detector_stride, maps[0].shape
    terms = level.basis.terms(hw, stride)
    climbed = _climbed(maps, terms, level, begun)
    if climbed is None:
        return result, 0.0
    result = replace(result, expected=_left_open(climbed, level, x_px, y_px, stride, maps))
    found, flat = climbed.coefficients, False
    if result.displacement is None:
        found, flat = _no_more_than_needed(climbed, maps, level, stride)
    shown = np.flatnonzero((maps[0] > 0) & (maps[1] > 0))[::31]
    seen = np.stack(np.unravel_index(shown, maps[0].shape)[::-1], 1).astype(np.float64)
    moved_px = float(np.abs(level.basis.at(_in_square(seen, hw)) @ found).max()) * stride
    if climbed.correlation <= climbed.before or moved_px < STILL_PX:
        return result, 0.0

    def target(points0_xy):
        window_px = warp_points(points0_xy, window_from_original)
        step = level.basis.at(_in_square(to_cells(window_px, stride), hw)) @ found
        return result.map_to_moving(warp_points(window_px + step * stride, original_from_window))

    bent = result.bent(target, low, high, CELLS, warp_points(from_cells(seen, stride), original_from_window))
    if bent is None:
        return result, 0.0
    return (replace(bent, displacement=None) if flat else bent), moved_px


def _climbed(maps: tuple, terms: Terms, level: Level, begun: np.ndarray | None) -> Climbed | None:
    """`climb`, and where that leaves maps poor the best of others, too: from afar, freer."""
    usual, afar = (level.blurs, level.noise), ((BLUR, *level.blurs), level.noise, FREE_PX)
    if begun is None:
        best, others, gain = climb(maps, terms, *usual), [afar], GAIN
        poor = best and min(best.before, best.correlation) < POOR
    else:
        best, others, gain = climb(maps, terms, NEAR_BLURS, level.noise, NEAR_PX, begun), [afar], EVEN
        poor = best and best.correlation < UNSURE
        if poor and best.correlation < FAINT:
            others.append((*usual, NEAR_PX, begun))
    for other in others if poor else ():
        found = climb(maps, terms, *other)
        if found is not None and found.correlation > gain * best.correlation:
            best = found
    return best


def _in_square(cells_xy: np.ndarray, hw: tuple[int, int]) -> np.ndarray:
    """Places (N, 2) of a map (h, w) in the square [-1, 1]² that it fills, or on its rim."""
    return ((cells_xy + 0.5) * 2 / hw[::-1] - 1).clip(-1, 1)


def _no_more_than_needed(climbed: Climbed, maps: tuple, level: Level, stride: int) -> tuple[np.ndarray, bool]:
    """Coefficients (T, 2): what an affine does as well is left to it, by how much likelier the bend makes the maps; and
    whether that is all of it. Next to no gain moves nothing: the plane part of a bend is no good affine by itself."""
    alone = np.zeros_like(climbed.coefficients)
    if climbed.gain < ODDS / 2:
        return alone, True
    blurs, free_px = (level.blurs, START_PX) if climbed.before >= POOR else ((BLUR, *level.blurs), FREE_PX)
    plane = climb(maps, PLANE.terms(maps[0].shape, stride), blurs, level.noise, free_px)
    if plane is None:
        return climbed.coefficients, False
    alone[: len(PLANE.i)] = plane.coefficients[: len(PLANE.i)]
    share = 1 / (1 + np.exp(ODDS - (climbed.gain - plane.gain)))
    return alone + share * (climbed.coefficients - alone), share < NEXT_TO_NOTHING


def _left_open(climbed: Climbed, level: Level, x_px: np.ndarray, y_px: np.ndarray, stride: int, maps) -> ErrorMap:
    """What two maps leave open, fixed px, on a lattice over the window whose columns and rows show x_px and y_px: the σ
    of the displacement, more where the maps agree less, there or on the whole."""
    h, w = climbed.agreement.shape
    nodes = lattice((h, w), NODES)
    values = level.basis.at((nodes + 0.5) * 2 / (w, h) - 1)
    count = values.shape[1]
    blocks = (climbed.covariance[k : k + count, k : k + count] for k in (0, count))
    sigma_cells = np.sqrt(sum(((values @ block) * values).sum(1) for block in blocks))
    x, y = np.rint(nodes).astype(int).T
    shown = cv2.dilate(((maps[0] > 0) & (maps[1] > 0)).astype(np.uint8), np.ones((5, 5)))[y, x] > 0
    agreement = climbed.agreement[y, x].clip(LEAST_AGREEMENT, 1) * max(climbed.correlation, LEAST_AGREEMENT)
    open_cells = np.where(shown, sigma_cells / agreement, np.nan)
    step = np.array([x_px[1] - x_px[0], y_px[1] - y_px[0]])
    places_px = np.array([x_px[0], y_px[0]]) + from_cells(nodes, stride) * step
    px = (open_cells * stride * np.sqrt(step.prod())).reshape(NODES, NODES)
    return ErrorMap(px, places_px[0], (places_px[-1] - places_px[0]) / (NODES - 1))
