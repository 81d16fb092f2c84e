"""Charts of an evaluation: outcomes, error curves, paired differences, errors against turn and scale, and whether the
confidence knew; `difficulty` has those of what makes pairs hard.

rows: those of the runner. Every function makes a figure of its own and returns it, or a sentence where there is nothing
to draw; what a colour says, a hatch, a marker or a dash says too.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.calibration import calibration_error
from ..evaluation.methods import ORACLE
from ..evaluation.pairs import FIT
from ..evaluation.summary import (
    FLOOR,
    OUTCOMES,
    answered_with_confidence,
    as_taken,
    claims_nothing,
    outcomes,
    was_right,
    with_truth,
)
from ..registration.options import RegistrarOptions
from .curves import plot_error_cdf, plot_risk_coverage, quiet
from .registrations import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, WIDTH_IN, YELLOW, plain

# colour, marker and dash of methods: no two alike, each told apart by its marker and dash alone; black is for what was
# given the truth
_DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (6, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2, 2, 2)), (0, (2, 2)))
_DASHES += ((0, (5, 1, 1, 1)), (0, (10, 3)), (0, (4, 1)), (0, (2, 1, 1, 1)), (0, (7, 1, 3, 1)))
_COLORS = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, "0.45", BLUE, RED, GREEN, PURPLE, ORANGE, SKY)
SERIES = tuple(zip(_COLORS, "os^DvXP*<>hdp", _DASHES, strict=True))
# of an outcome: colour, hatch, the dash of a frame around its picture, and the shape of a dot
_LOOKS = (
    (GREEN, "", "-", "circle"),
    (YELLOW, "\\\\", (0, (6, 2)), "triangle"),
    (RED, "////", (0, (2, 1)), "square"),
    (SKY, "..", (0, (1, 1)), "diamond"),
    ("0.65", "", (0, (8, 2, 1, 2)), "cross"),
)
OUTCOME_LOOKS = dict(zip(OUTCOMES, _LOOKS, strict=True))
MEASURES = {"acceptable": "acceptable", "auc25": "AUC25", "wrong_accepted": "wrongly accepted"}
NO_TRUTH = "No pair has a truth: nothing can be judged."
KINDS = {"CF-FA": (ORANGE, "o"), "CF-OCT": (BLUE, "s"), "CF-OCTA": (PURPLE, "^")}
KINDS |= {"OCT-FA": (BLACK, "D"), "CF-CF": (GREEN, "v")}
NO_TRANSFORM_PX = 400.0  # where pairs without a transform stand on an axis of errors


def looks(methods: Sequence[str]) -> dict[str, tuple]:
    """Color, marker and dash of each method, in their order."""
    return {name: SERIES[k % len(SERIES)] for k, name in enumerate(methods)}


def plot_outcomes(rows: pd.DataFrame, accept_confidence: float = 0.5) -> Figure | str:
    """What became of all pairs with truth, as taken: one bar per method, the annotation's fit and the oracles first."""
    judged = with_truth(as_taken(rows))
    if not len(judged):
        return NO_TRUTH
    counts = pd.crosstab(judged.method, outcomes(judged, accept_confidence))
    counts = counts.reindex(judged.method.unique()).reindex(columns=list(OUTCOMES), fill_value=0)
    figure = plt.figure(figsize=(WIDTH_IN, 1.1 + 0.42 * len(counts)), layout="constrained")
    ax = figure.add_subplot()
    for place, found in enumerate(counts.to_numpy()):
        left = 0.0
        for name, count in zip(OUTCOMES, found, strict=True):
            share, (color, hatch, *_) = count / found.sum(), OUTCOME_LOOKS[name]
            looks_of = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.8}
            ax.barh(place, share, 0.72, left, label=name if place == 0 else "_", **looks_of)
            if share >= 0.03:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
                ax.text(left + share / 2, place, count, ha="center", va="center", fontsize=10, bbox=box)
            left += share
    ax.set_yticks(range(len(counts)), [plain(name) for name in counts.index])
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel=f"share of all pairs ({judged.pair.nunique()})")
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure


def plot_cdf(rows: pd.DataFrame, limit_px: float = 25) -> Figure | str:
    """Share of all pairs, as taken, whose mean error is at most t: all methods; in black, dashed, the annotation's own
    fit and, dotted, the oracle of the first method; broad and gray, where annotations were clicked, their residual."""
    judged = with_truth(as_taken(rows))
    if not len(judged):
        return NO_TRUTH
    errors = {name: own.mean_px for name, own in judged.groupby("method", sort=False)}
    claiming = [name for name in errors if not claims_nothing(name)]
    first = claiming[0] if claiming else ""
    black = {FIT: (BLACK, "", (0, (5, 2))), first + ORACLE: (BLACK, "", (0, (1, 1)))}
    errors = {name: own for name, own in errors.items() if name in black or name in claiming}
    figure = plt.figure(figsize=(WIDTH_IN, 4.2), layout="constrained")
    ax = plot_error_cdf(figure.add_subplot(), errors, limit_px)
    styles = black | looks(claiming)
    for k, (line, name) in enumerate(zip(ax.lines, errors, strict=True)):
        color, marker, dash = styles[name]
        line.set(color=color, linestyle=dash, linewidth=2.6 if name == first else 1.7)
        line.set_zorder(1.5 if claims_nothing(name) else 2 - k / 100)
        line.set(marker=marker, markevery=(0.03 * k, 0.25), markersize=7, markeredgecolor="white", markeredgewidth=0.6)
    residuals = judged.residual_px.dropna() if "residual_px" in judged else []
    if len(residuals):
        plot_error_cdf(ax, {FLOOR: residuals}, limit_px).lines[-1].set(color="0.55", linewidth=4, alpha=0.6, zorder=1)
    ax.set(xlabel="mean error of a pair (px, longer side of the fixed image 768)")
    ax.yaxis.set_major_formatter("{x:.0%}")
    ax.legend(frameon=False, fontsize=10, loc="center left", bbox_to_anchor=(1.0, 0.5), title="within the axis")
    return figure


def plot_differences(table: pd.DataFrame, first: str) -> Figure | str:
    """The method ``first`` minus each other one on the same pairs, with intervals; right of zero it has more. table:
    `summary.differences`."""
    if not len(table):
        return "No second method on pairs with a truth."
    table = table[table.kind == table.kind.iloc[-1]]  # all pairs together
    figure = plt.figure(figsize=(WIDTH_IN, 1.2 + 0.38 * len(table)), layout="constrained")
    for ax, (name, title) in zip(figure.subplots(1, 3, sharey=True), MEASURES.items(), strict=True):
        ax.axvline(0, color="0.4", linewidth=1)
        for place, (middle, low, high) in enumerate(table[name]):
            ax.plot([low, high], [place, place], color=BLUE, linewidth=2.4, solid_capstyle="butt")
            ax.plot(middle, place, "o", color=BLUE, markersize=7, markeredgecolor="white")
        ax.set(title=title, xlim=(-1.05, 1.05), ylim=(len(table) - 0.5, -0.5))
        ax.xaxis.set_major_formatter("{x:+.1f}")
        ax.set_yticks(range(len(table)), [plain(f"{first} − {name}") for name in table.against])
        quiet(ax, "x").spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
    figure.supxlabel("difference of shares, 95 % interval over eyes", fontsize=10)
    return figure


# ------------------------------------------------------------------ what makes pairs hard


def plot_against_pose(rows: pd.DataFrame, method: str) -> Figure | str:
    """Mean error of one method's pairs, those under stress too, against the true turn and the true scale; pairs without
    a transform stand on a rail at the top."""
    judged = with_truth(rows[rows.method == method])
    if not len(judged):
        return NO_TRUTH
    figure = plt.figure(figsize=(WIDTH_IN, 4.0), layout="constrained")
    axes, top = figure.subplots(1, 2, sharey=True), NO_TRANSFORM_PX / 1.6
    height = judged.mean_px.clip(0.3, top).where(np.isfinite(judged.mean_px), NO_TRANSFORM_PX)
    columns = {"true_turn_deg": "true turn (°)", "true_scale": "true scale, moving → fixed"}
    for ax, (key, label) in zip(axes, columns.items(), strict=True):
        for k, (kind, own) in enumerate(judged.groupby("kind", sort=False)):
            color, marker = KINDS.get(kind, SERIES[k % len(SERIES)][:2])
            dots = {"s": 34, "edgecolors": "white", "linewidths": 0.5, "alpha": 0.85}
            ax.scatter(own[key], height[own.index], color=color, marker=marker, label=plain(kind), **dots)
        ax.axhline(20, color="0.4", linewidth=1, linestyle="--")
        ax.axhspan(NO_TRANSFORM_PX / 1.3, NO_TRANSFORM_PX * 1.3, color="0.92", zorder=0)
        ax.set(xlabel=label, yscale="log", ylim=(0.25, NO_TRANSFORM_PX * 1.3))
        quiet(ax)
    ticks = {f"{tick:g}": tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100)}
    ticks |= {f"≥ {top:g}": top, "no transform": NO_TRANSFORM_PX}
    axes[0].set_yticks(list(ticks.values()), list(ticks))
    axes[0].set_xticks(range(0, 181, 30))
    axes[0].minorticks_off()
    axes[1].set_xscale("log")
    low, high = axes[1].get_xlim()
    low, high = min(low, 0.69), max(high, 1.45)  # so that three ticks show, however alike the scales
    ticks = [tick for tick in (0.125, 0.25, 0.35, 0.5, 0.7, 1, 1.4, 2, 2.8, 4, 8) if low <= tick <= high]
    axes[1].set_xlim(low, high)
    axes[1].minorticks_off()
    axes[1].set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes[0].set_ylabel(plain(f"mean error of {method} (px at 768)"))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure


def plot_reliability(table: pd.DataFrame, rows: pd.DataFrame) -> Figure | str:
    """Pairs as taken. Left: per bin of `summary.reliability` the share that was right, with its interval, and as a dash
    the mean confidence that it should reach; counts stand below, the expected calibration error of ten equal bins
    above. Middle: every answer by its confidence, right and wrong ones apart, refused ones as open marks. Right: risk
    and coverage over all pairs."""
    if not len(table):
        return "No answer with a confidence and a truth."
    figure = plt.figure(figsize=(WIDTH_IN, 3.6), layout="constrained")
    left, middle, risk = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
    places = np.arange(len(table))
    left.vlines(places, table.low, table.high, color=BLUE, linewidth=1.6, zorder=2)
    dash = {"color": BLACK, "linewidth": 2, "zorder": 2.5, "label": "mean confidence"}
    left.hlines(table.confidence, places - 0.3, places + 0.3, **dash)
    dots = {"markersize": 9, "markeredgecolor": "white", "zorder": 3, "label": "share that was right"}
    left.plot(places, table.right, "o", color=BLUE, **dots)
    bins = zip(table["from"], table["to"], table.n, strict=True)
    left.set_xticks(places, [f"{low:g}–{high:g}\nn = {n}" for low, high, n in bins])
    left.set(xlim=(-0.6, len(table) - 0.4), ylim=(-0.03, 1.06), xlabel="confidence, and number of answers")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=2, frameon=False)
    judged = answered_with_confidence(as_taken(rows))
    error = calibration_error(judged.confidence, was_right(judged))
    left.set_title(f"calibration error {error:.3f}", fontsize=11)
    _answers(middle, judged)
    asked = with_truth(as_taken(rows))
    asked = asked[asked.confidence.notna()]
    plot_risk_coverage(risk, asked.confidence, was_right(asked), RegistrarOptions().min_confidence)
    for ax in (left, middle, risk):
        quiet(ax)
    return figure


def _answers(ax: Axes, judged: pd.DataFrame) -> None:
    rng, right, refused = np.random.default_rng(0), was_right(judged), judged.outcome == "refused"
    for good, height, color, marker in ((True, 1, GREEN, "o"), (False, 0, RED, "X")):
        for open_mark in (False, True):
            own = judged.confidence[(right == good) & (refused == open_mark)]
            shape = {"facecolors": "none" if open_mark else color, "edgecolors": color if open_mark else "white"}
            ax.scatter(own, height + rng.uniform(-0.22, 0.22, len(own)), s=42, marker=marker, linewidths=0.9, **shape)
    ax.set_yticks([0, 1], [f"wrong ({(~right).sum()})", f"right ({right.sum()})"])
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.5, 1.5), xlabel="confidence; open marks were refused")
