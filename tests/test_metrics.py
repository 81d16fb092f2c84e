"""Oracles for the metrics: every expected number is worked out by hand or by an independent, slower method."""

import math

import numpy as np
import pandas as pd
import pytest

from retina_kp.core import geometry
from retina_kp.evaluation import metrics
from retina_kp.evaluation.intervals import mean_of_groups
from retina_kp.evaluation.metrics import RATES
from retina_kp.evaluation.summary import summarise

INF = float("inf")
SHIFT_34 = geometry.translation(3, 4)  # every point moves by 5 px
NONE = np.zeros((0, 2))


def rows(*errors, refused=(), confidence=math.nan) -> pd.DataFrame:
    """Rows of the runner for pairs with these errors, None for those without a transform."""
    found = []
    for k, own in enumerate(errors):
        own = None if own is None else np.array(own, float)
        outcome = "refused" if k in refused else metrics.judge(own)
        names = {"pair": str(k), "eye": str(k), "method": "m", "outcome": outcome, "confidence": confidence}
        found.append(names | {"seconds": 1.0} | metrics.error_columns(own))
    return pd.DataFrame(found)


# ------------------------------------------------------------------ one pair


@pytest.mark.parametrize(
    ("fixed_hw", "longer_side", "expected"),
    [((768, 500), 768, 5), ((313, 471), 768, 5 * 768 / 471), ((1456, 90), 2912, 10)],
)
def test_point_errors_are_rescaled_by_the_longer_side_of_the_fixed_image(fixed_hw, longer_side, expected):
    points = np.array([[0, 0], [10, 20], [300.5, 100]])
    assert metrics.point_errors(SHIFT_34, points, points, fixed_hw, longer_side) == pytest.approx([expected] * 3)


def test_point_errors_use_moving_to_fixed():
    H = geometry.similarity(90, 2, (10, 10), (50, 60))
    assert metrics.point_errors(H, [[10, 10], [11, 10]], [[50, 60], [50, 62]], (768, 768)) == pytest.approx(
        [0, 0], abs=1e-12
    )


def test_no_transform_has_no_errors_and_a_lost_point_is_infinitely_wrong():
    assert metrics.point_errors(None, [[1, 2]], [[1, 2]], (768, 768)) is None
    H = np.array([[1, 0, 0], [0, 1, 0], [-0.01, 0, 1.0]])  # x = 100 is the horizon
    errors = metrics.point_errors(H, [[0, 0], [150, 0]], [[0, 0], [150, 0]], (768, 768))
    assert errors.tolist() == [0, INF] and metrics.judge(errors) == "inaccurate"


@pytest.mark.parametrize("points", [NONE, np.zeros((3, 3)), np.zeros(2)])
def test_point_errors_want_pairs(points):
    with pytest.raises(ValueError, match="point pairs"):
        metrics.point_errors(np.eye(3), points, points, (768, 768))


@pytest.mark.parametrize(
    ("errors", "verdict"),
    [
        (None, "failed"),
        ([20, 20, 50], "acceptable"),
        ([20.01, 20.01, 30], "inaccurate"),
        ([0, 0, 50.01], "inaccurate"),
        ([0, 40], "acceptable"),
    ],
)
def test_judge_at_the_limits(errors, verdict):
    assert metrics.judge(None if errors is None else np.array(errors, float)) == verdict


def test_strict_rules_hold_at_512():
    # measured at 768: at the limit of the mean, over it, over that of the largest, at that, and none
    table = rows([7.5, 7.5], [7.5, 7.6], [0, 0, 0, 15.1], [0, 15.0], None)
    found = {name: list(metrics.SCORES[name].of(table)) for name in ("sr_me", "sr_mae", "strict")}
    assert found == {
        "sr_me": [True, False, True, True, False],
        "sr_mae": [True, True, False, True, False],
        "strict": [True, False, False, True, False],
    }


# ------------------------------------------------------------------ many pairs


def test_auc25_by_hand():
    # below i: 0.5 for i = 1…25 (25 times), 3 strictly for i = 4…25 (22 times), 25 and a failure never: 47 of 4 x 25
    assert metrics.auc25([0.5, 3, 25, INF]) == pytest.approx([1, 22 / 25, 0, 0])
    assert metrics.auc25([1.0]) == pytest.approx(24 / 25)  # the tie at 1 does not count
    assert metrics.auc25([0.0]) == 1 and list(metrics.auc25([INF, math.nan])) == [0, 0] and not metrics.auc25([]).size


@pytest.mark.parametrize("limit", [5, 10, 20])
def test_auc_at_is_the_integral_of_the_recall_curve(limit):
    errors = np.concatenate([np.random.default_rng(3).exponential(8, 37), [INF, INF, math.nan, limit, 0.0]])
    t = (np.arange(100_000) + 0.5) * limit / 100_000
    recall = np.searchsorted(np.sort(errors), t, side="right") / len(errors)
    assert metrics.auc_at(errors, limit).mean() == pytest.approx(recall.mean(), abs=1e-5)


def test_auc_at_by_hand():
    assert metrics.auc_at([0, 2.5, 5, INF], 5) == pytest.approx([1, 0.5, 0, 0])


def test_fire_protocol_worked_through_with_ties_at_the_limit():
    """Six pairs at 2912 px. S: means 24, 24.999 and 25; P: 1 and a failure; A: 12.5. "Less than": a mean of exactly i
    misses limit i."""
    by_category = {"S": [24, 24.999, 25], "P": [1, INF], "A": [12.5]}
    # limits passed: 24 and 24.999 only i = 25, 25 none; 1 from 2 on; 12.5 from 13 on
    hits = {"S": 1 + 1 + 0, "P": 24 + 0, "A": 13}
    assert metrics.auc25(by_category["S"]).mean() == pytest.approx(hits["S"] / 75)
    assert metrics.auc25(by_category["P"]).mean() == pytest.approx(hits["P"] / 50)
    assert metrics.auc25(by_category["A"]).mean() == pytest.approx(hits["A"] / 25)
    assert metrics.auc25(sum(by_category.values(), [])).mean() == pytest.approx(39 / 150)  # all pairs in one pot


def test_fires_mean_ignores_category_sizes():
    errors = {"S": [0.5] * 70, "P": [INF], "A": [0.5, INF]}
    values = np.concatenate([metrics.auc25(own) for own in errors.values()])
    groups = [name for name, own in errors.items() for _ in own]
    mean, _, _ = mean_of_groups(values, groups, [str(k) for k in range(73)])
    assert mean == pytest.approx((1 + 0 + 0.5) / 3)


# ------------------------------------------------------------------ keypoints, matches, masks


def test_repeatability_counts_only_points_both_images_see():
    hw, H = (313, 471), geometry.translation(-100, 0)  # image 1 shows image 0 from x = 100 on
    points0 = [[50, 10], [150, 10], [200, 10], [300, 300]]  # the first is seen by image 0 alone
    points1 = [[50, 15], [100, 15.1], [400, 200]]  # at 5 px, at 5.1 px, and seen by image 1 alone (x = 500 in image 0)
    assert metrics.repeatability(points0, points1, H, hw, hw) == pytest.approx((1 + 1) / (3 + 2))
    assert metrics.repeatability(points0, points1, H, hw, hw, threshold_px=5.2) == pytest.approx((2 + 2) / (3 + 2))


def test_repeatability_measures_in_image_0():
    H = geometry.similarity(0, 0.5, (0, 0), (0, 0))  # 4 px in image 1 are 8 px in image 0
    assert metrics.repeatability([[100, 100]], [[54, 50]], H, (313, 471), (313, 471)) == 0
    assert metrics.repeatability([[100, 100]], [[52, 50]], H, (313, 471), (313, 471)) == 1


@pytest.mark.parametrize(("points0", "points1"), [(NONE, NONE), (NONE, [[5, 5]]), ([[5, 5]], NONE), ([], [])])
def test_silent_detectors_score_zero(points0, points1):
    assert metrics.repeatability(points0, points1, np.eye(3), (20, 20), (20, 20)) == 0
    assert metrics.matching_score(NONE, NONE, points0, points1, np.eye(3), (20, 20), (20, 20)) == 0


def test_inlier_rate_of_four_matches_with_one_moved():
    matches0 = np.array([[10, 10], [100, 20], [30, 200], [80, 90.0]])
    matches1 = geometry.warp_points(matches0, SHIFT_34)
    assert metrics.inlier_rate(matches0, matches1, SHIFT_34) == 1
    matches1[2] += 4, 3.1
    assert metrics.inlier_rate(matches0, matches1, SHIFT_34) == 0.75
    assert metrics.inlier_rate(matches0, matches1, SHIFT_34, threshold_px=6) == 1
    assert metrics.inlier_rate(NONE, NONE, np.eye(3)) == 0


def test_matching_score_divides_by_detections_in_the_overlap():
    hw, H = (313, 471), geometry.translation(-100, 0)
    points0 = np.array([[50, 10], [150, 10], [200, 10], [300, 300], [320, 20.0]])  # 4 in the overlap
    points1 = np.array([[50, 10], [100, 10], [460, 200.0]])  # 2 in the overlap
    # two correct, one wrong
    score = metrics.matching_score(points0[[1, 2, 0]], points1[[0, 1, 2]], points0, points1, H, hw, hw)
    assert score == pytest.approx((2 / 4 + 2 / 2) / 2)


def test_vessel_dice_on_the_overlap_only():
    mask0, mask1, valid = np.zeros((3, 5)), np.zeros((3, 5), bool), np.ones((3, 5), bool)
    mask0[0, :4], mask1[0, 2:], valid[:, 4] = 1, True, False  # 4 and 2 vessel pixels are left, 2 shared
    assert metrics.vessel_dice(mask0, mask1, valid) == pytest.approx(2 * 2 / 6)
    assert math.isnan(metrics.vessel_dice(mask0, mask1, np.zeros_like(valid)))
    with pytest.raises(ValueError, match="one shape"):
        metrics.vessel_dice(mask0, mask1[:2], valid)


# ------------------------------------------------------------------ tables


def test_summary_keeps_failed_pairs_in_every_denominator():
    # means 2, 10, 40, ∞, ∞
    (summary,) = summarise(rows([1, 3], [10, 10], [60, 60, 0], None, None, refused=(3,))).to_dict("records")
    expected = {
        "pairs": 5,
        "eyes": 5,
        "failed": 2 / 5,
        "refused": 1 / 5,
        "inaccurate": 1 / 5,
        "acceptable": 2 / 5,
        "wrong_accepted": 1 / 5,
        "sr_me": 1 / 5,
        "sr_mae": 2 / 5,
        "strict": 1 / 5,
        "auc25": (23 + 15) / (25 * 5),
        "auc25_fire": 18 / (25 * 5),
        "auc@5": 0.6 / 5,
        "auc@10": 0.8 / 5,
        "auc@20": (0.9 + 0.5) / 5,
        "median_px": 40,
        "seconds": 1,
    }
    # a mean of 2 px at 768 is one of 7.58 px at 2912: below 8, 9 … 25
    assert {name: summary[name] for name in expected} == pytest.approx(expected)
    assert summarise(rows([1], None)).median_px[0] == INF


def test_summary_agrees_with_the_formulas_of_the_evaluation_tool():
    rng = np.random.default_rng(5)
    errors = [None if k % 4 == 0 else rng.exponential(rng.choice([3, 15, 30]), 20) for k in range(41)]
    ok = [e is not None and np.median(e) <= 20 and e.max() <= 50 for e in errors]
    mean = np.array([np.inf if e is None else e.mean() for e in errors])
    (summary,) = summarise(rows(*errors, refused=range(0, 41, 4))).to_dict("records")
    assert 0 < summary["acceptable"] < 1 and summary["wrong_accepted"] > 0
    assert summary["acceptable"] == pytest.approx(np.mean(ok))
    assert summary["refused"] == pytest.approx(np.mean([e is None for e in errors]))
    wrong = [e is not None and not k for e, k in zip(errors, ok, strict=True)]
    assert summary["wrong_accepted"] == pytest.approx(np.mean(wrong))
    assert summary["auc25"] == pytest.approx(np.mean([np.mean(mean < k) for k in range(1, 26)]))
    assert summary["median_px"] == pytest.approx(np.median(mean))


def test_a_warned_of_error_is_inaccurate_but_not_wrongly_accepted():
    table = pd.concat([rows([60.0, 60], confidence=0.9), rows([60.0, 60], confidence=0.2), rows([1]), rows(None)])
    (summary,) = summarise(table, scores=RATES).to_dict("records")
    assert [summary[name] for name in ("inaccurate", "wrong_accepted", "failed", "refused")] == [0.5, 0.25, 0.25, 0]


def test_summary_of_nothing_and_of_points_that_do_not_exist():
    assert not len(summarise(rows([1])[:0]))
    with pytest.raises(ValueError, match="point pairs"):
        metrics.point_errors(np.eye(3), NONE, NONE, (768, 768))
