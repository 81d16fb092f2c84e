"""What each ingredient of registration brings, measured by leaving it out or putting another in its place.

python -m retina_kp.studies.ladder                                     the shipped weights
python -m retina_kp.studies.ladder --trained outputs/runs/train-lite   beside them each stage of their training
python -m retina_kp.studies.ladder --only "model: affine,accuracy"      some variants, beside the whole
python -m retina_kp.studies.ladder --ingredients                       short trainings instead; takes hours

Success is that of the best transform, refused or not: the confidence, which guides the search, is calibrated for the
whole alone, and every variant uses that calibration. A second call continues.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..cli.train import train_phase
from ..core.compute import code_version, from_one, worker_pool
from ..core.files import write_csv
from ..core.geometry import TransformRange
from ..evaluation.benchmark import TABLES
from ..evaluation.methods import Method
from ..evaluation.metrics import RIGHT_PX
from ..evaluation.pairs import MOVING, Seen, synthetic_pairs
from ..evaluation.runner import measure
from ..evaluation.summary import as_text
from ..mapping.result import Registration
from ..mapping.transforms import MODELS
from ..networks.checkpoints import find_weights, read_metadata, weights_sha256
from ..registration.closeup import Candidate
from ..registration.confidence import checked
from ..registration.registrar import Registrar
from ..synthetic.pairs import CLINICAL
from ..synthetic.render import DEEP_OCTA
from ..training.config import RECIPES, SYNTHETIC

SETS = {"usual": (TABLES["usual"], (*MOVING, DEEP_OCTA))} | {name: (TABLES[name], MOVING) for name in ("wide", "round")}
LADDER_SEED = 77_050  # of pairs that nothing was trained, calibrated or tuned on


@dataclass(frozen=True)
class Variant(Method):
    """One way to register, as the runner takes it. turned: what is turned to try a turn, descriptors or, as with
    weights that hold no steerers, pictures; accuracy: what the last pixels come from."""

    name: str
    weights: str = "lite"
    turned: str = "descriptors"  # or "pictures"
    accuracy: str = "maps"  # or "first window", without the finer one, or "close matches", or "search"
    options: dict = field(default_factory=dict)
    calibration: dict | None = None
    ours = True

    def fingerprint(self) -> str:
        return json.dumps([asdict(self), weights_sha256(self.weights), inspect.getsource(VariantRegistrar)])

    def prepare(self) -> None:
        _registrar(json.dumps(asdict(self)))

    def answer(self, seen: Seen) -> tuple[Registration, dict]:
        return _registrar(json.dumps(asdict(self)))(seen.fixed, seen.moving), {}


@lru_cache(maxsize=32)
def _registrar(variant: str) -> VariantRegistrar:
    """One per process."""
    return VariantRegistrar.standing_on(Variant(**json.loads(variant)))


FULL_SIZE = {"coarse": 1.0, "search_threshold_px": 10.0}  # the threshold stays what it is in base px
BRUTE = FULL_SIZE | {"promising_strength": 1e9}
VARIANTS = (
    Variant("search: as the images lie", options={"stages": 0}),
    Variant("search: every turn, no ratio of scale", options={"stages": 1}),
    Variant("search: every turn, one ratio of scale", options={"stages": 2}),
    Variant("search: pictures turned instead of descriptors", turned="pictures"),
    Variant("search: never ends early", options={"promising_strength": 1e9}),
    Variant("search: pictures of full size", options=FULL_SIZE),
    Variant("search: brute force, every turn and scale drawn at full size", turned="pictures", options=BRUTE),
    Variant("search: smaller pictures", options={"coarse": 0.45, "search_threshold_px": 4.5}),
    Variant("close-up: smaller", options={"close_px": 400.0}),
    Variant("close-up: second start only for want of a first", options={"clear_share": 0.0}),
    Variant("accuracy: of the search", accuracy="search"),
    Variant("accuracy: of close matches", accuracy="close matches"),
    Variant("accuracy: of the maps in the first window", accuracy="first window"),
    *(Variant(f"model: {name}", options={"model": name}) for name in (*MODELS, "elastic")),
)
WHOLE = Variant("all, as shipped")
SHORT = replace(
    RECIPES["lite"]["geometric"],
    **{"epochs": 4, "seed": 5, "pool_size": 400, "pool_seed": 2, "validation_pairs": 24},
    **{"curriculum_steps": 500, "rise_steps": 50},
)
INGREDIENTS = {
    "short training": SHORT,
    "short training, no curriculum": replace(SHORT, curriculum_steps=0),
    "short training, clean pictures": replace(SHORT, data=replace(SYNTHETIC, appearance=CLINICAL)),
    "short training, no projection artefacts": replace(
        SHORT, data=replace(SYNTHETIC, moving=("FA", "FA", "OCT", "OCTA", "OCTA"))
    ),
    "short training, turns up to 10°": replace(
        SHORT, data=replace(SYNTHETIC, relative=TransformRange(rotation_deg=10.0))
    ),
    "short training, descriptors at junctions alone": replace(SHORT, extra_points=0),
    "short training, moving detector without labels": replace(SHORT, weights={"loss_mov": 0.0}),
    "short training, 40 retinas": replace(SHORT, pool_size=40),
}


class VariantRegistrar(Registrar):
    """A `Registrar` that leaves out what its variant leaves out."""

    variant = WHOLE

    @classmethod
    def standing_on(cls, variant: Variant) -> VariantRegistrar:
        """With the weights and options of a variant."""
        registrar = cls.from_pretrained(variant.weights, device="cpu", **variant.options)
        registrar.variant, registrar.steerers = variant, registrar.steerers if variant.turned == "descriptors" else None
        registrar.levels = registrar.levels[: {"maps": None, "first window": 1}.get(variant.accuracy, 0)]
        registrar.calibration = checked(variant.calibration or registrar.calibration)
        return registrar

    def look_closely(self, views0, views1, hypothesis) -> Candidate | None:
        candidate = super().look_closely(views0, views1, hypothesis)
        if candidate is None or self.variant.accuracy != "search":
            return candidate
        H = np.linalg.inv(views0.base_from_original) @ hypothesis.H @ views1.base_from_original
        return replace(candidate, result=replace(candidate.result, H_1to0=H, H_tried=H))

    def polish(self, views0, views1, best: Candidate) -> Candidate:
        return best if self.variant.accuracy == "search" else super().polish(views0, views1, best)

    def refine(self, fit, *rest):
        refined, correlation = super().refine(fit, *rest)
        on_maps = self.variant.accuracy in ("maps", "first window")
        return (refined if on_maps else fit), correlation


def measure_variants(
    chosen: Sequence[Variant], pairs: int, folder: Path, calibration: dict | None, processes: int = 1
) -> pd.DataFrame:
    """The table: one row per variant, over ``pairs`` synthetic pairs of each kind and set. Share of all pairs within
    RIGHT_PX and 2 px; seconds: median, on one thread of PyTorch's. What is measured is kept in ``folder``."""
    sets = [(options, kinds, ("set", name)) for name, (options, kinds) in SETS.items()]
    drawn = [pair for one in sets for pair in synthetic_pairs(LADDER_SEED, pairs, *one)]
    methods = [replace(variant, calibration=calibration) for variant in chosen]
    rows, table = measure(drawn, methods, folder, processes), []
    for name, own in rows.groupby("method", sort=False):
        line = {"variant": name}
        for group, part in own.groupby("bin", sort=False):
            right = (part.tried_px <= RIGHT_PX).groupby(part.kind, sort=False).mean().round(3)
            line |= {f"{group} {kind}": share for kind, share in right.items()}
            line[f"{group} ≤ 2 px"] = round(float((part.tried_px <= 2).mean()), 3)
            line[f"{group} s"] = round(float(part.seconds.median()), 2)
        table.append(line)
    return pd.DataFrame(table)


def train_ingredient(name: str, folder: Path) -> Variant:
    """One of INGREDIENTS, trained to its end, from wherever an earlier call of the same code was interrupted."""
    run_dir = folder / f"trained by {code_version()[:10]}" / name
    return Variant(name, str(train_phase(INGREDIENTS[name], run_dir, "cpu")), turned="pictures")


def variants(trained: str | Path = "", weights: str = "lite") -> list[Variant]:
    """All variants with these weights; first, with the run folder of a recipe, the checkpoint that each of its phases
    has reached."""
    stages = sorted(Path(trained).glob("*/checkpoint.safetensors")) if trained else []
    if trained and not stages:
        raise ValueError(f"{trained} holds no <phase>/checkpoint.safetensors; name the run folder of a recipe")
    after = [Variant(f"weights: after {path.parent.name}", str(path), turned="pictures") for path in stages]
    return after + [replace(variant, weights=weights) for variant in (*VARIANTS, WHOLE)]


def named(variant: Variant, only: str) -> bool:
    """Whether a variant's name has one of the parts that ``only`` lists between commas; "" lists them all."""
    return not only or any(part.strip() in variant.name for part in only.split(","))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="lite", help="a shipped name or a checkpoint")
    parser.add_argument("--trained", default="", help="run folder of their recipe")
    parser.add_argument("--only", default="", help="parts of names of variants, between commas")
    parser.add_argument("--ingredients", action="store_true", help="train and measure INGREDIENTS, and nothing else")
    parser.add_argument("--pairs", type=from_one, default=32, help="of each kind and set")
    parser.add_argument("--processes", type=from_one, default=2)
    parser.add_argument("--folder", type=Path, default=Path("outputs/ladder"))
    args = parser.parse_args(argv)
    try:
        chosen = [v for v in variants(args.trained, args.weights) if v.name == WHOLE.name or named(v, args.only)]
        calibration = read_metadata(find_weights(args.weights)).get("calibration")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    if args.ingredients:
        with worker_pool(args.processes) as pool:
            chosen = list(pool.map(train_ingredient, INGREDIENTS, [args.folder] * len(INGREDIENTS)))
    table = measure_variants(chosen, args.pairs, args.folder, calibration, args.processes)
    write_csv(args.folder / ("ingredients.csv" if args.ingredients else "ladder.csv"), table)
    print(as_text(table))


if __name__ == "__main__":
    main()
