"""Well-known registration methods to measure ours against: each is a function (fixed, moving) → H_1to0 (3, 3), or None
when it finds none.

Images are arrays as `Registrar` takes them. Settings were chosen on synthetic pairs: gray copies of at most 512 px
(AKAZE: 768), and either both polarities of the moving image or a measure without polarity, because vessels are dark in
one modality and bright in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec

import cv2
import numpy as np
from skimage.registration import phase_cross_correlation
from skimage.transform import warp_polar

from ...core.geometry import as_homography, image_center, similarity, translation
from ...core.images import fitted_hw, resized, to_gray
from ...core.vessels import field_of_view_mask, local_contrast, vesselness
from ...registration.keypoints import Features
from ...registration.matching import Fit, fit_transform, implausible, mutual_matches

SIDE_PX = 512  # longer side of the copies that most methods work on
Baseline = Callable[[np.ndarray, np.ndarray], np.ndarray | None]

# ------------------------------------------------------------------ doing nothing


def identity(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Middle upon middle, longer side upon longer side, upright: what a pair is worth before anything is done. It
    always answers."""
    hw0, hw1 = fixed.shape[:2], moving.shape[:2]
    return similarity(0, max(hw0) / max(hw1), image_center(hw1), image_center(hw0))


# ------------------------------------------------------------------ keypoints


def sift_magsac(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """OpenCV SIFT on equalised images, mutual matches with ratio 0.9, MAGSAC affine."""
    return _by_keypoints(cv2.SIFT_create(2000), fixed, moving, SIDE_PX)


def akaze_magsac(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """OpenCV AKAZE (binary descriptors), the rest as for SIFT."""
    create = getattr(cv2, "AKAZE_create", None) or cv2.xfeatures2d.AKAZE_create
    return _by_keypoints(create(threshold=3e-4, max_points=2000), fixed, moving, 768)


def ridges_sift(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """SIFT on the strength of vessel ridges, dark and bright ones alike (Sato filter, `vessels.vesselness`), the rest
    as for SIFT."""
    (ridges0, S0), (ridges1, S1) = _ridges(fixed), _ridges(moving)
    fit = _match(_keypoints(cv2.SIFT_create(2000), ridges0), _keypoints(cv2.SIFT_create(2000), ridges1))
    return None if fit is None else _checked(np.linalg.inv(S0) @ fit.H_1to0 @ S1, moving)


def _ridges(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ridge strength inside the field of view, uint8, longer side SIDE_PX; matrix original px → its px."""
    gray, S = _resized(to_gray(image), SIDE_PX)
    inside = cv2.erode(field_of_view_mask(gray).astype(np.uint8), np.ones((9, 9)), borderValue=0)
    return (vesselness(gray, sigmas_px=(1.5, 2.5)) * inside * 255).astype(np.uint8), S


def _match(features0: Features, features1: Features) -> Fit | None:
    index = mutual_matches(features0, features1, ratio_max=0.9)
    return fit_transform(features0.keypoints_xy[index[:, 0]], features1.keypoints_xy[index[:, 1]], "affine", 3.0)


def _by_keypoints(detector, fixed: np.ndarray, moving: np.ndarray, side_px: int) -> np.ndarray | None:
    """The affine transform with most inliers of the moving image as it is and inverted."""
    (gray0, S0), (gray1, S1) = _equalised(fixed, side_px), _equalised(moving, side_px)
    features0, best = _keypoints(detector, gray0), None
    for inverted in (gray1, 255 - gray1):
        fit = _match(features0, _keypoints(detector, inverted))
        if fit is not None and (best is None or fit.n_inliers > best.n_inliers):
            best = fit
    return None if best is None else _checked(np.linalg.inv(S0) @ best.H_1to0 @ S1, moving)


def _keypoints(detector, gray: np.ndarray) -> Features:
    points, descriptors = detector.detectAndCompute(gray, None)
    if descriptors is None:
        descriptors = np.zeros((0, 8), np.float32)
    if descriptors.dtype == np.uint8:  # bits as ±1: their cosine falls with the Hamming distance
        descriptors = np.unpackbits(descriptors, axis=1).astype(np.float32) * 2 - 1
    unit = descriptors / np.maximum(np.linalg.norm(descriptors, axis=1, keepdims=True), 1e-9)
    return Features(np.array([p.pt for p in points], np.float32).reshape(-1, 2), np.ones(len(unit)), unit, gray.shape)


def _equalised(image: np.ndarray, side_px: int) -> tuple[np.ndarray, np.ndarray]:
    """Gray copy with local contrast equalised, uint8, longer side side_px; matrix original px → its px."""
    gray, S = _resized(to_gray(image), side_px)
    return cv2.createCLAHE(4.0, (8, 8)).apply((gray * 255).astype(np.uint8)), S


def _resized(image: np.ndarray, side_px: float) -> tuple[np.ndarray, np.ndarray]:
    """Copy with its longer side side_px; matrix px of the image → px of the copy."""
    return resized(image, fitted_hw(image.shape, side_px))


def _checked(H_1to0: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """The transform, or None when it is none between two images of an eye: every method is granted that knowledge."""
    return None if not np.isfinite(H_1to0).all() or implausible(H_1to0, moving.shape[:2]) else as_homography(H_1to0)


# ------------------------------------------------------------------ intensities


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
    valid = (
        cv2.erode(_resized(field_of_view_mask(gray).astype(np.float32), SIDE_PX)[0], np.ones((9, 9)), borderValue=0)
        > 0.5
    )
    (gray, S), mask = _resized(gray, SIDE_PX), valid.astype(np.float32)
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
        (a, R0), (b, R1) = _resized(d0.strength, size), _resized(d1.strength, size)
        valid1 = cv2.resize(d1.valid * 255, b.shape[::-1], interpolation=cv2.INTER_NEAREST)
        motion = cv2.MOTION_EUCLIDEAN if size == 32 else cv2.MOTION_AFFINE
        climbed = [
            H for start in found if (H := _climb(a, b, valid1, R1 @ start @ np.linalg.inv(R0), motion)) is not None
        ]
        climbed = sorted(climbed, key=lambda H: -_agreement(a, b, H))[:kept]
        found, kept = [np.linalg.inv(R1) @ H @ R0 for H in climbed], 1
    return (
        _checked(np.linalg.inv(np.linalg.inv(d1.S) @ found[0] @ d0.S), moving)
        if found and abs(np.linalg.det(found[0])) > 1e-6
        else None
    )


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
    a, b = (
        cv2.copyMakeBorder(
            d.signed, 0, SIDE_PX - d.signed.shape[0], 0, SIDE_PX - d.signed.shape[1], cv2.BORDER_CONSTANT
        )
        for d in (d0, d1)
    )
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
    return _checked(np.linalg.inv(d0.S) @ best @ d1.S, moving)


def _spectrum(image: np.ndarray) -> np.ndarray:
    window = np.outer(np.hanning(SIDE_PX), np.hanning(SIDE_PX))
    return np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(image * window))))


def mutual_information(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """SimpleITK Mattes mutual information from many starts: 24 turns x 49 shifts are scored at 32 px, the best 24
    optimised there as similarities, the best six as affine transforms, up to 512 px. Needs the package SimpleITK."""
    from .mutual_information import multi_start

    d0, d1 = _detail(fixed), _detail(moving)
    H_0to1 = None if d0.blank or d1.blank else multi_start(d0.strength, d1.strength, d0.valid)
    return None if H_0to1 is None else _checked(np.linalg.inv(np.linalg.inv(d1.S) @ H_0to1 @ d0.S), moving)


# ------------------------------------------------------------------ which there are

BASELINES: dict[str, Baseline] = {
    "SIFT+MAGSAC": sift_magsac,
    "AKAZE+MAGSAC": akaze_magsac,
    "ECC": ecc,
    "phase correlation": phase_correlation,
    "mutual information": mutual_information,
    "ridges+SIFT": ridges_sift,
    "identity": identity,
}


def why_missing(name: str) -> str:
    """What keeps a baseline from running here, "" when nothing does."""
    if name == "AKAZE+MAGSAC" and not (
        hasattr(cv2, "AKAZE_create") or hasattr(getattr(cv2, "xfeatures2d", None), "AKAZE_create")
    ):
        return f"OpenCV {cv2.__version__} has no AKAZE: it is in 4.x, and in opencv-contrib from 5 on"
    if name == "mutual information" and find_spec("SimpleITK") is None:
        return 'SimpleITK is not installed: pip install "retina-kp[baselines]"'
    return ""


def choose_baselines(names: Iterable[str]) -> tuple[dict[str, Baseline], dict[str, str]]:
    """Baselines by name that can run here, and those that cannot with the reason; ValueError for an unknown name."""
    names = list(names)
    unknown = [name for name in names if name not in BASELINES]
    if unknown:
        raise ValueError(f"no baseline {unknown[0]!r}; there are {', '.join(BASELINES)}")
    missing = {name: why for name in names if (why := why_missing(name))}
    return {name: BASELINES[name] for name in names if name not in missing}, missing
