"""retina_kp: register retinal images across modalities by learned keypoints."""

from importlib import import_module

# Public names and the modules that hold them. A name is imported when it is first used, so that a command that
# registers one pair does not wait for what trains networks.
_HOMES = {
    "__version__": "core.compute",
    "MODALITIES": "synthetic.render",
    "Features": "registration.keypoints",
    "Inventory": "data.records",
    "PairOptions": "synthetic.pairs",
    "PairRecord": "data.records",
    "Registrar": "registration.registrar",
    "RegistrarOptions": "registration.options",
    "Registration": "mapping.result",
    "Series": "series.agreement",
    "TrainConfig": "training.config",
    "Trainer": "training.trainer",
    "build_network": "networks",
    "draw_pair": "synthetic.pairs",
    "point_errors": "evaluation.metrics",
    "register_series": "series.register",
    "render": "synthetic.render",
    "summarise": "evaluation.summary",
}
__all__ = list(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
