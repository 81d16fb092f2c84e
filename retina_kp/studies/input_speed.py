"""How fast training pairs are prepared, and what memory that takes: synthetic pairs, files, and half of each.

python -m retina_kp.studies.input_speed --root data/mine
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch

from ..core.compute import from_one, worker_pool
from ..core.geometry import TransformRange
from ..data.augment import AppearanceRange
from ..data.file_pairs import PairDataset
from ..data.sources import MixedPairs, stream, use_one_core
from ..data.training_files import FileOptions, load_files
from ..evaluation.summary import as_text
from ..evaluation.timing import peak_memory_gb
from ..synthetic.pairs import write_aligned_folder
from ..synthetic.training_pairs import SyntheticOptions, SyntheticPairs
from ..training.config import SYNTHETIC, framed, sized

POOL, CORES = 600, 8  # synthetic retinas; of the machine that the last column is computed for
PAIRS_PER_EYE = 3  # of `write_aligned_folder`, with a CF as fixed image


def sources(root: Path, size_px: int) -> dict:
    """What is measured, by name: sources as full-scale training has them, with pictures of size_px."""
    synthetic = SyntheticPairs(0, POOL, sized(SYNTHETIC, size_px))
    records = load_files(FileOptions(root=str(root), validation_share=0.0)).train
    files = PairDataset(records, size_px, TransformRange(), AppearanceRange(), frames=framed(size_px, pke=False))
    return {"synthetic": synthetic, "files": files, "mix": MixedPairs((files, 0.5), (synthetic, 0.5))}


def count_cost(source, batches: int, batch_size: int) -> dict[str, float]:
    """CPU seconds a pair on one thread, for pairs never seen before and for the same again; MB that memory grows. To be
    called in a new process."""
    torch.set_num_threads(1)
    use_one_core(0)
    SyntheticPairs(1, 1, SyntheticOptions(size_px=64)).batch(0, 1)  # what torch does once
    memory, marks = peak_memory_gb(), [time.process_time()]
    for _ in ("first", "later"):
        for number in range(batches):
            source.batch(number, batch_size)
        marks.append(time.process_time())
    first, later = ((after - before) / (batches * batch_size) for before, after in zip(marks, marks[1:], strict=False))
    return {"first": first, "later": later, "memory_mb": (peak_memory_gb() - memory) * 1024}


def steps_per_second(source, batches: int, batch_size: int, workers: int) -> float:
    """Batches a second from so many workers on this machine, each at work on ``batches`` after its first one; where
    processes are forked, of pairs seen before."""
    for number in range(batches):
        source.batch(number, batch_size)
    side_by_side = max(workers, 1)
    numbers = [k // side_by_side % batches for k in range((batches + 1) * side_by_side)]
    loaded = stream(source, numbers, batch_size, [1.0] * len(numbers), workers)
    next(loaded)
    started = time.perf_counter()
    for _ in loaded:
        pass
    return batches * side_by_side / (time.perf_counter() - started)


def measure(root: Path, size_px: int, batch_size: int, workers: Sequence[int], batches: int) -> pd.DataFrame:
    """A row per source."""
    rows = []
    for name, source in sources(root, size_px).items():
        with worker_pool(1) as pool:
            cost = pool.submit(count_cost, source, batches, batch_size).result()
        row = {"source": name, "CPU-s/pair, first": round(cost["first"], 3), "again": round(cost["later"], 3)}
        for count in workers:
            row[f"steps/s, {count} workers"] = round(steps_per_second(source, batches, batch_size, count), 2)
        row[f"computed: {CORES} on {CORES} cores"] = round(CORES / (batch_size * cost["later"]), 1)
        rows.append(row | {"MB/worker": round(cost["memory_mb"])})
    return pd.DataFrame(rows)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about = "folder of pairs in any layout of data/README.md, or a pairs.csv; default: synthetic ones"
    parser.add_argument("--root", type=Path, help=about)
    parser.add_argument("--size", type=from_one, default=768, help="side of the pictures in px")
    parser.add_argument("--batch", type=from_one, default=5, help="pairs a step")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2, 8], help="0: the main process, on all cores")
    parser.add_argument("--batches", type=from_one, default=5, help="that each worker prepares")
    args = parser.parse_args(words)
    with nullcontext(args.root) if args.root else tempfile.TemporaryDirectory() as place:
        try:
            eyes = math.ceil(args.batches * args.batch / PAIRS_PER_EYE)
            root = args.root or write_aligned_folder(place, eyes, size_px=args.size)
            print(as_text(measure(root, args.size, args.batch, args.workers, args.batches)))
        except (ValueError, OSError) as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
