"""The training notebooks on a user's own folders: what is trained on and what is left out; each loss is taught, every
setting taken."""

import dataclasses
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest

from retina_kp.core.images import write_image
from retina_kp.notebook import report, runs
from retina_kp.synthetic.pairs import write_aligned_folder
from retina_kp.training.losses import PHASES

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
SETTINGS = dataclasses.asdict(runs.Settings())
TINY = {"epochs": 1, "steps_per_epoch": 2, "batch_size": 2, "image_size": 96}
FIGURES = {"01_warmup": 6, "02_geometric": 3, "03_pke": 3, "04_sim2real": 5}


def cells(path: Path, kind: str) -> list:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == kind]


def tables(executed: Path) -> list[list[list[str]]]:
    """The tables of an executed copy: rows of cells."""
    found = []
    for cell in cells(executed, "code"):
        for output in cell.outputs:
            text = output.get("data", {}).get("text/html", "")
            if "<table>" in text:
                rows = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
                found.append([re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows])
    return found


def table(executed: Path, column: str) -> list[dict[str, str]]:
    """The rows of the first table that has a column of this name."""
    head, *rows = next(rows for rows in tables(executed) if column in rows[0])
    return [dict(zip(head, row, strict=True)) for row in rows]


# ------------------------------------------------------------------ what they take, what they teach


@pytest.mark.parametrize("stem", runs.NOTEBOOKS.values())
def test_the_cell_shows_a_dozen_and_all_settings_are_taken(stem):
    shown = report.notebook_parameters(NOTEBOOKS / f"{stem}.ipynb")
    assert len(shown) <= 16 and shown.items() <= SETTINGS.items(), "the cell's defaults are those of runs.Settings"
    assert report.accepted_parameters(NOTEBOOKS / f"{stem}.ipynb") == SETTINGS


def test_the_diagnosis_takes_the_settings_of_its_stand_in():
    path = NOTEBOOKS / "05_pke_diagnostics.ipynb"
    shown = report.notebook_parameters(path)
    assert len(shown) <= 14 and report.accepted_parameters(path) == SETTINGS | shown


@pytest.mark.parametrize(("phase", "stem"), runs.NOTEBOOKS.items())
def test_every_loss_stands_there_with_its_formula(phase, stem):
    text = "\n".join(cell.source for cell in cells(NOTEBOOKS / f"{stem}.ipynb", "markdown"))
    for loss in PHASES[phase].losses:
        assert f"`{loss.name}`: ${loss.formula}$" in text, f"{stem} does not teach {loss.name}"


def test_pseudo_real_pairs_stand_in_where_nothing_else_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "pseudo_real_folder", lambda count, seed: f"{count} pseudo-real pairs")
    named = {"runs_root": str(tmp_path), "run_name": "mine", "resume": True}
    assert runs.phase_4_settings({}).data_root == runs.phase_4_settings(named).data_root == "8 pseudo-real pairs"
    assert runs.phase_4_settings({"data_root": "data/clinic"}).data_root == "data/clinic"
    (tmp_path / "04_sim2real" / "mine").mkdir(parents=True)
    (tmp_path / "04_sim2real" / "mine" / "state.pt").touch()
    assert runs.phase_4_settings(named).data_root == "", "a run that was begun has its own"


# ------------------------------------------------------------------ on folders


@pytest.fixture(scope="module")
def eyes(tmp_path_factory) -> Path:
    """Four aligned eyes, of which the FA of one is black, in a folder whose name has a blank and Chinese signs."""
    root = write_aligned_folder(tmp_path_factory.mktemp("a") / "眼 底" / "生成 set", 4, size_px=256)
    write_image(root / "2_N" / "2_N_fa.png", np.zeros((256, 256), np.uint8))
    return root


@pytest.fixture(scope="module")
def finished(eyes, tmp_path_factory) -> dict[str, Path]:
    """The executed copies of all four, each built on the one before."""
    shared = TINY | {"run_name": "mine", "runs_root": str(tmp_path_factory.mktemp("runs")), "validation_pairs": 2}
    files = shared | {"data_root": str(eyes), "mode": ["cffa", "cfoct"]}
    given = dict.fromkeys(("01_warmup", "02_geometric", "03_pke"), files)
    given["04_sim2real"] = shared | {"replay_root": str(eyes), "mode": ["cffa"], "real_share": 0.5}
    return {stem: report.run_notebook(stem, parameters).executed for stem, parameters in given.items()}


@pytest.mark.parametrize("stem", ["01_warmup", "02_geometric", "03_pke"])
def test_counts_and_left_out_pairs_of_a_folder_are_shown(finished, stem):
    fa, oct_ = table(finished[stem], "pairs to train on")
    assert (fa["from"], fa["kind"], oct_["kind"]) == ("生成 set", "CF–FA", "CF–OCT")
    both = [int(row["pairs to train on"]) + int(row["pairs to validate on"]) for row in (fa, oct_)]
    assert both == [3, 4] and int(oct_["pairs to validate on"]) == 1
    (left_out,) = table(finished[stem], "left out")
    assert left_out["left out"] == "2_N_fa.png" and "one gray level" in left_out["why"]
    assert report.count_figures(finished[stem]) == FIGURES[stem]
    losses = [row["loss"] for row in table(finished[stem], "it asks that")]
    phase = next(phase for phase, name in runs.NOTEBOOKS.items() if name == stem)
    assert losses == [*(loss.name for loss in PHASES[phase].losses), "total"]


def test_real_pairs_and_the_generated_set_stand_beside_each_other(finished):
    executed = finished["04_sim2real"]
    real, replayed = table(executed, "pairs to train on")
    assert (real["share of a batch"], replayed["share of a batch"], replayed["from"]) == ("50%", "50%", "生成 set")
    assert int(real["with clicked points"]) == 7 and int(replayed["with a vessel mask"]) == 3
    left_out = {row["left out"] for row in table(executed, "left out")}
    assert left_out == {"004_02.png", "2_N_fa.png"}
    assert list(table(executed, "replay after")[0]) == [
        "",
        "pairs before",
        "pairs after",
        "replay before",
        "replay after",
    ]
    assert report.count_figures(executed) == FIGURES["04_sim2real"]


def test_a_lonely_eye_validates_nothing_and_stops_nothing(tmp_path):
    root = write_aligned_folder(tmp_path / "one", 1, size_px=128)
    given = TINY | {
        "data_root": str(root),
        "mode": ["cffa"],
        "init_from": "lite",
        "runs_root": str(tmp_path / "runs"),
        "run_name": "a",
    }
    executed = report.run_notebook("02_geometric", given).executed
    assert {row["after"] for row in table(executed, "after")} == {"–"}
    (left_out,) = table(executed, "left out")
    assert "one eye" in left_out["why"]
