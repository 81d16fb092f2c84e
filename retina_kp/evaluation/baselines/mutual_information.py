"""Mutual information with many starts, by SimpleITK (an optional package): the one baseline that needs more than a call
or two."""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np

BINS = 8  # of the joint histogram: few, because little is left to count at 32 px
TURNS, SHIFTS, REACH = 24, 7, 0.3  # starts: turns around the circle x shifts per axis within ± REACH of the side
OPTIMISED, KEPT = 24, 6
LEVELS = ((128, 4.0, 60), (256, 2.0, 60), (512, 1.0, 40))  # side px, first step px, steps


def multi_start(image0: np.ndarray, image1: np.ndarray, valid0: np.ndarray) -> np.ndarray | None:
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
