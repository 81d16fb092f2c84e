"""What stands behind notebook 06: its settings, what is loaded for them, and where results go."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import torch
from joblib import parallel_config

from . import __version__, privacy
from .evaluation_files import metrics_document, pair_rows
from .files import write_csv, write_json
from .layouts import load_layout
from .methods import Method, choose_methods
from .pseudo_real import write_pseudo_real
from .real_evaluation import Evaluation, evaluate
from .records import Inventory, PairRecord, Problem
from .report import new_run_folder, project_root
from .stress import Stress, stresses

NOTEBOOK = "06_real_evaluation"


@dataclass(frozen=True)
class EvaluationSettings:
    """The parameters of the notebook; see there for their meaning. Angles in degrees, the other stresses as in `stress.Stress`."""

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
    """Everything that is known before the first image is registered. names: pair id → (pair, eye) as the report calls them."""

    settings: EvaluationSettings
    folder: Path
    root: str
    inventory: Inventory
    records: list[PairRecord]
    methods: list[Method]
    missing: dict[str, str]
    stresses: list[Stress]
    names: dict[str, tuple[str, str]]

    @property
    def first(self) -> str:
        """Name of the method that all others are compared with."""
        return self.methods[0].name


def prepare(s: EvaluationSettings) -> Plan:
    """Load the pairs and choose methods; makes the run folder. ValueError or FileNotFoundError says what does not exist."""
    root = s.root and str(project_root() / Path(s.root).expanduser())
    root = root or str(write_pseudo_real(project_root() / "data" / "clinic" / f"{s.sample_pairs}_{s.seed}", s.sample_pairs, s.seed))
    inventory = load_layout(root, s.layout, s.mode or None)
    records = [record for record in inventory.records if s.split in ("", record.split)]
    if not records:
        reasons = "; ".join(f"{p.source}: {p.reason}" for p in inventory.problems[:3]) or f"no pair of split {s.split!r}"
        raise ValueError(f"{root}: no pair to evaluate ({reasons})")
    runs = project_root() / (Path(s.runs_root).expanduser() if s.runs_root else Path("outputs") / "runs")
    methods, missing = choose_methods(s.weights, s.baselines, runs, s.model, s.device)
    wanted = {"turn": s.turns, "scale": s.scales, "shift": s.shifts, "crop": s.crops, "blur": s.blurs, "noise": s.noises, "gamma": s.gammas}
    folder = new_run_folder(NOTEBOOK, s.run_name, runs)
    names = privacy.pseudonyms(records) if s.hide_names else {r.pair_id: (r.pair_id, r.eye_id) for r in records}
    if s.hide_names:
        privacy.write_key(folder / "private" / "key.csv", records, names)
    return Plan(s, folder, root, inventory, records, methods, missing, stresses(wanted), names)


@contextmanager
def side_by_side(processes: int = 1, cluster: str = "") -> Iterator[None]:
    """Where joblib works within the block: in so many processes here (-1: one per core), or on the dask cluster at an address."""
    if not cluster:
        with parallel_config(n_jobs=processes):
            yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError('cluster: dask is not installed: pip install "retina-kp[cluster]"') from error
    with Client(cluster), parallel_config("dask"):
        yield


def run(plan: Plan) -> Evaluation:
    """Evaluate as planned; finished units of an earlier run of this name are kept. Pairs bear the names of the report."""
    s, ours = plan.settings, [method.name for method in plan.methods if method.ours]
    with side_by_side(s.processes, s.cluster):
        done = evaluate(plan.records, plan.methods, plan.stresses, plan.folder / "private" / "units.jsonl", ours + s.stressed_baselines)
    records = {plan.names[name][0]: record for name, record in done.records.items()}
    told = privacy.without_message if s.hide_names else lambda status: privacy.without_paths(status, plan.root)
    rows = [_with_status(row, told(row["status"])) for row in privacy.rename(done.rows, plan.names)]
    return replace(done, records=records, facts=privacy.rename(done.facts, plan.names), rows=rows)


def _with_status(row: dict, status: str) -> dict:
    registration = {"registration": row["registration"] | {"status": status}} if "registration" in row else {}
    return row | {"status": status} | registration


def left_out(plan: Plan, done: Evaluation | None = None) -> list[dict]:
    """Every pair that could not be used: pair, file or row, and why, without the folders above the data. Where names are to be hidden:
    numbered, with the kind of reason; the folder private then has all of it in full, in left_out.csv."""
    return _told(plan, [problem for problem in _problems(plan, done) if problem.pair], "left_out")


def incomplete(plan: Plan, done: Evaluation | None = None) -> list[dict]:
    """What is amiss with pairs that were used all the same, such as a vessel mask that cannot be; told as in `left_out`."""
    return _told(plan, [problem for problem in _problems(plan, done) if not problem.pair], "incomplete")


def _problems(plan: Plan, done: Evaluation | None) -> list[Problem]:
    return [*plan.inventory.problems, *(done.problems if done else ())]


def _told(plan: Plan, problems: Sequence[Problem], name: str) -> list[dict]:
    rows = [{name: privacy.without_paths(text, plan.root) for name, text in (("pair", p.pair), ("where", p.source), ("why", p.reason))}
            for p in problems]  # fmt: skip
    if not plan.settings.hide_names:
        return rows
    hidden = [{"where": f"{name.replace('_', ' ')} {k}", "why": privacy.reason_kind(p.reason)} for k, p in enumerate(problems, 1)]
    write_csv(plan.folder / "private" / f"{name}.csv", [{"number": new["where"], **row} for new, row in zip(hidden, rows, strict=True)])
    return hidden


def image_notes(facts: Sequence[dict]) -> list[dict]:
    """Per kind of pair: how many, the sizes, kinds of truth, and the images in which text seems to be burned in."""
    table = []
    for kind in dict.fromkeys(fact["kind"] for fact in facts):
        own = [fact for fact in facts if fact["kind"] == kind]
        table.append({"kind": kind, "pairs": len(own), "eyes": len({fact["eye"] for fact in own})})
        for side in ("fixed", "moving"):
            heights, widths = zip(*(fact[f"size_{side}"] for fact in own), strict=True)
            low, high = f"{min(widths)}×{min(heights)}", f"{max(widths)}×{max(heights)}"
            table[-1][f"{side}, width × height"] = low if low == high else f"{low} to {high}"
        table[-1]["truth"] = ", ".join(sorted({fact["truth"].lstrip("0123456789 ") for fact in own}))
        table[-1]["× to 768"] = f"{min(fact['rescale'] for fact in own):.2f} to {max(fact['rescale'] for fact in own):.2f}"
        written = [f"{fact['pair']} {side}" for fact in own for side in ("fixed", "moving") if fact[f"text_{side}"]]
        more = f" and {len(written) - 6} more" if len(written) > 6 else ""
        table[-1]["images with text"] = ", ".join(written[:6]) + more or "none found"
    return table


def save(plan: Plan, done: Evaluation) -> dict:
    """Write metrics.json and pairs.csv, neither of which holds a path; returns what metrics.json holds."""
    s = plan.settings
    versions = {"retina_kp": __version__, "torch": torch.__version__, "opencv": cv2.__version__, "python": platform.python_version()}
    methods = [
        {"name": m.name, "model": m.model if m.ours else None, "sha256": m.fingerprint()[:12] if m.ours else None} for m in plan.methods
    ]
    about = {"versions": versions, "methods": methods, "missing": plan.missing, "model": s.model, "seed": s.seed,
             "stresses": [stress.label for stress in plan.stresses], "left_out": left_out(plan, done),
             "incomplete": incomplete(plan, done)}  # fmt: skip
    document = metrics_document(about, done.facts, done.rows, plan.first, s.accept_confidence, s.seed)
    write_json(plan.folder / "metrics.json", document)
    write_csv(plan.folder / "pairs.csv", pair_rows(done.facts, done.rows, s.accept_confidence))
    return document
