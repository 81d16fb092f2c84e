"""Pictures of a training run's pairs: their labels, what the detectors answer, and how well they are registered.
Batches lie on the CPU; every plot function makes a figure and returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..core.dense import moving_in_fixed_frame
from ..core.geometry import known_points, resize_matrix, warp_image, warp_points
from ..core.images import read_image
from ..core.overlays import checkerboard, contrast_stretch
from ..data.annotation import true_homography
from ..data.records import PairRecord
from ..networks import DenseOutput
from ..registration.keypoints import KeypointOptions, extract
from ..registration.registrar import Registrar
from ..training.losses import gaussian_labels, in_fixed_frame
from ..training.objective import annotated_points
from ..training.run_data import MAIN, ValidationSet, true_points
from ..training.trainer import Trainer
from .registrations import RED, WIDTH_IN, plot_detector, plot_keypoints, plot_predictions, show


def plot_labels(batch: Mapping, sigma_px: float, count: int = 3) -> Figure:
    """What the networks are taught, from the pairs with most labels: the annotated points on the fixed image, the soft
    map made of them, and those that the moving image shows."""
    hw, annotated = batch["image0"].shape[-2:], annotated_points(batch)
    soft, chosen = gaussian_labels(annotated, hw, 1, sigma_px), _with_most_points(annotated, count)
    figure = plt.figure(figsize=(WIDTH_IN, 3 * (WIDTH_IN / len(chosen) + 0.3)), layout="constrained")
    for i, column in zip(chosen, figure.subplots(3, len(chosen), squeeze=False).T, strict=True):
        (fixed, moving), image0 = batch["modalities"][i], batch["image0"][i, 0].numpy()
        points0, points1 = known_points(annotated[i]), known_points(batch["vessel_keypoints1"][i])
        rings(show(image0, column[0], f"{fixed}, fixed: {len(points0)} labels"), points0)
        plot_detector(image0, soft[i, 0].numpy(), column[1]).set_title("soft label", fontsize=11)
        rings(show(batch["image1"][i, 0].numpy(), column[2], f"{moving}, moving: shows {len(points1)}"), points1)
    return figure


def _with_most_points(points: torch.Tensor, count: int) -> list[int]:
    """Which pairs of a batch have most points, (B, N, 2) px, NaN-padded."""
    return sorted(range(len(points)), key=lambda i: -len(known_points(points[i])))[:count]


def watched_batch(trainer: Trainer) -> dict:
    """The first batch that a run is validated on; a training batch where none validates."""
    batches = trainer.validations[MAIN].batches
    return batches[0] if batches else trainer.data.batch(0, trainer.config.batch_size)


def plot_moving_detector(batch: Mapping, before: Sequence[DenseOutput], after: Sequence[DenseOutput], count: int = 2):
    """det0 beside det1 as the fixed frame sees it, before and after training, each pair on one scale, of (image 0's,
    image 1's) outputs; those pairs of which both images see most labels."""
    chosen = _with_most_points(batch["vessel_keypoints1"], count)
    figure = plt.figure(figsize=(WIDTH_IN, len(chosen) * (WIDTH_IN / 3 + 0.35)), layout="constrained")
    maps = [after[0].detector, *(in_fixed_frame(out1.detector, batch, after[0])[0] for _, out1 in (before, after))]
    seen1, covered = moving_in_fixed_frame(batch)
    titles = ("fixed detector", "moving detector, before", "moving detector, after")
    for i, row in zip(chosen, figure.subplots(len(chosen), 3, squeeze=False), strict=True):
        top = max(float(m[i].max()) for m in maps) or 1.0
        pictures = [batch["image0"][i, 0], *[torch.where(covered[i, 0], seen1[i, 0], 0.0)] * 2]
        for ax, picture, detector, title in zip(row, pictures, maps, titles, strict=True):
            plot_detector(picture.numpy(), detector[i, 0].float().numpy() / top, ax)
            ax.set_title(f"{title}: peak {float(detector[i].max()):.2f}", fontsize=11)
            rings(ax, known_points(batch["vessel_keypoints"][i]), 40)
    return figure


@torch.inference_mode()
def dense_outputs(network: torch.nn.Module, batch: Mapping, at_once: int = 8) -> tuple[DenseOutput, DenseOutput]:
    """What a network in evaluation mode makes of image 0 and of image 1, ``at_once`` at a time, brought to the CPU."""
    device, was_training, outputs = next(network.parameters()).device, network.training, []
    network.eval()
    for k in (0, 1):
        images = zip(batch[f"image{k}"].split(at_once), batch[f"valid{k}"].split(at_once), strict=True)
        parts = [network(image.to(device), valid.to(device)) for image, valid in images]
        maps = [torch.cat([getattr(p, name).float().cpu() for p in parts]) for name in ("detector", "descriptors")]
        outputs.append(DenseOutput(*maps, parts[0].detector_stride, parts[0].descriptor_stride))
    network.train(was_training)
    return tuple(outputs)


def _apart_px(record: PairRecord, H_0to1: np.ndarray) -> float:
    """Median distance of a pair's annotated points under a transform; NaN without points."""
    if record.points0_xy is None:
        return np.nan
    return float(np.median(np.linalg.norm(warp_points(record.points0_xy, H_0to1) - record.points1_xy, axis=1)))


def most_misaligned(records: Sequence[PairRecord], registrar: Registrar, at_most: int = 6) -> PairRecord:
    """Of the first ``at_most`` records the one that the registrar refuses, or whose points it brings together worst."""

    def error(record: PairRecord) -> float:
        result = registrar(record.image0, record.image1)
        return np.nan_to_num(_apart_px(record, result.H_0to1)) if result.ok else np.inf

    return max(records[:at_most], key=error)


def plot_before_after(record: PairRecord, registrars: Mapping[str, Registrar]) -> Figure:
    """Checkerboards of a pair as its images lie, by its annotation, and by each registrar. Titles: median distance of
    its point pairs (px of image 1 at its own size), or the reason of refusal."""
    fixed, moving = read_image(record.image0), read_image(record.image1)
    hw, rows = fixed.shape[:2], 1 + len(registrars) // 2
    figure = plt.figure(figsize=(WIDTH_IN, (0.5 * WIDTH_IN * hw[0] / hw[1] + 0.3) * rows), layout="constrained")
    results = {name: registrar(fixed, moving) for name, registrar in registrars.items()}
    placed = {"as they lie": resize_matrix(hw, moving.shape[:2]), "by its annotation": true_homography(record)}
    placed |= {name: result.H_0to1 if result.ok else None for name, result in results.items()}
    for ax, (name, H_0to1) in zip(figure.subplots(rows, 2).flat, placed.items(), strict=False):
        if H_0to1 is None:
            show(0.5 * contrast_stretch(fixed), ax, f"{name}: refused, {results[name].status.partition(':')[0]}")
            continue
        picture = torch.from_numpy(np.atleast_3d(contrast_stretch(moving)).transpose(2, 0, 1)[None].copy())
        warped, covered = warp_image(picture, torch.from_numpy(np.linalg.inv(H_0to1))[None], hw)
        board = checkerboard(fixed, warped[0].numpy().transpose(1, 2, 0), covered[0, 0].numpy(), 6)
        show(board, ax, f"{name}: points {_apart_px(record, H_0to1):.1f} px apart")
    return figure


def rings(ax: Axes, points_xy, size: float = 60, color: str = RED) -> Axes:
    """Draw points (N, 2) px as open circles."""
    ax.scatter(*points_xy.T, s=size, facecolors="none", edgecolors=color, linewidths=1.2)
    return ax


def save_keypoint_figures(network, validation: ValidationSet, folder: Path, device="cpu", prefix: str = "") -> None:
    """Write fixed_kps.png, moving_kps.png (green predictions above 0.3 on orange truth) and vessel_keypoints_extracted.png
    (truth alone), each name after ``prefix``."""
    if not validation.batches:
        return
    folder.mkdir(parents=True, exist_ok=True)
    batch, was_training, how = validation.batches[0], network.training, KeypointOptions(min_probability=0.3)
    count = min(4, len(batch["image0"]))
    network.eval()
    for name, side in (("fixed_kps", 0), ("moving_kps", 1), ("vessel_keypoints_extracted", 0)):
        images, truth = batch[f"image{side}"][:count], true_points(batch, side)[:count]
        found = extract(network, images.to(device), batch[f"valid{side}"][:count].to(device), how)
        figure = Figure(figsize=(3.0 * count, 3.3), layout="constrained")
        for i, ax in enumerate(figure.subplots(1, count, squeeze=False)[0]):
            known = known_points(truth[i]).cpu()
            if name == "vessel_keypoints_extracted":
                plot_keypoints(show(images[i, 0].numpy(), ax, batch["modalities"][i][0]), known, "red", 10)
            else:
                plot_predictions(ax, images[i, 0].numpy(), found[i].keypoints_xy, known)
        figure.savefig(folder / f"{prefix}{name}.png", dpi=110)
    network.train(was_training)


def keep_keypoint_figures(trainer: Trainer, prefix: str, validation: ValidationSet) -> None:
    """`save_keypoint_figures` in a run's folder: what a `Trainer` calls after each validation, where it is asked to."""
    save_keypoint_figures(trainer.network, validation, trainer.run_dir / "figures", trainer.device, prefix)
