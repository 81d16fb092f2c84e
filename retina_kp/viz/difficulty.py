"""Charts of what makes pairs hard: curves over turn, scale and overlap of synthetic pairs, maps of all three, curves of
real pairs under stress; and the seconds that it takes.

Tables are those of `evaluation.benchmark` and `evaluation.summary`. Every function makes a figure of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from ..evaluation.benchmark import MEASURES, OURS, crossed_table
from ..evaluation.methods import BASELINES
from ..evaluation.timing import STAGES
from .curves import quiet
from .evaluation import looks
from .registrations import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, WIDTH_IN, YELLOW, plain

_COLORS = (BLUE, RED, ORANGE, GREEN, PURPLE, BLACK, SKY, RED, GREEN, PURPLE, "0.55")
_SHAPES = zip(_COLORS, "osD^vXP<>p*", strict=True)
LOOKS = dict(zip((OURS, *BASELINES), _SHAPES, strict=False))  # color, marker
STAGE_COLORS = dict(zip(STAGES, (SKY, BLUE, ORANGE, YELLOW), strict=True))
AXIS = {
    "angle": "turn between the images",
    "scale": "size in the moving image : size in the fixed one",
    "overlap": "share of the smaller field that both see",
}
FACTORS = {
    "turn": "turn (°)",
    "scale": "size of the moving image (×)",
    "shift": "shift (widths)",
    "crop": "share of each side left",
    "blur": "blur (px at 768)",
    "noise": "noise (gray levels in [0, 1])",
}

# ------------------------------------------------------------------ grids of synthetic pairs


def plot_grid(cells: pd.DataFrame, factor: str, measure: str = "success") -> Figure:
    """One panel per kind of pairs, one line per method: a measure (key of MEASURES, share of all pairs) against the
    bins of a factor; a factor that the cells lack is said to be missing."""
    own = cells[cells.factor == factor]
    if not len(own):
        return _nothing(f"the {factor}")
    bins, methods, kinds = list(own.bin.unique()), list(own.method.unique()), own.kind.nunique()
    figure = plt.figure(figsize=(WIDTH_IN * (1 if kinds > 1 else 0.7), 3.7), layout="constrained")
    axes = figure.subplots(1, kinds, sharey=True, squeeze=False)[0]
    for ax, (kind, of_kind) in zip(axes, own.groupby("kind", sort=False), strict=True):
        values = of_kind.pivot(index="bin", columns="method", values=measure).reindex(index=bins, columns=methods)
        for method, aside in zip(methods, _asides(methods), strict=True):
            _line(ax, np.arange(len(bins)) + aside, values[method].to_numpy(), method)
        low, high = of_kind.pairs.min(), of_kind.pairs.max()
        each = f"{low}" + (f" to {high}" if high > low else "")
        ax.set_title(f"{kind}, {each} {'pair' if high == 1 else 'pairs'} per point", fontsize=11)
        ax.set_xticks(range(len(bins)), bins)
        ax.set(ylim=(-0.04, 1.04), xlim=(-0.4, len(bins) - 0.6))
        ax.yaxis.set_major_formatter("{x:.0%}" if measure != "auc25" else "{x:.1f}")
        quiet(ax, "y")
    axes[0].set_ylabel(MEASURES[measure])
    figure.supxlabel(AXIS[factor], fontsize=10)
    columns = 6 if kinds > 1 else 4 if len(methods) <= 4 else 3
    where = {"loc": "outside upper center", "ncols": columns, "frameon": False, "markerscale": 0.8}
    figure.legend(axes[0].lines, [plain(name) for name in methods], **where)
    return figure


def plot_crossed(cells: pd.DataFrame, measure: str = "success") -> Figure:
    """One map per method (column) and overlap (row): a measure, in percent, over scale and turn, pairs of all kinds
    together."""
    table = crossed_table(cells, measure)
    if not len(table):
        return _nothing("turn, scale and overlap together")
    maps = table.set_index(["method", "overlap", "turn"])
    methods, overlaps, turns = (list(maps.index.unique(name)) for name in maps.index.names)
    height = 0.5 + len(overlaps) * (0.5 + 0.24 * len(turns))
    figure = plt.figure(figsize=(WIDTH_IN, height + 0.5), layout="constrained")
    axes = figure.subplots(len(overlaps), len(methods), sharex=True, sharey=True, squeeze=False)
    for line, overlap in zip(axes, overlaps, strict=True):
        for ax, method in zip(line, methods, strict=True):
            values = maps.reindex([(method, overlap, turn) for turn in turns]).to_numpy(float)
            ax.imshow(values, "Blues", vmin=0, vmax=1, aspect="auto")
            for (y, x), value in np.ndenumerate(values):
                if np.isfinite(value):
                    color = "white" if value > 0.6 else "0.15"
                    ax.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=8, color=color)
            ax.set_xticks(range(maps.shape[1]), maps.columns, fontsize=8)
            ax.set_yticks(range(len(turns)), turns, fontsize=8)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
        line[0].set_ylabel(f"overlap {overlap}", fontsize=9)
    for ax, method in zip(axes[0], methods, strict=True):
        words, weight = method.replace("+", "\n+").replace(" ", "\n", 1), "bold" if method == OURS else "normal"
        ax.set_title(words, fontsize=9, fontweight=weight)
    figure.supxlabel(f"{AXIS['scale']}   (rows: turn; numbers: {MEASURES[measure]}, %)", fontsize=9)
    return figure


def _nothing(about: str) -> Figure:
    """Says that there is nothing to draw; a figure without axes would not be shown."""
    figure = plt.figure(figsize=(0.7 * WIDTH_IN, 0.5))
    ax = figure.add_subplot()
    ax.set_axis_off()
    ax.text(0, 0.5, f"These pairs tell nothing about {about}.", fontsize=11)
    return figure


def _asides(methods: Sequence[str]) -> list[float]:
    """Shifts along x, so that baselines with equal values stand side by side, to the left and right of ours."""
    others = [name for name in methods if name != OURS]
    steps = [k - len(others) // 2 + (k >= len(others) // 2) for k in range(len(others))]  # … -2 -1 1 2 …
    return [0.0 if name == OURS else 0.06 * steps[others.index(name)] for name in methods]


def _line(ax: Axes, places, values, method: str) -> None:
    """Ours is a broad band below the others, so that nothing hides behind it."""
    color, marker = LOOKS.get(method, ("0.5", "."))
    style = {"color": color, "marker": marker, "markeredgecolor": "white", "markeredgewidth": 0.6, "label": method}
    if method == OURS:
        ax.plot(places, values, linewidth=6, markersize=10, alpha=0.8, zorder=2, **style)
    else:
        ax.plot(places, values, linewidth=1.4, markersize=6, zorder=3, **style)


# ------------------------------------------------------------------ real pairs under stress


def plot_stress(table: pd.DataFrame, oracle: float | None = None) -> Figure | str:
    """One panel per factor of `summary.stress_table`: the acceptable share of each method against its values.

    Intervals are a band for the first method and bars for the others, which stand a little apart. Dotted: the oracle as
    taken.
    """
    factors = list(table.groupby("factor", sort=False))
    if not factors:
        return "No stress was asked for, or no pair has a truth."
    columns = min(len(factors), 4)
    lines = -(-len(factors) // columns)
    styles = looks(list(table.method.unique()))
    figure = plt.figure(figsize=(WIDTH_IN, 0.5 + 2.5 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for ax, (factor, own) in zip(axes, factors, strict=False):
        if oracle is not None:
            ax.axhline(oracle, color=BLACK, linestyle=(0, (1, 1)), linewidth=1.2, label="oracle, as taken", zorder=1.5)
        _curves(ax, own, styles)
        values = sorted(own.value.unique())
        if factor in ("scale", "gamma"):
            ax.set_xscale("log")
            ax.minorticks_off()
        ax.margins(x=0.05 + 0.012 * len(styles))  # room for those that stand apart
        ax.set_xticks(values, _spaced(values, ax.get_xscale() == "log"))
        quiet(ax).set(xlabel=FACTORS.get(factor, factor), ylim=(-0.03, 1.05))
    for ax in axes[len(factors) :]:
        ax.set_visible(False)
    for ax in axes[::columns]:
        ax.set_ylabel("acceptable")
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=5, frameon=False)
    return figure


def _curves(ax: Axes, table: pd.DataFrame, styles: dict[str, tuple]) -> None:
    """One factor's curves; each method after the first is moved by 2 points, so that bars do not cover each other."""
    for k, (method, own) in enumerate(table.groupby(pd.Categorical(table.method, list(styles)), observed=False)):
        if not len(own):
            continue
        own, (color, marker, dash) = own.sort_values("value"), styles[method]
        x, (middle, low, high) = own.value.to_numpy(), np.array([list(cell) for cell in own.acceptable]).T[:3]
        style = {
            "color": color,
            "marker": marker,
            "linestyle": dash,
            "markeredgecolor": "white",
            "label": plain(method),
        }
        if k == 0:
            ax.fill_between(x, low, high, color=color, alpha=0.18, linewidth=0, zorder=1.2)
            ax.plot(x, middle, linewidth=2.2, zorder=3, **style)
        else:
            aside = ax.transData + ScaledTranslation(2 * k / 72, 0, ax.figure.dpi_scale_trans)
            style |= {"linewidth": 1.4, "elinewidth": 0.8, "capsize": 2, "transform": aside, "zorder": 3 - k / 100}
            ax.errorbar(x, middle, np.maximum([middle - low, high - middle], 0), **style)


def _spaced(values: Sequence[float], logarithmic: bool) -> list[str]:
    """Labels of ticks; those too close to the label before them are empty."""
    places, labels, last = np.log(values) if logarithmic else np.array(values), [], -np.inf
    for place, value in zip(places, values, strict=True):
        roomy = place - last >= 0.12 * np.ptp(places)
        labels.append(f"{value:g}" if roomy else "")
        last = place if roomy else last
    return labels


# ------------------------------------------------------------------ time


def plot_stages(table: pd.DataFrame) -> Figure:
    """Mean seconds of retina_kp per pair, stage upon stage, one panel per factor of `benchmark.stage_table`."""
    factors = list(table.groupby("factor", sort=False))
    figure = plt.figure(figsize=(WIDTH_IN, 3.2), layout="constrained")
    widths = [len(own) + 1 for _, own in factors]
    axes = figure.subplots(1, len(factors), sharey=True, squeeze=False, width_ratios=widths)[0]
    for ax, (factor, own) in zip(axes, factors, strict=True):
        bottom = np.zeros(len(own))
        for stage in STAGES:
            ax.bar(range(len(own)), own[stage], 0.7, bottom, color=STAGE_COLORS[stage], label=stage)
            bottom += own[stage].to_numpy()
        for place, total in enumerate(bottom):
            ax.text(place, total, f"{total:.2f}", ha="center", va="bottom", fontsize=9)
        ax.set_xticks(range(len(own)), own.bin)
        ax.set_title(factor, fontsize=11)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seconds per pair")
    axes[0].set_ylim(0, 1.12 * table[list(STAGES)].sum(axis=1).max())
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(STAGES), frameon=False)
    return figure


def plot_seconds(table: pd.DataFrame) -> Figure:
    """Median seconds per pair of each method of `benchmark.method_table`; those that could not run are left out."""
    table = table[table.seconds.notna()]
    figure = plt.figure(figsize=(0.7 * WIDTH_IN, 0.6 + 0.34 * len(table)), layout="constrained")
    ax, seconds = figure.add_subplot(), table.seconds.astype(float)
    ax.barh(range(len(table)), seconds, 0.65, color=[LOOKS.get(name, ("0.5", "."))[0] for name in table.method])
    for place, value in enumerate(seconds):
        ax.text(value + 0.01 * seconds.max(), place, f"{value:.2f} s", va="center", fontsize=10)
    ax.set_yticks(range(len(table)), table.method)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.12 * seconds.max()), xlabel="seconds per pair (median)")
    ax.spines[["top", "right"]].set_visible(False)
    return figure
