"""Curves of full networks, from accuracies whose differences are known by hand."""

import math
from itertools import product

import pandas as pd
import pytest

from msnlib.lab.capacity import (
    CHOICES,
    MARGIN,
    capacity,
    capacity_section,
    full_arm,
    full_networks,
    one_curve,
    widest,
    widths_table,
)
from msnlib.lab.records import Run, read_records
from msnlib.lab.summary import summary

WIDTHS, COUNTS, SEEDS = (64, 128, 256), (1, 2, 4, 8, 16), (0, 1, 2)


def _records(value, seeds=SEEDS, widths=WIDTHS, choices=("multitask evened",), capped=False):
    """A row for every network; ``value`` is a function of width, number of tasks and seed."""
    rows = [
        {"task": task, "arm": full_arm(choice, count, width), "metric": "accuracy", "seed": seed,
         "value": value(width, count, seed) - 50 * (task != "mean"), "capped": capped}
        for choice, width, count, seed, task in product(choices, widths, COUNTS, seeds, ("mean", "worst", "first"))
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(experiment="capacity", notebook="10_a", profile="laptop", fixed="{}")


def _curve(shift=lambda width, count, seed: 0.0, **how):
    """Networks on one curve over inputs a unit, but for the shift."""
    return _records(lambda w, t, s: 90 + math.log2(w / t) + shift(w, t, s), **how)


def test_arms_are_read_back_and_older_ones_have_no_width():
    for choice in CHOICES:
        (row,) = full_networks(_records(lambda *_: 1.0, (0,), (64,), (choice,)).iloc[[-3]]).to_dict("records")
        assert (row["choice"], row["count"], row["width"], row["inputs"]) == (choice, 16, 64, 4.0)
    arms = ["random T=32", "small T=2", "density 0.1 random, converged", "empty network", "random T=x"]
    old = pd.DataFrame({"task": "mean", "arm": arms, "metric": "accuracy", "value": 1.0, "experiment": "capacity"})
    assert full_networks(old)[["choice", "count", "width"]].values.tolist() == [["random", 32, 0], ["small", 2, 0]]


def test_widths_on_one_curve_are_told_from_widths_that_are_apart():
    noise = {0: 0.1, 1: -0.1, 2: 0.0}
    found = one_curve(_curve(lambda w, t, s: noise[s] * (w == 256)), "multitask evened")
    assert found.verdict == "one curve" and found.largest.difference == pytest.approx(0)
    assert found.at_tasks == pytest.approx(1) and found.at_inputs == pytest.approx(0)  # a doubling is a point
    apart = one_curve(_curve(lambda w, t, s: noise[s] * (w == 256) + 2 * (w == 256 and t == 4)), "multitask evened")
    assert apart.verdict == "not one curve"
    assert (apart.inputs, apart.wide, apart.largest.difference) == (64, 256, pytest.approx(2))
    assert apart.largest.low == pytest.approx(2 - 2.919986 * 0.1 / 3**0.5, rel=1e-5)  # t(0.95, 2), sd of 0.1, -0.1, 0
    assert apart.at_inputs == pytest.approx(math.sqrt(4 / 3 / 3))  # variance of 0, 0, 2 at one of three inputs


@pytest.mark.parametrize(
    ("shift", "how", "verdict"),
    [
        (lambda w, t, s: 3.0 * (s == 1) * (w == 256), {}, "open"),  # one seed alone is apart
        (lambda w, t, s: MARGIN * (w == 256), {}, "open"),  # at the margin, not within
        (lambda w, t, s: 5.0 * (w == 64 and t == 16), {}, "one curve"),  # 4 inputs, which no other width has here
        (lambda w, t, s: 9.0 * (w == 256), {"seeds": (3,)}, "open"),
        (lambda w, t, s: 0.0, {"capped": True}, "ended by the cap"),
    ],
)
def test_what_seeds_do_not_decide_is_open(shift, how, verdict):
    assert one_curve(_curve(shift, **how), "multitask evened").verdict == verdict


def test_chance_is_the_spread_that_seeds_alone_would_give():
    found = one_curve(_curve(lambda w, t, s: {0: -1, 1: 1, 2: 0}[s]), "multitask evened")
    assert found.chance == pytest.approx(1 / 3**0.5) and found.at_inputs == pytest.approx(0)
    assert math.isnan(one_curve(_curve(seeds=(1,)), "multitask evened").chance)


def test_without_inputs_in_common_there_is_nothing_to_compare():
    assert one_curve(_curve(widths=(64,)), "multitask evened") is None
    assert one_curve(_curve(widths=(64, 100)), "multitask evened") is None
    assert one_curve(_curve(), "small") is None


def test_what_is_shown_first_is_the_widest_network():
    records = _curve(choices=("multitask", "small"))
    assert set(widest(records)["width"]) == {256} and set(widest(records)["task"]) == {"mean"}
    points = capacity(pd.concat([records, records.assign(experiment="density", arm="a T=1")]))
    assert points.loc[("small", 16), "mean"] == pytest.approx(94) and points.loc[("small", 16), "seeds"] == 3
    assert capacity(records[:0]).empty


def test_a_run_of_several_widths_says_both_what_it_reached_and_whether_there_is_one_curve():
    rows = _curve(seeds=(0,), choices=("multitask", "multitask evened")).drop(columns="seed").to_dict("records")
    found = summary({"experiment": "capacity", "results": rows})
    assert found.about == "16 tasks in one network of 256 units a layer, mean accuracy of three of them in %"
    assert found.items[:2] == ["the paper's choice 94.00", "the paper's with evened heads 94.00"]
    said = "the paper's with evened heads, over inputs a unit: open (farthest apart are 128 minus 64 units"
    assert found.items[2].startswith(said)


def test_the_table_of_widths_shows_the_pair_that_is_farthest_apart():
    table = widths_table(_curve(lambda w, t, s: (0.1 * s - 2) * (w == 128 and t == 2)), "multitask evened")
    assert list(table.index) == ["16", "32", "64"]
    assert table.loc["64"].tolist() == ["96.00", "94.10", "96.00", "128 minus 64: -1.90 (-2.07 to -1.73)"]
    assert table.loc["16", "farthest apart"] == "128 minus 64: +0.00 (+0.00 to +0.00)"
    assert widths_table(_curve(widths=(64,)), "multitask evened").empty


def test_the_page_says_accuracy_by_tasks_and_what_widths_have_in_common(tmp_path, monkeypatch):
    monkeypatch.setenv("MSNLIB_RECORDS", str(tmp_path))
    choices = ("multitask", "random", "multitask evened", "small")
    rows = _curve(lambda w, t, s: s - 1.0, choices=choices)
    rows = pd.concat(
        [rows, *(rows[rows["task"].eq("first")].assign(task=place) for place in ("middle", "last"))], ignore_index=True
    )
    rows.loc[rows["task"].eq("last") & rows["arm"].str.startswith("random "), "value"] += rows["seed"] + 1
    for profile, seed in product(("laptop", "quick"), SEEDS):
        run = Run("capacity", notebook="10_capacity", profile=profile, seed=seed)
        for row in rows[rows["seed"] == seed].itertuples():
            run.add(task=row.task, arm=row.arm, metric="accuracy", value=row.value - (profile == "quick"), capped=False)
        run.save()
    records = read_records(tmp_path)
    accuracy, apart, places, curve = (part.splitlines() for part in capacity_section(records).split("\n\n**"))
    assert accuracy[0] == "**Accuracy in %, mean and standard deviation over seeds** (`laptop`, 3 seeds)"
    assert _cells(accuracy[-1]) == ["16", *4 * ["94.0 ± 1.0"]]
    assert apart[0].endswith("(`laptop`, 3 seeds, 90 % t intervals)")
    assert [_cells(line) for line in apart[2:]][::5] == [
        ["tasks", "the paper's minus random"], ["16", "+0.0 (+0.0 to +0.0)"]
    ]  # fmt: skip
    assert places[0].startswith("With 16 tasks, by the place")
    low = 2 - 2.919986 / 3**0.5  # of 1, 2 and 3
    zero = "+0.0 (+0.0 to +0.0)"
    assert _cells(places[-1]) == ["the paper's minus random", zero, zero, f"-2.0 ({low - 4:+.1f} to {-low:+.1f})"]
    assert curve[0].startswith("The paper's with evened heads: one curve** (")
    assert curve[-1] == (
        "Standard deviation between widths: 1.00 points at equal T, 0.00 at equal inputs; by chance about 0.58."
    )
    assert capacity_section(records[records["profile"] == "quick"]) == "No run is made yet."


def _cells(line):
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_older_runs_that_name_no_width_have_nothing_to_compare():
    old = _records(lambda *_: 90.0, widths=(64, 128))
    old["arm"] = old["arm"].str.replace(r" width=\d+", "", regex=True)
    assert one_curve(old, "multitask evened") is None and widths_table(old, "multitask evened").empty
