"""The claim's table from records whose differences are known by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from msnlib import dense_network, seed_everything
from msnlib.lab.claim import CAPPED, CAPPED_BEFORE, CLAIM_COLUMNS, claim_table, claim_verdicts
from msnlib.lab.design import Design, read_design, read_designs
from msnlib.lab.examples import TEST_ROWS
from msnlib.lab.networks import dedicated
from msnlib.lab.parameters import ParameterError
from msnlib.lab.publish import claim_section
from msnlib.lab.records import Run, read_records
from msnlib.lab.statistics import Margin, compare, crossed
from msnlib.subnetworks import shared_tensors

MARGINS = {"mnist": Margin.parse(0.5), "cifar10": Margin.parse(1.0), "boston": Margin.parse("10 %")}
DESIGN = Design(MARGINS)


@pytest.fixture
def out(tmp_path, monkeypatch):
    monkeypatch.setenv("MSNLIB_RECORDS", str(tmp_path))
    return tmp_path


def _save(experiment, seed, values, metric="accuracy", profile="paper", examples=None, **configuration):
    """Save a record of (task, arm) -> value, all under the rule "converged"."""
    run = Run(experiment, notebook=f"02_{experiment}", profile=profile, seed=seed, **configuration)
    for (task, arm), value in values.items():
        outcomes = None if examples is None else examples[arm]
        run.add(task=task, arm=f"{arm}, converged", metric=metric, value=value, examples=outcomes)
    return run.save()


def _pair(own, control, task="mnist"):
    return {(task, "multitask"): own, (task, "dedicated"): control}


def test_a_row_is_the_comparison_over_seeds(out):
    own, control = [97.0, 98.0, 97.5], [97.1, 97.8, 97.7]
    for seed, pair in enumerate(zip(own, control, strict=True)):
        _save("E1", seed, _pair(*pair))
        _save("E3", seed, _pair(pair[0] / 1e4, pair[1] / 1e4, "boston"), metric="mse")
    table = claim_table(out, DESIGN)
    assert list(table.columns) == list(CLAIM_COLUMNS)
    assert table["rule"].tolist() == ["converged"] * 2 and table["capped"].tolist() == [0, 0]
    row, error = table.to_dict("records")
    expected = compare(own, control, MARGINS["mnist"])
    for name in ("difference", "low", "high", "p_noninferior", "p_inferior", "p_equivalent", "verdict", "seeds"):
        assert row[name] == getattr(expected, name), name
    assert (row["subnetwork"], row["control"], row["margin"]) == (97.5, pytest.approx(97.5333333), 0.5)
    assert (row["experiment"], row["profile"], row["task"], row["metric"]) == ("E1", "paper", "mnist", "accuracy")
    assert np.isnan([row["both_low"], row["both_high"]]).all() and row["both_seeds"] == 0
    assert (row["interval"], row["evidence"], row["alone_low"]) == ("seeds", "exploration", row["low"])
    assert row["margin_share"] == pytest.approx(100 * 0.5 / (100 - 97.5333333)) and error["margin_share"] == 10
    expected = compare(np.divide(own, 1e4), np.divide(control, 1e4), MARGINS["boston"])
    assert (error["difference"], error["low"], error["margin"]) == (expected.difference, expected.low, 10.0)


def test_pairs_are_made_by_seed(out):
    for seed in (0, 1, 2):
        _save("E1", seed, _pair(97.0 + seed, 97.0 + seed))
    _save("E1", 3, {("mnist", "multitask"): 50.0})
    _save("E1", 4, {("mnist", "dedicated"): 50.0})
    (row,) = claim_table(out, DESIGN).to_dict("records")
    assert (row["seeds"], row["difference"], row["low"], row["high"]) == (3, 0.0, 0.0, 0.0)


def test_the_largest_profile_counts_and_quick_never(out):
    for profile, loss in (("paper", 0.0), ("laptop", 5.0), ("quick", 7.0)):
        _save("E1", 0, _pair(97.0 - loss, 97.0), profile=profile)
        if profile != "paper":
            _save("E2", 0, _pair(97.0 - loss, 97.0), profile=profile)
    _save("E10", 0, _pair(90.0, 97.0), profile="quick")
    table = claim_table(out, DESIGN)
    assert table[["experiment", "profile", "difference"]].values.tolist() == [
        ["E1", "paper", 0.0],
        ["E2", "laptop", -5.0],
    ]


def test_a_control_is_lent_only_to_runs_that_are_made_alike(out):
    for seed in range(3):
        _save("E1", seed, _pair(97.0, 97.0), precision="bfloat16")
        _save("E3", seed, {("mnist", "multitask"): 97.0})
    table = claim_table(out, DESIGN)
    assert table["experiment"].tolist() == ["E1"] and ("E3", "mnist") in table.attrs["untested"]


def test_runs_with_parameters_set_by_hand_do_not_count(out):
    _save("E1", 0, _pair(97.0, 97.0))
    path = _save("E1", 1, _pair(50.0, 97.0), density=0.01)
    path.write_text(path.read_text().replace('"format"', '"run": {"overrides": {"density": 0.01}},\n "format"'))
    assert (read_records(out)["overrides"] != "{}").sum() == 2
    assert claim_table(out, DESIGN)["seeds"].tolist() == [1]


def test_runs_of_another_configuration_are_not_mixed_in(out):
    for seed in (0, 1, 2):
        _save("E1", seed, _pair(97.0, 97.0 + seed), epochs=100)
        _save("E1", seed, {("mnist", "dedicated"): 50.0})  # an older default
        _save("E1", seed + 10, _pair(97.0, 97.0), epochs=100)
        _save("E3", seed, {("mnist", "multitask"): 98.0}, epochs=100)
    _save("E1", 3, {("mnist", "multitask"): 97.0})
    assert claim_table(out, DESIGN)[["seeds", "difference"]].values.tolist() == [[6, -0.5], [3, 0.0]]


def test_a_run_counts_once_and_the_one_with_examples_is_taken(out):
    random = np.random.default_rng(0)
    outcomes = [{arm: random.random(40) < 0.8 for arm in ("multitask", "dedicated")} for _ in range(4)]
    for seed, examples in enumerate(outcomes):
        values = _pair(*(100 * examples[arm].mean() for arm in ("multitask", "dedicated")))
        path = _save("E1", seed, values, examples=examples if seed else None)  # an old run has none
        if seed == 1:
            (out / "a").mkdir()  # read before the others, and without examples
            (out / "a" / path.name).write_bytes(path.read_bytes())
    (row,) = claim_table(out, DESIGN).to_dict("records")
    assert (row["seeds"], row["both_seeds"], row["interval"]) == (4, 3, "seeds")
    stacked = [np.stack([examples[arm] for examples in outcomes[1:]]) for arm in ("multitask", "dedicated")]
    expected = crossed(*stacked, MARGINS["mnist"])
    assert (row["both_low"], row["both_high"]) == (expected.low, expected.high)
    (out / path.name).with_suffix(".npz").unlink()
    (row,) = claim_table(out, DESIGN).to_dict("records")
    assert (row["seeds"], row["both_seeds"]) == (4, 2)


def test_the_images_of_e3_and_e4_borrow_the_networks_of_e1_by_seed_and_profile(out):
    for seed in (0, 1):
        _save("E1", seed, _pair(10.0, 97.0 + seed))
        _save("E1", seed, _pair(10.0, 20.0), profile="laptop")
        _save("E3", seed, {("mnist", "multitask"): 97.5 + seed, ("boston", "multitask"): 1.0})
        _save("E4", seed, _pair(96.0 + seed, 95.0 + seed))  # a control of its own comes first
        _save("E2", seed, {("mnist", "multitask"): 97.5})
    table = claim_table(out, DESIGN).set_index("experiment")
    assert (table.loc["E3", "difference"], table.loc["E3", "seeds"]) == (0.5, 2)
    assert table.loc["E4", "difference"] == 1.0
    assert table.attrs["untested"] == [("E2", "mnist"), ("E3", "boston")]


def test_the_borrowed_networks_are_what_the_experiment_would_have_trained(make_task):
    """Notebook 03 would train notebook 02's networks again; notebook 05 ones of the same shapes."""
    task = make_task("mnist", inputs=(4,))

    def train(sample=None, **building):
        seed_everything(3, threads=1)
        net, history = dedicated(lambda tasks: dense_network(tasks, width=4, **building), task, sample=sample, epochs=2)
        return net.state_dict(), history.table

    (lent, curve), (own, again) = train(depth=3), train(depth=3, inputs=4, sample=10)
    assert lent.keys() == own.keys() and all(lent[name].equal(own[name]) for name in lent)
    pd.testing.assert_frame_equal(curve.filter(like="loss"), again.filter(like="loss"))
    image = make_task("mnist", inputs=(6,))
    shapes = [
        sorted(tuple(tensor.shape) for tensor in shared_tensors(dense_network([image], width=5, **size)).values())
        for size in ({"depth": 3}, {"inputs": 5, "depth": 2})
    ]
    assert shapes[0] == shapes[1]


def test_experiments_whose_arms_are_called_otherwise(out):
    scaled = {("cifar10", f"{arm} scaled"): value for arm, value in (("multitask", 60.0), ("dedicated", 59.0))}
    _save("E5", 0, scaled | _pair(1.0, 50.0, "cifar10"))
    _save("E10", 0, _pair(80.0, 97.0) | {("mnist", "told"): 96.0})
    assert claim_table(out, DESIGN)["difference"].tolist() == [1.0, -1.0]


def test_where_e5_was_trained_on_raw_pixels_alone_these_are_compared(out):
    _save("E5", 0, _pair(60.0, 47.0, "cifar10") | {("mnist", "multitask"): 98.0})
    table = claim_table(out, DESIGN)
    assert table[["task", "difference"]].values.tolist() == [["cifar10", 13.0]]
    assert table.attrs["untested"] == [("E5", "mnist")]


def test_what_has_no_margin_or_belongs_to_no_published_experiment_is_not_tested(out):
    _save("E6", 0, _pair(97.0, 97.0, "easy"))
    _save("capacity", 0, _pair(97.0, 97.0))
    table = claim_table(out, DESIGN)
    assert table.empty and list(table.columns) == list(CLAIM_COLUMNS)
    assert table.attrs["untested"] == [("E6", "easy")]
    assert claim_verdicts(table) == {}
    assert claim_table(out / "none", DESIGN).empty


def test_both_stopping_rules_stand_side_by_side(out):
    for seed in (0, 1):
        run = Run("E1", notebook="02_a", profile="paper", seed=seed)
        for rule, own in (("", 97.0), (", converged", 96.5)):
            run.add(task="mnist", arm=f"multitask{rule}", metric="accuracy", value=own)
            run.add(task="mnist", arm=f"dedicated{rule}", metric="accuracy", value=97.2)
        run.save()
    table = claim_table(out, DESIGN)
    assert table[["rule", "difference", "verdict"]].values.tolist() == [
        ["converged", pytest.approx(-0.7), "inferior"],
        ["authors", pytest.approx(-0.2), "non-inferior"],
    ]
    assert claim_verdicts(table) == {"E1": "inferior"}
    assert claim_verdicts(table, rule="authors") == {"E1": "non-inferior"}


def _save_capped(seed, capped, rule=", converged", notebook="02_a", profile="paper", **notes):
    run = Run("E1", notebook=notebook, profile=profile, seed=seed)
    for arm, value, ended in (("multitask", 90.0, capped), ("dedicated", 97.0, False if capped is not None else None)):
        run.add(task="mnist", arm=arm + rule, metric="accuracy", value=value + seed / 10, capped=ended, **notes)
    run.save()


@pytest.mark.parametrize(("capped", "counted"), [(True, 1), (False, 0), (None, 0)])
def test_a_training_that_the_cap_ended_gives_no_verdict(out, capped, counted):
    _save_capped(0, False, dead_outputs=1)
    _save_capped(1, capped, dead_outputs=3)
    _save_capped(2, False)
    (row,) = claim_table(out, DESIGN).to_dict("records")
    assert (row["capped"], row["dead_outputs"], row["seeds"]) == (counted, 3, 3)
    assert row["verdict"] == (CAPPED if counted else "inferior")
    assert np.isnan(row["p_noninferior"]) == bool(counted) and row["difference"] == pytest.approx(-7)
    assert claim_verdicts(claim_table(out, DESIGN)) == {"E1": row["verdict"]}


def test_old_records_of_runs_that_were_cut_short_count_as_capped(out):
    for notebook, profile in sorted(CAPPED_BEFORE):
        _save_capped(0, None, notebook=notebook, profile=profile)
        assert claim_table(out, DESIGN)["verdict"].tolist() == [CAPPED]
        _save_capped(0, False, notebook=notebook, profile=profile)  # the same run, by a version that says
        assert claim_table(out, DESIGN)["verdict"].tolist() == ["inconclusive"]
        for file in out.iterdir():
            file.unlink()
    names = {path.stem for path in (Path(__file__).parent.parent / "notebooks").glob("*.ipynb")}
    assert {notebook for notebook, _ in CAPPED_BEFORE} <= names


def test_an_experiment_whose_task_the_cap_ended_is_not_shown_but_can_be_refuted(out):
    words = ["non-inferior", "inferior", "inconclusive", CAPPED]
    rows = [
        ("a", "non-inferior"),
        ("a", CAPPED),
        ("b", CAPPED),
        ("b", "inferior"),
        ("c", CAPPED),
        ("d", "non-inferior"),
    ]
    table = pd.DataFrame([{"experiment": e, "verdict": v, "rule": "converged"} for e, v in rows])
    assert set(table["verdict"]) < set(words)
    assert claim_verdicts(table) == {"a": "inconclusive", "b": "inferior", "c": CAPPED, "d": "non-inferior"}


def test_a_verdict_that_rests_on_one_example_is_seen(out):
    """Nine examples on which the subnetwork is slightly worse, one on which it is far better."""
    margins = {"boston": MARGINS["boston"]}
    for seed in range(3):
        own = np.array([1.2, *[1.3 + seed / 100] * 9]) / 100
        control = np.array([12.0, *[1.1] * 9]) / 100
        values = {("boston", "multitask"): own.mean(), ("boston", "dedicated"): control.mean()}
        _save("E3", seed, values, metric="mse", examples={"multitask": own, "dedicated": control})
    (row,) = claim_table(out, Design(margins)).to_dict("records")
    assert (row["interval"], row["verdict"]) == ("crossed", "inconclusive")  # examples are a sample too
    seeds = Design(margins, interval="seeds")
    (row,) = claim_table(out, seeds).to_dict("records")
    assert (row["verdict"], row["without_one_verdict"]) == ("non-inferior", "inferior")
    rest = compare(1.3 + np.arange(3) / 100, [1.1] * 3, margins["boston"])
    assert [row[f"without_one{end}"] for end in ("", "_low", "_high")] == pytest.approx(
        [rest.difference, rest.low, rest.high], rel=1e-5
    )
    assert "rests on one test example" in claim_section(claim_table(out, seeds))


def test_a_margin_in_another_metric_is_refused(out):
    _save("E3", 0, _pair(0.01, 0.01, "boston"), metric="mse")
    with pytest.raises(ParameterError, match="margin of boston is 0.5 points, but its metric is mse"):
        claim_table(out, Design({"boston": Margin.parse(0.5)}))


def test_verdicts_of_an_experiment_and_of_a_profile(out):
    for seed in (0, 1, 2):
        _save("E1", seed, _pair(97.0, 97.0) | _pair(80.0, 80.0, "cifar10"))
        _save("E2", seed, _pair(97.0, 97.0) | _pair(80.0 + seed, 81.0, "cifar10"))
    table = claim_table(out, DESIGN)
    assert claim_verdicts(table) == {"E1": "non-inferior", "E2": "inconclusive"}
    assert claim_verdicts(table, "profile") == {"paper": "inconclusive"}
    for seed in (0, 1):
        _save("E10", seed, {("mnist", "told"): 90.0, ("mnist", "dedicated"): 97.0})
    table = claim_table(out, DESIGN)
    assert claim_verdicts(table)["E10"] == "inferior"
    assert claim_verdicts(table, "profile") == {"paper": "inferior"}


def _declared():
    return Design(MARGINS, runs={("02_E1", "paper"): frozenset(range(10, 13)), ("03_E3", "paper"): frozenset({10, 11})})


def _commit(path, commit="0" * 40, **changes):
    record = json.loads(path.read_text())
    record["versions"]["commit"] = commit
    path.write_text(json.dumps(record | changes))


def _claim_run(seed, own=97.0, control=97.0, commit="0" * 40, changes=None, examples=None, **configuration):
    path = _save("E1", seed, _pair(own, control), examples=examples, **({"split_seed": seed} | configuration))
    _commit(path, commit, **(changes or {}))
    return path


def test_runs_of_the_declared_seeds_are_the_claim_and_all_others_exploration(out):
    for seed in range(4):
        _save("E1", seed, _pair(90.0, 97.0))
        _save("E3", seed, {("mnist", "multitask"): 90.0})
        _save("E4", seed, _pair(97.0, 97.0))
    table = claim_table(out, _declared())
    assert set(table["evidence"]) == {"exploration"} and list(table["experiment"]) == ["E1", "E3", "E4"]
    for seed in (10, 11, 12):
        _claim_run(seed, 97.0 + seed / 100)
    table = claim_table(out, _declared()).set_index("experiment")
    assert table["evidence"].to_dict() == {"E1": "claim", "E3": "exploration", "E4": "exploration"}
    assert table.loc["E1", "seeds"] == 3 and table.loc["E1", "difference"] == pytest.approx(0.11)
    assert table.loc["E3", "difference"] == -7.0  # against the E1 of its own seeds


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"commit": "0" * 40 + "-dirty"}, "made from a changed or unknown work tree"),
        ({"commit": None}, "made from a changed or unknown work tree"),
        ({"split_seed": 0}, "split_seed is 0, not the seed"),
        ({"changes": {"run": {"overrides": {"density": 0.2}}}}, "parameters set by hand: density"),
    ],
)
def test_a_run_of_the_claim_that_does_not_count_is_named_with_the_reason(out, wrong, reason):
    for seed in (10, 11):
        _claim_run(seed)
    bad = _claim_run(12, 10.0, **wrong)
    _save("E1", 0, _pair(90.0, 97.0))
    table = claim_table(out, _declared())
    others = {name: why for name, why in table.attrs["refused"].items() if name != bad.name}
    assert table.attrs["refused"][bad.name] == reason
    assert list(others.values()) == ["2 of 3 declared seeds: they count once all are made"] * 2
    assert table[["seeds", "difference", "evidence"]].values.tolist() == [[1, -7.0, "exploration"]]
    assert f"- Not counted, {reason}: {bad.name}." in claim_section(table).splitlines()
    bad.unlink()
    _claim_run(12)
    table = claim_table(out, _declared())
    assert table[["seeds", "difference", "evidence"]].values.tolist() == [[3, 0.0, "claim"]]
    assert table.attrs["refused"] == {}


def test_a_run_of_the_claim_without_any_recorded_split_does_not_count(out):
    path = _save("E1", 10, _pair(97.0, 97.0))
    _commit(path)
    table = claim_table(out, _declared())
    assert table.empty and table.attrs["refused"] == {path.name: "split_seed is not recorded, not the seed"}


def test_the_interval_over_seeds_and_examples_decides_where_all_seeds_have_examples(out):
    """Seeds agree, but on 30 test examples the loss of 10 points is one of 3 examples."""
    lost = np.ones(30, bool)
    lost[:3] = False
    for seed in (10, 11, 12):
        examples = {"multitask": lost, "dedicated": np.ones(30, bool)}
        _claim_run(seed, 90.0, 100.0, examples=examples)
    (row,) = claim_table(out, _declared()).to_dict("records")
    assert (row["interval"], row["both_seeds"], row["verdict"]) == ("crossed", 3, "inconclusive")
    assert (row["alone_low"], row["alone_high"]) == (-10, -10) and row["low"] < -15 and row["high"] > -5
    (row,) = claim_table(out, Design(MARGINS, interval="seeds", runs=_declared().runs)).to_dict("records")
    assert (row["interval"], row["verdict"], row["low"]) == ("seeds", "inferior", -10)


def test_test_parts_drawn_anew_are_matched_by_their_rows(out):
    random = np.random.default_rng(1)
    houses = random.exponential(size=(2, 50))
    stacked = []
    for seed in (10, 11):
        rows = random.permutation(50)[:20]
        own, control = houses[:, rows].astype(np.float32)
        run = Run("E3", notebook="03_E3", profile="paper", seed=seed, split_seed=seed)
        for arm, x in (("multitask, converged", own), ("dedicated, converged", control)):
            run.add(task="boston", arm=arm, metric="mse", value=x.mean(), examples=x)
        run.examples["boston", TEST_ROWS] = tuple(rows.tolist())
        _commit(run.save())
        stacked.append((own, control, rows))
    (row,) = claim_table(out, _declared()).to_dict("records")
    own, control, rows = map(np.stack, zip(*stacked, strict=True))
    expected = crossed(own, control, MARGINS["boston"], rows=rows)
    assert (row["low"], row["high"]) == (expected.low, expected.high) and row["interval"] == "crossed"
    assert (row["low"], row["high"]) != (crossed(own, control, MARGINS["boston"]).low, row["high"])
    assert np.isnan(row["without_one"])


def test_holm_takes_the_number_of_tasks_into_account(out):
    design = Design(dict.fromkeys("abc", Margin.parse(1.0)))
    losses = {"a": (0.2, 0.3, 0.4, 0.5), "b": (0.5, 0.6, 1.0, 0.8), "c": (0.1, 0.8, 0.9, 0.7)}
    for seed in range(4):
        values = {}
        for task, by_seed in losses.items():
            values |= _pair(97.0 - by_seed[seed], 97.0, task)
        _save("E1", seed, values)
    table = claim_table(out, design).set_index("task")
    p = table["p_noninferior"].sort_values()
    assert table.loc[p.index, "verdict"].tolist() == ["non-inferior"] * 2 + ["inconclusive"]
    assert p.iloc[1] * 2 > 0.05 > p.iloc[1] and p.iloc[0] * 3 < 0.05
    assert table.loc[p.index, "holm"].tolist() == ["non-inferior", "inconclusive", "inconclusive"]


def test_the_sensitivity_compares_errors_by_another_margin(out):
    for seed, (own, control) in enumerate([(97.0, 97.2), (96.9, 97.2), (97.1, 97.3)]):
        _save("E1", seed, _pair(own, control))
        _save("E3", seed, _pair(own / 1e4, control / 1e4, "boston"), metric="mse")
    row, error = claim_table(out, DESIGN).to_dict("records")
    expected = compare([3.0, 3.1, 2.9], [2.8, 2.8, 2.7], Margin.parse("10 %"))
    assert row["sensitivity"] == pytest.approx(expected.difference) and row["verdict"] == "non-inferior"
    assert row["sensitivity_verdict"] == expected.verdict == "inconclusive"
    assert error["sensitivity_verdict"] == error["verdict"]  # the same margin


@pytest.mark.parametrize("rule", ["converged", "authors"])
def test_the_rule_that_counts_stands_first(out, rule):
    for seed in (0, 1):
        run = Run("E1", notebook="02_a", profile="paper", seed=seed)
        for ending, own in (("", 97.0), (", converged", 96.0)):
            run.add(task="mnist", arm=f"multitask{ending}", metric="accuracy", value=own)
            run.add(task="mnist", arm=f"dedicated{ending}", metric="accuracy", value=97.0)
        run.save()
    table = claim_table(out, Design(MARGINS, rule=rule))
    assert table["rule"][0] == rule and len(table) == 2
    assert claim_verdicts(table) == {"E1": "non-inferior" if rule == "authors" else "inferior"}


def test_a_design_is_read_from_a_sweep(tmp_path):
    path = tmp_path / "claim.toml"
    path.write_text('[margins]\nmnist = 0.5\nboston = "10 %"\n')
    assert read_design(path) == Design({"mnist": Margin(0.5, "accuracy"), "boston": Margin(10.0, "mse")})
    path.write_text(
        '[margins]\nmnist = 0.5\n[claim]\nrule = "authors"\ninterval = "seeds"\nsensitivity = "5 %"\n'
        '[[runs]]\nnotebooks = ["02_a", "03_b"]\nprofiles = "paper"\nseeds = "10-12"\n'
        '[[runs]]\nnotebooks = "02_a"\nprofiles = ["paper", "laptop"]\nseeds = [15]\n'
    )
    found = read_design(path)
    assert (found.rules, found.interval, found.sensitivity) == (("authors", "converged"), "seeds", Margin(5.0, "mse"))
    assert found.runs == {
        ("02_a", "paper"): frozenset({10, 11, 12, 15}),
        ("03_b", "paper"): frozenset({10, 11, 12}),
        ("02_a", "laptop"): frozenset({15}),
    }


def test_the_designs_of_a_folder_are_one_and_must_agree(tmp_path):
    block = '[[runs]]\nnotebooks = "02_a"\nprofiles = "paper"\nseeds = "{}"\n'
    (tmp_path / "a.toml").write_text("[margins]\nmnist = 0.5\n" + block.format("10"))
    (tmp_path / "b.toml").write_text("[margins]\nmnist = 0.5\neasy = 1\n" + block.format("11"))
    (tmp_path / "c.toml").write_text(block.format("12"))  # declares nothing
    found = read_designs(tmp_path)
    assert {task: margin.value for task, margin in found.margins.items()} == {"mnist": 0.5, "easy": 1.0}
    assert found.runs == {("02_a", "paper"): frozenset({10, 11})}
    (tmp_path / "b.toml").write_text("[margins]\nmnist = 0.6\n")
    with pytest.raises(ParameterError, match="b.toml: margin of mnist is 0.6 points, but 0.5 points in another"):
        read_designs(tmp_path)
    (tmp_path / "b.toml").write_text('[margins]\nmnist = 0.5\n[claim]\nrule = "authors"\n')
    with pytest.raises(ParameterError, match=r"b.toml: \[claim\] is not that of a.toml"):
        read_designs(tmp_path)
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(ParameterError, match="no sweep file there has a table"):
        read_designs(tmp_path)


def test_the_committed_design_keeps_the_margins_and_seeds_that_nobody_had_seen():
    root = Path(__file__).parent.parent
    design = read_design(root / "sweeps" / "claim.toml")
    shown = {task: str(margin) for task, margin in design.margins.items()}
    points = {"mnist": "0.5 points", "fashion": "1 points", "cifar10": "1 points", "imdb": "1 points"}
    assert shown == points | {"boston": "10 %"}
    assert (design.rule, design.interval) == ("converged", "crossed")
    for (notebook, profile), seeds in design.runs.items():
        assert profile == "paper" and min(seeds) >= 10
        assert (root / "notebooks" / f"{notebook}.ipynb").exists()
    for name in ("02_parallel_dense", "03_sequential_unrelated"):
        assert design.runs[name, "paper"] == frozenset(range(10, 20))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[margins]\nmnist = -1\n", "claim.toml: mnist: margin -1 must be a number of points above 0"),
        ("[margins]\n", r"must have a table \[margins\]"),
        ("margins = 3\n", r"must have a table \[margins\]"),
        ("[margins\n", "claim.toml: "),
        ("claim = 3\n[margins]\nmnist = 1\n", r"\[claim\] has '3', but may have rule, interval, sensitivity"),
        ("[margins]\nmnist = 1\n[claim]\nalpha = 1\n", r"\[claim\] has 'alpha', but may have rule"),
        ('[margins]\nmnist = 1\n[claim]\nrule = "best"\n', "rule is 'best', but must be one of converged, authors"),
        ("[margins]\nmnist = 1\n[claim]\nsensitivity = 1\n", "sensitivity is 1, but must be a text like"),
        ('[margins]\nmnist = 1\n[[runs]]\nnotebooks = 2\nseeds = "1"\n', "notebook 2 must be named in full here"),
        ('[margins]\nmnist = 1\n[[runs]]\nnotebooks = "02_a"\nseeds = "x"\n', "seeds are 'x', but must be like"),
    ],
)
def test_a_broken_design_is_one_line(tmp_path, text, message):
    path = tmp_path / "claim.toml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=message) as caught:
        read_design(path)
    assert "\n" not in str(caught.value)
