"""Clicked points survive: what is written is read back, by our readers and by a second look at the folder."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest

from retina_kp.core.images import read_image, write_image
from retina_kp.data.clicks import ClickFolder, Clicks, read_bigwarp, write_bigwarp
from retina_kp.data.layouts import load_layout
from retina_kp.data.records import PairRecord

NAN = np.nan
POINTS = np.array([[10, 20, 11.5, 21], [70, 15, 71, 16.25], [60, 80, 61, 81], [12, 70, 13, 71], [40, 33, NAN, NAN]])


def make_record(folder, name="one", eye="7_left", modality1="FA") -> PairRecord:
    for side, shape in (("a", (90, 101)), ("b", (95, 99))):
        write_image(folder / f"{name}_{side}.png", np.full(shape, 50, np.uint8))
    return PairRecord(name, eye, "CF", modality1, folder / f"{name}_a.png", folder / f"{name}_b.png")


def test_all_that_was_clicked_is_there_again(tmp_path):
    record = make_record(tmp_path)
    ClickFolder(tmp_path / "out", [record]).save("one", Clicks(POINTS, "accepted"))
    again = ClickFolder(tmp_path / "out", [record])["one"]
    np.testing.assert_array_equal(again.points, POINTS)
    assert again.verdict == "accepted" and again.complete.tolist() == [True] * 4 + [False]


def test_the_readers_of_data_find_the_complete_pairs(tmp_path):
    record = make_record(tmp_path)
    ClickFolder(tmp_path / "out", [record]).save("one", Clicks(POINTS))
    table = load_layout(tmp_path / "out" / "pairs.csv")
    layout2 = load_layout(tmp_path / "out" / "operation_pre_filtered_cffa")
    assert table.problems == layout2.problems == []
    for (found,) in (table.records, layout2.records):
        np.testing.assert_array_equal(np.hstack([found.points0_xy, found.points1_xy]), POINTS[:4])
        assert (read_image(found.image1) == read_image(record.image1)).all()
    assert table.records[0].eye_id == "7_left" and layout2.records[0].eye_id == "7-left"
    assert table.records[0].image0 == record.image0


def test_what_cannot_be_used_is_told_and_in_no_table(tmp_path):
    records = [make_record(tmp_path, name) for name in ("one", "two", "three")]
    files = ClickFolder(tmp_path / "out", records)
    files.save("one", Clicks(POINTS))
    files.save("two", Clicks(POINTS[:3]))
    assert (files.why_not("one"), files.why_not("three")) == ("", "not annotated here")
    assert "only 3 point pairs" in files.why_not("two")
    assert [r.pair_id for r in load_layout(tmp_path / "out" / "pairs.csv").records] == ["one"]
    files.save("one", Clicks(POINTS, "rejected"))
    assert files.why_not("one") == "rejected" and not any(path.exists() for path in files.text_files("one"))
    with (tmp_path / "out" / "review.csv").open() as file:
        assert [(row["verdict"], row["points"]) for row in csv.DictReader(file)] == [
            ("rejected", "4"),
            ("", "3"),
            ("", "0"),
        ]


def test_points_of_the_data_are_where_one_begins(tmp_path):
    record = make_record(tmp_path)
    given = replace(record, points0_xy=POINTS[:4, :2], points1_xy=POINTS[:4, 2:])
    np.testing.assert_array_equal(ClickFolder(tmp_path / "out", [given])["one"].points, POINTS[:4])


def test_modalities_without_a_layout_still_have_a_table(tmp_path):
    record = make_record(tmp_path, modality1="IR")
    ClickFolder(tmp_path / "out", [record]).save("one", Clicks(POINTS))
    (found,) = load_layout(tmp_path / "out" / "pairs.csv").records
    np.testing.assert_array_equal(found.points0_xy, POINTS[:4, :2])
    assert not list((tmp_path / "out").glob("operation*")) and not list((tmp_path / "out").rglob("*.png"))


def test_two_pairs_never_share_their_files(tmp_path):
    with pytest.raises(ValueError, match="one file name"):
        ClickFolder(tmp_path, [make_record(tmp_path, "a b"), make_record(tmp_path, "a-b")])


def test_bigwarp_has_the_moving_image_first(tmp_path):
    write_bigwarp(tmp_path / "l.csv", POINTS[:2, :2], POINTS[:2, 2:])
    assert (tmp_path / "l.csv").read_text().splitlines()[0] == '"Pt-0","true","11.5","21.0","10.0","20.0"'
    for found, points in zip(read_bigwarp(tmp_path / "l.csv"), (POINTS[:2, :2], POINTS[:2, 2:]), strict=True):
        np.testing.assert_array_equal(found, points)


def test_landmarks_that_do_not_count_are_left_out(tmp_path):
    rows = ['"a","true","1","2","3","4"', '"b","false","1","2","3","5"', '"c","true","Infinity","Infinity","3","6"']
    (tmp_path / "l.csv").write_text("\n".join(rows))
    points0, points1 = read_bigwarp(tmp_path / "l.csv")
    assert points0.tolist() == [[3, 4]] and points1.tolist() == [[1, 2]]
    (tmp_path / "l.csv").write_text(rows[0] + "\nx,y\n")
    with pytest.raises(ValueError, match="l.csv, line 2: a landmark has"):
        read_bigwarp(tmp_path / "l.csv")
    (tmp_path / "l.csv").write_text("")
    assert [len(points) for points in read_bigwarp(tmp_path / "l.csv")] == [0, 0]
