"""What stands behind notebook 06: what it is asked for, what is loaded for that, what it says of its data, and where
results go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import pandas as pd

from ..core.compute import versions
from ..core.files import in_project, new_run_folder, project_root, runs_root, to_plain, write_csv, write_json
from ..data.layouts import detect_layout, load_layout
from ..data.records import Inventory, PairRecord, Problem
from ..evaluation.documents import NOT_FINITE, metrics_document, pair_table
from ..evaluation.methods import Method, choose_methods
from ..evaluation.real_pairs import NEUTRAL, Stress, stresses
from ..evaluation.runner import Evaluation, evaluate, side_by_side
from ..synthetic.pseudo_real import write_pseudo_real
from . import privacy

NOTEBOOK = "06_real_evaluation"


@dataclass(frozen=True)
class EvaluationSettings:
    """The parameters of the notebook; see there for their meaning. Angles in degrees, the other stresses as in
    `real_pairs.Stress`."""

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
    """Everything that is known before the first image is registered. aside: how many usable pairs the settings leave
    aside, and why; names: pair id → (pair, eye) as the report calls them."""

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


def prepare(s: EvaluationSettings, own_methods: Sequence[Callable] = ()) -> Plan:
    """Load the pairs and choose methods; makes the run folder. own_methods: functions, see `methods.Function`.
    ValueError or FileNotFoundError says what does not exist."""
    runs = runs_root(s.runs_root)
    methods, missing = choose_methods(s.weights, s.baselines, runs, s.model, s.device, own_methods)
    root = s.root and str(in_project(s.root))
    if not root:  # pairs to try out the notebook with; an evaluation of refusals alone would show little
        samples = project_root() / "data" / "pseudo_real" / f"{s.sample_pairs}_pairs_seed_{s.seed}_no_choroid"
        root = str(write_pseudo_real(samples, s.sample_pairs, s.seed, choroid_light=(0.0, 0.0)))
    layout = detect_layout(root) if s.layout == "auto" else s.layout
    inventory = load_layout(root, layout, s.mode or None)
    records = [record for record in inventory.records if s.split in ("", record.split)]
    if not records:
        reasons = "; ".join(map(str, inventory.problems[:3]))
        raise ValueError(f"{root}: no pair to evaluate ({reasons or f'no pair of split {s.split!r}'})")
    wanted = {factor: getattr(s, f"{factor}s") for factor in NEUTRAL}
    folder = new_run_folder(NOTEBOOK, s.run_name, runs)
    names = privacy.pseudonyms(records) if s.hide_names else {r.pair_id: (r.pair_id, r.eye_id) for r in records}
    if s.hide_names:
        privacy.write_key(folder / "private" / "key.csv", records, names)
    of_other_modes = len(load_layout(root, layout).records) - len(inventory.records) if s.mode else 0
    aside = {"of other modes": of_other_modes, "of other splits": len(inventory.records) - len(records)}
    return Plan(s, folder, root, layout, inventory, records, aside, methods, missing, stresses(wanted), names)


def run(plan: Plan) -> Evaluation:
    """Evaluate as planned; finished units of an earlier run of this name are kept. Pairs bear the names of the
    report."""
    s = plan.settings
    stressed = [method.name for method in plan.methods if method.name not in s.baselines] + s.stressed_baselines
    with side_by_side(s.processes, s.cluster):
        ledger = plan.folder / "private" / "units.jsonl"
        done = evaluate(plan.records, plan.methods, plan.stresses, ledger, stressed)
    records = {plan.names[name][0]: record for name, record in done.records.items()}
    told = privacy.without_message if s.hide_names else lambda status: privacy.without_paths(status, plan.root)
    rows = privacy.rename(done.rows, plan.names)
    rows = rows.assign(status=rows.status.map(told))
    if "registration" in rows:
        registrations = zip(rows.registration, rows.status, strict=True)
        renamed = [r | {"status": status} if isinstance(r, dict) else None for r, status in registrations]
        rows = rows.assign(registration=pd.Series(renamed, rows.index, object))
    return replace(done, records=records, rows=rows)


def save(plan: Plan, done: Evaluation) -> dict:
    """Write metrics.json and pairs.csv, neither of which holds a path; returns what metrics.json holds."""
    s = plan.settings
    about = {**provenance(plan), "stresses": [stress.label for stress in plan.stresses], "missing": plan.missing}
    about |= {"left_out": left_out(plan, done), "incomplete": incomplete(plan, done)}
    document = metrics_document(about, done.rows, plan.first, s.accept_confidence, s.seed)
    write_json(plan.folder / "metrics.json", to_plain(document, NOT_FINITE.get))
    write_csv(plan.folder / "pairs.csv", pair_table(done.rows, s.accept_confidence))
    return document


# ------------------------------------------------------------------ what the notebook says


def provenance(plan: Plan) -> dict:
    """What was measured, when, and with what. The data set goes by its folder's name, where names need not be
    hidden."""
    s, root = plan.settings, Path(plan.root)
    methods = [{"name": m.name, "model": None, "sha256": None, **m.provenance()} for m in plan.methods]
    name = root.parent.name if root.suffix == ".csv" else root.name
    return {
        "versions": versions(),
        "date": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %z}",
        "methods": methods,
        "data": "" if s.hide_names else name,
        "layout": plan.layout,
        **{key: getattr(s, key) for key in ("mode", "split", "model", "accept_confidence", "seed")},
        "pairs": len(plan.records),
        "eyes": len({r.eye_id for r in plan.records}),
        "aside": plan.aside,
    }


def trials(pairs: int, eyes: int) -> str:
    """What intervals are over, in words."""
    known = f"{eyes} eyes of {pairs} pairs: intervals over eyes"
    return "each counts as an eye of its own: intervals over pairs" if eyes == pairs else known


def provenance_table(plan: Plan) -> pd.DataFrame:
    """The same in words, to read on the page."""
    known = provenance(plan)
    aside = [f"{count} {why}" for why, count in known["aside"].items() if count]
    where = f"{known['layout']}, {known['mode'] or 'all modes'}, {known['split'] or 'all splits'}"
    words = {
        "data set": known["data"] or "name hidden",
        "layout, mode, split": where,
        "pairs": f"{known['pairs']}; {trials(known['pairs'], known['eyes'])}",
        "usable pairs left aside by mode and split": ", ".join(aside) or "none",
        "model fitted by ours": known["model"],
        "called good from a confidence of": f"{known['accept_confidence']:g}",
        "weights, SHA-256": "\n".join(f"{m['name']}: {m['sha256']}" for m in known["methods"] if m["sha256"]),
        "software": ", ".join(f"{name} {version}" for name, version in known["versions"].items() if version),
        "date": known["date"],
    }
    return pd.DataFrame(words.items(), columns=["what", "value"])


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
    rows = [{"pair": p.pair, "where": p.source, "why": p.reason} for p in problems]
    rows = [{key: privacy.without_paths(text, plan.root) for key, text in row.items()} for row in rows]
    if not plan.settings.hide_names:
        return rows
    numbers = [f"{name.replace('_', ' ')} {k}" for k in range(1, len(rows) + 1)]
    numbered = [{"number": number, **row} for number, row in zip(numbers, rows, strict=True)]
    write_csv(plan.folder / "private" / f"{name}.csv", numbered)
    kinds = [privacy.reason_kind(p.reason) for p in problems]
    return [{"where": number, "why": kind} for number, kind in zip(numbers, kinds, strict=True)]


def image_table(facts: pd.DataFrame) -> pd.DataFrame:
    """Per kind of pair: how many, the sizes, and kinds of truth."""
    table = []
    for kind, own in facts.groupby("kind", sort=False):
        line = {"kind": kind, "pairs": len(own), "eyes": own.eye.nunique()}
        for side in ("fixed", "moving"):
            heights, widths = zip(*own[f"size_{side}"], strict=True)
            low, high = f"{min(widths)}×{min(heights)}", f"{max(widths)}×{max(heights)}"
            line[f"{side}, width × height"] = low if low == high else f"{low} to {high}"
        line["truth"] = ", ".join(sorted(set(own.truth.str.lstrip("0123456789 "))))
        table.append(line | {"× to 768": f"{own.rescale.min():.2f} to {own.rescale.max():.2f}"})
    return pd.DataFrame(table)
