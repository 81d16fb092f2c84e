"""Pictures of a training run: its curves, its labels, and what the moving detector learns.

Batches are those of `dataset`, on the CPU; every plot function makes a figure of its own and returns it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .annotation import true_homography
from .geometry import resize_matrix, warp_image, warp_points
from .images import read_image
from .losses import gaussian_labels, in_fixed_frame
from .networks import DenseOutput
from .objective import WEIGHT_OF
from .phases import PHASES, TrainConfig
from .records import PairRecord
from .registration import Registrar
from .viz import RED, WIDTH_IN, checkerboard, contrast_stretch, plot_detector, show
from .viz_curves import plot_history, plot_loss

ALIGNMENT = {"gt_success": "registered, perfect detector", "gt_matched_right": "matched right, perfect detector",
             "det_success": "registered, own detector"}  # fmt: skip
DETECTOR = {"repeatability": "repeatability", "matching_score": "matching score"}
POINTS = {"points0": "fixed image", "points1": "moving image"}
FUNNEL = {"pke_candidates": "candidates", "pke_after_mask": "on a vessel", "pke_after_view": "in both views",
          "pke_after_geometric": "moving detector agrees", "pke_after_content": "descriptor agrees", "pke_after_budget": "mined",
          "pke_promoted": "promoted labels"}  # fmt: skip


def plot_run(history: Sequence[Mapping[str, float]], losses: Sequence[str] = ()) -> Figure:
    """A run at a glance, from the rows of its history: losses (the named ones, default all), alignment ceiling beside the real
    detector (on drawn pairs, and on pairs from files when there are any), repeatability and matching score, points per image, and the
    PKE funnel when PKE took part."""
    panels = [_losses(losses), _shares("drawn pairs: ceiling and detector", ALIGNMENT)]
    if any("files_gt_success" in row for row in history):
        panels.append(_shares("pairs from files: ceiling and detector", {f"files_{k}": v for k, v in ALIGNMENT.items()}))
    panels += [_shares("detector by itself", DETECTOR), _points_per_image]
    if any("pke_candidates" in row for row in history):
        panels.append(funnel_panel)
    rows = -(-len(panels) // 2)
    figure = plt.figure(figsize=(WIDTH_IN, 3.3 * rows), layout="constrained")
    axes = list(figure.subplots(rows, 2).flat)
    for panel, ax in zip(panels, axes, strict=False):
        panel(ax, history)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    return figure


def funnel_rows(history: Sequence[Mapping[str, float]], count: int = 5) -> list[dict]:
    """The PKE funnel as a table: one row per epoch (at most ``count``, spread over the run), mean points per image at each stage."""
    rows = [row for row in history if "pke_candidates" in row]
    chosen = sorted({round(k) for k in np.linspace(0, len(rows) - 1, min(count, len(rows)))}) if rows else []
    table = [{"epoch": rows[k]["epoch"], **{name: round(rows[k][key], 1) for key, name in FUNNEL.items()}} for k in chosen]
    for line, k in zip(table, chosen, strict=True):
        precision = rows[k].get("pke_precision", float("nan"))
        line["mined and true"] = f"{precision:.0%}" if precision == precision else None
    return table


def plot_labels(batch: Mapping, sigma_px: float, count: int = 3) -> Figure:
    """What the networks are taught, from the pairs with most labels: junctions on the fixed image, the soft map made of
    them, and the junctions of the moving image."""
    h, w = batch["image0"].shape[-2:]
    count = min(count, len(batch["image0"]))
    soft = gaussian_labels(batch["vessel_keypoints"], (h, w), 1, sigma_px)
    figure = plt.figure(figsize=(WIDTH_IN, 3 * (WIDTH_IN / count + 0.3)), layout="constrained")
    chosen = sorted(range(len(soft)), key=lambda i: -len(known_points(batch["vessel_keypoints"][i])))[:count]
    for i, column in zip(chosen, figure.subplots(3, count, squeeze=False).T, strict=True):
        fixed, moving = batch["modalities"][i]
        points0, points1 = (known_points(batch[key][i]) for key in ("vessel_keypoints", "vessel_keypoints1"))
        rings(show(batch["image0"][i, 0].numpy(), column[0], f"{fixed}, fixed: {len(points0)} junctions"), points0)
        plot_detector(batch["image0"][i, 0].numpy(), soft[i, 0].numpy(), column[1]).set_title("soft label", fontsize=11)
        rings(show(batch["image1"][i, 0].numpy(), column[2], f"{moving}, moving: {len(points1)} of its own"), points1)
    return figure


def plot_moving_detector(batch: Mapping, before: tuple[DenseOutput, DenseOutput], after: tuple[DenseOutput, DenseOutput], count: int = 2):
    """det0 beside det1 as the fixed frame sees it, before and after training, each pair on one scale; (image 0's, image 1's) outputs."""
    count = min(count, len(batch["image0"]))
    figure = plt.figure(figsize=(WIDTH_IN, count * (WIDTH_IN / 3 + 0.35)), layout="constrained")
    where = (batch["H_0to1"], batch["valid0"], batch["valid1"], after[0].detector_stride, after[0].detector.shape[-2:])
    maps = [after[0].detector, *(in_fixed_frame(out1.detector, *where)[0] for _, out1 in (before, after))]
    seen1, covered = warp_image(batch["image1"], torch.linalg.inv(batch["H_0to1"]), batch["image0"].shape[-2:])
    titles = ("fixed detector", "moving detector, before", "moving detector, after")
    for i, row in enumerate(figure.subplots(count, 3, squeeze=False)):
        top = max(float(m[i].max()) for m in maps) or 1.0
        pictures = [batch["image0"][i, 0], *[torch.where(covered[i, 0], seen1[i, 0], 0.0)] * 2]
        for ax, picture, detector, title in zip(row, pictures, maps, titles, strict=True):
            plot_detector(picture.numpy(), detector[i, 0].float().numpy() / top, ax)
            ax.set_title(f"{title}: peak {float(detector[i].max()):.2f}", fontsize=11)
            rings(ax, known_points(batch["vessel_keypoints"][i]), 40)
    return figure


@torch.inference_mode()
def dense_outputs(network: torch.nn.Module, batch: Mapping, at_once: int = 8) -> tuple[DenseOutput, DenseOutput]:
    """What a network in evaluation mode makes of image 0 and of image 1, ``at_once`` images at a time, on the CPU; its mode is put back."""
    device, was_training, outputs = next(network.parameters()).device, network.training, []
    network.eval()
    for image, valid in ((batch[f"image{k}"].split(at_once), batch[f"valid{k}"].split(at_once)) for k in (0, 1)):
        parts = [network(i.to(device), v.to(device)) for i, v in zip(image, valid, strict=True)]
        maps = (torch.cat([getattr(part, name).float().cpu() for part in parts]) for name in ("detector", "descriptors"))
        outputs.append(DenseOutput(*maps, parts[0].detector_stride, parts[0].descriptor_stride))
    network.train(was_training)
    return tuple(outputs)


def ceiling_rows(row: Mapping[str, float], prefix: str = "") -> list[dict]:
    """The last figures of a run as a table: what a perfect detector would reach, beside the real one. prefix "files_": on file pairs."""
    told = (
        ("pairs registered", "gt_success", "det_success", "{:.0%}"),
        ("their corner error, px", "gt_corner_px", "det_corner_px", "{:.1f}"),
        ("junctions matched right", "gt_matched_right", "", "{:.0%}"),
        ("matches that are right", "", "inlier_rate", "{:.0%}"),
    )
    values = [[row.get(prefix + key, float("nan")) if key else float("nan") for key in keys] for _, *keys, _ in told]
    cells = [[form.format(v) if v == v else None for v in pair] for pair, (*_, form) in zip(values, told, strict=True)]
    return [{"": name, "perfect detector (ceiling)": a, "own detector": b} for (name, *_), (a, b) in zip(told, cells, strict=True)]


def before_after_rows(before: Mapping[str, float], after: Mapping[str, float]) -> list[dict]:
    """Validation figures before and after a run as a table; on pairs from files too, when ``after`` has them: forgetting shows here."""
    domains = {"files": "files_", "drawn": ""} if "files_gt_success" in after else {"": ""}
    times = {"before": before, "after": after}
    told = {"gt_matched_right": "ceiling: junctions matched right", **DETECTOR, "det_success": "pairs registered"}
    return [
        {"": name}
        | {f"{domain} {when}".strip(): f"{row[prefix + key]:.2f}" for domain, prefix in domains.items() for when, row in times.items()}
        for key, name in told.items()
    ]


def phase_rows(config: TrainConfig) -> list[dict]:
    """All phases beside each other, with this run's weights: what a phase is."""
    rows = []
    for name, phase in PHASES.items():
        weighed = [f"{getattr(config, WEIGHT_OF[loss]):g} · {loss}" for loss in phase.losses if getattr(config, WEIGHT_OF[loss])]
        mark = " ◀ this run" if name == config.phase else ""
        rows.append({"phase": phase.title + mark, "losses": " + ".join(weighed), "labels": "grown by PKE" if phase.pke else "annotated"})
    return rows


def most_misaligned(records: Sequence[PairRecord], registrar: Registrar, at_most: int = 6) -> PairRecord:
    """Of the first ``at_most`` records the one that the registrar refuses, or brings its annotated points together worst."""

    def error(record: PairRecord) -> float:
        result = registrar(record.image0, record.image1)
        if not result.ok or record.points0_xy is None:
            return float(np.inf if not result.ok else 0)
        return float(np.median(np.linalg.norm(warp_points(record.points0_xy, result.H_0to1) - record.points1_xy, axis=1)))

    return max(records[:at_most], key=error)


def plot_before_after(record: PairRecord, registrars: Mapping[str, Registrar]) -> Figure:
    """Checkerboards of a pair as its images lie, by its annotation, and registered by each registrar, with the median distance of its point
    pairs (px of image 1 at its own size) or the reason of refusal."""
    fixed, moving = read_image(record.image0), read_image(record.image1)
    figure = plt.figure(
        figsize=(WIDTH_IN, (0.5 * WIDTH_IN * fixed.shape[0] / fixed.shape[1] + 0.3) * (1 + len(registrars) // 2)), layout="constrained"
    )
    axes = figure.subplots(1 + len(registrars) // 2, 2).flat
    results = {name: registrar(fixed, moving) for name, registrar in registrars.items()}
    placed = {"as they lie": resize_matrix(fixed.shape[:2], moving.shape[:2]), "by its annotation": true_homography(record)}
    placed |= {name: result.H_0to1 if result.ok else None for name, result in results.items()}
    for ax, (name, H_0to1) in zip(axes, placed.items(), strict=False):
        if H_0to1 is None:
            show(0.5 * contrast_stretch(fixed), ax, f"{name}: refused, {results[name].status.partition(';')[0]}")
            continue
        picture = torch.from_numpy(np.atleast_3d(contrast_stretch(moving)).transpose(2, 0, 1)[None].copy())
        warped, covered = warp_image(picture, torch.from_numpy(np.linalg.inv(H_0to1))[None], fixed.shape[:2])
        known = record.points0_xy is not None
        errors = np.linalg.norm(warp_points(record.points0_xy, H_0to1) - record.points1_xy, axis=1) if known else [np.nan]
        board = checkerboard(fixed, warped[0].numpy().transpose(1, 2, 0), covered[0, 0].numpy(), 6)
        show(board, ax, f"{name}: points {np.median(errors):.1f} px apart")
    return figure


# ------------------------------------------------------------------ panels of plot_run


def _losses(names: Sequence[str]):
    """A panel of the total and the named losses."""

    def panel(ax: Axes, history: Sequence[Mapping]) -> None:
        kept = {"epoch", "total", *names} if names else {key for row in history for key in row}
        plot_loss(ax, [{key: value for key, value in row.items() if key in kept} for row in history]).set_yscale("linear")
        ax.set(ylim=(0, None), title="losses")
        _legend_below(ax)

    return panel


def _shares(title: str, columns: Mapping[str, str]):
    """A panel of columns in [0, 1]."""

    def panel(ax: Axes, history: Sequence[Mapping]) -> None:
        _named(ax, history, columns).set(ylim=(-0.03, 1.03), ylabel="share")
        ax.set_title(title, fontsize=11)

    return panel


def _points_per_image(ax: Axes, history: Sequence[Mapping]) -> None:
    _named(ax, history, POINTS).set(ylabel="points", ylim=(0, None))
    ax.set_title("keypoints per image", fontsize=11)


def funnel_panel(ax: Axes, history: Sequence[Mapping]) -> None:
    """Mean points per image after each stage of PKE over the epochs; grey where the guard had paused it."""
    _named(ax, history, FUNNEL).set(ylabel="points per image", ylim=(0, None))
    paused = [row["epoch"] + 1 for row in history[:-1] if row.get("pke_active") == 0]  # the guard decides about the next epoch
    for epoch in paused:
        ax.axvspan(epoch - 0.5, epoch + 0.5, color="0.92", zorder=0)
    ax.set_title("PKE funnel (grey: paused by the guard)" if paused else "PKE funnel", fontsize=11)


def _named(ax: Axes, history: Sequence[Mapping], columns: Mapping[str, str]) -> Axes:
    """Columns of the history under readable names."""
    rows = [{"epoch": row["epoch"], **{name: row.get(key) for key, name in columns.items()}} for row in history]
    ax = plot_history(ax, rows, list(columns.values()))
    return _legend_below(ax)


def _legend_below(ax: Axes) -> Axes:
    """The legend where it hides no line."""
    ax.title.set_fontsize(11)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=8.5)
    return ax


def known_points(points: torch.Tensor) -> np.ndarray:
    """The rows of a NaN-padded list that are points."""
    return points[torch.isfinite(points).all(-1)].cpu().numpy()


def rings(ax: Axes, points_xy: np.ndarray, size: float = 60, color: str = RED) -> Axes:
    """Draw points (N, 2) px as open circles."""
    ax.scatter(*points_xy.T, s=size, facecolors="none", edgecolors=color, linewidths=1.2)
    return ax
