"""nbgrader, kept in hand: a course as it sees it, steps whose errors are one line, and the grades in its gradebook."""

import os
import re
import shutil
import sqlite3
import sys
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msnlib.command.environment import kernel_environment
from msnlib.files import UsageError, one_line

PATIENCE = 5  # seconds to wait for a gradebook that another program is writing to
_STARTUP = "from msnlib.command.explained import install\ninstall(get_ipython())\ndel install\n"


@dataclass(frozen=True)
class Part:
    """One graded cell: its ``score``, None while it waits for somebody; ``stale`` when given for an earlier hand-in."""

    name: str
    score: float | None
    maximum: float
    stale: bool = False


@dataclass(frozen=True)
class Grades:
    """What one student has for one problem set; ``penalty`` is taken off for being ``hours_late``.

    ``comments`` are what was written about cells, by their names.
    """

    parts: tuple[Part, ...]
    comments: Mapping[str, str]
    hours_late: float = 0.0
    penalty: float = 0.0

    @property
    def points(self) -> float:
        return sum(part.score or 0 for part in self.parts) - self.penalty

    @property
    def maximum(self) -> float:
        return sum(part.maximum for part in self.parts)

    @property
    def waiting(self) -> list[Part]:
        """Parts that somebody has to look at."""
        return [part for part in self.parts if part.score is None or part.stale]


class Desk:
    """A course's folder as nbgrader sees it: under a plain path, with nothing submitted but what is put there."""

    def __init__(self, folder: Path, scratch: Path, timeout: int | None):
        self.root = scratch / "course"
        self.root.mkdir()
        for name in ("source", "release", "gradebook.db", "nbgrader_config.py"):
            (self.root / name).symlink_to((folder / name).resolve())
        self.api = _api(folder, self.root, timeout)

    def release(self, name: str) -> str:
        """Make the students' version of a problem set; return the line that says why it failed, or nothing."""
        return _error(self.api.generate_assignment, name)

    def grade(self, name: str, student: str) -> tuple[str, Path]:
        """Grade what lies in ``submitted``; return what went wrong, or nothing, and the folder with the result."""
        return _error(self.api.autograde, name, student), self.root / "autograded" / student / name

    def confirm(self, name: str, student: str, parts: Collection[str]) -> None:
        """Let points that were given by hand stand for these parts: nbgrader doubts them all when it grades again."""
        with self.api.gradebook as book:
            for notebook in book.find_submission(name, student).notebooks:
                for grade in notebook.grades:
                    if grade.name in parts and grade.manual_score is not None:
                        grade.needs_manual_grade = False
            book.db.commit()

    def submitted(self, name: str, student: str) -> Path:
        """Return the folder for one student's files, made anew."""
        folder = self.root / "submitted" / student / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def maximum(self, name: str) -> float:
        """Return the points of a problem set."""
        with self.api.gradebook as book:
            return book.find_assignment(name).max_score

    def due(self, name: str) -> datetime | None:
        """Return when a problem set must be handed in, if the gradebook says so."""
        from nbgrader.api import MissingEntry

        with self.api.gradebook as book:
            try:
                found = book.find_assignment(name).duedate
            except MissingEntry:
                return None
        return found and found.replace(tzinfo=UTC)

    def grades(self, name: str, student: str, order: Sequence[str]) -> Grades | None:
        """Return what the gradebook holds, parts in this order, or None when it holds nothing."""
        from nbgrader.api import MissingEntry

        with self.api.gradebook as book:
            try:
                submission = book.find_submission(name, student)
            except MissingEntry:
                return None
            notebooks = submission.notebooks
            comments = {said.name: said.comment for part in notebooks for said in part.comments if said.comment}
            parts = [
                Part(
                    grade.name,
                    None if grade.manual_score is None and grade.auto_score is None else grade.score,
                    grade.max_score,
                    stale=grade.needs_manual_grade and grade.manual_score is not None,
                )
                for part in notebooks
                for grade in part.grades
            ]
            penalty = sum(part.late_submission_penalty or 0 for part in notebooks)
            hours = round(submission.total_seconds_late / 3600, 1)
        places = {part: place for place, part in enumerate(order)}
        parts.sort(key=lambda part: (places.get(part.name, len(places)), part.name))
        return Grades(tuple(parts), comments, hours, penalty)


@contextmanager
def desk(folder: Path, timeout: int | None = None) -> Iterator[Desk]:
    """A `Desk` for the course in ``folder``; a cell may take ``timeout`` seconds.

    Raises:
        UsageError: nbgrader is not installed, or the course's configuration or gradebook cannot be used.
    """
    _nbgrader()
    with tempfile.TemporaryDirectory(prefix="msn-") as scratch:
        yield Desk(folder, Path(scratch), timeout)


def check_gradebook(folder: Path) -> None:
    """Make sure that the gradebook can be written to.

    Raises:
        UsageError: it is missing, empty, damaged, or another program holds it.
    """
    path = folder / "gradebook.db"
    if not path.is_file():
        raise UsageError(
            f"{path} is missing: put your copy back, or make an empty one with msn course release {folder}"
        )
    try:
        with closing(sqlite3.connect(path, timeout=PATIENCE)) as book:
            book.execute("BEGIN IMMEDIATE")
            tables = {name for (name,) in book.execute("SELECT name FROM sqlite_master")}
            (state,) = book.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as error:
        raise UsageError(f"{path} cannot be used now ({error}): close what else works with it and try again") from None
    except sqlite3.DatabaseError as error:
        tables, state = set(), str(error)
    if not {"assignment", "grade"} <= tables or state != "ok":
        what = "is empty" if state == "ok" else f"is damaged ({one_line(ValueError(state))})"
        raise UsageError(
            f"{path} {what}: put your copy back, or remove it and make one with msn course release {folder}"
        )


def _nbgrader() -> type:
    try:
        from nbgrader.apps import NbGraderAPI
    except ImportError as error:
        raise UsageError(f"{error.name or error} is not installed: pip install 'msnlib[course]'") from None
    return NbGraderAPI


def _api(folder: Path, root: Path, timeout: int | None) -> Any:
    """Return nbgrader's API for the course at ``root``, configured by the ``nbgrader_config.py`` of its ``folder``."""
    api = _nbgrader()
    from nbgrader.converters import Autograde
    from traitlets.config import Config, PyFileConfigLoader

    from msnlib.command.execution import Execution

    config = Config()
    if (root / "nbgrader_config.py").exists():
        try:
            config = PyFileConfigLoader("nbgrader_config.py", path=str(root)).load_config()
        except Exception as error:  # it is a program of the lecturer's and may fail in any way
            raise UsageError(f"{folder / 'nbgrader_config.py'}: {type(error).__name__}: {error}") from None
    config.CourseDirectory.root = str(root)
    config.Execute.extra_arguments = ["--HistoryManager.hist_file=:memory:", "--IPKernelApp.log_level=CRITICAL"]
    if "iopub_timeout" not in config.Execute:
        config.Execute.iopub_timeout = 30  # nbgrader's 4 seconds fail whole submissions on a busy machine
    if timeout is not None:
        config.Execute.timeout = timeout
    steps = Autograde.class_traits()["autograde_preprocessors"].default()
    config.Autograde.autograde_preprocessors = [Execution if issubclass(Execution, step) else step for step in steps]
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
        seen = kernel_environment(Path(scratch))
        startup = Path(seen["IPYTHONDIR"], "profile_default", "startup")
        startup.mkdir(parents=True)
        (startup / "explained.py").write_text(_STARTUP, encoding="utf-8")
        commands = [str(Path(sys.executable).parent), seen.get("PATH", "")]  # nbgrader calls alembic
        os.environ.clear()
        os.environ.update(seen, PATH=os.pathsep.join(commands))
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
