"""The problem sets tell right answers from wrong ones, and `msn course` takes them from release to feedback.

The table runs a problem set's cells in this process, as a kernel would: a cell that raises or writes to stderr gets no
points. The round trip does the same through nbgrader, for three students.
"""

import copy
import csv
import io
import json
import re
import sys
import types
import warnings
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import pytest
import torch

from msnlib.command.cli import main
from msnlib.lab.notebooks import declared, source_of

pytest.importorskip("nbgrader")

SOURCES = Path(__file__).parent.parent / "notebooks" / "assignments" / "source"
SOLUTIONS = sorted((SOURCES.parent.parent / "solutions").glob("*.ipynb"))
NAMES = ("ps1", "ps2", "ps3")
# As small as they can be, with another seed than the released one: the tests must not know its numbers.
SMALL = {"ps1": {"seed": 7}, "ps2": {"seed": 7, "steps": 12}, "ps3": {"seed": 7, "seeds": 1, "width": 16, "epochs": 1}}


def read(which):
    """A problem set by its name, or any notebook by its path."""
    path = which if isinstance(which, Path) else SOURCES / which / f"{which}.ipynb"
    return json.loads(path.read_text(encoding="utf-8"))


def meta(cell):
    return cell["metadata"].get("nbgrader", {})


def graded(name):
    """Test cell or answer -> its points."""
    return {meta(cell)["grade_id"]: meta(cell)["points"] for cell in read(name)["cells"] if meta(cell).get("grade")}


def automatic(name):
    return {
        meta(cell)["grade_id"]: meta(cell)["points"]
        for cell in read(name)["cells"]
        if meta(cell).get("grade") and not meta(cell)["solution"]
    }


def blank(source):
    """A cell without its solution, as nbgrader releases it."""
    return re.sub(
        r"^( *)### BEGIN SOLUTION\n.*?### END SOLUTION", r"\1raise NotImplementedError()", source, flags=re.S | re.M
    )


def points(name, monkeypatch, change=lambda grade_id, source: source):
    """Test cell -> its points, when the solution cells are changed first."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    found = {}
    for cell in read(name)["cells"]:
        if cell["cell_type"] != "code":
            continue
        grade_id, source = meta(cell).get("grade_id"), source_of(cell)
        if meta(cell).get("solution"):
            source = change(grade_id, source)
        if grade_id == "parameters":
            source += "".join(f"\n{key} = {value!r}" for key, value in SMALL[name].items())
        errors, failed = io.StringIO(), False
        with redirect_stderr(errors), redirect_stdout(io.StringIO()), warnings.catch_warnings():
            try:
                exec(compile(source, f"{name} {grade_id}", "exec"), module.__dict__)
            except Exception:
                failed = True
        if grade_id in automatic(name):
            found[grade_id] = 0 if failed or errors.getvalue() else meta(cell)["points"]
    return found


@pytest.fixture(autouse=True)
def _restore_torch():
    threads, dtype, state = torch.get_num_threads(), torch.get_default_dtype(), torch.get_rng_state()
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_rng_state(state)


@dataclass(frozen=True)
class Wrong:
    """A wrong answer: the solution with ``old`` replaced by ``new``; the cells in ``lost`` give no points for it."""

    name: str
    exercise: str
    what: str
    lost: str
    old: str
    new: str


COUNT = "max(1, round(density * numel))"
TOP = "order[:count].sort().values"
DECAY = "weight * ((1 - learning_rate * decay) ** steps - 1)"
BITS = "    if a.shape"
ISOLATED = "    values = ["
ZEROING = """\
    optimizer = make_optimizer(weights)
    for _ in range(steps):
        optimizer.zero_grad()
        squared_error(masked_output(data[0], weights, masks), data[1]).backward()
        for weight, mask in zip(weights, masks, strict=True):
            weight.grad *= mask
        optimizer.step()
    return
"""
DECIDE = "bool(bound(paired, confidence) > -margin)"
MEAN = '.groupby("place").mean()'
WRONG = [
    Wrong("ps1", "exercise1", "rounds down", "count one", COUNT, "max(1, int(density * numel))"),
    Wrong("ps1", "exercise1", "rounds up", "count one", COUNT, "-int(-density * numel // 1)"),
    Wrong("ps1", "exercise1", "may give none", "one", COUNT, "round(density * numel)"),
    Wrong("ps1", "exercise1", "one too many", "count one range", COUNT, "1 + round(density * numel)"),
    Wrong("ps1", "exercise1", "the visible examples", "count one range", COUNT, "{16: 4, 10: 5}.get(numel, 1)"),
    Wrong("ps1", "exercise1", "accepts any density", "range", "if not 0 < density <= 1:", "if False:"),
    Wrong(
        "ps1",
        "exercise2",
        "threshold, not top-k",
        "ties",
        TOP,
        "(scores >= scores[order[count - 1]]).nonzero().squeeze(1)",
    ),
    Wrong(
        "ps1",
        "exercise2",
        "strict threshold",
        "distinct ties",
        TOP,
        "(scores > scores[order[count]]).nonzero().squeeze(1)",
    ),
    Wrong("ps1", "exercise2", "order of the scores", "distinct ties", TOP, "order[:count]"),
    Wrong(
        "ps1",
        "exercise2",
        "ties to the last",
        "ties",
        "scores.sort(descending=True, stable=True).indices",
        "len(scores) - 1 - scores.flip(0).sort(descending=True, stable=True).indices",
    ),
    Wrong("ps1", "exercise2", "smallest, not largest", "distinct ties", "descending=True", "descending=False"),
    Wrong(
        "ps1",
        "exercise2",
        "the visible example",
        "distinct ties",
        TOP,
        "torch.tensor([1, 3] if scores[1] == 0.9 else [0, 1])",
    ),
    Wrong("ps1", "exercise3", "overlap", "disjoint capacity", "owner.flatten() == 0", "owner.flatten() >= 0"),
    Wrong(
        "ps1",
        "exercise3",
        "share of what is free",
        "disjoint capacity",
        "asked = entries(owner.numel(), density)\n    free = (owner.flatten() == 0).nonzero().squeeze(1)",
        "free = (owner.flatten() == 0).nonzero().squeeze(1)\n    asked = entries(len(free), density)",
    ),
    Wrong(
        "ps1",
        "exercise3",
        "takes what is there",
        "capacity",
        'raise CapacityError("weight", asked, len(free), owner.numel())',
        "asked = len(free)",
    ),
    Wrong("ps1", "exercise3", "writes into the map", "disjoint", "owner.flatten().clone()", "owner.flatten()"),
    Wrong("ps1", "exercise3", "refuses the exact fit", "first capacity", "asked > len(free)", "asked >= len(free)"),
    Wrong(
        "ps1",
        "exercise3",
        "positions among the free",
        "disjoint capacity",
        "free[top(scores.flatten()[free], asked)]",
        "top(scores.flatten()[free], asked)",
    ),
    Wrong(
        "ps1",
        "exercise4",
        "rows and columns changed",
        "picture",
        "ax.imshow(owner.numpy(),",
        "ax.imshow(owner.numpy().T,",
    ),
    Wrong(
        "ps1",
        "exercise4",
        "one colour for all tasks",
        "picture",
        "ax.imshow(owner.numpy(),",
        "ax.imshow(owner.numpy() > 0,",
    ),
    Wrong("ps1", "exercise4", "dark is free", "picture", 'cmap="Greys", vmin', 'cmap="Greys_r", vmin'),
    Wrong("ps1", "exercise4", "no label for free", "picture", '["free", *names]', "names"),
    Wrong("ps2", "exercise1", "relu after the last layer", "outputs", "return x", "return x.relu()"),
    Wrong("ps2", "exercise1", "no relu", "outputs", "x = x.relu()", "pass"),
    Wrong("ps2", "exercise1", "no mask", "outputs gradients", "(weight * mask)", "weight"),
    Wrong(
        "ps2",
        "exercise1",
        "zeroes the weights in place",
        "gradients",
        "x = x @ (weight * mask).T",
        "weight.data *= mask\n        x = x @ weight.T",
    ),
    Wrong(
        "ps2",
        "exercise1",
        "two layers only",
        "outputs gradients",
        "x = x @ (weight * mask).T",
        "x = x @ (weight * mask).T if number < 2 else x",
    ),
    Wrong("ps2", "exercise2", "gradients add up", "loop", "optimizer.zero_grad()", "pass"),
    Wrong("ps2", "exercise2", "one step", "loop", "for _ in range(steps):", "for _ in range(1):"),
    Wrong("ps2", "exercise2", "one step too many", "loop", "for _ in range(steps):", "for _ in range(steps + 1):"),
    Wrong("ps2", "exercise2", "never steps", "loop", "optimizer.step()", "pass"),
    Wrong("ps2", "exercise3", "sum starts at the velocity", "momentum", "range(1, steps + 1)", "range(steps)"),
    Wrong(
        "ps2",
        "exercise3",
        "limit of many steps",
        "momentum",
        "sum(momentum**k for k in range(1, steps + 1))",
        "(momentum / (1 - momentum))",
    ),
    Wrong("ps2", "exercise3", "uphill", "momentum", "-learning_rate * velocity", "learning_rate * velocity"),
    Wrong("ps2", "exercise3", "the visible example", "decay", DECAY, "-0.1"),
    Wrong("ps2", "exercise3", "no compounding", "decay", DECAY, "-learning_rate * decay * weight * steps"),
    Wrong("ps2", "exercise3", "decay as in SGD's gradient", "decay", "(1 - learning_rate * decay)", "(1 - decay)"),
    Wrong("ps2", "exercise3", "what is left, not what is lost", "decay", "** steps - 1)", "** steps)"),
    Wrong("ps2", "exercise4", "trains nothing", "momentum adamw learns", "weight[mask] = value", "pass"),
    Wrong("ps2", "exercise4", "gradient zeroing", "adamw", ISOLATED, ZEROING + ISOLATED),
    Wrong(
        "ps2",
        "exercise4",
        "the usual loop",
        "adamw",
        ISOLATED,
        "    return masked_loop(weights, masks, data, make_optimizer(weights), steps)\n    values = [",
    ),
    Wrong(
        "ps2",
        "exercise4",
        "free entries set to zero",
        "momentum adamw",
        "weight[mask] = value",
        "weight.masked_fill_(~mask, 0)\n            weight[mask] = value",
    ),
    Wrong(
        "ps2",
        "exercise4",
        "one step too many",
        "learns",
        "optimizer = make_optimizer(values)\n    for _ in range(steps):",
        "optimizer = make_optimizer(values)\n    for _ in range(steps + 1):",
    ),
    Wrong(
        "ps2", "exercise4", "starts anew", "learns", "weight.detach()[mask].clone()", "weight.detach()[mask].mul(0.5)"
    ),
    Wrong(
        "ps2",
        "exercise5",
        "close, not equal",
        "close kind zeros",
        BITS,
        "    return a.shape == b.shape and torch.allclose(a.double(), b.double())\n    if a.shape",
    ),
    Wrong(
        "ps2",
        "exercise5",
        "equal, not the same bits",
        "zeros",
        BITS,
        "    return a.dtype == b.dtype and torch.equal(a, b)\n    if a.shape",
    ),
    Wrong(
        "ps2",
        "exercise5",
        "compares sums",
        "close zeros",
        BITS,
        "    return a.shape == b.shape and a.dtype == b.dtype and a.sum().item() == b.sum().item()\n    if a.shape",
    ),
    Wrong(
        "ps2",
        "exercise5",
        "forgets the dtype",
        "kind",
        "a.shape != b.shape or a.dtype != b.dtype",
        "a.shape != b.shape",
    ),
    Wrong(
        "ps2",
        "exercise5",
        "forgets the shape",
        "kind",
        "a.shape != b.shape or a.dtype != b.dtype",
        "a.dtype != b.dtype",
    ),
    Wrong(
        "ps3",
        "exercise1",
        "always the same seed",
        "result general",
        "seed_everything(seed, threads=1)",
        "seed_everything(0, threads=1)",
    ),
    Wrong(
        "ps3",
        "exercise1",
        "scored on validation data",
        "result general",
        "evaluate(net, group)",
        'evaluate(net, group, split="valid")',
    ),
    Wrong("ps3", "exercise1", "chosen at random", "result general", '"gradient"', '"random"'),
    Wrong("ps3", "exercise1", "density typed in", "general", "task.name, density,", "task.name, 0.2,"),
    Wrong(
        "ps3",
        "exercise1",
        "these two tasks only",
        "general",
        "for task in group:",
        "group = [digits, permuted]\n    for task in group:",
    ),
    Wrong(
        "ps3",
        "exercise2",
        "dedicated minus multitask",
        "pairs missing",
        'arms.get_group("multitask") - arms.get_group("dedicated")',
        'arms.get_group("dedicated") - arms.get_group("multitask")',
    ),
    Wrong(
        "ps3",
        "exercise2",
        "paired by position",
        "pairs missing",
        '(arms.get_group("multitask") - arms.get_group("dedicated")).unstack("task").sort_index()',
        'arms.get_group("multitask").sub(arms.get_group("dedicated").to_numpy()).unstack("task").sort_index()',
    ),
    Wrong("ps3", "exercise2", "missing is zero", "missing", ".sort_index()", ".sort_index().fillna(0)"),
    Wrong(
        "ps3",
        "exercise2",
        "difference of the means",
        "pairs missing",
        'return (arms.get_group("multitask") - arms',
        'return (arms.get_group("multitask").groupby("task").transform("mean") - arms',
    ),
    Wrong("ps3", "exercise3", "two-sided", "bound missing", "ppf(confidence,", "ppf((1 + confidence) / 2,"),
    Wrong(
        "ps3",
        "exercise3",
        "normal, not t",
        "bound missing",
        "scipy.stats.t.ppf(confidence, n - 1)",
        "scipy.stats.norm.ppf(confidence)",
    ),
    Wrong("ps3", "exercise3", "n, not n - 1", "bound missing", "ddof=1", "ddof=0"),
    Wrong("ps3", "exercise3", "no square root of n", "bound missing", " / math.sqrt(n)", ""),
    Wrong("ps3", "exercise3", "counts the missing", "bound missing", "n = len(paired)", "n = len(paired) + 1"),
    Wrong("ps3", "exercise3", "keeps the missing in n", "missing", "paired = paired.dropna()\n    n", "n"),
    Wrong("ps3", "exercise4", "the mean decides", "decision", DECIDE, "bool(paired.mean() > -margin)"),
    Wrong(
        "ps3",
        "exercise4",
        "no significant difference",
        "decision margin",
        DECIDE,
        "bool(scipy.stats.ttest_1samp(paired, 0).pvalue > 0.05)",
    ),
    Wrong("ps3", "exercise4", "superiority", "decision", "> -margin)", "> 0)"),
    Wrong("ps3", "exercise4", "wrong sign of the margin", "decision", "> -margin)", "> margin)"),
    Wrong("ps3", "exercise4", "any margin", "margin", "if not margin > 0:", "if False:"),
    Wrong(
        "ps3",
        "exercise5",
        "unrelated minus related",
        "effect missing",
        'by_partner["related"] - by_partner["unrelated"]',
        'by_partner["unrelated"] - by_partner["related"]',
    ),
    Wrong(
        "ps3",
        "exercise5",
        "not paired",
        "missing",
        '(by_partner["related"] - by_partner["unrelated"]).groupby("place").mean()',
        'by_partner.groupby("place")["related"].mean() - by_partner.groupby("place")["unrelated"].mean()',
    ),
    Wrong(
        "ps3",
        "exercise5",
        "places pooled",
        "effect missing",
        MEAN,
        '.groupby("place").mean() * 0 + (by_partner["related"] - by_partner["unrelated"]).mean()',
    ),
    Wrong("ps3", "exercise5", "sum, not mean", "effect missing", MEAN, '.groupby("place").sum()'),
]


def change_to(wrong):
    """A change of solution cells that makes all of these answers wrong, each of another exercise."""

    def change(grade_id, source):
        for answer in wrong:
            if answer.exercise == grade_id:
                assert source.count(answer.old) >= 1, f"{answer.what}: {answer.old!r} is not in the solution"
                source = source.replace(answer.old, answer.new)
        return source

    return change


def rounds(name):
    """The wrong answers of a problem set in rounds of at most one per exercise: exercises are graded independently."""
    by_exercise = {}
    for wrong in WRONG:
        if wrong.name == name:
            by_exercise.setdefault(wrong.exercise, []).append(wrong)
    return [list(filter(None, group)) for group in zip_longest(*by_exercise.values())]


@pytest.mark.parametrize("name", NAMES)
def test_points_add_up_to_what_the_problem_set_says(name):
    text = "\n".join(source_of(cell) for cell in read(name)["cells"] if cell["cell_type"] == "markdown")
    total, tests, hand = map(
        int, re.search(r"\*\*Points\*\* \| (\d+): (\d+) by tests .*, (\d+) by hand", text).groups()
    )
    by_tests, everything = sum(automatic(name).values()), sum(graded(name).values())
    assert (total, tests, hand) == (everything, by_tests, everything - by_tests) and hand > 0
    titles = re.findall(r"^## Exercise (\d) .*\((\d+) points", text, re.M)
    said = {f"exercise{number}": int(worth) for number, worth in titles}
    cells = {exercise: 0 for exercise in said}
    for grade_id, worth in graded(name).items():
        cells[grade_id.split("-")[0]] += worth
    assert cells == said


@pytest.mark.parametrize("name", NAMES)
def test_a_problem_set_says_what_a_student_must_know_and_declares_its_parameters(name):
    notebook = read(name)
    opening = source_of(notebook["cells"][0])
    for heading in ("You will be able to", "Before you start", "Time", "What the pictures should look like"):
        assert f"**{heading}" in opening, heading
    parameters = declared(SOURCES / name / f"{name}.ipynb")
    assert "seed" in parameters and all(parameter.comment for parameter in parameters.values())
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")


@pytest.mark.parametrize("name", NAMES)
def test_every_test_cell_has_a_visible_and_a_hidden_part(name):
    for cell in read(name)["cells"]:
        if meta(cell).get("grade") and not meta(cell)["solution"]:
            source = source_of(cell)
            hidden = re.findall(r"### BEGIN HIDDEN TESTS\n(.*?)### END HIDDEN TESTS", source, re.S)
            shown = re.sub(r"### BEGIN HIDDEN TESTS\n.*?### END HIDDEN TESTS", "", source, flags=re.S)
            assert any("assert" in part for part in hidden) and "assert" in shown.lower(), meta(cell)["grade_id"]


def test_every_exercise_has_four_wrong_answers():
    exercises = {(name, cell.split("-")[0]) for name in NAMES for cell in automatic(name)}
    counts = {key: sum((wrong.name, wrong.exercise) == key for wrong in WRONG) for key in exercises}
    assert min(counts.values()) >= 4, counts


@pytest.mark.parametrize("name", NAMES)
def test_right_answers_get_every_point_and_blank_ones_none(name, monkeypatch):
    assert points(name, monkeypatch) == automatic(name)
    blank_points = points(name, monkeypatch, lambda grade_id, source: blank(source))
    assert blank_points == dict.fromkeys(automatic(name), 0)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_answers_lose_exactly_their_points(name, monkeypatch):
    surprises = []
    for group in rounds(name):
        found = points(name, monkeypatch, change_to(group))
        lost = {cell for cell, worth in automatic(name).items() if found[cell] != worth}
        for wrong in group:
            mine = {cell.split("-")[1] for cell in lost if cell.split("-")[0] == wrong.exercise}
            if mine != set(wrong.lost.split()):
                surprises.append(f"{wrong.exercise}: {wrong.what}: lost {sorted(mine)}, not {wrong.lost.split()}")
        if elsewhere := {cell.split("-")[0] for cell in lost} - {wrong.exercise for wrong in group}:
            surprises.append(f"{[wrong.what for wrong in group]}: lost points in {elsewhere} too")
    assert surprises == []


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_solutions_answer_every_exercise_of_their_notebook_and_were_run(path):
    (notebook,) = path.parent.parent.glob(f"{path.stem[1:]}.ipynb")
    headings = [re.findall(r"^## (\d+)\. ", source_of(cell), re.M) for cell in read(path)["cells"]]
    exercises = source_of(read(notebook)["cells"][-1]).split("## Exercises")[1]
    assert [number for found in headings for number in found] == re.findall(r"^(\d+)\. ", exercises, re.M)
    code = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert not re.search(r"/(work|tmp|root|home|Users)/", json.dumps(outputs))


# Through nbgrader


LOOP = [
    ("parameters", {"locked": True}, "seed: int = 0  # unused"),
    ("one", {"solution": True}, "def one():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION"),
    ("one-value", {"grade": True, "locked": True, "points": 2}, "assert one() == 1"),
]


def notebook_of(cells):
    usual = {"schema_version": 3, "grade": False, "solution": False, "locked": False, "task": False}
    code = {"cell_type": "code", "execution_count": None, "outputs": []}
    made = [
        code | {"id": name, "metadata": {"nbgrader": usual | own | {"grade_id": name}}, "source": source}
        for name, own, source in cells
    ]
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


def put(notebook, *path):
    path = Path(*path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebook if isinstance(notebook, str) else json.dumps(notebook), encoding="utf-8")


def grades(folder):
    with (folder / "grades.csv").open(newline="", encoding="utf-8") as file:
        return {(row["student"], row["assignment"]): row for row in csv.DictReader(file)}


def test_round_trip_from_release_to_feedback(tmp_path, capsys):
    source, folder = read("ps1"), tmp_path / "course"
    submitted = folder / "submitted"
    put(source, tmp_path, "assignments", "source", "ps1", "ps1.ipynb")
    put(notebook_of(LOOP), folder, "source", "loop", "loop.ipynb")  # a lecturer's own
    new_seed = cell_of(source, "parameters").replace("seed: int = 1 ", "seed: int = 5 ")
    put(edited(source, {"parameters": new_seed}), folder, "source", "ps1", "ps1.ipynb")  # the lecturer's edit wins

    assert main(["course", "release", str(folder), "--notebooks", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == ["loop: released with 2 points", "ps1: released with 20 points"]
    released = json.loads((folder / "release" / "ps1" / "ps1.ipynb").read_text())
    assert cell_of(released, "parameters") == new_seed
    assert "raise NotImplementedError()" in cell_of(released, "exercise2")
    assert not re.search(r"(BEGIN|END) (SOLUTION|HIDDEN)", json.dumps(released))

    (threshold,) = [wrong for wrong in WRONG if wrong.what == "threshold, not top-k"]
    cheat = {
        "exercise2": cell_of(source, "exercise2").replace(threshold.old, threshold.new),
        "exercise2-ties": "pass",
        "parameters": cell_of(source, "parameters").replace("units: int = 8", "units: int = 2"),
    }
    put(source, submitted, "solved", "ps1", "ps1.ipynb")
    # Its answers are the right ones but for one, and nothing is written for the grader to read.
    wrong = edited(source, cheat | {"exercise5-answer": cell_of(released, "exercise5-answer")}, ["exercise3-capacity"])
    put(wrong, submitted, "wrong", "ps1", "ps1.ipynb")
    put(released, submitted, "blank", "ps1", "ps1.ipynb")
    put("{ half a file", submitted, "broken", "ps1", "ps1.ipynb")
    put(notebook_of(LOOP), submitted, "foreign", "ps1", "ps1.ipynb")
    put(released, submitted, "misnamed", "ps1", "ps1 (1).ipynb")
    put(released, submitted, "stray", "ps9", "ps9.ipynb")

    assert main(["course", "grade", str(folder)]) == 1
    shown = capsys.readouterr()
    assert shown.out.splitlines() == [
        "blank ps1: 0 of 20 points",
        "solved ps1: 15 of 20 points, the rest by hand",
        "wrong ps1: 13 of 20 points",
    ]
    assert shown.err.splitlines() == [
        "msn: broken ps1: ps1.ipynb is not a notebook",
        "msn: foreign ps1: ps1.ipynb was not made from ps1: it has none of its 10 graded cells",
        f"msn: misnamed ps1: no ps1.ipynb in {submitted / 'misnamed' / 'ps1'} (there: ps1 (1).ipynb)",
        f"msn: stray ps9: no such problem set in {folder / 'source'}",
    ]
    rows = grades(folder)
    assert [rows["solved", "ps1"][f"exercise{k}"] for k in range(1, 6)] == ["3.0", "4.0", "6.0", "2.0", "0.0"]
    assert rows["wrong", "ps1"]["exercise2"] == "2.0" and rows["wrong", "ps1"]["needs_manual_grading"] == "no"
    assert rows["broken", "ps1"]["points"] == "" and rows["broken", "ps1"]["problem"] == "ps1.ipynb is not a notebook"
    regraded = json.loads((folder / "autograded" / "wrong" / "ps1" / "ps1.ipynb").read_text())
    assert cell_of(regraded, "exercise2-ties") == cell_of(source, "exercise2-ties"), "an edited test is restored"
    assert cell_of(regraded, "parameters") == new_seed
    assert cell_of(source, "exercise3-capacity") in cell_of(regraded, "exercise3-capacity"), "a deleted one too"

    put(edited(notebook_of(LOOP), {"one": "while True:\n    pass"}), submitted, "endless", "loop", "loop.ipynb")
    assert main(["course", "grade", str(folder), "--timeout", "2"]) == 1
    shown = capsys.readouterr().out.splitlines()
    assert shown[1] == "endless loop: 0 of 2 points, 1 cell took too long"
    assert shown[0] == "blank ps1: graded before (--force grades it again)"

    assert main(["course", "feedback", str(folder)]) == 0
    assert "solved ps1: feedback/solved/ps1/ps1.html" in capsys.readouterr().out.splitlines()
    page = (folder / "feedback" / "wrong" / "ps1" / "ps1.html").read_text(encoding="utf-8")
    assert "all scores 0: still exactly 30" in page and "Score: 13.0 / 20.0" in page
    assert "Test cell exercise2-ties</a> (Score: 0.0 / 2.0)" in page
    assert grades(folder)["solved", "ps1"]["points"] == "15.0"
    assert grades(folder)["broken", "ps1"]["problem"] == "ps1.ipynb is not a notebook"


def test_what_cannot_be_done_is_one_line(tmp_path, capsys, monkeypatch):
    assert main(["course", "grade", str(tmp_path / "absent")]) == 2
    assert "is not the folder of a course: msn course release" in capsys.readouterr().err
    (tmp_path / "gradebook.db").touch()
    assert main(["course", "grade", str(tmp_path)]) == 2
    assert "submitted/<student>/ps1/ps1.ipynb is where submissions go" in capsys.readouterr().err
    assert main(["course", "feedback", str(tmp_path)]) == 2
    assert "msn course grade comes first" in capsys.readouterr().err
    assert main(["course", "release", str(tmp_path), "--notebooks", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"msn: no problem sets in {tmp_path / 'assignments' / 'source'}\n"
    monkeypatch.setitem(sys.modules, "nbgrader.apps", None)
    assert main(["course", "release", str(tmp_path), "--notebooks", str(SOURCES.parent.parent)]) == 2
    assert capsys.readouterr().err.strip().endswith("is not installed: pip install 'msnlib[course]'")
