"""`msn course` takes a class from release to feedback: two variants, twelve hand-ins of ps1 with their exact points.

And it survives what students, other programs and accidents do to files, kernels and the gradebook.

What needs no torch is tried on LOOP, a problem set of three lines, whose kernel starts in half a second.
"""

import copy
import csv
import html
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import types
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import nbformat
import pytest

from msnlib.command.cli import main
from msnlib.command.handins import HandInError, assemble, identifier, parse, shown
from msnlib.lab.notebooks import source_of

pytest.importorskip("nbgrader")

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
LOOP = [
    ("parameters", {"locked": True}, "seed: int = 0  # unused"),
    ("one", {"solution": True}, "def one():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION"),
    (
        "one-value",
        {"grade": True, "locked": True, "points": 2},
        "assert one() == 1\n### BEGIN HIDDEN TESTS\nassert one() + 1 == 2, 'one more'\n### END HIDDEN TESTS",
    ),
    ("said", {"grade": True, "solution": True, "points": 3}, "One is one."),
]
CONFIG = "c.Execute.iopub_timeout = 2\n"  # seconds until a kernel that ignores interrupts is given up


def meta(cell):
    return cell["metadata"].get("nbgrader", {})


def notebook_of(cells):
    usual = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False}
    made = [
        {
            "cell_type": "markdown" if name == "said" else "code",
            "id": name,
            "metadata": {"nbgrader": usual | own | {"grade_id": name}},
            "source": source,
        }
        for name, own, source in cells
    ]
    for cell in made:
        if cell["cell_type"] == "code":
            cell |= {"execution_count": None, "outputs": []}
    return {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def edited(notebook, sources, without=()):
    """A copy of a notebook in which some cells have another source and some are missing."""
    notebook = copy.deepcopy(notebook)
    notebook["cells"] = [cell for cell in notebook["cells"] if meta(cell).get("grade_id") not in without]
    for cell in notebook["cells"]:
        cell["source"] = sources.get(meta(cell).get("grade_id"), source_of(cell))
    return notebook


def cell_of(notebook, grade_id):
    (source,) = [source_of(cell) for cell in notebook["cells"] if meta(cell).get("grade_id") == grade_id]
    return source


def put(content, *path):
    path = Path(*path)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = content if isinstance(content, (str, bytes)) else json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def grades(folder):
    with (folder / "grades.csv").open(newline="", encoding="utf-8") as file:
        return {row["student"]: {name: value for name, value in row.items() if value} for row in csv.DictReader(file)}


def msn(*arguments, encoding="utf-8"):
    """The exit code of a command, and its lines on stdout and stderr."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["course", *map(str, arguments)])
    for stream in (out, err):
        stream.seek(0)
    return code, out.read().splitlines(), err.read().splitlines()


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A course with the problem set LOOP, released."""
    folder = tmp_path_factory.mktemp("released") / "course"
    put(notebook_of(LOOP), folder, "source", "loop", "loop.ipynb")
    assert msn("release", folder, "--notebooks", folder)[:2] == (0, ["loop: released with 5 points"])
    with (folder / "nbgrader_config.py").open("a") as file:
        file.write(CONFIG)
    return folder


@pytest.fixture
def folder(released, tmp_path):
    """A copy of it for one test."""
    return shutil.copytree(released, tmp_path / "course")


# A course is played


RIGHT_IN_PLAIN_PYTHON = {
    "exercise1": "def entries(numel, density):\n"
    "    if density <= 0 or density > 1:\n        raise ValueError\n"
    "    count, rest = divmod(density * numel, 1)\n"
    "    return max(1, int(count) + (rest > 0.5 or (rest == 0.5 and int(count) % 2)))",
    "exercise2": "import warnings\ndef top(scores, count):\n"
    "    scores = torch.tensor(scores)  # warns on stderr\n    print('scores', scores.shape)\n"
    "    order = sorted(range(len(scores)), key=lambda k: (-float(scores[k]), k))\n"
    "    return torch.tensor(sorted(order[:count]))",
}
RIGHT_IN_NUMPY = {
    "exercise1": "import numpy as np\ndef entries(numel, density):\n"
    "    if not 0 < density <= 1:\n        raise ValueError(density)\n"
    "    return max(1, int(np.floor(density * numel + 0.5)))",
    "exercise2": "def top(scores, count):\n"
    "    x = scores.numpy().copy()\n    order = np.lexsort((-np.arange(len(x)), -x))\n"
    "    return torch.from_numpy(np.sort(order[:count]))",
}
ENDLESS = "import time\ndef draw_owners(owner, names):\n    while True:\n        time.sleep(1)"
FULL = {"exercise1": "3", "exercise2": "4", "exercise3": "6", "exercise4": "2"}
BY_HAND = {"exercise4-drawing": "not yet graded", "exercise5-answer": "not yet graded"}
VARIANT = "rounding=up,ties=higher,biases=together"


def play(folder, hand_ins, *variant):
    """Release ps1, hand these in, grade and answer: the course's folder and what was printed."""
    assert msn("release", folder, "--notebooks", NOTEBOOKS, *variant)[0] == 0
    with (folder / "nbgrader_config.py").open("a") as file:
        file.write(CONFIG)
    source = json.loads((folder / "source" / "ps1" / "ps1.ipynb").read_text())
    released = json.loads((folder / "release" / "ps1" / "ps1.ipynb").read_text())
    hand_ins(source, released, folder / "submitted")
    graded = msn("grade", folder, "--timeout", 12)  # torch must have been imported by then
    return types.SimpleNamespace(folder=folder, source=source, graded=graded, answered=msn("feedback", folder))


def first_half(source, released, submitted):
    """Right, right in another style, two wrong ones, blank, endless."""
    put(source, submitted, "anna", "ps1", "ps1.ipynb")
    put(edited(source, RIGHT_IN_PLAIN_PYTHON), submitted, "ben", "ps1", "ps1.ipynb")
    half_up = cell_of(source, "exercise1").replace("round(density * numel)", "int(density * numel + 0.5)")
    put(edited(source, {"exercise1": half_up}), submitted, "cleo", "ps1", "ps1.ipynb")
    own = cell_of(source, "exercise2")
    own = own[: own.index("    ### BEGIN")] + "    import msnlib\n    return msnlib.top(scores, count)"
    cheat = {
        "exercise2": own,
        "exercise2-ties": "pass",  # edited tests and parameters are restored
        "parameters": cell_of(source, "parameters").replace("units: int = 8", "units: int = 2"),
        "exercise5-answer": cell_of(released, "exercise5-answer"),  # the picture counts without the text
    }
    put(edited(source, cheat), submitted, "dora", "ps1", "ps1.ipynb")
    put(released, submitted, "emil", "ps1", "ps1.ipynb")
    put(edited(source, {"exercise4": ENDLESS}), submitted, "fine", "ps1", "ps1.ipynb")


def second_half(source, released, submitted):
    """Right in a third style, last year's solution, three more that are wrong, and a right one under another name."""
    put(edited(source, RIGHT_IN_NUMPY), submitted, "gina", "ps1", "ps1.ipynb")
    put(read_published(), submitted, "hugo", "ps1", "ps1.ipynb")
    taken = cell_of(source, "exercise3").replace("(part == 0)", "(part >= 0)")
    put(edited(source, {"exercise3": taken}), submitted, "ida", "ps1", "ps1.ipynb")
    smallest = cell_of(source, "exercise2").replace("sort(descending=True", "sort(descending=False")
    gone = edited(source, {"exercise2": smallest}, ["exercise3-capacity"])
    gone["cells"] += [copy.deepcopy(cell) for cell in gone["cells"] if meta(cell).get("grade_id") == "exercise1"]
    put(gone, submitted, "jan", "ps1", "ps1.ipynb")
    put(edited(source, {"exercise4": "exit()"}, ["parameters"]), submitted, "kim", "ps1", "ps1.ipynb")
    archive = submitted / "Ærø [1] *" / "ps1" / "Übung.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("__MACOSX/._ps1.ipynb", "no notebook")
        packed.writestr("Übung/ps1 (1).ipynb", json.dumps(old_format(source)))


def read_published():
    from msnlib.command.variants import choose, resolve

    source = json.loads((NOTEBOOKS / "assignments" / "source" / "ps1" / "ps1.ipynb").read_text())
    return resolve(source, choose(source, "ps1"))


def old_format(notebook):
    """A notebook as a program saves it that knows format 4.0, another kernel and Colab's metadata."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook["cells"]:
        cell["metadata"]["id"] = cell.pop("id")
        if cell["cell_type"] == "code":
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "x" * 1000}]
    metadata = {"kernelspec": {"name": "py39", "display_name": "mine"}, "colab": {"provenance": []}}
    return notebook | {"nbformat_minor": 0, "metadata": metadata}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Both courses, played once for all tests, in a folder whose name is a pattern."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONOPTIMIZE", "1")  # nothing of the lecturer's reaches the students' kernels
        patch.setenv("PYTHONWARNINGS", "error")
        folder = tmp_path_factory.mktemp("course") / "[2026] *?"
        return play(folder / "first", first_half), play(folder / "second", second_half, "--variant", VARIANT)


def without(worth, **lost):
    """Points by column: the whole, less what is lost."""
    return {name: lost.get(name, value) for name, value in worth.items()}


def test_twelve_hand_ins_get_exactly_their_points(played):
    first, second = (grades(course.folder) for course in played)
    names = [*FULL, *BY_HAND]
    whole = FULL | BY_HAND
    found = {student: {name: row.get(name) for name in names} for student, row in (first | second).items()}
    nothing = dict.fromkeys(whole, "0")
    assert found == {
        "anna": whole,
        "ben": whole,
        "cleo": without(whole, exercise1="2"),
        "dora": without(whole, exercise2="0") | {"exercise5-answer": "0"},
        "emil": nothing,
        "fine": without(whole, exercise4="0"),
        "gina": whole,
        "hugo": without(whole, exercise1="2", exercise2="2", exercise3="0"),
        "ida": without(whole, exercise3="2"),
        "jan": without(whole, exercise2="0"),
        "kim": without(whole, exercise4="0"),
        "Ærø [1] *": whole,
    }
    assert first["anna"]["points"] == "15" and first["anna"]["not_yet_graded"] == "5"
    assert first["dora"]["points"] == "11" and first["dora"]["not_yet_graded"] == "2", "the picture still counts"
    assert all(row["maximum"] == "20" for row in (first | second).values())


def test_the_command_says_what_came_of_each_and_how_many_answers_wait(played):
    first, second = played
    code, out, err = first.graded
    assert (code, err) == (0, [])
    assert out == [
        "anna ps1: 15 of 20 points, 5 not yet graded",
        "ben ps1: 15 of 20 points, 5 not yet graded",
        "cleo ps1: 14 of 20 points, 5 not yet graded",
        "dora ps1: 11 of 20 points, 2 not yet graded",
        "emil ps1: 0 of 20 points",
        "fine ps1: 13 of 20 points, 2 cells took too long, 5 not yet graded",
        "9 answers wait to be graded by hand, in 5 of 6 hand-ins",
    ]
    code, out, err = second.graded
    assert (code, err) == (0, [])
    assert "kim ps1: 13 of 20 points, 5 not yet graded" in out
    assert "Ærø [1] * ps1: 15 of 20 points, Übung.zip:Übung/ps1 (1).ipynb read, 5 not yet graded" in out


def text_of(course, student):
    """The text of a student's page, as it stands in the file."""
    text = (course.folder / "feedback" / identifier(student) / "ps1" / "ps1.html").read_text(encoding="utf-8")
    return " ".join(html.unescape(re.sub(r"<style.*?</style>|<[^>]*>", " ", text, flags=re.S)).split())


def test_pages_say_what_was_expected_and_what_came(played):
    first, second = played
    anna, cleo, emil = (text_of(first, student) for student in ("anna", "cleo", "emil"))
    assert "15 of 20 points so far; 5 not yet graded" in anna and "exercise5-answer: not yet graded, of 3" in anna
    assert "exercise1-count: 0 of 1" in cleo
    assert "a half goes to the even neighbour · [entries(n, 0.5) for n in (3, 5, 7, 13)]: expected [2, 2, 4, 6]" in cleo
    assert "came [2, 3, 4, 7]" in cleo and "exercise2-ties: 2 of 2" in cleo
    assert "0 of 20 points" in emil and "exercise1-count: 0 of 1 not answered" in emil
    assert "msnlib's top was called: the exercise asks you to write it yourself" in text_of(first, "dora")
    assert "exercise4-picture: 0 of 2 it took too long" in text_of(first, "fine")
    assert "expected [2, 3], came [0, 1]" in text_of(second, "hugo")
    assert "exit() would end the program" in text_of(second, "kim")
    for text in (anna, cleo):
        assert "Model answer" not in text and "every count can be asked for" not in text, "before the due date"


# What sticks out of the page and lies in nothing that scrolls.
STICKING_OUT = """() => [...document.querySelectorAll("main *")].filter(element => {
    if (element.getBoundingClientRect().right <= innerWidth + 1) return false
    for (let box = element; box; box = box.parentElement)
        if (["auto", "scroll"].includes(getComputedStyle(box).overflowX)) return false
    return true
}).map(element => element.outerHTML.slice(0, 120))"""


# Of every row of the first table: its texts, and that of the place its link leads to.
PARTS = """() => [...document.querySelector("table").tBodies[0].rows].map(row => [
    ...[...row.cells].map(cell => cell.innerText),
    document.getElementById(row.querySelector("a").hash.slice(1)).closest(".cell").innerText,
])"""


def test_pages_in_a_browser_at_1200_pixels(played, browser):
    for course in played:
        for student, row in grades(course.folder).items():
            page = browser.new_page(viewport={"width": 1200, "height": 900})
            said, asked = [], []
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            path = course.folder / "feedback" / identifier(student) / "ps1" / "ps1.html"
            page.goto(path.as_uri(), wait_until="networkidle")
            assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()], "nothing else is loaded"
            assert said == [], student
            waiting = f" so far; {row['not_yet_graded']} not yet graded" if row["not_yet_graded"] != "0" else ""
            assert page.locator("h1").first.inner_text().strip("¶") == (
                f"ps1: {row['points']} of {row['maximum']} points{waiting}"
            )
            by_column = {}
            for part, got, why, place in page.evaluate(PARTS):
                by_column.setdefault(part if part in BY_HAND else part.split("-")[0], []).append(got)
                points, of = ["0", got.split()[-1]] if "not yet" in got else got.split(" of ")
                assert part in BY_HAND or bool(why) == (float(points) < float(of)), (student, part, why)
                assert place.startswith(f"{part}: {got}") and why in place, (student, part)
            for column, got in by_column.items():
                if row[column] == "not yet graded":
                    assert got == [f"not yet graded, of {got[0].split()[-1]}"]
                else:
                    assert sum(float(one.split(" of ")[0]) for one in got) == float(row[column]), (student, column)
            assert page.evaluate("document.documentElement.scrollWidth") <= 1200
            assert page.evaluate(STICKING_OUT) == []
            broken = "() => [...document.images].filter(one => !one.complete || !one.naturalWidth).length"
            assert page.evaluate(broken) == 0
            page.close()


def test_what_a_student_wrote_neither_runs_nor_loads_anything_on_the_page(tmp_path, browser):
    from msnlib.command.feedback import page as made
    from msnlib.command.grading import Grades

    script = "<script>document.title = 'taken'</script><img src='https://example.org/1.png'>"
    shown = {"output_type": "display_data", "metadata": {}, "data": {"text/html": script, "text/plain": ""}}
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": f"![x](https://example.org/2.png) {script}"},
        {"cell_type": "code", "metadata": {}, "source": "1", "execution_count": 1, "outputs": [shown]},
    ]
    path = tmp_path / "page.html"
    path.write_text(made("ps1", {"cells": cells, "metadata": {}}, [], Grades((), {}), answers=False), encoding="utf-8")
    page, answered = browser.new_page(), []
    page.on("response", lambda response: answered.append(response.url))
    page.on("requestfailed", lambda request: answered.append(request.failure))
    page.goto(path.as_uri(), wait_until="networkidle")
    assert page.title() == "ps1"
    assert answered == [path.as_uri(), *["csp"] * (len(answered) - 1)]


def test_a_part_says_what_broke_the_answer_above_it():
    from msnlib.command.feedback import page as made
    from msnlib.command.grading import Grades, Part

    def cell(name, ename="", **kind):
        outputs = [{"output_type": "error", "ename": ename, "evalue": f"of {name}", "traceback": []}] if ename else []
        meta = {"nbgrader": {"grade_id": name, **kind}}
        return {"cell_type": "code", "metadata": meta, "source": "", "execution_count": 1, "outputs": outputs}

    answers = {"one": "SyntaxError", "two": "", "three": "KeyError"}
    cells = []
    for name, ename in answers.items():
        cells += [cell(name, ename, solution=True, grade=False)]
        cells += [cell(f"{name}-test", "" if name == "three" else "NameError", solution=False, grade=True)]
    parts = tuple(Part(f"{name}-test", 0.0, 1.0) for name in answers)
    text = made("ps", {"cells": cells, "metadata": {}}, [], Grades(parts, {}), answers=False)
    rows = re.findall(r">(\w+-test)</a></td>.*?</td>\s*<td[^>]*>(.*?)</td>", text, re.S)
    said = {name: re.sub("<.*?>", "", why) for name, why in rows}
    assert said == {"one-test": "one: SyntaxError: of one", "two-test": "NameError: of two-test", "three-test": ""}


def test_students_get_problem_sets_without_answers_and_a_start(played):
    for course in played:
        handout = course.folder / "handout"
        names = ["README.md", "ps1.ipynb", "ps2.ipynb", "ps3.ipynb", "ps4.ipynb", "start.ipynb"]
        assert sorted(path.name for path in handout.iterdir()) == names
        for name in names:
            text = (handout / name).read_text(encoding="utf-8")
            assert not re.search("SOLUTION|HIDDEN TESTS|Marking:|# %|[«»]", text), name
        assert "raise NotImplementedError()" in (handout / "ps1.ipynb").read_text(encoding="utf-8")


def test_edited_deleted_and_copied_cells_are_as_the_problem_set_has_them(played):
    first, second = played
    for course, student, names in (
        (first, "dora", ("exercise2-ties", "parameters")),
        (second, "jan", ("exercise3-capacity", "exercise1-count")),
        (second, "kim", ("parameters",)),
    ):
        graded = json.loads((course.folder / "autograded" / student / "ps1" / "ps1.ipynb").read_text())
        marks = [meta(cell)["grade_id"] for cell in graded["cells"] if meta(cell)]
        assert marks == [meta(cell)["grade_id"] for cell in course.source["cells"] if meta(cell)]
        for name in names:
            assert cell_of(graded, name) == cell_of(course.source, name)


# Accidents


def hand_in(folder, student, source="def one():\n    return 1", said="One, I say.", cells=()):
    notebook = edited(notebook_of(LOOP), {"one": source, "said": said})
    notebook["cells"] += cells
    put(notebook, folder, "submitted", student, "loop", "loop.ipynb")
    return notebook


def test_one_student_costs_the_others_nothing(folder):
    submitted = folder / "submitted"
    hand_in(folder, "*")
    hand_in(folder, "x[1]")
    hand_in(folder, "x1", "def one():\n    return 2")
    right = hand_in(folder, "zoe")
    put("{ half a file", submitted, "broken", "loop", "loop.ipynb")
    put(b"\xff\xfe\x00", submitted, "bytes", "loop", "loop.ipynb")
    put("[]", submitted, "list", "loop", "loop.ipynb")
    foreign = notebook_of(LOOP)
    for cell in foreign["cells"]:
        cell |= {"id": f"other-{cell['id']}", "metadata": {}}
    put(foreign, submitted, "foreign", "loop", "loop.ipynb")
    (submitted / "folder" / "loop" / "loop.ipynb").mkdir(parents=True)
    (submitted / "link" / "loop").mkdir(parents=True)
    (submitted / "link" / "loop" / "loop.ipynb").symlink_to("nowhere")
    put(right, submitted, "stray", "ps9", "ps9.ipynb")
    put(right, submitted, "two", "loop", "a.ipynb")
    put(right, submitted, "two", "loop", "b.ipynb")
    put("no zip", submitted, "zip", "loop", "loop.zip")
    put(right, submitted, "top.ipynb")
    put(right, submitted, "near", "loop.ipynb")
    put(right, submitted, "when", "loop", "loop.ipynb")
    put("yesterday-ish", submitted, "when", "loop", "timestamp.txt")
    latin = os.fsdecode(os.fsencode(submitted) + b"/M\xfcller")
    put(right, latin, "loop", "loop.ipynb")
    code, out, err = msn("grade", folder, encoding="ascii")
    assert code == 1
    assert out == [
        "* loop: 2 of 5 points, 3 not yet graded",
        "M\\xfcller loop: 2 of 5 points, 3 not yet graded",
        "x1 loop: 0 of 5 points, 3 not yet graded",
        "x[1] loop: 2 of 5 points, 3 not yet graded",
        "zoe loop: 2 of 5 points, 3 not yet graded",
        "5 answers wait to be graded by hand, in 5 of 17 hand-ins",
    ]
    assert err == [
        "msn: broken loop: loop.ipynb is not a notebook",
        "msn: bytes loop: loop.ipynb is not a notebook",
        "msn: folder loop: loop.ipynb cannot be read: not a file",
        "msn: foreign loop: was not made from this problem set: it has none of its 2 graded cells",
        "msn: link loop: loop.ipynb cannot be read: No such file or directory",
        "msn: list loop: loop.ipynb is not a notebook",
        "msn: near: loop.ipynb is in the wrong place: it belongs in submitted/near/loop/",
        f"msn: stray ps9: no such problem set in {folder / 'source'}",
        "msn: top: top.ipynb is in the wrong place: it belongs in submitted/top/ps1/",
        "msn: two loop: more than one loop.ipynb (there: a.ipynb, b.ipynb)",
        "msn: when loop: timestamp.txt holds 'yesterday-ish', which is no time",
        "msn: zip loop: its folder cannot be read: loop.zip is no zip",
    ]
    rows = grades(folder)
    assert len(rows) == 17 and rows["x1"]["one"] == "0" and rows["x[1]"]["one"] == rows["*"]["one"] == "2"
    assert rows["broken"] == {"student": "broken", "assignment": "loop", "problem": "loop.ipynb is not a notebook"}


def test_a_cell_that_ends_python_or_ignores_interrupts_costs_what_depends_on_it(folder):
    def extra(source):
        return {
            "cell_type": "code",
            "id": "own",
            "metadata": {},
            "source": source,
            "outputs": [],
            "execution_count": None,
        }

    deaf = "import time\nwhile True:\n    try:\n        time.sleep(9)\n    except BaseException:\n        pass"
    hand_in(folder, "deaf", cells=[extra(deaf)])
    hand_in(folder, "deadly", "import os\ndef one():\n    os._exit(1)")
    hand_in(folder, "gone", cells=[extra("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")])
    hand_in(folder, "exit", "def one():\n    exit()\n    return 1")
    hand_in(folder, "loud", "def one():\n    print('x' * 5_000_000)\n    return 1")
    hand_in(folder, "sly", "import sys\ndef one():\n    sys.displayhook(2.0)\n    return 7")
    code, out, err = msn("grade", folder, "--timeout", 2)
    assert (code, err) == (0, [])
    assert out == [
        "deadly loop: 0 of 5 points, 1 cell ended Python, 3 not yet graded",
        "deaf loop: 2 of 5 points, 1 cell took too long, 3 not yet graded",
        "exit loop: 0 of 5 points, 3 not yet graded",
        "gone loop: 2 of 5 points, 1 cell ended Python, 3 not yet graded",
        "loud loop: 2 of 5 points, 3 not yet graded",
        "sly loop: 0 of 5 points, 3 not yet graded",
        "6 answers wait to be graded by hand, in 6 of 6 hand-ins",
    ]
    assert (folder / "autograded" / "loud" / "loop" / "loop.ipynb").stat().st_size < 2_000_000


def zipped(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "names, students",
    [
        (("Ana Ek_10_assignsubmission_file_/a.ipynb", "Bo_11_assignsubmission_file_/b.zip"), {"Ana Ek", "Bo"}),
        (("Ana Ek_10_assignsubmission_file_a.ipynb", "Bo_11_assignsubmission_file_b.ipynb"), {"Ana Ek", "Bo"}),
        (("ekana_10_77_a.ipynb", "bo_LATE_11_78_b-1.ipynb"), {"ekana", "bo"}),
        (("Ek_1_assignsubmission_file_/x.ipynb", "Ek_2_assignsubmission_file_/x.ipynb"), None),
        (("ana/x.ipynb", "bo/deep/er/my_2_3_x.ipynb", "__MACOSX/ana/._x.ipynb"), {"ana", "bo"}),
        (("loop/ana/x.ipynb", "loop/bo [1]*/x.ipynb"), {"ana", "bo [1]*"}),
    ],
)
def test_a_platforms_zip_is_sorted_by_student(names, students, folder, tmp_path):
    archive = zipped(tmp_path / "all.zip", {name: name for name in names})
    code, out, err = msn("collect", folder, "--set", "loop", "--zip", archive)
    assert (code, err, len(out)) == (0, [], 2)
    submitted = folder / "submitted"
    found = {path.relative_to(submitted).parts[0]: path.read_text() for path in submitted.glob("*/loop/*")}
    assert set(found) == (students or {"Ek_1_assignsubmission_file", "Ek_2_assignsubmission_file"})
    assert sorted(found.values()) == sorted(names[:2]), "everybody has what is theirs"


def test_what_is_collected_is_graded_and_replaced_by_what_comes_later(folder, tmp_path):
    right = json.dumps(edited(notebook_of(LOOP), {"said": "One, I say."}))
    wrong = json.dumps(edited(notebook_of(LOOP), {"one": "def one():\n    return 2"}))
    first = zipped(tmp_path / "1.zip", {"ana/loop.ipynb": wrong, "ana/deep/loop.ipynb": right, "bo/essay.pdf": "pdf"})
    assert msn("collect", folder, "--set", "loop", "--zip", first)[1] == [
        "ana loop: loop.ipynb, again loop.ipynb",
        "bo loop: essay.pdf",
    ]
    code, out, err = msn("grade", folder)
    assert out[0].startswith("ana loop: 0 of 5 points, loop.ipynb read, not again loop.ipynb")
    assert err == ["msn: bo loop: no loop.ipynb (there: essay.pdf)"]
    second = zipped(tmp_path / "2.zip", {"ana/loop (2).ipynb": right, "stray.ipynb": right, "/x/../y.ipynb": right})
    code, out, err = msn("collect", folder, "--set", "loop", "--zip", second)
    assert out == ["ana loop: loop (2).ipynb, in place of what was there"]
    assert err == ["msn: stray.ipynb: is nobody's: it lies in no student's folder"]
    assert msn("grade", folder)[1][0].startswith("ana loop: 2 of 5 points, loop (2).ipynb read")
    assert msn("collect", folder, "--set", "loop", "--zip", tmp_path / "3.zip")[2] == [
        f"msn: {tmp_path / '3.zip'} cannot be read: No such file or directory"
    ]
    assert msn("collect", folder, "--set", "ps9", "--zip", second)[2] == [
        f"msn: no problem set 'ps9' in {folder / 'source'}"
    ]
    assert msn("collect", folder, "--set", "loop")[2] == ["msn: msn course collect needs --set NAME and --zip FILE"]


def damaged(path, files, method, damage):
    """A zip whose last file does not unpack."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        info = archive.infolist()[-1]
    whole = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(info.filename)
    if damage == "flipped":
        for at in range(start, start + info.compress_size):
            whole[at] ^= 255
    else:  # the directory says that there is more than there is
        at = whole.rindex(b"PK\x01\x02")
        whole[at + 20 : at + 24] = (2**30).to_bytes(4, "little")
        whole[at + 24 : at + 28] = (2**30).to_bytes(4, "little")
    path.write_bytes(whole)
    return path


DAMAGED = [
    (zipfile.ZIP_STORED, "flipped"),
    (zipfile.ZIP_DEFLATED, "flipped"),
    (zipfile.ZIP_LZMA, "flipped"),
    (zipfile.ZIP_BZIP2, "flipped"),
    (zipfile.ZIP_STORED, "cut"),
]


@pytest.mark.parametrize("method, damage", DAMAGED)
def test_a_damaged_zip_takes_nothing_and_costs_the_others_nothing(method, damage, folder, tmp_path):
    right = json.dumps(edited(notebook_of(LOOP), {"said": "One, I say."}))
    submitted = folder / "submitted"
    first = zipped(tmp_path / "1.zip", {"ana/loop.ipynb": right, "bo/loop.ipynb": right})
    assert msn("collect", folder, "--set", "loop", "--zip", first)[0] == 0
    files = {"bo/new.ipynb": right, "cy/x.ipynb": right, "ana/a.ipynb": right, "ana/b.ipynb": right}
    second = damaged(tmp_path / "2.zip", files, method, damage)
    code, out, err = msn("collect", folder, "--set", "loop", "--zip", second)
    assert code == 1 and out == ["bo loop: new.ipynb, in place of what was there", "cy loop: x.ipynb"]
    assert len(err) == 1 and err[0].startswith("msn: ana loop: b.ipynb cannot be read: ")
    assert err[0].endswith("; what was there stays")
    there = {path.relative_to(submitted).as_posix() for path in submitted.rglob("*") if path.is_file()}
    assert there == {"ana/loop/loop.ipynb", "bo/loop/new.ipynb", "cy/loop/x.ipynb"}
    third = damaged(tmp_path / "3.zip", {"ana/x.ipynb": right, "zoe/b.ipynb": right}, method, damage)
    assert msn("collect", folder, "--set", "loop", "--zip", third)[1] == [
        "ana loop: x.ipynb, in place of what was there"
    ]
    assert not (submitted / "zoe").exists()
    damaged(submitted / "cy" / "loop" / "loop.zip", {"loop.ipynb": right}, method, damage)
    code, out, err = msn("grade", folder)
    assert code == 1 and [line.split(":")[0] for line in out[:2]] == ["ana loop", "bo loop"]
    assert len(err) == 1 and err[0].startswith("msn: cy loop: loop.zip:loop.ipynb cannot be read: ")


def test_a_platforms_zip_that_holds_nothing_is_one_line(folder, tmp_path):
    for files in ({}, {"__MACOSX/ana/._x.ipynb": "", ".DS_Store": ""}):
        archive = zipped(tmp_path / "all.zip", files)
        assert msn("collect", folder, "--set", "loop", "--zip", archive) == (2, [], [f"msn: {archive} holds no files"])
    archive.write_text("no zip")
    assert msn("collect", folder, "--set", "loop", "--zip", archive)[2] == [
        f"msn: {archive} cannot be read: all.zip is no zip"
    ]


def test_what_is_cut_off_is_not_graded_and_nobody_else_may_grade_meanwhile(folder, tmp_path):
    hand_in(folder, "anna")
    assert msn("grade", folder)[1][0] == "anna loop: 2 of 5 points, 3 not yet graded"
    started = tmp_path / "started"
    slow = f"import pathlib, time\npathlib.Path({str(started)!r}).touch()\ntime.sleep(60)\ndef one():\n    return 1"
    hand_in(folder, "anna", slow)
    hand_in(folder, "ben")
    grader = subprocess.Popen([sys.executable, "-m", "msnlib", "course", "grade", folder], start_new_session=True)
    while not started.exists():
        assert grader.poll() is None
        time.sleep(0.05)
    assert msn("grade", folder) == (2, [], [f"msn: another msn course is at work in {folder}: wait until it is done"])
    os.killpg(grader.pid, signal.SIGKILL)
    grader.wait()
    assert msn("feedback", folder)[0] == 2, "nothing is graded"
    hand_in(folder, "anna")
    (folder / "submitted" / "ben" / "loop" / "loop.ipynb").rename(folder / "ben")
    assert msn("grade", folder)[1][0] == "anna loop: 2 of 5 points, 3 not yet graded"
    rows = grades(folder)
    assert rows["anna"]["one"] == "2"
    assert rows["ben"]["problem"] == "no loop.ipynb (there: nothing)"


def test_a_gradebook_that_cannot_be_used_is_one_line(folder):
    hand_in(folder, "anna")
    book = folder / "gradebook.db"
    whole = book.read_bytes()

    def refusal():
        code, out, err = msn("grade", folder)
        assert (code, out, len(err)) == (2, [], 1) and not (folder / "grades.csv").exists()
        return err[0]

    with sqlite3.connect(book) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("msnlib.command.grading.PATIENCE", 0.1)
            assert "gradebook.db cannot be used now (database is locked): close what else works with it" in refusal()
    other.close()
    book.write_bytes(b"")
    assert "gradebook.db is empty: put your copy back" in refusal()
    book.write_bytes(b"no database" * 1000)
    assert "gradebook.db is damaged (file is not a database): put your copy back" in refusal()
    book.write_bytes(whole[: len(whole) // 2])
    assert "gradebook.db is damaged" in refusal()
    book.unlink()
    assert "gradebook.db is missing: put your copy back" in refusal()
    assert msn("release", folder, "--notebooks", folder)[0] == 0, "a new one can be made"
    assert msn("grade", folder)[1][0] == "anna loop: 2 of 5 points, 3 not yet graded"


def test_points_by_hand_late_days_and_what_is_handed_in_again(folder):
    from nbgrader.api import Gradebook

    hand_in(folder, "anna")
    receipts = {"timestamp.txt": "2027-05-02 12:00:00 UTC", "submission_secret.txt": "of this hand-in"}
    for name, text in receipts.items():
        put(text, folder, "submitted", "anna", "loop", name)
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        book.update_or_create_assignment("loop", duedate="2027-05-01 09:00:00 UTC")
    assert msn("grade", folder)[1][0] == "anna loop: 2 of 5 points, 27 hours late, 3 not yet graded"
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        grade = book.find_grade("said", "loop", "loop", "anna")
        grade.manual_score, grade.needs_manual_grade = 1.5, False
        book.find_comment("said", "loop", "loop", "anna").manual_comment = "Say why."
        book.db.commit()
    assert msn("grade", folder)[1] == ["anna loop: graded before (--force grades it again)"]
    assert msn("feedback", folder)[1] == ["anna loop: feedback/anna/loop/loop.html, without model answers"]
    page = folder / "feedback" / "anna" / "loop" / "loop.html"
    beside = {path.name: path.read_text() for path in page.parent.glob("*.txt")}
    assert beside == receipts, "nbgrader's exchange gives the page to whoever has the secret"
    assert "3.5 of 5 points" in page.read_text() and "Say why." in page.read_text()
    assert "27 hours late" in page.read_text() and "one more" not in page.read_text()
    row = grades(folder)["anna"]
    assert (row["points"], row["said"], row["hours_late"], row["not_yet_graded"]) == ("3.5", "1.5", "27", "0")
    assert msn("feedback", folder, "--answers")[1] == ["anna loop: feedback/anna/loop/loop.html"]
    assert "Model answer" in page.read_text() and "One is one." in page.read_text() and "one more" in page.read_text()

    hand_in(folder, "anna", "def one():\n    return 3")
    assert msn("grade", folder)[1] == ["anna loop: 1.5 of 5 points, 27 hours late"], "the answer is the same"
    hand_in(folder, "anna", "def one():\n    return 3", said="Two, I say.")
    assert msn("grade", folder)[1][0] == "anna loop: 1.5 of 5 points, 27 hours late, 3 not yet graded"
    assert not page.exists(), "it was about the earlier hand-in"
    msn("feedback", folder)
    assert "1.5 of 3, for an earlier hand-in: to be looked at again" in page.read_text()

    hand_in(folder, "anna", "def one():\n    return 4", said="Two, I say.")
    assert msn("grade", folder)[1][0].endswith("3 not yet graded"), "the same, but nobody has looked at it"
    with (folder / "nbgrader_config.py").open("a") as file:
        file.write('c.LateSubmissionPlugin.penalty_method = "zero"\n')
    assert msn("grade", folder, "--force")[1][0] == "anna loop: 0 of 5 points, 27 hours late, 3 not yet graded"
    row = grades(folder)["anna"]
    assert (row["points"], row["penalty"]) == ("0", "1.5")

    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        grade = book.find_grade("one-value", "loop", "loop", "anna")
        grade.manual_score, grade.needs_manual_grade = 2, False  # the lecturer finds that the student was right
        book.db.commit()
    for step in (("grade", folder, "--force"), ("feedback", folder)):
        msn(*step)
        assert grades(folder)["anna"]["one"] == "2" and grades(folder)["anna"]["not_yet_graded"] == "3"


def test_a_problem_set_changed_after_its_release_is_not_graded_with(folder):
    hand_in(folder, "anna")
    put(edited(notebook_of(LOOP), {"one-value": "assert one() == 3"}), folder, "source", "loop", "loop.ipynb")
    assert msn("grade", folder)[2] == [
        f"msn: loop was changed after its release: msn course release {folder} comes first"
    ]


def test_each_student_can_have_a_variant_of_their_own(tmp_path):
    folder, names = tmp_path / "course", ["anna", "x[1]", "Müller"]
    put("\n".join(names), tmp_path, "names.txt")
    either = notebook_of(LOOP)
    either["metadata"] = {"msnlib": {"choices": {"value": ["one", "two", "three"]}}}
    for cell in either["cells"]:
        cell["source"] = (
            source_of(cell).replace("return 1", "return len('«value»')").replace("== 1", "== len('«value»')")
        )
        cell["source"] = cell["source"].replace(" + 1 == 2", " != 9")
    put(either, tmp_path, "assignments", "source", "loop", "loop.ipynb")
    put((NOTEBOOKS / "assignments" / "start.ipynb").read_bytes(), tmp_path, "assignments", "start.ipynb")
    asked = ("--variant", "2027", "--students", tmp_path / "names.txt", "--install", "msnlib @ https://a.b/c.whl")
    assert msn("release", folder, "--notebooks", tmp_path, *asked)[0] == 0
    assert (folder / "handout" / "requirements.txt").read_text() == "msnlib @ https://a.b/c.whl\n"
    assert '%pip install --quiet "msnlib @ https://a.b/c.whl"' in "".join(
        source_of(cell) for cell in json.loads((folder / "handout" / "start.ipynb").read_text())["cells"]
    )
    handed_out = {
        name: json.loads((folder / "handout" / identifier(name) / "loop.ipynb").read_text()) for name in names
    }
    wanted = {name: cell_of(notebook, "one-value") for name, notebook in handed_out.items()}
    assert {"assert one() == len('two')", "assert one() == len('three')"} == {text.strip() for text in wanted.values()}
    for name in names:
        put(
            edited(handed_out[name], {"one": "def one():\n    return 3"}),
            folder,
            "submitted",
            name,
            "loop",
            "loop.ipynb",
        )
    put(handed_out["anna"], folder, "submitted", "guest", "loop", "loop.ipynb")
    put("\n".join(["aaron", *names]), tmp_path, "names.txt")  # one more, and another variant by mistake
    asked = ("--variant", "2028", "--students", tmp_path / "names.txt")
    assert msn("release", folder, "--notebooks", tmp_path, *asked)[0] == 0
    assert {name: json.loads((folder / "handout" / identifier(name) / "loop.ipynb").read_text()) for name in names} == (
        handed_out
    )
    assert (folder / "handout" / "aaron" / "loop.ipynb").is_file()
    code, out, err = msn("grade", folder)
    assert err == ["msn: guest loop: no variant was made for this student: see msn course release --students"]
    rows = grades(folder)
    assert {name: rows[name]["one"] for name in names} == {
        name: "2" if "two" in wanted[name] else "0" for name in names
    }


def test_the_lecturers_archive_has_what_students_have_not(tmp_path):
    code, out, err = msn("instructor", tmp_path, "--notebooks", NOTEBOOKS)
    assert (code, err) == (0, []) and re.fullmatch(
        rf"{tmp_path}/msnlib-instructor.zip: \d+ files, not for students", out[0]
    )
    with zipfile.ZipFile(tmp_path / "msnlib-instructor.zip") as archive:
        archive.extractall(tmp_path)
        assert not any("__pycache__" in name for name in archive.namelist())
    unpacked = tmp_path / "msnlib-instructor"
    for name in ("course/rubric.md", "course/questions.md", "course/slides/week1.md", "docs/teaching.md"):
        assert (unpacked / name).is_file()
    source = unpacked / "notebooks" / "assignments" / "source" / "ps1" / "ps1.ipynb"
    assert "BEGIN HIDDEN TESTS" in source.read_text(encoding="utf-8")
    code, out, err = msn("instructor", tmp_path, "--notebooks", tmp_path)
    assert code == 2 and err[0].endswith("this needs a checkout")


def test_slides_show_pictures_that_the_notebooks_have():
    for week in sorted((NOTEBOOKS.parent / "course" / "slides").glob("*.md")):
        for number, name in re.findall(r"figures/(\d\d)-([\w-]+)\.png", week.read_text(encoding="utf-8")):
            (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
            cells = {cell["id"]: cell.get("outputs", []) for cell in json.loads(path.read_text())["cells"]}
            assert any("image/png" in output.get("data", {}) for output in cells.get(name, [])), f"{week.name}: {name}"


def test_what_cannot_be_done_is_one_line(tmp_path, monkeypatch):
    absent = tmp_path / "absent"
    assert msn("grade", absent) == (
        *(2, []),
        [f"msn: {absent} is not the folder of a course: msn course release {absent} makes one"],
    )
    assert msn("release", tmp_path, "--notebooks", tmp_path)[2] == [
        f"msn: no problem sets in {tmp_path / 'assignments' / 'source'}"
    ]
    put(notebook_of(LOOP), tmp_path, "assignments", "source", "ps+5", "ps+5.ipynb")
    assert msn("release", tmp_path / "course", "--notebooks", tmp_path)[2] == [
        "msn: a problem set cannot be called 'ps+5': letters, digits and _ - . are allowed"
    ]
    assert msn("release", tmp_path / "course", "--notebooks", NOTEBOOKS, "--variant", "tie=lower")[2] == [
        "msn: 'tie=lower' is no choice of these problem sets; they have "
        "biases, direction, head, measure, momentum, partner, reads, rounding, starving, ties"
    ]
    put("anna\nanna\n", tmp_path, "names.txt")
    assert msn("release", tmp_path / "course", "--notebooks", NOTEBOOKS, "--students", tmp_path / "names.txt")[2] == [
        f"msn: {tmp_path / 'names.txt'} must hold names, one a line, each once"
    ]
    assert not (tmp_path / "course").exists()
    monkeypatch.setitem(sys.modules, "nbgrader.apps", None)
    code, out, err = msn("release", tmp_path / "course", "--notebooks", NOTEBOOKS)
    assert code == 2 and err[0].endswith("is not installed: pip install 'msnlib[course]'")


def test_nothing_handed_in_or_graded_is_one_line(folder):
    assert msn("grade", folder)[2] == [
        f"msn: nothing in {folder / 'submitted'}: submitted/<student>/ps1/ps1.ipynb is where submissions go"
    ]
    hand_in(folder, "anna")
    assert msn("feedback", folder)[2] == [f"msn: nothing in {folder / 'autograded'}: msn course grade comes first"]


def own(text):
    return {"cell_type": "code", "id": "own", "metadata": {}, "source": text, "outputs": [], "execution_count": None}


@pytest.mark.parametrize(
    "change",
    [
        lambda cells: cells,
        lambda cells: cells[::-1],
        lambda cells: [cell | {"metadata": {}} for cell in cells],  # a program that drops what it does not know
        lambda cells: cells[1:2],
        lambda cells: [*cells, copy.deepcopy(cells[1]), copy.deepcopy(cells[2])],
        lambda cells: [cells[0], cells[1] | {"source": ""}, cells[1], *cells[2:]],
        lambda cells: [cells[1] | {"source": "def one():"}, cells[1] | {"source": "    return 1"}, cells[2]],  # split
        lambda cells: [cells[0] | {"source": "seed = 9"}, cells[1], cells[2] | {"source": "pass", "cell_type": "raw"}],
    ],
)
def test_whatever_became_of_cells_the_problem_set_is_run_with_the_answers(change):
    source = notebook_of(LOOP)
    released = edited(source, {"one": "def one():\n    raise NotImplementedError()", "said": "YOUR ANSWER HERE"})
    answered = edited(source, {"one": "def one():\n    return 1", "said": "YOUR ANSWER HERE"})
    handed_in = parse(json.dumps(answered | {"cells": change(answered["cells"])}).encode(), "x")
    whole = assemble(handed_in, released, source)["cells"]
    assert [meta(cell).get("grade_id") for cell in whole] == [name for name, *_ in LOOP]
    assert re.fullmatch(r"def one\(\):\s+return 1", whole[1]["source"])
    assert [cell["source"] for cell in (whole[0], whole[2])] == [source_of(source["cells"][k]) for k in (0, 2)]
    assert whole[3]["source"] == "YOUR ANSWER HERE"
    assert [cell["cell_type"] for cell in whole] == ["code", "code", "code", "markdown"]
    nbformat.validate(nbformat.from_dict(assemble(handed_in, released, source)))


def test_cells_of_a_students_own_stay_where_they_are():
    source = notebook_of(LOOP)
    cells = [own("first"), *source["cells"][:2], own("after one"), own("again"), *source["cells"][2:], own("last")]
    whole = assemble(parse(json.dumps(source | {"cells": cells}).encode(), "x"), source, source)["cells"]
    found = [meta(cell).get("grade_id") or cell["source"] for cell in whole]
    assert found == ["first", "parameters", "one", "after one", "again", "one-value", "said", "last"]
    with pytest.raises(HandInError, match="it has none of its 2 graded cells"):
        assemble(parse(json.dumps(source | {"cells": [own("1")]}).encode(), "x"), source, source)


@pytest.mark.parametrize(
    "name", ["anna", "Müller", "x[1]", "*", "a/b", "%41", " a ", ".", "..", "a\nb", "\udcfc", "O'Neil"]
)
def test_names_become_plain_ones_and_no_two_the_same(name):
    plain = identifier(name)
    assert not re.search(r"[][*?/\n{}+]|^[.\s]|\s$", plain) and plain.encode()
    others = {identifier(other) for other in ("anna", "x1", "A", "%2A", "a", "a b") if other != name}
    assert plain not in others and shown(name).encode()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_notebooks_are_read_in_any_encoding_and_format(encoding):
    cells = [
        {"cell_type": "code", "language": "python", "input": "ä = 1", "outputs": [], "metadata": {}, "collapsed": False}
    ]
    oldest = {"nbformat": 3, "nbformat_minor": 0, "metadata": {"name": ""}, "worksheets": [{"cells": cells}]}
    for notebook in (oldest, notebook_of([("one", {}, "ä = 1")]), old_format(notebook_of([("one", {}, "ä = 1")]))):
        content = json.dumps(notebook, ensure_ascii=False).encode(encoding)
        assert [cell["source"] for cell in parse(content, "x")["cells"]] == ["ä = 1"]
    for content in (b"", b"[]", b"{}", b'{"cells": 1, "nbformat": 4}', b'{"cells": [1], "nbformat": 4}', b"\x00" * 9):
        with pytest.raises(HandInError, match="x is not a notebook"):
            parse(content, "x")
