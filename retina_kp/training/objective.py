"""What a run wants of one batch: its phase's losses, with PKE growing labels; and whether the detector answers."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from ..core.dense import carry
from ..core.geometry import sample_map
from .config import TrainConfig
from .losses import DESCRIPTOR, LossContext, get_phase
from .memory import LabelHistory, ValueMap, Visit, expand, visits_of
from .pke import PkeGuard, mine, mined_precision

SILENT = 0.02  # a detector whose mean answer is below this share of its labels' mean has gone silent
WATCHED_STEPS, LAST_STEPS = 20, 3
REMEMBERED = ("value_map", "guard", "label_history")


class Judged(NamedTuple):
    """total: the loss to minimise; metrics: numbers to log; visits: what PKE has to book once the step is done."""

    total: torch.Tensor
    metrics: dict[str, torch.Tensor | float]
    visits: list[Visit]


class Objective:
    """The losses of a run. It remembers what PKE has found; `state_dict` is part of the run's checkpoint."""

    def __init__(self, config: TrainConfig):
        self.config, self.phase, self.losses = config, get_phase(config.phase), config.losses
        self.value_map, self.guard, self.label_history = ValueMap(config.pke), PkeGuard(), LabelHistory()

    def __call__(self, network, batch: dict, number: int) -> Judged:
        """Judge micro-batch ``number``, which seeds the random choices."""
        g = torch.Generator().manual_seed(self.config.seed * 1_000_003 + number)
        c, metrics, visits = self.look(network, batch, g)
        terms = {loss.name: (loss.weight, term) for loss in self.losses if (term := loss.term(c)) is not None}
        # every layer keeps a gradient, whichever losses count; NaN shows wherever it is
        maps = (c.out0.detector, c.out1.detector, c.out0.descriptors, c.out1.descriptors)
        total = 0 * sum(one.mean() for one in maps) + sum(weight * term.value for weight, term in terms.values())
        metrics = {"total": total, **{name: term.value for name, (_, term) in terms.items()}, **metrics}
        if DESCRIPTOR.name in terms:
            metrics["points_used"] = terms[DESCRIPTOR.name][1].n_used
        return Judged(total, metrics, visits)

    def look(self, network, batch: dict, g: torch.Generator) -> tuple[LossContext, dict, list[Visit]]:
        """Run the network on a batch and gather all that losses need; also metrics to log, and what PKE has to book."""
        c, n = self.config, len(batch["image0"])
        images = torch.cat([batch["image0"], batch["image1"]]).contiguous(memory_format=torch.channels_last)
        out0, out1 = network(images, torch.cat([batch["valid0"], batch["valid1"]])).split(n)
        anchors0, anchors1 = anchor_points(batch, c.clicked_anchor_px)
        extra = self.extra_points(batch, g)
        if anchors1 is not None:
            anchors1 = torch.cat([anchors1, torch.full_like(extra, torch.nan)], 1)
        batch = batch | {"vessel_keypoints": annotated_points(batch)}
        labels, mined, metrics, visits = batch["vessel_keypoints"], None, {}, []
        if self.phase.pke and self.guard.active:
            labels, mined, metrics, visits = self._grow(out0, out1, batch)
        shown = torch.isfinite(labels).all(-1).sum() / n
        metrics |= {"mean_det0": out0.detector.mean(), "mean_det1": out1.detector.mean(), "labels0": shown}
        points = (labels, torch.cat([anchors0, extra], 1), anchors1, mined)
        how = (c.label_sigma_px, c.descriptor_loss, c.exclusion_px, g)
        return LossContext(out0, out1, batch, *points, *how), metrics, visits

    def _grow(self, out0, out1, batch: dict):
        """PKE looks at the batch: labels (B, N, 2), mined points (B, M, 2), the funnel, and the visits to book."""
        n, found = len(batch["image0"]), mine(out0, out1, batch, self.config.pke)
        labels, promoted = expand(self.value_map, batch)
        mined = torch.nn.utils.rnn.pad_sequence(found.points0_xy, True, torch.nan)
        metrics = {f"pke_{k}": v / n for k, v in found.funnel.items()} | {"pke_promoted": promoted / n}
        if "true_keypoints" in batch:
            known = torch.isfinite(batch["true_keypoints"]).all(-1).any(-1)  # pairs from files have no such truth
            metrics["pke_precision"] = mined_precision(mined[known], batch["true_keypoints"][known])
        return labels, mined, metrics, visits_of(self.value_map, found, batch)

    def extra_points(self, batch: dict, g: torch.Generator) -> torch.Tensor:
        """(B, extra_points, 2) random points inside the field of view of image 0; NaN for those that fell outside."""
        h, w = batch["image0"].shape[-2:]
        points = torch.rand(len(batch["image0"]), self.config.extra_points, 2, generator=g)
        points = (points * torch.tensor([w - 1.0, h - 1.0])).to(batch["image0"].device)
        seen = sample_map(batch["valid0"].float(), points) > 0.99
        return torch.where(seen, points, torch.full_like(points, torch.nan))

    def book(self, visits: list[Visit], step: int) -> None:
        """Remember the visits of a step, of all processes, in their order."""
        for visit in visits:
            self.value_map.book([visit])
            self.label_history.note(visit.sample_id, step, self.value_map.record(visit.sample_id))

    def state_dict(self) -> dict:
        return {name: getattr(self, name).state_dict() for name in REMEMBERED}

    def load_state_dict(self, state: dict) -> None:
        for name in REMEMBERED:
            getattr(self, name).load_state_dict(state[name])


def annotated_points(batch: dict) -> torch.Tensor:
    """(B, N, 2) px of image 0, NaN-padded: what the fixed detector is taught, junctions and hand-annotated points."""
    return torch.cat([batch[key] for key in ("vessel_keypoints", "points0") if key in batch], 1)


def anchor_points(batch: dict, clicked_px: float = 0.0) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Where descriptors are held to the truth, (B, N, 2) px of image 0, NaN-padded: hand-annotated points of pairs that
    have them, else junctions. And their partners as clicked in image 1, if within clicked_px of where the truth puts them,
    NaN elsewhere; None when clicked_px is 0 or nothing was clicked."""
    junctions = batch["vessel_keypoints"]
    if "points0" not in batch:
        return junctions, None
    by_hand = torch.isfinite(batch["points0"]).all(-1).any(-1)[:, None, None]
    clicked0, others = torch.where(by_hand, batch["points0"], torch.nan), torch.where(by_hand, torch.nan, junctions)
    anchors = torch.cat([clicked0, others], 1)
    if not clicked_px > 0:
        return anchors, None
    near = (batch["points1"] - carry(batch["points0"], batch)).norm(dim=-1, keepdim=True) <= clicked_px
    clicked = torch.where(near, batch["points1"], torch.nan)
    return anchors, torch.cat([clicked, torch.full_like(junctions, torch.nan)], 1)


# ------------------------------------------------------------------ when a run is stopped


class TrainingStopped(RuntimeError):
    """A run that cannot succeed any more; the message says why and what to do."""


class DetectorWatch:
    """Watches the fixed detector's answers. A silent one would not come back: its Dice loss has no gradient there."""

    def __init__(self, config: TrainConfig):
        self.config, self.answers = config, []

    def verdict(self, step: int, mean_answer: float, labels: float) -> str:
        """What is wrong after ``step`` steps, "" if nothing: mean_answer of det0, labels per image. The median of the
        last WATCHED_STEPS counts; at an epoch's end, so that nothing silent is saved, that of LAST_STEPS."""
        c = self.config
        label_mean = labels * 2 * math.pi * c.label_sigma_px**2 / c.size_px**2
        if label_mean > 0:
            self.answers = [*self.answers, mean_answer / label_mean][-WATCHED_STEPS:]
        count = LAST_STEPS if step % c.steps_per_epoch == 0 else WATCHED_STEPS
        judged = self.answers[-count:]
        if len(judged) < count or np.median(judged) >= SILENT:
            return ""
        share = f"{np.median(judged):.1%} of its labels'"
        return f"the fixed detector has gone silent: at step {step} its mean answer is {mean_answer:.2g}, {share}"
