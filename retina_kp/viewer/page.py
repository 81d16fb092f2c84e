"""The viewer as part of an HTML page: the same code as in a notebook, no kernel, no network."""

from __future__ import annotations

import base64
import json
import uuid
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
# In this order they make one ES module.
NAMES = ("maps", "layers", "pane", "modes", "screen", "stage", "annotate", "charts", "explore", "start")


@cache
def script() -> str:
    """The viewer's code, an ES module that exports `render` (of a widget) and `show` (of a page)."""
    return "\n".join((FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in NAMES)


@cache
def style() -> str:
    return (FOLDER / "viewer.css").read_text(encoding="utf-8")


def embedded(scene: dict) -> str:
    """HTML of a viewer with a scene of `scenes` inside; to be put into any page."""
    name = f"retina-{uuid.uuid4().hex[:10]}"
    data = json.dumps(scene, default=lambda content: base64.b64encode(content).decode()).replace("</", "<\\/")
    code = script().partition("export default")[0]
    return (
        f'<style>{style()}</style><div id="{name}"><noscript>This view needs JavaScript.</noscript></div>'
        f'<script type="module">{code}\nshow(document.getElementById("{name}"), {data});</script>'
    )
