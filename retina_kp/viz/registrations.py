"""Pictures of registrations: functions that draw into the axes they are given and return them.

``ax=None`` makes a new figure; no backend is ever set. Images: HxW or HxWx3 RGB, any dtype; points: (N, 2) xy px, N may
be 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from ..core import geometry
from ..core.overlays import contrast_stretch, displayable, vessel_channel
from ..mapping.expected_error import SIDE_PX, ErrorMap

# Okabe and Ito's palette, safe for colour-blind readers
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, RED, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
WIDTH_IN = 10.0  # report width
ERROR_BANDS_PX = (1, 2, 5, 10, 20)

# File names may be Chinese or Japanese: the first fonts that this machine has take over where the usual one has no sign.
_WIDE = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "Microsoft YaHei", "SimHei")
_KNOWN = {font.name for font in font_manager.fontManager.ttflist} & {*_WIDE, "PingFang SC", "Hiragino Sans GB"}
plt.rcParams["font.family"] = [*plt.rcParams["font.family"], *sorted(_KNOWN)]
warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from", UserWarning)  # a box in a title is enough


@lru_cache
def _signs() -> frozenset[int]:
    """The code points that one of the fonts has."""
    files = [font_manager.findfont(font_manager.FontProperties(family=[name])) for name in plt.rcParams["font.family"]]
    return frozenset().union(*(font_manager.get_font(file).get_charmap() for file in files))


def plain(text: object) -> str:
    """A name out of data as matplotlib shall draw it: never as a formula, and signs that no font has as \\u escapes."""
    drawn = (
        c if c.isascii() or ord(c) in _signs() else c.encode("ascii", "backslashreplace").decode() for c in str(text)
    )
    return "".join(drawn).replace("$", r"\$")


def show(image, ax: Axes | None = None, title: str = "") -> Axes:
    """Draw one image without ticks, its limits fixed to the frame; uint16 and floats outside [0, 1] are
    contrast-stretched."""
    picture = displayable(image)
    ax = new_axes(picture.shape, bool(title)) if ax is None else ax
    ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
    ax.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))
    ax.set_axis_off()
    # given, y spares the search for tick labels above, half of the time that a figure takes
    ax.set_title(plain(title), fontsize=11, y=1)
    return ax


def plot_keypoints(ax: Axes, points_xy, color: str = YELLOW, size: float = 12) -> Axes:
    """Mark points (N, 2) px with dots of ``size`` square typographic points."""
    ax.scatter(*_points(points_xy).T, s=size, color=color, edgecolors="black", linewidths=0.4)
    return ax


def plot_matches(
    image0, image1, matches0, matches1, inliers=None, ax: Axes | None = None, max_lines: int = 150
) -> Axes:
    """Two images side by side at one height, with lines between matched points: inliers green, outliers faint yellow.

    matches0, matches1: (N, 2) px, each in its own image; inliers: (N,) bool, default all. At most max_lines evenly
    chosen ones are drawn, the title counts all. ValueError when the lists differ in length.
    """
    image0, image1 = (contrast_stretch(image, 0, 99.5) for image in (image0, image1))
    matches0, matches1 = _points(matches0), _points(matches1)
    is_inlier = np.ones(len(matches0), bool) if inliers is None else np.asarray(inliers, bool).reshape(-1)
    if not len(matches0) == len(matches1) == len(is_inlier):
        told = f"{len(matches0)} and {len(matches1)} points with {len(is_inlier)} inlier flags"
        raise ValueError(f"{told} do not make matches")
    (h, w), hw1 = image0.shape[:2], image1.shape[:2]
    left, w1 = 1.02 * w, hw1[1] * h / hw1[0]
    ax = show(image0, new_axes((h, left + w1), True, WIDTH_IN) if ax is None else ax)
    ax.imshow(image1, cmap="gray", vmin=0, vmax=1, extent=(left - 0.5, left + w1 - 0.5, h - 0.5, -0.5))
    ax.set(xlim=(-0.5, left + w1 - 0.5), ylim=(h - 0.5, -0.5))
    ends1 = geometry.warp_points(matches1, geometry.translation(left, 0) @ geometry.resize_matrix(hw1, (h, w1)))
    chosen = np.linspace(0, len(matches0) - 1, min(len(matches0), max_lines)).round().astype(int)
    for flag, color, alpha in ((False, YELLOW, 0.5), (True, GREEN, 0.9)):
        pick = chosen[is_inlier[chosen] == flag]
        lines = np.stack([matches0[pick], ends1[pick]])  # (2, N, 2)
        how = {"linewidth": 0.8, "marker": "o", "markersize": 2.5, "markeredgewidth": 0}
        ax.plot(lines[..., 0], lines[..., 1], color=color, alpha=alpha, **how)
    drawn = f" ({len(chosen)} drawn)" if len(chosen) < len(matches0) else ""
    agree = f", {is_inlier.sum()} inliers" if inliers is not None else ""
    ax.set_title(f"{len(matches0)} matches{agree}{drawn}", fontsize=11)
    return ax


def plot_detector(image, detector_map, ax: Axes | None = None) -> Axes:
    """Heat of a detector map (h, w), values in [0, 1] at any stride, over the grey image: transparent at 0, bright
    yellow at 1."""
    heat = np.clip(np.nan_to_num(np.asarray(detector_map, np.float32)), 0, 1)
    ax = _show_grey(image, ax, f"detector, largest value {heat.max():.2f}")
    edges = (*ax.get_xlim(), *ax.get_ylim())
    how = {"cmap": "inferno", "vmin": 0, "vmax": 1, "interpolation": "nearest"}
    ax.imshow(0.35 + 0.65 * heat, alpha=np.minimum(1, 2 * heat), extent=edges, **how)
    return ax


def plot_expected_error(fixed, expected: ErrorMap, ax: Axes | None = None) -> Axes:
    """Errors to be expected over the grey fixed image, in bands of px of an image whose longer side measures 768; grey
    where not both images show something."""
    hw = np.shape(fixed)[:2]
    step = max(max(hw) // 400, 1)
    px = expected.picture(hw, step) * SIDE_PX / max(hw)
    ax = _show_grey(fixed, ax, "error to be expected, px at 768: 9 of 10 places keep to it")
    bands = BoundaryNorm([0, *ERROR_BANDS_PX], 256, extend="max")
    edges = (-0.5, px.shape[1] * step - 0.5, px.shape[0] * step - 0.5, -0.5)
    heat = ax.imshow(px, cmap="cividis", norm=bands, alpha=0.55, extent=edges, interpolation="nearest")
    ax.figure.colorbar(heat, ax=ax, fraction=0.04, pad=0.01, ticks=[0, *ERROR_BANDS_PX])
    ax.set(xlim=(-0.5, hw[1] - 0.5), ylim=(hw[0] - 0.5, -0.5))
    return ax


def plot_predictions(ax: Axes | None, image, predicted_xy, truth_xy) -> Axes:
    """Predicted points (green dots) on true points (orange rings) over the grey image: a hit is a dot in a ring; the title
    counts."""
    predicted_xy, truth_xy = _points(predicted_xy), _points(truth_xy)
    ax = _show_grey(image, ax)
    ax.scatter(*truth_xy.T, s=60, facecolors="none", edgecolors=RED, linewidths=1.4)
    ax.scatter(*predicted_xy.T, s=14, color=GREEN, edgecolors="white", linewidths=0.4)
    ax.set_title(f"{len(predicted_xy)} predicted •  {len(truth_xy)} true ○", fontsize=11, y=1)
    return ax


def plot_residuals(ax: Axes | None, fixed, predicted_xy, true_xy, magnify: float = 5) -> Axes:
    """Arrows from true points (N, 2) towards predicted ones, ``magnify`` times the error; NaN predictions are only
    counted."""
    predicted_xy, true_xy = _points(predicted_xy), _points(true_xy)
    known = np.isfinite(predicted_xy).all(1)
    start, arrows = true_xy[known], predicted_xy[known] - true_xy[known]
    lengths = np.linalg.norm(arrows, axis=1)
    summary = f"mean {lengths.mean():.1f} px, max {lengths.max():.1f} px" if len(lengths) else "no points"
    lost = "" if known.all() else f", {(~known).sum()} not mapped"
    ax = _show_grey(fixed, ax, f"residuals ×{magnify:g}: {summary}{lost}")
    ax.quiver(*start.T, *arrows.T, angles="xy", scale_units="xy", scale=1 / magnify, color=YELLOW, width=0.005)
    return plot_keypoints(ax, start, SKY)


def image_grid(images: Sequence, titles: Sequence[str] | None = None, columns: int = 4) -> Figure:
    """Gallery at report width with at most so many columns, fewer where that fills the rows better, rows as high as
    their tallest image; sizes may differ. ValueError without images."""
    if not len(images):
        raise ValueError("a gallery needs at least one image")
    rows = -(-len(images) // columns)
    columns = -(-len(images) // rows)
    aspects = [np.shape(image)[0] / np.shape(image)[1] for image in images]
    starts, gap = range(0, len(images), columns), 0.3 if titles else 0.05
    heights = [max(aspects[k : k + columns]) * WIDTH_IN / columns + gap for k in starts]
    figure = plt.figure(figsize=(WIDTH_IN, sum(heights)), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    grid = figure.add_gridspec(len(heights), columns, height_ratios=heights)
    for k, (image, title) in enumerate(zip(images, titles or [""] * len(images), strict=True)):
        show(image, figure.add_subplot(grid[divmod(k, columns)]), title).set_anchor("N")
    return figure


def _points(points_xy) -> np.ndarray:
    return np.reshape(np.asarray(points_xy, np.float64), (-1, 2))


def new_axes(image_hw, titled: bool = False, width_in: float = WIDTH_IN / 2) -> Axes:
    size = (width_in, width_in * image_hw[0] / image_hw[1] + 0.26 * titled)
    return plt.figure(figsize=size, layout="constrained").add_subplot()


def axes_row(count: int, height_in: float, **how) -> tuple[Figure, Sequence[Axes]]:
    """A figure of report width with so many axes beside each other."""
    figure = plt.figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return figure, figure.subplots(1, count, squeeze=False, **how)[0]


def _show_grey(image, ax: Axes | None, title: str = "") -> Axes:
    """The image as dimmed grey, so that coloured marks stand out."""
    ax = new_axes(np.shape(image), True) if ax is None else ax
    return show(0.65 * contrast_stretch(vessel_channel(image), 0, 99.5), ax, title)


def file_table(folder: Path):
    """What lies in a folder, with sizes in kB (rounded up), as a table; notebooks are left out."""
    files = [p for p in sorted(Path(folder).iterdir()) if p.is_file() and p.suffix != ".ipynb"]
    return table([{"file": p.name, "kB": -(-p.stat().st_size // 1024)} for p in files])


def picture(path: Path, width: int = 900):
    """A picture that lies on disk, for notebooks; a sentence where there is none."""
    from IPython.display import HTML, Image

    nothing = HTML(f"<p><i>no {Path(path).name}: nothing to show</i></p>")
    return Image(str(path), width=width) if Path(path).is_file() else nothing


def table(rows: pd.DataFrame | Sequence[dict]):
    """Rows (a DataFrame or dicts) as an HTML table for notebooks: lines of a cell stay lines, None and NaN are a
    dash, an empty list says so."""
    from html import escape

    from IPython.display import HTML

    rows = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else rows
    if not rows:
        return HTML("<p><i>nothing to list</i></p>")
    keys = list(dict.fromkeys(key for row in rows for key in row))

    def line(cells, tag):
        opening = f'<{tag} style="text-align:left;white-space:pre-line">'
        texts = [escape("–" if c is None or c != c else str(c)) for c in cells]
        return "<tr>" + "".join(f"{opening}{text}</{tag}>" for text in texts) + "</tr>"

    lines = [line(keys, "th"), *(line([row.get(k) for k in keys], "td") for row in rows)]
    return HTML(f"<table>{''.join(lines)}</table>")
