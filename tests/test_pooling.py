"""Which runs may be averaged: every way in which two runs can be unlike is refused or kept apart."""

import json
from pathlib import Path

import pandas as pd
import pytest

from msnlib.lab.claim import CAPPED_BEFORE
from msnlib.lab.differences import precisions
from msnlib.lab.figures import speed
from msnlib.lab.pooling import POOL, UnlikeRuns, fixed, headline, over_seeds, pooled
from msnlib.lab.records import NUMERICS, RECORD_COLUMNS, read_records, versions
from msnlib.lab.report import paired, report_table

BASE = {"experiment": "E1", "notebook": "02_a", "profile": "paper", "density": 0.1, "numerics": 1, "overrides": {}}
UNLIKE = [
    {"experiment": "E2"},
    {"notebook": "02_b"},
    {"profile": "laptop"},
    {"density": 0.2},
    {"density": None},
    {"numerics": 2},
    {"numerics": None},
    {"overrides": {"batch": 8}},
]


def _rows(values, task="mnist", metric="accuracy", **other):
    """Rows of records: seed -> arm -> value."""
    run = BASE | other
    configuration = {"profile": run["profile"], "density": run["density"]}
    rows = []
    for seed, arms in values.items():
        shared = {name: run[name] for name in ("experiment", "notebook", "profile")} | {"seed": seed, "metric": metric}
        chosen = {name: value for name, value in (configuration | {"seed": seed}).items() if value is not None}
        versions = {"torch": "2"} | ({} if run["numerics"] is None else {"numerics": run["numerics"]})
        texts = {"configuration": chosen, "versions": versions, "overrides": run["overrides"]}
        shared |= {name: json.dumps(value, sort_keys=True) for name, value in texts.items()}
        rows += [shared | {"task": task, "arm": arm, "value": value} for arm, value in arms.items()]
    return pd.DataFrame(rows, columns=list(RECORD_COLUMNS))


def _two(other, value=(96.0, 50.0)):
    """Three seeds of the base pool and one seed of another."""
    arms = [{"multitask": v, "dedicated": v + 1} for v in value]
    return pd.concat([_rows({seed: arms[0] for seed in range(3)}), _rows({7: arms[1]}, **other)], ignore_index=True)


def test_a_run_from_before_notebooks_had_arms_to_choose_is_one_with_all_that_auto_has():
    before, auto, chosen = ({"profile": "paper"} | arms for arms in ({}, {"arms": "auto"}, {"arms": "all"}))
    assert fixed(before, {}, {}) == fixed(auto, {}, {}) != fixed(chosen, {"arms": "all"}, {})


def test_means_over_the_seeds_of_one_pool():
    records = _rows({0: {"multitask": 96.0}, 1: {"multitask": 97.0}, 2: {"multitask": 98.0}})
    again = pd.concat([records, records.assign(file="copy")], ignore_index=True)
    for same in (records, pooled(again)):
        (row,) = over_seeds(same, ["task", "arm"]).reset_index().to_dict("records")
        assert row == {"task": "mnist", "arm": "multitask", "mean": 97, "min": 96, "max": 98, "sd": 1, "seeds": 3}


@pytest.mark.parametrize("other", UNLIKE, ids=str)
def test_a_mean_over_unlike_runs_is_refused_in_one_line_that_says_what_differs(other):
    with pytest.raises(UnlikeRuns, match="task mnist, arm multitask: a mean would mix runs of ") as caught:
        over_seeds(_two(other), ["task", "arm"])
    (name,) = other
    said = {"overrides": "batch"}.get(name, name)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert len(over_seeds(_two(other), [*POOL, "task", "arm"])) == 4


def test_a_mean_over_several_results_of_one_run_is_refused():
    with pytest.raises(UnlikeRuns, match="task mnist: a mean would mix several results of one run"):
        over_seeds(_rows({0: {"a": 1.0, "b": 2.0}, 1: {"a": 1.0}}), ["task"])
    renamed = _rows({0: {"a": 1.0, "b": 2.0}, 1: {"a": 1.0}}).assign(arm="c", place=["x", "y", "x"])
    assert over_seeds(renamed, ["arm", "place"])["seeds"].tolist() == [2, 1]
    with pytest.raises(UnlikeRuns, match="several results of one run"):
        over_seeds(renamed, ["arm"])


@pytest.mark.parametrize("other", UNLIKE, ids=str)
def test_no_table_pools_unlike_runs(other):
    records = _two(other)
    assert sorted(report_table(records).query("arm == 'multitask'")["mean"]) == [50.0, 96.0]
    shown = headline(records)
    for _, rows in shown.groupby("experiment"):
        assert len(rows[list(POOL)].drop_duplicates()) == 1
    assert set(shown.loc[shown["experiment"] == "E1", "seed"]) == {0, 1, 2}
    gaps = paired(records)
    assert set(gaps.loc[gaps["experiment"].eq("E1") & gaps["profile"].eq("paper"), "seeds"]) == {3}
    assert (gaps["mean"] == -1).all()


@pytest.mark.parametrize("other", UNLIKE, ids=str)
def test_the_figure_of_speed_draws_one_pool(other):
    values = [{"scattered": 2.0}, {"scattered": 4.0}]
    look = dict(task="T=1", metric="speedup_batch_32")
    base = {"experiment": "performance"}
    records = pd.concat(
        [_rows({0: values[0], 1: values[0]}, **look, **base), _rows({2: values[1]}, **look, **(base | other))],
        ignore_index=True,
    )
    assert list(speed(records).axes[0].lines[0].get_ydata()) == [2.0]


def test_of_equally_many_seeds_the_latest_revision_of_the_numerics_is_shown():
    parts = [_rows({0: {"multitask": 90.0 + (n or 0)}}, numerics=n) for n in (None, 2, 1)]
    assert headline(pd.concat(parts, ignore_index=True))["value"].tolist() == [92.0]


def test_a_pool_of_every_profile():
    records = _two({"profile": "laptop"})
    assert set(headline(records)["profile"]) == {"paper"}
    assert set(headline(records, each=("experiment", "profile"))["profile"]) == {"paper", "laptop"}
    assert headline(records[:0]).empty and report_table(records[:0]).empty and paired(records[:0]).empty


def test_seeds_with_a_split_of_their_own_are_one_pool_and_not_that_of_a_fixed_split():
    def key(seed, **split):
        return fixed({"seed": seed, **split}, {}, {"numerics": 1})

    assert key(1, split_seed=1) == key(2, split_seed=2)
    assert len({key(1, split_seed=1), key(1, split_seed=0), key(1)}) == 3
    assert key(1, split_seed=0) == key(2, split_seed=0)


def test_a_split_that_was_set_by_hand_is_one_split_for_every_seed():
    keys = {fixed({"seed": seed, "split_seed": 0}, {"split_seed": 0}, {"numerics": 1}) for seed in range(3)}
    assert len(keys) == 1
    assert keys.isdisjoint({fixed({"seed": 0, "split_seed": 0}, {}, {"numerics": 1})})


def test_of_two_unlike_records_of_one_run_one_is_named_as_left_out(caplog):
    arms = {"multitask": 90.0, "dedicated": 91.0}
    same, other = (_rows({0: arms | more}) for more in ({}, {"dedicated": 10.0}))
    pooled(pd.concat([same.assign(file="a"), same.assign(file="b")]))
    assert not caplog.messages
    kept = pooled(pd.concat([same.assign(file="a"), other.assign(file="b")]))
    assert kept["file"].tolist() == ["a", "a"]
    assert caplog.messages == ["b left out: another record of the same run has other values"]


def _in(precision, values, **other):
    """Rows of runs whose record says in which precision they trained."""
    rows = _rows(values, **other)
    made = [json.loads(text) | {"precision": precision} for text in rows["configuration"]]
    return rows.assign(configuration=[json.dumps(values, sort_keys=True) for values in made])


def test_two_precisions_are_compared_seed_by_seed_and_only_where_all_else_is_alike():
    whole = _in("float32", {seed: {"multitask": 90.0 + seed, "dedicated": 80.0} for seed in (0, 2, 4)})
    found = {seed: {"multitask": 90.5 + seed} for seed in (0, 2, 9)}
    half = _in("bfloat16", found, overrides={"precision": "bfloat16"})
    (row,) = precisions(pd.concat([whole, half])).to_dict("records")
    assert {name: row[name] for name in ("task", "arm", "difference", "float32", "seeds")} == {
        "task": "mnist", "arm": "multitask", "difference": 0.5, "float32": 91.0, "seeds": 2,
    }  # fmt: skip
    assert row["sd"] == pytest.approx(2**0.5)
    for other in UNLIKE:
        if other != {"overrides": {"batch": 8}}:
            alone = _in("bfloat16", {0: {"multitask": 90.0}}, **other)
            assert precisions(pd.concat([whole, alone])).empty
    assert precisions(whole[:0]).empty


@pytest.mark.parametrize(("notebook", "profile"), sorted(CAPPED_BEFORE))
def test_runs_of_today_never_join_the_pool_of_those_that_a_cap_on_epochs_ended(notebook, profile):
    """The cap stood in the notebook's settings, which are no part of a configuration; the revision is."""
    records = read_records(Path(__file__).parent.parent / "reports" / notebook)
    silent = records["capped"].isna().groupby(records["file"]).transform("all")  # on what ended any training
    old = pooled(records[records["profile"].eq(profile) & silent])
    assert len(old) and not any("numerics" in json.loads(text) for text in old["fixed"])
    assert versions()["numerics"] == NUMERICS
