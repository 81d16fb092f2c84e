"""PKE against hand-made maps: Gaussian peaks at known pixels, one-hot descriptors around them, a known rotation."""

import io
from dataclasses import replace

import pytest
import torch

from retina_kp.core.config import from_dict, to_dict
from retina_kp.core.geometry import from_cells, pixel_grid, similarity, warp_points
from retina_kp.networks import DenseOutput
from retina_kp.training import pke
from retina_kp.training.losses import GEOMETRIC_PKE, LossContext, gaussian_labels
from retina_kp.training.memory import ValueMap, visits_of
from retina_kp.training.memory import expand as expand_labels
from retina_kp.training.pke import PkeGuard, PkeOptions, allowed_drop, content_ratio, mine, mined_precision

NAN, SIZE, CENTER = torch.nan, 192, (95.5, 95.5)
TURN = torch.from_numpy(similarity(30, 1, CENTER, CENTER))
# 36 points
LATTICE = torch.cartesian_prod(torch.arange(21.0, 180, 30), torch.arange(21.0, 180, 30)) + torch.tensor([0.3, -0.4])
OPTIONS, POINT = PkeOptions(), torch.tensor([[50.0, 60.0]])
LEFT, BOX = (torch.arange(SIZE) < 96).expand(1, 1, SIZE, SIZE), torch.zeros(1, 1, SIZE, SIZE, dtype=torch.bool)
BOX[..., 40:150, 40:150] = True


def output(points, colours=None):
    """Peaks of 0.9 at points (N, 2) on a stride-2 map; each cell of the stride-8 map is one-hot in the number of its
    nearest point."""
    detector = 0.9 * gaussian_labels(points[None], (SIZE // 2, SIZE // 2), 2, 2.0)
    nearest = torch.cdist(from_cells(pixel_grid((SIZE // 8, SIZE // 8)).reshape(-1, 2), 8), points).argmin(1)
    codes = torch.eye(64)[torch.arange(len(points)) if colours is None else colours]
    return DenseOutput(detector, codes[nearest].T.reshape(1, 64, SIZE // 8, SIZE // 8), 2, 8)


def batch_of(count=1, H=TURN, annotated=((NAN, NAN),), **changes):
    on = torch.ones(count, 1, SIZE, SIZE, dtype=torch.bool)
    return {
        "valid0": on,
        "valid1": on,
        "vessel_mask0": on,
        "H_0to1": H.expand(count, 3, 3),
        "sample_ids": list(range(count)),
        "vessel_keypoints": torch.tensor(annotated).expand(count, -1, 2),
    } | changes


def labelled_loss(out0, out1, labels_xy, batch):
    """The geometric loss of phase 3."""
    return GEOMETRIC_PKE.term(LossContext(out0, out1, batch, labels_xy))


def scene(points=LATTICE, H=TURN):
    return output(points), output(warp_points(points.double(), H).float())


def near(found, points, px=0.5):
    """The same points in any order."""
    return len(found) == len(points) and (len(points) == 0 or bool((torch.cdist(found, points).amin(1) < px).all()))


def expand(value_map, found, batch):
    """Book a round, then the labels."""
    value_map.book(visits_of(value_map, found, batch))
    return expand_labels(value_map, batch)[0]


MAPPED = warp_points(LATTICE.double(), TURN).float()
SEEN = LATTICE[((MAPPED >= 0) & (MAPPED <= SIZE - 1)).all(1)]  # those that image 1 shows
BAD = {
    "content_ratio_max": 1.2,
    "pke_min_probability": -0.1,
    "max_new_points": 0,
    "max_candidates": 2.5,
    "nms_radius_px": 0.0,
    "value_gain": 0.0,
    "value_decay": NAN,
    "promotion_value": 6.0,
    "demotion_value": 3.1,
    "guard_max_drop": 2.0,
}


@pytest.mark.parametrize(("name", "value"), BAD.items())
def test_an_option_out_of_range_is_named(name, value):
    with pytest.raises(ValueError, match=name):
        replace(OPTIONS, **{name: value})
    assert from_dict(PkeOptions, to_dict(OPTIONS)) == OPTIONS


def test_every_true_point_that_both_images_see_is_mined_and_twice_the_same():
    outputs, batch = scene(), batch_of()
    before = [x.clone() for o in outputs for x in (o.detector, o.descriptors)]
    found, again = mine(*outputs, batch), mine(*outputs, batch)
    assert 20 < len(SEEN) < 36 and near(found.points0_xy[0], SEEN)
    assert torch.allclose(found.points1_xy[0], warp_points(found.points0_xy[0].double(), TURN).float())
    assert " ".join(found.funnel) == "candidates after_mask after_view after_geometric after_content after_budget"
    assert list(found.funnel.values()) == [36, 36] + [len(SEEN)] * 4 and len(found.rejected[0]["view"]) == 36 - len(
        SEEN
    )
    assert ((0.5 < found.confidence[0]) & (found.confidence[0] <= 0.9)).all()
    assert torch.equal(found.points0_xy[0], again.points0_xy[0]) and torch.equal(
        found.confidence[0], again.confidence[0]
    )
    assert all(
        torch.equal(x, y)
        for x, y in zip(before, (x for o in outputs for x in (o.detector, o.descriptors)), strict=True)
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"annotated": [*(tuple(p) for p in (SEEN[:3] + 4).tolist()), (NAN, NAN)]}, SEEN[3:]),  # annotation wins
        ({"vessel_mask0": LEFT}, SEEN[SEEN[:, 0] < 95.5]),
        ({"vessel_mask0": None}, SEEN[:0]),
        ({"vessel_mask0": 0 * LEFT}, SEEN[:0]),
        ({"valid0": BOX}, SEEN[((SEEN > 44) & (SEEN < 145)).all(1)]),  # 4 px from the edge
        ({"valid1": BOX}, LATTICE[((MAPPED > 40) & (MAPPED < 149)).all(1)]),
    ],
)
def test_places_that_bound_the_points(changes, expected):
    assert near(mine(*scene(), batch_of(**changes)).points0_xy[0], expected)


def test_det1_must_confirm_a_point():
    out0, out1 = scene()
    out1.detector[:] = output(torch.cat([MAPPED[:18], MAPPED[19:]])).detector
    found = mine(out0, out1, batch_of())
    assert near(found.rejected[0]["geometric"], LATTICE[18:19]) and len(found.points0_xy[0]) == len(SEEN) - 1
    detector = torch.zeros(1, 1, 20, 20)
    detector[0, 0, 10, 10] = 0.8  # its centre is (20.5, 20.5) px; read in the point's cell and its neighbours
    points = torch.tensor(
        [
            [
                [20.5, 20.5],
                [21.9, 19.3],
                [22.4, 22.4],
                [18.0, 20.0],
                [24.0, 20.5],
                [20.5, 17.0],
                [NAN, NAN],
                [-3.0, 900.0],
            ]
        ]
    )
    assert pke.peak_probability(DenseOutput(detector, detector, 2, 8), points)[0].tolist() == pytest.approx(
        [0.8] * 4 + [0] * 4
    )


def test_swapped_or_collapsed_content_is_rejected():
    code = torch.arange(36)
    code[[14, 20]] = code[[20, 14]]
    found = mine(output(LATTICE), output(MAPPED, code), batch_of())
    assert near(found.rejected[0]["content"], LATTICE[[14, 20]]) and len(found.points0_xy[0]) == len(SEEN) - 2
    code[[14, 20]] = 14  # an annotated double is a baseline, too
    found = mine(output(LATTICE, code), output(MAPPED, code), batch_of(annotated=LATTICE[20:21].tolist()))
    assert near(found.rejected[0]["content"], LATTICE[14:15])
    noise = 1e-3 * torch.randn(1, 64, 24, 24, generator=torch.Generator().manual_seed(0))
    # equal but for rounding: the true one is nearest, and means nothing
    collapsed = replace(output(LATTICE), descriptors=1 + noise)
    assert mine(collapsed, collapsed, batch_of(H=torch.eye(3).double())).funnel["after_content"] == 0


def content(points_x, angles0_deg, angles1_deg, **changes):
    """Which of points on a line pass, by the angles of their descriptors: chord = 2 sin(difference / 2). Out of view
    from 64 px on."""
    points, maps = torch.tensor([[[x, 0.0] for x in points_x]]), []
    for angles in (angles0_deg, angles1_deg):
        radians, line = torch.deg2rad(torch.tensor(angles)), torch.zeros(2, 128)
        line[:, points[0, :, 0].long()] = torch.stack([radians.cos(), radians.sin()])
        maps.append(DenseOutput(torch.zeros(1, 1, 1, 128), line[None, :, None], 1, 1))
    options = replace(OPTIONS, **changes)
    return (content_ratio(*maps, points, points, points[..., 0] < 64, options) < options.content_ratio_max)[0].tolist()


def test_content_by_hand():
    assert content([10, 40], [0.0, 90.0], [16.0, 19.9])[0] is False  # sin 8° / sin 9.95° = 0.805
    assert content([10, 40], [0.0, 90.0], [16.0, 20.2])[0] is True  # sin 8° / sin 10.1° = 0.794
    assert content([10, 40], [0.0, 90.0], [16.0, 19.9], content_ratio_max=0.9)[0]
    assert content([10, 40], [0.0, 15.0], [10.0, 60.0]) == [False, False]  # not mutual: 10° is nearer to 15° than to 0°
    # 8 px away is the same point ...
    assert content([10, 18, 50], [0.0, 1.0, 90.0], [1.0, 0.0, 90.0]) == [True, True, True]
    # ... or a baseline
    assert content([10, 18, 50], [0.0, 1.0, 90.0], [1.0, 0.0, 90.0], content_radius_px=6.0) == [False, False, True]
    assert content([10], [0.0], [0.0]) == [False] and content([10, 100], [0.0, 90.0], [0.0, 90.0])[0] is False
    assert content([10, 18], [0.0, 90.0], [0.0, 90.0]) == [False, False]  # no baseline, no proof


def crowd():
    """1849 one-cell peaks of random height, 6 px apart, each with a random descriptor."""
    g, detector = torch.Generator().manual_seed(0), torch.zeros(1, 1, 136, 136)
    detector[..., 4:132:3, 4:132:3] = 0.4 + 0.5 * torch.rand(1, 1, 43, 43, generator=g)
    masks = {key: torch.ones(1, 1, 272, 272, dtype=torch.bool) for key in ("valid0", "valid1", "vessel_mask0")}
    return DenseOutput(detector, torch.randn(1, 64, 136, 136, generator=g), 2, 2), masks


def test_a_thousand_candidates_stay_within_the_budget():
    out, masks = crowd()
    found = mine(out, out, batch_of(H=torch.eye(3).double(), **masks))
    assert found.funnel["candidates"] == 1849 and found.funnel["after_content"] > 1000
    assert found.funnel["after_budget"] == len(found.points0_xy[0]) == 300
    heights = out.detector[out.detector > 0].sort(descending=True).values
    assert torch.allclose(found.confidence[0].sort(descending=True).values, heights[:300], atol=1e-3)
    assert len(found.rejected[0]["budget"]) == found.funnel["after_content"] - 300


def test_under_a_wrong_transform_labels_do_not_grow():
    wrong = batch_of(H=torch.from_numpy(similarity(-40, 1, CENTER, (90, 99))))
    assert mine(*scene(), wrong).funnel["after_content"] == 0
    out, masks = crowd()
    everywhere = replace(out, detector=torch.ones_like(out.detector))  # det1 says yes to all: only content can tell
    wrong, value_map = batch_of(H=torch.from_numpy(similarity(25, 1, (136, 136), (140, 130))), **masks), ValueMap()
    for _ in range(5):
        found = mine(out, everywhere, wrong)
        labels = expand(value_map, found, wrong)
    assert (
        found.funnel["after_geometric"] > 300
        and found.funnel["after_content"] <= 0.01 * found.funnel["after_geometric"]
    )
    assert int(torch.isfinite(labels).all(-1).sum()) <= 2


@pytest.mark.parametrize("candidates", [0, 36])
def test_without_candidate_or_mask_annotation_stays_and_the_funnel_says_so(candidates):
    out0, out1 = scene()
    batch = batch_of(annotated=[(NAN, NAN), (36.0, 36.0)])
    del batch["vessel_mask0"]
    found = mine(replace(out0, detector=out0.detector * (candidates > 0)), out1, batch)
    assert list(found.funnel.values()) == [candidates, 0, 0, 0, 0, 0] and len(found.rejected[0]["mask"]) == candidates
    assert expand(ValueMap(), found, batch).tolist() == [[[36, 36]]] and found.points0_xy[0].shape == (0, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_and_autocast(dtype):
    half = [replace(o, detector=o.detector.to(dtype), descriptors=o.descriptors.to(dtype)) for o in scene()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mine(*half, batch_of())
        labels = expand(ValueMap(), found, batch_of())
        assert labelled_loss(*half, SEEN[None], batch_of()).value < 0.1
    assert near(found.points0_xy[0], SEEN, 0.8) and found.points0_xy[0].dtype == labels.dtype == torch.float32


def life(visits, value_map=None):
    """(value, promoted) after each visit of one point: "+" found, "-" not found, "0" not found and out of view;
    vanished = None. A find gives 1, a miss takes 0.5; up at 3, down below 1.5, never above 5."""
    value_map, story = value_map or ValueMap(), []
    for seen in visits:
        known = len(value_map.record("a"))
        value_map.visit("a", POINT if seen == "+" else POINT[:0], torch.full((known,), seen != "0"))
        story.append(tuple(value_map.record("a")[0, 2:].tolist()) if len(value_map.record("a")) else None)
    return story


def test_promotion_decay_hysteresis_and_oblivion():
    assert life("++") == [(1, 0), (2, 0)]
    assert life("+++++++") == [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (5, 1), (5, 1)]
    assert life("+++-----") == [(1, 0), (2, 0), (3, 1), (2.5, 1), (2, 1), (1.5, 1), (1, 0), (0.5, 0)]
    assert life("+++----+")[-1] == (2, 0)  # fallen below 1.5 it has to earn 3 again
    assert life("+---") == [(1, 0), (0.5, 0), (0, 0), None]
    assert life("+00+0+") == [(1, 0), (1, 0), (1, 0), (2, 0), (2, 0), (3, 1)]
    tenths = ValueMap(replace(OPTIONS, value_gain=0.1, promotion_value=1.0, demotion_value=0.5))
    assert [up for _, up in life("+" * 10, tenths)] == [0] * 9 + [1]  # 10 · 0.1 is 1, to the bit


def test_found_again_nearby_is_the_same_point_and_does_not_move_it():
    value_map = ValueMap()
    value_map.visit(7, POINT, torch.zeros(0) > 0)
    value_map.visit(7, POINT + torch.tensor([[3.0, 0], [0, 3.9]]), torch.ones(1) > 0)  # two found, one gain
    second = value_map.record(7)
    value_map.visit(7, POINT + torch.tensor([[4.1, 0]]), torch.ones(1) > 0)
    assert second.tolist() == [[50, 60, 2, 0]] and value_map.record(7).tolist() == [
        [50, 60, 1.5, 0],
        [pytest.approx(54.1), 60, 1, 0],
    ]
    value_map = ValueMap(replace(OPTIONS, max_recorded_points=2))  # the highest values stay
    value_map.visit("a", SEEN[:1], torch.zeros(0) > 0)
    value_map.visit("a", SEEN[:3], torch.ones(1) > 0)
    assert value_map.record("a")[:, 2].tolist() == [2, 1] and near(value_map.record("a")[:, :2].float(), SEEN[:2], 1e-4)


def test_state_goes_through_torch_load_exactly():
    value_map, guard = ValueMap(), PkeGuard()
    for k, n in ((3, 4), ("p", 9), (3, 4), ("empty", 0), ("", 5)):
        value_map.visit(k, LATTICE[:n] / 3, torch.ones(len(value_map.record(k)), dtype=torch.bool))
    guard.update({"synthetic pairs": (0.9, 0.05)}), guard.update({"synthetic pairs": (0.5, 0.05)})
    torch.save({"map": value_map.state_dict(), "guard": guard.state_dict()}, file := io.BytesIO())
    state, copies = torch.load(io.BytesIO(file.getvalue()), weights_only=True), (ValueMap(), PkeGuard())
    copies[0].load_state_dict(state["map"]), copies[1].load_state_dict(state["guard"])
    assert all(torch.equal(copies[0].record(k), value_map.record(k)) for k in (3, "p", "empty", "unknown"))
    assert copies[0].state_dict()["ids"] == [3, "p", "empty"] and vars(copies[1]) == vars(guard)
    with pytest.raises(ValueError):
        copies[0].load_state_dict({"ids": [1], "records": []})


def test_two_visits_in_one_step_are_booked_one_after_the_other():
    value_map, batch = ValueMap(), batch_of() | {"sample_ids": ["a"]}
    found = mine(*scene(), batch)
    both = visits_of(value_map, found, batch) * 2  # as two processes would send them
    value_map.book(both)
    assert (value_map.record("a")[:, 2] == 2).all() and len(value_map.record("a")) == len(SEEN)
    nothing = mine(*scene(), batch | {"vessel_mask0": None})
    value_map.book(visits_of(value_map, nothing, batch) + both)  # the miss first, then two finds more
    assert (value_map.record("a")[:, 2] == 3.5).all()


def test_samples_must_be_named():
    batch = batch_of() | {"sample_ids": []}
    with pytest.raises(ValueError, match="sample_ids"):
        expand(ValueMap(), mine(*scene(), batch), batch)
    with pytest.raises(TypeError, match="int or str"):
        ValueMap().visit(torch.tensor(3), POINT, torch.zeros(0) > 0)


def test_labels_of_a_batch_of_different_counts():
    few, n = LATTICE[[7, 14, 21]], len(SEEN)
    dark = replace(scene()[1], detector=torch.zeros(1, 1, SIZE // 2, SIZE // 2))
    out0, out1 = (
        DenseOutput(torch.cat([o.detector for o in each]), torch.cat([o.descriptors for o in each]), 2, 8)
        for each in zip(scene(), scene(few), (scene()[0], dark), strict=True)
    )
    batch, value_map, counts = batch_of(3, annotated=[(100.0, 3.0), (NAN, NAN)]), ValueMap(), []
    for _ in range(5):
        found = mine(out0, out1, batch)
        labels = expand(value_map, found, batch)
        counts.append(expand_labels(value_map, batch)[1])
    assert [len(p) for p in found.points0_xy] == [n, 3, 0] and counts == [0, 0, n + 3, n + 3, n + 3]
    assert labels.shape == (3, n + 1, 2) and torch.isfinite(labels).all(-1).sum(1).tolist() == [n + 1, 4, 1]
    assert labels[:, 0].tolist() == [[100, 3]] * 3 and near(labels[1, 1:4], few) and near(value_map.promoted(0), SEEN)


def remembered(points, **changes):
    """A value map that knows points of sample 0, found once, and a round that finds nothing."""
    value_map = ValueMap(replace(OPTIONS, **changes))
    value_map.visit(0, points, torch.zeros(0) > 0)
    return value_map, mine(*scene(), batch_of(vessel_mask0=None))


def test_promoted_points_give_way_to_annotation_and_to_the_field_of_view():
    value_map, nothing = remembered(SEEN, promotion_value=1.0, demotion_value=0.0)
    labels = expand(value_map, nothing, batch_of(annotated=(SEEN[:1] + 5).tolist()))
    assert near(labels[0], torch.cat([SEEN[:1] + 5, SEEN[1:]]))
    assert near(expand(value_map, nothing, batch_of(valid0=~LEFT))[0], SEEN[SEEN[:, 0] > 96])


def test_only_points_that_could_be_found_decay():
    # the last one is too near to the frame
    value_map, nothing = remembered(torch.cat([LATTICE, torch.tensor([[6.0, 95.0]])]))
    expand(value_map, nothing, batch_of())
    decayed = value_map.record(0)[:, 2] == 0.5
    assert near(value_map.record(0)[decayed, :2].float(), SEEN) and (value_map.record(0)[~decayed, 2] == 1).all()
    value_map, _ = remembered(SEEN)  # what is lost to the budget alone was found
    found = mine(*scene(), batch_of(), replace(OPTIONS, max_new_points=5))
    expand(value_map, found, batch_of())
    assert (
        len(found.points0_xy[0]) == 5 and sorted(value_map.record(0)[:, 2].tolist()) == [1] * (len(SEEN) - 5) + [2] * 5
    )


def test_geometric_loss_pulls_det1_onto_labels_that_both_images_see():
    out0, out1 = scene()
    det0, det1 = out0.detector.requires_grad_(), out1.detector.requires_grad_()
    term = labelled_loss(out0, out1, LATTICE[None], batch_of())  # 0.9 of the labels, read between cells
    term.value.backward()
    assert term.n_used == 1 and 0 < term.value < 0.06 and det0.grad is None and det1.grad.abs().sum() > 0
    assert labelled_loss(out0, out1, SEEN[None], batch_of(H=torch.eye(3).double())).value > 0.8
    assert labelled_loss(out0, out1, torch.full((1, 1, 2), NAN), batch_of()).n_used == 0


def test_precision_by_hand():
    truth = torch.tensor([[10.0, 10.0], [NAN, NAN], [50.0, 50.0]])
    points = torch.tensor([[13.0, 14.0], [50.0, 55.1], [NAN, NAN], [10.0, 10.0], [90.0, 90.0]])
    assert mined_precision(points, truth, 5.0) == 0.5 and mined_precision(points[None], truth[None], 5.2) == 0.75
    assert mined_precision(points, truth[1:2], 5.0) == 0 and torch.isnan(
        torch.tensor(mined_precision(points[:0], truth, 5.0))
    )


def test_guard_pauses_on_a_fall_and_resumes_on_recovery_only():
    guard = PkeGuard()
    told = (0.60, 0.55, 0.90, 0.85, 0.849, 0.86, 0.874, NAN, 0.875, NAN)
    story = [guard.update({"synthetic pairs": (accuracy, 0.05)}) for accuracy in told]
    assert story == [True, True, True, True, False, False, False, False, True, True]
    assert guard.best == {"synthetic pairs": 0.9}
    guard.update({"synthetic pairs": (0.7, 0.05)})
    assert guard.reason == "paused: synthetic pairs: accuracy 0.700, best 0.900, allowed drop 0.05"


def test_guard_watches_all_that_is_trained_on_and_files_with_a_limit_of_their_own():
    guard = PkeGuard()

    def told(drawn, files):
        return guard.update({"synthetic pairs": (drawn, 0.05), "pairs of mine": (files, 0.1)})

    assert told(0.8, 0.6) and told(0.8, 0.51)
    assert not told(0.8, 0.49)
    drawn = "synthetic pairs: accuracy 0.800, best 0.800, allowed drop 0.05"
    assert guard.reason == f"paused: {drawn}; pairs of mine: accuracy 0.490, best 0.600, allowed drop 0.1"
    assert not told(0.8, 0.54) and told(0.8, 0.55), "back within half of the limit"
    assert told(NAN, 0.55) and not told(0.74, 0.6)
    (copy := PkeGuard()).load_state_dict(guard.state_dict())
    assert (copy.best, copy.active) == ({"synthetic pairs": 0.8, "pairs of mine": 0.6}, False)


def test_what_a_run_does_not_train_on_says_nothing():
    guard = PkeGuard()
    assert guard.update({"pairs of mine": (0.8, 0.1)}) and guard.update({}) and "no accuracy measured" in guard.reason
    assert guard.update({"pairs of mine": (0.75, 0.1)}) and list(guard.best) == ["pairs of mine"]


def test_few_points_may_fall_farther():
    """One of ten that flips is no fall."""
    assert [
        allowed_drop(PkeOptions(), synthetic, points)
        for synthetic, points in ((True, 10_000), (False, 10_000), (True, 25), (False, 4))
    ] == [
        0.05,
        0.1,
        0.2,
        0.5,
    ]
    assert allowed_drop(PkeOptions(), False, 0) == 0.1
