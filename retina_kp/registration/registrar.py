"""The main job: register a moving image to a fixed one, or refuse with a reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch

from ..core.compute import choose_device
from ..core.config import from_dict
from ..core.geometry import corners, describe, similarity, warp_points
from ..core.images import as_array
from ..networks import fold_batch_norm
from ..networks.checkpoints import load_network
from .confidence import checked, confidence, measure_evidence
from .keypoints import Features, KeypointOptions
from .matching import MODELS, Fit, fit_transform, implausible
from .refinement import MOTIONS, fit_gradually, refine
from .result import Registration, refused
from .search import Hypothesis, hypotheses, matched_nearby, search_stages
from .views import ImageViews

NO_RETINA, FEW_KEYPOINTS, FEW_MATCHES, INCONSISTENT, UNCERTAIN, MIRRORED = (
    "no structure visible",
    "too few keypoints",
    "too few matches",
    "inconsistent geometry",
    "low confidence",
    "mirrored",
)
MAX_SLIMNESS = 6.0  # of a field of view; noise in strips was taken for a match
MIN_COMMON_PX, MARGIN_PX = 40.0, 12.0  # base px: least side of what both images show; rim drawn around it


@dataclass(frozen=True)
class RegistrarOptions:
    """Settings of a `Registrar`. Base px are those of an image whose field of view covers base_px² pixels
    (`views.ImageViews`)."""

    model: str = "affine"  # one of matching.MODELS
    base_px: float = 460.0
    coarse: float = 0.6  # size of the small pictures of the search, px per base px
    # of the search: 4 any turn and scale, 1 any turn at like scale, 0 as the images lie; fewer refuse sooner
    stages: int = 4
    search_threshold_px: float = 6.0  # agreement with a similarity while searching, px of the small pictures
    settled_per_stage: int = 3  # hypotheses that are matched again with the moving image drawn in the fixed frame
    # base px; a hypothesis may be so far off, and settles by a similarity with settle_threshold_px
    settle_radius_px: float = 20.0
    settle_threshold_px: float = 8.0
    clear_strength: float = 4.0  # a hypothesis with so much is settled before another view is tried
    promising_strength: float = 8.0  # a settled hypothesis with so much is looked at closely at once, others at the end
    judged_at_end: int = 3  # hypotheses that are looked at closely when nothing is sure after the last stage
    close_px: float = 560.0  # size of the close pictures of what both images show: the square root of their area
    close_radius_px: float = 12.0  # base px
    close_threshold_px: float = 3.0  # base px
    # where fewer of the close matches agree, a second start is tried: the fit of matches far and wide
    clear_share: float = 0.6
    wide_radius_px: float = 30.0  # base px
    wide_gain: float = 1.05  # the second start is taken where so many times as many matches agree as from the first
    # px of the close pictures, for the last pass of models that the maps do not refine: how far apart ...
    polish_radius_px: float = 20.0
    # ... matches may be at first, and in the end; also the limit of inliers once the maps have refined
    polish_threshold_px: float = 4.0
    # before that pass the moving image is drawn again if its corners in the close-up moved farther
    redraw_px: float = 8.0
    sure_confidence: float = 0.97  # a candidate with so much ends the search
    min_inliers: int = 7
    min_contrast: float = 0.004  # standard deviation of gray levels below which an image counts as blank
    min_confidence: float = 0.5  # below it a result is refused: it is more likely wrong than right
    keypoints: KeypointOptions = KeypointOptions()

    def __post_init__(self):
        if self.model not in MODELS:
            raise ValueError(f"unknown model {self.model!r}; there are {', '.join(MODELS)}")
        if self.stages not in range(5):
            raise ValueError(f"stages: the search has 0 to 4, not {self.stages}")


@dataclass(frozen=True)
class Closeup:
    """What both images show, drawn large: the fixed image's features in a window of hw; window_from_base0: fixed base
    px → its px."""

    window_from_base0: np.ndarray
    hw: tuple[int, int]
    zoom: float
    features0: Features


@dataclass(frozen=True)
class Candidate:
    """A hypothesis looked at closely: the moving image was drawn in the close-up by H_drawn (moving base px → fixed
    base px), as features1; step: (3, 3) from there to where its matches put it, window px; result: the whole in
    original px, with its confidence."""

    closeup: Closeup
    H_drawn: np.ndarray
    features1: Features
    step: np.ndarray
    result: Registration

    @property
    def H_base(self) -> np.ndarray:
        """Moving base px → fixed base px."""
        window = self.closeup.window_from_base0
        return np.linalg.inv(window) @ self.step @ window @ self.H_drawn

    @property
    def moved_px(self) -> float:
        """How far the step moves a corner of the window."""
        places = corners(self.closeup.hw)
        return float(np.linalg.norm(warp_points(places, self.step) - places, axis=1).max())


class Registrar:
    """Registers pairs with one network. Calling it never guesses: the result is ok, or its status says why not."""

    def __init__(
        self,
        network,
        options: RegistrarOptions = RegistrarOptions(),
        device: str = "auto",
        calibration: dict | None = None,
    ):
        self.device = choose_device(device)
        self.network = fold_batch_norm(network).to(self.device, memory_format=torch.channels_last)
        self.options, self.calibration, self.stages = (
            options,
            checked(calibration),
            search_stages(options.coarse, options.stages),
        )
        # without, as in a run's checkpoint, the search turns pictures
        self.steerers = getattr(network, "steerers", None)

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
        views = self.views(as_array(image, "image"), fast=False)
        return views.features().mapped(np.linalg.inv(views.base_from_original), views.original_hw)

    def __call__(self, fixed, moving) -> Registration:
        """Register ``moving`` to ``fixed``: paths or arrays HxW / HxWx3 (RGB) of any size, uint8, uint16 or float in
        [0, 1].

        Raises ImageError for input that is no usable image; everything else is told by `Registration.status`.
        """
        fixed, moving = as_array(fixed, "fixed image"), as_array(moving, "moving image")
        views0, views1 = self.views(fixed), self.views(moving)
        sizes = (views0.original_hw, views1.original_hw)
        for name, views in (("fixed", views0), ("moving", views1)):
            if views.contrast < self.options.min_contrast:
                return refused(f"{NO_RETINA}: the {name} image is blank", *sizes)
            if views.slimness > MAX_SLIMNESS:
                return refused(
                    f"{NO_RETINA}: the {name} image is a strip, {views.slimness:.0f} times as long as wide; crop it less",
                    *sizes,
                )
            seen = len(views.features(0.0, self.options.coarse))
            if seen < self.options.min_inliers:
                return refused(
                    f"{FEW_KEYPOINTS}: {seen} in the {name} image; are vessels visible, in focus and not too small?",
                    *sizes,
                )
        result = self.find(views0, views1)
        if not result.ok:
            mirrored = self.find(views0, self.views(moving[:, ::-1]))
            if mirrored.ok and mirrored.confidence >= self.options.sure_confidence:
                return result.refuse(f"{MIRRORED}: one image is the mirror image of the other; flip one of them")
        return result

    def find(self, views0: ImageViews, views1: ImageViews) -> Registration:
        """Look closely at one hypothesis after the other until one is sure; judge the best."""
        candidates: list[Candidate] = []
        for hypothesis in hypotheses(views0, views1, self.options, self.stages):
            candidate = self.look_closely(views0, views1, hypothesis)
            if candidate is not None:
                candidates.append(candidate)
                if candidate.result.confidence >= self.options.sure_confidence and not implausible(
                    candidate.H_base, views1.base_hw
                ):
                    break
        if not candidates:
            why = "no turn or scale gave a consistent set; do both show the same eye, and the same part of it?"
            return refused(f"{FEW_MATCHES}: {why}", views0.original_hw, views1.original_hw)
        best = max(
            candidates,
            key=lambda c: (
                not implausible(c.H_base, views1.base_hw),
                c.result.confidence,
                c.result.evidence["inliers"],
            ),
        )
        return self.judge(self.polish(views0, views1, best), views1)

    def views(self, image: np.ndarray, fast: bool = True) -> ImageViews:
        """Pictures of an image, HxW or HxWx3, as this registrar looks at them."""
        return ImageViews(image, self.network, self.options.keypoints, self.options.base_px, fast, self.steerers)

    def look_closely(self, views0: ImageViews, views1: ImageViews, hypothesis: Hypothesis) -> Candidate | None:
        """Draw both images large where they overlap, match nearby, fit the wanted model, and measure what speaks for
        it."""
        o, H = self.options, hypothesis.fit.H_1to0
        closeup = self.closeup(views0, views1, H)
        if closeup is None:
            return None
        features1 = views1.drawn(closeup.window_from_base0 @ H, closeup.hw)
        fit, points = self._fit(closeup, features1, o.close_radius_px)
        if fit is None or fit.n_inliers < o.clear_share * len(points[0]):
            wide, _ = self._fit(closeup, features1, o.wide_radius_px)
            second = self._fit(closeup, features1, o.close_radius_px, wide.H_1to0) if wide else (None, None)
            if second[0] and (fit is None or second[0].n_inliers > o.wide_gain * fit.n_inliers):
                fit, points = second
        if fit is None or fit.n_inliers < o.min_inliers:
            return None
        evidence = measure_evidence(hypothesis.share, fit, closeup.features0, features1)
        fit, evidence["map_correlation"] = self.refine(fit, points, closeup, features1, np.eye(3))
        result = self._result(fit, points, closeup, closeup.window_from_base0 @ H, views0, views1)
        result = replace(result, confidence=confidence(evidence, self.calibration), evidence=evidence)
        return Candidate(closeup, H, features1, fit.H_1to0, result)

    def _fit(self, closeup: Closeup, features1: Features, radius_px: float, start: np.ndarray = np.eye(3)):
        """Match within radius_px (base px) of where ``start`` (3, 3) puts the moving features: the fit of the wanted
        model or None, and the points (N, 2), (N, 2) that were fitted."""
        points = matched_nearby(closeup.features0, features1, radius_px * closeup.zoom, start)
        return fit_transform(*points, self.options.model, self.options.close_threshold_px * closeup.zoom), points

    def refine(self, fit: Fit, points, closeup: Closeup, features1: Features, step: np.ndarray) -> tuple[Fit, float]:
        """`refine` on the close pictures; step: (3, 3) px in which features1 was drawn → px of points[1]."""
        maps = (closeup.features0.detector, features1.detector)
        return refine(fit, *points, maps, step, self.network.detector_stride, self.options.polish_threshold_px)

    def polish(self, views0: ImageViews, views1: ImageViews, best: Candidate) -> Candidate:
        """For a model that the detector's maps have not refined, one more pass from where the best candidate lies: the
        moving image drawn anew if it moved far, matches anew. Evidence and confidence stay as they are."""
        o, closeup = self.options, best.closeup
        if best.result.model in MOTIONS:
            return best
        window = closeup.window_from_base0
        if best.moved_px > o.redraw_px:
            best = replace(
                best, H_drawn=best.H_base, features1=views1.drawn(window @ best.H_base, closeup.hw), step=np.eye(3)
            )
        points = matched_nearby(closeup.features0, best.features1.mapped(best.step, closeup.hw), o.polish_radius_px)
        fit = fit_gradually(*points, o.model, o.polish_radius_px, o.polish_threshold_px)
        if fit is None or fit.n_inliers < o.min_inliers:
            return best
        if fit.model in MOTIONS:  # "auto" has changed its mind
            fit, _ = self.refine(fit, points, closeup, best.features1, best.step)
        result = self._result(fit, points, closeup, best.step @ window @ best.H_drawn, views0, views1)
        result = replace(result, confidence=best.result.confidence, evidence=best.result.evidence)
        return replace(best, step=fit.H_1to0 @ best.step, result=result)

    def closeup(self, views0: ImageViews, views1: ImageViews, H: np.ndarray) -> Closeup | None:
        """The window around what both fields of view share, H: moving base px → fixed base px; None when they share
        next to nothing."""
        outline1 = warp_points(views1.outline, H)
        if not np.isfinite(outline1).all():
            return None
        seen = [np.zeros(views0.base_hw, np.uint8) for _ in range(2)]
        for mask, outline in zip(seen, (views0.outline, outline1), strict=True):
            cv2.fillConvexPoly(mask, cv2.convexHull(np.rint(outline.clip(-1e4, 1e4)).astype(np.int32)), 1)
        common = seen[0] & seen[1]
        if common.sum() < MIN_COMMON_PX**2:
            return None
        x, y, width, height = cv2.boundingRect(common)
        low, high = np.array([x, y]) - MARGIN_PX, np.array([x + width, y + height]) + MARGIN_PX
        finest1 = views1.finest / np.sqrt(abs(np.linalg.det(H[:2, :2])))
        zoom = min(self.options.close_px / float(np.sqrt(np.prod(high - low))), views0.finest, finest1)
        window = similarity(0, zoom, low, (0, 0))
        hw = tuple(int(n) + 1 for n in ((high - low) * zoom)[::-1])
        return Closeup(window, hw, zoom, views0.drawn(window, hw))

    @staticmethod
    def _result(
        fit: Fit, points, closeup: Closeup, window_from_base1: np.ndarray, views0: ImageViews, views1: ImageViews
    ) -> Registration:
        """A fit of points in a close-up, told in original px."""
        original0_from_window = np.linalg.inv(closeup.window_from_base0 @ views0.base_from_original)
        result = Registration.from_fit(
            fit,
            original0_from_window,
            window_from_base1 @ views1.base_from_original,
            *points,
            views0.original_hw,
            views1.original_hw,
        )
        return replace(result, angle_deg=describe(result.H_tried, result.moving_hw).angle_deg)

    def judge(self, best: Candidate, views1: ImageViews) -> Registration:
        if best.result.confidence < self.options.min_confidence:
            figures = f"{best.result.confidence:.2f} is below {self.options.min_confidence:g}"
            return best.result.refuse(
                f"{UNCERTAIN}: {figures}; two different eyes, or too few vessels that both images show"
            )
        why = implausible(best.H_base, views1.base_hw)
        return (
            best.result.refuse(f"{INCONSISTENT}: {why}; no two pictures of one eye differ so") if why else best.result
        )
