"""One map for each image of an eye, so that all pairs of images agree as well as they can.

The unknowns are polynomials F_k, px of image k → px of the reference, whose own is the identity. A link between images
i and j knows places p_i and p_j (N, 2) that show the same, and asks that F_i(p_i) = F_j(p_j): linear in the unknowns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..core.geometry import image_center

AT_PX = 768  # longer side of the reference in which errors are told
DEGREES = (1, 2, 3)
ENOUGH, ENOUGH_PX = 1.15, 0.1  # a lower degree is taken if its error is at most so many times that of the highest, plus
TELLS = 25.0  # independent places that a link is worth, however many it has: neighbours err alike
NOISE_PX = 1.0  # σ of a place
BENDS_PX = {2: 60.0, 3: 20.0}  # σ of coefficients by degree: what they move at an image's rim
HUBER_PX, ROUNDS = 2.0, 12  # beyond it an error counts linearly; rounds of reweighting

Links = Mapping[tuple[int, int], tuple[np.ndarray, np.ndarray]]  # places (N, 2) px of images i and j, by (i, j)


@dataclass(frozen=True)
class Polynomial:
    """A map of points: coefficients (T, 2) px of the products of powers of places about ``center``, in units of
    ``unit`` px, by total degree."""

    coefficients: np.ndarray
    center: np.ndarray
    unit: float
    degree: int

    def __call__(self, points_xy: np.ndarray) -> np.ndarray:
        """(N, 2) px → (N, 2) px."""
        return self.terms(points_xy) @ self.coefficients

    def terms(self, points_xy: np.ndarray) -> np.ndarray:
        """(N, T)."""
        return _terms((np.asarray(points_xy, np.float64) - self.center) / self.unit, self.degree)

    @classmethod
    def identity(cls, image_hw, degree: int) -> Polynomial:
        """In the unit of an image (h, w)."""
        center, unit = np.array(image_center(image_hw)), max(image_hw) / 2
        coefficients = np.zeros(((degree + 1) * (degree + 2) // 2, 2))
        coefficients[:3] = center, (unit, 0), (0, unit)
        return cls(coefficients, center, unit, degree)

    @classmethod
    def fitted(cls, source: np.ndarray, target: np.ndarray, degree: int) -> Polynomial:
        """That which takes points ``source`` (N, 2) nearest to ``target``."""
        low, high = source.min(0), source.max(0)
        center, unit = (low + high) / 2, max(float((high - low).max()) / 2, 1.0)
        terms = _terms((source - center) / unit, degree)
        return cls(np.linalg.lstsq(terms, target, rcond=None)[0], center, unit, degree)

    @property
    def H(self) -> np.ndarray:
        """(3, 3) its affine part about ``center``, exact for degree 1."""
        linear = self.coefficients[1:3].T / self.unit
        return np.vstack([np.column_stack([linear, self.coefficients[0] - linear @ self.center]), [0, 0, 1]])


def _terms(u: np.ndarray, degree: int) -> np.ndarray:
    powers = [(total - j, j) for total in range(degree + 1) for j in range(total + 1)]
    return np.stack([u[:, 0] ** i * u[:, 1] ** j for i, j in powers], 1)


def adjust(links: Links, sizes: Sequence[tuple[int, int]], reference: int, degree: int) -> dict[int, Polynomial]:
    """The polynomials of the reference and of all images that links lead to it from. sizes: (h, w) of every image.

    Least squares with Huber's weights, and a prior that holds what is not affine near 0 where no link tells more.
    """
    maps = {k: Polynomial.identity(sizes[k], degree) for k in sorted({reference, *(k for pair in links for k in pair)})}
    unknown, px = [k for k in maps if k != reference], max(sizes[reference]) / AT_PX
    bends = np.repeat([(BENDS_PX[d] * px) ** -2.0 if d > 1 else 0.0 for d in range(degree + 1)], range(1, degree + 2))
    weights = {pair: np.ones(len(places[0])) for pair, places in links.items()}
    for _ in range(ROUNDS if links else 0):
        information, pull = np.diag(np.tile(bends, len(unknown))), 0.0
        for pair, places in links.items():
            A, b = _equations(pair, places, maps, unknown)
            weighted = A.T * (weights[pair] * TELLS / len(A) / (NOISE_PX * px) ** 2)
            information, pull = information + weighted @ A, pull + weighted @ b
        solution = np.linalg.lstsq(information, pull, rcond=None)[0].reshape(len(unknown), -1, 2)
        for k, coefficients in zip(unknown, solution, strict=True):
            maps[k].coefficients[:] = coefficients
        weights = {pair: HUBER_PX / np.maximum(off, HUBER_PX) for pair, off in misfits(links, maps, px).items()}
    return maps


def _equations(pair, places, maps: Mapping[int, Polynomial], unknown: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """A (N, unknown coefficients) and b (N, 2) of a link's A x = b."""
    A, b = [np.zeros((len(places[0]), len(maps[k].coefficients))) for k in unknown], np.zeros((len(places[0]), 2))
    for k, sign, points in zip(pair, (1, -1), places, strict=True):
        terms = sign * maps[k].terms(points)
        if k in unknown:
            A[unknown.index(k)] = terms
        else:
            b -= terms @ maps[k].coefficients
    return np.hstack(A), b


def misfits(links: Links, maps: Mapping[int, Polynomial], px: float = 1.0) -> dict[tuple[int, int], np.ndarray]:
    """By how much the maps of both images of each link disagree at its places (N,), in units of px of the reference."""
    return {
        (i, j): np.linalg.norm(maps[i](places_i) - maps[j](places_j), axis=1) / px
        for (i, j), (places_i, places_j) in links.items()
    }


def best_adjustment(links: Links, sizes, reference: int, degrees=DEGREES) -> dict[int, Polynomial]:
    """`adjust` at the lowest of the degrees that explains the links about as well as the highest."""
    found = [adjust(links, sizes, reference, degree) for degree in degrees]
    if not links:
        return found[0]
    px = max(sizes[reference]) / AT_PX
    errors = [np.sqrt(np.mean(np.concatenate(list(misfits(links, maps, px).values())) ** 2)) for maps in found]
    return next(maps for maps, off in zip(found, errors, strict=True) if off <= ENOUGH * errors[-1] + ENOUGH_PX)
