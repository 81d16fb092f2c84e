"""Charts of what makes pairs hard: errors against turn and scale, curves under stress, and whether the confidence knew.

As in `viz_evaluation`, every function makes a figure of its own, or returns a sentence where there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from ..evaluation.calibration import calibration_error
from ..evaluation.real import as_taken
from ..evaluation.tables import answered_with_confidence, pair_result, was_right, with_truth
from ..registration.options import RegistrarOptions
from .curves import plot_risk_coverage
from .evaluation import MEASURES, NO_TRUTH, SERIES, bare, looks
from .registrations import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, WIDTH_IN

KINDS = {
    "CF-FA": (ORANGE, "o"),
    "CF-OCT": (BLUE, "s"),
    "CF-OCTA": (PURPLE, "^"),
    "OCT-FA": (BLACK, "D"),
    "CF-CF": (GREEN, "v"),
}
FACTORS = {
    "turn": "turn (°)",
    "scale": "size of the moving image (×)",
    "shift": "shift (widths)",
    "crop": "share of each side left",
    "blur": "blur (px at 768)",
    "noise": "noise (gray levels in [0, 1])",
    "gamma": "gamma",
}
NO_TRANSFORM_PX = 400.0  # where pairs without a transform stand on an axis of errors


def plot_against_pose(rows: Sequence[dict], method: str) -> Figure | str:
    """Mean error of one method's pairs, those under stress too, against the true turn and the true scale; pairs without
    a transform stand on a rail at the top."""
    judged = [row for row in with_truth(rows) if row["method"] == method]
    if not judged:
        return NO_TRUTH
    figure = plt.figure(figsize=(WIDTH_IN, 4.0), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    errors = np.array([pair_result(row).mean_error for row in judged])
    height = np.where(np.isfinite(errors), np.clip(errors, 0.3, NO_TRANSFORM_PX / 1.6), NO_TRANSFORM_PX)
    kinds = np.array([row["kind"] for row in judged])
    for ax, key, label in zip(
        axes, ("true_turn_deg", "true_scale"), ("true turn (°)", "true scale, moving → fixed"), strict=True
    ):
        at = np.array([row[key] for row in judged])
        for k, kind in enumerate(dict.fromkeys(kinds)):
            color, marker = KINDS.get(kind, SERIES[k % len(SERIES)][:2])
            own = kinds == kind
            ax.scatter(
                at[own],
                height[own],
                s=34,
                color=color,
                marker=marker,
                edgecolors="white",
                linewidths=0.5,
                alpha=0.85,
                label=kind,
            )
        ax.axhline(20, color="0.4", linewidth=1, linestyle="--")
        ax.axhspan(NO_TRANSFORM_PX / 1.3, NO_TRANSFORM_PX * 1.3, color="0.92", zorder=0)
        ax.set(xlabel=label, yscale="log", ylim=(0.25, NO_TRANSFORM_PX * 1.3))
        bare(ax)
    ticks = [0.5, 1, 2, 5, 10, 20, 50, 100, NO_TRANSFORM_PX / 1.6]
    axes[0].set_yticks(
        [*ticks, NO_TRANSFORM_PX], [*(f"{tick:g}" for tick in ticks[:-1]), f"≥ {ticks[-1]:g}", "no transform"]
    )
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


def plot_stress(table: Sequence[Mapping], oracle: float | None = None, measure: str = "acceptable") -> Figure | str:
    """One panel per factor: a measure of each method against its values, with intervals, as a band for the first method
    and as bars for the others, which stand a little apart; dotted: the oracle as taken."""
    factors = list(dict.fromkeys(line["factor"] for line in table))
    if not factors:
        return "No stress was asked for, or no pair has a truth."
    columns = min(len(factors), 4)
    rows = -(-len(factors) // columns)
    styles = looks(list(dict.fromkeys(line["method"] for line in table)))
    figure = plt.figure(figsize=(WIDTH_IN, 0.5 + 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for ax, factor in zip(axes, factors, strict=False):
        own = [line for line in table if line["factor"] == factor]
        if oracle is not None:
            ax.axhline(oracle, color=BLACK, linestyle=(0, (1, 1)), linewidth=1.2, label="oracle, as taken", zorder=1.5)
        _curves(ax, own, styles, measure)
        values = sorted({line["value"] for line in own})
        if factor in ("scale", "gamma"):
            ax.set_xscale("log")
            ax.minorticks_off()
        ax.margins(x=0.05 + 0.012 * len(styles))  # room for those that stand apart
        ax.set_xticks(values, _spaced(values, ax.get_xscale() == "log"))
        bare(ax).set(xlabel=FACTORS[factor], ylim=(-0.03, 1.05))
    for ax in axes[len(factors) :]:
        ax.set_visible(False)
    for ax in axes[::columns]:
        ax.set_ylabel(MEASURES[measure])
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5, frameon=False)
    return figure


def _curves(ax: Axes, table: Sequence[Mapping], styles: Mapping[str, tuple], measure: str) -> None:
    """One factor's curves; each method after the first is moved by 2 points, so that bars do not cover each other."""
    for k, (method, (color, marker, dash)) in enumerate(styles.items()):
        points = sorted((line["value"], *line[measure]) for line in table if line["method"] == method)
        if not points:
            continue
        x, middle, low, high = np.array(points).T[:4]
        style = {
            "color": color,
            "marker": marker,
            "linestyle": dash,
            "markeredgecolor": "white",
            "label": method,
            "zorder": 3 - k / 100,
        }
        if k == 0:
            ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0, zorder=1.2)
            ax.plot(x, middle, linewidth=2.2, **style)
        else:
            aside = ax.transData + ScaledTranslation(2 * k / 72, 0, ax.figure.dpi_scale_trans)
            reach = np.maximum([middle - low, high - middle], 0)
            ax.errorbar(x, middle, reach, linewidth=1.4, elinewidth=0.8, capsize=2, transform=aside, **style)


def _spaced(values: Sequence[float], logarithmic: bool) -> list[str]:
    """Labels of ticks; those too close to the label before them are empty."""
    places, labels, last = np.log(values) if logarithmic else np.array(values), [], -np.inf
    for place, value in zip(places, values, strict=True):
        roomy = place - last >= 0.12 * np.ptp(places)
        labels.append(f"{value:g}" if roomy else "")
        last = place if roomy else last
    return labels


def plot_reliability(table: Sequence[Mapping], rows: Sequence[dict]) -> Figure | str:
    """Pairs as taken. Left: per bin of `evaluation_tables.reliability` the share that was right, with its interval, and
    as a dash the mean confidence that it should reach; counts stand below, the expected calibration error of ten equal
    bins above. Middle: every answer by its confidence, right and wrong ones apart, refused ones as open marks. Right:
    risk and coverage over all pairs."""
    if not table:
        return "No answer with a confidence and a truth."
    figure = plt.figure(figsize=(WIDTH_IN, 3.6), layout="constrained")
    left, right, risk = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
    for place, line in enumerate(table):
        left.plot([place, place], [line["low"], line["high"]], color=BLUE, linewidth=1.6, zorder=2)
        left.plot(
            [place - 0.3, place + 0.3],
            [line["confidence"]] * 2,
            color=BLACK,
            linewidth=2,
            label="mean confidence",
            zorder=2.5,
        )
        left.plot(
            place,
            line["right"],
            "o",
            color=BLUE,
            markersize=9,
            markeredgecolor="white",
            label="share that was right",
            zorder=3,
        )
    left.set_xticks(range(len(table)), [f"{line['from']:g}–{line['to']:g}\nn = {line['n']}" for line in table])
    left.set(xlim=(-0.6, len(table) - 0.4), ylim=(-0.03, 1.06), xlabel="confidence, and number of answers")
    handles = dict(zip(*left.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside upper left", ncols=2, frameon=False)
    judged = answered_with_confidence(as_taken(rows))
    error = calibration_error(
        np.array([row["confidence"] for row in judged]), np.array([was_right(row) for row in judged], float)
    )
    left.set_title(f"calibration error {error:.3f}", fontsize=11)
    _answers(right, judged)
    asked = [row for row in with_truth(as_taken(rows)) if row["confidence"] is not None]
    plot_risk_coverage(
        risk, [row["confidence"] for row in asked], [was_right(row) for row in asked], RegistrarOptions().min_confidence
    )
    for ax in (left, right, risk):
        bare(ax)
    return figure


def _answers(ax: Axes, judged: Sequence[dict]) -> None:
    rng = np.random.default_rng(0)
    for good, height, color, marker in ((True, 1, GREEN, "o"), (False, 0, RED, "X")):
        for refused in (False, True):
            own = [
                row["confidence"]
                for row in judged
                if was_right(row) == good and (row["outcome"] == "refused") == refused
            ]
            shape = {"facecolors": "none" if refused else color, "edgecolors": color if refused else "white"}
            ax.scatter(own, height + rng.uniform(-0.22, 0.22, len(own)), s=42, marker=marker, linewidths=0.9, **shape)
    counts = {good: sum(was_right(row) == good for row in judged) for good in (True, False)}
    ax.set_yticks([0, 1], [f"wrong ({counts[False]})", f"right ({counts[True]})"])
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.5, 1.5), xlabel="confidence; open marks were refused")
