"""How networks are trained: one configuration per phase. The notebooks 01 to 04 and `make train-lite` read the same
ones.

`try`       shows in a minute on a CPU what a phase does; nothing is learned that one would use
`lite`      trained the shipped weights: phases 1 to 3 on synthetic retinas
`finetune`  goes on from the shipped weights with one's own folders, on a CPU too
`full`      the paper's network at 768 px, for a GPU
"""

from __future__ import annotations

from dataclasses import replace

from ..data.augment import FrameRange
from ..synthetic.render import DEEP_OCTA
from ..synthetic.training_pairs import CACHE_PX, SyntheticOptions
from .config import TrainConfig
from .pke import PkeOptions

# Fields from a small OCT square to a wide camera; of vessels sometimes only the projection artefacts
DRAWN = SyntheticOptions(field_deg=(14.0, 60.0), moving=("FA", "FA", "OCT", "OCTA", "OCTA", DEEP_OCTA))
# the highest that a network takes from nothing; superretina's is its authors'
RATES = {"lite": 1e-3, "superretina": 1e-4}
REAL_SHARE = 0.8  # of phase 4's batches
FRAMES = 4  # parts of a pair of files that PKE keeps apart


def sized(data: SyntheticOptions, size_px: int) -> SyntheticOptions:
    """The same pairs on other squares. They show of a synthetic retina what those of 256 px do; small ones less
    (vessels would vanish), large ones no blurred small parts."""
    scale = max(size_px / SyntheticOptions().size_px, 0.8)
    low, high = (zoom * scale for zoom in SyntheticOptions().zoom)
    return replace(data, size_px=size_px, zoom=(low, min(high, max(1.5, 2 * low))))


def framed(size_px: int, pke: bool) -> FrameRange:
    """Which parts of files are shown on squares of size_px: from all of a picture to what fills them when it measures
    CACHE_PX; any turn. With PKE one of FRAMES parts of each pair, for it has to see them again."""
    return FrameRange((0.95, max(CACHE_PX / size_px, 1.25)), 180.0, FRAMES if pke else 0)


_LITE = TrainConfig(
    recipe="lite",
    steps_per_epoch=250,
    pool_size=1200,
    validation_pairs=48,
    precision="bf16",
    extra_points=192,
    data=DRAWN,
)
_TUNE = replace(
    _LITE,
    recipe="finetune",
    init_from="lite",
    steps_per_epoch=100,
    learning_rate=1e-4,
    final_rate_ratio=0.1,
    validation_pairs=24,
)
_FULL = replace(
    _LITE,
    recipe="full",
    network="superretina",
    steps_per_epoch=500,
    batch_size=5,
    pool_size=600,
    learning_rate=1e-4,
    final_rate_ratio=0.1,
    rise_steps=250,
    data=sized(DRAWN, 768),
)
_TRY = replace(
    _LITE,
    recipe="try",
    steps_per_epoch=5,
    batch_size=4,
    pool_size=4,
    validation_pairs=6,
    precision="fp32",
    learning_rate=3e-4,
    final_rate_ratio=0.1,
    rise_steps=3,
    data=sized(DRAWN, 160),
)
_SURE = PkeOptions(candidate_min_probability=0.3, pke_min_probability=0.3)
# clicked points leave the detector less sure
_EASY = PkeOptions(candidate_min_probability=0.2, pke_min_probability=0.2)
_AGAIN = {"frames_per_retina": 1}  # PKE has to see each sample again

_REAL = replace(
    _LITE,
    phase="sim2real",
    epochs=3,
    steps_per_epoch=100,
    batch_size=5,
    seed=3,
    learning_rate=1e-4,
    final_rate_ratio=0.1,
    pool_size=300,
    validation_pairs=12,
    data=replace(sized(DRAWN, 384), **_AGAIN),
    pke=_EASY,
)

RECIPES: dict[str, dict[str, TrainConfig]] = {
    "lite": {
        "warmup": replace(_LITE, phase="warmup", epochs=2, curriculum_steps=500),
        "geometric": replace(_LITE, phase="geometric", epochs=44, seed=1, rise_steps=250, final_rate_ratio=0.03),
        "pke": replace(
            _LITE,
            phase="pke",
            epochs=4,
            seed=2,
            learning_rate=3e-4,
            final_rate_ratio=0.02,
            pool_size=300,
            data=replace(DRAWN, frames_per_retina=2),
            pke=_SURE,
        ),
        "sim2real": _REAL,
    },
    "finetune": {
        "warmup": replace(_TUNE, phase="warmup", epochs=2),
        "geometric": replace(_TUNE, phase="geometric", epochs=3, seed=1, learning_rate=3e-4),
        "pke": replace(
            _TUNE, phase="pke", epochs=2, seed=2, pool_size=300, data=replace(DRAWN, frames_per_retina=2), pke=_SURE
        ),
        "sim2real": replace(_REAL, recipe="finetune", init_from="lite"),
    },
    "full": {
        "warmup": replace(_FULL, phase="warmup", epochs=20, final_rate_ratio=1.0, curriculum_steps=500),
        "geometric": replace(_FULL, phase="geometric", epochs=20, seed=1),
        "pke": replace(
            _FULL, phase="pke", epochs=60, seed=2, learning_rate=5e-5, data=replace(_FULL.data, **_AGAIN), pke=_SURE
        ),
        "sim2real": replace(
            _FULL,
            phase="sim2real",
            epochs=40,
            seed=3,
            learning_rate=3e-5,
            data=replace(_FULL.data, **_AGAIN),
            pke=_EASY,
        ),
    },
    "try": {
        "warmup": replace(_TRY, phase="warmup", epochs=3, learning_rate=2e-3, final_rate_ratio=1.0),
        "geometric": replace(_TRY, phase="geometric", epochs=3),
        # Half of the junctions are hidden, so that PKE has something to find
        "pke": replace(_TRY, phase="pke", epochs=4, data=replace(_TRY.data, annotated_share=0.5, **_AGAIN), pke=_EASY),
        "sim2real": replace(
            _TRY, phase="sim2real", epochs=3, batch_size=5, data=replace(_TRY.data, **_AGAIN), pke=_EASY
        ),
    },
}


def get_recipe(name: str) -> dict[str, TrainConfig]:
    """A configuration per phase; ValueError lists the names."""
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
