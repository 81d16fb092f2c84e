"""Oracles for what is told of a registration's errors: the map over the overlap, and its calibration."""

import numpy as np
import pandas as pd
import pytest

from retina_kp import Registrar
from retina_kp.core.geometry import resize_matrix, warp_points
from retina_kp.evaluation.intervals import coverage, expected_and_errors
from retina_kp.evaluation.methods import Ours
from retina_kp.evaluation.pairs import synthetic_pairs
from retina_kp.evaluation.runner import measure
from retina_kp.mapping.expected_error import BINS, ErrorMap, checked_bounds, fit_bounds
from retina_kp.mapping.result import Registration
from retina_kp.synthetic.cameras import RoundOptions
from retina_kp.synthetic.pairs import PairOptions, draw_pair


@pytest.fixture
def error_map():
    px = np.array([[1.0, 2.0, 4.0], [3.0, 5.0, np.nan]])
    return ErrorMap(px, np.array([10.0, 20.0]), np.array([8.0, 4.0]))


def test_a_map_is_linear_between_its_nodes_and_knows_nothing_outside(error_map):
    places = [[10, 20], [14, 20], [18, 22], [26, 20], [9, 20], [200, 20], [np.nan, 20], [26, 24]]
    told = error_map.at(places)
    assert told[:4] == pytest.approx([1, 1.5, 3.5, 4]) and np.isnan(told[5:]).all()
    assert error_map.at(np.zeros((0, 2))).shape == (0,)


def test_a_picture_and_another_size_tell_the_same(error_map):
    assert error_map.picture((30, 40))[20, 14] == pytest.approx(1.5)
    assert error_map.picture((31, 41), step=2).shape == (16, 21)
    resize = resize_matrix((30, 40), (60, 80))
    places = np.array([[14.0, 20.0], [18.0, 22.0]])
    assert error_map.resized(resize).at(warp_points(places, resize)) == pytest.approx(2 * error_map.at(places))


def test_bounds_hold_for_ninety_of_a_hundred_new_places():
    rng = np.random.default_rng(0)

    def drawn(count):
        open_px = np.exp(rng.uniform(-3, 1, count))
        return open_px, np.abs(rng.normal(0, 2 * open_px)) + 0.1

    bounds = fit_bounds(*drawn(4000))
    assert len(bounds[0]) == BINS and bounds[0] == sorted(bounds[0]) and bounds[1] == sorted(bounds[1])
    open_px, error_px = drawn(4000)
    hw = (384, 768)
    told = ErrorMap(open_px[None], np.zeros(2), np.ones(2)).calibrated(bounds, hw).px[0]
    for part in (open_px < 0.2, open_px >= 0.2, open_px > 1):
        assert 0.85 < np.mean(error_px[part] <= told[part]) < 0.96
    large = ErrorMap(2 * open_px[None], np.zeros(2), np.ones(2)).calibrated(bounds, (768, 1536)).px[0]
    assert large == pytest.approx(2 * told)
    with pytest.raises(ValueError, match=f"{10 * BINS} places or more, not 3"):
        fit_bounds(open_px[:3], error_px[:3])


def test_a_registration_tells_less_where_little_is_seen(tmp_path):
    pair = draw_pair(5, 1, ("CF", "FA"), PairOptions(rotation_deg=20, eye=RoundOptions()))
    result = Registrar.from_pretrained("lite", device="cpu")(pair.fixed, pair.moving)
    both = pair.shown_by_both(12)
    told = result.expected.at(both)
    assert np.isfinite(told).mean() > 0.95 and np.nanmin(told) > 0
    assert not np.isfinite(result.expected.at([[-500, -500]])).any()
    result.save(tmp_path / "pair.json")
    assert Registration.load(tmp_path / "pair.json").expected.at(both) == pytest.approx(told, nan_ok=True)
    small = result.resized([n // 2 for n in result.fixed_hw], result.moving_hw)
    resize = resize_matrix(result.fixed_hw, small.fixed_hw)
    assert small.expected.at(warp_points(both, resize)) == pytest.approx(told / 2, rel=1e-3, nan_ok=True)
    assert result.inverse().expected is None and result.refuse("no").expected is None
    affine = Registrar.from_pretrained("lite", device="cpu", model="affine")(pair.fixed, pair.moving)
    assert affine.expected is None


def test_coverage_counts_places_that_were_told_and_known():
    rows = pd.DataFrame(
        {"expected_px": [[1.0, 4.0, 30.0], None, [15.0, None]], "errors_px": [[2.0, 6.0, 9.0], [1.0], [18.0, 3.0]]}
    )
    expected, errors = expected_and_errors(rows)
    assert expected.tolist() == [1, 4, 30, 15] and errors.tolist() == [2, 6, 9, 18]
    table = coverage(rows)
    assert table["points"].tolist() == [2, 2, 3, 4]
    assert table["kept to it"].tolist() == pytest.approx([0.5, 1, 1, 0.25])
    assert np.isnan(coverage(rows[1:2])["kept to it"]).all()


def test_rows_tell_what_was_to_be_expected(tmp_path):
    pairs = synthetic_pairs(3, 1, PairOptions(rotation_deg=10, eye=RoundOptions()), ("FA",))
    rows = measure(pairs, [Ours("auto", device="cpu"), Ours("affine", model="affine", device="cpu")], tmp_path)
    told = rows.set_index("method")
    assert len(told.expected_px["auto"]) == len(told.errors_px["auto"]) and told.expected_px["affine"] is None
    assert len(expected_and_errors(rows)[0]) > 0.9 * len(told.errors_px["auto"])


@pytest.mark.parametrize("bounds", [[[1, 2]], [[1, 2], [3]], [[2, 1], [1, 2]], [[1, 2], [1, float("nan")]], "ab", 3.0])
def test_bounds_that_cannot_be_are_refused(bounds):
    with pytest.raises(ValueError, match="two lists of finite, rising numbers"):
        checked_bounds(bounds)


def test_no_bounds_change_nothing(error_map):
    assert error_map.calibrated(checked_bounds(()), (30, 40)) is error_map
