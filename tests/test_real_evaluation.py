"""Evaluation of real pairs: the identity's errors are known by hand, every broken input is named, no finished unit is
computed twice."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluation_trees import GRID, HW, fire_tree, octa_tree, operation_pair, picture, write_points
from joblib import parallel_config

from retina_kp.core import compute
from retina_kp.core.files import to_plain
from retina_kp.core.geometry import translation, warp_points
from retina_kp.core.images import write_image
from retina_kp.data.layouts import load_layout
from retina_kp.data.layouts.pairs_csv import write_pairs_csv
from retina_kp.data.records import PairRecord
from retina_kp.evaluation import documents, runner, summary
from retina_kp.evaluation import methods as methods_module
from retina_kp.evaluation.baselines import identity
from retina_kp.evaluation.documents import TABLES
from retina_kp.evaluation.methods import Function, Ours, choose_methods
from retina_kp.evaluation.pairs import FIT
from retina_kp.evaluation.real_pairs import RealPair, Stress, alter, truth_points
from retina_kp.evaluation.runner import append_row, evaluate, measure, read_ledger
from retina_kp.networks.checkpoints import find_weights, load_network, save_network

PX = 768 / max(HW)  # one px of the small images, at 768
IDENTITY, LITE = Function("identity", identity), Ours("lite", device="cpu")
REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "real-dev"


@pytest.fixture
def clinic(tmp_path):
    """Three pairs of two eyes on which the identity is right, 3 px (18 at 768) and 10 px (60 at 768) off."""
    operation_pair(tmp_path, "001_01")
    operation_pair(tmp_path, "001_02", (3, 0))
    operation_pair(tmp_path, "002_01", (6, 8))
    return tmp_path


def by_pair(rows, method="identity"):
    return {row["pair"]: row for row in rows[rows.method == method].to_dict("records")}


def by_method(table):
    return {line["method"]: line for line in table.to_dict("records")}


def one(record, method=IDENTITY, stress=Stress()):
    return runner.run_unit(RealPair(record, stress), method)


# ------------------------------------------------------------------ figures


def test_errors_of_the_identity_are_those_worked_out_by_hand(clinic):
    done = evaluate(load_layout(clinic).records, [IDENTITY])
    rows = by_pair(done.rows)
    assert [rows[f"cffa_{n}"]["outcome"] for n in ("001_01", "001_02", "002_01")] == [
        "acceptable",
        "acceptable",
        "inaccurate",
    ]
    assert rows["cffa_001_02"]["errors_px"] == pytest.approx([3 * PX] * 12) and rows["cffa_002_01"][
        "errors_px"
    ] == pytest.approx([10 * PX] * 12)
    table = by_method(summary.method_table(done.rows))
    line = table["identity"]
    assert (line["pairs"], line["eyes"], line["kind"]) == (3, 2, "CF-FA")
    assert (
        line["acceptable"][0] == pytest.approx(2 / 3)
        and line["wrong_accepted"][0] == pytest.approx(1 / 3) == line["inaccurate"][0]
    )
    assert line["auc25"][0] == pytest.approx((25 + 7 + 0) / 75)  # 0 px; 18 px is below 19 … 25; 60 px never
    assert line["auc25_fire"][0] == pytest.approx(1 / 3) and line["auc@20"][0] == pytest.approx((1 + 0.1 + 0) / 3)
    assert line["median_px"][0] == pytest.approx(18) and line["failed"][0] == line["refused"][0] == 0
    assert table[FIT]["acceptable"][0] == 1 and table[FIT]["median_px"][0] == pytest.approx(0, abs=1e-3)
    assert summary.FLOOR not in table and set(done.facts.truth) == {"12 computed point pairs"}
    assert done.problems == [] and done.facts.size_fixed[0] == list(HW) and done.facts.rescale[0] == PX


def test_every_stress_leaves_a_perfect_method_perfect(clinic):
    """A method that is told what was done has no error whatever is done: the truth follows the image."""
    plan = [
        Stress(),
        Stress(turn=75, scale=0.6),
        Stress(shift=0.2),
        Stress(crop=0.5),
        Stress(noise=0.1, blur=1, gamma=2),
    ]
    for record in load_layout(clinic).records[1:]:
        shift = record.points0_xy[0] - record.points1_xy[0]
        for stress in plan:
            R = alter(picture(), stress)[1]
            told = Function("told", lambda f, m, T=translation(*shift) @ np.linalg.inv(R): T)
            row = one(record, told, stress)
            assert (
                np.max(row["errors_px"]) < 1e-6
                and row["stress"] == stress.label
                and ("dice" in row) == (stress == Stress())
            )
        assert row["true_turn_deg"] == pytest.approx(0, abs=0.1)


def test_refused_failed_and_crashed_are_told_apart(clinic):
    record = load_layout(clinic).records[0]
    write_image(record.image1, picture(7))
    assert one(record, LITE)["outcome"] == "refused"  # two different images
    row = one(record, Function("silent", lambda f, m: None))
    assert (row["outcome"], row["status"], row["errors_px"]) == ("failed", "found no transform", None)

    def crash(fixed, moving):
        raise ValueError("cannot")

    assert one(record, Function("broken", crash))["status"] == "error: ValueError: cannot"


@pytest.mark.parametrize("ours", [True, False])
def test_no_crash_of_a_method_stops_the_run(clinic, monkeypatch, ours):
    """Whatever a method raises is its answer to that pair, with type and message; the other pairs are evaluated."""
    answers = iter([KeyError("no such layer"), MemoryError("8 GB"), np.eye(3)])

    def register(fixed, moving):
        if isinstance(answer := next(answers), Exception):
            raise answer
        return methods_module.as_registration(answer, fixed.shape[:2], moving.shape[:2])

    register.seconds = {}
    monkeypatch.setattr(methods_module, "_registrar", lambda *given: register)
    monkeypatch.setattr(methods_module, "register_true_points", lambda registrar, *seen: None.nothing)
    rows = evaluate(load_layout(clinic).records, [LITE if ours else Function("m", register)]).rows[-3:]
    assert list(rows.status) == ["error: KeyError: 'no such layer'", "error: MemoryError: 8 GB", "ok"]
    assert list(rows.outcome) == ["failed", "failed", "inaccurate"]


def test_a_crash_is_tried_again(clinic, tmp_path, monkeypatch):
    """Out of memory once; what was found stays."""
    records, short = load_layout(clinic).records[:2], [MemoryError("8 GB")] * 2

    def register(fixed, moving):
        if short:
            raise short.pop()
        return np.eye(3)

    method = Function("short of memory", register)
    first = evaluate(records, [method], keep=tmp_path / "units.jsonl").rows
    ran = counting(monkeypatch)
    again = evaluate(records, [method], keep=tmp_path / "units.jsonl").rows
    assert set(first.outcome[2:]) == {"failed"} and "failed" not in set(again.outcome)
    assert len(ran) == 2


def test_methods_of_ones_own_are_functions(clinic, tmp_path):
    """A matrix, a function of points, a registration, or None; anything else is told; its source tells it apart."""

    def matrix(fixed, moving):
        assert fixed.shape == moving.shape == (*HW, 3)
        return translation(3, 0)

    def mapping(fixed, moving):
        return lambda points: points + (3, 0)

    def nonsense(fixed, moving):
        return np.ones(7)

    def nothing(fixed, moving):
        return None

    records = load_layout(clinic).records[1:2]  # true: +3 px along x
    rows = measure([RealPair(records[0])], [matrix, mapping, nonsense, nothing], tmp_path / "kept.jsonl")
    assert list(rows.method) == ["matrix", "mapping", "nonsense", "nothing"]
    assert list(rows.outcome) == ["acceptable", "acceptable", "failed", "failed"]
    assert rows.mean_px[0] == pytest.approx(rows.mean_px[1]) == pytest.approx(0, abs=1e-6)
    assert "3x3 matrix" in rows.status[2] and rows.confidence.isna().all()
    assert rows.dice[0] == pytest.approx(rows.dice[1])
    assert len({Function("f", f).fingerprint() for f in (matrix, mapping, nothing)}) == 3
    with pytest.raises(ValueError, match="source is not known"):
        Function("f", eval("lambda fixed, moving: None")).fingerprint()
    with pytest.raises(ValueError, match="several methods are called 'matrix'"):
        choose_methods(["lite"], [], tmp_path, own=[matrix, matrix])


def test_weights_written_anew_are_loaded_anew(tmp_path):
    """One process, one path: the registrar follows the file, as the fingerprint does."""
    path = tmp_path / "mine.safetensors"
    shutil.copy(find_weights("lite"), path)
    method = Ours("mine", str(path), device="cpu")
    before, mark = method.registrar(), method.fingerprint()
    assert method.registrar() is before
    network, metadata = load_network(path)
    save_network(path, network, {"calibration": metadata["calibration"] | {"bias": 7.0}}, half=True)
    assert method.fingerprint() != mark and method.registrar().calibration["bias"] == 7


def test_confidence_tells_a_warned_of_error_from_a_wrongly_accepted_one():
    row = pd.DataFrame([{"method": "m", "outcome": "inaccurate", "confidence": 0.6}])
    assert list(summary.outcomes(row)) == ["wrongly accepted"]
    assert list(summary.outcomes(row, 0.7)) == ["warned of"]
    # a method without confidence is always sure
    assert list(summary.outcomes(row.assign(confidence=math.nan), 0.7)) == ["wrongly accepted"]
    # a bad annotation accepts nothing
    assert list(summary.outcomes(row.assign(method=FIT, confidence=math.nan))) == ["warned of"]


def test_the_oracle_is_what_true_keypoints_give(clinic, monkeypatch):
    """A network whose descriptors find nothing has an oracle of failures, however good the annotation fits itself;
    oracles compete with no method and claim nothing."""
    shift = translation(3, 0)
    asked = []

    def answer(registrar, fixed, moving, H_1to0, points, to_moving=None):
        asked.append((points[0], points[1], H_1to0))
        return methods_module.as_registration(shift if len(asked) != 2 else None, fixed.shape[:2], moving.shape[:2])

    def register(fixed, moving):
        return methods_module.as_registration(np.eye(3), fixed.shape[:2], moving.shape[:2])

    register.seconds = {}
    monkeypatch.setattr(methods_module, "register_true_points", answer)
    monkeypatch.setattr(methods_module, "_registrar", lambda *given: register)
    records = load_layout(clinic).records
    done = evaluate(records, [LITE, IDENTITY], [Stress(), Stress(gamma=2)])
    oracles = done.rows[3:6]
    assert set(oracles.method) == {"lite, oracle keypoints"} and not set(oracles.method) & set(done.rows.method[6:])
    assert [e and e[0] for e in oracles.errors_px] == pytest.approx([3 * PX, None, math.hypot(3, 8) * PX])
    assert np.array_equal(asked[1][0], records[1].points0_xy) and np.allclose(
        asked[1][2] / asked[1][2][2, 2], translation(3, 0), atol=1e-3
    )
    table = by_method(summary.method_table(done.rows))
    assert list(table)[:2] == [FIT, "lite, oracle keypoints"]
    assert table["lite, oracle keypoints"]["failed"][0] == pytest.approx(1 / 3)
    assert table["lite, oracle keypoints"]["wrong_accepted"][0] == 0 == table[FIT]["failed"][0]
    assert list(summary.differences(done.rows, "lite").against) == ["identity"]
    assert set(summary.stress_table(done.rows).method) == {"lite", "identity"}
    lines = documents.pair_table(done.rows).to_dict("records")
    rows = {(row["pair"], row["method"], row["stress"]): row for row in lines}
    assert rows["cffa_001_01", "lite", "gamma 2"]["oracle_mean_px"] == pytest.approx(3 * PX)
    assert rows["cffa_001_01", "lite", "gamma 2"]["annotation_fit_mean_px"] == pytest.approx(0, abs=1e-3)
    assert math.isnan(rows["cffa_001_01", "identity", "as taken"]["oracle_mean_px"])


def test_the_inlier_rate_counts_matches_within_5_px_at_768(clinic, monkeypatch):
    """5 px at 768 are 0.83 px of these images; matches follow the stress; refused pairs count with their matches."""
    record = load_layout(clinic).records[1]  # true: +3 px along x
    off = np.array([0, 0.4, 0.8, 0.9, -0.8, 30])  # four of six are right

    def answer(fixed, moving):
        result = methods_module.as_registration(np.eye(3), fixed.shape[:2], moving.shape[:2])
        matches = {"matches0": GRID[:6] + np.stack([3 + off, 0 * off], 1), "matches1": warp_points(GRID[:6], R)}
        return replace(result, **matches, inliers=np.ones(6, bool)).refuse("low confidence: 0.2")

    answer.seconds = {}
    monkeypatch.setattr(methods_module, "_registrar", lambda *given: answer)
    for stress in (Stress(), Stress(turn=90)):
        R = alter(picture(), stress)[1]
        row = one(record, LITE, stress)
        assert row["inlier_rate"] == pytest.approx(4 / 6) and row["outcome"] == "refused"
    names = [row, row | {"pair": "b", "eye": "b", "inlier_rate": 0.0}, row | {"pair": "c", "eye": "c"}]
    rows = pd.DataFrame([names[0], names[1], names[2] | {"inlier_rate": math.nan}])
    (rate,) = summary.summarise(rows, seed=0).inlier_rate
    assert rate[0] == pytest.approx(1 / 3) and rate[3] == 2
    assert math.isnan(one(record)["inlier_rate"]) and summary.summarise(rows[2:], seed=0).inlier_rate[0] is None


def test_paired_differences_are_of_the_same_pairs(clinic):
    rows = evaluate(load_layout(clinic).records, [IDENTITY, Function("again", identity)]).rows
    rows["mean_px"] += 6 * (rows.method == "again")
    (line,) = summary.differences(rows, "identity").to_dict("records")
    assert (line["against"], line["pairs"], line["closer"], line["farther"]) == ("again", 3, 3, 0)
    assert line["auc25"][0] == pytest.approx((25 - 19 + 7 - 1) / 75)  # 0 → 6 px passes 19 limits, 18 → 24 px passes one


def test_the_floor_is_that_of_clicked_points_in_px_of_the_errors(clinic):
    """Clicks that scatter by 0.5 px: at 768 the errors of a perfect method and the residual are of one size; computed
    points stay out."""
    rng = np.random.default_rng(5)
    records = [
        replace(r, points0_xy=r.points0_xy + rng.normal(0, 0.5, GRID.shape))
        for r in load_layout(clinic).records[:1] * 12
    ]
    records = [replace(r, pair_id=f"p{k}", eye_id=f"e{k}") for k, r in enumerate(records)]
    done = evaluate([*records, load_layout(clinic).records[2]], [IDENTITY])
    table = by_method(summary.method_table(done.rows))
    floor, truths = table[summary.FLOOR], list(done.facts.truth)
    assert floor["pairs"] == 12 and (truths[0], truths[-1]) == ("12 point pairs", "12 computed point pairs")
    clicked = done.rows[done.rows.method == "identity"][:12]
    assert floor["median_px"][0] == pytest.approx(clicked.mean_px.mean(), rel=0.4)


# ------------------------------------------------------------------ layouts


def test_fire_protocol_on_a_tree_of_its_shape(tmp_path):
    fire_tree(tmp_path, {"S01": 0, "S02": 10, "P01": 24.5, "P37": 0, "A01": 2})
    found = load_layout(tmp_path)
    assert len(found.records) == 4 and "P37_1_2" in found.problems[0].source
    oracle, line = summary.fire_table(evaluate(found.records, [IDENTITY]).rows).to_dict("records")
    expected = {"S": (25 + 15) / 50, "P": 1 / 25, "A": 23 / 25}  # the errors, at 2912 px, are the shifts
    assert {name: line[name][0] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert line["mAUC"][0] == pytest.approx(sum(expected.values()) / 3) and line["all"][0] == pytest.approx(
        (25 + 15 + 1 + 23) / 100
    )
    assert oracle["mAUC"][0] == 1 and line["pairs"] == 4 and [line[f"{name}_pairs"] for name in "SPA"] == [2, 1, 1]


def test_affine_truth_of_another_scale(tmp_path):
    """Layout 3: the matrix is given for 256 px, the images have 512; our registrar finds what the matrix says."""
    found = load_layout(octa_tree(tmp_path))
    assert [r.points0_xy is None for r in found.records] == [True, True]
    fact, oracle, row = evaluate(found.records[:1], [LITE]).rows.to_dict("records")
    assert fact["truth"] == "matrix" and fact["max_px"] < 1e-6
    assert row["outcome"] == "acceptable" and row["mean_px"] < 8
    assert (oracle["method"], oracle["outcome"]) == ("lite, oracle keypoints", "acceptable") and oracle["mean_px"] < 3
    assert oracle["matched"] > 50, "keypoints, mapped by the matrix"
    points1, points0 = truth_points(found.records[0], (512, 512))
    assert points1.tolist() == [[0, 0], [511, 0], [511, 511], [0, 511]]


def test_pairs_without_truth_have_vessel_dice_only(clinic):
    records = [replace(r, points0_xy=None, points1_xy=None) for r in load_layout(clinic).records]
    done = evaluate(records, [IDENTITY])
    assert set(done.rows.outcome) == {"answered"} and set(done.facts.truth) == {"none"}
    assert not len(summary.method_table(done.rows)) and not len(summary.with_truth(done.rows))
    (line,) = summary.dice_table(done.rows).to_dict("records")
    # both images of a pair are the same
    assert line["pairs"] == line["compared"] == 3 and line["dice"][0] == pytest.approx(1)
    document = documents.metrics_document({}, done.rows, "identity")
    assert document["pairs_with_truth"] == 0 and document["methods"] == []


def test_every_broken_input_is_named_and_the_rest_evaluated(clinic):
    stem = operation_pair(clinic, "003_01")
    Path(f"{stem}_02.png").write_bytes(Path(f"{stem}_02.png").read_bytes()[:400])  # its header is whole
    write_points(Path(f"{operation_pair(clinic, '004_01')}_02.txt"), GRID[:11])
    operation_pair(clinic, "005_01", points=GRID[:3])
    Path(f"{operation_pair(clinic, '006_01')}_01.txt").write_text("1 2\nthree 4\n" * 3, encoding="utf-8")
    operation_pair(clinic, "007_01", (60, 0))
    operation_pair(clinic, "008_01", points=np.stack([np.linspace(5, 80, 6)] * 2, 1))
    write_points(Path(f"{operation_pair(clinic, '009_01')}_02.txt"), GRID * [-1, 1] + [120, 0])  # a mirrored annotation
    write_image(f"{operation_pair(clinic, '010_01')}_02.png", picture().astype(np.uint16) * 257)
    found = load_layout(clinic)
    done = evaluate(found.records, [IDENTITY])
    reasons = {problem.source: problem.reason for problem in found.problems + done.problems}
    for name, word in {
        "003": "damaged",
        "004": "unequal",
        "005": "only 3",
        "006": "three",
        "007": "outside",
        "008": "collinear",
        "009": "mirror",
    }.items():
        assert any(f"{name}_01" in source and word in reason for source, reason in reasons.items()), (name, reasons)
    assert (
        sorted(by_pair(done.rows)) == ["cffa_001_01", "cffa_001_02", "cffa_002_01", "cffa_010_01"] and len(reasons) == 7
    )


def test_a_damaged_mask_costs_the_dice_and_is_named(clinic, tmp_path):
    """Its header is whole, so that loading does not see it."""
    records = load_layout(clinic).records
    write_image(tmp_path / "mask.png", picture())
    (tmp_path / "mask.png").write_bytes((tmp_path / "mask.png").read_bytes()[:400])
    done = evaluate([replace(records[0], vessel_mask0=tmp_path / "mask.png"), *records[1:]], [IDENTITY])
    assert list(done.rows.dice.isna()) == [True, False, False] * 2
    (problem,) = done.problems
    assert problem.source.endswith("mask.png") and "damaged" in problem.reason and problem.pair == ""
    assert done.rows.outcome[3] == "acceptable"


def test_the_same_pairs_from_a_table_give_the_same_figures(clinic, tmp_path):
    records = load_layout(clinic).records
    write_pairs_csv(tmp_path / "table" / "pairs.csv", records)
    first, second = (evaluate(load_layout(where).records, [IDENTITY]) for where in (clinic, tmp_path / "table"))
    apart = ["seconds", "key"]
    pd.testing.assert_frame_equal(first.rows.drop(columns=apart), second.rows.drop(columns=apart))


# ------------------------------------------------------------------ resuming, side by side


def counting(monkeypatch, fail_at=None):
    """Counts the units that are computed; raises KeyboardInterrupt at the given one, as Ctrl-C does."""
    ran, run = [], runner.run_unit

    def counted(pair, *rest):
        if len(ran) == fail_at:
            raise KeyboardInterrupt
        ran.append(pair.record.pair_id)
        return run(pair, *rest)

    monkeypatch.setattr(runner, "run_unit", counted)
    return ran


def test_a_killed_run_loses_the_pair_in_hand_at_most(clinic, monkeypatch):
    records, ledger = load_layout(clinic).records, clinic / "units.jsonl"
    plan = [Stress(), Stress(turn=30)]
    whole = evaluate(records, [IDENTITY], plan)
    with monkeypatch.context() as patch:
        ran = counting(patch, fail_at=5)  # three facts and two of six registrations
        with pytest.raises(KeyboardInterrupt):
            evaluate(records, [IDENTITY], plan, ledger)
        assert len(ran) == 5 == len(read_ledger(ledger))
    ledger.write_bytes(ledger.read_bytes()[:-40])  # and the last line was cut off by the power
    ran = counting(monkeypatch)
    resumed = evaluate(records, [IDENTITY], plan, ledger)
    assert len(ran) == 5 and list(resumed.rows.errors_px) == list(whole.rows.errors_px)
    evaluate(records, [IDENTITY], plan, ledger)
    assert len(ran) == 5  # nothing twice


def other(fixed, moving):
    return np.eye(3)


def test_what_has_changed_is_computed_again(clinic, monkeypatch):
    records, ledger = load_layout(clinic).records, clinic / "units.jsonl"
    evaluate(records, [IDENTITY], keep=ledger)
    ran = counting(monkeypatch)
    moved = [replace(records[0], points0_xy=records[0].points0_xy + 1), *records[1:]]
    assert evaluate(moved, [IDENTITY], keep=ledger).rows.errors_px[3] == pytest.approx([math.sqrt(2) * PX] * 12)
    assert Counter(ran) == {"cffa_001_01": 2}
    evaluate(records, [IDENTITY, Function("again", other)], keep=ledger)
    assert len(ran) == 5, "another method on three pairs"


def test_rows_of_other_code_are_computed_again(clinic, monkeypatch):
    """A run that is continued after an update must not mix two versions."""
    records, ledger = load_layout(clinic).records[:1], clinic / "units.jsonl"
    evaluate(records, [IDENTITY], keep=ledger)
    ran = counting(monkeypatch)
    evaluate(records, [IDENTITY], keep=ledger)
    assert not ran
    monkeypatch.setattr(runner, "code_version", lambda wings: "the next")
    evaluate(records, [IDENTITY], keep=ledger)
    assert len(ran) == 2, "the pair and its registration"


def test_the_codes_version_is_that_of_every_source_and_of_torch(tmp_path, monkeypatch):
    found = set()
    monkeypatch.setattr(compute, "PACKAGE", tmp_path)
    for name, text in (("a.py", "1"), ("a.py", "2"), ("networks/b.py", "2"), ("notes.txt", "3")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        found.add(compute.code_version.__wrapped__())
    assert len(found) == 3, "two texts of one file, a file more, and a text that is no source"
    wing = compute.code_version.__wrapped__(("networks",))
    (tmp_path / "a.py").write_text("3")
    assert compute.code_version.__wrapped__() not in found, "a source of the package"
    assert compute.code_version.__wrapped__(("networks",)) == wing, "and not of this wing"
    (tmp_path / "a.py").write_text("2")
    monkeypatch.setattr(compute.torch, "__version__", "9.9")
    assert compute.code_version.__wrapped__() not in found


def test_the_ledger_passes_over_torn_lines(tmp_path):
    path = tmp_path / "new" / "units.jsonl"
    append_row(path, {"key": "a", "value": 1})
    path.write_bytes(path.read_bytes() + b'{"key": "b", "val')
    append_row(path, {"key": "c", "中": 2})
    assert read_ledger(path) == {"a": {"key": "a", "value": 1}, "c": {"key": "c", "中": 2}}
    assert read_ledger(tmp_path / "none") == read_ledger(None) == {}


def test_two_processes_find_what_one_does(clinic):
    records = load_layout(clinic).records
    alone = evaluate(records, [IDENTITY])
    with parallel_config(n_jobs=2):
        together = evaluate(records, [IDENTITY], keep=clinic / "units.jsonl")
    assert list(together.rows.errors_px) == list(alone.rows.errors_px)
    assert len(read_ledger(clinic / "units.jsonl")) == 6


def test_on_a_dask_cluster_of_two_workers(clinic):
    distributed = pytest.importorskip("distributed", reason='needs the extra: pip install "retina-kp[cluster]"')
    records = load_layout(clinic).records
    alone = evaluate(records, [IDENTITY])
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster),
    ):
        with parallel_config("dask"):
            there = evaluate(records, [IDENTITY], keep=clinic / "units.jsonl")
    assert list(there.rows.errors_px) == list(alone.rows.errors_px)
    assert len(read_ledger(clinic / "units.jsonl")) == 6


# ------------------------------------------------------------------ methods and files


def test_methods_by_name_path_and_phase(tmp_path, monkeypatch):
    lite = methods_module.SHIPPED / "lite.safetensors"
    for run in ("03_pke/first", "03_pke/second", "04_sim2real/mine"):
        target = tmp_path / run / "checkpoint.safetensors"
        target.parent.mkdir(parents=True)
        target.write_bytes(lite.read_bytes())
    found, missing = choose_methods(["lite", "phases", str(tmp_path / "03_pke" / "first")], ["SIFT+MAGSAC"], tmp_path)
    assert [m.name for m in found] == ["lite", "03_pke", "04_sim2real", "03_pke #2", "SIFT+MAGSAC"] and sorted(
        missing
    ) == [
        "01_warmup",
        "02_geometric",
    ]
    assert found[1].weights.endswith("second/checkpoint.safetensors") and [m.ours for m in found] == [True] * 4 + [
        False
    ]
    assert found[0].fingerprint() == found[1].fingerprint() != Ours("x", "lite", "quadratic").fingerprint()
    with pytest.raises(ValueError, match="at least one of ours"):
        choose_methods([], ["identity"], tmp_path)
    with pytest.raises(FileNotFoundError, match="no weights"):
        choose_methods(["lightning"], [], tmp_path)


def test_every_name_in_the_files_is_explained_and_every_explanation_used(clinic, tmp_path):
    fire_tree(tmp_path / "fire", {"S01": 0, "P01": 24.5, "A01": 2})
    records = [*load_layout(clinic).records, *load_layout(tmp_path / "fire").records]
    rows = evaluate(records, [IDENTITY, Function("again", identity)], [Stress(), Stress(gamma=2)]).rows
    rows["confidence"] = rows.confidence.mask(rows.method == "identity", 0.9)
    document = documents.metrics_document({name: "" for name in TABLES["about"]}, rows, "identity")
    assert set(document) == set(TABLES["metrics.json"]) and set(document["about"]) == set(TABLES["about"])
    tables_of = {name: document[name] for name in ("methods", "vessels", "fire", "stress", "reliability")}
    tables_of |= {"differences": document["differences"]["lines"]}
    tables_of |= {"pairs.csv": documents.pair_table(rows).to_dict("records")}
    for name, lines in tables_of.items():
        assert lines and {key for line in lines for key in line} == set(TABLES[name]), name
    assert set(TABLES) == {"metrics.json", "about", *tables_of}


def test_metrics_json_and_pairs_csv(clinic):
    rows = evaluate(load_layout(clinic).records, [IDENTITY], [Stress(), Stress(gamma=2)]).rows
    document = documents.metrics_document({"weights": ["lite"]}, rows, "identity")
    assert {(line["value"], line["state"]) for line in document["stress"]} == {(1.0, "gamma 1"), (2.0, "gamma 2")}
    assert document["annotation_residual_px"] == {"pairs": 0, "computed": 3, "median": None, "max": None}
    assert str(clinic) not in json.dumps(to_plain(document))
    table = documents.pair_table(rows)
    assert len(table) == 9 and set(table.stress) == {"as taken", "gamma 2"} and str(clinic) not in table.to_csv()
    own = table[(table.pair == "cffa_002_01") & (table.method == "identity") & (table.stress == "as taken")]
    (worst,) = own.to_dict("records")
    assert (worst["points_mean_px"], worst["outcome"]) == (60, "wrongly accepted")
    assert worst["points_mean_px_fire"] == pytest.approx(10 * 2912 / 128, abs=1e-3)
    assert worst["truth"] == "12 computed point pairs"


def test_infinite_is_written_as_such_and_unknown_as_null():
    document = to_plain({"a": [math.inf, -math.inf, math.nan, 1.5]}, documents.NOT_FINITE.get)
    assert json.loads(json.dumps(document, allow_nan=False)) == {"a": ["inf", "-inf", None, 1.5]}


def test_figures_as_text():
    row = {
        "method": "m",
        "acceptable": [0.5, 0.25, 1.0],
        "median_px": [math.inf, 12.345, math.inf],
        "dice": None,
        "difference": [-0.04, -0.1, 0.0],
    }
    (line,) = summary.readable(pd.DataFrame([row])).to_dict("records")
    assert {name: text and " ".join(text.split()) for name, text in line.items()} == {
        "method": "m",
        "acceptable": ".50 [.25, 1.00]",
        "median_px": "∞ [12.3, ∞]",
        "dice": None,
        "difference": "−.04 [−.10, .00]",
    }
    odd = pd.DataFrame([{"a": [0.999, math.nan, math.nan], "b": -0.001, "c": -1.0}])
    assert summary.readable(odd).to_dict("records") == [{"a": "1.00", "b": ".00", "c": "−1.00"}]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real development pairs are not at {REAL}")
def test_a_real_pair_has_the_evaluation_tools_errors():
    """The tool's own formula on a real pair, turned."""
    import cv2

    from retina_kp import Registrar

    registrar, ours = Registrar.from_pretrained("lite"), Ours("lite")
    record, stress = load_layout(REAL, mode="cffa").records[0], Stress(turn=150)
    # as the tool does
    fixed, moving = (cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in (record.image0, record.image1))
    moving, R = alter(moving, stress)
    q = registrar(fixed, moving).map_to_fixed(cv2.perspectiveTransform(record.points1_xy[:, None], R)[:, 0])
    expected = np.linalg.norm(q - record.points0_xy, axis=1) * 768 / max(fixed.shape[:2])
    assert one(record, ours, stress)["errors_px"] == pytest.approx(expected, abs=1e-6)


def test_records_by_hand_need_no_layout(tmp_path):
    write_image(tmp_path / "a.png", picture())
    record = PairRecord("one", "eye", "CF", "FA", tmp_path / "a.png", tmp_path / "a.png", H_0to1=np.eye(3))
    row = evaluate([record], [IDENTITY]).rows.iloc[-1]
    assert row["errors_px"] == pytest.approx([0] * 4) and row["true_scale"] == pytest.approx(1)
