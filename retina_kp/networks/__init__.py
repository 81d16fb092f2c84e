"""Networks: one protocol, image (B, 1, H, W) in [0, 1] → DenseOutput. No loss and no label making in here."""

from __future__ import annotations

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
    """Whether the device computes in bfloat16 natively; elsewhere it is emulated, slowly."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


__all__ = ["DenseOutput", "Lite", "LocalContrast", "NETWORKS", "SuperRetina", "bfloat16_is_fast", "build_network", "choose_device",
           "fold_batch_norm"]  # fmt: skip
