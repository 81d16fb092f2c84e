"""Pictures of PKE: what it keeps and rejects, its memory, and for the diagnosis of a run funnel, growth, lives,
precision.

Every plot function makes a figure of its own and returns it; tables and samples are those of `diagnosis`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..core.overlays import contrast_stretch
from ..training.diagnosis import MIN_POINTS, WatchedSample, label_precision, precision_curve
from ..training.label_history import Life
from ..training.pke import PkeOptions, PkeRound
from .history import funnel_panel
from .registrations import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, WIDTH_IN, YELLOW, plot_keypoints, show
from .training import known_points, rings

SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
_ANNOTATED = Line2D(
    [], [], marker="o", color="none", markeredgecolor="0.6", ls="", markersize=9, label="annotated point"
)
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
    """One look of PKE at a batch, the pairs with most mined points first: mined ones green, rejected ones in the colour
    of their reason, annotated points as rings, labels promoted so far (a list of (N, 2) px) as yellow crosses."""
    count = min(count, len(batch["image0"]))
    figure = plt.figure(figsize=(WIDTH_IN, WIDTH_IN / count + 0.9), layout="constrained")
    chosen = sorted(range(len(batch["image0"])), key=lambda i: -len(found.points0_xy[i]))[:count]
    used = [name for name in REASONS if any(len(found.rejected[i].get(name, ())) for i in chosen)]
    for i, ax in zip(chosen, figure.subplots(1, count, squeeze=False)[0], strict=True):
        rejected = {name: found.rejected[i][name].cpu().numpy() for name in used}
        counts = f"{len(found.points0_xy[i])} mined, {sum(map(len, rejected.values()))} rejected, {len(promoted[i])} promoted"
        rings(
            show(0.8 * contrast_stretch(batch["image0"][i, 0]), ax, counts),
            known_points(batch["vessel_keypoints"][i]),
            90,
            "white",
        )
        for name, points in rejected.items():
            plot_keypoints(ax, points, REASONS[name][0], 16)
        plot_keypoints(ax, found.points0_xy[i].cpu().numpy(), GREEN, 40)
        ax.scatter(*np.reshape(promoted[i], (-1, 2)).T, s=90, marker="x", color=YELLOW, linewidths=1.6)
    handles = [_dot(GREEN, "mined"), *(_dot(*REASONS[name]) for name in used)]
    handles += [Line2D([], [], marker="x", color=YELLOW, ls="", markeredgewidth=2, label="promoted to a label")]
    handles.append(_ANNOTATED)
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    return figure


def plot_value_map(image, record: torch.Tensor, promotion_value: float, demotion_value: float) -> Figure:
    """What PKE remembers of one sample: record (N, 4) of `ValueMap` over its image (H, W), size and colour by value,
    and the histogram of the values with the two thresholds."""
    figure = plt.figure(figsize=(WIDTH_IN, 0.52 * WIDTH_IN), layout="constrained")
    left, right = figure.subplots(1, 2)
    x, y, value, is_label = np.asarray(record, float).T
    show(0.6 * np.asarray(image), left, f"{len(value)} places remembered, {int(is_label.sum())} of them labels")
    edges = np.where(is_label > 0, "white", "none")
    top = max(promotion_value + 1, value.max(initial=0))
    dots = left.scatter(
        x, y, s=20 + 25 * value, c=value, cmap="viridis", vmin=0, vmax=top, edgecolors=edges, linewidths=1.4
    )
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
    figure = plt.figure(figsize=(WIDTH_IN, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = [*range(len(rows) - 1), len(rows) - 0.6]  # labels come from many visits: they stand apart
    points, true = (np.array([row[key] for row in rows], float) for key in ("points", "true"))
    known = bool(np.isfinite(true).all())
    left.barh(places, points, color="0.78", label="elsewhere" if known else None)
    if known:
        left.barh(places, true, color=GREEN, label="at a true junction")
        left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=9)
    for place, n, t in zip(places, points, true, strict=True):
        left.text(
            n + 0.01 * points.max(),
            place,
            f"{n:.1f}" + (f", {t / n:.0%} true" if known and n else ""),
            va="center",
            fontsize=9,
        )
    left.set_yticks(places, [row["stage"] for row in rows])
    left.set(xlabel="points per image", xlim=(0, 1.3 * max(points.max(), 1)))
    left.invert_yaxis()
    left.spines[["top", "right"]].set_visible(False)
    left.set_title("now, stage by stage", fontsize=11)
    funnel_panel(right, history)
    right.set_title(right.get_title().replace("PKE funnel", "while it trained, epoch by epoch"), fontsize=11)
    return figure


def reason_rows(points: Mapping[str, np.ndarray], images: int) -> list[dict]:
    """What became of the peaks of a table of `judge`, in the words of the overlays: how many per image, and which share
    of them is true."""
    rows = []
    for reason, name in {"mined": "mined", **{key: f"rejected: {text}" for key, (_, text) in REASONS.items()}}.items():
        true = points["true"][points["reason"] == reason]
        share = f"{true.mean():.0%}" if len(true) and np.isfinite(true).all() else None
        rows.append({"peaks": name, "per image": round(len(true) / images, 1), "of them true": share})
    return rows


def plot_growth(grown: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """Labels and remembered places of the watched samples over the epochs, from `diagnosis.growth` by sample."""
    figure, last = (
        plt.figure(figsize=(WIDTH_IN, 3.4), layout="constrained"),
        max(g["epoch"][-1] for g in grown.values()),
    )
    for ax, key, title in zip(
        figure.subplots(1, 2), ("labels", "places"), ("promoted labels", "places remembered"), strict=True
    ):
        _quiet(ax)
        for color, (name, g) in zip(SERIES, grown.items(), strict=False):
            ax.step(
                [*g["epoch"], last],
                [*g[key], *g[key][-1:]],
                where="post",
                color=color,
                linewidth=1.8,
                label=f"sample {name}",
            )
        ax.set(xlabel="epoch", ylabel="points", ylim=(0, None))
        ax.locator_params(integer=True)
        ax.set_title(title, fontsize=11)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    return figure


def plot_label_strip(sample: WatchedSample, count: int = 4) -> Figure:
    """One sample after ``count`` of its visits, from the first to the last page."""
    chosen = sorted({round(k) for k in np.linspace(0, len(sample.pages) - 1, count)})
    figure = plt.figure(figsize=(WIDTH_IN, WIDTH_IN / count + 0.75), layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for ax in axes[len(chosen) :]:
        ax.set_axis_off()
    for k, ax in zip(chosen, axes, strict=False):
        page = sample.pages[k]
        points, is_label = page.record[:, :2], page.record[:, 3] > 0
        _sample_image(ax, sample, f"visit {page.visit}: {int(is_label.sum())} labels, {len(points)} places")
        plot_keypoints(ax, points[~is_label].numpy(), SKY, 10)
        truth = sample.truth(points[is_label])
        for right, color in ((1, GREEN), (0, RED), (np.nan, YELLOW)):
            plot_keypoints(
                ax, points[is_label][(truth == right) | (np.isnan(truth) & np.isnan(right))].numpy(), color, 44
            )
    told = {
        "label at a true junction": GREEN,
        "label elsewhere": RED,
        "label, truth unknown": YELLOW,
        "remembered only": SKY,
    }
    if len(sample.true):
        del told["label, truth unknown"]
    handles = [_dot(color, name) for name, color in told.items()]
    handles.append(_ANNOTATED)
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=10)
    return figure


def plot_lives(sample: WatchedSample, told: Mapping[str, Life], options: PkeOptions) -> Figure:
    """Values of a few places over the visits of a sample, from `telling_lives`, with the thresholds, and where the
    places lie. Filled marks: the place is a label; a cross: it is forgotten."""
    figure = plt.figure(figsize=(WIDTH_IN, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    _quiet(right)
    _sample_image(left, sample, "where they lie")
    for k, (name, life) in enumerate(told.items()):
        color, lift = FATE[name], 0.04 * k  # equal values stay apart
        left.scatter(*life.xy, s=150, facecolors="none", edgecolors=color, linewidths=2.6)
        right.plot(life.visit, life.value + lift, color=color, linewidth=1.8, label=name)
        fill = np.where(life.is_label, color, "white")
        right.scatter(life.visit, life.value + lift, s=34, c=fill, edgecolors=color, linewidths=1.4, zorder=3)
        if life.forgotten:
            right.scatter(life.visit[-1] + 1, 0, s=60, marker="x", color=color, linewidths=2, zorder=3)
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


def plot_precision(
    history: Sequence[Mapping],
    grown: Sequence[Mapping[str, np.ndarray]],
    points: Mapping[str, np.ndarray],
    images: int,
    options: PkeOptions,
    chance: float,
) -> Figure:
    """Precision of mined points: over the epochs, with that of the watched samples' labels, and against the two
    thresholds that decide it, from a table of `judge` on so many images; numbers of points below. Dashed: chance, a
    blind guess on a vessel."""
    figure = plt.figure(figsize=(WIDTH_IN, 5.2), layout="constrained")
    (top, *tops), (bottom, *bottoms) = figure.subplots(2, 3, height_ratios=(1.5, 1), sharex="col")
    mined = [
        {"epoch": r["epoch"], "points": r.get("pke_after_budget"), "precision": r.get("pke_precision")} for r in history
    ]
    series = {"mined": (BLUE, mined), "labels of watched samples": (GREEN, label_precision(grown, len(history)))}
    for name, (color, rows) in series.items():
        for ax, key in ((top, "precision"), (bottom, "points")):
            values = np.array([row[key] for row in rows], float)
            ax.plot(
                [row["epoch"] for row in rows],
                values,
                color=color,
                marker="o",
                markersize=4 if len(rows) < 40 else 0,
                label=name,
            )
    bottom.locator_params(axis="x", integer=True)
    top.legend(loc="lower left", frameon=False, fontsize=9)
    passed = np.isin(points["reason"], ("mined", "budget"))
    judged = passed | ((points["reason"] == "content") & np.isfinite(points["ratio"]))
    low, ratio_max = options.pke_min_probability, options.content_ratio_max
    curves = (
        precision_curve(points["ratio"][judged], points["true"][judged], np.linspace(0.2, 1, 41), True),
        precision_curve(points["probability"][passed], points["true"][passed], np.linspace(low, 1, 41), False),
    )
    for ax, below, curve, level in zip(tops, bottoms, curves, (ratio_max, low), strict=True):
        enough = curve["points"] >= MIN_POINTS
        ax.fill_between(curve["level"], curve["low"], curve["high"], where=enough, color=SKY, alpha=0.3, linewidth=0)
        ax.plot(curve["level"], np.where(enough, curve["precision"], np.nan), color=BLUE, linewidth=1.8)
        below.plot(curve["level"], curve["points"] / images, color=BLUE, linewidth=1.8)
        for panel in (ax, below):
            panel.axvline(level, color=BLACK, linestyle=":", linewidth=1.2)
    for ax, title in zip(
        (top, *tops), ("over the epochs", "if content_ratio_max were …", "if min_probability were …"), strict=True
    ):
        _quiet(ax).set(ylim=(0, 1.03))
        ax.set_title(title, fontsize=11)
        if np.isfinite(chance):
            ax.axhline(chance, color="0.4", linestyle="--", linewidth=1)
            where = {
                "xycoords": ("axes fraction", "data"),
                "textcoords": "offset points",
                "xytext": (0, -11 if chance > 0.2 else 3),
            }
            ax.annotate("blind guess on a vessel", (0.98, chance), **where, ha="right", fontsize=8.5, color="0.4")
    for ax, label in zip(
        (bottom, *bottoms), ("epoch", "ratio (dotted: as it is)", "probability (dotted: as it is)"), strict=True
    ):
        _quiet(ax).set(xlabel=label, ylim=(0, None))
    top.set_ylabel("share at a true junction")
    bottom.set_ylabel("points per image")
    return figure


def _quiet(ax: Axes) -> Axes:
    """Axes without box, with a faint grid."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color="0.9", linewidth=0.8)
    return ax


def _sample_image(ax: Axes, sample: WatchedSample, title: str) -> None:
    show(0.7 * contrast_stretch(sample.image), ax, title)
    rings(ax, sample.annotated, 70, "white")


def _dot(color: str, label: str) -> Line2D:
    return Line2D([], [], marker="o", ls="", color=color, markeredgecolor="black", markeredgewidth=0.4, label=label)
