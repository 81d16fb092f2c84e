"""Looks of a retina in wide fields: an infant's by a contact camera ("RetCam"), and ultra-wide laser scans ("UWF").

The choroid's vessels are prominent in both. What they show was set beside real pictures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ..core.geometry import pixel_grid
from ..core.noise import blur, chance, smooth_noise, uniform
from .anatomy import Anatomy, texture, weighted_sum
from .drawing import Scene
from .lesions import LESIONS
from .vasculature import GrowthOptions

# Of the red and the green laser: ranges of the retina's light, of the choroid's, and of what blood absorbs; of spots
UWF_LASERS = (((0.3, 0.6), (0.0, 0.6), (0.15, 0.5), 0.5), ((0.25, 0.55), (-0.2, 0.3), (0.7, 1.5), 0.8))
CHOROID_NOISE = ((24, 96, 4.0), (64, 960, 4.0))  # height, width and cell of its waves, and of its vessels


@dataclass(frozen=True)
class WideField:
    """What cameras of a wide look see: field_deg, and how far vessels must reach, degrees from the fovea; the vessels'
    tortuosity as in GrowthOptions."""

    field_deg: tuple[float, float]
    reach_deg: float
    tortuosity: tuple[float, float]

    def growth(self, usual: GrowthOptions) -> GrowthOptions:
        """How retinas grow that fill the field."""
        return replace(usual, reach_deg=max(usual.reach_deg, self.reach_deg), tortuosity=self.tortuosity)


# Infants' vessels run straight, or, where the disease is active, in curls
WIDE_LOOKS = {
    "RetCam": WideField((45.0, 110.0), 60.0, (0.005, 0.1)),
    "UWF": WideField((80.0, 130.0), 78.0, (0.01, 0.06)),
}


def wide_field(modalities: Iterable[str]) -> WideField | None:
    """The widest field that a modality of a pair asks for; None where all are of the usual width."""
    wide = [WIDE_LOOKS[name] for name in modalities if name in WIDE_LOOKS]
    return max(wide, key=lambda look: look.reach_deg, default=None)


# ------------------------------------------------------------------ parts


def _degrees(scene: Scene) -> torch.Tensor:
    """(B, 2, H, W) place of every pixel, degrees from the fovea; far away where there is no retina."""
    coarse = scene.degrees.nan_to_num(1e3).permute(0, 3, 1, 2)
    return F.interpolate(coarse, scene.layers.shape[-2:], mode="bilinear")


def _streaks(scene: Scene, deg: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """(B, 1, H, W) in [0, 1]: the choroid's vessels, which run from the posterior pole outwards in wavy bands. All
    pictures of an eye show the same ones, in other strengths."""
    b, hw = len(deg), deg.shape[-2:]
    eyes = [torch.Generator().manual_seed(int(abs(disc_x) * 1e9)) for disc_x in scene.anatomy[:, 0].tolist()]
    pole = scene.anatomy[:, :2, None, None].float() * torch.cat([uniform(eye, 1, 0.2, 1.3) for eye in eyes])
    x, y = (deg - pole).split(1, 1)
    around, along = torch.atan2(y, x) / np.pi, ((x**2 + y**2).sqrt() / 6 + 1).log() - 1.5
    waves, lines = (torch.cat([_around_noise(eye, *size) for eye in eyes]) for size in CHOROID_NOISE)
    around = around + 0.03 * _read_around(waves, around, along)
    bands = _read_around(lines, torch.remainder(around + 1, 2) - 1, along)
    bands = torch.exp(-((bands / uniform(g, b, 0.3, 0.7)) ** 2))
    return bands * torch.sigmoid(4 * smooth_noise(g, b, hw, max(hw) / 4) + uniform(g, b, 0, 4))


def _around_noise(g: torch.Generator, height: int, width: int, cell_px: float) -> torch.Tensor:
    """(1, 1, height, width) noise whose left and right end meet."""
    faded = width // 8
    noise, share = smooth_noise(g, 1, (height, width + faded), cell_px), torch.linspace(0, 1, faded)
    noise[..., :faded] = noise[..., :faded] * share.sqrt() + noise[..., width:] * (1 - share).sqrt()
    return noise[..., :width]


def _read_around(noise: torch.Tensor, around: torch.Tensor, along: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) read from `_around_noise` at (B, 1, H, W) each, from -1 to 1 over its width and height."""
    where = torch.cat([around, along], 1).permute(0, 2, 3, 1)
    return F.grid_sample(noise, where, padding_mode="reflection", align_corners=False)


def _side(g: torch.Generator, b: int, hw, sharpness: tuple[float, float]) -> torch.Tensor:
    """(B, 1, H, W) in [0, 1]: what comes in from one side of the picture, as haze or a shadow does."""
    xy = (pixel_grid(hw) / max(hw) - 0.5).permute(2, 0, 1)[None].float()
    angle = uniform(g, b, -np.pi, np.pi)
    reach = xy[:, :1] * angle.cos() + xy[:, 1:] * angle.sin() + 0.1 * smooth_noise(g, b, hw, max(hw) / 3)
    return torch.sigmoid((reach - uniform(g, b, 0.1, 0.5)) * uniform(g, b, *sharpness))


def _colour(g: torch.Generator, b: int, *ranges: tuple[float, float]) -> torch.Tensor:
    """(b, 3, 1, 1) RGB, each drawn from its range."""
    return torch.cat([uniform(g, b, *limits) for limits in ranges], 1)


def _rgb(*values: float) -> torch.Tensor:
    """(3, 1, 1)"""
    return torch.tensor(values)[:, None, None]


def _patch(g, deg: torch.Tensor, place: torch.Tensor, radius: torch.Tensor, waves: int = 16) -> torch.Tensor:
    """(B, 1, H, W) distance from a place (B, 2, 1, 1), in radii (B, 1, 1, 1) of a patch with a wavy outline."""
    ragged = 1 + 0.12 * smooth_noise(g, len(deg), deg.shape[-2:], max(deg.shape[-2:]) / waves)
    return (deg - place).norm(dim=1, keepdim=True) / radius * ragged


def _lashes(g: torch.Generator, b: int, hw) -> torch.Tensor:
    """(B, 1, H, W) in [0, 1]: lashes that come in from the lower or the upper border, out of focus; none in half."""
    drawn = np.zeros((b, *hw), np.uint8)
    for canvas, seed in zip(drawn, torch.randint(2**31, (b,), generator=g).tolist(), strict=True):
        rng, (h, w) = np.random.default_rng(seed), hw
        lean, start = rng.uniform(-1, 1), rng.uniform(0, 0.7)
        for _ in range(int(rng.integers(4, 24)) * int(rng.integers(2))):
            x, length, curve = rng.uniform(start, start + 0.5), rng.uniform(0.08, 0.3), rng.normal(lean, 0.4)
            t = np.linspace(0, 1, 9)
            strand = np.column_stack([(x + curve * length * t**1.5) * w, (1 - length * t) * h])
            thick = max(1, round(rng.uniform(0.003, 0.008) * w))
            cv2.polylines(canvas, [np.rint(strand * 16).astype(np.int32)], False, 255, thick, cv2.LINE_AA, 4)
        canvas[:] = cv2.GaussianBlur(canvas[:: rng.choice([-1, 1])], (0, 0), rng.uniform(0.003, 0.008) * w + 0.3)
    return torch.from_numpy(drawn)[:, None].float() / 255


# ------------------------------------------------------------------ looks


def render_retcam(scene: Scene, g: torch.Generator) -> torch.Tensor:
    """Infant's retina by a wide contact camera, at times with retinopathy of prematurity: (B, 3, H, W) in [0, 1]."""
    b, hw = len(scene.layers), scene.layers.shape[-2:]
    a, deg = Anatomy(scene, g, (0.3, 1.8)), _degrees(scene)
    warm = uniform(g, b, -0.5, 0.5) * smooth_noise(g, b, hw, max(hw) / 2.5)  # yellow where pigment lacks, else red
    base = _colour(g, b, (0.85, 1.0), (0.35, 0.65), (0.15, 0.34)) * (1 + warm * _rgb(0.1, 0.4, 0.6))
    dark = _streaks(scene, deg, g) * uniform(g, b, 0.05, 0.35) * chance(g, b, 0.85)
    image = base * (1 - dark * _rgb(0.35, 1.0, 0.9))
    image = image * (1 + uniform(g, b, 0.01, 0.05) * texture(g, b, hw)) * (1 - uniform(g, b, -0.1, 0.4) * a.macula)
    pale = _colour(g, b, (0.85, 1.0), (0.65, 0.9), (0.4, 0.75))
    image = image.lerp(pale, (a.disc * uniform(g, b, 0.2, 0.8) + a.halo * uniform(g, b, 0, 0.4)).clamp_max(1))
    image, beyond = _demarcated(image, scene, deg, pale, g)
    bled, exudate, _, scar = (scene.layer(name) for name in LESIONS)
    deposits = weighted_sum((exudate, uniform(g, b, 0.2, 0.7)), (scar, uniform(g, b, 0.2, 0.8)))
    image = _with_macular_scar(_scarred(image.lerp(pale, deposits.clamp_max(1)), scar, g), deg, pale, g)
    blood = weighted_sum((a.artery, uniform(g, b, 0.4, 0.9)), (bled, uniform(g, b, 0.5, 1.5))).add_(a.vein)
    absorbs = _rgb(0.3, 1.0, 0.9) * uniform(g, b, 0.35, 1.0) * (1 - beyond)
    return _through_haze(image * (-blood * absorbs).exp(), g)


def _scarred(image: torch.Tensor, scar: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Scars with a dark seam, and with pigment in some."""
    pigment = torch.sigmoid(5 * smooth_noise(g, len(image), image.shape[-2:], max(image.shape[-2:]) / 12) - 3)
    seam = 0.5 * (blur(scar, 2.0) - scar).clamp_min(0)
    return image * (1 - seam) * (1 - 0.8 * scar * pigment)


def _demarcated(image, scene: Scene, deg: torch.Tensor, pale: torch.Tensor, g) -> tuple[torch.Tensor, torch.Tensor]:
    """Some images with the pale line where vessels end in prematurity; and where beyond it they are missing."""
    b, hw = len(deg), deg.shape[-2:]
    away = _patch(g, deg, scene.anatomy[:, :2, None, None].float(), uniform(g, b, 20, 40), 3)
    present = chance(g, b, 0.3) * torch.sigmoid(5 * smooth_noise(g, b, hw, max(hw) / 2))
    line = present * torch.exp(-(((away - 1) / uniform(g, b, 0.02, 0.06)) ** 2))
    return image.lerp(pale, line * uniform(g, b, 0.2, 0.7)), 0.9 * present * torch.sigmoid((away - 1) * 40)


def _with_macular_scar(image, deg: torch.Tensor, pale: torch.Tensor, g) -> torch.Tensor:
    """Some images with a pale scar in a dark seam, or rings of reflex, at the macula."""
    b, hw = len(deg), deg.shape[-2:]
    size = _patch(g, deg, torch.zeros(b, 2, 1, 1), uniform(g, b, 2.0, 6.0))
    ring = torch.exp(-(((size - 1) / uniform(g, b, 0.2, 0.5)) ** 2))
    image = image * (1 + ring * uniform(g, b, -0.2, 0.2) * chance(g, b, 0.6))
    scarred, rough = chance(g, b, 0.25), 0.8 + 0.5 * smooth_noise(g, b, hw, max(hw) / 60)
    image = image * (1 - scarred * ring * rough.clamp(0, 1) * uniform(g, b, 0.2, 0.8))
    centre = torch.sigmoid((uniform(g, b, 0.3, 0.8) - size) * 8) * rough.clamp(0.4, 1)
    return image.lerp(pale, scarred * centre * uniform(g, b, 0, 0.9))


def _through_haze(image: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """An infant's picture as it comes out: haze from one side, reflexes, a rim out of focus, uneven light; in [0, 1]."""
    b, hw = len(image), image.shape[-2:]
    veil = _colour(g, b, (0.25, 0.6), (0.3, 0.55), (0.2, 0.55)) * uniform(g, b, 0.3, 1.0)
    haze = _side(g, b, hw, (5, 14)) * uniform(g, b, 0.4, 1.0) * chance(g, b, 0.75) + uniform(g, b, 0, 0.3)
    image = image.lerp(veil, haze.clamp_max(0.97))
    xy = (2 * pixel_grid(hw) / max(hw) - 1).permute(2, 0, 1)[None].float()
    rim = torch.sigmoid((xy.norm(dim=1, keepdim=True) - 0.85) * uniform(g, b, 6, 16))
    image = image.lerp(blur(image, 2.5), rim) * (1 - rim * uniform(g, b, 0.1, 0.8))
    reflex = torch.sigmoid(5 * smooth_noise(g, b, hw, max(hw) / 14) - uniform(g, b, 11, 18)) * uniform(g, b, 0, 0.6)
    light = uniform(g, b, 0.55, 1.1) * (1 - 0.6 * _side(g, b, hw, (4, 9)) * uniform(g, b, 0, 1))
    return image.mul(light).add(reflex).clamp(0, 1)


def render_uwf(scene: Scene, g: torch.Generator) -> torch.Tensor:
    """Ultra-wide scan in pseudo-colour of a red and a green laser, lids and lashes in view: (B, 3, H, W) in [0, 1]."""
    b, hw = len(scene.layers), scene.layers.shape[-2:]
    a, deg = Anatomy(scene, g, (0.2, 1.4)), _degrees(scene)
    (bled, exudate, drusen, scar), streaks = (scene.layer(name) for name in LESIONS), _streaks(scene, deg, g)
    vessel = weighted_sum((a.artery, uniform(g, b, 0.6, 1.0)), (bled, uniform(g, b, 0.6, 1.6))).add_(a.vein)
    spots = weighted_sum((exudate, uniform(g, b, 0.2, 0.7)), (drusen, uniform(g, b, 0, 0.3)))
    grain = 1 + uniform(g, b, 0.02, 0.07) * texture(g, b, hw)
    channels = []
    for level, choroidal, absorbs, bright in UWF_LASERS:
        cloud = 2 ** (uniform(g, b, 0.1, 0.5) * smooth_noise(g, b, hw, max(hw) / 4))
        channel = uniform(g, b, *level) * cloud * (1 + streaks * uniform(g, b, *choroidal)) * grain
        channel = channel * (1 - uniform(g, b, 0.1, 0.7) * a.macula)
        channel = channel + a.disc * uniform(g, b, 0.1, bright) + a.halo * uniform(g, b, -0.05, 0.15)
        channel = channel + bright * spots + scar * uniform(g, b, -0.5, 0.5)
        channels.append(channel * (-vessel * uniform(g, b, *absorbs)).exp())
    image = torch.cat([*channels, channels[1] * uniform(g, b, 0, 0.12)], 1)
    return _behind_lids(_scarred(image, scar, g), g)


def _behind_lids(image: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """A scan with a dark periphery, lids and lashes; in [0, 1]."""
    b, hw = len(image), image.shape[-2:]
    xy = (2 * pixel_grid(hw) / torch.tensor([hw[1], hw[0]]) - 1).permute(2, 0, 1)[None].float()
    image = image * (1 - uniform(g, b, 0.1, 0.8) * xy.norm(dim=1, keepdim=True).clamp_max(1.2) ** 3)
    for sign in (-1, 1):
        border = xy[:, 1:] * sign - 0.35 * xy[:, :1] ** 2 * uniform(g, b, -1, 1)
        border = border + 0.03 * smooth_noise(g, b, hw, max(hw) / 8)
        lid = torch.sigmoid((border - uniform(g, b, 0.6, 1.1)) * uniform(g, b, 8, 40)) * chance(g, b, 0.6)
        skin = _colour(g, b, (0.1, 0.7), (0.1, 0.6), (0.0, 0.1)) * (1 + 0.04 * texture(g, b, hw))
        image = image.lerp(skin, 0.95 * lid)
    return (image * (1 - uniform(g, b, 0.5, 0.95) * _lashes(g, b, hw))).clamp(0, 1)
