"""Render one retina as colour fundus, fluorescein angiogram, OCT and OCTA en-face, and in rarer looks: pictures of the
same structure.

A `Scene` is a batch of layers drawn by `drawing.rasterise`. Every image gets its own random appearance from an explicit
CPU generator; what cameras add is in `data.augment`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from ..core.noise import blur, chance, smooth_noise, uniform
from .anatomy import Anatomy, capillaries, choroid, texture, weighted_sum
from .cameras import Camera, as_camera, middle_px_per_deg
from .drawing import Scene, anatomy_of, coarse_grid, rasterise
from .lesions import LESIONS
from .vasculature import Retina
from .wide_looks import render_retcam, render_uwf

MODALITIES = ("CF", "FA", "OCT", "OCTA")


def make_scene(retinas: list[Retina], views: Sequence[Camera | np.ndarray], image_hw) -> Scene:
    """Draw one view per retina at full precision (no cache). views: cameras, or (3, 3) degrees → px."""
    cameras, coarse = [as_camera(view) for view in views], coarse_grid(image_hw)
    layers = np.stack([rasterise(r, camera, image_hw) for r, camera in zip(retinas, cameras, strict=True)])
    degrees = np.stack([camera.unproject(coarse.reshape(-1, 2).double().numpy()) for camera in cameras])
    degrees = torch.from_numpy(degrees).float().reshape(-1, *coarse.shape)
    scale = torch.tensor([middle_px_per_deg(camera, image_hw) for camera in cameras])[:, None, None, None]
    return Scene(torch.from_numpy(layers), degrees, scale, torch.tensor([anatomy_of(r) for r in retinas]))


def render_cf(scene: Scene, g: torch.Generator) -> torch.Tensor:
    """Colour fundus photograph: (B, 3, H, W) RGB in [0, 1]."""
    b, hw = len(scene.layers), scene.layers.shape[-2:]
    a = Anatomy(scene, g, (0.3, 1.6))
    base = torch.cat([uniform(g, b, 0.5, 0.9), uniform(g, b, 0.22, 0.5), uniform(g, b, 0.06, 0.3)], 1)
    grain = uniform(g, b, 0.01, 0.08)
    mottle = texture(g, b, hw).mul_(grain).add_(1).addcmul_(a.macula, -uniform(g, b, 0.05, 0.45))
    tessellation = uniform(g, b, -0.25, 0.25) * chance(g, b, 0.35) * choroid(g, b, hw, scene.px_per_deg)
    image = base * mottle.add_(tessellation)
    pale = torch.cat([uniform(g, b, 0.8, 1.0), uniform(g, b, 0.6, 0.9), uniform(g, b, 0.35, 0.7)], 1)
    nerve = weighted_sum((a.disc, uniform(g, b, 0.2, 0.75)), (a.cup, uniform(g, b, 0.05, 0.35)))
    image.lerp_(pale, nerve.clamp_max_(1))
    blood = torch.tensor([0.25, 1.0, 0.8]).reshape(1, 3, 1, 1) * uniform(g, b, 0.5, 1.5)
    bled, exudate, drusen, scar = (scene.layer(n) for n in LESIONS)
    absorb = weighted_sum((a.artery, uniform(g, b, 0.55, 0.95)), (bled, uniform(g, b, 0.6, 1.6))).add_(a.vein)
    deposits = weighted_sum((exudate, uniform(g, b, 0.4, 0.95)), (drusen, uniform(g, b, 0.15, 0.5)))
    image.lerp_(pale, deposits.addcmul_(scar, uniform(g, b, 0.1, 0.7)).clamp_max_(1))
    for channel, depth in zip(image.split(1, 1), blood.split(1, 1), strict=True):
        channel.mul_((absorb * -depth).exp_())
    image.mul_(1 - 0.5 * (blur(scar, 2.0) - scar).clamp_min_(0))
    shine = weighted_sum((scene.layer("artery"), uniform(g, b, 0, 0.35)), (scene.layer("vein"), uniform(g, b, 0, 0.1)))
    return image.addcmul_(shine.mul_(scene.layer("reflex")), base).clamp_(0, 1)


def render_fa(scene: Scene, g: torch.Generator) -> torch.Tensor:
    """Fluorescein angiogram, any phase: (B, 1, H, W) in [0, 1]."""
    b, hw = len(scene.layers), scene.layers.shape[-2:]
    a = Anatomy(scene, g, (0.2, 1.4))
    base = uniform(g, b, 0.08, 0.5)
    flush = 1 + uniform(g, b, -0.4, 0.6) * chance(g, b, 0.35) * choroid(g, b, hw, scene.px_per_deg)
    image = base * flush * (1 + uniform(g, b, 0.05, 0.3) * texture(g, b, hw))
    image = image * (1 - uniform(g, b, 0.2, 0.85) * a.macula)
    image = (image + a.disc * uniform(g, b, -0.6, 0.35)).clamp_min(0.02)
    image = image + uniform(g, b, 0, 0.2) * chance(g, b, 0.4) * a.halo
    mesh = capillaries(g, b, hw, scene.px_per_deg) * (1 - a.avascular) * (1 - a.disc)
    image = image + mesh * uniform(g, b, 0, 0.15) * chance(g, b, 0.5)
    leak = blur(scene.layer("exudate") + scene.layer("drusen"), uniform(g, b, 0.5, 4.0)) * uniform(g, b, -0.1, 0.6)
    window = scene.layer("scar") * uniform(g, b, -0.4, 0.5)
    early = chance(g, b, 0.25)  # arterial phase: veins still fill
    artery, vein = uniform(g, b, 0.25, 0.8), uniform(g, b, 0.25, 0.8) * (1 - early * uniform(g, b, 0.2, 0.8))
    leakage = torch.sigmoid(3 * smooth_noise(g, b, hw, max(hw) / 10) - uniform(g, b, 3, 6))  # pools of a late phase
    leakage = leakage * uniform(g, b, 0.3, 1.2) * chance(g, b, 0.25)
    closed = torch.sigmoid(4 * smooth_noise(g, b, hw, max(hw) / 7) - 4)  # capillaries without flow
    closed = closed * uniform(g, b, 0.2, 0.7) * chance(g, b, 0.25)
    image = image * (1 - closed) + torch.maximum(a.artery * artery, a.vein * vein) + leak + window + leakage
    image = image * (1 - scene.layer("hemorrhage") * uniform(g, b, 0.3, 0.95))
    return image.clamp(0, 1)


def render_oct(scene: Scene, g: torch.Generator) -> torch.Tensor:
    """OCT en-face projection (or infrared reflectance): vessels are shadows, seldom bright: (B, 1, H, W) in [0, 1]."""
    b, hw = len(scene.layers), scene.layers.shape[-2:]
    a = Anatomy(scene, g, (0.4, 2.0))
    level, grain = uniform(g, b, 0.35, 0.75), uniform(g, b, 0.03, 0.2)
    image = texture(g, b, hw, (2, 6, 50)).mul_(grain).add_(1).mul_(level)
    image.mul_(1 - uniform(g, b, -0.3, 0.75) * a.macula)
    image.addcmul_(a.disc, uniform(g, b, -0.5, 0.3)).addcmul_(a.rim, uniform(g, b, 0, 0.15))
    drusen, exudate, scar = (scene.layer(n) for n in ("drusen", "exudate", "scar"))
    image.addcmul_(drusen, uniform(g, b, -0.3, 0.3)).addcmul_(exudate, uniform(g, b, -0.3, 0.3))
    image.addcmul_(scar, uniform(g, b, -0.5, 0.4))
    image.mul_(1 - scene.layer("hemorrhage") * uniform(g, b, 0, 0.7))
    shadow = weighted_sum((a.vein, uniform(g, b, 0.3, 0.9)), (a.artery, uniform(g, b, 0.25, 0.8)))
    bright = chance(g, b, 0.15)
    image.mul_(1 - shadow.clamp_max(0.95) * (1 - bright)).addcmul_(shadow, bright * 0.5)
    return image.clamp_(0, 1)


def render_octa(scene: Scene, g: torch.Generator) -> torch.Tensor:
    """OCT angiography en-face: bright vessels in a capillary mesh, dark avascular zone: (B, 1, H, W) in [0, 1]."""
    b, hw = len(scene.layers), scene.layers.shape[-2:]
    a = Anatomy(scene, g, (0.1, 1.0))
    mesh = capillaries(g, b, hw, scene.px_per_deg)
    dropout = torch.sigmoid(4 * smooth_noise(g, b, hw, 48) + uniform(g, b, 2, 8))
    flow = mesh * uniform(g, b, 0.15, 0.6) * (1 - a.avascular) * dropout
    vessels = torch.maximum(a.vein * uniform(g, b, 0.5, 1.0), a.artery * uniform(g, b, 0.5, 1.0)) * (1 - 0.3 * a.disc)
    image = uniform(g, b, 0.02, 0.2) + torch.maximum(flow, vessels)
    image = image + uniform(g, b, 0.0, 0.15) * torch.randn(b, 1, *hw, generator=g).abs()
    image = image * (1 - scene.layer("hemorrhage") * uniform(g, b, 0, 0.6))
    image = image * (1 - uniform(g, b, 0, 0.6) * scene.layer("scar"))
    return _with_motion_lines(image, g)


def render_deep_octa(scene: Scene, g: torch.Generator) -> torch.Tensor:
    """OCT angiography of a slab beneath the retina's vessels: (B, 1, H, W) in [0, 1].

    It shows grain of the choriocapillaris, and of the vessels above only projection artefacts: patchy and bright, or
    dark where software has taken them away (Spaide et al., Retina 2015).
    """
    b, hw = len(scene.layers), scene.layers.shape[-2:]
    a = Anatomy(scene, g, (0.3, 1.6))
    grain = smooth_noise(g, b, hw, 2) + 0.7 * smooth_noise(g, b, hw, 4)
    voids = torch.sigmoid(3 * smooth_noise(g, b, hw, 5) - 4)
    image = uniform(g, b, 0.15, 0.5) * (1 + uniform(g, b, 0.05, 0.35) * grain) * (1 - uniform(g, b, 0.2, 0.8) * voids)
    image = image + capillaries(g, b, hw, scene.px_per_deg) * uniform(g, b, 0.0, 0.3) * (1 - a.avascular)
    patchy = torch.sigmoid(3 * smooth_noise(g, b, hw, max(hw) / 8) + uniform(g, b, 1, 4))
    ghost = blur(torch.maximum(a.artery, a.vein), uniform(g, b, 0.3, 1.2)) * patchy
    left = image + ghost * uniform(g, b, 0.15, 0.6)
    edges = (blur(ghost, 1.5) - ghost).clamp_min(0)
    taken = image * (1 - (ghost * uniform(g, b, 0.8, 1.6)).clamp_max(0.95)) + edges * uniform(g, b, 0, 0.25)
    image = torch.where(chance(g, b, 0.5) > 0, taken, left) * (1 - 0.7 * a.disc)
    image = image * (1 - uniform(g, b, 0.2, 0.8) * scene.layer("drusen"))
    image = image * (1 - uniform(g, b, 0, 0.6) * scene.layer("hemorrhage"))
    return _with_motion_lines(image + uniform(g, b, 0.0, 0.08) * torch.randn(b, 1, *hw, generator=g).abs(), g)


def _with_motion_lines(image: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Some images with bright or dark rows, where the eye moved between scans; in [0, 1]."""
    b, _, h, _ = image.shape
    lines = (torch.rand(b, 1, h, 1, generator=g) < 0.012) * chance(g, b, 0.4)
    return (image + lines * uniform(g, b, -0.3, 0.5)).clamp(0, 1)


def render_faf(scene: Scene, g: torch.Generator) -> torch.Tensor:
    """Fundus autofluorescence, whose vessels, disc and macula are dark: (B, 1, H, W) in [0, 1]."""
    b, hw = len(scene.layers), scene.layers.shape[-2:]
    a = Anatomy(scene, g, (0.5, 2.0))
    image = uniform(g, b, 0.3, 0.65) * (1 + uniform(g, b, 0.02, 0.12) * texture(g, b, hw, (2, 6, 50)))
    image = image * (1 - uniform(g, b, 0.3, 0.85) * a.macula) * (1 + uniform(g, b, -0.1, 0.25) * a.halo)
    image = image * (1 - uniform(g, b, 0.2, 0.8) * torch.maximum(a.vein, uniform(g, b, 0.7, 1.0) * a.artery))
    image = image * (1 - uniform(g, b, 0.6, 0.95) * a.disc)
    bled, exudate, drusen, scar = (scene.layer(n) for n in LESIONS)
    glow = weighted_sum((drusen, uniform(g, b, -0.2, 0.5)), (exudate, uniform(g, b, -0.2, 0.3)))
    glow = glow + (blur(scar, 2.5) - scar).clamp_min(0) * uniform(g, b, 0, 1.5)  # a scar is dark in a bright seam
    image = (image + glow) * (1 - uniform(g, b, 0.4, 0.95) * scar) * (1 - uniform(g, b, 0.3, 0.8) * bled)
    return image.clamp(0, 1)


def _render_reflectance(scene: Scene, g: torch.Generator, disc: tuple[float, float], shadowed: float) -> torch.Tensor:
    """Infrared reflectance by a scanning laser, crisp, its vessels dark: (B, 1, H, W) in [0, 1].

    disc: range of the disc's light against the retina's. shadowed: chance that floaters cast bands of shadow.
    """
    b, hw = len(scene.layers), scene.layers.shape[-2:]
    a = Anatomy(scene, g, (0.2, 1.2))
    image = uniform(g, b, 0.3, 0.7) * (1 + uniform(g, b, 0.03, 0.15) * texture(g, b, hw, (2, 4, 30)))
    image = image * (1 + uniform(g, b, -0.35, 0.2) * a.macula) * (1 + uniform(g, b, 0, 0.5) * a.halo)
    bled, exudate, drusen, scar = (scene.layer(n) for n in LESIONS)
    atrophy = weighted_sum((scar, uniform(g, b, -0.3, 0.8)), (drusen, uniform(g, b, -0.1, 0.5)))
    image = image + atrophy + exudate * uniform(g, b, -0.1, 0.5)
    image = image * (1 + uniform(g, b, *disc) * a.disc) + a.rim * uniform(g, b, 0, 0.4) * chance(g, b, 0.5)
    image = image * (1 - uniform(g, b, 0.35, 0.85) * torch.maximum(a.vein, uniform(g, b, 0.7, 1.0) * a.artery))
    image = image + scene.layer("reflex") * uniform(g, b, 0, 0.35) * (1 - a.disc)
    image = image * (1 - uniform(g, b, 0, 0.6) * bled)
    bands = torch.exp(-((smooth_noise(g, b, (1, hw[1]), max(hw) / 9) / 0.15) ** 2))
    bands = bands * torch.sigmoid(4 * smooth_noise(g, b, hw, max(hw) / 2))
    return (image * (1 - bands * uniform(g, b, 0.2, 0.75) * chance(g, b, shadowed))).clamp(0, 1)


DEEP_OCTA = "deep OCTA"
RENDERERS = {"CF": render_cf, "FA": render_fa, "OCT": render_oct, "OCTA": render_octa, DEEP_OCTA: render_deep_octa}
RENDERERS |= {"RetCam": render_retcam, "UWF": render_uwf, "FAF": render_faf}
RENDERERS |= {"IR": partial(_render_reflectance, disc=(-0.8, 0.1), shadowed=0.05)}
RENDERERS |= {"SLO": partial(_render_reflectance, disc=(-0.7, 0.6), shadowed=0.25)}


def render(modality: str, scene: Scene, generator: torch.Generator) -> torch.Tensor:
    """Render a scene by a name in RENDERERS, values in [0, 1].

    "CF", "RetCam" and "UWF" are colour, (B, 3, H, W); the others gray, (B, 1, H, W).
    """
    if modality not in RENDERERS:
        raise ValueError(f"unknown modality {modality!r}; there are {', '.join(RENDERERS)}")
    return RENDERERS[modality](scene, generator)
