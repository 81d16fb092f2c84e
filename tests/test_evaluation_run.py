"""Notebook 06 from end to end on trees of FIRE's and of layout 3's shape, and what it leaves behind: figures, pictures,
no path."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from evaluation_trees import fire_tree, octa_tree, operation_pair, picture
from papermill import execute_notebook

from retina_kp.core.files import project_root, write_text
from retina_kp.core.images import write_image
from retina_kp.data.layouts import load_layout
from retina_kp.data.layouts.pairs_csv import write_pairs_csv
from retina_kp.evaluation.methods import Function, Ours
from retina_kp.notebook import evaluation as evaluation_run
from retina_kp.notebook.evaluation import (
    EvaluationSettings,
    incomplete,
    left_out,
    prepare,
    provenance,
    provenance_table,
    run,
    save,
    side_by_side,
    trials,
)
from retina_kp.notebook.report import count_figures, notebook_parameters, run_notebook

NOTEBOOK = "06_real_evaluation"


def settings(root: Path, **changes) -> EvaluationSettings:
    defaults = notebook_parameters(project_root() / "notebooks" / f"{NOTEBOOK}.ipynb")
    quick = {
        "root": str(root),
        "runs_root": str(root.parent / "runs"),
        "run_name": "r",
        "baselines": ["identity"],
        "turns": [],
        "gammas": [],
    }
    return EvaluationSettings(**defaults | quick | changes)


@pytest.fixture
def clinic(tmp_path):
    """One usable pair, and one whose moving image is damaged, in a folder with a name that must not leak."""
    operation_pair(tmp_path / "Wang Li", "001_01")
    stem = operation_pair(tmp_path / "Wang Li", "002_01")
    Path(f"{stem}_02.png").write_bytes(Path(f"{stem}_02.png").read_bytes()[:400])
    return tmp_path / "Wang Li"


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The notebook run on both trees, with a backend in the environment that draws nothing: (result, folder of its
    files) by layout."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLBACKEND", "Agg")
        for name, write, given in (
            (
                "fire",
                lambda root: fire_tree(root, {"S01": 0, "S02": 10, "P01": 24.5, "P37": 0, "A01": 2}),
                {"weights": ["lite"], "turns": []},
            ),
            ("octa", octa_tree, {"hide_names": True, "turns": [180.0], "stressed_baselines": ["identity"]}),
        ):
            folder = tmp_path_factory.mktemp(name) / "Wang Li"
            write(folder)
            given |= {"root": str(folder), "baselines": ["identity"], "gammas": [], "gallery_pairs": 1}
            found[name] = run_notebook(NOTEBOOK, given, folder.parent / "out"), folder.parent / "out"
    return found


@pytest.mark.parametrize("layout", ["fire", "octa"])
def test_the_report_has_its_pictures_and_no_path(reports, layout):
    result, folder = reports[layout]
    html = result.html.read_text(encoding="utf-8")
    assert html.count('src="data:image/') == count_figures(result.executed) >= (9 if layout == "octa" else 8)
    assert len(html) < 15e6 and not re.search(r"<script|(?:src|href)=[\"']?(?:https?:)?//", html)
    executed = result.executed.read_text(encoding="utf-8")
    for text in (
        html,
        executed,
        *((folder / name).read_text(encoding="utf-8") for name in ("metrics.json", "pairs.csv")),
    ):
        assert str(folder.parents[1]) not in text
    assert html.count("Wang Li") == (0 if layout == "octa" else 1), (
        "the data set's name stands in its provenance alone, unless hidden"
    )
    assert layout == "fire" or "Wang Li" not in executed
    assert (
        all(name in html for name in ("SHA-256", "torch", "date")) and ".ipynb)" not in html and 'href="05_' not in html
    )
    assert (folder / "private" / "units.jsonl").is_file() and (folder / "private" / "key.csv").is_file() == (
        layout == "octa"
    )


def test_plain_papermill_keeps_the_pictures_under_a_backend_that_draws_nothing(tmp_path, monkeypatch):
    """Without our runner, which names a backend; charts, contact sheet, before and after, one pair: each is there, with
    its alt text."""
    operation_pair(tmp_path / "clinic", "001_01")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("PYTHONPATH", str(project_root()))
    given = {
        "root": str(tmp_path / "clinic"),
        "runs_root": str(tmp_path),
        "run_name": "r",
        "baselines": [],
        "turns": [],
        "gammas": [2.0],
    }
    notebook = project_root() / "notebooks" / f"{NOTEBOOK}.ipynb"
    execute_notebook(notebook, tmp_path / "out.ipynb", given, cwd=notebook.parent, progress_bar=False)
    pictures = [
        (mime, output.metadata.get(mime, {}).get("alt"))
        for cell in nbformat.read(tmp_path / "out.ipynb", 4).cells
        for output in cell.get("outputs", [])
        for mime in output.get("data", {})
        if mime.startswith("image/")
    ]
    assert [mime for mime, _ in pictures] == ["image/png"] * 5 + ["image/jpeg"] * 3 and all(alt for _, alt in pictures)


def test_fire_figures_are_in_the_report(reports):
    result, folder = reports["fire"]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    line = {line["method"]: line for line in metrics["fire"]}["identity"]
    assert (
        line["mAUC"][0] == pytest.approx((40 / 50 + 1 / 25 + 23 / 25) / 3)
        and metrics["schema"] == "retina_kp/real-evaluation/3"
    )
    assert "P37_1_2" in result.html.read_text(encoding="utf-8") and metrics["pairs"] == {"CF-CF": 4}


def test_hidden_names_are_numbers_everywhere(reports):
    result, folder = reports["octa"]
    html = result.html.read_text(encoding="utf-8")
    table = (folder / "pairs.csv").read_text(encoding="utf-8")
    assert "pair 001,eye 01," in table and "cfocta_v2" not in table and "cfocta_v2" not in html
    assert "pair 002,eye 02,cfocta_v2_002,002," in (folder / "private" / "key.csv").read_text()
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    ours = {line["value"]: line["acceptable"][0] for line in metrics["stress"] if line["method"] == "lite"}
    assert ours == {0.0: 1.0, 180.0: 1.0}


def test_broken_pairs_are_named_without_the_folders_above(clinic):
    plan = prepare(settings(clinic, weights=["lite"]))
    done = run(plan)
    (line,) = left_out(plan, done)
    assert "002_01" in line["where"] and "damaged" in line["why"] and "Wang Li" not in str(line)
    hidden = prepare(settings(clinic, hide_names=True, run_name="h"))
    assert left_out(hidden, done) == [{"where": "left out 1", "why": "a damaged or unreadable file"}]
    assert "002_01" in (hidden.folder / "private" / "left_out.csv").read_text(encoding="utf-8")
    document = save(plan, done)
    assert document["about"]["left_out"] and "Wang Li" not in json.dumps(
        document | {"about": document["about"] | {"data": ""}}
    )


def test_provenance_says_what_was_measured_with_what(tmp_path):
    octa_tree(tmp_path / "clinic" / "octa", (1, 2))
    write_pairs_csv(tmp_path / "clinic" / "pairs.csv", load_layout(tmp_path / "clinic" / "octa").records)
    table = (tmp_path / "clinic" / "pairs.csv").read_text().replace(",test", ",train", 1)
    row = "x,x,CF,FA,octa/CF_ts/001.png,octa/CF_ts/001.png,,,,,test\n"
    write_text(tmp_path / "clinic" / "pairs.csv", table + row)
    plan = prepare(settings(tmp_path / "clinic" / "pairs.csv", mode="cfocta", split="test"))
    known = provenance(plan)
    assert (known["data"], known["layout"], known["mode"], known["split"]) == ("clinic", "pairs_csv", "cfocta", "test")
    assert known["pairs"] == 1 and known["aside"] == {"of other modes": 1, "of other splits": 1}
    lite = hashlib.sha256(
        (Path(evaluation_run.__file__).parents[1] / "weights" / "lite.safetensors").read_bytes()
    ).hexdigest()
    assert (
        known["methods"][0] == {"name": "lite", "model": "auto", "sha256": lite[:12]}
        and known["methods"][1]["sha256"] is None
    )
    assert set(known["versions"]) >= {"retina_kp", "commit", "torch", "opencv"} and known["accept_confidence"] == 0.5
    words = dict(provenance_table(plan).to_numpy().tolist())
    assert words["pairs"] == "1; each counts as an eye of its own: intervals over pairs"
    assert trials(4, 3) == "3 eyes of 4 pairs: intervals over eyes"
    assert (
        words["usable pairs left aside by mode and split"] == "1 of other modes, 1 of other splits"
        and words["data set"] == "clinic"
    )
    assert provenance(prepare(settings(tmp_path / "clinic", hide_names=True, run_name="h")))["data"] == ""


def test_pairs_that_were_kept_are_not_among_those_left_out(clinic):
    write_image(clinic / "m.png", picture()[:, ::2])
    folder = clinic / "operation_pre_filtered_cffa" / "001_01"
    row = f"p,e,CF,FA,{folder}/001_01.png,{folder}/001_02.png,m.png"
    write_text(clinic / "pairs.csv", "pair_id,eye_id,modality0,modality1,image0,image1,vessel_mask0\n" + row)
    plan = prepare(settings(clinic))
    assert (
        left_out(plan) == [] and "proportions" in incomplete(plan)[0]["why"] and "Wang Li" not in str(incomplete(plan))
    )
    (line,) = incomplete(prepare(settings(clinic, hide_names=True, run_name="h")))
    assert line == {"where": "incomplete 1", "why": "no usable vessel mask; the pair itself was kept"}


BROKEN_ROWS = """
x_good,Xeno,CF,FA,Xeno/a.jpeg,Xeno/a.jpeg,,,1 0 0 0 1 0 0 0 1
x_good,Xeno,CF,FA,Xeno/a.jpeg,Xeno/a.jpeg,,,1 0 0 0 1 0 0 0 1
x_half,Xeno,CF,FA,Xeno/a.jpeg,Xeno/a.jpeg,Xeno/p.txt,,
x_text,Xeno,CF,FA,Xeno/a.jpeg,Xeno/a.jpeg,Xeno/p.txt,Xeno/Yves.txt,
x_wild,Xeno,CF,FA,Xeno/a.jpeg,Xeno/a.jpeg,,,Yves 0 0
x_none,Xeno,CF,FA,Xeno/a.jpeg,Xeno/Yves.tiff,,,
x_few,Xeno,CF,FA,Xeno/a.jpeg,Xeno/a.jpeg,Xeno/q.txt,Xeno/q.txt,
x_bad,Xeno,CF,FA,Xeno/a.jpeg,Xeno/b.bmp,,,
x_id,,CF,FA,Xeno/a.jpeg,Xeno/a.jpeg,,,
"""


def test_hidden_names_leak_from_no_reason(tmp_path):
    """Ids, names of files and what stands in them come from reasons of every kind; none may reach what is shared."""
    root = tmp_path / "clinic"
    write_image(root / "Xeno" / "a.jpeg", picture())
    write_text(root / "Xeno" / "b.bmp", "Yves")
    for name, text in (("p", "1 2\n3 40\n50 6\n70 80\n"), ("q", "1 2\n"), ("Yves", "1 2\nYves 5\n")):
        write_text(root / "Xeno" / f"{name}.txt", text)
    header = "pair_id,eye_id,modality0,modality1,image0,image1,points0,points1,H_0to1"
    write_text(root / "pairs.csv", header + BROKEN_ROWS)
    plan = prepare(settings(root, hide_names=True))
    document = save(plan, run(plan))
    rows = document["about"]["left_out"]
    assert len(rows) == 8 and len({row["why"] for row in rows}) >= 7
    shared = json.dumps(document) + (plan.folder / "pairs.csv").read_text(encoding="utf-8")
    assert not re.search(r"Xeno|Yves|\bx_|\.jpeg|\.txt|clinic", shared), re.findall(
        r".{20}(?:Xeno|Yves|clinic).{20}", shared
    )
    assert re.search("Yves", (plan.folder / "private" / "left_out.csv").read_text(encoding="utf-8"))


def test_a_second_run_of_the_name_goes_on(clinic, monkeypatch):
    first = run(prepare(settings(clinic)))
    # nothing is registered any more
    for method in (Ours, Function):
        monkeypatch.setattr(method, "answer", None)
    again = run(prepare(settings(clinic)))
    pd.testing.assert_frame_equal(again.rows, first.rows)
    assert len(again.facts) == 1


def test_a_function_of_ones_own_stands_beside_ours_and_under_stress(clinic):
    def mine(fixed, moving):
        return np.eye(3)

    plan = prepare(settings(clinic, gammas=[2.0]), [mine])
    assert [method.name for method in plan.methods] == ["lite", "identity", "mine"] and plan.first == "lite"
    rows = run(plan).rows
    assert list(rows.stress[rows.method == "mine"]) == ["as taken", "gamma 2"]
    assert list(rows.stress[rows.method == "identity"]) == ["as taken"]


def test_a_split_and_settings_that_make_no_sense(tmp_path, clinic):
    octa_tree(tmp_path / "octa", (1,))
    assert len(prepare(settings(tmp_path / "octa", split="test")).records) == 1
    with pytest.raises(ValueError, match="no pair of split 'train'"):
        prepare(settings(tmp_path / "octa", split="train"))
    for wrong, word in (
        ({"processes": 0}, "processes"),
        ({"accept_confidence": 2.0}, "accept_confidence"),
        ({"stressed_baselines": ["ECC"]}, "ECC"),
    ):
        with pytest.raises(ValueError, match=word):
            settings(clinic, **wrong)
    write_image(tmp_path / "pairs" / "a.png", picture())
    write_text(
        tmp_path / "pairs" / "pairs.csv",
        "pair_id,eye_id,modality0,modality1,image0,image1\np,e,CF,FA,a.png,missing.png\n",
    )
    with pytest.raises(ValueError, match="no pair to evaluate .*missing.png: no such file"):
        prepare(settings(tmp_path / "pairs"))


def test_a_cluster_needs_its_extra_and_gets_the_work(monkeypatch):
    distributed = pytest.importorskip("distributed", reason='needs the extra: pip install "retina-kp[cluster]"')
    from joblib import Parallel, delayed

    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        with side_by_side(cluster=cluster.scheduler_address):
            assert sorted(Parallel()(delayed(abs)(k) for k in (-1, -2))) == [1, 2]
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(ImportError, match=r"retina-kp\[cluster\]"), side_by_side(cluster="tcp://nowhere:1"):
        pass
