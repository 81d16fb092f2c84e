"""Progressive keypoint expansion: labels grow by points that both images confirm, visit after visit (phase 3).

`mine` judges det0's peaks once, `memory` makes labels of what returns, `PkeGuard` pauses it all. Nothing is random.
After SuperRetina (Liu et al. 2022, section 3.3), under the true map of a pair. Lengths are px of the images that the network saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial

import torch
import torch.nn.functional as F

from ..core.dense import carry
from ..core.geometry import inside, pad_points, sample_map
from ..networks import DenseOutput
from ..registration.keypoints import KeypointOptions, find_keypoints, seen_cells

# unit descriptors nearer than this differ by rounding (bfloat16): a collapsed map confirms nothing
MIN_OTHER_DISTANCE = 0.02
TRUE_RADIUS_PX = 5.0  # a mined point so near to a true junction is right
ROUNDING = 1e-6  # of values and accuracies: ten steps of 0.1 make 1
# The filters in their order, each with what survives it
STAGES = {
    "annotated": "candidates, not annotated",
    "mask": "on a vessel",
    "view": "in both views",
    "geometric": "moving detector agrees",
    "content": "descriptor agrees",
    "budget": "mined",
}
# (..., N, M) px, NaN at NaN; the fast mode rounds
point_distances = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")


@dataclass(frozen=True)
class PkeOptions:
    """What counts as a confirmed point, and how it becomes a label. ValueError names a field that is out of range."""

    candidate_min_probability: float = 0.3  # of det0 at a peak
    pke_min_probability: float = 0.3  # geometric filter: of det1 at the mapped point
    # Lowe's d1 / d2 of unit descriptors, euclidean; d1: true correspondent, d2: nearest other
    content_ratio_max: float = 0.8
    content_radius_px: float = 10.0  # correspondents this near count as the true one; others lie farther
    nms_radius_px: float = 4.0  # peaks this near are one point, within a round and between visits
    annotation_radius_px: float = 8.0  # peaks this near to an annotated keypoint belong to it
    border_px: float = 4.0  # candidates keep this distance from the frame and the edge of image 0's field of view
    max_candidates: int = 2048  # strongest peaks looked at, per image and round; bounds the memory
    max_new_points: int = 300  # mined points per image and round
    value_gain: float = 1.0  # of a point that is found; values have no unit
    value_decay: float = 0.5  # of a point that was in view of both images and is not found
    value_max: float = 5.0  # values rise no higher, so that an old point can still be forgotten
    promotion_value: float = 3.0  # from here on a point is a label ...
    demotion_value: float = 1.5  # ... until it falls below this
    max_recorded_points: int = 1000  # remembered per sample: promoted ones first, then high values
    # GT accuracy (a share) may fall this far below its best before PKE pauses; it resumes within half of it
    guard_max_drop: float = 0.05
    guard_max_drop_files: float = 0.1  # the same on pairs from files, which are few

    def __post_init__(self):
        low = dict.fromkeys(("content_ratio_max", "nms_radius_px", "value_gain"), 1e-3)
        shares = ("candidate_min_probability", "pke_min_probability", "content_ratio_max")
        high = dict.fromkeys((*shares, "guard_max_drop", "guard_max_drop_files"), 1)
        high |= {"promotion_value": self.value_max, "demotion_value": self.promotion_value}
        for f in fields(self):
            value, whole = getattr(self, f.name), isinstance(f.default, int)
            least, most = (1, 10**6) if whole else (low.get(f.name, 0), high.get(f.name, 1e6))
            if not least <= value <= most or (whole and not isinstance(value, int)):
                words = f"takes a {'whole ' * whole}number from {least} to {most:g}, not {value!r}"
                raise ValueError(f"PkeOptions.{f.name}: {words}")


@dataclass(frozen=True)
class PkeRound:
    """One look at one batch. Of what was mined an entry per image: points0_xy, points1_xy (N, 2) px, strongest det0
    first, and confidence (N,) in [0, 1]. funnel: counts of the batch, candidates, after_mask ... Of all peaks, (B, N):
    peaks_xy (B, N, 2) px of image 0, NaN-padded; passed, how many filters of STAGES let it through, -1 for no peak;
    probability, the lower of both detectors'; ratio as in `content_ratio`."""

    points0_xy: list[torch.Tensor]
    points1_xy: list[torch.Tensor]
    confidence: list[torch.Tensor]
    funnel: dict[str, int]
    peaks_xy: torch.Tensor
    passed: torch.Tensor
    probability: torch.Tensor
    ratio: torch.Tensor

    @property
    def rejected(self) -> list[dict[str, torch.Tensor]]:
        """Of each image {reason: (M, 2) px}: a peak stands under the first filter that rejects it."""
        images = zip(self.peaks_xy, self.passed, strict=True)
        return [{reason: xy[passed == k] for k, reason in enumerate(STAGES)} for xy, passed in images]


@torch.no_grad()
def mine(out0: DenseOutput, out1: DenseOutput, batch: dict, options: PkeOptions = PkeOptions()) -> PkeRound:
    """Judge the peaks of det0 in the eroded field of view, by one filter after the other. Without vessel_mask0, or with
    an empty one, no candidate survives. Confidence: geometric mean of both detectors' probabilities."""
    o, strides = options, lambda out: (out.detector_stride, out.descriptor_stride)
    picking = KeypointOptions(o.max_candidates, o.candidate_min_probability, o.nms_radius_px, o.border_px)
    with torch.autocast(out0.detector.device.type, enabled=False):
        out0, out1 = (DenseOutput(x.detector.float(), x.descriptors.float(), *strides(x)) for x in (out0, out1))
        found = find_keypoints(out0, batch["valid0"], picking)
        points0, probability0 = pad_points([xy for xy, _ in found]), pad_points([p[:, None] for _, p in found])[..., 0]
        points1 = carry(points0, batch)
        probability1, in_view = peak_probability(out1, points1), view_filter(points1, batch["valid1"])
        confidence = (probability0 * probability1).sqrt()
        ratio, mask = content_ratio(out0, out1, points0, points1, in_view, o), batch.get("vessel_mask0")
        mask = torch.zeros_like(batch["valid0"]) if mask is None else mask
        on_vessel = sample_map(mask.float(), points0, mode="nearest")[..., 0] > 0.5
        new = annotation_filter(points0, batch["vessel_keypoints"], o)
        kept = [new, on_vessel, in_view, probability1 >= o.pke_min_probability, ratio < o.content_ratio_max]
    # the most confident survivors are within the budget; of equal ones the stronger in det0
    order = confidence.masked_fill(~torch.stack(kept).all(0), -1).argsort(dim=1, descending=True, stable=True)
    kept = torch.stack([*kept, order.argsort(1) < o.max_new_points])
    passed = kept.int().cumprod(0).sum(0).masked_fill(~torch.isfinite(points0).all(-1), -1)
    names = ("candidates", *(f"after_{reason}" for reason in list(STAGES)[1:]))
    funnel = {name: int((passed > k).sum()) for k, name in enumerate(names)}
    mined = ([row[p == len(STAGES)] for row, p in zip(v, passed, strict=True)] for v in (points0, points1, confidence))
    return PkeRound(*mined, funnel, points0, passed, torch.minimum(probability0, probability1), ratio)


def peak_probability(out1: DenseOutput, points1: torch.Tensor) -> torch.Tensor:
    """(B, N) largest det1 in the cell of each point (B, N, 2) px and its eight neighbours; 0 outside."""
    # read between cells a peak one cell wide would be a quarter
    return sample_map(F.max_pool2d(out1.detector, 3, 1, 1), points1, out1.detector_stride, "nearest")[..., 0]


def annotation_filter(points0, annotated_xy, options: PkeOptions) -> torch.Tensor:
    """Keep points (..., N, 2) px that are no annotated keypoint (..., K, 2) px, NaN-padded, seen again."""
    return ~(point_distances(points0, annotated_xy.to(points0)) <= options.annotation_radius_px).any(-1)


def view_filter(points_xy, valid, border_px: float = 0.0) -> torch.Tensor:
    """Keep points (B, N, 2) px inside a field of view (B, 1, H, W) bool, border_px from its edge; NaN is outside."""
    seen = sample_map(seen_cells(valid, 1, border_px).float(), points_xy)[..., 0] > 0.99
    return inside(points_xy, valid.shape[-2:], border_px) & seen


def content_ratio(out0, out1, points0, points1, pool, options: PkeOptions) -> torch.Tensor:
    """(B, N) Lowe's ratio (2004, § 7.1) of points0, points1 (B, N, 2) px of image 0 and 1: distance of the true
    correspondent's descriptor over that of the nearest other one. Infinite where nothing is proved: the true one is not
    the nearest both ways, or there is no other beyond content_radius_px.

    pool: (B, N) bool, the others. They are all peaks that both images see: a short list is easily won.
    """
    maps = ((out0.descriptors, points0, out0.descriptor_stride), (out1.descriptors, points1, out1.descriptor_stride))
    d0, d1 = (F.normalize(sample_map(*m), dim=-1) for m in maps)
    distance = (2 - 2 * d0 @ d1.transpose(1, 2)).clamp_min(0).sqrt()  # (B, N of image 0, N of image 1)
    own, nearest = distance.diagonal(dim1=1, dim2=2), []
    for table, points in ((distance, points1), (distance.transpose(1, 2), points0)):
        other = (point_distances(points, points) > options.content_radius_px) & pool[:, None]
        nearest.append(table.masked_fill(~other, torch.inf).amin(-1))
    least = torch.minimum(*nearest)
    proved = torch.isfinite(nearest[0]) & (least > MIN_OTHER_DISTANCE) & (own < least)
    return (own / nearest[0]).masked_fill(~proved, torch.inf)


def mined_precision(points_xy: torch.Tensor, true_xy: torch.Tensor, radius_px: float = TRUE_RADIUS_PX) -> float:
    """Share of points (..., N, 2) px that lie within radius_px of a true one (..., M, 2) px; NaN rows are no points, no
    point gives NaN."""
    points = torch.isfinite(points_xy).all(-1)
    right = points & (torch.cdist(points_xy.double(), true_xy.to(points_xy.device, torch.float64)) <= radius_px).any(-1)
    return float(right.sum() / points.sum()) if points.any() else float("nan")


def allowed_drop(options: PkeOptions, synthetic: bool, points: int) -> float:
    """How far an accuracy may fall below its best: the guard's limit for this kind of pairs, or, where that is more,
    twice the largest standard error of a share of so many points."""
    least = options.guard_max_drop if synthetic else options.guard_max_drop_files
    return max(least, points**-0.5) if points else least


class PkeGuard:
    """Pauses PKE (active = False) when an accuracy falls farther below its best than is allowed.

    It resumes when all are back within half of that. Meanwhile labels are the annotation alone. Accuracies are those on
    pairs that the run trains on; the first is measured ahead of the phase. reason says why.
    """

    def __init__(self):
        self.active, self.reason, self.best = True, "active: no accuracy measured yet", {}

    def update(self, accuracies: Mapping[str, tuple[float, float]]) -> bool:
        """Take in accuracies in [0, 1], each with its `allowed_drop`, by the name of what they were measured on, and
        return `active`. NaN, nothing measured, changes nothing."""
        measured = {name: told for name, told in accuracies.items() if told[0] == told[0]}
        share, words, held = 1.0 if self.active else 0.5, [], []
        for name, (value, allowed) in measured.items():
            best = self.best[name] = max(self.best.get(name, float("-inf")), float(value))
            held.append(value >= best - share * allowed - ROUNDING)
            words.append(f"{name}: accuracy {value:.3f}, best {best:.3f}, allowed drop {share * allowed:.2g}")
        self.active = all(held) if held else self.active
        self.reason = f"{'active' if self.active else 'paused'}: {'; '.join(words) or 'no accuracy measured'}"
        return self.active

    def state_dict(self) -> dict:
        return {"best": dict(self.best), "active": self.active, "reason": self.reason}

    def load_state_dict(self, state: dict) -> None:
        self.best, self.active, self.reason = dict(state["best"]), state["active"], state["reason"]
