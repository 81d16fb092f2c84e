"""What a training run is watched by: the GT-alignment oracle beside the real detector, on pairs that training never
sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..core.geometry import corner_error, inside
from ..data.file_pairs import PairDataset
from ..data.records import PairRecord
from ..data.training_files import FileOptions
from ..evaluation.metrics import inlier_rate, matching_score, repeatability
from ..evaluation.oracle_keypoints import align_true_points
from ..registration.keypoints import KeypointOptions, extract
from ..registration.matching import mutual_matches
from ..registration.transforms import Fit, fit_transform
from ..synthetic.training_pairs import SyntheticOptions, SyntheticPairs
from .losses import descriptor_pairs
from .pke import PkeOptions, mine

VALIDATION_SEED = 987_654
ALIGNMENT = ("affine", 4.0)  # model, and px within which matches agree with it
MINING_RATIO = 0.9  # content filter of validation, wider than in training: it shows what training leaves out (phase 3)
TRUE_RADIUS_PX = 5.0  # a mined point so near to a true junction is right
GOOD_CORNER_PX = 10.0  # a validation registration within this mean corner error counts as a success
FIGURES = (
    "gt_matched_right",
    "gt_match_px",
    "gt_match_mse",
    "gt_success",
    "gt_corner_px",
    "repeatability",
    "matching_score",
    "inlier_rate",
    "points0",
    "points1",
    "det_success",
    "det_corner_px",
)


class ValidationSet:
    """A fixed list of batches, drawn or read once. title: what they are; kind: "synthetic" or "files"; mining: also
    tell what PKE would mine there, by a content ratio of MINING_RATIO."""

    def __init__(
        self, batches: list[dict], mining: PkeOptions | None = None, title: str = "pairs", kind: str = "synthetic"
    ):
        self.batches, self.mining, self.title, self.kind = batches, mining, title, kind

    def __len__(self) -> int:
        return sum(len(batch["image0"]) for batch in self.batches)

    @property
    def points(self) -> int:
        """How many true points all pairs have."""
        return sum(int(torch.isfinite(true_points(batch, 0)).all(-1).sum()) for batch in self.batches)

    @classmethod
    def synthetic(
        cls,
        pairs: int,
        options: SyntheticOptions = SyntheticOptions(),
        seed: int = VALIDATION_SEED,
        batch_size: int = 8,
        mining: PkeOptions | None = None,
    ) -> ValidationSet:
        """``pairs`` synthetic pairs of retinas that training never shows."""
        data = SyntheticPairs(seed, max(pairs, 1), options)
        sizes = [batch_size] * (pairs // batch_size) + ([pairs % batch_size] if pairs % batch_size else [])
        return cls([data.batch(i, n) for i, n in enumerate(sizes)], mining, "synthetic pairs", "drawn")

    @classmethod
    def of_files(
        cls,
        records: Sequence[PairRecord],
        options: FileOptions,
        pairs: int,
        batch_size: int = 8,
        mining: PkeOptions | None = None,
    ) -> ValidationSet:
        """Pairs with clicked points as they are, each once: they lie as real pairs lie. Pairs without are aligned by
        construction, and a network that knows nothing would find the identity; so they are shown turned, scaled,
        shifted and recoloured as in training (options.frames, options.ranges, options.appearance) by seeded draws,
        again and again up to ``pairs``."""
        as_they_lie = [r for r in records if r.points0_xy is not None]
        aligned, batches = [r for r in records if r.points0_xy is None], []
        if as_they_lie:
            data = PairDataset(as_they_lie, options.size_px)
            batches += _batches(data, len(as_they_lie), batch_size)
        if aligned:
            frames = replace(options.frames, per_pair=0)
            data = PairDataset(
                aligned, options.size_px, options.ranges, options.appearance, VALIDATION_SEED, frames=frames
            )
            batches += _batches(data, max(pairs - len(as_they_lie), len(aligned)), batch_size)
        return cls(batches, mining, f"pairs of {Path(options.root).name}", "files")

    @torch.inference_mode()
    def evaluate(self, network, device="cpu") -> dict[str, float]:
        """Means over all pairs. ``gt_*``: keypoints are the true junctions (perfect detector), the oracle of descriptor
        and geometry; ``det_*``: the detector's own keypoints. Errors in px of the validation images, MSE in px²; a
        failed pair has no error and counts as no success; without pairs all are NaN. ``would_mine``,
        ``would_mine_precision``: points per image that PKE would mine, and how many of them are true junctions where
        those are known."""
        was_training = network.training
        network.eval()
        rows = []
        for batch in self.batches:
            batch = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
            outputs = network(batch["image0"], batch["valid0"]), network(batch["image1"], batch["valid1"])
            features = [
                extract(network, batch[f"image{i}"], batch[f"valid{i}"], KeypointOptions(max_keypoints=512))
                for i in (0, 1)
            ]
            mined = _mined(batch, outputs, self.mining) if self.mining else [{}] * len(batch["image0"])
            for i in range(len(batch["image0"])):
                rows.append(_oracle(batch, outputs, i) | _detected(batch, features, i) | mined[i])
        network.train(was_training)
        keys = rows[0] if rows else FIGURES
        return {
            k: float(np.nanmean(v)) if np.isfinite(v := np.array([r[k] for r in rows], float)).any() else float("nan")
            for k in keys
        }


def _batches(data: PairDataset, count: int, batch_size: int) -> list[dict]:
    return [data.batch_from(k, min(batch_size, count - k)) for k in range(0, count, batch_size)]


def _success(fit: Fit | None, H_0to1, image_hw, prefix: str) -> dict[str, float]:
    error = corner_error(fit.H_1to0, np.linalg.inv(H_0to1), image_hw) if fit else float("nan")
    return {
        f"{prefix}_success": float(error <= GOOD_CORNER_PX),
        f"{prefix}_corner_px": error if error <= GOOD_CORNER_PX else float("nan"),
    }


def _oracle(batch: dict, outputs, i: int) -> dict[str, float]:
    """Match only true points, the hand-annotated ones of a pair that has them, else junctions: descriptors read at them
    and at their true correspondents."""
    one = slice(i, i + 1)
    by_hand = "points0" in batch and torch.isfinite(batch["points0"][i]).any()
    points0 = batch["points0" if by_hand else "vessel_keypoints"][one]
    d0, d1, points1, usable = descriptor_pairs(
        outputs[0].descriptors[one],
        outputs[1].descriptors[one],
        points0,
        batch["H_0to1"][one],
        batch["valid1"][one],
        outputs[0].descriptor_stride,
    )
    keep = usable[0].cpu().numpy()
    p0, p1, d0, d1 = (x[0].cpu().numpy()[keep] for x in (points0, points1, d0, d1))
    hw = tuple(batch["image0"].shape[-2:])
    index, fit = align_true_points(p0, p1, d0, d1, *ALIGNMENT)
    error = np.linalg.norm(p0[index[:, 0]] - p0[index[:, 1]], axis=1)  # of a match, in the fixed frame
    found = {
        "gt_matched_right": float((error <= 5).sum() / len(p0)) if len(p0) else float("nan"),
        "gt_match_px": float(error.mean()) if len(error) else float("nan"),
        "gt_match_mse": float((error**2).mean()) if len(error) else float("nan"),
    }
    return found | _success(fit, batch["H_0to1"][i].cpu().numpy(), hw, "gt")


def _detected(batch: dict, features, i: int) -> dict[str, float]:
    """The same with the detector's keypoints, and what the detector is worth by itself."""
    f0, f1 = features[0][i], features[1][i]
    H, hw = batch["H_0to1"][i].cpu().numpy(), f0.image_hw
    index = mutual_matches(f0, f1)
    p0, p1 = f0.keypoints_xy[index[:, 0]], f1.keypoints_xy[index[:, 1]]
    found = {
        "repeatability": repeatability(f0.keypoints_xy, f1.keypoints_xy, H, hw, hw),
        "matching_score": matching_score(p0, p1, f0.keypoints_xy, f1.keypoints_xy, H, hw, hw),
        "inlier_rate": inlier_rate(p0, p1, H),
        "points0": float(len(f0)),
        "points1": float(len(f1)),
    }
    return found | _success(fit_transform(p0, p1, *ALIGNMENT), H, hw, "det")


def _mined(batch: dict, outputs, options: PkeOptions) -> list[dict[str, float]]:
    """What PKE would mine of each pair."""
    found = mine(*outputs, batch, replace(options, content_ratio_max=MINING_RATIO))
    truth = batch.get("true_keypoints")
    right = [
        mined_precision(xy, truth[i], TRUE_RADIUS_PX) if truth is not None else float("nan")
        for i, xy in enumerate(found.points0_xy)
    ]
    return [
        {"would_mine": float(len(xy)), "would_mine_precision": p} for xy, p in zip(found.points0_xy, right, strict=True)
    ]


def mined_precision(points_xy: torch.Tensor, true_xy: torch.Tensor, radius_px: float) -> float:
    """Share of points (..., N, 2) px that lie within radius_px of a true one (..., M, 2) px; NaN rows are no points, no
    point gives NaN."""
    points = torch.isfinite(points_xy).all(-1)
    right = points & (torch.cdist(points_xy.double(), true_xy.to(points_xy.device, torch.float64)) <= radius_px).any(-1)
    return float(right.sum() / points.sum()) if points.any() else float("nan")


def true_points(batch: dict, side: int) -> torch.Tensor:
    """(B, N, 2) px of an image, NaN-padded: the junctions that it shows, and the points that were clicked inside its
    frame."""
    points = batch["vessel_keypoints" if side == 0 else "vessel_keypoints1"]
    if (clicked := batch.get(f"points{side}")) is None:
        return points
    framed = inside(clicked, batch[f"image{side}"].shape[-2:])[..., None]
    return torch.cat([points, torch.where(framed, clicked, torch.nan)], 1)
