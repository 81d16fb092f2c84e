"""Pictures of PKE: what it keeps and rejects, its memory, and for the diagnosis of a run funnel, growth, lives and
precision. Tables and samples are those of `diagnosis`; every plot function makes a figure and returns it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..core.geometry import known_points
from ..core.overlays import contrast_stretch
from ..training.diagnosis import MIN_POINTS, WatchedSample, label_precision, precision_curve
from ..training.pke import PkeOptions, PkeRound
from .curves import plot_pke_funnel, quiet
from .registrations import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    RED,
    SKY,
    WIDTH_IN,
    YELLOW,
    axes_row,
    plain,
    plot_keypoints,
    show,
)
from .training import rings

SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
FATE = {"kept": GREEN, "label lost": ORANGE, "never a label": PURPLE}
REASONS = {
    "annotated": (SKY, "annotated already"),
    "mask": (BLACK, "off the vessels"),
    "view": (PURPLE, "not in both views"),
    "geometric": (RED, "moving detector silent"),
    "content": (ORANGE, "descriptor ambiguous"),
    "budget": (BLUE, "over the budget"),
}


def plot_round(batch: Mapping, found: PkeRound, promoted: Sequence, count: int = 2) -> Figure:
    """One look of PKE at a batch, the pairs with most mined points first. Mined points are green, rejected ones have
    the colour of their reason. Rings are annotated points, yellow crosses labels promoted so far (a list of (N, 2)
    px)."""
    mined, rejected = found.points0_xy, found.rejected
    chosen = sorted(range(len(mined)), key=lambda i: -len(mined[i]))[:count]
    used = [name for name in REASONS if any(len(rejected[i][name]) for i in chosen)]
    figure, axes = axes_row(len(chosen), WIDTH_IN / len(chosen) + 0.9)
    for i, ax in zip(chosen, axes, strict=True):
        lost = sum(map(len, rejected[i].values()))
        title = f"{len(mined[i])} mined, {lost} rejected, {len(promoted[i])} promoted"
        show(0.8 * contrast_stretch(batch["image0"][i, 0]), ax, title)
        rings(ax, known_points(batch["vessel_keypoints"][i]), 90, "white")
        for name in used:
            plot_keypoints(ax, rejected[i][name].cpu().numpy(), REASONS[name][0], 16)
        plot_keypoints(ax, mined[i].cpu().numpy(), GREEN, 40)
        ax.scatter(*np.reshape(promoted[i], (-1, 2)).T, s=90, marker="x", color=YELLOW, linewidths=1.6)
    cross = Line2D([], [], marker="x", color=YELLOW, ls="", markeredgewidth=2, label="promoted to a label")
    _legend(figure, [("mined", GREEN), *((REASONS[name][1], REASONS[name][0]) for name in used)], 4, cross)
    return figure


def plot_value_map(image, record: torch.Tensor, promotion_value: float, demotion_value: float) -> Figure:
    """What PKE remembers of one sample: record (N, 4) of `ValueMap` over its image (H, W), size and colour by value,
    and the histogram of the values with the two thresholds."""
    figure, (left, right) = axes_row(2, 0.52 * WIDTH_IN)
    x, y, value, is_label = np.asarray(record, float).T
    show(0.6 * np.asarray(image), left, f"{len(value)} places remembered, {int(is_label.sum())} of them labels")
    top = max(promotion_value + 1, value.max(initial=0))
    how = {"cmap": "viridis", "vmin": 0, "vmax": top, "edgecolors": np.where(is_label > 0, "white", "none")}
    dots = left.scatter(x, y, s=20 + 25 * value, c=value, linewidths=1.4, **how)
    figure.colorbar(dots, ax=left, shrink=0.75, label="value (white rim: a label)")
    right.hist(value, bins=np.arange(-0.25, top + 0.5, 0.5), color=SKY, edgecolor="white")
    for level, name, color in ((promotion_value, "becomes a label", GREEN), (demotion_value, "ceases to be one", RED)):
        right.axvline(level, color=color, linestyle="--", label=f"{name}: {level:g}")
    right.set(xlabel="value", ylabel="places")
    right.spines[["top", "right"]].set_visible(False)
    right.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=2, frameon=False, fontsize=10)
    return figure


def plot_funnel(rows: Sequence[Mapping], history: Sequence[Mapping]) -> Figure:
    """The funnel now, from `stage_rows`, and over the epochs of the run."""
    figure, (left, right) = axes_row(2, 4.6)
    places = [*range(len(rows) - 1), len(rows) - 0.6]  # labels come from many visits: they stand apart
    points, true = (np.array([row[key] for row in rows], float) for key in ("points", "true"))
    known = bool(np.isfinite(true).all())
    left.barh(places, points, color="0.78", label="elsewhere" if known else None)
    if known:
        left.barh(places, true, color=GREEN, label="at a true junction")
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=9)
    for place, n, t in zip(places, points, true, strict=True):
        words = f"{n:.1f}" + (f", {t / n:.0%} true" if known and n else "")
        left.text(n + 0.01 * points.max(), place, words, va="center", fontsize=9)
    left.set_yticks(places, [row["stage"] for row in rows])
    left.set(xlabel="points per image", xlim=(0, 1.3 * max(points.max(), 1)))
    left.invert_yaxis()
    left.spines[["top", "right"]].set_visible(False)
    left.set_title("now, stage by stage", fontsize=11)
    plot_pke_funnel(right, history)
    right.set_title(right.get_title().replace("PKE funnel", "while it trained, epoch by epoch"), fontsize=11)
    return figure


def reason_table(points: pd.DataFrame, images: int) -> pd.DataFrame:
    """What became of the peaks of a table of `judge`, in the words of the overlays: how many per image, and which share
    of them is true."""
    rows = []
    for reason, name in {"mined": "mined", **{key: f"rejected: {text}" for key, (_, text) in REASONS.items()}}.items():
        true = points["true"][points["reason"] == reason]
        share = f"{true.mean():.0%}" if len(true) and true.notna().all() else None
        rows.append({"peaks": name, "per image": round(len(true) / images, 1), "of them true": share})
    return pd.DataFrame(rows, dtype=object)


def plot_growth(grown: Mapping[str, pd.DataFrame]) -> Figure:
    """Labels and remembered places of the watched samples over the epochs, from `diagnosis.growth` by sample."""
    figure, axes = axes_row(2, 3.4)
    last = max(g["epoch"].iloc[-1] for g in grown.values())
    titles = {"labels": "promoted labels", "places": "places remembered"}
    for ax, (key, title) in zip(axes, titles.items(), strict=True):
        quiet(ax)
        for color, (name, g) in zip(SERIES, grown.items(), strict=False):
            steps = ([*g["epoch"], last], [*g[key], *g[key][-1:]])
            ax.step(*steps, where="post", color=color, linewidth=1.8, label=plain(f"sample {name}"))
        ax.set(xlabel="epoch", ylabel="points", ylim=(0, None))
        ax.locator_params(integer=True)
        ax.set_title(title, fontsize=11)
    _legend_of(figure, ax.get_legend_handles_labels()[0], 4)
    return figure


def plot_label_strip(sample: WatchedSample, count: int = 4) -> Figure:
    """One sample after ``count`` of its visits, from the first to the last page."""
    chosen = sorted({round(k) for k in np.linspace(0, len(sample.pages) - 1, count)})
    figure, axes = axes_row(count, WIDTH_IN / count + 0.75)
    for ax in axes[len(chosen) :]:
        ax.set_axis_off()
    told = {"label at a true junction": (GREEN, 1), "label elsewhere": (RED, 0)}
    told["label, truth unknown"] = (YELLOW, np.nan)
    for k, ax in zip(chosen, axes, strict=False):
        page = sample.pages[k]
        points, is_label = page.record[:, :2], page.record[:, 3] > 0
        _sample_image(ax, sample, f"visit {page.visit}: {int(is_label.sum())} labels, {len(points)} places")
        plot_keypoints(ax, points[~is_label].numpy(), SKY, 10)
        truth = sample.truth(points[is_label])
        for color, right in told.values():
            plot_keypoints(ax, points[is_label][np.isclose(truth, right, equal_nan=True)].numpy(), color, 44)
    shown = [(name, color) for name, (color, right) in told.items() if right == right or not len(sample.true)]
    _legend(figure, [*shown, ("remembered only", SKY)], 5)
    return figure


def plot_lives(sample: WatchedSample, told: Mapping[str, pd.DataFrame], options: PkeOptions) -> Figure:
    """Values of a few places over the visits of a sample, from `telling_lives`, with the thresholds, and where the
    places lie. Filled marks: the place is a label; a cross: it is forgotten."""
    figure, (left, right) = axes_row(2, 4.2, width_ratios=(1, 1.5))
    quiet(right)
    _sample_image(left, sample, "where they lie")
    for k, (name, life) in enumerate(told.items()):
        color, value = FATE[name], life["value"] + 0.04 * k  # equal values stay apart
        left.scatter(*life[["x", "y"]].iloc[0], s=150, facecolors="none", edgecolors=color, linewidths=2.6)
        right.plot(life["visit"], value, color=color, linewidth=1.8, label=name)
        fill = np.where(life["is_label"], color, "white")
        right.scatter(life["visit"], value, s=34, c=fill, edgecolors=color, linewidths=1.4, zorder=3)
        if life["forgotten"].iloc[0]:
            right.scatter(life["visit"].iloc[-1] + 1, 0, s=60, marker="x", color=color, linewidths=2, zorder=3)
    for level, text in ((options.promotion_value, "becomes\na label"), (options.demotion_value, "ceases\nto be one")):
        right.axhline(level, color=BLACK, linestyle="--", linewidth=1)
        right.annotate(text, (1.01, level), xycoords=("axes fraction", "data"), va="center", fontsize=9)
    last = sample.pages[-1].visit if sample.pages else 1
    right.set(xlabel="visit of this sample (filled: a label, cross: forgotten)", ylabel="value")
    right.locator_params(axis="x", integer=True)
    right.set(xlim=(0, last + 1.5), ylim=(-0.2, options.value_max + 0.4))
    if told:
        right.legend(loc="upper center", bbox_to_anchor=(0.5, 1.13), ncols=3, frameon=False, fontsize=10)
    return figure


def plot_precision(history: Sequence, grown: Sequence, points: pd.DataFrame, images: int, o: PkeOptions, chance: float):
    """Precision of mined points, their numbers below. Left, over the epochs, beside the watched samples' labels; then
    against the two thresholds that decide it, from a table of `judge` on so many images. Dashed: chance, a blind guess
    on a vessel."""
    figure = plt.figure(figsize=(WIDTH_IN, 5.2), layout="constrained")
    uppers, lowers = figure.subplots(2, 3, height_ratios=(1.5, 1), sharex="col")
    _plot_over_epochs(uppers[0], lowers[0], history, grown)
    passed = points["reason"].isin(("mined", "budget"))
    judged = points[passed | ((points["reason"] == "content") & np.isfinite(points["ratio"]))]
    by_ratio = precision_curve(judged["ratio"], judged["true"], np.linspace(0.2, 1, 41), True)
    levels, passed = np.linspace(o.pke_min_probability, 1, 41), points[passed]
    by_probability = precision_curve(passed["probability"], passed["true"], levels, False)
    curves = ((by_ratio, o.content_ratio_max), (by_probability, o.pke_min_probability))
    for upper, lower, (curve, level) in zip(uppers[1:], lowers[1:], curves, strict=True):
        enough = curve["points"] >= MIN_POINTS
        upper.fill_between(curve["level"], curve["low"], curve["high"], where=enough, color=SKY, alpha=0.3, linewidth=0)
        upper.plot(curve["level"], curve["precision"].where(enough), color=BLUE, linewidth=1.8)
        lower.plot(curve["level"], curve["points"] / images, color=BLUE, linewidth=1.8)
        for ax in (upper, lower):
            ax.axvline(level, color=BLACK, linestyle=":", linewidth=1.2)
    titles = ("over the epochs", "if content_ratio_max were …", "if min_probability were …")
    for ax, title in zip(uppers, titles, strict=True):
        quiet(ax).set(ylim=(0, 1.03))
        ax.set_title(title, fontsize=11)
        if np.isfinite(chance):
            ax.axhline(chance, color="0.4", linestyle="--", linewidth=1)
            where = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right"}
            where["xytext"] = (0, -11 if chance > 0.2 else 3)
            ax.annotate("blind guess on a vessel", (0.98, chance), **where, fontsize=8.5, color="0.4")
    for ax, label in zip(lowers, ("epoch", "ratio (dotted: as it is)", "probability (dotted: as it is)"), strict=True):
        quiet(ax).set(xlabel=label, ylim=(0, None))
    uppers[0].set_ylabel("share at a true junction")
    lowers[0].set_ylabel("points per image")
    return figure


def _plot_over_epochs(upper: Axes, lower: Axes, history: Sequence[Mapping], grown: Sequence[pd.DataFrame]) -> None:
    names = {"pke_precision": "precision", "pke_after_budget": "points"}
    mined = pd.DataFrame(history).reindex(columns=["epoch", *names]).rename(columns=names)
    labels, size = label_precision(grown, len(history)), 4 if len(history) < 40 else 0
    for name, color, rows in (("mined", BLUE, mined), ("labels of watched samples", GREEN, labels)):
        for ax, key in ((upper, "precision"), (lower, "points")):
            ax.plot(rows["epoch"], rows[key].astype(float), color=color, marker="o", markersize=size, label=name)
    lower.locator_params(axis="x", integer=True)
    upper.legend(loc="lower left", frameon=False, fontsize=9)


def _sample_image(ax: Axes, sample: WatchedSample, title: str) -> None:
    show(0.7 * contrast_stretch(sample.image), ax, title)
    rings(ax, sample.annotated, 70, "white")


def _legend(figure: Figure, dots: Sequence[tuple[str, str]], columns: int, *more: Line2D) -> None:
    """Names with their colours, and last the rings of annotated points."""
    dot, edge = {"marker": "o", "ls": ""}, {"markeredgecolor": "black", "markeredgewidth": 0.4}
    handles = [Line2D([], [], color=color, label=name, **dot, **edge) for name, color in dots]
    ring = Line2D([], [], color="none", markeredgecolor="0.6", markersize=9, label="annotated point", **dot)
    _legend_of(figure, [*handles, *more, ring], columns)


def _legend_of(figure: Figure, handles: Sequence, columns: int) -> None:
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=10)
