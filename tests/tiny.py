"""Tiny notebooks that run for real in about a second, and what tests of running them share."""

import json
import resource
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

import msnlib
from msnlib.command.cli import main

# msnlib's modules without msnlib/__init__.py, which imports torch: these notebooks take a second each.
PACKAGE = f"""import sys, types
package = sys.modules["msnlib"] = types.ModuleType("msnlib")
package.__path__ = [{str(Path(msnlib.__file__).parent)!r}]
package.__version__ = {msnlib.__version__!r}"""
PARAMETERS = """profile: str = "quick"  # size of the run [quick, laptop, paper]
seed: int = 0  # seed of every random draw
device: str = "cpu"  # [device in devices]
density: float = 0.1  # share of weights a task keeps [0 < density <= 1]
width: int = 4  # a parameter of this notebook only"""
RECORD = """from msnlib.lab.records import Run
run = Run("E1", notebook=NAME, profile=profile, seed=seed, density=density)
run.add(task="mnist", arm="multitask", metric="accuracy", value=90 + seed, seconds=1)
run.save().name"""
NOISE = """import os, warnings
warnings.warn("watch out")
print("at", os.getcwd(), hash("a"), sorted(os.listdir(".")))
print(seed, os.environ.get("MPLBACKEND") == "Agg", os.environ["OMP_WAIT_POLICY"])"""


def write_notebook(folder: Path, name: str, *code: str, parameters: str = PARAMETERS, tag: str = "parameters") -> Path:
    cells = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": f"Intro\n# About {name}\nMore"}]
    for number, source in enumerate((parameters, *code)):
        metadata = {"tags": [tag]} if number == 0 else {}
        cell = {"cell_type": "code", "id": f"cell-{number}", "metadata": metadata, "source": source}
        cells.append(cell | {"execution_count": None, "outputs": []})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.ipynb"
    path.write_text(json.dumps(notebook))
    return path


def good_notebook(folder: Path, name: str) -> Path:
    return write_notebook(folder, name, PACKAGE, NOISE, RECORD.replace("NAME", repr(name)))


def msn(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def files(folder: Path) -> list[str]:
    """The files under a folder but for those of locks, which are empty."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != ".locks")
    return sorted(path.relative_to(folder).as_posix() for path in files)


@contextmanager
def full_disk(room: int = 0):
    """Files have no room for more than so many bytes: writing them fails as on a full disk."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def ended(pid: int) -> bool:
    """Say whether a process that was killed ends within ten seconds; a zombie is only waiting for its parent."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for _ in range(100):
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            time.sleep(0.1)
        return False
    return True
