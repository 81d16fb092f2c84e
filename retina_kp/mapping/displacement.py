"""How a map bends: a smooth displacement of the fixed frame, given by a grid of cubic B-spline coefficients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..core.geometry import warp_points

NEWTON_ROUNDS, CLOSE_ENOUGH = 30, 1e-9  # of the inverse; in spacings of the knots
SAMPLES_PER_CELL = 4  # along an axis, where a displacement is fitted
LEAST_JACOBIAN = 0.1  # of x → x + u(x), below which it counts as folded


@dataclass(frozen=True)
class Displacement:
    """x → x + u(x) in px of a frame, u a uniform cubic B-spline (Rueckert et al. 1999).

    knots: (rows, columns, 2) px, at least 4 x 4; knot (0, 0) lies at origin_xy, its neighbours spacing_xy px apart.
    Beyond the grid its outermost knots count again: there u turns constant, as smoothly as everywhere else.
    """

    knots: np.ndarray
    origin_xy: np.ndarray
    spacing_xy: np.ndarray

    @classmethod
    def fitted(cls, target: Callable, low_xy, high_xy, cells_xy: tuple[int, int]) -> Displacement:
        """The spline with cells_xy cells between two corners px that comes closest to ``target``, a function (N, 2) px
        → (N, 2) px, at SAMPLES_PER_CELL places along either axis. Exact for displacements of degree 3 or less."""
        low, high, cells = np.asarray(low_xy, np.float64), np.asarray(high_xy, np.float64), np.asarray(cells_xy)
        spacing = (high - low) / cells
        places = [np.linspace(0, n, SAMPLES_PER_CELL * n + 1) for n in cells]
        grid = np.stack(np.meshgrid(*places), -1).reshape(-1, 2) * spacing + low
        moves = (target(grid) - grid).reshape(len(places[1]), len(places[0]), 2)
        solve_x, solve_y = (np.linalg.pinv(spline_rows(axis + 1, n + 3)) for axis, n in zip(places, cells, strict=True))
        return cls(_product(solve_y, moves, solve_x), low - spacing, spacing)

    def at(self, points_xy: np.ndarray) -> np.ndarray:
        """u (N, 2) px at points (N, 2) px."""
        return self._sum(points_xy, _weights, _weights)

    def on_grid(self, x_px: np.ndarray, y_px: np.ndarray) -> np.ndarray:
        """u (H, W, 2) px where rows at y_px (H,) cross columns at x_px (W,): the same as `at`, much faster."""
        places = zip((x_px, y_px), self.origin_xy, self.spacing_xy, self.knots.shape[1::-1], strict=True)
        by_x, by_y = (spline_rows((px - origin) / spacing, n) for px, origin, spacing, n in places)
        return _product(by_y, self.knots, by_x)

    def moved(self, points_xy: np.ndarray) -> np.ndarray:
        """Points (N, 2) px + u there."""
        return np.asarray(points_xy, np.float64) + self.at(points_xy)

    def restored(self, points_xy: np.ndarray) -> np.ndarray:
        """The points that `moved` takes to points_xy (N, 2) px, by Newton's method; NaN where there is none."""
        target = np.asarray(points_xy, np.float64).reshape(-1, 2)
        x = target - self.at(target)
        open_ = np.isfinite(target).all(1)
        x[~open_] = np.nan
        for _ in range(NEWTON_ROUNDS):
            if not open_.any():
                break
            off = target[open_] - self.moved(x[open_])
            x[open_] += np.linalg.solve(self.jacobians(x[open_]), off[..., None])[..., 0]
            open_[open_] = (np.abs(off) > CLOSE_ENOUGH * self.spacing_xy).any(1)
        x[open_] = np.nan
        return x

    def jacobians(self, points_xy: np.ndarray) -> np.ndarray:
        """(N, 2, 2) derivatives of `moved` at points (N, 2) px."""
        by_x = self._sum(points_xy, _slopes, _weights) / self.spacing_xy[0]
        by_y = self._sum(points_xy, _weights, _slopes) / self.spacing_xy[1]
        return np.eye(2) + np.stack([by_x, by_y], -1)

    def folds(self) -> bool:
        """Whether two places fall together, or nearly so: told on a lattice of quarter cells over all that bends."""
        if not np.isfinite(self.knots).all():
            return True
        rows, columns = self.knots.shape[:2]
        axes = np.arange(-1, columns + 1, 0.25), np.arange(-1, rows + 1, 0.25)
        places = np.stack(np.meshgrid(*axes), -1).reshape(-1, 2) * self.spacing_xy + self.origin_xy
        return bool(np.linalg.det(self.jacobians(places)).min() < LEAST_JACOBIAN)

    def resized(self, resize: np.ndarray) -> Displacement:
        """The same in a frame that `resize_matrix` has resized."""
        scale = np.diag(resize)[:2]
        origin = warp_points(self.origin_xy[None], resize)[0]
        return Displacement(self.knots * scale, origin, self.spacing_xy * scale)

    def spread(self, low_xy, high_xy) -> Displacement:
        """The same map with so many more of its outermost knots that the grid covers all between two corners px."""
        before = np.ceil((self.origin_xy + self.spacing_xy - low_xy) / self.spacing_xy).astype(int).clip(0)
        last = self.origin_xy + (np.array(self.knots.shape[1::-1]) - 2) * self.spacing_xy
        after = np.ceil((high_xy - last) / self.spacing_xy + 1e-9).astype(int).clip(0)
        pad = ((before[1], after[1]), (before[0], after[0]), (0, 0))
        knots = np.pad(self.knots, pad, "edge")
        return replace(self, knots=knots, origin_xy=self.origin_xy - before * self.spacing_xy)

    def _sum(self, points_xy: np.ndarray, weigh_x: Callable, weigh_y: Callable) -> np.ndarray:
        """(N, 2): the knots around each point (N, 2), weighed along x and along y."""
        points = np.asarray(points_xy, np.float64).reshape(-1, 2)
        known = np.isfinite(points).all(1)
        rows, columns = self.knots.shape[:2]
        place = (np.where(known[:, None], points, 0) - self.origin_xy) / self.spacing_xy
        place = place.clip(-2, (columns + 1, rows + 1))  # farther out all knots are the same one
        whole = np.floor(place).astype(int)
        along_x, along_y = weigh_x(place[:, 0] - whole[:, 0]), weigh_y(place[:, 1] - whole[:, 1])
        total = np.zeros((len(points), 2))
        for j in range(4):
            row = (whole[:, 1] + j - 1).clip(0, rows - 1)
            for i in range(4):
                knot = self.knots[row, (whole[:, 0] + i - 1).clip(0, columns - 1)]
                total += (along_x[i] * along_y[j])[:, None] * knot
        return np.where(known[:, None], total, np.nan)


def _weights(t: np.ndarray) -> np.ndarray:
    """(4, N) weights of the knots around places t in [0, 1] of a cell."""
    return np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3]) / 6


def _slopes(t: np.ndarray) -> np.ndarray:
    """(4, N) derivatives of `_weights`."""
    return np.stack([-((1 - t) ** 2), 3 * t**2 - 4 * t, 1 + 2 * t - 3 * t**2, t**2]) / 2


def spline_rows(places: np.ndarray, count: int) -> np.ndarray:
    """(N, count) weights of all knots along one axis at places (N,), in knots."""
    places = places.clip(-2, count + 1)
    whole = np.floor(places).astype(int)
    rows = np.zeros((len(places), count))
    for i, weight in enumerate(_weights(places - whole)):
        np.add.at(rows, (np.arange(len(places)), (whole + i - 1).clip(0, count - 1)), weight)
    return rows


def _product(by_y: np.ndarray, values: np.ndarray, by_x: np.ndarray) -> np.ndarray:
    """(H, W, 2): by_y (H, r) times values (r, c, 2) times by_x (W, c), transposed; in torch for the reason given in
    `keypoints.similarities`."""
    by_y, values, by_x = (torch.from_numpy(np.ascontiguousarray(each)) for each in (by_y, values, by_x))
    return torch.stack([by_y @ values[..., k] @ by_x.T for k in (0, 1)], -1).numpy()
