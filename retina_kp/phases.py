"""A training phase is data: which losses count, and whether PKE makes the labels. `TrainConfig` holds all that decides a run's outcome."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from .dataset import SyntheticOptions
from .losses import DESCRIPTOR_LOSSES
from .pke import PkeOptions
from .sources import FileOptions

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Phase:
    """Which losses take part, and with PKE on, whose labels they use; their weights λ are in the run's configuration.

    loss_det: Dice between det0 and the labels of image 0, which are the annotated points, with PKE also the promoted ones. loss_des:
    descriptors at annotated points and their true correspondents, and at extra_points random places of a pair (not in SuperRetina: twelve
    clicks alone teach twelve places). loss_geo: Dice between det0 and det1 seen in the fixed frame.
    loss_geo_pke: the same with the labels as teacher. loss_explore: loss_des at the points that PKE has just mined. loss_mov: Dice between
    det1 and the junctions that image 1 shows, where the data knows them (not in SuperRetina either).
    """

    title: str
    losses: tuple[str, ...]
    pke: bool = False


PHASES = {
    "warmup": Phase("1 · warm-up: descriptor and fixed detector", ("loss_det", "loss_des")),
    "geometric": Phase("2 · geometric warm-up: the moving detector follows", ("loss_det", "loss_des", "loss_geo", "loss_mov")),
    "pke": Phase("3 · PKE: the detector explores, the descriptor holds the line", ("loss_det", "loss_des", "loss_geo_pke"), pke=True),
    "sim2real": Phase(
        "4 · sim-to-real: real pairs with computed H, and replay", ("loss_det", "loss_des", "loss_geo_pke", "loss_explore"), pke=True
    ),  # fmt: skip
}


def get_phase(name: str) -> Phase:
    """A phase by name; ValueError lists the names."""
    if name not in PHASES:
        raise ValueError(f"unknown phase {name!r}; there are {', '.join(PHASES)}")
    return PHASES[name]


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a training run. Device, workers and the number of processes are no part of it."""

    phase: str = "warmup"
    network: str = "lite"
    network_options: dict = field(default_factory=dict)
    init_from: str = ""  # weights to start from; "" = fresh
    epochs: int = 2
    steps_per_epoch: int = 20
    batch_size: int = 6  # pairs that go through the network at once
    micro_batches: int = 1  # batches whose gradients make one step, shared out among the processes
    learning_rate: float = 1e-3
    final_rate_ratio: float = 1.0  # learning rate at the end, cosine from 1
    rise_steps: int = 50  # linear rise of the learning rate at the start
    weight_decay: float = 1e-4
    precision: str = "fp32"  # bf16, fp16: the network's layers in half precision; bf16 where the device knows it, fp32 elsewhere
    clip_norm: float = 5.0
    detector_weight: float = 1.0  # λ_det; a weight counts only in phases that use its loss
    descriptor_weight: float = 1.0  # λ_des
    geometric_weight: float = 0.5  # λ_geo
    exploration_weight: float = 0.5  # λ of descriptors at mined points
    moving_weight: float = 0.0  # of the moving detector's own labels, which SuperRetina does not use
    descriptor_loss: str = "infonce"
    exclusion_px: float = 10.0  # points nearer than this are no negatives of each other
    extra_points: int = 48  # random points per pair beside the junctions
    label_sigma_px: float = 2.0
    curriculum_steps: int = 0  # the relative transform widens from curriculum_start to full over so many steps
    curriculum_start: float = 0.4
    seed: int = 0
    pool_size: int = 600  # different retinas
    pool_seed: int = 0  # which retinas; phases that share it share the drawn pool
    data: SyntheticOptions = SyntheticOptions()
    files: FileOptions = FileOptions()
    pke: PkeOptions = PkeOptions()
    validation_pairs: int = 24

    def __post_init__(self):
        get_phase(self.phase)
        for name, known in (("precision", PRECISIONS), ("descriptor_loss", tuple(DESCRIPTOR_LOSSES))):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; there are {', '.join(known)}")
        for name in ("epochs", "steps_per_epoch", "batch_size", "micro_batches", "pool_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: takes a whole number from 1, not {getattr(self, name)!r}")
        if 0 < self.files.share < 1 and self.files.size_px != self.data.size_px:
            raise ValueError(
                f"files.size_px {self.files.size_px} and data.size_px {self.data.size_px} must be equal: both are in every batch"
            )
        together, rarer = self.batch_size * self.micro_batches, min(self.files.share, 1 - self.files.share)
        if 0 < rarer and together * rarer < 1 - 1e-9:
            least = math.ceil(1 / rarer - 1e-9)
            raise ValueError(f"files.share: {self.files.share:g} of {together} pairs leaves updates without one kind of pair, and replay "
                             f"must be in each; let batch_size · micro_batches be {least} or more")  # fmt: skip
        weights = {name: getattr(self, name) for name in ("detector_weight", "descriptor_weight", "geometric_weight", "exploration_weight",
                                                          "moving_weight")}  # fmt: skip
        wrong = [name for name, value in weights.items() if not value >= 0]
        if wrong or not any(weights.values()):
            raise ValueError(f"{wrong[0] if wrong else 'the loss weights'}: takes a number from 0, and one at least must be above 0")

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def strength(self, step: int) -> float:
        """How wide the random transforms are at a step, in [0, 1]."""
        if self.curriculum_steps == 0:
            return 1.0
        return min(1.0, self.curriculum_start + (1 - self.curriculum_start) * step / self.curriculum_steps)
