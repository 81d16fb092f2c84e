"""How a training image shows a retina that was drawn once, flat: by a matrix, or through the camera of a round eye."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..core import geometry
from ..core.dense import BEND, bend_nodes, read_layers, read_nodes
from .cameras import RoundCamera, best_affine
from .drawing import Scene, coarse_grid


@dataclass(frozen=True)
class CachedView:
    """One retina drawn once: layers (8, 640, 640) uint8, px_from_deg (3, 3), anatomy (4,), and junctions (J, 2) px
    with their widths and whether they are annotated, (J,) bool."""

    layers: np.ndarray
    px_from_deg: np.ndarray
    anatomy: list[float]
    junctions_xy: np.ndarray
    junction_width_px: np.ndarray
    annotated: np.ndarray


@dataclass(frozen=True)
class Shown:
    """How an image shows a cached view: by H (3, 3) cache px → px of the image, or, of a round eye, by a camera that
    does nearly so in its middle."""

    view: CachedView
    H: np.ndarray
    hw: tuple[int, int]
    camera: RoundCamera | None = None

    def places(self, xy: np.ndarray) -> np.ndarray:
        """Cache px (N, 2) → px of the image."""
        if self.camera is None:
            return geometry.warp_points(xy, self.H)
        return self.camera.project(geometry.warp_points(xy, np.linalg.inv(self.view.px_from_deg)))

    @cached_property
    def nodes_deg(self) -> np.ndarray:
        """(h, w, 2) degrees that a camera sees at `bend_nodes`, from which all else of the image is read."""
        nodes = bend_nodes(self.hw)
        return self.camera.unproject(nodes.reshape(-1, 2).numpy()).reshape(nodes.shape)

    def degrees(self, px: torch.Tensor) -> torch.Tensor:
        """Px of the image (h, w, 2) → degrees, float32."""
        if self.camera is None:
            deg_from_px = np.linalg.inv(self.view.px_from_deg) @ np.linalg.inv(self.H)
            return geometry.warp_points(px.double(), torch.from_numpy(deg_from_px)).float()
        return read_nodes(
            torch.from_numpy(self.nodes_deg).float().permute(2, 0, 1)[None], px.reshape(1, -1, 2)
        ).view_as(px)

    def layers(self) -> tuple[np.ndarray, np.ndarray]:
        """(8, *hw) uint8, and the (*hw) bool mask of what the view covers."""
        if self.camera is None:
            return geometry.warp_layers(self.view.layers, self.H, self.hw)
        return read_layers(self.view.layers, geometry.warp_points(self.nodes_deg, self.view.px_from_deg), self.hw)


def scene_of(shown: list[Shown]) -> tuple[Scene, torch.Tensor]:
    """Views in the frames of images, and the (B, 1, H, W) bool mask of what they cover."""
    layers, known = (torch.from_numpy(np.stack(part)) for part in zip(*(s.layers() for s in shown), strict=True))
    degrees = torch.stack([s.degrees(coarse_grid(s.hw)) for s in shown])
    deg_from_px = np.linalg.inv(np.stack([s.view.px_from_deg for s in shown])) @ np.linalg.inv([s.H for s in shown])
    scale = torch.linalg.det(torch.from_numpy(deg_from_px)[:, :2, :2]).abs().rsqrt().float()[:, None, None, None]
    return Scene(layers, degrees, scale, torch.tensor([s.view.anatomy for s in shown])), known[:, None]


def true_map(H_0to1: torch.Tensor, shown0: list[Shown], shown1: list[Shown]) -> tuple[torch.Tensor, dict]:
    """H_0to1 (B, 3, 3), the best affine map where eyes are round, and {BEND: what it lacks}, {} without round eyes."""
    if all(s.camera is None for s in shown0):
        return H_0to1, {}
    nodes = bend_nodes(shown0[0].hw)
    xy, H = nodes.reshape(-1, 2).numpy(), H_0to1.numpy().copy()
    bend = np.zeros((len(shown0), *xy.shape))
    for k, (one, other) in enumerate(zip(shown0, shown1, strict=True)):
        if one.camera is not None:
            true = other.camera.project(one.nodes_deg.reshape(-1, 2))
            both = geometry.inside(xy, one.hw) & geometry.inside(true, other.hw)
            H[k] = best_affine(xy[both], true[both]) if both.sum() > 8 else H[k]
            bend[k] = true - geometry.warp_points(xy, H[k])
    bend = torch.from_numpy(bend).float().transpose(1, 2).unflatten(2, nodes.shape[:2])
    return torch.from_numpy(H), {BEND: bend}


def junctions_of(
    shown: Shown, valid: torch.Tensor, min_width_px: float = 1.2, all_of_them: bool = False
) -> torch.Tensor:
    """(N, 2) px: junctions in an image's field of view, either those annotated and wide enough to be seen, or all."""
    view, xy = shown.view, shown.places(shown.view.junctions_xy)
    width_px = view.junction_width_px * np.sqrt(abs(np.linalg.det(shown.H[:2, :2])))
    wanted = all_of_them | (view.annotated & (width_px >= min_width_px))
    xy = xy[geometry.inside(xy, valid.shape[-2:], 2.0) & wanted]
    xy = torch.from_numpy(xy).float()
    return xy[geometry.sample_map(valid[None].float(), xy[None])[0, :, 0] > 0.99] if len(xy) else xy.reshape(0, 2)
