"""Builds the site: `python docs/pages.py FOLDER`.

The pages are written into a scratch folder and given to Sphinx: the Markdown of docs/, the parts of it that come from
records, every executed notebook, and a page of docstrings per module. Nothing is executed, and nothing is downloaded.
"""

import argparse
import importlib
import inspect
import pkgutil
import re
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from sphinx.cmd.build import build_main

import msnlib
from front import write_parts
from msnlib.command.jobs import choose_notebooks
from msnlib.files import UsageError
from runs import write_pages

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("msnlib.__main__", "msnlib.command.arguments", "msnlib.command.cli")  # `msn --help` describes them
FOLDERS = {  # of msnlib/, and what the reference calls them
    "": "The core",
    "data": "Data",
    "exchange": "Networks in and out",
    "lab": "The lab: records, notebooks, statistics, figures",
    "command": "The command",
}


def build(out: Path, asked: list[str]) -> int:
    """Build the site into the folder ``out``, which is replaced, and return Sphinx's exit status.

    Args:
        out: empty, an earlier build, or not there.
        asked: numbers or names of the notebooks that get pages; all when empty.

    Raises:
        UsageError: ``out`` holds something else, or a notebook asked for is not there.
    """
    if out.exists() and not (out / "objects.inv").exists() and any(out.iterdir()):
        raise UsageError(f"{out} holds something else than a site; name a folder that is empty or not there")
    notebooks = choose_notebooks(ROOT / "notebooks", asked)
    with tempfile.TemporaryDirectory() as scratch:
        source, html = Path(scratch, "source"), Path(scratch, "html")
        write_source(notebooks, source)
        sys.modules.setdefault("rfc3987_syntax", None)  # two seconds to import, to check addresses no notebook has
        status = build_main(["-q", "-c", str(ROOT / "docs"), "-d", f"{scratch}/doctrees", str(source), str(html)])
        if status == 0:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(html, out, ignore=shutil.ignore_patterns(".buildinfo", "_sources"))
    return status


def write_source(notebooks: list[Path], source: Path) -> None:
    """Write what Sphinx reads."""
    parts = source / "parts"
    parts.mkdir(parents=True)
    pages = {f"docs/{path.name}": path.name for path in (ROOT / "docs").glob("*.md")}
    for path in notebooks:
        pages |= dict.fromkeys([f"notebooks/{path.name}", f"reports/{path.stem}"], f"notebooks/{path.name}")
    for pattern in ("reports/*.png", "reports/*.csv", "sweeps/*.toml"):
        for path in ROOT.glob(pattern):
            shutil.copyfile(path, parts / path.name)
            pages[f"{path.parent.name}/{path.name}"] = f"parts/{path.name}"
    shutil.copyfile(ROOT / "README.md", parts / "README.md")
    write_parts(ROOT, notebooks, parts)
    for path in (ROOT / "docs").glob("*.md"):
        shutil.copyfile(path, source / path.name)
    for path in source.glob("**/*.md"):
        path.write_text(linked(path.read_text(encoding="utf-8"), pages), encoding="utf-8")
    for path in notebooks:
        write_pages(path, ROOT / "reports", source / "notebooks", partial(linked, pages=pages))
    write_api(source / "api")


def linked(text: str, pages: dict[str, str]) -> str:
    """Return a Markdown file of the repository with its links set to the site.

    ``pages`` maps files of the repository to those of the site. A link to any other file of the repository becomes its
    text and path; one to no file at all stays, and Sphinx complains.
    """

    def link(match: re.Match) -> str:
        mark, label, target = match.groups()
        path, sign, heading = target.partition("#")
        path = path.removeprefix("../").rstrip("/")
        if re.match(r"\w+:|#", target):
            return match[0]
        if path not in pages and f"docs/{path}" in pages:  # beside a page of docs/
            path = f"docs/{path}"
        if path in pages:
            return f"{mark}[{label}](/{pages[path]}{sign}{heading})"
        if not (ROOT / path).exists():
            return match[0]
        return f"`{path}`" if path.endswith(label) else f"{label} (`{path}`)"

    return re.sub(r"(!?)\[([^]]+)\]\(([^)\s]+)\)", link, text)


def write_api(out: Path) -> None:
    """Write a page for every module, and a list of them by folder: the core first."""
    out.mkdir()
    found = pkgutil.walk_packages(msnlib.__path__, "msnlib.")
    modules = [module.name for module in found if not module.ispkg and module.name not in COMMANDS]
    index = ["# Modules", "{ref}`All names <genindex>`"]
    for folder, title in FOLDERS.items():
        index.append(f"## {title}")
        names = [name for name in modules if name.split(".")[1:-1] == [folder] * bool(folder)]
        for name in names:
            says = inspect.getdoc(importlib.import_module(name)).partition("\n\n")[0].replace("\n", " ")
            index.append(f"- [{name}]({name}.md): {says}")
            page = f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"
            (out / f"{name}.md").write_text(page, encoding="utf-8")
        entries = "\n".join(f"{name.partition('.')[2]} <{name}>" for name in names)
        index.append(f"```{{toctree}}\n:hidden:\n\n{entries}\n```")
    (out / "index.md").write_text("\n\n".join(index) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the site goes; an earlier build there is replaced")
    parser.add_argument("notebook", nargs="*", help="number or name of a notebook that gets pages; all if none")
    arguments = parser.parse_args()
    try:
        sys.exit(build(arguments.folder, arguments.notebook))
    except UsageError as error:
        sys.exit(f"pages.py: {error}")
