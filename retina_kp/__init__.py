"""retina_kp: register retinal images across modalities by learned keypoints."""

from .core.versions import __version__
from .data.records import Inventory, PairRecord
from .evaluation.metrics import point_errors
from .networks import build_network
from .registration.keypoints import Features
from .registration.registrar import Registrar, RegistrarOptions
from .registration.result import Registration
from .synthetic.pairs import PairOptions, draw_pair
from .synthetic.render import MODALITIES, render
from .training.config import TrainConfig
from .training.trainer import Trainer

__all__ = [
    "__version__",
    "MODALITIES",
    "Features",
    "Inventory",
    "PairOptions",
    "PairRecord",
    "Registrar",
    "RegistrarOptions",
    "Registration",
    "TrainConfig",
    "Trainer",
    "build_network",
    "draw_pair",
    "point_errors",
    "render",
]
