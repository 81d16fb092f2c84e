"""Pictures of a benchmark: success against turn, scale and overlap, one line per method; all three together, one map
per method; seconds per stage and per method.

Tables are those of `grid_tables`. Every plot function makes a figure of its own and returns it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ..evaluation.baselines.classical import BASELINES
from ..evaluation.calibration import calibration_error
from ..evaluation.grid_tables import MEASURES, crossed_rows
from ..evaluation.grids import OURS
from ..evaluation.timing import STAGES
from ..evaluation.trials import FOUND_PX
from ..registration.options import RegistrarOptions
from .curves import plot_risk_coverage
from .registrations import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, WIDTH_IN, YELLOW

LOOKS = dict(
    zip(
        (OURS, *BASELINES),
        zip((BLUE, RED, ORANGE, GREEN, PURPLE, BLACK, SKY, "0.55"), "osD^vXP*", strict=True),
        strict=True,
    )
)  # color, marker
STAGE_COLORS = dict(zip(STAGES, (SKY, BLUE, ORANGE, YELLOW), strict=True))
AXIS = {
    "angle": "turn between the images",
    "scale": "size in the moving image : size in the fixed one",
    "overlap": "share of the smaller field that both see",
}


def plot_grid(cells: Sequence[Mapping], factor: str, measure: str = "success") -> Figure:
    """One panel per pair of modalities, one line per method: a measure (key of MEASURES, share of all pairs) against
    the bins of a factor. cells: `grid_tables.summarise(rows, "factor", "bin", "pair", "method")`; a factor that they
    lack is said to be missing."""
    own = [cell for cell in cells if cell["factor"] == factor]
    if not own:
        return _nothing(f"the {factor}")
    pairs, bins, methods = (list(dict.fromkeys(cell[key] for cell in own)) for key in ("pair", "bin", "method"))
    figure = plt.figure(figsize=(WIDTH_IN * (1 if len(pairs) > 1 else 0.7), 3.7), layout="constrained")
    axes = figure.subplots(1, len(pairs), sharey=True, squeeze=False)[0]
    for ax, pair in zip(axes, pairs, strict=True):
        for method, aside in zip(methods, _asides(methods), strict=True):
            values = {cell["bin"]: cell[measure] for cell in own if (cell["pair"], cell["method"]) == (pair, method)}
            _line(ax, np.arange(len(bins)) + aside, [values.get(label, np.nan) for label in bins], method)
        counts = {cell["n"] for cell in own if cell["pair"] == pair}
        each = f"{min(counts)}" + (f" to {max(counts)}" if len(counts) > 1 else "")
        ax.set_title(f"{pair}, {each} {'pair' if counts == {1} else 'pairs'} per point", fontsize=11)
        ax.set_xticks(range(len(bins)), bins)
        ax.set(ylim=(-0.04, 1.04), xlim=(-0.4, len(bins) - 0.6))
        ax.yaxis.set_major_formatter("{x:.0%}" if measure != "auc25" else "{x:.1f}")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, axis="y", color="0.9", linewidth=0.8)
    axes[0].set_ylabel(MEASURES[measure])
    figure.supxlabel(AXIS[factor], fontsize=10)
    handles = {line.get_label(): line for line in axes[0].lines}
    columns = 6 if len(pairs) > 1 else 4 if len(handles) <= 4 else 3
    figure.legend(
        handles.values(), handles.keys(), loc="outside upper center", ncols=columns, frameon=False, markerscale=0.8
    )
    return figure


def plot_crossed(cells: Sequence[Mapping], measure: str = "success") -> Figure:
    """One map per method (column) and overlap (row): a measure, in percent, over scale and turn, pairs of all
    modalities together."""
    rows = crossed_rows(cells, measure)
    if not rows:
        return _nothing("turn, scale and overlap together")
    methods, overlaps, turns = (list(dict.fromkeys(row[key] for row in rows)) for key in ("method", "overlap", "turn"))
    scales = [
        scale
        for scale in dict.fromkeys(key for row in rows for key in row)
        if scale not in ("method", "overlap", "turn")
    ]
    values_of = {
        (row["method"], row["overlap"], row["turn"]): [row.get(scale, np.nan) for scale in scales] for row in rows
    }
    height = 0.5 + len(overlaps) * (0.5 + 0.24 * len(turns))
    figure = plt.figure(figsize=(WIDTH_IN, height + 0.5), layout="constrained")
    axes = figure.subplots(len(overlaps), len(methods), sharex=True, sharey=True, squeeze=False)
    for line, overlap in zip(axes, overlaps, strict=True):
        for ax, method in zip(line, methods, strict=True):
            values = np.array([values_of.get((method, overlap, turn), [np.nan] * len(scales)) for turn in turns])
            ax.imshow(values, "Blues", vmin=0, vmax=1, aspect="auto")
            for (y, x), value in np.ndenumerate(values):
                if np.isfinite(value):
                    ax.text(
                        x,
                        y,
                        f"{100 * value:.0f}",
                        ha="center",
                        va="center",
                        fontsize=8,
                        color="white" if value > 0.6 else "0.15",
                    )
            ax.set_xticks(range(len(scales)), scales, fontsize=8)
            ax.set_yticks(range(len(turns)), turns, fontsize=8)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(f"overlap {overlap}", fontsize=9)
    for ax, method in zip(axes[0], methods, strict=True):
        ax.set_title(
            method.replace("+", "\n+").replace(" ", "\n", 1),
            fontsize=9,
            fontweight="bold" if method == OURS else "normal",
        )
    figure.supxlabel(f"{AXIS['scale']}   (rows: turn; figures: {MEASURES[measure]}, %)", fontsize=9)
    return figure


def _nothing(about: str) -> Figure:
    """Says that there is nothing to draw; a figure without axes would not be shown."""
    figure = plt.figure(figsize=(0.7 * WIDTH_IN, 0.5))
    ax = figure.add_subplot()
    ax.set_axis_off()
    ax.text(0, 0.5, f"These figures hold nothing about {about}.", fontsize=11)
    return figure


def _asides(methods: Sequence[str]) -> list[float]:
    """Shifts along x, so that baselines with equal values stand side by side, to the left and right of ours."""
    others = [name for name in methods if name != OURS]
    steps = [k - len(others) // 2 + (k >= len(others) // 2) for k in range(len(others))]  # … -2 -1 1 2 …
    return [0.0 if name == OURS else 0.06 * steps[others.index(name)] for name in methods]


def _line(ax, places, values, method: str) -> None:
    """Ours is a broad band below the others, so that nothing hides behind it."""
    color, marker = LOOKS.get(method, ("0.5", "."))
    shape = {"linewidth": 6, "markersize": 10, "alpha": 0.8} if method == OURS else {"linewidth": 1.4, "markersize": 6}
    ax.plot(
        places,
        values,
        color=color,
        marker=marker,
        markeredgecolor="white",
        markeredgewidth=0.6,
        label=method,
        zorder=2 if method == OURS else 3,
        **shape,
    )


def plot_confidence(rows: Sequence[Mapping], bins: int = 10) -> Figure:
    """What the confidence of ours is worth. Left: share that was right (within FOUND_PX, refused answers too) against
    the mean confidence of each bin, area by count. Right: share of wrong answers among those given, for every limit; a
    dot where it stands."""
    own = [row for row in rows if row["method"] == OURS and "confidence" in row]
    sure, right = (
        np.array(values, float)
        for values in ([row["confidence"] for row in own], [row["tried_px"] <= FOUND_PX for row in own])
    )
    figure = plt.figure(figsize=(WIDTH_IN, 3.7), layout="constrained")
    left, ax = figure.subplots(1, 2)
    index = np.minimum((sure * bins).astype(int), bins - 1)
    means = [(sure[index == b].mean(), right[index == b].mean(), (index == b).sum()) for b in np.unique(index)]
    left.plot([0, 1], [0, 1], color="0.7", linewidth=1, zorder=1)
    for mean, share, count in means:
        left.scatter(mean, share, 30 + 400 * count / len(own), color=BLUE, alpha=0.8, edgecolor="white", zorder=2)
        left.annotate(f"{count}", (mean, share), (0, 12), textcoords="offset points", ha="center", fontsize=9)
    error = calibration_error(sure, right) if own else float("nan")
    left.set(
        xlim=(-0.06, 1.06),
        ylim=(-0.06, 1.12),
        xlabel="confidence (mean of a bin)",
        ylabel=f"right within {FOUND_PX:g} px",
    )
    left.set_title(f"{len(own)} pairs, calibration error {error:.3f}", fontsize=11)
    plot_risk_coverage(ax, sure, right, RegistrarOptions().min_confidence)
    ax.set_title("risk and coverage", fontsize=11)
    for axes in (left, ax):
        axes.spines[["top", "right"]].set_visible(False)
        axes.yaxis.set_major_formatter("{x:.0%}")
    return figure


def plot_stages(rows: Sequence[Mapping]) -> Figure:
    """Mean seconds of retina_kp per pair, stage upon stage, one panel per factor; rows: `grid_tables.stage_rows`."""
    factors = list(dict.fromkeys(row["factor"] for row in rows))
    widths = [sum(row["factor"] == factor for row in rows) + 1 for factor in factors]
    figure = plt.figure(figsize=(WIDTH_IN, 3.2), layout="constrained")
    axes = figure.subplots(1, len(factors), sharey=True, squeeze=False, width_ratios=widths)[0]
    for ax, factor in zip(axes, factors, strict=True):
        own = [row for row in rows if row["factor"] == factor]
        bottom = np.zeros(len(own))
        for stage in STAGES:
            seconds = np.array([row[stage] for row in own])
            ax.bar(range(len(own)), seconds, 0.7, bottom, color=STAGE_COLORS[stage], label=stage)
            bottom += seconds
        for place, total in enumerate(bottom):
            ax.text(place, total, f"{total:.2f}", ha="center", va="bottom", fontsize=9)
        ax.set_xticks(range(len(own)), [row["bin"] for row in own])
        ax.set_title(factor, fontsize=11)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seconds per pair")
    axes[0].set_ylim(0, 1.12 * max(sum(row[stage] for stage in STAGES) for row in rows))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(STAGES), frameon=False)
    return figure


def plot_seconds(rows: Sequence[Mapping]) -> Figure:
    """Median seconds per pair of each method; rows: `grid_tables.method_rows`, those without figures are left out."""
    rows = [row for row in rows if row["median_s"] is not None]
    figure = plt.figure(figsize=(0.7 * WIDTH_IN, 0.6 + 0.34 * len(rows)), layout="constrained")
    ax = figure.add_subplot()
    seconds = [row["median_s"] for row in rows]
    ax.barh(range(len(rows)), seconds, 0.65, color=[LOOKS.get(row["method"], ("0.5", "."))[0] for row in rows])
    for place, value in enumerate(seconds):
        ax.text(value + 0.01 * max(seconds), place, f"{value:.2f} s", va="center", fontsize=10)
    ax.set_yticks(range(len(rows)), [row["method"] for row in rows])
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.12 * max(seconds)), xlabel="seconds per pair (median)")
    ax.spines[["top", "right"]].set_visible(False)
    return figure
