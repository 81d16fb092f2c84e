"""What cameras, exports and operators do to a picture: pure functions of a batch and an explicit generator.

Every image of a batch gets its own draw. Geometry never changes here, so no label has to follow.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch

from .geometry import pixel_grid
from .noise import blur, chance, smooth_noise, uniform


@dataclass(frozen=True)
class AppearanceRange:
    """Strength of every effect; probabilities in [0, 1], 0 switches an effect off."""

    invert_probability: float = 0.15
    gamma: float = 1.8  # exponent within [1 / gamma, gamma]
    bias_field: float = 0.6  # uneven light, in stops
    noise_sigma: float = 0.05
    speckle_sigma: float = 0.18
    vignetting: float = 0.7  # loss of light in the corners
    blur_sigma_px: float = 1.5
    banding: float = 0.04  # horizontal or vertical stripes
    dropout_probability: float = 0.2  # dark cloud (floater, lid, lost signal)
    saturation_probability: float = 0.15  # clipped highlights and shadows
    text_probability: float = 0.1


def to_gray_batch(rgb: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, H, W) → (B, 1, H, W): mostly green, sometimes red-free or red-heavy, as exports differ."""
    mix = torch.rand(len(rgb), 3, 1, 1, generator=generator) * torch.tensor([0.5, 1.0, 0.4]).reshape(1, 3, 1, 1)
    mix = mix + torch.tensor([0.0, 0.35, 0.0]).reshape(1, 3, 1, 1)
    return (rgb * mix / mix.sum(1, keepdim=True)).sum(1, keepdim=True)


def randomise_appearance(image: torch.Tensor, generator: torch.Generator, ranges: AppearanceRange = AppearanceRange()) -> torch.Tensor:
    """Change the look of gray images (B, 1, H, W) in [0, 1], each in its own way; result in [0, 1]."""
    g, b, hw, r = generator, len(image), image.shape[-2:], ranges
    image = blur(image, r.blur_sigma_px * torch.rand(b, 1, 1, 1, generator=g) ** 2)
    image = image.clamp(0, 1) ** (r.gamma ** uniform(g, b, -1, 1))
    light = torch.exp2(r.bias_field * uniform(g, b, 0, 1) * smooth_noise(g, b, hw, max(hw) / 2.2))
    cloud = torch.sigmoid(5 * smooth_noise(g, b, hw, max(hw) / 3) - 5) * chance(g, b, r.dropout_probability) * uniform(g, b, 0.3, 0.95)
    image = image * light * (1 - cloud) * (1 - r.vignetting * uniform(g, b, 0, 1) ** 2 * _distance_from_middle(hw) ** 2)
    inverted = chance(g, b, r.invert_probability)
    image = inverted * (1 - image.clamp(0, 1)) + (1 - inverted) * image
    rows, columns = torch.randn(b, 1, hw[0], 1, generator=g), torch.randn(b, 1, 1, hw[1], generator=g)
    stripes = torch.where(chance(g, b, 0.5) > 0, rows, columns)
    image = image + r.banding * chance(g, b, 0.3) * uniform(g, b, 0, 1) * stripes
    grain = torch.randn(b, 1, *hw, generator=g)
    rough = blur(torch.randn(b, 1, *hw, generator=g), 0.9, 5) * 3
    image = image * (1 + r.speckle_sigma * uniform(g, b, 0, 1) ** 2 * rough) + r.noise_sigma * uniform(g, b, 0, 1) * grain
    clipped = chance(g, b, r.saturation_probability) * uniform(g, b, 0.1, 0.35)
    image = (image - clipped * 0.6) / (1 - clipped)
    low, contrast = uniform(g, b, 0, 0.3), uniform(g, b, 0.35, 1.0)
    return (low + (1 - low) * contrast * image).clamp(0, 1)


def _distance_from_middle(hw) -> torch.Tensor:
    """(H, W): 0 in the middle, 1 in the corners."""
    xy = pixel_grid(hw) / torch.tensor([max(hw[1] - 1, 1), max(hw[0] - 1, 1)]) - 0.5
    return xy.norm(dim=-1) / 0.5**0.5


def random_field_of_view(count: int, hw, generator: torch.Generator, whole: float = 0.35) -> torch.Tensor:
    """(count, 1, H, W) bool: disc, disc cut at two sides, square or rectangle, placed so that it covers much of the frame;
    a share ``whole`` of the images is not masked at all."""
    g = generator
    half = pixel_grid(hw) - torch.tensor([(hw[1] - 1) / 2, (hw[0] - 1) / 2])
    half = half / (max(hw) / 2)
    angle = uniform(g, count, -0.2, 0.2) * chance(g, count, 0.3) + uniform(g, count, -3.14, 3.14) * chance(g, count, 0.25)
    x = half[None, None, ..., 0] - uniform(g, count, -0.35, 0.35)
    y = half[None, None, ..., 1] - uniform(g, count, -0.35, 0.35)
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    radius = uniform(g, count, 0.8, 1.6)
    disc = x**2 + y**2 < radius**2
    cut = disc & (y.abs() < radius * uniform(g, count, 0.65, 0.95))
    box = (x.abs() < uniform(g, count, 0.5, 1.3)) & (y.abs() < uniform(g, count, 0.5, 1.3))
    kind = torch.rand(count, 1, 1, 1, generator=g)
    shaped = torch.where(kind < 0.45, disc, torch.where(kind < 0.7, cut, box))
    return shaped | (torch.rand(count, 1, 1, 1, generator=g) < whole)


def apply_field_of_view(image: torch.Tensor, valid: torch.Tensor, generator: torch.Generator, ranges: AppearanceRange = AppearanceRange()):
    """Paint the outside of the field of view (nearly always black), and burn text into some images. Returns the image."""
    b = len(image)
    outside = uniform(generator, b, 0, 0.04) + chance(generator, b, 0.04) * uniform(generator, b, 0.3, 1.0)
    image = torch.where(valid, image, outside.expand_as(image))
    for i in torch.nonzero(torch.rand(b, generator=generator) < ranges.text_probability).flatten().tolist():
        seed = int(torch.randint(2**31, (1,), generator=generator))
        image[i, 0] = burn_text(image[i, 0], np.random.default_rng(seed))
    return image


def burn_text(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Write a random label, as devices do with names and times, near a border of one gray image (H, W)."""
    h, w = image.shape
    label = "".join(rng.choice(list("0123456789:.ABCDEFOSD "), rng.integers(4, 14)))
    x, y = int(rng.uniform(0, 0.6) * w), int(rng.choice([rng.uniform(0.05, 0.15), rng.uniform(0.88, 0.98)]) * h)
    size = float(rng.uniform(0.35, 0.8)) * max(h, w) / 512 + 0.1
    ink = cv2.putText(np.zeros((h, w), np.uint8), label, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, 255, 1, cv2.LINE_AA)
    ink = torch.from_numpy(ink).to(image) / 255
    return image + (float(rng.choice([1.0, 0.85, 0.0], p=[0.6, 0.25, 0.15])) - image) * ink
