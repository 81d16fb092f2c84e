"""``make demo``: draw sample pairs, register them with the shipped weights on the CPU through notebook 07, and say
where the report is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..core.files import project_root
from ..core.images import read_image, write_image
from ..data.layouts.pairs_csv import write_pairs_csv
from ..data.records import PairRecord
from ..evaluation.jobs import find_jobs, run_job
from ..registration.registrar import Registrar
from ..synthetic.pairs import PairOptions, draw_pair, write_aligned_folder
from .report import run_notebook

# (index, modality) of synthetic pairs that are turned by 54°, -106°, 179° and 68°
SAMPLES = ((3, "FA"), (10, "OCT"), (5, "OCTA"), (9, "FA"))
SAMPLE_SEED = 2026


def write_samples(folder: str | Path, size_px: int = 768) -> Path:
    """Draw the sample pairs into a folder with a pairs.csv that knows the truth; returns the csv. Existing files are
    replaced."""
    folder, records = Path(folder), []
    for index, modality in SAMPLES:
        pair = draw_pair(SAMPLE_SEED, index, ("CF", modality), PairOptions(size_px=size_px))
        name = f"sample-{index}-cf-{modality.lower()}"
        files = {side: folder / f"{name}_{side}.png" for side in ("fixed", "moving")}
        write_image(files["fixed"], pair.fixed)
        write_image(files["moving"], pair.moving)
        records.append(PairRecord(name, name, "CF", modality, files["fixed"], files["moving"], H_0to1=pair.H_0to1))
    write_pairs_csv(folder / "pairs.csv", records)
    return folder / "pairs.csv"


def draw_overview(table: str | Path, picture: str | Path) -> None:
    """The README's picture: fixed, moving and both in one frame, one row per pair of a pairs.csv."""
    from ..viz.registrations import image_grid

    registrar, images, titles = Registrar.from_pretrained("lite", device="cpu"), [], []
    for job in find_jobs(table)[:3]:
        outcome = run_job(registrar, job)
        fixed, moving = read_image(job.fixed), read_image(job.moving)
        images += [fixed, moving, outcome.result.overlay(fixed, moving)]
        row = outcome.row()
        titles += [
            "CF, fixed",
            f"{job.record.modality1}, moving",
            f"turned {row['turn_deg']:.0f}°, error {row['mean_error_px']} px",
        ]
    image_grid(images, titles, columns=3).savefig(picture, dpi=70)


def draw_gallery(picture: str | Path, retinas: int = 4, size_px: int = 384) -> None:
    """A look at the renderer: every row is one retina, seen by the four modalities without any tilt or turn between
    them."""
    import tempfile

    from ..viz.registrations import image_grid

    with tempfile.TemporaryDirectory() as folder:
        root = write_aligned_folder(folder, retinas, seed=SAMPLE_SEED, size_px=size_px)
        names = [("cf", "CF"), ("fa", "FA"), ("oct", "OCT"), ("octa", "OCTA, macula")]
        images = [read_image(root / f"{i}_N" / f"{i}_N_{n}.png") for i in range(1, retinas + 1) for n, _ in names]
        image_grid(images, [title for _ in range(retinas) for _, title in names], columns=4).savefig(picture, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--picture", default="", help="only draw the overview picture into this file")
    parser.add_argument("--gallery", default="", help="only draw a gallery of rendered retinas into this file")
    args = parser.parse_args()
    if args.gallery:
        return draw_gallery(args.gallery)
    table = write_samples(project_root() / "data" / "demo")
    if args.picture:
        return draw_overview(table, args.picture)
    print(f"Registering {len(SAMPLES)} synthetic pairs on the CPU ...", flush=True)
    run = run_notebook("07_register", {"fixed": str(table), "device": "cpu", "run_name": "demo"})
    for row in json.loads(run.html.with_name("metrics.json").read_text(encoding="utf-8"))["pairs"]:
        found = (
            "refused"
            if row["turn_deg"] is None
            else f"turned {row['turn_deg']:6.1f}°  mean corner error {row['mean_error_px']} px"
        )
        print(f"  {row['pair']:20s} {row['status']:4s} confidence {row['confidence']:.2f}  {found}")
    print(f"Report, after {run.seconds:.0f} s: {run.html}")


if __name__ == "__main__":
    main()
