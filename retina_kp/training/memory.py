"""The memory of PKE: a value for every place that was ever mined, the labels that it has earned, and their history."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from ..core.dense import carry
from ..core.geometry import known_points, pad_points
from .pke import ROUNDING, PkeOptions, PkeRound, annotation_filter, point_distances, view_filter

WATCHED_SAMPLES, MAX_PAGES = 4, 200  # of a label history, which takes 1 to 10 MB of state.pt when it is full


class Visit(NamedTuple):
    """One sample seen once. found_xy: (M, 2) px of image 0; could_xy: (K, 2), what could have been found again."""

    sample_id: int | str
    found_xy: torch.Tensor
    could_xy: torch.Tensor


class ValueMap:
    """What PKE remembers of each sample: places in image 0's whole frame, which must be the same at every visit. A
    point stays where it was first found, so labels cannot creep. An id "" never returns and is not kept."""

    def __init__(self, options: PkeOptions = PkeOptions()):
        self.options, self._records = options, {}

    def record(self, sample_id: int | str) -> torch.Tensor:
        """(N, 4) float64 on the CPU: x, y px, value, 1 if promoted else 0; N = 0 for an unknown sample."""
        return self._records.get(sample_id, torch.zeros(0, 4, dtype=torch.float64))

    def promoted(self, sample_id: int | str) -> torch.Tensor:
        """(N, 2) float32 px on the CPU: the labels that this sample has earned."""
        record = self.record(sample_id)
        return record[record[:, 3] > 0, :2].float()

    def visit(self, sample_id: int | str, found_xy: torch.Tensor, visible: torch.Tensor) -> None:
        """Book one visit. Recorded points nearest to a found one (M, 2) px, within nms_radius_px, gain. Of the others
        the visible ones, (N,) bool, decay, and vanish below 0. Found points near to no recorded one are new."""
        if type(sample_id) not in (int, str):
            raise TypeError(f"a sample's id is an int or str, not {sample_id!r} of {type(sample_id)}")
        o, record, found = self.options, self.record(sample_id).clone(), found_xy.detach().cpu().double()
        # last column: near to none
        nearest, index = F.pad(point_distances(found, record[:, :2]), (0, 1), value=torch.inf).min(1)
        hit = torch.zeros(len(record), dtype=torch.bool).index_fill(0, index[nearest <= o.nms_radius_px], True)
        record[:, 2] += o.value_gain * hit.double() - o.value_decay * (~hit & visible.cpu()).double()
        record = torch.cat([record, F.pad(F.pad(found[nearest > o.nms_radius_px], (0, 1), value=o.value_gain), (0, 1))])
        value = record[:, 2].clamp_(max=o.value_max)
        stays = (record[:, 3] > 0) & (value >= o.demotion_value - ROUNDING)
        record[:, 3] = (value >= o.promotion_value - ROUNDING) | stays
        record = record[value >= -ROUNDING]
        rank = record[:, 2] + record[:, 3] * (o.value_max + 1)  # promoted ones first, then high values
        best = rank.argsort(descending=True, stable=True)[: o.max_recorded_points]
        if sample_id != "":
            self._records[sample_id] = record[best.sort().values]

    def book(self, visits: list[Visit]) -> None:
        """`visit` after `visit`, of all processes. A place recorded since a visit was made does not decay by it."""
        for v in visits:
            known = point_distances(self.record(v.sample_id)[:, :2], v.could_xy.double()) <= ROUNDING
            self.visit(v.sample_id, v.found_xy, known.any(-1))

    def state_dict(self) -> dict:
        return {"ids": list(self._records), "records": [record.clone() for record in self._records.values()]}

    def load_state_dict(self, state: dict) -> None:
        """ValueError, and nothing is changed, unless a `state_dict` has a record for each id."""
        pairs = zip(state["ids"], state["records"], strict=True)
        self._records = {name: record.detach().cpu().double().clone() for name, record in pairs}


@torch.no_grad()
def visits_of(value_map: ValueMap, round: PkeRound, batch: dict) -> list[Visit]:
    """What a round has to book. A recorded point decays only if it could be found: in view of both images, off the edge
    of image 0's field, not lost to the budget alone. ValueError unless batch["sample_ids"] names every pair."""
    ids, visits, o, rejected = batch.get("sample_ids", ()), [], value_map.options, round.rejected
    if len(ids) != len(rejected):
        words = f"{len(ids)} ids for {len(rejected)} pairs; PKE must recognise each sample"
        raise ValueError(f"batch['sample_ids'] holds {words}")
    for i, sample_id in enumerate(ids):
        valid0, valid1 = (batch[key][i, None] for key in ("valid0", "valid1"))
        recorded = value_map.record(sample_id)[None, :, :2].to(valid0.device, torch.float32)
        visible = view_filter(recorded, valid0, o.border_px + o.nms_radius_px)[0]
        visible &= view_filter(carry(recorded, batch, slice(i, i + 1)), valid1)[0]
        visible &= ~(point_distances(recorded, rejected[i]["budget"][None]) <= o.nms_radius_px).any(-1)[0]
        visits.append(Visit(sample_id, round.points0_xy[i].cpu(), value_map.record(sample_id)[visible.cpu(), :2]))
    return visits


def expand(value_map: ValueMap, batch: dict) -> tuple[torch.Tensor, int]:
    """Labels (B, N, 2) px of image 0, NaN-padded: annotated and promoted points, and how many are promoted ones. Left
    out: promoted points outside the field of view, or within annotation_radius_px of an annotated one."""
    labels, count = [], 0
    for i, sample_id in enumerate(batch["sample_ids"]):
        annotated, valid0 = batch["vessel_keypoints"][i, None], batch["valid0"][i, None]
        promoted = value_map.promoted(sample_id)[None].to(annotated)
        promoted = promoted[view_filter(promoted, valid0) & annotation_filter(promoted, annotated, value_map.options)]
        labels.append(torch.cat([known_points(annotated), promoted]))
        count += len(promoted)
    return pad_points(labels), count


# ------------------------------------------------------------------ the history of a few samples, for notebook 05


class Page(NamedTuple):
    """A sample just after its ``visit``, from 1, in a step of the run, from 0. record as in `ValueMap`, but float32."""

    visit: int
    step: int
    record: torch.Tensor


class LabelHistory:
    """Pages, oldest first, on the samples that a run meets first. When a sample has max_pages, every second one is torn
    out, and from then on only every second (fourth, ...) visit makes a page."""

    def __init__(self, samples: int = WATCHED_SAMPLES, max_pages: int = MAX_PAGES):
        self.samples, self.max_pages, self._visits = samples, max_pages, {}
        self.pages: dict[int | str, list[Page]] = {}

    def note(self, sample_id: int | str, step: int, record: torch.Tensor) -> None:
        """Write down the record (N, 4) that `ValueMap` holds just after a visit; an id "" is not watched."""
        if sample_id == "" or (sample_id not in self.pages and len(self.pages) >= self.samples):
            return
        visit, pages = self._visits.get(sample_id, 0) + 1, self.pages.setdefault(sample_id, [])
        self._visits[sample_id] = visit
        every = pages[1].visit - pages[0].visit if len(pages) > 1 else 1
        if (visit - 1) % every:
            return
        pages.append(Page(visit, step, record.detach().cpu().float().clone()))
        if len(pages) > self.max_pages:
            del pages[1::2]

    def state_dict(self) -> dict:
        return {"visits": dict(self._visits), "pages": {k: [list(p) for p in pages] for k, pages in self.pages.items()}}

    def load_state_dict(self, state: dict) -> None:
        self._visits = dict(state["visits"])
        self.pages = {k: [Page(v, step, r.cpu()) for v, step, r in pages] for k, pages in state["pages"].items()}
