"""Parameters, records and published figures: what is refused, what is written, what is read back."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import msnlib
from msnlib.lab.examples import read_examples
from msnlib.lab.parameters import ParameterError
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


def test_a_run_checks_its_parameters_before_any_work():
    for wrong in ({"seed": -1}, {"seed": True}, {"seed": 1.0}, {"profile": "fast"}, {"width": {1, 2}}, {"a": 1e999}):
        ((name, value),) = wrong.items()
        with pytest.raises(ParameterError) as caught:
            _run(**wrong)
        assert str(caught.value).startswith(f"parameter {name} is {value!r}, but must be ")
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


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"task": None}, "must be texts"),
        ({"arm": 3}, "must be texts"),
        ({"capped": "no"}, "capped of .* is 'no', but must be True or False"),
        ({"dead_outputs": 1.5}, "dead_outputs of .* is 1.5, but must be a whole number from 0"),
        ({"dead_outputs": -1}, "whole number"),
        ({"dead_outputs": True}, "whole number"),
    ],
)
def test_a_result_that_could_not_be_read_back_is_refused_when_it_is_added(wrong, said):
    with pytest.raises(ValueError, match=said):
        _run().add(**{"task": "mnist", "arm": "multitask", "metric": "accuracy", "value": 1} | wrong)


def test_notes_and_examples_are_saved_however_they_were_computed(records):
    run = _run()
    outcomes = torch.tensor([0.5, 1.0], requires_grad=True).bfloat16()
    notes = dict(capped=np.bool_(True), dead_outputs=np.int64(3), examples=outcomes)
    run.add(task="mnist", arm="multitask", metric="accuracy", value=1, **notes)
    path = run.save()
    (row,) = read_records(records).to_dict("records")
    assert row["capped"] is True and row["dead_outputs"] == 3
    assert read_examples(path)["mnist", "multitask"].tolist() == [0.5, 1.0]
    run.examples.clear()
    run.save()
    assert read_examples(path) == {}  # not those of the older record


def test_links_to_folders_are_followed_once_and_what_cannot_be_read_is_said(records, tmp_path, caplog, monkeypatch):
    run = _run()
    run.add(task="mnist", arm="multitask", metric="accuracy", value=1)
    run.save()
    elsewhere = tmp_path / "elsewhere"
    records.rename(elsewhere)
    records.mkdir()
    (records / "linked").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(records)
    assert read_records(records)["file"].str.startswith("linked/").tolist() == [True]
    walk = os.walk

    def failing(folder, onerror, **options):
        onerror(PermissionError(13, "Permission denied", str(folder)))
        return walk(folder, **options)

    monkeypatch.setattr(os, "walk", failing)
    read_records(records)
    assert caplog.messages == [f"{records} skipped: Permission denied"]
    assert read_records(tmp_path / "none").empty


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
    (result,) = good["results"]
    wrong = {
        "t_text": {"results": [result | {"task": 3}]},
        "u_note": {"results": [result | {"dead_outputs": 1.5}]},
        "v_large": {"results": [result | {"value": 10**400}]},
        "w_seed": {"configuration": good["configuration"] | {"seed": "0"}},
        "x_versions": {"versions": None},
        "y_run": {"run": {"overrides": None}},
    }
    for name, part in wrong.items():
        (records / f"{name}.json").write_text(json.dumps(good | part))
    (records / "z_deep.json").write_text("[" * 10**5)
    (records / ".part").mkdir()
    (records / ".part" / "record.json").write_text(json.dumps(good))
    with caplog.at_level(logging.WARNING):
        table = read_records(records)
    assert len(table) == 1
    assert [message.split(" skipped: ")[0] for message in caplog.messages] == [
        str(records / name)
        for name in (
            "deep/broken.json",
            "foreign.json",
            "short.json",
            *(f"{name}.json" for name in wrong),
            "z_deep.json",
        )
    ]
    assert not any("\n" in message for message in caplog.messages)


def test_versions_say_what_ran_and_on_which_device():
    found = versions("cpu")
    named = "python msnlib torch torchvision numpy platform threads device commit numerics mkl"
    assert set(found) == set(named.split())
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
