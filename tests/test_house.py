"""The house: which module may import which, and how large modules and functions may be. Read from the sources."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import msnlib

ROOT = Path(msnlib.__file__).parent
FOLDERS = ("", "data", "exchange", "lab", "command")  # a module imports from its own folder and from those before it
BESIDE = {"exchange": {"data"}}  # two that stand beside each other know nothing of each other
MODULES = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in sorted(ROOT.glob("**/*.py"))}
SOURCES = {name: path for name, path in MODULES.items() if Path(name).name not in ("__init__", "__main__")}
every_module = pytest.mark.parametrize("name", SOURCES)


def _folder(module: str) -> str:
    return module.rpartition("/")[0]


def _imports(name: str) -> list[tuple[str, bool]]:
    """Modules of msnlib that a module imports, and whether inside a function."""
    tree, found = ast.parse(SOURCES[name].read_text(encoding="utf-8")), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "msnlib":
            path = "/".join(node.module.split(".")[1:])
            inside = node not in tree.body
            names = [alias.name for alias in node.names]
            found += [(path, inside)] if path in SOURCES else [(f"{path}/{n}".strip("/"), inside) for n in names]
    return [(module, inside) for module, inside in found if module in SOURCES]


def test_imports_run_one_way():
    wrong = []
    for name in SOURCES:
        allowed = set(FOLDERS[: FOLDERS.index(_folder(name)) + 1]) - BESIDE.get(_folder(name), set())
        wrong += [f"{name} imports {module}" for module, _ in _imports(name) if _folder(module) not in allowed]
    assert wrong == []


def test_no_module_imports_itself_by_way_of_others():
    list(TopologicalSorter({name: {module for module, _ in _imports(name)} for name in SOURCES}).static_order())


@every_module
def test_only_the_command_waits_with_imports(name):
    """It prints its help before torch is imported; nobody else hides an import in a function."""
    hidden = [module for module, inside in _imports(name) if inside]
    assert hidden == [] or _folder(name) == "command"


@every_module
def test_modules_and_functions_are_small(name):
    text = SOURCES[name].read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            documented = isinstance(first, ast.Expr) and ast.get_docstring(node) is not None
            lines = node.end_lineno - node.lineno + 1 - documented * (first.end_lineno - first.lineno + 1)
            assert lines <= 60, f"{node.name} has {lines} lines"


def test_allocate_takes_ten_things_at_most():
    assert msnlib.allocate.__code__.co_argcount + msnlib.allocate.__code__.co_kwonlyargcount <= 10
