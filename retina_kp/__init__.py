"""retina_kp: register retinal images across modalities by learned keypoints."""

from .keypoints import Features
from .metrics import PairResult, point_errors, summarise
from .networks import build_network
from .records import Inventory, PairRecord
from .registration import Registrar, RegistrarOptions
from .result import Registration
from .samples import PairOptions, draw_pair
from .synthetic import MODALITIES, render
from .train_config import TrainConfig
from .trainer import Trainer

__version__ = "0.1.0"

__all__ = [
    "MODALITIES", "Features", "Inventory", "PairOptions", "PairRecord", "PairResult", "Registrar", "RegistrarOptions", "Registration",
    "TrainConfig", "Trainer", "build_network", "draw_pair", "point_errors", "render", "summarise",
]  # fmt: skip
