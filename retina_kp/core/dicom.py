"""DICOM ophthalmic photographs and en face images (pydicom, extra ``dicom``). Of a file only what TAGS names is read:
no name, date of birth or note about a patient is ever in memory, so that none can get into a log or a report."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path

import numpy as np

from .pages import ImageError, Page, chosen, existing_file

PIXEL_DATA = "PixelData"
UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
SPACINGS = ("PixelSpacing", "NominalScreenCapturedPixelSpacing", "ImagerPixelSpacing")
FORM = (
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PlanarConfiguration",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
)
FRAMES = ("SharedFunctionalGroupsSequence",)  # where multi-frame objects keep their pixel spacing
TAGS = [*FORM, *UIDS, *SPACINGS, *FRAMES]
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
GRAYS = ("MONOCHROME1", "MONOCHROME2")
REMEDY = "export it as PNG or TIFF from the device's viewer"


def is_dicom(start: bytes, path: Path) -> bool:
    """Whether a file of these first 132 bytes is DICOM, by its mark or, without one, by its ending."""
    return start[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom")


def dicom_page(path: Path, number: int | None) -> Page:
    """The picture of a DICOM file, or a frame of several by its number from 1. ImageError names what is odd."""
    header = _read(path)
    index = chosen(number, int(header.get("NumberOfFrames") or 1), path, "frames")
    kind, bits = header.get("PhotometricInterpretation"), header.get("BitsAllocated")
    if kind not in (*COLOURS, *GRAYS):
        raise ImageError(f"{path}: DICOM of {kind or 'no'} pixels, which is not read; {REMEDY}")
    if bits not in (8, 16) or header.get("PixelRepresentation"):
        sign = "signed " if header.get("PixelRepresentation") else ""
        raise ImageError(f"{path}: DICOM pixels of {sign}{bits} bits have no known white; {REMEDY}")
    pixel_bytes = int(header.get("SamplesPerPixel") or 1) * bits // 8
    stored = path.stat().st_size // int(header.get("NumberOfFrames") or 1)
    return Page((int(header.Rows), int(header.Columns)), pixel_bytes, stored, partial(_decoded, path, index))


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
    known = {name: str(header.get(name)) for name in UIDS if header.get(name)}
    spacing = _spacing(header)
    return known | {"frame": number or 1} | ({"pixel_spacing_mm": spacing} if spacing else {})


def _spacing(header) -> list[float] | None:
    groups = header.get("SharedFunctionalGroupsSequence") or [{}]
    measures = groups[0].get("PixelMeasuresSequence") or [{}]
    found = measures[0].get("PixelSpacing") or next((header.get(n) for n in SPACINGS if header.get(n)), None)
    return [float(value) for value in found] if found else None


def _read(path: Path, *tags: str):
    """A data set with the wanted tags alone; its own words stay in it, as they may quote a patient's name."""
    try:
        import pydicom
    except ImportError:
        raise ImageError(f"{path}: a DICOM file needs a library: pip install pydicom, or {REMEDY}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=not tags, specific_tags=[*TAGS, *tags], force=True)
            if header.get("Rows") and header.get("Columns"):
                return header
    except Exception:  # a reader may raise anything at bytes that it was not made for
        raise ImageError(f"{path}: damaged, its DICOM header cannot be read; {REMEDY}") from None
    raise ImageError(f"{path}: no DICOM image; {REMEDY}")


def _decoded(path: Path, index: int, divisor: int) -> np.ndarray:
    """`Page.decode`; DICOM is decoded whole. Dark is 0, also in MONOCHROME1; YBR becomes RGB."""
    from pydicom.pixels import pixel_array

    header = _read(path, PIXEL_DATA)
    syntax = getattr(header.file_meta, "TransferSyntaxUID", None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = pixel_array(header, index=index)
    except Exception as error:  # as above, and what a missing codec raises has no type of its own
        missing = isinstance(error, RuntimeError) and "missing" in str(error)
        name = getattr(syntax, "name", "unknown")
        way = f"pip install pylibjpeg[all], or {REMEDY}" if missing else f"copy it again from its source, or {REMEDY}"
        what = "sound, but needs a library" if missing else "damaged, or of another kind than it says"
        raise ImageError(f"{path}: {what} ({name}); {way}") from None
    if header.PhotometricInterpretation == "MONOCHROME1":
        pixels = np.array(2 ** int(header.BitsStored) - 1, pixels.dtype) - pixels
    return pixels
