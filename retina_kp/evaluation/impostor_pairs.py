"""Impostors: images of two eyes, or mirrored ones. Nothing that registers them is right."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..core.images import fitted_hw, to_gray
from ..synthetic.pages import draw_page
from .pairs import Pair, Seen, digest

OTHER, OWN_MIRRORED, OTHER_MIRRORED = "another eye", "its own, mirrored", "another eye, mirrored"  # sorts of impostors
FRAMED = "another eye, on one printed page"


@dataclass(frozen=True)
class ImpostorPair(Pair):
    """The fixed image of one pair with the moving image of another, or a mirrored one: nothing is right."""

    fixed: Pair
    moving: Pair
    what: str = OTHER

    def about(self) -> dict:
        names = {"fixed": self.fixed.about()["pair"], "moving": self.moving.about()["pair"], "what": self.what}
        return self.fixed.about() | names | {"pair": f"{names['fixed']} × {names['moving']}", "genuine": False}

    def load(self) -> Seen:
        moving = self.moving.load().moving
        if self.what == FRAMED:
            fixed = self.fixed.load().fixed
            page = draw_page(np.random.default_rng(int(self.fingerprint()[:12], 16)), fitted_hw(fixed.shape[:2], 640))
            return Seen(
                *(page.around(np.rint(255 * to_gray(image)).astype(np.uint8)) for image in (fixed, moving)), None
            )
        return replace(self.fixed.load(), moving=moving if self.what == OTHER else moving[:, ::-1], truth=None)

    def fingerprint(self) -> str:
        return digest(self.fixed.fingerprint(), self.moving.fingerprint(), self.what)
