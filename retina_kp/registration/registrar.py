"""The main job: register a moving image to a fixed one, or refuse with a reason.

`search` proposes hypotheses, `closeup` explains the frames, `refinement` does the last pixels, `confidence` judges.
Each stage is a public method of `Registrar`: `find`, `look_closely`, `refine`, `polish`, `judge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..core.compute import choose_device
from ..core.images import as_array
from ..mapping.expected_error import checked_bounds
from ..mapping.result import Registration, refused
from ..mapping.transforms import Fit, implausible
from ..networks import for_inference
from ..networks.checkpoints import load_network
from .bending import BENDS, bend
from .closeup import Candidate, Warped, common_window
from .common_print import off_the_page, without_common_print
from .confidence import AGAIN, checked, confidence, measure_evidence
from .judging import FEW_MATCHES, judged, looked_at_again, unfit
from .keypoints import Features
from .large import Copy, register_copies
from .options import RegistrarOptions, registrar_options
from .refinement import MOTIONS, fit_gradually, refine
from .rescue import rescue
from .retries import brightened, squared, within_print
from .search import Hypothesis, hypotheses, search_stages
from .views import ImageViews

WHAT_TO_TRY = (
    "Do both images show the same eye, and the same part of it? Are vessels in focus? Is one of them mirrored? "
    "Where little is shared, a model with less freedom can help: similarity."
)
MIRRORED = "mirrored"
MIRROR_STAGES = 2  # of the search, in which mirrored images are looked for
MOSTLY_PRINT = 0.5  # of the inliers: such a fit shows where the pages lie, not the eye


class Registrar:
    """Registers pairs with one network. Calling it never guesses: the result is ok, or its status says why not.

    Results are equal to the bit on equal machines and numbers of threads (`OMP_NUM_THREADS`); another number adds in
    another order and moves entries of H by up to .005.

    calibration, bounds: of `retina-kp calibrate`, for the confidence and for the error to be expected."""

    def __init__(
        self,
        network: torch.nn.Module,
        options: RegistrarOptions = RegistrarOptions(),
        device: str = "auto",
        calibration: dict | None = None,
        bounds: Sequence[Sequence[float]] = (),
    ):
        self.device = choose_device(device)
        self.network = for_inference(network).to(self.device, memory_format=torch.channels_last)
        self.options, self.calibration, self.bounds = options, checked(calibration), checked_bounds(bounds)
        self.stages = search_stages(options.search.coarse, options.search.stages)
        self.levels = BENDS.get(options.model, ())
        # without, as in a run's checkpoint, the search turns pictures
        self.steerers = getattr(network, "steerers", None)

    @classmethod
    def from_pretrained(cls, weights: str | Path = "lite", device: str = "auto", **options) -> Registrar:
        """Load shipped weights by name ("lite") or a checkpoint by path; options: see `registrar_options`."""
        network, metadata = load_network(weights)
        return cls(
            network, registrar_options(**options), device, metadata.get("calibration"), metadata.get("bounds", ())
        )

    def views(self, image: np.ndarray, fast: bool = True) -> ImageViews:
        """Pictures of an image, HxW or HxWx3, as this registrar looks at them."""
        return ImageViews(image, self.network, self.options.keypoints, self.options.base_px, fast, self.steerers)

    def features(self, image) -> Features:
        """Keypoints of one image (path or array) as it stands, in its original px."""
        copy = Copy.of(image, "image")
        views = self.views(copy.image, fast=False)
        return views.features().mapped(np.linalg.inv(views.base_from_original @ copy.from_file), copy.whole_hw)

    def __call__(self, fixed, moving, points0=None, points1=None) -> Registration:
        """Register ``moving`` to ``fixed``: paths or arrays HxW / HxWx3 (RGB) of any size, uint8, uint16 or float in
        [0, 1]. points0, points1: px (N, 2) of places that both show, to begin with, see `rescue`.

        Raises ImageError for an unusable image, ValueError for unusable points; `Registration.status` tells the rest.
        """
        if isinstance(fixed, (str, Path)) or isinstance(moving, (str, Path)):
            points = [points for points in (points0, points1) if points is not None]
            return register_copies(self, Copy.of(fixed, "fixed image"), Copy.of(moving, "moving image"), *points)
        images = as_array(fixed, "fixed image"), as_array(moving, "moving image")
        whole = [self.views(image) for image in images]
        views0, views1, page = off_the_page(*whole)
        if points0 is not None or points1 is not None:
            result = rescue(self, views0, views1, points0, points1)
            return result if result.ok or page is None else rescue(self, *whole, points0, points1)
        result = self.attempt(views0, views1)
        if result.ok:
            return result
        again = within_print(self, *whole, page) or squared(self, views0, views1) or brightened(self, views0, views1)
        if again is not None:
            return again
        if self.is_mirrored(views0, views1.flipped()):
            return result.refuse(f"{MIRRORED}: one image is the mirror image of the other; flip one of them")
        return result

    def attempt(self, views0: ImageViews, views1: ImageViews, tries=None) -> Registration:
        """The result for two images as they are, their pixels taken for square; tries: as in `find`."""
        if why := unfit("fixed", views0, self.options) or unfit("moving", views1, self.options):
            return refused(why, views0.original_hw, views1.original_hw)
        return self.find(views0, views1, tries)

    def is_mirrored(self, views0: ImageViews, flipped: ImageViews) -> bool:
        """Whether the flipped moving image fits beyond doubt; a look at small pictures that are like in scale."""
        for hypothesis in hypotheses(views0, flipped, self.options.search, self.stages[:MIRROR_STAGES]):
            if hypothesis.strength < self.options.search.promising_strength:
                return False
            found = self.look_closely(views0, flipped, hypothesis)
            if found and found.result.confidence >= self.options.sure_confidence:
                return self.judge(found.result, views0, flipped).ok
        return False

    def find(self, views0: ImageViews, views1: ImageViews, tries=None) -> Registration:
        """Look closely at hypotheses, of the search or in ``tries``, until one is sure; judge the best."""
        candidates: list[Candidate] = []
        for hypothesis in tries if tries is not None else hypotheses(views0, views1, self.options.search, self.stages):
            candidate = self.look_closely(views0, views1, hypothesis)
            if candidate is not None:
                candidates.append(candidate)
                sure = candidate.result.confidence >= self.options.sure_confidence
                if sure and not implausible(candidate.H, views1.base_hw):
                    break
        if not candidates:
            why = "no turn or scale gave a consistent set; do both show the same eye, and the same part of it?"
            return refused(f"{FEW_MATCHES}: {why}", views0.original_hw, views1.original_hw)
        best = max(
            candidates,
            key=lambda c: (not implausible(c.H, views1.base_hw), c.result.confidence, c.result.evidence["inliers"]),
        )
        best = self.polish(views0, views1, best)
        result = best.result
        if self.levels and result.confidence >= self.options.doubtful_confidence:
            result = self.bend(views0, views1, result, best)
            if result.confidence < self.options.again_below:
                result = looked_at_again(result, views0, views1, self.options.closeup, self.calibration[AGAIN])
        return self.judge(result, views0, views1)

    def look_closely(self, views0: ImageViews, views1: ImageViews, hypothesis: Hypothesis) -> Candidate | None:
        """Draw both images large where they overlap, match nearby, fit the wanted model, measure what speaks for it."""
        window = common_window(views0, views1, hypothesis.H, self.options.closeup.close_px)
        if window is None:
            return None
        warped = window.warped(views1, hypothesis.H)
        fit, points = self._fit_closely(warped)
        if fit is None:
            return None
        clean = without_common_print(warped, views0, views1, fit.H_1to0)
        judged, retina = (fit, points) if clean is warped else self._fit_closely(clean)
        if judged is None:
            return None
        evidence = measure_evidence(hypothesis.share, judged, clean.window.features0, clean.features1)
        printed = ~np.isin(points[0].view("c8"), clean.window.features0.keypoints_xy.view("c8")).ravel()
        if clean is warped or printed[fit.inliers].mean() > MOSTLY_PRINT:
            warped, fit, points = clean, judged, retina
        else:  # all that is seen places it, what is not print speaks for it
            fit, _ = self.refine(fit, points, warped, np.eye(3))
        refined, evidence["map_correlation"] = self.refine(fit, retina, clean, np.eye(3))
        fit = refined if warped is clean else fit
        if fit.n_inliers < self.options.min_inliers:  # the maps moved it away from what it was matched by
            fit, points = self._matched_anew(fit, warped)
        result = warped.told(fit, points, np.eye(3), views0, views1)
        result = replace(result, confidence=confidence(evidence, self.calibration), evidence=evidence)
        return Candidate(warped, fit.H_1to0, result)

    def _fit_closely(self, warped: Warped) -> tuple[Fit | None, tuple]:
        """The wanted model with its points, from matches nearby or, where few of these agree, around a wider fit; None
        without enough inliers."""
        o, model = self.options.closeup, self.options.fitted
        fit, points = warped.fit(model, o.close_radius_px, o.close_threshold_px)
        if fit is None or fit.n_inliers < o.clear_share * len(points[0]):
            wide, _ = warped.fit(model, o.wide_radius_px, o.close_threshold_px)
            again = warped.fit(model, o.close_radius_px, o.close_threshold_px, wide.H_1to0) if wide else (None, None)
            if again[0] and (fit is None or again[0].n_inliers > o.wide_gain * fit.n_inliers):
                fit, points = again
        return fit if fit is not None and fit.n_inliers >= self.options.min_inliers else None, points

    def _matched_anew(self, fit: Fit, warped: Warped) -> tuple[Fit, tuple]:
        """The same transform with the matches that are found around it."""
        o = self.options.closeup
        points = warped.matches(o.close_radius_px * warped.window.zoom, fit.H_1to0)
        inliers = fit.residuals_px(*points) < o.close_threshold_px * warped.window.zoom
        return replace(fit, inliers=inliers), points

    def refine(self, fit: Fit, points, warped: Warped, step: np.ndarray) -> tuple[Fit, float]:
        """`refinement.refine` on the maps of a window; step: (3, 3) window px of the warped features → px of
        points[1]."""
        maps = (warped.window.features0.detector, warped.features1.detector)
        return refine(
            fit, *points, maps, step, self.network.detector_stride, self.options.refinement.polish_threshold_px
        )

    def polish(self, views0: ImageViews, views1: ImageViews, best: Candidate) -> Candidate:
        """One more pass for a model that the detector's maps have not refined: the moving image warped anew if it moved
        far, matched anew. Evidence and confidence stay."""
        o, model = self.options.refinement, self.options.fitted
        if best.result.model in MOTIONS:
            return best
        if best.warped.moved_px(best.step) > o.redraw_px:
            best = replace(best, warped=best.warped.window.warped(views1, best.H), step=np.eye(3))
        moved = replace(best.warped, features1=best.warped.features1.mapped(best.step, best.warped.window.hw))
        points = moved.matches(o.polish_radius_px)
        fit = fit_gradually(*points, model, o.polish_radius_px, o.polish_threshold_px)
        if fit is None or fit.n_inliers < self.options.min_inliers:
            return best
        result = best.warped.told(fit, points, best.step, views0, views1)
        result = replace(result, confidence=best.result.confidence, evidence=best.result.evidence)
        return replace(best, step=fit.H_1to0 @ best.step, result=result)

    def bend(self, views0: ImageViews, views1: ImageViews, result: Registration, candidate: Candidate) -> Registration:
        """The last stage of the models that follow the eye, see `bending.bend`; inliers are those of the map that
        bends."""
        bent = bend(views0, views1, result, self.levels, candidate)
        if bent.expected is not None:
            bent = replace(bent, expected=bent.expected.calibrated(self.bounds, bent.fixed_hw))
        if bent.H_1to0 is not result.H_1to0:
            off_px = np.linalg.norm(bent.map_to_fixed(bent.matches1) - bent.matches0, axis=1)
            close_px = self.options.closeup.close_threshold_px / views0.base_from_original[0, 0]
            bent = replace(bent, inliers=off_px < close_px)
        if bent.displacement is not None:
            bent = replace(bent, model=self.options.model)
        return bent

    def judge(self, result: Registration, views0: ImageViews, views1: ImageViews) -> Registration:
        """The result, or its refusal, see `judging.judged`."""
        return judged(result, views0, views1, self.options)
