"""Losses of the four phases. Every loss returns a `Term`: its value and how many points or pixels it used; 0 used means
no evidence, and then the value is an exact zero that still carries a gradient path."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..core.geometry import inside, pixel_grid, sample_map, to_cells, warp_points


@dataclass(frozen=True)
class Term:
    """A scalar loss and the number of images, points or pairs it was computed from."""

    value: torch.Tensor
    n_used: int


def gaussian_labels(points_xy: torch.Tensor, map_hw, stride: int, sigma_px: float) -> torch.Tensor:
    """Soft detector labels Y = Gaussian(points), peak 1, clipped at 1 (phase 1).

    points_xy: (B, N, 2) image px, NaN rows are ignored. Returns (B, 1, *map_hw) on a map of the given stride; where
    blobs overlap the larger value counts. The kernel ends at 3 sigma.
    """
    b, n, _ = points_xy.shape
    labels = torch.zeros(b, map_hw[0] * map_hw[1], device=points_xy.device)
    radius = max(int(3 * sigma_px / stride + 0.999), 1)
    around = pixel_grid((2 * radius + 1, 2 * radius + 1), points_xy.device).reshape(-1, 2) - radius
    cells = to_cells(points_xy.float(), stride)
    near = torch.nan_to_num(cells, nan=-1e4).round()[:, :, None] + around  # (B, N, K, 2)
    value = torch.exp(
        -((near - torch.nan_to_num(cells, nan=-1e4)[:, :, None]) ** 2).sum(-1) * stride**2 / (2 * sigma_px**2)
    )
    value = torch.where(inside(near, map_hw), value, torch.zeros_like(value))
    index = (near[..., 1].clamp(0, map_hw[0] - 1) * map_hw[1] + near[..., 0].clamp(0, map_hw[1] - 1)).long()
    labels.scatter_reduce_(1, index.reshape(b, -1), value.reshape(b, -1), "amax")
    return labels.reshape(b, 1, *map_hw).clamp_max(1)


def dice_loss(prediction: torch.Tensor, target: torch.Tensor, valid: torch.Tensor | None = None) -> Term:
    """Soft Dice 1 - 2 Σpt / (Σp² + Σt²), per image, then averaged over the images that have any target (Milletari et
    al. 2016, eq. 1).

    prediction, target: (B, 1, h, w) in [0, 1]; valid: (B, 1, h, w), pixels outside are neither hit nor miss. An image
    whose target is empty is left out: pushing a detector down without a positive beside it is how it collapses.
    """
    weight = torch.ones_like(target) if valid is None else valid.to(target)
    p, t = prediction * weight, target * weight
    overlap, size = (p * t).sum((1, 2, 3)), (p**2).sum((1, 2, 3)) + (t**2).sum((1, 2, 3))
    used = t.sum((1, 2, 3)) > 1e-3
    loss = 1 - 2 * overlap / size.clamp_min(1e-6)
    return Term((loss * used).sum() / used.sum().clamp_min(1), int(used.sum()))


def geometric_loss(det0, det1, H_0to1: torch.Tensor, valid0: torch.Tensor, valid1: torch.Tensor, stride: int) -> Term:
    """Phase 2: Dice between det0 and det1 seen in the fixed frame, over the pixels that both images see.

    det0, det1: (B, 1, h, w) on maps of ``stride``; H_0to1: (B, 3, 3) px → px; valid0, valid1: (B, 1, H, W) bool fields
    of view in px. The fixed map is a teacher without gradient: with gradient on both sides the fixed detector gave way
    (its own Dice loss rose from 0.63 to 0.72 within 400 steps).
    """
    seen1, covisible = in_fixed_frame(det1, H_0to1, valid0, valid1, stride, det0.shape[-2:])
    return dice_loss(det0.detach(), seen1, covisible)


def labelled_geometric_loss(out0, out1, labels: torch.Tensor, batch: dict, sigma_px: float) -> Term:
    """l_geo_pke: Dice of det1 seen in the fixed frame with Gaussian labels (B, N, 2) px, the teacher, over pixels that
    both images see."""
    map0_hw, stride = out0.detector.shape[-2:], out0.detector_stride
    seen1, both = in_fixed_frame(
        out1.detector.float(), batch["H_0to1"], batch["valid0"], batch["valid1"], stride, map0_hw
    )
    return dice_loss(seen1, gaussian_labels(labels, map0_hw, stride, sigma_px), both)


def in_fixed_frame(
    map1: torch.Tensor, H_0to1: torch.Tensor, valid0: torch.Tensor, valid1: torch.Tensor, stride: int, map0_hw
):
    """A map of image 1 read at the cells of image 0's map: (B, C, h, w), and the (B, 1, h, w) bool mask of cells that
    both images see."""
    grid0 = (pixel_grid(map0_hw, map1.device).reshape(1, -1, 2) + 0.5) * stride - 0.5
    grid1 = warp_points(grid0.double(), H_0to1.double()).float()
    shape = (len(map1), -1, *map0_hw)
    seen1 = sample_map(map1, grid1, stride).transpose(1, 2).reshape(shape)
    both = sample_map(valid0.to(map1), grid0.expand(len(map1), -1, -1)) * sample_map(valid1.to(map1), grid1)
    return seen1, both.transpose(1, 2).reshape(shape) > 0.99


def descriptor_pairs(desc0, desc1, points0_xy, H_0to1, valid1, stride: int, points1_xy: torch.Tensor | None = None):
    """Read descriptors at points of image 0 and at their true correspondents.

    points0_xy: (B, N, 2) px, NaN = no point; points1_xy: (B, N, 2) px, correspondents that are known better than by
    H_0to1, NaN where they are not. Returns unit vectors (B, N, D) twice, the correspondents (B, N, 2) and usable (B, N)
    bool: the correspondent lies inside image 1's field of view.
    """
    mapped = warp_points(points0_xy.double(), H_0to1.double()).float()
    points1_xy = mapped if points1_xy is None else torch.where(torch.isfinite(points1_xy), points1_xy, mapped)
    usable = inside(points1_xy, valid1.shape[-2:]) & torch.isfinite(points0_xy).all(-1)
    usable &= sample_map(valid1.float(), points1_xy, 1)[..., 0] > 0.99
    d0 = F.normalize(sample_map(desc0, points0_xy.float(), stride), dim=-1)
    d1 = F.normalize(sample_map(desc1, points1_xy, stride), dim=-1)
    return d0, d1, points1_xy, usable


def _too_close(points_xy: torch.Tensor, radius_px: float) -> torch.Tensor:
    """(B, N, N) bool: two different points nearer than radius_px, which share a descriptor cell and are no negatives of
    each other."""
    xy = torch.nan_to_num(points_xy, nan=-1e4)
    near = torch.cdist(xy, xy) < radius_px
    return near & ~torch.eye(xy.shape[1], dtype=torch.bool, device=xy.device)


def infonce_loss(
    desc0,
    desc1,
    points0_xy,
    H_0to1,
    valid1,
    stride: int,
    temperature: float = 0.07,
    exclusion_px: float = 10.0,
    points1_xy: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Term:
    """Symmetric InfoNCE over the points of one pair (van den Oord et al. 2018, eq. 4): each point must pick its
    correspondent among all others of the other image, but for those within exclusion_px of it. Inputs as in
    `descriptor_pairs`; nothing is random, the generator is not used."""
    d0, d1, points1, usable = descriptor_pairs(desc0, desc1, points0_xy, H_0to1, valid1, stride, points1_xy)
    logits = d0 @ d1.transpose(1, 2) / temperature
    pair = usable[:, :, None] & usable[:, None]
    target = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)
    total = logits.new_zeros(())
    counted = usable & (usable.sum(1, keepdim=True) > 1)
    close0, close1 = _too_close(points0_xy.float(), exclusion_px), _too_close(points1, exclusion_px)
    for scores, close in ((logits, close1), (logits.transpose(1, 2), close0)):
        scores = scores.masked_fill(~pair | close, -1e4)
        loss = F.cross_entropy(scores.transpose(1, 2), target, reduction="none")
        total = total + (loss * counted).sum() / 2
    n = int(counted.sum())
    return Term(total / max(n, 1), n)


def triplet_loss(
    desc0,
    desc1,
    points0_xy,
    H_0to1,
    valid1,
    stride: int,
    margin: float = 0.8,
    exclusion_px: float = 10.0,
    points1_xy: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Term:
    """SuperRetina's descriptor loss (Liu et al. 2022, eq. 6): margin triplets on cosine distance with the hardest and
    one random negative, plus global orthogonality of non-matching pairs (Zhang et al. 2017, eq. 6). Inputs as in
    `descriptor_pairs`."""
    d0, d1, points1, usable = descriptor_pairs(desc0, desc1, points0_xy, H_0to1, valid1, stride, points1_xy)
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
    orthogonality = dots**2 + F.relu(squares - 1 / desc0.shape[1])
    return Term(triplets.sum() / max(n, 1) + orthogonality * (n > 0), n)


DESCRIPTOR_LOSSES = {"infonce": infonce_loss, "triplet": triplet_loss}
