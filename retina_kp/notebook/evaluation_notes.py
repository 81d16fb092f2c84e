"""What notebook 06 is asked for and what it says of its data: settings and plan, provenance, inventory, what was left
out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from ..core.files import write_csv
from ..core.versions import versions
from ..data.records import Inventory, PairRecord, Problem
from ..evaluation.methods import Method
from ..evaluation.real import Evaluation
from ..evaluation.stress import Stress
from . import privacy


@dataclass(frozen=True)
class EvaluationSettings:
    """The parameters of the notebook; see there for their meaning. Angles in degrees, the other stresses as in
    `stress.Stress`."""

    root: str
    layout: str
    mode: str
    split: str
    weights: list[str]
    baselines: list[str]
    stressed_baselines: list[str]
    turns: list[float]
    scales: list[float]
    shifts: list[float]
    crops: list[float]
    blurs: list[float]
    noises: list[float]
    gammas: list[float]
    model: str
    device: str
    accept_confidence: float
    processes: int
    cluster: str
    show_images: bool
    hide_names: bool
    gallery_pairs: int
    sample_pairs: int
    seed: int
    run_name: str
    runs_root: str

    def __post_init__(self):
        if not 0 <= self.accept_confidence <= 1:
            raise ValueError(f"accept_confidence: takes a number from 0 to 1, not {self.accept_confidence:g}")
        if self.processes == 0:
            raise ValueError("processes: takes 1 or more, or -1 for all cores")
        unknown = set(self.stressed_baselines) - set(self.baselines)
        if unknown:
            raise ValueError(f"stressed_baselines: {', '.join(sorted(unknown))} not among the baselines")


@dataclass(frozen=True)
class Plan:
    """Everything that is known before the first image is registered. aside: how many usable pairs the
    settings leave aside, and why; names: pair id → (pair, eye) as the report calls them."""

    settings: EvaluationSettings
    folder: Path
    root: str
    layout: str
    inventory: Inventory
    records: list[PairRecord]
    aside: dict[str, int]
    methods: list[Method]
    missing: dict[str, str]
    stresses: list[Stress]
    names: dict[str, tuple[str, str]]

    @property
    def first(self) -> str:
        """Name of the method that all others are compared with."""
        return self.methods[0].name


def provenance(plan: Plan) -> dict:
    """What was measured, when, and with what. The data set goes by its folder's name, where names need not be
    hidden."""
    s, root = plan.settings, Path(plan.root)
    methods = [
        {"name": m.name, "model": m.model if m.ours else None, "sha256": m.weights_sha256()[:12] or None}
        for m in plan.methods
    ]
    name = root.parent.name if root.suffix == ".csv" else root.name
    return {
        "versions": versions(),
        "date": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}",
        "methods": methods,
        "data": "" if s.hide_names else name,
        "layout": plan.layout,
        "mode": s.mode,
        "split": s.split,
        "pairs": len(plan.records),
        "eyes": len({r.eye_id for r in plan.records}),
        "aside": plan.aside,
        "model": s.model,
        "accept_confidence": s.accept_confidence,
        "seed": s.seed,
    }


def trials(pairs: int, eyes: int) -> str:
    """What intervals are over, in words."""
    return (
        "no eye ids known: intervals over pairs"
        if eyes == pairs
        else f"{eyes} eyes of {pairs} pairs: intervals over eyes"
    )


def provenance_table(plan: Plan) -> list[dict]:
    """The same in words, to read on the page."""
    known = provenance(plan)
    weights = [f"{m['name']}: {m['sha256']}" for m in known["methods"] if m["sha256"]]
    aside = [f"{count} {why}" for why, count in known["aside"].items() if count]
    return [
        {"what": "data set", "value": known["data"] or "name hidden"},
        {
            "what": "layout, mode, split",
            "value": f"{known['layout']}, {known['mode'] or 'all modes'}, {known['split'] or 'all splits'}",
        },
        {"what": "pairs", "value": f"{known['pairs']}; {trials(known['pairs'], known['eyes'])}"},
        {"what": "usable pairs left aside by mode and split", "value": ", ".join(aside) or "none"},
        {"what": "model fitted by ours", "value": known["model"]},
        {"what": "called good from a confidence of", "value": f"{known['accept_confidence']:g}"},
        {"what": "weights, SHA-256", "value": "\n".join(weights)},
        {
            "what": "software",
            "value": ", ".join(f"{name} {version}" for name, version in known["versions"].items() if version),
        },
        {"what": "date", "value": known["date"]},
    ]


def left_out(plan: Plan, done: Evaluation | None = None) -> list[dict]:
    """Every pair that could not be used: pair, file or row, and why, without the folders above the data. Where names
    are to be hidden: numbered, with the kind of reason; the folder private then has all of it in full, in
    left_out.csv."""
    return _told(plan, [problem for problem in _problems(plan, done) if problem.pair], "left_out")


def incomplete(plan: Plan, done: Evaluation | None = None) -> list[dict]:
    """What is amiss with pairs that were used all the same, such as a vessel mask that cannot be; told as in
    `left_out`."""
    return _told(plan, [problem for problem in _problems(plan, done) if not problem.pair], "incomplete")


def _problems(plan: Plan, done: Evaluation | None) -> list[Problem]:
    return [*plan.inventory.problems, *(done.problems if done else ())]


def _told(plan: Plan, problems: Sequence[Problem], name: str) -> list[dict]:
    rows = [
        {
            name: privacy.without_paths(text, plan.root)
            for name, text in (("pair", p.pair), ("where", p.source), ("why", p.reason))
        }
        for p in problems
    ]
    if not plan.settings.hide_names:
        return rows
    hidden = [
        {"where": f"{name.replace('_', ' ')} {k}", "why": privacy.reason_kind(p.reason)}
        for k, p in enumerate(problems, 1)
    ]
    write_csv(
        plan.folder / "private" / f"{name}.csv",
        [{"number": new["where"], **row} for new, row in zip(hidden, rows, strict=True)],
    )
    return hidden


def image_notes(facts: Sequence[dict]) -> list[dict]:
    """Per kind of pair: how many, the sizes, and kinds of truth."""
    table = []
    for kind in dict.fromkeys(fact["kind"] for fact in facts):
        own = [fact for fact in facts if fact["kind"] == kind]
        table.append({"kind": kind, "pairs": len(own), "eyes": len({fact["eye"] for fact in own})})
        for side in ("fixed", "moving"):
            heights, widths = zip(*(fact[f"size_{side}"] for fact in own), strict=True)
            low, high = f"{min(widths)}×{min(heights)}", f"{max(widths)}×{max(heights)}"
            table[-1][f"{side}, width × height"] = low if low == high else f"{low} to {high}"
        table[-1]["truth"] = ", ".join(sorted({fact["truth"].lstrip("0123456789 ") for fact in own}))
        table[-1]["× to 768"] = (
            f"{min(fact['rescale'] for fact in own):.2f} to {max(fact['rescale'] for fact in own):.2f}"
        )
    return table
