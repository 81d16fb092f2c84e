"""Curves of a training run: losses, validation, the PKE funnel; and the whole course of the shipped weights.

Rows are those of a run's history, one per epoch. Every plot function makes a figure of its own and returns it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..networks.checkpoints import SHIPPED
from ..training.phases import PHASES
from ..training.run_data import REPLAY
from .curves import plot_history, plot_loss
from .registrations import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, WIDTH_IN

CEILING = {
    "gt_success": "registered, perfect detector",
    "gt_matched_right": "matched right, perfect detector",
    "det_success": "registered, own detector",
}
DETECTOR = {"repeatability": "repeatability", "matching_score": "matching score"}
POINTS = {"points0": "fixed image", "points1": "moving image"}
FUNNEL = {
    "pke_candidates": "candidates",
    "pke_after_mask": "on a vessel",
    "pke_after_view": "in both views",
    "pke_after_geometric": "moving detector agrees",
    "pke_after_content": "descriptor agrees",
    "pke_after_budget": "mined",
    "pke_promoted": "promoted labels",
}
COURSE_LOSSES = {
    "loss_des": BLUE,
    "loss_det": RED,
    "loss_mov": ORANGE,
    "loss_geo": GREEN,
    "loss_geo_pke": PURPLE,
    "loss_explore": SKY,
}
COURSE_SHARES = {
    "gt_matched_right": (BLUE, "junctions matched right, perfect detector (oracle)"),
    "repeatability": (GREEN, "repeatability of the own detector"),
    "det_success": (BLACK, "pairs registered, own detector"),
}


def plot_run(history: Sequence[Mapping[str, float]], losses: Sequence[str] = ()) -> Figure:
    """A run at a glance, from the rows of its history: losses (the named ones, default all), alignment oracle beside
    the real detector (on validation pairs, and on those that must not be forgotten when there are any), repeatability
    and matching score, points per image, and the PKE funnel when PKE took part."""
    panels = [_losses(losses), _shares("validation: oracle and detector", CEILING)]
    if any(f"{REPLAY}gt_success" in row for row in history):
        panels.append(_shares("replay, not to be forgotten: the same", {f"{REPLAY}{k}": v for k, v in CEILING.items()}))
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


def shipped_course(name: str = "lite") -> list[dict]:
    """The history of the shipped weights, an entry per epoch of all stages in their order; "stage" is text, all else
    a number."""
    with open(SHIPPED / f"{name}.csv", encoding="utf-8", newline="") as file:
        rows = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    return [{key: value if key == "stage" else float(value) for key, value in row.items()} for row in rows]


def plot_course(rows: Sequence[Mapping]) -> Figure:
    """Stage after stage over all steps, from the rows of `shipped_course`: the losses that counted in each stage, and
    the shares on validation pairs. A dashed line stands where a stage ends; a stage is named after its phase
    ("1_warmup")."""
    figure = plt.figure(figsize=(WIDTH_IN, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    begin = 0.0
    for stage in dict.fromkeys(row["stage"] for row in rows):
        part = [row for row in rows if row["stage"] == stage]
        phase = PHASES[stage.partition("_")[2]]
        steps = begin + np.array([row["step"] for row in part])
        for loss in phase.losses:
            _segment(left, steps, part, loss.name, COURSE_LOSSES.get(loss.name, "0.4"), loss.name)
        for key, (color, name) in COURSE_SHARES.items():
            _segment(right, steps, part, key, color, name)
        for ax in (left, right):
            place = ((begin + steps[-1]) / 2, 1.01)
            ax.text(*place, phase.title[0], transform=ax.get_xaxis_transform(), ha="center", fontsize=10)
            if begin:
                ax.axvline(begin, color="0.4", linestyle="--", linewidth=1)
        begin = steps[-1]
    for ax, words, ylabel in ((left, "losses", "loss"), (right, "validation", "share")):
        ax.set(xlabel="step", ylabel=ylabel, ylim=(0, None), xlim=(0, begin * 1.01))
        ax.set_title(f"{words} (above: the phase)", fontsize=11, pad=20)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="0.9", linewidth=0.8)
        by_name = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        columns = 3 if ax is left else 1
        legend = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "frameon": False, "fontsize": 9}
        ax.legend(by_name.values(), by_name.keys(), ncols=columns, **legend)
    return figure


def _segment(ax: Axes, steps: np.ndarray, part: Sequence[Mapping], key: str, color: str, name: str) -> None:
    values = np.array([row.get(key, np.nan) for row in part], float)
    ax.plot(steps, values, color=color, linewidth=1.8, marker="o", markersize=3, label=name)


# ------------------------------------------------------------------ panels of plot_run


def _losses(names: Sequence[str]):
    """A panel of the total and the named losses."""

    def panel(ax: Axes, history: Sequence[Mapping]) -> None:
        kept = {"epoch", "total", *names} if names else {key for row in history for key in row}
        rows = [{key: value for key, value in row.items() if key in kept} for row in history]
        plot_loss(ax, rows).set_yscale("linear")
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
    # The guard decides about the next epoch
    paused = [row["epoch"] + 1 for row in history[:-1] if row.get("pke_active") == 0]
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
