"""An annotation of a folder of pairs: what clicks do, what it says about them, and which clicks would help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from ..core.geometry import inside, resize_matrix, warp_points
from ..core.images import as_array, shrink, to_gray
from ..core.vessels import field_of_view_mask, local_contrast, skeleton_junctions, vessel_mask
from ..data.annotation import MIN_SPREAD, fitted_model, fixed_residuals, spread, true_homography
from ..data.clicks import ClickFolder
from ..data.records import PairRecord
from ..evaluation.methods import as_registration
from ..mapping.result import Registration

JUNCTIONS_PX = 512  # longer side of the copies on which junctions are looked for
SIGMAS_PX, CONTRAST_PX = (1.0, 2.0), 10.0  # of vessels there, and of what they stand out from
SUGGESTIONS = 3
MARGIN = 0.03  # of the longer side: how far suggestions keep from the frame, where skeletons end, and from points
FIXED, MOVING = slice(0, 2), slice(2, 4)  # columns of clicks


class OpenPair:
    """A pair under annotation: its images, the transform to start from, junctions, and the history of its clicks."""

    def __init__(self, record: PairRecord, points: np.ndarray, start: Registration | None):
        self.record, self.points, self.start = record, points, start
        self.images = as_array(record.image0), as_array(record.image1)
        self._junctions: dict[int, np.ndarray] = {}
        self.past: list[np.ndarray] = []
        self.future: list[np.ndarray] = []

    @property
    def sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return self.images[0].shape[:2], self.images[1].shape[:2]

    def junctions(self, side: int) -> np.ndarray:
        """Junctions of vessels (N, 2) px of the fixed (side 0) or moving (1) image."""
        if side not in self._junctions:
            image = self.images[side]
            small = shrink(to_gray(image), JUNCTIONS_PX)
            field = field_of_view_mask(small)
            detail = local_contrast(small, field.astype(np.float32), CONTRAST_PX)
            polarity = "bright" if (detail**3).sum() > 0 else "dark"  # vessels are the skewed tail
            found, _ = skeleton_junctions(vessel_mask(small, field, polarity, sigmas_px=SIGMAS_PX))
            self._junctions[side] = warp_points(found, resize_matrix(small.shape, image.shape))
        return self._junctions[side]

    @cached_property
    def moving_field(self) -> np.ndarray:
        """(H, W) bool: where the moving image shows retina."""
        return field_of_view_mask(to_gray(self.images[1]))

    def change(self, points: np.ndarray) -> None:
        self.past.append(self.points)
        self.future.clear()
        self.points = points

    def travel(self, back: bool) -> None:
        """Undo, or redo."""
        here, there = (self.past, self.future) if back else (self.future, self.past)
        if here:
            there.append(self.points)
            self.points = here.pop()

    def snapped(self, side: int, xy: Sequence[float], reach_px: float) -> np.ndarray:
        """The nearest junction within reach_px, or the place itself."""
        xy, known = np.asarray(xy, np.float64), self.junctions(side)
        distance = np.linalg.norm(known - xy, axis=1)
        return known[distance.argmin()] if len(known) and distance.min() <= reach_px else xy

    def suggestions(self, found: Registration | None) -> np.ndarray:
        """Up to SUGGESTIONS junctions (N, 2) px of the fixed image that both images show, each as far as can be from all
        points so far and from those before it: a transform is least sure far from its points."""
        places = self.junctions(0)
        places = places[inside(places, self.sizes[0], MARGIN * max(self.sizes[0]))]
        if found is not None and found.ok:
            there, seen = found.map_to_moving(places), self.moving_field
            places, there = (xy[inside(there, seen.shape, MARGIN * max(seen.shape))] for xy in (places, there))
            x, y = np.rint(there).astype(int).T
            places = places[seen[y, x]]
        clicked = self.points[np.isfinite(self.points[:, 0]), FIXED]
        distance = np.full(len(places), np.inf)
        for xy in clicked if len(clicked) else [np.array(self.sizes[0][::-1]) / 2]:
            distance = np.minimum(distance, np.linalg.norm(places - xy, axis=1))
        chosen = []
        while len(chosen) < SUGGESTIONS and distance.max(initial=0) > MARGIN * max(self.sizes[0]):
            chosen.append(places[distance.argmax()])
            distance = np.minimum(distance, np.linalg.norm(places - chosen[-1], axis=1))
        return np.array(chosen).reshape(-1, 2)


class Session:
    """The annotation of many pairs, one after the other. Every act is on disk when it returns, see `ClickFolder`.

    start: registers two image files, as a `Registrar` does; by its result a click on one image proposes its partner.
    ValueError without records.
    """

    def __init__(
        self, records: Sequence[PairRecord], folder, start: Callable[[Path, Path], Registration] | None = None
    ):
        if not records:
            raise ValueError("there is no pair to annotate")
        self.records, self.files, self.start, self.snap = list(records), ClickFolder(folder, records), start, False
        undone = (k for k, r in enumerate(records) if not self.files[r.pair_id].verdict)
        self.open(next(undone, 0))

    def open(self, index: int) -> None:
        """Go to a pair; its clicks so far come from the disk."""
        self.index = index % len(self.records)
        record = self.records[self.index]
        start = self.start(record.image0, record.image1) if self.start else None
        self.pair, self.said = OpenPair(record, self.files[record.pair_id].points, start), ""

    # -------------------------------------------------------------- acts

    def act(self, message: dict) -> None:
        """Do what a message of the viewer says; {"do": one of the methods' names below, …}."""
        acts = {"click", "move", "delete", "undo", "redo", "snapping", "go", "judge"}
        if message.get("do") not in acts:
            raise ValueError(f"unknown message {message!r}; do: one of {', '.join(sorted(acts))}")
        self.said = ""
        getattr(self, message["do"])(**{key: value for key, value in message.items() if key != "do"})

    def click(self, side: int, xy: Sequence[float], reach: float = 0.0) -> None:
        """A place px of the fixed (side 0) or moving (1) image: it completes the half pair, or begins or moves one.
        reach: px within which it snaps to a junction, where that is on."""
        if not inside(np.asarray(xy, np.float64), self.pair.sizes[side], -0.5):
            self.said = "That place is outside the image."
            return
        points, columns = self.pair.points.copy(), (FIXED, MOVING)[side]
        half = np.flatnonzero(~np.isfinite(points).all(1))
        if not len(half):
            points, half = np.vstack([points, np.full((1, 4), np.nan)]), [len(points)]
        points[half[0], columns] = self._placed(side, xy, reach)
        self._keep(points)

    def move(self, k: int, side: int, xy: Sequence[float], reach: float = 0.0) -> None:
        """Point k of one image to another place px."""
        points = self.pair.points.copy()
        points[k, (FIXED, MOVING)[side]] = self._placed(
            side, np.clip(xy, 0, np.array(self.pair.sizes[side][::-1]) - 1), reach
        )
        self._keep(points)

    def delete(self, k: int) -> None:
        """Both sides of a point."""
        self._keep(np.delete(self.pair.points, k, 0))

    def undo(self) -> None:
        self.pair.travel(back=True)
        self._save()

    def redo(self) -> None:
        self.pair.travel(back=False)
        self._save()

    def snapping(self, on: bool) -> None:
        """Whether clicks snap to junctions."""
        self.snap = on

    def go(self, by: int) -> None:
        """So many pairs on, or back."""
        self.open(self.index + by)

    def judge(self, verdict: str) -> None:
        """Accept or reject the pair, and go to the next one; "" takes the verdict back, and stays."""
        self._save(verdict)
        if verdict:
            self.go(1)

    def _placed(self, side: int, xy, reach: float) -> np.ndarray:
        place = self.pair.snapped(side, xy, reach) if self.snap else np.asarray(xy, np.float64)
        return place.round(3)

    def _keep(self, points: np.ndarray) -> None:
        self.pair.change(points)
        self._save()

    def _save(self, verdict: str | None = None) -> None:
        pair_id = self.pair.record.pair_id
        before = self.files[pair_id]
        verdict = before.verdict if verdict is None else verdict
        self.files.save(pair_id, replace(before, points=self.pair.points, verdict=verdict))

    # -------------------------------------------------------------- what it says

    def fit(self) -> Registration | None:
        """The transform of the clicked points; None where they define none."""
        try:
            H_0to1 = true_homography(self.files.record(self.pair.record.pair_id))
        except ValueError as error:
            self.said = self.said or (str(error).partition(": ")[2] if len(self.pair.points) > 2 else "")
            return None
        return as_registration(np.linalg.inv(H_0to1), *self.pair.sizes)

    def link(self, fit: Registration | None) -> Registration | None:
        """What leads from one image to the other: the start where there is one, else the clicks' own transform."""
        return self.pair.start if self.pair.start is not None and self.pair.start.ok else fit

    def state(self, fit: Registration | None) -> dict:
        """All that the viewer shows besides images, in plain types. fit: of `fit`."""
        record, files = self.pair.record, self.files
        clicks, known = files[record.pair_id], files.record(record.pair_id)
        residuals, complete = np.full(len(clicks.points), np.nan), clicks.complete
        model, residual_px, spread_share = "", np.inf, 0.0
        if complete.sum() >= 3:
            residuals[complete] = fixed_residuals(known)
            model, residual_px = fitted_model(known)
            spread_share = spread(known.points0_xy) / max(self.pair.sizes[0])
        told = np.isfinite(residuals)
        verdicts = [files[r.pair_id].verdict for r in self.records]
        return {
            "points": [[None if np.isnan(v) else float(v) for v in row] for row in clicks.points],
            "residuals": [float(v) if np.isfinite(v) else None for v in residuals],
            "worst": int(np.nanargmax(np.where(told, residuals, np.nan))) if told.any() else None,
            "model": model,
            "residual": round(residual_px, 2) if np.isfinite(residual_px) else None,
            "spread": round(spread_share, 3),
            "least_spread": MIN_SPREAD,
            "suggestions": self.pair.suggestions(self.link(fit)).round(1).tolist(),
            "snap": self.snap,
            "undo": len(self.pair.past),
            "redo": len(self.pair.future),
            "place": [self.index + 1, len(self.records)],
            "name": record.pair_id,
            "verdict": clicks.verdict,
            "accepted": verdicts.count("accepted"),
            "rejected": verdicts.count("rejected"),
            "not_used": files.why_not(record.pair_id),
            "start": "" if self.pair.start is None else self.pair.start.status,
            "said": self.said,
        }
