"""The pictures of notebooks 10 and 11 show what was computed, and anatomy is measured as told."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from retina_kp import PairOptions, draw_pair
from retina_kp.core.geometry import translation, warp_points
from retina_kp.mapping.transforms import Fit
from retina_kp.registration.closeup import Warped, Window, common_window
from retina_kp.registration.keypoints import Features
from retina_kp.registration.search import Hypothesis
from retina_kp.synthetic.vasculature import ARTERY, BIFURCATION, CROSSING, VEIN, Retina
from retina_kp.viz import steps


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def features(points, detector=None) -> Features:
    points = np.asarray(points, np.float32)
    return Features(points, np.ones(len(points)), np.eye(len(points), 8, dtype=np.float32), (64, 64), detector)


def hypothesis(inliers: int, matches: int) -> Hypothesis:
    return Hypothesis(Fit("similarity", np.eye(3), np.arange(matches) < inliers), 0.6, matches, inliers)


def test_a_step_in_a_window_is_composed_into_base_px():
    window = Window(np.diag([2.0, 2.0, 1.0]) @ translation(-10, -20), (64, 64), 2.0, features([[1, 1]]))
    warped = Warped(window, translation(5, 0), features([[1, 1]]))
    assert np.allclose(warped.composed(translation(4, -6)), translation(7, -3)), "4 window px are 2 base px"
    assert warped.moved_px(translation(3, 4)) == pytest.approx(5)


def test_matches_of_a_window_are_looked_for_in_base_px():
    """The same places 6 window px apart: 3 base px at zoom 2."""
    places = np.random.default_rng(0).uniform(10, 50, (8, 2))
    warped = Warped(Window(np.eye(3), (64, 64), 2.0, features(places)), np.eye(3), features(places + (6, 0)))
    fit, points = warped.fit("similarity", 2.9, 1.0)
    assert fit is None and points[0].shape == (0, 2)
    fit, points = warped.fit("similarity", 3.1, 1.0)
    assert fit.n_inliers == 8 and np.allclose(warp_points(points[1], fit.H_1to0), points[0], atol=1e-3)


def test_the_search_is_shown_by_turn_and_scale():
    tries = [((0.0, 0.6, 0.6), None), ((90.0, 0.6, 0.6), hypothesis(10, 20)), ((0.0, 0.6, 1.0), hypothesis(3, 9))]
    ax = steps.plot_search(tries).axes[0]
    told = {text.get_position(): text.get_text() for text in ax.texts}
    assert told == {(0, 0): "0.0", (1, 0): "5.0", (0, 1): "1.0", (1, 1): "nan"}
    assert [t.get_text() for t in ax.get_yticklabels()] == ["1.00  (fixed at 0.60)", "1.67  (fixed at 0.60)"]


def test_the_bars_add_up_to_the_log_odds():
    evidence = dict.fromkeys(("settled_share", "inlier_share", "keypoint_share"), 0.5) | {"inliers": np.e - 1}
    calibration = dict(zip(steps.TERMS, (-1.0, 2.0, 4.0, 0.0, 0.0, 3.0), strict=True))
    ax = steps.plot_evidence(evidence | {"map_correlation": 1.0}, calibration).axes[0]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([-1, 2, 2, 0, 0, 0])
    assert ax.get_title() == "log odds +3.0: confidence 0.953"


def test_maps_that_a_step_lays_on_each_other_correlate():
    rng, blobs = np.random.default_rng(1), np.zeros((40, 48), np.float32)
    blobs[tuple(rng.integers(8, 32, (2, 25)))] = 1.0
    fixed = Window(np.eye(3), (80, 96), 1.0, features([[1, 1]], blobs + 0.01))
    moved = Warped(fixed, np.eye(3), features([[1, 1]], np.roll(blobs, 3, 1) + 0.01))
    laid = steps.plot_maps(moved, {"off": np.eye(3), "on": translation(-6, 0)}, stride=2).axes
    off, on = (float(ax.get_title().split()[-1]) for ax in laid)
    assert on > 0.95 and off < 0.3


def test_every_step_of_a_pair_has_its_picture(registrar):
    pair = draw_pair(3, 0, ("CF", "FA"), PairOptions(size_px=200, rotation_deg=0, scale=(1, 1), min_overlap=0.9))
    views0, views1 = registrar.views(pair.fixed), registrar.views(pair.moving)
    window = common_window(views0, views1, np.eye(3), 300.0)
    warped = window.warped(views1, np.eye(3))
    points = warped.matches(30.0)
    fit = Fit("affine", np.eye(3), np.arange(len(points[0])) % 2 == 0)
    assert len(steps.plot_fields(views0, views1).axes) == 2 == len(steps.plot_window(views0, window).axes)
    assert (
        f"{fit.n_inliers} of {len(fit.inliers)}"
        in steps.plot_warped(views0, views1, warped, fit, points).axes[2].get_title()
    )


def test_anatomy_is_measured_as_told():
    segments = np.array([[0, 0, 1, 0], [0, 1, 1, 1]], float)
    junctions = np.zeros((3, 2))
    retina = Retina(
        segments,
        np.array([ARTERY, VEIN]),
        np.array([0.3, 0.4]),
        junctions,
        np.array([BIFURCATION, BIFURCATION, CROSSING]),
        np.ones(3),
        np.zeros((0, 5)),
        np.array([-12.0, 9.0]),
        3.0,
        0.9,
    )
    table = steps.measure_anatomy([retina, retina])
    assert table["mean"].tolist() == table["max"].tolist() == [15.0, 6.0, 1.8, 0.4, 0.75, 2.0, 1.0]
    assert steps.plot_retina(retina).axes[0].get_legend().get_texts()[0].get_text() == "2 bifurcations"
