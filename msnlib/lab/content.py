"""Content: values, tensors and code as JSON, by which a training is recognised.

Code is told by the bytecode that runs, not by its source: a class made in a notebook has no file, and a file may have
been changed since it was imported. Whatever the code refers to is told with it, and theirs in turn; of torch,
torchvision, msnlib and a few parts of Python that give the same for the same input, the name is enough, since their
versions decide the numbers and are told beside. What cannot be told so (an object, a module of other packages, which
may draw random numbers of its own) is refused.
"""

from __future__ import annotations

import dis
import hashlib
import sys
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

NAMED = {"torch", "torchvision", "msnlib", "builtins", "abc", "collections", "contextlib", "enum", "functools"}
NAMED |= {"itertools", "math", "operator", "typing", "warnings"}
# Of a class: what it is called, or is made of the rest. Annotations compute nothing (Python 3.14 has more such names).
NOT_CODE = {"__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__firstlineno__"}
NOT_CODE |= {"__static_attributes__", "__orig_bases__", "__parameters__", "__abstractmethods__", "_abc_impl"}


class Unknown(ValueError):
    """Something takes part that no value tells, named in one line."""


def class_name(thing: object) -> str:
    """Module and name of an object's class."""
    return f"{type(thing).__module__}.{type(thing).__qualname__}"


def value(given: Any, what: str, seen: dict[int, int] | None = None) -> Any:
    """A value, a function or a class as JSON; ``what`` it is called where it is refused.

    Raises:
        Unknown: it has parts that no value tells.
    """
    if given is None or isinstance(given, bool | int | float | str):
        return given if not isinstance(given, float) else repr(given)
    if isinstance(given, tuple | list):
        return [value(item, what, seen) for item in given]
    if isinstance(given, dict) and all(isinstance(name, str) for name in given):
        return {name: value(item, what, seen) for name, item in given.items()}
    if isinstance(given, torch.dtype | torch.device):
        return str(given)
    if isinstance(given, Tensor):
        return tensor(given)
    if isinstance(given, FunctionType | BuiltinFunctionType | type | ModuleType):
        return _code(given, what, {} if seen is None else seen)
    raise Unknown(f"{what} is a {type(given).__name__}")


def tensor(given: Tensor) -> str:
    """The sha256 of a tensor: type, shape, layout and every bit."""
    if given.layout != torch.strided:
        raise Unknown(f"a tensor is {str(given.layout).removeprefix('torch.')}")
    given = given.detach()
    found = hashlib.sha256(repr((str(given.dtype), tuple(given.shape), given.stride())).encode())
    found.update(given.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _code(given: Any, what: str, seen: dict[int, int]) -> Any:
    """A function, class or module, by its name if that is enough; what was met before by its number."""
    name = given.__name__ if isinstance(given, ModuleType) else f"{given.__module__}.{given.__qualname__}"
    is_named = name.split(".")[0] in NAMED
    if is_named and not getattr(given, "__closure__", None):
        return name
    if isinstance(given, ModuleType | BuiltinFunctionType):
        raise Unknown(f"{what} is {name}, whose code may change unseen")
    if id(given) in seen:
        return ["again", seen[id(given)]]
    seen[id(given)] = len(seen)
    if isinstance(given, type):
        return _class(given, seen)
    cells = zip(given.__code__.co_freevars, given.__closure__ or (), strict=True)
    closure = {free: value(_held(cell), f"{free} of {name}", seen) for free, cell in cells}
    if is_named:
        return [name, closure]
    defaults = value([given.__defaults__, given.__kwdefaults__], f"a default of {name}", seen)
    return [sys.implementation.cache_tag, _bytecode(given.__code__), defaults, closure, _globals(given, name, seen)]


def _class(kind: type, seen: dict[int, int]) -> list[Any]:
    """A class: its bases' names, and all that those of them define which no name tells."""
    told: list[Any] = []
    for base in kind.__mro__:
        name = f"{base.__module__}.{base.__qualname__}"
        if name.split(".")[0] in NAMED and "plain_class" not in vars(base):
            told.append(name)
            continue
        own = {n: v for n, v in vars(base).items() if n not in NOT_CODE and not n.startswith("__annot")}
        told.append([name, {n: _attribute(own[n], f"{n} of {name}", seen) for n in sorted(own)}])
    return told


def _attribute(given: Any, what: str, seen: dict[int, int]) -> Any:
    if isinstance(given, staticmethod | classmethod):
        return [type(given).__name__, value(given.__func__, what, seen)]
    if isinstance(given, property):
        return ["property", value([given.fget, given.fset, given.fdel], what, seen)]
    return value(given, what, seen)


def _held(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _bytecode(code: CodeType) -> list[Any]:
    sizes = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
    names = [*map(list, (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars))]
    exceptions = getattr(code, "co_exceptiontable", b"").hex()
    return [code.co_code.hex(), exceptions, sizes, names, [_constant(one) for one in code.co_consts]]


def _constant(given: Any) -> Any:
    if isinstance(given, CodeType):
        return _bytecode(given)
    if isinstance(given, tuple):
        return [_constant(one) for one in given]
    return ["set", *sorted(map(repr, given))] if isinstance(given, frozenset) else repr(given)


def _globals(function: FunctionType, name: str, seen: dict[int, int]) -> dict[str, Any]:
    """What the function's global names, and those of functions inside it, stand for; without Python's own."""
    used = sorted(set(_global_names(function.__code__)) & set(function.__globals__))
    return {used_name: value(function.__globals__[used_name], f"{used_name} in {name}", seen) for used_name in used}


def _global_names(code: CodeType) -> Iterator[str]:
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            yield step.argval
        if step.opname == "IMPORT_NAME" and step.argval.split(".")[0] not in NAMED:
            raise Unknown(f"{code.co_name} imports {step.argval}, whose code may change unseen")
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _global_names(constant)
