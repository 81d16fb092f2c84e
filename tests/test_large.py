"""Montages: copies of them are registered and the result is told in px of the files."""

import subprocess
import sys

import cv2
import numpy as np
import pytest
import tifffile

from retina_kp.cli.pair import register_pair
from retina_kp.core import images
from retina_kp.core.geometry import resize_matrix, similarity, warp_points
from retina_kp.core.image_files import read_reduced
from retina_kp.core.images import ImageError, read_image, to_gray, write_image
from retina_kp.core.png_strips import read_png_reduced, write_png_in_strips
from retina_kp.mapping.result import Registration
from retina_kp.registration import large
from retina_kp.registration.large import Copy, register_copies, warp_file
from retina_kp.synthetic.pairs import PairOptions, draw_pair

HW = (613, 538)  # of which a quarter is no whole number


def smooth(*shape, dtype=np.uint8, seed=0, sigma=6):
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random(shape, np.float32), (0, 0), sigma)
    return ((noise - noise.min()) / np.ptp(noise) * np.iinfo(dtype).max).astype(dtype)


def quarter(image):
    h, w = (n // 4 for n in image.shape[:2])
    return cv2.resize(image[: 4 * h, : 4 * w], (w, h), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [HW, (*HW, 3)])
@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_a_reduced_image_is_the_mean_of_whole_pixels(tmp_path, name, shape, dtype):
    write_image(tmp_path / name, smooth(*shape, dtype=dtype))
    small, times, hw = read_reduced(tmp_path / name, 130)
    assert (times, hw) == (4, HW) and np.array_equal(small, quarter(smooth(*shape, dtype=dtype)))
    assert read_reduced(tmp_path / name, 310)[1] == 1


def test_a_jpeg_is_decoded_small(tmp_path):
    write_image(tmp_path / "a.jpg", smooth(*HW, 3))
    small, times, hw = read_reduced(tmp_path / "a.jpg", 130)
    assert (times, hw) == (4, HW) and np.abs(small - quarter(smooth(*HW, 3)).astype(int)).mean() < 1


def test_png_in_strips_with_alpha_and_of_kinds_that_are_read_whole(tmp_path):
    image = smooth(*HW, 3)
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([image[..., ::-1], smooth(*HW)]))
    assert np.array_equal(read_png_reduced(tmp_path / "alpha.png", 4), quarter(image))
    cv2.imwrite(str(tmp_path / "mask.png"), image[..., 0] // 128 * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])
    assert read_png_reduced(tmp_path / "mask.png", 4) is None
    assert np.array_equal(read_reduced(tmp_path / "mask.png", 130)[0], quarter(image[..., 0] // 128 * 255))


@pytest.mark.parametrize("place", [0.4, 0.97])
def test_damage_is_found_strip_by_strip(tmp_path, place):
    write_image(tmp_path / "a.png", smooth(*HW))
    content = bytearray((tmp_path / "a.png").read_bytes())
    (tmp_path / "cut.png").write_bytes(content[: int(place * len(content))])
    content[int(place * len(content))] ^= 4
    (tmp_path / "flipped.png").write_bytes(content)
    for name in ("cut.png", "flipped.png"):
        with pytest.raises(ImageError, match="damaged"):
            read_reduced(tmp_path / name, 130)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [HW, (*HW, 3)])
def test_a_png_written_in_strips_is_the_image(tmp_path, monkeypatch, shape, dtype):
    image = smooth(*shape, dtype=dtype)
    write_png_in_strips(tmp_path / "a.png", image)
    assert np.array_equal(read_image(tmp_path / "a.png"), image)
    monkeypatch.setattr(images, "STRIP_VALUES", 3000)
    write_image(tmp_path / "b.png", image)
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    gray = to_gray(image)
    monkeypatch.undo()
    assert np.allclose(gray, to_gray(image), atol=1e-6)


# ------------------------------------------------------------------ registration

TRUE = similarity(12, 0.2, (0, 0), (30, 10))  # moving → fixed


class Oracle:
    """Knows where copies lie, and what it was given."""

    def __init__(self, fixed_times, moving_times):
        centre0, centre1 = (similarity(0, 1 / n, (-0.5, -0.5), (-0.5, -0.5)) for n in (fixed_times, moving_times))
        self.H, self.seen = centre0 @ TRUE @ np.linalg.inv(centre1), None

    def __call__(self, fixed, moving):
        self.seen = fixed.shape[:2], moving.shape[:2]
        points1 = np.array([[3.0, 4], [20, 9], [7, 30]])
        matches = warp_points(points1, self.H), points1
        return Registration("ok", self.H, 0.9, *matches, np.ones(3, bool), *self.seen)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(large, "LEAST_PX", 130)
    write_image(tmp_path / "fixed.png", smooth(122, 129))
    write_image(tmp_path / "moving.tif", smooth(*HW, seed=1, sigma=16))
    return tmp_path / "fixed.png", tmp_path / "moving.tif"


@pytest.mark.parametrize("turned", [False, True])
def test_a_result_of_copies_is_told_in_px_of_the_files(files, turned):
    fixed, moving = files[::-1] if turned else files
    copies, oracle = (Copy.read(fixed), Copy.read(moving)), Oracle(*((4, 1) if turned else (1, 4)))
    result = register_copies(oracle, *copies)
    assert oracle.seen == tuple(copy.image.shape[:2] for copy in copies) and (153, 134) in oracle.seen
    assert (result.fixed_hw, result.moving_hw) == ((HW, (122, 129)) if turned else ((122, 129), HW))
    assert result.H_1to0 == pytest.approx(TRUE, abs=1e-9)
    assert result.matches0 == pytest.approx(warp_points(result.matches1, TRUE))


def test_a_montage_is_warped_from_a_copy_as_fine_as_the_fixed_image(files):
    fixed, moving = files
    result = register_copies(Oracle(1, 4), Copy.read(fixed), Copy.read(moving))
    whole, seen = result.warp(read_image(moving)).astype(int), result.covered().astype(np.uint8)
    seen = cv2.erode(seen, np.ones((5, 5))) > 0
    for warped in (warp_file(result, moving), warp_file(result, moving, Copy.read(moving))):
        assert warped.shape == (122, 129) and seen.mean() > 0.5 and np.abs(warped - whole)[seen].max() <= 3
    fine = Registration("ok", np.eye(3), 1.0, *[np.zeros((0, 2))] * 2, np.zeros(0, bool), HW, HW)
    assert np.array_equal(
        warp_file(fine, moving, Copy.read(moving)), read_image(moving)
    )  # which a copy is too coarse for


MONTAGE = """
import sys
from retina_kp import Registrar
from retina_kp.evaluation.timing import peak_memory_gb
registrar, before = Registrar.from_pretrained("lite", device="cpu"), peak_memory_gb()
registrar(*sys.argv[1:3]).save(sys.argv[3])
print(peak_memory_gb() - before)
"""


def test_a_path_is_read_as_by_the_command_and_decoded_small(tmp_path):
    pair = draw_pair(11, 4, ("CF", "FA"), PairOptions(size_px=512, rotation_deg=12, min_overlap=0.7))
    paths = [str(tmp_path / name) for name in ("montage.jpg", "moving.png", "by_path.json")]
    write_image(paths[0], cv2.resize(pair.fixed, (10240, 10240), interpolation=cv2.INTER_CUBIC))
    write_image(paths[1], pair.moving)
    done = subprocess.run([sys.executable, "-c", MONTAGE, *paths], capture_output=True, text=True)
    assert done.returncode == 0 and float(done.stdout) < 0.8, done  # whole, its gray floats take 0.4 GB and colours 0.3
    by_path, by_command = Registration.load(paths[2]), register_pair(*paths[:2], tmp_path / "out", device="cpu")[0]
    assert by_path.ok and by_path.fixed_hw == (10240, 10240)
    assert np.allclose(by_path.H_1to0, by_command.H_1to0, atol=1e-3)
    near = warp_points(by_path.matches0[by_path.inliers], resize_matrix((10240, 10240), (512, 512)))
    assert np.abs(warp_points(near, pair.H_0to1) - by_path.matches1[by_path.inliers]).max() < 8


def test_arrays_and_features_of_large_files_are_told_in_their_px(files, registrar):
    features = registrar.features(files[1])
    assert features.image_hw == HW and features.keypoints_xy.max() > 300
    copy = Copy.of(read_image(files[1]))
    assert copy.times == 1 and copy.spacing == (1.0, 1.0) and copy.whole_hw == HW


def test_small_files_are_registered_as_they_are(files):
    fixed, _ = files
    copy = Copy.read(fixed)
    assert copy.times == 1 and np.array_equal(copy.image, read_image(fixed))
    result = Oracle(1, 1)(copy.image, copy.image)
    told = register_copies(lambda *_: result, copy, copy)
    assert np.array_equal(told.H_1to0, result.H_1to0) and told.moving_hw == copy.whole_hw


def test_a_copy_is_checked_like_every_image(files, tmp_path):
    values = np.full(HW, 0.5, np.float32)
    for odd, words in ((np.nan, "NaN"), (np.inf, "infinite"), (1e30, "divide by the maximum")):
        values[600, 500] = odd
        tifffile.imwrite(tmp_path / "odd.tif", values)
        with pytest.raises(ImageError, match=f"odd.tif: .*{words}"):
            Copy.read(tmp_path / "odd.tif")
