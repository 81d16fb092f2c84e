"""Networks: one protocol, image (B, 1, H, W) in [0, 1] → DenseOutput. No loss and no label making in here."""

from __future__ import annotations

import time
from functools import lru_cache

import torch

from .common import DenseOutput, LocalContrast, fold_batch_norm
from .lite import Lite
from .superretina import SuperRetina

NETWORKS = {"lite": Lite, "superretina": SuperRetina}


def build_network(name: str, **options):
    """Make a network by name ("lite" or "superretina"); options go to its constructor. Unknown names and options raise ValueError."""
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; there are {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](**options)
    except TypeError as error:
        raise ValueError(f"network {name!r} does not take these options: {error}") from None


def choose_device(device: str | torch.device) -> torch.device:
    """ "auto" (CUDA where there is one), or a device as PyTorch names it; ValueError for a name it does not know and for absent CUDA."""
    seen = torch.cuda.device_count()
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device {str(device)!r}: takes 'auto', 'cpu', 'cuda' or 'cuda:<number>'") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= seen:
        raise ValueError(f'device {str(device)!r}: {seen or "no"} CUDA device is visible to PyTorch here; use "auto" or "cpu"')
    return chosen


@lru_cache
def bfloat16_is_fast(device: torch.device) -> bool:
    """Whether a convolution in bfloat16 takes less time than in float32. A GPU says so; a CPU is measured, once, in about 20 ms: its
    flags promise what the libraries may not use, and emulation takes many times as long."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and _seconds_of_convolution(torch.bfloat16) < 0.8 * _seconds_of_convolution(torch.float32)


@torch.inference_mode()
def _seconds_of_convolution(kind: torch.dtype, repeats: int = 5) -> float:
    """Shortest time that the CPU needs for a layer like those of our networks."""
    layer = torch.nn.Conv2d(64, 64, 3, padding=1).to(kind).to(memory_format=torch.channels_last)
    image = torch.zeros(1, 64, 96, 96, dtype=kind).to(memory_format=torch.channels_last)
    layer(image)  # the first call also prepares
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        layer(image)
        times.append(time.perf_counter() - started)
    return min(times)


__all__ = ["DenseOutput", "Lite", "LocalContrast", "NETWORKS", "SuperRetina", "bfloat16_is_fast", "build_network", "choose_device",
           "fold_batch_norm"]  # fmt: skip
