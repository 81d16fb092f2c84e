"""What each ingredient of registration brings, measured by leaving it out or putting another in its place.

python -m retina_kp.studies.ladder                                        the shipped weights
python -m retina_kp.studies.ladder --trained outputs/runs/train-lite      beside them what each stage of their training has reached
python -m retina_kp.studies.ladder --ingredients                          short trainings instead, each without one ingredient; hours

Success is that of the best transform, refused or not: the confidence, which guides the search, is calibrated for the
whole alone, and every variant uses that calibration. A second call continues.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..cli.train import train_phase
from ..core.compute import from_one, worker_pool
from ..core.files import write_csv, write_json
from ..core.geometry import TransformRange
from ..core.versions import code_version
from ..evaluation.trials import MOVING, RIGHT_PX, USUAL, WIDE, print_table, run_trials
from ..networks.checkpoints import find_weights, read_metadata, weights_sha256
from ..registration.closeup import Candidate
from ..registration.registrar import Registrar
from ..synthetic.pairs import CLINICAL
from ..synthetic.render import DEEP_OCTA
from ..training.config import RECIPES, SYNTHETIC

SETS = {"usual": (USUAL, (*MOVING, DEEP_OCTA)), "wide": (WIDE, MOVING)}
LADDER_SEED = 77_050  # of pairs that nothing was trained, calibrated or tuned on


@dataclass(frozen=True)
class Variant:
    """One way to register. turned: what is turned to try a turn, descriptors or, as with weights that hold no steerers,
    pictures; accuracy: what the last pixels come from."""

    name: str
    weights: str = "lite"
    turned: str = "descriptors"  # or "pictures"
    accuracy: str = "maps"  # or "close matches", or "search"
    options: dict = field(default_factory=dict)


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
    *(Variant(f"model: {name}", options={"model": name}) for name in ("similarity", "homography", "quadratic", "auto")),
)
WHOLE = Variant("all, as shipped")
SHORT = replace(
    RECIPES["lite"]["geometric"],
    epochs=4,
    seed=5,
    pool_size=400,
    pool_seed=2,
    validation_pairs=24,
    curriculum_steps=500,
    rise_steps=50,
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
        return (refined if self.variant.accuracy == "maps" else fit), correlation


def measure(variant: Variant, pairs: int, folder: Path, calibration: dict | None) -> dict:
    """One row of the table: figures of a variant over ``pairs`` synthetic pairs of each kind and set, kept in
    ``folder``. Within 2 and RIGHT_PX px: share of all pairs; seconds: median, on one thread of PyTorch's."""
    weights = weights_sha256(variant.weights)
    belongs_to = {
        "variant": asdict(variant) | {"weights": weights},
        "pairs": pairs,
        "code": code_version(),
        "calibration": calibration,
    }
    kept = folder / f"{variant.name.replace(':', ',')}.json"
    if kept.is_file() and (found := json.loads(kept.read_text(encoding="utf-8")))["belongs_to"] == belongs_to:
        return found["row"]
    registrar, row = VariantRegistrar.standing_on(variant), {"variant": variant.name}
    registrar.calibration = calibration
    for name, (options, kinds) in SETS.items():
        trials = list(run_trials(registrar, LADDER_SEED, pairs, options, moving=kinds))
        error = np.array([t.would_be_px for t in trials])
        row |= {
            f"{name} {kind}": round(float(np.mean([t.would_be_px <= RIGHT_PX for t in trials if t.moving == kind])), 3)
            for kind in kinds
        }
        row |= {f"{name} ≤ 2 px": round(float((error <= 2).mean()), 3)}
        row |= {f"{name} s": round(float(np.median([t.seconds for t in trials])), 2)}
    write_json(kept, {"belongs_to": belongs_to, "row": row})
    return row


def train_and_measure(name: str, pairs: int, folder: Path, calibration: dict | None) -> dict:
    """The row of one of INGREDIENTS; it is trained to its end first, from wherever an earlier call of the same code was
    interrupted."""
    run_dir = folder / f"trained by {code_version()[:10]}" / name
    return measure(
        Variant(name, str(train_phase(INGREDIENTS[name], run_dir, "cpu")), turned="pictures"),
        pairs,
        folder,
        calibration,
    )


def variants(trained: str | Path = "", weights: str = "lite") -> list[Variant]:
    """All variants with these weights; first, with the run folder of a recipe, the checkpoint that each of its phases
    has reached."""
    stages = sorted(Path(trained).glob("*/checkpoint.safetensors")) if trained else []
    if trained and not stages:
        raise ValueError(
            f"{trained} holds no <phase>/checkpoint.safetensors; name the run folder of python -m retina_kp.cli.train lite"
        )
    after = [Variant(f"weights: after {path.parent.name}", str(path), turned="pictures") for path in stages]
    return after + [replace(variant, weights=weights) for variant in (*VARIANTS, WHOLE)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="lite", help="a shipped name or a checkpoint")
    parser.add_argument("--trained", default="", help="run folder of their recipe")
    parser.add_argument("--ingredients", action="store_true", help="train and measure INGREDIENTS, and nothing else")
    parser.add_argument("--pairs", type=from_one, default=32, help="of each kind and set")
    parser.add_argument("--processes", type=from_one, default=2)
    parser.add_argument("--folder", type=Path, default=Path("outputs/ladder"))
    args = parser.parse_args()
    try:
        chosen, calibration = (
            variants(args.trained, args.weights),
            read_metadata(find_weights(args.weights)).get("calibration"),
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    with worker_pool(args.processes) as pool:
        what, todo = (train_and_measure, INGREDIENTS) if args.ingredients else (measure, chosen)
        jobs = [pool.submit(what, one, args.pairs, args.folder, calibration) for one in todo]
        rows = []
        for job in jobs:
            rows.append(job.result())
            print(f"{len(rows)} of {len(jobs)}: {rows[-1]['variant']}", flush=True)
    write_csv(args.folder / ("ingredients.csv" if args.ingredients else "ladder.csv"), rows)
    print_table(rows)


if __name__ == "__main__":
    main()
