"""What pictures of every modality need: soft maps of disc and macula, vessels that fade out, choroid and capillaries."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..core.noise import smooth_noise, uniform
from .drawing import Scene


class Anatomy:
    """Soft maps (B, 1, H, W) of disc, cup and macula, and vessels, which fade out below a random width."""

    def __init__(self, scene: Scene, g: torch.Generator, thin_px: tuple[float, float]):
        b, hw = len(scene.layers), scene.layers.shape[-2:]
        deg = scene.degrees.reshape(b, -1, 2).nan_to_num(1e3)
        disc, radius, zone = scene.anatomy[:, None, :2], scene.anatomy[:, 2, None], scene.anatomy[:, 3, None]
        r_disc, r_fovea = (deg - disc.float()).norm(dim=-1) / radius.float(), deg.norm(dim=-1)
        edge = uniform(g, b, 4, 12).reshape(b, 1)
        cup_radius, reach = uniform(g, b, 0.2, 0.7).reshape(b, 1), uniform(g, b, 1.5, 4.0).reshape(b, 1)
        self._maps = {
            "disc": lambda: torch.sigmoid((1 - r_disc) * edge),
            "cup": lambda: torch.sigmoid((cup_radius - r_disc) * edge * 1.5),
            "halo": lambda: torch.exp(-((r_disc / 1.8) ** 2)),
            "macula": lambda: torch.exp(-((r_fovea / reach) ** 2)),
            "avascular": lambda: torch.sigmoid((zone.float() - r_fovea) * 6),
            "rim": lambda: torch.exp(-(((r_disc - 1) / 0.12) ** 2)),
        }
        self._coarse_hw, self._hw = scene.degrees.shape[1:3], hw
        width = scene.layer("calibre")
        visible = (width * scene.px_per_deg).sub_(uniform(g, b, *thin_px)).mul_(3).sigmoid_()
        depth = width.clamp(max=0.5).mul_(1.3).add_(0.35).mul_(visible)  # thin vessels hold less blood (or dye)
        self.artery, self.vein = scene.layer("artery") * depth, scene.layer("vein") * depth

    def __getattr__(self, name: str) -> torch.Tensor:
        """A soft map, worked out when a renderer asks for it."""
        if name not in self.__dict__.get("_maps", {}):
            raise AttributeError(name)
        values = self._maps.pop(name)().float().reshape(-1, 1, *self._coarse_hw)
        self.__dict__[name] = F.interpolate(values, self._hw, mode="bilinear")
        return self.__dict__[name]


def texture(g: torch.Generator, b: int, hw, cells=(3, 9, 40), weights=(0.3, 0.4, 0.6)) -> torch.Tensor:
    """(b, 1, *hw) noise, the sum of smooth noises of several cells (px)."""
    total = torch.zeros(b, 1, *hw)
    for cell, weight in zip(cells, weights, strict=True):
        total.add_(smooth_noise(g, b, hw, cell), alpha=weight)
    return total


def weighted_sum(*terms: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """(B, 1, H, W) sum of maps, each times its strength (B, 1, 1, 1); without temporary pictures, which cost most."""
    total = terms[0][0] * terms[0][1]
    for values, strength in terms[1:]:
        total.addcmul_(values, strength)
    return total


def choroid(g: torch.Generator, b: int, hw, px_per_deg: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) in [0, 1]: meandering bands, the choroid's vessels, which shine through where pigment is thin."""
    cell = round(float((1.3 * px_per_deg).mean().clamp(4.0, 40.0)))
    bands = torch.exp(-((smooth_noise(g, b, hw, cell) / uniform(g, b, 0.4, 0.8)) ** 2))
    return bands * torch.sigmoid(3 * smooth_noise(g, b, hw, 5 * cell))


def capillaries(g: torch.Generator, b: int, hw, px_per_deg: torch.Tensor) -> torch.Tensor:
    """(b, 1, *hw): a mesh of thin lines: the zero crossings of noise whose cells are about a capillary spacing wide."""
    cell = round(float((0.32 * px_per_deg).mean().clamp(2.0, 12.0)))
    coarse = smooth_noise(g, b, hw, cell) + 0.5 * smooth_noise(g, b, hw, max(0.6 * cell, 1.5))
    return torch.exp(-((coarse / uniform(g, b, 0.2, 0.5)) ** 2)) * (0.7 + 0.3 * smooth_noise(g, b, hw, 2))
