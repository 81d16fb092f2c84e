"""An executed notebook as one HTML file to mail: pictures inside, no scripts but the viewer's, no network, readable on
paper."""

from __future__ import annotations

import base64
import io
import re
from html import escape
from pathlib import Path

import nbformat

from ..core.files import write_text

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
OPTIONAL = "when-shown"  # tag of a cell that may show nothing
# Text stands above its figures. Wide tables scroll on a screen, and are small on paper, with all of their columns.
STYLE = """<style>
.jp-InputPrompt, .jp-OutputPrompt {display: none}
body {max-width: 1000px; margin: auto}
.jp-OutputArea-output, .jp-MarkdownOutput {overflow-x: auto}
.jp-OutputArea-output td:first-child {white-space: nowrap !important}
@media print {
  body, .jp-Notebook {max-width: none; margin: 0; padding: 0}
  .jp-Cell, .jp-OutputArea-child, .jp-OutputArea-output, .jp-RenderedHTMLCommon
  {overflow: visible !important; padding: 0}
  .jp-RenderedHTMLCommon table {font-size: 7pt; table-layout: auto; width: 100%}
  .jp-RenderedHTMLCommon th, .jp-RenderedHTMLCommon td {padding: 1px 2px; overflow-wrap: anywhere}
  .jp-RenderedHTMLCommon tr, img {break-inside: avoid}
}
</style>"""
PICTURE = """{%% block data_%s scoped %%}<div class="jp-RenderedImage jp-OutputArea-output" tabindex="0">
<img src="data:image/%s;base64,{{ output.data['image/%s'] | escape_html }}"
alt="{{ output.metadata.get('image/%s', {}).get('alt', 'a figure') | escape_html }}"></div>{%% endblock %%}"""
# the lab page without the scripts that it would fetch from the network
SCRIPTS = ("html_head_js", "html_head_js_mathjax", "html_head_js_mermaidjs", "jupyter_widgets")
TEMPLATE = "".join(
    [
        "{% extends 'index.html.j2' %}{% block html_head_css %}{{ super() }}" + STYLE + "{% endblock %}",
        *(f"{{% block {name} %}}{{% endblock %}}" for name in SCRIPTS),
        *(PICTURE % (short, kind, kind, kind) for short, kind in (("png", "png"), ("jpg", "jpeg"))),
    ]
)
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$`\w])\$(?![\s$])([^$\n`]+?)(?<![\s\\])\$(?![\w$`])", re.DOTALL)
NOTEBOOK_LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:)[^)\s]*\.ipynb\)")


def to_html(executed: str | Path, html: str | Path) -> Path:
    """Write an executed notebook as such a file, without its code.

    Live widgets are left out, and so are cells tagged OPTIONAL that show nothing, with the text above them. Links to
    other notebooks become their words, and formulas become pictures.
    """
    from nbconvert import HTMLExporter

    notebook = nbformat.read(executed, 4)
    notebook.metadata.pop("widgets", None)
    title = next((c.source.partition("\n")[0].lstrip("# ") for c in notebook.cells if c.cell_type == "markdown"), "")
    empty: set[int] = set()
    for k, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET_VIEW not in output.get("data", {})]
            if not cell.outputs and OPTIONAL in cell.metadata.get("tags", []):
                empty |= {k - 1, k}
        else:
            cell.source = FORMULA.sub(_formula_picture, NOTEBOOK_LINK.sub(r"\1", cell.source))
    notebook.cells = [cell for k, cell in enumerate(notebook.cells) if k not in empty]
    exporter = HTMLExporter(raw_template=TEMPLATE, embed_images=True, exclude_input=True, exclude_output_prompt=True)
    return write_text(html, exporter.from_notebook_node(notebook, {"metadata": {"name": title or "report"}})[0])


def _formula_picture(found: re.Match) -> str:
    """A formula as a picture in its line; as it stands where matplotlib cannot read it."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    latex, png, dpi = " ".join((found[1] or found[2]).split()), io.BytesIO(), 220
    # what matplotlib does not know
    plain = re.sub(r"\\[bB]igg?(?![A-Za-z])", "", re.sub(r"\\tfrac(?![A-Za-z])", r"\\frac", latex))
    plain = re.sub(r"\\frac(\d)(?=[A-Za-z\d])([A-Za-z\d])", r"\\frac{\1}{\2}", plain)
    try:
        depth = math_to_image(f"${plain}$", png, FontProperties(size=12), dpi=dpi, format="png")
    except ValueError:
        return found[0]
    data, width = base64.b64encode(png.getvalue()).decode(), int.from_bytes(png.getvalue()[16:20], "big") * 96 / dpi
    style = f"width:{width:.0f}px;vertical-align:{-depth * 96 / 72:.1f}px"
    return f'<img src="data:image/png;base64,{data}" alt="{escape(latex)}" style="{style}">'
