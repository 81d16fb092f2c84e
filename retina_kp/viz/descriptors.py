"""Descriptors in colour: where two modalities show one spot alike, their pictures have one colour."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from ..core.geometry import pixel_grid, sample_map, warp_image, warp_points
from ..core.overlays import contrast_stretch
from ..networks import DenseOutput
from .registrations import WIDTH_IN, show


def colour_basis(descriptors: torch.Tensor) -> tuple[Callable[[torch.Tensor], torch.Tensor], float]:
    """The three main directions of descriptors (N, D) as red, green and blue: a function (..., D) → (..., 3) in [0, 1],
    one scale from the 2nd to the 98th percentile of each, and the share of the variance that they hold."""
    descriptors = descriptors.double()
    centre = descriptors.mean(0)
    values, basis = torch.linalg.eigh((descriptors - centre).T @ (descriptors - centre))  # rising
    basis = basis[:, -3:].flip(1)
    basis = basis * torch.sign(basis.gather(0, basis.abs().argmax(0, keepdim=True)))  # an eigenvector's sign is free
    low, high = ((descriptors - centre) @ basis).quantile(torch.tensor([0.02, 0.98], dtype=torch.float64), 0)
    share = float(values[-3:].sum() / values.sum().clamp_min(1e-12))
    return lambda vectors: (((vectors.double() - centre) @ basis - low) / (high - low).clamp_min(1e-9)).clamp(
        0, 1
    ), share


def plot_descriptors(batch: Mapping, outputs: tuple[DenseOutput, DenseOutput], index: int = 0) -> Figure:
    """Descriptors of one pair of a batch in colours of one basis, under the images: the fixed one, the moving one seen
    in the fixed frame by the true transform, the moving one as it is. Where both see the same spot, the first two
    should have one colour. ValueError for an index beyond the batch."""
    if not 0 <= index < len(batch["image0"]):
        raise ValueError(
            f"index: of {len(batch['image0'])} pairs it takes 0 to {len(batch['image0']) - 1}, not {index}"
        )
    one, hw = slice(index, index + 1), batch["image0"].shape[-2:]
    step = -(-max(hw) // 256)
    grid = pixel_grid(hw)[::step, ::step]
    shape, grid = grid.shape[:2], grid.reshape(1, -1, 2)
    at1 = warp_points(grid.double(), batch["H_0to1"][one]).float()
    reads = ((0, grid), (1, at1), (1, grid))  # which image, at which of its px
    vectors = [
        F.normalize(sample_map(outputs[k].descriptors[one], p, outputs[k].descriptor_stride)[0], dim=-1)
        for k, p in reads
    ]
    seen = [sample_map(batch[f"valid{k}"][one].float(), p)[0, :, 0] > 0.99 for k, p in reads]
    seen[1] &= seen[0]
    to_colours, share = colour_basis(torch.cat([vectors[0][seen[0]], vectors[2][seen[2]]]))
    same = (vectors[0] * vectors[1]).sum(-1)[seen[1]]
    other = (vectors[0][seen[1]] * vectors[1][seen[1]].roll(len(same) // 2, 0)).sum(-1)
    moved = warp_image(batch["image1"][one], torch.linalg.inv(batch["H_0to1"][one]), hw)[0]
    names = [
        f"{name} ({modality})" for name, modality in zip(("fixed", "moving"), batch["modalities"][index], strict=True)
    ]
    titles = (
        names[0],
        f"{names[1]} in the fixed frame",
        f"{names[1]} as it is",
        f"descriptors, {share:.0%} of their variance",
        f"cosine: same spot {same.mean():.2f}, elsewhere {other.mean():.2f}",
        "descriptors as they are",
    )
    pictures = [contrast_stretch(image[0]) for image in (batch["image0"][index], moved[0], batch["image1"][index])]
    pictures += [
        torch.where(s[:, None], to_colours(v), 0.0).reshape(*shape, 3).numpy()
        for v, s in zip(vectors, seen, strict=True)
    ]
    figure = plt.figure(figsize=(WIDTH_IN, 2 * (WIDTH_IN / 3 * hw[0] / hw[1] + 0.3)), layout="constrained")
    for ax, picture, title in zip(figure.subplots(2, 3).flat, pictures, titles, strict=True):
        show(picture, ax, title)
    return figure
