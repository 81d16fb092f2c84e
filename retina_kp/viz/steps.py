"""The steps from a pair to a matrix in pictures, for notebook 10, and a synthetic eye beside real ones, for notebook
11."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from ..core.geometry import resize_matrix, warp_points
from ..core.overlays import contrast_stretch
from ..mapping.transforms import Fit
from ..registration.closeup import Warped, Window
from ..registration.confidence import calibration_inputs, confidence
from ..registration.refinement import relief
from ..registration.search import Hypothesis
from ..registration.views import ImageViews
from ..synthetic.vasculature import ARTERY, BIFURCATION, VEIN, Retina
from .registrations import BLUE, GREEN, ORANGE, PURPLE, RED, SKY, WIDTH_IN, YELLOW, axes_row, plot_keypoints, show

TERMS = {
    "bias": "constant",
    "log_inliers": "log of inliers",
    "settled_share": "share of matches that agree, far around",
    "inlier_share": "share of matches that agree, close by",
    "keypoint_share": "share of keypoints that agree",
    "log_correlation": "log of the maps' correlation",
}
MAGNIFY = 5  # of arrows
# What is measured of a retina → what is known of real eyes, with its source
REAL = {
    "fovea to disc centre, °": "15.5 ± 1.1 (Rohrschneider 2004)",
    "optic disc, diameter, °": "6.0 to 6.4: 1.75 × 1.86 mm (Kolb et al., Webvision)",
    "avascular zone of the fovea, diameter, °": "about 1.7: 0.5 mm (AAO, Basic and Clinical Science Course)",
    "widest vein, °": "",
    "artery over vein, width": "about 0.85 (Hubbard et al. 1999, six largest of each)",
    "bifurcations": "",
    "crossings": "",
}


def _row(count: int, aspect: float) -> tuple[Figure, Sequence[Axes]]:
    """``count`` axes with titles, each ``aspect`` times as high as wide."""
    return axes_row(count, WIDTH_IN / count * aspect + 0.3)


def plot_fields(views0: ImageViews, views1: ImageViews) -> Figure:
    """Both images as the network sees them, gray, with the outline of the field of view that was found."""
    figure, axes = _row(2, max(v.original_hw[0] / v.original_hw[1] for v in (views0, views1)))
    for ax, views, name in zip(axes, (views0, views1), ("fixed", "moving"), strict=True):
        outline = warp_points(views.outline, np.linalg.inv(views.base_from_original))
        share = views.valid.mean()
        show(
            contrast_stretch(views.original),
            ax,
            f"{name}: {views.original_hw[1]} × {views.original_hw[0]} px, field of view {share:.0%}",
        )
        ax.plot(*np.vstack([outline, outline[:1]]).T, color=YELLOW, linewidth=1.5)
    return figure


def plot_search(tries: Sequence[tuple[tuple[float, float, float], Hypothesis | None]]) -> Figure:
    """Strength of every view that was tried: turn of the moving image across, scale of its picture over the fixed one's
    down."""
    turns = sorted({turn for (turn, _, _), _ in tries})
    pictures = sorted({(round(scale1 / scale0, 3), scale0) for (_, scale0, scale1), _ in tries})
    strength = np.full((len(pictures), len(turns)), np.nan)
    for (turn, scale0, scale1), found in tries:
        place = pictures.index((round(scale1 / scale0, 3), scale0)), turns.index(turn)
        strength[place] = 0.0 if found is None else found.strength
    ax = plt.figure(figsize=(WIDTH_IN * 0.8, 0.5 * len(pictures) + 1.2), layout="constrained").add_subplot()
    ax.imshow(strength, cmap="cividis", vmin=0, vmax=max(np.nanmax(strength), 8.0), aspect="auto")
    for (row, column), value in np.ndenumerate(strength):
        color = "black" if value > 0.6 * max(np.nanmax(strength), 8.0) else "white"
        ax.text(column, row, f"{value:.1f}", ha="center", va="center", color=color, fontsize=9)
    ax.set_xticks(range(len(turns)), [f"{turn:+.0f}°" for turn in turns])
    ax.set_yticks(range(len(pictures)), [f"{ratio:.2f}  (fixed at {scale0:.2f})" for ratio, scale0 in pictures])
    ax.set(xlabel="turn of the moving image", ylabel="scale, moving : fixed", title="strength = inliers × their share")
    return ax.figure


def plot_window(views0: ImageViews, window: Window) -> Figure:
    """Where the window lies in the fixed image, and the window."""
    h, w = window.hw
    figure, axes = _row(2, max(views0.original_hw[0] / views0.original_hw[1], h / w))
    show(contrast_stretch(views0.original), axes[0], "fixed image, original px")
    corners = np.array([[0, 0], [w, 0], [w, h], [0, h], [0, 0]], float)
    axes[0].plot(*warp_points(corners, np.linalg.inv(window.from_base @ views0.base_from_original)).T, color=SKY)
    show(
        _picture(views0, window.from_base, window.hw),
        axes[1],
        f"window, {w} × {h} px, {window.zoom:.2f} px per base px",
    )
    return figure


def plot_warped(views0: ImageViews, views1: ImageViews, warped: Warped, fit: Fit, points) -> Figure:
    """The window of the fixed image, the moving one warped into it, and what still separates their matches."""
    window, (h, w) = warped.window, warped.window.hw
    figure, axes = _row(3, h / w)
    fixed = _picture(views0, window.from_base, window.hw)
    moving = _picture(views1, window.from_base @ warped.H, window.hw)
    plot_keypoints(
        show(fixed, axes[0], f"fixed, {len(window.features0)} keypoints"), window.features0.keypoints_xy, YELLOW, 6
    )
    plot_keypoints(
        show(moving, axes[1], f"moving, {len(warped.features1)} keypoints"), warped.features1.keypoints_xy, YELLOW, 6
    )
    show(0.5 * fixed, axes[2], f"{fit.n_inliers} of {len(fit.inliers)} matches agree, arrows ×{MAGNIFY}")
    for flags, color in ((~fit.inliers, YELLOW), (fit.inliers, GREEN)):
        start, end = points[1][flags], points[0][flags]
        axes[2].quiver(
            *start.T, *(end - start).T, angles="xy", scale_units="xy", scale=1 / MAGNIFY, color=color, width=0.006
        )
    return figure


def plot_maps(warped: Warped, steps: Mapping[str, np.ndarray], stride: int) -> Figure:
    """The detector's maps, fixed in green and moving in magenta, as each step (3, 3), window px, lays them: white where
    they agree."""
    maps = [relief(m).clip(0) / max(np.percentile(relief(m), 99.5), 1e-6) for m in _detectors(warped)]
    figure, axes = _row(len(steps), maps[0].shape[0] / maps[0].shape[1])
    to_px = resize_matrix((1, 1), (stride, stride))  # from cells
    for ax, (name, step) in zip(axes, steps.items(), strict=True):
        in_cells = np.linalg.inv(to_px) @ step @ to_px
        moved = cv2.warpPerspective(maps[1].astype(np.float32), in_cells, maps[0].shape[::-1])
        seen = cv2.warpPerspective(np.ones_like(moved), in_cells, maps[0].shape[::-1]) > 0.5
        together = np.corrcoef(maps[0][seen], moved[seen])[0, 1]
        show(np.clip(np.dstack([moved, maps[0], moved]), 0, 1), ax, f"{name}: correlation {together:.2f}")
    return figure


def plot_evidence(evidence: Mapping[str, float], calibration: Mapping[str, float]) -> Figure:
    """What each term adds to the log odds of being right, and the probability that they make."""
    inputs = calibration_inputs(dict(evidence))
    added = {TERMS[name]: calibration[name] * value for name, value in inputs.items()}
    ax = plt.figure(figsize=(WIDTH_IN * 0.8, 2.6), layout="constrained").add_subplot()
    bars = ax.barh(list(added), list(added.values()), color=[GREEN if v > 0 else RED for v in added.values()])
    ax.bar_label(bars, [f" {v:+.1f} " for v in added.values()], fontsize=9)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.margins(x=0.12)
    ax.invert_yaxis()
    sure = confidence(dict(evidence), dict(calibration))
    ax.set_title(f"log odds {sum(added.values()):+.1f}: confidence {sure:.3f}", fontsize=11)
    return ax.figure


def _picture(views: ImageViews, H_frame_from_base: np.ndarray, hw) -> np.ndarray:
    return contrast_stretch(views.picture(H_frame_from_base, hw)[0][0, 0].cpu().numpy())


def _detectors(warped: Warped) -> tuple[np.ndarray, np.ndarray]:
    return warped.window.features0.detector, warped.features1.detector


# ------------------------------------------------------------------ a synthetic eye


def plot_retina(retina: Retina, reach_deg: float = 24.0) -> Figure:
    """The retina as vectors: arteries, veins, disc, fovea, and its junctions, in degrees of visual angle."""
    ax = plt.figure(figsize=(WIDTH_IN * 0.72, WIDTH_IN * 0.6), layout="constrained").add_subplot()
    colors = np.where(retina.segment_kind == ARTERY, RED, BLUE)
    ends = retina.segments.reshape(-1, 2, 2)
    ax.add_collection(LineCollection(ends, linewidths=6 * retina.segment_width_deg, colors=colors, capstyle="round"))
    fork = retina.junction_kind == BIFURCATION
    ax.scatter(*retina.junctions_xy[fork].T, s=10, color=ORANGE, zorder=3, label=f"{fork.sum()} bifurcations")
    ax.scatter(
        *retina.junctions_xy[~fork].T, s=10, marker="x", color="black", zorder=3, label=f"{(~fork).sum()} crossings"
    )
    ax.add_patch(plt.Circle(retina.disc_xy, retina.disc_radius_deg, color=YELLOW, alpha=0.6, label="optic disc"))
    ax.add_patch(
        plt.Circle((0, 0), retina.foveal_zone_deg, fill=False, color=PURPLE, label="avascular zone of the fovea")
    )
    ax.set(
        xlim=(-reach_deg, reach_deg), ylim=(reach_deg, -reach_deg), xlabel="degrees", ylabel="degrees", aspect="equal"
    )
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=9)
    return ax.figure


def measure_anatomy(retinas: Sequence[Retina]) -> pd.DataFrame:
    """One row per fact: mean, lowest and highest of these retinas, and what is known of real eyes."""
    values = pd.DataFrame([_facts(retina) for retina in retinas])
    table = values.agg(["mean", "min", "max"]).T.round(2)
    return table.assign(real=[REAL[name] for name in table.index]).reset_index(names="what")


def _facts(retina: Retina) -> dict[str, float]:
    widest = {kind: np.percentile(retina.segment_width_deg[retina.segment_kind == kind], 99) for kind in (ARTERY, VEIN)}
    forks = int((retina.junction_kind == BIFURCATION).sum())
    places = np.linalg.norm(retina.disc_xy), 2 * retina.disc_radius_deg, 2 * retina.foveal_zone_deg
    vessels = widest[VEIN], widest[ARTERY] / widest[VEIN], forks, len(retina.junction_kind) - forks
    return dict(zip(REAL, (*places, *vessels), strict=True))
