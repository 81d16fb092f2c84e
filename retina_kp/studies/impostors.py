"""How often would a registrar take images of two different eyes for a pair, or an image and a mirrored one? Measured on
pairs of one's own.

python -m retina_kp.studies.impostors data/clinic --processes 2

Fixed images are tried with the moving images of other eyes of the same kind of pair, as they are and mirrored, and with
their own one mirrored; by default with 200 of each kind and sort. Eyes are told apart as in every layout, see
data/README.md; two names for one eye would count as a mistake. A second call continues.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from joblib import Parallel, delayed

from ..core.compute import progress
from ..core.files import write_csv
from ..core.versions import code_version
from ..data.layouts import load_layout
from ..data.records import PairRecord
from ..evaluation.intervals import binomial_limits
from ..evaluation.ledger import append_row, read_ledger
from ..evaluation.methods import CRASHED, Method
from ..evaluation.pairs import pair_print, read_pair
from ..evaluation.trials import print_table
from ..networks.checkpoints import find_weights
from ..notebook.evaluation import side_by_side

OTHER, OWN_MIRRORED, OTHER_MIRRORED = "another eye", "its own, mirrored", "another eye, mirrored"


@dataclass(frozen=True)
class Impostor:
    """The fixed image of one record with the moving image of another, or of the same, mirrored."""

    fixed: PairRecord
    moving: PairRecord
    what: str

    @property
    def kind(self) -> str:
        """Of the pair it pretends to be, such as "CF-FA"."""
        return f"{self.fixed.modality0}-{self.fixed.modality1}"


def draw_impostors(records: Sequence[PairRecord], most: int = 0, seed: int = 0) -> list[Impostor]:
    """All impostors of these records, or ``most`` (0: no limit) of each kind and sort, drawn with this seed."""
    groups: dict[tuple[str, str], list[Impostor]] = {}
    for fixed in records:
        for moving in records:
            if (fixed.modality0, fixed.modality1) != (moving.modality0, moving.modality1):
                continue
            sorts = (
                [OWN_MIRRORED] if fixed == moving else [OTHER, OTHER_MIRRORED] if fixed.eye_id != moving.eye_id else []
            )
            for what in sorts:
                impostor = Impostor(fixed, moving, what)
                groups.setdefault((impostor.kind, what), []).append(impostor)
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


def try_impostor(impostor: Impostor, method: Method, key: str = "") -> dict:
    """What a method makes of an impostor: whether it accepts it or fails with an error, confidence and status."""
    fixed, moving = read_pair(impostor.fixed)[0], read_pair(impostor.moving)[1]
    result = method.register(fixed, moving if impostor.what == OTHER else moving[:, ::-1])
    failed = result.status.startswith(CRASHED)
    return {
        "key": key,
        "kind": impostor.kind,
        "what": impostor.what,
        "fixed": impostor.fixed.pair_id,
        "moving": impostor.moving.pair_id,
        "accepted": result.ok,
        "failed": failed,
        "confidence": round(float(result.confidence), 4),
        "status": result.status,
    }


def measure(impostors: Sequence[Impostor], method: Method, ledger: str | Path | None = None) -> list[dict]:
    """A row per impostor, see `try_impostor`; those in the ledger of the same images, weights and code are not tried
    again, unless they failed."""
    done = read_ledger(ledger)
    prints = {record: pair_print(record) for record in {r for i in impostors for r in (i.fixed, i.moving)}}
    about = [code_version(), method.fingerprint()]
    keys = [
        hashlib.sha256(json.dumps([*about, prints[i.fixed], prints[i.moving], i.what]).encode()).hexdigest()[:32]
        for i in impostors
    ]
    rest = [(i, key) for i, key in zip(impostors, keys, strict=True) if key not in done]
    bar = progress(len(impostors), len(impostors) - len(rest), "impostors")
    for row in Parallel(return_as="generator_unordered", batch_size=1)(
        delayed(try_impostor)(i, method, key) for i, key in rest
    ):
        done[row["key"]] = row
        if not row["failed"]:
            append_row(ledger, row)
        bar.update()
    bar.close()
    return [done[key] for key in keys]


def summarise(rows: Sequence[dict]) -> list[dict]:
    """A row per kind and sort, and of all: tried, failed (an error, no refusal), accepted, the upper 95 % limit of
    their share of those that did not fail, as if trials were independent, and the highest confidence."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["what"]), []).append(row)
        groups.setdefault(("all", ""), []).append(row)
    table = []
    for (kind, what), own in sorted(groups.items(), key=lambda group: group[0][0] == "all"):
        judged = [row for row in own if not row["failed"]]
        accepted = sum(row["accepted"] for row in judged)
        table.append(
            {
                "kind": kind,
                "what": what,
                "tried": len(own),
                "failed": len(own) - len(judged),
                "accepted": accepted,
                "share at most": round(binomial_limits(accepted / len(judged), len(judged))[1], 3) if judged else None,
                "highest confidence": max((row["confidence"] for row in judged), default=None),
            }
        )
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder of pairs in any layout of data/README.md, or a pairs.csv")
    parser.add_argument("--layout", default="auto")
    parser.add_argument("--mode", default="", help="keep one kind of pair: cffa, cfoct, octfa, cfocta or fa_cf")
    parser.add_argument("--most", type=int, default=200, help="of each kind and sort; 0: all")
    parser.add_argument("--weights", default="lite", help="a shipped name or a checkpoint")
    parser.add_argument("--processes", type=int, default=1, help="-1: one per core")
    parser.add_argument("--out", type=Path, default=Path("outputs/impostors"))
    args = parser.parse_args()
    try:
        find_weights(args.weights)
        found = load_layout(args.root, args.layout, args.mode or None)
        records, problems = readable(found.records)
        if not records:
            raise ValueError(f"{args.root}: no pair with two readable images; notebook 00 names what is wrong")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    problems = [f"{p.source}: {p.reason}" for p in found.problems] + problems
    print("".join(f"left out, {problem}\n" for problem in problems), end="")
    with side_by_side(args.processes):
        rows = measure(
            draw_impostors(records, args.most), Method(args.weights, args.weights, True), args.out / "impostors.jsonl"
        )
    write_csv(
        args.out / "impostors.csv", [{name: value for name, value in row.items() if name != "key"} for row in rows]
    )
    print_table(summarise(rows))
    wrong = [row for row in rows if row["failed"]]
    print(
        "".join(f"failed: {row['fixed']} with {row['moving']}, {row['what']}: {row['status']}\n" for row in wrong),
        end="",
    )
    print(f"\nevery one of them: {args.out / 'impostors.csv'}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
