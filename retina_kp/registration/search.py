"""Where might the moving image lie? Hypotheses over turn and scale from small pictures, likely ones first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from ..core.geometry import warp_points
from ..mapping.transforms import Fit, fit_transform, implausible
from .closeup import whole_window
from .keypoints import Features, guided_matches, matched_points, mutual_matches, spread_count
from .options import SearchOptions
from .refinement import agreement
from .views import ImageViews, moved_map

STEP = 1.67  # between neighbouring ratios of scale
# enlargement of the pictures for a second look; where fields differ most, for the only look
FINER, MUCH_FINER = 1.2, 1.5
TURNS = (0.0, 90.0, 180.0, -90.0, 45.0, -45.0, 135.0, -135.0)
SUPPORT_PX = 16.0  # base px: side of the cells in which support is counted
MAP_BLUR = 2.0  # σ in cells, with which maps agree whose similarity leaves a bend
FREE = 2  # matches that any similarity agrees with; where few agree, as the search never yields, they prove nothing
# size of the pictures over that of the search's small ones, and how far the images may lie from where the points put
# them and then from where that match does, base px
TRIES = ((1.0, (20.0,)), (1.0, (45.0, 20.0)), (STEP, (20.0,)))
# turn of the moving image (deg), scale of the fixed and of the moving one (px per base px)
Stage = list[tuple[float, float, float]]


@dataclass(frozen=True)
class Hypothesis:
    """One try of the search: a similarity in base px, the scale of the fixed picture, how many matches there were, and
    how many cells hold an inlier. agreement: of the detector's blurred maps, once settled."""

    fit: Fit
    scale0: float
    n_matches: int
    support: int
    agreement: float = 0.0

    @property
    def H(self) -> np.ndarray:
        """(3, 3) moving base px → fixed base px."""
        return self.fit.H_1to0

    @property
    def share(self) -> float:
        """Of the matches that agree, in [0, 1]."""
        return self.fit.n_inliers / max(self.n_matches, 1)

    @property
    def strength(self) -> float:
        """Inliers times their share: once settled, right hypotheses reach more than ten, wrong ones seldom."""
        return self.fit.n_inliers * self.share


def search_stages(coarse: float, stages: int = 4) -> list[Stage]:
    """What is tried, cheap and likely things first. coarse: scale of the small pictures; 0 stages: the images as they
    lie alone."""
    c, up, down = coarse, coarse * STEP, coarse / STEP  # a field of view is STEP, STEP² times as wide as the other
    wide, very_wide = [(c, up), (up, c)], [(down * MUCH_FINER, up * MUCH_FINER), (up * MUCH_FINER, down * MUCH_FINER)]
    finer = [(up, up), *((FINER * scale0, FINER * scale1) for scale0, scale1 in wide)]
    everything = [
        [(turn, *scales) for scales in pairs for turn in TURNS] for pairs in ([(c, c)], wide, finer, very_wide)
    ]
    return everything[:stages] or [[(0.0, c, c)]]


def hypotheses(
    views0: ImageViews, views1: ImageViews, options: SearchOptions, stages: list[Stage]
) -> Iterator[Hypothesis]:
    """Yield settled hypotheses: the first promising one of each stage as soon as it is found, at the end the strongest
    of the others that chance does not explain. The caller looks at each closely and stops when one is right."""
    waiting: list[Hypothesis] = []
    for stage in stages:
        promising = False
        for hypothesis in filter(None, _settled(views0, views1, options, stage)):
            if hypothesis.agreement < options.judged_agreement:
                continue
            if promising or hypothesis.strength < options.promising_strength:
                waiting.append(hypothesis)
            else:
                promising = True
                yield hypothesis
    worth_it = [h for h in waiting if h.strength >= options.judged_strength]
    yield from sorted(worth_it, key=lambda h: -h.strength)[: options.judged_at_end]


def _settled(
    views0: ImageViews, views1: ImageViews, options: SearchOptions, stage: Stage
) -> Iterator[Hypothesis | None]:
    """Settle some hypotheses of a stage: clear ones before another view is tried, then the strongest of those with most
    support, once they are matched again nearby."""
    clear, doubtful = 0, []
    for view in stage:
        raw = try_view(views0, views1, options, *view)
        if raw is not None and raw.strength >= options.clear_strength and clear < options.settled_per_stage:
            clear += 1
            yield settle(views0, views1, options, raw)
        elif raw is not None:
            doubtful.append((raw, view))
    doubtful.sort(key=lambda found: -found[0].support)
    ranked = [
        (strength_nearby(views0, views1, options, *found), found[0]) for found in doubtful[: options.nearby_per_stage]
    ]
    for strength, raw in sorted(ranked, key=lambda found: -found[0])[: options.settled_per_stage - clear]:
        if strength >= options.nearby_strength:
            yield settle(views0, views1, options, raw)


def try_view(
    views0: ImageViews, views1: ImageViews, options: SearchOptions, angle_deg: float, scale0: float, scale1: float
):
    """Match the fixed image at scale0 with the moving one turned and at scale1: a `Hypothesis`, or None."""
    features0, features1 = _features(views0, views1, angle_deg, scale0, scale1)
    points0, points1 = matched_points(features0, features1, mutual_matches(features0, features1))
    fit = fit_transform(points0, points1, "similarity", options.search_threshold_px / scale0)
    if fit is None or implausible(fit.H_1to0, views1.base_hw):
        return None
    return Hypothesis(fit, scale0, len(points0), spread_count(points0[fit.inliers], SUPPORT_PX))


def _features(
    views0: ImageViews, views1: ImageViews, angle_deg: float, scale0: float, scale1: float
) -> tuple[Features, Features]:
    """Of both images in a view. The one with the smaller picture is turned, either way round: it costs less."""
    turn_fixed = scale0 < scale1
    return (
        views0.features(-angle_deg if turn_fixed else 0.0, scale0),
        views1.features(0.0 if turn_fixed else angle_deg, scale1),
    )


def strength_nearby(
    views0: ImageViews, views1: ImageViews, options: SearchOptions, hypothesis: Hypothesis, view: tuple
) -> float:
    """Strength of a hypothesis whose features are matched again in a wide neighbourhood. No picture is drawn for it, so
    it costs next to nothing; as a start it is no better than the hypothesis."""
    features0, features1 = _features(views0, views1, *view)
    index = guided_matches(features0, features1, hypothesis.H, options.settle_radius_px)
    fit = fit_transform(*matched_points(features0, features1, index), "similarity", options.settle_threshold_px)
    return 0.0 if fit is None else replace(hypothesis, fit=fit, n_matches=len(index)).strength


def settle(views0: ImageViews, views1: ImageViews, options: SearchOptions, hypothesis: Hypothesis) -> Hypothesis | None:
    """Warp the moving image into the fixed frame and match again in a wide neighbourhood: a better similarity, or
    None."""
    scale, outline1 = hypothesis.scale0, warp_points(views1.outline, hypothesis.H)
    window = whole_window(views0, scale).around(outline1, options.settle_radius_px * scale)
    warped = window.warped(views1, hypothesis.H)
    fit, points = warped.fit("similarity", options.settle_radius_px, options.settle_threshold_px)
    if fit is None or implausible(H := warped.composed(fit.H_1to0), views1.base_hw):
        return None
    map1, stride = warped.features1.detector, views0.network.detector_stride
    maps = views0.upright_map(scale, window.from_base, map1.shape), moved_map(map1, fit.H_1to0, stride, map1.shape)
    found = {"n_matches": len(points[0]), "agreement": agreement(*maps, MAP_BLUR)}
    return replace(hypothesis, fit=replace(fit, H_1to0=H), **found)


def starts(views0: ImageViews, views1: ImageViews, options: SearchOptions, H: np.ndarray) -> Iterator[Hypothesis]:
    """Hypotheses near H (3, 3), moving base px → fixed base px: what matches there in pictures of several sizes."""
    scale = np.sqrt(abs(np.linalg.det(H[:2, :2])))
    for size, radii_px in TRIES:
        unmatched = Fit("similarity", H, np.zeros(1, bool))
        found = Hypothesis(unmatched, size * options.coarse / min(scale, 1.0) ** 0.5, 1, 0)
        for radius_px in radii_px:
            found = found and settle(views0, views1, replace(options, settle_radius_px=radius_px), found)
        if found is not None:
            yield replace(found, n_matches=found.n_matches * found.fit.n_inliers / (found.fit.n_inliers - FREE))
