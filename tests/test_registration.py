"""The public face: known transform in, known answer out; nonsense in, a clear error or a refusal out, and never an
identity matrix."""

import os
import re
import subprocess
import sys

import cv2
import numpy as np
import pytest
from skimage.data import camera, coins

from retina_kp import PairOptions, Registrar, draw_pair
from retina_kp.core.geometry import corner_error, inside, similarity, translation, warp_points
from retina_kp.core.images import ImageError, write_image
from retina_kp.registration.options import BENDING, registrar_options

EASY = PairOptions(size_px=512, rotation_deg=12, scale=(0.9, 1.1), min_overlap=0.7)


@pytest.fixture(scope="module")
def pair():
    return draw_pair(11, 4, ("CF", "FA"), EASY)


def test_a_missing_gpu_is_told(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ValueError, match="no CUDA device"):
        Registrar.from_pretrained("lite", device="cuda")


def error_px(result, pair, H_moved=None):
    """Mean error at 768 at the corners of the pair's moving image; H_moved: its px → px of the picture that was
    registered."""
    H_1to0 = result.H_1to0 if H_moved is None else result.H_1to0 @ H_moved
    true = np.linalg.inv(pair.H_0to1)
    return corner_error(H_1to0, true, pair.moving.shape[:2]) * 768 / max(result.fixed_hw)


def turned(image, angle_deg, scale=1.0):
    """The image turned about its centre on a canvas that holds all of it, and the matrix old px → new px."""
    import cv2

    h, w = image.shape[:2]
    side = int(np.hypot(h, w) * scale) + 2
    H = similarity(angle_deg, scale, ((w - 1) / 2, (h - 1) / 2), ((side - 1) / 2, (side - 1) / 2))
    return cv2.warpPerspective(image, H, (side, side), flags=cv2.INTER_AREA), H


@pytest.mark.parametrize("angle_deg", [0, 30, -100, 180])
def test_finds_a_known_turn(registrar, pair, angle_deg):
    moving, H = turned(pair.moving, angle_deg)
    result = registrar(pair.fixed, moving)
    assert result.ok, result.status
    assert error_px(result, pair, H) <= 5


@pytest.mark.parametrize("scale", [0.6, 1.7])
def test_finds_a_known_scale(registrar, pair, scale):
    moving, H = turned(pair.moving, 20, scale)
    result = registrar(pair.fixed, moving)
    assert result.ok and error_px(result, pair, H) <= 5


def test_an_image_with_itself_gives_the_identity_by_measurement(registrar, pair):
    result = registrar(pair.fixed, pair.fixed)
    assert result.ok and corner_error(result.H_1to0, np.eye(3), pair.fixed.shape[:2]) < 0.5


def test_equal_input_gives_equal_output(registrar, pair):
    assert np.array_equal(registrar(pair.fixed, pair.moving).H_1to0, registrar(pair.fixed, pair.moving).H_1to0)


@pytest.mark.parametrize("model", ["similarity", "affine", "homography", "quadratic", "auto", "elastic"])
def test_every_model(registrar, pair, model):
    other = Registrar(registrar.network, registrar_options(model=model), "cpu", registrar.calibration)
    result = other(pair.fixed, pair.moving)
    y, x = np.nonzero(pair.valid1)
    seen = np.stack([x, y], 1)[::997]
    # models differ where nothing holds them
    seen = seen[inside(warp_points(seen, np.linalg.inv(pair.H_0to1)), pair.fixed.shape[:2])]
    found = np.linalg.norm(result.map_to_fixed(seen) - warp_points(seen, np.linalg.inv(pair.H_0to1)), axis=1)
    assert result.ok and found.mean() <= 4
    assert result.model == model or (result.model == "affine" and model in BENDING)


def test_a_similarity_is_not_sure_of_a_sheared_pair(registrar):
    """No similarity can fit it: corners farther off than the confidence speaks of must not be accepted."""
    other = Registrar(registrar.network, registrar_options(model="similarity", stages=1), "cpu", registrar.calibration)
    options = PairOptions(size_px=512, rotation_deg=12, scale=(0.9, 1.1), min_overlap=0.7, shear=0.12)
    for index in range(3):
        pair = draw_pair(12, index, ("CF", "FA"), options)
        result = other(pair.fixed, pair.moving)
        assert not result.ok or error_px(result, pair) <= 20


def test_few_matches_fall_back_from_quadratic_to_affine(registrar, pair):
    small = cv2.resize(pair.moving, (110, 110), interpolation=cv2.INTER_AREA)
    shrink = similarity(0, 110 / 512, (-0.5, -0.5), (-0.5, -0.5))
    other = Registrar(registrar.network, registrar_options(model="quadratic"), "cpu", registrar.calibration)
    result = other(pair.fixed, small)
    assert result.ok and result.model == "affine"
    assert corner_error(result.H_1to0 @ shrink, np.linalg.inv(pair.H_0to1), pair.moving.shape[:2]) < 8


def test_odd_and_different_sizes(registrar, pair):
    result = registrar(pair.fixed[:471, :313], pair.moving[10:490, 3:500])
    moved = np.array([[1, 0, -3.0], [0, 1, -10], [0, 0, 1]])
    assert result.fixed_hw == (471, 313) and result.moving_hw == (480, 497)
    assert result.ok and error_px(result, pair, moved) <= 5


@pytest.mark.parametrize(
    "convert", [lambda x: x.astype(np.uint16) * 257, lambda x: x.astype(np.float32) / 255, lambda x: x[..., None]]
)
def test_depth_and_channels_do_not_matter(registrar, pair, convert):
    result = registrar(pair.fixed, convert(pair.moving))
    assert result.ok and error_px(result, pair) <= 5


def test_files_and_arrays_agree(registrar, pair, tmp_path):
    write_image(tmp_path / "fundus ü.png", pair.fixed)
    write_image(tmp_path / "fa.tif", pair.moving)
    by_path = registrar(tmp_path / "fundus ü.png", str(tmp_path / "fa.tif"))
    assert np.allclose(by_path.H_1to0, registrar(pair.fixed, pair.moving).H_1to0)


SAID = """
import hashlib, sys
from retina_kp import Registrar
result = Registrar.from_pretrained("lite", device="cpu")(*sys.argv[1:])
told = (result.H_1to0, result.matches0, result.matches1, result.inliers)
print(result.ok, hashlib.sha256(b"".join(values.tobytes() for values in told)).hexdigest())
"""


def test_new_processes_with_as_many_threads_agree_to_the_bit(pair, tmp_path):
    paths = [tmp_path / "fixed.png", tmp_path / "moving.png"]
    for path, image in zip(paths, (pair.fixed, pair.moving), strict=True):
        write_image(path, image)
    command, env = [sys.executable, "-c", SAID, *map(str, paths)], os.environ | {"OMP_NUM_THREADS": "2"}
    first, second = (subprocess.run(command, env=env, capture_output=True, text=True) for _ in range(2))
    assert first.stdout == second.stdout and first.stdout.startswith("True "), first.stderr + second.stderr


def test_features_are_in_original_pixels(registrar, pair):
    features = registrar.features(pair.fixed)
    assert features.image_hw == pair.fixed.shape[:2] and len(features) > 20
    assert features.keypoints_xy.min() >= 0 and (features.keypoints_xy <= 511).all()
    assert np.allclose(np.linalg.norm(features.descriptors, axis=1), 1, atol=1e-4)
    assert (np.diff(features.scores) <= 0).all()


def refuses(result):
    assert not result.ok and result.status != "ok"
    assert result.H_1to0 is None and result.H_0to1 is None
    return result.status


def test_blank_image_is_refused(registrar, pair):
    assert "blank" in refuses(registrar(pair.fixed, np.full((400, 400), 128, np.uint8)))
    assert "fixed" in refuses(registrar(np.zeros((400, 400, 3), np.uint8), pair.moving))


def test_noise_is_refused(registrar, pair):
    refuses(registrar(pair.fixed, np.random.default_rng(0).integers(0, 256, (512, 512)).astype(np.uint8)))


@pytest.mark.parametrize(("side", "blur_px"), [(300, 0), (512, 3)])
def test_noise_is_not_registered_to_other_noise(registrar, side, blur_px):
    """The detector answers to noise everywhere, and the outlines of both images fit: nothing of that is evidence."""
    rng = np.random.default_rng(side)
    noises = [rng.integers(0, 256, (side, side)).astype(np.uint8) for _ in range(2)]
    if blur_px:
        noises = [
            cv2.normalize(cv2.GaussianBlur(noise, (0, 0), blur_px), None, 0, 255, cv2.NORM_MINMAX) for noise in noises
        ]
    assert registrar(*noises).confidence < 0.2


def test_another_eye_is_refused(registrar, pair):
    refuses(registrar(pair.fixed, draw_pair(11, 1, ("CF", "FA"), EASY).moving))


def page_of_text() -> np.ndarray:
    page = np.full((700, 560), 235, np.uint8)
    for row in range(22):
        cv2.putText(
            page,
            "the vessels of the retina"[row % 9 :],
            (25 + row % 3 * 9, 40 + 30 * row),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.9,
            30,
            2,
        )
    return page


@pytest.mark.parametrize("other", [page_of_text, camera, coins])
def test_text_and_photographs_are_refused_with_what_to_check(registrar, pair, other):
    status = refuses(registrar(pair.fixed, other()))
    assert "eye" in status or "vessels" in status


def test_a_black_canvas_around_an_image_changes_nothing(registrar, pair):
    canvas = np.zeros((1400, 1300, 3), np.uint8)
    canvas[500:1012, 700:1212] = pair.fixed
    found, wanted = (
        registrar(canvas, pair.moving).H_1to0,
        translation(700, 500) @ registrar(pair.fixed, pair.moving).H_1to0,
    )
    assert corner_error(found, wanted, pair.moving.shape[:2]) < 1


@pytest.mark.parametrize("flip", [np.fliplr, np.flipud])
def test_mirrored_image_is_refused_and_told(registrar, pair, flip):
    assert "flip" in refuses(registrar(pair.fixed, np.ascontiguousarray(flip(pair.moving))))


def test_a_mirrored_image_turned_and_of_another_size_is_refused_and_told(registrar):
    pair = draw_pair(
        13, 5, ("CF", "FA"), PairOptions(rotation_deg=140, min_rotation_deg=130, scale=(1.6, 1.8), min_overlap=0.9)
    )
    mirrored = np.ascontiguousarray(np.fliplr(pair.moving))
    result = registrar(pair.fixed, mirrored)
    assert "flip" in refuses(result)
    as_given = registrar.find(registrar.views(pair.fixed), registrar.views(mirrored))
    assert (result.confidence, result.evidence) == (as_given.confidence, as_given.evidence)


def test_a_strip_is_refused(registrar, pair):
    rng = np.random.default_rng(1)
    for shape in ((40, 3000), (600, 64)):
        assert "strip" in refuses(registrar(pair.fixed, rng.integers(0, 256, shape).astype(np.uint8)))


def test_one_pixel_image(registrar, pair):
    with pytest.raises(ImageError, match="moving image"):
        registrar(pair.fixed, np.zeros((1, 1), np.uint8))


def test_nan(registrar, pair):
    image = pair.moving.astype(np.float32) / 255
    image[5, 5] = np.nan
    with pytest.raises(ImageError, match="moving image"):
        registrar(pair.fixed, image)


WRONG = [
    np.zeros((64, 64), np.int64),
    np.zeros((64, 64), complex),
    np.array([["a"]]),
    np.zeros((4, 64, 64, 3), np.uint8),
]


@pytest.mark.parametrize("image", WRONG)
def test_wrong_kind_of_array(registrar, pair, image):
    with pytest.raises(ImageError):
        registrar(pair.fixed, image)


def test_missing_file(registrar, pair):
    with pytest.raises(ImageError, match="no_such_eye.png"):
        registrar(pair.fixed, "no_such_eye.png")


def test_unknown_weights_and_options():
    with pytest.raises(FileNotFoundError, match="lite"):
        Registrar.from_pretrained("huge")
    with pytest.raises(ValueError, match="affine"):
        Registrar.from_pretrained("lite", model="rigid")
    with pytest.raises(ValueError, match="base_px"):
        Registrar.from_pretrained("lite", basepx=300)


@pytest.mark.parametrize(
    ("squeezed_hw", "which"), [((512, 256), "moving"), ((128, 512), "moving"), ((256, 512), "fixed")]
)
def test_an_image_with_oblong_pixels_is_registered(registrar, pair, squeezed_hw, which):
    """As scans of few lines come: H is in px of the images as given."""
    images = {"fixed": pair.fixed, "moving": pair.moving}
    squeeze = np.diag([squeezed_hw[1] / 512, squeezed_hw[0] / 512, 1.0])
    squeeze = translation(-0.5, -0.5) @ squeeze @ translation(0.5, 0.5)
    images[which] = cv2.resize(images[which], squeezed_hw[::-1], interpolation=cv2.INTER_AREA)
    result = registrar(images["fixed"], images["moving"])
    assert result.ok and result.fixed_hw == images["fixed"].shape[:2] and result.moving_hw == images["moving"].shape[:2]
    H_1to0 = result.H_1to0 @ squeeze if which == "moving" else np.linalg.inv(squeeze) @ result.H_1to0
    assert corner_error(H_1to0, np.linalg.inv(pair.H_0to1), (512, 512)) < 5


# ------------------------------------------------------------------ little light


def darkened(image, share, white=255, noise=1.0):
    """A gray or colour image taken with a share of the light, and the camera's noise in levels of 8 bit."""
    grain = np.random.default_rng(0).normal(0, noise * white / 255, image.shape)
    levels = np.rint(image * (share * white / 255) + grain).clip(0, white)
    return levels.astype(np.uint8 if white == 255 else np.uint16)


def test_a_dim_image_is_brightened(registrar, pair):
    dim = darkened(pair.fixed, 0.025, noise=0)
    assert dim.max() < 8 and not registrar.attempt(*map(registrar.views, (dim, pair.moving))).ok
    result = registrar(dim, pair.moving)
    assert result.ok and error_px(result, pair) <= 5
    deep = registrar(darkened(pair.fixed, 0.005, 65535, noise=0), pair.moving)
    assert deep.ok and error_px(deep, pair) <= 5


def test_too_dark_is_told_where_light_is_what_lacks(registrar, pair):
    dark, other = darkened(pair.moving, 0.012), draw_pair(11, 1, ("CF", "FA"), EASY).moving
    words = "too dark: the brightest parts of the {} image reach 1.[0-9]% of its range"
    assert re.match(words.format("moving"), refuses(registrar(pair.fixed, dark)))
    assert re.match(words.format("fixed"), refuses(registrar(dark.astype(np.uint16), pair.fixed)))
    points = np.array([[100.0, 100], [400, 380]])
    assert "too dark" in refuses(registrar(pair.fixed, dark, points, points))
    assert "dark" not in refuses(registrar(pair.fixed, darkened(other, 0.2)))
    assert "blank" in refuses(registrar(pair.fixed, np.full((400, 400), 3, np.uint8)))
