"""Slides from Markdown: `make slides`. Figures are those of the executed notebooks."""

import base64
import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
project = "msnlib: slides"
extensions = ["myst_parser", "sphinx_revealjs"]
exclude_patterns = ["figures"]
revealjs_style_theme = "white"
revealjs_css_files = ["slides.css"]
revealjs_static_path = ["static"]
revealjs_script_conf = {"hash": True, "slideNumber": True, "width": 1200, "height": 750}
revealjs_script_plugins = [{"name": "RevealNotes", "src": "revealjs/plugin/notes/notes.js"}]
html_show_sourcelink = False
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.header", "toc.not_included"]


def write_figures(folder: Path) -> None:
    """Write every picture of a notebook's outputs as ``NN-<id of its cell>.png``."""
    folder.mkdir(exist_ok=True)
    for path in sorted((HERE.parent.parent / "notebooks").glob("[0-9]*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                if picture := output.get("data", {}).get("image/png"):
                    name = f"{path.name[:2]}-{cell['id']}.png"
                    (folder / name).write_bytes(base64.b64decode("".join(picture)))


write_figures(HERE / "figures")
