"""Configuration: frozen dataclasses from plain dicts and back; an unknown key or a wrong type raises, with a hint."""

from __future__ import annotations

import difflib
import types
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from .files import to_plain

T = TypeVar("T")


def from_dict(cls: type[T], values: dict[str, Any], where: str = "") -> T:
    """Build a (nested) config dataclass; ValueError names the field, what it got and what it takes."""
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}
    built = {}
    for key, value in _need(values, dict, where.rstrip(".") or cls.__name__).items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]}?" if near else f"it has {sorted(known)}"
            raise ValueError(f"{where}{key}: {cls.__name__} has no such field; {hint}")
        built[key] = _convert(hints[key], value, f"{where}{key}")
    missing = [k for k, f in known.items() if k not in built and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise ValueError(f"{where}{missing[0]}: {cls.__name__} needs a value for it")
    return cls(**built)


def to_dict(config) -> dict[str, Any]:
    """A config as plain JSON types; `from_dict` gives the same config back."""
    return to_plain(config)


def differences(a: dict, b: dict, where: str = "") -> list[str]:
    """Keys, dotted, in which two plain configs differ, with both values."""
    found = []
    for key in sorted(set(a) | set(b)):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += differences(left, right, f"{where}{key}.")
        elif left != right:
            found.append(f"{where}{key}: {left!r} → {right!r}")
    return found


def _convert(kind, value, where: str):
    """value as ``kind``, or ValueError."""
    origin, inner = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return value if isinstance(value, kind) else from_dict(kind, value, where + ".")
    if origin is tuple:
        items = _need(value, (list, tuple), where)
        kinds = [inner[0]] * len(items) if len(inner) == 2 and inner[1] is Ellipsis else list(inner)
        if len(kinds) != len(items):
            raise ValueError(f"{where}: takes {len(kinds)} values, got {len(items)}")
        return tuple(_convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, items, strict=True)))
    if origin is list:
        return [_convert(inner[0], v, f"{where}[{i}]") for i, v in enumerate(_need(value, (list, tuple), where))]
    if origin in (Union, types.UnionType):
        return _convert_any(inner, value, where)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):  # an int is fine for a float
        return float(value)
    return _need(value, origin or kind, where)


def _convert_any(kinds, value, where: str):
    """value as the first of several kinds that takes it; its exact type is tried first."""
    errors = []
    for kind in sorted(kinds, key=lambda k: k is not type(value)):
        try:
            return _convert(kind, value, where)
        except ValueError as error:
            errors.append(str(error))
    parts = [error.partition("; ") for error in errors]
    hints = dict.fromkeys(hint for _, _, hint in parts if hint)
    raise ValueError("; ".join(["; or ".join(said for said, _, _ in parts), *hints]))


def _need(value, kind, where: str):
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        hint = "; YAML takes 1e-3 for text, write 1.0e-3" if float in kinds and isinstance(value, str) else ""
        if str in kinds and isinstance(value, (int, float)):
            hint = f"; text that looks like a number is quoted: with papermill -y '{where}: \"{value}\"'"
        if {list, tuple} & {*kinds} and isinstance(value, (str, int, float)):
            hint = f"; a list is written in brackets: with papermill -y '{where}: [{value}]'"
        raise ValueError(f"{where}: takes {names}, got {value!r}{hint}")
    return value
