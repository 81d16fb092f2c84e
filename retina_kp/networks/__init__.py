"""Networks: one protocol, image (B, 1, H, W) in [0, 1] → DenseOutput. No loss and no label making in here."""

from __future__ import annotations

from .common import DenseOutput, LocalContrast, fold_batch_norm
from .lite import Lite
from .superretina import SuperRetina

NETWORKS = {"lite": Lite, "superretina": SuperRetina}


def build_network(name: str, **options):
    """Make a network by name ("lite" or "superretina"); options go to its constructor. Unknown names and options raise
    ValueError."""
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; there are {', '.join(NETWORKS)}")
    try:
        return NETWORKS[name](**options)
    except TypeError as error:
        raise ValueError(f"network {name!r} does not take these options: {error}") from None


__all__ = [
    "NETWORKS",
    "DenseOutput",
    "Lite",
    "LocalContrast",
    "SuperRetina",
    "build_network",
    "fold_batch_norm",
]
