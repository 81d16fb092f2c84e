"""Many pairs: what is found, what is written, and how bad input is told."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from retina_kp import PairOptions, Registration, draw_pair
from retina_kp.cli.main import cli
from retina_kp.core.images import read_image, shrink, write_image
from retina_kp.data.layouts.pairs_csv import write_pairs_csv
from retina_kp.data.records import PairRecord
from retina_kp.evaluation.batch import _truth_errors, display_copies, find_jobs, has_truth, run_job, run_jobs
from retina_kp.mapping.result import refused
from retina_kp.notebook import report
from retina_kp.registration.registrar import WHAT_TO_TRY
from retina_kp.synthetic.pairs import write_aligned_folder

EASY = PairOptions(size_px=512, rotation_deg=12, scale=(0.9, 1.1), min_overlap=0.7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """fixed/a.png, fixed/b.png with partners of the same order in moving/, and a pairs.csv that knows the truth of
    a."""
    root, pair = tmp_path_factory.mktemp("pairs"), draw_pair(11, 4, ("CF", "FA"), EASY)
    for name in "ab":
        write_image(root / "fixed" / f"{name}.png", pair.fixed)
        write_image(root / "moving" / f"{name}-fa.png", pair.moving)
    record = PairRecord(
        "a", "eye", "CF", "FA", root / "fixed" / "a.png", root / "moving" / "a-fa.png", H_0to1=pair.H_0to1
    )
    write_pairs_csv(root / "pairs.csv", [record])
    return root


def test_two_folders_pair_by_order(folder):
    jobs = find_jobs(folder / "fixed", folder / "moving")
    assert [(j.name, j.moving.name) for j in jobs] == [("a-fa-on-a", "a-fa.png"), ("b-fa-on-b", "b-fa.png")]


def test_two_files(folder):
    (job,) = find_jobs(folder / "fixed" / "a.png", folder / "moving" / "b-fa.png")
    assert job.name == "b-fa-on-a" and job.record is None


def test_numbers_in_names_count_as_numbers(tmp_path):
    for side, names in (("fixed", ("1", "2", "10")), ("moving", ("01", "02", "10", "._10"))):
        for name in names:
            write_image(tmp_path / side / f"{name}.png", np.zeros((40, 40), np.uint8))
    jobs = find_jobs(tmp_path / "fixed", tmp_path / "moving")
    assert [job.row() for job in jobs][1:] == [
        {"pair": "02-on-2", "fixed": "fixed/2.png", "moving": "moving/02.png"},
        {"pair": "10", "fixed": "fixed/10.png", "moving": "moving/10.png"},
    ]


def test_names_of_files_differ(tmp_path):
    """Stems that repeat, that differ by capitals or by what no file name holds, and that of the table of the run."""
    for side in ("fixed", "moving"):
        for name in ("a.png", "a.jpg", "A#.png", "metrics.png"):
            write_image(tmp_path / side / name, np.zeros((40, 40), np.uint8))
    assert sorted(job.name for job in find_jobs(tmp_path / "fixed", tmp_path / "moving")) == [
        "A_",
        "a",
        "a-2",
        "metrics-2",
    ]
    ids = ["a/1", "a:1", "A_1", "../..", "eye 1.5", "x" * 300, "x" * 301]
    picture = tmp_path / "fixed" / "a.png"
    write_pairs_csv(tmp_path / "pairs.csv", [PairRecord(i, "eye", "CF", "FA", picture, picture) for i in ids])
    jobs = find_jobs(tmp_path)
    assert [job.name for job in jobs] == ["a_1", "a_1-2", "A_1-3", "_", "eye 1.5", "x" * 80, "x" * 80 + "-2"]
    assert [job.record.pair_id for job in jobs] == ids


def test_jobs_of_one_name_are_refused(registrar, folder, tmp_path):
    jobs = find_jobs(folder / "fixed", folder / "moving")
    with pytest.raises(ValueError, match="called 'a-fa-on-a'"):
        run_jobs(registrar, [*jobs, *jobs], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unequal_folders_are_refused(folder, tmp_path):
    write_image(tmp_path / "x.png", np.zeros((40, 40), np.uint8))
    with pytest.raises(ValueError, match="2 images and .* 1"):
        find_jobs(folder / "fixed", tmp_path)


def test_missing_and_mixed_paths_are_named(folder):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_jobs("nowhere", folder / "moving")
    with pytest.raises(FileNotFoundError, match="moving: .*nowhere"):
        find_jobs(folder / "fixed", "nowhere")
    with pytest.raises(ValueError, match="both"):
        find_jobs(folder / "fixed", folder / "moving" / "a-fa.png")


def test_what_was_not_given_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match="fixed: no path given"):
        find_jobs("", folder / "moving")
    with pytest.raises(ValueError, match="moving: no path given; which image is to be registered to .*a.png"):
        find_jobs(folder / "fixed" / "a.png")
    with pytest.raises(
        ValueError, match="moving: no path given, so fixed must be a data set, but .*fixed: nothing known is in here"
    ):
        find_jobs(folder / "fixed")
    with pytest.raises(ValueError, match="leave moving empty"):
        find_jobs(folder / "pairs.csv", folder / "moving")
    (tmp_path / "pairs.csv").write_text("pair_id\n")
    with pytest.raises(ValueError, match="^[^:]*pairs.csv: the columns eye_id"):
        find_jobs(tmp_path / "pairs.csv")


def test_home_is_understood(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    assert [job.fixed for job in find_jobs("~/fixed", "~/moving")] == [
        folder / "fixed" / "a.png",
        folder / "fixed" / "b.png",
    ]
    assert find_jobs("~/pairs.csv")[0].fixed == folder / "fixed" / "a.png"


def operation_set(root: Path) -> None:
    """One pair of layout 2."""
    for side in ("01", "02"):
        pair = root / "operation_pre_filtered_cffa" / "003_01" / f"eye_{side}"
        write_image(pair.with_suffix(".png"), np.zeros((50, 60), np.uint8))
        pair.with_suffix(".txt").write_text("1 1\n50 2\n3 40\n44 45\n")


def fire(root: Path) -> None:
    """One pair of FIRE."""
    for side in "12":
        write_image(root / "Images" / f"S01_{side}.jpg", np.zeros((50, 60), np.uint8))
    (root / "Ground Truth").mkdir()
    (root / "Ground Truth" / "control_points_S01_1_2.txt").write_text(
        "1 1 1 1\n900 2 900 2\n3 940 3 940\n944 945 944 945\n"
    )


def cf_octa(root: Path) -> None:
    """One pair of CF_OCTA_v2."""
    write_image(root / "CF_ts" / "007.png", np.zeros((50, 60), np.uint8))
    write_image(root / "OCTA_ts" / "007OCTA.png", np.zeros((50, 60), np.uint8))
    (root / "GT_CF_to_OCTA").mkdir()
    (root / "GT_CF_to_OCTA" / "007_CF_to_OCTA_affine.txt").write_text("1 0 5\n0 1 2\n")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (operation_set, "cffa_003_01"),
        (fire, "S01_1_2"),
        (cf_octa, "cfocta_v2_007"),
        (lambda root: write_aligned_folder(root, 1, size_px=64), "cffa_1_N"),
    ],
)
def test_every_layout_is_taken(tmp_path, make, name):
    make(tmp_path)
    jobs = find_jobs(tmp_path)
    assert jobs[0].name == name and jobs[0].fixed.is_file() and jobs[0].moving.is_file() and has_truth(jobs[0].record)


def test_a_bad_row_stays_as_failed_with_its_reason(folder, registrar, tmp_path):
    head = "pair_id;eye_id;modality0;modality1;image0;image1;points0;points1\n"
    rows = [
        "a;1;CF;FA;fixed/a.png;moving/none.png",
        "",
        "b;1;CF;FA;fixed/b.png;moving/b-fa.png",
        "a;1;CF;FA;fixed/a.png;moving/a-fa.png;p;p",
    ]
    (tmp_path / "pairs.csv").write_text(
        head + "\n".join(rows) + "\n;;;;;\nb;1;CF;FA;fixed/b.png;moving/b-fa.png\n", encoding="utf-8-sig"
    )
    for side in ("fixed", "moving"):
        shutil.copytree(folder / side, tmp_path / side)
    outcomes = run_jobs(registrar, find_jobs(tmp_path), tmp_path / "out")
    rows = {o.job.name: o.row() for o in outcomes}
    assert list(rows) == ["b", "a", "a-2", "b-2"] and outcomes[0].result.ok
    assert (
        rows["a"]["status"].startswith("failed: pairs.csv, line 2: ")
        and "none.png: no such file" in rows["a"]["status"]
    )
    assert "p: no such file" in rows["a-2"]["status"] and "duplicate" in rows["b-2"]["status"]
    assert outcomes[1].job.row() == {"pair": "a", "fixed": None, "moving": None} and rows["a"]["confidence"] == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "b.json",
        "b.tfm",
        "b_registered.png",
        "b_transformation.txt",
    ]


def test_a_table_without_any_usable_pair_is_told(tmp_path):
    (tmp_path / "pairs.csv").write_text("pair_id,eye_id,modality0,modality1,image0,image1\na,1,CF,FA,x.png,y.png\n")
    with pytest.raises(ValueError, match="no usable pair: .*line 2: .*x.png: no such file"):
        find_jobs(tmp_path)


def test_display_copies_are_small_and_belong_together(folder, registrar):
    (outcome,) = (run_job(registrar, job) for job in find_jobs(folder / "pairs.csv"))
    fixed, moving, small = display_copies(outcome, 128)
    assert fixed.shape == (128, 128, 3) and moving.shape == (128, 128) and small.warp(moving).shape == (128, 128)
    assert small.matches0 == pytest.approx((outcome.result.matches0 + 0.5) / 4 - 0.5)
    whole, same = (
        shrink(outcome.result.warp(read_image(outcome.job.moving)), 128),
        outcome.result.resized((128, 128), (512, 512)),
    )
    seen = shrink(outcome.result.covered().astype(np.uint8) * 255, 128) == 255
    assert np.abs(small.warp(moving).astype(float) - whole)[seen].mean() < 2 and same.covered()[seen].all()
    assert display_copies(outcome, 5000)[0].shape == (512, 512, 3)


def test_a_csv_brings_truth_and_everything_is_written(folder, registrar, tmp_path):
    (outcome,) = run_jobs(registrar, find_jobs(folder / "pairs.csv"), tmp_path)
    assert outcome.result.ok and outcome.errors_px.shape == (4,) and outcome.errors_px.mean() <= 5
    row = outcome.row()
    assert row["status"] == "ok" and row["verdict"] == "acceptable"
    assert row["mean_error_px"] == pytest.approx(outcome.errors_px.mean(), abs=0.01)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.tfm", "a_registered.png", "a_transformation.txt"]
    assert read_image(tmp_path / "a_registered.png").shape == (512, 512)
    assert json.loads((tmp_path / "a.json").read_text())["ok"] is True


def test_an_unreadable_image_is_an_outcome(folder, registrar, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    (job,) = find_jobs(tmp_path / "broken.png", folder / "moving" / "a-fa.png")
    outcome = run_job(registrar, job)
    assert outcome.result is None and "broken.png" in outcome.error and outcome.row()["inliers"] == 0


def test_files_of_kinds_that_are_not_read_are_told(tmp_path, caplog):
    for side in ("fixed", "moving"):
        write_image(tmp_path / side / "a.png", np.zeros((40, 40), np.uint8))
        (tmp_path / side / "a.e2e").touch()
    assert len(find_jobs(tmp_path / "fixed", tmp_path / "moving")) == 1
    assert caplog.text.count("1 files left out, of kinds that are not read: 1 .e2e") == 2


@pytest.mark.parametrize("error", [MemoryError("Unable to allocate 9 GiB"), cv2.error("resize failed"), KeyError("x")])
def test_any_error_of_one_pair_is_an_outcome(error, folder, tmp_path, caplog):
    """The next pair is registered, and the log has where it happened."""
    answers = iter([error, refused("too few matches", (512, 512), (512, 512))])

    def registrar(fixed, moving):
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    bad, good = run_jobs(registrar, find_jobs(folder / "fixed", folder / "moving"), tmp_path)
    assert bad.row()["status"].startswith(f"failed: {type(error).__name__}: ") and "Traceback" in caplog.text
    assert good.result.status == "too few matches" and [p.name for p in tmp_path.iterdir()] == ["b-fa-on-b.json"]


def test_an_image_that_cannot_be_warped_is_an_outcome(folder, tmp_path, monkeypatch):
    ok = Registration("ok", np.eye(3), 1.0, *np.zeros((2, 0, 2)), np.zeros(0, bool), (512, 512), (512, 512))
    monkeypatch.setattr(Registration, "warp", lambda self, moving: np.zeros(10**18))
    (outcome,) = run_jobs(
        lambda fixed, moving: ok, find_jobs(folder / "fixed" / "a.png", folder / "fixed" / "a.png"), tmp_path
    )
    assert not outcome.ok and "allocate" in outcome.error and not list(tmp_path.iterdir())


def dark(folder):
    """The fixed image of a with few gray levels left, and a camera's noise."""
    image = read_image(folder / "fixed" / "a.png") * 0.008
    return np.rint(image + np.random.default_rng(0).normal(0, 1, image.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("why", ["no structure visible", "too dark: the brightest parts of the fixed image reach"])
def test_a_refused_pair_leaves_its_reason_and_no_transform(folder, registrar, tmp_path, why):
    image = dark(folder) if "dark" in why else np.full((200, 200), 90, np.uint8)
    write_image(tmp_path / "bad.png", image)
    (outcome,) = run_jobs(registrar, find_jobs(tmp_path / "bad.png", folder / "moving" / "a-fa.png"), tmp_path / "out")
    assert not outcome.result.ok and outcome.row()["turn_deg"] is None
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a-fa-on-bad.json"]
    assert json.loads((tmp_path / "out" / "a-fa-on-bad.json").read_text())["status"].startswith(why)


@pytest.mark.parametrize(
    ("image", "left"), [(b"no image", []), (np.full((200, 200), 90, np.uint8), ["a-fa-on-a.json"])]
)
def test_a_second_run_of_a_name_leaves_nothing_of_the_first(folder, registrar, tmp_path, image, left):
    """Registered at first; then the moving image can no longer be read, or shows nothing."""
    shutil.copytree(folder / "moving", tmp_path / "moving")
    (job, _) = find_jobs(folder / "fixed", tmp_path / "moving")
    run_jobs(registrar, [job], tmp_path / "out")
    assert (tmp_path / "out" / "a-fa-on-a_registered.png").is_file()
    job.moving.write_bytes(image) if isinstance(image, bytes) else write_image(job.moving, image)
    run_jobs(registrar, [job], tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == left


@pytest.mark.parametrize(
    "truth", [{"H_0to1": np.eye(3)}, {"points0_xy": np.full((7, 2), 50.0), "points1_xy": np.full((7, 2), 50.0)}]
)
def test_the_error_is_that_of_the_whole_transform(truth):
    """A stand-in result whose matrix is right and whose bent part is 5 px off."""
    result = SimpleNamespace(
        ok=True, H_1to0=np.eye(3), moving_hw=(768, 768), fixed_hw=(768, 768), map_to_fixed=lambda xy: xy + [3, 4]
    )
    record = PairRecord("a", "a", "CF", "FA", Path("a.png"), Path("b.png"), **truth)
    assert np.allclose(_truth_errors(record, result), 5)


# ------------------------------------------------------------------ the notebook


@pytest.fixture
def table(folder, tmp_path) -> Path:
    """A pairs.csv in a folder of its own: one pair that registers, one without its moving image."""
    head, row = "pair_id;eye_id;modality0;modality1;image0;image1\n", f"1;CF;FA;{folder / 'fixed' / 'a.png'};"
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "pairs.csv").write_text(
        f"{head}none;{row}none.png\ngood;{row}{folder / 'moving' / 'a-fa.png'}\n"
    )
    return tmp_path / "set"


def test_the_notebook_keeps_failed_pairs_and_writes_into_one_folder(table, tmp_path):
    parameters = {"fixed": str(table), "device": "cpu", "pair_index": 1}
    result = report.run_notebook("07_register", parameters, tmp_path / "out")
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = {row["pair"]: row for row in csv.DictReader(file)}
    assert rows["good"]["status"] == "ok" and rows["good"]["moving"] == "moving/a-fa.png"
    assert rows["none"]["status"].startswith("failed: pairs.csv, line 2: ") and "no such file" in rows["none"]["status"]
    assert [row["pair"] for row in json.loads((tmp_path / "out" / "metrics.json").read_text())["pairs"]] == [
        "good",
        "none",
    ]
    assert "good.tfm" in {path.name for path in result.html.parent.iterdir()}
    assert "none.png: no such file" in result.html.read_text(encoding="utf-8")


def test_the_notebook_names_the_range_of_pair_index(table, tmp_path):
    with pytest.raises(ValueError, match="^07_register: pair_index: takes 0 to 1, as there are 2 pairs; not 2$"):
        report.run_notebook("07_register", {"fixed": str(table), "device": "cpu", "pair_index": 2}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_report_of_refusals_has_no_empty_section_and_exit_code_1(folder, tmp_path, capsys):
    write_image(tmp_path / "fixed" / "a.png", np.full((200, 200), 90, np.uint8))
    write_image(tmp_path / "fixed" / "b.png", dark(folder))
    files = (f"-p fixed {tmp_path / 'fixed'} -p moving {folder / 'moving'}").split()
    with pytest.raises(SystemExit) as ended:
        cli.main(["report", "07_register", *files, "-o", str(tmp_path / "out")])
    assert ended.value.code == 1 and "no pair was registered" in capsys.readouterr().err
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "a-fa-on-a" in html and "no structure visible" in html and WHAT_TO_TRY in html
    assert "b-fa-on-b" in html and "too dark: the brightest parts of the fixed image reach" in html
    assert not any(title in html for title in ("at a glance", "checkerboard<", "Swipe<", "The matrix,"))
