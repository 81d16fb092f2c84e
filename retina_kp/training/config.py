"""`TrainConfig`: everything that decides the outcome of a training run, and the recipes: one of it per phase.

The notebooks 01 to 04 and `make train-lite` read the same recipes.

`try`       shows in a minute on a CPU what a phase does; nothing is learned that one would use
`lite`      trained the shipped weights: phases 1 to 3 on synthetic retinas
`finetune`  goes on from the shipped weights with one's own folders, on a CPU too
`full`      the paper's network at 768 px, for a GPU
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from ..data.augment import FrameRange
from ..data.training_files import FileOptions
from ..synthetic.render import DEEP_OCTA
from ..synthetic.training_pairs import CACHE_PX, SyntheticOptions
from .descriptor_losses import DESCRIPTOR_LOSSES
from .losses import PHASES, Loss, get_phase, pick, weighted_losses
from .pke import PkeOptions

PRECISIONS = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}  # ours, and as accelerate calls them
MIN_STEPS, MIN_SIZE_PX, MIN_POOL = 200, 192, 40  # a run below any of these is a try
STAND_IN = "stand_in"  # folder of weights that were trained in place of a phase that was skipped


@dataclass(frozen=True)
class TrainConfig:
    """One run of one phase, whatever its device and processes. ValueError names a field that cannot be."""

    phase: str = "warmup"
    recipe: str = ""  # from which this was made
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
    pool_seed: int = 0  # which retinas; phases that share it share the pool
    data: SyntheticOptions = SyntheticOptions()  # synthetic pairs: all that files and replay leave of a batch
    files: FileOptions = FileOptions()  # what the run is about, where files.share > 0
    replay: FileOptions = FileOptions()  # what must not be forgotten meanwhile: the generated set in phase 4
    pke: PkeOptions = PkeOptions()
    validation_pairs: int = 24  # of each source, at most

    def __post_init__(self):
        weighted_losses(self.phase, self.weights)
        pick("precision", PRECISIONS, self.precision)
        pick("descriptor_loss", DESCRIPTOR_LOSSES, self.descriptor_loss)
        for name in ("epochs", "steps_per_epoch", "batch_size", "micro_batches", "pool_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: takes a whole number from 1, not {getattr(self, name)!r}")
        if self.phase_has_pke and self.synthetic_share > 0 and not self.data.frames_per_retina:
            words = "needs data.frames_per_retina of 1 or more: PKE has to see each sample again"
            raise ValueError(f"phase {self.phase!r} {words}")
        self._check_mix()

    def _check_mix(self) -> None:
        """Every source of a batch has images of one size, and is in every update."""
        files, replay = self.files, self.replay
        shares = {"files.share": files.share, "replay.share": replay.share, "synthetic pairs": self.synthetic_share}
        mixed = {name: share for name, share in shares.items() if share > 0}
        if self.synthetic_share < 0:
            raise ValueError(f"files.share {files.share:g} and replay.share {replay.share:g} add up to more than 1")
        if replay.root and not files.share:
            raise ValueError("replay.root: replay stands beside files, so give files.root and files.share as well")
        sizes = {self.data.size_px} | {o.size_px for o in (files, replay) if o.share > 0}
        if len(mixed) > 1 and len(sizes) > 1:
            told = f"files.size_px, replay.size_px and data.size_px {sorted(sizes)}"
            raise ValueError(f"{told} must be equal: they are in one batch")
        rarest = min(mixed, key=mixed.get)
        if self.pairs_per_step * mixed[rarest] < 1 - 1e-9:
            words = f"{mixed[rarest]:g} of {self.pairs_per_step} pairs leaves updates without one kind of pair"
            advice = f"let batch_size · micro_batches be {math.ceil(1 / mixed[rarest] - 1e-9)} or more"
            raise ValueError(f"{rarest}: {words}, and replay must be in each; {advice}")

    @property
    def synthetic_share(self) -> float:
        """Share of synthetic pairs in a batch: what files and replay leave."""
        return round(1 - self.files.share - self.replay.share, 9)

    @property
    def pairs_per_step(self) -> int:
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
        return weighted_losses(self.phase, self.weights)

    def own_batches(self, processes: int) -> int:
        """How many micro-batches of a step each of several processes takes; ValueError where they cannot share."""
        if self.micro_batches % processes:
            words = f"{self.micro_batches} cannot be shared out among {processes} processes; take a multiple"
            raise ValueError(f"micro_batches: {words}")
        return self.micro_batches // processes

    def strength(self, step: int) -> float:
        """How wide the random transforms are at a step, in [0, 1]."""
        if self.curriculum_steps == 0:
            return 1.0
        return min(1.0, self.curriculum_start + (1 - self.curriculum_start) * step / self.curriculum_steps)

    def shortfalls(self) -> list[str]:
        """Why this run is a try, on which no later phase builds, in words; empty for a training."""
        few = not self.files.share and self.pool_size < MIN_POOL
        told = {
            f"{self.total_steps} steps (a training has {MIN_STEPS} or more)": self.total_steps < MIN_STEPS,
            f"images of {self.size_px} px ({MIN_SIZE_PX} or more)": self.size_px < MIN_SIZE_PX,
            f"{self.pool_size} synthetic retinas ({MIN_POOL} or more)": few,
            "begun from a stand-in for the phase before": f"/{STAND_IN}/" in self.init_from.replace("\\", "/"),
            "begun from a try": self.built_on_try,
        }
        return [words for words, is_so in told.items() if is_so]


# ------------------------------------------------------------------ recipes

# Fields from a small OCT square to a wide camera; of vessels sometimes only the projection artefacts
SYNTHETIC = SyntheticOptions(field_deg=(14.0, 60.0), moving=("FA", "FA", "OCT", "OCTA", "OCTA", DEEP_OCTA))
RATES = {"lite": 1e-3, "superretina": 1e-4}  # the highest that a network takes from nothing; the second is its authors'
CAREFUL_RATE = 1e-4  # of a network that nobody has measured
REAL_SHARE = 0.8  # of phase 4's batches
FRAMES = 4  # parts of a pair of files that PKE keeps apart


def rate_of(network: str) -> float:
    """The learning rate to begin a network with from nothing."""
    return RATES.get(network, CAREFUL_RATE)


def sized(data: SyntheticOptions, size_px: int) -> SyntheticOptions:
    """The same pairs on other squares. They show what those of 256 px do; small ones less, or vessels would vanish."""
    scale = max(size_px / SyntheticOptions().size_px, 0.8)
    low, high = (zoom * scale for zoom in SyntheticOptions().zoom)
    return replace(data, size_px=size_px, zoom=(low, min(high, max(1.5, 2 * low))))


def framed(size_px: int, pke: bool) -> FrameRange:
    """Which parts of files are shown on squares: from all of a picture to what fills them where it measures CACHE_PX,
    at any turn. With PKE one of FRAMES parts of each pair, for it has to see them again."""
    return FrameRange((0.95, max(CACHE_PX / size_px, 1.25)), 180.0, FRAMES if pke else 0)


def _seen_again(size_px: int, **changes) -> SyntheticOptions:
    """Synthetic pairs for PKE, which has to see each sample again."""
    return replace(sized(SYNTHETIC, size_px), **{"frames_per_retina": 1} | changes)


_EASY = PkeOptions(0.2, 0.2)  # clicked points leave the detector less sure
_FALL = {"learning_rate": 1e-4, "final_rate_ratio": 0.1}
_LITE = TrainConfig(steps_per_epoch=250, pool_size=1200, validation_pairs=48, precision="bf16", extra_points=192)
_LITE = replace(_LITE, data=SYNTHETIC)
_TUNE = replace(_LITE, init_from="lite", steps_per_epoch=100, validation_pairs=24, **_FALL)
_FULL = replace(_LITE, network="superretina", steps_per_epoch=500, batch_size=5, pool_size=600, rise_steps=250, **_FALL)
_FULL = replace(_FULL, data=sized(SYNTHETIC, 768))
_TRY = replace(_LITE, steps_per_epoch=5, batch_size=4, pool_size=4, validation_pairs=6, precision="fp32", rise_steps=3)
_TRY = replace(_TRY, data=sized(SYNTHETIC, 160), learning_rate=3e-4, final_rate_ratio=0.1)
_GROW = {"seed": 2, "pool_size": 300, "data": replace(SYNTHETIC, frames_per_retina=2)}
_REAL = {"epochs": 3, "steps_per_epoch": 100, "batch_size": 5, "seed": 3, "pool_size": 300, "validation_pairs": 12}
_REAL |= {"data": _seen_again(384), "pke": _EASY, **_FALL}
# The base of each recipe, and what its phases change
_CHANGES = {
    "lite": (
        _LITE,
        {"epochs": 2, "curriculum_steps": 500},
        {"epochs": 44, "seed": 1, "rise_steps": 250, "final_rate_ratio": 0.03},
        {"epochs": 4, "learning_rate": 3e-4, "final_rate_ratio": 0.02, **_GROW},
        _REAL,
    ),
    "finetune": (_TUNE, {"epochs": 2}, {"epochs": 3, "seed": 1, "learning_rate": 3e-4}, {"epochs": 2, **_GROW}, _REAL),
    "full": (
        _FULL,
        {"epochs": 20, "final_rate_ratio": 1.0, "curriculum_steps": 500},
        {"epochs": 20, "seed": 1},
        {"epochs": 60, "seed": 2, "learning_rate": 5e-5, "data": _seen_again(768)},
        {"epochs": 40, "seed": 3, "learning_rate": 3e-5, "data": _seen_again(768), "pke": _EASY},
    ),
    "try": (
        _TRY,
        {"epochs": 3, "learning_rate": 2e-3, "final_rate_ratio": 1.0},
        {"epochs": 3},
        # Half of the junctions are hidden, so that PKE has something to find
        {"epochs": 4, "data": _seen_again(160, annotated_share=0.5), "pke": _EASY},
        {"epochs": 3, "batch_size": 5, "data": _seen_again(160), "pke": _EASY},
    ),
}
RECIPES: dict[str, dict[str, TrainConfig]] = {
    name: {p: replace(base, recipe=name, phase=p, **change) for p, change in zip(PHASES, changes, strict=True)}
    for name, (base, *changes) in _CHANGES.items()
}

_BABY = ("RetCam", "RetCam")
_RARER = (_BABY,) * 4 + (("RetCam", "FA"), ("UWF", "FA"), ("UWF", "UWF"), ("SLO", "CF"), ("IR", "SLO"), ("FAF", "CF"))
_ROUND = replace(SYNTHETIC, round_share=0.5, looks=_RARER, looks_share=0.5)
_ROUND = replace(_ROUND, growth=replace(_ROUND.growth, laser_probability=0.12))
# What weights see last before they are shipped: round eyes and rarer looks, as in phase 2
ROUNDED = replace(
    RECIPES["finetune"]["geometric"],
    **{"recipe": "lite", "init_from": "", "epochs": 12, "final_rate_ratio": 0.03, "rise_steps": 30, "data": _ROUND},
    **{"seed": 21, "pool_seed": 21, "pool_size": 400, "validation_pairs": 6},
)


def get_recipe(name: str) -> dict[str, TrainConfig]:
    """A configuration per phase; ValueError lists the names."""
    return pick("recipe", RECIPES, name)
