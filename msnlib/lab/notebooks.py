"""Notebooks as files: what they declare, what code they hold, and their outputs without traces of one machine."""

import ast
import io
import itertools
import json
import math
import os
import re
import tempfile
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msnlib.files import PACKAGE
from msnlib.lab.parameters import KIND_NAMES, PARAMETERS, ParameterError, check
from msnlib.lab.records import digest


@dataclass(frozen=True)
class Declared:
    """A parameter as one notebook declares it: its ``annotation`` as written ("" without one), default and comment."""

    name: str
    annotation: str
    default: Any
    comment: str

    @property
    def kind(self) -> type | None:
        """The type a value must have: the annotation's (``int | None`` is int), else that of the default."""
        named = {name: kind for kind, name in KIND_NAMES.items()}
        words = [word for word in re.findall(r"\w+", self.annotation) if word in named]
        if words:
            return named[words[0]]
        return None if self.default is None else type(self.default)

    @property
    def meaning(self) -> str:
        """The notebook's comment, else the table's line."""
        if self.comment:
            return self.comment
        return PARAMETERS[self.name].meaning if self.name in PARAMETERS else ""

    def parse(self, text: str) -> Any:
        """Return ``text``, as typed on a command line, as a value of this parameter.

        Raises `ParameterError` for anything but the plain notation of the parameter's type: ``0012`` is no int,
        ``12e4567`` and ``nan`` are no floats.
        """
        row = PARAMETERS.get(self.name)
        kind = row.kind if row else self.kind
        if text == "None" and self.default is None:
            return None
        refusal = ParameterError(
            f"parameter {self.name} is {text!r}, but must be {row.allowed if row else f'of type {self._kind_name}'}"
        )
        if kind is str:
            value: Any = text
        elif kind is bool:
            value = {"true": True, "false": False}.get(text.lower())
        elif kind is int:
            value = int(text) if re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text) else None
        elif kind is float:
            value = float(text) if re.fullmatch(r"-?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", text, re.A) else None
        else:
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                value = None
        if value is None or (kind is not None and type(value) is not kind):
            raise refusal
        if isinstance(value, float) and not math.isfinite(value):
            raise refusal
        return check(self.name, value)

    @property
    def _kind_name(self) -> str:
        return KIND_NAMES.get(self.kind, "a Python literal")


def read_notebook(path: Path) -> dict[str, Any]:
    """Return a notebook's JSON. Raises `ParameterError` when the file is missing or is no notebook."""
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
        notebook["cells"]
    except OSError as error:
        raise ParameterError(f"{path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError):
        raise ParameterError(f"{path} is not a notebook") from None
    return notebook


def source_of(cell: dict[str, Any]) -> str:
    """Return a cell's text, which the notebook format may store as a list of lines."""
    return "".join(cell["source"])


def parameter_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the code cells tagged ``parameters``."""
    return [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and "parameters" in cell.get("metadata", {}).get("tags", [])
    ]


def declared(path: Path) -> dict[str, Declared]:
    """Return the parameters the notebook at ``path`` declares, in its order.

    The cell is parsed, not run, and not through ``papermill.inspect_notebook``, which reads line by line: it misses
    ``int | None`` and values over several lines and cuts a text at its first ``#``.

    Raises `ParameterError` unless there is exactly one cell tagged ``parameters`` and it only assigns literals.
    """
    path = Path(path)
    cells = parameter_cells(read_notebook(path))
    if len(cells) != 1:
        count = "no cell" if not cells else f"{len(cells)} cells"
        raise ParameterError(f"{path.name} has {count} tagged 'parameters', but must have one")
    source = source_of(cells[0])
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ParameterError(f"{path.name}: the parameters cell is not Python: {error.msg}") from None
    comments = {
        token.start[0]: token.string.lstrip("# ").rstrip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    found: dict[str, Declared] = {}
    for statement in statements:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
                written = ast.unparse(annotation)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                written = ""
            case _:
                shown = ast.unparse(statement).splitlines()[0]
                raise ParameterError(f"{path.name}: the parameters cell may only assign literals, but has {shown!r}")
        try:
            default = ast.literal_eval(value)
        except ValueError:
            raise ParameterError(f"{path.name}: parameter {name} is not a literal: {ast.unparse(value)}") from None
        lines = range(statement.lineno, statement.end_lineno + 1)
        comment = " ".join(comments[line] for line in lines if line in comments)
        found[name] = Declared(name, written, default, comment)
    return found


def code_digest(path: Path) -> str:
    """Return a hash of a notebook's code, its parameters aside."""
    notebook = read_notebook(path)
    parameters = parameter_cells(notebook)
    return digest(
        [source_of(cell) for cell in notebook["cells"] if cell["cell_type"] == "code" and cell not in parameters]
    )


def normalised(notebook: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """Return an executed notebook without what differs between two equal runs, or names a machine.

    That is: papermill's times and paths, the random id of the cell it injects, which of a cell's standard output and
    error came first, the path of the ``scratch`` folder, and in warnings the kernel's name for a cell's file and the
    folder msnlib is installed in.
    """
    notebook["metadata"].pop("papermill", None)
    for cell in notebook["cells"]:
        cell["metadata"].pop("papermill", None)
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["id"] = "injected-parameters"
        if cell["cell_type"] == "code":
            cell["outputs"] = _without_paths(_stdout_first(cell["outputs"]), scratch)
    return notebook


def _stdout_first(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``outputs`` with neighbouring streams in one order: the kernel sends each from a buffer of its own."""
    ordered: list[dict[str, Any]] = []
    for is_stream, group in itertools.groupby(outputs, lambda output: output["output_type"] == "stream"):
        neighbours = list(group)
        ordered += sorted(neighbours, key=lambda output: output["name"] != "stdout") if is_stream else neighbours
    return ordered


def _without_paths(content: Any, scratch: Path) -> Any:
    if isinstance(content, list):
        return [_without_paths(item, scratch) for item in content]
    if isinstance(content, dict):
        return {name: _without_paths(value, scratch) for name, value in content.items()}
    if not isinstance(content, str):
        return content
    for path in sorted({str(scratch), str(scratch.resolve())}, key=len, reverse=True):
        content = content.replace(path, "scratch")
    content = content.replace(f"{PACKAGE}{os.sep}", f"{PACKAGE.name}/")  # a warning from msnlib names its file
    # A pattern that starts with a fixed text: one that starts with any text takes minutes on a picture's base64.
    return re.sub(re.escape(tempfile.gettempdir()) + r"/ipykernel_\d+/\d+\.py", "notebook-cell", content)
