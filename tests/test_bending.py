"""Oracles for maps that bend: splines, their inverse, the climb on maps, and registrations of images that were bent."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from retina_kp import Registrar
from retina_kp.core.geometry import inside, pixel_grid, resize_matrix, translation, warp_points
from retina_kp.evaluation.benchmark import TABLES
from retina_kp.mapping.displacement import Displacement
from retina_kp.registration import bending
from retina_kp.registration.bending import BENDS, POLYNOMIALS, SPLINES
from retina_kp.registration.climbing import climb
from retina_kp.registration.closeup import Candidate, Warped, Window
from retina_kp.registration.keypoints import Features
from retina_kp.registration.options import registrar_options
from retina_kp.synthetic.pairs import PairOptions, draw_pair

EVERYWHERE = np.random.default_rng(0).uniform(-300, 700, (400, 2))


def cubic(points):
    """A displacement of degree 3 in either direction."""
    x, y = points.T
    return points + np.stack([0.0004 * (x - 100) ** 2 - 3e-7 * y**3, 0.0003 * x * y - 5], 1)


@pytest.fixture(scope="module")
def bend():
    return Displacement.fitted(cubic, (20, 30), (220, 330), (3, 5))


# ------------------------------------------------------------------ splines


def test_a_cubic_is_met_exactly(bend):
    inner = np.random.default_rng(1).uniform((20, 30), (220, 330), (300, 2))
    assert bend.moved(inner) == pytest.approx(cubic(inner), abs=1e-9)


def test_the_inverse_undoes_it_everywhere_and_keeps_what_is_unknown(bend):
    assert not bend.folds()
    assert bend.restored(bend.moved(EVERYWHERE)) == pytest.approx(EVERYWHERE, abs=1e-8)
    assert np.isnan(bend.restored([[np.nan, 3]])).all() and np.isnan(bend.moved([[3, np.nan]])).all()
    assert bend.moved(np.zeros((0, 2))).shape == bend.restored(np.zeros((0, 2))).shape == (0, 2)


def test_derivatives_are_those_of_differences(bend):
    e = 1e-5
    steps = [(bend.moved(EVERYWHERE + d) - bend.moved(EVERYWHERE - d)) / (2 * e) for d in ((e, 0), (0, e))]
    assert bend.jacobians(EVERYWHERE) == pytest.approx(np.stack(steps, -1), abs=1e-6)


def test_a_grid_is_read_as_its_points_are(bend):
    x, y = np.arange(-100, 500, 7.0), np.arange(-50, 600, 11.0)
    points = np.stack(np.meshgrid(x, y), -1)
    assert bend.on_grid(x, y).reshape(-1, 2) == pytest.approx(bend.at(points.reshape(-1, 2)), abs=1e-9)


def test_more_knots_and_other_sizes_are_the_same_map(bend):
    assert bend.spread((-400, -350), (900, 800)).at(EVERYWHERE) == pytest.approx(bend.at(EVERYWHERE), abs=1e-9)
    resize = resize_matrix((340, 500), (170, 1000))
    small = bend.resized(resize)
    assert small.moved(warp_points(EVERYWHERE, resize)) == pytest.approx(warp_points(bend.moved(EVERYWHERE), resize))


def test_a_fold_is_seen():
    assert Displacement.fitted(lambda p: p + 30 * np.sin(p / 10), (0, 0), (100, 100), (12, 12)).folds()
    assert Displacement.fitted(lambda p: np.full_like(p, np.nan), (0, 0), (9, 9), (2, 2)).folds()


# ------------------------------------------------------------------ the climb


def spots(hw, move):
    """A detector's map: bright spots at random places of map 1, seen from map 0 through ``move`` (N, 2) → (N, 2)."""
    rng = np.random.default_rng(2)
    there = np.stack([rng.uniform(0, hw[1], 300), rng.uniform(0, hw[0], 300)], 1)
    grid = pixel_grid(hw).double().numpy().reshape(-1, 2)

    def drawn(places):
        near = ((places[:, None] - there) ** 2).sum(-1).min(1)
        return (np.exp(-near / 4) + 1e-4).reshape(hw).astype(np.float32)

    return drawn(move(grid)), drawn(grid)


@pytest.mark.parametrize("hw", [(121, 150), (90, 131)])
@pytest.mark.parametrize("basis", [POLYNOMIALS, SPLINES])
def test_the_climb_finds_how_places_moved(hw, basis):
    """By up to some three cells, more than the spots are wide."""
    half = np.array(hw[::-1]) / 2

    def move(p):
        x, y = ((p + 0.5) / half - 1).T
        return p + np.stack([1.5 * x * y + 0.8 * x**2 - 0.5, 1.2 * y**2 - 0.9 * x - 0.4], 1)

    grid = pixel_grid(hw).double().numpy().reshape(-1, 2)
    maps = spots(hw, move)
    functions = basis.terms(hw, 2.0)
    assert functions.values.numpy() == pytest.approx(basis.at((grid + 0.5) / half - 1), abs=1e-5)
    found = grid + functions.values.double().numpy() @ climb(maps, functions, (2.0, 1.0, 0.0)).coefficients
    error = np.linalg.norm(found - move(grid), axis=1)
    assert np.linalg.norm(move(grid) - grid, axis=1).max() > 2 and error.mean() < 0.1 and np.quantile(error, 0.98) < 0.4


@pytest.mark.parametrize(("bend", "flat"), [(0.0, True), (6e-4, False)])
def test_what_an_affine_does_as_well_is_left_to_it(bend, flat):
    """Maps that an affine lays on each other keep one, however far off its start was."""
    grid = pixel_grid((121, 150)).double().numpy().reshape(-1, 2)

    def move(p):
        x, y = (p - (75, 60)).T
        return p + np.stack([0.04 * x - 0.02 * y + 1.5 + bend * x * y, 0.03 * x - 1 + bend * x**2], 1)

    maps, level = spots((121, 150), move), bending.SMOOTH[0]
    climbed = climb(maps, level.basis.terms((121, 150), 2.0), level.blurs)
    found, alone = bending._no_more_than_needed(climbed, maps, level, 2)
    assert alone == flat and (np.abs(found[3:]).max() < 0.01) == flat
    off = np.linalg.norm(grid + level.basis.at((grid + 0.5) / (75, 60.5) - 1) @ found - move(grid), axis=1)
    assert climbed.gain > bending.ODDS and np.median(off) < 0.2


def test_next_to_no_gain_moves_nothing():
    """The plane part of a bend that the maps hardly ask for once moved corners by 12 px."""
    noise = np.random.default_rng(3).uniform(0, 0.5, (2, 121, 150)).astype(np.float32)
    maps, level = [a + n for a, n in zip(spots((121, 150), lambda p: p), noise, strict=True)], bending.SMOOTH[0]
    climbed = climb(maps, level.basis.terms((121, 150), 2.0), level.blurs)
    found, alone = bending._no_more_than_needed(climbed, maps, level, 2)
    assert climbed.gain < bending.ODDS / 2 and climbed.coefficients.any() and alone and not found.any()


def test_nothing_moves_without_structure_that_both_show():
    maps = spots((90, 131), lambda p: p)
    functions = POLYNOMIALS.terms((90, 131), 2.0)
    blank = np.zeros_like(maps[0])
    assert climb((maps[0], blank), functions, (1.0, 0.0)) is None
    same = climb((maps[0], maps[0]), functions, (1.0, 0.0))
    assert same.before == pytest.approx(1) and np.abs(same.coefficients).max() < 0.01  # nothing to better
    still = climb((np.full_like(blank, 0.1), maps[1]), functions, (0.0,))
    assert np.abs(still.coefficients).max() < 0.5


def test_maps_leave_open_what_they_do_not_show():
    """Spots in the left half alone: σ is small there, and near that of the priors at the right; so is agreement."""
    maps = spots((90, 131), lambda p: p + 0.4)
    for each in maps:
        each[:, 66:] = 0.02
    functions = POLYNOMIALS.terms((90, 131), 2.0)
    climbed, count = climb(maps, functions, (0.0,)), functions.values.shape[1]
    values = functions.values.double().numpy().reshape(90, 131, count)[45]
    sigma = np.sqrt(((values @ climbed.covariance[:count, :count]) * values).sum(1))
    assert sigma[5:60].max() < 0.3 and sigma[125] > 5 * sigma[5:60].max()
    assert climbed.correlation > 0.9 and climbed.agreement[45, 30] > 0.9 and climbed.agreement[45, 125] < 0.2


def test_the_gain_tells_a_bend_from_noise():
    """Nats by which maps are likelier with what was found: many for places that moved, few for two maps that differ by
    noise alone; a common part of a few cells is climbed, too."""
    hw, noise = (121, 150), np.random.default_rng(3).uniform(0, 0.5, (2, 121, 150)).astype(np.float32)
    functions = POLYNOMIALS.terms(hw, 2.0)
    bent, flat = spots(hw, lambda p: p + 3e-4 * (p - 60) ** 2), spots(hw, lambda p: p)
    gains = [climb((a + n, b + m), functions, (0.0,)).gain for (a, b), (n, m) in ((bent, noise), (flat, noise))]
    assert gains[0] > 10 > 3 > gains[1]
    small = [np.pad(each[40:61, 50:72], ((40, 60), (50, 78))) for each in bent]
    assert np.isfinite(climb(small, functions, (4.0, 0.0)).coefficients).all()


# ------------------------------------------------------------------ registrations


@pytest.fixture(scope="module")
def bent_pair():
    """A synthetic pair, its moving image drawn anew as a curved eye shows it: fixed px (N, 2) → px of that image."""
    pair = draw_pair(5, 1, ("CF", "FA"), PairOptions(size_px=512, rotation_deg=40, scale=(0.9, 1.1), min_overlap=0.8))

    def from_bent(p):  # px of the new moving image → px of the old one
        x, y = (p / 255.5 - 1).T
        return p + np.stack([7 * x * y + 4 * y**2, 6 * x**2 - 5 * x * y**2], 1)

    places = from_bent(pixel_grid((512, 512)).double().numpy().reshape(-1, 2)).reshape(512, 512, 2).astype(np.float32)
    moving = cv2.remap(pair.moving, places, None, cv2.INTER_LINEAR)
    grid = pixel_grid((512, 512)).double().numpy()[8::24, 8::24].reshape(-1, 2)
    inner = grid[inside(warp_points(from_bent(grid), np.linalg.inv(pair.H_0to1)), (512, 512), 30)]
    return replace(pair, moving=moving), inner, warp_points(from_bent(inner), np.linalg.inv(pair.H_0to1))


def test_a_curved_pair_is_followed_where_an_affine_cannot(bent_pair):
    pair, points1, points0 = bent_pair
    errors = {}
    for model in ("affine", "auto", "elastic"):
        result = Registrar.from_pretrained("lite", device="cpu", model=model)(pair.fixed, pair.moving)
        assert result.ok and result.model == model
        assert (result.displacement is None) == (model == "affine")
        errors[model] = np.linalg.norm(result.map_to_fixed(points1) - points0, axis=1).mean()
    assert (
        errors["affine"] > 1.8
        and errors["auto"] < 0.5 * errors["affine"]
        and errors["elastic"] < 0.7 * errors["affine"]
    )


def test_elastic_follows_local_bends_that_auto_cannot():
    """Bumps of 5 px, 60 px wide, as of a scanner's motion."""
    pair = draw_pair(5, 1, ("CF", "FA"), PairOptions(size_px=640, rotation_deg=20, scale=(0.9, 1.1), min_overlap=0.8))
    bumps = ((150, 160), (330, 420), (470, 200), (210, 480))

    def from_bent(p):
        return p + sum(5 * np.exp(-((p - c) ** 2).sum(-1) / 7200)[..., None] * [1, 0.5] for c in bumps)

    grid = pixel_grid((640, 640)).double().numpy()
    moving = cv2.remap(pair.moving, from_bent(grid).astype(np.float32), None, cv2.INTER_LINEAR)
    points1 = grid[20::30, 20::30].reshape(-1, 2)
    points0 = warp_points(from_bent(points1), np.linalg.inv(pair.H_0to1))
    seen = inside(points0, (640, 640), 20)
    errors = {}
    for model in ("affine", "auto", "elastic"):
        result = Registrar.from_pretrained("lite", device="cpu", model=model)(pair.fixed, moving)
        errors[model] = np.linalg.norm(result.map_to_fixed(points1) - points0, axis=1)[seen].mean()
    assert errors["elastic"] < 0.7 * errors["auto"] and errors["auto"] < 1.1 * errors["affine"]


def test_auto_is_the_default_and_fits_an_affine_to_matches():
    assert (
        registrar_options().model == "auto"
        and registrar_options().fitted == "affine"
        and set(BENDS) == {"auto", "elastic"}
    )
    assert registrar_options(model="homography").fitted == "homography"
    with pytest.raises(ValueError, match="auto, elastic, similarity"):
        registrar_options(model="thin plate")


def test_pictures_drawn_by_places_are_those_drawn_by_a_matrix(bent_pair):
    pair = bent_pair[0]
    views = Registrar.from_pretrained("lite", device="cpu").views(pair.moving)
    H = np.array([[0.6, 0.2, 30], [-0.15, 0.7, 60], [0, 0, 1]])
    x, y = np.meshgrid(np.arange(401.0), np.arange(333.0))
    places = warp_points(np.stack([x, y], -1), np.linalg.inv(H @ views.base_from_original))
    for one, other in zip(views.picture(H, (333, 401)), views.drawn(places), strict=True):
        assert (one.float() - other.float()).abs().mean() < 2e-3 and torch.is_tensor(other)


def test_strong_bends_are_drawn_anew_until_they_are_followed(monkeypatch):
    """Two gazes at a round eye, far beyond the affine, by the maps alone."""
    monkeypatch.setattr(bending, "_told_by_matches", lambda *_: None)
    pair = draw_pair(77_001, 41, ("CF", "FA"), TABLES["round"])
    points1 = pixel_grid(pair.moving.shape[:2]).double().numpy()[::40, ::40].reshape(-1, 2)
    points0 = pair.to_fixed(points1)
    seen = np.isfinite(points0).all(1) & inside(np.nan_to_num(points0), pair.fixed.shape[:2], 20)
    seen[seen] &= pair.valid0[tuple(np.rint(points0[seen]).astype(int).T[::-1])]
    error = {}
    for times in (1, bending.DRAWN):
        monkeypatch.setattr(bending, "DRAWN", times)
        result = Registrar.from_pretrained("lite", device="cpu")(pair.fixed, pair.moving)
        error[times] = np.linalg.norm(result.map_to_fixed(points1[seen]) - points0[seen], axis=1).mean()
    assert error[1] > 2 and error[bending.DRAWN] < 0.6 * error[1]


def matched(moved, wrong=0.4, hw=(320, 400)):
    """A candidate of 250 matches in a window, whose moving features lie where ``moved`` (N, 2) → (N, 2) says or, a
    share of them, anywhere near."""
    rng = np.random.default_rng(3)
    points0 = rng.uniform((0, 0), hw[::-1], (250, 2))
    astray = (rng.random(250) < wrong)[:, None]
    points1 = np.where(astray, points0 + rng.uniform(-60, 60, (250, 2)), moved(points0) + rng.normal(0, 0.5, (250, 2)))
    words = rng.normal(size=(250, 32)).astype(np.float32)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    detector = np.zeros((hw[0] // 2, hw[1] // 2), np.float32)
    features0, features1 = (Features(np.float32(p), words[:, 0], words, hw, detector) for p in (points0, points1))
    return Candidate(Warped(Window(np.eye(3), hw, 1.0, features0), np.eye(3), features1), np.eye(3), None)


def test_matches_tell_a_bend_too_strong_for_a_climb():
    """To half a px of the quadratic that moves places by up to 38 px; none where no bend is, or no match."""

    def moved(p):
        x, y = (p / (200, 160) - 1).T
        return p + np.stack([20 * x**2 - 12 * x * y + 6 * y, 25 * y**2 + 8 * x * y - 9 * x], 1)

    grid = pixel_grid((160, 200)).double().numpy()[4::13, 4::13].reshape(-1, 2)
    found = bending._told_by_matches(matched(moved), 2)
    told = 2 * bending.QUADRATIC.at((grid + 0.5) / (100, 80) - 1) @ found
    px = 2 * grid + 0.5
    assert np.linalg.norm(moved(px) - px, axis=1).max() > 35
    off = np.linalg.norm(px + told - moved(px), axis=1)
    assert off.mean() < 0.5
    assert bending._told_by_matches(matched(lambda p: p), 2) is None
    assert bending._told_by_matches(matched(lambda p: p + 500, wrong=0), 2) is None


def test_a_pair_that_no_climb_can_follow_begins_with_its_matches(monkeypatch):
    """Round eyes whose affine lies 20 px off: alone, the maps stay there."""
    pair = draw_pair(77_001, 299, ("CF", "FA"), TABLES["round"])
    points0 = pair.shown_by_both(20)
    points1, errors = pair.to_moving(points0), []
    for told in (bending._told_by_matches, lambda *_: None):
        monkeypatch.setattr(bending, "_told_by_matches", told)
        result = Registrar.from_pretrained("lite", device="cpu")(pair.fixed, pair.moving)
        errors.append(np.linalg.norm(result.map_to_fixed(points1) - points0, axis=1).mean())
    assert errors[0] < 2 and errors[1] > 10


@pytest.mark.parametrize("step_px", [(6.0, -4.0), (0.0, 0.0), (9.0, 0.0)])
def test_a_window_is_not_seen_again_for_a_small_step(step_px):
    """Steps of whole cells move the map by as many; a long one asks for another look."""
    map0, map1 = (np.random.default_rng(k).uniform(0.1, 1, (40, 52)).astype(np.float32) for k in (0, 1))
    map1[:, :6] = 0  # beyond the field of view
    none = np.zeros((0, 2), np.float32)
    features0, features1 = (Features(none, none[:, 0], none, (80, 104), each) for each in (map0, map1))
    window = Window(np.eye(3), (80, 104), 1.0, features0)
    fixed, moved = Candidate(Warped(window, np.eye(3), features1), translation(*step_px), None).maps(2)
    assert fixed is map0
    if step_px == (9.0, 0.0):
        assert moved is None
        return
    x, y = int(step_px[0] / 2), int(step_px[1] / 2)
    assert moved[5:-5, 12:-5] == pytest.approx(np.roll(map1, (y, x), (0, 1))[5:-5, 12:-5], abs=1e-5)
    assert not moved[5:-5, : 6 + x].any()
