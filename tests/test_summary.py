"""What one run found, in a line: from records whose numbers are known by hand, and from every committed one."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from msnlib.lab.records import Run, read_record
from msnlib.lab.summary import full_size, print_findings, refresh_findings, summary

PAIR = (("multitask", 0), ("fine-tuning", 9))
RECORDS = sorted((Path(__file__).parent.parent / "reports").glob("*/*/record.json"))


def _said(experiment, *results):
    rows = [dict(zip(("task", "arm", "metric", "value"), result, strict=True)) for result in results]
    return summary({"experiment": experiment, "results": rows})


def _pair(task, own, control, metric="accuracy", arms=("multitask", "dedicated"), ending=", converged"):
    return [(task, arm + ending, metric, value) for arm, value in zip(arms, (own, control), strict=True)]


@pytest.mark.parametrize(
    ("experiment", "results", "said"),
    [
        ("E1", [*_pair("a", 90, 92), *_pair("a", 99, 1, ending=""), *_pair("b", 50, 49.5, ending="")],
         "a -2.00, b +0.50 points from a network for each task"),
        ("E3", [*_pair("a", 90, 92), *_pair("house", 0.02, 0.01, "mse")],
         "a -2.00 points from a network for each task; house 100.0 % more error"),
        ("E3", _pair("house", 0.015, 0.02, "mse"), "house 25.0 % less error than a network for each task"),
        ("E5", [*_pair("a", 90, 92), *_pair("a", 80, 92, arms=("multitask scaled", "dedicated scaled"))],
         "a -12.00 points from a network for each task"),
        ("E5", _pair("a", 90, 92), "on raw pixels: a -2.00 points from a network for each task"),
        ("E7", [("a_sum", arm, "accuracy", value) for arm, value in (("multitask", 90), ("small", 91))],
         "summed subnetworks 90.00 %, summed small networks 91.00 %"),
        ("E7", [*_pair("a_5", 90, 92), *_pair("a_5", 91, 92, arms=("multitask, legacy percentile", "dedicated"))[:1]],
         "disjoint: a, no. 5 -2.00 points from a network for each task; "
         "by the released rule: a, no. 5 -1.00 points from a network for each task"),
        ("E10", [*_pair("a", 90, 92, arms=("told", "dedicated")), ("task_identity", "discerner", "accuracy", 98.5)],
         "a -2.00 points from a network for each task; the task is recognised in 98.50 %"),
        ("forgetting", [("all", arm, "forgetting_accuracy", value) for arm, value in PAIR],
         "subnetworks forget 0.00 points a task, fine-tuning 9.00"),
        ("capacity", [("mean", f"{arm} T={count}", "accuracy", value + count) for count in (2, 16)
                      for arm, value in (("multitask", 50), ("random", 60))],
         "mean of three of 16 tasks in one network: the paper's choice 66.00 %, random choice 76.00 %"),
        ("density", [("a", f"density {share}{way}, converged", "accuracy", value) for share in (0.5, 0.02)
                     for way, value in (("", 50), (" random", 60))],
         "at density 0.02, accuracy in % by choice: gradient: a 50.00; random: a 60.00"),
        ("performance", [("T=2", "default", "speedup_batch_32", 1.5)],
         "a training step at batch 32, times as fast as dense networks: T=2 1.50"),
        ("E6", [*_pair("hard", 90, 92),
                *(("hard_sparse", f"after {arm} reading, repeat {k}", "accuracy", 50 + k + value) for k in range(2)
                  for arm, value in (("easy", 2), ("untrained", 0), ("unrelated", -3)))],
         "hard half -2.00 points from a network for each task; a neighbour that is read, in points (2 repeats): "
         "related instead of unrelated +5.00 (+5.00 to +5.00), better; "
         "trained instead of untrained +2.00 (+2.00 to +2.00), better"),
        ("E6", _pair("hard", 90, 92), "hard half -2.00 points from a network for each task"),
        ("method", [("red", "subnetwork", "values", 18), ("all", "free", "values", 58)],
         "drawn, not trained: values owned by red 18; none has two owners"),
        ("01", [("blue", "subnetwork", "moved", 0), ("blue", "gradient mask", "moved", 0.8)],
         "while the other task trains, a subnetwork moves by 0, one kept by masking gradients by 0.80"),
        ("starves", [("a", f"density {share} {mask}, redrawn, converged", "accuracy", value) for share in (0.1, 1e-05)
                     for mask, value in (("snip, cut", 50), ("random, cut", 60), ("snip, evened", 58))],
         "at density 1e-05, in points: random masks minus the paper's: a +10.00; the paper's with an evened head minus "
         "with a cut one: a +8.00"),
        ("recipe", [("a", f"{arm}, converged", "accuracy", value) for arm, value in
                    (("multitask", 90), ("as released", 87), ("random", 91), ("small", 90))],
         "points from ours, both trained to convergence: the release's recipe a -3.00; random masks a +1.00; a small "
         "network a +0.00"),
        *((name, [("a", "multitask", "accuracy", 1)], "1 result") for name in ("starves", "recipe")),
        ("audit", [("last", "released", "share", 1), ("last", "exact", "share", 0.2)],
         "the last task gets 100 % of the weights by the released rule, 20 % by ours"),
        ("summary", [("all", "records", "results", 2267)], "2,267 results of larger runs read, none made"),
        ("E1", [("a", "multitask", "accuracy", 1)], "1 result"),
        ("capacity", [("a", "multitask", "accuracy", 1)], "1 result"),
    ],
)  # fmt: skip
def test_a_run_in_a_line(experiment, results, said):
    assert _said(experiment, *results) == said


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_every_committed_run_says_something_on_one_line(path):
    said = summary(read_record(path))
    assert "\n" not in said and "nan" not in said
    assert not said.endswith(" results")


def test_a_notebook_says_what_it_found_and_what_full_size_runs_found(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "02_a"
    monkeypatch.setenv("MSNLIB_RECORDS", str(folder))
    run = Run("E1", notebook="02_a", profile="quick", seed=3)
    print_findings(run, tmp_path)
    assert capsys.readouterr().out.splitlines()[0] == "Larger runs: no record here."
    for seed, own in enumerate((90, 91)):
        large = Run("E1", notebook="02_a", profile="laptop", seed=seed)
        for task, arm, metric, value in _pair("a", own, 92):
            large.add(task=task, arm=arm, metric=metric, value=value)
        large.save()
    for task, arm, metric, value in _pair("a", 50, 60):
        run.add(task=task, arm=arm, metric=metric, value=value)
    print_findings(run, tmp_path)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "This run (quick, seed 3): a -10.00 points from a network for each task.",
        "Larger runs (profile laptop, 2 seeds, means): a -1.50 points from a network for each task.",
    ]
    row = {"experiment": "E1", "task": "a", "metric": "accuracy", "difference": -1.5, "low": -2, "high": -1}
    for verdict, margin, words in [
        ("inferior", 1, "a loss beyond the margin of 1 point"),
        ("non-inferior", 0.5, "no loss beyond the margin of 0.5 points"),
        ("inconclusive", 2, "open at the margin of 2 points"),
        ("ended by the cap", 2, "ended by the cap"),
    ]:
        rows = [row | {"rule": "converged", "verdict": verdict, "margin": margin}, row | {"rule": "authors"}]
        pd.DataFrame(rows).to_csv(tmp_path / "claim.csv")
        print_findings(run, tmp_path)
        said = capsys.readouterr().out.splitlines()[1]
        assert "trained to convergence; " in said
        assert said.endswith(f"90 % intervals): a -1.50 points (-2.00 to -1.00), {words}.")


def test_a_sentence_from_trainings_that_a_cap_ended_says_so():
    def said(*capped, arms=("multitask, converged", "dedicated, converged")):
        rows = [dict(task="a", arm=arm, metric="accuracy", value=9.0) for arm in arms]
        known = [{} if found is None else {"capped": found} for found in capped]
        results = [row | found for row, found in zip(rows, known, strict=True)]
        return summary({"experiment": "E1", "results": results})

    plain, more = "a +0.00 points from a network for each task", "; some trainings were ended by the cap on epochs"
    assert said(None, None) == said(False, False) == plain
    assert said(True, None) == said(None, True) == said(False, True, arms=("multitask", "dedicated")) == plain + more
    other = dict(task="a", arm="multitask", metric="accuracy", value=9.0, capped=True)  # of a rule that is not told
    pair = [dict(other, arm=arm, capped=False) for arm in ("multitask, converged", "dedicated, converged")]
    assert summary({"experiment": "E1", "results": [other, *pair]}) == plain
    recipe = [dict(other, arm=f"{arm}, converged") for arm in ("multitask", "as released", "random", "small")]
    assert summary({"experiment": "recipe", "results": recipe}).endswith(
        "a small network a +0.00; all trainings were ended by the cap on epochs"
    )


def test_boxes_of_an_executed_notebook_follow_the_records_and_nothing_else_of_it_changes(tmp_path):
    def output(*lines):
        return {"output_type": "stream", "name": "stdout", "text": [f"{line}\n" for line in lines]}

    own, quick, other = "This run (quick, seed 0): 1.", "A quick run is too small.", "Full-size runs stay in prose."
    cells = [
        {
            "id": "findings-begin",
            "cell_type": "code",
            "source": ["x"],
            "outputs": [output("Larger runs: none.", quick)],
        },
        {"id": "b", "cell_type": "code", "source": ["y"], "outputs": [output(other)]},
        {
            "id": "findings-end",
            "cell_type": "code",
            "source": ["x"],
            "outputs": [output(own), output("Full-size runs: 0")],
        },
    ]
    path = tmp_path / "02_parallel_dense.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    said = full_size("E1", path.stem, RECORDS[0].parents[2])
    for _ in range(2):
        refresh_findings(path, "E1", RECORDS[0].parents[2])
        found = [
            [line.strip() for o in cell["outputs"] for line in o["text"]]
            for cell in json.loads(path.read_text())["cells"]
        ]
        assert found == [[said, quick], [other], [own, said]]


@pytest.mark.parametrize("path", [path for record in RECORDS for path in record.parent.glob("*.ipynb")], ids=str)
def test_boxes_of_committed_pages_are_of_the_committed_records(path):
    record, cells = read_record(path.with_name("record.json")), json.loads(path.read_text())["cells"]
    said = full_size(record["experiment"], path.stem, path.parents[2])
    boxes = [cell for cell in cells if cell.get("id") in ("findings-begin", "findings-end")]
    assert [said in "".join(line for o in cell["outputs"] for line in o["text"]) for cell in boxes] == [True] * len(
        boxes
    )


def test_the_end_of_a_command_does_not_wait_for_torch():
    program = "import sys, msnlib.lab.report, msnlib.lab.summary; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
