"""Synthetic batches: a function of seed and number alone, with labels that lie where image, matrix and mask say."""

import numpy as np
import pytest
import torch

from retina_kp.core.geometry import overlap_fraction, pad_points, sample_map, warp_image, warp_points
from retina_kp.data.augment import AppearanceRange
from retina_kp.data.sources import ByteCache
from retina_kp.synthetic.drawing import LAYERS
from retina_kp.synthetic.shown import Shown, junctions_of
from retina_kp.synthetic.training_pairs import (
    CACHE_PX,
    VIEW_CACHE_BYTES,
    CachedView,
    SyntheticOptions,
    SyntheticPairs,
    draw_cached_view,
    draw_view,
)

OPTIONS = SyntheticOptions(size_px=128)
POOL = 4


@pytest.fixture(scope="module")
def data() -> SyntheticPairs:
    return SyntheticPairs(11, POOL, OPTIONS)


@pytest.fixture(scope="module")
def batches(data) -> list[dict]:
    return [data.batch(i, 4) for i in range(3)]


def same(a: dict, b: dict) -> bool:
    tensors = [k for k, v in a.items() if torch.is_tensor(v)]
    return a["modalities"] == b["modalities"] and all(
        torch.equal(a[k].nan_to_num(-9), b[k].nan_to_num(-9)) for k in tensors
    )


def points(batch: dict, i: int, key: str = "vessel_keypoints") -> torch.Tensor:
    rows = batch[key][i]
    return rows[torch.isfinite(rows).all(-1)]


# ------------------------------------------------------------------ reproducibility


def test_a_batch_does_not_depend_on_what_was_drawn_before(batches):
    assert same(SyntheticPairs(11, POOL, OPTIONS).batch(2, 4), batches[2])


def test_a_batch_does_not_depend_on_what_is_in_memory(batches, monkeypatch):
    monkeypatch.setattr("retina_kp.synthetic.training_pairs._views", ByteCache(0))
    assert same(SyntheticPairs(11, POOL, OPTIONS).batch(2, 4), batches[2])


def test_a_view_in_memory_is_the_view_as_drawn(monkeypatch):
    monkeypatch.setattr("retina_kp.synthetic.training_pairs._views", ByteCache(VIEW_CACHE_BYTES))
    drawn = draw_view(11, 0, OPTIONS)
    for kept in (draw_cached_view(11, 0, OPTIONS) for _ in range(2)):
        assert all(np.array_equal(value, getattr(kept, name)) for name, value in vars(drawn).items())


def test_six_hundred_views_fit_in_memory(monkeypatch):
    cache = ByteCache(VIEW_CACHE_BYTES)
    monkeypatch.setattr("retina_kp.synthetic.training_pairs._views", cache)
    for index in range(4):
        draw_cached_view(11, index, OPTIONS)
    assert 600 * cache.bytes / 4 < VIEW_CACHE_BYTES


def test_other_number_other_batch(batches):
    assert not torch.equal(batches[0]["image0"], batches[1]["image0"])


def test_other_seed_other_batch(batches):
    assert not torch.equal(SyntheticPairs(12, 1, OPTIONS).batch(0, 4)["image0"], batches[0]["image0"])


def test_global_random_state_is_neither_used_nor_changed(data, batches):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert same(data.batch(0, 4), batches[0]) and torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------ form


def test_shapes_and_types(batches):
    batch = batches[0]
    for key in ("image0", "image1"):
        assert batch[key].shape == (4, 1, 128, 128) and batch[key].dtype == torch.float32
    for key in ("valid0", "valid1", "vessel_mask0"):
        assert batch[key].shape == (4, 1, 128, 128) and batch[key].dtype == torch.bool
    assert batch["H_0to1"].shape == (4, 3, 3) and batch["H_0to1"].dtype == torch.float64


def test_images_are_finite_and_in_range(batches):
    for batch in batches:
        both = torch.cat([batch["image0"], batch["image1"]])
        assert torch.isfinite(both).all() and both.min() >= 0 and both.max() <= 1


def test_modalities_come_from_the_options(batches):
    assert all(a in OPTIONS.fixed and b in OPTIONS.moving for batch in batches for a, b in batch["modalities"])


def test_points_are_padded_with_nan_rows_at_the_end():
    padded = pad_points([torch.ones(2, 2), torch.zeros(0, 2)])
    assert padded.shape == (2, 2, 2) and padded[0].tolist() == [[1, 1], [1, 1]] and padded[1].isnan().all()


def test_padding_of_nothing_keeps_one_row():
    assert pad_points([torch.zeros(0, 2)]).shape == (1, 1, 2)


# ------------------------------------------------------------------ truth


def test_H_maps_the_junctions_of_image_0_onto_those_of_image_1(batches):
    compared = 0
    for batch in batches:
        for i in range(4):
            mapped, own = (
                warp_points(points(batch, i).double(), batch["H_0to1"][i]),
                points(batch, i, "vessel_keypoints1").double(),
            )
            if not len(mapped) or not len(own):
                continue
            seen = sample_map(batch["valid1"][i : i + 1].float(), mapped[None].float())[0, :, 0] > 0.99
            seen &= ((mapped > 3) & (mapped < 124)).all(-1)
            nearest = torch.cdist(mapped[seen], own).amin(1)
            scale = float(torch.linalg.det(batch["H_0to1"][i][:2, :2]).abs().sqrt())
            exact = nearest < 1e-3
            compared += int(exact.sum())
            assert scale < 1 or exact.all()  # in a smaller image 1, thin junctions are no longer labelled
    assert compared > 40


def test_junctions_lie_in_the_field_of_view(batches):
    for batch in batches:
        for side, key in (("0", "vessel_keypoints"), ("1", "vessel_keypoints1")):
            for i in range(4):
                xy = points(batch, i, key)
                assert (sample_map(batch[f"valid{side}"][i : i + 1].float(), xy[None]) > 0.99).all()


def test_junctions_lie_on_the_vessel_mask(batches):
    for batch in batches:
        wide = torch.nn.functional.max_pool2d(batch["vessel_mask0"].float(), 5, 1, 2)
        for i in range(4):
            xy = points(batch, i)
            assert (sample_map(wide[i : i + 1], xy[None], mode="nearest") > 0).all()


def test_vessel_mask_stays_in_the_field_of_view(batches):
    assert not any((batch["vessel_mask0"] & ~batch["valid0"]).any() for batch in batches)


def test_H_draws_the_vessels_of_image_0_onto_those_of_image_1():
    plain = AppearanceRange(0, 1.0001, 0, 0, 0, 0, 0, 0, 0, 0)
    batch = SyntheticPairs(11, 2, SyntheticOptions(size_px=192, appearance=plain, moving=("FA",))).batch(0, 4)
    mask1, known = warp_image(batch["vessel_mask0"].float(), batch["H_0to1"], (192, 192))
    seen = known & batch["valid1"]
    for i in range(4):
        on, off = seen[i] & (mask1[i] > 0.5), seen[i] & (mask1[i] < 0.1)
        assert batch["image1"][i][on].mean() - batch["image1"][i][off].mean() > 0.015


def test_strength_0_leaves_the_images_aligned(data):
    eye = torch.eye(3, dtype=torch.float64).expand(4, 3, 3)
    assert torch.allclose(data.batch(1, 4, strength=0.0)["H_0to1"], eye, atol=1e-9)


def test_every_pair_overlaps(batches):
    hw = (128, 128)
    overlaps = [overlap_fraction(H.numpy(), hw, hw, 8) for batch in batches for H in batch["H_0to1"]]
    assert min(overlaps) >= OPTIONS.min_overlap


def test_images_nearly_as_large_as_the_cached_view_are_drawn_too():
    batch = SyntheticPairs(11, 1, SyntheticOptions(size_px=544, zoom=(0.4, 2.5))).batch(0, 4)
    assert batch["image0"].shape == (4, 1, 544, 544) and torch.isfinite(batch["image0"]).all()


# ------------------------------------------------------------------ which junctions are labelled


def view_with(xy: list, width_px: list) -> CachedView:
    none = np.zeros((len(LAYERS), 1, 1), np.uint8)
    return CachedView(
        none, np.eye(3), [0, 0, 1, 1], np.array(xy, float), np.array(width_px, float), np.ones(len(xy), bool)
    )


def test_junctions_too_thin_to_see_are_not_labelled():
    shrunk = np.diag([0.5, 0.5, 1.0])
    shown = Shown(view_with([[20, 20], [40, 40]], [2.0, 3.0]), shrunk, (64, 64))
    xy = junctions_of(shown, torch.ones(1, 64, 64, dtype=torch.bool))
    assert xy.tolist() == [[20, 20]]  # the wider one, at half its coordinates


def test_junctions_on_the_frame_are_not_labelled():
    shown = Shown(view_with([[1, 30], [30, 30], [62.5, 30]], [5, 5, 5]), np.eye(3), (64, 64))
    xy = junctions_of(shown, torch.ones(1, 64, 64, dtype=torch.bool))
    assert xy.tolist() == [[30, 30]]


def test_a_view_without_junctions_gives_none():
    shown = Shown(view_with(np.zeros((0, 2)), []), np.eye(3), (64, 64))
    xy = junctions_of(shown, torch.ones(1, 64, 64, dtype=torch.bool))
    assert xy.shape == (0, 2)


def test_half_of_the_junctions_are_annotated_and_the_truth_has_all():
    whole, half = (SyntheticPairs(5, 1, SyntheticOptions(size_px=256, annotated_share=share)) for share in (1.0, 0.5))
    marked, view = half.view(0).annotated, half.view(0)
    assert 0.3 < marked.mean() < 0.7 and whole.view(0).annotated.all()
    a, b = whole.batch(0, 2), half.batch(0, 2)
    count = [
        int(torch.isfinite(x).all(-1).sum())
        for x in (a["vessel_keypoints"], b["vessel_keypoints"], b["true_keypoints"])
    ]
    assert (
        0 < count[1] < count[0] <= count[2]
        and torch.equal(a["image0"], b["image0"])
        and len(view.junctions_xy) == len(marked)
    )
    near = (b["vessel_keypoints"][:, :, None] - b["true_keypoints"][:, None]).norm(dim=-1).nan_to_num(1e4).amin(-1)
    near = near[torch.isfinite(b["vessel_keypoints"]).all(-1)]
    assert near.max() < 1e-3


def test_cached_views_keep_their_junctions_inside(data):
    view = data.view(0)
    assert view.layers.shape == (len(LAYERS), CACHE_PX, CACHE_PX)
    assert (view.junctions_xy >= 0).all() and (view.junctions_xy <= CACHE_PX - 1).all()


def test_a_sample_comes_back_in_the_same_frame():
    data = SyntheticPairs(3, 1, SyntheticOptions(size_px=96, frames_per_retina=1))
    first, second = data.batch(0, 1), data.batch(1, 1)
    assert first["sample_ids"] == second["sample_ids"] == ["0.0"]
    assert torch.equal(first["vessel_mask0"] & second["valid0"], second["vessel_mask0"] & first["valid0"])
    assert not torch.equal(first["image0"], second["image0"]) and not torch.equal(first["H_0to1"], second["H_0to1"])


def test_samples_that_never_come_back_have_no_name():
    assert SyntheticPairs(3, 1, SyntheticOptions(size_px=96)).batch(0, 2)["sample_ids"] == ["", ""]
