"""`lite`: the default network, sized for a laptop: 1.5 M parameters and about 5 GMAC at 512 x 512.

A U-Net whose stem halves the image at once. Detector at 1/2, 128-D descriptors at 1/8 that see context down to 1/32.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F

from .common import DenseOutput, LocalContrast, check_input, pad_to_multiple


def _conv(c_in: int, c_out: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    # strided kernels are even, so that cell k of a halved map looks at pixel 2k + 0.5, its centre
    convolution = nn.Conv2d(c_in, c_out, kernel, stride, (kernel - stride + 1) // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True))


class _Up(nn.Module):
    """Bring a coarse map to the next finer one: project, enlarge twice, add the skip connection, mix."""

    def __init__(self, c_coarse: int, c_skip: int, c_out: int):
        super().__init__()
        self.project = nn.Conv2d(c_coarse, c_out, 1)
        self.skip = nn.Conv2d(c_skip, c_out, 1) if c_skip != c_out else nn.Identity()
        self.mix = _conv(c_out, c_out)

    def forward(self, coarse: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.mix(F.interpolate(self.project(coarse), scale_factor=2, mode="bilinear") + self.skip(skip))


class Lite(nn.Module):
    """Detector at stride 2, 128-D descriptors at stride 8; ``width`` scales every layer."""

    detector_stride, descriptor_stride, multiple = 2, 8, 32

    def __init__(self, width: float = 1.0, descriptor_dim: int = 128):
        super().__init__()
        c1, c2, c3, c4, c5 = (max(8, int(width * c)) for c in (32, 64, 96, 128, 128))
        self.options = {"width": width, "descriptor_dim": descriptor_dim}
        self.normalise = LocalContrast()
        self.level1 = nn.Sequential(_conv(1, c1, 6, 2), _conv(c1, c1))
        self.level2 = nn.Sequential(_conv(c1, c2, 2, 2), _conv(c2, c2))
        self.level3 = nn.Sequential(_conv(c2, c3, 2, 2), _conv(c3, c3), _conv(c3, c3))
        self.level4 = nn.Sequential(_conv(c3, c4, 2, 2), _conv(c4, c4), _conv(c4, c4))
        self.level5 = nn.Sequential(_conv(c4, c5, 2, 2), _conv(c5, c5), _conv(c5, c5))
        self.up4, self.up3 = _Up(c5, c4, c4), _Up(c4, c3, c4)
        self.up2, self.up1 = _Up(c4, c2, c2), _Up(c2, c1, c1)
        self.describe = nn.Sequential(_conv(c4, c4), nn.Conv2d(c4, descriptor_dim, 1))
        self.detect = nn.Conv2d(c1, 1, 1)
        nn.init.constant_(self.detect.bias, -3.0)  # start nearly silent: keypoints are rare

    def forward(self, image: torch.Tensor, valid: torch.Tensor | None = None, describe: bool = True) -> DenseOutput:
        check_input(image)
        x1 = self.level1(pad_to_multiple(self.normalise(image, valid), self.multiple))
        x2 = self.level2(x1)
        x3 = self.level3(x2)
        x4 = self.level4(x3)
        y3 = self.up3(self.up4(self.level5(x4), x4), x3)
        y1 = self.up1(self.up2(y3, x2), x1)
        detector = torch.sigmoid(self.detect(y1).float())
        descriptors = F.normalize(self.describe(y3).float(), dim=1) if describe else None
        return DenseOutput(detector, descriptors, self.detector_stride, self.descriptor_stride)
