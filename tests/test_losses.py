"""Losses against values worked out by hand, and the guards against a detector that falls silent."""

import math

import pytest
import torch

from retina_kp.core.geometry import from_cells, similarity, warp_points
from retina_kp.networks import DenseOutput
from retina_kp.training.descriptor_losses import descriptor_pairs, infonce_loss, triplet_loss
from retina_kp.training.losses import GEOMETRIC, LossContext, dice_loss, gaussian_labels, in_fixed_frame

NAN = torch.nan
EYE = torch.eye(3, dtype=torch.float64)[None]


def row(*values) -> torch.Tensor:
    """(1, 1, 1, n) map."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1)


# ------------------------------------------------------------------ dice


@pytest.mark.parametrize(
    ("prediction", "target", "loss"),
    [
        (row(1, 1, 0, 0), row(1, 1, 0, 0), 0.0),
        (row(1, 1, 0, 0), row(0, 0, 1, 1), 1.0),
        (row(1, 1, 0, 0), row(1, 1, 1, 1), 1 / 3),  # 1 - 2·2 / (2 + 4)
        (row(0.5, 0.5), row(1, 1), 0.2),  # 1 - 2·1 / (0.5 + 2)
    ],
)
def test_dice_by_hand(prediction, target, loss):
    assert dice_loss(prediction, target).value.item() == pytest.approx(loss, abs=1e-6)


def test_dice_ignores_what_is_not_valid():
    term = dice_loss(row(1, 1, 0, 1), row(1, 1, 1, 0), row(1, 1, 0, 0).bool())
    assert term.value.item() == pytest.approx(0, abs=1e-6)


def test_dice_is_a_mean_over_images_and_not_over_pixels():
    prediction, target = torch.cat([row(1, 1, 1, 1), row(1, 0, 0, 0)]), torch.cat([row(1, 1, 1, 1), row(0, 1, 0, 0)])
    assert dice_loss(prediction, target).value.item() == pytest.approx(0.5, abs=1e-6)


def test_dice_leaves_out_images_without_target():
    term = dice_loss(torch.cat([row(1, 1), row(1, 1)]), torch.cat([row(0, 0), row(1, 1)]))
    assert term.n_used == 1 and term.value.item() == pytest.approx(0, abs=1e-6)


def test_dice_without_any_target_is_an_exact_zero_with_a_gradient_path():
    prediction = row(0.3, 0.9).requires_grad_()
    term = dice_loss(prediction, row(0, 0))
    term.value.backward()
    assert (term.value.item(), term.n_used) == (0.0, 0) and torch.equal(prediction.grad, row(0, 0))


# ------------------------------------------------------------------ labels


def test_label_peak_is_exactly_one_on_a_cell_centre():
    labels = gaussian_labels(torch.tensor([[[7.0, 4.0]]]), (9, 15), 1, 2.0)
    assert labels[0, 0, 4, 7] == 1 and (labels == 1).sum() == 1


def test_label_follows_the_half_pixel_rule_at_stride_2():
    labels = gaussian_labels(torch.tensor([[[6.5, 4.5]]]), (8, 8), 2, 2.0)
    assert labels[0, 0, 2, 3] == 1


def test_label_values_between_cells():
    labels = gaussian_labels(torch.tensor([[[7.25, 4.0]]]), (9, 15), 1, 2.0)[0, 0]
    assert labels[4, 7].item() == pytest.approx(math.exp(-(0.25**2) / 8))
    assert labels[5, 9].item() == pytest.approx(math.exp(-(1.75**2 + 1) / 8))


def test_overlapping_labels_keep_the_larger_value():
    one = gaussian_labels(torch.tensor([[[5.0, 4.0]]]), (9, 15), 1, 2.0)
    two = gaussian_labels(torch.tensor([[[8.0, 4.0]]]), (9, 15), 1, 2.0)
    both = gaussian_labels(torch.tensor([[[5.0, 4.0], [8.0, 4.0]]]), (9, 15), 1, 2.0)
    assert torch.equal(both, torch.maximum(one, two))


def test_rows_of_nan_make_no_label():
    points = torch.tensor([[[5.0, 4.0], [NAN, NAN]], [[NAN, NAN], [NAN, NAN]]])
    labels = gaussian_labels(points, (9, 15), 1, 2.0)
    assert labels[1].max() == 0 and torch.equal(labels[:1], gaussian_labels(points[:1, :1], (9, 15), 1, 2.0))


def test_a_point_off_the_map_wraps_nowhere():
    labels = gaussian_labels(torch.tensor([[[-1.0, 4.0]]]), (9, 15), 1, 1.0)[0, 0]
    assert labels[4, 0].item() == pytest.approx(math.exp(-0.5)) and labels[:, 8:].max() == 0


# ------------------------------------------------------------------ descriptors


def points(*cells) -> torch.Tensor:
    """(1, N, 2) px of the centres of 8 px cells."""
    return from_cells(torch.tensor(cells, dtype=torch.float32), 8)[None]


def descriptors(vectors: dict) -> torch.Tensor:
    """(1, 4, 6, 6) map that holds the given 4-vectors at cells (x, y)."""
    field = torch.zeros(1, 4, 6, 6)
    for (x, y), vector in vectors.items():
        field[0, :, y, x] = torch.tensor(vector, dtype=torch.float32)
    return field


CELLS = [(0, 0), (3, 0), (0, 3), (5, 5)]
ORTHOGONAL = descriptors(dict(zip(CELLS, torch.eye(4).tolist(), strict=True)))
WHOLE = torch.ones(1, 1, 48, 48, dtype=torch.bool)


def test_infonce_of_orthogonal_matches_has_its_closed_form():
    term = infonce_loss(ORTHOGONAL, ORTHOGONAL, points(*CELLS), EYE, WHOLE, 8, temperature=0.5)
    assert term.n_used == 4 and term.value.item() == pytest.approx(math.log(1 + 3 * math.exp(-2)), rel=1e-5)


def test_infonce_of_permuted_descriptors_has_its_closed_form():
    permuted = descriptors(dict(zip(CELLS, torch.eye(4).roll(1, 0).tolist(), strict=True)))
    term = infonce_loss(ORTHOGONAL, permuted, points(*CELLS), EYE, WHOLE, 8, temperature=0.5)
    assert term.value.item() == pytest.approx(math.log(3 + math.exp(2)), rel=1e-5)


def test_infonce_reads_image_1_at_the_true_correspondents():
    H = torch.from_numpy(similarity(0, 1, (0, 0), (8, 16)))[None]
    moved = ORTHOGONAL.roll((2, 1), (2, 3))
    term = infonce_loss(ORTHOGONAL, moved, points(*CELLS[:3]), H, WHOLE, 8, temperature=0.5)
    assert term.value.item() == pytest.approx(math.log(1 + 2 * math.exp(-2)), rel=1e-5)


@pytest.mark.parametrize("loss", [infonce_loss, triplet_loss])
def test_partners_that_are_known_better_than_by_H_are_read_where_they_are(loss):
    moved = ORTHOGONAL.roll((2, 1), (2, 3))
    known = points(*CELLS[:3]) + torch.tensor([8.0, 16.0])
    told = loss(ORTHOGONAL, moved, points(*CELLS[:3]), EYE, WHOLE, 8, points1_xy=known)
    H = torch.from_numpy(similarity(0, 1, (0, 0), (8, 16)))[None]
    mapped = loss(ORTHOGONAL, moved, points(*CELLS[:3]), H, WHOLE, 8)
    unknown = loss(ORTHOGONAL, moved, points(*CELLS[:3]), H, WHOLE, 8, points1_xy=torch.full_like(known, NAN))
    assert told.value.item() == pytest.approx(mapped.value.item()) and told.n_used == mapped.n_used == 3
    assert unknown.value.item() == mapped.value.item(), "NaN: where H puts it"
    assert loss(ORTHOGONAL, moved, points(*CELLS[:3]), EYE, WHOLE, 8).value.item() > told.value.item() + 0.1


@pytest.mark.parametrize(
    ("exclusion_px", "loss"), [(10.0, math.log(1 + math.exp(-2))), (5.0, math.log(2 + math.exp(-2)))]
)
def test_near_points_are_no_negatives_of_each_other(exclusion_px, loss):
    field = descriptors({(0, 0): (1, 0, 0, 0), (1, 0): (1, 0, 0, 0), (5, 5): (0, 1, 0, 0)})
    near_pair = infonce_loss(
        field, field, points((0, 0), (1, 0), (5, 5)), EYE, WHOLE, 8, temperature=0.5, exclusion_px=exclusion_px
    )
    alone = math.log(1 + 2 * math.exp(-2))  # the third point has both others as negatives
    assert near_pair.value.item() == pytest.approx((2 * loss + alone) / 3, rel=1e-5)


@pytest.mark.parametrize("loss", [infonce_loss, triplet_loss])
def test_no_points_is_an_exact_zero_with_a_gradient_path(loss):
    field = ORTHOGONAL.clone().requires_grad_()
    term = loss(field, field, torch.full((1, 3, 2), NAN), EYE, WHOLE, 8)
    term.value.backward()
    assert (term.value.item(), term.n_used) == (0.0, 0) and field.grad.abs().max() == 0


@pytest.mark.parametrize("loss", [infonce_loss, triplet_loss])
def test_a_single_point_is_no_evidence(loss):
    assert loss(ORTHOGONAL, ORTHOGONAL, points(CELLS[0]), EYE, WHOLE, 8).n_used == 0


def test_points_whose_correspondent_is_not_seen_are_not_used():
    valid = WHOLE.clone()
    valid[..., 24:, :] = False
    usable = descriptor_pairs(ORTHOGONAL, ORTHOGONAL, points(*CELLS), EYE, valid, 8)[3]
    assert usable.tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(
    ("cosine", "loss"),
    [(0.0, 0.0), (1.0, 1.6 + 1 + 0.75), (0.6, 0.8 + 0.36 + 0.11)],  # 2·max(0, 0.8 + c - 1) + c² + max(0, c² - 1/4)
)
def test_triplet_by_hand(cosine, loss):
    field = descriptors({(0, 0): (1, 0, 0, 0), (5, 5): (cosine, math.sqrt(1 - cosine**2), 0, 0)})
    term = triplet_loss(field, field, points((0, 0), (5, 5)), EYE, WHOLE, 8)
    assert term.n_used == 2 and term.value.item() == pytest.approx(loss, abs=1e-5)


def test_triplet_draws_its_random_negative_from_the_generator():
    field = descriptors(
        dict(zip(CELLS, torch.rand(4, 4, generator=torch.Generator().manual_seed(0)).tolist(), strict=True))
    )
    values = [
        triplet_loss(field, field, points(*CELLS), EYE, WHOLE, 8, generator=torch.Generator().manual_seed(1)).value
        for _ in "ab"
    ]
    assert values[0] == values[1]


# ------------------------------------------------------------------ geometric consistency

H_TURN = torch.from_numpy(similarity(37, 1.0, (63.5, 63.5), (68, 60)))[None]


def seen_by_both(stride: int = 2):
    """Detector maps of 128 px images with the same landmarks before and after H_TURN; blobs near the frame are
    absent."""
    landmarks = 44 + 40 * torch.rand(1, 12, 2, generator=torch.Generator().manual_seed(0))
    maps = [
        gaussian_labels(xy.float(), (128 // stride,) * 2, stride, 4.0)
        for xy in (landmarks, warp_points(landmarks.double(), H_TURN))
    ]
    return *maps, torch.ones(1, 1, 128, 128, dtype=torch.bool)


def geometric_loss(det0, det1, H_0to1, valid0, valid1, stride: int):
    """The geometric loss of phase 2."""
    out0, out1 = (DenseOutput(detector, detector, stride, 8) for detector in (det0, det1))
    return GEOMETRIC.term(LossContext(out0, out1, {"H_0to1": H_0to1, "valid0": valid0, "valid1": valid1}, None))


@pytest.mark.parametrize("stride", [1, 2])
def test_geometric_loss_of_landmarks_that_moved_by_H_is_zero(stride):
    det0, det1, valid = seen_by_both(stride)
    assert geometric_loss(det0, det1, H_TURN, valid, valid, stride).value.item() < 0.005


def test_geometric_loss_with_H_in_the_wrong_direction_is_large():
    det0, det1, valid = seen_by_both()
    assert geometric_loss(det0, det1, torch.linalg.inv(H_TURN), valid, valid, 2).value.item() > 0.3


def test_geometric_loss_ignores_what_image_1_does_not_see():
    det0, det1, valid0 = seen_by_both()
    valid1 = valid0.clone()
    valid1[..., :64, :] = False
    spoiled = det1.clone()
    spoiled[..., :31, :] = 1.0
    assert geometric_loss(det0, spoiled, H_TURN, valid0, valid1, 2).value.item() < 0.005


def test_cells_seen_by_both_after_a_shift():
    H = torch.from_numpy(similarity(0, 1, (0, 0), (4, 0)))[None]
    valid = torch.ones(1, 1, 12, 16, dtype=torch.bool)
    map1 = torch.arange(8.0).expand(1, 1, 6, 8)
    batch = {"H_0to1": H, "valid0": valid, "valid1": valid}
    seen1, both = in_fixed_frame(map1, batch, DenseOutput(map1, map1, 2, 8))
    assert both[0, 0].all(0).tolist() == [True] * 6 + [False] * 2
    assert torch.allclose(seen1[0, 0, 0, :6], torch.arange(2.0, 8.0))


def test_geometric_loss_pulls_the_moving_detector():
    det0, det1, valid = seen_by_both()
    weak = (0.1 * det1).requires_grad_()
    geometric_loss(det0, weak, H_TURN, valid, valid, 2).value.backward()
    assert weak.grad[det1 > 0.9].max() < 0


# ------------------------------------------------------------------ collapse


def test_a_silent_detector_has_the_largest_dice_and_is_raised_at_the_labels():
    labels = gaussian_labels(torch.tensor([[[20.0, 30.0]]]), (32, 32), 2, 2.0)
    silent = torch.zeros_like(labels).requires_grad_()
    term = dice_loss(silent, labels)
    term.value.backward()
    assert term.value.item() == pytest.approx(1.0) and silent.grad[labels > 0.5].max() < -0.01


def test_gradient_steps_wake_a_nearly_silent_detector():
    labels = gaussian_labels(torch.tensor([[[20.0, 30.0]]]), (32, 32), 2, 2.0)
    logits = torch.full_like(labels, -6.0).requires_grad_()
    optimiser = torch.optim.Adam([logits], 0.5)
    for _ in range(40):
        optimiser.zero_grad()
        dice_loss(torch.sigmoid(logits), labels).value.backward()
        optimiser.step()
    detector = torch.sigmoid(logits.detach())
    assert detector[labels > 0.9].min() > 0.8 and detector[labels == 0].max() < 0.1
