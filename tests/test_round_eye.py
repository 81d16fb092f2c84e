"""The round eye: what cameras see of it is exact both ways, no plane model describes two views, and pairs are judged by
their dense truth."""

import cv2
import numpy as np
import pytest

from retina_kp.core.geometry import image_center, inside, lattice, similarity, warp_points
from retina_kp.evaluation.methods import Function, Oracle, Ours
from retina_kp.evaluation.pairs import SyntheticPair
from retina_kp.evaluation.runner import run_unit
from retina_kp.synthetic.cameras import (
    LAWS,
    NODAL_MM,
    RADIUS_MM,
    FlatCamera,
    RoundCamera,
    RoundOptions,
    best_affine,
    round_cameras,
    shows_retina,
)
from retina_kp.synthetic.drawing import rasterise, view_matrix, visible_junctions
from retina_kp.synthetic.pairs import ULTRAWIDE, PairOptions, draw_pair
from retina_kp.synthetic.vasculature import REACH_DEG, GrowthOptions, grow_retina

HW, ODD_HW = (768, 768), (313, 471)
PLACES = lattice((41, 41), 21) - 20.0  # degrees
EYE = RoundOptions(deformation_px=(6.0, 6.0))
ROUND = PairOptions(size_px=384, scale=(0.8, 1.25), eye=RoundOptions())


def centred(law: str = "equidistant", axes=None, **more) -> RoundCamera:
    """A camera before the middle of a spherical eye, with one pixel per degree."""
    given = {"eye_point": np.array([0, 0, RADIUS_MM - NODAL_MM]), "px_from_plane": np.eye(3), "length": 1.0} | more
    return RoundCamera(axes=np.eye(3) if axes is None else axes, law=law, distortion=0, half_field_deg=30, **given)


def two_views(rng, hw=HW, options=RoundOptions(), scale=1.2) -> tuple[RoundCamera, RoundCamera]:
    view = view_matrix(hw, 45.0, (6.0, 0.0), 20.0)
    target = np.array(image_center(hw)) + rng.uniform(-0.3, 0.3, 2) * hw[1]
    return round_cameras([view, similarity(70, scale, image_center(hw), target) @ view], hw, options, rng)


# ------------------------------------------------------------------ cameras


@pytest.mark.parametrize("law", LAWS)
def test_a_ray_lands_where_it_must(law):
    """A place 20° from the fovea, by hand: its arc, its direction from the eye point, the law of the picture."""
    arc = np.radians(20) * NODAL_MM / RADIUS_MM
    angle = np.arctan2(RADIUS_MM * np.sin(arc), RADIUS_MM * (np.cos(arc) - 1) + NODAL_MM)
    radius = {"perspective": np.tan(angle), "equidistant": angle, "stereographic": 2 * np.tan(angle / 2)}[law]
    assert np.allclose(centred(law).project([[0.0, 20.0]]), [[0, np.degrees(radius)]])
    assert np.allclose(centred(law).px_per_deg([[0.0, 0.0]]), 1, atol=1e-6)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("hw", [HW, ODD_HW])
def test_cameras_are_inverted_exactly(law, hw):
    for camera in two_views(np.random.default_rng(3), hw, RoundOptions(laws=(law,), deformation_px=(6.0, 6.0))):
        px = lattice(hw, 25)
        assert np.abs(camera.project(camera.unproject(px)) - px).max() < 1e-6
    assert camera.project(np.zeros((0, 2))).shape == camera.unproject(np.zeros((0, 2))).shape == (0, 2)
    assert np.isnan(camera.project([[np.nan, 0]])).all() and np.isnan(camera.unproject([[0, np.nan]])).all()


def test_behind_the_retina_and_behind_the_camera_is_nothing():
    camera = centred("stereographic")
    assert np.isfinite(camera.project([[77.0, 0]])).all() and np.isnan(camera.project([[79.0, 0]])).all()
    assert np.isnan(camera.unproject([[1e3, 0]])).all()
    assert np.isnan(centred("perspective").project([[70.0, 0]])).all()


def plane_residual(points0, points1) -> float:
    H, _ = cv2.findHomography(points0, points1)
    return np.linalg.norm(warp_points(points0, H) - points1, axis=1).max()


def test_only_perspective_cameras_at_one_place_differ_by_a_homography():
    turn = cv2.Rodrigues(np.radians([3.0, 12.0, 40.0]))[0]
    aside = np.array([1.5, 0, RADIUS_MM - NODAL_MM])
    seen = {law: (centred(law).project(PLACES), centred(law, turn).project(PLACES)) for law in LAWS}
    assert plane_residual(*seen["perspective"]) < 1e-6
    assert min(plane_residual(*seen[law]) for law in ("equidistant", "stereographic")) > 0.02
    assert plane_residual(seen["perspective"][0], centred("perspective", turn, eye_point=aside).project(PLACES)) > 0.02


def test_round_cameras_see_in_the_middle_what_flat_ones_see():
    flat = [view_matrix(ODD_HW, 40.0, (7.0, -3.0), 30.0), view_matrix(ODD_HW, 90.0, (-20.0, 5.0), -100.0)]
    for H, camera in zip(flat, round_cameras(flat, ODD_HW, RoundOptions(), np.random.default_rng(1)), strict=True):
        place = FlatCamera(H).unproject([image_center(ODD_HW)])
        assert np.allclose(camera.project(place), [image_center(ODD_HW)])
        assert np.allclose(camera.px_per_deg(place), FlatCamera(H).px_per_deg(place), rtol=1e-4)
        near = place + np.array([[0, 0], [0.1, 0]])
        along, wanted = (np.diff(c.project(near), axis=0)[0] for c in (camera, FlatCamera(H)))
        assert np.degrees(np.arccos(along @ wanted / np.linalg.norm(along) / np.linalg.norm(wanted))) < 4


def test_two_views_differ_as_those_of_real_eyes_do():
    """Figures that the module states, of round fields of 45°."""
    rng, found = np.random.default_rng(0), []
    middle, radius = np.array(image_center(HW)), HW[0] / 2
    points0 = lattice(HW, 30)
    points0 = points0[np.linalg.norm(points0 - middle, axis=1) < radius]
    while len(found) < 60:
        camera0, camera1 = two_views(rng, scale=1.0)
        points1 = camera1.project(camera0.unproject(points0))
        both = np.linalg.norm(points1 - middle, axis=1) < radius
        if both.mean() < 0.5:
            continue
        x, y = (points0[both] / HW[0] - 0.5).T
        terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)
        fits = [terms[:, :n] @ np.linalg.lstsq(terms[:, :n], points1[both], rcond=None)[0] for n in (3, 6)]
        found.append([np.linalg.norm(fit - points1[both], axis=1).mean() for fit in fits])
    affine, quadratic = np.median(found, axis=0)
    assert 2.5 < affine < 5 and 0.2 < quadratic < 0.5 and np.percentile(found, 90, axis=0)[1] < 1


def test_a_deformation_of_6_px_folds_nothing():
    rng, reached = np.random.default_rng(2), []
    for _ in range(20):
        waves = two_views(rng, options=EYE)[1].waves
        px, step = lattice(HW, 30), 1e-3
        dx, dy = ((waves.at(px + side) - waves.at(px - side)) / (2 * step) for side in step * np.eye(2))
        assert ((1 + dx[:, 0]) * (1 + dy[:, 1]) - dx[:, 1] * dy[:, 0]).min() > 0.4
        assert np.abs(waves.undone(px + waves.at(px)) - px).max() < 1e-8
        reached.append(np.hypot(*waves.at(px).T).max())
    assert 5.5 < np.median(reached) < 6.5


# ------------------------------------------------------------------ drawing


def test_a_flat_camera_draws_what_its_matrix_draws():
    retina, view = grow_retina(np.random.default_rng(0)), view_matrix(ODD_HW, 45.0)
    assert np.array_equal(rasterise(retina, FlatCamera(view), ODD_HW), rasterise(retina, view, ODD_HW))


def test_vessels_and_junctions_lie_where_the_cameras_say():
    retina = grow_retina(np.random.default_rng(4))
    camera0, camera1 = two_views(np.random.default_rng(6), options=EYE)
    layers0, layers1 = (np.maximum(*rasterise(retina, camera, HW)[:2]) for camera in (camera0, camera1))
    px = np.stack(np.meshgrid(*map(np.arange, HW)), -1).reshape(-1, 2)
    exact = camera1.project(camera0.unproject(px))
    both = inside(exact, HW)
    affine = warp_points(px, best_affine(px[both], exact[both]))

    def dice(places) -> float:
        x, y = places.astype(np.float32).reshape(*HW, 2).transpose(2, 0, 1)
        drawn = cv2.remap(layers1, x, y, cv2.INTER_LINEAR).ravel()[both] > 127
        true = layers0.ravel()[both] > 127
        return 2 * (drawn & true).sum() / (drawn.sum() + true.sum())

    assert dice(exact) > 0.8 > dice(affine) + 0.1
    xy0, xy1 = (visible_junctions(retina, camera, HW, 0)[0] for camera in (camera0, camera1))
    moved = camera1.project(camera0.unproject(xy0))
    moved = moved[inside(moved, HW, 1)]
    assert len(moved) > 20 and np.linalg.norm(moved[:, None] - xy1[None], axis=-1).min(1).max() < 1e-6


def test_widths_grow_with_the_local_scale():
    retina = grow_retina(np.random.default_rng(4))
    camera = centred("stereographic", px_from_plane=similarity(0, 8.0, (0, 0), (200, 200)))
    middle, edge = camera.px_per_deg([[0.1, 0.0], [55.0, 0.0]])
    _, _, width = visible_junctions(retina, camera, (401, 401), 0)
    assert edge > 1.15 * middle and not np.isclose(np.ptp(width / width.max()), 0)
    wide = retina.junction_width_deg.max() * middle
    assert width.max() >= wide * 0.99


def test_vessels_reach_as_far_as_they_are_told_to():
    usual, far = (grow_retina(np.random.default_rng(1), GrowthOptions(reach_deg=reach)) for reach in (REACH_DEG, 78.0))
    away = [np.linalg.norm(r.segments[:, 2:], axis=1).max() for r in (usual, far)]
    assert 30 < away[0] < REACH_DEG and 60 < away[1] < 78


# ------------------------------------------------------------------ pairs and their measure


@pytest.fixture(scope="module")
def pair():
    return draw_pair(3, 2, ("CF", "FA"), ROUND)


def test_a_round_pair_knows_its_map_both_ways(pair):
    shown = pair.shown_by_both(30)
    assert len(shown) > 200 and ROUND.min_overlap <= pair.overlap <= 1
    assert np.abs(pair.to_fixed(pair.to_moving(shown)) - shown).max() < 1e-6
    errors = np.linalg.norm(warp_points(shown, pair.H_0to1) - pair.to_moving(shown), axis=1)
    assert 0.2 < errors.mean() < 5
    for shift in np.eye(2):  # nothing beside it is nearer
        moved = warp_points(shown, pair.H_0to1) + 0.3 * shift
        assert ((moved - pair.to_moving(shown)) ** 2).sum() > (errors**2).sum()


def test_a_flat_pair_keeps_its_matrix():
    flat = draw_pair(3, 2, ("CF", "FA"), PairOptions(size_px=160))
    xy = lattice((160, 160), 9)
    assert flat.cameras is None and np.array_equal(flat.to_moving(xy), warp_points(xy, flat.H_0to1))
    assert np.allclose(flat.to_fixed(flat.to_moving(xy)), xy)


def test_round_pairs_are_reproducible_and_round(pair):
    again = draw_pair(3, 2, ("CF", "FA"), ROUND)
    assert np.array_equal(pair.moving, again.moving) and np.array_equal(pair.H_0to1, again.H_0to1)
    assert not np.array_equal(pair.moving, draw_pair(3, 2, ("CF", "FA"), PairOptions(384, scale=(0.8, 1.25))).moving)


def test_an_ultrawide_field_ends_where_the_retina_ends():
    camera = round_cameras([view_matrix((201, 301), 240.0)], (201, 301), ULTRAWIDE.eye, np.random.default_rng(1))[0]
    shown = shows_retina(camera, (201, 301))
    assert shown.shape == (201, 301) and shown[100, 150] and not shown[100, 0] and not shown[100, 300]


def test_round_pairs_are_judged_all_over_the_overlap(pair):
    """The exact map has no error and an affine one has; matches on the exact map are all right."""
    given = SyntheticPair(given=pair)
    truth = given.load().truth
    assert len(truth.points0) > 80
    exact = run_unit(given, Function("exact", lambda fixed, moving: pair.to_fixed))
    affine = run_unit(given, Function("affine", lambda fixed, moving: np.linalg.inv(pair.H_0to1)))
    assert exact["mean_px"] < 1e-6 and 0.5 < affine["mean_px"] < 10
    assert np.allclose(truth.to_moving(truth.points0), truth.points1)
    assert np.allclose(truth.to_fixed(truth.points1), truth.points0, atol=1e-6)
    assert given.fingerprint() != SyntheticPair(given=draw_pair(3, 3, ("CF", "FA"), ROUND)).fingerprint()


def test_the_oracle_is_told_the_dense_truth(pair):
    seen = SyntheticPair(given=pair).load()
    result, _ = Oracle(Ours("lite")).answer(seen)
    matched = result.matches0
    off, off_affine = (
        np.abs(to1 - result.matches1) for to1 in (pair.to_moving(matched), warp_points(matched, pair.H_0to1))
    )
    assert result.ok and len(matched) > 50
    assert np.median(off) < 1e-6 and np.median(off_affine) > 0.1
