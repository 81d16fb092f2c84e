"""The viewer as a widget of JupyterLab, Notebook 7, VS Code and Colab."""

from __future__ import annotations

import os

import anywidget
import traitlets
from IPython.display import HTML

from ..core.compute import HEADLESS
from ..core.images import shrink
from ..registration.result import Registration
from .page import embedded, script, style
from .scenes import PAGE_PX, layer, maps_of, overlay_layer, pair_scene
from .session import Session

PREVIEW_PX, VESSELS_PX = 1000, 500  # longer side of the preview of an annotation, and of its overlay


class Viewer(anywidget.AnyWidget):
    """A scene of `scenes`, live. state: what changes with every act; extra: layers and maps that come later."""

    _esm, _css = script(), style()
    scene = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    extra = traitlets.Dict().tag(sync=True)


def compare(fixed, moving, result: Registration, modalities=("", "")) -> Viewer | HTML:
    """Look at a registered pair: side by side, swipe, blend, flicker, checkerboard, overlay, lens.

    fixed, moving: paths or arrays of the registered sizes. In a report, where no kernel runs, it is part of the page.
    """
    if os.environ.get(HEADLESS):
        return HTML(embedded(pair_scene(fixed, moving, result, modalities, PAGE_PX)))
    return Viewer(scene=pair_scene(fixed, moving, result, modalities))


class Annotator(Viewer):
    """Click pairs of points on two images; what a click does is `Session`'s matter."""

    def __init__(self, session: Session):
        super().__init__()
        self.session, self._previewed = session, None
        self._open()
        self.on_msg(lambda _, message, buffers: self.act(message))

    def act(self, message: dict) -> None:
        """Do what the viewer says, and show what comes of it."""
        before = self.session.pair
        self.session.act(message)
        self._show() if self.session.pair is before else self._open()

    def _open(self) -> None:
        pair = self.session.pair
        names = [f"fixed {pair.record.modality0}", f"moving {pair.record.modality1}"]
        layers = dict(zip(("fixed", "moving"), map(layer, pair.images), strict=True))
        with self.hold_sync():
            self.extra, self._previewed = {}, None
            self._show()
            self.scene = {"kind": "annotate", "layers": layers, "maps": {}, "names": names}

    def _show(self) -> None:
        """The state at once, a preview when points have changed."""
        fit = self.session.fit()
        self.state = self.session.state(fit)
        shown = None if fit is None else fit.H_1to0.tolist()
        if shown != self._previewed or not self.extra:
            self._previewed = shown
            layers = {} if fit is None else self._preview(fit)
            self.extra = {"layers": layers, "maps": maps_of(self.session.link(fit))}

    def _preview(self, fit: Registration) -> dict:
        """The moving image warped by the clicks' own transform, and the overlay."""
        (fixed, moving), record = self.session.pair.images, self.session.pair.record
        small0, small1 = shrink(fixed, PREVIEW_PX), shrink(moving, PREVIEW_PX)
        warped = fit.resized(small0.shape[:2], small1.shape[:2]).warp(small1)
        vessels = overlay_layer(fixed, moving, fit, (record.modality0, record.modality1), VESSELS_PX)
        return {"warped": layer(warped, fixed.shape[:2]), "overlay": vessels}
