"""The parameters a notebook may have: one table of what each means and allows, and the reading of a notebook's own.

A notebook has exactly one cell tagged ``parameters``. It holds assignments of literals, each with a type annotation and
a comment (``density: float = 0.1  # share of weights a task keeps``). A parameter named in `PARAMETERS` has the same
meaning and the same allowed values in every notebook; any other is checked against the type the notebook gives it.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from msnlib.files import UsageError

PROFILES = ("paper", "laptop", "quick")  # largest first: the order of every report


class ParameterError(UsageError):
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
    _whole(
        "split_seed", 0, "draws the validation part; above 0 also a small dataset's test part, else its own is taken"
    ),
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

KIND_NAMES = {int: "int", float: "float", str: "str", bool: "bool", list: "list", tuple: "tuple", dict: "dict"}
_UNSET = object()


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of ``0``, ``0-2`` or ``0,3,5-7``, each once, in the order written.

    Raises:
        ParameterError: anything else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first:
            raise ParameterError(f"seeds are {text!r}, but must be like 0, 0-2 or 0,3,5-7")
        seeds += range(first, last + 1)
    return list(dict.fromkeys(seeds))


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
        kind, allowed = type(default), "of type " + KIND_NAMES.get(type(default), type(default).__name__)
    if type(value) is int and kind is float:
        value = _as_float(value)
    if type(value) is not kind or (row is not None and not row.test(value)):
        raise ParameterError(f"parameter {name} is {value!r}, but must be {allowed}")
    if kind not in KIND_NAMES or not _is_json(value):
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
