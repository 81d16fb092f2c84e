"""Curves over errors, gray levels and the epochs of a training run, whose rows are those of its history. Functions that
take axes draw into them, or into new ones for None, and return them; the others make a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..evaluation.calibration import risk_coverage
from ..networks.checkpoints import SHIPPED
from ..training.losses import PHASES
from ..training.pke import STAGES
from ..training.run_data import REPLAY
from .registrations import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, WIDTH_IN, new_axes, plain

ORACLE = {
    "gt_success": "registered, perfect detector",
    "gt_matched_right": "matched right, perfect detector",
    "det_success": "registered, own detector",
}
DETECTOR = {"repeatability": "repeatability", "matching_score": "matching score"}
POINTS = {"points0": "fixed image", "points1": "moving image"}
FUNNEL = {"pke_candidates": "candidates", **{f"pke_after_{k}": name for k, name in list(STAGES.items())[1:]}}
FUNNEL |= {"pke_promoted": "promoted labels"}
COURSE_LOSSES = {"loss_des": BLUE, "loss_det": RED, "loss_mov": ORANGE, "loss_geo": GREEN, "loss_geo_pke": PURPLE}
COURSE_LOSSES |= {"loss_explore": SKY}
COURSE_SHARES = {
    "gt_matched_right": (BLUE, "junctions matched right, perfect detector (oracle)"),
    "repeatability": (GREEN, "repeatability of the own detector"),
    "det_success": (BLACK, "pairs registered, own detector"),
}


def plot_error_cdf(ax: Axes | None, errors: Mapping[str, Sequence[float]], limit: float = 25) -> Axes:
    """Share of all pairs whose mean error is at most t, for t up to ``limit`` px; None, NaN and infinite errors count
    as failed."""
    ax = _line_axes(ax)
    for name, values in errors.items():
        values = np.array(list(values), np.float64)
        x = np.sort(values[values <= limit])
        share = np.arange(len(x) + 1) / max(len(values), 1)
        label = plain(f"{name}: {share[-1]:.0%} of {len(values)}")
        ax.step([0, *x, limit], [*share, share[-1]], where="post", linewidth=1.8, label=label)
    ax.set(xlim=(0, limit), ylim=(-0.01, 1.02), xlabel="mean error (px)", ylabel="share of all pairs")
    ax.legend(frameon=False, fontsize=10)
    return ax


def plot_risk_coverage(ax: Axes | None, confidence: Sequence[float], right: Sequence[float], limit: float) -> Axes:
    """Share of wrong answers among those given, for every limit of confidence; a dot where ``limit`` stands. right: 0
    or 1 per answer."""
    ax, sure, right = _line_axes(ax), np.asarray(confidence, np.float64), np.asarray(right, np.float64)
    coverage, risk = risk_coverage(sure, right)
    ax.step(coverage, risk, where="post", color=BLUE)
    given = sure >= limit
    if given.any():
        ax.plot(given.mean(), 1 - right[given].mean(), "o", color=RED, markersize=9, label=f"limit {limit:g}")
        ax.legend(frameon=False, loc="upper left")
    ax.set(xlabel="share of pairs that get an answer", ylabel="share of these that are wrong")
    ax.set(xlim=(0, 1.03), ylim=(-0.003, max(0.05, 1.15 * risk.max(initial=0))))
    ax.yaxis.set_major_formatter(PercentFormatter(1, 0))
    return ax


def plot_history(ax: Axes | None, rows: Sequence[Mapping], keys: Sequence[str]) -> Axes:
    """Columns of a history (numbers or their text, gaps bridged) over ``epoch`` or the row number; dotted where
    ``phase`` changes."""
    ax = _line_axes(ax)
    epochs = _column(rows, "epoch") if all("epoch" in row for row in rows) else np.arange(1.0, len(rows) + 1)
    for key in keys:
        values = _column(rows, key)
        known = np.isfinite(values)
        size = 4 if known.sum() < 40 else 0
        ax.plot(epochs[known], values[known], linewidth=1.6, marker="o", markersize=size, label=key)
    for k in (k for k in range(1, len(rows)) if rows[k].get("phase") != rows[k - 1].get("phase")):
        ax.axvline((epochs[k] + epochs[k - 1]) / 2, color="0.5", linestyle=":", linewidth=1)
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel("epoch")
    if len(keys):
        ax.legend(frameon=False, fontsize=10)
    return ax


def plot_loss(ax: Axes | None, rows: Sequence[Mapping]) -> Axes:
    """Every column named ``total`` or ``loss…`` over the epochs, on a log scale when all values are positive."""
    keys = [key for key in dict.fromkeys(k for row in rows for k in row) if key == "total" or key.startswith("loss")]
    ax = plot_history(ax, rows, keys)
    positive = bool(keys) and min(np.nanmin(_column(rows, key), initial=np.inf) for key in keys) > 0
    ax.set(ylabel="loss", yscale="log" if positive else "linear")
    return ax


def plot_histograms(ax: Axes | None, histograms: Mapping[str, Sequence[float]]) -> Axes:
    """Shares of pixels per gray level in [0, 1], one line per name."""
    ax = _line_axes(ax)
    for name, shares in histograms.items():
        ax.plot((np.arange(len(shares)) + 0.5) / len(shares), shares, label=plain(name))
    ax.set(xlabel="gray level", ylabel="share of pixels", xlim=(0, 1), ylim=(0, None))
    ax.legend()
    return ax


def _column(rows: Sequence[Mapping], key: str) -> np.ndarray:
    return np.array([np.nan if row.get(key) in (None, "") else float(row[key]) for row in rows])


def quiet(ax: Axes, grid: str = "both") -> Axes:
    """Axes without box, with a faint grid behind what is drawn."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, axis=grid, color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def _line_axes(ax: Axes | None) -> Axes:
    ax = new_axes((1, 2), width_in=0.7 * WIDTH_IN) if ax is None else ax
    if not ax.lines:
        ax.set_prop_cycle(color=[BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK])
    return quiet(ax)


# ------------------------------------------------------------------ a whole run


def plot_run(history: Sequence[Mapping[str, float]], losses: Sequence[str] = ()) -> Figure:
    """A run at a glance: losses (the named ones, default all), keypoints, the PKE funnel, and shares on validation
    pairs.

    Shares: the oracle beside the real detector, also on pairs not to be forgotten; repeatability and matching score.
    """
    shares = {"validation: oracle and detector": ORACLE}
    if any(f"{REPLAY}gt_success" in row for row in history):
        shares["replay, not to be forgotten: the same"] = {f"{REPLAY}{k}": v for k, v in ORACLE.items()}
    shares["detector by itself"] = DETECTOR
    with_pke = any("pke_candidates" in row for row in history)
    count = len(shares) + 2 + with_pke
    figure = plt.figure(figsize=(WIDTH_IN, 3.3 * -(-count // 2)), layout="constrained")
    axes = list(figure.subplots(-(-count // 2), 2).flat)
    kept = {"epoch", "total", *losses} if losses else {key for row in history for key in row}
    plot_loss(axes[0], [{key: value for key, value in row.items() if key in kept} for row in history])
    axes[0].set(yscale="linear", ylim=(0, None))
    _legend_below(axes[0], "losses")
    for ax, (title, columns) in zip(axes[1:], shares.items(), strict=False):
        _named(ax, history, columns, title).set(ylim=(-0.03, 1.03), ylabel="share")
    axes = axes[len(shares) + 1 :]
    points = _named(axes[0], history, POINTS, "keypoints per image")
    points.set(ylim=(0, 1.08 * points.get_ylim()[1]), ylabel="points")
    if with_pke:
        plot_pke_funnel(axes[1], history)
    for ax in axes[1 + with_pke :]:
        ax.set_axis_off()
    return figure


def plot_pke_funnel(ax: Axes, history: Sequence[Mapping]) -> Axes:
    """Mean points per image after each stage of PKE over the epochs; grey where the guard had paused it."""
    # The guard decides about the next epoch
    paused = [row["epoch"] + 1 for row in history[:-1] if row.get("pke_active") == 0]
    title = "PKE funnel (grey: paused by the guard)" if paused else "PKE funnel"
    _named(ax, history, FUNNEL, title).set(ylabel="points per image", ylim=(0, None))
    for epoch in paused:
        ax.axvspan(epoch - 0.5, epoch + 0.5, color="0.92", zorder=0)
    return ax


def _named(ax: Axes, history: Sequence[Mapping], columns: Mapping[str, str], title: str) -> Axes:
    """Columns of the history under readable names."""
    rows = [{"epoch": row["epoch"], **{name: row.get(key) for key, name in columns.items()}} for row in history]
    return _legend_below(plot_history(ax, rows, list(columns.values())), title)


def _legend_below(ax: Axes, title: str) -> Axes:
    """The legend where it hides no line."""
    ax.set_title(title, fontsize=11)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=8.5)
    return ax


# ------------------------------------------------------------------ the course of the shipped weights


def shipped_course() -> pd.DataFrame:
    """The history of the shipped weights, a row per epoch of all stages in their order."""
    return pd.read_csv(SHIPPED / "lite.csv")


def plot_course(course: pd.DataFrame) -> Figure:
    """Stage after stage over all steps, from `shipped_course`: the losses that counted in each stage, and the shares on
    validation pairs. A dashed line stands where a stage ends; a stage is named after its phase ("1_warmup")."""
    figure, begin = plt.figure(figsize=(WIDTH_IN, 4.4), layout="constrained"), 0.0
    axes = left, right = figure.subplots(1, 2)
    for stage, part in course.groupby("stage", sort=False):
        phase, steps = PHASES[stage.partition("_")[2]], begin + part["step"].to_numpy(float)
        lines = [(left, k.name, COURSE_LOSSES.get(k.name, "0.4"), k.name) for k in phase.losses if k.name in part]
        lines += [(right, key, *told) for key, told in COURSE_SHARES.items()]
        for ax, key, color, label in lines:
            values = part.get(key, pd.Series(np.nan, part.index)).to_numpy(float)
            ax.plot(steps, values, color=color, linewidth=1.8, marker="o", markersize=3, label=label)
        for ax in axes:
            at = ((begin + steps[-1]) / 2, 1.01)
            ax.text(*at, phase.title[0], transform=ax.get_xaxis_transform(), ha="center", fontsize=10)
            if begin:
                ax.axvline(begin, color="0.4", linestyle="--", linewidth=1)
        begin = steps[-1]
    for ax, words, ylabel, columns in ((left, "losses", "loss", 3), (right, "validation", "share", 1)):
        quiet(ax).set(xlabel="step", ylabel=ylabel, ylim=(0, None), xlim=(0, begin * 1.01))
        ax.set_title(f"{words} (above: the phase)", fontsize=11, pad=20)
        by_name = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        how = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "frameon": False, "fontsize": 9}
        ax.legend(by_name.values(), by_name.keys(), ncols=columns, **how)
    return figure
