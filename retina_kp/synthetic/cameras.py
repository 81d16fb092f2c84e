"""Cameras that look at a synthetic retina: flat ones, and round ones, which see the inside of an eye.

A place on the retina is given in degrees around the fovea. The round eye is an ellipsoid about as long as it is wide;
a degree is as long an arc everywhere on it. Light leaves it through one point near the lens, the eye point, and each
camera has its own: two pictures of one eye then differ by a map that no plane has.

What a plane model leaves over the overlap, in px at 768, median (90 %) of 100 pairs: fields of 45° the best affine one
3.9 (6.7), the best quadratic one .33 (.68); fields of 80–130° 10 (18) and .73 (1.4). On real pairs of 45° (FIRE's
category P) an affine registration is off by some 4 px, and a quadratic one by less than 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np

from ..core.geometry import from_cells, image_center, jacobian, lattice, warp_points

RADIUS_MM, NODAL_MM = 11.5, 17.0  # of the eyeball; from the fovea to the eye point, where 1° on the retina is 1°
ARC_RAD = np.radians(1.0) * NODAL_MM / RADIUS_MM  # of a degree, seen from the middle of the eyeball
RETINA_ENDS_RAD = np.radians(115.0)  # from the fovea, seen from there
# Radius in the picture (rad) of a ray at an angle (rad) from the axis, the inverse, and the largest angle in degrees.
LAWS = {
    "perspective": (np.tan, np.arctan, 75.0),
    "equidistant": (np.positive, np.positive, 120.0),
    "stereographic": (lambda angle: 2 * np.tan(angle / 2), lambda radius: 2 * np.arctan(radius / 2), 120.0),
}
WAVES, WAVES_ACROSS = 6, (1.0, 3.0)  # of a deformation: how many, and how many periods fit into the image
DEFORMED_SIDE_PX = 768  # side of the image in which deformations are told


class Camera(Protocol):
    """Degrees on the retina ↔ pixels of a picture."""

    def project(self, deg) -> np.ndarray:
        """Degrees (N, 2) → px (N, 2); NaN where the camera does not see."""

    def unproject(self, px) -> np.ndarray:
        """Px (N, 2) → degrees (N, 2); NaN where the picture shows no retina."""

    def px_per_deg(self, deg) -> np.ndarray:
        """(N,) resolution at places (N, 2): the root of how much areas grow."""


@dataclass(frozen=True, eq=False)
class FlatCamera:
    """px_from_deg: (3, 3) degrees → px of a retina that is a plane."""

    px_from_deg: np.ndarray

    def project(self, deg) -> np.ndarray:
        return warp_points(deg, self.px_from_deg)

    def unproject(self, px) -> np.ndarray:
        return warp_points(px, np.linalg.inv(self.px_from_deg))

    def px_per_deg(self, deg) -> np.ndarray:
        return np.full(len(deg), np.sqrt(abs(np.linalg.det(jacobian(self.px_from_deg, (0.0, 0.0))))))


def as_camera(view: Camera | np.ndarray) -> Camera:
    """A camera, or the flat one of a matrix (3, 3) degrees → px."""
    return FlatCamera(view) if isinstance(view, np.ndarray) else view


def middle_px_per_deg(camera: Camera, image_hw) -> float:
    """Resolution in the middle of the picture."""
    return float(camera.px_per_deg(camera.unproject([image_center(image_hw)]))[0])


def shows_retina(camera: Camera, image_hw, step: int = 4) -> np.ndarray:
    """(H, W) bool, in blocks of ``step`` px: where a picture shows retina."""
    h, w = image_hw
    grid = from_cells(np.stack(np.meshgrid(np.arange(-(-w // step)), np.arange(-(-h // step))), -1), step)
    seen = np.isfinite(camera.unproject(grid.reshape(-1, 2))).all(1).reshape(grid.shape[:2])
    return seen.repeat(step, 0).repeat(step, 1)[:h, :w]


def best_affine(points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
    """(3, 3) affine transform that takes points0 (N, 2) nearest to points1, N ≥ 3."""
    solution = np.linalg.lstsq(np.column_stack([points0, np.ones(len(points0))]), points1, rcond=None)[0]
    return np.vstack([solution.T, [0, 0, 1]])


@dataclass(frozen=True)
class RoundOptions:
    """What round eyes and their cameras are like: ranges (low, high), or a largest size to either side."""

    length: tuple[float, float] = (0.95, 1.06)  # of the eyeball over its width
    decentering_mm: float = 1.5  # of the eye point, to the sides
    tilt_deg: float = 3.0  # of the camera's axis against the place in the middle of the picture
    laws: tuple[str, ...] = tuple(LAWS)  # one of them for all cameras of a pair
    distortion: float = 0.012  # by the lens, of a radius of half the image
    deformation_px: tuple[float, float] = (0.0, 0.0)  # largest displacement at 768 px: moved scanners, stretched lines


@dataclass(frozen=True, eq=False)
class Waves:
    """A smooth displacement, of which every part is a plane wave. vectors: (K, 2) rad per px; sizes: (K, 2) px; phases:
    (K,) rad."""

    vectors: np.ndarray
    sizes: np.ndarray
    phases: np.ndarray

    def at(self, px: np.ndarray) -> np.ndarray:
        """(N, 2) px."""
        return np.sin(px @ self.vectors.T + self.phases) @ self.sizes

    def undone(self, px: np.ndarray) -> np.ndarray:
        """Where points (N, 2) were before they were displaced. It needs slopes below 1, which `_waves` has."""
        before = px
        for _ in range(60):
            last, before = before, px - self.at(before)
            if not np.nanmax(np.abs(before - last), initial=0) > 1e-10:
                break
        return before


@dataclass(frozen=True, eq=False)
class RoundCamera:
    """eye_point: (3,) mm from the middle of an eyeball whose fovea lies on the positive z axis; axes: (3, 3) rows x, y
    and viewing direction of the camera; law: in LAWS; distortion: share by which a radius of half_field_deg grows;
    px_from_plane: (3, 3) degrees from the camera's axis → px, which are then displaced by waves."""

    eye_point: np.ndarray
    axes: np.ndarray
    length: float
    law: str
    distortion: float
    half_field_deg: float
    px_from_plane: np.ndarray
    waves: Waves | None = None

    def project(self, deg) -> np.ndarray:
        px = warp_points(self._plane(np.asarray(deg, np.float64)), self.px_from_plane)
        return px if self.waves is None else px + self.waves.at(px)

    def unproject(self, px) -> np.ndarray:
        px = np.asarray(px, np.float64)
        plane = warp_points(px if self.waves is None else self.waves.undone(px), np.linalg.inv(self.px_from_plane))
        distorted = np.hypot(*plane.T)
        radius = self._undistorted(distorted)
        _, inverse, limit = LAWS[self.law]
        angle = inverse(np.radians(radius))
        angle = np.where(angle <= np.radians(limit), angle, np.nan)
        sideways = plane * (np.sin(angle) / np.maximum(distorted, 1e-12))[:, None]
        return self._where_a_ray_ends(np.column_stack([sideways, np.cos(angle)]) @ self.axes)

    def px_per_deg(self, deg, step: float = 1e-3) -> np.ndarray:
        deg = np.asarray(deg, np.float64)
        dx, dy = (self.project(deg + step * side) - self.project(deg - step * side) for side in np.eye(2))
        return np.sqrt(np.abs(dx[:, 0] * dy[:, 1] - dx[:, 1] * dy[:, 0])) / (2 * step)

    def _plane(self, deg: np.ndarray) -> np.ndarray:
        """Degrees on the retina → degrees from the camera's axis."""
        away = np.hypot(*deg.T)
        angle = away * ARC_RAD
        sideways = deg * (np.sin(angle) / np.maximum(away, 1e-12))[:, None]
        place = RADIUS_MM * np.column_stack([sideways, self.length * np.cos(angle)])
        x, y, z = self.axes @ (place - self.eye_point).T
        off_axis = np.hypot(x, y)
        law, _, limit = LAWS[self.law]
        ray = np.arctan2(off_axis, z)
        ray = np.where((ray <= np.radians(limit)) & (angle <= RETINA_ENDS_RAD), ray, np.nan)
        radius = np.degrees(law(ray))
        grown = radius * (1 + self.distortion * (radius / self.half_field_deg) ** 2)
        return np.column_stack([x, y]) * (grown / np.maximum(off_axis, 1e-12))[:, None]

    def _undistorted(self, distorted: np.ndarray) -> np.ndarray:
        """Radii before distortion, by Newton's method; NaN from where a lens would fold the picture."""
        bend, radius = self.distortion / self.half_field_deg**2, distorted
        for _ in range(20):
            radius = radius - (radius * (1 + bend * radius**2) - distorted) / (1 + 3 * bend * radius**2)
        good = (1 + 3 * bend * radius**2 > 0.1) & (np.abs(radius * (1 + bend * radius**2) - distorted) < 1e-9)
        return np.where(good, radius, np.nan)

    def _where_a_ray_ends(self, ray: np.ndarray) -> np.ndarray:
        """Directions (N, 3) from the eye point → degrees on the retina."""
        size = RADIUS_MM * np.array([1.0, 1.0, self.length])
        start, ray = self.eye_point / size, ray / size  # the eyeball becomes a unit sphere, the eye point is inside
        a, b, c = (ray**2).sum(1), ray @ start, start @ start - 1
        x, y, z = (start + ray * ((np.sqrt(b**2 - a * c) - b) / a)[:, None]).T
        aside = np.hypot(x, y)
        angle = np.arctan2(aside, z)
        angle = np.where(angle <= RETINA_ENDS_RAD, angle, np.nan)
        return np.column_stack([x, y]) * (angle / ARC_RAD / np.maximum(aside, 1e-12))[:, None]


# ------------------------------------------------------------------ random cameras


def round_cameras(
    px_from_deg: Sequence[np.ndarray], image_hw, options: RoundOptions, rng: np.random.Generator
) -> tuple[RoundCamera, ...]:
    """Cameras of one round eye, each of which sees in the middle of its picture what a flat one, (3, 3), sees there, as
    large, and turned as much."""
    eye = random_eye(options, rng)
    return tuple(round_camera(H, image_hw, eye, options, rng) for H in px_from_deg)


def random_eye(options: RoundOptions, rng: np.random.Generator) -> tuple[float, str]:
    """What all cameras of an eye share: its length over its width, and the law."""
    return rng.uniform(*options.length), str(rng.choice(options.laws))


def round_camera(flat: np.ndarray, image_hw, eye: tuple[float, str], o: RoundOptions, rng) -> RoundCamera:
    """One of `round_cameras`. flat: (3, 3) degrees → px; eye: of `random_eye`."""
    (length, law), flat = eye, np.asarray(flat, np.float64)
    middle = np.array([image_center(image_hw)])
    place = warp_points(middle, np.linalg.inv(flat))
    eye_point = np.array([*rng.uniform(-1, 1, 2) * o.decentering_mm, RADIUS_MM * length - NODAL_MM])
    px_per_deg = FlatCamera(flat).px_per_deg(place)[0]
    lens = (rng.uniform(-1, 1) * o.distortion, 0.5 * max(image_hw) / px_per_deg)
    straight = RoundCamera(eye_point, np.eye(3), length, "equidistant", 0.0, 1.0, np.eye(3))
    axes = _looking_at(straight.project(place)[0] + rng.uniform(-1, 1, 2) * o.tilt_deg)
    bare = RoundCamera(eye_point, axes, length, law, *lens, np.eye(3))
    near = bare.project(place + 1e-3 * np.array([[0, 0], [1, 0], [-1, 0], [0, 1], [0, -1]]))
    if not np.isfinite(near).all():  # a camera that looks past the retina
        return bare
    u, s, vt = np.linalg.svd(np.column_stack([near[1] - near[2], near[3] - near[4]]) / 2e-3)
    px_from_plane = np.eye(3)  # takes the place to the middle, turned and scaled as by the flat camera
    px_from_plane[:2, :2] = jacobian(flat, place[0]) @ np.linalg.inv(np.sqrt(s[0] * s[1]) * u @ vt)
    px_from_plane[:2, 2] = middle[0] - px_from_plane[:2, :2] @ near[0]
    waves = _waves(image_hw, o.deformation_px, rng) if o.deformation_px[1] else None
    return RoundCamera(eye_point, axes, length, law, *lens, px_from_plane, waves)


def _looking_at(deg: np.ndarray) -> np.ndarray:
    """(3, 3) rows x, y and viewing direction of a camera whose axis is turned by (2,) degrees from the positive z
    axis, along a great circle."""
    return cv2.Rodrigues(np.radians([-deg[1], deg[0], 0.0]))[0].T


def _waves(image_hw, deformation_px: tuple[float, float], rng: np.random.Generator) -> Waves:
    side = max(image_hw)
    period, direction = side / rng.uniform(*WAVES_ACROSS, WAVES), rng.uniform(0, 2 * np.pi, WAVES)
    vectors = 2 * np.pi * np.column_stack([np.cos(direction), np.sin(direction)]) / period[:, None]
    waves = Waves(vectors, rng.normal(0, 1, (WAVES, 2)), rng.uniform(0, 2 * np.pi, WAVES))
    largest = np.hypot(*waves.at(lattice(image_hw, 24)).T).max()
    return replace(waves, sizes=waves.sizes * rng.uniform(*deformation_px) * side / DEFORMED_SIDE_PX / largest)
