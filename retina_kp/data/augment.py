"""What cameras, exports and operators do to a picture: pure functions of a batch and an explicit generator.

Every image of a batch gets its own draw. No function here changes geometry, so no label has to follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace

import cv2
import numpy as np
import torch

from ..core.geometry import pixel_grid
from ..core.noise import blur, chance, noise_numbers, smooth, uniform


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


@dataclass(frozen=True)
class FrameRange:
    """Which part of a pair is shown, and how it is turned, before image 1 is transformed on its own."""

    zoom: tuple[float, float] = (1.0, 1.0)  # log-uniform; a picture as a whole has zoom 1
    turn_deg: float = 0.0  # at most, either way
    # 0: another part every time; n: one of n parts per pair, so that a sample comes back as PKE needs it
    per_pair: int = 0

    def __post_init__(self):
        if not 0 < self.zoom[0] <= self.zoom[1] or self.turn_deg < 0 or self.per_pair < 0:
            raise ValueError(f"frames: takes zoom with 0 < least <= most, turn_deg and per_pair from 0; not {self}")

    @property
    def whole(self) -> bool:
        """Whether everything is shown as it lies."""
        return self.zoom == (1.0, 1.0) and not self.turn_deg

    def cached_px(self, size_px: int) -> int:
        """Side of the squares from which frames of size_px are cut: large enough for the largest zoom."""
        return round(size_px * max(self.zoom[1], 1.0))


def random_place(
    rng: np.random.Generator, points_xy: np.ndarray, zoom: tuple[float, float], turn_deg: float, side_px, shown_px
) -> tuple[tuple[float, float], float, float]:
    """A place (x, y) in a square of side_px to look at, a zoom at which shown_px fit in, and a turn in degrees.

    Half of the places are near one of the points (N, 2), where there is something to see.
    """
    chosen = float(np.exp(rng.uniform(*np.log(zoom))))
    reach = min(0.5 * shown_px / chosen, (side_px - 1) / 2)
    center = rng.uniform(reach, side_px - 1 - reach, 2)
    if len(points_xy) and rng.random() < 0.5:
        center = 0.7 * points_xy[rng.integers(len(points_xy))] + 0.3 * center
    return tuple(center), chosen, rng.uniform(-1, 1) * turn_deg


def to_gray_batch(rgb: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """(B, 3, H, W) → (B, 1, H, W): mostly green, sometimes red-heavy, as exports differ."""
    mix = torch.rand(len(rgb), 3, 1, 1, generator=generator) * torch.tensor([0.5, 1.0, 0.4]).reshape(1, 3, 1, 1)
    mix = mix + torch.tensor([0.0, 0.35, 0.0]).reshape(1, 3, 1, 1)
    mix = mix / mix.sum(1, keepdim=True)
    return torch.einsum("b c h w, b c -> b h w", rgb, mix[:, :, 0, 0])[:, None]


def randomise_appearance(
    image: torch.Tensor, generator: torch.Generator, ranges: AppearanceRange = AppearanceRange()
) -> torch.Tensor:
    """Change the look of gray images (B, 1, H, W) in [0, 1], each in its own way; result in [0, 1]."""
    looks = _draw_looks(generator, len(image), image.shape[-2:], ranges)
    changed = blur(image, looks["blur_sigma_px"])
    for k in range(len(image)):  # one at a time stays in the processor's cache
        _change(changed[k : k + 1], SimpleNamespace(**{name: each[k : k + 1] for name, each in looks.items()}))
    return changed


def _draw_looks(g: torch.Generator, b: int, hw, r: AppearanceRange) -> dict[str, torch.Tensor]:
    """The random numbers of b images, (B, 1, 1, 1) or larger, in the order in which they are drawn."""
    return {
        "blur_sigma_px": r.blur_sigma_px * torch.rand(b, 1, 1, 1, generator=g) ** 2,
        "gamma": r.gamma ** uniform(g, b, -1, 1),
        "light_stops": r.bias_field * uniform(g, b, 0, 1),
        "light": noise_numbers(g, b, hw, max(hw) / 2.2),
        "cloud": noise_numbers(g, b, hw, max(hw) / 3),
        "cloud_depth": chance(g, b, r.dropout_probability) * uniform(g, b, 0.3, 0.95),
        "vignetting": r.vignetting * uniform(g, b, 0, 1) ** 2,
        "inverted": chance(g, b, r.invert_probability),
        "rows": torch.randn(b, 1, hw[0], 1, generator=g),
        "columns": torch.randn(b, 1, 1, hw[1], generator=g),
        "in_rows": chance(g, b, 0.5),
        "banding": r.banding * chance(g, b, 0.3) * uniform(g, b, 0, 1),
        "grain": torch.randn(b, 1, *hw, generator=g),
        "speckle": torch.randn(b, 1, *hw, generator=g),
        "speckle_sigma": r.speckle_sigma * uniform(g, b, 0, 1) ** 2,
        "noise_sigma": r.noise_sigma * uniform(g, b, 0, 1),
        "clipped": chance(g, b, r.saturation_probability) * uniform(g, b, 0.1, 0.35),
        "low": uniform(g, b, 0, 0.3),
        "contrast": uniform(g, b, 0.35, 1.0),
    }


def _change(image: torch.Tensor, look: SimpleNamespace) -> None:
    """Give one blurred image (1, 1, H, W) its look, in place; an effect of strength 0 is left out."""
    hw = image.shape[-2:]
    image.clamp_(0, 1).pow_(look.gamma)
    image.mul_(smooth(look.light, hw, max(hw) / 2.2).mul_(look.light_stops).exp2_())
    if look.cloud_depth:
        cloud = smooth(look.cloud, hw, max(hw) / 3).mul_(5).sub_(5).sigmoid_()
        image.mul_(1 - cloud * look.cloud_depth)
    image.mul_(1 - look.vignetting * _distance_from_middle(tuple(hw)) ** 2)
    if look.inverted:
        image.clamp_(0, 1).neg_().add_(1)
    if look.banding:
        image.add_(look.banding * (look.rows if look.in_rows else look.columns))
    image.mul_(blur(look.speckle, 0.9, 5).mul_(3 * look.speckle_sigma).add_(1)).addcmul_(look.grain, look.noise_sigma)
    image.sub_(look.clipped * 0.6).div_(1 - look.clipped)
    image.mul_((1 - look.low) * look.contrast).add_(look.low).clamp_(0, 1)


@lru_cache(maxsize=8)
def _distance_from_middle(hw: tuple[int, int]) -> torch.Tensor:
    """(H, W): 0 in the middle, 1 in the corners."""
    xy = pixel_grid(hw) / torch.tensor([max(hw[1] - 1, 1), max(hw[0] - 1, 1)]) - 0.5
    return xy.norm(dim=-1) / 0.5**0.5


def random_field_of_view(count: int, hw, generator: torch.Generator, whole: float = 0.35) -> torch.Tensor:
    """(count, 1, H, W) bool: disc, disc cut at two sides, or rectangle, covering much of the frame.

    A share ``whole`` of the images is not masked at all.
    """
    g = generator
    slight, any_turn = uniform(g, count, -0.2, 0.2) * chance(g, count, 0.3), uniform(g, count, -3.14, 3.14)
    angle = slight + any_turn * chance(g, count, 0.25)
    middle_x, middle_y = uniform(g, count, -0.35, 0.35), uniform(g, count, -0.35, 0.35)
    radius, height = uniform(g, count, 0.8, 1.6), uniform(g, count, 0.65, 0.95)
    half_width, half_height = uniform(g, count, 0.5, 1.3), uniform(g, count, 0.5, 1.3)
    kind, unmasked = torch.rand(count, 1, 1, 1, generator=g), torch.rand(count, 1, 1, 1, generator=g) < whole
    half = (pixel_grid(hw) - torch.tensor([(hw[1] - 1) / 2, (hw[0] - 1) / 2])) / (max(hw) / 2)
    shaped = torch.ones(count, 1, *hw, dtype=torch.bool)
    for k in torch.nonzero(~unmasked.flatten()).flatten().tolist():
        x, y = half[..., 0] - middle_x[k], half[..., 1] - middle_y[k]
        x, y = x * angle[k].cos() + y * angle[k].sin(), y * angle[k].cos() - x * angle[k].sin()
        if kind[k] >= 0.7:
            shaped[k] = (x.abs() < half_width[k]) & (y.abs() < half_height[k])
        else:
            shaped[k] = x**2 + y**2 < radius[k] ** 2
            if kind[k] >= 0.45:
                shaped[k] &= y.abs() < radius[k] * height[k]
    return shaped


def apply_field_of_view(
    image: torch.Tensor, valid: torch.Tensor, generator: torch.Generator, ranges: AppearanceRange = AppearanceRange()
) -> torch.Tensor:
    """The images with the outside of the field of view painted, nearly always black, and text burnt into some."""
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
