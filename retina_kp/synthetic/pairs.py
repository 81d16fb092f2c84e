"""Whole synthetic image pairs with exact truth, for the demo, validation and benchmarks, and folders in layout 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from ..core.geometry import image_center, inside, lattice, overlap_fraction, similarity, warp_points
from ..core.images import write_image
from ..data.augment import AppearanceRange, apply_field_of_view, random_field_of_view, randomise_appearance
from .cameras import Camera, RoundOptions, best_affine, round_cameras, shows_retina
from .drawing import view_matrix, visible_junctions
from .render import make_scene, render
from .vasculature import REACH_DEG, GrowthOptions, Retina, grow_retina
from .wide_looks import wide_field

# What good clinical pictures show; training uses the harsher AppearanceRange() so that it covers more than reality.
CLINICAL = AppearanceRange(
    invert_probability=0.0,
    gamma=1.3,
    bias_field=0.35,
    vignetting=0.3,
    noise_sigma=0.025,
    speckle_sigma=0.08,
    blur_sigma_px=1.2,
    banding=0.015,
    dropout_probability=0.1,
    saturation_probability=0.05,
    text_probability=0.1,
)
AFFINE_SAMPLES = 40  # along each side, to which the affine transform of a round pair is fitted


@dataclass(frozen=True)
class PairOptions:
    """How synthetic pairs are made."""

    size_px: int = 768  # side of both square images
    rotation_deg: float = 180.0  # largest relative turn; its size is uniform, its sense either
    min_rotation_deg: float = 0.0
    scale: tuple[float, float] = (0.6, 1.7)  # of a structure in the moving image over the fixed one, log-uniform
    min_overlap: float = 0.5  # common area over the smaller of the two fields
    max_overlap: float = 1.0
    max_shift: float = 0.3  # of one image's middle against the other's along either axis, in widths of the wider field
    shear: float = 0.02
    fixed_field_deg: tuple[float, float] = (30.0, 55.0)  # but for wide looks, which bring their own
    macular_field_deg: tuple[float, float] = (14.0, 28.0)  # both images' fields when the moving one is OCTA
    appearance: AppearanceRange = CLINICAL
    eye: RoundOptions | None = None  # None: a flat retina, and H_0to1 tells all
    reach_deg: float = REACH_DEG  # of the vessels from the fovea
    laser_probability: float = 0.0  # chance of an eye full of scars of laser treatment


# Up to the far periphery: 80° to 130° seen from the eye point are 116° to 182° from the middle of the eyeball.
ULTRAWIDE = PairOptions(
    scale=(0.8, 1.25),
    max_shift=0.15,  # such cameras are seldom steered further
    fixed_field_deg=(80.0, 130.0),
    macular_field_deg=(50.0, 90.0),
    eye=RoundOptions(laws=("equidistant", "stereographic")),
    reach_deg=78.0,
)


@dataclass(frozen=True)
class SamplePair:
    """A pair with its truth.

    fixed, moving: (H, W, 3) or (H, W) uint8; H_0to1: fixed px → moving px, of a round eye the best affine
    one over what both show; vessel_mask0: (H, W) bool; junctions0_xy: (J, 2) px, in the field of view; valid0, valid1:
    (H, W) bool fields of view; overlap in [0, 1]; cameras: of a round eye, None where H_0to1 is exact.
    """

    fixed: np.ndarray
    moving: np.ndarray
    H_0to1: np.ndarray
    vessel_mask0: np.ndarray
    junctions0_xy: np.ndarray
    valid0: np.ndarray
    valid1: np.ndarray
    modalities: tuple[str, str]
    overlap: float
    cameras: tuple[Camera, Camera] | None = field(default=None, kw_only=True)

    def to_moving(self, points0_xy: np.ndarray) -> np.ndarray:
        """Where points (N, 2) of the fixed image truly lie in the moving one, px; NaN where its camera sees nothing."""
        if self.cameras is None:
            return warp_points(points0_xy, self.H_0to1)
        return self.cameras[1].project(self.cameras[0].unproject(points0_xy))

    def to_fixed(self, points1_xy: np.ndarray) -> np.ndarray:
        """The inverse of `to_moving`, as exact."""
        if self.cameras is None:
            return warp_points(points1_xy, np.linalg.inv(self.H_0to1))
        return self.cameras[0].project(self.cameras[1].unproject(points1_xy))

    def shown_by_both(self, samples: int) -> np.ndarray:
        """(N, 2) px of the fixed image: those of a lattice with samples² points that both fields of view hold."""
        xy = lattice(self.valid0.shape, samples)
        return xy[_read(self.valid0, xy) & _read(self.valid1, self.to_moving(xy))]


def draw_pair(
    seed: int, index: int, modalities: tuple[str, str] = ("CF", "FA"), options: PairOptions = PairOptions()
) -> SamplePair:
    """Pair number ``index`` of a seed: a new retina seen by two cameras. Same arguments, same pair."""
    rng = np.random.default_rng([seed, index, 7])
    g = torch.Generator().manual_seed(int(rng.integers(2**62)))
    growth = GrowthOptions(reach_deg=options.reach_deg, laser_probability=options.laser_probability)
    if wide := wide_field(modalities):
        growth, options = wide.growth(growth), replace(options, fixed_field_deg=wide.field_deg)
    retina, hw = grow_retina(rng, growth), (options.size_px, options.size_px)
    for _ in range(200):
        views, cameras = _flat_views(rng, retina, modalities, options), None
        H_0to1 = views[1] @ np.linalg.inv(views[0])
        valid = random_field_of_view(2, hw, g, whole=0.3)
        if options.eye is None:
            common = _common_area(H_0to1, valid[0, 0].numpy(), valid[1, 0].numpy())
        else:
            cameras = views = round_cameras(views, hw, options.eye, rng)
            valid &= torch.from_numpy(np.stack([shows_retina(camera, hw) for camera in cameras]))[:, None]
            common = _common_share(cameras, valid[:, 0].numpy())
        if options.min_overlap <= common <= options.max_overlap:
            break
    else:
        wanted = f"no cameras with an overlap of {options.min_overlap:g} to {options.max_overlap:g} found in 200 tries"
        raise RuntimeError(f"{wanted}: change the scale range, max_shift, or these limits")
    scene, looks = make_scene([retina, retina], views, hw), options.appearance
    images = [photograph(m, scene[i : i + 1], valid[i : i + 1], g, looks) for i, m in enumerate(modalities)]
    junctions = visible_junctions(retina, views[0], hw, 1.2)[0]
    mask, v0, v1 = scene.vessels[0, 0].numpy(), valid[0, 0].numpy(), valid[1, 0].numpy()
    junctions = junctions[_read(v0, junctions)]
    truth = (H_0to1 / H_0to1[2, 2], mask & v0, junctions, v0, v1)
    pair = SamplePair(*images, *truth, tuple(modalities), float(common), cameras=cameras)
    if cameras is None:
        return pair
    shown = pair.shown_by_both(AFFINE_SAMPLES)
    return replace(pair, H_0to1=best_affine(shown, pair.to_moving(shown)))


def _flat_views(rng, retina: Retina, modalities, o: PairOptions) -> tuple[np.ndarray, np.ndarray]:
    """Degrees → px of two flat cameras whose relative turn, scale and offset are random."""
    hw = (o.size_px, o.size_px)
    macular = any("OCTA" in modality for modality in modalities)
    field = rng.uniform(*(o.macular_field_deg if macular else o.fixed_field_deg))
    looks_at = retina.disc_xy * (rng.uniform(-0.05, 0.15) if macular else rng.uniform(0.1, 0.6)) + rng.normal(0, 1.0, 2)
    view0 = view_matrix(hw, field, tuple(looks_at), rng.uniform(-8, 8))
    scale = float(np.exp(rng.uniform(*np.log(o.scale))))
    target = np.array(image_center(hw)) + rng.uniform(-o.max_shift, o.max_shift, 2) * o.size_px * max(scale, 1)
    turn = rng.uniform(-1, 1)
    angle = turn * (o.rotation_deg - o.min_rotation_deg) + np.copysign(o.min_rotation_deg, turn)
    relative = similarity(angle, scale, image_center(hw), target)
    shear = np.eye(3)
    shear[:2, :2] += rng.uniform(-o.shear, o.shear, (2, 2))
    return view0, relative @ shear @ view0


def _common_area(H_0to1: np.ndarray, valid0: np.ndarray, valid1: np.ndarray, samples: int = 40) -> float:
    """Area that both see over the smaller of the two fields, measured in the fixed frame."""
    h, w = valid0.shape
    scale2 = abs(np.linalg.det(H_0to1[:2, :2]))
    if overlap_fraction(H_0to1, valid0.shape, valid1.shape) == 0:
        return 0.0
    xy = lattice(valid0.shape, samples)
    own = _read(valid0, xy)
    both = own & _read(valid1, warp_points(xy, H_0to1))
    area0, area1 = own.mean() * h * w, valid1.mean() * valid1.size / scale2
    return float(both.mean() * h * w / max(min(area0, area1), 1))


def _common_share(cameras: Sequence[Camera], valid: np.ndarray, samples: int = 40) -> float:
    """Share of the smaller field of view, valid: (2, H, W), that the other one holds too."""
    shares, xy = [], lattice(valid.shape[1:], samples)
    for own, other in ((0, 1), (1, 0)):
        seen = xy[_read(valid[own], xy)]
        both = _read(valid[other], cameras[other].project(cameras[own].unproject(seen)))
        shares.append(both.sum() / max(len(seen), 1))
    return float(max(shares))


def _read(mask: np.ndarray, xy: np.ndarray) -> np.ndarray:
    index = np.rint(np.nan_to_num(xy, nan=-1e6)).astype(int)
    seen = inside(index, mask.shape)
    result = np.zeros(len(xy), bool)
    result[seen] = mask[index[seen, 1], index[seen, 0]]
    return result


def photograph(
    modality: str, scene, valid: torch.Tensor, g: torch.Generator, appearance: AppearanceRange
) -> np.ndarray:
    """Render and expose one image; a colour image gets the same treatment in every channel."""
    picture, channels = render(modality, scene, g), []
    state = g.get_state()
    for channel in picture.split(1, 1):
        g.set_state(state)
        channels.append(apply_field_of_view(randomise_appearance(channel, g, appearance), valid, g, appearance)[0, 0])
    image = (torch.stack(channels, -1).numpy() * 255 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(image if image.shape[-1] == 3 else image[..., 0])


def write_aligned_folder(root: str | Path, count: int, seed: int = 0, size_px: int = 512) -> Path:
    """Write ``count`` aligned retinas in layout 1: ROOT/<n>_N/<n>_N_{cf,fa,oct,seg}.png. Returns ROOT.

    The macula is drawn larger as {cf_clip,octa,seg_clip}.png. Each of the two groups shows one structure in one frame.
    """
    root, hw = Path(root), (size_px, size_px)
    for index in range(count):
        rng = np.random.default_rng([seed, index, 8])
        g = torch.Generator().manual_seed(int(rng.integers(2**62)))
        retina = grow_retina(rng)
        whole = view_matrix(hw, rng.uniform(35, 50), tuple(0.4 * retina.disc_xy))
        macula = view_matrix(hw, rng.uniform(*PairOptions().macular_field_deg))
        name = f"{index + 1}_N"
        for view, images, mask in (
            (whole, {"cf": "CF", "fa": "FA", "oct": "OCT"}, "seg"),
            (macula, {"cf_clip": "CF", "octa": "OCTA"}, "seg_clip"),
        ):
            scene = make_scene([retina], [view], hw)
            valid = random_field_of_view(1, hw, g, whole=1.0)
            for suffix, modality in images.items():
                write_image(root / name / f"{name}_{suffix}.png", photograph(modality, scene, valid, g, CLINICAL))
            write_image(root / name / f"{name}_{mask}.png", scene.vessels[0, 0].numpy())
    return root
