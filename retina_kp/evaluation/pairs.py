"""What can be measured: pairs of images with or without a truth, as a Protocol; synthetic pairs, one by one and in
grids, and impostors, which are images of two eyes. Real pairs have a module of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np

from ..core.files import to_plain
from ..core.geometry import corners, describe, warp_points
from ..mapping.result import Registration
from ..synthetic.pairs import PairOptions, SamplePair, draw_pair
from ..synthetic.render import RENDERERS

MOVING = ("FA", "OCT", "OCTA")  # kinds of synthetic pairs by the moving image beside CF; "OCT-FA" is one without CF
GRID_SEED = 77_007  # of grids; never used for training or calibration
AS_TAKEN = "as taken"  # stress of a pair that nothing was done to
DENSE_SAMPLES = 20  # along each side of the fixed image, where round pairs are judged
FIT = "annotation fit"  # name of the method that answers with the annotation's own transform


@dataclass(frozen=True, eq=False)
class Truth:
    """Where points1 of the moving image belong in the fixed one, (N, 2) px each; H_0to1: (3, 3) fixed → moving px.
    annotated: the points are spots of the retina that somebody clicked. dense: a pair whose every point is known, where
    H_0to1 is but the best affine one."""

    points1: np.ndarray
    points0: np.ndarray
    H_0to1: np.ndarray
    annotated: bool = False
    dense: SamplePair | None = None

    def to_fixed(self, points1: np.ndarray) -> np.ndarray:
        """Moving px (N, 2) → fixed px, as well as is known."""
        return self.dense.to_fixed(points1) if self.dense else warp_points(points1, np.linalg.inv(self.H_0to1))

    def to_moving(self, points0: np.ndarray) -> np.ndarray:
        """Fixed px (N, 2) → moving px, as well as is known."""
        return self.dense.to_moving(points0) if self.dense else warp_points(points0, self.H_0to1)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a method sees of a pair, images HxW or HxWx3, and what it is judged by."""

    fixed: np.ndarray
    moving: np.ndarray
    truth: Truth | None


class Pair(Protocol):
    """A pair to measure."""

    def about(self) -> dict:
        """Columns of every row: pair, eye, kind (fixed-moving), category, stress, factors, genuine, and more."""

    def load(self) -> Seen:
        """Images and truth; ValueError or OSError says why the pair cannot be used."""

    def more(self, seen: Seen, result: Registration, method: str) -> dict:
        """Further columns of the row of a method's answer."""
        return {}

    def fingerprint(self) -> str:
        """Changes with images, truth and names."""


def names_of(pair: str, eye: str, kind: str, category: str = "") -> dict:
    """Columns that rows of all kinds of pairs have."""
    row = {"pair": pair, "eye": eye, "kind": kind, "category": category}
    return row | {"stress": AS_TAKEN, "factors": {}, "genuine": True}


def digest(*parts) -> str:
    """SHA-256 of parts that have a JSON form."""
    return hashlib.sha256(json.dumps(to_plain(parts), sort_keys=True).encode()).hexdigest()


def modalities(kind: str) -> tuple[str, str]:
    """Fixed and moving modality of a kind of pairs: CF and FA of "FA", OCT and FA of "OCT-FA". ValueError for one that
    cannot be drawn."""
    fixed, _, moving = kind.rpartition("-")
    unknown = [name for name in (fixed or "CF", moving) if name not in RENDERERS]
    if unknown:
        known = ", ".join(RENDERERS)
        raise ValueError(f"no modality {unknown[0]!r}; there are {known}, and pairs of them such as OCT-FA")
    return fixed or "CF", moving


@dataclass(frozen=True)
class SyntheticPair(Pair):
    """Pair number ``index`` of a seed and kind (`modalities`), with exact truth, or a given one. A flat pair is judged
    at the corners of the moving image, a round one densely, all over what both images show. place: names of its factor
    and bin in a grid."""

    seed: int = 0
    index: int = 0
    kind: str = "FA"
    options: PairOptions = PairOptions()
    place: tuple[str, str] = ("", "")
    given: SamplePair | None = None

    @property
    def _sample(self) -> SamplePair:
        return self.given or _drawn(self.seed, self.index, modalities(self.kind), self.options)

    def about(self) -> dict:
        kind = "-".join(self.given.modalities if self.given else modalities(self.kind))
        row = names_of(f"{kind} {self.index}", f"{self.seed} {self.index}", kind)
        return row | {"factor": self.place[0], "bin": self.place[1], "index": self.index}

    def load(self) -> Seen:
        pair = self._sample
        if pair.cameras is None:
            points1 = corners(pair.moving.shape[:2])
            truth = Truth(points1, pair.to_fixed(points1), pair.H_0to1)
        else:
            points0 = pair.shown_by_both(DENSE_SAMPLES)
            truth = Truth(pair.to_moving(points0), points0, pair.H_0to1, dense=pair)
        return Seen(pair.fixed, pair.moving, truth)

    def more(self, seen: Seen, result: Registration, method: str) -> dict:
        """How hard the pair is: turn, scale (fixed → moving) and overlap."""
        shape = describe(self._sample.H_0to1, seen.fixed.shape[:2])
        return {"angle_deg": abs(shape.angle_deg), "scale": shape.scale, "overlap": self._sample.overlap}

    def fingerprint(self) -> str:
        given = self.given and [self.given.fixed, self.given.moving, self.load().truth.points1]
        return digest(self.seed, self.index, self.kind, asdict(self.options), given)


@lru_cache(maxsize=2)  # several methods see one pair after the other
def _drawn(seed: int, index: int, names: tuple[str, str], options: PairOptions) -> SamplePair:
    return draw_pair(seed, index, names, options)


def synthetic_pairs(
    seed: int, count: int, options: PairOptions = PairOptions(), kinds=MOVING, place=("", "")
) -> list[SyntheticPair]:
    """Pairs 0 to count - 1 of a seed, of one kind after the other."""
    return [SyntheticPair(seed, index, kind, options, place) for kind in kinds for index in range(count)]


# ------------------------------------------------------------------ grids

# What does not vary is easy; no shear, so that a method whose model is a similarity can reach the truth too.
EASY = PairOptions(rotation_deg=10.0, scale=(0.9, 1.1), min_overlap=0.7, shear=0.0)
WIDER_DEG, WIDER_MACULAR_DEG = (45.0, 55.0), (30.0, 40.0)  # fields of view of the wider image where scales differ
ANGLES = (0.0, 15.0, 30.0, 60.0, 90.0, 135.0, 180.0)  # deg, to either side
SCALES = (1 / 3, 1 / 2, 1 / 1.5, 1.0, 1.5, 2.0, 3.0)  # size of a structure in the moving image : in the fixed one
OVERLAPS = (0.25, 0.5, 0.75, 1.0)  # limits of bins: common area over the smaller field of view
CROSSED = ((0.0, 30.0, 90.0, 180.0), (1 / 3, 1 / 2, 1.0, 2.0, 3.0), (0.25, 0.5, 1.0))  # turns, scales, overlaps
TOGETHER, AND = "all three", ", "


@dataclass(frozen=True)
class Cell:
    """One place of a grid. label: of its bin, e.g. "90°", "1/2", "25–50 %", or all three with AND between them."""

    factor: str
    label: str
    options: PairOptions


def angle_cells(angles_deg: Iterable[float] = ANGLES, easy: PairOptions = EASY) -> list[Cell]:
    """Cells of exactly these turns."""
    at = {f"{angle:g}°": {"rotation_deg": float(angle), "min_rotation_deg": float(angle)} for angle in angles_deg}
    return [Cell("angle", label, replace(easy, **turn)) for label, turn in at.items()]


def scale_cells(scales: Iterable[float] = SCALES, easy: PairOptions = EASY) -> list[Cell]:
    """Cells of exactly these scales. The wider image keeps a camera's usual field, the other one shows a part of it,
    enlarged."""
    cells = []
    for scale in map(float, scales):
        fixed, macular = (tuple(deg * min(scale, 1.0) for deg in wider) for wider in (WIDER_DEG, WIDER_MACULAR_DEG))
        options = replace(easy, scale=(scale, scale), fixed_field_deg=fixed, macular_field_deg=macular)
        cells.append(Cell("scale", f"{scale:.3g}" if scale >= 1 else f"1/{1 / scale:.3g}", options))
    return cells


def overlap_cells(limits: Sequence[float] = OVERLAPS, easy: PairOptions = EASY) -> list[Cell]:
    """Cells between neighbouring limits; the least common area comes first."""
    cells = []
    for low, high in zip(limits[:-1], limits[1:], strict=True):
        shift = easy.max_shift if low >= 0.5 else 0.6  # so far apart do images with little in common lie
        options = replace(easy, min_overlap=low, max_overlap=high, max_shift=shift)
        cells.append(Cell("overlap", f"{100 * low:g}–{100 * high:g} %", options))
    return cells


def crossed_cells(turns=CROSSED[0], scales=CROSSED[1], limits=CROSSED[2], easy: PairOptions = EASY) -> list[Cell]:
    """Cells of every turn with every scale and every overlap."""
    return [
        Cell(TOGETHER, AND.join((angle.label, scale.label, overlap.label)), overlap.options)
        for scale in scale_cells(scales, easy)
        for angle in angle_cells(turns, scale.options)
        for overlap in overlap_cells(limits, angle.options)
    ]


FACTORS = {"angle": angle_cells, "scale": scale_cells, "overlap": overlap_cells, TOGETHER: crossed_cells}


def grid_pairs(cells: Iterable[Cell], count: int, kinds: Sequence[str] = MOVING, seed=GRID_SEED) -> list[SyntheticPair]:
    """``count`` pairs of each kind and cell; one number is one retina in all cells. ValueError for a kind that cannot
    be drawn."""
    for kind in kinds:
        modalities(kind)
    places = [(cell.options, kinds, (cell.factor, cell.label)) for cell in cells]
    return [pair for place in places for pair in synthetic_pairs(seed, count, *place)]


def fits(row: Mapping, options: PairOptions) -> bool:
    """Whether a measured pair is as a cell's options ask: turn, scale and overlap within their limits."""
    turned = options.min_rotation_deg - 0.01 <= row["angle_deg"] <= options.rotation_deg + 0.01
    scaled = options.scale[0] * 0.999 <= row["scale"] <= options.scale[1] * 1.001
    return turned and scaled and options.min_overlap <= row["overlap"] <= options.max_overlap
