"""What a learning platform gives a lecturer: one zip with everybody's files, sorted into ``submitted``."""

import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from msnlib.command.coursefolder import CourseFolder, Outcome
from msnlib.command.handins import members, shown, unpacked
from msnlib.files import UsageError, move_into_place

# Moodle: "Anna Muster_1234_assignsubmission_file_", as a folder or before the file's name;
# Canvas: "musteranna_1234_5678_ps1.ipynb", "musteranna_LATE_1234_5678_ps1.ipynb".
_NAMED = re.compile(r"(?P<whole>(?P<student>.+?)(_LATE)?_\d+_(assignsubmission_[a-z]+_|\d+_))(?P<file>.*)")


def collect(folder: Path, name: str, archive: Path) -> Iterator[Outcome]:
    """Sort a platform's zip into ``submitted/<student>/<name>``; what a student had there is replaced
    once all that is new could be read.

    Students are the folders in the zip, or what Moodle and Canvas write before a file's name. Of two whom that would
    give the same name, each keeps the platform's number.

    Args:
        folder: of the course.
        name: of the problem set.
        archive: the zip.

    Yields:
        What became of each student's files, and of files that are nobody's.

    Raises:
        UsageError: no such problem set, no such zip or nothing in it, or another command is at work in ``folder``.
    """
    course = CourseFolder(folder)
    course.check()
    if not (course.source(name).is_file() or course.variants(name)):
        raise UsageError(f"no problem set {shown(name)!r} in {course.path / 'source'}")
    try:
        inside = members(archive)
    except OSError as error:
        raise UsageError(f"{archive} cannot be read: {error.strerror or error}") from None
    if not inside:
        raise UsageError(f"{archive} holds no files")
    with course.alone():
        found: dict[str, dict[str, zipfile.ZipInfo]] = {}
        paths = [info.filename.split("/") for info in inside]
        if len({path[0] for path in paths}) == 1 < len({path[1] for path in paths if len(path) > 2}):
            paths = [path[1:] for path in paths]  # a folder around everybody's
        for info, path in zip(inside, paths, strict=True):
            owner, file = _split(path)
            if owner:
                files = found.setdefault(owner, {})
                while file in files:
                    file = f"again {file}"
                files[file] = info
            else:
                yield Outcome("", info.filename, "is nobody's: it lies in no student's folder", failed=True)
        for owner, files in found.items():
            student = _student(owner)
            if [_student(other) for other in found].count(student) > 1:
                student = owner
            yield _placed(course.submitted / student / name, Outcome(name, student, ", ".join(files)), archive, files)


def _split(path: list[str]) -> tuple[str, str]:
    """Return the owner of a file, as the platform writes it, and the file's name."""
    *folders, file = path
    named = next(filter(None, map(_NAMED.fullmatch, folders or [file])), None)
    if named:
        return named["whole"].rstrip("_"), named["file"] or file
    return (folders[0], file) if folders else ("", file)


def _student(owner: str) -> str:
    match = _NAMED.fullmatch(f"{owner}_")
    return match["student"] if match else owner


def _placed(place: Path, made: Outcome, archive: Path, files: dict[str, zipfile.ZipInfo]) -> Outcome:
    """Unpack a student's files beside ``place``, and put them there when all of them are whole."""
    again = place.exists()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix=".") as beside:
            new = Path(beside, place.name)
            new.mkdir()
            for file, info in files.items():
                (new / file).write_bytes(_content(archive, file, info))
            move_into_place(new, place)
    except OSError as error:
        with suppress(OSError):  # not empty: other things of the student's lie there
            place.parent.rmdir()
        stays = "; what was there stays" if again else ""
        return Outcome(made.assignment, made.student, f"{error.strerror or error}{stays}", failed=True)
    return Outcome(made.assignment, made.student, made.note + (", in place of what was there" if again else ""))


def _content(archive: Path, file: str, info: zipfile.ZipInfo) -> bytes:
    try:
        return unpacked(archive, info)
    except OSError as error:
        raise OSError(f"{shown(file)} cannot be read: {error.strerror or error}") from None
