"""The synthetic retinas: anatomy as vectors, exact junctions in any view, four aligned modalities, sample pairs with
their truth."""

import dataclasses
import itertools

import cv2
import numpy as np
import pytest
import torch

from retina_kp.core.geometry import corners, image_center, inside, similarity, warp_points
from retina_kp.core.images import read_image
from retina_kp.data.augment import AppearanceRange, apply_field_of_view, random_field_of_view, randomise_appearance
from retina_kp.data.layouts import detect_layout, load_layout
from retina_kp.synthetic.drawing import LAYERS, rasterise, view_matrix, visible_junctions
from retina_kp.synthetic.pairs import PairOptions, draw_pair, write_aligned_folder
from retina_kp.synthetic.render import DEEP_OCTA, RENDERERS, make_scene, render
from retina_kp.synthetic.vasculature import ARTERY, BIFURCATION, VEIN, Retina, grow_retina

HW, ODD_HW = (320, 320), (313, 471)
SEEDS, STEP_DEG = (0, 1, 3), 0.3


@pytest.fixture(scope="module")
def retinas() -> list[Retina]:
    return [grow_retina(np.random.default_rng(seed)) for seed in SEEDS]


@pytest.fixture(scope="module")
def scene(retinas):
    return make_scene(retinas[:2], [view_matrix(HW, 35.0, tuple(0.5 * r.disc_xy)) for r in retinas[:2]], HW)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vessels(layers: np.ndarray) -> np.ndarray:
    return np.maximum(layers[0], layers[1]) > 127


def dice(a, b) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def line(y: float, kind: int = ARTERY, width: float = 0.4) -> Retina:
    """A retina of one horizontal vessel, in degrees."""
    none, segment = np.zeros(0), np.array([[-30, y, 30, y]])
    return Retina(
        segment,
        np.array([kind]),
        np.array([width]),
        np.zeros((0, 2)),
        none,
        none,
        np.zeros((0, 5)),
        np.zeros(2),
        2.5,
        1.0,
    )


# ------------------------------------------------------------------ growth


def test_same_seed_same_retina(retinas):
    again = grow_retina(np.random.default_rng(SEEDS[0]))
    assert all(np.array_equal(getattr(again, f.name), getattr(retinas[0], f.name)) for f in dataclasses.fields(Retina))


def test_other_seed_other_retina(retinas):
    assert retinas[0].segments.shape != retinas[1].segments.shape or not np.allclose(
        retinas[0].segments, retinas[1].segments
    )


def test_segments_are_sorted_thin_to_thick(retinas):
    assert all((np.diff(r.segment_width_deg) >= 0).all() for r in retinas)


def test_radii_at_bifurcations_keep_murrays_law(retinas):
    errors = []
    for r in retinas:
        for xy in r.junctions_xy[r.junction_kind == BIFURCATION]:
            leaving = np.linalg.norm(r.segments[:, :2] - xy, axis=1) < 1e-9
            arriving = np.linalg.norm(r.segments[:, 2:] - xy, axis=1) < 1e-9
            if leaving.sum() == 2 and arriving.sum() == 1:
                errors.append((r.segment_width_deg[leaving] ** 3).sum() ** (1 / 3) / r.segment_width_deg[arriving][0])
    assert len(errors) > 300
    # between two steps a vessel also tapers by itself: by 0.15 %, or by 5 % once it is older than its budget
    assert (np.isclose(errors, 0.9985, atol=1e-6) | np.isclose(errors, 0.95, atol=1e-6)).all()


def test_junctions_lie_on_drawn_vessels(retinas):
    for r in retinas:
        view = view_matrix((640, 640), 40.0, tuple(0.5 * r.disc_xy))
        mask = cv2.dilate(vessels(rasterise(r, view, (640, 640))).astype(np.uint8), np.ones((5, 5)))
        index = np.rint(visible_junctions(r, view, (640, 640))[0]).astype(int)
        assert len(index) > 50 and mask[index[:, 1], index[:, 0]].all()


def test_crossings_lie_on_two_segments(retinas):
    for r in retinas:
        middles, xy = r.segments.reshape(-1, 2, 2).mean(1), r.junctions_xy[r.junction_kind != BIFURCATION]
        nearest = np.sort(np.linalg.norm(middles[None] - xy[:, None], axis=-1), axis=1)
        assert len(xy) > 30 and nearest[:, 1].max() <= STEP_DEG / 2 + 1e-6


def test_wide_vessels_of_one_kind_seldom_cross(retinas):
    wide, crossings = 0.1, 0
    for r, kind in itertools.product(retinas, (ARTERY, VEIN)):
        s = r.segments[(r.segment_kind == kind) & (r.segment_width_deg > wide)]
        crossings += count_crossings(s[:, :2], s[:, 2:] - s[:, :2])
    assert crossings < 0.15 * sum((r.junction_width_deg > wide).sum() for r in retinas)


def count_crossings(p, d) -> int:
    """Pairs of segments p + t d, t in (0, 1), that cut each other well inside both, at more than 20 degrees."""
    turn = d[:, :1] * d[:, 1] - d[:, 1:] * d[:, 0]
    gap_x, gap_y = p[:, 0] - p[:, :1], p[:, 1] - p[:, 1:]
    safe, length = np.where(turn == 0, np.inf, turn), np.linalg.norm(d, axis=1)
    along = (gap_x * d[:, 1] - gap_y * d[:, 0]) / safe
    steep = np.abs(turn) > np.sin(np.radians(20)) * length[:, None] * length
    inner = (along > 0.001) & (along < 0.999)
    return int((steep & inner & inner.T).sum()) // 2


def test_the_fovea_is_avascular(retinas):
    for r in retinas:
        nearest = np.linalg.norm(r.segments.reshape(-1, 2), axis=1).min()
        assert nearest > 0.85 * r.foveal_zone_deg - STEP_DEG


# ------------------------------------------------------------------ drawing


def test_a_vessel_is_drawn_where_it_is():
    for y in np.linspace(-0.5, 0.5, 11):
        column = rasterise(line(y), similarity(0, 10.0, (0, 0), (30, 25)), (51, 61))[0][:, 30].astype(float)
        assert abs((column * np.arange(51)).sum() / column.sum() - (25 + 10 * y)) < 0.3


def test_layers_of_a_single_vein():
    layers = dict(zip(LAYERS, rasterise(line(0.0, VEIN), similarity(0, 10.0, (0, 0), (30, 25)), (51, 61)), strict=True))
    assert layers["artery"].max() == 0 and layers["vein"][25, 30] == 255
    assert layers["calibre"][25, 30] == 100  # 0.4 deg in units of 0.004 deg


def test_an_odd_view_is_drawn_in_its_own_size(retinas):
    layers = rasterise(retinas[0], view_matrix(ODD_HW, 45.0), ODD_HW)
    assert layers.shape == (len(LAYERS), *ODD_HW) and layers.dtype == np.uint8 and vessels(layers).any()


def test_two_views_of_a_retina_agree(retinas):
    r = retinas[1]
    view0 = view_matrix(HW, 30.0, (4.0, 0.0))
    view1 = view_matrix(ODD_HW, 45.0, (6.0, -2.0), 65.0)
    layers0, layers1 = rasterise(r, view0, HW), rasterise(r, view1, ODD_HW)
    H_1to0 = view0 @ np.linalg.inv(view1)
    back, known = (
        cv2.warpPerspective(x, H_1to0, HW[::-1]) for x in (np.maximum(*layers1[:2]), np.full(ODD_HW, 255, np.uint8))
    )
    assert (known > 254).mean() > 0.6
    assert dice((back > 127) & (known > 254), vessels(layers0) & (known > 254)) > 0.8


def test_junctions_of_two_views_are_the_same_points(retinas):
    view0, view1 = view_matrix(HW, 30.0), view_matrix(ODD_HW, 45.0, (3.0, 1.0), 120.0)
    xy0 = visible_junctions(retinas[0], view0, HW, 0)[0]
    xy1 = visible_junctions(retinas[0], view1, ODD_HW, 0)[0]
    moved = warp_points(xy0, view1 @ np.linalg.inv(view0))
    moved = moved[inside(moved, ODD_HW, 1)]
    assert len(moved) > 20 and np.linalg.norm(moved[:, None] - xy1[None], axis=-1).min(1).max() < 1e-6


def test_view_matrix_looks_at_its_centre_with_its_field():
    view = view_matrix((100, 200), 50.0, (3.0, -2.0), 30.0)
    assert np.allclose(warp_points(np.array([[3.0, -2.0]]), view), image_center((100, 200)))
    assert np.isclose(np.sqrt(np.linalg.det(view[:2, :2])), 4.0)


# ------------------------------------------------------------------ rendering and appearance


@pytest.mark.parametrize("modality", RENDERERS)
def test_rendered_images_have_their_shape_and_range(scene, modality):
    image = render(modality, scene, generator())
    assert image.shape == (2, 3 if modality in ("CF", "RetCam", "UWF") else 1, *HW)
    assert torch.isfinite(image).all() and image.min() >= 0 and image.max() <= 1 and image.std() > 0.01


@pytest.mark.parametrize("modality", RENDERERS)
def test_rendering_is_a_function_of_the_generator(scene, modality):
    first, again, other = (render(modality, scene, generator(seed)) for seed in (4, 4, 5))
    assert torch.equal(first, again) and not torch.equal(first, other)


def vessel_contrast(scene, modality) -> list[float]:
    """Of wide vessels against what lies beside them, in eight renderings."""
    wide = scene.layer("calibre") > 0.15
    beside = (torch.nn.functional.max_pool2d(wide.float(), 15, 1, 7) > 0) & (scene.layer("calibre") == 0)
    contrast = []
    for seed in range(4):
        gray = render(modality, scene, generator(seed)).mean(1, keepdim=True)
        contrast += [float(gray[i][wide[i]].mean() - gray[i][beside[i]].mean()) for i in range(2)]
    return contrast


SIGNS = [("CF", -1), ("FA", 1), ("OCTA", 1), ("FAF", -1), ("IR", -1), ("SLO", -1), ("UWF", -1)]


@pytest.mark.parametrize(("modality", "sign"), SIGNS)
def test_wide_vessels_are_bright_in_angiograms_and_dark_elsewhere(scene, modality, sign):
    assert sign * np.mean(vessel_contrast(scene, modality)) > 0.05


def test_an_infants_vessels_are_faint(scene):
    assert 0.5 * np.mean(vessel_contrast(scene, "CF")) < np.mean(vessel_contrast(scene, "RetCam")) < -0.01


def test_a_deep_slab_shows_the_vessels_above_as_ghosts_or_as_shadows(scene):
    contrast = vessel_contrast(scene, DEEP_OCTA)
    assert min(contrast) < -0.03 and max(contrast) > 0.03


def test_unknown_modality_is_refused(scene):
    with pytest.raises(ValueError, match="CF, FA, OCT, OCTA"):
        render("MRI", scene, generator())


def test_appearance_stays_in_range_and_moves_nothing():
    dot = torch.zeros(1, 1, 65, 65)
    dot[..., 20, 40] = 1.0
    still = AppearanceRange(0, 1.0001, 0, 0, 0, 1.5, 0, 0, 0, 0)
    changed = randomise_appearance(dot, generator(1), still)[0, 0]
    assert 0 <= changed.min() and changed.max() <= 1 and divmod(int(changed.argmax()), 65) == (20, 40)


def test_only_the_outside_of_the_field_of_view_is_painted():
    image, valid = (
        torch.rand(3, 1, 65, 91, generator=generator()),
        random_field_of_view(3, (65, 91), generator(2), whole=0.0),
    )
    painted = apply_field_of_view(image, valid, generator(3), AppearanceRange(text_probability=0))
    assert torch.equal(painted[valid], image[valid]) and (~valid).any() and len(painted[0][~valid[0]].unique()) <= 1


# ------------------------------------------------------------------ samples


@pytest.mark.parametrize("modalities", [("CF", "FA"), ("CF", "OCTA")])
def test_truth_of_a_sample_pair_fits_its_images(modalities):
    options = PairOptions(
        size_px=384, rotation_deg=90, scale=(0.8, 1.25), appearance=AppearanceRange(0, 1.0001, 0, 0, 0, 0, 0, 0, 0, 0)
    )
    pair = draw_pair(3, 1, modalities, options)
    assert pair.fixed.shape == (384, 384, 3) and pair.moving.shape == (384, 384) and pair.overlap >= options.min_overlap
    core = cv2.erode(pair.vessel_mask0.astype(np.uint8), np.ones((3, 3)))
    on = cv2.warpPerspective(core, pair.H_0to1, (384, 384), flags=cv2.INTER_NEAREST) > 0
    seen = (cv2.warpPerspective(pair.valid0.astype(np.uint8), pair.H_0to1, (384, 384)) > 0) & pair.valid1
    near = cv2.dilate(on.astype(np.uint8), np.ones((21, 21))) > 0
    moving = pair.moving.astype(float)
    right = moving[on & seen].mean() - moving[near & ~on & seen].mean()
    shifted = np.roll(on, 15, 1)
    assert right > 3 and right > 2 * (moving[shifted & seen].mean() - moving[near & ~on & seen].mean())


def test_sample_pairs_are_reproducible():
    a, b = (draw_pair(1, 5, options=PairOptions(size_px=128)) for _ in "ab")
    assert (
        np.array_equal(a.fixed, b.fixed) and np.array_equal(a.moving, b.moving) and np.array_equal(a.H_0to1, b.H_0to1)
    )


def test_junctions_of_a_sample_pair_lie_in_the_field_of_view():
    for index in range(4):
        pair = draw_pair(2, index, options=PairOptions(size_px=160))
        x, y = np.rint(pair.junctions0_xy).astype(int).T
        assert pair.valid0[y, x].all()


def test_an_aligned_folder_is_layout_1_in_all_modes(tmp_path):
    write_aligned_folder(tmp_path, 1, size_px=96)
    found = load_layout(tmp_path)
    assert detect_layout(tmp_path) == "generated" and found.problems == []
    assert [r.pair_id for r in found.records] == ["cffa_1_N", "cfoct_1_N", "octfa_1_N", "cfocta_1_N"]
    for r in found.records:
        assert np.array_equal(warp_points(corners((96, 96)), r.H_0to1), corners((96, 96)))
        assert all(read_image(p).shape[:2] == (96, 96) for p in (r.image0, r.image1, r.vessel_mask0))
