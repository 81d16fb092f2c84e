"""How often a registrar takes images of two eyes, or a mirrored image, for a pair: measured on pairs of one's own.

python -m retina_kp.studies.impostors data/clinic --processes 2

Fixed images are tried with moving images of other eyes, as they are, mirrored, and both on one page with a frame, text
and a scale bar; and with their own one mirrored. By default 200 of each kind of pair and sort are drawn. Eyes are told
apart as in every layout, see data/README.md; two names for one eye would count as a mistake. A second call continues.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ..core.files import write_csv
from ..data.layouts import load_layout
from ..data.records import PairRecord
from ..evaluation.calibration import FRAMED, OTHER, OTHER_MIRRORED, OWN_MIRRORED, ImpostorPair
from ..evaluation.intervals import binomial_limits
from ..evaluation.methods import Ours
from ..evaluation.real_pairs import RealPair, read_pair
from ..evaluation.runner import CRASHED, measure
from ..evaluation.summary import as_text
from ..networks.checkpoints import find_weights

SHOWN = ("kind", "what", "fixed", "moving", "accepted", "failed", "confidence", "status")


def draw_impostors(records: Sequence[PairRecord], most: int = 0, seed: int = 0) -> list[ImpostorPair]:
    """All impostors of these records, or ``most`` (0: no limit) of each kind and sort, drawn with this seed."""
    groups: dict[tuple, list[ImpostorPair]] = {}
    pairs = [RealPair(record) for record in records]
    for fixed in pairs:
        for moving in pairs:
            kinds = [(pair.record.modality0, pair.record.modality1) for pair in (fixed, moving)]
            if kinds[0] != kinds[1]:
                continue
            two_eyes = [OTHER, OTHER_MIRRORED, FRAMED] if fixed.record.eye_id != moving.record.eye_id else []
            for what in [OWN_MIRRORED] if fixed == moving else two_eyes:
                groups.setdefault((*kinds[0], what), []).append(ImpostorPair(fixed, moving, what))
    chosen = []
    for _, group in sorted(groups.items()):
        chosen += random.Random(seed).sample(group, most) if 0 < most < len(group) else group
    return chosen


def readable(records: Sequence[PairRecord]) -> tuple[list[PairRecord], list[str]]:
    """The records whose images can be read, and why the others cannot."""
    good, problems = [], []
    for record in records:
        try:
            read_pair(record)
            good.append(record)
        except (ValueError, OSError) as error:
            problems.append(f"{record.pair_id}: {error}")
    return good, problems


def accepted(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the runner with accepted, and failed: an error, no refusal."""
    return rows.assign(accepted=rows.status == "ok", failed=rows.status.str.startswith(CRASHED))


def table_of(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per kind and sort, and of all: tried, failed, accepted, the upper 95 % limit of their share of those that
    did not fail, as if trials were independent, and the highest confidence."""
    lines = []
    for (kind, what), own in [*rows.groupby(["kind", "what"], sort=False), (("all", ""), rows)]:
        judged = own[~own.failed]
        count = int(judged.accepted.sum())
        most = round(binomial_limits(count / len(judged), len(judged))[1], 3) if len(judged) else None
        line = {"kind": kind, "what": what, "tried": len(own), "failed": len(own) - len(judged), "accepted": count}
        highest = round(judged.confidence.max(), 4) if len(judged) else None
        lines.append(line | {"share at most": most, "highest confidence": highest})
    return pd.DataFrame(lines).astype({"share at most": object, "highest confidence": object})


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder of pairs in any layout of data/README.md, or a pairs.csv")
    parser.add_argument("--layout", default="auto")
    parser.add_argument("--mode", default="", help="keep one kind of pair: cffa, cfoct, octfa, cfocta or fa_cf")
    parser.add_argument("--most", type=int, default=200, help="of each kind and sort; 0: all")
    parser.add_argument("--weights", default="lite", help="a shipped name or a checkpoint")
    parser.add_argument("--processes", type=int, default=1, help="-1: one per core")
    parser.add_argument("--out", type=Path, default=Path("outputs/impostors"))
    args = parser.parse_args(argv)
    try:
        find_weights(args.weights)
        found = load_layout(args.root, args.layout, args.mode or None)
        records, problems = readable(found.records)
        if not records:
            raise ValueError(f"{args.root}: no pair with two readable images; notebook 00 names what is wrong")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    problems = [*found.problems, *problems]
    print("".join(f"left out, {problem}\n" for problem in problems), end="")
    method, kept = Ours(args.weights, args.weights), args.out / "impostors.jsonl"
    rows = accepted(measure(draw_impostors(records, args.most), [method], kept, args.processes))
    write_csv(args.out / "impostors.csv", rows[list(SHOWN)])
    print(as_text(table_of(rows)))
    for row in rows[rows.failed].itertuples():
        print(f"failed: {row.fixed} with {row.moving}, {row.what}: {row.status}")
    print(f"\nevery one of them: {args.out / 'impostors.csv'}")
    return int(rows.failed.any())


if __name__ == "__main__":
    sys.exit(main())
