"""`TrainConfig`: everything that decides the outcome of a training run, checked as soon as it is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..data.training_files import FileOptions
from ..synthetic.training_pairs import SyntheticOptions
from .losses import DESCRIPTOR_LOSSES
from .phases import Loss, get_phase, weighted_losses
from .pke import PkeOptions

PRECISIONS = ("fp32", "bf16", "fp16")
MIN_STEPS, MIN_SIZE_PX, MIN_POOL = 200, 192, 40  # a run below any of these is a try
STAND_IN = "stand_in"  # folder of weights that were trained in place of a phase that was skipped


@dataclass(frozen=True)
class TrainConfig:
    """One run of one phase. Device, workers and the number of processes are no part of it. ValueError names a field
    that cannot be."""

    phase: str = "warmup"
    recipe: str = ""  # of `recipes`, from which this was made
    network: str = "lite"
    network_options: dict = field(default_factory=dict)
    init_from: str = ""  # weights to start from; "" = fresh
    built_on_try: bool = False  # whether those are of a run that was but a try
    epochs: int = 2
    steps_per_epoch: int = 20
    batch_size: int = 6  # pairs that go through the network at once
    micro_batches: int = 1  # batches whose gradients make one step, shared out among the processes
    learning_rate: float = 1e-3
    final_rate_ratio: float = 1.0  # learning rate at the end, cosine from 1
    rise_steps: int = 50  # linear rise of the learning rate at the start
    weight_decay: float = 1e-4
    precision: str = "fp32"  # bf16, fp16: the network's layers in half precision; bf16 where it is fast, fp32 elsewhere
    clip_norm: float = 5.0
    weights: dict[str, float] = field(default_factory=dict)  # of losses, by name, where other than the phase's own
    descriptor_loss: str = "infonce"
    exclusion_px: float = 10.0  # points nearer than this are no negatives of each other
    extra_points: int = 48  # random points per pair beside the junctions, where descriptors are trained too
    clicked_anchor_px: float = 0.0  # partners as clicked, if so near to where H puts them; 0: always where H puts them
    label_sigma_px: float = 2.0
    curriculum_steps: int = 0  # the relative transform widens from curriculum_start to full over so many steps
    curriculum_start: float = 0.4
    seed: int = 0
    pool_size: int = 600  # different synthetic retinas
    pool_seed: int = 0  # which retinas; phases that share it share the drawn pool
    data: SyntheticOptions = SyntheticOptions()  # synthetic pairs: all that files and replay leave of a batch
    files: FileOptions = FileOptions()  # what the run is about, where files.share > 0
    replay: FileOptions = FileOptions()  # what must not be forgotten meanwhile: the generated set in phase 4
    pke: PkeOptions = PkeOptions()
    validation_pairs: int = 24  # of each source, at most

    def __post_init__(self):
        weighted_losses(self.phase, self.weights)
        for name, known in (("precision", PRECISIONS), ("descriptor_loss", tuple(DESCRIPTOR_LOSSES))):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; there are {', '.join(known)}")
        for name in ("epochs", "steps_per_epoch", "batch_size", "micro_batches", "pool_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: takes a whole number from 1, not {getattr(self, name)!r}")
        if self.phase_has_pke and self.synthetic_share > 0 and not self.data.frames_per_retina:
            raise ValueError(
                f"phase {self.phase!r} needs data.frames_per_retina of 1 or more: PKE has to see each sample again"
            )
        self._check_mix()

    def _check_mix(self) -> None:
        """Every source of a batch has images of one size, and is in every update."""
        shares = {
            "files.share": self.files.share,
            "replay.share": self.replay.share,
            "synthetic pairs": self.synthetic_share,
        }
        mixed = {name: share for name, share in shares.items() if share > 0}
        if self.synthetic_share < 0:
            raise ValueError(
                f"files.share {self.files.share:g} and replay.share {self.replay.share:g} add up to more than 1"
            )
        if self.replay.root and not self.files.share:
            raise ValueError("replay.root: replay stands beside files, so give files.root and files.share as well")
        sizes = {"files.share": self.files.size_px, "replay.share": self.replay.size_px}
        sizes = {self.data.size_px} | {px for name, px in sizes.items() if name in mixed}
        if len(mixed) > 1 and len(sizes) > 1:
            raise ValueError(
                f"files.size_px {self.files.size_px}, replay.size_px {self.replay.size_px} and data.size_px "
                f"{self.data.size_px} must be equal: they are in one batch"
            )
        rarest = min(mixed, key=mixed.get)
        if self.pairs_per_step * mixed[rarest] < 1 - 1e-9:
            least = math.ceil(1 / mixed[rarest] - 1e-9)
            raise ValueError(
                f"{rarest}: {mixed[rarest]:g} of {self.pairs_per_step} pairs leaves updates without one kind of pair, and "
                f"replay must be in each; let batch_size · micro_batches be {least} or more"
            )

    @property
    def synthetic_share(self) -> float:
        """Share of synthetic pairs in a batch: what files and replay leave."""
        return round(1 - self.files.share - self.replay.share, 9)

    @property
    def pairs_per_step(self) -> int:
        """Pairs that make one update."""
        return self.batch_size * self.micro_batches

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def size_px(self) -> int:
        """Side of the square training images."""
        return self.files.size_px if self.files.share > 0 else self.data.size_px

    @property
    def phase_has_pke(self) -> bool:
        return get_phase(self.phase).pke

    @property
    def losses(self) -> list[Loss]:
        """What counts in this run, with its weights."""
        return weighted_losses(self.phase, self.weights)

    def strength(self, step: int) -> float:
        """How wide the random transforms are at a step, in [0, 1]."""
        if self.curriculum_steps == 0:
            return 1.0
        return min(1.0, self.curriculum_start + (1 - self.curriculum_start) * step / self.curriculum_steps)

    def shortfalls(self) -> list[str]:
        """Why this run is a try rather than a training, in words; empty for a training. No later phase builds on a try
        of another name."""
        found = []
        if self.total_steps < MIN_STEPS:
            found.append(f"{self.total_steps} steps (a training has {MIN_STEPS} or more)")
        if self.size_px < MIN_SIZE_PX:
            found.append(f"images of {self.size_px} px ({MIN_SIZE_PX} or more)")
        if self.files.share == 0 and self.pool_size < MIN_POOL:
            found.append(f"{self.pool_size} synthetic retinas ({MIN_POOL} or more)")
        if f"/{STAND_IN}/" in self.init_from.replace("\\", "/"):
            found.append("begun from a stand-in for the phase before")
        if self.built_on_try:
            found.append("begun from a try")
        return found
