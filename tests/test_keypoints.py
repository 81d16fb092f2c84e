"""Oracles for keypoints: drawn detector maps with known peaks, and a network that is the image itself."""

import numpy as np
import pytest
import torch

from retina_kp.core.geometry import inside, similarity, to_cells, warp_points
from retina_kp.networks import DenseOutput
from retina_kp.registration.keypoints import Features, KeypointOptions, extract, find_keypoints, seen_cells, suppress
from retina_kp.registration.views import MAX_ENLARGE, ImageViews

OPTIONS = KeypointOptions(max_keypoints=100, min_probability=0.02, nms_radius_px=4, border_px=4)


def find(detector, stride=1, image_hw=None, valid=None, options=OPTIONS):
    """Keypoints (N, 2) and scores of one detector map (h, w)."""
    detector = torch.as_tensor(detector, dtype=torch.float32)[None, None]
    hw = image_hw or tuple(n * stride for n in detector.shape[-2:])
    valid = torch.ones(1, 1, *hw, dtype=torch.bool) if valid is None else valid
    points, scores = find_keypoints(DenseOutput(detector, torch.zeros(1, 4, 8, 8), stride, 8), valid, options)[0]
    return points.numpy(), scores.numpy()


def peaks(hw, values):
    """Map of single cells: {(x, y): value}."""
    detector = np.zeros(hw, np.float32)
    for (x, y), value in values.items():
        detector[y, x] = value
    return detector


def blobs(hw, centers_xy, sigma, height=0.8):
    y, x = np.mgrid[: hw[0], : hw[1]]
    return sum(height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2)) for cx, cy in centers_xy)


# ------------------------------------------------------------------ suppression


def test_only_the_largest_within_the_radius_survives():
    points, _ = find(peaks((40, 60), {(20, 20): 0.9, (24, 24): 0.8, (29, 20): 0.7}))
    assert points.tolist() == [[20, 20], [29, 20]]


def test_of_equal_neighbours_the_first_in_reading_order_wins():
    points, _ = find(peaks((40, 60), {(20, 20): 0.5, (22, 20): 0.5, (19, 23): 0.5}))
    assert points.tolist() == [[20, 20]]


def test_a_plateau_gives_one_point():
    assert suppress(torch.full((1, 1, 30, 40), 0.7), 4).sum() == 1


def test_a_bit_more_probability_beats_reading_order():
    kept = suppress(torch.tensor(peaks((64, 1000), {(500, 30): 0.5, (502, 34): 0.5 + 1e-6}))[None, None], 4)
    assert not kept[0, 0, 30, 500] and kept[0, 0, 34, 502]


def test_points_come_strongest_first():
    _, scores = find(peaks((40, 60), {(10, 10): 0.3, (30, 10): 0.9, (50, 30): 0.6}))
    assert scores == pytest.approx([0.9, 0.6, 0.3])


def test_top_k_keeps_the_strongest():
    options = KeypointOptions(max_keypoints=2)
    points, _ = find(peaks((40, 60), {(10, 10): 0.3, (30, 10): 0.9, (50, 30): 0.6}), options=options)
    assert points.tolist() == [[30, 10], [50, 30]]


def test_weak_cells_are_no_points():
    assert find(np.full((40, 60), 0.019))[0].shape == (0, 2)


def test_no_points_keep_their_shape():
    points, scores = find(np.zeros((40, 60)))
    assert points.shape == (0, 2) and scores.shape == (0,)


def test_a_batch_is_found_image_by_image():
    maps = torch.from_numpy(np.stack([peaks((40, 60), {(10, 10): 0.5}), np.zeros((40, 60), np.float32)]))[:, None]
    found = find_keypoints(
        DenseOutput(maps, torch.zeros(2, 4, 5, 8), 1, 8), torch.ones(2, 1, 40, 60, dtype=torch.bool), OPTIONS
    )
    assert [len(points) for points, _ in found] == [1, 0]


# ------------------------------------------------------------------ gates


def test_points_keep_off_the_frame():
    points, _ = find(peaks((40, 60), {(3, 20): 0.9, (4, 10): 0.8, (55, 30): 0.7, (56, 20): 0.6}))
    assert points.tolist() == [[4, 10], [55, 30]]


def test_points_keep_off_a_black_edge():
    valid = torch.ones(1, 1, 40, 60, dtype=torch.bool)
    valid[..., :20] = False
    points, _ = find(peaks((40, 60), {(10, 10): 0.9, (23, 20): 0.9, (24, 30): 0.5}), valid=valid)
    assert points.tolist() == [[24, 30]]


def test_a_black_edge_does_not_win_against_a_point_beside_it():
    valid = torch.ones(1, 1, 40, 60, dtype=torch.bool)
    valid[..., :20] = False
    assert find(peaks((40, 60), {(22, 20): 0.9, (25, 20): 0.5}), valid=valid)[0].tolist() == [[25, 20]]


def test_the_frame_does_not_win_against_a_point_beside_it():
    assert find(peaks((40, 60), {(2, 20): 0.9, (5, 20): 0.5}))[0].tolist() == [[5, 20]]


def test_padding_cells_of_an_odd_image_are_no_points():
    points, _ = find(
        peaks((160, 240), {(234, 155): 0.9, (100, 158): 0.9, (100, 100): 0.5}), stride=2, image_hw=(313, 471)
    )
    assert points.tolist() == [[200.5, 200.5]]


def test_the_edge_of_the_view_is_not_seen_but_the_frame_is_no_edge():
    valid = torch.ones(1, 1, 9, 9, dtype=torch.bool)
    valid[..., 0] = False
    assert seen_cells(valid, 1, 2)[0, 0, 4].tolist() == [False] * 3 + [True] * 6
    assert seen_cells(valid, 2, 2)[0, 0, 2].tolist() == [False] * 2 + [True] * 3
    assert seen_cells(valid, 2, 0)[0, 0, 2].tolist() == [False] + [True] * 4


# ------------------------------------------------------------------ places


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sigma_cells", [0.8, 2.0])
@pytest.mark.parametrize("center", [(40.0, 40.0), (40.3, 39.8), (41.45, 40.55), (37.2, 44.9)])
def test_refinement_finds_the_centre_of_a_gaussian(center, sigma_cells, stride):
    cells = to_cells(np.array(center), stride)
    points, _ = find(blobs((96 // stride, 96 // stride), [cells], sigma_cells), stride)
    assert len(points) == 1 and np.abs(points[0] - center).max() / stride < 0.05


def test_refinement_moves_by_half_a_cell_at_most():
    detector = peaks((40, 60), {(30, 20): 0.5})
    detector[20, 31] = 0.499
    assert np.abs(find(detector)[0] - [30, 20]).max() <= 0.5


class Brightness(torch.nn.Module):
    """Detector: how much brighter than 0.3 a pixel is; descriptor: the place of its cell, as an angle."""

    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, image, valid):
        angle = torch.linspace(0, 1, -(-image.shape[-1] // 8)).expand(len(image), 1, -(-image.shape[-2] // 8), -1)
        return DenseOutput((image - 0.3).clamp_min(0), torch.cat([angle.cos(), angle.sin()], 1), 1, 8)


SPOTS = np.array([[100.3, 80.7], [300.2, 200.4], [250.6, 60.1], [400.0, 250.5], [60.5, 260.2]])


def spotted():
    return (0.3 + blobs((313, 471), SPOTS, 3.0, 0.5)).astype(np.float32)


def nearest(points, truth):
    """Distance from each true point to the nearest found one."""
    return np.linalg.norm(points[:, None] - truth[None], axis=2).min(0)


def test_extract_reads_unit_descriptors_where_the_points_are():
    image = torch.from_numpy(spotted())[None, None]
    features = extract(Brightness(), image, torch.ones_like(image, dtype=torch.bool), OPTIONS)[0]
    angle = np.arctan2(features.descriptors[:, 1], features.descriptors[:, 0])
    assert np.linalg.norm(features.descriptors, axis=1) == pytest.approx(np.ones(5))
    assert angle == pytest.approx(to_cells(features.keypoints_xy[:, 0], 8) / 58, abs=1e-3)


def test_extract_of_a_blank_image_has_no_rows():
    image = torch.full((1, 1, 64, 80), 0.3)
    features = extract(Brightness(), image, torch.ones_like(image, dtype=torch.bool))[0]
    assert (features.keypoints_xy.shape, features.scores.shape, features.descriptors.shape) == ((0, 2), (0,), (0, 2))
    assert len(features) == 0 and features.image_hw == (64, 80)


def test_mapped_features_change_their_places_only():
    features = Features(np.array([[1, 2], [3, 4]], np.float32), np.ones(2), np.eye(2), (10, 20))
    mapped = features.mapped(np.diag([2.0, 3, 1]), [30, 40])
    assert mapped.keypoints_xy.tolist() == [[2, 6], [6, 12]] and mapped.image_hw == (30, 40)
    assert mapped.descriptors is features.descriptors


# ------------------------------------------------------------------ views


@pytest.mark.parametrize("working_px", [384.0, 250.0])
@pytest.mark.parametrize(("angle_deg", "scale"), [(0, 1), (90, 1), (-135, 1), (0, 0.6), (45, 0.6)])
def test_features_of_a_view_are_told_in_base_px(angle_deg, scale, working_px):
    views = ImageViews(spotted(), Brightness(), OPTIONS, working_px)
    features = views.features(angle_deg, scale)
    assert (
        len(features) == 5 and nearest(features.keypoints_xy, warp_points(SPOTS, views.base_from_original)).max() < 0.25
    )


def test_drawn_features_are_told_in_px_of_the_frame():
    views = ImageViews(spotted(), Brightness(), OPTIONS, 300.0)
    H = similarity(33, 0.7, (100, 100), (150, 120))
    truth = warp_points(warp_points(SPOTS, views.base_from_original), H)
    found = views.warped(H, (300, 400)).keypoints_xy
    assert nearest(found, truth[inside(truth, (300, 400), 5)]).max() < 0.25


@pytest.mark.parametrize("scale", [0.9, 0.45, 0.2])
def test_a_much_smaller_picture_is_drawn_without_aliasing(scale):
    """A pattern of single pixels turns into its mean, whatever the size of the picture; read from the copy that it is
    drawn from."""
    fine = np.tile(np.float32([[0.2, 0.8], [0.8, 0.2]]), (200, 200))
    views = ImageViews(fine, Brightness(), OPTIONS, 400.0)
    copy, copy_from_original = views._copy(np.diag([scale, scale, 1.0]))
    assert (
        copy_from_original[0, 0] == pytest.approx(copy.shape[1] / 400)
        and scale <= copy_from_original[0, 0] * 1.08 <= scale * 1.6
    )
    assert scale > 0.8 or copy.std() < 0.15 * fine.std()


def test_enlarging_has_a_limit():
    small = ImageViews(spotted()[::4, ::4], Brightness(), OPTIONS, 460.0)
    large = ImageViews(spotted(), Brightness(), OPTIONS, 100.0)
    assert small.base_from_original[0, 0] == MAX_ENLARGE and small.finest == 1
    assert large.finest * large.base_from_original[0, 0] == pytest.approx(MAX_ENLARGE)


def test_working_size_does_not_depend_on_the_canvas():
    alone, canvas = retina_disc(200), np.zeros((500, 700), np.float32)
    canvas[150:350, 300:500] = alone
    scales = [ImageViews(image, Brightness(), OPTIONS, 150.0).base_from_original[0, 0] for image in (alone, canvas)]
    assert scales[1] == pytest.approx(scales[0], rel=0.02)


def retina_disc(side):
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    texture = 0.5 + 0.05 * np.random.default_rng(0).standard_normal((side, side))
    return np.where(x**2 + y**2 < (0.48 * side) ** 2, texture, 0).astype(np.float32)


def test_an_image_without_places_and_its_mirror_image():
    """What is taken away is no part of the field of view, whose outline the rest keeps; nothing else changes."""
    disc = retina_disc(200)
    views, places = ImageViews(disc, Brightness(), OPTIONS, 150.0), np.zeros(disc.shape, bool)
    places[60:70, 20:50] = True
    left = views.without(places)
    assert not left.valid[places].any() and (left.valid | places)[views.valid].all() and views.valid[places].all()
    assert left.base_from_original[0, 0] == pytest.approx(views.base_from_original[0, 0], rel=0.02)
    assert views.without(disc < 2) is views
    flipped = left.flipped()
    assert np.array_equal(flipped.original, disc[:, ::-1]) and np.array_equal(flipped.valid, left.valid[:, ::-1])
