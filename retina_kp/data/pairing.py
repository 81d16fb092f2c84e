"""Which image of one folder belongs to which of another: told by the numbers and words of their names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

from ..core.files import composed

PAIR_BY = ("name", "order")
EYES = dict.fromkeys(("od", "r", "right"), "right eye") | dict.fromkeys(("os", "l", "left"), "left eye")


@dataclass(frozen=True)
class Pairing:
    """Pairs of files (fixed, moving), files without a partner with the reason, and a warning, "" without."""

    pairs: list[tuple[Path, Path]]
    alone: list[tuple[Path, str]]
    warning: str = ""


def pair_files(fixed: Sequence[Path], moving: Sequence[Path], by: str = "name") -> Pairing:
    """Pair the files of two folders by "name" or, as they are given, by "order".

    By name, first those whose names are equal, then those equal up to the ending, then by what tells the names of a
    folder apart, at last by the numbers in that. Where nothing agrees the order decides, and the warning says so.
    ValueError where the order has to decide and the counts differ.
    """
    if by not in PAIR_BY:
        raise ValueError(f"pair_by: takes {' or '.join(PAIR_BY)}, not {by!r}")
    folders = [str(paths[0].parent) if paths else "an empty folder" for paths in (fixed, moving)]
    pairs = _by_name(fixed, moving) if by == "name" else []
    if not pairs:
        if len(fixed) != len(moving):
            counts = f"{folders[0]} holds {len(fixed)} images and {folders[1]} {len(moving)}"
            raise ValueError(f"{counts}: where names do not agree there must be as many, in the same order by name")
        words = f"no name in {folders[0]} agrees with one in {folders[1]}, so their order decides: check every pair"
        return Pairing(list(zip(fixed, moving, strict=True)), [], words if by == "name" and fixed else "")
    wrong = {file: (a, b) for a, b in pairs if {_eye(a), _eye(b)} == {*EYES.values()} for file in (a, b)}
    good = {file for pair in pairs for file in pair} - set(wrong)
    alone = []
    for paths, other in zip((fixed, moving), reversed(folders), strict=True):
        for path in paths:
            if path in wrong:
                alone.append((path, f"{wrong[path][0].name} and {wrong[path][1].name} are of different eyes"))
            elif path not in good:
                alone.append((path, f"no partner: no name in {other} agrees, or several do"))
    warning = f"{len(alone)} images have no partner, such as {alone[0][0]}" if alone else ""
    return Pairing([pair for pair in pairs if pair[0] in good], alone, warning)


def _by_name(fixed: Sequence[Path], moving: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pairs whose names agree, in the order of the fixed ones."""
    telling = _telling(fixed, moving) | _telling(moving, fixed)
    numbers = {path: tuple(word for word in words if isinstance(word, int)) for path, words in telling.items()}
    names, stems = ({path: composed(getattr(path, part)).casefold() for path in telling} for part in ("name", "stem"))
    partner: dict[Path, Path] = {}
    for keys in (names, stems, telling, numbers):
        taken = set(partner.values())
        left = _groups([path for path in fixed if path not in partner], keys)
        right = _groups([path for path in moving if path not in taken], keys)
        partner |= {left[key][0]: right[key][0] for key in left if len(left[key]) == len(right.get(key, ())) == 1}
    return [(path, partner[path]) for path in fixed if path in partner]


def _groups(paths: Sequence[Path], keys: Mapping[Path, Hashable]) -> dict[Hashable, list[Path]]:
    """Files by key, those without one left out."""
    groups = defaultdict(list)
    for path in paths:
        if keys[path]:
            groups[keys[path]].append(path)
    return groups


def _words(path: Path) -> tuple[str | int, ...]:
    """Words and numbers of a name, 001 the same as 1 and OD as R."""
    found = re.findall(r"\d+|[^\W\d_]+", composed(path.stem).casefold())
    return tuple(int(word) if word.isdecimal() else EYES.get(word, word) for word in found)


def _telling(paths: Sequence[Path], others: Sequence[Path]) -> dict[Path, tuple]:
    """What tells the names of a folder apart: without what stands in all of them, which is the kind of image."""
    words = {path: _words(path) for path in paths}
    if len(paths) > 1 and len({len(own) for own in words.values()}) == 1:
        varies = [len(set(column)) > 1 for column in zip(*words.values(), strict=True)]
        return {path: tuple(compress(own, varies)) for path, own in words.items()}
    shared = set.intersection(*(set(own) for own in words.values())) if words else set()
    shared -= {word for path in others for word in _words(path)}
    if len(paths) == len(others) == 1:
        shared = {word for word in shared if isinstance(word, str)}
    return {path: tuple(word for word in own if word not in shared) for path, own in words.items()}


def _eye(path: Path) -> str:
    return next((word for word in _words(path) if word in EYES.values()), "")
