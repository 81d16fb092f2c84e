"""Records as training pairs, on small files of odd and unequal sizes: what is drawn at a known place lands where the
matrices say."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from retina_kp.core.geometry import TransformRange, corner_error, corners, overlap_fraction, similarity, warp_points
from retina_kp.core.images import write_image
from retina_kp.core.vessels import skeleton_junctions
from retina_kp.data.annotation import true_homography
from retina_kp.data.augment import AppearanceRange
from retina_kp.data.file_pairs import MIN_OVERLAP, PairDataset, letterbox, read_vessel_mask
from retina_kp.data.layouts import load_layout
from retina_kp.data.records import PairRecord
from retina_kp.synthetic.pairs import write_aligned_folder
from retina_kp.synthetic.training_pairs import SyntheticOptions, SyntheticPairs
from retina_kp.training.config import TrainConfig
from retina_kp.training.trainer import Trainer

CF_HW, FA_HW = (313, 471), (257, 201)
H_TRUE = np.array([[0.52, 0.06, 12.5], [-0.04, 0.61, 20.25], [1e-5, -2e-5, 1.0]])
POINTS0 = np.array([[10.0, 10.0], [40.25, 60.5], [200, 31], [122.125, 200], [260, 250], [300.5, 100], [30, 280]])
WIDE = TransformRange(40, 1.3, 0.1, 0.05, 0.02)
DOT0 = (180.0, 140.0)


def textured(hw, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).random((hw[0] // 16 + 1, hw[1] // 16 + 1)).astype(np.float32)
    return 0.3 + 0.15 * cv2.resize(noise, hw[::-1], interpolation=cv2.INTER_CUBIC)


def with_dot(image: np.ndarray, xy, sigma_px: float = 3.0) -> np.ndarray:
    rows, columns = np.indices(image.shape)
    blob = np.exp(-((columns - xy[0]) ** 2 + (rows - xy[1]) ** 2) / (2 * sigma_px**2))
    return np.clip(image * (1 - blob) + blob, 0, 1)


def save(path, image: np.ndarray):
    write_image(path, (image * 255).astype(np.uint8))
    return path


def brightest(image: torch.Tensor) -> np.ndarray:
    """(2,) x, y px of the centroid of what is nearly white."""
    weight = (image[0].double().numpy() - 0.6).clip(0)
    return (weight[..., None] * np.stack(np.meshgrid(*(np.arange(n) for n in weight.shape[::-1])), -1)).sum(
        (0, 1)
    ) / weight.sum()


@pytest.fixture
def record(tmp_path) -> PairRecord:
    """A pair of unequal sizes with a white dot at DOT0 and where H_TRUE takes it."""
    dot1 = warp_points(np.array([DOT0]), H_TRUE)[0]
    image0 = save(tmp_path / "cf.png", with_dot(textured(CF_HW), DOT0))
    image1 = save(tmp_path / "fa.png", with_dot(textured(FA_HW, 1), dot1))
    return PairRecord("p", "e", "CF", "FA", image0, image1, POINTS0, warp_points(POINTS0, H_TRUE), H_TRUE)


# ------------------------------------------------------------------ letterbox


@pytest.mark.parametrize(("hw", "size"), [((313, 471), 128), ((471, 313), 160), ((61, 45), 150), ((100, 100), 100)])
def test_letterbox_moves_a_dot_where_its_matrix_says(hw, size):
    at = (0.7 * hw[1], 0.4 * hw[0])
    square, matrix = letterbox(with_dot(np.zeros(hw), at, 0.03 * max(hw)).astype(np.float32), size)
    found = brightest(torch.from_numpy(square)[None])
    assert square.shape == (size, size) and np.abs(found - warp_points(np.array([at]), matrix)[0]).max() < 0.2


def test_letterbox_keeps_proportions():
    matrix = letterbox(np.zeros(CF_HW, np.float32), 128)[1]
    assert matrix[0, 0] / matrix[1, 1] == pytest.approx(1, abs=0.01)


def test_the_borders_of_the_square_are_not_valid(record):
    valid0 = PairDataset([record], 128).item(0)["valid0"][0]
    assert not valid0[:21].any() and not valid0[-21:].any() and valid0[24:-24, 1:-1].all()


# ------------------------------------------------------------------ the true transform


@pytest.mark.parametrize("outlier", [False, True])
def test_a_homography_is_found_from_points(record, outlier):
    points1 = warp_points(POINTS0, H_TRUE) + np.array([[0.0, 80.0]]) * (np.arange(7) == 3)[:, None] * outlier
    H = true_homography(replace(record, H_0to1=None, points1_xy=points1))
    assert corner_error(H, H_TRUE, CF_HW) < 0.05


def test_four_points_give_a_similarity(record):
    H_similar = similarity(33, 0.6, (100, 100), (90, 120))
    H = true_homography(
        replace(record, H_0to1=None, points0_xy=POINTS0[:4], points1_xy=warp_points(POINTS0[:4], H_similar))
    )
    assert corner_error(H, H_similar, CF_HW) < 0.05 and np.allclose(H[0, 0], H[1, 1])


def test_a_record_without_truth_is_refused_by_name(record):
    blind = replace(record, pair_id="blind one", H_0to1=None, points0_xy=None, points1_xy=None)
    with pytest.raises(ValueError, match="blind one: has neither"):
        PairDataset([record, blind])


def test_points_that_mirror_the_retina_are_refused_by_name(record):
    with pytest.raises(ValueError, match="p: its point pairs mirror"):
        PairDataset([replace(record, H_0to1=None, points1_xy=POINTS0 * [-0.4, 0.4] + [200, 0])])


def test_two_points_are_refused_by_name(record):
    with pytest.raises(ValueError, match="p: 2 point pairs"):
        PairDataset([replace(record, H_0to1=None, points0_xy=POINTS0[:2], points1_xy=POINTS0[:2])])


# ------------------------------------------------------------------ image, matrix and labels move together


@pytest.mark.parametrize("ranges", [None, WIDE])
def test_a_dot_lands_where_H_says(record, ranges):
    data = PairDataset([record], 192, ranges)
    for epoch in range(3):
        item = data.item(0, epoch)
        expected = warp_points(brightest(item["image0"])[None], item["H_0to1"].numpy())[0]
        assert np.abs(brightest(item["image1"]) - expected).max() < 0.5


@pytest.mark.parametrize("ranges", [None, WIDE])
def test_points_land_where_H_says(record, ranges):
    item = PairDataset([record], 192, ranges).item(0)
    assert torch.allclose(warp_points(item["points0"].double(), item["H_0to1"]).float(), item["points1"], atol=1e-2)


def test_nothing_moves_without_ranges(record):
    item = PairDataset([record], 192).item(0)
    (_, to0), (_, to1) = (letterbox(np.zeros(hw, np.float32), 192) for hw in (CF_HW, FA_HW))
    assert corner_error(item["H_0to1"].numpy(), to1 @ H_TRUE @ np.linalg.inv(to0), (192, 192)) < 1e-9


def test_the_valid_mask_moves_with_the_image(record):
    item = PairDataset([record], 128, WIDE).item(0, 1)
    assert (item["image1"][item["valid1"]] > 0.2).all() and not torch.equal(
        item["valid1"], PairDataset([record], 128).item(0)["valid1"]
    )


def test_random_transforms_keep_an_overlap(record):
    data = PairDataset([record], 128, TransformRange(180, 2.0, 0.6, 0, 0))
    overlaps = [
        overlap_fraction(data.item(0, epoch)["H_0to1"].numpy(), (128, 128), (128, 128), 8) for epoch in range(8)
    ]
    assert min(overlaps) >= MIN_OVERLAP


# ------------------------------------------------------------------ vessels

# three branches, 120 degrees apart, that meet at the first point
FORK = np.array([[235, 160], [235, 290], [122, 95], [348, 95]])


def fork() -> np.ndarray:
    canvas = np.zeros(CF_HW, np.uint8)
    for end in FORK[1:]:
        cv2.line(canvas, tuple(map(int, FORK[0])), tuple(map(int, end)), 255, 7)
    return canvas


def masked(record, tmp_path, mask: np.ndarray) -> dict:
    write_image(tmp_path / "mask.png", mask)
    return PairDataset([replace(record, vessel_mask0=tmp_path / "mask.png")], 256).item(0)


def fork_in_square() -> np.ndarray:
    return warp_points(FORK[:1].astype(float), letterbox(np.zeros(CF_HW, np.float32), 256)[1])


def test_junctions_of_the_mask_are_the_keypoints(record, tmp_path):
    item = masked(record, tmp_path, fork())
    assert (
        item["vessel_keypoints"].shape == (1, 2)
        and np.abs(item["vessel_keypoints"].numpy() - fork_in_square()).max() < 1
    )
    assert np.allclose(
        item["vessel_keypoints1"], warp_points(item["vessel_keypoints"].double(), item["H_0to1"]), atol=1e-3
    )


def test_a_mask_of_twice_the_size_gives_the_same_vessels(record, tmp_path):
    same = masked(record, tmp_path, fork())["vessel_mask0"]
    assert torch.equal(same, masked(record, tmp_path, fork().repeat(2, 0).repeat(2, 1))["vessel_mask0"])


@pytest.mark.parametrize("factor", [2, 3])
def test_a_mask_larger_than_its_image_keeps_thin_lines_whole(tmp_path, factor):
    """A line 1.5 px wide on an image of 256 px: of a mask of two or three times the size every other row is lost by
    taking the nearest."""
    fine = np.zeros((256 * factor, 256 * factor), np.uint8)
    ends = [(20, 60), (230, 190)], [(40, 220), (200, 30)]
    for start, end in ends:
        cv2.line(fine, *(tuple(int(v * factor) for v in point) for point in (start, end)), 255, round(1.5 * factor))
    write_image(tmp_path / "mask.png", fine)
    found = read_vessel_mask(tmp_path / "mask.png", (256, 256), 256)
    share = fine.reshape(256, factor, 256, factor).mean((1, 3)) / 255
    assert np.array_equal(found, share > 0.5)  # the oracle: a pixel is vessel where most of its area is
    assert cv2.connectedComponents(found.astype(np.uint8), connectivity=8)[0] == 2  # one cross, and the background
    assert len(skeleton_junctions(found)[0]) == 1


def test_a_large_mask_lands_where_its_image_does(tmp_path):
    """Proportions that leave borders: the mask is shrunk straight into the place of the image."""
    hw, at = (100, 161), (120, 30)
    mask = np.zeros((300, 483), np.uint8)
    cv2.circle(mask, (3 * at[0] + 1, 3 * at[1] + 1), 20, 255, -1)
    write_image(tmp_path / "mask.png", mask)
    rows, columns = np.nonzero(read_vessel_mask(tmp_path / "mask.png", hw, 128))
    expected = warp_points(np.array([at], float), letterbox(np.zeros(hw, np.float32), 128)[1])[0]
    assert np.abs([columns.mean(), rows.mean()] - expected).max() < 0.3


def test_a_mask_smaller_than_its_image_is_taken(tmp_path):
    write_image(tmp_path / "mask.png", np.kron(np.eye(8), np.ones((10, 10))).astype(np.uint8))
    found = read_vessel_mask(tmp_path / "mask.png", (160, 160), 160)
    assert np.array_equal(found, np.kron(np.eye(8), np.ones((20, 20))) > 0)


@pytest.mark.parametrize("level", [1, 255])
def test_any_level_of_a_mask_counts_as_vessel(record, tmp_path, level):
    item = masked(record, tmp_path, (fork() > 0).astype(np.uint8) * level)
    assert 0.01 < item["vessel_mask0"].float().mean() < 0.2


def test_without_a_mask_the_vessels_are_found_in_the_image(record, tmp_path):
    vessels = cv2.GaussianBlur(fork(), (0, 0), 1.5) / 255
    image0 = save(tmp_path / "forked.png", 0.5 - 0.25 * vessels + 0.01 * np.random.default_rng(0).random(CF_HW))
    item = PairDataset([replace(record, image0=image0)], 256).item(0)
    assert np.linalg.norm(item["vessel_keypoints"].numpy() - fork_in_square(), axis=1).min() < 1.5


# ------------------------------------------------------------------ batches


@pytest.fixture
def several(record) -> list[PairRecord]:
    return [
        replace(record, pair_id=str(i), H_0to1=H_TRUE @ similarity(3 * i, 1, (200, 150), (200, 150))) for i in range(5)
    ]


def test_a_batch_has_the_form_of_a_synthetic_one(several):
    batch = PairDataset(several, 64, WIDE, AppearanceRange()).batch(0, 3)
    model = SyntheticPairs(0, 1, SyntheticOptions(size_px=64)).batch(0, 3)
    del model["true_keypoints"]  # nobody knows them
    for key, value in model.items():
        if torch.is_tensor(value):
            assert batch[key].dtype == value.dtype and batch[key].ndim == value.ndim
            assert "keypoints" in key or batch[key].shape == value.shape
    assert set(batch) == set(model) | {"points0", "points1"} and batch["modalities"] == [("CF", "FA")] * 3


def test_every_epoch_shows_every_record_once(several):
    data = PairDataset(several, 64)
    shown = [name for step in range(5) for name in data.batch(step, 2)["sample_ids"]]
    assert sorted(shown[:5]) == sorted(shown[5:]) == list("01234") and shown[:5] != shown[5:]


def test_the_order_depends_on_seed_and_epoch_only(several):
    assert np.array_equal(PairDataset(several, 64, seed=3).order(7), PairDataset(several, 128, WIDE, seed=3).order(7))
    assert any(
        not np.array_equal(PairDataset(several, seed=3).order(e), PairDataset(several, seed=4).order(e))
        for e in range(3)
    )


def test_a_batch_does_not_depend_on_what_was_read_before(several):
    warm = PairDataset(several, 64, WIDE, AppearanceRange(), cache_bytes=2 * 64**2 * 2)
    for step in range(3):
        warm.batch(step, 2)
    a, b = warm.batch(1, 2), PairDataset(several, 64, WIDE, AppearanceRange()).batch(1, 2)
    assert torch.equal(a["image1"], b["image1"]) and torch.equal(a["H_0to1"], b["H_0to1"])


@pytest.mark.parametrize("prealign", [False, True])
def test_pairs_read_again_are_the_pairs_in_memory(several, prealign):
    """Nothing kept, everything kept, and read for the first time: the same items."""
    forgetful, keeping = (
        PairDataset(several, 96, WIDE, AppearanceRange(), prealign=prealign, cache_bytes=size) for size in (0, 2**28)
    )
    for epoch in range(2):
        for index in range(3):
            fresh = PairDataset(several, 96, WIDE, AppearanceRange(), prealign=prealign).item(index, epoch)
            for item in (forgetful.item(index, epoch), keeping.item(index, epoch)):
                assert all(torch.equal(v, item[k]) for k, v in fresh.items() if torch.is_tensor(v))


def test_an_item_leaves_what_is_in_memory_as_it_was(several):
    data = PairDataset(several, 64, WIDE, AppearanceRange())
    before = [x.clone() for x in data._pair(0)[:2]]
    data.item(0)["image0"].zero_()
    assert all(torch.equal(a, b) for a, b in zip(before, data._pair(0)[:2], strict=True))


def test_pictures_stay_within_their_bytes_and_labels_are_found_once(several, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "retina_kp.data.file_pairs.skeleton_junctions", lambda mask: calls.append(1) or skeleton_junctions(mask)
    )
    budget = 2 * (2 * 64**2 * 2 + 200)  # two pairs
    data = PairDataset(several, 64, cache_bytes=budget)
    for _ in range(2):
        for index in range(len(several)):
            data.item(index)
            assert data._pictures.bytes <= budget
    assert len(data._pictures) == 2 and len(calls) == len(several)


def test_an_unreadable_file_is_named(record, tmp_path):
    (tmp_path / "cf.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match="cf.png"):
        PairDataset([record]).item(0)


def test_colour_and_16_bit_images_are_taken(record, tmp_path):
    write_image(tmp_path / "deep.png", (textured(FA_HW) * 65535).astype(np.uint16))
    write_image(tmp_path / "colour.png", np.repeat((textured(CF_HW) * 255).astype(np.uint8)[..., None], 3, 2))
    item = PairDataset([replace(record, image0=tmp_path / "colour.png", image1=tmp_path / "deep.png")], 64).item(0)
    assert 0.2 < item["image0"][item["valid0"]].mean() < 0.5 and 0.2 < item["image1"][item["valid1"]].mean() < 0.9


def test_generated_folders_train_a_network(tmp_path):
    write_aligned_folder(tmp_path / "data", 1, size_px=160)
    data = PairDataset(load_layout(tmp_path / "data").records, 96, TransformRange(), AppearanceRange())
    assert np.allclose(
        warp_points(corners((96, 96)), PairDataset(data.records, 96).item(0)["H_0to1"].numpy()), corners((96, 96))
    )
    config = TrainConfig(network_options={"width": 0.25, "descriptor_dim": 16}, batch_size=4, validation_pairs=0)
    terms = Trainer(config, tmp_path / "run", data=data).step()
    assert np.isfinite(terms["total"]) and terms["points_used"] > 0 and terms["loss_det"] > 0
