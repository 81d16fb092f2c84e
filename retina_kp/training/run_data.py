"""What a run trains on, and what it is validated on: its files, replayed files and synthetic pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..core.config import differences, to_dict
from ..data.file_pairs import PairDataset
from ..data.sources import MixedPairs
from ..data.training_files import FileOptions, FileSplit, load_files
from ..synthetic.training_pairs import SyntheticPairs
from .config import TrainConfig
from .phases import get_phase
from .validation import ValidationSet

FREE_ON_RESUME = ("batch_size", "micro_batches")  # what may change, as long as a step holds as many pairs
MAIN, REPLAY = "", "replay_"  # prefixes of validation figures: what the run is about, and what it must not forget


@dataclass(frozen=True)
class RunFiles:
    """What was read of `TrainConfig.files` and `TrainConfig.replay`; files without a share are not read, replay without
    one validates."""

    files: FileSplit
    replay: FileSplit

    @classmethod
    def of(cls, config: TrainConfig) -> RunFiles:
        """Read both folders; errors as `load_files`."""
        own, replay = config.files, config.replay
        return cls(
            load_files(own) if own.share > 0 else FileSplit(), load_files(replay) if replay.root else FileSplit()
        )

    @property
    def ids(self) -> dict[str, dict[str, list[str]]]:
        return {"files": self.files.ids, "replay": self.replay.ids}

    def changes(self, before: dict[str, dict[str, list[str]]]) -> str:
        """How these files differ from earlier `ids`, in words; "" when they do not."""
        told = ((name, getattr(self, name).changes(before[name])) for name in ("files", "replay"))
        return "; ".join(f"{name}: {words}" for name, words in told if words)

    def check_same(self, path: Path, state: dict, config: TrainConfig) -> None:
        """ValueError unless a run's state is of this configuration and of these files. The pairs of a step may be split
        up otherwise."""
        old, new = dict(state["config"]), to_dict(config)
        if old["batch_size"] * old["micro_batches"] == config.pairs_per_step:
            old |= {key: new[key] for key in FREE_ON_RESUME}
        if differing := differences(old, new):
            advice = "Use another run folder, or the old settings"
            if any(line.startswith(FREE_ON_RESUME) for line in differing):
                advice += " (batch_size may change where micro_batches makes up for it)"
            raise ValueError(f"{path} belongs to another configuration: {'; '.join(differing)}. {advice}")
        if changed := self.changes(state["pairs"]):
            words = "Use another run folder, or the old files"
            raise ValueError(f"{path}: the pairs have changed since ({changed}). {words}")

    def source(self, config: TrainConfig):
        """The run's batches: files, replayed files and synthetic pairs, each by its share."""
        both = ((config.files, self.files), (config.replay, self.replay))
        parts = [(_pairs(o, split, config.seed), o.share) for o, split in both if split.train and o.share]
        if config.synthetic_share > 0:
            drawn = SyntheticPairs(config.seed, config.pool_size, config.data, config.pool_seed)
            parts.append((drawn, config.synthetic_share))
        return parts[0][0] if len(parts) == 1 else MixedPairs(*parts)

    def validation_sets(self, config: TrainConfig) -> dict[str, ValidationSet]:
        """By the prefix of their figures: what the run is about, and beside files what it must not forget."""
        count, mining = config.validation_pairs, config.pke if config.phase_has_pke else None
        drawn = partial(ValidationSet.synthetic, count, config.data, mining=mining)

        def of(o: FileOptions, split: FileSplit) -> ValidationSet:
            return ValidationSet.of_files(split.some_validation(count, o.split_seed), o, count, mining=mining)

        if not config.files.share:
            return {MAIN: drawn()}
        sets = {MAIN: of(config.files, self.files)}
        if config.replay.root:
            sets[REPLAY] = of(config.replay, self.replay)
        elif config.synthetic_share or get_phase(config.phase).real:
            sets[REPLAY] = drawn()
        return sets


def trained_on(config: TrainConfig) -> tuple[str, ...]:
    """Prefixes of the validation sets whose kind of pairs is in the batches: what guards a run is what it trains on."""
    return (MAIN, REPLAY) if 0 < config.files.share < 1 else (MAIN,)


def _pairs(o: FileOptions, split: FileSplit, seed: int) -> PairDataset:
    return PairDataset(split.train, o.size_px, o.ranges, o.appearance, seed, o.prealign, frames=o.frames)
