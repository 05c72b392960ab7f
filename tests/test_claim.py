"""The claim's table from records whose differences are known by hand."""

import numpy as np
import pandas as pd
import pytest

from msnlib import dense_network, seed_everything
from msnlib.lab.claim import CLAIM_COLUMNS, claim_table, claim_verdicts, read_margins
from msnlib.lab.networks import dedicated
from msnlib.lab.parameters import ParameterError
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


def test_the_other_stopping_rule(out):
    run = Run("E1", notebook="02_a", profile="paper", seed=0)
    for arm, value in (("multitask", 97.0), ("dedicated", 96.0)):
        run.add(task="mnist", arm=arm, metric="accuracy", value=value)
    run.save()
    assert claim_table(out, MARGINS, rule="")["difference"].tolist() == [1.0]
    assert claim_table(out, MARGINS).empty


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
