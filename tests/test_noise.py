"""Blur and clouds against the formulas they stand for, written out plainly."""

import pytest
import torch
import torch.nn.functional as F

from retina_kp.core.noise import blur, noise_numbers, smooth, smooth_noise


def blur_by_convolution(image: torch.Tensor, sigma: torch.Tensor, taps: int) -> torch.Tensor:
    """A Gaussian of so many taps along rows, then columns, as two grouped convolutions of the framed image."""
    b, c, h, w = image.shape
    x = torch.arange(taps) - taps // 2
    kernel = torch.softmax(-(x**2) / (2 * sigma.reshape(b, 1).clamp_min(1e-3) ** 2), -1).repeat_interleave(c, 0)
    flat = F.pad(image.reshape(1, b * c, h, w), [taps // 2] * 4, mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, None], groups=b * c)
    return F.conv2d(flat, kernel[:, None, :, None], groups=b * c).reshape(image.shape)


@pytest.mark.parametrize("shape", [(3, 1, 64, 64), (2, 3, 37, 101), (2, 1, 1, 1), (1, 2, 1, 9), (2, 1, 3, 2)])
@pytest.mark.parametrize("taps", [3, 5, 9])
def test_blur_is_the_convolution_with_one_sigma_per_image(shape, taps):
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    sigma = torch.linspace(0, 4, shape[0]).reshape(-1, 1, 1, 1)
    assert torch.allclose(blur(image, sigma, taps), blur_by_convolution(image, sigma, taps), atol=1e-6)
    one = torch.full((shape[0], 1, 1, 1), 1.3)
    assert torch.allclose(blur(image, 1.3, taps), blur_by_convolution(image, one, taps), atol=1e-6)


def test_blur_leaves_its_input_and_takes_views():
    image = torch.rand(2, 5, 20, 30, generator=torch.Generator().manual_seed(0))
    view, before = image[:, 1:3, 2:-3, ::2], image.clone()
    assert torch.equal(blur(view, 1.0), blur(view.contiguous(), 1.0)) and torch.equal(image, before)


def test_blur_of_a_constant_is_the_constant():
    assert torch.allclose(blur(torch.full((1, 1, 11, 13), 0.3), 2.0), torch.tensor(0.3), atol=1e-6)


def bells(length: int, cell_px: float, numbers: int) -> torch.Tensor:
    """(length, numbers): every number's bell along the line, rows of unit norm."""
    distance = torch.arange(length)[:, None] / cell_px - (torch.arange(numbers) - 1.5)
    weights = torch.exp(-(distance**2) / (2 * 0.55**2))
    return weights / weights.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("cell_px", [1.5, 2, 9, 40, 300.7])
@pytest.mark.parametrize(("count", "hw"), [(3, (150, 211)), (1, (150, 211)), (2, (5, 1))])
def test_smooth_noise_is_a_sum_of_bells(count, hw, cell_px):
    numbers = noise_numbers(torch.Generator().manual_seed(4), count, hw, cell_px)
    rows, columns = (bells(n, cell_px, k) for n, k in zip(hw, numbers.shape[2:], strict=True))
    noise = smooth_noise(torch.Generator().manual_seed(4), count, hw, cell_px)
    assert noise.shape == (count, 1, *hw) and torch.allclose(noise, rows @ numbers @ columns.T, atol=3e-6)


def test_smooth_noise_does_not_depend_on_the_number_of_threads():
    threads, found = torch.get_num_threads(), []
    for count in (1, 2):
        torch.set_num_threads(count)
        drawn = [noise_numbers(torch.Generator().manual_seed(1), 1, (512, 512), cell) for cell in (2, 170.7)]
        found.append([smooth(numbers, (512, 512), cell) for numbers, cell in zip(drawn, (2, 170.7), strict=True)])
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
