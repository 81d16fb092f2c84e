"""Pictures, all drawn into given axes: those of one registration here, of everything else in the modules of this
wing."""

from ..core.overlays import checkerboard, contrast_stretch, overlay
from .registrations import (
    GREEN,
    YELLOW,
    file_table,
    image_grid,
    picture,
    plot_detector,
    plot_expected_error,
    plot_keypoints,
    plot_matches,
    plot_predictions,
    plot_residuals,
    show,
    table,
)

__all__ = [name for name in dir() if not name.startswith("_")]
