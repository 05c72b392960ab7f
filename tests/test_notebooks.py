"""What every committed notebook must be: parameterised, executed from top to bottom, and free of one machine's paths.

That its outputs can be made again is nbval's part; it compares nothing where a cell has no execution count.
"""

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import papermill
import pytest

from msnlib.lab.notebooks import declared, parameter_cells, read_notebook, source_of, sources
from msnlib.lab.parameters import PROFILES, check

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _code(path: Path) -> list[dict]:
    return [cell for cell in read_notebook(path)["cells"] if cell["cell_type"] == "code"]


def test_every_notebook_has_a_number_of_its_own():
    numbers = [int(path.stem[:2]) for path in NOTEBOOKS if re.match(r"\d\d_", path.name)]
    assert len(numbers) == len(NOTEBOOKS) == len(set(numbers)) > 0


@every_notebook
def test_parameters_are_typed_commented_literals(path):
    (cell,) = parameter_cells(read_notebook(path))
    source = source_of(cell)
    commented = {
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    statements = ast.parse(source).body
    for statement in statements:
        assert isinstance(statement, ast.AnnAssign), f"{ast.unparse(statement)} has no type annotation"
        ast.literal_eval(statement.value)
        assert commented & set(range(statement.lineno, statement.end_lineno + 1)), f"{statement.target.id}: no comment"
    assert {"profile", "seed", "device"} <= {statement.target.id for statement in statements}


@every_notebook
def test_every_parameter_has_a_range_and_every_default_is_in_it(path):
    own = declared(path)
    assert [name for name, item in own.items() if not item.range and item.kind is not bool] == []
    assert set(own["profile"].choices) == set(PROFILES)
    for profile in PROFILES:
        check(own, {"profile": profile})


@every_notebook
def test_a_run_checks_and_records_every_parameter_before_any_other_cell_works(path):
    """The cells before the run import and define; the run's configuration has every parameter by its own name."""
    before = []
    for cell in _code(path):
        statements = ast.parse(source_of(cell)).body
        assigned = [s for s in statements if isinstance(s, ast.Assign)]
        calls = [s for s in assigned if ast.unparse(s.value).startswith(("Run(", "start("))]
        if calls:
            break
        before += statements
    assert all(isinstance(s, ast.AnnAssign | ast.Import | ast.ImportFrom | ast.FunctionDef) for s in before)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in calls[0].value.keywords}
    assert {name: given.get(name) for name in declared(path)} == {name: name for name in declared(path)}


@every_notebook
def test_plain_papermill_sees_the_same_parameters(path):
    seen = papermill.inspect_notebook(path)
    assert {name: ast.literal_eval(item["default"]) for name, item in seen.items()} == {
        name: parameter.default for name, parameter in declared(path).items()
    }


@every_notebook
def test_every_code_cell_was_run_in_order_without_an_error(path):
    cells = _code(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert [output for cell in cells for output in cell["outputs"] if output["output_type"] == "error"] == []


REPORTS = sorted((Path(__file__).parent.parent / "reports").glob("*/*/*.ipynb"))


@pytest.mark.parametrize("path", [*NOTEBOOKS, *REPORTS], ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_output_shows_a_path_of_one_machine(path):
    outputs = json.dumps([cell["outputs"] for cell in _code(path)])
    assert re.findall(r"/(?:work|tmp|root|home|Users)/[\w.-]*", outputs) == []


@every_notebook
def test_a_folder_of_runs_that_a_notebook_names_is_there_or_said_to_come(path):
    text = " ".join(source_of(cell) for cell in read_notebook(path)["cells"] if cell["cell_type"] == "markdown")
    for before, name in re.findall(r"(\S+\s+\S+\s+\S+)\s+`reports/(\d\d_\w+)/`", text):
        made = {folder.name.partition("-")[0] for folder in (path.parent.parent / "reports" / name).glob("*")}
        if before.split() != ["will", "be", "in"]:
            sentence = text.partition(f"`reports/{name}/`")[0].rpartition(". ")[2]
            assert made and ("paper" in made or "full-size" not in sentence), f"{name} has {made}: {sentence}"


def test_every_page_of_a_full_size_run_is_of_todays_code_and_prose():
    """Older runs keep their records, which count as evidence; what they looked like is no longer shown."""
    assert [
        f"{path.parent.parent.name}/{path.parent.name}"
        for path in REPORTS
        if sources(read_notebook(path)) != sources(read_notebook(NOTEBOOKS[0].parent / path.name))
    ] == []


@pytest.mark.parametrize("number", ["02", "03", "07", "14", "15"])
def test_the_first_figure_comes_before_forty_lines_of_code(number):
    (path,) = (path for path in NOTEBOOKS if path.stem.startswith(number))
    lines = 0
    for cell in _code(path):
        lines += sum(not re.match(r"\s*(#|$)", line) for line in source_of(cell).splitlines())
        if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
            break
    assert lines < 40


@every_notebook
def test_of_msnlib_only_its_top_and_the_labs_are_imported(path):
    trees = [ast.parse(re.sub(r"^[%!].*$", "", source_of(cell), flags=re.M)) for cell in _code(path)]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = [node.module if isinstance(node, ast.ImportFrom) else a.name for node in nodes for a in node.names]
    assert {module for module in modules if module.split(".")[0] == "msnlib"} <= {"msnlib", "msnlib.lab"}
