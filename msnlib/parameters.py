"""The parameters a notebook may have: one table of what each means and allows, and the reading of a notebook's own.

A notebook has exactly one cell tagged ``parameters``. It holds assignments of literals, each with a type annotation and
a comment (``density: float = 0.1  # share of weights a task keeps``). A parameter named in `PARAMETERS` has the same
meaning and the same allowed values in every notebook; any other is checked against the type the notebook gives it.
"""

import ast
import io
import json
import math
import re
import tokenize
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROFILES = ("paper", "laptop", "quick")  # largest first: the order of every report


class ParameterError(ValueError):
    """A parameter that is unknown, ill-typed or out of range; the message is one line that names it."""


@dataclass(frozen=True)
class Parameter:
    """One row of `PARAMETERS`; ``allowed`` says in words what ``test`` decides for values of type ``kind``."""

    name: str
    kind: type
    allowed: str
    test: Callable[[Any], bool]
    meaning: str


def _choice(name: str, choices: Iterable[str], meaning: str) -> Parameter:
    choices = tuple(choices)
    return Parameter(name, str, "one of " + ", ".join(choices), lambda value: value in choices, meaning)


def _whole(name: str, least: int, meaning: str) -> Parameter:
    return Parameter(name, int, f"a whole number, at least {least}", lambda value: value >= least, meaning)


_ROWS = (
    _choice(
        "profile", PROFILES, "size of the run: the paper's setting, real data on a laptop, bundled data in seconds"
    ),
    _whole("seed", 0, "seed of every random draw"),
    Parameter(
        "device",
        str,
        "auto, cpu, cuda or cuda:N",
        lambda value: re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]*))?", value) is not None,
        "where the tensors live; auto takes a GPU when there is one",
    ),
    _whole("threads", 1, "CPU threads torch may use"),
    Parameter(
        "density", float, "a number above 0, at most 1", lambda value: 0 < value <= 1, "share of weights a task keeps"
    ),
    _choice("method", ("gradient", "snip", "magnitude", "random"), "how weights are scored for a task"),
    _choice("init", ("he", "glorot", "authors"), "how a subnetwork's weights are drawn"),
    _whole("epochs", 1, "the most passes over the training data"),
    _choice("reads", ("none", "all"), "which earlier tasks' weights a later task may use"),
    Parameter("learning_rate", float, "a number above 0", lambda value: value > 0, "step size of the optimizer"),
    _whole("tasks", 1, "how many tasks share the network"),
    _whole("limit", 0, "training examples a task uses; 0 takes all"),
    Parameter("order", str, "a text that is not empty", lambda value: value != "", "the order in which tasks arrive"),
)
PARAMETERS: dict[str, Parameter] = {row.name: row for row in _ROWS}

_KIND_NAMES = {int: "int", float: "float", str: "str", bool: "bool", list: "list", tuple: "tuple", dict: "dict"}
_UNSET = object()


def check(name: str, value: Any, default: Any = _UNSET) -> Any:
    """Return ``value`` as the parameter's type (an int becomes a float where a float is meant).

    ``default`` is the notebook's own: it gives the type of a parameter that has no row in `PARAMETERS`, and where it
    is None, None is allowed.

    Raises `ParameterError` naming the parameter, the value and what is allowed.
    """
    row = PARAMETERS.get(name)
    if value is None and (default is None or (row is None and default is _UNSET)):
        return None
    if row is not None:
        kind, allowed = row.kind, row.allowed
    elif default is None or default is _UNSET:
        kind, allowed = type(value), ""
    else:
        kind, allowed = type(default), "of type " + _KIND_NAMES.get(type(default), type(default).__name__)
    if type(value) is int and kind is float:
        value = _as_float(value)
    if type(value) is not kind or (row is not None and not row.test(value)):
        raise ParameterError(f"parameter {name} is {value!r}, but must be {allowed}")
    if kind not in _KIND_NAMES or not _is_json(value):
        raise ParameterError(f"parameter {name} is {value!r}, but must be a finite number, a text, or lists of them")
    return value


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


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
        named = {name: kind for kind, name in _KIND_NAMES.items()}
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
        return _KIND_NAMES.get(self.kind, "a Python literal")


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
