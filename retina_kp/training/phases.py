"""The four phases. A phase is a list of losses, each with its weight, and says whether PKE makes the labels.

To add a loss: write a function `(context) -> Term`, make it a `Loss`, and put it into the list of a phase.
`TrainConfig.weights` changes a weight by the loss's name; a weight of 0 leaves the loss out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from ..networks.common import DenseOutput
from .losses import DESCRIPTOR_LOSSES, Term, dice_loss, gaussian_labels, geometric_loss, labelled_geometric_loss


@dataclass(frozen=True)
class LossContext:
    """What a loss may look at: the network's answers to one batch, and the points that belong to it. Points are
    NaN-padded px."""

    out0: DenseOutput
    out1: DenseOutput
    batch: dict  # as in `dataset`
    # (B, N, 2) of image 0: what det0 is taught; annotated points, with PKE the promoted ones too
    labels_xy: torch.Tensor
    anchors0_xy: torch.Tensor  # (B, A, 2) of image 0: where descriptors are held to the truth
    anchors1_xy: torch.Tensor | None  # (B, A, 2) of image 1, where known better than by H_0to1; NaN elsewhere
    mined_xy: torch.Tensor | None  # (B, M, 2) of image 0: what PKE has just confirmed; None without PKE
    label_sigma_px: float
    descriptor_loss: str  # a name in DESCRIPTOR_LOSSES
    exclusion_px: float
    generator: torch.Generator

    def label_map(self, points_xy: torch.Tensor) -> torch.Tensor:
        """Points as a soft map of the detector's size, (B, 1, h, w)."""
        return gaussian_labels(points_xy, self.out0.detector.shape[-2:], self.out0.detector_stride, self.label_sigma_px)

    def describe(self, points0_xy: torch.Tensor, points1_xy: torch.Tensor | None = None) -> Term:
        """The chosen descriptor loss at points of image 0 and their partners."""
        loss, b = DESCRIPTOR_LOSSES[self.descriptor_loss], self.batch
        return loss(
            self.out0.descriptors,
            self.out1.descriptors,
            points0_xy,
            b["H_0to1"],
            b["valid1"],
            self.out0.descriptor_stride,
            exclusion_px=self.exclusion_px,
            points1_xy=points1_xy,
            generator=self.generator,
        )


@dataclass(frozen=True)
class Loss:
    """A named loss. term(context) gives its value, or None where this batch holds nothing for it; formula is LaTeX."""

    name: str  # its column in a run's history
    term: Callable[[LossContext], Term | None]
    weight: float
    formula: str
    about: str


def _detector(c: LossContext) -> Term:
    return dice_loss(c.out0.detector, c.label_map(c.labels_xy))


def _descriptor(c: LossContext) -> Term:
    return c.describe(c.anchors0_xy, c.anchors1_xy)


def _geometric(c: LossContext) -> Term:
    b = c.batch
    return geometric_loss(
        c.out0.detector, c.out1.detector, b["H_0to1"], b["valid0"], b["valid1"], c.out0.detector_stride
    )


def _geometric_pke(c: LossContext) -> Term:
    return labelled_geometric_loss(c.out0, c.out1, c.labels_xy, c.batch, c.label_sigma_px)


def _moving(c: LossContext) -> Term | None:
    known = c.batch.get("vessel_keypoints1")
    return None if known is None else dice_loss(c.out1.detector, c.label_map(known))


def _exploration(c: LossContext) -> Term | None:
    return c.describe(c.mined_xy) if c.mined_xy is not None and c.mined_xy.shape[1] else None


DETECTOR = Loss(
    "loss_det",
    _detector,
    1.0,
    r"\mathrm{Dice}(P_0,\,Y_0),\quad Y_0(u)=\max_k e^{-\|u-p_k\|^2/2\sigma^2}",
    "the fixed detector fires at the labels p_k and nowhere else",
)
DESCRIPTOR = Loss(
    "loss_des",
    _descriptor,
    1.0,
    r"-\tfrac1N\sum_k \log\frac{e^{d_0(p_k)\cdot d_1(Hp_k)/\tau}}{\sum_j e^{d_0(p_k)\cdot d_1(Hp_j)/\tau}}",
    "a point's descriptor finds its true partner among all others, both ways",
)
GEOMETRIC = Loss(
    "loss_geo",
    _geometric,
    0.5,
    r"\mathrm{Dice}\big(P_0,\;P_1\circ H\big)\ \text{where both images see}",
    "the moving detector, seen in the fixed frame, fires where the fixed one does",
)
MOVING = Loss(
    "loss_mov",
    _moving,
    0.5,
    r"\mathrm{Dice}(P_1,\,Y_1)",
    "the moving detector fires at the junctions that image 1 shows; not in SuperRetina",
)
GEOMETRIC_PKE = Loss(
    "loss_geo_pke",
    _geometric_pke,
    0.5,
    r"\mathrm{Dice}\big(Y_{\mathrm{PKE}},\;P_1\circ H\big)",
    "the moving detector fires at the labels, the grown ones included",
)
EXPLORATION = Loss(
    "loss_explore",
    _exploration,
    1.0,
    r"\text{loss\_des at the points that PKE has just mined}",
    "descriptors are trained at hundreds of points that nobody clicked",
)


@dataclass(frozen=True)
class Phase:
    """title; losses with their weights; pke: whether labels grow; real: its files are real pairs, beside what must not
    be forgotten."""

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
        "3 · PKE: the detector explores, the descriptor holds the line", (DETECTOR, DESCRIPTOR, GEOMETRIC_PKE), pke=True
    ),
    "sim2real": Phase(
        "4 · sim-to-real: real pairs with computed H, and replay",
        (replace(DETECTOR, weight=0.2), DESCRIPTOR, replace(GEOMETRIC_PKE, weight=0.2), EXPLORATION),
        pke=True,
        real=True,
    ),
}


def get_phase(name: str) -> Phase:
    """A phase by name; ValueError lists the names."""
    if name not in PHASES:
        raise ValueError(f"unknown phase {name!r}; there are {', '.join(PHASES)}")
    return PHASES[name]


def weighted_losses(phase: str, weights: dict[str, float] | None = None) -> list[Loss]:
    """The losses of a phase that count, with their weights changed by name; ValueError for a name that the phase has
    not, a weight below 0, or nothing left."""
    weights, losses = dict(weights or {}), get_phase(phase).losses
    known = [loss.name for loss in losses]
    for name, value in weights.items():
        if name not in known:
            raise ValueError(f"weights.{name}: phase {phase!r} has no such loss; it has {', '.join(known)}")
        if not value >= 0:
            raise ValueError(f"weights.{name}: takes a number from 0, not {value!r}")
    chosen = [replace(loss, weight=float(weights.get(loss.name, loss.weight))) for loss in losses]
    if not any(loss.weight for loss in chosen):
        raise ValueError(f"weights: one loss at least must count in phase {phase!r}")
    return [loss for loss in chosen if loss.weight]
