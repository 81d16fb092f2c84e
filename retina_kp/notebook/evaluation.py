"""What stands behind notebook 06: its settings, what is loaded for them, and where results go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from joblib import parallel_config

from ..core.files import in_project, new_run_folder, project_root, to_plain, write_csv, write_json
from ..data.layouts import detect_layout, load_layout
from ..evaluation.files import NOT_FINITE, metrics_document, pair_rows
from ..evaluation.methods import choose_methods
from ..evaluation.real import Evaluation, evaluate
from ..evaluation.stress import stresses
from ..synthetic.pseudo_real import write_pseudo_real
from . import privacy
from .evaluation_notes import EvaluationSettings, Plan, incomplete, left_out, provenance

NOTEBOOK = "06_real_evaluation"


def prepare(s: EvaluationSettings) -> Plan:
    """Load the pairs and choose methods; makes the run folder. ValueError or FileNotFoundError says what does not
    exist."""
    root = s.root and str(in_project(s.root))
    if not root:  # pairs to try out the notebook with; an evaluation of refusals alone would show little
        samples = project_root() / "data" / "pseudo_real" / f"{s.sample_pairs}_pairs_seed_{s.seed}_no_choroid"
        root = str(write_pseudo_real(samples, s.sample_pairs, s.seed, choroid_light=(0.0, 0.0)))
    layout = detect_layout(root) if s.layout == "auto" else s.layout
    inventory = load_layout(root, layout, s.mode or None)
    records = [record for record in inventory.records if s.split in ("", record.split)]
    if not records:
        reasons = (
            "; ".join(f"{p.source}: {p.reason}" for p in inventory.problems[:3]) or f"no pair of split {s.split!r}"
        )
        raise ValueError(f"{root}: no pair to evaluate ({reasons})")
    runs = project_root() / (Path(s.runs_root).expanduser() if s.runs_root else Path("outputs") / "runs")
    methods, missing = choose_methods(s.weights, s.baselines, runs, s.model, s.device)
    wanted = {
        "turn": s.turns,
        "scale": s.scales,
        "shift": s.shifts,
        "crop": s.crops,
        "blur": s.blurs,
        "noise": s.noises,
        "gamma": s.gammas,
    }
    folder = new_run_folder(NOTEBOOK, s.run_name, runs)
    names = privacy.pseudonyms(records) if s.hide_names else {r.pair_id: (r.pair_id, r.eye_id) for r in records}
    if s.hide_names:
        privacy.write_key(folder / "private" / "key.csv", records, names)
    of_other_modes = len(load_layout(root, layout).records) - len(inventory.records) if s.mode else 0
    aside = {"of other modes": of_other_modes, "of other splits": len(inventory.records) - len(records)}
    return Plan(s, folder, root, layout, inventory, records, aside, methods, missing, stresses(wanted), names)


@contextmanager
def side_by_side(processes: int = 1, cluster: str = "") -> Iterator[None]:
    """Where joblib works within the block: in so many processes here (-1: one per core), or on the dask cluster at an
    address."""
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
    """Evaluate as planned; finished units of an earlier run of this name are kept. Pairs bear the names of the
    report."""
    s, ours = plan.settings, [method.name for method in plan.methods if method.ours]
    with side_by_side(s.processes, s.cluster):
        done = evaluate(
            plan.records,
            plan.methods,
            plan.stresses,
            plan.folder / "private" / "units.jsonl",
            ours + s.stressed_baselines,
        )
    records = {plan.names[name][0]: record for name, record in done.records.items()}
    told = privacy.without_message if s.hide_names else lambda status: privacy.without_paths(status, plan.root)
    rows = [_with_status(row, told(row["status"])) for row in privacy.rename(done.rows, plan.names)]
    return replace(done, records=records, facts=privacy.rename(done.facts, plan.names), rows=rows)


def _with_status(row: dict, status: str) -> dict:
    registration = {"registration": row["registration"] | {"status": status}} if "registration" in row else {}
    return row | {"status": status} | registration


def save(plan: Plan, done: Evaluation) -> dict:
    """Write metrics.json and pairs.csv, neither of which holds a path; returns what metrics.json holds."""
    s = plan.settings
    about = {
        **provenance(plan),
        "stresses": [stress.label for stress in plan.stresses],
        "missing": plan.missing,
        "left_out": left_out(plan, done),
        "incomplete": incomplete(plan, done),
    }
    document = metrics_document(about, done.facts, done.rows, plan.first, s.accept_confidence, s.seed)
    write_json(plan.folder / "metrics.json", to_plain(document, NOT_FINITE.get))
    write_csv(plan.folder / "pairs.csv", pair_rows(done.facts, done.rows, s.accept_confidence))
    return document
