"""The page that a student gets back: every part's points and why, beside what was handed in."""

import copy
import html
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Any

from msnlib.command.execution import DIED, TOO_LONG
from msnlib.command.grading import Grades, Part
from msnlib.command.handins import Notebook, mark, model_answer, without_hidden_tests
from msnlib.lab.notebooks import source_of

WAITS = "not yet graded"
_SAID = {  # errors that need no traceback, the most telling first
    TOO_LONG: "it took too long",
    DIED: "",
    "AssertionError": "a test failed",
    "NotImplementedError": "not answered",
}
_STYLE = """\
<style>
#notebook td, #notebook th { text-align: left !important }
#notebook .cell:first-child td:nth-child(-n+2) { white-space: nowrap }
</style>"""
# The classic page without its scripts; what a student wrote may neither run nor load anything where the page is read.
_FONTS = re.compile(r"@font-face\s*{[^}]*}")  # files that lie beside the template
_TEMPLATE = """\
{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
{%- endblock html_head_js -%}
{%- block html_head_js_mathjax -%}{%- endblock html_head_js_mathjax -%}
"""


def page(title: str, graded: Notebook, cells: Iterable[Notebook], grades: Grades, answers: bool) -> str:
    """Return a page of HTML that needs no other file, asks for none, and runs no program.

    Args:
        title: what stands at its top.
        graded: the notebook as it was run, every cell of the problem set marked.
        cells: of the problem set with its solutions, marked.
        grades: the points.
        answers: whether it also shows the hidden tests and the model answers.
    """
    import nbformat
    from nbconvert import HTMLExporter

    models = {mark(cell): cell for cell in cells if cell["metadata"]["nbgrader"].get("solution")}
    parts = {part.name: part for part in grades.parts}
    reasons = _reasons(graded, parts)
    whole = [_text(_summary(title, grades, reasons))]
    for cell in graded["cells"]:
        name = mark(cell)
        whole.append(_plain(cell, answers, tested=name in parts))
        if name in parts:
            whole.append(_text(_verdict(parts[name], reasons[name])))
        if name in grades.comments:
            whole.append(_text(f"**Comment:** {grades.comments[name]}"))
        if answers and name in models:
            whole += _model(models[name])
    for number, cell in enumerate(whole):
        cell["id"] = f"cell{number}"
    notebook = {"cells": whole, "metadata": graded["metadata"], "nbformat": 4, "nbformat_minor": 5}
    exporter = HTMLExporter(template_name="classic", raw_template=_TEMPLATE)
    made, _ = exporter.from_notebook_node(nbformat.reads(json.dumps(notebook), 4), {"metadata": {"name": title}})
    head, end, body = made.partition("</head>")
    return _FONTS.sub("", head) + end + body


def _text(source: str) -> Notebook:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def _plain(cell: Notebook, answers: bool, tested: bool) -> Notebook:
    """A cell as it is shown: its hidden tests only with the ``answers``, and what a test says once, below it."""
    cell = copy.deepcopy(cell)
    cell |= {"metadata": {}, "source": source_of(cell)}
    if cell["cell_type"] == "code":
        if not answers:
            cell["source"] = without_hidden_tests(cell["source"])
        failed = [output for output in cell["outputs"] if output.get("ename") in _SAID]
        for output in failed:
            output["traceback"] = [_why([output])]
        cell["outputs"] = [output for output in cell["outputs"] if not (tested and output in failed)]
    return cell


def _reasons(graded: Notebook, parts: Container[str]) -> dict[str, str]:
    """Part -> what made it fail, in one line: the error of the answer above it, if that failed itself."""
    reasons, broken = {}, ""
    for cell in graded["cells"]:
        name, why = mark(cell), _why(cell.get("outputs", []))
        if name in parts:
            reasons[name] = (why and broken) or why
        elif cell["metadata"].get("nbgrader", {}).get("solution"):
            broken = f"{name}: {why}" if why else ""
    return reasons


def _summary(title: str, grades: Grades, reasons: Mapping[str, str]) -> str:
    waiting = sum(part.maximum for part in grades.waiting)
    so_far = f" so far; {waiting:g} {WAITS}" if waiting else ""
    lines = [_STYLE, "", f"# {html.escape(title)}: {grades.points:g} of {grades.maximum:g} points{so_far}", ""]
    if grades.hours_late:
        taken = f"; {grades.penalty:g} points taken off" if grades.penalty else ""
        lines += [f"Handed in {grades.hours_late:g} hours late{taken}.", ""]
    lines += ["| part | points | |", "|---|---|---|"]
    for part in grades.parts:
        why = _in_table(reasons.get(part.name, ""))
        lines.append(f"| [{part.name}](#{part.name}) | {_points(part)} | {why} |")
    return "\n".join(lines)


def _points(part: Part) -> str:
    if part.score is None:
        return f"{WAITS}, of {part.maximum:g}"
    again = ", for an earlier hand-in: to be looked at again" if part.stale else ""
    return f"{part.score:g} of {part.maximum:g}{again}"


def _verdict(part: Part, why: str) -> str:
    lines = [f'<a id="{part.name}"></a>**{part.name}: {_points(part)}**']
    if why:
        lines += ["", _escaped(why)]
    return "\n".join(lines)


def _why(outputs: list[Mapping[str, Any]]) -> str:
    """Return what made a cell fail, in one line."""
    errors = {output["ename"]: " ".join(output["evalue"].split()) for output in outputs if "ename" in output}
    for name, otherwise in _SAID.items():
        if name in errors:
            return errors[name] or otherwise
    return "".join(f"{name}: {value}" for name, value in list(errors.items())[:1])


def _model(cell: Notebook) -> Iterator[Notebook]:
    answer = model_answer(cell)
    yield _text("**Model answer**" if cell["cell_type"] == "code" else f"**Model answer**\n\n{answer}")
    if cell["cell_type"] == "code":
        yield _text(f"```python\n{answer}\n```")


def _escaped(text: str) -> str:
    """Text as Markdown shows it literally."""
    return f"<code>{html.escape(text)}</code>" if text else ""


def _in_table(text: str) -> str:
    return _escaped(text).replace("|", "&#124;")
