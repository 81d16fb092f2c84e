"""Networks by name. To add one, copy `lite.py` and name its class in NETWORKS. No loss and no label making in here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from .common import DenseOutput, for_inference
from .lite import Lite
from .superretina import SuperRetina


class Network(Protocol):
    """What a network is, beside a torch.nn.Module."""

    name: str  # under which it was built and is saved; `build_network` sets it
    options: dict  # what its constructor was given, JSON types
    detector_stride: int  # px per cell of its outputs
    descriptor_stride: int

    def __call__(self, image: torch.Tensor, valid: torch.Tensor | None = None, describe: bool = True) -> DenseOutput:
        """image: (B, 1, H, W) in [0, 1]; valid: (B, 1, H, W) bool field of view, None for the whole frame; describe:
        whether descriptors are wanted."""


NETWORKS: dict[str, Callable[..., Network]] = {
    "lite": Lite,
    "superretina": SuperRetina,
}


def build_network(name: str, **options) -> Network:
    """Make a network of NETWORKS with options of its constructor; ValueError for unknown names and options."""
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; there are {', '.join(NETWORKS)}")
    try:
        network = NETWORKS[name](**options)
    except TypeError as error:
        raise ValueError(f"network {name!r} does not take these options: {error}") from None
    network.name = name
    return network


__all__ = ["NETWORKS", "DenseOutput", "Network", "build_network", "for_inference"]
