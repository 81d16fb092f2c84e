"""Pictures of a series: where its images lie, and how far chains of pairs drift."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from ..core.geometry import image_center
from ..mapping.carrying import RIM
from ..series.agreement import Series
from .registrations import BLACK, BLUE, GREEN, ORANGE, RED, WIDTH_IN

LABEL = {"boxstyle": "round", "facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.1}


def plot_series(series: Series, ax: Axes | None = None) -> Axes:
    """Outlines of all images in px of the reference: solid where the adjustment puts them, dashed where the chain of
    pairs does. Lines join the middles of images that are a pair, with its misfit in px at 768."""
    ax = plt.figure(figsize=(WIDTH_IN, 0.8 * WIDTH_IN), layout="constrained").add_subplot() if ax is None else ax
    middles = {}
    for k, (name, result) in enumerate(zip(series.names, series.results, strict=True)):
        if result.ok:
            rim = RIM * (np.array(series.sizes[k][::-1]) - 1)
            color = ORANGE if k == series.reference else BLUE
            ax.plot(*result.map_to_fixed(rim).T, color=color, linewidth=1.5, zorder=2 + (k == series.reference))
            ax.plot(*series.by_chain(k, rim).T, color=RED, linewidth=1, linestyle="--", zorder=2)
            middles[k] = result.map_to_fixed(np.array([image_center(series.sizes[k])]))[0]
            ax.annotate(name, middles[k], ha="center", va="bottom", fontsize=10, color=color, zorder=5, bbox=LABEL)
    for (i, j), px in ((pair, px) for pair, px in series.misfit_px.items() if middles.keys() >= {*pair}):
        ends = np.array([middles[i], middles[j]])
        ax.plot(*ends.T, color=GREEN, linewidth=1, marker="o", markersize=4, zorder=1)
        ax.annotate(f"{px:.1f}", ends.mean(0), ha="center", va="center", fontsize=8, color=BLACK, zorder=4, bbox=LABEL)
    ax.set(
        aspect="equal",
        xlabel="px of the reference",
        title="solid: adjusted · dashed: chained · numbers: misfit of pairs",
    )
    ax.invert_yaxis()
    return ax
