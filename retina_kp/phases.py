"""A training phase is data: which losses count and how much. One trainer runs them all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """Which losses take part in a phase (training plan); their weights λ are in the run's configuration.

    loss_det: Dice between det0 and the labels of image 0. loss_des: descriptors at true correspondences. loss_geo: Dice between det0 and
    det1 seen in the fixed frame. loss_mov: Dice between det1 and the labels of image 1, where the data has them (beyond the plan).
    """

    title: str
    losses: tuple[str, ...]


PHASES = {
    "warmup": Phase("1 · warm-up: descriptor and fixed detector", ("loss_det", "loss_des")),
    "geometric": Phase("2 · geometric warm-up: the moving detector follows", ("loss_det", "loss_des", "loss_geo", "loss_mov")),
}


def get_phase(name: str) -> Phase:
    """A phase by name; ValueError lists the names."""
    if name not in PHASES:
        raise ValueError(f"unknown phase {name!r}; there are {', '.join(PHASES)}")
    return PHASES[name]
