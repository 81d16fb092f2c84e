"""Parts of file pairs: what is shown, what stays true of it, and which parts come back."""

import cv2
import numpy as np
import pytest
import torch

from retina_kp.core.geometry import TransformRange, describe, similarity, warp_image, warp_points
from retina_kp.core.images import write_image
from retina_kp.data.file_pairs import FrameRange, PairDataset
from retina_kp.data.records import PairRecord
from retina_kp.data.training_files import FileOptions, load_files
from retina_kp.synthetic.pairs import write_aligned_folder
from retina_kp.training.config import framed

HW, SIZE = (200, 240), 96
H_OWN = similarity(25.0, 0.9, (119.5, 99.5), (110.0, 105.0))
GRID = np.stack(np.meshgrid(np.linspace(40, 200, 6), np.linspace(40, 160, 5)), -1).reshape(-1, 2)
PARTS = FrameRange((1.2, 2.5), 180.0)


@pytest.fixture(scope="module")
def turned(tmp_path_factory) -> PairRecord:
    """A pair whose image 1 is image 0 turned by H_OWN, smooth so that interpolation changes little, with clicked
    points."""
    folder = tmp_path_factory.mktemp("turned")
    noise = cv2.GaussianBlur(np.random.default_rng(0).standard_normal(HW).astype(np.float32), (0, 0), 5)
    image = (60 + 140 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)
    write_image(folder / "a.png", image)
    write_image(folder / "b.png", cv2.warpPerspective(image, H_OWN, HW[::-1], flags=cv2.INTER_CUBIC))
    return PairRecord("t", "e", "CF", "FA", folder / "a.png", folder / "b.png", GRID, warp_points(GRID, H_OWN))


@pytest.mark.parametrize("ranges", [None, TransformRange()])
@pytest.mark.parametrize("epoch", range(4))
def test_the_truth_follows_its_picture(turned, ranges, epoch):
    item = PairDataset([turned], SIZE, ranges, frames=PARTS).item(0, epoch)
    back, known = warp_image(item["image1"][None], torch.linalg.inv(item["H_0to1"])[None], (SIZE, SIZE))
    seen1, _ = warp_image(item["valid1"][None].float(), torch.linalg.inv(item["H_0to1"])[None], (SIZE, SIZE))
    both = (item["valid0"][None] & known & (seen1 > 0.99))[0, 0]
    assert both.float().mean() > 0.1
    values = torch.stack([item["image0"][0][both], back[0, 0][both]])
    assert torch.corrcoef(values)[0, 1] > 0.97
    clicked = torch.isfinite(item["points0"]).all(-1)
    assert 0 < clicked.sum() < len(GRID), "a part shows some of the points"
    mapped = warp_points(item["points0"][clicked].double(), item["H_0to1"])
    assert (mapped - item["points1"][clicked].double()).norm(dim=-1).max() < 1.0


def test_a_pair_keeps_its_own_turn_and_scale(turned):
    for epoch in range(4):
        own = describe(PairDataset([turned], SIZE, frames=PARTS).item(0, epoch)["H_0to1"].numpy(), (SIZE, SIZE))
        assert own.angle_deg == pytest.approx(25, abs=1.5) and own.scale == pytest.approx(0.9, abs=0.02)


def test_another_part_is_shown_every_time(turned):
    items = [PairDataset([turned], SIZE, frames=PARTS).item(0, epoch) for epoch in (0, 1, 0)]
    assert torch.equal(items[0]["image0"], items[2]["image0"]) and not torch.equal(
        items[0]["image0"], items[1]["image0"]
    )
    assert items[0]["sample_ids"] == "", "it does not come back"


def test_parts_that_pke_keeps_come_back_under_their_names(turned):
    data = PairDataset([turned], SIZE, TransformRange(), frames=FrameRange((1.2, 2.5), 180.0, per_pair=3))
    items = [data.item(0, epoch) for epoch in range(6)]
    assert [item["sample_ids"] for item in items] == ["t.0", "t.1", "t.2"] * 2
    for first, again in zip(items[:3], items[3:], strict=True):
        assert torch.equal(first["image0"], again["image0"]) and torch.equal(
            first["vessel_keypoints"], again["vessel_keypoints"]
        )
        assert not torch.equal(first["H_0to1"], again["H_0to1"]), "image 1 is transformed anew"
    assert not torch.equal(items[0]["image0"], items[1]["image0"])


def test_the_whole_is_what_it_was(turned):
    plain, whole = (
        PairDataset([turned], SIZE, TransformRange(), **how).item(0, 2) for how in ({}, {"frames": FrameRange()})
    )
    assert (
        all(torch.equal(v, whole[k]) for k, v in plain.items() if torch.is_tensor(v))
        and plain["sample_ids"] == whole["sample_ids"]
    )


def test_small_views_of_much_label_only_what_can_be_seen(tmp_path, monkeypatch):
    """The same eye: a part of it has labels that are too thin to be seen in the whole."""
    monkeypatch.setattr(FrameRange, "cached_px", lambda self, size_px: 640)
    records = load_files(FileOptions(str(write_aligned_folder(tmp_path, 2, size_px=512)), mode=("cffa",))).train
    far, near = (PairDataset(records, 256, frames=FrameRange((zoom, zoom + 1e-6))) for zoom in (0.95, 2.5))
    shown = [len(data.item(0)["vessel_keypoints"]) for data in (far, near)]
    unfiltered = len(far._pair(0)[2].keypoints0)
    assert 5 < shown[0] < 0.8 * unfiltered and shown[1] > 3


def test_frames_are_checked_and_suit_the_size():
    for wrong in ({"zoom": (0.0, 1.0)}, {"zoom": (2.0, 1.0)}, {"turn_deg": -1.0}, {"per_pair": -1}):
        with pytest.raises(ValueError, match="frames: takes zoom"):
            FrameRange(**wrong)
    assert framed(256, False) == FrameRange((0.95, 2.5), 180.0, 0) and framed(768, True).per_pair == 4
    assert framed(256, True).cached_px(256) == 640 and FrameRange().cached_px(256) == 256
