"""Many pairs: what is found, what is written, and how bad input is told."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from retina_kp import PairOptions, Registrar, draw_pair
from retina_kp.images import read_image, write_image
from retina_kp.jobs import _truth_errors, find_jobs, run_job, run_jobs
from retina_kp.records import PairRecord, write_pairs_csv

EASY = PairOptions(size_px=512, rotation_deg=12, scale=(0.9, 1.1), min_overlap=0.7)


@pytest.fixture(scope="module")
def registrar():
    return Registrar.from_pretrained("lite", device="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """fixed/a.png, fixed/b.png with partners of the same order in moving/, and a pairs.csv that knows the truth of a."""
    root, pair = tmp_path_factory.mktemp("pairs"), draw_pair(11, 4, ("CF", "FA"), EASY)
    for name in "ab":
        write_image(root / "fixed" / f"{name}.png", pair.fixed)
        write_image(root / "moving" / f"{name}-fa.png", pair.moving)
    record = PairRecord("a", "eye", "CF", "FA", root / "fixed" / "a.png", root / "moving" / "a-fa.png", H_0to1=pair.H_0to1)
    write_pairs_csv(root / "pairs.csv", [record])
    return root


def test_two_folders_pair_by_order(folder):
    jobs = find_jobs(folder / "fixed", folder / "moving")
    assert [(j.name, j.moving.name) for j in jobs] == [("a", "a-fa.png"), ("b", "b-fa.png")]


def test_two_files(folder):
    (job,) = find_jobs(folder / "fixed" / "a.png", folder / "moving" / "b-fa.png")
    assert job.name == "a" and job.record is None


def test_unequal_folders_are_refused(folder, tmp_path):
    write_image(tmp_path / "x.png", np.zeros((40, 40), np.uint8))
    with pytest.raises(ValueError, match="2 images and .* 1"):
        find_jobs(folder / "fixed", tmp_path)


def test_missing_and_mixed_paths_are_named(folder):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_jobs("nowhere", folder / "moving")
    with pytest.raises(FileNotFoundError, match="moving"):
        find_jobs(folder / "fixed")
    with pytest.raises(ValueError, match="both"):
        find_jobs(folder / "fixed", folder / "moving" / "a-fa.png")


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


def test_a_refused_pair_leaves_its_reason_and_no_transform(folder, registrar, tmp_path):
    write_image(tmp_path / "blank.png", np.full((200, 200), 90, np.uint8))
    (outcome,) = run_jobs(registrar, find_jobs(tmp_path / "blank.png", folder / "moving" / "a-fa.png"), tmp_path / "out")
    assert not outcome.result.ok and outcome.row()["turn_deg"] is None
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["blank.json"]


@pytest.mark.parametrize("truth", [{"H_0to1": np.eye(3)}, {"points0_xy": np.full((7, 2), 50.0), "points1_xy": np.full((7, 2), 50.0)}])
def test_the_error_is_that_of_the_whole_transform(truth):
    """A stand-in result whose matrix is right and whose bent part is 5 px off."""
    result = SimpleNamespace(ok=True, H_1to0=np.eye(3), moving_hw=(768, 768), fixed_hw=(768, 768), map_to_fixed=lambda xy: xy + [3, 4])
    record = PairRecord("a", "a", "CF", "FA", Path("a.png"), Path("b.png"), **truth)
    assert np.allclose(_truth_errors(record, result), 5)
