"""Pictures of single pairs of an evaluation: overlays before and after, checkerboard, matches, residual arrows, worst
pairs first.

Pictures of many pairs become JPEG, so that a report with a hundred of them can be mailed. Images are drawn small
(SIDE_PX): enough to see whether vessels run on, too little to diagnose from.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..core.geometry import resize_matrix, warp_points
from ..core.images import shrink
from ..core.overlays import checkerboard, modality_colors, overlay
from ..data.records import PairRecord
from ..evaluation.baselines import identity
from ..evaluation.methods import AnnotationFit, as_registration
from ..evaluation.real_pairs import RealPair, read_pair, truth_points
from ..evaluation.summary import as_taken, outcomes
from ..mapping.result import Registration
from .evaluation import OUTCOME_LOOKS
from .registrations import WIDTH_IN, plain, plot_matches, plot_residuals, show

SIDE_PX = 560  # longer side of what is drawn
MAGNIFICATIONS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)  # of residual arrows
ANSWERED = ("0.6", "", (0, (4, 3)), "ring")  # looks, as in OUTCOME_LOOKS, of what nothing can be said about
FRAME_SHARE = 1 / 10  # of the longer side: what the arrows of 95 of 100 points stay below


@dataclass(frozen=True)
class Shown:
    """A pair as one method registered it, ready to be drawn. name: as the report calls it; row: of the runner, as
    taken; outcome: one of `summary.OUTCOMES`, or "answered"."""

    name: str
    record: PairRecord
    row: dict
    outcome: str

    @property
    def result(self) -> Registration:
        return Registration.from_dict(self.row["registration"])

    @property
    def mean_px(self) -> str:
        """E.g. "31.0 px"; "" without truth or transform."""
        return f"{self.row['mean_px']:.1f} px" if self.row["errors_px"] is not None else ""


def worst_first(records: dict[str, PairRecord], rows: pd.DataFrame, method: str) -> list[Shown]:
    """The pairs of one method, as taken: without a transform first, then by falling mean error; without truth by rising
    Dice. records: by the names that the rows use."""
    own = as_taken(rows[rows.method == method])
    own = own.assign(shown=outcomes(own), errors_px=[e if isinstance(e, list) else None for e in own.errors_px])
    own["badness"] = own.mean_px.fillna(1 - own.dice.astype(float)).fillna(np.inf)
    own = own.sort_values("badness", ascending=False, kind="stable")
    return [Shown(row["pair"], records[row["pair"]], row, row["shown"]) for row in own.to_dict("records")]


def title(shown: Shown) -> str:
    """E.g. "cffa_003_01 · warned of · mean 31.0 px · confidence 0.71"."""
    row, parts = shown.row, [shown.name, shown.outcome]
    if shown.mean_px:
        parts.append(f"mean {shown.mean_px}")
    elif pd.notna(row["dice"]):
        parts.append(f"Dice {row['dice']:.2f}")
    return " · ".join(parts + ([f"confidence {row['confidence']:.2f}"] if pd.notna(row["confidence"]) else []))


# ------------------------------------------------------------------ drawings


def small(record: PairRecord, result: Registration) -> tuple[np.ndarray, np.ndarray, Registration]:
    """Copies of both images of at most SIDE_PX, and their registration."""
    fixed, moving = (shrink(image, SIDE_PX) for image in read_pair(record))
    return fixed, moving, result.resized(fixed.shape[:2], moving.shape[:2])


def modality_overlay(record: PairRecord, result: Registration) -> np.ndarray:
    """Vessels of both images in the colours of their modalities, white where they agree: (h, w, 3) float in [0, 1]."""
    fixed, moving, result = small(record, result)
    colors = modality_colors(record.modality0, record.modality1)
    return overlay(fixed, result.warp(moving), result.covered(), colors)


def before(record: PairRecord) -> Registration:
    """Frame upon frame, middle upon middle."""
    fixed, moving = read_pair(record)
    return as_registration(identity(fixed, moving), fixed.shape[:2], moving.shape[:2])


def truth(record: PairRecord) -> Registration | None:
    """The annotation as a registration, None without one."""
    seen = RealPair(record).load()
    return None if seen.truth is None else AnnotationFit().answer(seen)[0]


def plot_pair(shown: Shown) -> Figure:
    """One pair: overlay, checkerboard, matches (or the overlay before, of a method that gives no matches), residual
    arrows at the annotated points, enlarged. Of a pair without a transform the two images, its matches if any, and the
    reason."""
    record = shown.record
    fixed, moving, result = small(record, shown.result)
    has_more, aspect = result.ok or len(result.matches0) > 0, fixed.shape[0] / fixed.shape[1]
    figure = plt.figure(figsize=(WIDTH_IN, (1 / 2 + has_more / 3) * WIDTH_IN * aspect + 0.9), layout="constrained")
    reason = "" if result.ok else "\n" + "\n".join(textwrap.wrap(result.status, 100))
    figure.suptitle(plain(title(shown) + reason), fontsize=13, fontweight="bold")
    grid = figure.add_gridspec(1 + has_more, 6, height_ratios=(3, 2)[: 1 + has_more])
    axes = [figure.add_subplot(place) for place in (grid[0, :3], grid[0, 3:])]
    if has_more:
        axes += [figure.add_subplot(place) for place in (grid[1, :4], grid[1, 4:])]
    if result.ok:
        vessels = f"vessels: {record.modality0} and {record.modality1}, white where they agree"
        show(modality_overlay(record, shown.result), axes[0], vessels)
        show(checkerboard(fixed, result.warp(moving), result.covered()), axes[1], "checkerboard")
        _residuals(axes[3], shown)
    else:
        show(fixed, axes[0], f"fixed, {record.modality0}")
        show(moving, axes[1], f"moving, {record.modality1}")
        if has_more:
            axes[3].set_axis_off()
    if len(result.matches0):
        plot_matches(fixed, moving, result.matches0, result.matches1, result.inliers, axes[2], max_lines=80)
    elif has_more:
        show(modality_overlay(record, before(record)), axes[2], "before: frame upon frame")
    return figure


def _residuals(ax, shown: Shown) -> None:
    """Arrows from the truth's points, 95 of 100 no longer than FRAME_SHARE; without truth the warped image."""
    fixed, moving, result = small(shown.record, shown.result)
    points = truth_points(shown.record, shown.result.moving_hw)
    if points is None:
        show(result.warp(moving), ax, "moving image, registered (no truth)")
        return
    S = resize_matrix(shown.result.fixed_hw, fixed.shape[:2])
    predicted, true = (warp_points(xy, S) for xy in (shown.result.map_to_fixed(points[0]), points[1]))
    longest = float(np.nanpercentile(np.linalg.norm(predicted - true, axis=1), 95))
    fitting = [m for m in MAGNIFICATIONS if m * longest <= FRAME_SHARE * max(fixed.shape)]
    magnify = max(fitting, default=MAGNIFICATIONS[0])
    plot_residuals(ax, fixed, predicted, true, magnify)
    errors = np.array(shown.row["errors_px"], float)
    words = f"residuals ×{magnify:g}: mean {errors.mean():.1f}, max {errors.max():.1f} px"
    ax.set_title(f"{words}\ndot: truth, tip: where it was put", fontsize=11)


def plot_before_after(pairs: Sequence[Shown], columns: int = 2) -> Figure:
    """Per pair its overlay before and after, beside the annotated truth where there is one, in the colours of the
    modalities."""
    rows = -(-len(pairs) // columns)
    figure = plt.figure(figsize=(WIDTH_IN, 0.4 + rows * 1.5), layout="constrained")
    axes = figure.subplots(rows, 3 * columns, squeeze=False)
    for ax in axes.ravel():
        ax.set_axis_off()
    for k, shown in enumerate(pairs):
        panels = axes[k // columns, 3 * (k % columns) : 3 * (k % columns) + 3]
        shows = {"before": before(shown.record), "after": shown.result, "truth": truth(shown.record)}
        for ax, (name, result) in zip(panels, shows.items(), strict=True):
            if result is not None and result.ok:
                show(modality_overlay(shown.record, result), ax)
            else:
                words = "no truth" if result is None else shown.outcome
                ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes)
            ax.set_title(f"{plain(shown.name)}\n{name}" if name == "before" else f"\n{name}", fontsize=8, loc="left")
    return figure


def plot_contact_sheet(pairs: Sequence[Shown], columns: int = 6) -> Figure:
    """All pairs at a glance in their order: overlays in the colours of the modalities; colour and dash of the frame are
    the outcome's, gray and dashed where there is no truth to judge by."""
    columns = min(columns, len(pairs))
    rows = -(-len(pairs) // columns)
    figure = plt.figure(figsize=(WIDTH_IN, rows * (WIDTH_IN / columns * 0.85 + 0.5)), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(pairs) :]:
        ax.set_visible(False)
    for ax, shown in zip(axes, pairs, strict=False):
        moving = shrink(read_pair(shown.record)[1], SIDE_PX)
        show(modality_overlay(shown.record, shown.result) if shown.result.ok else moving, ax)
        ax.set_axis_on()
        ax.set(xticks=[], yticks=[])
        color, _, dash, _ = OUTCOME_LOOKS.get(shown.outcome, ANSWERED)
        for spine in ax.spines.values():
            spine.set(color=color, linewidth=3.5, linestyle=dash, visible=True)
        ax.set_title(f"{plain(shown.name)}\n{', '.join(filter(None, (shown.outcome, shown.mean_px)))}", fontsize=8)
    return figure
