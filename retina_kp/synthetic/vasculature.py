"""Grow a retina as vectors: two vessel trees, disc, fovea and lesions, in degrees of visual angle.

The fovea is at (0, 0), x points to the right and y down. `drawing` shows a retina in any view with exact junctions.
All tips of both trees grow together, one step at a time, as arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from ..core.vessels import BIFURCATION, CROSSING
from .lesions import laser_scars, random_lesions

ARTERY, VEIN = 0, 1
REACH_DEG = 36.0  # vessels further than this from the fovea are not grown, unless told otherwise
_TURNS_RAD, _REACH_STEPS = np.array([0.0, -0.3, 0.3, -0.65, 0.65]), np.array([2.2, 3.6, 5.5])  # where a tip looks ahead
_AROUND = np.array([[x, y] for x in (-1.4, 0, 1.4) for y in (-1.4, 0, 1.4)])  # cells that a vessel claims, in steps
_CENTER = (_AROUND == 0).all(1)


@dataclass(frozen=True)
class GrowthOptions:
    """How a retina is grown; ranges are (low, high) and drawn once per retina."""

    step_deg: float = 0.3  # length of one growth step
    reach_deg: float = REACH_DEG
    trunk_radius_deg: tuple[float, float] = (0.16, 0.27)  # half width at the disc; veins are 15 % wider
    min_radius_deg: float = 0.028  # thinner vessels end
    tortuosity: tuple[float, float] = (0.015, 0.06)  # random turn per step, rad
    branch_spacing: tuple[float, float] = (0.8, 2.0)  # multiplies the distance between side branches
    foveal_zone_deg: tuple[float, float] = (0.8, 1.9)  # radius of the avascular zone
    lesion_probability: float = 0.5  # chance that a retina has lesions at all
    laser_probability: float = 0.0  # chance that its periphery is full of the scars of laser treatment


@dataclass(frozen=True)
class Retina:
    """One retina as vectors, degrees. segments: (N, 4) x0 y0 x1 y1, sorted thin to thick; junctions_xy: (J, 2), with
    the width of the thinner vessel; lesions: (L, 5) layer, x, y, r, seed."""

    segments: np.ndarray
    segment_kind: np.ndarray
    segment_width_deg: np.ndarray
    junctions_xy: np.ndarray
    junction_kind: np.ndarray
    junction_width_deg: np.ndarray
    lesions: np.ndarray
    disc_xy: np.ndarray
    disc_radius_deg: float
    foveal_zone_deg: float


def grow_retina(rng: np.random.Generator, options: GrowthOptions = GrowthOptions()) -> Retina:
    """Draw one random retina (right or left eye). Same generator state, same retina."""
    disc = np.array([rng.choice([-1, 1]) * rng.uniform(14.0, 17.0), rng.uniform(-2.5, 0.8)])
    zone = rng.uniform(*options.foveal_zone_deg)
    segments, widths, kinds, branches, fork_xy, fork_width = _grow_trees(rng, options, disc, zone)
    crossing_xy, crossing_width = _crossings(segments, widths, branches, fork_xy)
    junctions = np.concatenate([fork_xy, crossing_xy])
    junction_width = np.concatenate([fork_width, crossing_width])
    junction_kind = np.repeat([BIFURCATION, CROSSING], [len(junctions) - len(crossing_xy), len(crossing_xy)])
    radius = rng.uniform(2.4, 3.2)
    clear = np.linalg.norm(junctions - disc, axis=1) > 0.75 * radius  # vessels pile up inside: no landmark there
    order = np.argsort(widths, kind="stable")
    lesions = random_lesions(rng, disc) if rng.random() < options.lesion_probability else np.zeros((0, 5))
    if options.laser_probability and rng.random() < options.laser_probability:
        lesions = np.vstack([lesions, laser_scars(rng, options.reach_deg)])
    vessels = (part[order] for part in (segments, kinds, widths))
    landmarks = (part[clear] for part in (junctions, junction_kind, junction_width))
    return Retina(*vessels, *landmarks, lesions, disc, radius, zone)


def _grow_trees(rng, options, disc, zone):
    """Segments (N, 4) of both trees, their widths, kinds and branches; bifurcations (J, 2) and child widths (J,)."""
    trunks = [_trunks(rng, options, disc, kind) for kind in (ARTERY, VEIN)]
    tips = {k: np.concatenate([t[k] for t in trunks]) for k in trunks[0]}
    tips["id"] = np.arange(len(tips["id"]))
    h, reach, cells = options.step_deg, options.reach_deg, int(2 * options.reach_deg / options.step_deg)
    tortuosity, spacing = rng.uniform(*options.tortuosity, 2), rng.uniform(*options.branch_spacing, 2)  # per kind
    owner = np.full((2, cells, cells), -1, np.int32)  # per kind: which branch has passed through a cell
    parents, births, steps = tips["id"].tolist(), [], []
    for _ in range(int(1.5 * reach / h)):
        if not len(tips["id"]):
            break
        start = tips["xy"].copy()
        blocked = _steer(tips, rng, h, reach, owner, np.asarray(parents), disc, tortuosity)
        tips["xy"] = tips["xy"] + h * np.stack([np.cos(tips["heading"]), np.sin(tips["heading"])], -1)
        steps.append(np.column_stack([start, tips["xy"], tips["radius"], tips["id"], tips["kind"]]))
        _mark(owner, tips, h, reach)
        tips["length"] += h
        tips["countdown"] -= h
        tips["radius"] = tips["radius"] * np.where(tips["length"] > tips["budget"], 0.95, 0.9985)
        children = _branch(tips, rng, spacing, reach, parents, births)
        if children:
            tips = {k: np.concatenate([tips[k], children[k]]) for k in tips}
        away = np.linalg.norm(tips["xy"], axis=1)
        alive = (tips["radius"] > options.min_radius_deg) & (away < reach - 1)
        alive &= away > zone * rng.uniform(0.85, 1.15, len(away))
        alive[: len(blocked)] &= ~blocked
        if not alive.all():
            tips = {k: v[alive] for k, v in tips.items()}
    return _collect(np.concatenate(steps), parents, births, h)


def _trunks(rng, options, disc, kind):
    """The first vessels at the disc: an arcade up and down on the temporal side, two nasal ones, some small ones."""
    temporal = -np.sign(disc[0])
    rows = []
    for vertical in (-1, 1):
        y, apex = rng.uniform(0.8, 1.6), rng.uniform(6.0, 10.5)  # arcade height below or above the fovea
        t = abs(disc[0]) * (y / apex) ** 2  # on the parabola t = t_fovea (y / apex)²
        rows.append((temporal * t, vertical * y, np.arctan2(vertical * y, temporal * 2 * t), 1.0))
        angle = np.radians(rng.uniform(25, 70))
        x, y = -temporal * np.cos(angle), vertical * np.sin(angle)
        rows.append((x, y, np.arctan2(y, x), rng.uniform(0.55, 0.85)))
    for _ in range(rng.integers(0, 4)):  # small vessels straight to the macula or to the nasal side
        angle = rng.uniform(-0.5, 0.5)
        x, y = temporal * rng.choice([1, -1], p=[0.7, 0.3]) * np.cos(angle), np.sin(angle)
        rows.append((x, y, np.arctan2(y, x), rng.uniform(0.3, 0.5)))
    (x, y, heading, size), n = np.array(rows).T, len(rows)
    width = rng.uniform(*options.trunk_radius_deg) * size * (1.15 if kind == VEIN else 1.0)
    fresh = {"id": np.arange(n), "kind": np.full(n, kind), "length": np.zeros(n), "drift": np.zeros(n)}
    return fresh | {
        "xy": disc + np.stack([x, y], 1),
        "heading": heading,
        "radius": width * rng.uniform(0.85, 1.1, n),
        "budget": np.where(size > 0.5, 40.0, 14.0) * options.reach_deg / REACH_DEG,
        "countdown": rng.uniform(1.5, 4.0, n),
        "side": rng.choice([-1.0, 1.0], n),
        "trunk": np.where(size > 0.5, 1.0, 0.3),
    }


def _steer(tips, rng, h, reach, owner, parents, disc, tortuosity):
    """Turn every tip along the flow, drifting, away from vessels of its kind; (N,) True where it is blocked."""
    n = len(tips["id"])
    flow = _flow(tips["xy"], disc, tips["trunk"])
    wanted = np.angle(np.exp(1j * (flow - tips["heading"])))
    tips["drift"] = 0.85 * tips["drift"] + tortuosity[tips["kind"]] * rng.standard_normal(n)
    gain = np.where(tips["trunk"] > 0.5, 0.22, 0.05)
    heading = tips["heading"] + gain * np.clip(wanted, -1, 1) + tips["drift"]
    ahead = (heading[:, None] + _TURNS_RAD)[..., None]
    probe = tips["xy"][:, None, None] + np.stack([np.cos(ahead), np.sin(ahead)], -1) * (h * _REACH_STEPS[:, None])
    found = owner[(tips["kind"][:, None, None], *_cell(probe, h, reach, owner.shape[1]))]
    own = (found < 0) | (found == tips["id"][:, None, None])
    young = (tips["length"] < 8 * h)[:, None, None] & (found == parents[tips["id"]][:, None, None])
    cost = ~(own | young) @ np.array([4.0, 2.0, 1.0]) + 0.2 * np.abs(_TURNS_RAD)
    best = cost.argmin(1)
    tips["heading"] = heading + _TURNS_RAD[best] * 0.7
    return cost[np.arange(n), best] >= 4.0


def _flow(xy, disc, trunk):
    """Direction (rad) in which vessels run at xy. Arcades are parabolas about the disc-fovea axis (t along it, y
    across); nasal vessels are radial. Side branches run to the fovea inside the arcades, and away from it outside."""
    temporal = -np.sign(disc[0])
    t, y = (xy[:, 0] - disc[0]) * temporal, xy[:, 1] - disc[1]
    inwards = np.clip((t - abs(disc[0])) / 20, 0, 0.35)  # beyond the fovea arcades bend back to the horizontal raphe
    parabola = np.arctan2(y - inwards * np.sign(y) * t, temporal * 2 * np.maximum(t, 0.2))
    along = np.where(t > 0.2, parabola, np.arctan2(y, temporal * t))
    arcade = 8.5 * np.sqrt(np.maximum(t, 0) / abs(disc[0]))
    inner = (np.abs(y) < arcade) & (t > 1.0)
    to_fovea = np.arctan2(-xy[:, 1], -xy[:, 0])
    side = np.where(inner, to_fovea, np.arctan2(xy[:, 1] - 0.5 * disc[1], xy[:, 0] - 0.3 * disc[0]))
    return np.where(trunk > 0.5, along, side)


def _branch(tips, rng, spacing, reach, parents, births):
    """Where a tip's countdown has run out, let a child sprout. Calibres keep r³ = r₁³ + r₂³ (Murray 1926)."""
    index = np.flatnonzero((tips["countdown"] <= 0) & (tips["radius"] > 0.03))
    if not (n := len(index)):
        return {}
    spacing = spacing[tips["kind"][index]]
    fork = rng.random(n) < 0.18
    share = np.where(fork, rng.uniform(0.68, 0.85, n), rng.uniform(0.3, 0.62, n))
    radius, side = tips["radius"][index], tips["side"][index] * np.where(rng.random(n) < 0.75, -1, 1)
    child_radius = radius * share
    tips["radius"][index] = radius * (1 - share**3) ** (1 / 3)
    child_angle = side * np.where(fork, rng.uniform(0.35, 0.7, n), rng.uniform(0.75, 1.4, n))
    base = tips["heading"][index]
    tips["heading"][index] = base - side * np.where(fork, rng.uniform(0.25, 0.5, n), 0.4 * share**2)
    tips["side"][index] = side
    tips["countdown"][index] = spacing * (1.3 + 6 * radius) * rng.uniform(0.6, 1.7, n)
    ids = len(parents) + np.arange(n)
    born = {key: tips[key][index] for key in tips}
    parents.extend(born["id"].tolist())
    births.extend(zip(ids, born["id"], born["xy"], 2 * child_radius, born["length"], strict=True))
    born |= {"id": ids, "heading": base + child_angle, "radius": child_radius}
    born |= {"length": np.zeros(n), "drift": np.zeros(n)}
    born["budget"] = (4 + 110 * child_radius * rng.uniform(0.6, 1.4, n)) * reach / REACH_DEG
    born["countdown"] = spacing * (1.2 + 5 * child_radius) * rng.uniform(0.6, 1.7, n)
    born["side"] = rng.choice([-1.0, 1.0], n)
    born["trunk"] = np.where(fork & (rng.random(n) < 0.35), born["trunk"], 0.3)
    return born


def _collect(steps, parents, births, h, shortest_deg=0.9):
    """Drop spurs shorter than shortest_deg; keep the bifurcations both of whose branches live on."""
    length = np.bincount(steps[:, 5].astype(int), minlength=len(parents)) * h
    spur = np.zeros(len(parents), bool)
    spur[[b[0] for b in births]] = [length[b[0]] < shortest_deg for b in births]
    kept = [b for b in births if not spur[b[0]] and length[b[1]] - b[4] > 0.6]
    steps = steps[~spur[steps[:, 5].astype(int)]]
    xy, width = np.array([b[2] for b in kept]).reshape(-1, 2), np.array([b[3] for b in kept])
    return steps[:, :4], 2 * steps[:, 4], steps[:, 6].astype(int), steps[:, 5].astype(int), xy, width


def _crossings(segments, widths, branches, forks, min_angle_deg=20.0, clear_deg=0.35):
    """Exact points (C, 2) where two branches cross at more than min_angle_deg, and the thinner one's width (C,). None
    is nearer than clear_deg to a bifurcation, because a child touches its parent where it is born."""
    start, step = segments[:, :2], segments[:, 2:] - segments[:, :2]
    reach = np.linalg.norm(step, axis=1).max()
    pairs = cKDTree(start + step / 2).query_pairs(reach, output_type="ndarray")
    i, j = pairs[branches[pairs[:, 0]] != branches[pairs[:, 1]]].T
    r, q, d = step[i], step[j], start[j] - start[i]
    cross = r[:, 0] * q[:, 1] - r[:, 1] * q[:, 0]
    safe = np.where(np.abs(cross) < 1e-12, np.inf, cross)
    t, u = (d[:, 0] * q[:, 1] - d[:, 1] * q[:, 0]) / safe, (d[:, 0] * r[:, 1] - d[:, 1] * r[:, 0]) / safe
    sine = np.abs(cross) / (np.linalg.norm(r, axis=1) * np.linalg.norm(q, axis=1))
    hit = (t >= 0) & (t < 1) & (u >= 0) & (u < 1) & (sine > np.sin(np.radians(min_angle_deg)))
    points, width = (start[i] + t[:, None] * r)[hit], np.minimum(widths[i], widths[j])[hit]
    far = cKDTree(forks).query(points)[0] >= clear_deg if len(forks) and len(points) else np.ones(len(points), bool)
    return points[far], width[far]


def _mark(owner, tips, h, reach):
    """Write branch ids into the cells at the tips and the free ones around: vessels of a kind keep their distance."""
    where = (tips["kind"][:, None], *_cell(tips["xy"][:, None] + h * _AROUND, h, reach, owner.shape[1]))
    ids = np.broadcast_to(tips["id"][:, None], where[1].shape)
    owner[where] = np.where((owner[where] < 0) | _CENTER, ids, owner[where])


def _cell(xy, h, reach, cells):
    index = np.clip(((xy + reach) / h).astype(int), 0, cells - 1)
    return index[..., 1], index[..., 0]
