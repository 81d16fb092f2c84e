"""Small data sets for tests of the evaluation: drawn once, truths known, so that the identity's errors can be worked
out by hand."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from retina_kp.core.files import write_text
from retina_kp.core.images import write_image
from retina_kp.synthetic.pairs import PairOptions, draw_pair

HW = (96, 128)
# 12 points, none on the frame
GRID = np.stack(np.meshgrid(np.linspace(20, 100, 4), np.linspace(20, 70, 3)), -1).reshape(-1, 2)


def picture(seed: int = 0, hw=HW) -> np.ndarray:
    """Smooth gray noise (h, w) uint8: no retina, but something to see."""
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random(hw).astype(np.float32), (0, 0), 2)
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


def write_points(path: Path, points_xy: np.ndarray) -> None:
    write_text(path, "".join(f"{x:.4f} {y:.4f}\n" for x, y in points_xy))


def operation_pair(root: Path, name: str, shift=(0.0, 0.0), seed: int = 0, points=GRID) -> Path:
    """A pair of layout 2 whose fixed points lie ``shift`` px from the moving ones; returns the stem of its files."""
    stem = root / "operation_pre_filtered_cffa" / name / name.split("_")[0]
    for side, offset in (("01", shift), ("02", (0, 0))):
        write_image(f"{stem}_{side}.png", picture(seed))
        write_points(Path(f"{stem}_{side}.txt"), points + np.array(offset))
    return stem


def fire_tree(root: Path, cases: dict[str, float], size_px: int = 182) -> Path:
    """FIRE's shape at 1/16: every case's reference points lie ``shift`` px of 2912 right of the query's. Returns the
    root."""
    points = 182 + GRID * 20
    for name, shift in cases.items():
        for side in (1, 2):
            write_image(root / "Images" / f"{name}_{side}.jpg", np.stack([picture(0, (size_px, size_px))] * 3, -1))
        rows = np.hstack([points + np.array([shift, 0]), points])
        text = "".join(" ".join(f"{v:.4f}" for v in row) + "\n" for row in rows)
        write_text(root / "Ground Truth" / f"control_points_{name}_1_2.txt", text)
    return root


def octa_tree(root: Path, numbers=(1, 2), size_px: int = 256) -> Path:
    """CF_OCTA_v2's shape: synthetic pairs at twice 256 px, the affine OCTA → CF given for 256x256 images. Returns the
    root."""
    for number in numbers:
        pair = draw_pair(
            31,
            number,
            ("CF", "OCTA"),
            PairOptions(size_px=2 * size_px, rotation_deg=20, scale=(0.9, 1.1), min_overlap=0.7),
        )
        write_image(root / "CF_ts" / f"{number:03d}.png", pair.fixed)
        write_image(root / "OCTA_ts" / f"{number:03d}OCTA.png", pair.moving)
        to_256 = np.array([[0.5, 0, -0.25], [0, 0.5, -0.25], [0, 0, 1]])  # half-pixel rule
        affine = to_256 @ np.linalg.inv(pair.H_0to1) @ np.linalg.inv(to_256)
        rows = "".join(" ".join(f"{v:.9f}" for v in row) + "\n" for row in affine[:2])
        write_text(root / "GT_OCTA_to_CF" / f"{number:03d}_OCTA_to_CF_affine.txt", rows)
    return root
