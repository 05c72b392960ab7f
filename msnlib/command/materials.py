"""What a course is given with: the students' problem sets in a variant, and the lecturer's archive."""

import json
import shutil
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


def release(folder: Path, sources: Path, variant: str = "", students: Sequence[str] = ()) -> Iterator[Outcome]:
    """Copy problem sets to a course and make the students' versions.

    Args:
        folder: of the course. Problem sets that are in its ``source`` already are left as they are, and released too.
        sources: holds a folder per problem set.
        variant: what is asked, see `msnlib.command.variants.choose`.
        students: names; when given, each has a variant of their own, in ``handout/<student>``.

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
        everyone: dict[tuple[str, ...], list[str]] = {}
        for student in students:
            everyone.setdefault(tuple(choose(notebook, name, f"{variant} {student}").values()), []).append(student)
        for number, (values, who) in enumerate(sorted(everyone.items()), start=1):
            chosen = dict(zip(choices(notebook), values, strict=True))
            yield _Set(f"{name}-{number}", name, resolve(notebook, chosen, seed), chosen, tuple(who))


def _write_source(sources: Path, course: CourseFolder, made: _Set) -> str:
    """Write a problem set into the course, unless it has one of that name; return a note on it."""
    path = course.source(made.name)
    if path.parent.exists():
        return ", as it is in the course's folder"
    beside = shutil.ignore_patterns(".*", f"{made.base}.ipynb")
    shutil.copytree(sources / made.base, path.parent, ignore=beside)
    with replacing(path) as part:
        part.write_text(json.dumps(made.notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return "".join(f", {choice} {value}" for choice, value in made.chosen.items())


def _hand_out(course: CourseFolder, sets: Iterable[_Set]) -> None:
    """Lay every student's variants out in a folder of their own, and note whose they are."""
    whose: dict[str, dict[str, str]] = {}
    for made in sets:
        for student in made.students:
            whose.setdefault(made.base, {})[student] = made.name
            target = course.path / "handout" / identifier(student) / f"{made.base}.ipynb"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(course.released(made.name), target)
    for name, variants in whose.items():
        course.keep_variants(name, variants)
