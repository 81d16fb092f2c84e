"""``make demo``: draw sample pairs, register them with the shipped weights on the CPU through notebook 07, and say where the report is."""

from __future__ import annotations

import json
from pathlib import Path

from .images import write_image
from .records import PairRecord, write_pairs_csv
from .report import project_root, run_notebook
from .samples import PairOptions, draw_pair

# seed, index and modality of pairs whose relative turns are all well beyond 30°
SAMPLES = ((2026, 1, "FA"), (2026, 2, "OCT"), (2026, 4, "OCTA"), (2026, 7, "FA"))


def write_samples(folder: str | Path, size_px: int = 768) -> Path:
    """Draw the sample pairs into a folder with a pairs.csv that knows the truth; returns the csv. Existing files are drawn again."""
    folder, records = Path(folder), []
    for seed, index, modality in SAMPLES:
        pair = draw_pair(seed, index, ("CF", modality), PairOptions(size_px=size_px))
        name = f"sample-{index}-cf-{modality.lower()}"
        for side, image in (("fixed", pair.fixed), ("moving", pair.moving)):
            write_image(folder / f"{name}_{side}.png", image)
        records.append(PairRecord(name, name, "CF", modality, folder / f"{name}_fixed.png", folder / f"{name}_moving.png", H_0to1=pair.H_0to1))
    write_pairs_csv(folder / "pairs.csv", records)
    return folder / "pairs.csv"


def main() -> None:
    root = project_root()
    table = write_samples(root / "data" / "demo")
    run = run_notebook("07_register.ipynb", {"fixed": str(table), "run_name": "demo"}, root / "outputs" / "runs" / "07_register" / "demo")
    rows = json.loads((run.html.parent / "metrics.json").read_text(encoding="utf-8"))["pairs"]
    for row in rows:
        print(f"  {row['pair']:24s} {row['status']:8s} confidence {row['confidence']:.2f}  turned {row['turn_deg']}°  mean corner error {row['mean_error_px']} px")
    print(f"Report, {run.seconds:.0f} s: {run.html}")


if __name__ == "__main__":
    main()
