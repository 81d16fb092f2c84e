"""Random numbers, clouds and blur for batches of pictures, each picture with its own draw from an explicit CPU generator."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F


def uniform(generator: torch.Generator, count: int, low: float, high: float) -> torch.Tensor:
    """(count, 1, 1, 1) independent numbers, one per image."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)


def chance(generator: torch.Generator, count: int, probability: float) -> torch.Tensor:
    """(count, 1, 1, 1) of 0. and 1."""
    return (torch.rand(count, 1, 1, 1, generator=generator) < probability).float()


def smooth_noise(generator: torch.Generator, count: int, hw, cell_px: float) -> torch.Tensor:
    """(count, 1, H, W) noise of about unit variance whose blobs are about cell_px wide."""
    rows, columns = (_spread(n, float(cell_px)) for n in hw)
    return rows @ torch.randn(count, 1, rows.shape[1], columns.shape[1], generator=generator) @ columns.T


@lru_cache(maxsize=256)
def _spread(length: int, cell_px: float) -> torch.Tensor:
    """(length, n) weights that carry n random numbers, one per cell, to a smooth line: Gaussian bells with rows of unit norm."""
    knots = int(np.ceil(length / cell_px)) + 4
    distance = torch.arange(length)[:, None] / cell_px - (torch.arange(knots) - 1.5)
    weights = torch.exp(-(distance**2) / (2 * 0.55**2))
    return weights / weights.norm(dim=1, keepdim=True)


def blur(image: torch.Tensor, sigma_px: torch.Tensor | float, taps: int = 9) -> torch.Tensor:
    """Gaussian blur of (B, C, H, W) with one sigma per image (B, 1, 1, 1) or one for all; the frame is replicated."""
    b, c, h, w = image.shape
    sigma = torch.as_tensor(sigma_px, dtype=image.dtype).expand(b, 1, 1, 1).reshape(b, 1).clamp_min(1e-3)
    x = torch.arange(taps, dtype=image.dtype) - taps // 2
    kernel = torch.softmax(-(x**2) / (2 * sigma**2), -1).repeat_interleave(c, 0)
    flat = F.pad(image.reshape(1, b * c, h, w), [taps // 2] * 4, mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None], groups=b * c)
    return F.conv2d(flat, kernel[:, None, :, None], groups=b * c).reshape(image.shape)
