"""What networks share: the output record, padding, and local contrast normalisation."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

# numbers for which this PyTorch and this processor have oneDNN's layers that do a ReLU on the way
_FUSED: set[torch.dtype] = set()
if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
    _FUSED = {torch.float32, *[torch.bfloat16] * torch.ops.mkldnn._is_mkldnn_bf16_supported()}


@dataclass(frozen=True)
class DenseOutput:
    """detector: (B, 1, h, w) probability per cell of detector_stride px; descriptors: (B, D, h', w') unit vectors per
    cell of descriptor_stride px, None where nobody asked. Maps may reach past the image, which networks pad."""

    detector: torch.Tensor
    descriptors: torch.Tensor | None
    detector_stride: int
    descriptor_stride: int

    def split(self, count: int) -> tuple[DenseOutput, DenseOutput]:
        """The first ``count`` images and the rest."""
        parts = [(self.detector[s], self.descriptors[s]) for s in (slice(None, count), slice(count, None))]
        return tuple(DenseOutput(*p, self.detector_stride, self.descriptor_stride) for p in parts)


class LocalContrast(nn.Module):
    """Subtract the local mean and divide by the local spread, both inside the field of view; within ±4, 0 outside.

    Cells of 8 px are smoothed twice by a box of ``window_cells``: with 5 the neighbourhood is about 55 px wide.
    """

    def __init__(self, window_cells: int = 5, floor: float = 0.01):
        super().__init__()
        self.window_cells, self.floor = window_cells, floor

    def forward(self, image: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
        """image: (B, 1, H, W); valid: (B, 1, H, W) bool or None for everything."""
        mask = torch.ones_like(image) if valid is None else valid.to(image)
        # for accuracy in float32
        center = image - (image * mask).sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp_min(1)
        inner = center * mask
        moments = torch.cat([F.avg_pool2d(x, 8, ceil_mode=True) for x in (mask, inner, inner * center)])
        for _ in range(2):
            moments = F.avg_pool2d(moments, self.window_cells, 1, self.window_cells // 2, count_include_pad=True)
        moments = F.interpolate(moments, scale_factor=8, mode="bilinear")[..., : image.shape[-2], : image.shape[-1]]
        weight, first, second = moments.chunk(3)
        share = weight.clamp_min(1e-3).reciprocal()
        mean = first * share
        spread = (second * share - mean**2).clamp_min(0).sqrt()
        return ((center - mean) / (spread + self.floor)).clamp_(-4, 4).mul_(mask)


def pad_to_multiple(image: torch.Tensor, multiple: int) -> torch.Tensor:
    """Grow to the right and downwards with zeros; pixel coordinates stay what they were."""
    h, w = image.shape[-2:]
    return F.pad(image, (0, -w % multiple, 0, -h % multiple))


def check_input(image: torch.Tensor) -> None:
    """ValueError unless image is (B, 1, H, W) floating point."""
    if image.ndim != 4 or image.shape[1] != 1 or not image.is_floating_point():
        raise ValueError(f"a network takes float images of shape (B, 1, H, W), not {image.dtype} {tuple(image.shape)}")


def for_inference(network: nn.Module) -> nn.Module:
    """A copy that computes the same, faster: its normalisations are melted into the convolutions before them, and on a
    CPU the ReLU that follows is done in the same pass over the map."""
    faster = copy.deepcopy(network).eval()
    for block in [block for block in faster.modules() if isinstance(block, nn.Sequential)]:
        for i in range(len(block) - 1):
            if isinstance(block[i], nn.Conv2d) and isinstance(block[i + 1], nn.BatchNorm2d):
                block[i], block[i + 1] = fuse_conv_bn_eval(block[i], block[i + 1]), nn.Identity()
        kinds = [type(layer) for layer in block]
        if kinds == [nn.Conv2d, nn.Identity, nn.ReLU] and _FUSED:
            block[0], block[2] = _ConvReLU(block[0]), nn.Identity()
    return faster


class _ConvReLU(nn.Module):
    """A convolution and a ReLU in one, for inference; in bfloat16 a ReLU of its own takes as long as the
    convolution."""

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.convolution = convolution
        self._cast: dict[torch.dtype, tuple] = {}  # weights and biases

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        layer = self.convolution
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else layer.weight.dtype
        if x.device.type != "cpu" or kind not in _FUSED:
            return F.relu(layer(x), inplace=True)
        if kind not in self._cast:
            self._cast[kind] = layer.weight.detach().to(kind), layer.bias.detach().to(kind)
        shape = layer.padding, layer.stride, layer.dilation, layer.groups
        return torch.ops.mkldnn._convolution_pointwise(x.to(kind), *self._cast[kind], *shape, "relu", [], "")
