"""Point pairs as truth: which transform they define, how well they agree, and which pairs are left out."""

from dataclasses import replace

import numpy as np
import pytest

from retina_kp.core.geometry import corner_error, similarity, warp_points
from retina_kp.core.images import write_image
from retina_kp.data.annotation import MIN_SPREAD, fitted_model, fixed_residuals, screen, true_homography
from retina_kp.data.records import PairRecord

HW0, HW1 = (300, 400), (384, 300)  # residuals are given at 768 px: twice the px of image 1
H_TILTED = np.array([[0.8, 0.1, 12.5], [-0.06, 0.9, 20.25], [1e-4, -2e-4, 1.0]])
SHEARED = np.array([[0.8, 0.25, 10.0], [0.0, 0.6, 40.0], [0, 0, 1.0]])
SPREAD = np.array([[20.0, 30], [350, 40], [200, 150], [40, 260], [360, 270], [120, 90], [280, 200], [210, 40]])
# nearly one line
NARROW = np.array([[50.0, 50], [90, 80.5], [130, 109], [170, 141], [210, 169.5], [250, 200], [290, 231], [330, 259]])


@pytest.fixture
def record(tmp_path) -> PairRecord:
    for name, hw in (("a.png", HW0), ("b.png", HW1)):
        write_image(tmp_path / name, np.zeros(hw, np.uint8))
    return PairRecord(
        "p", "e", "CF", "FA", tmp_path / "a.png", tmp_path / "b.png", SPREAD, warp_points(SPREAD, H_TILTED)
    )


def leave_one_out_residual(record):
    return fitted_model(record)[1]


def annotated(record: PairRecord, points0: np.ndarray, H: np.ndarray, **changes) -> PairRecord:
    return replace(record, points0_xy=points0, points1_xy=warp_points(points0, H), **changes)


def is_similarity(H: np.ndarray) -> bool:
    return np.allclose(H[2], [0, 0, 1]) and np.isclose(H[0, 0], H[1, 1]) and np.isclose(H[0, 1], -H[1, 0])


# ------------------------------------------------------------------ which transform


@pytest.mark.parametrize("count", [6, 7, 8])
def test_from_six_well_spread_points_on_it_is_a_homography(record, count):
    assert corner_error(true_homography(annotated(record, SPREAD[:count], H_TILTED)), H_TILTED, HW0) < 0.05


@pytest.mark.parametrize("count", [3, 4, 5])
def test_below_six_points_it_is_a_similarity(record, count):
    H = similarity(25, 0.7, (200, 150), (150, 190))
    found = true_homography(annotated(record, SPREAD[:count], H))
    assert is_similarity(found) and corner_error(found, H, HW0) < 0.05


def test_five_points_of_a_tilted_plane_give_a_similarity_all_the_same(record):
    assert is_similarity(true_homography(annotated(record, SPREAD[:5], H_TILTED)))


def test_badly_spread_points_give_a_similarity(record):
    H = similarity(-10, 0.8, (200, 150), (150, 190))
    points1 = warp_points(NARROW, H) + np.random.default_rng(0).normal(0, 0.3, NARROW.shape)
    found = true_homography(replace(record, points0_xy=NARROW, points1_xy=points1))
    assert is_similarity(found) and corner_error(found, H, HW0) < 3


@pytest.mark.parametrize(("factor", "similar"), [(0.9, True), (1.1, False)])
def test_the_spread_that_decides_is_the_rms_distance_from_the_best_line(record, factor, similar):
    away = factor * MIN_SPREAD * max(HW1)  # every point lies so far from the line y = 150, on alternate sides
    points = np.column_stack([np.linspace(30, 270, 8), 150 + away * np.array([1, -1, -1, 1, 1, -1, -1, 1])])
    assert (
        is_similarity(true_homography(annotated(record, warp_points(points, np.linalg.inv(SHEARED)), SHEARED)))
        == similar
    )


def test_a_known_matrix_goes_before_the_points(record):
    H = similarity(5, 1, (0, 0), (3, 4))
    assert np.array_equal(true_homography(replace(record, H_0to1=H)), H)


@pytest.mark.parametrize("count", [5, 8])
def test_an_outlier_does_not_move_the_transform(record, count):
    H = H_TILTED if count == 8 else similarity(25, 0.7, (200, 150), (150, 190))
    good = annotated(record, SPREAD[:count], H)
    wrong = good.points1_xy.copy()
    wrong[2] += [40, -25]
    assert corner_error(true_homography(replace(good, points1_xy=wrong)), H, HW0) < 0.05


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"points0_xy": None, "points1_xy": None}, "has neither H_0to1 nor point pairs"),
        ({"points0_xy": SPREAD[:2], "points1_xy": SPREAD[:2]}, "2 point pairs define no transform"),
        ({"points0_xy": SPREAD, "points1_xy": SPREAD * [-1, 1] + [300, 0]}, "mirror the retina"),
        ({"points0_xy": SPREAD[:5], "points1_xy": np.full((5, 2), 7.0)}, "no transform fits"),
    ],
)
def test_points_that_define_no_transform_are_refused_by_name(record, changes, reason):
    with pytest.raises(ValueError, match=f"^wrong one: .*{reason}"):
        true_homography(replace(record, pair_id="wrong one", **changes))


# ------------------------------------------------------------------ how good an annotation is


def test_perfect_points_have_no_residual(record):
    assert leave_one_out_residual(record) < 0.01


def test_without_points_the_residual_is_unknown(record):
    assert np.isnan(leave_one_out_residual(replace(record, points0_xy=None, points1_xy=None)))


def test_three_points_leave_no_transform_for_the_third(record):
    assert leave_one_out_residual(annotated(record, SPREAD[:3], np.eye(3))) == np.inf


def test_one_wrong_point_of_five_does_not_spoil_the_residual(record):
    """It is the median: RANSAC finds the good points again whichever one is left out, and only the wrong one's own
    residual is large."""
    good = annotated(record, SPREAD[:5], similarity(12, 0.8, (200, 150), (150, 190)))
    assert (
        leave_one_out_residual(
            replace(good, points1_xy=good.points1_xy + np.array([[30.0, 40]]) * np.eye(5)[1][:, None])
        )
        < 0.01
    )


def test_the_residual_is_given_at_768_px(record):
    """A square that image 1 shows 1.5 px wider on either side, within RANSAC's 3.84 px; its longer side measures 384
    px."""
    square = np.array([[100.0, 100], [200, 100], [200, 200], [100, 200]])
    wider = square + 1.5 * np.array([[-1, 0], [1, 0], [1, 0], [-1, 0]])
    expected = np.linalg.norm(left_out_by_hand(square, wider), axis=1)
    record = replace(record, points0_xy=square, points1_xy=wider)
    assert leave_one_out_residual(record) == pytest.approx(np.median(expected) * 768 / 384, rel=0.02)


def test_residuals_of_the_fixed_frame_are_its_px_at_768(record):
    """The same square: image 0 shows it half as large as image 1 does, and its longer side measures 400 px."""
    square = np.array([[100.0, 100], [150, 100], [150, 150], [100, 150]])
    wider = 2 * square + 1.5 * np.array([[-1, 0], [1, 0], [1, 0], [-1, 0]])
    record = replace(record, points0_xy=square, points1_xy=wider)
    expected = np.linalg.norm(left_out_by_hand(square, wider, inverse=True), axis=1) * 768 / 400
    assert fixed_residuals(record) == pytest.approx(expected, rel=0.03)
    assert np.median(expected) == pytest.approx(leave_one_out_residual(record) * 384 / 400 / 2, rel=0.1)
    assert fixed_residuals(replace(record, points0_xy=None, points1_xy=None)).size == 0
    assert np.isinf(fixed_residuals(annotated(record, SPREAD[:3], np.eye(3)))).all()


def left_out_by_hand(points0: np.ndarray, points1: np.ndarray, inverse: bool = False) -> np.ndarray:
    """(N, 2) errors of each point, in frame 1 or, inverse, in frame 0, under the least-squares similarity of the
    others, solved as complex z1 = a z0 + b."""
    z0, z1 = (points @ [1, 1j] for points in (points0, points1))
    errors = []
    for k in range(len(z0)):
        rest = np.arange(len(z0)) != k
        (a, b), *_ = np.linalg.lstsq(np.column_stack([z0[rest], np.ones(rest.sum())]), z1[rest], rcond=None)
        errors.append((z1[k] - b) / a - z0[k] if inverse else a * z0[k] + b - z1[k])
    return np.column_stack([np.real(errors), np.imag(errors)])


# ------------------------------------------------------------------ which pairs are used


def test_screen_keeps_the_good_and_names_the_others(record):
    rng = np.random.default_rng(3)
    scattered = replace(record, pair_id="scattered", points1_xy=rng.uniform(20, 280, SPREAD.shape))
    mirrored = replace(record, pair_id="mirrored", points1_xy=SPREAD * [-0.7, 0.7] + [300, 0])
    used, rows, problems = screen([record, scattered, mirrored], max_residual_px=25)
    assert [r.pair_id for r in used] == ["p"]
    assert [(row["pair_id"], row["points"], row["used"]) for row in rows] == [
        ("p", 8, True),
        ("scattered", 8, False),
        ("mirrored", 8, False),
    ]
    assert all(p.source == str(record.image1) for p in problems) and problems[1].reason.startswith("mirrored: ")
    assert problems[0].reason.startswith("scattered: ")


def test_screen_compares_the_residual_with_its_limit(record):
    noisy = replace(record, points1_xy=record.points1_xy + np.random.default_rng(1).normal(0, 1.5, SPREAD.shape))
    residual = leave_one_out_residual(noisy)
    assert 0.5 < residual < 60
    assert screen([noisy], residual + 0.01)[0] == [noisy]
    used, _, (problem,) = screen([noisy], residual - 0.01)
    assert not used and f"leave-one-out residual {residual:.1f} px" in problem.reason


def test_pairs_with_a_matrix_and_no_points_are_used(record):
    known = replace(record, points0_xy=None, points1_xy=None, H_0to1=np.eye(3))
    used, (row,), problems = screen([known], 1.0)
    assert used == [known] and not problems and row["points"] == 0 and np.isnan(row["residual_px"])
