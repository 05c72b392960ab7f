"""Sweeps: a TOML file says which notebooks run with which profiles, seeds and parameters; what became of each.

    [[runs]]
    notebooks = ["02_parallel_dense", 3]     # numbers or names
    profiles = "laptop"                      # one or a list
    seeds = "0-2"                            # as for msn run, or a list
    parameters = { density = [0.5, 0.1] }    # a list is a grid: one run for every value

There may be several ``[[runs]]``. ``[margins]`` and ``[claim]`` belong to `msnlib.lab.design`.
"""

import itertools
import json
import os
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from msnlib.command.jobs import Job, choose_notebooks, plan
from msnlib.command.process import PROGRESS, failed_folder
from msnlib.command.runner import lock, lock_path
from msnlib.files import UsageError
from msnlib.lab.notebooks import read_notebook
from msnlib.lab.parameters import KIND_NAMES, ParameterError, parse_seeds

_KEYS = {"notebooks", "profiles", "seeds", "parameters"}


def read_sweep(path: Path, notebooks: Path, here: bool = False) -> list[Job]:
    """Return the jobs of a sweep file, each configuration once: the first seed of everything, then the second.

    So a sweep that is stopped early has about as many seeds of each.

    Args:
        path: the TOML file.
        notebooks: the folder that numbers and names of notebooks refer to.
        here: whether the jobs will run on this machine, which must then have the devices they name.

    Raises:
        UsageError: the file is missing, is no TOML, or has a key or value that is not allowed.
        ParameterError: a parameter that a notebook does not have or allow.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors write a byte-order mark
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: {error}") from None
    unknown = set(content) - {"runs", "margins", "claim"}
    if unknown:
        raise UsageError(f"{path} has {sorted(unknown)[0]!r}, but may have [[runs]], [margins] and [claim]")
    blocks = content.get("runs")
    if not isinstance(blocks, list) or not blocks or not all(isinstance(block, dict) for block in blocks):
        raise UsageError(f"{path} has no [[runs]]")
    found: list[tuple[int, Job]] = []
    for block in blocks:
        try:
            found += _block(block, notebooks, here)
        except UsageError as error:
            raise type(error)(f"{path}: {error}") from None
    found.sort(key=lambda pair: pair[0])  # stable: within a turn the order of the file
    return list({job.configuration_hash: job for _, job in found}.values())


def _block(block: dict[str, Any], folder: Path, here: bool) -> list[tuple[int, Job]]:
    """Return the jobs of one ``[[runs]]``, each with the place of its seed."""
    if set(block) - _KEYS or "notebooks" not in block:
        wrong = sorted(set(block) - _KEYS)
        problem = f"has {wrong[0]!r}" if wrong else "has no notebooks"
        raise UsageError(f"[[runs]] {problem}, but may have {', '.join(sorted(_KEYS))}")
    paths = choose_notebooks(folder, [str(name) for name in _listed("notebooks", block["notebooks"], str, int)])
    profiles = _listed("profiles", block.get("profiles", "quick"), str)
    seeds = block.get("seeds", "0")
    seeds = parse_seeds(seeds if isinstance(seeds, str) else ",".join(map(str, _listed("seeds", seeds, int))))
    parameters = block.get("parameters", {})
    if not isinstance(parameters, dict):
        raise UsageError(f"parameters is {parameters!r}, but must be a table of names and values")
    grid = [[(name, value) for value in _listed(f"parameter {name}", values)] for name, values in parameters.items()]
    return [
        (seeds.index(job.seed), job)
        for profile, given in itertools.product(profiles, list(itertools.product(*grid)))
        for job in plan(paths, profile, seeds, given, hashed=True, here=here)
    ]


def _listed(name: str, value: Any, *kinds: type) -> list[Any]:
    """Return a value, or several in a list, each of one of the ``kinds``. Raises `UsageError` for anything else."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise UsageError(f"{name} is an empty list, so nothing would run")
    if kinds and not all(type(item) in kinds for item in values):
        named = " or ".join(KIND_NAMES[kind] for kind in kinds)
        raise UsageError(f"{name} is {value!r}, but must be of type {named}, or a list of them")
    return values


@dataclass(frozen=True)
class State:
    """Where a job stands: ``name`` is done, running, failed, interrupted or waiting; ``note`` says more in words."""

    job: Job
    name: str
    note: str = ""


def state(job: Job, out: Path) -> State:
    """Return where a job stands under ``out``, from what lies there; nothing is started or changed."""
    found = job.done(out)
    if found is not None:
        return State(job, "done", f"{found[1]['run'].get('seconds', 0):.0f} s")
    target = Path(out) / job.folder
    parts = sorted(target.parent.glob(f".{target.name}.*/run.json"))
    if _held(job, out):
        return State(job, "running", _progress(job, parts[-1]) if parts else "")
    failed = failed_folder(target)
    if failed.is_dir() and not parts:
        note = failed / "note.txt"
        return State(job, "failed", note.read_text(encoding="utf-8").strip() if note.is_file() else "")
    return State(job, "interrupted") if parts else State(job, "waiting")


def _held(job: Job, out: Path) -> bool:
    """Whether someone runs the job. Nothing is made or written: the folder may be another user's."""
    try:
        import fcntl
    except ImportError:  # Windows, where a lock that is held cannot even be opened
        return lock_path(job, Path(out)).exists() and not _free(lock(job, Path(out)))
    path = lock_path(job, Path(out))
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # no one has run it, or no one may look
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _free(found: FileLock) -> bool:
    try:
        with found.acquire(timeout=0):
            return True
    except Timeout:
        return False


def _progress(job: Job, path: Path) -> str:
    """Where a run is going on, for how long, and how far papermill has come by its last save of the notebook."""
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
    text = f"{time.time() - run['started']:.0f} s on {run['host']} (process {run['pid']})"
    try:
        training = json.loads((path.parent / PROGRESS).read_text(encoding="utf-8"))
        text += f", {training['task']} epoch {training['epoch']} ({training['seconds']:.1f} s an epoch)"
    except (OSError, ValueError):  # nothing is trained yet, or nothing stored
        pass
    try:
        cells = [cell for cell in read_notebook(path.parent / job.notebook.name)["cells"] if "outputs" in cell]
    except ParameterError:
        return text
    return f"{text}, cell {sum(cell['execution_count'] is not None for cell in cells)} of {len(cells)}"
