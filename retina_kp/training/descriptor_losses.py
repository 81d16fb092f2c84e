"""The descriptor losses to choose from, `TrainConfig.descriptor_loss`: InfoNCE and SuperRetina's triplets.

A loss takes the arguments of `descriptor_pairs` and some of its own. Points within exclusion_px of each other are no
negatives of each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..core.geometry import inside, sample_map, warp_points


@dataclass(frozen=True)
class Term:
    """A scalar loss, and how many images or points it was computed from: of none it is 0, with a gradient path."""

    value: torch.Tensor
    n_used: int


def descriptor_pairs(desc0, desc1, points0_xy, H_0to1, valid1, stride: int, points1_xy: torch.Tensor | None = None):
    """Read descriptors at points of image 0, (B, N, 2) px, NaN = no point, and at their true correspondents.
    points1_xy: those that are known better than by H_0to1, else NaN. Returns unit vectors (B, N, D) twice, the
    correspondents, and usable (B, N) bool: the correspondent lies inside image 1's field of view."""
    mapped = warp_points(points0_xy.double(), H_0to1.double()).float()
    points1_xy = mapped if points1_xy is None else torch.where(torch.isfinite(points1_xy), points1_xy, mapped)
    usable = inside(points1_xy, valid1.shape[-2:]) & torch.isfinite(points0_xy).all(-1)
    usable &= sample_map(valid1.float(), points1_xy, 1)[..., 0] > 0.99
    d0 = F.normalize(sample_map(desc0, points0_xy.float(), stride), dim=-1)
    d1 = F.normalize(sample_map(desc1, points1_xy, stride), dim=-1)
    return d0, d1, points1_xy, usable


def _too_close(points_xy: torch.Tensor, radius_px: float) -> torch.Tensor:
    """(B, N, N) bool: two different points nearer than radius_px, which share a descriptor cell."""
    xy = torch.nan_to_num(points_xy, nan=-1e4)
    return (torch.cdist(xy, xy) < radius_px) & ~torch.eye(xy.shape[1], dtype=torch.bool, device=xy.device)


def infonce_loss(*read, temperature=0.07, exclusion_px=10.0, generator: torch.Generator | None = None, **known) -> Term:
    """Symmetric InfoNCE (van den Oord et al. 2018, eq. 4): each point must pick its correspondent among all others of
    the other image. Nothing is random; the generator is not used."""
    d0, d1, points1, usable = descriptor_pairs(*read, **known)
    logits = d0 @ d1.transpose(1, 2) / temperature
    pair = usable[:, :, None] & usable[:, None]
    target = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    total = logits.new_zeros(())
    counted = usable & (usable.sum(1, keepdim=True) > 1)
    close0, close1 = _too_close(read[2].float(), exclusion_px), _too_close(points1, exclusion_px)
    for scores, close in ((logits, close1), (logits.transpose(1, 2), close0)):
        scores = scores.masked_fill(~pair | close, -1e4)
        loss = F.cross_entropy(scores.transpose(1, 2), target, reduction="none")
        total = total + (loss * counted).sum() / 2
    n = int(counted.sum())
    return Term(total / max(n, 1), n)


def triplet_loss(*read, margin=0.8, exclusion_px=10.0, generator: torch.Generator | None = None, **known) -> Term:
    """SuperRetina's loss (Liu et al. 2022, eq. 6): margin triplets on cosine distance with the hardest and one random
    negative, plus global orthogonality of non-matching pairs (Zhang et al. 2017, eq. 6)."""
    d0, d1, points1, usable = descriptor_pairs(*read, **known)
    similarity = d0 @ d1.transpose(1, 2)
    positive = similarity.diagonal(dim1=1, dim2=2)
    eye = torch.eye(similarity.shape[1], dtype=torch.bool, device=similarity.device)
    negative = usable[:, :, None] & usable[:, None] & ~eye & ~_too_close(points1, exclusion_px)
    counted = usable & negative.any(-1)
    hard = similarity.masked_fill(~negative, -2).amax(-1)
    draw = torch.rand(similarity.shape, generator=generator).to(similarity).masked_fill(~negative, -1)
    other = similarity.gather(2, draw.argmax(-1, keepdim=True))[..., 0]
    triplets = (F.relu(margin + hard - positive) + F.relu(margin + other - positive)) * counted
    n = int(counted.sum())
    dots = (similarity * negative).sum() / negative.sum().clamp_min(1)
    squares = (similarity**2 * negative).sum() / negative.sum().clamp_min(1)
    orthogonality = dots**2 + F.relu(squares - 1 / d0.shape[-1])
    return Term(triplets.sum() / max(n, 1) + orthogonality * (n > 0), n)


DESCRIPTOR_LOSSES = {"infonce": infonce_loss, "triplet": triplet_loss}
