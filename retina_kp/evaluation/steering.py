"""Fit what turns descriptors: for each turn the matrix that does to a network's descriptors what turning the picture
does.

After Bökman, Edstedt, Felsberg and Kahl, "Steerers: a framework for rotation equivariant keypoint descriptors" (CVPR
2024), which calls such a matrix a steerer. Here they are orthogonal, and found for a network trained without.
`keypoints.Features.steered` applies them.
"""

from __future__ import annotations

import numpy as np

from ..core.geometry import image_center, similarity, warp_points
from ..registration.keypoints import STEERED_DEG
from ..registration.registrar import Registrar
from ..synthetic.pairs import draw_pair
from .trials import MOVING

STEERING_SEED = 77_060  # of synthetic pairs that serve nothing else


def fit_steerers(registrar: Registrar, pairs: int = 8) -> np.ndarray:
    """(4, D, D) float32: for each of STEERED_DEG the orthogonal matrix that best carries descriptors of keypoints to
    those at the same places of the picture turned (Procrustes), over ``pairs`` synthetic pairs of each kind; pictures
    of the size that the search begins with."""
    scale, product = registrar.options.search.coarse, [0.0] * len(STEERED_DEG)
    for index in range(pairs):
        for moving in MOVING:
            pair = draw_pair(STEERING_SEED, index, ("CF", moving))
            for views in map(registrar.views, (pair.fixed, pair.moving)):
                upright = views.features(0.0, scale)
                side = int(np.hypot(*views.base_hw) * scale) + 1
                for k, turn in enumerate(STEERED_DEG):
                    H = similarity(turn, scale, image_center(views.base_hw), image_center((side, side)))
                    turned = views.described(H, (side, side), warp_points(upright.keypoints_xy, H))
                    product[k] = product[k] + upright.descriptors.T @ turned
    return np.stack([u @ v for u, _, v in map(np.linalg.svd, product)]).astype(np.float32)
