"""The claim's table from records whose differences are known by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from msnlib import dense_network, seed_everything
from msnlib.lab.claim import CAPPED, CAPPED_BEFORE, CLAIM_COLUMNS, claim_table, claim_verdicts, read_margins
from msnlib.lab.experiments import dedicated
from msnlib.lab.parameters import ParameterError
from msnlib.lab.publish import claim_section
from msnlib.lab.records import Run, read_records
from msnlib.lab.statistics import Margin, bootstrap, compare
from msnlib.subnetworks import shared_tensors

MARGINS = {"mnist": Margin.parse(0.5), "cifar10": Margin.parse(1.0), "boston": Margin.parse("10 %")}


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
    table = claim_table(out, MARGINS)
    assert list(table.columns) == list(CLAIM_COLUMNS)
    assert table["rule"].tolist() == ["converged"] * 2 and table["capped"].tolist() == [0, 0]
    row, error = table.to_dict("records")
    expected = compare(own, control, MARGINS["mnist"])
    for name in ("difference", "low", "high", "p_noninferior", "p_equivalent", "verdict", "seeds"):
        assert row[name] == getattr(expected, name), name
    assert (row["subnetwork"], row["control"], row["margin"]) == (97.5, pytest.approx(97.5333333), 0.5)
    assert (row["experiment"], row["profile"], row["task"], row["metric"]) == ("E1", "paper", "mnist", "accuracy")
    assert np.isnan([row["boot_low"], row["boot_high"]]).all() and row["boot_seeds"] == 0
    expected = compare(np.divide(own, 1e4), np.divide(control, 1e4), MARGINS["boston"])
    assert (error["difference"], error["low"], error["margin"]) == (expected.difference, expected.low, 10.0)


def test_pairs_are_made_by_seed(out):
    for seed in (0, 1, 2):
        _save("E1", seed, _pair(97.0 + seed, 97.0 + seed))
    _save("E1", 3, {("mnist", "multitask"): 50.0})
    _save("E1", 4, {("mnist", "dedicated"): 50.0})
    (row,) = claim_table(out, MARGINS).to_dict("records")
    assert (row["seeds"], row["difference"], row["low"], row["high"]) == (3, 0.0, 0.0, 0.0)


def test_the_largest_profile_counts_and_quick_never(out):
    for profile, loss in (("paper", 0.0), ("laptop", 5.0), ("quick", 7.0)):
        _save("E1", 0, _pair(97.0 - loss, 97.0), profile=profile)
        if profile != "paper":
            _save("E2", 0, _pair(97.0 - loss, 97.0), profile=profile)
    _save("E10", 0, _pair(90.0, 97.0), profile="quick")
    table = claim_table(out, MARGINS)
    assert table[["experiment", "profile", "difference"]].values.tolist() == [
        ["E1", "paper", 0.0],
        ["E2", "laptop", -5.0],
    ]


def test_runs_with_parameters_set_by_hand_do_not_count(out):
    _save("E1", 0, _pair(97.0, 97.0))
    path = _save("E1", 1, _pair(50.0, 97.0), density=0.01)
    path.write_text(path.read_text().replace('"format"', '"run": {"overrides": {"density": 0.01}},\n "format"'))
    assert (read_records(out)["overrides"] != "{}").sum() == 2
    assert claim_table(out, MARGINS)["seeds"].tolist() == [1]


def test_runs_of_another_configuration_are_not_mixed_in(out):
    for seed in (0, 1, 2):
        _save("E1", seed, _pair(97.0, 97.0 + seed), epochs=100)
        _save("E1", seed, {("mnist", "dedicated"): 50.0})  # an older default
        _save("E1", seed + 10, _pair(97.0, 97.0), epochs=100)
        _save("E3", seed, {("mnist", "multitask"): 98.0})
    _save("E1", 3, {("mnist", "multitask"): 97.0})
    assert claim_table(out, MARGINS)[["seeds", "difference"]].values.tolist() == [[6, -0.5], [3, 0.0]]


def test_a_run_counts_once_and_the_one_with_examples_is_taken(out):
    random = np.random.default_rng(0)
    outcomes = [{arm: random.random(40) < 0.8 for arm in ("multitask", "dedicated")} for _ in range(4)]
    for seed, examples in enumerate(outcomes):
        values = _pair(*(100 * examples[arm].mean() for arm in ("multitask", "dedicated")))
        path = _save("E1", seed, values, examples=examples if seed else None)  # an old run has none
        if seed == 1:
            (out / "a").mkdir()  # read before the others, and without examples
            (out / "a" / path.name).write_bytes(path.read_bytes())
    (row,) = claim_table(out, MARGINS).to_dict("records")
    assert (row["seeds"], row["boot_seeds"]) == (4, 3)
    stacked = [np.stack([examples[arm] for examples in outcomes[1:]]) for arm in ("multitask", "dedicated")]
    assert (row["boot_low"], row["boot_high"]) == bootstrap(*stacked, MARGINS["mnist"])
    (out / path.name).with_suffix(".npz").unlink()
    (row,) = claim_table(out, MARGINS).to_dict("records")
    assert (row["seeds"], row["boot_seeds"]) == (4, 0) and np.isnan(row["boot_low"])


def test_the_images_of_e3_and_e4_borrow_the_networks_of_e1_by_seed_and_profile(out):
    for seed in (0, 1):
        _save("E1", seed, _pair(10.0, 97.0 + seed))
        _save("E1", seed, _pair(10.0, 20.0), profile="laptop")
        _save("E3", seed, {("mnist", "multitask"): 97.5 + seed, ("boston", "multitask"): 1.0})
        _save("E4", seed, _pair(96.0 + seed, 95.0 + seed))  # a control of its own comes first
        _save("E2", seed, {("mnist", "multitask"): 97.5})
    table = claim_table(out, MARGINS).set_index("experiment")
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
    assert claim_table(out, MARGINS)["difference"].tolist() == [1.0, -1.0]


def test_what_has_no_margin_or_belongs_to_no_published_experiment_is_not_tested(out):
    _save("E6", 0, _pair(97.0, 97.0, "easy"))
    _save("capacity", 0, _pair(97.0, 97.0))
    table = claim_table(out, MARGINS)
    assert table.empty and list(table.columns) == list(CLAIM_COLUMNS)
    assert table.attrs["untested"] == [("E6", "easy")]
    assert claim_verdicts(table) == {}
    assert claim_table(out / "none", MARGINS).empty


def test_both_stopping_rules_stand_side_by_side(out):
    for seed in (0, 1):
        run = Run("E1", notebook="02_a", profile="paper", seed=seed)
        for rule, own in (("", 97.0), (", converged", 96.5)):
            run.add(task="mnist", arm=f"multitask{rule}", metric="accuracy", value=own)
            run.add(task="mnist", arm=f"dedicated{rule}", metric="accuracy", value=97.2)
        run.save()
    table = claim_table(out, MARGINS)
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
    (row,) = claim_table(out, MARGINS).to_dict("records")
    assert (row["capped"], row["dead_outputs"], row["seeds"]) == (counted, 3, 3)
    assert row["verdict"] == (CAPPED if counted else "inferior")
    assert np.isnan(row["p_noninferior"]) == bool(counted) and row["difference"] == pytest.approx(-7)
    assert claim_verdicts(claim_table(out, MARGINS)) == {"E1": row["verdict"]}


def test_old_records_of_runs_that_were_cut_short_count_as_capped(out):
    for notebook, profile in sorted(CAPPED_BEFORE):
        _save_capped(0, None, notebook=notebook, profile=profile)
        assert claim_table(out, MARGINS)["verdict"].tolist() == [CAPPED]
        _save_capped(0, False, notebook=notebook, profile=profile)  # the same run, by a version that says
        assert claim_table(out, MARGINS)["verdict"].tolist() == ["inconclusive"]
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
    (row,) = claim_table(out, margins).to_dict("records")
    assert (row["verdict"], row["without_one_verdict"]) == ("non-inferior", "inferior")
    rest = compare(1.3 + np.arange(3) / 100, [1.1] * 3, margins["boston"])
    assert [row[f"without_one{end}"] for end in ("", "_low", "_high")] == pytest.approx(
        [rest.difference, rest.low, rest.high], rel=1e-5
    )
    assert any("rests on one test example" in line for line in claim_section(claim_table(out, margins)).splitlines())


def test_a_margin_in_another_metric_is_refused(out):
    _save("E3", 0, _pair(0.01, 0.01, "boston"), metric="mse")
    with pytest.raises(ParameterError, match="margin of boston is 0.5 points, but its metric is mse"):
        claim_table(out, {"boston": Margin.parse(0.5)})


def test_verdicts_of_an_experiment_and_of_a_profile(out):
    for seed in (0, 1, 2):
        _save("E1", seed, _pair(97.0, 97.0) | _pair(80.0, 80.0, "cifar10"))
        _save("E2", seed, _pair(97.0, 97.0) | _pair(80.0 + seed, 81.0, "cifar10"))
    table = claim_table(out, MARGINS)
    assert claim_verdicts(table) == {"E1": "non-inferior", "E2": "inconclusive"}
    assert claim_verdicts(table, "profile") == {"paper": "inconclusive"}
    for seed in (0, 1):
        _save("E10", seed, {("mnist", "told"): 90.0, ("mnist", "dedicated"): 97.0})
    table = claim_table(out, MARGINS)
    assert claim_verdicts(table)["E10"] == "inferior"
    assert claim_verdicts(table, "profile") == {"paper": "inferior"}


def test_margins_are_read_from_a_sweep(tmp_path):
    path = tmp_path / "claim.toml"
    path.write_text('seeds = "0-9"\n[margins]\nmnist = 0.5\nboston = "10 %"\n')
    assert read_margins(path) == {"mnist": Margin(0.5, "accuracy"), "boston": Margin(10.0, "mse")}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[margins]\nmnist = -1\n", "claim.toml: mnist: margin -1 must be a number of points above 0"),
        ("[margins]\n", r"must have a table \[margins\]"),
        ("margins = 3\n", r"must have a table \[margins\]"),
        ("[margins\n", "claim.toml: "),
    ],
)
def test_a_broken_file_of_margins_is_one_line(tmp_path, text, message):
    path = tmp_path / "claim.toml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=message) as caught:
        read_margins(path)
    assert "\n" not in str(caught.value)
