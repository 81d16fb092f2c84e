"""The pseudo-real clinic: its folder reads back as layout 2, its points err as documented, its truth is found from
them."""

import numpy as np
import pytest
from scipy import ndimage

from retina_kp.core.geometry import describe, inside, warp_points
from retina_kp.core.images import image_size, read_image
from retina_kp.data.annotation import LONGER_SIDE_PX, fitted_model, true_homography
from retina_kp.data.layouts import load_layout
from retina_kp.synthetic import pseudo_real
from retina_kp.synthetic.drawing import LESIONS
from retina_kp.synthetic.pseudo_real import (
    NOISE_PX,
    OUTLIER_MIN_PX,
    OUTLIER_SHARE,
    PseudoRealPair,
    _annotate,
    pseudo_real_pair,
    write_pseudo_real,
)

COUNT = 4


@pytest.fixture(scope="module")
def pairs() -> list[PseudoRealPair]:
    return [pseudo_real_pair(1, i) for i in range(COUNT)]


@pytest.fixture(scope="module")
def inventory(tmp_path_factory):
    return load_layout(write_pseudo_real(tmp_path_factory.mktemp("clinic"), COUNT, seed=1))


# ------------------------------------------------------------------ the folder


def test_the_folder_reads_back_without_problems(inventory):
    assert not inventory.problems and len(inventory.records) == COUNT
    assert {(r.modality0, r.modality1) for r in inventory.records} == {("CF", "FA")}


def test_two_pairs_show_one_eye(inventory):
    assert [r.eye_id for r in inventory.records] == ["001", "001", "002", "002"]


def test_files_hold_the_pairs_with_that_seed(inventory, pairs):
    for record, pair in zip(inventory.records, pairs, strict=True):
        assert np.array_equal(read_image(record.image0), pair.fixed) and np.array_equal(
            read_image(record.image1), pair.moving
        )
        assert (
            np.abs(record.points0_xy - pair.points0_xy).max() < 0.006
            and np.abs(record.points1_xy - pair.points1_xy).max() < 0.006
        )


def test_images_of_a_pair_have_unequal_sizes(inventory):
    assert {(image_size(r.image0), image_size(r.image1)) for r in inventory.records} == {((410, 512), (384, 461))}


# ------------------------------------------------------------------ the pairs


def test_same_seed_and_number_same_pair(pairs):
    again = pseudo_real_pair(1, 2)
    assert np.array_equal(again.fixed, pairs[2].fixed) and np.array_equal(again.moving, pairs[2].moving)
    assert np.array_equal(again.points1_xy, pairs[2].points1_xy)


def test_other_seed_or_number_other_pair(pairs):
    assert not np.array_equal(pseudo_real_pair(2, 0).fixed, pairs[0].fixed)
    assert len({pair.fixed.tobytes() for pair in pairs}) == COUNT


def test_transforms_keep_their_ranges(pairs):
    for pair in pairs:
        shape = describe(pair.H_0to1, pair.fixed.shape[:2])
        assert abs(shape.angle_deg) < 32 and 0.73 < shape.scale < 1.39 and not shape.mirrored and pair.overlap > 0.4


def test_the_choroid_shines_in_the_angiogram_alone(pairs):
    without = pseudo_real_pair(1, 0, choroid_light=(0.0, 0.0))
    assert np.array_equal(without.fixed, pairs[0].fixed)
    more = pairs[0].moving.astype(int) - without.moving
    brighter = more > 25
    # lines, no veil, and only where there is retina
    assert 0.05 < brighter.mean() < 0.5 and brighter[~pairs[0].valid1].mean() < 0.02


def test_about_half_of_the_eyes_carry_scars():
    eyes = [pseudo_real._eye(np.random.default_rng([9, k])) for k in range(24)]
    scarred = sum((eye.lesions[:, 0] == LESIONS.index("scar")).sum() > 50 for eye in eyes)
    assert 6 <= scarred <= 18


def test_vessels_are_dark_in_the_photograph_and_bright_lined_in_the_angiogram(pairs):
    for pair in pairs:
        beside = ndimage.binary_dilation(pair.vessel_mask0, iterations=6) & ~ndimage.binary_dilation(
            pair.vessel_mask0, iterations=3
        )
        wall = ndimage.binary_dilation(pair.vessel_mask0) & ~ndimage.binary_erosion(pair.vessel_mask0)
        fixed, on, off, rim = (
            pair.fixed[..., 1].astype(float),
            *(np.argwhere(m & pair.valid0)[:, ::-1] for m in (pair.vessel_mask0, beside, wall)),
        )
        assert fixed[on[:, 1], on[:, 0]].mean() < fixed[off[:, 1], off[:, 0]].mean() - 2
        gray1 = [read_at(pair.moving, warp_points(xy, pair.H_0to1)) for xy in (rim, off)]
        assert np.mean(gray1[0]) > np.mean(gray1[1]) + 2


def read_at(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    x, y = np.rint(xy[inside(xy, image.shape)]).astype(int).T
    return image[y, x].astype(float)


# ------------------------------------------------------------------ the points


def test_points_are_10_to_20_and_spread_over_both_images(pairs):
    for pair in pairs:
        assert 10 <= len(pair.points0_xy) == len(pair.points1_xy) <= 20
        assert inside(pair.points0_xy, pair.fixed.shape[:2]).all() and inside(pair.points1_xy, pair.moving.shape).all()
        spread = np.linalg.svd(pair.points0_xy - pair.points0_xy.mean(0), compute_uv=False)[-1] / np.sqrt(
            len(pair.points0_xy)
        )
        assert spread > 0.08 * pair.fixed.shape[1]


def test_points_are_true_but_for_noise_and_gross_errors(pairs):
    for pair in pairs:
        scale = describe(pair.H_0to1, pair.fixed.shape[:2]).scale
        off = np.linalg.norm(warp_points(pair.points0_xy, pair.H_0to1) - pair.points1_xy, axis=1)
        assert (off[~pair.gross] < 4.5 * NOISE_PX * np.hypot(1, scale)).all()


def test_noise_and_outliers_have_the_documented_size():
    rng, hw = np.random.default_rng(0), (1000, 1200)
    true0, true1 = rng.uniform(100, 900, (20_000, 2)), rng.uniform(100, 900, (20_000, 2))
    clicked0, clicked1, gross = _annotate(rng, true0, true1, hw, hw)
    assert gross.mean() == pytest.approx(OUTLIER_SHARE, abs=0.006)
    assert np.std(clicked0 - true0) == pytest.approx(NOISE_PX, rel=0.03)
    assert np.std((clicked1 - true1)[~gross]) == pytest.approx(NOISE_PX, rel=0.03)
    assert np.linalg.norm((clicked1 - true1)[gross], axis=1).min() > OUTLIER_MIN_PX


def test_the_transform_is_found_from_the_points(inventory, pairs):
    for record, pair in zip(inventory.records, pairs, strict=True):
        H, seen = true_homography(record), pair.points0_xy
        off = np.linalg.norm(warp_points(seen, H) - warp_points(seen, pair.H_0to1), axis=1)
        assert np.median(off) < 3 * NOISE_PX  # where the annotation reaches; the corners lie further off


def test_the_leave_one_out_residual_is_that_of_the_noise(inventory):
    # mean length of the noise at scale 1, at 768 px
    noise_px = NOISE_PX * np.sqrt(2) * np.sqrt(np.pi / 2) * LONGER_SIDE_PX / 461
    assert all(0.6 * noise_px < fitted_model(r)[1] < 3.5 * noise_px for r in inventory.records)
