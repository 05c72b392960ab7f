"""Problem sets in a folder of the lecturer's: released, graded and answered through nbgrader's API.

The folder has nbgrader's layout: ``source`` (with solutions), ``release`` (for students), ``submitted``, ``autograded``
and ``feedback`` with ``<student>/<assignment>`` in them, ``gradebook.db``. ``autograded`` holds what the last grading
could grade, nothing else.
"""

import csv
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msnlib.files import UsageError, write_json
from msnlib.lab.notebooks import read_notebook
from msnlib.lab.parameters import ParameterError
from msnlib.lab.records import digest

CONFIG = """\
# Read by `msn course`, and by nbgrader's own commands and pages when they are started in this folder.
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "msnlib"
c.Execute.timeout = 120  # seconds a cell may take; `msn course grade --timeout` overrides it
c.OverwriteCells.add_missing_cells = True  # a test cell that a student deleted is put back
"""
_STAMPS = ".graded.json"


@dataclass(frozen=True)
class Outcome:
    """What became of one assignment, or of one student's; ``note`` says it in a few words."""

    assignment: str
    student: str
    note: str
    failed: bool = False

    def __str__(self) -> str:
        return f"{f'{self.student} {self.assignment}'.strip()}: {self.note}"


def release(folder: Path, sources: Path) -> Iterator[Outcome]:
    """Copy the problem sets of ``sources`` to ``folder/source`` and make the students' versions in ``folder/release``.

    Problem sets that are in ``folder/source`` already are left as they are, and others there are released too.

    Raises `UsageError` when there is nothing to release or nbgrader is not installed.
    """
    folder, own = Path(folder), Path(folder) / "source"
    found = _problem_sets(sources)
    if not found and not _problem_sets(own):
        raise UsageError(f"no problem sets in {sources}")
    _nbgrader()
    own.mkdir(parents=True, exist_ok=True)
    config = folder / "nbgrader_config.py"
    if not config.exists():
        config.write_text(CONFIG, encoding="utf-8")
    for name in found:
        if not (own / name).exists():
            shutil.copytree(Path(sources) / name, own / name, ignore=shutil.ignore_patterns(".*"))
    api = _api(folder)
    for name in _problem_sets(own):
        error = _error(api.generate_assignment, name)
        if error:
            yield Outcome(name, "", error, failed=True)
        else:
            with api.gradebook as book:
                yield Outcome(name, "", f"released with {book.find_assignment(name).max_score:g} points")


def grade(folder: Path, timeout: int | None = None, force: bool = False) -> Iterator[Outcome]:
    """Grade everything under ``folder/submitted`` and write ``folder/grades.csv``, a row per student and assignment.

    What was graded before and has not changed is skipped unless ``force``. A cell that takes more than ``timeout``
    seconds is interrupted and counts as an error. Points given by hand in the gradebook are kept.

    Raises `UsageError` when nothing was released or submitted or nbgrader is not installed.
    """
    folder = Path(folder)
    submissions = _submissions(folder, "submitted")
    api = _api(folder, timeout)
    failures = {}
    for student, name in submissions:
        outcome = _grade_one(api, folder, student, name, force)
        if outcome.failed:
            failures[student, name] = outcome.note
        yield outcome
    _write_grades(api, folder, failures)


def feedback(folder: Path) -> Iterator[Outcome]:
    """Write ``folder/feedback/<student>/<name>/<name>.html`` for all that is graded, and ``grades.csv`` anew.

    Raises `UsageError` when nothing is graded or nbgrader is not installed.
    """
    folder = Path(folder)
    graded = _submissions(folder, "autograded")
    api = _api(folder)
    for student, name in graded:
        error = _error(api.generate_feedback, name, student)
        for page in (folder / "feedback" / student / name).glob("*.html"):
            _name_cells(page)
        yield Outcome(name, student, error or f"feedback/{student}/{name}/{name}.html", failed=bool(error))
    _write_grades(api, folder, {})


def _name_cells(page: Path) -> None:
    """Say in the list at the top of a page which test each line is about; nbgrader calls all of them "Test cell"."""
    text = page.read_text(encoding="utf-8")
    page.write_text(re.sub(r'(<a href="#([\w-]+)">)Test cell<', r"\1Test cell \2<", text), encoding="utf-8")


def _grade_one(api: Any, folder: Path, student: str, name: str, force: bool) -> Outcome:
    submitted, source = _paths(folder, student, name)
    graded = folder / "autograded" / student / name / f"{name}.ipynb"
    problem = _refusal(submitted, source)
    if problem:
        shutil.rmtree(graded.parent, ignore_errors=True)
        return Outcome(name, student, problem, failed=True)
    # Not by the files' times: what is unpacked from a platform's archive may be new and look old.
    stamp, stamps = digest([path.read_text(encoding="utf-8") for path in (submitted, source)]), _stamps(folder)
    if not force and graded.exists() and stamps.get(f"{student}/{name}") == stamp:
        return Outcome(name, student, "graded before (--force grades it again)")
    error = _error(api.autograde, name, student)
    if error:
        return Outcome(name, student, error, failed=True)
    write_json(folder / _STAMPS, stamps | {f"{student}/{name}": stamp})
    row = _row(api, student, name)
    note = f"{row['points']:g} of {row['maximum']:g} points"
    late = sum(
        output.get("ename") == "CellTimeoutError"
        for cell in read_notebook(graded)["cells"]
        for output in cell.get("outputs", [])
    )
    if late:
        note += f", {late} {'cell' if late == 1 else 'cells'} took too long"
    return Outcome(name, student, note + (", the rest by hand" if row["needs_manual_grading"] == "yes" else ""))


def _paths(folder: Path, student: str, name: str) -> tuple[Path, Path]:
    """Return where a submission is, and the problem set it belongs to."""
    return folder / "submitted" / student / name / f"{name}.ipynb", folder / "source" / name / f"{name}.ipynb"


def _refusal(submitted: Path, source: Path) -> str:
    """Return why a submission cannot be graded, or nothing."""
    if not source.is_file():
        return f"no such problem set in {source.parent.parent}"
    if not submitted.is_file():
        there = sorted(path.name for path in submitted.parent.iterdir() if not path.name.startswith("."))
        return f"no {submitted.name} in {submitted.parent} (there: {', '.join(there) or 'nothing'})"
    wanted = _graded_cells(read_notebook(source))
    try:
        found = _graded_cells(read_notebook(submitted))
    except (ParameterError, AttributeError, TypeError):
        return f"{submitted.name} is not a notebook"
    if not wanted & found:
        return f"{submitted.name} was not made from {source.stem}: it has none of its {len(wanted)} graded cells"
    return ""


def _graded_cells(notebook: Mapping[str, Any]) -> set[str]:
    marked = [cell.get("metadata", {}).get("nbgrader", {}) for cell in notebook["cells"]]
    return {meta["grade_id"] for meta in marked if meta.get("grade") and "grade_id" in meta}


def _write_grades(api: Any, folder: Path, failures: Mapping[tuple[str, str], str]) -> None:
    """Write ``grades.csv``: totals, then a column per exercise (what stands before the first ``-`` of a cell's id)."""
    rows = []
    graded = set(_submissions(folder, "autograded", required=False))
    for student, name in _submissions(folder, "submitted", required=False):
        row = {"student": student, "assignment": name}
        if (student, name) in graded:
            row |= _row(api, student, name)
        else:
            row["problem"] = failures.get((student, name)) or _refusal(*_paths(folder, student, name)) or "not graded"
        rows.append(row)
    first = ["student", "assignment", "points", "maximum", "needs_manual_grading", "problem"]
    exercises = sorted({column for row in rows for column in row} - set(first), key=_natural)
    part = folder / ".grades.csv"
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*first, *exercises])
        writer.writeheader()
        writer.writerows(rows)
    part.replace(folder / "grades.csv")


def _row(api: Any, student: str, name: str) -> dict[str, Any]:
    with api.gradebook as book:
        grades = [grade for part in book.find_submission(name, student).notebooks for grade in part.grades]
        row: dict[str, Any] = {
            "points": sum(grade.score for grade in grades),
            "maximum": sum(grade.max_score for grade in grades),
            "needs_manual_grading": "yes" if any(grade.needs_manual_grade for grade in grades) else "no",
        }
        for grade in grades:
            exercise = grade.name.split("-")[0]
            row[exercise] = row.get(exercise, 0) + grade.score
    return row


def _natural(text: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def _stamps(folder: Path) -> dict[str, str]:
    """Return student/assignment -> digest of the submission and the problem set it was graded with."""
    try:
        return json.loads((folder / _STAMPS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _problem_sets(folder: Path) -> list[str]:
    return sorted(path.stem for path in Path(folder).glob("*/*.ipynb") if path.stem == path.parent.name)


def _submissions(folder: Path, kind: str, required: bool = True) -> list[tuple[str, str]]:
    """Return (student, assignment) of the folders there are.

    Raises `UsageError` when they are ``required`` and there are none, or ``folder`` is not one of a course.
    """
    if not (folder / "gradebook.db").is_file():
        raise UsageError(f"{folder} is not the folder of a course: msn course release {folder} makes one")
    found = sorted((path.parent.name, path.name) for path in (folder / kind).glob("[!.]*/[!.]*") if path.is_dir())
    if required and not found:
        step = "submitted/<student>/ps1/ps1.ipynb is where submissions go"
        raise UsageError(
            f"nothing in {folder / kind}: {step if kind == 'submitted' else 'msn course grade comes first'}"
        )
    return found


def _nbgrader() -> type:
    try:
        from nbgrader.apps import NbGraderAPI
    except ImportError as error:
        raise UsageError(f"{error.name or error} is not installed: pip install 'msnlib[course]'") from None
    return NbGraderAPI


def _api(folder: Path, timeout: int | None = None) -> Any:
    """Return nbgrader's API for the course in ``folder``, configured by the ``nbgrader_config.py`` there."""
    api = _nbgrader()
    from traitlets.config import Config, PyFileConfigLoader

    root, config = folder.resolve(), Config()
    if (root / "nbgrader_config.py").exists():
        try:
            config = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
        except Exception as error:  # it is a program of the lecturer's and may fail in any way
            raise UsageError(f"{folder / 'nbgrader_config.py'}: {type(error).__name__}: {error}") from None
    config.CourseDirectory.root = str(root)
    config.Execute.extra_arguments = ["--HistoryManager.hist_file=:memory:", "--IPKernelApp.log_level=CRITICAL"]
    config.Execute.iopub_timeout = 30  # nbgrader's 4 seconds fail whole submissions on a busy machine
    if timeout is not None:
        config.Execute.timeout = timeout
    return api(config=config)


def _error(step: Callable[..., Mapping[str, Any]], *arguments: str) -> str:
    """Run one of nbgrader's steps; return the line that says why it failed, or nothing."""
    with _environment():
        result = step(*arguments)
    if result["success"]:
        return ""
    error = result.get("error", "").strip().splitlines() or [""]
    if error[-1] == "KeyboardInterrupt":  # nbgrader catches it; nobody wants the next student graded then
        raise KeyboardInterrupt
    lines = [line.strip() for line in [*error, *result.get("log", "").splitlines()]]
    raised = [line for line in lines if re.match(r"[\w.]+(Error|Exception|Entry)\w*(: |$)", line)]
    own = [line for line in raised if not line.startswith("nbgrader.converters.base.NbGraderException")]
    return (own or raised or ["nbgrader failed"])[-1]


@contextmanager
def _environment() -> Iterator[None]:
    """What nbgrader and its kernels need to see: this Python's commands first, no start-up files of the lecturer's."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="msn-") as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of SQLAlchemy and nbformat about nbgrader, of no use to a lecturer
        os.environ.pop("MPLBACKEND", None)
        os.environ.update(
            PATH=os.pathsep.join([str(Path(sys.executable).parent), before.get("PATH", "")]),  # nbgrader calls alembic
            IPYTHONDIR=scratch,
            OMP_WAIT_POLICY="PASSIVE",  # threads that spin while they wait starve everything beside them
            PYTHONHASHSEED="0",
        )
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
