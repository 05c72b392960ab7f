"""Executed notebooks as pages: which run to show first, what is said of it, and a text for every figure."""

import ast
import contextlib
import inspect
import json
import logging
import re
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msnlib.lab import figures, pictures, plots
from msnlib.lab.notebooks import read_notebook, source_of, sources
from msnlib.lab.parameters import PROFILES
from msnlib.lab.records import read_record

_log = logging.getLogger(__name__)
_DRAWING = {
    name: function
    for module in (plots, pictures, figures)
    for name, function in vars(module).items()
    if inspect.isfunction(function) and function.__module__ == module.__name__ and name not in ("style", "legend")
}
RESULTS = "results.md"  # the page of the site with the numbers of full-size runs
COST = "cost.md"  # that with times and memory


@dataclass(eq=False)
class Execution:
    """One executed notebook: its file and, but for the quick runs in notebooks/, its record."""

    path: Path
    record: dict[str, Any] | None

    @property
    def profile(self) -> str:
        return self.record["configuration"]["profile"] if self.record else "quick"

    @property
    def seed(self) -> int:
        return self.record["configuration"]["seed"] if self.record else 0

    @property
    def overrides(self) -> dict[str, Any]:
        return self.record["run"].get("overrides", {}) if self.record else {}

    @property
    def title(self) -> str:
        return ", ".join([self.profile, f"seed {self.seed}", *(f"{k} {v}" for k, v in self.overrides.items())])

    @property
    def command(self) -> str:
        settings = "".join(f" -p {name} {value}" for name, value in self.overrides.items())
        number = self.path.stem.partition("_")[0].lstrip("0") or "0"
        return f"msn run {number} --profile {self.profile} --seeds {self.seed}{settings}"

    @property
    def folder(self) -> str:
        return self.path.parent.name if self.record else f"{self.profile}-seed{self.seed}"


def executions(notebook: Path, reports: Path) -> list[Execution]:
    """Return every run of today's notebook, first the one to read: nothing set by hand, largest profile, lowest seed.

    A run of other code or prose is left out with a warning: its numbers count where its record does, its page not.
    """
    found, today = [Execution(notebook, None)], sources(read_notebook(notebook))
    for path in (reports / notebook.stem).glob(f"*/{notebook.name}"):
        name = path.parent.name  # quick runs and failed ones are not committed
        if name.startswith((".", "quick-")) or name.endswith(".failed"):
            continue
        if sources(read_notebook(path)) != today:
            _log.warning("%s skipped: its code or prose is not that of %s", path.parent, notebook.name)
            continue
        try:
            found.append(Execution(path, read_record(path.with_name("record.json"))))
        except (OSError, ValueError) as error:
            _log.warning("%s skipped: %s", path.parent, error)
    return sorted(found, key=lambda run: (run.overrides != {}, PROFILES.index(run.profile), run.seed, run.folder))


def write_pages(notebook: Path, reports: Path, out: Path, linked: Callable[[str], str] = str) -> None:
    """Write ``<out>/<notebook>.ipynb``, the run to read first, and every other run into a folder of that name.

    ``linked`` sets the links of a text in Markdown to the site.
    """
    runs = executions(notebook, reports)
    for run in runs:
        page = out / _address(run, runs).removeprefix("/notebooks/")
        page.parent.mkdir(parents=True, exist_ok=True)
        content = _page(run, runs, reports)
        for cell in content["cells"]:
            if cell["cell_type"] == "markdown":
                cell["source"] = linked(source_of(cell))
        page.write_text(json.dumps(content), encoding="utf-8")


def _page(run: Execution, runs: list[Execution], reports: Path) -> dict[str, Any]:
    notebook = read_notebook(run.path)
    opening, *others = notebook["cells"]
    title, text = heading_of(notebook), source_of(opening).partition("\n")[2]
    if run.profile != "quick":  # whose reader takes "the run in notebooks/" for this one
        text = text.replace("The run in `notebooks/` is the", "A smaller run, that of the file in `notebooks/`, is the")
    if run != runs[0]:  # reached from the first run's page, not from the sidebar or the search
        notebook["metadata"] |= {"orphan": True, "nosearch": True}
    page_title = title if run == runs[0] else f"{title} · {run.title}"
    opening["source"] = f"# {page_title}\n\n{_note(run, runs, reports)}\n{text}"
    heading, before, parts = title, text, False
    for cell in others:
        source = source_of(cell)
        if cell["cell_type"] == "markdown":
            parts = parts or source.startswith("# ")
            if parts:  # a page has one heading of the first order
                cell["source"] = re.sub(r"^#", "##", source, flags=re.MULTILINE)
            before = source
            heading = ([heading] + re.findall(r"^#+ (.+)$", source, re.MULTILINE))[-1]
        elif cell["cell_type"] == "code":
            if "injected-parameters" in cell["metadata"].get("tags", []):
                cell["source"] = source.replace("# Parameters", "# as set for this run", 1).strip()
            if cell.get("id", "").startswith("findings-"):  # a box of sentences, without the line that prints them
                cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "findings", "remove-input"]
                cell["outputs"] = [_formatted(output) for output in cell["outputs"]]
            elif any(_is_aligned(output) for output in cell["outputs"]):
                cell["metadata"]["tags"] = [*cell["metadata"].get("tags", []), "aligned"]
            cell["metadata"]["mystnb"] = {"image": {"alt": alternative(heading, source, before)}}
    # What was found stands above the settings, which the notebook needs to say it, and the run itself with it.
    begin, end = ([cell for cell in others if cell.get("id") == f"findings-{where}"] for where in ("begin", "end"))
    boxes = [deepcopy(cell) | {"id": "findings-top"} for cell in end] or begin
    notebook["cells"] = [opening, *boxes, *(cell for cell in others if cell not in begin)]
    return notebook


def _formatted(output: dict[str, Any]) -> dict[str, Any]:
    """Return what a box printed as paragraphs and lists; its lines that begin with ``"- "`` are items."""
    if output["output_type"] != "stream":
        return output
    text = re.sub(r"^([A-Z][\w -]+)(?= \()", r"\n**\1**", "".join(output["text"]), flags=re.MULTILINE)
    text = re.sub(r"^(?=[A-Z])", "\n", text, flags=re.MULTILINE)
    return {"output_type": "display_data", "metadata": {}, "data": {"text/markdown": text}}


def _is_aligned(output: dict[str, Any]) -> bool:
    """Whether an output is a table of text, whose columns a line break would take apart."""
    lines = "".join(output.get("text", [])).splitlines()
    return sum(len(re.findall(r"\S {2,}(?=\S)", line)) > 1 for line in lines) > 2


def heading_of(notebook: dict[str, Any]) -> str:
    """Return the heading a notebook starts with.

    Raises:
        ValueError: it starts with anything else.
    """
    first = source_of(notebook["cells"][0]).partition("\n")[0]
    if not first.startswith("# "):
        raise ValueError(f"a notebook must start with a heading, not with {first!r}")
    return first.removeprefix("# ")


def _note(run: Execution, runs: list[Execution], reports: Path) -> str:
    """Return what to know about a run and the way to the others, and to the numbers of all."""
    said = [f"profile **{run.profile}**", f"seed {run.seed}"]
    said += [f"{name} {value}" for name, value in run.overrides.items()]
    if run.record:
        seconds = run.record["run"]["seconds"]
        said += [f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"]
        said += [f"torch {run.record['versions']['torch']}"]
    lines = [f"{', '.join(said).capitalize()}. To repeat it: `{run.command}`"]
    others = [f"[{other.title}]({_address(other, runs)})" for other in runs if other != run]
    if others:
        lines.append(f"Other runs: {' · '.join(others)}")
    if any((reports / run.path.stem).glob("*/record.json")):
        words, page = ("What it costs", COST) if run.path.stem == "80_performance" else ("Results", RESULTS)
        lines.append(f"Numbers of all larger runs: [{words}](/{page})")
    return ":::{admonition} This run\n:class: note\n\n" + "\n\n".join(lines) + "\n:::\n"


def _address(run: Execution, runs: list[Execution]) -> str:
    name = run.path.stem if run == runs[0] else f"{run.path.stem}/{run.folder}"
    return f"/notebooks/{name}.ipynb"


def alternative(heading: str, code: str, before: str) -> str:
    """Return the text for the figures that a cell draws, for those who cannot see them.

    What the drawing function of `msnlib.lab` says of itself, else the labels of the axes, else how the Markdown
    ``before`` the cell ends; always with the ``heading`` of the section.
    """
    section = _plain(heading)
    section += "" if section[-1] in "?!." else "."
    with contextlib.suppress(SyntaxError):
        calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
        for call in calls:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            function = _DRAWING.get(name)
            if function is not None:
                return f"{section} {_plain(inspect.getdoc(function).partition(chr(10) * 2)[0])}"
        labels: dict[str, list[str]] = {"ylabel": [], "xlabel": []}
        for call in calls:
            for keyword in call.keywords:
                if keyword.arg in labels and isinstance(keyword.value, ast.Constant):
                    labels[keyword.arg].append(str(keyword.value.value))
        if all(labels.values()):
            axes = (" and ".join(dict.fromkeys(found)) for found in labels.values())
            return f"{section} Axes: {' against '.join(axes)}."
    return f"{section} Figure after: " + re.split(r"(?<=[.:?!])\s+", _plain(before))[-1]


def _plain(markdown: str) -> str:
    """Return Markdown's text on one line, without marks."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", markdown)
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    return " ".join(re.sub(r"[*`$#|]|^[-\d.]+ ", "", text, flags=re.MULTILINE).split())
