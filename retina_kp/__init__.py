"""retina_kp: register retinal images across modalities by learned keypoints."""

from .core.versions import __version__
from .data.records import Inventory, PairRecord
from .evaluation.metrics import PairResult, point_errors, summarise
from .networks import build_network
from .registration.keypoints import Features
from .registration.options import RegistrarOptions
from .registration.registrar import Registrar
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
    "PairResult",
    "Registrar",
    "RegistrarOptions",
    "Registration",
    "TrainConfig",
    "Trainer",
    "build_network",
    "draw_pair",
    "point_errors",
    "render",
    "summarise",
]
