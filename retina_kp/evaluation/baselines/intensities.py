"""Baselines that compare intensities: ECC, phase correlation, and mutual information from many starts (SimpleITK)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product

import cv2
import numpy as np
from skimage.registration import phase_cross_correlation
from skimage.transform import warp_polar

from ...core.geometry import image_center, similarity, translation
from ...core.images import to_gray
from ...core.vessels import field_of_view_mask, local_contrast
from . import SIDE_PX, checked, copied

# of mutual information
BINS = 8  # of the joint histogram: few, because little is left to count at 32 px
TURNS, SHIFTS, REACH = 24, 7, 0.3  # starts: turns around the circle x shifts per axis within ± REACH of the side
OPTIMISED, KEPT = 24, 6
LEVELS = ((128, 4.0, 60), (256, 2.0, 60), (512, 1.0, 40))  # side px, first step px, steps


@dataclass(frozen=True)
class Detail:
    """What area-based methods compare, longer side SIDE_PX. signed: local contrast (h, w) float32, 0 outside the field
    of view; strength: its size without polarity, about its mean; valid: (h, w) uint8; S: original px → px of these."""

    signed: np.ndarray
    strength: np.ndarray
    valid: np.ndarray
    S: np.ndarray

    @property
    def blank(self) -> bool:
        """Whether there is nothing to compare."""
        return float(self.signed.std()) < 1e-3


def _detail(image: np.ndarray) -> Detail:
    gray = to_gray(image)
    field, _ = copied(field_of_view_mask(gray).astype(np.float32), SIDE_PX)
    valid = cv2.erode(field, np.ones((9, 9)), borderValue=0) > 0.5
    (gray, S), mask = copied(gray, SIDE_PX), valid.astype(np.float32)
    signed = np.clip(local_contrast(gray, mask, SIDE_PX / 30), -3, 3)
    strength = (np.abs(signed) - np.abs(signed[valid]).mean() if valid.any() else signed) * mask
    return Detail(signed, strength, valid.astype(np.uint8), S)


def _agreement(a: np.ndarray, b: np.ndarray, H_atob: np.ndarray) -> float:
    """Correlation of a with b drawn in its frame; what b does not cover counts as zero, so that a small overlap scores
    little."""
    drawn = cv2.warpPerspective(b, H_atob, a.shape[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return float((a * drawn).sum() / np.sqrt((a**2).sum() * (b**2).sum() + 1e-9))


def ecc(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """OpenCV ECC, affine, upright: 25 shifts are tried at 32 px, the best three at 64 px, the best one goes up a
    pyramid to 512 px."""
    d0, d1 = _detail(fixed), _detail(moving)
    if d0.blank or d1.blank:
        return None
    offsets = np.linspace(-0.3, 0.3, 5) * SIDE_PX
    found, kept = [translation(x, y) for x in offsets for y in offsets], 3
    for size in (32, 64, 128, 256, 512):
        (a, R0), (b, R1) = copied(d0.strength, size), copied(d1.strength, size)
        valid1 = cv2.resize(d1.valid * 255, b.shape[::-1], interpolation=cv2.INTER_NEAREST)
        motion = cv2.MOTION_EUCLIDEAN if size == 32 else cv2.MOTION_AFFINE
        climbed = [_climb(a, b, valid1, R1 @ start @ np.linalg.inv(R0), motion) for start in found]
        climbed = sorted((H for H in climbed if H is not None), key=lambda H: -_agreement(a, b, H))
        found, kept = [np.linalg.inv(R1) @ H @ R0 for H in climbed[:kept]], 1
    if not found or abs(np.linalg.det(found[0])) <= 1e-6:
        return None
    return checked(np.linalg.inv(np.linalg.inv(d1.S) @ found[0] @ d0.S), moving)


def _climb(a: np.ndarray, b: np.ndarray, valid_b: np.ndarray, start_atob: np.ndarray, motion: int) -> np.ndarray | None:
    """Where ECC ends from a start, (3, 3) a → b; None when it does not converge."""
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 1e-5)
    try:
        _, warp = cv2.findTransformECC(a, b, start_atob[:2].astype(np.float32), motion, criteria, valid_b, 5)
    except cv2.error:  # says so when it does not converge
        return None
    return np.vstack([warp, [0, 0, 1]]).astype(np.float64)


def phase_correlation(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """scikit-image phase correlation: turn and scale from log-polar spectra (Reddy and Chatterji 1996), then the shift;
    a similarity."""
    d0, d1, hw = _detail(fixed), _detail(moving), (SIDE_PX, SIDE_PX)
    if d0.blank or d1.blank:
        return None
    a, b = (np.pad(d.signed, [(0, SIDE_PX - n) for n in d.signed.shape]) for d in (d0, d1))
    radius, middle = SIDE_PX // 2, image_center(hw)
    polar = {"center": (SIDE_PX // 2, SIDE_PX // 2), "radius": radius, "output_shape": hw, "scaling": "log"}
    spectra = [warp_polar(_spectrum(x), **polar)[: SIDE_PX // 2] for x in (a, b)]
    turn, stretch = phase_cross_correlation(*spectra, upsample_factor=10)[0]
    found = []
    for angle_deg in (360 * turn / SIDE_PX, 360 * turn / SIDE_PX + 180):  # a spectrum looks the same upside down
        H = similarity(angle_deg, float(np.exp(-stretch * np.log(radius) / SIDE_PX)), middle, middle)
        turned = cv2.warpPerspective(b, H, hw)
        for normalization in ("phase", None):
            y, x = phase_cross_correlation(a, turned, upsample_factor=4, normalization=normalization)[0]
            found.append(translation(x, y) @ H)
    best = max(found, key=lambda H: abs(_agreement(a, b, np.linalg.inv(H))))
    return checked(np.linalg.inv(d0.S) @ best @ d1.S, moving)


def _spectrum(image: np.ndarray) -> np.ndarray:
    window = np.outer(np.hanning(SIDE_PX), np.hanning(SIDE_PX))
    return np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(image * window))))


def mutual_information(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """SimpleITK Mattes mutual information from 24 turns x 49 shifts, scored at 32 px. The best 24 are optimised there
    as similarities; the best six of these as affine transforms, up to 512 px. Needs the package SimpleITK."""
    d0, d1 = _detail(fixed), _detail(moving)
    H_0to1 = None if d0.blank or d1.blank else _multi_start(d0.strength, d1.strength, d0.valid)
    return None if H_0to1 is None else checked(np.linalg.inv(np.linalg.inv(d1.S) @ H_0to1 @ d0.S), moving)


def _multi_start(image0: np.ndarray, image1: np.ndarray, valid0: np.ndarray) -> np.ndarray | None:
    """The affine transform (3, 3) px of image 0 → px of image 1 with most mutual information (Mattes et al. 2003); None
    without any.

    Images: (h, w) float32 of one longer side. Image 1 is padded with zeros all around, so that every pixel of image 0
    has a partner: otherwise the smallest overlaps, with the fewest samples, win.
    """
    import SimpleITK as sitk

    side, center = max(image0.shape), [(n - 1) / 2 for n in image0.shape[::-1]]
    offset = [(n1 - n0) / 2 for n0, n1 in zip(image0.shape[::-1], image1.shape[::-1], strict=True)]

    def at(size_px: int):
        return _itk(sitk, image0, size_px), _itk(sitk, image1, size_px, pad=True), _itk(sitk, valid0, size_px)

    fixed, moving, mask = at(32)
    method, starts = _method(sitk, mask), []
    for k, x, y in product(range(TURNS), *[np.linspace(-REACH, REACH, SHIFTS) * side] * 2):
        start = sitk.Similarity2DTransform()
        start.SetCenter(center)
        start.SetAngle(2 * np.pi * k / TURNS)
        start.SetTranslation((offset[0] + x, offset[1] + y))
        method.SetInitialTransform(start)
        starts.append((method.MetricEvaluate(fixed, moving), start))
    best = [start for _, start in sorted(starts, key=lambda s: s[0])[:OPTIMISED]]
    found = _optimise(sitk, best, fixed, moving, mask, 8.0, 40, 0.2)
    best = [_affine(sitk, transform, center) for transform in found[:KEPT]]
    for kept, (size_px, step_px, steps) in zip((2, 1, 1), LEVELS, strict=True):
        best = _optimise(sitk, best, *at(size_px), step_px, steps, 0.01)[:kept]
    if not best:
        return None
    matrix, c = np.array(best[0].GetMatrix()).reshape(2, 2), np.array(center)
    return np.vstack([np.column_stack([matrix, np.array(best[0].GetTranslation()) + c - matrix @ c]), [0, 0, 1]])


def _itk(sitk, image: np.ndarray, size_px: int, pad: bool = False):
    """Copy of longer side size_px as an ITK image that lies where the original does; a mask (uint8) is neither smoothed
    nor blended."""
    is_mask, step = image.dtype == np.uint8, max(image.shape) / size_px
    hw = tuple(max(round(n / step), 1) for n in image.shape)
    small = cv2.resize(image, hw[::-1], interpolation=cv2.INTER_NEAREST if is_mask else cv2.INTER_AREA)
    small, margin = small if is_mask else cv2.GaussianBlur(small, (0, 0), 1.0), size_px // 2 if pad else 0
    picture = sitk.GetImageFromArray(np.pad(small, margin))
    picture.SetSpacing((image.shape[1] / hw[1], image.shape[0] / hw[0]))
    picture.SetOrigin([(s - 1) / 2 - margin * s for s in picture.GetSpacing()])
    return picture


def _method(sitk, mask, sampled: float = 1.0):
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    if sampled < 1:
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(sampled, 1)
    return method


def _optimise(sitk, transforms: list, fixed, moving, mask, step_px: float, steps: int, last_step_px: float) -> list:
    """The transforms, optimised where ITK manages to, best first."""
    found = []
    for transform in transforms:
        method = _method(sitk, mask, 1.0 if max(fixed.GetSize()) <= 128 else 0.3)
        method.SetOptimizerAsRegularStepGradientDescent(step_px, last_step_px, steps, gradientMagnitudeTolerance=1e-8)
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetInitialTransform(transform, inPlace=True)
        try:
            method.Execute(fixed, moving)
        except RuntimeError:  # ITK's word for images that drifted apart
            continue
        found.append((method.GetMetricValue(), transform))
    return [transform for _, transform in sorted(found, key=lambda f: f[0])]


def _affine(sitk, transform, center):
    affine = sitk.AffineTransform(2)
    affine.SetCenter(center)
    affine.SetMatrix(transform.GetMatrix())
    affine.SetTranslation(transform.GetTranslation())
    return affine


BASELINES = {"ECC": ecc, "phase correlation": phase_correlation, "mutual information": mutual_information}
MISSING = {}
if find_spec("SimpleITK") is None:
    MISSING["mutual information"] = 'SimpleITK is not installed: pip install "retina-kp[baselines]"'
