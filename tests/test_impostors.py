"""Impostors: the right images are put together, all of them are refused, and the table counts as one would by hand."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from evaluation_trees import operation_pair

from retina_kp.data.layouts import load_layout
from retina_kp.data.records import PairRecord
from retina_kp.evaluation import runner
from retina_kp.evaluation.calibration import FRAMED, OTHER, OTHER_MIRRORED, OWN_MIRRORED, ImpostorPair
from retina_kp.evaluation.methods import Ours
from retina_kp.evaluation.real_pairs import RealPair
from retina_kp.evaluation.runner import measure
from retina_kp.evaluation.timing import TimedRegistrar
from retina_kp.studies import impostors
from retina_kp.studies.impostors import accepted, draw_impostors, table_of
from retina_kp.synthetic.pseudo_real import write_pseudo_real

LITE = Ours("lite", device="cpu")


def record(name: str, eye: str, moving: str = "FA") -> PairRecord:
    return PairRecord(name, eye, "CF", moving, f"{name}_0.png", f"{name}_1.png")


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """Three pairs, the first two of one eye."""
    return write_pseudo_real(tmp_path_factory.mktemp("clinic"), 3, seed=2)


def test_every_image_meets_the_other_eyes_of_its_kind_and_mirrors():
    found = draw_impostors([record("a", "1"), record("b", "1"), record("c", "2"), record("d", "3", "OCT")])
    names = {(i.fixed.record.pair_id, i.moving.record.pair_id, i.what) for i in found}
    two_eyes = {("a", "c"), ("b", "c"), ("c", "a"), ("c", "b")}
    assert names == {(*pair, what) for pair in two_eyes for what in (OTHER, OTHER_MIRRORED, FRAMED)} | {
        (n, n, OWN_MIRRORED) for n in "abcd"
    }
    assert len(found) == len(names) and {i.about()["kind"] for i in found} == {"CF-FA", "CF-OCT"}


def test_the_limit_holds_for_each_kind_and_sort():
    records = [record(str(k), str(k)) for k in range(6)]
    few = draw_impostors(records, most=4)
    assert [sum(i.what == what for i in few) for what in (OTHER, OTHER_MIRRORED, FRAMED, OWN_MIRRORED)] == [4] * 4
    assert few == draw_impostors(records, most=4) != draw_impostors(records, most=4, seed=1)


def test_two_eyes_and_mirrored_images_are_refused(clinic, tmp_path):
    records = load_layout(clinic).records
    found = [i for i in draw_impostors(records) if i.fixed.record == records[0]]
    rows = accepted(measure(found, [LITE], tmp_path / "kept.jsonl"))
    assert list(rows.what) == [OTHER, OTHER_MIRRORED, FRAMED, OWN_MIRRORED] and not rows.accepted.any()
    assert (rows.confidence < 0.5).all() and "ok" not in set(rows.status) and not rows.genuine.any()


def test_two_eyes_on_one_page_share_its_print(clinic):
    one, _, two = map(RealPair, load_layout(clinic).records)
    page = ImpostorPair(one, two, FRAMED)
    seen, again = page.load(), page.load()
    same = seen.fixed == seen.moving
    assert np.array_equal(seen.fixed, again.fixed) and seen.truth is None
    assert seen.fixed.shape == seen.moving.shape and 0.01 < same.mean() < 0.9
    assert not np.array_equal(seen.fixed, ImpostorPair(two, one, FRAMED).load().moving)


def test_what_was_tried_is_not_tried_again(clinic, tmp_path, monkeypatch):
    found, kept = draw_impostors(load_layout(clinic).records, most=1), tmp_path / "kept.jsonl"
    made_up = {"failed": False, "confidence": 0.1}
    monkeypatch.setattr(
        runner,
        "run_unit",
        lambda pair, method, key, how: made_up | {"key": key, "status": "ok" if pair.what == OTHER else "low"},
    )
    rows = measure(found, [LITE], kept)
    monkeypatch.setattr(runner, "run_unit", None)
    assert measure(found, [LITE], kept).equals(rows) and accepted(rows).accepted.sum() == 1
    with pytest.raises(TypeError):
        measure(found, [Ours("other", model="homography")], kept)


def test_a_crash_is_no_refusal_and_is_tried_again(clinic, tmp_path, monkeypatch):
    found, kept = draw_impostors(load_layout(clinic).records, most=1)[:1], tmp_path / "kept.jsonl"
    LITE.prepare()
    monkeypatch.setattr(TimedRegistrar, "__call__", lambda *images: 1 / 0)
    rows = accepted(measure(found, [LITE], kept))
    assert rows.failed[0] and "ZeroDivisionError" in rows.status[0] and not kept.exists()
    only, everything = table_of(rows).to_dict("records")
    assert only["failed"] == 1 and only["share at most"] is None is everything["highest confidence"]


def test_table_by_hand():
    rows = [
        {"kind": "CF-FA", "what": OTHER, "accepted": k == 0, "failed": False, "confidence": 0.1 * (9 - k)}
        for k in range(5)
    ]
    rows += [{"kind": "CF-OCT", "what": OWN_MIRRORED, "accepted": False, "failed": False, "confidence": 0.2}] * 5
    rows += [{"kind": "CF-OCT", "what": OWN_MIRRORED, "accepted": False, "failed": True, "confidence": 0.0}]
    first, second, everything = table_of(pd.DataFrame(rows)).to_dict("records")
    assert (first["kind"], first["tried"], first["accepted"], first["highest confidence"]) == ("CF-FA", 5, 1, 0.9)
    assert (second["tried"], second["failed"], second["accepted"]) == (6, 1, 0)
    assert second["share at most"] == pytest.approx(1 - 0.025 ** (1 / 5), abs=1e-3)  # (1 - p)^5 = 2.5 %
    assert (everything["kind"], everything["tried"], everything["accepted"]) == ("all", 11, 1)


def test_from_a_shell(tmp_path, monkeypatch, capsys):
    operation_pair(tmp_path / "data", "001_01")
    stem = operation_pair(tmp_path / "data", "002_01", seed=1)
    torn = Path(f"{stem}_02.png")
    torn.write_bytes(torn.read_bytes()[:200])
    monkeypatch.setattr("sys.argv", ["impostors", str(tmp_path / "data"), "--out", str(tmp_path / "out")])
    assert impostors.main() == 0
    table = list(csv.DictReader((tmp_path / "out" / "impostors.csv").open()))
    assert [(row["what"], row["accepted"]) for row in table] == [(OWN_MIRRORED, "False")] and "key" not in table[0]
    told = capsys.readouterr().out
    assert "its own, mirrored" in told and "left out, " in told and "002_02.png" in told


@pytest.mark.parametrize("arguments", [["nowhere"], [".", "--weights", "nowhere"]])
def test_what_does_not_exist_is_told(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["impostors", *arguments])
    with pytest.raises(SystemExit):
        impostors.main()
    assert "nowhere" in capsys.readouterr().err
