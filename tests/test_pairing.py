"""Two folders are paired as a person would: by what the names say, never by order without a word."""

import unicodedata
from pathlib import Path

import numpy as np
import pytest

from retina_kp.core.files import as_spelled, in_project
from retina_kp.core.images import write_image
from retina_kp.data.layouts import load_layout
from retina_kp.data.pairing import pair_files
from retina_kp.evaluation.batch import find_jobs


def paired(fixed: str, moving: str, by: str = "name"):
    """Stems of the pairs, of what is alone, and the warning, for names parted by blanks."""
    sides = ([Path(side) / f"{name}.png" for name in names.split()] for side, names in (("cf", fixed), ("fa", moving)))
    found = pair_files(*sides, by)
    return [f"{a.stem}={b.stem}" for a, b in found.pairs], [path.stem for path, _ in found.alone], found.warning


@pytest.mark.parametrize(
    "fixed, moving, pairs, alone",
    [
        ("001 002 004", "001 003 004", "001=001 004=004", "002 003"),
        ("1 2 10", "01 02 10", "1=01 2=02 10=10", ""),
        ("a b", "b-fa a-fa", "a=a-fa b=b-fa", ""),
        ("003_01 004_01", "004_02 003_02", "003_01=003_02 004_01=004_02", ""),
        ("001_cf_512 002_cf_512", "001_fa 002_fa 003_fa", "001_cf_512=001_fa 002_cf_512=002_fa", "003_fa"),
        ("12_OD 12_OS", "12_left_fa 12_right_fa", "12_OD=12_right_fa 12_OS=12_left_fa", ""),
        ("IMG7_early IMG8", "FA_7 FA_8", "IMG7_early=FA_7 IMG8=FA_8", ""),
        ("7_OD 8_OD", "7_OS 8_right", "8_OD=8_right", "7_OD 7_OS"),
        ("5_a 5_b 6", "5 6", "6=6", "5_a 5_b 5"),
        ("Eye3", "eye3", "Eye3=eye3", ""),
    ],
)
def test_names_say_what_belongs_together(fixed, moving, pairs, alone):
    found, left, warning = paired(fixed, moving)
    assert (found, left) == (pairs.split(), alone.split())
    assert warning.startswith(f"{len(left)} images have no partner") if left else not warning


def test_where_no_name_agrees_the_order_decides_with_a_warning():
    pairs, alone, warning = paired("x y", "p q")
    assert (pairs, alone) == (["x=p", "y=q"], []) and "order decides" in warning
    assert paired("cf_001", "fa_002")[2] and not paired("cf_001", "fa_001")[2]
    with pytest.raises(ValueError, match="cf holds 2 images and fa 1: where names do not agree"):
        paired("x y", "p")


def test_order_on_request():
    assert paired("001 002 004", "001 003 004", "order") == (["001=001", "002=003", "004=004"], [], "")
    with pytest.raises(ValueError, match="pair_by: takes name or order, not 'size'"):
        paired("1", "1", "size")


def test_images_without_partner_are_jobs_that_say_so(tmp_path, caplog):
    for side, names in (("cf", ("001", "002", "004")), ("fa", ("001", "003", "004"))):
        for name in names:
            write_image(tmp_path / side / f"{name}.png", np.zeros((40, 40), np.uint8))
    jobs = find_jobs(tmp_path / "cf", tmp_path / "fa")
    rows = [(job.row()["fixed"], job.row()["moving"]) for job in jobs]
    assert rows == [
        ("cf/001.png", "fa/001.png"),
        ("cf/004.png", "fa/004.png"),
        ("cf/002.png", None),
        (None, "fa/003.png"),
    ]
    assert [bool(job.error) for job in jobs] == [False, False, True, True] and "no partner" in caplog.text
    assert len(find_jobs(tmp_path / "cf", tmp_path / "fa", "order")) == 3
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="empty folder 0"):
        find_jobs(tmp_path / "cf", tmp_path / "none")
    with pytest.raises(ValueError, match="no two images"):
        find_jobs(tmp_path / "none", tmp_path / "none")


# ------------------------------------------------------------------ one name, spelled in two ways


def test_accents_composed_or_not_are_one_name(tmp_path):
    short, long = (unicodedata.normalize(form, "œil_é") for form in ("NFC", "NFD"))
    assert paired(f"{short} b", f"{long} b") == ([f"{short}={long}", "b=b"], [], "")
    for name in (f"{long}_cf", f"{long}_fa"):
        write_image(tmp_path / f"{name}.png", np.zeros((40, 40), np.uint8))
    table = f"pair_id,eye_id,modality0,modality1,image0,image1\n{long},e,CF,FA,{short}_cf.png,{short}_fa.png\n"
    (tmp_path / "pairs.csv").write_text(table, encoding="utf-8")
    (tmp_path / "eyes.csv").write_text(f"pair_id,eye_id\n{short},right\n", encoding="utf-8")
    (record,) = load_layout(tmp_path).records
    assert record.image0.is_file() and (record.pair_id, record.eye_id) == (short, "right")
    assert as_spelled(tmp_path / f"{short}_cf.png").is_file() and in_project(tmp_path / f"{short}_fa.png").is_file()
    assert as_spelled(tmp_path / "né.png") == tmp_path / "né.png"
