"""Oracle tests of the layouts, of bad data and of the pairs table, on small trees of odd sizes."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from retina_kp.core.geometry import as_homography, rescale_homography, resize_matrix, warp_points
from retina_kp.core.images import to_gray, write_image
from retina_kp.core.vessels import field_of_view_mask
from retina_kp.data.annotation import check_points, parse_numbers, read_number_rows
from retina_kp.data.layouts import LAYOUTS, load_layout
from retina_kp.data.layouts.files import left_out
from retina_kp.data.layouts.pairs_csv import CSV_COLUMNS, write_pairs_csv
from retina_kp.data.records import Inventory, PairRecord, landmarks
from retina_kp.synthetic.pairs import PairOptions, draw_pair

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "real-dev"
CF_HW, FA_HW = (313, 471), (257, 201)
H_TRUE = np.array([[0.52, 0.06, 12.5], [-0.04, 0.61, 20.25], [1e-5, -2e-5, 1.0]])
POINTS0 = np.array([[0.0, 0.0], [40.25, 60.5], [200, 31], [122.125, 200], [260, 250], [300.5, 100]])
POINTS1 = warp_points(POINTS0, H_TRUE)


def image(path, hw, value=90):
    write_image(path, np.full(hw, value, np.uint8))
    return path


def text(path, rows, between=" "):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(between.join(repr(float(v)) for v in row) + "\n" for row in rows))
    return path


def reason(inventory, name):
    """The reasons of all problems whose source mentions the name."""
    return " | ".join(p.reason for p in inventory.problems if name in p.source)


# ------------------------------------------------------------------ layout 1


def generated_folder(
    root, name, endings=("cf_512", "fa_gen", "oct_gen", "seg", "cf_clip_512", "octa_gen", "seg_clip"), hw=(64, 96)
):
    for ending in endings:
        image(root / name / f"{name}_{ending}.png", hw)


def test_generated_loads_every_mode_with_the_first_name_and_known_truth(tmp_path):
    generated_folder(tmp_path, "10_N", ("cf_512", "cf", "fa", "fa_gen", "oct", "seg", "cf_clip", "octa", "seg_clip"))
    generated_folder(tmp_path, "2_A")
    (tmp_path / "vessels_1").mkdir()
    found = load_layout(tmp_path)
    assert not found.problems
    assert [r.pair_id for r in found.records] == [
        f"{m}_{i}" for m in ("cffa", "cfoct", "octfa", "cfocta") for i in ("2_A", "10_N")
    ]
    record = found.records[1]
    assert (record.eye_id, record.modality0, record.modality1) == ("10_N", "CF", "FA")
    assert [p.name for p in (record.image0, record.image1, record.vessel_mask0)] == [
        "10_N_cf_512.png",
        "10_N_fa_gen.png",
        "10_N_seg.png",
    ]
    octa = found.records[-1]
    assert [p.name for p in (octa.image0, octa.image1, octa.vessel_mask0)] == [
        "10_N_cf_clip.png",
        "10_N_octa.png",
        "10_N_seg_clip.png",
    ]
    assert np.array_equal(record.H_0to1, np.eye(3)) and record.points0_xy is None
    assert (found.records[4].modality0, found.records[4].image0.name) == ("OCT", "2_A_oct_gen.png")


def test_generated_truth_is_the_resize_when_sizes_differ(tmp_path):
    image(tmp_path / "1_D/1_D_cf.png", (120, 180))
    image(tmp_path / "1_D/1_D_fa.png", (40, 60))
    image(tmp_path / "1_D/1_D_seg.png", (240, 360))
    found = load_layout(tmp_path, mode="cffa")
    assert np.allclose(found.records[0].H_0to1, [[1 / 3, 0, -1 / 3], [0, 1 / 3, -1 / 3], [0, 0, 1]])
    assert found.records[0].vessel_mask0 is not None and "resolution" in reason(found, "1_D_seg.png")


def test_generated_reports_missing_files_and_bad_masks(tmp_path):
    generated_folder(tmp_path, "1_A")
    generated_folder(tmp_path, "2_A", ("cf_512", "oct_gen", "seg"))
    generated_folder(tmp_path, "3_A", ("cf_512", "fa_gen"))
    generated_folder(tmp_path, "4_A", ("cf_512", "fa_gen"))
    image(tmp_path / "4_A/4_A_seg.png", (64, 64))
    generated_folder(tmp_path, "5_A", ("cf_512", "seg"))
    (tmp_path / "5_A/5_A_fa.png").write_bytes(b"broken")
    found = load_layout(tmp_path, "generated", "cffa")
    assert [r.eye_id for r in found.records] == ["1_A", "3_A", "4_A"]
    assert "2_A_fa_gen.png or 2_A_fa.png is missing" in reason(found, "2_A")
    assert "3_A_seg.png is missing" in reason(found, "3_A") and found.records[1].vessel_mask0 is None
    assert "proportions differ" in reason(found, "4_A") and found.records[2].vessel_mask0 is None
    assert "5_A_fa.png" in reason(found, "5_A")
    assert [p.pair for p in found.problems] == ["cffa_2_A", "", "", "cffa_5_A"], (
        "a pair without its mask is not left out"
    )
    assert {r.modality1 for r in load_layout(tmp_path).records} == {"FA", "OCT", "OCTA"}


def test_generated_without_any_complete_mode_reports_each_folder(tmp_path):
    generated_folder(tmp_path, "1_A", ("cf_512",))
    found = load_layout(tmp_path)
    assert not found.records and "none of the modes" in reason(found, "1_A")


# ------------------------------------------------------------------ layout 2


def operation_pair(set_folder, folder="003_01", name="003", points0=POINTS0, points1=POINTS1, between=" "):
    image(set_folder / folder / f"{name}_01.png", CF_HW)
    image(set_folder / folder / f"{name}_02.png", FA_HW)
    text(set_folder / folder / f"{name}_01.txt", points0, between)
    text(set_folder / folder / f"{name}_02.txt", points1, between)
    return set_folder / folder


def test_operation_reads_all_sets_of_the_parent_folder(tmp_path):
    known = {"cffa": "CF-FA", "cfoct_v2": "CF-OCT", "octfa": "OCT-FA", "cfocta": "CF-OCTA", "fa_cf": "CF-FA"}
    for name in known:
        operation_pair(tmp_path / f"operation_pre_filtered_{name}", between="\t" if name == "octfa" else " ")
    found = load_layout(tmp_path)
    assert not found.problems
    assert {r.pair_id: f"{r.modality0}-{r.modality1}" for r in found.records} == {
        f"{n}_003_01": m for n, m in known.items()
    }
    assert {r.eye_id for r in found.records} == {"003"}
    for record in found.records:
        assert record.image0.name == "003_01.png" and record.H_0to1 is None
        assert np.array_equal(record.points0_xy, POINTS0) and np.array_equal(record.points1_xy, POINTS1)
    assert [r.pair_id for r in load_layout(tmp_path, mode="octfa").records] == ["octfa_003_01"]
    assert len(load_layout(tmp_path / "operation_pre_filtered_cfoct_v2").records) == 1
    assert found.summary().to_dict("records")[0] == {
        "modalities": "CF-FA",
        "pairs": 2,
        "eyes": 1,
        "with_points": 2,
        "with_H": 0,
        "with_mask": 0,
    }


def test_operation_accepts_any_name_with_a_mode_and_several_pairs_in_a_folder(tmp_path):
    operation_pair(tmp_path / "mine", "12_02", "12_02_01")
    operation_pair(tmp_path / "mine", "12_02", "12_02_02")
    found = load_layout(tmp_path / "mine", "operation", "cfocta")
    assert [(r.pair_id, r.eye_id) for r in found.records] == [
        ("cfocta_12_02_12_02_01", "12"),
        ("cfocta_12_02_12_02_02", "12"),
    ]


def test_points_on_the_frame_are_inside_and_trailing_lines_are_ignored(tmp_path):
    frame = np.array([[0, 0], [470, 0], [470, 312], [0, 312.5]])
    folder = operation_pair(
        tmp_path / "operation_pre_filtered_cffa", points0=frame, points1=[[0, 0], [200, 0], [200, 256], [0, 256]]
    )
    with (folder / "003_01.txt").open("a") as file:
        file.write("\n  \n\n")
    found = load_layout(tmp_path)
    assert not found.problems and np.array_equal(found.records[0].points0_xy, frame)


def on_line(n):
    return np.array([[10 + 7 * i, 20 + 3 * i] for i in range(n)], float)


BAD_POINTS = {
    "unequal point counts: 6 in image 0, 5 in image 1": (POINTS0, POINTS1[:5]),
    "only 3 point pairs": (POINTS0[:3], POINTS1[:3]),
    "outside image 0": (POINTS0 + [175, 0], POINTS1),
    "outside image 1": (POINTS0, np.vstack([POINTS1[:5], [[50, 257]]])),
    "collinear points in image 1: all lie": (POINTS0, on_line(6)),
    "collinear points in image 0: all but one": (np.vstack([on_line(5), [[5, 200]]]), POINTS1),
    "duplicate points in image 0": (np.vstack([POINTS0[:5], POINTS0[:1]]), POINTS1),
}


@pytest.mark.parametrize("words", BAD_POINTS)
def test_bad_points_are_reported_and_the_good_pair_stays(tmp_path, words):
    sets = tmp_path / "operation_pre_filtered_cffa"
    operation_pair(sets, "001_01", "001")
    operation_pair(sets, "002_01", "002", *BAD_POINTS[words])
    found = load_layout(tmp_path)
    assert [r.eye_id for r in found.records] == ["001"]
    assert len(found.problems) == 1 and words in reason(found, "002_01")


def test_bad_files_are_reported(tmp_path):
    sets = tmp_path / "operation_pre_filtered_cffa"
    operation_pair(sets, "001_01", "001")
    (operation_pair(sets, "002_01", "002") / "002_02.txt").unlink()
    (operation_pair(sets, "003_01", "003") / "003_02.png").unlink()
    (operation_pair(sets, "004_01", "004") / "004_02.png").write_bytes(b"")
    (operation_pair(sets, "005_01", "005") / "005_01.txt").write_text("1 2\nx y\n")
    (sets / "006_01").mkdir()
    image(operation_pair(sets, "007_01", "007") / "007_01.png", (1, 1))
    found = load_layout(tmp_path)
    assert [r.eye_id for r in found.records] == ["001"] and len(found.problems) == 6
    for name, words in {
        "002_01": "no such file",
        "003_01": "no image 003_02",
        "004_01": "empty",
        "005_01": "line 2: 2 numbers expected, found 'x y'",
        "006_01": "no image named",
        "007_01": "at least 32",
    }.items():
        assert words in reason(found, name)


# ------------------------------------------------------------------ layout 3


AFFINE_256 = np.array([[1.1, 0.1, -20.0], [-0.05, 0.9, 10.0], [0, 0, 1]])
POINTS_256 = np.array([[30.0, 40.0], [200, 50], [90, 180]])


def octa_tree(
    root,
    number,
    tag="train",
    cf_hw=(300, 450),
    octa_hw=(128, 128),
    forward=AFFINE_256[:2],
    backward=None,
    points=POINTS_256,
):
    image(root / f"CF_{tag}/{number}Fundus.png", cf_hw)
    image(root / f"OCTA_{tag}/{number}OCTA.png", octa_hw)
    if forward is not None:
        text(root / f"GT_CF_to_OCTA/{number}_CF_to_OCTA_affine.txt", forward)
    if backward is not None:
        text(root / f"GT_OCTA_to_CF/{number}_OCTA_to_CF_affine.txt", backward)
    if points is not None:
        truth = {"train": "Ground_Truth_train", "ts": "Ground_Truth_Ts"}[tag]  # the case of Ts differs between copies
        text(root / truth / f"{number}Fundus_OCTA_points.txt", np.hstack([points, warp_points(points, AFFINE_256)]))


def test_cf_octa_truth_is_converted_from_256_to_original_pixels(tmp_path):
    inverse = np.linalg.inv(AFFINE_256)
    octa_tree(tmp_path, "001")
    octa_tree(tmp_path, "002", forward=None, backward=inverse)
    octa_tree(tmp_path, "003", "ts", forward=AFFINE_256, backward=inverse[:2], points=None)
    octa_tree(tmp_path, "004", "ts", forward=None, points=np.vstack([POINTS_256, [[130, 140]]]))
    found = load_layout(tmp_path)
    assert not found.problems
    assert [(r.eye_id, r.split) for r in found.records] == [
        ("001", "train"),
        ("002", "train"),
        ("003", "test"),
        ("004", "test"),
    ]
    # by hand: a point of the 300 x 450 CF, to the 256 frame with pixel centres at k + 0.5, through the affine, to the
    # 128 x 128 OCTA
    x, y = 123.0, 77.0
    x256, y256 = (x + 0.5) * 256 / 450 - 0.5, (y + 0.5) * 256 / 300 - 0.5
    u256, v256 = 1.1 * x256 + 0.1 * y256 - 20, -0.05 * x256 + 0.9 * y256 + 10
    expected = [(u256 + 0.5) / 2 - 0.5, (v256 + 0.5) / 2 - 0.5]
    for record in found.records[:3]:
        assert np.allclose(warp_points([[x, y]], record.H_0to1), [expected])
        assert np.array_equal(record.H_0to1[2], [0, 0, 1])
    for record in found.records[:2]:
        assert np.allclose(warp_points(record.points0_xy, record.H_0to1), record.points1_xy)
        assert np.allclose(record.points0_xy[0], [30.5 * 450 / 256 - 0.5, 40.5 * 300 / 256 - 0.5])
    assert found.records[2].points0_xy is None and found.records[3].H_0to1 is None
    assert load_layout(tmp_path, mode="cffa").records == [] and len(load_layout(tmp_path, mode="cfocta").records) == 4


def test_cf_octa_bad_truth_is_reported_and_never_an_identity(tmp_path):
    octa_tree(tmp_path, "001")
    octa_tree(tmp_path, "002", forward=None, points=None)
    octa_tree(tmp_path, "003", forward=np.ones((2, 3)))
    octa_tree(tmp_path, "004", forward=np.ones((1, 3)))
    octa_tree(tmp_path, "005", backward=AFFINE_256)
    octa_tree(tmp_path, "006", points=POINTS_256 * [1, 2])
    octa_tree(tmp_path, "007", forward=None)
    octa_tree(tmp_path, "008", points=POINTS_256[:2])
    octa_tree(tmp_path, "001", "ts")
    image(tmp_path / "CF_train/009Fundus.png", (64, 64))
    image(tmp_path / "OCTA_train/010OCTA.png", (64, 64))
    image(tmp_path / "CF_train/unnamed.png", (64, 64))
    found = load_layout(tmp_path)
    assert [(r.eye_id, r.split) for r in found.records] == [("001", "train")]
    for name, words in {
        "CF_ts/001": "duplicate pair id",
        "002": "neither an affine nor a file of points",
        "003": "003_CF_to_OCTA_affine.txt: this matrix is no invertible transform",
        "004": "shape",
        "005": "contradict each other",
        "006": "outside image 0",
        "007": "only 3 point pairs, at least 4",
        "008": "only 2 point pairs, at least 3",
        "009": "no image 009OCTA",
        "010": "no image with this number in CF_train",
        "unnamed": "does not start with a number",
    }.items():
        assert words in reason(found, name)
    assert len(found.problems) == 11


def test_a_mask_costs_no_pair_in_a_table_either(tmp_path):
    """As in the generated layout: a mask of other proportions, a missing and a damaged one are named, and their pairs
    kept."""
    for name, hw in (
        ("a.png", CF_HW),
        ("wide.png", (CF_HW[0], 2 * CF_HW[1])),
        ("large.png", (2 * CF_HW[0], 2 * CF_HW[1])),
    ):
        image(tmp_path / name, hw)
    (tmp_path / "torn.png").write_bytes(b"no image")
    rows = [f"{mask},e,CF,FA,a.png,a.png,{mask}.png" for mask in ("wide", "none", "torn", "large")]
    (tmp_path / "pairs.csv").write_text(
        "pair_id,eye_id,modality0,modality1,image0,image1,vessel_mask0\n" + "\n".join(rows)
    )
    found = load_layout(tmp_path)
    assert [r.pair_id for r in found.records] == ["wide", "none", "torn", "large"]
    assert [r.vessel_mask0 is not None for r in found.records] == [False, False, False, True]
    for name, word in (
        ("wide", "proportions differ"),
        ("none", "no such file"),
        ("torn", "damaged"),
        ("large", "resolution"),
    ):
        assert word in reason(found, f"{name}.png"), found.problems
    assert not any(problem.pair for problem in found.problems), "no pair is left out"


# ------------------------------------------------------------------ eyes


@pytest.mark.parametrize("separator", ",;")
def test_a_table_of_eyes_goes_before_what_a_layout_says(tmp_path, separator):
    for name in ("001_01", "002_01", "002_02"):
        operation_pair(tmp_path / "operation_pre_filtered_cffa", name)
    assert [r.eye_id for r in load_layout(tmp_path).records] == ["001", "002", "002"]
    rows = ["eye_id,pair_id", "Li,cffa_001_01", "Li,cffa_002_02", "Wu,cffa_999_01", ","]
    (tmp_path / "eyes.csv").write_text("\n".join(rows).replace(",", separator), encoding="utf-8-sig")
    found = load_layout(tmp_path)
    assert [r.eye_id for r in found.records] == ["Li", "002", "Li"]
    (problem,) = found.problems
    assert "1 pairs, such as 'cffa_002_01'" in problem.reason and problem.pair == "", "no pair is left out"
    (tmp_path / "eyes.csv").write_text("pair_id,eye_id\ncffa_001_01,Li\ncffa_001_01,Wu\n")
    with pytest.raises(ValueError, match="line 3: pair 'cffa_001_01' has another eye"):
        load_layout(tmp_path)
    (tmp_path / "eyes.csv").write_text("pair,eye\n")
    with pytest.raises(ValueError, match="columns pair_id, eye_id are missing"):
        load_layout(tmp_path)


@pytest.mark.parametrize(
    ("H", "mirrored"),
    [
        ("0 1 0 1 0 0 0 0 1", True),
        ("-1 0 95 0 1 0 0 0 1", True),
        ("0 -1 95 1 0 0 0 0 1", False),
        ("-2 0 95 0 -2 90 0 0 -2", False),
    ],
)
def test_a_matrix_that_mirrors_is_refused_as_such_points_are(tmp_path, H, mirrored):
    image(tmp_path / "a.png", CF_HW)
    (tmp_path / "pairs.csv").write_text(
        f"pair_id,eye_id,modality0,modality1,image0,image1,H_0to1\np,e,CF,FA,a.png,a.png,{H}\n"
    )
    found = load_layout(tmp_path)
    assert len(found.records) == (not mirrored) and ("mirrors the retina" in reason(found, "line 2")) == mirrored


def test_a_split_is_one_of_three(tmp_path):
    """A misspelt "test" would be trained on."""
    image(tmp_path / "a.png", CF_HW)
    rows = [
        f"{name},e,CF,FA,a.png,a.png,{split}\n"
        for name, split in zip("pqrs", ("Test", "", "val", "validation"), strict=True)
    ]
    (tmp_path / "pairs.csv").write_text("pair_id,eye_id,modality0,modality1,image0,image1,split\n" + "".join(rows))
    found = load_layout(tmp_path)
    assert [r.split for r in found.records] == ["test", "", "val"] and "not 'validation'" in reason(found, "line 5")


def test_a_table_of_eyes_stands_beside_a_table_of_pairs(tmp_path):
    image(tmp_path / "a.png", CF_HW)
    (tmp_path / "pairs.csv").write_text("pair_id,eye_id,modality0,modality1,image0,image1\np,e,CF,FA,a.png,a.png\n")
    (tmp_path / "eyes.csv").write_text("pair_id,eye_id\np,Wu\n")
    assert [load_layout(where).records[0].eye_id for where in (tmp_path, tmp_path / "pairs.csv")] == ["Wu", "Wu"]


# ------------------------------------------------------------------ FIRE


def fire_pair(root, eye, points, hw=(2912, 2912)):
    for side in (1, 2):
        image(root / "Images" / f"{eye}_{side}.jpg", hw)
    if points is not None:
        text(root / "Ground Truth" / f"control_points_{eye}_1_2.txt", points)


def test_fire_points_follow_the_image_size_and_p37_is_left_out(tmp_path):
    rows = np.array([[100.0, 200, 110, 190], [2911, 0, 2900, 5], [1500, 2800, 1400, 2700], [700.25, 900, 720, 910.5]])
    fire_pair(tmp_path, "S01", rows)
    fire_pair(tmp_path, "P02", rows, (364, 364))
    fire_pair(tmp_path, "P37", rows, (364, 364))
    fire_pair(tmp_path, "A03", None, (364, 364))
    found = load_layout(tmp_path)
    assert [(r.pair_id, r.eye_id, r.modality0, r.modality1) for r in found.records] == [
        ("P02_1_2", "P02", "CF", "CF"),
        ("S01_1_2", "S01", "CF", "CF"),
    ]
    small, full = found.records
    assert np.array_equal(full.points0_xy, rows[:, :2]) and np.array_equal(full.points1_xy, rows[:, 2:])
    assert np.allclose(small.points1_xy, (rows[:, 2:] + 0.5) / 8 - 0.5)
    assert full.image0.name == "S01_1.jpg" and full.image1.name == "S01_2.jpg"
    assert "known to be wrong" in reason(found, "P37_1_2") and "no control_points_A03" in reason(found, "A03")


# ------------------------------------------------------------------ detection


def test_unknown_or_ambiguous_roots_list_the_shapes(tmp_path):
    for root in (tmp_path / "missing", tmp_path):
        with pytest.raises(ValueError, match="operation_pre_filtered_.*"):
            load_layout(root)
    for layout in ("generated", "operation", "cf_octa_v2", "fire", "pairs_csv"):
        with pytest.raises(ValueError, match="the shapes looked for"):
            load_layout(tmp_path, layout)
    with pytest.raises(ValueError, match="layout 'x' is unknown"):
        load_layout(tmp_path, "x")
    with pytest.raises(ValueError, match="mode 'facf' is unknown"):
        load_layout(tmp_path, mode="facf")
    generated_folder(tmp_path, "1_A")
    octa_tree(tmp_path, "001")
    with pytest.raises(ValueError, match="generated and cf_octa_v2: pass layout="):
        load_layout(tmp_path)
    assert len(load_layout(tmp_path, "cf_octa_v2").records) == 1


def test_a_layout_of_ones_own_is_detected_and_loaded(tmp_path, monkeypatch):
    class Flat:
        SHAPE = "<id>_left.png + <id>_right.png"

        def fits(self, root, mode=None):
            return any(root.glob("*_left.png"))

        def load(self, root, mode=None):
            stems = [str(path)[: -len("_left.png")] for path in sorted(root.glob("*_left.png"))]
            return Inventory([PairRecord(s, s, "CF", "FA", f"{s}_left.png", f"{s}_right.png") for s in stems])

    image(tmp_path / "7_left.png", CF_HW)
    with pytest.raises(ValueError, match="nothing known"):
        load_layout(tmp_path)
    monkeypatch.setitem(LAYOUTS, "flat", Flat())
    assert len(load_layout(tmp_path).records) == 1 and not load_layout(tmp_path, mode="cfoct").records
    with pytest.raises(ValueError, match="flat .*_left.png"):
        load_layout(tmp_path, "unknown")


# ------------------------------------------------------------------ points, table


def test_read_points_separators_and_errors(tmp_path):
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeff1.5 2\r\n3\t4e0\n5, -6\n\n+.5 , 7.\n\n".encode())
    assert read_number_rows(path, 2).tolist() == [[1.5, 2], [3, 4], [5, -6], [0.5, 7]]
    path.write_text("")
    assert read_number_rows(path, 2).shape == (0, 2)
    for row in ("x y", "1", "1 2 3", "1,,2", "1,2,", "nan 1", "inf 1", "1_0 2", "12,5 13,5"):
        path.write_text(f"1 2\n\n{row}\n")
        with pytest.raises(ValueError, match=r"p\.txt, line 3") as error:
            read_number_rows(path, 2)
        assert repr(row) in str(error.value)
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ValueError, match="p.txt: not a plain text"):
        read_number_rows(path, 2)
    assert parse_numbers("1 2 3", 3) == [1, 2, 3]


def test_three_points_are_enough_for_an_affine_only():
    check_points(POINTS0[:3], POINTS1[:3], CF_HW, FA_HW, minimum=3)
    with pytest.raises(ValueError, match="at least 4"):
        check_points(POINTS0[:3], POINTS1[:3], CF_HW, FA_HW)
    with pytest.raises(ValueError, match="collinear"):
        check_points(on_line(3), POINTS1[:3], CF_HW, FA_HW, minimum=3)


def test_a_line_but_for_one_point_is_found_among_many():
    line = np.column_stack([np.arange(5000) / 9, np.arange(5000) / 11 + 2])
    rest = np.random.default_rng(0).uniform(2, 200, line.shape)
    line[777] += (0, 100)
    with pytest.raises(ValueError, match="image 0: all but one lie on one line"):
        check_points(line, rest, (900, 900), (900, 900))
    line[778] += (0, 400)
    check_points(line, rest, (900, 900), (900, 900))


def test_files_that_nobody_reads_are_counted(tmp_path):
    for name in ("a.e2e", "b.E2E", "c.fda", "IM01", "d.png", "e.dcm", "f.csv", ".hidden"):
        (tmp_path / name).touch()
    assert left_out(tmp_path).startswith(
        "4 files left out, of kinds that are not read: 2 .e2e, 1 .fda, 1 without ending"
    )
    assert left_out(tmp_path, "*.png") == ""


def test_record_refuses_half_a_truth():
    with pytest.raises(ValueError, match="both images"):
        PairRecord("a", "a", "CF", "FA", Path("a"), Path("b"), points0_xy=POINTS0)
    with pytest.raises(ValueError, match="shapes"):
        PairRecord("a", "a", "CF", "FA", Path("a"), Path("b"), POINTS0, POINTS1[:3])
    with pytest.raises(ValueError, match="invertible"):
        PairRecord("a", "a", "CF", "FA", Path("a"), Path("b"), H_0to1=np.zeros((3, 3)))
    with pytest.raises(ValueError, match="empty"):
        PairRecord("a", " ", "CF", "FA", Path("a"), Path("b"))
    with pytest.raises(ValueError, match="duplicate pair id 'a'"):
        Inventory([PairRecord("a", "a", "CF", "FA", Path("a"), Path("b"))]).add(
            PairRecord("a", "b", "CF", "FA", Path("c"), Path("d"))
        )


def test_pairs_table_round_trip_is_exact(tmp_path):
    inside, outside = tmp_path / "数据 set", tmp_path / "elsewhere"
    rng = np.random.default_rng(0)
    points0 = rng.random((7, 2)) * 200
    H = as_homography(rescale_homography(H_TRUE, resize_matrix((7, 9), (11, 13)), np.eye(3)))
    image0, image1 = image(inside / "img/cf 1.png", CF_HW), image(outside / "fa.png", FA_HW)
    records = [
        PairRecord(
            "a/1 é",
            "eye,1",
            "CF",
            "FA",
            image0,
            image1,
            points0,
            points0 / 3,
            H,
            image(inside / "mask.png", CF_HW),
            "val",
        ),
        PairRecord("a\\1", "2", "OCT", "FA", image1, image0),
        PairRecord("a 1", "3", "CF", "FA", image0, image1, points0[:3], points0[:3] / 3, H),
    ]
    write_pairs_csv(inside / "pairs.csv", records)
    back = load_layout(inside)
    assert back.problems == [] and back.records == records
    assert back.records[0] != records[1] and back.records[0] != replace(records[0], points0_xy=points0 + 1e-12)
    table = (inside / "pairs.csv").read_text(encoding="utf-8")
    assert "img/cf 1.png" in table and str(inside) not in table and str(outside / "fa.png") in table
    inside.rename(tmp_path / "moved")
    assert np.array_equal(load_layout(tmp_path / "moved" / "pairs.csv").records[0].points0_xy, points0)
    with pytest.raises(ValueError, match="unique.*a 1"):
        write_pairs_csv(inside / "pairs.csv", [records[2]] * 2)


def test_layouts_survive_the_table(tmp_path):
    operation_pair(tmp_path / "op" / "operation_pre_filtered_cffa")
    generated_folder(tmp_path / "gen", "1_A")
    octa_tree(tmp_path / "octa", "001")
    found = [r for name in ("op", "gen", "octa") for r in load_layout(tmp_path / name).records]
    found = [replace(record, split="val") for record in found]
    write_pairs_csv(tmp_path / "pairs.csv", found)
    assert load_layout(tmp_path / "pairs.csv").records == found


def test_bad_rows_of_a_table_are_reported(tmp_path):
    image(tmp_path / "cf.png", CF_HW)
    image(tmp_path / "fa.png", FA_HW)
    text(tmp_path / "p0.txt", POINTS0)
    text(tmp_path / "p1.txt", POINTS1[:5])
    head = "pair_id,eye_id,modality0,modality1,image0,image1,points0,points1,H_0to1,vessel_mask0,split\n"
    rows = [
        "good,1,CF,FA,cf.png,fa.png,,,,,train",
        "good,1,CF,FA,cf.png,fa.png,,,,,train",
        "b,1,CF,FA,cf.png,missing.png,,,,,",
        "c,1,CF,FA,cf.png,fa.png,p0.txt,p1.txt,,,",
        "d,1,CF,FA,cf.png,fa.png,p0.txt,,,,",
        "e,1,CF,FA,cf.png,fa.png,,,1 0 0 0 1 0,,",
        "f,1,CF,FA,cf.png,fa.png,,,1 0 0 1 0 0 0 0 1,,",
        "g,1,CF,FA,cf.png,fa.png,,,,fa.png,",
        "h,,CF,FA,cf.png,fa.png,,,,,",
        "i,1,CF",
    ]
    (tmp_path / "pairs.csv").write_text("\ufeff" + head + "\n".join(rows) + "\n", encoding="utf-8")
    found = load_layout(tmp_path)
    assert [r.pair_id for r in found.records] == ["good", "g"] and found.records[0].H_0to1 is None
    words = {3: "duplicate", 4: "no such file", 5: "unequal", 6: "both images", 7: "9 numbers", 8: "no invertible"}
    words |= {10: "empty", 11: "folder"}
    for line, word in words.items():
        assert word in reason(found, f"pairs.csv, line {line}")
    assert "proportions" in reason(found, "fa.png") and len(found.problems) == 1 + len(words)
    assert [p.pair for p in found.problems] == ["good", *"bcdef", "", *"hi"]
    (tmp_path / "pairs.csv").write_text("pair_id,image0\n")
    with pytest.raises(ValueError, match="eye_id, modality0, modality1, image1 are missing"):
        load_layout(tmp_path)


@pytest.mark.parametrize("separator", ",;\t")
def test_a_table_as_spreadsheets_save_it(tmp_path, separator):
    """Any separator, a byte order mark, carriage returns, blanks in the header, quotes, and empty rows at the end."""
    image(tmp_path / "cf.png", CF_HW)
    image(tmp_path / "fa.png", FA_HW)
    rows = [
        ["pair_id", "eye_id", " modality0", "modality1", "image0", "image1", "H_0to1"],
        [f'"1{separator}A"', "1", "CF", "FA", "cf.png", "fa.png", '"1,0,5,0,1,-7,0,0,1"'],
        [""] * 7,
    ]
    (tmp_path / "pairs.csv").write_bytes(
        ("\ufeff" + "\r\n".join(separator.join(row) for row in rows) + "\r\n").encode()
    )
    found = load_layout(tmp_path)
    assert found.problems == [] and [r.pair_id for r in found.records] == [f"1{separator}A"]
    assert found.records[0].H_0to1.tolist() == [[1, 0, 5], [0, 1, -7], [0, 0, 1]]


def test_the_table_of_the_manual_is_one(tmp_path):
    manual = (Path(__file__).resolve().parents[1] / "data" / "README.md").read_text(encoding="utf-8")
    example = next(block for block in manual.split("```") if "pair_id,eye_id" in block).strip()
    (tmp_path / "pairs.csv").write_text(example.replace("/elsewhere", "img"))
    for name in ("17_cf.png", "17_fa.tif", "18_cf.png", "18_oct.png"):
        image(tmp_path / "img" / name, CF_HW)
    found = load_layout(tmp_path)
    assert found.problems == [] and [r.pair_id for r in found.records] == ["17_left", "18_left"]
    assert found.records[0].H_0to1 is not None and found.records[1].H_0to1 is None
    assert all(f"`{name}`" in manual for name in CSV_COLUMNS)


@pytest.mark.parametrize(
    "content",
    [
        "pair_id,é".encode("latin-1"),
        "pair_id,eye_id".encode("utf-16"),
        "pair_id,eye_id".encode("utf-16-be"),
        b"pair_id\n" + b"x" * 200_000,
    ],
)
def test_what_is_no_table_of_text_is_told(tmp_path, content):
    (tmp_path / "pairs.csv").write_bytes(content)
    with pytest.raises(ValueError, match="pairs.csv: .*save .*'CSV UTF-8'"):
        load_layout(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("split", "pair_id"), "the column pair_id is there twice"),
        (lambda text: text.replace("1.0 0.0 0.0 0.0 1.0", "1e300 0.0 0.0 0.0 1e300"), "no invertible|has scale"),
        (lambda text: text.replace("1.0 0.0 0.0 0.0 1.0", "500.0 0.0 0.0 0.0 500.0"), "H_0to1 has scale 500, beyond"),
    ],
)
def test_a_table_that_cannot_be_right_is_refused(change, message, tmp_path):
    for name in "ab":
        write_image(tmp_path / f"{name}.png", np.zeros((60, 60), np.uint8))
    write_pairs_csv(
        tmp_path / "pairs.csv",
        [PairRecord("a", "e", "CF", "FA", *(tmp_path / f"{n}.png" for n in "ab"), H_0to1=np.eye(3))],
    )
    assert len(load_layout(tmp_path).records) == 1
    table = tmp_path / "pairs.csv"
    table.write_text(change(table.read_text(encoding="utf-8")), encoding="utf-8")
    try:
        told = [str(problem) for problem in load_layout(tmp_path).problems]
    except ValueError as error:
        told = [str(error)]
    assert re.search(message, told[0])


def test_ids_that_look_like_formulas_come_back(tmp_path):
    write_image(tmp_path / "=a.png", np.zeros((60, 60), np.uint8))
    ids = ["=HYPERLINK(1)", "+1+1", "@a", "'=x", "-y"]
    records = [PairRecord(i, i, "CF", "FA", tmp_path / "=a.png", tmp_path / "=a.png") for i in ids]
    write_pairs_csv(tmp_path / "pairs.csv", records)
    assert not re.search(r"(^|,)[=+@-]", (tmp_path / "pairs.csv").read_text(encoding="utf-8"), re.MULTILINE)
    assert load_layout(tmp_path).records == records


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real development pairs are not at {REAL}")
def test_real_pairs_load_without_problems():
    found = load_layout(REAL)
    assert found.problems == [] and len(found.records) == 25
    assert {row["modalities"]: row["pairs"] for row in found.summary().to_dict("records")} == {
        "CF-FA": 16,
        "CF-OCT": 2,
        "CF-OCTA": 4,
        "OCT-FA": 3,
    }
    assert all(len(r.points0_xy) == 20 for r in found.records)


def test_junctions_are_shown_where_the_moving_image_shows_retina(tmp_path):
    pair = draw_pair(7, 3, ("CF", "FA"), PairOptions(size_px=384))
    for name, image in (("cf", pair.fixed), ("fa", pair.moving)):
        write_image(tmp_path / f"{name}.png", image)
    record = PairRecord("a", "a", "CF", "FA", tmp_path / "cf.png", tmp_path / "fa.png", H_0to1=pair.H_0to1)
    points0, points1, what = landmarks(record)
    x, y = np.rint(points1).astype(int).T
    assert field_of_view_mask(to_gray(pair.moving))[y, x].all() and 0 < len(points1) < len(points0)
    assert what == "junctions of a ridge filter" and landmarks(replace(record, H_0to1=None))[1] is None
