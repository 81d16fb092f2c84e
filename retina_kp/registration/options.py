"""Settings of a `Registrar`. Base px: those of the image scaled so that its field of view covers base_px² pixels."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ..core.config import from_dict
from ..mapping.transforms import MODELS
from .keypoints import KeypointOptions

BENDING = ("auto", "elastic")  # models that start as an affine and then follow the eye


@dataclass(frozen=True)
class SearchOptions:
    """Where the moving image may lie, told from small pictures."""

    coarse: float = 0.6  # size of the small pictures, px per base px
    stages: int = 4  # 4: any turn and scale; 1: any turn at like scale; 0: as the images lie
    search_threshold_px: float = 6.0  # agreement with a similarity, px of the small pictures
    nearby_per_stage: int = 4  # hypotheses whose features are matched again nearby
    nearby_strength: float = 6.0  # beneath it none of them is settled
    settled_per_stage: int = 3  # hypotheses that are matched again, the moving image warped into the fixed frame
    settle_radius_px: float = 20.0  # base px that a hypothesis may be off
    settle_threshold_px: float = 8.0  # base px
    clear_strength: float = 4.0  # a hypothesis this strong is settled before another view is tried
    promising_strength: float = 8.0  # a settled hypothesis this strong is looked at closely at once, others at the end
    judged_strength: float = 7.0  # beneath it none of these others is looked at
    judged_at_end: int = 3  # of these others
    judged_agreement: float = 0.12  # of the maps of a settled one; right ones reach .2 and more, wrong ones seldom .15

    def __post_init__(self):
        if self.stages not in range(5):
            raise ValueError(f"stages: the search has 0 to 4, not {self.stages}")


@dataclass(frozen=True)
class CloseupOptions:
    """Both images, large, where they overlap. Lengths in base px but for close_px."""

    close_px: float = 560.0  # square root of the picture's area
    close_radius_px: float = 12.0
    close_threshold_px: float = 3.0
    clear_share: float = 0.6  # where fewer of the matches agree, a second start is tried: the fit of a wide radius
    wide_radius_px: float = 30.0
    wide_gain: float = 1.05  # the second start needs so many times the inliers of the first


@dataclass(frozen=True)
class RefinementOptions:
    """The last pixels. Lengths in px of the close pictures."""

    polish_radius_px: float = 20.0  # of the last pass of models that the maps do not refine
    polish_threshold_px: float = 4.0  # agreement in the end
    redraw_px: float = 8.0  # the moving image is warped again if its corners moved farther


@dataclass(frozen=True)
class RegistrarOptions:
    """All settings. The fields of the groups are known by their own names, too: see `registrar_options`."""

    model: str = "auto"  # of BENDING, or of transforms.MODELS
    base_px: float = 460.0
    sure_confidence: float = 0.97  # a candidate this sure ends the search
    doubtful_confidence: float = 0.002  # below it the last stage is not tried
    again_below: float = 0.97  # results that are less sure are judged anew by the map that the last stage has found
    min_confidence: float = 0.5  # below it a result is refused: it is more likely wrong than right
    min_inliers: int = 7
    min_contrast: float = 0.004  # standard deviation of gray levels below which an image counts as blank
    search: SearchOptions = field(default_factory=SearchOptions)
    closeup: CloseupOptions = field(default_factory=CloseupOptions)
    refinement: RefinementOptions = field(default_factory=RefinementOptions)
    keypoints: KeypointOptions = field(default_factory=KeypointOptions)

    def __post_init__(self):
        if self.model not in (*BENDING, *MODELS):
            raise ValueError(f"unknown model {self.model!r}; there are {', '.join((*BENDING, *MODELS))}")

    @property
    def fitted(self) -> str:
        """The model that is fitted to matches."""
        return "affine" if self.model in BENDING else self.model


GROUPS = {"search": SearchOptions, "closeup": CloseupOptions, "refinement": RefinementOptions}


def registrar_options(**options) -> RegistrarOptions:
    """`RegistrarOptions` from fields of it and of its groups; ValueError names an unknown one and its nearest
    spelling."""
    nested = dict(options)
    for group, kind in GROUPS.items():
        own = {f.name: nested.pop(f.name) for f in fields(kind) if f.name in nested}
        if own:
            nested[group] = dict(nested.get(group, {})) | own
    return from_dict(RegistrarOptions, nested)
