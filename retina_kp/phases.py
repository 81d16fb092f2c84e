"""A training phase is data: which losses count and how much. One trainer runs them all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """Weights of the losses in one phase (training plan); 0 leaves a loss out."""

    title: str
    detector_weight: float = 1.0  # λ_det: Dice between det0 and the labels of image 0
    descriptor_weight: float = 1.0  # λ_des: descriptors at true correspondences
    geometric_weight: float = 0.0  # λ_geo: Dice between det0 and det1 seen in the fixed frame


PHASES = {
    "warmup": Phase("1 · warm-up: descriptor and fixed detector"),
    "geometric": Phase("2 · geometric warm-up: the moving detector follows", geometric_weight=1.0),
}


def get_phase(name: str) -> Phase:
    """A phase by name; ValueError lists the names."""
    if name not in PHASES:
        raise ValueError(f"unknown phase {name!r}; there are {', '.join(PHASES)}")
    return PHASES[name]
