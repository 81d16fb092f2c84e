"""Progressive keypoint expansion: labels grow by points that both images confirm, visit after visit (phase 3).

`mine` judges det0's peaks once, `value_map` remembers what returned and makes labels of it, `PkeGuard` pauses it all.
Nothing is random. After SuperRetina (Liu et al. 2022, section 3.3), across modalities under H_0to1. Lengths are px of
the images that the network saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial

import torch
import torch.nn.functional as F

from ..core.geometry import inside, pad_points, sample_map, warp_points
from ..networks import DenseOutput
from ..registration.keypoints import KeypointOptions, find_keypoints, seen_cells

# unit descriptors nearer than this differ by rounding (bfloat16): a collapsed map confirms nothing
MIN_RIVAL_DISTANCE = 0.02
ROUNDING = 1e-6  # of values and accuracies: ten steps of 0.1 make 1
# (..., N, M) px, NaN at NaN; the fast mode rounds
point_distances = partial(torch.cdist, compute_mode="donot_use_mm_for_euclid_dist")


@dataclass(frozen=True)
class PkeOptions:
    """What counts as a confirmed point, and how it becomes a label. ValueError names a field that is out of range."""

    candidate_min_probability: float = 0.3  # of det0 at a peak
    pke_min_probability: float = 0.3  # geometric filter: of det1 at the mapped point
    # Lowe's d1 / d2 of unit descriptors, euclidean; d1: true correspondent, d2: nearest baseline
    content_ratio_max: float = 0.8
    content_radius_px: float = 10.0  # correspondents this near count as the true one; baselines lie farther
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
        low = {"content_ratio_max": 1e-3, "nms_radius_px": 1e-3, "value_gain": 1e-3}
        high = dict.fromkeys(
            (
                "candidate_min_probability",
                "pke_min_probability",
                "content_ratio_max",
                "guard_max_drop",
                "guard_max_drop_files",
            ),
            1,
        )
        high |= {"promotion_value": self.value_max, "demotion_value": self.promotion_value}
        for f in fields(self):
            value, whole = getattr(self, f.name), isinstance(f.default, int)
            least, most = (1, 10**6) if whole else (low.get(f.name, 0), high.get(f.name, 1e6))
            if not least <= value <= most or (whole and not isinstance(value, int)):
                raise ValueError(
                    f"PkeOptions.{f.name}: takes a {'whole ' * whole}number from {least} to {most:g}, not {value!r}"
                )


@dataclass(frozen=True)
class PkeRound:
    """One look at one batch, an entry per image: points0_xy, points1_xy (N, 2) px of image 0 and 1, strongest det0
    first; confidence (N,) in [0, 1]; rejected {reason: (M, 2) px of image 0}; funnel: counts of the batch, candidates,
    after_mask ..."""

    points0_xy: list[torch.Tensor]
    points1_xy: list[torch.Tensor]
    confidence: list[torch.Tensor]
    rejected: list[dict[str, torch.Tensor]]
    funnel: dict[str, int]


@torch.no_grad()
def mine(out0: DenseOutput, out1: DenseOutput, batch: dict, options: PkeOptions = PkeOptions()) -> PkeRound:
    """Judge the peaks of det0 in the eroded field of view, by one filter after the other; batch as in `dataset`, maps
    of any float type. Without vessel_mask0, or with an empty one, no candidate survives. Confidence: geometric mean of
    both detectors' probabilities."""
    picking = KeypointOptions(
        options.max_candidates, options.candidate_min_probability, options.nms_radius_px, options.border_px
    )
    with torch.autocast(out0.detector.device.type, enabled=False):
        out0, out1 = (
            DenseOutput(o.detector.float(), o.descriptors.float(), o.detector_stride, o.descriptor_stride)
            for o in (out0, out1)
        )
        # (B, N, 3)
        peaks = pad_points([torch.cat([xy, p[:, None]], 1) for xy, p in find_keypoints(out0, batch["valid0"], picking)])
        points0 = peaks[..., :2]
        points1 = warp_points(points0.double(), batch["H_0to1"].double()).float()
        probability1, in_view = peak_probability(out1, points1), view_filter(points1, batch["valid1"])
        confidence = (peaks[..., 2] * probability1).sqrt()
        judged = [
            annotation_filter(points0, batch["vessel_keypoints"], options),
            mask_filter(points0, batch.get("vessel_mask0")),
            in_view,
            geometric_filter(probability1, options),
            content_filter(out0, out1, points0, points1, in_view[0], options),
        ]
    judged.append(budget_filter(confidence, torch.stack([kept for kept, _ in judged]).all(0), options))
    alive, funnel, rejected = torch.isfinite(points0).all(-1), {}, [{} for _ in points0]
    for kept, reason in judged:  # a point is booked under the first reason that rejects it
        for i, by_reason in enumerate(rejected):
            by_reason[reason] = points0[i, alive[i] & ~kept[i]]
        alive = alive & kept
        funnel["candidates" if reason == "annotated" else f"after_{reason}"] = int(alive.sum())
    mined = ([row[a] for row, a in zip(values, alive, strict=True)] for values in (points0, points1, confidence))
    return PkeRound(*mined, rejected, funnel)


def peak_probability(out1: DenseOutput, points1: torch.Tensor) -> torch.Tensor:
    """(B, N) largest det1 in the cell of each point (B, N, 2) px and its eight neighbours; 0 outside. Not interpolated:
    the point falls between cells, and there a peak one cell wide would read as a quarter; det0's own peak, too, is
    known to half a cell only."""
    return sample_map(F.max_pool2d(out1.detector, 3, 1, 1), points1, out1.detector_stride, "nearest")[..., 0]


def annotation_filter(points0, annotated_xy, options: PkeOptions) -> tuple[torch.Tensor, str]:
    """Annotation always wins: keep points (..., N, 2) px that are not an annotated keypoint (..., K, 2) px, NaN-padded,
    seen again."""
    return ~(point_distances(points0, annotated_xy.to(points0)) <= options.annotation_radius_px).any(-1), "annotated"


def mask_filter(points0, vessel_mask0) -> tuple[torch.Tensor, str]:
    """Keep points (B, N, 2) px whose pixel belongs to the vessel mask (B, 1, H, W); None = no mask: nothing is kept."""
    mask = torch.zeros(len(points0), 1, 1, 1, device=points0.device) if vessel_mask0 is None else vessel_mask0.float()
    return sample_map(mask, points0, mode="nearest")[..., 0] > 0.5, "mask"


def view_filter(points_xy, valid, border_px: float = 0.0) -> tuple[torch.Tensor, str]:
    """Keep points (B, N, 2) px inside a field of view (B, 1, H, W) bool, border_px from its edge; NaN is outside."""
    return inside(points_xy, valid.shape[-2:], border_px) & (
        sample_map(seen_cells(valid, 1, border_px).float(), points_xy)[..., 0] > 0.99
    ), "view"


def geometric_filter(probability1, options: PkeOptions) -> tuple[torch.Tensor, str]:
    """Keep points where det1 fires too: (B, N) from `peak_probability`."""
    return probability1 >= options.pke_min_probability, "geometric"


def content_filter(out0, out1, points0, points1, pool, options: PkeOptions) -> tuple[torch.Tensor, str]:
    """Keep points whose true correspondent is clearly nearer by content than any baseline: inputs as in
    `content_ratio`."""
    return content_ratio(out0, out1, points0, points1, pool, options) < options.content_ratio_max, "content"


def content_ratio(out0, out1, points0, points1, pool, options: PkeOptions) -> torch.Tensor:
    """(B, N) Lowe's ratio (2004, § 7.1) of points0, points1 (B, N, 2) px of image 0 and 1: distance of the true
    correspondent's descriptor over that of the nearest baseline. Infinite where it is not the nearest one both ways,
    and without a baseline beyond content_radius_px, since then nothing is proved.

    pool (B, N) bool, the baselines: all peaks that both images see, annotated or not, liked by det1 or not, since a
    short list is easily won.
    """
    maps = ((out0.descriptors, points0, out0.descriptor_stride), (out1.descriptors, points1, out1.descriptor_stride))
    d0, d1 = (F.normalize(sample_map(*m), dim=-1) for m in maps)
    distance = (2 - 2 * d0 @ d1.transpose(1, 2)).clamp_min(0).sqrt()  # (B, N of image 0, N of image 1)
    own, baselines = distance.diagonal(dim1=1, dim2=2), []
    for table, points in ((distance, points1), (distance.transpose(1, 2), points0)):
        baseline = (point_distances(points, points) > options.content_radius_px) & pool[:, None]
        baselines.append(table.masked_fill(~baseline, torch.inf).amin(-1))
    proved = (
        torch.isfinite(baselines[0])
        & (torch.minimum(*baselines) > MIN_RIVAL_DISTANCE)
        & (own < torch.minimum(*baselines))
    )
    return (own / baselines[0]).masked_fill(~proved, torch.inf)


def budget_filter(confidence, survived, options: PkeOptions) -> tuple[torch.Tensor, str]:
    """Keep the max_new_points most confident survivors (B, N) of each image; of equal ones the stronger in det0."""
    order = confidence.masked_fill(~survived, -1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(1) < options.max_new_points, "budget"


def allowed_drop(options: PkeOptions, drawn: bool, points: int) -> float:
    """How far an accuracy may fall below its best: guard_max_drop on synthetic pairs, guard_max_drop_files on files,
    and where that is more twice the largest standard error of a share of so many points."""
    least = options.guard_max_drop if drawn else options.guard_max_drop_files
    return max(least, points**-0.5) if points else least


class PkeGuard:
    """Pauses PKE (active = False) when the accuracy on pairs that the run trains on falls farther below its best than
    is allowed, and resumes it when all are back within half of that. While it pauses nothing is mined or booked, and
    labels are the annotation alone: what the fall throws doubt on does not teach. best begins with the first value,
    measured ahead of the phase; reason says why."""

    def __init__(self, options: PkeOptions = PkeOptions()):
        self.options, self.active, self.reason = options, True, "active: no accuracy measured yet"
        self.best: dict[str, float] = {}

    def update(self, accuracies: Mapping[str, tuple[float, float]]) -> bool:
        """Take in GT-alignment accuracies in [0, 1], each with its `allowed_drop`, by the name of what they were
        measured on, and return `active`. NaN, nothing measured, changes nothing."""
        share, told = 1.0 if self.active else 0.5, []
        for name, (value, allowed) in accuracies.items():
            measured = _Measured(value, self.best.get(name, float("-inf")), share * allowed)
            self.best[name] = measured.best
            if measured.value == measured.value:
                told.append((name, measured))
        if told:
            self.active = all(m.holds for _, m in told)
        words = "; ".join(f"{name}: {m}" for name, m in told) or "no accuracy measured"
        self.reason = f"{'active' if self.active else 'paused'}: {words}"
        return self.active

    def state_dict(self) -> dict:
        """Plain values for a checkpoint."""
        return {"best": dict(self.best), "active": self.active, "reason": self.reason}

    def load_state_dict(self, state: dict) -> None:
        """Take over a `state_dict`."""
        self.best, self.active, self.reason = dict(state["best"]), state["active"], state["reason"]


class _Measured:
    """An accuracy beside the best so far, and whether it holds: no more than ``allowed`` below."""

    def __init__(self, value: float, best: float, allowed: float):
        self.value, self.allowed = float(value), allowed
        self.best = max(best, self.value) if value == value else best
        self.holds = self.value >= self.best - allowed - ROUNDING

    def __str__(self) -> str:
        return f"accuracy {self.value:.3f}, best {self.best:.3f}, allowed drop {self.allowed:.2g}"
