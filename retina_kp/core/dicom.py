"""DICOM ophthalmic photographs and en face images (pydicom, extra ``dicom``). Of a file only what TAGS names is read:
no name, date of birth or note about a patient is ever in memory, so that none can get into a log or a report."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from .codecs import opencv_pixels
from .files import read_json, write_json
from .pages import ImageError, Page, chosen, existing_file

UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
SPACINGS = ("PixelSpacing", "NominalScannedPixelSpacing", "ImagerPixelSpacing")
SIGN, SHARED = "PixelRepresentation", "SharedFunctionalGroupsSequence"  # where multi-frame files keep their spacing
FORM = [
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PlanarConfiguration", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", SIGN),
]
TAGS = [*FORM, *UIDS, *SPACINGS, SHARED]
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
GRAYS = ("MONOCHROME1", "MONOCHROME2")
OTHERS = ("PALETTE COLOR", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "XYB", "HSV", "ARGB", "CMYK")
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"
# by transfer syntax: what pydicom decodes with other libraries alone
LOSSLESS = dict.fromkeys(JPEG_LOSSLESS, "jpegsof3_decode")
LOSSLESS |= dict.fromkeys(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"), "jpegls_decode")
REMEDY = "export it as PNG or TIFF from the device's viewer"


def is_dicom(start: bytes, path: Path) -> bool:
    """Whether a file of these first 132 bytes is DICOM, by its mark or, without one, by its ending."""
    return start[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


def dicom_page(path: Path, number: int | None) -> Page:
    """The picture of a DICOM file, or a frame of several by its number from 1. ImageError names what is odd."""
    header = _read(path)
    frames = header["NumberOfFrames"]
    index = chosen(number, frames, path, "frames")
    kind, bits, signed = (header.get(name) for name in ("PhotometricInterpretation", "BitsAllocated", SIGN))
    if kind not in (*COLOURS, *GRAYS):
        kind = kind if kind in OTHERS else "unknown"
        raise ImageError(f"{path}: DICOM of {kind} colours, which are not read; {REMEDY}")
    if bits not in (8, 16) or signed:
        raise ImageError(
            f"{path}: DICOM pixels of {bits} bits{' with a sign' * bool(signed)} have no known white; {REMEDY}"
        )
    pixel_bytes, stored = int(header.get("SamplesPerPixel") or 1) * bits // 8, path.stat().st_size // max(frames, 1)
    return Page((header["Rows"], header["Columns"]), pixel_bytes, stored, partial(_decoded, path, index))


def dicom_identity(path: str | Path) -> dict:
    """What tells a DICOM image apart, for those who carry a transform back: its UIDs, frame from 1 and pixel spacing.

    Keys as in the standard, with ``frame`` and ``pixel_spacing_mm`` (between rows, between columns); empty for other
    files.
    """
    path, number = existing_file(path)
    with path.open("rb") as file:
        if not is_dicom(file.read(132), path):
            return {}
    header = _read(path)
    known = {name: str(header[name]) for name in UIDS if re.fullmatch("[0-9.]{1,64}", str(header[name]))}
    known["frame"] = number or 1
    groups = header.get(SHARED) or [{}]
    places = [*(groups[0].get("PixelMeasuresSequence") or ()), header]
    found = next((each[name] for each in places for name in SPACINGS if each.get(name)), None)
    return known | ({"pixel_spacing_mm": [float(value) for value in found]} if found else {})


def add_identities(result: Path, fixed: str | Path, moving: str | Path) -> None:
    """Write into a saved registration (JSON) which DICOM images it is of, under ``dicom``; nothing for other files."""
    known = {"fixed": dicom_identity(fixed), "moving": dicom_identity(moving)}
    if any(known.values()):
        write_json(result, read_json(result) | {"dicom": known})


@contextmanager
def _silent() -> Iterator[None]:
    """Without the words of pydicom: about damaged files it quotes what it reads, which may be a name."""
    log = logging.getLogger("pydicom")
    before, log.disabled = log.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = before


def _read(path: Path) -> dict:
    """The wanted tags by name."""
    try:
        import pydicom
    except ImportError:
        raise ImageError(f"{path}: a DICOM file needs a library: pip install pydicom, or {REMEDY}") from None
    try:
        with _silent():
            data = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=TAGS, force=True)
            header = {name: data.get(name) for name in TAGS}
            header["NumberOfFrames"] = int(header["NumberOfFrames"] or 1)
            if header["Rows"] and header["Columns"]:
                return header
    except Exception:  # a reader may raise anything at bytes that it was not made for
        raise ImageError(f"{path}: damaged, its DICOM header cannot be read; {REMEDY}") from None
    raise ImageError(f"{path}: no DICOM image; {REMEDY}")


def _decoded(path: Path, index: int, divisor: int) -> np.ndarray:
    """`Page.decode`; DICOM is decoded whole. Dark is 0, also in MONOCHROME1; YBR becomes RGB."""
    import pydicom
    from pydicom.encaps import get_frame
    from pydicom.pixels import pixel_array

    syntax = pydicom.uid.ImplicitVRLittleEndian
    try:
        with _silent():
            data = pydicom.dcmread(path, specific_tags=[*FORM, "PixelData"], force=True)
            syntax, count = data.file_meta.TransferSyntaxUID, int(data.get("NumberOfFrames") or 1)
            lossless = syntax in LOSSLESS and data.PhotometricInterpretation in ("RGB", *GRAYS)
            # Pillow, which pydicom asks, passes over complaints, and so do others
            doubtful = syntax == pydicom.uid.JPEGBaseline8Bit or (syntax in JPEG_LOSSLESS and data.BitsAllocated == 8)
            if lossless or doubtful:
                frame = get_frame(data.PixelData, index, number_of_frames=count)
            if doubtful:
                opencv_pixels(np.frombuffer(frame, np.uint8), path)
            pixels = _lossless(frame, data) if lossless else pixel_array(data, index=index)
    except ImageError:
        raise
    except Exception as error:  # as above
        what = "damaged"
        if syntax.is_transfer_syntax and syntax.is_compressed:
            doubt = "sound, but" if isinstance(error, ImportError) or "missing" in str(error) else "damaged, or"
            library = "imagecodecs" if syntax in LOSSLESS else "pylibjpeg[all]"
            what = f"{syntax.name}, {doubt} needs a library, pip install {library}"
        raise ImageError(f"{path}: {what}; {REMEDY}") from None
    if data.PhotometricInterpretation == "MONOCHROME1":
        pixels = np.array(2 ** int(data.BitsStored) - 1, pixels.dtype) - pixels
    return pixels


def _lossless(frame: bytes, data) -> np.ndarray:
    """The pixels of a frame in one of LOSSLESS; ValueError where their size is not what the header says."""
    import imagecodecs

    pixels = getattr(imagecodecs, LOSSLESS[data.file_meta.TransferSyntaxUID])(frame)
    if pixels.shape[:2] != (data.Rows, data.Columns) or pixels.ndim != (3 if data.SamplesPerPixel > 1 else 2):
        raise ValueError(f"{pixels.shape} pixels")
    return pixels
