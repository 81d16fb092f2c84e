"""The demo: make sample pairs, register them on the CPU through notebook 07, and say where the report is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..core.files import project_root, read_json
from ..core.images import read_image, write_image
from ..data.layouts.pairs_csv import write_pairs_csv
from ..data.records import PairRecord
from ..evaluation.batch import find_jobs, run_job
from ..registration.registrar import Registrar
from ..synthetic.pairs import draw_pair
from ..viz.registrations import image_grid
from .report import run_notebook

# (index, modality) of synthetic pairs that are turned by 54°, -106°, 179° and 68°
SAMPLES = ((3, "FA"), (10, "OCT"), (5, "OCTA"), (9, "FA"))
SAMPLE_SEED = 2026


def write_samples(folder: str | Path) -> Path:
    """Write the sample pairs and a pairs.csv that knows their truth; returns the csv. Existing files are replaced."""
    folder, records = Path(folder), []
    for index, modality in SAMPLES:
        pair = draw_pair(SAMPLE_SEED, index, ("CF", modality))
        name = f"sample-{index}-cf-{modality.lower()}"
        fixed, moving = (folder / f"{name}_{side}.png" for side in ("fixed", "moving"))
        write_image(fixed, pair.fixed)
        write_image(moving, pair.moving)
        records.append(PairRecord(name, name, "CF", modality, fixed, moving, H_0to1=pair.H_0to1))
    write_pairs_csv(folder / "pairs.csv", records)
    return folder / "pairs.csv"


def run_demo(tell: Callable[[str], None] = print) -> Path:
    """Register the sample pairs; returns the report."""
    table = write_samples(project_root() / "data" / "demo")
    tell(f"Registering {len(SAMPLES)} synthetic pairs on the CPU ...")
    run = run_notebook("07_register", {"fixed": str(table), "device": "cpu", "run_name": "demo"})
    for row in read_json(run.html.with_name("metrics.json"))["pairs"]:
        found = "refused"
        if row["turn_deg"] is not None:
            found = f"turned {row['turn_deg']:6.1f}°  mean corner error {row['mean_error_px']} px"
        tell(f"  {row['pair']:20s} {row['status']:4s} confidence {row['confidence']:.2f}  {found}")
    tell(f"Report, after {run.seconds:.0f} s: {run.html}")
    return run.html


def draw_overview(picture: str | Path) -> None:
    """The README's picture: fixed, moving and both in one frame, one row per sample pair."""
    registrar, images, titles = Registrar.from_pretrained("lite", device="cpu"), [], []
    for job in find_jobs(write_samples(project_root() / "data" / "demo"))[:3]:
        outcome = run_job(registrar, job)
        fixed, moving = read_image(job.fixed), read_image(job.moving)
        images += [fixed, moving, outcome.result.overlay(fixed, moving)]
        row = outcome.row()
        turned = f"turned {row['turn_deg']:.0f}°, error {row['mean_error_px']} px"
        titles += ["CF, fixed", f"{job.record.modality1}, moving", turned]
    image_grid(images, titles, columns=3).savefig(picture, dpi=70)
