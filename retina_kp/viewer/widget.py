"""The viewer as a widget of JupyterLab, Notebook 7, VS Code and Colab."""

from __future__ import annotations

import os
from collections.abc import Sequence

import anywidget
import traitlets
from IPython.display import HTML

from ..core.compute import HEADLESS
from ..core.images import shrink
from ..mapping.result import Registration
from ..registration.registrar import Registrar
from ..training.diagnosis import WatchedSample
from ..training.pke import PkeOptions
from ..viz.gallery import Shown
from .explorers import labels_scene, matches_scene, pairs_scene
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


def shown(scene: dict) -> Viewer | HTML:
    """A scene live, or in a report, where no kernel runs, as part of the page."""
    return HTML(embedded(scene)) if _in_report() else Viewer(scene=scene)


def compare(fixed, moving, result: Registration, modalities=("", "")) -> Viewer | HTML:
    """Look at a pair: side by side, and if registered swipe, blend, flicker, checkerboard, overlay, lens. fixed, moving:
    paths or arrays of the registered sizes; reports have smaller copies."""
    return shown(pair_scene(fixed, moving, result, modalities, _side_px()))


def explore_matches(registrar: Registrar, fixed, moving, result: Registration, modalities=("", "")) -> Viewer | HTML:
    """Look at a pair's matches: hold the pointer on a line to see both patches, and why it was kept or dropped."""
    return shown(matches_scene(registrar, fixed, moving, result, modalities, PAGE_PX))


def explore_labels(sample: WatchedSample, steps_per_epoch: int, options: PkeOptions = PkeOptions()) -> Viewer | HTML:
    """Turn the pages of a sample's label history; click a place to see its life."""
    return shown(labels_scene(sample, steps_per_epoch, options))


def _in_report() -> bool:
    return bool(os.environ.get(HEADLESS))


def _side_px() -> int | None:
    return PAGE_PX if _in_report() else None


class PairExplorer(Viewer):
    """All pairs of an evaluation as dots of a chart; the one that is clicked is shown. ValueError without pairs."""

    def __init__(self, pairs: Sequence[Shown]):
        super().__init__()
        self.pairs = list(pairs)
        self.act({"k": 0})
        self.on_msg(lambda _, message, buffers: self.act(message))

    def act(self, message: dict) -> None:
        """Show pair k of a message."""
        self.scene = pairs_scene(self.pairs, message["k"], PAGE_PX)


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
