"""The main job: register a moving image to a fixed one, or refuse with a reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from .checkpoints import load_network
from .config import from_dict
from .geometry import describe
from .images import as_array
from .keypoints import Features, KeypointOptions
from .matching import MODELS, Fit, fit_transform, guided_matches, implausible, mutual_matches, spread_count
from .result import Registration, refused
from .views import ImageViews

NO_RETINA, FEW_KEYPOINTS, FEW_MATCHES, INCONSISTENT, UNCERTAIN = (
    "no structure visible", "too few keypoints", "too few matches", "inconsistent geometry", "low confidence")  # fmt: skip


@dataclass(frozen=True)
class RegistrarOptions:
    """Settings of a `Registrar`; px are those of the working images, whose field of view covers working_px² pixels."""

    model: str = "affine"  # one of matching.MODELS
    working_px: float = 460.0
    small_scale: float = 0.6  # second level of the search over scale: ratios 0.6, 1 and 1.67 are tried
    turns_deg: tuple[float, ...] = (0.0, 180.0, 45.0, -45.0, 90.0, -90.0, 135.0, -135.0)
    search_threshold_px: float = 6.0  # agreement with a similarity while searching
    final_threshold_px: float = 3.0
    guided_radius_px: float = 12.0
    clear_inliers: int = 24  # a hypothesis with so many ends the search
    min_inliers: int = 7
    min_contrast: float = 0.004  # standard deviation of gray levels below which an image counts as blank
    min_confidence: float = 0.5
    keypoints: KeypointOptions = KeypointOptions()

    def __post_init__(self):
        if self.model not in MODELS:
            raise ValueError(f"unknown model {self.model!r}; there are {', '.join(MODELS)}")


@dataclass(frozen=True)
class Hypothesis:
    """One try of the search: the view of the moving image, the matches it gave (index pairs) and the similarity they support."""

    angle_deg: float
    scale0: float
    scale1: float
    points0: np.ndarray
    points1: np.ndarray
    fit: Fit | None

    @property
    def support(self) -> int:
        """Number of 16 px cells that hold an inlier."""
        return spread_count(self.points0[self.fit.inliers], 16.0) if self.fit else 0


class Registrar:
    """Registers pairs with one network. Calling it never guesses: the result is ok, or its status says why not."""

    def __init__(self, network, options: RegistrarOptions = RegistrarOptions(), device: str = "auto", calibration: dict | None = None):
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.network = network.to(self.device, memory_format=torch.channels_last).eval()
        self.options, self.calibration = options, calibration

    @classmethod
    def from_pretrained(cls, weights: str | Path = "lite", device: str = "auto", **options) -> Registrar:
        """Load shipped weights by name ("lite") or a checkpoint by path; options are fields of `RegistrarOptions`."""
        network, metadata = load_network(weights)
        return cls(network, cls.options_for(**options), device, metadata.get("calibration"))

    @staticmethod
    def options_for(**options) -> RegistrarOptions:
        """Checked `RegistrarOptions`; ValueError names an unknown field and its nearest spelling."""
        return from_dict(RegistrarOptions, options)

    def features(self, image) -> Features:
        """Keypoints of one image (path or array) as it stands, in its original px."""
        views = self._views(as_array(image, "image"))
        return views.features().mapped(np.linalg.inv(views.base_from_original), views.original_hw)

    def __call__(self, fixed, moving) -> Registration:
        """Register ``moving`` to ``fixed``: paths or arrays HxW / HxWx3 (RGB) of any size, uint8, uint16 or float in [0, 1].

        Raises ImageError for input that is no usable image; everything else is told by `Registration.status`.
        """
        fixed, moving = as_array(fixed, "fixed image"), as_array(moving, "moving image")
        views0, views1 = self._views(fixed), self._views(moving)
        sizes = (views0.original_hw, views1.original_hw)
        for name, views in (("fixed", views0), ("moving", views1)):
            if views.contrast < self.options.min_contrast:
                return refused(f"{NO_RETINA}: the {name} image is blank", *sizes)
            if len(views.features()) < self.options.min_inliers:
                return refused(f"{FEW_KEYPOINTS}: {len(views.features())} in the {name} image", *sizes)
        best = self._search(views0, views1)
        if best is None or best.fit is None:
            return refused(f"{FEW_MATCHES}: no turn or scale gave a consistent set", *sizes)
        return self._finish(views0, views1, best)

    def _views(self, image: np.ndarray) -> ImageViews:
        return ImageViews(image, self.network, self.options.keypoints, self.options.working_px)

    # ------------------------------------------------------------------ search over turn and scale

    def _try(self, views0: ImageViews, views1: ImageViews, angle_deg: float, scale0: float, scale1: float) -> Hypothesis:
        features0, features1 = views0.features(0.0, scale0), views1.features(angle_deg, scale1)
        index = mutual_matches(features0, features1)
        points0, points1 = features0.keypoints_xy[index[:, 0]], features1.keypoints_xy[index[:, 1]]
        fit = fit_transform(points0, points1, "similarity", self.options.search_threshold_px / scale0)
        if fit is not None and implausible(fit.H_1to0, views1.base_hw):
            fit = None
        return Hypothesis(angle_deg, scale0, scale1, points0, points1, fit)

    def _search(self, views0: ImageViews, views1: ImageViews) -> Hypothesis | None:
        """Upright first; then all turns on small images, cheap, to rank them; then full size in that order. A clear one ends it."""
        o, small = self.options, self.options.small_scale
        tried = [self._try(views0, views1, 0.0, 1.0, 1.0)]
        if tried[0].support >= o.clear_inliers:
            return tried[0]
        rank = {}
        for angle in o.turns_deg:
            pair = [self._try(views0, views1, angle, scale0, small) for scale0 in (small, 1.0)]
            rank[angle] = max(h.support for h in pair)
            tried += pair
        if max(rank.values()) < o.clear_inliers:
            for angle in sorted(o.turns_deg, key=lambda a: -rank[a]):
                for scale0 in (1.0, small):
                    if (angle, scale0) != (0.0, 1.0):
                        tried.append(self._try(views0, views1, angle, scale0, 1.0))
                if max(h.support for h in tried[-2:]) >= o.clear_inliers:
                    break
        return max(tried, key=lambda h: h.support)

    # ------------------------------------------------------------------ precision and judgement

    def _finish(self, views0: ImageViews, views1: ImageViews, best: Hypothesis) -> Registration:
        """Draw the moving image in the fixed frame, match again nearby, fit the wanted model; decide whether to trust it."""
        o = self.options
        H = best.fit.H_1to0
        features0, aligned = views0.features(), views1.aligned(H, views0.base_hw)
        index = guided_matches(features0, aligned, np.eye(3), o.guided_radius_px)
        points0, points_aligned = features0.keypoints_xy[index[:, 0]], aligned.keypoints_xy[index[:, 1]]
        fit = fit_transform(points0, points_aligned, o.model, o.final_threshold_px)
        sizes = (views0.original_hw, views1.original_hw)
        if fit is None or fit.n_inliers < o.min_inliers:
            return refused(f"{FEW_MATCHES}: {0 if fit is None else fit.n_inliers} agree, {o.min_inliers} are needed", *sizes)
        H_1to0 = fit.H_1to0 @ H
        why = implausible(H_1to0, views1.base_hw)
        evidence = measure_evidence(best, fit, points0, features0, aligned, views0.base_hw)
        result = _in_original_pixels(views0, views1, H, fit, points0, points_aligned)
        result = replace(result, confidence=confidence(evidence, self.calibration), evidence=evidence, angle_deg=describe(H_1to0, views1.base_hw).angle_deg)
        if why:
            return result.refuse(f"{INCONSISTENT}: {why}")
        if result.confidence < o.min_confidence:
            return result.refuse(f"{UNCERTAIN}: {result.confidence:.2f} is below {o.min_confidence:g}")
        return result


def measure_evidence(best: Hypothesis, fit: Fit, points0, features0: Features, aligned: Features, base_hw) -> dict[str, float]:
    """What speaks for a registration, as numbers: support of the search, inliers of the final fit, their share and spread."""
    kept = points0[fit.inliers]
    seen = max(min(len(features0), len(aligned)), 1)
    return {"search_support": float(best.support), "search_share": best.fit.n_inliers / max(len(best.points0), 1), "inliers": float(fit.n_inliers),
            "inlier_share": fit.n_inliers / max(len(points0), 1), "keypoint_share": fit.n_inliers / seen,
            "spread": float(spread_count(kept, max(base_hw) / 12))}  # fmt: skip


DEFAULT_CALIBRATION = {"bias": -12.0, "log_search_support": 3.5, "log_inliers": 0.5, "inlier_share": 2.0, "log_spread": 0.5}


def calibration_inputs(evidence: dict[str, float]) -> dict[str, float]:
    """The terms of the logistic model of `confidence`."""
    return {"bias": 1.0, "log_search_support": math.log1p(evidence["search_support"]), "log_inliers": math.log1p(evidence["inliers"]),
            "inlier_share": evidence["inlier_share"], "log_spread": math.log1p(evidence["spread"])}  # fmt: skip


def confidence(evidence: dict[str, float], calibration: dict[str, float] | None) -> float:
    """Probability in [0, 1] that a registration with this evidence is right: a logistic model fitted on synthetic pairs (model card)."""
    weights = calibration or DEFAULT_CALIBRATION
    z = sum(weights[k] * v for k, v in calibration_inputs(evidence).items())
    return 1 / (1 + math.exp(-max(min(z, 30), -30)))


def _in_original_pixels(views0: ImageViews, views1: ImageViews, H_search: np.ndarray, fit: Fit, points0, points_aligned) -> Registration:
    """Carry the fit from the working frames to the pixels of the images as given."""
    to_original0 = np.linalg.inv(views0.base_from_original)
    aligned_from_original1 = H_search @ views1.base_from_original
    return Registration.from_fit(fit, to_original0, aligned_from_original1, points0, points_aligned, views0.original_hw, views1.original_hw)
