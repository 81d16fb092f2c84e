"""The losses, and the four phases as lists of them. A phase also says whether PKE makes the labels.

To add a loss: write a function `(context) -> Term` under `@loss(...)`, and name it in the list of a phase.
`TrainConfig.weights` changes a weight by the loss's name; a weight of 0 leaves the loss out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from ..core.dense import carry
from ..core.geometry import inside, pixel_grid, sample_map, to_cells
from ..networks.common import DenseOutput
from .descriptor_losses import DESCRIPTOR_LOSSES, Term


def gaussian_labels(points_xy: torch.Tensor, map_hw, stride: int, sigma_px: float) -> torch.Tensor:
    """Soft detector labels of peak 1, (B, 1, *map_hw) on a map of the given stride. points_xy: (B, N, 2) image px, NaN
    rows are ignored. Where blobs overlap the larger value counts; the kernel ends at 3 sigma."""
    b, n, _ = points_xy.shape
    labels = torch.zeros(b, map_hw[0] * map_hw[1], device=points_xy.device)
    radius = max(int(3 * sigma_px / stride + 0.999), 1)
    around = pixel_grid((2 * radius + 1, 2 * radius + 1), points_xy.device).reshape(-1, 2) - radius
    cells = torch.nan_to_num(to_cells(points_xy.float(), stride), nan=-1e4)[:, :, None]
    near = cells.round() + around  # (B, N, K, 2)
    value = torch.exp(-((near - cells) ** 2).sum(-1) * stride**2 / (2 * sigma_px**2))
    value = torch.where(inside(near, map_hw), value, torch.zeros_like(value))
    index = (near[..., 1].clamp(0, map_hw[0] - 1) * map_hw[1] + near[..., 0].clamp(0, map_hw[1] - 1)).long()
    labels.scatter_reduce_(1, index.reshape(b, -1), value.reshape(b, -1), "amax")
    return labels.reshape(b, 1, *map_hw).clamp_max(1)


def dice_loss(prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None = None) -> Term:
    """Soft Dice 1 - 2 Σpt / (Σp² + Σt²), per image, then averaged over the images that have any target (Milletari et
    al. 2016, eq. 1); others would push a detector down until it collapses. prediction, target: (B, 1, h, w) in [0, 1];
    valid: (B, 1, h, w), pixels outside are neither hit nor miss."""
    weight = torch.ones_like(target) if valid is None else valid.to(target)
    p, t = prediction * weight, target * weight
    overlap, size = (p * t).sum((1, 2, 3)), (p**2).sum((1, 2, 3)) + (t**2).sum((1, 2, 3))
    used = t.sum((1, 2, 3)) > 1e-3
    value = 1 - 2 * overlap / size.clamp_min(1e-6)
    return Term((value * used).sum() / used.sum().clamp_min(1), int(used.sum()))


def in_fixed_frame(map1: torch.Tensor, batch: dict, out0: DenseOutput) -> tuple[torch.Tensor, torch.Tensor]:
    """A map of image 1 read at the cells of out0's detector: (B, C, h, w), and the (B, 1, h, w) bool mask of cells that
    both images see."""
    hw, stride = out0.detector.shape[-2:], out0.detector_stride
    grid0 = (pixel_grid(hw, map1.device).reshape(1, -1, 2) + 0.5) * stride - 0.5
    grid1 = carry(grid0, batch)
    seen1 = sample_map(map1, grid1, stride)
    both = sample_map(batch["valid0"].to(map1), grid0.expand(len(map1), -1, -1))
    both = both * sample_map(batch["valid1"].to(map1), grid1)
    seen1, both = (values.transpose(1, 2).reshape(len(map1), -1, *hw) for values in (seen1, both))
    return seen1, both > 0.99


# ------------------------------------------------------------------ what a loss is


@dataclass(frozen=True)
class LossContext:
    """What a loss may look at: the network's answers to one batch, and its points, NaN-padded px."""

    out0: DenseOutput
    out1: DenseOutput
    batch: dict  # as in `synthetic.training_pairs`
    labels_xy: torch.Tensor  # (B, N, 2) of image 0: what det0 is taught; annotated points, with PKE promoted ones too
    anchors0_xy: torch.Tensor | None = None  # (B, A, 2) of image 0: where descriptors are held to the truth
    anchors1_xy: torch.Tensor | None = None  # (B, A, 2) of image 1, where known better than by the truth; NaN elsewhere
    mined_xy: torch.Tensor | None = None  # (B, M, 2) of image 0: what PKE has just confirmed; None without PKE
    label_sigma_px: float = 2.0
    descriptor_loss: str = "infonce"  # a name in DESCRIPTOR_LOSSES
    exclusion_px: float = 10.0
    generator: torch.Generator | None = None

    def label_map(self, points_xy: torch.Tensor) -> torch.Tensor:
        """Points as a soft map of the detector's size, (B, 1, h, w)."""
        return gaussian_labels(points_xy, self.out0.detector.shape[-2:], self.out0.detector_stride, self.label_sigma_px)

    def describe(self, points0_xy: torch.Tensor, points1_xy: torch.Tensor | None = None) -> Term:
        """The chosen descriptor loss at points of image 0 and their partners."""
        maps, b, true1 = (self.out0.descriptors, self.out1.descriptors), self.batch, carry(points0_xy, self.batch)
        points1_xy = true1 if points1_xy is None else torch.where(torch.isfinite(points1_xy), points1_xy, true1)
        read = (*maps, points0_xy, b["H_0to1"], b["valid1"], self.out0.descriptor_stride)
        how = {"exclusion_px": self.exclusion_px, "points1_xy": points1_xy, "generator": self.generator}
        return DESCRIPTOR_LOSSES[self.descriptor_loss](*read, **how)


@dataclass(frozen=True)
class Loss:
    """A named loss. term(context) gives its value, or None where this batch holds nothing for it; formula is LaTeX."""

    name: str  # its column in a run's history
    term: Callable[[LossContext], Term | None]
    weight: float
    formula: str
    about: str


def loss(name: str, weight: float, formula: str, about: str) -> Callable[[Callable], Loss]:
    """Make a `Loss` of the function below."""
    return lambda term: Loss(name, term, weight, formula, about)


# ------------------------------------------------------------------ the losses

LABELS = r"\mathrm{Dice}(P_0,\,Y_0),\quad Y_0(u)=\max_k e^{-\|u-p_k\|^2/2\sigma^2}"
NCE = r"-\tfrac1N\sum_k \log\frac{e^{d_0(p_k)\cdot d_1(Hp_k)/\tau}}{\sum_j e^{d_0(p_k)\cdot d_1(Hp_j)/\tau}}"
BOTH = r"\mathrm{Dice}\big(P_0,\;P_1\circ H\big)\ \text{where both images see}"


@loss("loss_det", 1.0, LABELS, "the fixed detector fires at the labels p_k and nowhere else")
def DETECTOR(c: LossContext) -> Term:
    return dice_loss(c.out0.detector, c.label_map(c.labels_xy))


@loss("loss_des", 1.0, NCE, "a point's descriptor finds its true partner among all others, both ways")
def DESCRIPTOR(c: LossContext) -> Term:
    return c.describe(c.anchors0_xy, c.anchors1_xy)


@loss("loss_geo", 0.5, BOTH, "the moving detector, seen in the fixed frame, fires where the fixed one does")
def GEOMETRIC(c: LossContext) -> Term:
    # The teacher has no gradient. With one on both sides its own Dice loss rose from 0.63 to 0.72 within 400 steps.
    return dice_loss(c.out0.detector.detach(), *in_fixed_frame(c.out1.detector, c.batch, c.out0))


@loss(
    "loss_mov",
    0.5,
    r"\mathrm{Dice}(P_1,\,Y_1)",
    "the moving detector fires at the junctions that image 1 shows; not in SuperRetina",
)
def MOVING(c: LossContext) -> Term | None:
    known = c.batch.get("vessel_keypoints1")
    return None if known is None else dice_loss(c.out1.detector, c.label_map(known))


@loss(
    "loss_geo_pke",
    0.5,
    r"\mathrm{Dice}\big(Y_{\mathrm{PKE}},\;P_1\circ H\big)",
    "the moving detector fires at the labels, the grown ones included",
)
def GEOMETRIC_PKE(c: LossContext) -> Term:
    seen1, both = in_fixed_frame(c.out1.detector.float(), c.batch, c.out0)
    return dice_loss(seen1, c.label_map(c.labels_xy), both)


@loss(
    "loss_explore",
    1.0,
    r"\text{loss\_des at the points that PKE has just mined}",
    "descriptors are trained at hundreds of points that nobody clicked",
)
def EXPLORATION(c: LossContext) -> Term | None:
    return c.describe(c.mined_xy) if c.mined_xy is not None and c.mined_xy.shape[1] else None


# ------------------------------------------------------------------ the phases


@dataclass(frozen=True)
class Phase:
    """pke: whether labels grow; real: its files are real pairs, beside what must not be forgotten."""

    title: str
    losses: tuple[Loss, ...]
    pke: bool = False
    real: bool = False


# Phase 4 weighs its detector little: clicked points are few of the junctions, and a full weight teaches silence about
# the others.
PHASES = {
    "warmup": Phase("1 · warm-up: descriptor and fixed detector", (DETECTOR, DESCRIPTOR)),
    "geometric": Phase("2 · geometric warm-up: the moving detector follows", (DETECTOR, DESCRIPTOR, GEOMETRIC, MOVING)),
    "pke": Phase(
        "3 · PKE: the detector explores, the descriptor holds the line",
        (
            DETECTOR,
            DESCRIPTOR,
            GEOMETRIC_PKE,
        ),
        pke=True,
    ),
    "sim2real": Phase(
        "4 · sim-to-real: real pairs with computed H, and replay",
        (replace(DETECTOR, weight=0.2), DESCRIPTOR, replace(GEOMETRIC_PKE, weight=0.2), EXPLORATION),
        pke=True,
        real=True,
    ),
}


def pick(kind: str, known: Mapping, name: str):
    """One of several by its name; ValueError lists the names."""
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}; there are {', '.join(known)}")
    return known[name]


def get_phase(name: str) -> Phase:
    """A phase by name; ValueError lists the names."""
    return pick("phase", PHASES, name)


def weighted_losses(phase: str, weights: dict[str, float] | None = None) -> list[Loss]:
    """The losses of a phase that count, weights changed by name; ValueError for weights that cannot be."""
    weights, losses = dict(weights or {}), get_phase(phase).losses
    known = [one.name for one in losses]
    for name, value in weights.items():
        if name not in known:
            raise ValueError(f"weights.{name}: phase {phase!r} has no such loss; it has {', '.join(known)}")
        if not value >= 0:
            raise ValueError(f"weights.{name}: takes a number from 0, not {value!r}")
    chosen = [replace(one, weight=float(weights.get(one.name, one.weight))) for one in losses]
    if not any(one.weight for one in chosen):
        raise ValueError(f"weights: one loss at least must count in phase {phase!r}")
    return [one for one in chosen if one.weight]
