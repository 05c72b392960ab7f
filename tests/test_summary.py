"""What runs found, in words: from records whose numbers are known by hand, and from every committed one."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from msnlib.lab.boxes import full_size, print_findings, refresh_findings
from msnlib.lab.records import Run, read_record
from msnlib.lab.summary import Found, summary

PAIR = (("multitask", 0), ("fine-tuning", 9))
MEANS = (("random", 80), ("multitask", 81), ("dedicated", 82))
RECORDS = sorted((Path(__file__).parent.parent / "reports").glob("*/*/record.json"))


def _said(experiment, *results):
    rows = [dict(zip(("task", "arm", "metric", "value"), result, strict=True)) for result in results]
    return str(summary({"experiment": experiment, "results": rows}))


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
        ("forgetting", [*(("all", arm, "forgetting_accuracy", value) for arm, value in PAIR),
                        *(("all", arm, "accuracy", value) for arm, value in MEANS)],
         "subnetworks forget 0.00 points a task, fine-tuning 9.00; mean accuracy of all tasks, in points from the "
         "subnetworks: networks of their own +1.00, random masks -1.00"),
        ("capacity", [("mean", f"{arm} T={count}", "accuracy", value + count) for count in (2, 16)
                      for arm, value in (("multitask", 50), ("random", 60))],
         "16 tasks in one network, mean accuracy of three of them in %: the paper's choice 66.00; random choice 76.00"),
        ("density", [("a", f"density {share}{way}, converged", "accuracy", value) for share in (0.5, 0.02)
                     for way, value in (("", 50), (" random", 60))],
         "accuracy in % at density 0.02, weights chosen: by gradients: a 50.00; at random: a 60.00"),
        ("performance", [("T=2", "default", "speedup_batch_8", 1.5), ("T=2", "default", "state_ratio", 0.15),
                         ("T=2", "default", "another", 1)],
         "a step of 8 images, times as fast as dense networks: T=2 1.50; bytes held from step to step, as a share of "
         "theirs: T=2 0.15"),
        ("E6", [*_pair("hard", 90, 92),
                *(("hard_sparse", f"after {arm} reading, repeat {k}", "accuracy", 50 + k + value) for k in range(2)
                  for arm, value in (("easy", 2), ("untrained", 0), ("unrelated", -3)))],
         "hard half -2.00 points from a network for each task; the hard half beside a neighbour that it reads, in "
         "points (2 repeats): related instead of unrelated +5.00 (+5.00 to +5.00), better; "
         "trained instead of untrained +2.00 (+2.00 to +2.00), better"),
        ("E6", _pair("hard", 90, 92), "hard half -2.00 points from a network for each task"),
        ("method", [("red", "subnetwork", "values", 18), ("all", "free", "values", 58)],
         "drawn, not trained: values owned by red 18; none has two owners"),
        ("01", [("blue", "subnetwork", "moved", 0), ("blue", "gradient mask", "moved", 0.8)],
         "while the other task trains, a subnetwork moves by 0, one kept by masking gradients by 0.80"),
        ("starves", [("a", f"density {share} {mask}, redrawn, converged", "accuracy", value) for share in (0.1, 1e-05)
                     for mask, value in (("snip, cut", 50), ("random, cut", 60), ("snip, evened", 58))],
         "accuracy at density 1e-05, in points: random masks minus the paper's: a +10.00; the paper's, evened head "
         "minus cut one: a +8.00"),
        ("recipe", [("a", f"{arm}, converged", "accuracy", value) for arm, value in
                    (("multitask", 90), ("as released", 87), ("random", 91), ("small", 90))],
         "accuracy in points from ours, trained to convergence: both as released: a -3.00; weights at random: a +1.00; "
         "control: a small dense network: a +0.00"),
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


def test_a_short_form_has_as_many_items_as_fit_and_says_that_there_are_more():
    found = Found(["one", "two", "three"], "of these")
    assert [found.short(width) for width in (99, 25, 24, 18, 1)] == [
        *("of these: one; two; three", "of these: one; two; three"),
        *("of these: one; two ...", "of these: one; two ...", "of these: one ..."),
    ]
    assert Found(["long enough"]).short(3) == "long enough"


def test_what_is_long_is_a_list_and_what_is_known_of_several_seeds_has_an_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("MSNLIB_RECORDS", str(tmp_path / "18_a"))
    ours = (90, 91, 92)
    for seed, value in enumerate(ours):
        run = Run("recipe", notebook="18_a", profile="paper", seed=seed)
        for arm, gap in (("multitask", 0), ("as released", (-9, 0, 9)[seed]), ("random", 1 + seed / 9), ("small", -1)):
            noted = dict(capped=arm == "small", dead_outputs=2 * seed if arm == "as released" else 0)
            run.add(task="a", arm=f"{arm}, converged", metric="accuracy", value=value + gap, **noted)
        run.save()
    assert full_size("recipe", "18_a", tmp_path).splitlines() == [
        "Larger runs (profile paper, 3 seeds, 90 % intervals): accuracy in points from ours, trained to convergence:",
        "- both as released: a +0.00 (-15.17 to +15.17, open); in 2 of 3 seeds a head has two or more outputs without "
        "a weight",
        "- weights at random: a +1.11 (+0.92 to +1.30, ahead)",
        "- control: a small dense network: a -1.00 (-1.00 to -1.00, ended by the cap)",
        "- some trainings were ended by the cap on epochs",
    ]


def test_a_notebook_of_one_size_says_what_its_run_found_alone(tmp_path, capsys):
    run = Run("audit", notebook="12_a", profile="quick", seed=0)
    for arm, value in (("released", 1), ("exact", 0.2)):
        run.add(task="last", arm=arm, metric="share", value=value)
    print_findings(run, tmp_path)
    assert capsys.readouterr().out.count("\n") == 1


def test_error_is_said_as_more_or_less_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MSNLIB_RECORDS", str(tmp_path / "03_a"))
    for seed in range(2):
        run = Run("E3", notebook="03_a", profile="paper", seed=seed)
        run.add(task="house", arm="multitask", metric="mse", value=0.02)
        run.save()
    row = {"experiment": "E3", "task": "house", "metric": "mse", "difference": -12.3, "low": -50, "high": 9.2}
    row |= {"rule": "converged", "verdict": "inconclusive", "margin": 10, "seeds": 2, "evidence": "exploration"}
    pd.DataFrame([row]).to_csv(tmp_path / "claim.csv")
    said = "house 12.3 % more error (9.2 % less to 50.0 % more), open at the margin of 10 %."
    assert full_size("E3", "03_a", tmp_path).endswith(said)
    assert "(profile paper, 2 seeds, exploration, trained" in full_size("E3", "03_a", tmp_path)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_every_committed_run_says_something_on_one_line(path):
    said = str(summary(read_record(path)))
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
    row = {
        "experiment": "E1",
        "task": "a",
        "metric": "accuracy",
        "difference": -1.5,
        "low": -2,
        "high": -1,
        "evidence": "claim",
    }
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
        assert "2 seeds, trained to convergence, 90 % intervals): " in said
        assert said.endswith(f"above 0 it is better: a -1.50 points (-2.00 to -1.00), {words}.")


def test_a_sentence_from_trainings_that_a_cap_ended_says_so():
    def said(*capped, arms=("multitask, converged", "dedicated, converged")):
        rows = [dict(task="a", arm=arm, metric="accuracy", value=9.0) for arm in arms]
        known = [{} if found is None else {"capped": found} for found in capped]
        results = [row | found for row, found in zip(rows, known, strict=True)]
        return str(summary({"experiment": "E1", "results": results}))

    plain, more = "a +0.00 points from a network for each task", "; some trainings were ended by the cap on epochs"
    assert said(None, None) == said(False, False) == plain
    assert said(True, None) == said(None, True) == said(False, True, arms=("multitask", "dedicated")) == plain + more
    other = dict(task="a", arm="multitask", metric="accuracy", value=9.0, capped=True)  # of a rule that is not told
    pair = [dict(other, arm=arm, capped=False) for arm in ("multitask, converged", "dedicated, converged")]
    assert str(summary({"experiment": "E1", "results": [other, *pair]})) == plain
    recipe = [dict(other, arm=f"{arm}, converged") for arm in ("multitask", "as released", "random", "small")]
    (*_, last) = summary({"experiment": "recipe", "results": recipe}).items
    assert last == "all trainings were ended by the cap on epochs"


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
            "outputs": [output(own, "- 1"), output("Full-size runs: 0", "- 2", "- 3", quick)],
        },
    ]
    path = tmp_path / "02_parallel_dense.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    said = full_size("E1", path.stem, RECORDS[0].parents[2]).splitlines()
    assert len(said) > 1
    for _ in range(2):
        refresh_findings(path, "E1", RECORDS[0].parents[2])
        found = [
            [line.strip() for o in cell["outputs"] for line in o["text"]]
            for cell in json.loads(path.read_text())["cells"]
        ]
        assert found == [[*said, quick], [other], [own, "- 1", *said, quick]]


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
