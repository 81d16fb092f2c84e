"""Charts of an evaluation on real pairs: outcomes, error curves, paired differences; `viz_stress` has those of what
makes pairs hard.

Rows are those of `real_evaluation`, tables those of `evaluation_tables`. Every function makes a figure of its own and
returns it, or a sentence where there is nothing to draw; what a colour says, a hatch, a marker or a dash says too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..evaluation.pairs import FIT, ORACLE, claims_nothing
from ..evaluation.real import as_taken
from ..evaluation.tables import FLOOR, OUTCOMES, outcome, pair_result, with_truth
from .curves import plot_error_cdf
from .registrations import BLACK, BLUE, GREEN, ORANGE, PURPLE, RED, SKY, WIDTH_IN, YELLOW

# colour, marker and dash of methods: no two alike, each told apart by its marker and dash alone; black is for what was
# given the truth
SERIES = (
    (BLUE, "o", "-"),
    (RED, "s", "--"),
    (GREEN, "^", "-."),
    (PURPLE, "D", (0, (1, 1))),
    (ORANGE, "v", (0, (6, 2))),
    (SKY, "X", (0, (3, 1, 1, 1, 1, 1))),
    ("0.45", "P", (0, (8, 2, 2, 2))),
    (BLUE, "*", (0, (2, 2))),
    (RED, "<", (0, (5, 1, 1, 1))),
    (GREEN, ">", (0, (10, 3))),
    (PURPLE, "h", (0, (4, 1))),
    (ORANGE, "d", (0, (2, 1, 1, 1))),
    (SKY, "p", (0, (7, 1, 3, 1))),
)
# of an outcome: colour, hatch, and the dash of a frame around its picture
OUTCOME_LOOKS = dict(
    zip(
        OUTCOMES,
        (
            (GREEN, "", "-"),
            (YELLOW, "\\\\", (0, (6, 2))),
            (RED, "////", (0, (2, 1))),
            (SKY, "..", (0, (1, 1))),
            ("0.75", "", (0, (8, 2, 1, 2))),
        ),
        strict=True,
    )
)
MEASURES = {
    "acceptable": "acceptable",
    "auc25": "AUC25",
    "strict": "mean ≤ 5 px and max ≤ 10 px at 512",
    "wrong_accepted": "wrongly accepted",
}
NO_TRUTH = "No pair has a truth: nothing can be judged."


def looks(methods: Sequence[str]) -> dict[str, tuple]:
    """Color, marker and dash of each method, in their order."""
    return {name: SERIES[k % len(SERIES)] for k, name in enumerate(methods)}


def bare(ax: Axes, grid: str = "both") -> Axes:
    """Without the lines on top and right, and with a faint grid behind what is drawn."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, axis=grid, color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    return ax


def plot_outcomes(facts: Sequence[dict], rows: Sequence[dict], accept_confidence: float = 0.5) -> Figure | str:
    """What became of all pairs with truth, as taken: one bar per method, the annotation's fit and the oracles first."""
    judged = with_truth(facts) + with_truth(as_taken(rows))
    if not judged:
        return NO_TRUTH
    methods = list(dict.fromkeys(row["method"] for row in judged))
    figure = plt.figure(figsize=(WIDTH_IN, 1.1 + 0.42 * len(methods)), layout="constrained")
    ax = figure.add_subplot()
    for place, method in enumerate(methods):
        found = [outcome(row, accept_confidence) for row in judged if row["method"] == method]
        left = 0.0
        for name in OUTCOMES:
            share, (color, hatch) = found.count(name) / len(found), OUTCOME_LOOKS[name][:2]
            ax.barh(
                place,
                share,
                0.72,
                left,
                color=color,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.8,
                label=name if place == 0 else "_",
            )
            if share >= 0.03:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
                ax.text(left + share / 2, place, found.count(name), ha="center", va="center", fontsize=10, bbox=box)
            left += share
    ax.set_yticks(range(len(methods)), methods)
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel=f"share of all pairs ({len(with_truth(facts))})")
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure


def plot_cdf(facts: Sequence[dict], rows: Sequence[dict], limit_px: float = 25) -> Figure | str:
    """Share of all pairs, as taken, whose mean error is at most t: all methods; in black, dashed, the annotation's own
    fit and, dotted, the oracle of the first method; broad and gray, where annotations were clicked, their residual."""
    judged = with_truth(facts) + with_truth(as_taken(rows))
    if not judged:
        return NO_TRUTH
    methods = list(dict.fromkeys(row["method"] for row in judged))
    first = next((name for name in methods if not claims_nothing(name)), "")
    methods = [name for name in methods if name in (FIT, first + ORACLE) or not claims_nothing(name)]
    errors = {name: [pair_result(row).mean_error for row in judged if row["method"] == name] for name in methods}
    figure = plt.figure(figsize=(WIDTH_IN, 4.2), layout="constrained")
    ax = plot_error_cdf(figure.add_subplot(), errors, limit_px)
    oracles = {FIT: (BLACK, "", (0, (5, 2))), first + ORACLE: (BLACK, "", (0, (1, 1)))}
    styles = oracles | looks([name for name in methods if not claims_nothing(name)])
    for k, (line, name) in enumerate(zip(ax.lines, methods, strict=True)):
        color, marker, dash = styles[name]
        line.set(color=color, linestyle=dash, linewidth=2.6 if name == first else 1.7)
        line.set_zorder(1.5 if claims_nothing(name) else 2 - k / 100)
        line.set(marker=marker, markevery=(0.03 * k, 0.25), markersize=7, markeredgecolor="white", markeredgewidth=0.6)
    residuals = [fact["residual_px"] for fact in facts if fact.get("residual_px") is not None]
    if residuals:
        plot_error_cdf(ax, {FLOOR: residuals}, limit_px).lines[-1].set(color="0.55", linewidth=4, alpha=0.6, zorder=1)
    ax.set_axisbelow(True)
    ax.set(xlabel="mean error of a pair (px, longer side of the fixed image 768)")
    ax.yaxis.set_major_formatter("{x:.0%}")
    ax.legend(frameon=False, fontsize=10, loc="center left", bbox_to_anchor=(1.0, 0.5), title="within the axis")
    return figure


def plot_differences(table: Sequence[Mapping], first: str) -> Figure | str:
    """The method ``first`` minus each other one on the same pairs, with intervals; right of zero it has more."""
    if not table:
        return "No second method on pairs with a truth."
    table = [line for line in table if line["kind"] == table[-1]["kind"]]  # all pairs together
    figure = plt.figure(figsize=(WIDTH_IN, 1.2 + 0.38 * len(table)), layout="constrained")
    for ax, name in zip(figure.subplots(1, 3, sharey=True), ("acceptable", "auc25", "wrong_accepted"), strict=True):
        ax.axvline(0, color="0.4", linewidth=1)
        for place, line in enumerate(table):
            middle, low, high = line[name]
            ax.plot([low, high], [place, place], color=BLUE, linewidth=2.4, solid_capstyle="butt")
            ax.plot(middle, place, "o", color=BLUE, markersize=7, markeredgecolor="white")
        ax.set(title=MEASURES[name], xlim=(-1.05, 1.05), ylim=(len(table) - 0.5, -0.5))
        ax.xaxis.set_major_formatter("{x:+.1f}")
        ax.set_yticks(range(len(table)), [f"{first} − {line['against']}" for line in table])
        bare(ax, "x").spines["left"].set_visible(False)
        ax.tick_params(axis="y", length=0)
    figure.supxlabel("difference of shares, 95 % interval over eyes", fontsize=10)
    return figure
