"""Charts of an evaluation on real pairs: outcomes, error curves, paired differences, turn and scale, stress, confidence.

Rows are those of `real_evaluation`, tables those of `evaluation_tables`. Every function makes a figure of its own and returns it; what a
colour says, a hatch, a marker or a dash says too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from .evaluation_pairs import FIT, TRUE_KEYPOINTS, claims_nothing
from .evaluation_tables import FLOOR, OUTCOMES, answered_with_confidence, outcome, pair_result, was_right, with_truth
from .real_evaluation import as_taken
from .viz import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, WIDTH_IN, YELLOW
from .viz_curves import plot_error_cdf

SERIES = tuple(
    zip((BLUE, RED, ORANGE, GREEN, PURPLE, SKY, BLACK, "0.55"), "osD^vXP*", ("-", "--", "-.", ":", "-", "--", "-.", ":"), strict=True)
)
OUTCOME_LOOKS = dict(zip(OUTCOMES, ((GREEN, ""), (YELLOW, "\\\\"), (RED, "////"), (SKY, ".."), ("0.75", "")), strict=True))
KINDS = {"CF-FA": (ORANGE, "o"), "CF-OCT": (BLUE, "s"), "CF-OCTA": (PURPLE, "^"), "OCT-FA": (BLACK, "D"), "CF-CF": (GREEN, "v")}
FACTORS = {"turn": "turn (°)", "scale": "size of the moving image (×)", "shift": "shift (widths)", "crop": "share of each side left",
           "blur": "blur (px at 768)", "noise": "noise (gray levels in [0, 1])", "gamma": "gamma"}  # fmt: skip
MEASURES = {
    "acceptable": "acceptable",
    "auc25": "AUC25",
    "strict": "mean ≤ 5 px and max ≤ 10 px at 512",
    "wrong_accepted": "wrongly accepted",
}
NO_TRUTH = "No pair has a truth: nothing can be judged."
NO_TRANSFORM_PX = 400.0  # where pairs without a transform stand on an axis of errors


def looks(methods: Sequence[str]) -> dict[str, tuple[str, str, str]]:
    """Color, marker and dash of each method, in their order."""
    return {name: SERIES[k % len(SERIES)] for k, name in enumerate(methods)}


def plot_outcomes(facts: Sequence[dict], rows: Sequence[dict], accept_confidence: float = 0.5) -> Figure:
    """What became of all pairs with truth, as taken: one bar per method, the annotation's fit and the ceilings first."""
    judged = with_truth(facts) + with_truth(as_taken(rows))
    if not judged:
        return _nothing(NO_TRUTH)
    methods = list(dict.fromkeys(row["method"] for row in judged))
    figure = plt.figure(figsize=(WIDTH_IN, 1.1 + 0.42 * len(methods)), layout="constrained")
    ax = figure.add_subplot()
    for place, method in enumerate(methods):
        found = [outcome(row, accept_confidence) for row in judged if row["method"] == method]
        left = 0.0
        for name in OUTCOMES:
            share, (color, hatch) = found.count(name) / len(found), OUTCOME_LOOKS[name]
            ax.barh(place, share, 0.72, left, color=color, hatch=hatch, edgecolor="white", linewidth=0.8, label=name if place == 0 else "_")
            if share >= 0.03:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
                ax.text(left + share / 2, place, found.count(name), ha="center", va="center", fontsize=10, bbox=box)
            left += share
    ax.set_yticks(range(len(methods)), methods)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel=f"share of all pairs ({len(with_truth(facts))})")
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure


def plot_cdf(facts: Sequence[dict], rows: Sequence[dict], limit_px: float = 25) -> Figure:
    """Share of all pairs, as taken, whose mean error is at most t: all methods; in black, dashed, the annotation's own fit and, dotted,
    the ceiling of the first method; broad and gray, where annotations were clicked, their residual."""
    judged = with_truth(facts) + with_truth(as_taken(rows))
    if not judged:
        return _nothing(NO_TRUTH)
    methods = list(dict.fromkeys(row["method"] for row in judged))
    first = next((name for name in methods if not claims_nothing(name)), "")
    methods = [name for name in methods if name in (FIT, first + TRUE_KEYPOINTS) or not claims_nothing(name)]
    errors = {name: [pair_result(row).mean_error for row in judged if row["method"] == name] for name in methods}
    figure = plt.figure(figsize=(WIDTH_IN, 4.2), layout="constrained")
    ax = plot_error_cdf(figure.add_subplot(), errors, limit_px)
    ceilings = {FIT: (BLACK, "", (0, (5, 2))), first + TRUE_KEYPOINTS: (BLACK, "", (0, (1, 1)))}
    styles = ceilings | looks([name for name in methods if not claims_nothing(name)])
    for line, name in zip(ax.lines, methods, strict=True):
        line.set(color=styles[name][0], linestyle=styles[name][2], linewidth=2.6 if name == first else 1.7)
    residuals = [fact["residual_px"] for fact in facts if fact.get("residual_px") is not None]
    if residuals:
        plot_error_cdf(ax, {FLOOR: residuals}, limit_px).lines[-1].set(color="0.55", linewidth=4, alpha=0.6, zorder=1)
    ax.set(xlabel="mean error of a pair (px, longer side of the fixed image 768)")
    ax.yaxis.set_major_formatter("{x:.0%}")
    ax.legend(frameon=False, fontsize=10, loc="center left", bbox_to_anchor=(1.0, 0.5), title="within the axis")
    return figure


def plot_differences(table: Sequence[Mapping], first: str, measures: Sequence[str] = ("acceptable", "auc25", "wrong_accepted")) -> Figure:
    """The method ``first`` minus each other one on the same pairs, with intervals; right of zero it has more."""
    if not table:
        return _nothing("No second method on pairs with a truth.")
    table = [line for line in table if line["kind"] == table[-1]["kind"]]  # all pairs together
    figure = plt.figure(figsize=(WIDTH_IN, 1.2 + 0.38 * len(table)), layout="constrained")
    for ax, name in zip(figure.subplots(1, len(measures), sharey=True, squeeze=False)[0], measures, strict=True):
        ax.axvline(0, color="0.4", linewidth=1)
        for place, line in enumerate(table):
            middle, low, high = line[name]
            ax.plot([low, high], [place, place], color=BLUE, linewidth=2.4, solid_capstyle="butt")
            ax.plot(middle, place, "o", color=BLUE, markersize=7, markeredgecolor="white")
        ax.set(title=MEASURES[name], xlim=(-1.05, 1.05), ylim=(len(table) - 0.5, -0.5))
        ax.xaxis.set_major_formatter("{x:+.1f}")
        ax.set_yticks(range(len(table)), [f"{first} − {line['against']}" for line in table])
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.grid(True, axis="x", color="0.9", linewidth=0.8)
    figure.supxlabel("difference of shares, 95 % interval over eyes", fontsize=10)
    return figure


def plot_against_pose(rows: Sequence[dict], method: str) -> Figure:
    """Mean error of one method's pairs, those under stress too, against the true turn and the true scale; pairs without a transform stand
    on a rail at the top."""
    judged = [row for row in with_truth(rows) if row["method"] == method]
    if not judged:
        return _nothing(NO_TRUTH)
    figure = plt.figure(figsize=(WIDTH_IN, 4.0), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    errors = np.array([pair_result(row).mean_error for row in judged])
    height = np.where(np.isfinite(errors), np.clip(errors, 0.3, NO_TRANSFORM_PX / 1.6), NO_TRANSFORM_PX)
    kinds = np.array([row["kind"] for row in judged])
    for ax, key, label in zip(axes, ("true_turn_deg", "true_scale"), ("true turn (°)", "true scale, moving → fixed"), strict=True):
        at = np.array([row[key] for row in judged])
        for k, kind in enumerate(dict.fromkeys(kinds)):
            color, marker = KINDS.get(kind, SERIES[k % len(SERIES)][:2])
            own = kinds == kind
            ax.scatter(at[own], height[own], s=34, color=color, marker=marker, edgecolors="white", linewidths=0.5, alpha=0.85, label=kind)
        ax.axhline(20, color="0.4", linewidth=1, linestyle="--")
        ax.axhspan(NO_TRANSFORM_PX / 1.3, NO_TRANSFORM_PX * 1.3, color="0.92", zorder=0)
        ax.set(xlabel=label, yscale="log", ylim=(0.25, NO_TRANSFORM_PX * 1.3))
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="0.92", linewidth=0.8)
    ticks = [0.5, 1, 2, 5, 10, 20, 50, 100, NO_TRANSFORM_PX / 1.6]
    axes[0].set_yticks([*ticks, NO_TRANSFORM_PX], [*(f"{tick:g}" for tick in ticks[:-1]), f"≥ {ticks[-1]:g}", "no transform"])
    axes[0].set_xticks(range(0, 181, 30))
    axes[0].minorticks_off()
    axes[1].set_xscale("log")
    _scale_ticks(axes[1])
    axes[0].set_ylabel(f"mean error of {method} (px at 768)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure


def _scale_ticks(ax) -> None:
    low, high = ax.get_xlim()
    ticks = [tick for tick in (0.125, 0.25, 0.5, 0.7, 1, 1.4, 2, 4, 8) if low <= tick <= high] or [low, high]
    ax.minorticks_off()
    ax.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])


def plot_stress(table: Sequence[Mapping], ceiling: float | None = None, measure: str = "acceptable") -> Figure:
    """One panel per factor: a measure of each method against its values, with intervals as bands; dotted: the ceiling as taken."""
    factors = list(dict.fromkeys(line["factor"] for line in table))
    if not factors:
        return _nothing("No stress was asked for, or no pair has a truth.")
    columns = min(len(factors), 4)
    rows = -(-len(factors) // columns)
    styles = looks(list(dict.fromkeys(line["method"] for line in table)))
    figure = plt.figure(figsize=(WIDTH_IN, 0.5 + 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax, factor in zip(axes, factors, strict=False):
        for method, (color, marker, dash) in styles.items():
            own = sorted((line["value"], *line[measure]) for line in table if (line["factor"], line["method"]) == (factor, method))
            if own:
                x, middle, low, high = np.array(own).T
                ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0)
                ax.plot(x, middle, color=color, marker=marker, linestyle=dash, linewidth=1.8, markeredgecolor="white", label=method)
        if ceiling is not None:
            ax.axhline(ceiling, color=BLACK, linestyle=(0, (1, 1)), linewidth=1.2, label="ceiling, as taken")
        values = sorted({line["value"] for line in table if line["factor"] == factor})
        if factor in ("scale", "gamma"):
            ax.set_xscale("log")
            ax.minorticks_off()
        ax.set_xticks(values, _spaced(values, ax.get_xscale() == "log"))
        ax.set(xlabel=FACTORS[factor], ylim=(-0.03, 1.05))
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="0.92", linewidth=0.8)
    for ax in axes[len(factors) :]:
        ax.set_visible(False)
    for ax in axes[::columns]:
        ax.set_ylabel(MEASURES[measure])
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=6, frameon=False)
    return figure


def _spaced(values: Sequence[float], logarithmic: bool) -> list[str]:
    """Labels of ticks; those too close to the label before them are empty."""
    places, labels, last = np.log(values) if logarithmic else np.array(values), [], -np.inf
    for place, value in zip(places, values, strict=True):
        roomy = place - last >= 0.12 * np.ptp(places)
        labels.append(f"{value:g}" if roomy else "")
        last = place if roomy else last
    return labels


def plot_reliability(table: Sequence[Mapping], rows: Sequence[dict]) -> Figure:
    """Left: share that was right against mean confidence, per bin of `evaluation_tables.reliability`, with counts. Right: every answer by
    its confidence, right and wrong ones apart, refused ones as open marks."""
    if not table:
        return _nothing("No answer with a confidence and a truth.")
    figure = plt.figure(figsize=(WIDTH_IN, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    left.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle="--")
    left.plot([b["confidence"] for b in table], [b["right"] for b in table], "o-", color=BLUE, markersize=8, markeredgecolor="white")
    for k, line in enumerate(table):
        side = -1 if line["confidence"] > 0.5 else 1
        later = sum(other["confidence"] - line["confidence"] < 0.25 for other in table[k + 1 :])
        down = -16 - 13 * later if line["right"] > 0.5 else 8  # below each other where bins lie close
        left.annotate(f"{line['from']:g}–{line['to']:g}: {line['n']}", (line["confidence"], line["right"]), (9 * side, down), fontsize=9,
                      textcoords="offset points", ha="right" if side < 0 else "left")  # fmt: skip
    left.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.06), xlabel="mean confidence (bin: number of answers)", ylabel="share that was right")
    judged = answered_with_confidence(rows)
    rng = np.random.default_rng(0)
    for good, height, color, marker in ((True, 1, GREEN, "o"), (False, 0, RED, "X")):
        for refused in (False, True):
            own = [row["confidence"] for row in judged if was_right(row) == good and (row["outcome"] == "refused") == refused]
            shape = {"facecolors": "none" if refused else color, "edgecolors": color if refused else "white"}
            right.scatter(own, height + rng.uniform(-0.22, 0.22, len(own)), s=42, marker=marker, linewidths=0.9, **shape)
    counts = {good: sum(was_right(row) == good for row in judged) for good in (True, False)}
    right.set_yticks([0, 1], [f"wrong ({counts[False]})", f"right ({counts[True]})"])
    right.set(xlim=(-0.03, 1.03), ylim=(-0.5, 1.5), xlabel="confidence; open marks were refused")
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(True, color="0.92", linewidth=0.8)
    return figure


def _nothing(text: str) -> Figure:
    figure = plt.figure(figsize=(0.7 * WIDTH_IN, 0.5))
    ax = figure.add_subplot()  # a figure without axes is not shown
    ax.set_axis_off()
    ax.text(0, 0.5, text, fontsize=11)
    return figure
