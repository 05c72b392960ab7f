"""Notebooks as files: what they declare, what code they hold, and their outputs without traces of one machine."""

import itertools
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from msnlib.files import PACKAGE
from msnlib.lab.parameters import Declared, ParameterError, declarations
from msnlib.lab.records import digest


def read_notebook(path: Path) -> dict[str, Any]:
    """Return a notebook's JSON. Raises `ParameterError` when the file is missing or is no notebook."""
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise ParameterError(f"{path} is not a notebook") from None
    if not _is_notebook(notebook):
        raise ParameterError(f"{path} is not a notebook")
    return notebook


def _is_notebook(content: Any) -> bool:
    cells = content.get("cells") if isinstance(content, dict) else None
    return isinstance(cells, list) and all(
        isinstance(cell, dict)
        and isinstance(cell.get("cell_type"), str)
        and isinstance(cell.get("metadata", {}), dict)
        and (isinstance(cell.get("source"), str) or all(isinstance(line, str) for line in cell.get("source", [0])))
        for cell in cells
    )


def source_of(cell: dict[str, Any]) -> str:
    """Return a cell's text, which the notebook format may store as a list of lines."""
    return "".join(cell["source"])


def sources(notebook: dict[str, Any]) -> list[tuple[str, str]]:
    """Return kind and text of every cell, code and prose; without outputs and the parameters that a run was given."""
    return [
        (cell["cell_type"], source_of(cell))
        for cell in notebook["cells"]
        if "injected-parameters" not in cell.get("metadata", {}).get("tags", [])
    ]


def parameter_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the code cells tagged ``parameters``."""
    return [
        cell
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and "parameters" in cell.get("metadata", {}).get("tags", [])
    ]


def declared(path: Path) -> dict[str, Declared]:
    """Return the parameters the notebook at ``path`` declares, in its order.

    Raises `ParameterError` unless there is exactly one cell tagged ``parameters`` and it only assigns literals.
    """
    path = Path(path)
    cells = parameter_cells(read_notebook(path))
    if len(cells) != 1:
        count = "no cell" if not cells else f"{len(cells)} cells"
        raise ParameterError(f"{path.name} has {count} tagged 'parameters', but must have one")
    try:
        return declarations(source_of(cells[0]))
    except ParameterError as error:
        raise ParameterError(f"{path.name}: {error}") from None


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
    folder msnlib is installed in; and the notice, with the time, that versions of torch print of sparse tensors.
    """
    notebook["metadata"].pop("papermill", None)
    for cell in notebook["cells"]:
        cell["metadata"].pop("papermill", None)
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["id"] = "injected-parameters"
        if cell["cell_type"] == "code":
            cell["outputs"] = _without_paths(_stdout_first(_without_notice(cell["outputs"])), scratch)
    return notebook


def _without_notice(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return ``outputs`` without lines that torch writes past Python's warnings, whose filters do not see them."""
    for output in outputs:
        if output.get("name") == "stderr":
            text = re.sub(r"^\[W\d+ .*SparseCsrTensorImpl\.cpp.*\n?", "", "".join(output["text"]), flags=re.M)
            output["text"] = text.splitlines(keepends=True)
    return [output for output in outputs if output.get("name") != "stderr" or output["text"]]


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
