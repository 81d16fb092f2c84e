"""What a run trains on, and what it is validated on: its files, replayed files and synthetic pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ..core.config import differences, to_dict
from ..core.dense import carry
from ..core.geometry import corner_error, inside
from ..data.file_pairs import PairDataset
from ..data.records import PairRecord
from ..data.sources import MixedPairs
from ..data.training_files import FileOptions, FileSplit, load_files
from ..evaluation.metrics import inlier_rate, matching_score, repeatability
from ..evaluation.oracle_keypoints import align_true_points
from ..mapping.transforms import Fit, fit_transform
from ..registration.keypoints import KeypointOptions, extract, matched_points, mutual_matches
from ..synthetic.training_pairs import SyntheticOptions, SyntheticPairs
from .config import TrainConfig
from .descriptor_losses import descriptor_pairs
from .losses import get_phase
from .pke import PkeOptions, mine, mined_precision

FREE_ON_RESUME = ("batch_size", "micro_batches")  # what may change, as long as a step holds as many pairs
MAIN, REPLAY = "", "replay_"  # prefixes of validation metrics: what the run is about, and what it must not forget
VALIDATION_SEED = 987_654
ALIGNMENT = ("affine", 4.0)  # model, and px within which matches agree with it
MINING_RATIO = 0.9  # content filter of validation, wider than in training: it shows what training leaves out (phase 3)
GOOD_CORNER_PX = 10.0  # a validation registration within this mean corner error counts as a success
ORACLE = ("gt_matched_right", "gt_match_px", "gt_match_mse", "gt_success", "gt_corner_px")
METRICS = (
    *ORACLE,
    "repeatability",
    "matching_score",
    "inlier_rate",
    "points0",
    "points1",
    "det_success",
    "det_corner_px",
)


class ValidationSet:
    """A fixed list of batches. title: what they are; kind: "synthetic" or "files"; mining: also tell what PKE would
    mine there."""

    def __init__(self, batches: list[dict], mining: PkeOptions | None = None, title="pairs", kind="synthetic"):
        self.batches, self.mining, self.title, self.kind = batches, mining, title, kind

    def __len__(self) -> int:
        return sum(len(batch["image0"]) for batch in self.batches)

    @property
    def points(self) -> int:
        """How many true points all pairs have."""
        return sum(int(torch.isfinite(true_points(batch, 0)).all(-1).sum()) for batch in self.batches)

    @classmethod
    def synthetic(
        cls, pairs: int, options=SyntheticOptions(), batch_size: int = 8, mining: PkeOptions | None = None
    ) -> ValidationSet:
        """``pairs`` synthetic pairs of retinas that training never shows."""
        data = SyntheticPairs(VALIDATION_SEED, max(pairs, 1), options)
        sizes = [min(batch_size, pairs - k) for k in range(0, pairs, batch_size)]
        return cls([data.batch(i, n) for i, n in enumerate(sizes)], mining, "synthetic pairs")

    @classmethod
    def of_files(
        cls, records: Sequence[PairRecord], o: FileOptions, pairs: int, mining: PkeOptions | None = None
    ) -> ValidationSet:
        """Pairs with clicked points as they lie, each once. Pairs without are aligned, and a network that knows nothing
        would find the identity; so they are shown as in training by seeded draws, again and again up to ``pairs``."""
        clicked, aligned = ([r for r in records if (r.points0_xy is None) == without] for without in (False, True))
        batches, frames = [], replace(o.frames, per_pair=0)
        if clicked:
            batches += _batches(PairDataset(clicked, o.size_px), len(clicked))
        if aligned:
            data = PairDataset(aligned, o.size_px, o.ranges, o.appearance, VALIDATION_SEED, frames=frames)
            batches += _batches(data, max(pairs - len(clicked), len(aligned)))
        return cls(batches, mining, f"pairs of {Path(o.root).name}", "files")

    @torch.inference_mode()
    def evaluate(self, network, device="cpu") -> dict[str, float]:
        """Means over all pairs; without pairs all are NaN. ``gt_*``: keypoints are the true junctions, the oracle of
        descriptor and geometry; ``det_*``: the detector's own. Errors in px of the validation images, MSE in px²; a
        failed pair has no error and is no success. ``would_mine``, ``would_mine_precision``: points per image that PKE
        would mine, and their share of true junctions where those are known."""
        was_training, rows = network.training, []
        network.eval()
        for batch in self.batches:
            batch = {k: v.to(device) if torch.is_tensor(v) else v for k, v in batch.items()}
            outputs = [network(batch[f"image{i}"], batch[f"valid{i}"]) for i in (0, 1)]
            how = KeypointOptions(max_keypoints=512)
            features = [extract(network, batch[f"image{i}"], batch[f"valid{i}"], how) for i in (0, 1)]
            mined = _mined(batch, outputs, self.mining) if self.mining else [{}] * len(batch["image0"])
            rows += [_oracle(batch, outputs, i) | _detected(batch, features, i) | row for i, row in enumerate(mined)]
        network.train(was_training)
        columns = {k: np.array([row[k] for row in rows], float) for k in (rows[0] if rows else METRICS)}
        return {k: float(np.nanmean(v)) if np.isfinite(v).any() else float("nan") for k, v in columns.items()}


def _batches(data: PairDataset, count: int, batch_size: int = 8) -> list[dict]:
    return [data.batch_from(k, min(batch_size, count - k)) for k in range(0, count, batch_size)]


# ------------------------------------------------------------------ metrics of one pair


def _success(fit: Fit | None, H_0to1, image_hw, prefix: str) -> dict[str, float]:
    error = corner_error(fit.H_1to0, np.linalg.inv(H_0to1), image_hw) if fit else float("nan")
    good = error <= GOOD_CORNER_PX
    return {f"{prefix}_success": float(good), f"{prefix}_corner_px": error if good else float("nan")}


def _oracle(batch: dict, outputs, i: int) -> dict[str, float]:
    """Match only true points: the hand-annotated ones of a pair that has them, else junctions."""
    one = slice(i, i + 1)
    by_hand = "points0" in batch and torch.isfinite(batch["points0"][i]).any()
    points0 = batch["points0" if by_hand else "vessel_keypoints"][one]
    maps = (output.descriptors[one] for output in outputs)
    truth = (batch["H_0to1"][one], batch["valid1"][one])
    read = (*maps, points0, *truth, outputs[0].descriptor_stride, carry(points0, batch, one))
    d0, d1, points1, usable = descriptor_pairs(*read)
    keep = usable[0].cpu().numpy()
    p0, p1, d0, d1 = (x[0].cpu().numpy()[keep] for x in (points0, points1, d0, d1))
    index, fit = align_true_points(p0, p1, d0, d1, *ALIGNMENT)
    error = np.linalg.norm(p0[index[:, 0]] - p0[index[:, 1]], axis=1)  # of a match, in the fixed frame
    found = {
        "gt_matched_right": float((error <= 5).sum() / len(p0)) if len(p0) else float("nan"),
        "gt_match_px": float(error.mean()) if len(error) else float("nan"),
        "gt_match_mse": float((error**2).mean()) if len(error) else float("nan"),
    }
    return found | _success(fit, batch["H_0to1"][i].cpu().numpy(), tuple(batch["image0"].shape[-2:]), "gt")


def _detected(batch: dict, features, i: int) -> dict[str, float]:
    """The same with the detector's keypoints, and what the detector is worth by itself."""
    f0, f1 = features[0][i], features[1][i]
    H, hw = batch["H_0to1"][i].cpu().numpy(), f0.image_hw
    index = mutual_matches(f0, f1)
    p0, p1 = matched_points(f0, f1, index)
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
    found, rows = mine(*outputs, batch, replace(options, content_ratio_max=MINING_RATIO)), []
    for i, xy in enumerate(found.points0_xy):
        known = "true_keypoints" in batch
        right = mined_precision(xy, batch["true_keypoints"][i]) if known else float("nan")
        rows.append({"would_mine": float(len(xy)), "would_mine_precision": right})
    return rows


def true_points(batch: dict, side: int) -> torch.Tensor:
    """(B, N, 2) px of an image, NaN-padded: the junctions that it shows, and the points clicked inside its frame."""
    points = batch["vessel_keypoints" if side == 0 else "vessel_keypoints1"]
    if (clicked := batch.get(f"points{side}")) is None:
        return points
    framed = inside(clicked, batch[f"image{side}"].shape[-2:])[..., None]
    return torch.cat([points, torch.where(framed, clicked, torch.nan)], 1)


# ------------------------------------------------------------------ the pairs of a run


@dataclass(frozen=True)
class RunFiles:
    """What was read of a run's files and replay. Files without a share are not read, replay without one validates."""

    files: FileSplit
    replay: FileSplit

    @classmethod
    def of(cls, config: TrainConfig) -> RunFiles:
        """Read both folders; errors as `load_files`."""
        wanted = ((config.files, config.files.share > 0), (config.replay, config.replay.root))
        return cls(*(load_files(options) if is_so else FileSplit() for options, is_so in wanted))

    @property
    def ids(self) -> dict[str, dict[str, list[str]]]:
        return {"files": self.files.ids, "replay": self.replay.ids}

    def changes(self, before: dict[str, dict[str, list[str]]]) -> str:
        """How these files differ from earlier `ids`, in words; "" when they do not."""
        told = ((name, getattr(self, name).changes(before[name])) for name in ("files", "replay"))
        return "; ".join(f"{name}: {words}" for name, words in told if words)

    def check_same(self, path: Path, state: dict, config: TrainConfig) -> None:
        """ValueError unless a state is of this configuration and these files; a step may be split up otherwise."""
        old, new, advice = dict(state["config"]), to_dict(config), "Use another run folder, or the old"
        if old["batch_size"] * old["micro_batches"] == config.pairs_per_step:
            old |= {key: new[key] for key in FREE_ON_RESUME}
        if differing := differences(old, new):
            free = any(line.startswith(FREE_ON_RESUME) for line in differing)
            more = " (batch_size may change where micro_batches makes up for it)" if free else ""
            words = f"another configuration: {'; '.join(differing)}. {advice} settings{more}"
            raise ValueError(f"{path} belongs to {words}")
        if changed := self.changes(state["pairs"]):
            raise ValueError(f"{path}: the pairs have changed since ({changed}). {advice} files")

    def source(self, c: TrainConfig):
        """The run's batches: files, replayed files and synthetic pairs, each by its share."""
        parts = []
        for o, split in ((c.files, self.files), (c.replay, self.replay)):
            if split.train and o.share:
                how = (o.size_px, o.ranges, o.appearance, c.seed, o.prealign)
                parts.append((PairDataset(split.train, *how, frames=o.frames), o.share))
        if c.synthetic_share > 0:
            parts.append((SyntheticPairs(c.seed, c.pool_size, c.data, c.pool_seed), c.synthetic_share))
        return parts[0][0] if len(parts) == 1 else MixedPairs(*parts)

    def validation_sets(self, c: TrainConfig) -> dict[str, ValidationSet]:
        """By the prefix of their metrics: what the run is about, and beside files what it must not forget."""
        count, mining, sets = c.validation_pairs, c.pke if c.phase_has_pke else None, {}
        for prefix, o, split in ((MAIN, c.files, self.files), (REPLAY, c.replay, self.replay)):
            if o.share or (prefix and o.root):
                records = split.some_validation(count, o.split_seed)
                sets[prefix] = ValidationSet.of_files(records, o, count, mining)
            elif not prefix or (c.files.share and (c.synthetic_share or get_phase(c.phase).real)):
                sets[prefix] = ValidationSet.synthetic(count, c.data, mining=mining)
        return sets


def trained_on(config: TrainConfig) -> tuple[str, ...]:
    """Prefixes of the validation sets whose kind of pairs is in the batches: what guards a run is what it trains on."""
    return (MAIN, REPLAY) if 0 < config.files.share < 1 else (MAIN,)
