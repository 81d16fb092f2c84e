"""Random numbers, clouds and blur for batches of pictures, each picture with its own draw from an explicit CPU
generator."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import torch

PIECE_PX = 64  # of a line that is computed at once
NEGLIGIBLE = 1e-9  # weights below this change no picture


def uniform(generator: torch.Generator, count: int, low: float, high: float) -> torch.Tensor:
    """(count, 1, 1, 1) independent numbers, one per image."""
    return low + (high - low) * torch.rand(count, 1, 1, 1, generator=generator)


def chance(generator: torch.Generator, count: int, probability: float) -> torch.Tensor:
    """(count, 1, 1, 1) of 0. and 1."""
    return (torch.rand(count, 1, 1, 1, generator=generator) < probability).float()


def smooth_noise(generator: torch.Generator, count: int, hw, cell_px: float) -> torch.Tensor:
    """(count, 1, H, W) noise of about unit variance whose blobs are about cell_px wide."""
    return smooth(noise_numbers(generator, count, hw, cell_px), hw, cell_px)


def noise_numbers(generator: torch.Generator, count: int, hw, cell_px: float) -> torch.Tensor:
    """(count, 1, n, m) normal numbers, from which `smooth` makes noise."""
    return torch.randn(count, 1, *(_knots(n, cell_px) for n in hw), generator=generator)


def smooth(numbers: torch.Tensor, hw, cell_px: float) -> torch.Tensor:
    """(B, 1, n, m) of `noise_numbers` → (B, 1, H, W) noise."""
    count, (rows, columns) = len(numbers), (_spread(n, float(cell_px)) for n in hw)
    if count == 1:  # the product of two single matrices would depend, in its last digit, on the number of threads
        return smooth(numbers.expand(2, -1, -1, -1), hw, cell_px)[:1]
    wide = torch.empty(count, numbers.shape[2], hw[1])
    for pixels, near, weights in columns:
        wide[..., pixels] = torch.bmm(numbers[:, 0, :, near], weights.T.expand(count, -1, -1))
    noise = torch.empty(count, *hw)
    for pixels, near, weights in rows:
        torch.bmm(weights.expand(count, -1, -1), wide[:, near], out=noise[:, pixels])
    return noise[:, None]


def _knots(length: int, cell_px: float) -> int:
    """How many random numbers a smooth line needs: one per cell, and some beyond its ends."""
    return int(np.ceil(length / cell_px)) + 4


@lru_cache(maxsize=256)
def _spread(length: int, cell_px: float) -> list[tuple[slice, slice, torch.Tensor]]:
    """How random numbers, one per cell, become a smooth line: Gaussian bells, weights of unit norm per pixel.

    Pieces (pixels, numbers nearby, weights): a bell is narrow, so every piece of the line needs few of the numbers.
    """
    distance = torch.arange(length)[:, None] / cell_px - (torch.arange(_knots(length, cell_px)) - 1.5)
    weights = torch.exp(-(distance**2) / (2 * 0.55**2))
    weights = weights / weights.norm(dim=1, keepdim=True)
    pieces = []
    for start in range(0, length, PIECE_PX):
        pixels = slice(start, min(start + PIECE_PX, length))
        used = torch.nonzero((weights[pixels] > NEGLIGIBLE).any(0)).flatten()
        near = slice(int(used[0]), int(used[-1]) + 1)
        pieces.append((pixels, near, weights[pixels, near].contiguous()))
    return pieces


def blur(image: torch.Tensor, sigma_px: torch.Tensor | float, taps: int = 9) -> torch.Tensor:
    """Gaussian blur of (B, C, H, W) with one sigma per image (B, 1, 1, 1) or one for all; the frame is replicated."""
    sigma = torch.as_tensor(sigma_px, dtype=image.dtype).expand(len(image), 1, 1, 1).reshape(-1, 1).clamp_min(1e-3)
    x = torch.arange(taps, dtype=image.dtype) - taps // 2
    kernels = torch.softmax(-(x**2) / (2 * sigma**2), -1).numpy()
    blurred = torch.empty_like(image, memory_format=torch.contiguous_format)
    for source, target, kernel in zip(image, blurred, kernels, strict=True):
        kernel = kernel[kernel > NEGLIGIBLE]
        for channel, result in zip(source.numpy(), target.numpy(), strict=True):
            cv2.sepFilter2D(channel, -1, kernel, kernel, dst=result, borderType=cv2.BORDER_REPLICATE)
    return blurred
