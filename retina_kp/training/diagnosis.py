"""Looking into a PKE run: what each filter does to points whose truth is known, how labels grew, how one place lives in
the value map.

A table of points is a dict of columns, numpy arrays of one length. Truth is a column of 1 (within TRUE_RADIUS_PX of a
true junction), 0 (not), NaN (nobody knows: pairs from files).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..core.config import from_dict
from ..core.geometry import pixel_grid, sample_map, warp_points
from ..data.sources import join_batches
from ..networks import DenseOutput, build_network
from ..networks.checkpoints import load_network
from .config import TrainConfig
from .distributed import new_accelerator
from .label_history import Page
from .objective import TRUE_RADIUS_PX, Objective, annotated_points
from .phases import get_phase
from .pke import PkeOptions, PkeRound, content_ratio, mine, peak_probability, view_filter
from .run_data import RunFiles
from .state import read_state
from .value_map import ValueMap, expand

MIN_POINTS = 5  # fewer points have no precision worth showing
# What survives when a reason has been applied; the order is that of `pke.mine`.
STAGES = {
    "annotated": "candidates, not annotated",
    "mask": "on a vessel",
    "view": "in both views",
    "geometric": "moving detector agrees",
    "content": "descriptor agrees",
    "budget": "mined",
}


@dataclass(frozen=True)
class PkeRun:
    """A run of a phase with PKE, finished or not, as its folder holds it after ``step`` steps. network: in evaluation
    mode; objective: with value maps, guard and label_history; data: the run's batches."""

    folder: Path
    config: TrainConfig
    step: int
    history: list[dict]
    network: torch.nn.Module
    objective: Objective
    data: object
    splits: list  # [first step, batch_size, micro_batches]: how the pairs of a step were split up from there on

    def step_batches(self, step: int) -> list[dict]:
        """The micro-batches of a step as the run had them, on the CPU; vessel_keypoints hold the hand-annotated points,
        too."""
        _, batch_size, micro_batches = [split for split in self.splits if split[0] <= step][-1]
        strength = self.config.strength(step)
        batches = [self.data.batch(step * micro_batches + k, batch_size, strength) for k in range(micro_batches)]
        return [batch | {"vessel_keypoints": annotated_points(batch)} for batch in batches]

    def pairs(self, count: int) -> dict:
        """The first ``count`` pairs of the run, rounded up to whole steps, as one batch. ValueError for none."""
        if count < 1:
            raise ValueError(f"pairs: takes a whole number from 1, not {count!r}")
        return join_batches(
            [batch for k in range(-(-count // self.config.pairs_per_step)) for batch in self.step_batches(k)]
        )


def open_run(folder: str | Path, device: str = "cpu") -> PkeRun:
    """Read a run folder. FileNotFoundError when there is no state.pt in it, ValueError when its phase has no PKE."""
    folder = Path(folder)
    if not (folder / "state.pt").is_file():
        raise FileNotFoundError(
            f"{folder} holds no state.pt: give the folder of a run of 03_pke, such as outputs/runs/03_pke/<run name>"
        )
    state = read_state(folder / "state.pt")
    config = from_dict(TrainConfig, state["config"])
    if not get_phase(config.phase).pke:
        raise ValueError(f"{folder} is a run of phase {config.phase!r}, which has no PKE")
    weights = checkpoint if (checkpoint := folder / "checkpoint.safetensors").is_file() else config.init_from
    network = load_network(weights)[0] if weights else build_network(config.network, **config.network_options)
    network.load_state_dict(state["network"])  # the checkpoint may be an epoch ahead
    objective = Objective(config)
    objective.load_state_dict(state["objective"])
    network = network.eval().to(new_accelerator(device, "fp32").device)
    return PkeRun(
        folder,
        config,
        state["step"],
        state["history"],
        network,
        objective,
        RunFiles.of(config).source(config),
        state["splits"],
    )


# ------------------------------------------------------------------ one look at many pairs


def judge(
    out0: DenseOutput, out1: DenseOutput, batch: Mapping, options: PkeOptions
) -> tuple[PkeRound, dict[str, np.ndarray]]:
    """What `mine` makes of a batch, and a table of all its peaks: image (its index), x, y (px of image 0), probability
    (the lower of both detectors'), ratio (`pke.content_ratio`), reason ("mined", or what rejected it), true."""
    found, tables = mine(out0, out1, batch, options), []
    for i, mined in enumerate(found.points0_xy):
        groups, one = {"mined": mined, **found.rejected[i]}, slice(i, i + 1)
        outputs = [
            DenseOutput(o.detector[one], o.descriptors[one], o.detector_stride, o.descriptor_stride)
            for o in (out0, out1)
        ]
        peaks = torch.cat(list(groups.values()))
        points0 = torch.cat([peaks, peaks.new_full((1, 2), torch.nan)])[None]  # there may be no peak at all
        points1 = warp_points(points0.double(), batch["H_0to1"][one].double()).float()
        in_view = view_filter(points1, batch["valid1"][one])[0]
        ratio = content_ratio(*outputs, points0, points1, in_view, options)
        lower = torch.minimum(*(peak_probability(o, p) for o, p in zip(outputs, (points0, points1), strict=True)))
        columns = {"x": points0[..., 0], "y": points0[..., 1], "probability": lower, "ratio": ratio}
        tables.append(
            {
                "image": np.full(len(peaks), i),
                **{k: v[0, :-1].double().cpu().numpy() for k, v in columns.items()},
                "reason": np.repeat(list(groups), [len(p) for p in groups.values()]),
                "true": truth_of(peaks, _truth(batch, i)),
            }
        )
    return found, {k: np.concatenate([table[k] for table in tables]) for k in tables[0]}


def _truth(batch: Mapping, i: int) -> torch.Tensor | None:
    return batch["true_keypoints"][i] if "true_keypoints" in batch else None


def truth_of(points_xy: torch.Tensor, true_xy: torch.Tensor | None) -> np.ndarray:
    """(N,) truth of points (N, 2) px, given the true junctions (M, 2) px, NaN-padded; none at all means that nobody
    knows."""
    true_xy = true_xy[torch.isfinite(true_xy).all(-1)] if true_xy is not None else torch.zeros(0, 2)
    if not len(true_xy):
        return np.full(len(points_xy), np.nan)
    return (
        (torch.cdist(points_xy.double(), true_xy.to(points_xy.device).double()).amin(1) <= TRUE_RADIUS_PX)
        .double()
        .cpu()
        .numpy()
    )


def stage_rows(points: Mapping[str, np.ndarray], labels: Sequence[torch.Tensor], batch: Mapping) -> list[dict]:
    """The funnel of a table of `judge`, from all peaks to the mined ones, and last the labels of each pair, (N, 2) px:
    mean points per image, and how many of them are true (NaN: nobody knows)."""
    alive, taken = np.ones(len(points["reason"]), bool), {}
    for reason, stage in {"": "peaks", **STAGES}.items():
        alive = alive & (points["reason"] != reason)
        taken[stage] = points["true"][alive]
    taken["promoted labels"] = np.concatenate([truth_of(xy, _truth(batch, i)) for i, xy in enumerate(labels)])
    return [
        {"stage": stage, "points": len(true) / len(labels), "true": float(true.sum()) / len(labels)}
        for stage, true in taken.items()
    ]


def current_labels(value_map: ValueMap, batch: Mapping) -> list[torch.Tensor]:
    """Of each pair of a batch, the promoted points (N, 2) px that count as labels there, annotated ones left out."""
    labels = expand(value_map, batch)[0]
    known = torch.isfinite(batch["vessel_keypoints"]).all(-1).sum(1)
    return [row[n:][torch.isfinite(row[n:]).all(-1)] for row, n in zip(labels, known, strict=True)]


def vessel_chance(batch: Mapping, options: PkeOptions) -> float:
    """Precision of a blind guess: the share of unannotated vessel pixels that lie within TRUE_RADIUS_PX of a true
    junction; NaN without truth."""
    shares = []
    for i, mask in enumerate(batch["vessel_mask0"]):
        pixels = pixel_grid(mask.shape[-2:])[mask[0] > 0.5]
        annotated = batch["vessel_keypoints"][i]
        annotated = annotated[torch.isfinite(annotated).all(-1)]
        free = (torch.cdist(pixels, annotated) > options.annotation_radius_px).all(1)
        shares.append(truth_of(pixels[free], _truth(batch, i)))
    shares = np.concatenate(shares)
    return float(np.nanmean(shares)) if np.isfinite(shares).any() else float("nan")


def precision_curve(values, true, levels: Sequence[float], below: bool) -> dict[str, np.ndarray]:
    """How true points are that have a value below each level (or, below=False, at least as high): columns level,
    points, precision (NaN: no point), and low, high, its 95 % Wilson interval. Points of unknown truth are left out."""
    values, true = (np.asarray(v, float)[np.isfinite(true)] for v in (values, true))
    taken = (values < np.reshape(levels, (-1, 1))) if below else (values >= np.reshape(levels, (-1, 1)))
    n, hits = taken.sum(1), taken @ true
    with np.errstate(invalid="ignore", divide="ignore"):
        p, z = hits / n, 1.96
        middle, half = (
            (p + z**2 / (2 * n)) / (1 + z**2 / n),
            z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n),
        )
    return {
        "level": np.asarray(levels, float),
        "points": n,
        "precision": p,
        "low": middle - half,
        "high": middle + half,
    }


# ------------------------------------------------------------------ the watched samples, visit by visit


@dataclass(frozen=True)
class WatchedSample:
    """A sample of the label_history. image: (H, W), at the visit that showed most; annotated, true: (N, 2) px, true has
    none when nobody knows; seen: (H, W) bool, what the visits looked at showed."""

    pages: list[Page]
    image: np.ndarray
    annotated: torch.Tensor
    true: torch.Tensor
    seen: torch.Tensor

    def truth(self, points_xy: torch.Tensor) -> np.ndarray:
        """(N,) truth of points (N, 2) px; NaN also where no visit looked."""
        known = sample_map(self.seen[None, None].float(), points_xy[None])[0, :, 0].numpy() > 0.99
        return np.where(known, truth_of(points_xy, self.true), np.nan)


def watched_samples(run: PkeRun, visits: int = 3) -> dict[int | str, WatchedSample]:
    """The samples of a run's label_history, seen again as in their first ``visits`` pages: each shows another part of
    the frame."""
    label_history, views = run.objective.label_history, {}
    steps = {page.step for k in label_history.sample_ids for page in label_history.pages(k)[:visits]}
    for batch in (batch for step in sorted(steps) for batch in run.step_batches(step)):
        for i, sample_id in enumerate(batch["sample_ids"]):
            if sample_id in label_history.sample_ids:
                views.setdefault(sample_id, []).append({k: v[i] for k, v in batch.items()})
    return {k: _watched(label_history.pages(k), views[k]) for k in label_history.sample_ids}


def _watched(pages: list[Page], views: list[dict]) -> WatchedSample:
    def points(key: str) -> torch.Tensor:
        rows = torch.cat([view.get(key, torch.zeros(0, 2)) for view in views])
        return rows[torch.isfinite(rows).all(-1)].unique(dim=0)

    best = max(views, key=lambda view: int(view["valid0"].sum()))
    seen = torch.stack([view["valid0"][0] for view in views]).any(0)
    return WatchedSample(pages, best["image0"][0].numpy(), points("vessel_keypoints"), points("true_keypoints"), seen)


def growth(sample: WatchedSample, steps_per_epoch: int) -> dict[str, np.ndarray]:
    """How a sample's labels grew, an entry per step that visited it: epoch (a fraction), places remembered, labels, how
    many of them have a known truth (judged), and how many are true."""
    rows = {}
    for page in sample.pages:
        truth = sample.truth(page.record[page.record[:, 3] > 0, :2])
        rows[page.step] = (
            (page.step + 1) / steps_per_epoch,
            len(page.record),
            len(truth),
            np.isfinite(truth).sum(),
            np.nansum(truth),
        )
    columns = np.array(list(rows.values()), float).reshape(-1, 5).T
    return dict(zip(("epoch", "places", "labels", "judged", "true"), columns, strict=True))


def label_precision(grown: Sequence[Mapping[str, np.ndarray]], epochs: int) -> list[dict]:
    """Labels at the end of each epoch, over several samples' `growth`: mean points per sample, and their precision, the
    share that is true, None below MIN_POINTS of known truth."""
    rows = []
    for epoch in range(1, epochs + 1):
        last = [int((g["epoch"] <= epoch).sum()) - 1 for g in grown]
        total = {
            key: sum(g[key][k] for g, k in zip(grown, last, strict=True) if k >= 0)
            for key in ("labels", "judged", "true")
        }
        precision = total["true"] / total["judged"] if total["judged"] >= MIN_POINTS else None
        rows.append({"epoch": epoch, "points": total["labels"] / max(len(grown), 1), "precision": precision})
    return rows
