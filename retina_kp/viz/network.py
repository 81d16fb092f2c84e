"""The picture of a network, found by running it: what its parts are, how fine and how deep their maps, and what reads
what. And its descriptors in colour: where two modalities show one spot alike, their pictures have one colour."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from ..core.dense import carry, moving_in_fixed_frame
from ..core.geometry import pixel_grid, sample_map
from ..core.overlays import contrast_stretch
from ..networks import DenseOutput
from .registrations import BLACK, BLUE, GREEN, ORANGE, PURPLE, WIDTH_IN, show

PROBE_PX = 256
PALE = {BLACK: "#EEEEEE", BLUE: "#D6E8F5", GREEN: "#D3EDE3", ORANGE: "#FBE5BF", PURPLE: "#F3DDE9"}
BOX = (0.88, 0.62)  # width and height; a column and a row are 1 wide and 1 high


@dataclass
class Part:
    """A box of the picture: the modules in it, their map's stride (px) and channels, and the parts that it reads.
    column: how many parts lie before it on the longest way from the image; head: "detector", "descriptors" or ""."""

    names: list[str]
    stride: int
    channels: int
    reads: set[int]
    column: int = 0
    head: str = ""
    serves: set[str] = field(default_factory=set)  # which heads read it, at first or second hand


def network_parts(network: torch.nn.Module) -> list[Part]:
    """The parts of a network in the order in which they run: the image, and the network's children as forward hooks see
    them. Neighbours of one stride and depth, of which each reads the one before alone, are one part."""
    was_training, device, seen = network.training, next(network.parameters()).device, []
    image = torch.rand(1, 1, PROBE_PX, PROBE_PX, device=device).requires_grad_()
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: seen.append((name, output.grad_fn, output.shape)))
        for name, module in network.named_children()
    ]
    network.eval()
    try:
        with torch.enable_grad():
            output = network(image)
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    parts, place = [Part(["image"], 1, 1, set())], {}  # of a node of the graph: the part that made it
    for name, node, shape in seen:
        reads = set(_sources(node, place)) or {0}
        stride = 2 ** round(math.log2(PROBE_PX / shape[-1]))
        before = parts[-1]
        if reads == {len(parts) - 1} and before.reads and (before.stride, before.channels) == (stride, shape[1]):
            before.names.append(name)
        else:
            parts.append(Part([name], stride, shape[1], reads, 1 + max(parts[k].column for k in reads)))
        place[node] = len(parts) - 1
    for head in ("detector", "descriptors"):
        ends = set(_sources(getattr(output, head).grad_fn, place, itself=True))
        for k in ends:
            parts[k].head = head
        while ends:
            for k in ends:
                parts[k].serves.add(head)
            ends = {k for end in ends for k in parts[end].reads}
    return parts


def _sources(node, place: dict, itself: bool = False) -> Iterator[int]:
    """The parts that a node of autograd's graph goes back to, no farther than the nearest on each way."""
    waiting, known = [node], {node}
    while waiting:
        here = waiting.pop()
        if here in place and (itself or here is not node):
            yield place[here]
            continue
        before = {n for n, _ in here.next_functions if n is not None} - known
        known |= before
        waiting += before


def plot_network(network: torch.nn.Module) -> Figure:
    """A network's parts from left to right, finer maps higher. Blue serves both heads, orange the detector alone,
    purple the descriptors alone; grey arrows skip columns."""
    parts = network_parts(network)
    rows = sorted({part.stride for part in parts})
    columns = max(part.column for part in parts) + 1
    left, right, top, bottom = -1.35, columns + 0.95, -0.5, len(rows) - 0.5
    figure = plt.figure(figsize=(WIDTH_IN, WIDTH_IN * (bottom - top) / (right - left) + 0.3), layout="constrained")
    ax = figure.add_subplot()
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    ax.set_axis_off()
    for y, stride in enumerate(rows):
        ax.axhspan(y - 0.48, y + 0.48, color="0.975", zorder=0)
        ax.text(left + 0.05, y, f"1/{stride}" if stride > 1 else "full size", va="center", fontsize=9, color="0.35")
    at = [(part.column, rows.index(part.stride)) for part in parts]
    for part, here in zip(parts, at, strict=True):
        for k in part.reads:
            _arrow(ax, at[k], here, at)
    for part, here in zip(parts, at, strict=True):
        _box(ax, part, *here)
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    words = "a box: modules, and the maps they make; left: size of the maps"
    ax.set_title(f"{type(network).__name__}, {millions:.1f} M parameters ({words})", fontsize=10.5)
    return figure


def _arrow(ax: Axes, start: tuple[int, int], end: tuple[int, int], taken: list[tuple[int, int]]) -> None:
    """From one box to another: straight on, or round one corner, before which another box may not stand."""
    half_width, half_height = BOX[0] / 2, BOX[1] / 2
    style = {"arrowstyle": "-|>", "color": "0.62" if end[0] - start[0] > 1 else "0.25", "linewidth": 1.2}
    style |= {"shrinkA": 0, "shrinkB": 0}
    begin, stop = (start[0] + half_width, start[1]), (end[0] - half_width, end[1])
    if start[1] != end[1]:
        down = 1 if end[1] > start[1] else -1
        if (end[0], start[1]) not in taken:  # along the row, then into the box from above or below
            stop, corner = (end[0], end[1] - down * half_height), "angleA=0,angleB=90"
        else:  # out of the box first, then along the other row
            begin, stop = (start[0] + 0.25, start[1] + down * half_height), (stop[0], end[1] - 0.14 * down)
            corner = "angleA=90,angleB=0"
        style["connectionstyle"] = f"angle,{corner},rad=4"
    ax.annotate("", stop, begin, arrowprops=style)


def _box(ax: Axes, part: Part, x: float, y: float) -> None:
    only = {"detector": ORANGE, "descriptors": PURPLE}
    color = only[next(iter(part.serves))] if len(part.serves) == 1 else BLUE if part.reads else BLACK
    corner = (x - BOX[0] / 2, y - BOX[1] / 2)
    shape = FancyBboxPatch(
        corner, *BOX, boxstyle="round,pad=0,rounding_size=0.06", fc=PALE[color], ec=color, lw=1.4, zorder=2
    )
    ax.add_patch(shape)
    names = part.names if len(part.names) <= 2 else [part.names[0], f"… {part.names[-1]}"]
    lines = [*names, f"{part.channels} map" + "s" * (part.channels > 1)]
    ax.text(x, y, "\n".join(lines), ha="center", va="center", fontsize=7.6, zorder=3, linespacing=1.2)
    if part.head:
        ax.text(x + BOX[0] / 2 + 0.08, y, f"{part.head} ▸", va="center", fontsize=9.5, color=color, fontweight="bold")


# ------------------------------------------------------------------ descriptors in colour


def colour_basis(descriptors: torch.Tensor) -> tuple[Callable[[torch.Tensor], torch.Tensor], float]:
    """The three main directions of descriptors (N, D) as red, green and blue: a function (..., D) → (..., 3) in [0, 1],
    and the share of the variance that they hold. Each is scaled from its 2nd to its 98th percentile."""
    descriptors = descriptors.double()
    centre = descriptors.mean(0)
    values, basis = torch.linalg.eigh((descriptors - centre).T @ (descriptors - centre))  # rising
    basis = basis[:, -3:].flip(1)
    basis = basis * torch.sign(basis.gather(0, basis.abs().argmax(0, keepdim=True)))  # an eigenvector's sign is free
    low, high = ((descriptors - centre) @ basis).quantile(torch.tensor([0.02, 0.98], dtype=torch.float64), 0)
    share = float(values[-3:].sum() / values.sum().clamp_min(1e-12))
    scale = (high - low).clamp_min(1e-9)
    return lambda vectors: (((vectors.double() - centre) @ basis - low) / scale).clamp(0, 1), share


def plot_descriptors(batch: Mapping, outputs: tuple[DenseOutput, DenseOutput], index: int = 0) -> Figure:
    """Descriptors of one pair of a batch in colours of one basis, under the images: the fixed one, the moving one in
    the fixed frame, the moving one as it is. Where both see one spot, the first two should have one colour. ValueError
    for an index beyond the batch."""
    count, hw, one = len(batch["image0"]), batch["image0"].shape[-2:], slice(index, index + 1)
    if not 0 <= index < count:
        raise ValueError(f"index: of {count} pairs it takes 0 to {count - 1}, not {index}")
    step = -(-max(hw) // 256)
    grid = pixel_grid(hw)[::step, ::step]
    shape, grid = grid.shape[:2], grid.reshape(1, -1, 2)
    # which image, at which of its px
    reads = ((0, grid), (1, carry(grid, batch, one)), (1, grid))
    maps = [(o.descriptors[one], o.descriptor_stride) for o in outputs]
    vectors = [F.normalize(sample_map(maps[k][0], p, maps[k][1])[0], dim=-1) for k, p in reads]
    seen = [sample_map(batch[f"valid{k}"][one].float(), p)[0, :, 0] > 0.99 for k, p in reads]
    seen[1] &= seen[0]
    to_colours, share = colour_basis(torch.cat([vectors[0][seen[0]], vectors[2][seen[2]]]))
    same = (vectors[0] * vectors[1]).sum(-1)[seen[1]]
    other = (vectors[0][seen[1]] * vectors[1][seen[1]].roll(len(same) // 2, 0)).sum(-1)
    moved = moving_in_fixed_frame(batch, one)[0]
    fixed, moving = (f"{name} ({m})" for name, m in zip(("fixed", "moving"), batch["modalities"][index], strict=True))
    titles = [fixed, f"{moving} in the fixed frame", f"{moving} as it is"]
    titles.append(f"descriptors, {share:.0%} of their variance")
    titles.append(f"cosine: same spot {same.mean():.2f}, elsewhere {other.mean():.2f}")
    pictures = [contrast_stretch(image[0]) for image in (batch["image0"][index], moved[0], batch["image1"][index])]
    for s, v in zip(seen, vectors, strict=True):
        pictures.append(torch.where(s[:, None], to_colours(v), 0.0).reshape(*shape, 3).numpy())
    figure = plt.figure(figsize=(WIDTH_IN, 2 * (WIDTH_IN / 3 * hw[0] / hw[1] + 0.3)), layout="constrained")
    axes = figure.subplots(2, 3).flat
    for ax, picture, title in zip(axes, pictures, [*titles, "descriptors as they are"], strict=True):
        show(picture, ax, title)
    return figure
