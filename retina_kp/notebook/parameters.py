"""Parameters as people type them, on a command line or in a YAML file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from ..core.files import notebooks_folder, read_text


def typed(text: str, default: Any) -> Any:
    """Command-line text as the type of the parameter's default, left as it is where it cannot be, for the check to
    refuse. Commas part the items of a list."""
    if isinstance(default, str):
        return text
    try:
        value = json.loads({"True": "true", "False": "false"}.get(text, text))
    except ValueError:
        return [item.strip() for item in text.split(",")] if isinstance(default, list) else text
    return [value] if isinstance(default, list) and not isinstance(value, list) else value


def from_here(text: str, default) -> str:
    """A typed parameter, made absolute where it is the path of something that exists, since notebooks run in their own
    folder. A bare word is a path only where the default is empty: "lite" names weights, whatever lies here."""
    path = Path(text).expanduser()
    looks_so = default == "" or path.suffix or len(path.parts) > 1
    return str(path.resolve()) if text and isinstance(default, str) and looks_so and path.exists() else text


def read_parameter_file(path_or_name: str | Path) -> dict[str, Any]:
    """The parameters in a YAML file, given by its path or by its name in notebooks/params."""
    path = Path(path_or_name).expanduser()
    named = notebooks_folder() / "params" / f"{path.stem}.yaml"
    path = path if path.is_file() or not named.is_file() else named
    try:
        found = yaml.safe_load(read_text(path)) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML file: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"{path} holds no parameters: one `name: value` a line is needed")
    return found
