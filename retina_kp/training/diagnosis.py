"""Looking into a PKE run: what each filter does to points whose truth is known, how labels grew, how a place lives on.

Truth is a number: 1 (within TRUE_RADIUS_PX of a true junction), 0 (not), NaN (nobody knows: pairs from files).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..core.config import from_dict
from ..core.geometry import known_points, pixel_grid, sample_map
from ..data.sources import join_batches
from ..networks import DenseOutput
from .config import TrainConfig
from .memory import Page, ValueMap, expand
from .objective import annotated_points
from .pke import STAGES, TRUE_RADIUS_PX, PkeOptions, PkeRound, mine
from .processes import read_state
from .trainer import Trainer

MIN_POINTS = 5  # fewer points have no precision worth showing


def open_run(folder: str | Path, device: str = "cpu") -> Trainer:
    """A run of a phase with PKE as its folder holds it, finished or not; its network computes in float32, in evaluation
    mode. FileNotFoundError when there is no state.pt, ValueError when its phase has no PKE."""
    state = Path(folder) / "state.pt"
    if not state.is_file():
        words = "give the folder of a run of 03_pke, such as outputs/runs/03_pke/<run name>"
        raise FileNotFoundError(f"{folder} holds no state.pt: {words}")
    config = from_dict(TrainConfig, read_state(state)["config"])
    if not config.phase_has_pke:
        raise ValueError(f"{folder} is a run of phase {config.phase!r}, which has no PKE")
    run = Trainer(config, folder, device)
    run.resume()
    run.network = run.accelerator.unwrap_model(run.model, keep_fp32_wrapper=False).eval()
    return run


def step_batches(run: Trainer, step: int) -> list[dict]:
    """The micro-batches of a step as the run had them; vessel_keypoints hold the hand-annotated points, too."""
    _, batch_size, micro_batches = [split for split in run.splits if split[0] <= step][-1]
    numbers, strength = range(step * micro_batches, (step + 1) * micro_batches), run.config.strength(step)
    batches = [run.data.batch(number, batch_size, strength) for number in numbers]
    return [batch | {"vessel_keypoints": annotated_points(batch)} for batch in batches]


def first_pairs(run: Trainer, count: int) -> dict:
    """The first ``count`` pairs of a run, rounded up to whole steps, as one batch. ValueError for none."""
    if count < 1:
        raise ValueError(f"pairs: takes a whole number from 1, not {count!r}")
    steps = range(-(-count // run.config.pairs_per_step))
    return join_batches([batch for step in steps for batch in step_batches(run, step)])


# ------------------------------------------------------------------ one look at many pairs


def judge(out0: DenseOutput, out1: DenseOutput, batch: Mapping, options: PkeOptions) -> tuple[PkeRound, pd.DataFrame]:
    """What `mine` makes of a batch, and a table of all its peaks: image (its index), x, y (px of image 0), probability
    (the lower of both detectors'), ratio (`pke.content_ratio`), reason ("mined", or what rejected it), true."""
    found, tables, reasons = mine(out0, out1, batch, options), [], np.array([*STAGES, "mined"])
    for i, passed in enumerate(found.passed):
        known = passed >= 0
        xy = found.peaks_xy[i, known]
        values = {
            "x": xy[:, 0],
            "y": xy[:, 1],
            "probability": found.probability[i, known],
            "ratio": found.ratio[i, known],
        }
        columns = {"image": i, **{name: value.double().cpu().numpy() for name, value in values.items()}}
        columns |= {"reason": reasons[passed[known].cpu().numpy()], "true": truth_of(xy, _truth(batch, i))}
        tables.append(pd.DataFrame(columns))
    return found, pd.concat(tables, ignore_index=True)


def _truth(batch: Mapping, i: int) -> torch.Tensor:
    """(M, 2) px: the true junctions of image 0, none where nobody knows."""
    points = batch["true_keypoints"][i] if "true_keypoints" in batch else torch.zeros(0, 2)
    return known_points(points)


def truth_of(points_xy: torch.Tensor, true_xy: torch.Tensor) -> np.ndarray:
    """(N,) truth of points (N, 2) px, given the true junctions (M, 2) px; none at all means that nobody knows."""
    if not len(true_xy):
        return np.full(len(points_xy), np.nan)
    distance = torch.cdist(points_xy.double(), true_xy.to(points_xy.device).double()).amin(1)
    return (distance <= TRUE_RADIUS_PX).double().cpu().numpy()


def stage_rows(points: pd.DataFrame, labels: Sequence[torch.Tensor], batch: Mapping) -> list[dict]:
    """The funnel of a table of `judge`, from all peaks to the mined ones, and last the labels of each pair, (N, 2) px:
    mean points per image, and how many of them are true (NaN: nobody knows)."""
    passed = points["reason"].map({reason: k for k, reason in enumerate([*STAGES, "mined"])})
    taken = {stage: points["true"][passed >= k].to_numpy() for k, stage in enumerate(["peaks", *STAGES.values()])}
    taken["promoted labels"] = np.concatenate([truth_of(xy, _truth(batch, i)) for i, xy in enumerate(labels)])
    n = len(labels)
    return [{"stage": k, "points": len(true) / n, "true": float(true.sum()) / n} for k, true in taken.items()]


def current_labels(value_map: ValueMap, batch: Mapping) -> list[torch.Tensor]:
    """Of each pair of a batch, the promoted points (N, 2) px that count as labels there, annotated ones left out."""
    labels = expand(value_map, batch)[0]
    known = torch.isfinite(batch["vessel_keypoints"]).all(-1).sum(1)
    return [known_points(row[n:]) for row, n in zip(labels, known, strict=True)]


def vessel_chance(batch: Mapping, options: PkeOptions) -> float:
    """Precision of a blind guess: the share of unannotated vessel pixels that are true; NaN without truth."""
    shares = []
    for i, mask in enumerate(batch["vessel_mask0"]):
        pixels = pixel_grid(mask.shape[-2:])[mask[0] > 0.5]
        annotated = known_points(batch["vessel_keypoints"][i])
        free = (torch.cdist(pixels, annotated) > options.annotation_radius_px).all(1)
        shares.append(truth_of(pixels[free], _truth(batch, i)))
    shares = np.concatenate(shares)
    return float(np.nanmean(shares)) if np.isfinite(shares).any() else float("nan")


def precision_curve(values, true, levels: Sequence[float], below: bool) -> pd.DataFrame:
    """How true points are that have a value below each level (or, below=False, at least as high): columns level,
    points, precision (NaN: no point), and low, high, its 95 % Wilson interval. Points of unknown truth are left out."""
    values, true = (np.asarray(v, float)[np.isfinite(true)] for v in (values, true))
    taken = (values < np.reshape(levels, (-1, 1))) if below else (values >= np.reshape(levels, (-1, 1)))
    n, hits, z = taken.sum(1), taken @ true, 1.96
    with np.errstate(invalid="ignore", divide="ignore"):
        p, share = hits / n, 1 + z**2 / n
        middle, half = (p + z**2 / (2 * n)) / share, z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / share
    return pd.DataFrame({"level": levels, "points": n, "precision": p, "low": middle - half, "high": middle + half})


# ------------------------------------------------------------------ the watched samples, visit by visit


@dataclass(frozen=True)
class WatchedSample:
    """A sample of the label history. image: (H, W), at the visit that showed most; annotated, true: (N, 2) px, none
    where nobody knows; seen: (H, W) bool."""

    pages: list[Page]
    image: np.ndarray
    annotated: torch.Tensor
    true: torch.Tensor
    seen: torch.Tensor

    def truth(self, points_xy: torch.Tensor) -> np.ndarray:
        """(N,) truth of points (N, 2) px; NaN also where no visit looked."""
        known = sample_map(self.seen[None, None].float(), points_xy[None])[0, :, 0].numpy() > 0.99
        return np.where(known, truth_of(points_xy, self.true), np.nan)


def watched_samples(run: Trainer, visits: int = 3) -> dict[int | str, WatchedSample]:
    """The samples of a run's label history, seen again as in their first ``visits`` pages: each shows another part of
    the frame."""
    history, views = run.objective.label_history, {}
    for step in sorted({page.step for pages in history.pages.values() for page in pages[:visits]}):
        for batch in step_batches(run, step):
            for i, sample_id in enumerate(batch["sample_ids"]):
                views.setdefault(sample_id, []).append({k: v[i] for k, v in batch.items()})
    return {k: _watched(pages, views[k]) for k, pages in history.pages.items()}


def _watched(pages: list[Page], views: list[dict]) -> WatchedSample:
    def points(key: str) -> torch.Tensor:
        return known_points(torch.cat([view.get(key, torch.zeros(0, 2)) for view in views])).unique(dim=0)

    best = max(views, key=lambda view: int(view["valid0"].sum()))
    seen = torch.stack([view["valid0"][0] for view in views]).any(0)
    return WatchedSample(pages, best["image0"][0].numpy(), points("vessel_keypoints"), points("true_keypoints"), seen)


def growth(sample: WatchedSample, steps_per_epoch: int) -> pd.DataFrame:
    """How a sample's labels grew, a row per step that visited it: epoch (a fraction), places remembered, labels, how
    many of them have a known truth (judged), and how many are true."""
    rows = {}
    for page in sample.pages:
        truth = sample.truth(page.record[page.record[:, 3] > 0, :2])
        counts = (len(page.record), len(truth), np.isfinite(truth).sum(), np.nansum(truth))
        rows[page.step] = ((page.step + 1) / steps_per_epoch, *counts)
    return pd.DataFrame(rows.values(), columns=["epoch", "places", "labels", "judged", "true"], dtype=float)


def label_precision(grown: Sequence[pd.DataFrame], epochs: int) -> pd.DataFrame:
    """Labels at the end of each epoch, over several samples' `growth`: mean points per sample, and their precision, the
    share that is true, NaN below MIN_POINTS of known truth."""
    rows = []
    for epoch in range(1, epochs + 1):
        last = [g[g["epoch"] <= epoch].iloc[-1:] for g in grown]
        total = pd.concat(last)[["labels", "judged", "true"]].sum() if last else dict.fromkeys(("labels", "judged"), 0)
        precision = total["true"] / total["judged"] if total["judged"] >= MIN_POINTS else np.nan
        rows.append({"epoch": epoch, "points": total["labels"] / max(len(grown), 1), "precision": precision})
    return pd.DataFrame(rows, columns=["epoch", "points", "precision"])


def lives(pages: Sequence[Page]) -> pd.DataFrame:
    """Every place that a sample's pages tell of, a row per page that has it: x, y px, value, is_label, visit, forgotten
    (it vanishes later), and life, from 0: a place that is found again after it was forgotten begins a new one."""
    columns = ["x", "y", "value", "is_label"]
    parts = [pd.DataFrame(p.record.numpy(), columns=columns).assign(page=k, visit=p.visit) for k, p in enumerate(pages)]
    table = pd.concat([pd.DataFrame(columns=[*columns, "page", "visit"], dtype=float), *parts], ignore_index=True)
    begins = table.groupby(["x", "y"])["page"].diff() != 1
    place = begins.groupby([table["x"], table["y"]]).cumsum()
    table["life"] = table.groupby(["x", "y", place], sort=False).ngroup()
    table["forgotten"] = table.groupby("life")["page"].transform("max") < len(pages) - 1
    return table.astype({"is_label": bool, "visit": int}).drop(columns="page")


def telling_lives(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Up to three of `lives` worth a look: a place that is a label at the end, one that was, one that never got there.
    Of several the one that was a label longest, then with the highest value, then the longest."""
    by_life = table.groupby("life")
    worth = by_life.agg(labels=("is_label", "sum"), value=("value", "max"), visits=("visit", "size"))
    is_one = by_life["is_label"].last().astype(bool) & ~by_life["forgotten"].last().astype(bool)
    kinds = {"kept": is_one, "label lost": ~is_one & (worth["labels"] > 0), "never a label": worth["labels"] == 0}
    best = {name: worth[kind].sort_values([*worth], ascending=False, kind="stable") for name, kind in kinds.items()}
    return {name: table[table["life"] == some.index[0]] for name, some in best.items() if len(some)}
