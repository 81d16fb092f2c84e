"""An executed notebook as one HTML file that can be mailed: pictures inside, no scripts, no network, readable on paper
as well."""

from __future__ import annotations

import base64
import io
import re
from html import escape
from pathlib import Path

from ..core.files import write_text

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# The lab page without the scripts that it would fetch from the network.
SCRIPTS = ("html_head_js", "html_head_js_mathjax", "html_head_js_mermaidjs", "jupyter_widgets")
NO_SCRIPTS = "".join(f"{{% block {name} %}}{{% endblock %}}" for name in SCRIPTS)
# Text above its figures; tables that scroll where the window is narrow, and on paper are small instead, with all of
# their columns.
STYLE = """<style>
.jp-InputPrompt, .jp-OutputPrompt {display: none}
body {max-width: 1000px; margin: auto}
.jp-OutputArea-output, .jp-MarkdownOutput {overflow-x: auto}
.jp-OutputArea-output td:first-child {white-space: nowrap !important}
@media print {
  body, .jp-Notebook {max-width: none; margin: 0; padding: 0}
  .jp-Cell, .jp-OutputArea-child, .jp-OutputArea-output, .jp-RenderedHTMLCommon {overflow: visible !important; padding: 0}
  .jp-RenderedHTMLCommon table {font-size: 7pt; table-layout: auto; width: 100%}
  .jp-RenderedHTMLCommon th, .jp-RenderedHTMLCommon td {padding: 1px 2px; overflow-wrap: anywhere}
  .jp-RenderedHTMLCommon tr, img {break-inside: avoid}
}
</style>"""
PICTURE = """{{% block data_{short} scoped %}}<div class="jp-RenderedImage jp-OutputArea-output" tabindex="0">
<img src="data:image/{mime};base64,{{{{ output.data['image/{mime}'] | escape_html }}}}"
alt="{{{{ output.metadata.get('image/{mime}', {{}}).get('alt', 'a figure') | escape_html }}}}"></div>{{% endblock %}}"""
OFFLINE_TEMPLATE = (
    "{% extends 'index.html.j2' %}"
    + NO_SCRIPTS
    + "{% block html_head_css %}{{ super() }}"
    + STYLE
    + "{% endblock %}"
    + "".join(PICTURE.format(short=short, mime=mime) for short, mime in (("png", "png"), ("jpg", "jpeg")))
)
FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\\$`\w])\$(?![\s$])([^$\n`]+?)(?<![\s\\])\$(?![\w$`])", re.DOTALL)
# what matplotlib does not know
PLAINER = {r"\tfrac": r"\frac", **{rf"\{size}": "" for size in ("bigg", "big", "Bigg", "Big")}}
NOTEBOOK_LINK = re.compile(r"\[([^\]]*)\]\((?![a-z]+:)[^)\s]*\.ipynb\)")


def to_html(executed: str | Path, html: str | Path, hide_code: bool = True) -> Path:
    """Write an executed notebook as such a file; live widgets are left out, and links to other notebooks become their
    words alone, for whoever gets the file has no notebook beside it. Formulas become pictures, since the page has no
    script to draw them."""
    import nbformat
    from nbconvert import HTMLExporter

    notebook = nbformat.read(executed, 4)
    notebook.metadata.pop("widgets", None)
    title = next(
        (cell.source.partition("\n")[0].lstrip("# ") for cell in notebook.cells if cell.cell_type == "markdown"),
        "report",
    )
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET_VIEW not in output.get("data", {})]
        else:
            cell.source = FORMULA.sub(_drawn, NOTEBOOK_LINK.sub(r"\1", cell.source))
    exporter = HTMLExporter(
        raw_template=OFFLINE_TEMPLATE, embed_images=True, exclude_input=hide_code, exclude_output_prompt=hide_code
    )
    return write_text(html, exporter.from_notebook_node(notebook, {"metadata": {"name": title}})[0])


def _drawn(found: re.Match) -> str:
    """A formula of a markdown cell as a picture in its line; as it stands where matplotlib cannot read it."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.mathtext import math_to_image

    latex, png, dpi = " ".join((found[1] or found[2]).split()), io.BytesIO(), 220
    plain = latex
    for name, plainer in PLAINER.items():
        plain = re.sub(re.escape(name) + r"(?![A-Za-z])", lambda _, plainer=plainer: plainer, plain)
    plain = re.sub(r"\\frac(\d)(?=[A-Za-z\d])([A-Za-z\d])", r"\\frac{\1}{\2}", plain)
    try:
        depth = math_to_image(f"${plain}$", png, FontProperties(size=12), dpi=dpi, format="png")
    except ValueError:
        return found[0]
    data, width = base64.b64encode(png.getvalue()).decode(), int.from_bytes(png.getvalue()[16:20], "big") * 96 / dpi
    style = f"width:{width:.0f}px;vertical-align:{-depth * 96 / 72:.1f}px"
    return f'<img src="data:image/png;base64,{data}" alt="{escape(latex)}" style="{style}">'
