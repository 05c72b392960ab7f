"""The steps of a course after its release: hand-ins are graded and answered, with nbgrader."""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msnlib.command.coursefolder import CourseFolder, Outcome, copy_receipts, problem_sets
from msnlib.command.grading import Desk, Grades, check_gradebook, desk
from msnlib.command.handins import HandIn, HandInError, Notebook, assemble, identifier, mark, read_hand_in, shown
from msnlib.files import UsageError, replacing
from msnlib.lab.notebooks import read_notebook, source_of
from msnlib.lab.records import digest


def grade(folder: Path, timeout: int | None = None, force: bool = False) -> Iterator[Outcome]:
    """Grade everything under ``submitted`` and write ``grades.csv``, a row per student and assignment.

    Points given by hand in the gradebook are kept.

    Args:
        folder: of the course.
        timeout: seconds after which a cell is interrupted and counts as an error.
        force: also grade what was graded before and has not changed.

    Yields:
        What became of each hand-in, and at the end how many answers wait for somebody.

    Raises:
        UsageError: nothing was released or submitted, a problem set was changed after its release, the gradebook cannot
            be used, nbgrader is not installed, or another command is at work in ``folder``.
    """
    course = CourseFolder(folder)
    course.check()
    check_gradebook(course.path)
    found = course.hand_ins()
    if not found:
        raise UsageError(f"nothing in {course.submitted}: submitted/<student>/ps1/ps1.ipynb is where submissions go")
    for name in {hand_in.name for hand_in in found}.intersection(problem_sets(course.path / "source")):
        if not course.is_released(name):
            raise UsageError(f"{name} was changed after its release: msn course release {folder} comes first")
    with desk(course.path, timeout) as table, course.alone():
        problems = {}
        for hand_in in found:
            outcome = _grade_one(table, course, hand_in, force)
            if outcome.failed:
                problems[hand_in] = outcome.note
            yield outcome
        yield from _write_grades(table, course, found, problems)


def feedback(folder: Path, answers: bool = False) -> Iterator[Outcome]:
    """Write ``feedback/<student>/<name>/<name>.html`` for all that is graded, and ``grades.csv`` anew.

    Hidden tests and model answers are on the pages once the problem set's due date has passed.

    Args:
        folder: of the course.
        answers: show them in any case.

    Yields:
        The page of each hand-in, and at the end how many answers wait for somebody.

    Raises:
        UsageError: nothing is graded, the gradebook cannot be used, nbgrader is not installed, or another command is at
            work in ``folder``.
    """
    course = CourseFolder(folder)
    course.check()
    check_gradebook(course.path)
    found = course.hand_ins()
    if not any(course.stamp(hand_in) for hand_in in found):
        raise UsageError(f"nothing in {course.path / 'autograded'}: msn course grade comes first")
    with desk(course.path) as table, course.alone():
        from msnlib.command.feedback import page

        for hand_in in found:
            grades = _grades(table, course, hand_in)
            if grades is None:
                continue
            due = table.due(hand_in.name)
            over = answers or (due is not None and due < datetime.now(UTC))
            graded, cells = read_notebook(course.graded(hand_in)), course.cells(hand_in.name)
            made = page(hand_in.assignment, graded, cells, grades, answers=over)
            path = course.write_page(hand_in, made)
            note = str(path.relative_to(course.path)) + ("" if over else ", without model answers")
            yield Outcome(hand_in.assignment, hand_in.student, note)
        yield from _write_grades(table, course, found, {})


def _grade_one(table: Desk, course: CourseFolder, hand_in: HandIn, force: bool) -> Outcome:
    """Grade one hand-in. Its stamp is removed first and written last: what is cut off between is not graded."""
    name, student = hand_in.name, identifier(hand_in.student)

    def said(note: str, failed: bool = False) -> Outcome:
        return Outcome(hand_in.assignment, hand_in.student, note, failed)

    try:
        notebook, note = _prepared(course, hand_in)
        when = _timestamp(hand_in)
    except HandInError as error:
        course.forget(hand_in)
        return said(str(error), failed=True)
    # Not by the files' times: what is unpacked from a platform's archive may be new and look old.
    stamp = digest([notebook, when, course.digest(name)])
    if not force and course.stamp(hand_in) == stamp and _grades(table, course, hand_in) is not None:
        return said("graded before (--force grades it again)")
    judged = _judged(table, course, hand_in)
    course.forget(hand_in)
    place = table.submitted(name, student)
    (place / f"{name}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    copy_receipts(hand_in.folder, place)
    error, result = table.grade(name, student)
    if error:
        return said(error, failed=True)
    course.keep(hand_in, stamp, result)
    table.confirm(name, student, {part for part, seen in _seen(course, hand_in).items() if judged.get(part) == seen})
    grades = _grades(table, course, hand_in)
    if grades is None:
        return said("nbgrader kept no grades", failed=True)
    notes = [f"{grades.points:g} of {grades.maximum:g} points", *_ends(read_notebook(course.graded(hand_in)))]
    if note:
        notes.append(note)
    if grades.hours_late:
        notes.append(f"{grades.hours_late:g} hours late")
    if grades.waiting:
        notes.append(f"{sum(part.maximum for part in grades.waiting):g} not yet graded")
    return said(", ".join(notes))


def _seen(course: CourseFolder, hand_in: HandIn) -> dict[str, str]:
    """Return what somebody who grades sees of each part: its text, and what it printed and drew."""
    cells = read_notebook(course.graded(hand_in))["cells"]
    shown = {
        mark(cell): (source_of(cell), [{**o, "execution_count": None} for o in cell.get("outputs", [])])
        for cell in cells
    }
    return {part: digest(seen) for part, seen in shown.items() if part}


def _judged(table: Desk, course: CourseFolder, hand_in: HandIn) -> dict[str, str]:
    """Return what the parts were that have points which count."""
    grades = _grades(table, course, hand_in)
    if grades is None:
        return {}
    waiting = {part.name for part in grades.waiting}
    return {part: seen for part, seen in _seen(course, hand_in).items() if part not in waiting}


def _ends(graded: Mapping[str, Any]) -> Iterator[str]:
    """Say how many cells did not end by themselves."""
    raised = [output.get("ename") for cell in graded["cells"] for output in cell.get("outputs", [])]
    for name, what in (("CellTimeoutError", "took too long"), ("KernelDied", "ended Python")):
        if count := raised.count(name):
            yield f"{count} {'cell' if count == 1 else 'cells'} {what}"


def _prepared(course: CourseFolder, hand_in: HandIn) -> tuple[Notebook, str]:
    """Return the notebook to grade and a note on which file it is.

    Raises:
        HandInError: there is none.
    """
    if hand_in.problem:
        raise HandInError(hand_in.problem)
    name = hand_in.name
    if identifier(name) != name or not course.source(name).is_file():
        raise HandInError(f"no such problem set in {course.path / 'source'}")
    notebook, note = read_hand_in(hand_in.folder, hand_in.assignment)
    return assemble(notebook, read_notebook(course.released(name)), read_notebook(course.source(name))), note


def _timestamp(hand_in: HandIn) -> str:
    """Return when it was handed in, as nbgrader's exchange writes it, or nothing.

    Raises:
        HandInError: what is written is no time.
    """
    from nbgrader.utils import parse_utc

    path = hand_in.folder / "timestamp.txt"
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    try:
        parse_utc(text)
    except (ValueError, OverflowError):
        raise HandInError(f"timestamp.txt holds {text[:40]!r}, which is no time") from None
    return text


def _grades(table: Desk, course: CourseFolder, hand_in: HandIn) -> Grades | None:
    """Return the grades of what is graded as a whole."""
    if course.stamp(hand_in) is None or not course.source(hand_in.name).is_file():
        return None
    order = [mark(cell) for cell in course.cells(hand_in.name)]
    return table.grades(hand_in.name, identifier(hand_in.student), order)


def _write_grades(
    table: Desk, course: CourseFolder, found: Iterable[HandIn], problems: Mapping[HandIn, str]
) -> Iterator[Outcome]:
    """Write ``grades.csv``, and say how many answers wait.

    Its columns are totals, then one per exercise tested (what stands before the first ``-`` of a cell's id) and one per
    answer graded by hand.
    """
    rows, waiting, people = [], 0, 0
    for hand_in in found:
        row = {"student": shown(hand_in.student), "assignment": shown(hand_in.assignment)}
        grades = _grades(table, course, hand_in)
        if grades is None:
            row["problem"] = problems.get(hand_in) or _problem(course, hand_in)
        else:
            row |= _row(grades, course.cells(hand_in.name))
            waiting, people = waiting + len(grades.waiting), people + bool(grades.waiting)
        rows.append(row)
    first = ["student", "assignment", "points", "maximum", "not_yet_graded", "hours_late", "penalty", "problem"]
    others = sorted({column for row in rows for column in row} - set(first), key=_natural)
    with replacing(course.path / "grades.csv") as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*first, *others])
        writer.writeheader()
        writer.writerows(rows)
    if waiting:
        what = "answer waits" if waiting == 1 else "answers wait"
        yield Outcome("", "", f"{waiting} {what} to be graded by hand, in {people} of {len(rows)} hand-ins")


def _problem(course: CourseFolder, hand_in: HandIn) -> str:
    try:
        _prepared(course, hand_in)
        return "not graded"
    except HandInError as error:
        return str(error)


def _row(grades: Grades, cells: Iterable[Notebook]) -> dict[str, str]:
    row: dict[str, float] = {
        "points": grades.points,
        "maximum": grades.maximum,
        "not_yet_graded": sum(part.maximum for part in grades.waiting),
        "hours_late": grades.hours_late,
        "penalty": grades.penalty,
    }
    waiting = [part.name for part in grades.parts if part.score is None]
    marks = [cell["metadata"]["nbgrader"] for cell in cells]
    by_hand = {m["grade_id"] for m in marks if m.get("task") or (m.get("grade") and m.get("solution"))}
    for part in grades.parts:
        column = part.name if part.name in by_hand else part.name.split("-")[0]
        row[column] = row.get(column, 0) + (part.score or 0)
    return {column: f"{value:g}" for column, value in row.items()} | dict.fromkeys(waiting, "not yet graded")


def _natural(text: str) -> list[Any]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]
