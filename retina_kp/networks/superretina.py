"""The network of Liu et al., "Semi-supervised keypoint detector and descriptor for retinal image matching", ECCV 2022.

VGG encoder 64-64-128-128, U-Net detector at full resolution, 256-D descriptors at 1/8. Parameter names and shapes are
those of the authors' checkpoint, so its state dict loads as it is.
"""

from __future__ import annotations

import torch
import torch.nn as nn
import torch.nn.functional as F

from .common import DenseOutput, LocalContrast, check_input, pad_to_multiple


def _double_conv(c_in: int, c_out: int) -> nn.Sequential:
    first, second = nn.Conv2d(c_in, c_out, 3, padding=1), nn.Conv2d(c_out, c_out, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(inplace=True), second, nn.ReLU(inplace=True))


class SuperRetina(nn.Module):
    """Detector at stride 1, 256-D descriptors at stride 8.

    local_contrast: normalise the input as `lite` does; False for the authors' own weights.
    """

    detector_stride, descriptor_stride, multiple = 1, 8, 16

    def __init__(self, local_contrast: bool = True):
        super().__init__()
        self.options = {"local_contrast": local_contrast}
        self.normalise = LocalContrast() if local_contrast else None
        widths = {"1": (1, 64), "2": (64, 64), "3": (64, 128), "4": (128, 128)}
        for level, (c_in, c_out) in widths.items():
            setattr(self, f"conv{level}a", nn.Conv2d(c_in, c_out, 3, padding=1))
            setattr(self, f"conv{level}b", nn.Conv2d(c_out, c_out, 3, padding=1))
        self.convDa = nn.Conv2d(128, 256, 3, padding=1)
        self.convDb = nn.Conv2d(256, 256, 4, stride=2)
        self.convDc = nn.Conv2d(256, 256, 1)
        self.trans_conv = nn.ConvTranspose2d(256, 256, 2, stride=2)
        self.dconv_up3 = _double_conv(256, 128)
        self.dconv_up2, self.dconv_up1 = _double_conv(192, 64), _double_conv(128, 64)
        self.conv_last = nn.Conv2d(64, 1, 1)
        # start nearly silent: from 0.5 everywhere Adam overshoots into silence for good
        nn.init.constant_(self.conv_last.bias, -3.0)

    def forward(self, image: torch.Tensor, valid: torch.Tensor | None = None, describe: bool = True) -> DenseOutput:
        check_input(image)
        x = pad_to_multiple(image if self.normalise is None else self.normalise(image, valid), self.multiple)
        skips = []
        for level in "1234":
            x = F.relu(getattr(self, f"conv{level}b")(F.relu(getattr(self, f"conv{level}a")(x))))
            if level != "4":
                skips.append(x)
                x = F.max_pool2d(x, 2)
        descriptors = self._descriptors(x) if describe else None
        return DenseOutput(self._detector(x, skips), descriptors, self.detector_stride, self.descriptor_stride)

    def _detector(self, x: torch.Tensor, skips: list[torch.Tensor]) -> torch.Tensor:
        for mix, skip in zip((self.dconv_up3, self.dconv_up2, self.dconv_up1), reversed(skips), strict=True):
            x = mix(torch.cat([F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True), skip], 1))
        return torch.sigmoid(self.conv_last(x).float())

    def _descriptors(self, x: torch.Tensor) -> torch.Tensor:
        # the unpadded 4x4 convolution loses a cell on each side; given back, cell k lies on the stride-8 grid
        y = F.normalize(self.convDc(F.relu(self.convDb(F.relu(self.convDa(x))))), dim=1)
        return F.normalize(F.pad(self.trans_conv(y).float(), (1, 1, 1, 1), mode="replicate"), dim=1)
