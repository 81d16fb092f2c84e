"""Curves over epochs, errors and gray levels: functions that draw into the axes they are given, or new ones for None,
and return them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from ..evaluation.calibration import risk_coverage
from .registrations import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, WIDTH_IN, new_axes


def plot_error_cdf(ax: Axes | None, errors: Mapping[str, Sequence[float]], limit: float = 25) -> Axes:
    """Share of all pairs whose mean error is at most t, for t up to ``limit`` px; None, NaN and infinite errors count
    as failed."""
    ax = _line_axes(ax)
    for name, values in errors.items():
        values = np.array(list(values), np.float64)
        x = np.sort(values[values <= limit])
        share = np.arange(len(x) + 1) / max(len(values), 1)
        ax.step(
            [0, *x, limit],
            [*share, share[-1]],
            where="post",
            linewidth=1.8,
            label=f"{name}: {share[-1]:.0%} of {len(values)}",
        )
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
    ax.set(
        xlim=(0, 1.03),
        ylim=(-0.003, max(0.05, 1.15 * risk.max(initial=0))),
        xlabel="share of pairs that get an answer",
        ylabel="share of these that are wrong",
    )
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
        ax.plot(
            epochs[known], values[known], linewidth=1.6, marker="o", markersize=4 if known.sum() < 40 else 0, label=key
        )
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
        ax.plot((np.arange(len(shares)) + 0.5) / len(shares), shares, label=name)
    ax.set(xlabel="gray level", ylabel="share of pixels", xlim=(0, 1), ylim=(0, None))
    ax.legend()
    return ax


def _column(rows: Sequence[Mapping], key: str) -> np.ndarray:
    return np.array([np.nan if row.get(key) in (None, "") else float(row[key]) for row in rows])


def _line_axes(ax: Axes | None) -> Axes:
    ax = new_axes((1, 2), width_in=0.7 * WIDTH_IN) if ax is None else ax
    if not ax.lines:
        ax.set_prop_cycle(color=[BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK])
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, color="0.9", linewidth=0.8)
    return ax
