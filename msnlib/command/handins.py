"""What students hand in: found under any name, read in any notebook format, put in the order of the problem set.

Names of folders and files are texts of whoever made them: they may be patterns, or in another system's encoding.
"""

import copy
import json
import os
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from msnlib.files import one_line
from msnlib.lab.notebooks import source_of

Notebook = dict[str, Any]
LARGEST = 50_000_000  # bytes of one notebook; its outputs are dropped when it is read
KINDS = (".ipynb", ".zip")


class HandInError(Exception):
    """One student's file cannot be graded; the message is one line."""


@dataclass(frozen=True)
class HandIn:
    """A folder of ``submitted`` for one student and problem set, or a ``problem`` with where it lies.

    Where each student has a variant, ``variant`` is the problem set that is this student's, such as ``ps1-3``.
    """

    student: str
    assignment: str
    folder: Path
    problem: str = ""
    variant: str = ""

    @property
    def name(self) -> str:
        """The problem set, as nbgrader knows it."""
        return self.variant or self.assignment

    @property
    def key(self) -> str:
        """Its name among all hand-ins."""
        return f"{identifier(self.student)}/{identifier(self.name)}"


def shown(name: str) -> str:
    """A name as UTF-8 can write it: bytes of another encoding become ``\\xfc``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def identifier(name: str) -> str:
    """A name that is no pattern anywhere: what is neither letter nor digit nor in ``_-@' .`` becomes ``%2A``."""

    def encoded(found: re.Match[str]) -> str:
        return quote(os.fsencode(found[0]), safe="").replace(".", "%2E")

    return re.sub(r"[^\w@' .-]|^[\s.]|\s$", encoded, name)


def find_hand_ins(submitted: Path) -> list[HandIn]:
    """Return everything in the folder ``submitted``, sorted, also what lies in the wrong place or cannot be read."""
    found = []
    for entry in _entries(submitted):
        student = entry.name
        if not entry.is_dir():
            student = entry.stem
            found.append(HandIn(student, "", entry, f"{shown(entry.name)} {_misplaced(student, 'ps1')}"))
            continue
        try:
            inside = list(_entries(entry))
        except OSError as error:
            found.append(HandIn(student, "", entry, f"its folder cannot be read: {error.strerror}"))
            continue
        found += [HandIn(student, path.name, path) for path in inside if path.is_dir()]
        for path in inside:
            if not path.is_dir() and path.suffix.lower() in KINDS:
                found.append(HandIn(student, "", path, f"{shown(path.name)} {_misplaced(student, path.stem)}"))
    return sorted(found, key=lambda hand_in: (hand_in.student, hand_in.assignment, str(hand_in.folder)))


def _misplaced(student: str, name: str) -> str:
    return f"is in the wrong place: it belongs in submitted/{shown(student)}/{shown(name)}/"


def _entries(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        yield from sorted(Path(entry.path) for entry in entries if not entry.name.startswith((".", "__MACOSX")))


def read_hand_in(folder: Path, name: str) -> tuple[Notebook, str]:
    """Return the notebook that was handed in for the problem set ``name``, and a note on what was chosen, or nothing.

    The file may be called ``ps1 (1).ipynb`` or lie in a zip; of several, ``ps1.ipynb`` counts.

    Raises:
        HandInError: none or several files may be meant, or the one that is cannot be read.
    """
    try:
        files = dict(_files(folder))
    except OSError as error:
        raise HandInError(f"its folder cannot be read: {error.strerror or error}") from None
    notebooks = {label: read for label, read in files.items() if label.lower().endswith(".ipynb")}
    exact = [label for label in notebooks if re.split(r"[/:]", label)[-1] == f"{name}.ipynb"]
    chosen = exact or list(notebooks)
    if len(chosen) != 1:
        there = ", ".join(map(shown, files)) or "nothing"
        raise HandInError(f"{'no' if not chosen else 'more than one'} {name}.ipynb (there: {there})")
    (label,) = chosen
    beside = [shown(other) for other in notebooks if other != label]
    note = f"{shown(label)} read" if label != f"{name}.ipynb" else ""
    if beside:
        note = f"{shown(label)} read, not {', '.join(beside)}"
    try:
        content = notebooks[label]()
    except OSError as error:
        raise HandInError(f"{shown(label)} cannot be read: {error.strerror or error}") from None
    return parse(content, shown(label)), note


def _files(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield (name, function that returns its bytes) of the files in a folder and in its zips."""
    for path in _entries(folder):
        if path.suffix.lower() == ".zip":
            for info in members(path):
                yield f"{path.name}:{info.filename}", lambda path=path, info=info: unpacked(path, info)
        else:
            yield path.name, lambda path=path: _content(path)


def members(path: Path) -> list[zipfile.ZipInfo]:
    """Return the files in a zip. Raises `OSError` when it is none."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [info for info in archive.infolist() if not _is_hidden(info)]
    except OSError:
        raise
    except Exception:  # torn bytes may raise anything
        raise OSError(f"{shown(path.name)} is no zip") from None


def _is_hidden(info: zipfile.ZipInfo) -> bool:
    """Whether a zip's member is a folder, or something that a system put there for itself."""
    return info.is_dir() or any(part.startswith((".", "__MACOSX")) for part in info.filename.split("/"))


def unpacked(path: Path, info: zipfile.ZipInfo) -> bytes:
    """Return a zip's member. Raises `OSError` when it is damaged, locked or far too large."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(info) as file:
            return _limited(file)
    except OSError:
        raise
    except Exception as error:  # torn bytes may raise anything
        raise OSError(one_line(error) or "it is cut short") from None


def _content(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
        raise OSError("not a file")
    with path.open("rb") as file:
        return _limited(file)


def _limited(file: Any) -> bytes:
    content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise OSError(f"more than {LARGEST // 1_000_000} MB")
    return content


def parse(content: bytes, label: str) -> Notebook:
    """Return a notebook in format 4.5 without outputs, whatever program saved it.

    Raises:
        HandInError: it is none.
    """
    import nbformat

    try:
        try:
            notebook = json.loads(content)  # finds UTF-8, -16 and -32, with or without a byte-order mark
        except UnicodeDecodeError:
            notebook = json.loads(content.decode("latin-1"))
        notebook = nbformat.convert(nbformat.from_dict(notebook), 4)
        cells = [_cell(cell) for cell in notebook["cells"]]
    except Exception:  # a file of a student's may be wrong in any way, and old formats are upgraded by nbformat's code
        raise HandInError(f"{label} is not a notebook") from None
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def _cell(cell: Mapping[str, Any]) -> Notebook:
    kind = cell["cell_type"] if cell["cell_type"] in ("code", "markdown") else "raw"
    metadata = dict(cell.get("metadata") or {})
    marks = metadata.get("nbgrader")
    marked = isinstance(marks, Mapping) and isinstance(marks.get("grade_id"), str)
    plain = {
        "cell_type": kind,
        "id": str(cell.get("id") or metadata.get("id") or ""),  # Colab keeps it in the metadata
        "metadata": {"nbgrader": dict(marks)} if marked else {},
        "source": source_of(cell),
    }
    if kind == "code":
        plain |= {"execution_count": None, "outputs": []}
    elif "attachments" in cell:
        plain["attachments"] = cell["attachments"]
    return plain


def mark(cell: Mapping[str, Any]) -> str:
    """Return a cell's id in nbgrader's sense, or nothing."""
    return cell["metadata"].get("nbgrader", {}).get("grade_id", "")


def assemble(handed_in: Notebook, released: Notebook, source: Notebook) -> Notebook:
    """Return the notebook to grade: the problem set's cells in their order, with the student's answers in them.

    Cells that are not answers are taken from ``source``, whatever the student made of them. A deleted answer is the
    blank one of ``released``. Copies of an answer, which splitting a cell makes too, are joined. The student's own
    cells follow the cell of the problem set that they follow now.

    Raises:
        HandInError: none of the problem set's cells is there.
    """
    wanted = [cell for cell in source["cells"] if mark(cell)]
    blanks = {mark(cell): source_of(cell) for cell in released["cells"] if mark(cell)}
    answers: dict[str, list[str]] = {}
    following: dict[str, list[Notebook]] = {"": []}
    last = ""
    for cell in _recognised(handed_in["cells"], wanted):
        last = mark(cell) or last
        if not mark(cell):
            following.setdefault(last, []).append(cell)
        else:
            said = answers.setdefault(last, [])
            if cell["source"].strip() not in ("", blanks.get(last, "").strip(), *map(str.strip, said)):
                said.append(cell["source"])
    if not answers:
        graded = sum(bool(cell["metadata"]["nbgrader"].get("grade")) for cell in wanted)
        raise HandInError(f"was not made from this problem set: it has none of its {graded} graded cells")
    cells = following[""]
    for cell in wanted:
        name = mark(cell)
        answered = cell["metadata"]["nbgrader"].get("solution")
        text = "\n\n".join(answers.get(name, [])) or blanks.get(name, "") if answered else source_of(cell)
        cells += [copy.deepcopy(cell) | {"source": text}, *following.get(name, [])]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell{number}"
    metadata = {key: source["metadata"][key] for key in ("kernelspec", "language_info") if key in source["metadata"]}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _recognised(cells: Sequence[Notebook], wanted: Sequence[Notebook]) -> list[Notebook]:
    """Return cells marked as the problem set's are: by their mark, or by their id where a program dropped the mark."""
    marks = {mark(cell): cell["metadata"]["nbgrader"] for cell in wanted}
    ids = {cell["id"]: mark(cell) for cell in wanted if cell.get("id")}
    names = [mark(cell) or ids.get(cell["id"], "") for cell in cells]
    return [
        cell | {"metadata": {"nbgrader": marks[name]} if name in marks else {}}
        for cell, name in zip(cells, names, strict=True)
    ]


def without_hidden_tests(text: str) -> str:
    """Return a test cell's text as students see it."""
    return re.sub(r"^ *### BEGIN HIDDEN TESTS\n.*?^ *### END HIDDEN TESTS(\n|\Z)", "", text, flags=re.S | re.M)


def model_answer(cell: Mapping[str, Any]) -> str:
    """Return the solution in a cell of the problem set's source, without the marks around it."""
    return re.sub(r"^ *### (BEGIN|END) SOLUTION\n?", "", source_of(cell), flags=re.M).rstrip()
