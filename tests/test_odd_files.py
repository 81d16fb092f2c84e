"""Image files as devices and programs write them: read right, or refused with the true reason."""

import io
import os
import struct
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from retina_kp.core.images import ImageError, as_array, image_size, read_image
from retina_kp.core.pages import LIMIT
from retina_kp.data.records import PairRecord, gray_histograms, image_rows, pictures, with_sound_images

HW = (71, 94)
CODECS = "LZW and other compressions need imagecodecs"


def picture(*shape, dtype=np.uint8, seed=0):
    """Smooth noise, as codecs meet it in photographs."""
    noise = np.random.default_rng(seed).random(shape or (*HW, 3), np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 3)
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return (smooth * (np.iinfo(dtype).max if dtype(0).dtype.kind == "u" else 1)).astype(dtype)


GRAY, RGB, DEEP, DEEP_RGB = picture(*HW), picture(), picture(*HW, dtype=np.uint16), picture(dtype=np.uint16)
PAIR = np.stack([GRAY, 255 - GRAY])


# what tifffile.imwrite is told, and the pixels that must come back
TIFFS = {
    "16 bit in planes": (dict(data=np.moveaxis(DEEP_RGB, -1, 0), photometric="rgb", planarconfig="separate"), DEEP_RGB),
    "8 bit in planes": (dict(data=np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"), RGB),
    "16 bit tiles": (dict(data=DEEP_RGB, photometric="rgb", tile=(32, 32)), DEEP_RGB),
    "big endian BigTIFF": (dict(data=DEEP, byteorder=">", bigtiff=True), DEEP),
    "float16": (dict(data=picture(*HW, dtype=np.float16)), picture(*HW, dtype=np.float16).astype(np.float32)),
    "float64": (dict(data=picture(*HW, dtype=np.float64)), picture(*HW, dtype=np.float64).astype(np.float32)),
    "orientation": (dict(data=DEEP_RGB, photometric="rgb", extratags=[(274, "H", 1, 6, True)]), DEEP_RGB),
    "white is 0": (dict(data=GRAY, photometric="miniswhite"), 255 - GRAY),
    "white is 0, 16 bit": (dict(data=DEEP, photometric="miniswhite"), 65535 - DEEP),
    "bilevel": (dict(data=GRAY > 128, photometric="minisblack"), np.where(GRAY > 128, 255, 0)),
    "white is 0, bilevel": (dict(data=GRAY > 128, photometric="miniswhite"), np.where(GRAY > 128, 0, 255)),
    "alpha": (dict(data=np.dstack([RGB, GRAY]), photometric="rgb", extrasamples=["unassalpha"]), RGB),
    "gray and alpha": (dict(data=np.dstack([GRAY, GRAY]), photometric="minisblack", extrasamples=["unassalpha"]), GRAY),
    "deflate": (dict(data=DEEP_RGB, photometric="rgb", compression="zlib"), DEEP_RGB),
}
PACKED = {
    "LZW": (dict(data=DEEP_RGB, photometric="rgb", compression="lzw", predictor=True), DEEP_RGB),
    "LZW in planes": (
        dict(data=np.moveaxis(DEEP_RGB, -1, 0), photometric="rgb", planarconfig="separate", compression="lzw"),
        DEEP_RGB,
    ),
    "LZW and orientation": (dict(data=RGB, photometric="rgb", compression="lzw", extratags=[(274, "H", 1, 8, 1)]), RGB),
    "zstd": (dict(data=DEEP_RGB, photometric="rgb", compression="zstd"), DEEP_RGB),
    "webp": (dict(data=RGB, photometric="rgb", compression="webp", compressionargs={"lossless": True}), RGB),
    "JPEG 2000": (dict(data=RGB, photometric="rgb", compression="jpeg2000"), RGB),
    "JPEG 2000, 16 bit gray": (dict(data=DEEP, compression="jpeg2000"), DEEP),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_a_plain_tiff_is_read_as_stored(tmp_path, kind):
    told, pixels = TIFFS[kind]
    tifffile.imwrite(tmp_path / "a.tif", **told)
    found = read_image(tmp_path / "a.tif")
    assert np.array_equal(found, pixels) and found.shape == pixels.shape
    assert image_size(tmp_path / "a.tif") == HW


@pytest.mark.parametrize("kind", PACKED)
def test_a_compressed_tiff_is_read_as_stored(tmp_path, kind):
    pytest.importorskip("imagecodecs", reason=CODECS)
    told, pixels = PACKED[kind]
    tifffile.imwrite(tmp_path / "a.tif", **told)
    assert np.array_equal(read_image(tmp_path / "a.tif"), pixels)
    assert image_size(tmp_path / "a.tif") == HW


def test_jpeg_in_tiff_and_a_palette_and_four_bits(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "jpeg.tif", compression="jpeg", quality=95)
    assert np.abs(read_image(tmp_path / "jpeg.tif").astype(int) - RGB).mean() < 3
    palette = Image.fromarray(RGB).convert("P")
    palette.save(tmp_path / "palette.tif")
    assert np.array_equal(read_image(tmp_path / "palette.tif"), np.asarray(palette.convert("RGB")))
    colours = tifffile.imread(tmp_path / "palette.tif")
    assert colours.ndim == 2  # so it was one


WITHOUT = """
import sys
sys.modules["imagecodecs"] = None
import numpy as np
from retina_kp.core.images import ImageError, read_image
for path in sys.argv[1:]:
    try:
        np.save(path + ".npy", read_image(path))
    except ImageError as error:
        print(error)
"""


def test_without_imagecodecs_opencv_reads_what_it_can_and_the_rest_is_named(tmp_path):
    pytest.importorskip("imagecodecs", reason=CODECS)
    for number, (told, _) in enumerate(PACKED.values()):
        tifffile.imwrite(tmp_path / f"{number}.tif", **told)
    tifffile.imwrite(tmp_path / "white.tif", GRAY, photometric="miniswhite", compression="lzw")
    paths = [str(tmp_path / f"{number}.tif") for number in range(len(PACKED))] + [str(tmp_path / "white.tif")]
    done = subprocess.run([sys.executable, "-c", WITHOUT, *paths], capture_output=True, text=True, check=True)
    named = ("LZW compression with its colours in planes", "ZSTD", "WEBP", "JPEG", "JPEG")
    lines = done.stdout.splitlines()
    assert len(lines) == len(named) and done.stderr == ""
    for line, word in zip(lines, named, strict=True):
        assert "sound" in line and word in line and "pip install imagecodecs" in line
    assert np.array_equal(np.load(paths[0] + ".npy"), DEEP_RGB) and np.array_equal(np.load(paths[2] + ".npy"), RGB)
    assert np.array_equal(np.load(paths[-1] + ".npy"), 255 - GRAY)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (dict(data=np.dstack([RGB, RGB])[..., :5], photometric="minisblack", planarconfig="contig"), "5 channels"),
        (dict(data=np.dstack([RGB, GRAY]), photometric="separated"), "SEPARATED"),
        (dict(data=GRAY.astype(np.int16)), "int16"),
        (dict(data=GRAY.astype(np.uint32)), "uint32"),
        (dict(data=GRAY.astype(np.complex64)), "complex64"),
        (dict(data=PAIR, photometric="minisblack", volumetric=True, tile=(16, 16, 16)), "volume of 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sound_pixels_of_no_use_are_named_and_not_called_damaged(tmp_path, told, words):
    tifffile.imwrite(tmp_path / "a.tif", **told)
    for read in (read_image, image_size):
        with pytest.raises(ImageError, match=words) as error:
            read(tmp_path / "a.tif")
        assert "damaged" not in str(error.value) and str(tmp_path / "a.tif") in str(error.value)


def pages(path, *images, **told):
    with tifffile.TiffWriter(path) as file:
        for image in images:
            file.write(image, photometric="minisblack", metadata=None, **told)


def test_of_many_pages_one_is_named_by_its_number(tmp_path):
    pages(tmp_path / "stack.tif", np.zeros_like(GRAY), *PAIR)
    with pytest.raises(ImageError, match=r"3 pages.*stack\.tif#1"):
        image_size(tmp_path / "stack.tif")
    assert np.array_equal(as_array(f"{tmp_path}/stack.tif#2"), PAIR[0])
    assert np.array_equal(read_image(tmp_path / "stack.tif#3"), PAIR[1])
    with pytest.raises(ImageError, match="no number 4 among its 3 pages"):
        read_image(tmp_path / "stack.tif#4")
    tifffile.imwrite(tmp_path / "imagej.tif", PAIR, imagej=True)
    with pytest.raises(ImageError, match="2 pages"):
        read_image(tmp_path / "imagej.tif")


def test_small_copies_of_a_picture_are_no_pages(tmp_path):
    small = GRAY[:64:2, :84:2]
    pages(tmp_path / "preview.tif", small, picture(64, 84), small[::2, ::2])
    assert np.array_equal(read_image(tmp_path / "preview.tif"), picture(64, 84))
    pages(tmp_path / "other.tif", small[:, ::2], GRAY)  # of other proportions: another picture
    with pytest.raises(ImageError, match="2 pages"):
        read_image(tmp_path / "other.tif")
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as file:
        file.write(GRAY, subifds=1, photometric="minisblack")
        file.write(GRAY[::2, ::2], subfiletype=1, photometric="minisblack")
        file.write(GRAY > 99, subfiletype=4)
    assert np.array_equal(read_image(tmp_path / "pyramid.tif"), GRAY)


def test_an_animation_is_named(tmp_path):
    frames = [Image.fromarray(each) for each in PAIR]
    for name in ("a.gif", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        with pytest.raises(ImageError, match="animation of 2"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_orientation_tags_are_ignored_by_every_format(tmp_path, ending):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(RGB).save(tmp_path / f"turned.{ending}", exif=exif)
    assert image_size(tmp_path / f"turned.{ending}") == HW == read_image(tmp_path / f"turned.{ending}").shape[:2]
    if ending != "jpg":
        assert np.array_equal(read_image(tmp_path / f"turned.{ending}"), RGB)


# ------------------------------------------------------------------ damage and excess


def flipped(content, start, seed, count=3):
    """A copy with a few bits turned behind the header."""
    draw, broken = np.random.default_rng(seed), bytearray(content)
    for place in draw.integers(start, len(content) - 2, count):
        broken[place] ^= 1 << int(draw.integers(8))
    return bytes(broken)


def packed_tiff(compression):
    done, content = cv2.imencode(".tif", picture(200, 300, 3), [cv2.IMWRITE_TIFF_COMPRESSION, compression])
    return content.tobytes()


def jpeg_in_tiff():
    target = io.BytesIO()
    Image.fromarray(picture(200, 300, 3)).save(target, "TIFF", compression="jpeg")
    return target.getvalue()


@pytest.mark.parametrize(
    ("content", "least"),
    [(packed_tiff(8), 40), (packed_tiff(5), 10), (jpeg_in_tiff(), 5)]
    + [(cv2.imencode(end, picture(200, 300, 3))[1].tobytes(), least) for end, least in ((".jpg", 10), (".png", 40))],
    ids=["deflate", "LZW", "JPEG in TIFF", "JPEG", "PNG"],
)
def test_a_codecs_complaint_is_damage_and_nothing_is_printed(tmp_path, capfd, content, least):
    """least: of 40 files; LZW and JPEG have no checksum, so their codecs do not notice every bit."""
    (tmp_path / "sound").write_bytes(content)
    sound, found = read_image(tmp_path / "sound"), 0
    for seed in range(40):
        (tmp_path / "broken").write_bytes(flipped(content, 800, seed))
        try:
            assert read_image(tmp_path / "broken").shape == sound.shape
        except ImageError as error:
            found += "damaged" in str(error)
    assert found >= least
    assert capfd.readouterr().err == ""


def test_a_truncated_file_is_damaged_whatever_its_kind(tmp_path):
    for content in (packed_tiff(1), packed_tiff(5), *(cv2.imencode(e, RGB)[1].tobytes() for e in (".jpg", ".png"))):
        (tmp_path / "cut").write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(ImageError, match="damaged"):
            read_image(tmp_path / "cut")


def test_what_others_write_to_stderr_meanwhile_is_passed_on(tmp_path, capfd):
    from retina_kp.core.codecs import _heard_from_codecs

    with _heard_from_codecs() as said:
        os.write(2, b"epoch 3\nCorrupt JPEG data: 4 extraneous bytes\n")
    assert capfd.readouterr().err == "epoch 3\n" and said[1].startswith(b"Corrupt")


def png(hw, data=b""):
    """A PNG of 8-bit gray that declares (h, w) and holds ``data``."""
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", *hw[::-1], 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(data)),
        (b"IEND", b""),
    ]
    chunks = (struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_a_declared_size_is_believed_up_to_a_limit_that_users_raise(tmp_path, monkeypatch):
    (tmp_path / "bomb.png").write_bytes(png((20000, 20000), bytes(384 * 385)))
    with pytest.raises(ImageError, match=f"20000 px wide.*{LIMIT} to 400"):
        image_size(tmp_path / "bomb.png")
    (tmp_path / "hollow.png").write_bytes(png((14000, 14000), bytes(9)))
    with pytest.raises(ImageError, match="cannot hold"):
        image_size(tmp_path / "hollow.png")
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", GRAY)[1].tobytes())
    monkeypatch.setenv(LIMIT, "0.005")
    with pytest.raises(ImageError, match="too large"):
        read_image(tmp_path / "a.png")
    monkeypatch.setenv(LIMIT, "0.007")
    assert np.array_equal(read_image(tmp_path / "a.png"), GRAY)


def test_a_sparse_file_is_refused_without_reading_it(tmp_path):
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", GRAY)[1].tobytes())
    with (tmp_path / "a.png").open("r+b") as file:
        file.truncate(40 * 2**30)
    with pytest.raises(ImageError, match="too many for a picture"):
        read_image(tmp_path / "a.png")
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(shape=(9000, 9000), dtype=np.uint8, data=None)
    with (tmp_path / "a.tif").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(ImageError, match="not in the file"):
        image_size(tmp_path / "a.tif")


# ------------------------------------------------------------------ what notebook 00 shows of a folder


def test_the_look_at_a_data_set_agrees_with_the_registrar_about_every_image(tmp_path):
    """Damaged pixels under a sound header, and floats of no use, are problems; the pictures go on."""
    cv2.imwrite(str(tmp_path / "sound.png"), picture(96, 96))
    whole = cv2.imencode(".png", picture(200, 300))[1].tobytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    values = picture(*HW, dtype=np.float32)
    for name, odd in (("nan", np.nan), ("inf", np.inf), ("big", 1e30)):
        values[5, 5] = odd
        tifffile.imwrite(tmp_path / f"{name}.tif", values)
    moving = ["sound.png", "cut.png", "nan.tif", "inf.tif", "big.tif"]
    pairs = [
        PairRecord(name, name, "CF", "FA", tmp_path / "sound.png", tmp_path / name, H_0to1=np.eye(3)) for name in moving
    ]
    rows, problems = image_rows(pairs)
    assert len(rows) == 6 and len(problems) == 4
    for problem, name in zip(problems, moving[1:], strict=True):
        assert problem.source == str(tmp_path / name)
        with pytest.raises(ImageError) as error:
            as_array(tmp_path / name)
        assert str(error.value) == problem.reason
    shown = pictures(pairs)
    assert len(shown) == 10 and np.array_equal(shown[0], picture(96, 96)) and shown[3].min() < shown[3].max()
    assert with_sound_images(pairs, problems) == pairs[:1]
    assert list(gray_histograms(pairs[:1])) == ["CF", "FA"]
    nothing, _ = image_rows(pairs[:0])
    assert "field of view" in nothing and gray_histograms([]) == {}
