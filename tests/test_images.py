"""Oracle tests of reading, checking, converting and writing images."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from retina_kp.core.images import ImageError, as_array, image_size, read_image, to_gray, write_image

HW = (71, 47)


def random_image(*shape, dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape or HW, dtype=dtype, endpoint=True)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "眼底 é.png"])
@pytest.mark.parametrize("shape", [HW, (*HW, 3)])
def test_lossless_formats_return_the_pixels_that_were_written(tmp_path, name, shape):
    image = random_image(*shape)
    write_image(tmp_path / "new" / "folder" / name, image)
    assert np.array_equal(read_image(tmp_path / "new" / "folder" / name), image)
    assert image_size(tmp_path / "new" / "folder" / name) == HW
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == [name]  # no temporary file is left


@pytest.mark.parametrize("ending", [".png", ".tif"])
@pytest.mark.parametrize("shape", [HW, (*HW, 3)])
def test_16_bit_survives(tmp_path, ending, shape):
    image = random_image(*shape, dtype=np.uint16)
    write_image(tmp_path / f"a{ending}", image)
    assert read_image(tmp_path / f"a{ending}").dtype == np.uint16
    assert np.array_equal(read_image(tmp_path / f"a{ending}"), image)
    assert image_size(tmp_path / f"a{ending}") == HW


def test_colour_order_is_rgb_also_for_other_writers(tmp_path):
    red = np.zeros((*HW, 3), np.uint8)
    red[..., 0] = 200
    Image.fromarray(red).save(tmp_path / "pillow.png")
    write_image(tmp_path / "own.png", red)
    Image.fromarray(red).save(tmp_path / "pillow.jpg", quality=95)
    assert np.array_equal(read_image(tmp_path / "pillow.png"), red)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "own.png")), red)
    assert np.abs(read_image(tmp_path / "pillow.jpg").astype(int) - red).max() < 6


def test_alpha_palette_gray_alpha_and_bilevel(tmp_path):
    gray, colour = random_image(), random_image(*HW, 3)
    Image.fromarray(np.dstack([colour, gray])).save(tmp_path / "rgba.png")
    Image.fromarray(gray).convert("LA").save(tmp_path / "la.png")
    palette = Image.fromarray(colour).convert("P")
    palette.save(tmp_path / "palette.png")
    Image.fromarray(gray > 128).save(tmp_path / "mask.gif")
    assert np.array_equal(read_image(tmp_path / "rgba.png"), colour)
    assert np.array_equal(read_image(tmp_path / "la.png"), np.dstack([gray] * 3))
    assert np.array_equal(read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))
    assert np.array_equal(read_image(tmp_path / "mask.gif")[..., 0] > 0, gray > 128)


def test_float_tiff_is_read_as_stored(tmp_path):
    values = np.random.default_rng(0).random((*HW, 3), np.float32)
    (tmp_path / "f.tif").write_bytes(cv2.imencode(".tif", cv2.cvtColor(values, cv2.COLOR_RGB2BGR))[1].tobytes())
    assert np.array_equal(read_image(tmp_path / "f.tif"), values)
    assert image_size(tmp_path / "f.tif") == HW  # Pillow does not know this kind


def test_orientation_tag_is_ignored_by_both_readers(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(random_image(*HW, 3)).save(tmp_path / "turned.jpg", exif=exif)
    assert image_size(tmp_path / "turned.jpg") == HW == read_image(tmp_path / "turned.jpg").shape[:2]


def test_unreadable_files_are_named_with_the_reason(tmp_path):
    whole = tmp_path / "whole.png"
    write_image(whole, random_image())
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image at all")
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-800])
    for path, word in (
        ("missing.png", "no such file"),
        (".", "folder"),
        ("empty.png", "empty"),
        ("text.png", "damaged"),
        ("cut.png", "damaged"),
    ):
        with pytest.raises(ImageError, match=word) as error:
            as_array(tmp_path / path)
        assert str(tmp_path / path) in str(error.value)
    for path in ("missing.png", ".", "empty.png", "text.png"):
        with pytest.raises(ImageError):
            image_size(tmp_path / path)
    Image.fromarray(random_image().astype(np.int32)).save(tmp_path / "int32.tif")
    with pytest.raises(ImageError, match="int32"):
        read_image(tmp_path / "int32.tif")


def test_as_array_accepts_what_it_promises(tmp_path):
    image, colour = random_image(), random_image(*HW, 3)
    write_image(tmp_path / "a.png", colour)
    assert np.array_equal(as_array(str(tmp_path / "a.png")), colour)
    assert np.array_equal(as_array(image[..., None]), image)
    assert np.array_equal(as_array(np.dstack([colour, image])), colour)
    assert np.array_equal(as_array(image > 99), np.where(image > 99, 255, 0)) and as_array(image > 99).dtype == np.uint8
    for dtype in (np.float16, np.float32, np.float64):
        unit = (image / 255).astype(dtype)
        assert as_array(unit).dtype == np.float32 and np.allclose(as_array(unit), unit, atol=1e-6)
    overshoot = np.linspace(-5e-4, 1 + 5e-4, HW[0] * HW[1]).reshape(HW)
    assert as_array(overshoot).min() == 0 and as_array(overshoot).max() == 1


def with_value(value):
    image = np.full(HW, 0.5, np.float32)
    image[3, 4:6] = value
    return image


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (random_image(1, 1), "at least 32"),
        (random_image(31, 400), "at least 32"),
        (np.zeros((0, 50), np.uint8), "shape"),
        (random_image(3, *HW), "channels-first"),
        (random_image(*HW, 2), "shape"),
        (random_image(2, *HW, 3), "shape"),
        (random_image().astype(np.int64), "int64"),
        (random_image().astype(np.complex64), "complex64"),
        (with_value(np.nan), "2 NaN and 0 infinite"),
        (with_value(-np.inf), "0 NaN and 2 infinite"),
        (with_value(255.0), "divide by the maximum"),
        (with_value(1.01), "divide by the maximum"),
        (with_value(-0.5), "subtract the minimum"),
        (torch.zeros(1, *HW), r"torch\.Tensor.*permute"),
        ([[0.1]], "list"),
        (None, "NoneType"),
    ],
)
def test_as_array_refuses_and_names_the_image(image, words):
    with pytest.raises(ImageError, match=f"the CF: .*{words}"):
        as_array(image, "the CF")


def test_gray_of_8_bit_and_float_and_colour_weights():
    image, colour = random_image(), random_image(*HW, 3)
    assert to_gray(image).dtype == np.float32
    assert np.allclose(to_gray(image), image / 255)
    assert np.allclose(to_gray(np.float32(image / 255)), image / 255)
    assert np.allclose(
        to_gray(colour), (0.2 * colour[..., 0] + 0.7 * colour[..., 1] + 0.1 * colour[..., 2]) / 255, atol=1e-6
    )
    assert np.allclose(to_gray(np.dstack([image] * 3)), to_gray(image), atol=1e-6)
    assert to_gray(np.full((*HW, 3), 255, np.uint8)).max() <= 1
    with pytest.raises(ImageError, match="as_array"):
        to_gray(np.zeros((*HW, 4), np.uint8))
    with pytest.raises(ImageError, match="int32"):
        to_gray(np.zeros(HW, np.int32))


@pytest.mark.parametrize(
    ("maximum", "white"), [(65535, 65535), (4095, 4095), (3000, 4095), (1023, 1023), (4096, 8191), (40, 255)]
)
def test_10_and_12_bit_images_in_16_bit_files_keep_their_brightness(maximum, white):
    image = (np.linspace(0, 1, HW[0] * HW[1]).reshape(HW) * maximum).astype(np.uint16)
    assert to_gray(image).max() == pytest.approx(maximum / white)
    assert np.allclose(to_gray(image), image / white, atol=1e-6)


@pytest.mark.parametrize("label", [(slice(3, 4), slice(3, 4)), (slice(0, 4), slice(0, 24))], ids=["hot pixel", "label"])
def test_a_few_values_in_full_white_do_not_darken_a_10_bit_image(label):
    image = (np.linspace(0, 1, 120 * 160).reshape(120, 160) * 1023).astype(np.uint16)
    plain = to_gray(image)
    image[label] = 65535
    assert to_gray(image)[label].min() == 1
    image[label] = 0
    plain[label] = 0
    assert np.allclose(to_gray(image), plain, atol=1e-6)
    image[label] = 65535
    others = np.ones(image.shape, bool)
    others[label] = False
    assert np.allclose(to_gray(image)[others], plain[others] / 2, rtol=2e-3)  # one bit of doubt


def test_black_16_bit_image_stays_black():
    assert not to_gray(np.zeros(HW, np.uint16)).any()


def test_writing_floats_bools_and_what_it_refuses(tmp_path):
    write_image(tmp_path / "f.png", np.array([[0.0, 0.5, 1.0]]))
    assert read_image(tmp_path / "f.png").tolist() == [[0, 128, 255]]
    write_image(tmp_path / "b.png", np.array([[True, False]]))
    assert read_image(tmp_path / "b.png").tolist() == [[255, 0]]
    for path, array in (
        ("f.png", np.array([[2.0]])),
        ("f.jpg", random_image(dtype=np.uint16)),
        ("f", random_image()),
        ("f.xyz", random_image()),
    ):
        with pytest.raises(ImageError, match=str(tmp_path / path)):
            write_image(tmp_path / path, array)
    with pytest.raises(ImageError):
        write_image(tmp_path / "i.png", random_image().astype(np.int64))
    assert read_image(tmp_path / "f.png").tolist() == [[0, 128, 255]]  # a refused write leaves the old file alone
    assert sorted(p.name for p in Path(tmp_path).iterdir()) == ["b.png", "f.png"]


@pytest.mark.parametrize("kind", [">u2", ">f4", "<u2"])
def test_byte_order_does_not_matter(kind):
    image = np.linspace(0, 1, 48 * 48).reshape(48, 48) * (1 if "f" in kind else 65535)
    assert np.allclose(as_array(image.astype(kind), "image"), image, atol=1)
