"""What a course is given with: the students' problem sets in a variant, and the lecturer's archive."""

import itertools
import json
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msnlib.command.coursefolder import CourseFolder, Outcome, problem_sets
from msnlib.command.grading import check_gradebook, desk
from msnlib.command.handins import identifier, shown
from msnlib.command.variants import choices, choose, resolve, seed_of
from msnlib.files import UsageError, replacing
from msnlib.lab.notebooks import read_notebook

CONFIG = """\
# Read by `msn course`, and by nbgrader's own commands and pages when they are started in this folder.
c = get_config()  # noqa: F821
c.CourseDirectory.course_id = "msnlib"
c.Execute.timeout = 120  # seconds a cell may take; `msn course grade --timeout` overrides it
# c.LateSubmissionPlugin.penalty_method = "zero"  # what is late gets nothing; without this line, lateness is only shown
"""


README = """\
# Problem sets

Open `start.ipynb` first: it checks that everything is there. Then `ps1.ipynb` and the others, in their order.
{install}
Hand in the notebook itself, under the name it has.
"""
INSTALL = """
You need Python 3.11 or newer, and once:

```sh
pip install -r requirements.txt jupyterlab
```
"""
ARCHIVE = ("notebooks/assignments", "notebooks/solutions", "course", "docs/teaching.md", "docs/syllabus.md")


def release(
    folder: Path, sources: Path, variant: str = "", students: Sequence[str] = (), install: str = ""
) -> Iterator[Outcome]:
    """Copy problem sets to a course and make the students' versions, in its folder ``handout``.

    Args:
        folder: of the course. Problem sets that are in its ``source`` already are left as they are, and released too.
        sources: holds a folder per problem set; a notebook ``start.ipynb`` beside it is handed out too.
        variant: what is asked, see `msnlib.command.variants.choose`.
        students: names; when given, each has a variant of their own, in ``handout/<student>``.
        install: what students' ``pip install`` is given to install msnlib.

    Yields:
        What became of each problem set.

    Raises:
        UsageError: there is nothing to release, no such variant, nbgrader is not installed, or another command is at
            work in ``folder``.
    """
    course, own = CourseFolder(folder), Path(folder) / "source"
    found = problem_sets(sources)
    if not found and not problem_sets(own):
        raise UsageError(f"no problem sets in {sources}")
    for name in [*found, *problem_sets(own)]:
        if identifier(name) != name:
            raise UsageError(f"a problem set cannot be called {shown(name)!r}: letters, digits and _ - . are allowed")
    sets = list(_variants(sources, found, variant, students))
    if (course.path / "gradebook.db").exists():
        check_gradebook(course.path)
    with desk(course.path) as table:
        own.mkdir(parents=True, exist_ok=True)
        with course.alone():
            config = course.path / "nbgrader_config.py"
            if not config.exists():
                config.write_text(CONFIG, encoding="utf-8")
            notes = {made.name: _write_source(Path(sources), course, made) for made in sets}
            (course.path / "release").mkdir(exist_ok=True)
            for name in problem_sets(own):
                error = table.release(name)
                if not error:
                    course.keep_release(name)
                note = error or f"released with {table.maximum(name):g} points{notes.get(name, '')}"
                yield Outcome(name, "", note, failed=bool(error))
            _hand_out(course, sets)
            _hand_out_start(course, Path(sources).parent / "start.ipynb", install)


@dataclass(frozen=True)
class _Set:
    """A problem set to release: ``notebook``, made from ``base`` with what is ``chosen``, for these ``students``."""

    name: str
    base: str
    notebook: Mapping[str, Any]
    chosen: Mapping[str, str]
    students: tuple[str, ...] = ()


def _variants(sources: Path, names: Iterable[str], variant: str, students: Sequence[str]) -> Iterator[_Set]:
    offered = {name: read_notebook(Path(sources, name, f"{name}.ipynb")) for name in names}
    known = {choice for notebook in offered.values() for choice in choices(notebook)}
    for pair in variant.split(",") if "=" in variant else ():
        if pair.partition("=")[0] not in known:
            raise UsageError(f"{pair!r} is no choice of these problem sets; they have {', '.join(sorted(known))}")
    for name, notebook in offered.items():
        seed = seed_of(name, variant)
        if not students or not choices(notebook):
            chosen = choose(notebook, name, variant)
            yield _Set(name, name, resolve(notebook, chosen, seed), chosen)
            continue
        values = list(itertools.product(*choices(notebook).values()))
        numbers: dict[int, list[str]] = {}
        for student in students:
            chosen = choose(notebook, name, f"{variant} {student}")
            numbers.setdefault(values.index(tuple(chosen.values())), []).append(student)
        for number, who in sorted(numbers.items()):  # a choice keeps its number when students join
            chosen = dict(zip(choices(notebook), values[number], strict=True))
            yield _Set(f"{name}-{number}", name, resolve(notebook, chosen, seed), chosen, tuple(who))


def _write_source(sources: Path, course: CourseFolder, made: _Set) -> str:
    """Write a problem set into the course, unless it has one of that name; return a note on it."""
    path = course.source(made.name)
    if path.parent.exists():
        return ", as it is in the course's folder"
    beside = shutil.ignore_patterns(".*", f"{made.base}.ipynb")
    shutil.copytree(sources / made.base, path.parent, ignore=beside)
    _write_notebook(path, made.notebook)
    return "".join(f", {choice} {value}" for choice, value in made.chosen.items())


def _hand_out(course: CourseFolder, sets: Iterable[_Set]) -> None:
    """Lay out what students get, in a folder each where they have variants; who has one keeps it."""
    handout = course.path / "handout"
    for made in sets:
        whose = course.variants(made.base)
        new = [student for student in made.students if student not in whose]
        if new:
            course.keep_variants(made.base, whose | dict.fromkeys(new, made.name))
        for place in [handout / identifier(student) for student in new] if made.students else [handout]:
            place.mkdir(parents=True, exist_ok=True)
            if course.released(made.name).is_file():
                shutil.copyfile(course.released(made.name), place / f"{made.base}.ipynb")


def _hand_out_start(course: CourseFolder, start: Path, install: str) -> None:
    handout = course.path / "handout"
    if not start.is_file() or not handout.is_dir():
        return
    _write_notebook(handout / "start.ipynb", resolve(read_notebook(start), {"install": install}))
    (handout / "README.md").write_text(README.format(install=INSTALL if install else ""), encoding="utf-8")
    if install:
        (handout / "requirements.txt").write_text(f"{install}\n", encoding="utf-8")


def _write_notebook(path: Path, notebook: Mapping[str, Any]) -> None:
    with replacing(path) as part:
        part.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def instructor(folder: Path, checkout: Path) -> Iterator[Outcome]:
    """Write ``msnlib-instructor.zip``: all that a lecturer needs and students should not have.

    Args:
        folder: where it goes.
        checkout: of this repository.

    Yields:
        What is in it.

    Raises:
        UsageError: ``checkout`` holds no problem sets.
    """
    if not problem_sets(checkout / "notebooks" / "assignments" / "source"):
        raise UsageError(
            f"no problem sets in {checkout / 'notebooks' / 'assignments' / 'source'}: this needs a checkout"
        )
    files: list[Path] = []
    for name in ARCHIVE:
        path = checkout / name
        files += sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [
        file
        for file in files
        if file.is_file() and not any(p.startswith((".", "__")) for p in file.relative_to(checkout).parts)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with (
        replacing(folder / "msnlib-instructor.zip") as part,
        zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for file in files:
            archive.write(file, f"msnlib-instructor/{file.relative_to(checkout).as_posix()}")
    yield Outcome("", "", f"{folder / 'msnlib-instructor.zip'}: {len(files)} files, not for students")
