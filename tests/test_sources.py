"""Where batches come from: files and synthetic pairs in exact numbers, loaded, screened and split without an eye on
both sides."""

import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from retina_kp.core.files import write_text
from retina_kp.core.geometry import TransformRange, corner_error, describe, similarity, warp_points
from retina_kp.core.images import write_image
from retina_kp.data.file_pairs import PairDataset
from retina_kp.data.layouts import load_layout
from retina_kp.data.layouts.pairs_csv import write_pairs_csv
from retina_kp.data.records import PairRecord
from retina_kp.data.sources import MixedPairs, join_batches, stream
from retina_kp.data.training_files import FileOptions, hold_out, load_files
from retina_kp.synthetic.training_pairs import SyntheticOptions, SyntheticPairs

HW, SIZE = (96, 128), 64
POINTS = np.array([[12.0, 14], [110, 20], [60, 50], [20, 80], [100, 85], [70, 20], [40, 60]])
H_OWN = similarity(120, 0.9, (63.5, 47.5), (63.5, 47.5))  # the turn of image 1 in the prealigned pair


def write_pair(root, folder: str, points1: np.ndarray = POINTS, points0: np.ndarray = POINTS):
    """One pair of layout 2, both images gray with a little noise."""
    place = root / "operation_pre_filtered_cffa" / folder
    for side, points in (("01", points0), ("02", points1)):
        write_image(place / f"a_{side}.png", np.random.default_rng(len(folder)).integers(100, 120, HW).astype(np.uint8))
        write_text(place / f"a_{side}.txt", "".join(f"{x} {y}\n" for x, y in points))


@pytest.fixture
def clinic(tmp_path):
    """Twelve usable pairs of six eyes."""
    for eye in range(6):
        for visit in range(2):
            write_pair(tmp_path, f"{eye:03d}_{visit:02d}")
    return tmp_path


@pytest.fixture
def files(clinic) -> PairDataset:
    return PairDataset(load_files(FileOptions(root=str(clinic))).train, SIZE, TransformRange())


# ------------------------------------------------------------------ options


@pytest.mark.parametrize("share", [-0.1, 1.01])
def test_a_share_is_between_0_and_1(share):
    with pytest.raises(ValueError, match="files.share: takes a number from 0 to 1"):
        FileOptions(root="somewhere", share=share)


def test_a_share_of_files_needs_a_root():
    with pytest.raises(ValueError, match="a root when it is above 0"):
        FileOptions(share=0.8)


@pytest.mark.parametrize("options", [{}, {"root": "x"}, {"root": "x", "share": 1.0}])
def test_sound_options_are_taken(options):
    FileOptions(**options)


# ------------------------------------------------------------------ loading


@pytest.mark.parametrize("seed", range(4))
def test_no_eye_is_in_training_and_in_validation(clinic, seed):
    split = load_files(FileOptions(root=str(clinic), validation_share=0.34, split_seed=seed))
    train, validation = ({r.eye_id for r in part} for part in (split.train, split.validation))
    assert len(train) + len(validation) == 6 and train and validation and not train & validation
    assert len(split.train) + len(split.validation) == len(split.annotation) == 12 and not split.problems


def test_an_eye_that_goes_moves_no_other_to_the_other_side():
    """So that no later phase validates on what an earlier one was trained on."""
    records = [PairRecord(f"p{k}", f"eye {k}", "CF", "FA", "a.png", "b.png") for k in range(40)]
    train, validation = hold_out(records, 0.2, 0)
    assert 3 <= len(validation) <= 14
    for gone in records:
        left = [r for r in records if r is not gone]
        own_train, own_validation = hold_out(left, 0.2, 0)
        assert {r.eye_id for r in own_train} <= {r.eye_id for r in train}
        assert {r.eye_id for r in own_validation} <= {r.eye_id for r in validation}


def test_the_split_depends_on_the_seed_alone(clinic):
    ids = [
        [r.pair_id for r in load_files(FileOptions(root=str(clinic), split_seed=seed)).validation]
        for seed in (0, 0, 1, 2, 3)
    ]
    assert ids[0] == ids[1] and any(other != ids[0] for other in ids[2:])


def mark(clinic, **splits):
    """The clinic as a pairs.csv whose pairs, by id, are marked."""
    records = load_layout(clinic).records
    write_pairs_csv(clinic / "pairs.csv", [replace(r, split=splits.get(r.pair_id, "")) for r in records])
    return load_files(FileOptions(root=str(clinic / "pairs.csv")))


def test_eyes_marked_as_test_are_never_trained_on(clinic):
    split = mark(clinic, cffa_000_01="test", cffa_003_00="test", cffa_001_00="train")
    seen = {r.eye_id for r in split.train + split.validation}
    assert seen == {"001", "002", "004", "005"} and len(split.annotation) == 8
    (problem,) = split.problems
    assert "4 pairs of eyes marked as test" in problem.reason
    with pytest.raises(ValueError, match="no pair to train on .*12 pairs of eyes marked as test"):
        mark(clinic, **{f"cffa_{eye:03d}_00": "test" for eye in range(6)})


def test_eyes_marked_for_validation_validate_and_no_others(clinic):
    split = mark(clinic, cffa_002_01="val", cffa_005_00="val", cffa_000_00="test")
    assert {r.eye_id for r in split.validation} == {"002", "005"} and {r.eye_id for r in split.train} == {
        "001",
        "003",
        "004",
    }
    everybody = mark(clinic, **{f"cffa_{eye:03d}_00": "val" for eye in range(6)})
    assert len(everybody.train) > len(everybody.validation) > 0, "someone has to be trained on"


def test_what_is_left_out_is_named(clinic):
    write_pair(clinic, "100_scattered", np.random.default_rng(0).uniform([5, 5], [120, 90], POINTS.shape).round(1))
    write_pair(clinic, "101_mirrored", POINTS * [-1, 1] + [127, 0])
    write_pair(clinic, "102_short", POINTS[:3], POINTS[:3])
    split = load_files(FileOptions(root=str(clinic)))
    named = {
        name: [p for p in split.problems if name in p.source] for name in ("100_scattered", "101_mirrored", "102_short")
    }
    assert all(len(found) == 1 for found in named.values()) and len(split.problems) == 3
    assert "mirror" in named["101_mirrored"][0].reason and "3 point pairs" in named["102_short"][0].reason
    assert {row["pair_id"] for row in split.annotation if not row["used"]} == {
        "cffa_100_scattered",
        "cffa_101_mirrored",
    }
    assert len(split.train) + len(split.validation) == 12


def test_a_stricter_residual_leaves_more_out(clinic):
    write_pair(clinic, "100_01", POINTS + np.random.default_rng(0).normal(0, 0.5, POINTS.shape))
    assert not load_files(FileOptions(root=str(clinic))).problems
    (problem,) = load_files(FileOptions(root=str(clinic), max_residual_px=0.5)).problems
    assert "100_01" in problem.source and "is above 0.5 px" in problem.reason


def test_nothing_to_train_on_is_an_error_with_its_reasons(tmp_path):
    write_pair(tmp_path, "001_01", POINTS * [-1, 1] + [127, 0])
    with pytest.raises(ValueError, match="no pair to train on .*mirror"):
        load_files(FileOptions(root=str(tmp_path)))


def test_a_single_eye_is_trained_on_and_two_are_shared_out(tmp_path):
    write_pair(tmp_path, "001_01")
    alone = load_files(FileOptions(root=str(tmp_path)))
    assert [r.eye_id for r in alone.train] == ["001"] and not alone.validation
    assert [p.reason for p in alone.problems] == ["all pairs show one eye: none is left to validate on"]
    write_pair(tmp_path, "002_01")
    for share in (0.01, 0.99):
        both = load_files(FileOptions(root=str(tmp_path), validation_share=share))
        assert len(both.train) == len(both.validation) == 1 and not both.problems
    assert not load_files(FileOptions(root=str(tmp_path), validation_share=0.0)).validation
    with pytest.raises(ValueError, match="files.validation_share: takes a number from 0 to below 1"):
        FileOptions(root="x", validation_share=1.0)


def test_a_few_validation_pairs_are_drawn_by_seed(clinic):
    split = load_files(FileOptions(root=str(clinic), validation_share=0.5))
    few = [[r.pair_id for r in split.some_validation(3, seed)] for seed in (0, 0, 1, 2, 3)]
    assert few[0] == few[1] and any(other != few[0] for other in few[2:]) and all(len(set(ids)) == 3 for ids in few)
    assert split.some_validation(100, 0) == split.validation and split.some_validation(0, 0) == []


def test_changed_files_are_told_by_name(clinic):
    before = load_files(FileOptions(root=str(clinic)))
    assert before.changes(before.ids) == before.changes(None) == ""
    write_pair(clinic, "777_00")
    after = load_files(FileOptions(root=str(clinic)))
    assert after.changes(before.ids) == "new: cffa_777_00" and before.changes(after.ids) == "gone: cffa_777_00"
    assert "another order" in before.changes(
        {"train": before.ids["train"][::-1], "validation": before.ids["validation"]}
    )


def test_files_can_be_sent_to_workers_that_are_not_forked(files):
    files.item(0)
    copy = pickle.loads(pickle.dumps(MixedPairs((files, 0.5), (SyntheticPairs(0, 1, SyntheticOptions(SIZE)), 0.5))))
    assert torch.equal(copy.sources[0].item(1)["image1"], files.item(1)["image1"])


# ------------------------------------------------------------------ the mix


class Files:
    """Stands in for files: pairs whose only content is their place in the run."""

    def batch_from(self, first: int, count: int, strength: float) -> dict:
        return {"image0": torch.arange(first, first + count), "sample_ids": ["file"] * count}


class Drawn:
    """Stands in for synthetic pairs."""

    def batch(self, index: int, count: int, strength: float) -> dict:
        return {"image0": torch.full((count,), -1), "sample_ids": ["drawn"] * count}


def mix(share: float) -> MixedPairs:
    return MixedPairs((Files(), share), (Drawn(), 1 - share))


@pytest.mark.parametrize("share", [0.8, 0.2, 0.5, 1 / 3, 0.05, 1.0, 0.0])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 6, 7])
def test_shares_are_exact_over_time_and_within_a_pair_in_every_batch(share, batch_size):
    mixed, from_files = mix(share), 0
    for index in range(200):
        n_files, n_drawn = mixed.counts(index, batch_size)
        from_files += n_files
        assert n_files >= 0 and n_drawn >= 0 and n_files + n_drawn == batch_size
        assert abs(n_files - share * batch_size) < 1 + 1e-9
        assert abs(from_files - share * batch_size * (index + 1)) <= 0.5 + 1e-9


def test_four_of_five_are_files_in_every_batch():
    assert {mix(0.8).counts(index, 5) for index in range(1000)} == {(4, 1)}


@pytest.mark.parametrize("batch_size", [1, 3, 5, 6])
def test_files_come_in_order_and_none_is_lost(batch_size):
    mixed = mix(0.8)
    shown = torch.cat([mixed.batch(index, batch_size)["image0"] for index in range(60)])
    assert torch.equal(shown[shown >= 0], torch.arange(round(0.8 * 60 * batch_size)))


def test_files_stand_before_drawn_pairs():
    assert mix(0.8).batch(3, 5)["sample_ids"] == ["file"] * 4 + ["drawn"]


@pytest.mark.parametrize("shares", [(0.8, 0.2), (0.5, 0.3, 0.2), (0.6, 0.4, 0.0), (1.0,)])
@pytest.mark.parametrize("batch_size", [1, 5, 7])
def test_three_sources_share_every_batch_exactly(shares, batch_size):
    mixed, so_far = MixedPairs(*((Files(), share) for share in shares)), np.zeros(len(shares))
    for index in range(100):
        counts = np.array(mixed.counts(index, batch_size))
        so_far += counts
        assert counts.sum() == batch_size and (counts >= 0).all()
        assert (np.abs(so_far - np.multiply(shares, batch_size * (index + 1))) <= 1 + 1e-9).all()
    shown = torch.cat([mixed.batch(index, batch_size)["image0"] for index in range(100)])
    assert sorted(shown.tolist()) == sorted(k for count in so_far for k in range(int(count))), (
        "each source in its order, none lost"
    )


def test_replayed_files_keep_names_of_their_own():
    """PKE remembers by name, and both folders may hold a pair 1_A."""
    assert MixedPairs((Files(), 0.5), (Files(), 0.5)).batch(0, 2)["sample_ids"] == ["file", "replayed file"]


def test_shares_add_up():
    with pytest.raises(ValueError, match="do not add up to 1"):
        MixedPairs((Files(), 0.5), (Drawn(), 0.4))


def test_every_epoch_of_the_mix_shows_every_file_once(files):
    mixed, per_epoch = MixedPairs((files, 1.0)), len(files)
    shown = [name for index in range(per_epoch) for name in mixed.batch(index, 2)["sample_ids"]]
    assert sorted(shown[:per_epoch]) == sorted(shown[per_epoch:]) == sorted(r.pair_id for r in files.records)


# ------------------------------------------------------------------ joining


def test_point_lists_are_padded_to_the_longest_and_stay_with_their_pair():
    long, short = torch.arange(12.0).reshape(2, 3, 2), torch.full((1, 1, 2), 7.0)
    joined = join_batches(
        [{"image0": torch.zeros(2, 1, 8, 8), "points": long}, {"image0": torch.ones(1, 1, 8, 8), "points": short}]
    )
    assert torch.equal(joined["points"][:2], long) and torch.equal(joined["points"][2, 0], torch.tensor([7.0, 7.0]))
    assert (
        joined["points"].shape == (3, 3, 2) and joined["points"][2, 1:].isnan().all() and joined["image0"][2].min() == 1
    )


@pytest.mark.parametrize("order", [1, -1])
def test_points_that_one_part_has_not_are_nan_there(order):
    parts = [{"image0": torch.zeros(2, 1, 8, 8), "points0": torch.ones(2, 4, 2)}, {"image0": torch.zeros(1, 1, 8, 8)}][
        ::order
    ]
    points0 = join_batches(parts)["points0"]
    assert points0.shape == (3, 4, 2) and points0.isnan().all(-1).all(-1).tolist() == (
        [False, False, True] if order == 1 else [True, False, False]
    )


def test_a_single_part_is_left_as_it_is():
    part = {"image0": torch.zeros(2, 1, 8, 8)}
    assert join_batches([part]) is part


def test_every_key_of_a_mixed_batch_belongs_to_its_pair(files):
    drawn = SyntheticPairs(5, 2, SyntheticOptions(size_px=SIZE, frames_per_retina=1))
    mixed = MixedPairs((files, 0.5), (drawn, 0.5)).batch(0, 4)
    assert mixed["H_0to1"].dtype == torch.float64 and mixed["vessel_mask0"].dtype == torch.bool
    for part, rows in ((files.batch_from(0, 2), slice(0, 2)), (drawn.batch(0, 2), slice(2, 4))):
        for key, value in part.items():
            if not torch.is_tensor(value):
                assert mixed[key][rows] == value
            elif value.shape[1:] == mixed[key].shape[1:]:
                assert torch.equal(mixed[key][rows].nan_to_num(-9.0), value.nan_to_num(-9.0))
            else:
                assert torch.equal(mixed[key][rows, : value.shape[1]].nan_to_num(-9.0), value.nan_to_num(-9.0))
                assert mixed[key][rows, value.shape[1] :].isnan().all()
    assert all(len(value) == 4 for value in mixed.values()) and mixed["points0"][2:].isnan().all()


# ------------------------------------------------------------------ streaming


def test_workers_change_nothing(files):
    drawn = SyntheticPairs(5, 2, SyntheticOptions(size_px=SIZE, frames_per_retina=1))
    source = MixedPairs((files, 0.5), (drawn, 0.5))
    numbers = [3, 4, 9]
    for own, other in zip(*(stream(source, numbers, 2, [0.3, 0.4, 0.9], workers) for workers in (0, 2)), strict=True):
        assert own["sample_ids"] == other["sample_ids"] and own.keys() == other.keys()
        assert all(
            torch.equal(v.nan_to_num(-9.0), other[k].nan_to_num(-9.0)) for k, v in own.items() if torch.is_tensor(v)
        )


def test_a_stream_hands_out_the_numbered_batches_with_their_strength(files):
    (first, second) = stream(files, [2, 7], 2, [0.2, 0.7])
    for batch, number in ((first, 2), (second, 7)):
        assert torch.equal(batch["H_0to1"], files.batch(number, 2, number / 10)["H_0to1"])


# ------------------------------------------------------------------ prealignment


@pytest.fixture
def turned(tmp_path) -> PairRecord:
    """A pair whose image 1 is image 0 turned by H_OWN, with a bright dot off the middle."""
    rows, columns = np.indices(HW)
    image = 60 + 20 * np.sin(columns / 9) + 150 * np.exp(-((columns - 75) ** 2 + (rows - 40) ** 2) / 40)
    write_image(tmp_path / "a.png", image.astype(np.uint8))
    write_image(tmp_path / "b.png", cv2.warpPerspective(image, H_OWN, HW[::-1]).astype(np.uint8))
    return PairRecord("t", "e", "CF", "FA", tmp_path / "a.png", tmp_path / "b.png", POINTS, warp_points(POINTS, H_OWN))


def test_without_random_transform_a_prealigned_image_1_lies_on_image_0(turned):
    item = PairDataset([turned], SIZE, prealign=True).item(0)
    both = item["valid0"] & item["valid1"]
    assert corner_error(item["H_0to1"].numpy(), np.eye(3), (SIZE, SIZE)) < 1e-6 and both.float().mean() > 0.3
    assert (item["image0"] - item["image1"])[both].abs().mean() < 0.02
    assert (PairDataset([turned], SIZE).item(0)["image1"] - item["image0"])[both].abs().mean() > 0.05
    assert torch.allclose(item["points1"], item["points0"], atol=0.02)


def test_a_prealigned_pair_is_related_by_the_random_transform_alone(turned):
    data = PairDataset([turned], SIZE, TransformRange(20, 1.1, 0.05, 0, 0), prealign=True)
    for epoch in range(5):
        item = data.item(0, epoch)
        shape = describe(item["H_0to1"].numpy(), (SIZE, SIZE))
        assert abs(shape.angle_deg) < 21 and 0.9 < shape.scale < 1.11  # the pair's own turn of 120 degrees is gone
        assert torch.allclose(warp_points(item["points0"].double(), item["H_0to1"]).float(), item["points1"], atol=0.05)
        bright = [(x[0] == x[0].max()).nonzero().float().mean(0).flip(0) for x in (item["image0"], item["image1"])]
        assert (warp_points(bright[0][None].double(), item["H_0to1"])[0] - bright[1]).norm() < 1.5


def test_passed_as_it_is_the_pair_keeps_its_own_turn(turned):
    shape = describe(PairDataset([turned], SIZE).item(0)["H_0to1"].numpy(), (SIZE, SIZE))
    assert shape.angle_deg == pytest.approx(120, abs=0.5) and shape.scale == pytest.approx(0.9, abs=0.01)
