"""The folder of a course: where things lie in it, what was handed in, and what counts as graded."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from msnlib.command.handins import HandIn, Notebook, find_hand_ins, identifier, mark, shown
from msnlib.files import UsageError, replacing, write_json
from msnlib.lab.notebooks import read_notebook
from msnlib.lab.parameters import ParameterError
from msnlib.lab.records import digest

RECEIPTS = ("timestamp.txt", "submission_secret.txt")  # nbgrader's exchange returns a page by them


@dataclass(frozen=True)
class Outcome:
    """What became of one assignment, or of one student's; ``note`` says it in a few words."""

    assignment: str
    student: str
    note: str
    failed: bool = False

    def __str__(self) -> str:
        name = " ".join(filter(None, [shown(self.student), shown(self.assignment)]))
        return f"{name}: {self.note}" if name else self.note


class CourseFolder:
    """A folder with nbgrader's layout.

    It has ``source`` (with solutions), ``release`` (for students), ``submitted``, ``autograded`` and ``feedback`` with
    ``<student>/<assignment>`` in them, and ``gradebook.db``. A hand-in counts as graded when its stamp says so, which
    is written last.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.submitted = self.path / "submitted"
        self._stamps, self._released = self.path / ".graded.json", self.path / ".released.json"
        self._variants = self.path / ".variants.json"

    def check(self) -> None:
        """Make sure that it is one. Raises `UsageError`."""
        if not (self.path / "source").is_dir():
            raise UsageError(f"{self.path} is not the folder of a course: msn course release {self.path} makes one")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every other `msn course` out, until the block or this process ends. Raises `UsageError`."""
        try:
            with FileLock(self.path / ".msn.lock", timeout=0):
                yield
        except Timeout:
            raise UsageError(f"another msn course is at work in {self.path}: wait until it is done") from None

    def hand_ins(self) -> list[HandIn]:
        """Return what was handed in."""
        if not self.submitted.is_dir():
            return []
        found = []
        for hand_in in find_hand_ins(self.submitted):
            if variants := self.variants(hand_in.assignment):
                variant = variants.get(hand_in.student, "")
                problem = "" if variant else "no variant was made for this student: see msn course release --students"
                hand_in = replace(hand_in, variant=variant, problem=hand_in.problem or problem)
            found.append(hand_in)
        return found

    def variants(self, name: str) -> dict[str, str]:
        """Return which problem set each student has for ``name``, or nothing where all have the same."""
        return _read(self._variants).get(name, {})

    def keep_variants(self, name: str, variants: Mapping[str, str]) -> None:
        """Note which problem set each student has for ``name``."""
        write_json(self._variants, _read(self._variants) | {name: dict(variants)})

    def source(self, name: str) -> Path:
        """Return where a problem set is."""
        return self.path / "source" / name / f"{name}.ipynb"

    def cells(self, name: str) -> list[Notebook]:
        """Return the marked cells of a problem set."""
        return [cell for cell in read_notebook(self.source(name))["cells"] if mark(cell)]

    def released(self, name: str) -> Path:
        """Return where the students' version of a problem set is."""
        return self.path / "release" / name / f"{name}.ipynb"

    def graded(self, hand_in: HandIn) -> Path:
        """Return where a hand-in is kept as it was run."""
        name = identifier(hand_in.name)
        return self.path / "autograded" / identifier(hand_in.student) / name / f"{name}.ipynb"

    def page(self, hand_in: HandIn) -> Path:
        """Return where the student's page is."""
        name = identifier(hand_in.name)
        return self.path / "feedback" / identifier(hand_in.student) / name / f"{name}.html"

    def write_page(self, hand_in: HandIn, text: str) -> Path:
        """Write a student's page, with the receipts of what was graded beside it; return where it is."""
        path = self.page(hand_in)
        path.parent.mkdir(parents=True, exist_ok=True)
        copy_receipts(self.graded(hand_in).parent, path.parent)
        with replacing(path) as part:
            part.write_text(text, encoding="utf-8")
        return path

    def stamp(self, hand_in: HandIn) -> str | None:
        """Return what a hand-in was when it was graded, or None when it is not, or not as a whole."""
        return _read(self._stamps).get(hand_in.key) if self.graded(hand_in).is_file() else None

    def keep(self, hand_in: HandIn, stamp: str, result: Path) -> None:
        """Take the folder ``result`` as the graded hand-in."""
        shutil.copytree(result, self.graded(hand_in).parent)
        write_json(self._stamps, _read(self._stamps) | {hand_in.key: stamp})

    def forget(self, hand_in: HandIn) -> None:
        """Make a hand-in one that is not graded."""
        stamps = _read(self._stamps)
        if stamps.pop(hand_in.key, None) is not None:
            write_json(self._stamps, stamps)
        for path in (self.graded(hand_in), self.page(hand_in)):
            shutil.rmtree(path.parent, ignore_errors=True)

    def digest(self, name: str) -> str:
        """Return a hash of a problem set."""
        return digest(self.source(name).read_text(encoding="utf-8"))

    def keep_release(self, name: str) -> None:
        """Note that a problem set is released as it is now."""
        write_json(self._released, _read(self._released) | {name: self.digest(name)})

    def is_released(self, name: str) -> bool:
        """Whether a problem set is what was released last."""
        return _read(self._released).get(name) == self.digest(name) and self.released(name).is_file()


def copy_receipts(folder: Path, to: Path) -> None:
    """Copy what nbgrader's exchange put beside a hand-in."""
    for name in RECEIPTS:
        if (folder / name).is_file() and not (folder / name).is_symlink():
            shutil.copyfile(folder / name, to / name)


def problem_sets(folder: Path) -> list[str]:
    """Return the names of the problem sets in a folder that has one in each of its folders."""
    if not Path(folder).is_dir():
        return []
    names = [path.name for path in Path(folder).iterdir() if not path.name.startswith(".")]
    return sorted(name for name in names if _is_notebook(Path(folder, name, f"{name}.ipynb")))


def _is_notebook(path: Path) -> bool:
    try:
        return bool(read_notebook(path))
    except ParameterError:
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
