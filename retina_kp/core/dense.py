"""Where the truth of a batch puts points: a matrix, and for round eyes what remains beside it, known on a grid; and
how images are drawn by such maps."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
import numpy as np
import torch

from .geometry import from_cells, inside, pixel_grid, sample_map, warp_image, warp_points

BEND = "bend_0to1"  # key of a batch: (B, 2, h, w) px of image 1 to add to what H_0to1 says, at `bend_nodes`
BEND_STRIDE = 8  # px of image 0 from node to node


def bend_nodes(image_hw) -> torch.Tensor:
    """(h, w, 2) float64 px: a grid with one node more than the image holds at every side."""
    h, w = (-(-n // BEND_STRIDE) + 2 for n in image_hw)
    return from_cells(pixel_grid((h, w), dtype=torch.float64) - 1, BEND_STRIDE)


def carry(points0_xy: torch.Tensor, batch: Mapping, pairs: slice = slice(None)) -> torch.Tensor:
    """Points of image 0 (B, N, 2) px → float32 px of image 1, for those pairs of a batch. NaN stays NaN, and stands for
    places that image 1's camera cannot see. A batch without BEND is carried by H_0to1 alone."""
    moved = warp_points(points0_xy.double(), batch["H_0to1"][pairs].double()).float()
    if BEND not in batch:
        return moved
    bend = batch[BEND][pairs]
    return moved + read_nodes(bend, points0_xy.to(bend).expand(len(bend), -1, -1))


def read_nodes(values: torch.Tensor, points_xy: torch.Tensor) -> torch.Tensor:
    """Values at `bend_nodes` (B, C, h, w) read at points of the image (B, N, 2) px → (B, N, C)."""
    return sample_map(values, points_xy + BEND_STRIDE, BEND_STRIDE)  # the first node lies one cell before the image


def moving_in_fixed_frame(batch: Mapping, pairs: slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
    """Image 1 as image 0 would see it, (B, C, H, W), and the (B, 1, H, W) bool mask of pixels that it covers."""
    image1, hw = batch["image1"][pairs], tuple(batch["image0"].shape[-2:])
    if BEND not in batch:
        return warp_image(image1, torch.linalg.inv(batch["H_0to1"][pairs]), hw)
    places = carry(pixel_grid(hw, image1.device).reshape(1, -1, 2), batch, pairs)
    covered = inside(places, image1.shape[-2:]).unflatten(1, hw)[:, None]
    return sample_map(image1, places).transpose(1, 2).unflatten(2, hw) * covered, covered


def read_layers(layers: np.ndarray, source_xy: np.ndarray, out_hw) -> tuple[np.ndarray, np.ndarray]:
    """As `geometry.warp_layers`, by a smooth map: px of the layers (h, w, 2) that the `bend_nodes` of the new frame
    show, NaN where they show nothing."""
    (h, w), begin = out_hw, BEND_STRIDE
    places = np.nan_to_num(source_xy, nan=-1e4).astype(np.float32)
    places = cv2.resize(places, None, fx=BEND_STRIDE, fy=BEND_STRIDE)[begin : begin + h, begin : begin + w]

    def draw(layer):
        return cv2.remap(layer, places[..., 0], places[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)

    read = np.stack([draw(layer) if layer.any() else np.zeros(out_hw, np.uint8) for layer in layers])
    return read, draw(np.full(layers.shape[1:], 255, np.uint8)) > 254
