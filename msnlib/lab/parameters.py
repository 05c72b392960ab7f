"""The parameters of a notebook: read from the one cell tagged ``parameters``, where their types and ranges stand too.

The cell assigns literals, each with a type and a comment. The comment may end with what is allowed, in brackets, on a
line of its own where that is too long::

    method: str = "gradient"  # how weights are scored [gradient, snip, random]
    steps: int = 200  # training steps of each task [steps ≥ 1]
    tasks: int = 5  # subnetworks that share the network
    # [2 <= tasks and tasks * density <= 1]

≤, ≥ and ≠ are <=, >= and !=: of a parameter with a second equals sign in its line, papermill shows no help.

A list of words is a choice. Anything else is an expression of Python over the parameters' names, numbers, texts, the
functions in `FUNCTIONS`, and two names that depend on the machine: ``cores``, and ``devices`` as torch sees them.
"""

import ast
import io
import json
import math
import os
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from msnlib.files import UsageError

PROFILES = ("paper", "laptop", "quick")  # largest first: the order of every report
KIND_NAMES = {int: "int", float: "float", str: "str", bool: "bool", list: "list", tuple: "tuple", dict: "dict"}
_SEEDS = 10_000  # of one command: more are a slip of the hand, and a list of them fills the memory


class ParameterError(UsageError):
    """A parameter that is unknown, ill-typed or out of range; the message is one line that names it."""


def is_folder(path: str) -> bool:
    """Whether ``path`` is absolute (a run has a working folder of its own) and a folder that can be read."""
    return Path(path).is_absolute() and Path(path).is_dir() and os.access(path, os.R_OK | os.X_OK)


FUNCTIONS = {function.__name__: function for function in (abs, is_folder, len, max, min, round, set, sum)}
_NODES = (
    *(ast.Expression, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop, ast.BinOp, ast.Add, ast.Sub, ast.Mult),
    *(ast.Div, ast.FloorDiv, ast.Mod, ast.Compare, ast.cmpop, ast.IfExp, ast.Call, ast.Name, ast.Load, ast.Constant),
    *(ast.List, ast.Tuple),
)


class _Devices:
    """``name in devices``: whether torch has the device. Torch is only asked about GPUs: it takes long to import."""

    def __contains__(self, name: object) -> bool:
        return name in ("auto", "cpu") or name in self._gpus

    @cached_property
    def _gpus(self) -> list[str]:
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return ["cuda", *(f"cuda:{number}" for number in range(count))] if count else []

    def __repr__(self) -> str:
        return ", ".join(["auto", "cpu", *self._gpus])


class _AnyDevice:
    """``name in devices`` for another machine, of which only the form of a name is known."""

    def __contains__(self, name: object) -> bool:
        return re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]*))?", str(name)) is not None

    def __repr__(self) -> str:
        return "auto, cpu, cuda, cuda:N"


def _machine(here: bool) -> dict[str, Any]:
    if not here:
        return {"cores": math.inf, "devices": _AnyDevice()}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"cores": cores, "devices": _Devices()}


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
    def range(self) -> str:
        """What the brackets at the end of the comment say, "" without them."""
        match = re.search(r"\[(.*)\]$", self.comment)
        text = match[1] if match else ""
        return text.replace("≤", "<=").replace("≥", ">=").replace("≠", "!=")

    @property
    def choices(self) -> list[str]:
        """The words of a range that is a list of words."""
        words = [word.strip() for word in self.range.split(",")]
        return words if self.kind is str and all(word.isidentifier() for word in words) else []

    def parse(self, text: str) -> Any:
        """Return ``text``, as typed on a command line, as a value of this parameter's type, whatever its range.

        Raises `ParameterError` for anything but the plain notation of the type: ``0012`` is no int, ``12e4567`` and
        ``nan`` are no floats.
        """
        kind = self.kind
        if text == "None" and self.default is None:
            return None
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
        wrong = value is None or (kind is not None and type(value) is not kind)
        if wrong or (isinstance(value, float) and not math.isfinite(value)):
            raise self._refusal(text, f"of type {KIND_NAMES.get(kind, 'a Python literal')}")
        return value

    def typed(self, value: Any) -> Any:
        """Return ``value`` as the parameter's type: an int becomes a float where a float is meant.

        Raises `ParameterError` when it is of another type, or cannot be written as JSON.
        """
        if value is None and self.default is None:
            return None
        kind = self.kind or type(value)
        if type(value) is int and kind is float:
            value = _as_float(value)
        if type(value) is not kind:
            raise self._refusal(value, f"of type {KIND_NAMES.get(kind, kind.__name__)}")
        if not _is_json(value):
            raise self._refusal(value, "a finite number, a text, or lists of them")
        return value

    def check_range(self, values: Mapping[str, Any], here: bool = True) -> None:
        """Raise `ParameterError` unless the parameter's value is in its range, given all parameters' ``values``."""
        value = values[self.name]
        if not self.range or (value is None and self.default is None):
            return
        if self.choices:
            if value not in self.choices:
                raise self._refusal(value, f"one of {', '.join(self.choices)}")
            return
        known = _machine(here) | dict(values)
        tree = self._expression(known)
        functions = FUNCTIONS if here else FUNCTIONS | {"is_folder": lambda path: True}
        try:
            allowed = eval(compile(tree, "range", "eval"), {"__builtins__": {}, **functions}, known)
        except (ArithmeticError, TypeError, ValueError):  # of an empty list, say, there is no smallest
            allowed = False
        if allowed is not True:
            others = dict.fromkeys(name for name in _names(tree) if name in known and name != self.name)
            shown = "; ".join(f"{name} is {known[name]!r}" for name in others)
            raise self._refusal(value, f"such that {self.range}" + (f" (here {shown})" if shown else ""))

    def _expression(self, known: Mapping[str, Any]) -> ast.Expression:
        """Return the range as a tree. Raises `ParameterError` for what a range may not have."""
        try:
            tree = ast.parse(self.range, mode="eval")
        except SyntaxError as error:
            raise ParameterError(f"range of parameter {self.name}: {self.range!r} is not Python: {error.msg}") from None
        for node in ast.walk(tree):
            name = isinstance(node, ast.Name) and node.id not in known and node.id not in FUNCTIONS
            call = isinstance(node, ast.Call) and not (isinstance(node.func, ast.Name) and node.func.id in FUNCTIONS)
            if name or call or not isinstance(node, _NODES):
                part = ast.unparse(node) or type(node).__name__
                raise ParameterError(f"range of parameter {self.name}: {self.range!r} may not have {part}")
        return tree

    def _refusal(self, value: Any, allowed: str) -> ParameterError:
        return ParameterError(f"parameter {self.name} is {_shown(value)}, but must be {allowed}")


def _names(tree: ast.AST) -> Iterator[str]:
    return (node.id for node in ast.walk(tree) if isinstance(node, ast.Name))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of ``0``, ``0-2`` or ``0,3,5-7``, each once, in the order written.

    Raises:
        ParameterError: anything else, or more than 10,000.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ParameterError(f"seeds are {text!r}, but must be like 0, 0-2 or 0,3,5-7")
        if len(seeds) + last - first >= _SEEDS:
            raise ParameterError(f"seeds are {text!r}, but must be {_SEEDS:,} of them at most")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def declarations(source: str) -> dict[str, Declared]:
    """Return the parameters that the text of a cell declares, in its order.

    The cell is parsed, not run, and not through ``papermill.inspect_notebook``, which reads line by line: it misses
    ``int | None`` and values over several lines and cuts a text at its first ``#``.

    Raises `ParameterError` unless it only assigns literals.
    """
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise ParameterError(f"the parameters cell is not Python: {getattr(error, 'msg', error)}") from None
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    written_at = {token.start: token.string.lstrip("# ").rstrip() for token in tokens if token.type == tokenize.COMMENT}
    comments = {line: text for (line, _), text in written_at.items()}
    found: dict[str, Declared] = {}
    for statement in statements:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=ast.expr() as value):
                written = ast.unparse(annotation)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                written = ""
            case _:
                shown = ast.unparse(statement).splitlines()[0]
                raise ParameterError(f"the parameters cell may only assign literals, but has {shown!r}")
        try:
            default = ast.literal_eval(value)
        except ValueError:
            raise ParameterError(f"parameter {name} is not a literal: {ast.unparse(value)}") from None
        last = statement.end_lineno
        below = [last + 1] if written_at.get((last + 1, 0), "").startswith("[") else []
        comment = " ".join(comments[line] for line in [*range(statement.lineno, last + 1), *below] if line in comments)
        found[name] = Declared(name, written, default, comment)
    return found


# What the configuration of every run has, whether or not it is a notebook's.
EVERY_RUN = declarations(f'profile: str = "quick"  # [{", ".join(PROFILES)}]\nseed: int = 0  # [seed >= 0]')


def check(own: Mapping[str, Declared], values: Mapping[str, Any], here: bool = True) -> dict[str, Any]:
    """Return ``values``, each as the type of its parameter; a name that no one declares may have any.

    ``own`` are a notebook's parameters: those without a value have their default. ``here`` is whether the values are
    for this machine; else what depends on the machine is not decided.

    Raises `ParameterError` naming parameter, value and what is allowed.
    """
    typed = {}
    for name, value in values.items():
        declared = own.get(name) or EVERY_RUN.get(name) or Declared(name, "", None, "")
        typed[name] = declared.typed(value)
    for declared in (EVERY_RUN, own):
        known = {name: item.typed(item.default) for name, item in declared.items()} | typed
        for item in declared.values():
            item.check_range(known, here)
    return typed


def of_this_notebook() -> dict[str, Declared]:
    """Return the parameters declared in the notebook whose kernel this is; none in a script.

    IPython keeps the cells that were run. The one that declares parameters is the last in which every statement gives a
    literal a name and a type, ``profile`` and ``seed`` among them: a cell's tag is not known to the kernel.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    for source in reversed(shell.user_ns.get("In", []) if shell else []):
        try:
            found = declarations(source)
        except ParameterError:
            continue
        if found.keys() >= EVERY_RUN.keys() and all(item.annotation for item in found.values()):
            return found
    return {}
