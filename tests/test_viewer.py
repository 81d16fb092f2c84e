"""The viewer's Python side: tiles make up their picture, maps hit, clicks do what they say, fates are told apart."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest
import torch

from retina_kp.core.compute import HEADLESS
from retina_kp.core.geometry import similarity, warp_points
from retina_kp.core.images import write_image
from retina_kp.data.records import PairRecord
from retina_kp.evaluation.methods import as_registration
from retina_kp.mapping.result import refused
from retina_kp.synthetic.pairs import draw_pair
from retina_kp.training.diagnosis import WatchedSample
from retina_kp.training.memory import Page
from retina_kp.viewer import explorers, page, scenes
from retina_kp.viewer.rehearsal import pairs_to_annotate, progress_rows, rehearse
from retina_kp.viewer.session import Session
from retina_kp.viewer.widget import Annotator, PairExplorer, Viewer, compare, explore_labels
from retina_kp.viz.gallery import Shown

HW0, HW1 = (313, 471), (350, 400)
H_0TO1 = similarity(20, 0.9, (235, 156), (200, 180))


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    fixed = cv2.GaussianBlur(rng.integers(0, 255, (*HW0, 3), np.uint8), (0, 0), 4)
    return fixed, cv2.warpPerspective(fixed[..., 1], H_0TO1, HW1[::-1])


@pytest.fixture
def record(tmp_path, images) -> PairRecord:
    for name, image in zip(("fixed", "moving"), images, strict=True):
        write_image(tmp_path / f"{name}.png", image)
    return PairRecord("one", "7", "CF", "FA", tmp_path / "fixed.png", tmp_path / "moving.png", H_0to1=H_0TO1)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> PairRecord:
    """A synthetic pair with known truth."""
    folder, pair = (
        tmp_path_factory.mktemp("drawn"),
        draw_pair(2026, 3, ("CF", "FA")),
    )
    write_image(folder / "cf.png", pair.fixed)
    write_image(folder / "fa.png", pair.moving)
    return PairRecord("drawn", "e", "CF", "FA", folder / "cf.png", folder / "fa.png", H_0to1=pair.H_0to1)


@pytest.fixture
def session(record, tmp_path) -> Session:
    return Session([record], tmp_path / "out")


def click(session, *pairs):
    for x0, y0, x1, y1 in pairs:
        session.act({"do": "click", "side": 0, "xy": [x0, y0]})
        session.act({"do": "click", "side": 1, "xy": [x1, y1]})


def true_pairs(*places) -> np.ndarray:
    return np.hstack([np.array(places, float), warp_points(np.array(places, float), H_0TO1)])


SPREAD = ((100, 60), (380, 70), (360, 260), (110, 250), (240, 150), (300, 200), (180, 100))


# ------------------------------------------------------------------ scenes and pages


def test_tiles_make_up_the_picture():
    y, x = np.mgrid[:1100, :700]
    picture = np.stack([x / 3, y / 5, (x + y) / 8], -1).astype(np.uint8)
    made = scenes.layer(picture)
    assert made["hw"] == [1100, 700] and [level["hw"] for level in made["levels"]] == [
        [275, 175],
        [550, 350],
        [1100, 700],
    ]
    level, side = made["levels"][-1], made["tile"]
    canvas = np.zeros_like(picture)
    for k, tile in enumerate(level["tiles"]):
        row, column = divmod(k, level["columns"])
        pixels = cv2.imdecode(np.frombuffer(tile, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        canvas[row * side :, column * side :][: pixels.shape[0], : pixels.shape[1]] = pixels
    assert np.abs(canvas.astype(int) - picture).max() < 12


def test_a_copy_covers_the_frame_of_its_original():
    assert scenes.layer(np.zeros((100, 50), np.uint8), (4000, 2000))["hw"] == [4000, 2000]


def test_maps_are_sampled_from_corner_to_corner(images):
    maps = scenes.maps_of(as_registration(np.linalg.inv(H_0TO1), HW0, HW1))
    grid = np.frombuffer(maps["toMoving"]["xy"], np.float32).reshape(scenes.MAP_SAMPLES, scenes.MAP_SAMPLES, 2)
    corners = grid[[0, 0, -1, -1], [0, -1, 0, -1]]
    ends = np.array([[0, 0], [470, 0], [0, 312], [470, 312]])
    np.testing.assert_allclose(corners, warp_points(ends, H_0TO1), atol=1e-3)
    assert maps["toFixed"]["hw"] == list(HW1)
    assert scenes.maps_of(refused("no", HW0, HW1)) == scenes.maps_of(None) == {}


def test_a_refused_pair_is_shown_without_what_it_lacks(images):
    scene = scenes.pair_scene(*images, refused("no", HW0, HW1), ("CF", "FA"), side_px=200)
    assert set(scene["layers"]) == {"fixed", "moving"}
    fixed = scene["layers"]["fixed"]  # places are told in px of the original
    assert fixed["hw"] == list(HW0) and fixed["levels"][-1]["hw"] == [133, 200]
    assert scene["names"] == ["fixed CF", "moving FA"]


def test_a_page_needs_no_network_and_no_kernel(images):
    html = page.embedded(scenes.pair_scene(*images, refused("</script>", HW0, HW1), ("</script>", "")))
    assert not re.search(r"<link|@import|\bimport |(?:src|href)=|url\(|fetch\(", html)
    assert html.count("</script>") == 1 and html.endswith("</script>")
    data = re.search(r'show\(document.getElementById\("[\w-]+"\), (.*)\);</script>$', html, re.DOTALL).group(1)
    assert json.loads(data)["names"][0] == "fixed </script>"


def test_reports_have_a_page_and_notebooks_a_widget(images, monkeypatch):
    result = as_registration(np.linalg.inv(H_0TO1), HW0, HW1)
    live = compare(*images, result, ("CF", "FA"))
    assert isinstance(live, Viewer) and set(live.scene["layers"]) == {"fixed", "moving", "warped", "overlay"}
    monkeypatch.setenv(HEADLESS, "1")
    assert "<script" in compare(*images, result).data


# ------------------------------------------------------------------ annotation


def test_a_second_click_completes_the_pair(session):
    session.act({"do": "click", "side": 1, "xy": [5, 6]})
    np.testing.assert_array_equal(session.pair.points, [[np.nan, np.nan, 5, 6]])
    session.act({"do": "click", "side": 1, "xy": [7, 8]})  # thought better of it
    session.act({"do": "click", "side": 0, "xy": [1, 2]})
    np.testing.assert_array_equal(session.pair.points, [[1, 2, 7, 8]])


def test_a_click_outside_is_told(session):
    session.act({"do": "click", "side": 0, "xy": [472, 5]})
    assert "outside" in session.state(None)["said"] and not len(session.pair.points)


def test_undo_and_redo_lead_back_and_forth_and_reach_the_disk(session, record, tmp_path):
    click(session, (1, 2, 3, 4))
    session.act({"do": "move", "k": 0, "side": 1, "xy": [-9, 40]})
    assert session.pair.points.tolist() == [[1, 2, 0, 40]]  # dragged out of the frame: its edge
    session.act({"do": "undo"})
    assert session.pair.points.tolist() == Session([record], tmp_path / "out").pair.points.tolist() == [[1, 2, 3, 4]]
    session.act({"do": "redo"})
    assert session.pair.points.tolist() == [[1, 2, 0, 40]]
    session.act({"do": "delete", "k": 0})
    session.act({"do": "undo"})
    assert session.state(None)["redo"] == 1 and len(session.pair.points) == 1


def test_the_worst_point_and_the_residual_of_the_others(session):
    pairs = true_pairs(*SPREAD)
    pairs[3, 2:] += (18, 0)
    click(session, *pairs)
    state = session.state(session.fit())
    assert state["worst"] == 3 and state["not_used"] == "" and len(state["points"]) == 7
    off = 18 / 0.9 * 768 / 471  # px of the fixed image at 768, where the others put it
    assert abs(state["residuals"][3] - off) < 3
    session.act({"do": "delete", "k": 3})
    state = session.state(session.fit())
    assert state["residual"] < 0.1 and max(state["residuals"]) < 0.1 and 0.08 < state["spread"] < 0.2


def test_few_or_mirrored_points_have_no_transform_and_a_reason(session):
    assert session.fit() is None and session.state(None)["residual"] is None
    pairs = true_pairs(*SPREAD)
    click(session, *(pairs * [1, 1, -1, 1] + [0, 0, 399, 0]))
    assert session.fit() is None and "mirror" in session.state(None)["said"]


def test_clicks_snap_to_the_nearest_junction_where_that_is_on(session):
    session.pair._junctions[0] = np.array([[50.0, 60.0], [90.0, 60.0]])
    session.act({"do": "click", "side": 0, "xy": [54, 60], "reach": 6})
    session.act({"do": "snapping", "on": True})
    session.act({"do": "click", "side": 0, "xy": [54, 60], "reach": 3})
    assert session.pair.points[0, :2].tolist() == [54, 60]
    session.act({"do": "click", "side": 0, "xy": [54, 60], "reach": 6})
    assert session.pair.points[0, :2].tolist() == [50, 60]


def test_junctions_are_those_of_the_vessels_at_any_size(tmp_path):
    picture = np.random.default_rng(0).integers(190, 210, (900, 1200), np.uint8)
    for end in ((100, 450), (900, 120), (900, 780)):
        cv2.line(picture, (500, 450), end, 60, 9)
    write_image(tmp_path / "a.png", picture)
    pair = Session([PairRecord("p", "e", "CF", "FA", tmp_path / "a.png", tmp_path / "a.png")], tmp_path / "out").pair
    assert np.linalg.norm(pair.junctions(0) - (500, 450), axis=1).min() < 6


def test_suggestions_are_far_from_all_points_and_seen_in_both_images(session):
    places = np.array([[60.0, 60.0], [400.0, 60.0], [400.0, 250.0], [380.0, 240.0], [398.0, 248.0], [2.0, 2.0]])
    session.pair._junctions[0] = places
    click(session, *true_pairs((70, 60)))
    assert session.pair.suggestions(None).tolist() == [[400, 250], [400, 60], [380, 240]]
    shifted = as_registration(np.array([[1.0, 0, 300], [0, 1, 0], [0, 0, 1]]), HW0, HW1)  # sees x from 300 on
    assert session.pair.suggestions(shifted)[:, 0].min() > 300


def test_a_verdict_leads_on_and_a_click_never_lands_on_another_pair(record, tmp_path):
    other = PairRecord("two", "8", "CF", "FA", record.image0, record.image1)
    session = Session([record, other], tmp_path / "out")
    click(session, *true_pairs(*SPREAD[:4]))
    session.act({"do": "judge", "verdict": "accepted"})
    assert session.state(None)["name"] == "two" and not len(session.pair.points)
    session.act({"do": "judge", "verdict": "rejected"})
    state = session.state(None)
    assert (state["name"], state["verdict"], state["accepted"], state["rejected"]) == ("one", "accepted", 1, 1)
    session.act({"do": "judge", "verdict": ""})
    assert session.state(None)["accepted"] == 0 and session.state(None)["place"] == [1, 2]
    assert [row["verdict"] for row in progress_rows(session)] == [None, "rejected"]
    assert Session([record, other], tmp_path / "out").pair.record.pair_id == "one"  # the first that is not judged


def test_messages_and_pairs_that_make_no_sense_are_refused(session, tmp_path):
    with pytest.raises(ValueError, match="unknown message"):
        session.act({"do": "open"})
    with pytest.raises(ValueError, match="no pair"):
        Session([], tmp_path)


def test_the_widget_shows_what_a_message_did(record, tmp_path):
    widget = Annotator(
        Session([record], tmp_path / "out", lambda a, b: as_registration(np.linalg.inv(H_0TO1), HW0, HW1))
    )
    assert widget.scene["kind"] == "annotate" and widget.state["start"] == "ok" and "toMoving" in widget.extra["maps"]
    assert widget.extra["layers"] == {}
    for x0, y0, x1, y1 in true_pairs(*SPREAD):
        widget.act({"do": "click", "side": 0, "xy": [x0, y0]})
        before = widget.extra
        widget.act({"do": "click", "side": 1, "xy": [x1, y1]})
    assert widget.extra is not before and set(widget.extra["layers"]) == {"warped", "overlay"}
    widget.act({"do": "click", "side": 0, "xy": [50, 50]})
    assert len(widget.state["points"]) == 8 and widget.state["points"][-1] == [50, 50, None, None]


def test_a_rehearsal_finds_its_misplaced_point(drawn, tmp_path):
    session = rehearse(drawn, tmp_path / "out")
    assert session.state(session.fit())["worst"] == 4
    again = rehearse(drawn, tmp_path / "out", clicks=2)  # over what the first one left
    assert len(again.pair.points) == 2


def test_pairs_come_from_files_with_landmarks_of_bigwarp(record, tmp_path):
    (tmp_path / "bw").mkdir()
    (tmp_path / "bw" / "moving-on-fixed.csv").write_text('"a","true","1","2","3","4"\n')
    (found,) = pairs_to_annotate(record.image0, record.image1, ("OCT", "FA"), tmp_path / "bw")
    assert (found.pair_id, found.modality0) == ("moving-on-fixed", "OCT") and found.points0_xy.tolist() == [[3, 4]]


# ------------------------------------------------------------------ explorers


def test_fates_of_matches_are_told_apart():
    points = np.zeros((5, 2)), np.zeros((3, 2))
    off = np.array([[1, 9, 9], [9, 9, 5], [9, 9, 1], [9, 2, 9], [9, 9, 9.0]])
    alike = np.array([[0.9, -1, -1], [-1, -1, 0.8], [-1, -1, 0.5], [-1, 0.1, -1], [-1, -1, -1]])
    told = explorers._fates(*points, off, alike, limit_px=4)
    assert [match["fate"] for match in told] == ["kept", "far", "taken", "unlike"]
    assert "5.0 px off the transform, 4.0 px are allowed" in told[1]["why"] and "(0.80)" in told[2]["why"]
    assert explorers._fates(*points, np.zeros((0, 3)), np.zeros((0, 3)), 4) == []


def test_explained_matches_lie_where_the_transform_says(registrar, drawn):
    result = registrar(drawn.image0, drawn.image1)
    scene = explorers.matches_scene(registrar, drawn.image0, drawn.image1, result, side_px=300)
    kept = [match for match in scene["matches"] if match["fate"] == "kept"]
    small = result.resized(*[tuple(scene["layers"][name]["hw"]) for name in ("fixed", "moving")])
    mapped = small.map_to_fixed(np.array([match["moving"] for match in kept]))
    off = np.linalg.norm(mapped - [match["fixed"] for match in kept], axis=1)
    told = [float(re.search(r"kept: ([\d.]+) px", match["why"]).group(1)) for match in kept]
    assert len(kept) > 10 and np.abs(off - told).max() < 0.2
    assert (
        explorers.explained(registrar, *[np.zeros((50, 50), np.uint8)] * 2, refused("blank", (50, 50), (50, 50))) == []
    )


def test_labels_are_told_visit_by_visit():
    pages = [Page(k + 1, 3 * k, torch.tensor([[10.04, 20, k / 2, float(k > 5)]])) for k in range(100)]
    sample = WatchedSample(pages, np.zeros((40, 50)), torch.zeros(0, 2), torch.zeros(0, 2), torch.ones(40, 50).bool())
    told = explorers.labels_scene(sample, steps_per_epoch=3)["pages"]
    assert len(told) == explorers.PAGES and (told[0]["visit"], told[-1]["visit"]) == (1, 100)
    assert told[-1]["places"] == [[10.0, 20.0, 49.5, 1.0]] and told[-1]["epoch"] == pytest.approx(298 / 3)
    assert isinstance(explore_labels(sample, 3), Viewer)
    with pytest.raises(ValueError, match="never visited"):
        explorers.labels_scene(WatchedSample([], *[sample.image] * 4), 3)


def test_dots_of_pairs_tell_errors_refusals_and_missing_truth(record, images):
    ok = as_registration(np.linalg.inv(H_0TO1), HW0, HW1)
    rows = [(refused("no", HW0, HW1), None, "refused"), (ok, [4.0, 6.0], "acceptable"), (ok, None, "answered")]
    pairs = []
    for result, errors, outcome in rows:
        row = {"registration": result.to_dict(), "errors_px": errors, "mean_px": np.mean(errors or [np.inf])}
        pairs.append(Shown(outcome, record, row | {"confidence": 0.8, "dice": np.nan}, outcome))
    scene = explorers.pairs_scene(pairs, 1, side_px=200)
    assert [dot["y"] for dot in scene["dots"]] == [explorers.NO_TRANSFORM_PX, 5.0, explorers.LOW_PX]
    assert set(scene["chart"]["looks"]) == {"refused", "acceptable", "answered"} and "warped" in scene["layers"]
    widget = PairExplorer(pairs)
    widget.act({"k": 0})
    assert widget.scene["chosen"] == 0 and "warped" not in widget.scene["layers"]
    with pytest.raises(ValueError, match="no pair"):
        PairExplorer([])
