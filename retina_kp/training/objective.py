"""What a run wants of one batch: its phase's losses, and with PKE the labels that grow and the funnel that tells
how."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from ..core.geometry import sample_map, warp_points
from .config import TrainConfig
from .label_history import LabelHistory
from .phases import DESCRIPTOR, LossContext, get_phase
from .pke import PkeGuard, mine
from .validation import TRUE_RADIUS_PX, mined_precision
from .value_map import ValueMap, Visit, expand, visits_of


@dataclass
class Judged:
    """total: the weighted loss to minimise; figures: numbers to log; visits: what PKE has to book once the step is
    done."""

    total: torch.Tensor
    figures: dict[str, torch.Tensor | float]
    visits: list[Visit] = field(default_factory=list)


class Objective:
    """The losses of a run. It remembers what PKE has found; `state_dict` is part of the run's checkpoint."""

    def __init__(self, config: TrainConfig):
        self.config, self.phase, self.losses = config, get_phase(config.phase), config.losses
        self.value_map, self.guard, self.label_history = ValueMap(config.pke), PkeGuard(config.pke), LabelHistory()

    def __call__(self, network, batch: dict, number: int) -> Judged:
        """Judge micro-batch ``number``, which seeds the random choices."""
        g = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        context, figures, visits = self.look(network, batch, g)
        terms = {loss.name: (loss.weight, loss.term(context)) for loss in self.losses}
        terms = {name: (weight, term) for name, (weight, term) in terms.items() if term is not None}
        outputs = (context.out0.detector, context.out1.detector, context.out0.descriptors, context.out1.descriptors)
        # every layer keeps a gradient, whichever losses count; NaN shows wherever it is
        total = 0 * sum(o.mean() for o in outputs)
        total = total + sum(weight * term.value for weight, term in terms.values())
        figures = {"total": total, **{name: term.value for name, (_, term) in terms.items()}, **figures}
        if DESCRIPTOR.name in terms:
            figures["points_used"] = terms[DESCRIPTOR.name][1].n_used
        return Judged(total, figures, visits)

    def look(self, network, batch: dict, g: torch.Generator) -> tuple[LossContext, dict, list[Visit]]:
        """Run the network on a batch and gather all that losses need; also figures to log, and what PKE has to book."""
        c, n = self.config, len(batch["image0"])
        images = torch.cat([batch["image0"], batch["image1"]]).contiguous(memory_format=torch.channels_last)
        out0, out1 = network(images, torch.cat([batch["valid0"], batch["valid1"]])).split(n)
        anchors0, anchors1 = anchor_points(batch, c.clicked_anchor_px)
        extra = self.extra_points(batch, g)
        if anchors1 is not None:
            anchors1 = torch.cat([anchors1, torch.full_like(extra, torch.nan)], 1)
        batch = batch | {"vessel_keypoints": annotated_points(batch)}
        labels, mined, figures, visits = batch["vessel_keypoints"], None, {}, []
        if self.phase.pke and self.guard.active:
            labels, mined, figures, visits = self._grow(out0, out1, batch)
        shown = torch.isfinite(labels).all(-1).sum() / n
        figures |= {"mean_det0": out0.detector.mean(), "mean_det1": out1.detector.mean(), "labels0": shown}
        context = LossContext(
            out0,
            out1,
            batch,
            labels,
            torch.cat([anchors0, extra], 1),
            anchors1,
            mined,
            c.label_sigma_px,
            c.descriptor_loss,
            c.exclusion_px,
            g,
        )
        return context, figures, visits

    def _grow(self, out0, out1, batch: dict):
        """PKE looks at the batch: labels (B, N, 2), mined points (B, M, 2), the funnel, and the visits to book."""
        n, found = len(batch["image0"]), mine(out0, out1, batch, self.config.pke)
        labels, promoted = expand(self.value_map, batch)
        mined = torch.nn.utils.rnn.pad_sequence(found.points0_xy, True, torch.nan)
        figures = {f"pke_{k}": v / n for k, v in found.funnel.items()} | {"pke_promoted": promoted / n}
        if "true_keypoints" in batch:
            known = torch.isfinite(batch["true_keypoints"]).all(-1).any(-1)  # pairs from files have no such truth
            figures["pke_precision"] = mined_precision(mined[known], batch["true_keypoints"][known], TRUE_RADIUS_PX)
        return labels, mined, figures, visits_of(self.value_map, found, batch)

    def extra_points(self, batch: dict, g: torch.Generator) -> torch.Tensor:
        """(B, extra_points, 2) random points inside the field of view of image 0; NaN for those that fell outside."""
        h, w = batch["image0"].shape[-2:]
        points = torch.rand(len(batch["image0"]), self.config.extra_points, 2, generator=g)
        points = (points * torch.tensor([w - 1.0, h - 1.0])).to(batch["image0"].device)
        seen = sample_map(batch["valid0"].float(), points) > 0.99
        return torch.where(seen, points, torch.full_like(points, torch.nan))

    def book(self, visits: list[Visit], step: int) -> None:
        """Remember the visits of a step of the run, of all processes, in their order."""
        for visit in visits:
            self.value_map.book([visit])
            self.label_history.note(visit.sample_id, step, self.value_map.record(visit.sample_id))

    def state_dict(self) -> dict:
        return {
            "value_map": self.value_map.state_dict(),
            "guard": self.guard.state_dict(),
            "label_history": self.label_history.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        self.value_map.load_state_dict(state["value_map"])
        self.guard.load_state_dict(state["guard"])
        self.label_history.load_state_dict(state["label_history"])


def annotated_points(batch: dict) -> torch.Tensor:
    """(B, N, 2) px of image 0, NaN-padded: what the fixed detector is taught: junctions of the vessel mask and
    hand-annotated points."""
    return (
        torch.cat([batch["vessel_keypoints"], batch["points0"]], 1) if "points0" in batch else batch["vessel_keypoints"]
    )


def anchor_points(batch: dict, clicked_px: float = 0.0) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Where descriptors are held to the truth, (B, N, 2) px of image 0, NaN-padded: hand-annotated points of pairs that
    have them, else the junctions of the vessel mask. And their partners as clicked in image 1, where they lie within
    clicked_px of where H_0to1 puts them, NaN elsewhere; None when clicked_px is 0 or nothing was clicked."""
    junctions = batch["vessel_keypoints"]
    if "points0" not in batch:
        return junctions, None
    by_hand = torch.isfinite(batch["points0"]).all(-1).any(-1)[:, None, None]
    anchors = torch.cat(
        [torch.where(by_hand, batch["points0"], torch.nan), torch.where(by_hand, torch.nan, junctions)], 1
    )
    if not clicked_px > 0:
        return anchors, None
    mapped = warp_points(batch["points0"].double(), batch["H_0to1"].double()).float()
    near = (batch["points1"] - mapped).norm(dim=-1, keepdim=True) <= clicked_px
    clicked = torch.where(near, batch["points1"], torch.nan)
    return anchors, torch.cat([clicked, torch.full_like(junctions, torch.nan)], 1)
