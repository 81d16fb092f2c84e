"""The judgement of a registration: a second look by what its map lays on each other, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..core.geometry import warp_points
from ..mapping.result import Registration
from ..mapping.transforms import Fit, implausible
from .common_print import warped_by
from .confidence import confidence, measure_evidence
from .options import CloseupOptions, RegistrarOptions
from .refinement import agreement
from .views import ImageViews

FEW_MATCHES, INCONSISTENT, UNCERTAIN = "too few matches", "inconsistent geometry", "low confidence"
NO_RETINA, FEW_KEYPOINTS, TOO_DARK = "no structure visible", "too few keypoints", "too dark"
MAX_SLIMNESS = 6.0  # of a field of view; noise in strips was taken for a match
# gray level of `ImageViews.brightest` in which five levels of 8 bits and the camera's noise are left: most pairs of one
# eye fail, brightened or not; standard deviation of gray levels, below which an image is one flat tone
DARK, EVEN = 0.02, 1e-4


def looked_at_again(
    result: Registration, views0: ImageViews, views1: ImageViews, options: CloseupOptions, calibration: dict
) -> Registration:
    """The same map with the matches nearby that it leads to, and its evidence and confidence by these.

    The map was read off the detector's maps, not fitted to these matches, so they are evidence of their own: those of
    two eyes agree by chance only."""
    warped = warped_by(result, views0, views1, options.close_px)
    if warped is None:
        return result
    window = warped.window
    points = warped.matches(options.close_radius_px * window.zoom)
    inliers = np.linalg.norm(points[0] - points[1], axis=1) < options.close_threshold_px * window.zoom
    fit = Fit(result.model, np.eye(3), inliers)
    evidence = measure_evidence(result.evidence["settled_share"], fit, window.features0, warped.features1)
    evidence["map_correlation"] = agreement(window.features0.detector, warped.features1.detector)
    original = np.linalg.inv(window.from_base @ views0.base_from_original)
    matches = warp_points(points[0], original), result.map_to_moving(warp_points(points[1], original))
    sure = confidence(evidence, calibration)
    found = {"matches0": matches[0], "matches1": matches[1], "inliers": inliers}
    return replace(result, **found, evidence=evidence, confidence=sure)


def judged(result: Registration, views0: ImageViews, views1: ImageViews, options: RegistrarOptions) -> Registration:
    """The result, or its refusal: not sure enough, or no transform between two pictures of an eye."""
    inliers = int(result.inliers.sum())
    if inliers < options.min_inliers:
        return result.refuse(f"{FEW_MATCHES}: {inliers} agree in the end; two different eyes?")
    if not result.confidence >= options.min_confidence:  # nor is NaN enough
        told = f"{UNCERTAIN}: {result.confidence:.2f} is below {options.min_confidence:g}"
        return result.refuse(f"{told}; two different eyes, or too few vessels that both images show")
    H = views0.base_from_original @ result.H_tried @ np.linalg.inv(views1.base_from_original)
    why = implausible(H, views1.base_hw)
    return result.refuse(f"{INCONSISTENT}: {why}; no two pictures of one eye differ so") if why else result


def unfit(name: str, views: ImageViews, options: RegistrarOptions) -> str:
    """Why an image cannot be registered at all, or ""."""
    if views.contrast < options.min_contrast:
        return too_dark(name, views) or f"{NO_RETINA}: the {name} image is blank"
    if views.slimness > MAX_SLIMNESS:
        return f"{NO_RETINA}: the {name} image is a strip, {views.slimness:.0f} times as long as wide; crop it less"
    seen = len(views.features(0.0, options.search.coarse))
    if seen < options.min_inliers:
        return f"{FEW_KEYPOINTS}: {seen} in the {name} image; are vessels visible, in focus and not too small?"
    return ""


def too_dark(name: str, views: ImageViews) -> str:
    """The refusal of an image that is too dark to show vessels, or ""."""
    level = views.brightest()
    if level >= DARK or views.contrast < EVEN:
        return ""
    told = f"the brightest parts of the {name} image reach {level:.1%} of its range"
    return f"{TOO_DARK}: {told}; take it with more light, or export it from the device without loss of levels"
