"""What a phase wants of one batch: its loss terms, and with PKE the labels that grow and the funnel that tells how."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch

from .diary import PkeDiary
from .geometry import sample_map
from .losses import DESCRIPTOR_LOSSES, dice_loss, gaussian_labels, geometric_loss, pke_geometric_loss
from .phases import TrainConfig, get_phase
from .pke import PkeGuard, mine
from .validation import TRUE_RADIUS_PX, mined_precision
from .value_map import ValueMap, Visit, expand, visits_of

WEIGHT_OF = {"loss_det": "detector_weight", "loss_des": "descriptor_weight", "loss_geo": "geometric_weight",
             "loss_geo_pke": "geometric_weight", "loss_explore": "exploration_weight", "loss_mov": "moving_weight"}  # fmt: skip


@dataclass
class Judged:
    """total: the weighted loss to minimise; figures: numbers to log; visits: what PKE has to book once the step is done."""

    total: torch.Tensor
    figures: dict[str, torch.Tensor | float]
    visits: list[Visit] = field(default_factory=list)


class Objective:
    """The losses of a run. It remembers what PKE has found; `state_dict` is part of the run's checkpoint."""

    def __init__(self, config: TrainConfig):
        self.config, self.phase = config, get_phase(config.phase)
        self.value_map, self.guard, self.diary = ValueMap(config.pke), PkeGuard(config.pke), PkeDiary()
        if self.phase.pke and config.files.share < 1 and not config.data.frames_per_retina:
            raise ValueError(f"phase {config.phase!r} needs data.frames_per_retina of 1 or more: PKE has to see each sample again")

    def __call__(self, network, batch: dict, number: int) -> Judged:
        """Judge micro-batch ``number``, which seeds the random choices."""
        c, n = self.config, len(batch["image0"])
        g = torch.Generator().manual_seed(c.seed * 1_000_003 + number)
        images = torch.cat([batch["image0"], batch["image1"]]).contiguous(memory_format=torch.channels_last)
        out0, out1 = network(images, torch.cat([batch["valid0"], batch["valid1"]])).split(n)
        anchors = torch.cat([anchor_points(batch), self.extra_points(batch, g)], 1)
        batch = batch | {"vessel_keypoints": annotated_points(batch)}
        labels_xy, pke_figures, visits, mined = batch["vessel_keypoints"], {}, [], None
        if self.phase.pke and self.guard.active:
            found = mine(out0, out1, batch, c.pke)
            labels_xy, promoted = expand(self.value_map, batch)
            visits, mined = visits_of(self.value_map, found, batch), torch.nn.utils.rnn.pad_sequence(found.points0_xy, True, torch.nan)
            pke_figures = {f"pke_{k}": v / n for k, v in found.funnel.items()} | {"pke_promoted": promoted / n}
            if "true_keypoints" in batch:
                known = torch.isfinite(batch["true_keypoints"]).all(-1).any(-1)  # pairs from files have no such truth
                pke_figures["pke_precision"] = mined_precision(mined[known], batch["true_keypoints"][known], TRUE_RADIUS_PX)
        descriptor = partial(self._descriptor_loss, out0, out1, batch, g)
        labels = partial(gaussian_labels, map_hw=out0.detector.shape[-2:], stride=out0.detector_stride, sigma_px=c.label_sigma_px)
        terms = {"loss_det": dice_loss(out0.detector, labels(labels_xy)), "loss_des": descriptor(anchors),
                 "loss_geo": geometric_loss(out0.detector, out1.detector, batch["H_0to1"], batch["valid0"], batch["valid1"],
                                            out0.detector_stride)}  # fmt: skip
        if self.phase.pke:
            terms["loss_geo_pke"] = pke_geometric_loss(out0, out1, labels_xy, batch, c.label_sigma_px)
        if "loss_explore" in self.phase.losses and mined is not None and mined.shape[1]:
            terms["loss_explore"] = descriptor(mined)
        if "vessel_keypoints1" in batch:
            terms["loss_mov"] = dice_loss(out1.detector, labels(batch["vessel_keypoints1"]))
        weights = {name: getattr(c, WEIGHT_OF[name]) for name in terms if name in self.phase.losses}
        total = sum(weight * terms[name].value for name, weight in weights.items())
        figures = {"total": total, **{name: term.value for name, term in terms.items()}, "points_used": terms["loss_des"].n_used,
                   "mean_det0": out0.detector.mean(), "mean_det1": out1.detector.mean(), **pke_figures}  # fmt: skip
        return Judged(total, figures, visits)

    def _descriptor_loss(self, out0, out1, batch: dict, g: torch.Generator, points: torch.Tensor):
        extra = {"generator": g} if self.config.descriptor_loss == "triplet" else {}
        return DESCRIPTOR_LOSSES[self.config.descriptor_loss](
            out0.descriptors, out1.descriptors, points, batch["H_0to1"], batch["valid1"], out0.descriptor_stride,
            exclusion_px=self.config.exclusion_px, **extra)  # fmt: skip

    def extra_points(self, batch: dict, g: torch.Generator) -> torch.Tensor:
        """(B, extra_points, 2) random points inside the field of view of image 0; NaN for those that fell outside."""
        h, w = batch["image0"].shape[-2:]
        points = torch.rand(len(batch["image0"]), self.config.extra_points, 2, generator=g) * torch.tensor([w - 1.0, h - 1.0])
        points = points.to(batch["image0"].device)
        return torch.where(sample_map(batch["valid0"].float(), points) > 0.99, points, torch.full_like(points, torch.nan))

    def book(self, visits: list[Visit], step: int) -> None:
        """Remember the visits of a step of the run, of all processes, in their order."""
        for visit in visits:
            self.value_map.book([visit])
            self.diary.note(visit.sample_id, step, self.value_map.record(visit.sample_id))

    def state_dict(self) -> dict:
        return {"value_map": self.value_map.state_dict(), "guard": self.guard.state_dict(), "diary": self.diary.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.value_map.load_state_dict(state["value_map"])
        self.guard.load_state_dict(state["guard"])
        if "diary" in state:  # runs begun before there was a diary can be continued
            self.diary.load_state_dict(state["diary"])


def annotated_points(batch: dict) -> torch.Tensor:
    """(B, N, 2) px of image 0, NaN-padded: what the fixed detector is taught: junctions of the vessel mask and hand-annotated points."""
    return torch.cat([batch["vessel_keypoints"], batch["points0"]], 1) if "points0" in batch else batch["vessel_keypoints"]


def anchor_points(batch: dict) -> torch.Tensor:
    """(B, N, 2) px of image 0, NaN-padded: where descriptors are held to the truth: hand-annotated points of pairs that have them, else the
    junctions of the vessel mask."""
    junctions = batch["vessel_keypoints"]
    if "points0" not in batch:
        return junctions
    by_hand = torch.isfinite(batch["points0"]).all(-1).any(-1)[:, None, None]
    return torch.cat([torch.where(by_hand, batch["points0"], torch.nan), torch.where(by_hand, torch.nan, junctions)], 1)
