"""Gauss-Newton on two detector maps: the smooth displacement that lays one on the other, and what they leave open."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.polynomial import legendre

from ..core.geometry import pixel_grid
from ..mapping.displacement import spline_rows
from .refinement import agreement, correlation, relief, smoothed

# neighbouring cells of a map err alike: so many know no more than one
NOISE = 40.0
START_PX = 8.0  # σ of all priors until the maps are no longer blurred and WAIT rounds have settled what they can
WAIT = 2
ROUNDS, SETTLED_CELLS, DAMPING = 8, 0.01, 1e-3  # of Gauss-Newton
FLAT, LINE = 0.6, 64  # share of cells that are too flat to tell anything; cells in a line: cv2.remap takes no long ones
MIN_CELLS = 400  # that both images show; fewer carry no bend
SPREAD = (1e-3, 50.0)  # least and largest factor on the σ of a prior
# of what is left open: σ of the priors where maps tell nothing, σ of the mean that agreement is told by
OPEN_PX, AROUND_CELLS = 4.0, 12.0

DEGREE = 4  # of polynomials
SPLINE_CELLS, CURVED_PX, MOVED_PX = 10, 1.0, 4.0  # of splines: σ of second differences of knots, and of knots


class Terms(NamedTuple):
    """Smooth functions of the place: values (N, T) at N places; the precision (T, T) of their coefficients up to a
    factor for each group, and the group (T,) of each. Groups do not share precision."""

    values: torch.Tensor
    precision: np.ndarray
    group: np.ndarray


class Basis(NamedTuple):
    """Smooth functions of the place: products of functions i (T,) of x and j (T,) of y, those of ``line``, (N,) in
    [-1, 1] → (N, K). precision (T, T): of their coefficients in px; groups of coefficients earn their own."""

    line: Callable[[np.ndarray], np.ndarray]
    i: np.ndarray
    j: np.ndarray
    precision: np.ndarray
    group: np.ndarray

    def at(self, places: np.ndarray) -> np.ndarray:
        """(N, T) values at places (N, 2) in [-1, 1]."""
        return self.line(places[:, 0])[:, self.i] * self.line(places[:, 1])[:, self.j]

    def terms(self, hw: tuple[int, int], unit_px: float = 1.0) -> Terms:
        """At the centres of the h·w cells of a map that fills the square, for coefficients in units of unit_px."""
        y, x = (torch.from_numpy(self.line(np.arange(1, 2 * n, 2) / n - 1)).float() for n in hw)
        values = y[:, None, self.j] * x[None, :, self.i]
        return Terms(values.flatten(0, 1), self.precision * unit_px**2, self.group)

    def first(self, count: int) -> Basis:
        """Of the first ``count`` functions alone."""
        return Basis(self.line, self.i[:count], self.j[:count], self.precision[:count, :count], self.group[:count])


def _polynomials() -> Basis:
    """Products of Legendre polynomials of x and of y, up to DEGREE; a group holds those of one degree."""
    i, j = np.array([(k, total - k) for total in range(DEGREE + 1) for k in range(total + 1)]).T
    return Basis(lambda x: legendre.legvander(x, DEGREE), i, j, np.eye(len(i)), i + j)


def _splines() -> Basis:
    """Cubic B-splines on SPLINE_CELLS² cells, their second differences and their knots held near 0."""
    count = SPLINE_CELLS + 3
    second, one = np.diff(np.eye(count), 2, axis=0), np.eye(count)
    curved = sum(m.T @ m for m in (np.kron(second, one), np.kron(one, second)))
    j, i = np.unravel_index(np.arange(count**2), (count, count))
    precision = curved / CURVED_PX**2 + np.eye(count**2) / MOVED_PX**2
    return Basis(lambda x: spline_rows((x + 1) / 2 * SPLINE_CELLS + 1, count), i, j, precision, np.zeros(count**2, int))


POLYNOMIALS, SPLINES = _polynomials(), _splines()
PLANE, QUADRATIC = POLYNOMIALS.first(3), POLYNOMIALS.first(6)  # what an affine can do, and the next more


class Climbed(NamedTuple):
    """A displacement read off two maps: coefficients (T, 2), in cells; correlation of the maps before and with it; gain,
    nats by which they are likelier with it; covariance (2T, 2T) of what they leave open; agreement (h, w), their
    correlation around each cell."""

    coefficients: np.ndarray
    before: float
    correlation: float
    gain: float
    covariance: np.ndarray
    agreement: np.ndarray


def climb(
    maps: tuple[np.ndarray, np.ndarray],
    terms: Terms,
    blurs: tuple[float, ...],
    noise: float = NOISE,
    start_px: float = START_PX,
    begun: np.ndarray | None = None,
) -> Climbed | None:
    """The displacement that takes places of map 0 to where map 1 (h, w) shows the same; None where too little is seen
    by both. begun: coefficients (K, 2) of the first K terms, in cells, to begin with.

    Maximum a posteriori by Gauss-Newton on r0(x) − g · r1(x + u(x)), r the maps' `relief`. The gain g is solved for in
    closed form. The slope is that of r0, as in the inverse step of Baker & Matthews 2004.
    """
    coefficients = np.zeros((len(terms.precision), 2))
    if begun is not None:
        coefficients[: len(begun)] = begun
    strict = np.full(terms.group.max() + 1, start_px**-2.0)
    before = agreement(*maps)
    for blur in blurs:
        settled = _settle(maps, terms, blur, noise, coefficients, strict, blur == blurs[-1])
        if settled is None:
            return None
    told, *seen, shown = settled
    after = correlation(*seen)
    open_ = np.linalg.inv(told + np.kron(np.eye(2), terms.precision / OPEN_PX**2))
    known = np.count_nonzero((maps[0] > 0) & (maps[1] > 0)) / noise
    gain = known / 2 * float(np.log((1 - before**2 + 1e-9) / (1 - after**2 + 1e-9)))
    return Climbed(coefficients, before, after, gain, open_, _agreement(*seen, shown))


def _settle(maps, terms: Terms, blur, noise, coefficients, strict: np.ndarray, earn: bool) -> tuple | None:
    """Move the coefficients (T, 2) uphill on maps of one blur, and the factors on the groups' precision if these are
    to be earned; what the maps tell of them (2T, 2T), both reliefs (N,) as they lie on each other then, and where,
    (h, w) bool; None where too little is seen by both."""
    stride = max(int(blur), 1)  # blurred maps tell no more in every cell
    thin = (slice(None, None, stride),) * 2
    grid = pixel_grid(maps[0].shape).numpy()[thin]
    values = terms.values.reshape(*maps[0].shape, -1)[thin]
    r0, r1 = (relief(m, blur) for m in maps)

    def look(picture: np.ndarray, grid: np.ndarray, values: torch.Tensor) -> np.ndarray:
        moved = (values.flatten(0, 1) @ torch.from_numpy(coefficients).float()).numpy()
        return cv2.remap(picture, grid + moved.reshape(grid.shape), None, cv2.INTER_LINEAR)

    shown = (maps[0][thin] > 0) & (look(maps[1], grid, values) > 0)
    if shown.sum() * stride**2 < MIN_CELLS:
        return None
    slopes = np.stack([cv2.Sobel(r0, cv2.CV_32F, *axis, ksize=3, scale=1 / 8)[thin] for axis in ((1, 0), (0, 1))], -1)
    steep = _steep((slopes**2).sum(-1), shown)
    few, some = grid.reshape(-1, 2)[steep], values.flatten(0, 1)[torch.from_numpy(steep)]
    own, slopes = r0[thin].ravel()[steep].ravel(), torch.from_numpy(slopes.reshape(-1, 2)[steep].reshape(-1, 2))
    rows = torch.cat([some.flatten(0, 1) * slopes[:, k, None] for k in (0, 1)], 1)
    told = (rows.T @ rows).double().numpy()
    for number in range(ROUNDS):
        read = look(r1, few, some).ravel()
        error = own - read * float(own @ read) / max(float(read @ read), 1e-12)
        variance = noise * ((1 + blur) / stride) ** 2 * float(np.mean(error**2)) + 1e-12
        pull = (rows.T @ torch.from_numpy(error)).double().numpy() / variance
        step, earned = _step(told / variance, pull, terms, coefficients, strict)
        coefficients += step
        if earn and number >= WAIT:
            strict[:] = earned
        if number > WAIT and (some[:, 0] @ torch.from_numpy(step).float()).abs().max() < SETTLED_CELLS:
            break
    return told / variance, r0[thin][shown], look(r1, grid, values)[shown], shown


def _steep(steepness: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Indices, in lines of about LINE, of the places shown (h, w) where a map is steep: elsewhere it tells nothing."""
    index = np.flatnonzero(shown & (steepness >= np.quantile(steepness[shown], FLAT)))
    lines = max(len(index) // LINE, 1)
    return index[: len(index) // lines * lines].reshape(lines, -1)


def _agreement(one: np.ndarray, other: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """(h, w) correlation of two reliefs (N,) around each of the places shown (h, w); 0 far from them."""
    grids = np.zeros((2, *shown.shape), np.float32)
    grids[:, shown] = one, other

    def mean(values: np.ndarray) -> np.ndarray:
        return smoothed(values, AROUND_CELLS, cv2.BORDER_CONSTANT)

    power = np.sqrt(mean(grids[0] ** 2) * mean(grids[1] ** 2))
    return mean(grids[0] * grids[1]) / (power + 1e-9)


def _step(told: np.ndarray, pull: np.ndarray, terms: Terms, coefficients: np.ndarray, strict: np.ndarray) -> tuple:
    """(T, 2), a damped step of Gauss-Newton, and the factors (groups,) on the precision of priors that it speaks for.

    A factor is the one that makes the coefficients most likely (MacKay 1992, Bayesian Interpolation): groups that explain no more
    than noise would vanish, and a flat pair keeps its affine. told: (2T, 2T) information of the maps; pull: (2T,)."""
    precision = np.kron(np.eye(2), terms.precision * strict[terms.group])
    covariance = np.linalg.inv(told + precision + DAMPING * np.diag(np.diag(told)))
    step = (covariance @ (pull - precision @ coefficients.T.ravel())).reshape(2, -1).T
    found, both = coefficients + step, np.tile(terms.group, 2)
    known = np.bincount(both, 1 - (covariance * precision).sum(1))
    size = np.bincount(terms.group, (found * (terms.precision @ found)).sum(1))
    earned = np.maximum(known, 1e-6) / np.maximum(size, 1e-12)
    return step, earned.clip(SPREAD[1] ** -2.0, SPREAD[0] ** -2.0)
