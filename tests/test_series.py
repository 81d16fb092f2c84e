"""Series: known maps in, known maps out; loops close, chains drift, what contradicts is dropped and what is alone is told."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest

from retina_kp import Registration, register_series
from retina_kp.cli import main
from retina_kp.core.geometry import corners, image_center, inside, lattice, similarity, warp_points
from retina_kp.core.images import read_image, write_image
from retina_kp.mapping.result import refused
from retina_kp.series.adjustment import Polynomial, adjust, best_adjustment, misfits
from retina_kp.series.agreement import CONTRADICTS, NOT_CONNECTED, Series, agree, chains, most_connected, placed
from retina_kp.series.mosaic import mosaic
from retina_kp.synthetic.cameras import RoundOptions, round_cameras
from retina_kp.synthetic.drawing import view_matrix
from retina_kp.synthetic.fields import LOOKS_AT, draw_fields
from retina_kp.viz.series import plot_series

HW = (600, 768)
NAMES = tuple("abcdef")
NOISE_PX = 0.7  # of pairs, smooth


# ------------------------------------------------------------------ polynomials and their adjustment


def test_polynomials_are_what_they_say():
    points = np.random.default_rng(0).uniform(0, 500, (40, 2))
    assert np.allclose(Polynomial.identity(HW, 3)(points), points) and np.allclose(
        Polynomial.identity(HW, 3).H, np.eye(3)
    )
    H = similarity(30, 1.2, (100, 50), (40, 70))
    assert np.allclose(Polynomial.fitted(points, warp_points(points, H), 1).H, H)
    x, y = points.T / 100
    cubic = np.column_stack([x**3 - y, 40 + x * y * y])
    assert np.allclose(Polynomial.fitted(points, cubic, 3)(points), cubic)
    assert np.abs(Polynomial.fitted(points, cubic, 2)(points) - cubic).max() > 1


@pytest.mark.parametrize("degree", [1, 3])
def test_an_adjustment_of_exact_links_finds_the_maps(degree):
    """Three affine maps into the reference; a higher degree finds the same, as nothing speaks for a bend."""
    to_reference = [np.eye(3), similarity(20, 1.1, (0, 0), (150, 30)), similarity(-35, 0.9, (0, 0), (-60, 200))]
    links = {}
    for i, j in combinations(range(3), 2):
        places = lattice(HW, 14)
        there = warp_points(places, np.linalg.inv(to_reference[j]) @ to_reference[i])
        links[i, j] = places[inside(there, HW)], there[inside(there, HW)]
    maps = adjust(links, [HW] * 3, 0, degree)
    for k, H in enumerate(to_reference):
        assert np.allclose(maps[k](corners(HW)), warp_points(corners(HW), H), atol=1e-6)
    assert max(off.max() for off in misfits(links, maps).values()) < 1e-6
    assert best_adjustment(links, [HW] * 3, 0)[1].degree == 1
    assert list(adjust({}, [HW] * 3, 2, degree)) == [2]


# ------------------------------------------------------------------ a round eye without pictures


def bent(places0, places1, hw=HW) -> Registration:
    """A registration that follows pairs of places with a cubic map."""
    H, none = np.linalg.inv(Polynomial.fitted(places0, places1, 1).H), np.zeros((0, 2))
    straight = Registration("ok", H, 0.99, none, none, np.zeros(0, bool), hw, hw, H_tried=H)
    follow = Polynomial.fitted(places0, places1, 3)
    return straight.bent(follow, places0.min(0), places0.max(0), over_xy=places0)


def fields(seed: int):
    """Cameras of a round eye, its pairs with a smooth error, and their links."""
    rng = np.random.default_rng(seed)
    views = [view_matrix(HW, 45.0, rng.normal(place, 1.5), rng.uniform(-12, 12)) for place in LOOKS_AT]
    cameras = round_cameras(views, HW, RoundOptions(laws=("equidistant",)), rng)
    pairs, links = {}, {}
    for i, j in combinations(range(len(cameras)), 2):
        places = lattice(HW, 20)
        there = cameras[j].project(cameras[i].unproject(places))
        seen = inside(there, HW)
        pairs[i, j] = refused("too few matches", HW, HW)
        if seen.mean() > 0.12:
            u = (places[seen] - places[seen].mean(0)) / places[seen].std(0)
            error = np.column_stack([np.ones(len(u)), u, u**2, u.prod(1)]) @ rng.normal(0, NOISE_PX / 6**0.5, (6, 2))
            pairs[i, j] = bent(places[seen], there[seen] + error)
            links[i, j] = places[seen], pairs[i, j].map_to_moving(places[seen])
    return cameras, pairs, links


def errors_px(cameras, series: Series) -> tuple[float, float]:
    """Mean error of the series and of chains, over whole images, px of the reference."""
    off = []
    for k in set(range(len(cameras))) - {series.reference}:
        places = lattice(series.sizes[k], 15)
        true = cameras[series.reference].project(cameras[k].unproject(places))
        maps = series.results[k].map_to_fixed, lambda points, k=k: series.by_chain(k, points)
        off.append([np.nanmean(np.linalg.norm(move(places) - true, axis=1)) for move in maps])
    return tuple(np.mean(off, axis=0))


@pytest.mark.parametrize("seed", range(4))
def test_a_series_closes_loops_and_is_nearer_to_the_truth_than_chains(seed):
    cameras, pairs, links = fields(seed)
    series = agree(NAMES, (HW,) * 6, pairs, links)
    assert all(result.ok for result in series.results) and series.paths[series.reference] == (series.reference,)
    loops = series.loops()
    assert len(loops) >= 5 and np.mean([loop["pairs_px"] for loop in loops]) > 1
    assert max(loop["series_px"] for loop in loops) < 0.1 and np.mean(list(series.misfit_px.values())) < 1
    by_series, by_chains = errors_px(cameras, series)
    assert by_series < 3 and by_series < 0.8 * by_chains


def test_a_false_pair_is_dropped_and_refused():
    cameras, pairs, links = fields(0)
    before = agree(NAMES, (HW,) * 6, pairs, links)
    places, there = links[0, 1]
    false = there @ similarity(12, 1.0, (0, 0), (0, 0))[:2, :2].T + (40, -25)
    pairs[0, 1] = bent(places, false)
    series = agree(NAMES, (HW,) * 6, pairs, links | {(0, 1): (places, false)}, reference=before.reference)
    assert series.pairs[0, 1].status.startswith(CONTRADICTS) and sum(
        not p.ok for p in series.pairs.values()
    ) == 1 + sum(not p.ok for p in before.pairs.values())
    assert pairs[0, 1].ok and errors_px(cameras, series)[0] < errors_px(cameras, before)[0] + 1


def test_images_that_nothing_leads_to_are_told():
    _, pairs, links = fields(1)
    apart = {pair: refused("too few matches", HW, HW) if 5 in pair else result for pair, result in pairs.items()}
    own = {pair: places for pair, places in links.items() if 5 not in pair}
    series = agree(NAMES, (HW,) * 6, apart, own)
    assert [result.ok for result in series.results] == [True] * 5 + [False]
    assert series.results[5].status.startswith(NOT_CONNECTED) and series.rows()[5]["pairs"] == 0
    alone = agree(NAMES, (HW,) * 6, apart, own, reference=5)
    assert [k for k, result in enumerate(alone.results) if result.ok] == [5] and alone.loops() == []


def test_the_reference_is_the_best_linked_of_the_largest_group():
    few, many = (np.zeros((20, 2)),) * 2, (np.zeros((90, 2)),) * 2
    links = {(0, 1): many, (2, 3): few, (3, 4): few, (3, 5): few, (4, 5): few}
    assert most_connected(6, links) == 3
    assert most_connected(6, links | {(2, 4): many}) == 4  # of two with three links that which shares more
    cost, paths = chains(6, dict.fromkeys(links, 0.9) | {(3, 4): 0.2}, 3)
    assert paths == ((), (), (2, 3), (3,), (4, 5, 3), (5, 3)) and np.isinf(cost[:2]).all()


@pytest.mark.parametrize("turn_deg", [0, 45, 170])
def test_a_bent_map_is_stored_as_it_is(turn_deg):
    """Also of an image that is turned, whose frame fills little of the box around it."""
    hw = (500, 700)
    F = Polynomial.fitted(
        lattice(hw, 9), warp_points(lattice(hw, 9), similarity(turn_deg, 1.1, image_center(hw), (900, -50))), 3
    )
    F.coefficients[3:] += np.random.default_rng(turn_deg).normal(0, 6, F.coefficients[3:].shape)
    result, places = placed(F, HW, hw, 0.9), lattice(hw, 21)
    assert result.ok and result.displacement is not None
    assert np.abs(result.map_to_fixed(places) - F(places)).max() < 0.3
    assert np.abs(result.map_to_moving(F(places)) - places).max() < 0.3


# ------------------------------------------------------------------ pictures


@pytest.fixture(scope="module")
def sample():
    return draw_fields(1, size_px=448)


@pytest.fixture(scope="module")
def registered(sample, registrar) -> Series:
    """Six fields of an eye, and a picture of nothing."""
    return register_series(registrar, [*sample.images, np.full((200, 300), 40, np.uint8)])


def test_six_fields_agree_within_a_pixel_and_beat_chains(registered, sample):
    assert registered.names[:2] == ("image 1", "image 2") and len(registered.pairs) == 21
    assert [result.ok for result in registered.results] == [True] * 6 + [False]
    assert (
        max(loop["series_px"] for loop in registered.loops()) < 1 < max(loop["pairs_px"] for loop in registered.loops())
    )
    assert np.median(list(registered.misfit_px.values())) < 1
    moved = [k for k in range(6) if k != registered.reference]
    maps = [(registered.results[k].map_to_fixed, lambda points, k=k: registered.by_chain(k, points)) for k in moved]
    off = [
        [sample.error_px(k, registered.reference, move) for move in both] for k, both in zip(moved, maps, strict=True)
    ]
    by_series, by_chains = np.mean(off, axis=0)
    assert by_series < 4 and by_series < 0.8 * by_chains
    ax = plot_series(registered)
    assert {text.get_text() for text in ax.texts} >= set(registered.names[:6])


def test_refused_pairs_get_a_second_look_where_the_others_put_them(sample, registrar, monkeypatch):
    attempt, begun = registrar.attempt, []

    def misses_the_last(views0, views1, tries=None):
        begun.append(tries)
        lost = tries is None and len(begun) == 3
        return (
            refused("too few matches", *[v.original_hw for v in (views0, views1)])
            if lost
            else attempt(views0, views1, tries)
        )

    monkeypatch.setattr(registrar, "attempt", misses_the_last)
    series = register_series(registrar, [sample.images[k] for k in (0, 1, 5)])
    assert [tries is None for tries in begun] == [True, True, True, False]
    assert series.pairs[1, 2].ok and len(series.loops()) == 1
    assert sample.error_px(1, 5, lambda points: series.by_series(1, 2, points)) < 8


def test_a_mosaic_shows_each_image_where_it_lies(registered, sample):
    whole = mosaic(registered, [*sample.images, np.zeros((200, 300), np.uint8)], 700)
    h, w = whole.picture.shape[:2]
    assert max(h, w) <= 702 and whole.picture.shape[2] == 3 and 0.3 < (whole.picture.sum(-1) > 0.02).mean() < 0.95
    for k in range(6):
        places = registered.results[k].map_to_fixed(np.array([image_center(sample.valid[k].shape)]))
        x, y = np.rint(places[0] * whole.scale - whole.shift_xy).astype(int)
        assert inside(np.array([x, y]), (h, w)) and whole.picture[y, x].sum() > 0.1


def test_a_mosaic_of_flat_pictures_is_flat():
    sizes, none = ((90, 120), (80, 100)), np.zeros((0, 2))
    moved = similarity(0, 1.0, (0, 0), (60, 20))
    lies = [
        Registration("ok", H, 1.0, none, none, np.zeros(0, bool), sizes[0], hw)
        for H, hw in zip((np.eye(3), moved), sizes, strict=True)
    ]
    series = Series(("a", "b"), sizes, 0, {}, tuple(lies), ((0,), (1, 0)), {})
    whole = mosaic(series, [np.full(sizes[0], 100, np.uint8), np.full(sizes[1], 160, np.uint8)])
    assert whole.picture.shape == (100, 160) and whole.scale == 1 and (whole.shift_xy == 0).all()
    shown = whole.picture > 0
    assert np.allclose(whole.picture[shown], 100 / 255, atol=1e-3)
    assert shown[5, 5] and shown[95, 150] and not shown[95, 5] and not shown[5, 150]


# ------------------------------------------------------------------ what is asked for


def test_names_and_references_are_checked(registrar):
    images = [np.full((64, 64), 40, np.uint8)] * 2
    for arguments, message in (
        ((images[:1],), "two images or more"),
        ((images, ["a", "a"]), "several are called 'a'"),
        ((images, ["a"]), "there are 2 with 1 names"),
        ((images, ["a", "b"], "c"), "no image 'c'; there are a, b"),
    ):
        with pytest.raises(ValueError, match=message):
            register_series(registrar, *arguments)


def test_the_command_writes_a_folder_for_each_image(sample, tmp_path, capsys):
    eye, out = tmp_path / "eye", tmp_path / "out"
    for name, image in (
        ("macula", sample.images[0]),
        ("disc", sample.images[1]),
        ("dark", np.zeros((99, 99), np.uint8)),
    ):
        write_image(eye / f"{name}.png", image)
    with pytest.raises(SystemExit) as ended:
        main.cli.main(["register-series", str(eye), "-o", str(out), "--reference", "macula.png", "--device", "cpu"])
    said = capsys.readouterr().out
    assert ended.value.code == 1 and "macula: reference" in said and f"dark: {NOT_CONNECTED}" in said
    result = Registration.load(out / "disc" / "result.json")
    centre = np.array([image_center(sample.valid[1].shape)])
    assert np.linalg.norm(result.map_to_fixed(centre) - sample.carried(1, 0, centre)) < 4
    assert (read_image(out / "disc" / "registered.png") == result.warp(sample.images[1])).all()
    assert (out / "mosaic.png").is_file() and not (out / "dark" / "registered.png").exists()
    told = json.loads((out / "series.json").read_text(encoding="utf-8"))
    assert told["reference"] == "macula" and len(told["pairs"]) == 3 and told["mosaic"]["scale"] == 1
