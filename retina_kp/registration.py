"""The main job: register a moving image to a fixed one, or refuse with a reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from .checkpoints import load_network
from .config import from_dict
from .geometry import corner_error, describe
from .images import as_array
from .keypoints import Features, KeypointOptions
from .matching import MODELS, Fit, fit_transform, guided_matches, implausible, mutual_matches, spread_count
from .networks import fold_batch_norm
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
    polish_px: float = 640.0  # working_px of the last passes, whose radius and threshold follow
    polish_passes_px: tuple[tuple[float, float], ...] = ((10.0, 4.0), (7.0, 3.0))
    polished_px: float = 1.5  # a pass that moves the corners by less is the last
    settled_per_stage: int = 3  # hypotheses that are matched again with the moving image turned, after each stage of the search
    refined_per_stage: int = 2  # best of these that get the final model
    settle_radius_px: float = 20.0  # a hypothesis may be so far off; it settles by a similarity with settle_threshold_px
    settle_threshold_px: float = 8.0
    sure_confidence: float = 0.97  # a candidate with so much ends the search
    min_inliers: int = 7
    min_contrast: float = 0.004  # standard deviation of gray levels below which an image counts as blank
    min_confidence: float = 0.25  # below it a result is refused; impostors stay below 0.1 (model card)
    keypoints: KeypointOptions = KeypointOptions()

    def __post_init__(self):
        if self.model not in MODELS:
            raise ValueError(f"unknown model {self.model!r}; there are {', '.join(MODELS)}")


@dataclass(frozen=True)
class Hypothesis:
    """One try of the search: a similarity in base px, out of how many matches, and how many 16 px cells hold an inlier of it."""

    fit: Fit
    n_matches: int
    support: int


@dataclass(frozen=True)
class Candidate:
    """A refined hypothesis. H_base: moving base px → fixed base px; result: the same in original px, with its confidence."""

    hypothesis: Hypothesis
    H_base: np.ndarray
    result: Registration


class Registrar:
    """Registers pairs with one network. Calling it never guesses: the result is ok, or its status says why not."""

    def __init__(self, network, options: RegistrarOptions = RegistrarOptions(), device: str = "auto", calibration: dict | None = None):
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.network = fold_batch_norm(network).to(self.device, memory_format=torch.channels_last)
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
        views = self._views(as_array(image, "image"), fast=False)
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
        candidates = self._search(views0, views1)
        if not candidates:
            return refused(f"{FEW_MATCHES}: no turn or scale gave a consistent set", *sizes)
        best = max(candidates, key=lambda c: c.result.confidence)
        return self._judge(self._polish(views0, views1, best), views1)

    def _views(self, image: np.ndarray, fast: bool = True) -> ImageViews:
        return ImageViews(image, self.network, self.options.keypoints, self.options.working_px, fast)

    # ------------------------------------------------------------------ search over turn and scale

    def _search(self, views0: ImageViews, views1: ImageViews) -> list[Candidate]:
        """Upright first; then all turns on small images; then all turns at full size. After each stage the hypotheses with most support
        are refined, which tells right from wrong far better than their support does; a sure one ends the search."""
        o, small = self.options, self.options.small_scale
        stages = (
            [(0.0, 1.0, 1.0)],
            [(angle, scale0, small) for angle in o.turns_deg for scale0 in (small, 1.0)],
            [(angle, scale0, 1.0) for angle in o.turns_deg for scale0 in (1.0, small) if (angle, scale0) != (0.0, 1.0)],
        )
        candidates = []
        for stage in stages:
            tried = [h for view in stage if (h := self._try(views0, views1, *view)) is not None]
            tried = sorted(tried, key=lambda h: -h.support)[: o.settled_per_stage]
            settled = [h for raw in tried if (h := self._settle(views0, views1, raw)) is not None]
            settled = sorted(settled, key=lambda h: -h.fit.n_inliers)[: o.refined_per_stage]
            candidates += [c for h in settled if (c := self._refine(views0, views1, h)) is not None]
            if any(c.result.confidence >= o.sure_confidence for c in candidates):
                break
        return candidates

    def _try(self, views0: ImageViews, views1: ImageViews, angle_deg: float, scale0: float, scale1: float) -> Hypothesis | None:
        """Match the fixed image at scale0 with the moving one turned and at scale1; None when no plausible similarity comes out."""
        features0, features1 = views0.features(0.0, scale0), views1.features(angle_deg, scale1)
        index = mutual_matches(features0, features1)
        points0, points1 = features0.keypoints_xy[index[:, 0]], features1.keypoints_xy[index[:, 1]]
        fit = fit_transform(points0, points1, "similarity", self.options.search_threshold_px / scale0)
        if fit is None or implausible(fit.H_1to0, views1.base_hw):
            return None
        return Hypothesis(fit, len(points0), spread_count(points0[fit.inliers], 16.0))

    # ------------------------------------------------------------------ precision and judgement

    def _match_near(
        self, views0: ImageViews, views1: ImageViews, H: np.ndarray, radius_px: float
    ) -> tuple[Features, np.ndarray, np.ndarray]:
        """Draw the moving image in the fixed frame by H (base px) and match within radius_px: its features there, points0, points1."""
        features0, aligned = views0.features(), views1.aligned(H, views0.base_hw)
        index = guided_matches(features0, aligned, np.eye(3), radius_px)
        return aligned, features0.keypoints_xy[index[:, 0]], aligned.keypoints_xy[index[:, 1]]

    def _settle(self, views0: ImageViews, views1: ImageViews, hypothesis: Hypothesis) -> Hypothesis | None:
        """Draw the moving image in the fixed frame and match again in a wide neighbourhood: a better similarity, or None."""
        o, H = self.options, hypothesis.fit.H_1to0
        _, points0, points1 = self._match_near(views0, views1, H, o.settle_radius_px)
        fit = fit_transform(points0, points1, "similarity", o.settle_threshold_px)
        if fit is None or implausible(fit.H_1to0 @ H, views1.base_hw):
            return None
        return replace(hypothesis, fit=replace(fit, H_1to0=fit.H_1to0 @ H), n_matches=len(points0))

    def _refine(self, views0: ImageViews, views1: ImageViews, hypothesis: Hypothesis) -> Candidate | None:
        """Draw the moving image in the fixed frame once more, match nearby, fit the wanted model, and measure what speaks for it."""
        o, H = self.options, hypothesis.fit.H_1to0
        aligned, points0, points_aligned = self._match_near(views0, views1, H, o.guided_radius_px)
        fit = fit_transform(points0, points_aligned, o.model, o.final_threshold_px)
        if fit is None or fit.n_inliers < o.min_inliers:
            return None
        evidence = measure_evidence(hypothesis, fit, views0.features(), aligned)
        aligned_from_original1 = H @ views1.base_from_original
        result = Registration.from_fit(fit, np.linalg.inv(views0.base_from_original), aligned_from_original1, points0, points_aligned,
                                       views0.original_hw, views1.original_hw)  # fmt: skip
        angle = describe(result.H_1to0, result.moving_hw).angle_deg
        result = replace(result, confidence=confidence(evidence, self.calibration), evidence=evidence, angle_deg=angle)
        return Candidate(hypothesis, fit.H_1to0 @ H, result)

    def _polish(self, views0: ImageViews, views1: ImageViews, best: Candidate) -> Candidate:
        """One or two passes on larger images from where the best candidate lies, for accuracy; evidence and confidence stay as they are."""
        fine0, fine1 = views0.at(self.options.polish_px), views1.at(self.options.polish_px)
        to_fine0, to_fine1 = (f.base_from_original @ np.linalg.inv(v.base_from_original) for f, v in ((fine0, views0), (fine1, views1)))
        H, polished = to_fine0 @ best.H_base @ np.linalg.inv(to_fine1), None
        for radius_px, threshold_px in self.options.polish_passes_px:
            _, points0, points_aligned = self._match_near(fine0, fine1, H, radius_px)
            fit = fit_transform(points0, points_aligned, self.options.model, threshold_px)
            if fit is None or fit.n_inliers < self.options.min_inliers:
                break
            polished = Registration.from_fit(fit, np.linalg.inv(fine0.base_from_original), H @ fine1.base_from_original, points0,
                                             points_aligned, views0.original_hw, views1.original_hw)  # fmt: skip
            H = fit.H_1to0 @ H
            if corner_error(fit.H_1to0, np.eye(3), fine0.base_hw) < self.options.polished_px:
                break
        if polished is None:
            return best
        judged = {"confidence": best.result.confidence, "evidence": best.result.evidence}
        polished = replace(polished, angle_deg=describe(polished.H_1to0, polished.moving_hw).angle_deg, **judged)
        return Candidate(best.hypothesis, np.linalg.inv(to_fine0) @ H @ to_fine1, polished)

    def _judge(self, best: Candidate, views1: ImageViews) -> Registration:
        why = implausible(best.H_base, views1.base_hw)
        if why:
            return best.result.refuse(f"{INCONSISTENT}: {why}")
        if best.result.confidence < self.options.min_confidence:
            return best.result.refuse(f"{UNCERTAIN}: {best.result.confidence:.2f} is below {self.options.min_confidence:g}")
        return best.result


def measure_evidence(hypothesis: Hypothesis, fit: Fit, features0: Features, aligned: Features) -> dict[str, float]:
    """What speaks for a registration, as numbers: support of the search, share of matches that agree in a wide neighbourhood, inliers of
    the final fit, their share of the guided matches and of the keypoints that could have matched."""
    return {"search_support": float(hypothesis.support), "settled_share": hypothesis.fit.n_inliers / max(hypothesis.n_matches, 1),
            "inliers": float(fit.n_inliers), "inlier_share": fit.n_inliers / max(len(fit.inliers), 1),
            "keypoint_share": fit.n_inliers / max(min(len(features0), len(aligned)), 1)}  # fmt: skip


DEFAULT_CALIBRATION = {"bias": -14.0, "settled_share": 10.0, "log_inliers": 0.8, "inlier_share": 20.0, "keypoint_share": 10.0}


def calibration_inputs(evidence: dict[str, float]) -> dict[str, float]:
    """The terms of the logistic model of `confidence`."""
    shares = {name: evidence[name] for name in ("settled_share", "inlier_share", "keypoint_share")}
    return {"bias": 1.0, "log_inliers": math.log1p(evidence["inliers"]), **shares}


def confidence(evidence: dict[str, float], calibration: dict[str, float] | None) -> float:
    """Probability in [0, 1] that a registration with this evidence is right: its corners within 20 px on average, at 768. A logistic model,
    fitted by `calibration.publish` on drawn pairs, or DEFAULT_CALIBRATION (set by hand) for weights that carry no fit (model card)."""
    weights = calibration or DEFAULT_CALIBRATION
    z = sum(weights[k] * v for k, v in calibration_inputs(evidence).items())
    return 1 / (1 + math.exp(-max(min(z, 30), -30)))
