"""DICOM photographs and en face images: right pixels, the frame that is asked for, and no patient's name anywhere."""

import json
import logging
import sys

import cv2
import numpy as np
import pytest

from retina_kp.core.dicom import add_identities, dicom_identity
from retina_kp.core.files import write_json
from retina_kp.core.images import ImageError, as_array, image_size, read_image
from retina_kp.evaluation.batch import find_jobs, run_jobs
from retina_kp.mapping.result import Registration

pydicom = pytest.importorskip("pydicom", reason="DICOM is an extra: pip install pydicom")
from pydicom.dataset import FileDataset, FileMetaDataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402
from pydicom.pixels import convert_color_space  # noqa: E402
from pydicom.uid import (  # noqa: E402
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    generate_uid,
)

HW, NAME, BORN = (64, 48), "Roe^Richard", "19510203"
GRAY = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, HW, np.uint8), (0, 0), 2)
RGB = np.dstack([GRAY, GRAY[::-1], GRAY[:, ::-1]])


def write_dicom(
    path, pixels, kind="MONOCHROME2", bits=None, frames=1, syntax=ExplicitVRLittleEndian, packed=None, **tags
):
    """A photograph of a patient with a name. packed: frames as a codec wrote them."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = syntax, "1.2.840.10008.5.1.4.1.1.77.1.5.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.FrameOfReferenceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    data.PatientName, data.PatientBirthDate, data.PatientID, data.ImageComments = NAME, BORN, "77", f"{NAME} left"
    data.Rows, data.Columns = HW
    data.SamplesPerPixel, data.PhotometricInterpretation = 1 if kind.startswith("MONO") else 3, kind
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = bits or data.BitsAllocated
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, 0
    if data.SamplesPerPixel == 3:
        data.PlanarConfiguration = 0
    if frames > 1:
        data.NumberOfFrames = frames
    data.PixelData = pixels.tobytes() if packed is None else encapsulate(packed)
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return data


def halved_chroma(rgb):
    """YBR_FULL_422 as it is stored, Y Y B R for two pixels; and the RGB that these stand for."""
    ybr = convert_color_space(rgb, "RGB", "YBR_FULL").reshape(-1, 2, 3)
    stored = np.column_stack([ybr[:, 0, 0], ybr[:, 1, 0], ybr[:, 0, 1], ybr[:, 0, 2]])
    ybr[:, 1, 1:] = ybr[:, 0, 1:]
    return stored, convert_color_space(ybr.reshape(rgb.shape), "YBR_FULL", "RGB")


DEEP = (GRAY.astype(np.uint16) * 16) + 5
STORED_422, SHOWN_422 = halved_chroma(RGB)
KINDS = {
    "gray": (dict(pixels=GRAY), GRAY),
    "12 bit": (dict(pixels=DEEP, bits=12), DEEP),
    "white is 0": (dict(pixels=GRAY, kind="MONOCHROME1"), 255 - GRAY),
    "white is 0, 12 bit": (dict(pixels=DEEP, bits=12, kind="MONOCHROME1"), 4095 - DEEP),
    "RGB": (dict(pixels=RGB, kind="RGB"), RGB),
    "RGB in planes": (dict(pixels=RGB.transpose(2, 0, 1).copy(), kind="RGB", PlanarConfiguration=1), RGB),
    "YBR_FULL_422": (dict(pixels=STORED_422, kind="YBR_FULL_422"), SHOWN_422),
    "one frame that is counted": (dict(pixels=GRAY, NumberOfFrames=1), GRAY),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_the_file_with_dark_as_0(tmp_path, kind):
    told, pixels = KINDS[kind]
    write_dicom(tmp_path / "a.dcm", **told)
    assert np.array_equal(read_image(tmp_path / "a.dcm"), pixels)
    assert image_size(tmp_path / "a.dcm") == HW


def test_ybr_full_is_rgb_but_for_rounding(tmp_path):
    write_dicom(tmp_path / "a.dcm", convert_color_space(RGB, "RGB", "YBR_FULL"), "YBR_FULL")
    assert np.abs(as_array(tmp_path / "a.dcm").astype(int) - RGB).max() <= 2


def test_jpeg_inside_is_decoded_and_its_codecs_complaint_is_damage(tmp_path, capfd):
    content = cv2.imencode(".jpg", RGB[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    told = dict(pixels=RGB, kind="YBR_FULL_422", syntax=JPEGBaseline8Bit)
    write_dicom(tmp_path / "a.dcm", packed=[content], **told)
    assert np.abs(read_image(tmp_path / "a.dcm").astype(int) - RGB).mean() < 3
    write_dicom(tmp_path / "b.dcm", packed=[content[:-2] + bytes(40) + content[-2:]], **told)
    with pytest.raises(ImageError, match="damaged"):
        read_image(tmp_path / "b.dcm")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["gray", "12 bit", "RGB"])
@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless], ids=["lossless JPEG", "JPEG-LS"])
def test_lossless_codecs_inside(tmp_path, monkeypatch, capfd, syntax, kind):
    codecs = pytest.importorskip("imagecodecs", reason="lossless JPEG needs imagecodecs")
    told, pixels = KINDS[kind]
    if syntax == JPEGLSLossless:
        content = codecs.jpegls_encode(pixels)
    else:
        content = codecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=told.get("bits", 8))
    write_dicom(tmp_path / "a.dcm", **told, syntax=syntax, packed=[content, content], frames=2)
    assert np.array_equal(read_image(f"{tmp_path}/a.dcm#2"), pixels)
    write_dicom(tmp_path / "cut.dcm", **told, syntax=syntax, packed=[content[: len(content) // 2]])
    with pytest.raises(ImageError, match="damaged"):
        read_image(tmp_path / "cut.dcm")
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(ImageError, match="sound, but needs a library, pip install imagecodecs"):
        read_image(f"{tmp_path}/a.dcm#1")
    assert capfd.readouterr().err == ""


def test_frames_are_told_by_their_number(tmp_path):
    write_dicom(tmp_path / "a.dcm", np.stack([GRAY, 255 - GRAY, GRAY // 2]), frames=3)
    with pytest.raises(ImageError, match=r"3 frames.*a\.dcm#1"):
        image_size(tmp_path / "a.dcm")
    assert np.array_equal(read_image(f"{tmp_path}/a.dcm#2"), 255 - GRAY)
    with pytest.raises(ImageError, match="no number 4"):
        read_image(f"{tmp_path}/a.dcm#4")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (dict(kind="PALETTE COLOR", SamplesPerPixel=1), "PALETTE COLOR"),
        (dict(PixelRepresentation=1), "8 bits with a sign"),
        (dict(packed=[bytes(99)], syntax=HTJ2KLossless), "sound, but needs.*pylibjpeg"),
        (dict(Rows=9000, Columns=9000), "cannot hold|damaged"),
        (dict(Rows=0), "no DICOM image"),
    ],
    ids=["palette", "sign", "HTJ2K", "short", "none"],
)
def test_what_is_not_read_is_named(tmp_path, told, words, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    write_dicom(tmp_path / "a.dcm", GRAY, **told)
    with pytest.raises(ImageError, match=words) as error:
        read_image(tmp_path / "a.dcm")
    assert str(tmp_path / "a.dcm") in str(error.value)
    assert NAME not in str(error.value) + caplog.text + "".join(capfd.readouterr())


def test_damaged_bytes_are_an_image_error_that_quotes_nothing(tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    write_dicom(tmp_path / "a.dcm", GRAY)
    whole = (tmp_path / "a.dcm").read_bytes()
    for seed in range(60):
        draw, content = np.random.default_rng(seed), bytearray(whole)
        for place in draw.integers(132, 900, 6):
            content[place] = int(draw.integers(256))
        (tmp_path / "b.dcm").write_bytes(content[: draw.integers(1, len(content) + 1)])
        try:
            read_image(tmp_path / "b.dcm")
            told = str(dicom_identity(tmp_path / "b.dcm"))
        except ImageError as error:
            told = str(error)
        assert "Roe" not in told + caplog.text + "".join(capfd.readouterr())


def test_a_result_keeps_uids_and_spacing_and_no_word_about_the_patient(tmp_path):
    data = write_dicom(tmp_path / "a.dcm", GRAY, PixelSpacing=[0.01, 0.012])
    write_dicom(tmp_path / "b.dcm", np.stack([GRAY, GRAY]), frames=2)
    cv2.imwrite(str(tmp_path / "c.png"), GRAY)
    known = dicom_identity(tmp_path / "a.dcm")
    assert known["SOPInstanceUID"] == data.SOPInstanceUID and known["FrameOfReferenceUID"] == data.FrameOfReferenceUID
    assert known["pixel_spacing_mm"] == [0.01, 0.012] and known["frame"] == 1
    assert dicom_identity(tmp_path / "c.png") == {} and dicom_identity(tmp_path / "b.dcm#2")["frame"] == 2
    result = write_json(tmp_path / "r.json", {"status": "ok"})
    add_identities(result, tmp_path / "c.png", tmp_path / "c.png")
    assert json.loads(result.read_text()) == {"status": "ok"}
    add_identities(result, tmp_path / "a.dcm", tmp_path / "c.png")
    assert json.loads(result.read_text()) == {"status": "ok", "dicom": {"fixed": known, "moving": {}}}
    assert not any(word in result.read_text() for word in (*NAME.split("^"), BORN))


def test_the_spacing_of_multi_frame_files_is_found(tmp_path):
    measures, group = pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing, group.PixelMeasuresSequence = [0.02, 0.02], [measures]
    write_dicom(tmp_path / "a.dcm", GRAY, SharedFunctionalGroupsSequence=[group])
    assert dicom_identity(tmp_path / "a.dcm")["pixel_spacing_mm"] == [0.02, 0.02]


def test_a_registered_pair_of_files_keeps_their_uids_and_no_name(tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    for name in ("a.dcm", "b.dcm"):
        write_dicom(tmp_path / name, np.stack([GRAY, 255 - GRAY]), frames=2)

    def registrar(fixed, moving):
        assert np.array_equal(fixed, 255 - GRAY) and np.array_equal(moving, GRAY)
        return Registration("ok", np.eye(3), 0.9, *[np.zeros((0, 2))] * 2, np.zeros(0, bool), HW, HW)

    run_jobs(registrar, find_jobs(f"{tmp_path}/a.dcm#2", f"{tmp_path}/b.dcm#1"), tmp_path / "out")
    (result,) = (tmp_path / "out").glob("*.json")
    assert json.loads(result.read_text())["dicom"] == {
        "fixed": dicom_identity(tmp_path / "a.dcm#2"),
        "moving": dicom_identity(tmp_path / "b.dcm#1"),
    }
    assert Registration.load(result).ok
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert not any(word in written + caplog.text.encode() for word in (b"Roe", b"Richard", BORN.encode()))
