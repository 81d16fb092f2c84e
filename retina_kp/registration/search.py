"""Where might the moving image lie? Hypotheses over turn and scale from small pictures, likely ones first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ..core.geometry import translation
from .keypoints import Features
from .matching import Fit, fit_transform, guided_matches, implausible, mutual_matches, spread_count
from .views import ImageViews

if TYPE_CHECKING:
    from .registrar import RegistrarOptions

STEP = 1.67  # between neighbouring ratios of scale that are tried
# a second look is taken at pictures so much larger; where fields differ most, the only look
FINER, MUCH_FINER = 1.2, 1.5
TURNS = (0.0, 90.0, 180.0, -90.0, 45.0, -45.0, 135.0, -135.0)
# turn of the moving image (deg), scale of the fixed one, of the moving one (px per base px)
Stage = list[tuple[float, float, float]]


@dataclass(frozen=True)
class Hypothesis:
    """One try of the search: a similarity in base px, the scale of the fixed picture in which it was found, how many
    matches there were, and how many cells of 16 base px hold an inlier of it."""

    fit: Fit
    scale0: float
    n_matches: int
    support: int

    @property
    def share(self) -> float:
        """Of the matches that agree, in [0, 1]."""
        return self.fit.n_inliers / max(self.n_matches, 1)

    @property
    def strength(self) -> float:
        """Inliers times their share: once settled, right hypotheses reach more than ten, wrong ones seldom."""
        return self.fit.n_inliers * self.share


def search_stages(coarse: float, stages: int = 4) -> list[Stage]:
    """What is tried, cheap and likely things first; coarse: scale of the small pictures; stages: how many, with 0 the
    images as they lie alone."""
    c, up, down = coarse, coarse * STEP, coarse / STEP
    # one field of view is STEP, STEP² times as wide as the other
    wide, very_wide = [(c, up), (up, c)], [(down, up), (up, down)]
    finer, very_wide = (
        [(f * scale0, f * scale1) for scale0, scale1 in pairs] for f, pairs in ((FINER, wide), (MUCH_FINER, very_wide))
    )
    everything = [
        [(turn, c, c) for turn in TURNS],
        [(turn, *scales) for scales in wide for turn in TURNS],
        [(turn, *scales) for scales in [(up, up), *finer] for turn in TURNS],
        [(turn, *scales) for scales in very_wide for turn in TURNS],
    ]
    return everything[:stages] or [[(0.0, c, c)]]


def hypotheses(
    views0: ImageViews, views1: ImageViews, options: RegistrarOptions, stages: list[Stage]
) -> Iterator[Hypothesis]:
    """Yield settled hypotheses: the first promising one of each stage as soon as it is found, at the end the strongest
    of those left over. The caller looks at each closely and stops when one is right."""
    waiting: list[Hypothesis] = []
    for stage in stages:
        promising = False
        for hypothesis in filter(None, _settled(views0, views1, options, stage)):
            if promising or hypothesis.strength < options.promising_strength:
                waiting.append(hypothesis)
            else:
                promising = True
                yield hypothesis
    yield from sorted(waiting, key=lambda h: -h.strength)[: options.judged_at_end]


def _settled(
    views0: ImageViews, views1: ImageViews, options: RegistrarOptions, stage: Stage
) -> Iterator[Hypothesis | None]:
    """Settle settled_per_stage hypotheses of a stage: clear ones before another view is tried, then those with most
    support."""
    clear, doubtful = 0, []
    for view in stage:
        raw = try_view(views0, views1, options, *view)
        if raw is not None and raw.strength >= options.clear_strength and clear < options.settled_per_stage:
            clear += 1
            yield settle(views0, views1, options, raw)
        elif raw is not None:
            doubtful.append(raw)
    for raw in sorted(doubtful, key=lambda h: -h.support)[: options.settled_per_stage - clear]:
        yield settle(views0, views1, options, raw)


def try_view(
    views0: ImageViews, views1: ImageViews, options: RegistrarOptions, angle_deg: float, scale0: float, scale1: float
):
    """Match the fixed image at scale0 with the moving one turned and at scale1: a `Hypothesis`, or None without a
    plausible similarity. The image whose picture is the smaller one is turned, either way round: where turning asks for
    a picture, a small one costs less."""
    turn_fixed = scale0 < scale1
    features0 = views0.features(-angle_deg if turn_fixed else 0.0, scale0)
    features1 = views1.features(0.0 if turn_fixed else angle_deg, scale1)
    points0, points1 = matched_points(features0, features1, mutual_matches(features0, features1))
    fit = fit_transform(points0, points1, "similarity", options.search_threshold_px / scale0)
    if fit is None or implausible(fit.H_1to0, views1.base_hw):
        return None
    return Hypothesis(fit, scale0, len(points0), spread_count(points0[fit.inliers], 16.0))


def settle(
    views0: ImageViews, views1: ImageViews, options: RegistrarOptions, hypothesis: Hypothesis
) -> Hypothesis | None:
    """Draw the moving image in the fixed frame and match again in a wide neighbourhood: a better similarity, or
    None."""
    H, scale = hypothesis.fit.H_1to0, hypothesis.scale0
    box = views0.outline * scale  # without whatever canvas lies around it
    low, high = np.floor(box.min(0)), np.ceil(box.max(0))
    frame = translation(*-low) @ np.diag([scale, scale, 1.0])
    aligned = views1.drawn(frame @ H, tuple(int(n) + 1 for n in (high - low)[::-1])).mapped(
        np.linalg.inv(frame), views0.base_hw
    )
    points0, points1 = matched_nearby(views0.features(0.0, scale), aligned, options.settle_radius_px)
    fit = fit_transform(points0, points1, "similarity", options.settle_threshold_px)
    if fit is None or implausible(fit.H_1to0 @ H, views1.base_hw):
        return None
    return replace(hypothesis, fit=replace(fit, H_1to0=fit.H_1to0 @ H), n_matches=len(points0))


def matched_nearby(
    features0: Features, features1: Features, radius_px: float, H_1to0=np.eye(3)
) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 2) of both features that match within radius_px of each other once H_1to0 (3, 3) has moved those of
    image 1; by default both are given in one frame."""
    return matched_points(features0, features1, guided_matches(features0, features1, H_1to0, radius_px))


def matched_points(features0: Features, features1: Features, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The points (N, 2) of index pairs (N, 2)."""
    return features0.keypoints_xy[index[:, 0]], features1.keypoints_xy[index[:, 1]]
