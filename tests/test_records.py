"""Parameters, records and published figures: what is refused, what is written, what is read back."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import msnlib
from msnlib.lab.notebooks import Declared, declared
from msnlib.lab.parameters import PARAMETERS, ParameterError, check
from msnlib.lab.published import other_outputs, published_table, published_value
from msnlib.lab.records import Run, configuration_hash, read_records, versions

# Makes msnlib's modules importable without msnlib/__init__.py, which imports torch.
WITHOUT_TORCH = f"""
import sys, types
package = sys.modules["msnlib"] = types.ModuleType("msnlib")
package.__path__ = [{str(Path(msnlib.__file__).parent)!r}]
"""


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setenv("MSNLIB_RECORDS", str(tmp_path / "records"))
    return tmp_path / "records"


def _run(**configuration) -> Run:
    return Run("E1", notebook="02_parallel_dense", **{"profile": "quick", "seed": 0, **configuration})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("profile", "quick"),
        ("seed", 0),
        ("device", "cuda:1"),
        ("threads", 1),
        ("density", 1),
        ("method", "snip"),
        ("init", "authors"),
        ("epochs", 1),
        ("reads", "all"),
        ("learning_rate", 1e-3),
        ("tasks", 1),
        ("limit", 0),
        ("order", "boston,mnist"),
        ("width", [1000, 10]),
    ],
)
def test_check_takes_what_is_allowed(name, value):
    assert check(name, value) == value


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("profile", "fast", "one of paper, laptop, quick"),
        ("seed", -1, "a whole number, at least 0"),
        ("seed", True, "a whole number, at least 0"),
        ("seed", 1.0, "a whole number, at least 0"),
        ("device", "cuda:", "auto, cpu, cuda or cuda:N"),
        ("device", "cuda:01", "auto, cpu, cuda or cuda:N"),
        ("threads", 0, "a whole number, at least 1"),
        ("density", 0, "a number above 0, at most 1"),
        ("density", 1.0001, "a number above 0, at most 1"),
        ("density", float("nan"), "a number above 0, at most 1"),
        ("density", "0.1", "a number above 0, at most 1"),
        ("density", None, "a number above 0, at most 1"),
        ("learning_rate", float("inf"), "a finite number, a text, or lists of them"),
        ("method", ["snip"], "one of gradient, snip, magnitude, random"),
        ("order", "", "a text that is not empty"),
        ("width", {1, 2}, "a finite number, a text, or lists of them"),
    ],
)
def test_check_names_parameter_value_and_rule(name, value, allowed):
    with pytest.raises(ParameterError) as caught:
        check(name, value)
    assert str(caught.value) in (
        f"parameter {name} is {value!r}, but must be {allowed}",
        f"parameter {name} is {float(value) if isinstance(value, int) else value!r}, but must be {allowed}",
    )


def test_an_int_becomes_a_float_where_a_float_is_meant():
    assert type(check("density", 1)) is float
    assert type(check("width", 2, default=0.5)) is float


def test_a_parameter_outside_the_table_has_the_type_of_its_default():
    assert check("width", 5, default=3) == 5
    with pytest.raises(ParameterError, match="parameter width is 'x', but must be of type int"):
        check("width", "x", default=3)


def test_none_is_allowed_only_where_it_is_the_default():
    assert check("epochs", None, default=None) is None
    with pytest.raises(ParameterError, match="parameter epochs is None"):
        check("epochs", None, default=5)


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
    ]
    found = declared(_notebook(tmp_path / "a.ipynb", source))
    assert list(found.values()) == [
        Declared("profile", "str", "a # b", "first, second"),
        Declared("epochs", "int | None", None, "None: the profile's"),
        Declared("sizes", "list", [1, 2], "wide"),
        Declared("density", "", 0.1, ""),
    ]
    assert found["density"].meaning == PARAMETERS["density"].meaning


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


def test_a_run_checks_its_parameters_before_any_work():
    with pytest.raises(ParameterError, match="parameter density is 2.0"):
        _run(density=2)
    with pytest.raises(ValueError, match="notebook is 'a/b'"):
        Run("E1", notebook="a/b", profile="quick", seed=0)


def test_a_saved_record_is_read_back_whole(records):
    run = _run(density=1, method="snip")
    run.add(task="mnist", arm="multitask", metric="accuracy", value=np.float32(97.5), seconds=12)
    run.add(task="mnist", arm="dedicated", metric="accuracy", value=torch.tensor(97))
    run.data["mnist"] = "60,000 digits"
    path = run.save()
    hashed = configuration_hash("02_parallel_dense", run.configuration)
    assert path == records / f"02_parallel_dense-quick-seed0-{hashed[:8]}.json"
    assert list(records.iterdir()) == [path]  # no temporary file stays
    record = json.loads(path.read_text())
    assert record == {
        "format": "msnlib record 1",
        "experiment": "E1",
        "notebook": "02_parallel_dense",
        "configuration": {"profile": "quick", "seed": 0, "density": 1.0, "method": "snip"},
        "configuration_hash": hashed,
        "versions": versions(),
        "data": {"mnist": "60,000 digits"},
        "results": [
            {"task": "mnist", "arm": "multitask", "metric": "accuracy", "value": 97.5, "seconds": 12.0},
            {"task": "mnist", "arm": "dedicated", "metric": "accuracy", "value": 97.0, "seconds": None},
        ],
    }
    table = read_records(records)
    assert table[["profile", "seed", "task", "arm", "metric", "value"]].values.tolist() == [
        ["quick", 0, "mnist", "multitask", "accuracy", 97.5],
        ["quick", 0, "mnist", "dedicated", "accuracy", 97.0],
    ]
    assert json.loads(table["configuration"][0]) == record["configuration"]
    assert list(run.table()["value"]) == [97.5, 97.0]


def test_what_a_result_notes_beside_is_read_back_and_missing_where_it_was_not_said(records):
    run = _run()
    run.add(task="mnist", arm="multitask", metric="accuracy", value=97, capped=True, dead_outputs=2)
    run.add(task="mnist", arm="dedicated", metric="accuracy", value=97, capped=False)
    run.save()
    table = read_records(records)
    assert table["capped"].tolist() == [True, False]
    assert table["dead_outputs"][0] == 2 and pd.isna(table["dead_outputs"][1])
    pd.testing.assert_frame_equal(table.drop(columns="file"), run.records().drop(columns="file"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), True, "97", None, torch.tensor(float("nan"))])
def test_a_value_that_is_no_finite_number_is_named(value):
    run = _run()
    with pytest.raises(ValueError, match="value of boston, multitask, mse is .*, but must be a finite number"):
        run.add(task="boston", arm="multitask", metric="mse", value=value)
    assert run.results == []


def test_a_result_cannot_be_added_twice_and_nothing_cannot_be_saved(records):
    run = _run()
    with pytest.raises(ValueError, match="the record of 02_parallel_dense has no results"):
        run.save()
    run.add(task="mnist", arm="multitask", metric="accuracy", value=1)
    with pytest.raises(ValueError, match="result mnist, multitask, accuracy was added before"):
        run.add(task="mnist", arm="multitask", metric="accuracy", value=2)
    assert not records.exists()


def test_a_failed_write_leaves_the_old_record(records, monkeypatch):
    run = _run()
    run.add(task="mnist", arm="multitask", metric="accuracy", value=1)
    old = run.save().read_bytes()
    run.results[0]["value"] = 2.0
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        run.save()
    assert [path.read_bytes() for path in records.iterdir()] == [old]


def test_the_hash_depends_on_notebook_values_and_version_only(monkeypatch):
    base = configuration_hash("a", {"x": 1, "y": 2})
    assert base == configuration_hash("a", {"y": 2, "x": 1})
    others = [configuration_hash("b", {"x": 1, "y": 2}), configuration_hash("a", {"x": 1, "y": 3})]
    monkeypatch.setattr(msnlib, "__version__", "0.0.0")
    others.append(configuration_hash("a", {"x": 1, "y": 2}))
    assert len({base, *others}) == 4


def test_a_broken_or_foreign_file_is_skipped_with_one_line(records, caplog):
    run = _run()
    run.add(task="mnist", arm="multitask", metric="accuracy", value=1)
    good = json.loads(run.save().read_text())
    (records / "deep").mkdir()
    (records / "deep" / "broken.json").write_text('{"format":')
    (records / "foreign.json").write_text("[1]")
    (records / "short.json").write_text(json.dumps(good | {"configuration": {}}))
    (records / ".part").mkdir()
    (records / ".part" / "record.json").write_text(json.dumps(good))
    with caplog.at_level(logging.WARNING):
        table = read_records(records)
    assert len(table) == 1
    assert [message.split(" skipped: ")[0] for message in caplog.messages] == [
        str(records / name) for name in ("deep/broken.json", "foreign.json", "short.json")
    ]
    assert not any("\n" in message for message in caplog.messages)


def test_versions_say_what_ran_and_on_which_device():
    found = versions("cpu")
    assert set(found) == set("python msnlib torch torchvision numpy platform threads device commit numerics".split())
    assert (found["torch"], found["msnlib"]) == (torch.__version__, msnlib.__version__)
    assert (found["threads"], found["device"]) == (torch.get_num_threads(), "cpu")


def test_a_record_needs_no_torch(tmp_path, monkeypatch):
    monkeypatch.delenv("MSNLIB_RECORDS", raising=False)
    program = WITHOUT_TORCH + (
        "from msnlib.lab.records import Run, versions\n"
        "run = Run('E1', notebook='a', profile='quick', seed=0)\n"
        "run.add(task='t', arm='multitask', metric='accuracy', value=1)\n"
        "run.save()\n"
        "print('torch' in sys.modules, versions()['torch'] is None, versions()['threads'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "False False None\n"
    assert len(list((tmp_path / "records").glob("a-quick-seed0-*.json"))) == 1


def test_published_figures():
    table = published_table()
    assert len(table) == 43 and list(table["id"].unique()) == [f"E{number}" for number in range(1, 11)]
    assert not table.duplicated(["id", "task", "arm", "metric"]).any()
    assert set(table["arm"]) == {"dedicated", "multitask"}
    assert published_table("E3").values.tolist() == [
        ["E3", "BothMNISTBostonfc", "boston", "dedicated", "mse", 0.0175],
        ["E3", "BothMNISTBostonfc", "mnist", "multitask", "accuracy", 97.46],
        ["E3", "BothMNISTBostonfc", "fashion", "multitask", "accuracy", 87.04],
        ["E3", "BothMNISTBostonfc", "boston", "multitask", "mse", 0.01602],
    ]
    assert published_value("E7", "fashion_5", "multitask", "accuracy") == 92.10
    assert published_value("E6", "easy", "dedicated", "accuracy") is None
    assert published_value("E10", "overall", "discerner", "accuracy") == 92.45  # theirs is a trained discerner
    assert published_value("E10", "overall", "multitask", "accuracy") is None
    assert published_value("E4", "imdb", "dedicated 512", "accuracy") == 79.66  # as theirs, in batches of 512
    assert published_value("E4", "imdb", "dedicated", "accuracy") is None
    ours = {"E10": "discerner"}
    for row in table.itertuples():
        names = {row.arm, ours.get(row.id, row.arm), f"{row.arm} 512"}
        assert [published_value(row.id, row.task, arm, row.metric) for arm in names].count(row.value) == 1
    with pytest.raises(KeyError, match="E11"):
        published_table("E11")


@pytest.mark.parametrize(("id", "versions"), [("E5", 1), ("E10", 2)])
def test_other_outputs_of_a_script_are_kept_apart_from_the_published_one(id, versions):
    others, published = other_outputs(id), published_table(id)
    assert others["output"].nunique() == versions
    for _, other in others.groupby("output"):
        columns = ["task", "arm", "metric"]
        assert other[columns].values.tolist() == published[columns].values.tolist()
        assert not set(other["value"]) & set(published["value"])
    assert other_outputs("E1").empty
    with pytest.raises(KeyError, match="E11"):
        other_outputs("E11")


def test_the_parts_of_task_identification_make_up_the_whole():
    for _, other in other_outputs("E10").groupby("output"):
        value = other.set_index("task")["value"]
        assert value["overall"] == pytest.approx((value["mnist"] + value["fashion"]) / 2, abs=0.006)
