"""Parameters and their ranges: what a notebook declares, what is refused, whatever it is started by."""

import json
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from msnlib.lab import parameters
from msnlib.lab.notebooks import declared
from msnlib.lab.parameters import Declared, ParameterError, check, declarations, of_this_notebook
from msnlib.lab.records import Run

OWN = """profile: str = "quick"  # size of the run [quick, paper]
seed: int = 0
method: str = "snip"  # of weights [snip, random]
tasks: int = 2  # in one network
# [2 <= tasks and tasks * density <= (1 if profile == "paper" else 0.5)]
density: float = 0.1  # share [0 < density <= 1]
sizes: list = [1, 2]  # of layers [min(sizes) > 0 and len(set(sizes)) == len(sizes)]
folder: str = ""  # of data [folder == "" or is_folder(folder)]
device: str = "cpu"  # [device in devices]
threads: int = 1  # [1 <= threads <= 4 * cores]
epochs: int | None = None  # None: the profile's [epochs ≥ 1]
shown: bool = False"""


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"profile": "paper", "tasks": 10},
        {"tasks": 5, "density": 0.1},
        {"density": 0.25, "sizes": [3]},
        {"folder": "/", "device": "auto", "shown": True, "epochs": 3},
        {"unknown": [1, "a", None]},
    ],
)
def test_what_is_in_its_range_is_taken(values):
    assert check(declarations(OWN), values) == values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"profile": "laptop"}, "profile is 'laptop', but must be one of quick, paper"),
        ({"profile": "fast"}, "profile is 'fast', but must be one of paper, laptop, quick"),
        ({"seed": -1}, "seed is -1, but must be such that seed >= 0"),
        ({"seed": True}, "seed is True, but must be of type int"),
        ({"method": "magnitude"}, "method is 'magnitude', but must be one of snip, random"),
        ({"method": ["snip"]}, "method is ['snip'], but must be of type str"),
        ({"tasks": 1}, "tasks is 1, but must be such that 2 <= tasks and tasks * density <= (1 if "),
        ({"tasks": 6}, "\"paper\" else 0.5) (here density is 0.1; profile is 'quick')"),
        ({"density": 0}, "density is 0.0, but must be such that 0 < density <= 1"),
        ({"density": float("nan")}, "density is nan, but must be a finite number"),
        ({"density": 10**400}, "density is inf, but must be a finite number"),
        ({"density": None}, "density is None, but must be of type float"),
        ({"sizes": []}, "sizes is [], but must be such that min(sizes) > 0"),
        ({"sizes": ["a"]}, "sizes is ['a'], but must be such that"),
        ({"sizes": [[1], [1]]}, "sizes is [[1], [1]], but must be such that"),
        ({"sizes": [2, 2]}, "sizes is [2, 2], but must be such that"),
        ({"sizes": list(range(999))}, "..., but must be such that"),
        ({"folder": "/none"}, "folder is '/none', but must be such that folder == \"\" or is_folder(folder)"),
        ({"folder": "."}, "folder is '.', but must be such that folder == \"\" or is_folder(folder)"),
        ({"threads": 100_000}, "threads is 100000, but must be such that 1 <= threads <= 4 * cores (here cores is "),
        ({"device": "cuda:99"}, "is 'cuda:99', but must be such that device in devices (here devices is auto, cpu"),
        ({"device": "gpu"}, "device is 'gpu', but must be such that device in devices"),
        ({"epochs": 0}, "epochs is 0, but must be such that epochs >= 1"),
        ({"shown": 1}, "shown is 1, but must be of type bool"),
        ({"unknown": {1, 2}}, "unknown is {1, 2}, but must be a finite number, a text, or lists of them"),
    ],
)
def test_what_is_outside_is_refused_in_one_line(values, message):
    with pytest.raises(ParameterError) as caught:
        check(declarations(OWN), values)
    text = str(caught.value)
    assert message in text and text.startswith(f"parameter {next(iter(values))} is ") and "\n" not in text


def test_what_depends_on_the_machine_is_not_decided_for_another_one():
    own = declarations(OWN)
    assert check(own, {"device": "cuda:99", "threads": 100_000, "folder": "/none"}, here=False)
    for device in ("cuda:", "cuda:01", "gpu"):
        with pytest.raises(ParameterError, match="here devices is auto, cpu, cuda, cuda:N"):
            check(own, {"device": device}, here=False)


@pytest.mark.parametrize(
    "text",
    ["x >=", "y >= 1", "x.real", "x ** 9 ** 9", "open(x)", "[i for i in x]", "(lambda: x)()", "f'{x}'", "x := 1"],
)
def test_a_range_that_is_no_plain_expression_is_named(text):
    with pytest.raises(ParameterError, match="range of parameter x: "):
        check(declarations(f"x: int = 1  # [{text}]"), {})


def _after(*cells: str, monkeypatch) -> dict:
    """What a notebook declares by the cells that its kernel ran; a shell of IPython as a kernel has it."""
    shell = InteractiveShell()
    for cell in cells:
        shell.run_cell(cell, store_history=True)
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    return of_this_notebook()


def test_a_notebook_reads_the_same_text_as_msn(monkeypatch):
    injected = "# Parameters\nprofile = 'paper'\nseed = 3\ntasks = 4\n"
    others = ("import os", "x: int = 5", "%matplotlib inline", "1 +")
    assert _after(OWN, injected, *others, monkeypatch=monkeypatch) == declarations(OWN)
    changed = OWN.replace("2 <= tasks", "3 <= tasks")
    assert _after(OWN, changed, "import os", monkeypatch=monkeypatch) == declarations(changed)
    with pytest.raises(ParameterError, match="parameter tasks is 2, but must be such that 3 <= tasks"):
        Run("E1", notebook="a", profile="paper", seed=0, tasks=2)
    assert Run("E1", notebook="a", profile="paper", seed=0, tasks=4).configuration["tasks"] == 4


def test_a_script_has_no_ranges(monkeypatch):
    monkeypatch.delitem(parameters.sys.modules, "IPython")
    assert of_this_notebook() == {}
    assert Run("E1", notebook="a", profile="quick", seed=0, tasks=-1).configuration["tasks"] == -1


def test_an_int_becomes_a_float_where_a_float_is_meant():
    own = declarations("share: float = 0.5")
    assert type(check(own, {"share": 1})["share"]) is type(own["share"].typed(1)) is float


@pytest.mark.parametrize(
    ("annotation", "default", "text", "value"),
    [
        ("int", 1, "12", 12),
        ("int", 1, "-3", -3),
        ("float", 0.5, "2", 2.0),
        ("float", 0.5, "1e-3", 0.001),
        ("float", 0.5, ".25", 0.25),
        ("str", "a", "0012", "0012"),
        ("bool", False, "true", True),
        ("int | None", None, "None", None),
        ("int | None", None, "4", 4),
        ("list", [1], "[1, 2]", [1, 2]),
        ("", 3, "4", 4),
    ],
)
def test_parse_reads_the_notebooks_own_type(annotation, default, text, value):
    parsed = Declared("free", annotation, default, "").parse(text)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        *[("int", text) for text in ("0012", "1.0", "1e3", "", " 1", "1_000", "+1", "x", "None", "٣", "9" * 5000)],
        *[("float", text) for text in ("12e4567", "nan", "inf", "-inf", "0012", "1_0.5", "0x1", "", "1e", "٣")],
        *[("bool", text) for text in ("1", "yes", "")],
        *[("list", text) for text in ("(1, 2)", "[", "[x]")],
    ],
)
def test_parse_refuses_everything_else(annotation, text):
    default = {"int": 1, "float": 0.5, "bool": False, "list": [1]}[annotation]
    with pytest.raises(ParameterError, match=f"parameter free is .*, but must be of type {annotation}"):
        Declared("free", annotation, default, "").parse(text)


def _notebook(path: Path, *sources: str) -> Path:
    cells = [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": source} for source in sources]
    path.write_text(json.dumps({"cells": cells}))
    return path


def test_declared_reads_what_papermill_would_miss(tmp_path):
    source = [
        "# what to run\n",
        'profile: str = "a # b"  # first, second\n',
        "epochs: int | None = None  # None: the profile's\n",
        "sizes: list = [\n",
        "    1,\n",
        "    2,\n",
        "]  # wide\n",
        "density = 0.1\n",
        "# a line of its own\n",
        "steps: int = 3  # of training\n",
        "# [steps >= 1]\n",
        "# [not a range: it is no longer below]\n",
    ]
    found = declared(_notebook(tmp_path / "a.ipynb", source))
    assert list(found.values()) == [
        Declared("profile", "str", "a # b", "first, second"),
        Declared("epochs", "int | None", None, "None: the profile's"),
        Declared("sizes", "list", [1, 2], "wide"),
        Declared("density", "", 0.1, ""),
        Declared("steps", "int", 3, "of training [steps >= 1]"),
    ]
    assert found["steps"].range == "steps >= 1"
    assert found["profile"].range == "" and found["epochs"].kind is int


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "a.ipynb has no cell tagged 'parameters', but must have one"),
        (["x = 1", "y = 1"], "a.ipynb has 2 cells tagged 'parameters', but must have one"),
        (["x: int = 2 * 3"], "a.ipynb: parameter x is not a literal: 2 * 3"),
        (["import os"], "a.ipynb: the parameters cell may only assign literals, but has 'import os'"),
        (["x ="], "a.ipynb: the parameters cell is not Python: invalid syntax"),
    ],
)
def test_declared_refuses_other_cells(tmp_path, sources, message):
    with pytest.raises(ParameterError) as caught:
        declared(_notebook(tmp_path / "a.ipynb", *sources))
    assert str(caught.value) == message


def test_declared_names_a_file_that_is_missing_or_no_notebook(tmp_path):
    with pytest.raises(ParameterError, match="gone.ipynb: No such file"):
        declared(tmp_path / "gone.ipynb")
    (tmp_path / "b.ipynb").write_text('{"cells": [')
    with pytest.raises(ParameterError, match="b.ipynb is not a notebook"):
        declared(tmp_path / "b.ipynb")
