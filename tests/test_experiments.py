"""The controls: what each arm is, and that arms differ in one thing only."""

from functools import partial

import pytest
import torch

from msnlib import AUTHORS, CONVERGED, DeadOutputWarning, conv_network, dense_network, fit_sequence, load_task, predict
from msnlib.lab.experiments import CONTROLS, comparison, controls, dead_outputs, dedicated, narrow, record
from msnlib.lab.records import TEST_ROWS, Run, read_examples
from msnlib.subnetworks import shared_tensors

pytestmark = pytest.mark.usefixtures("seeded")
SHORT = dict(epochs=1, stopping=AUTHORS)


def size(net):
    return sum(tensor.numel() for tensor in shared_tensors(net).values())


def owned(net, task):
    return sum(len(tensor[task].positions) for tensor in shared_tensors(net, task).values())


@pytest.fixture
def group():
    return [load_task(name, limit=80) for name in ("digits", "digits_permuted")]


@pytest.mark.parametrize(
    "build", [partial(dense_network, width=40, depth=3), partial(conv_network, channels=(8, 12), width=32)]
)
@pytest.mark.parametrize("density", [0.5, 0.2])
def test_the_small_network_is_the_largest_that_fits_the_subnetworks_budget(build, density, group):
    net, _ = dedicated(build, group[0], density=density, **SHORT)
    small = narrow(build, group[0], density)
    budget = owned(net, "digits")
    assert size(small([group[0]])) <= budget < size(build([group[0]], scale=small.keywords["scale"] + 1 / 32))


def test_a_budget_below_one_unit_still_gives_a_network(group):
    build = partial(dense_network, width=40, depth=1)
    assert [t.shape[0] for t in shared_tensors(narrow(build, group[0], 0.001)([group[0]])).values()] == [1, 1, 10, 10]


def test_pruned_alone_is_the_first_task_of_the_multitask_network(group):
    """Same noise, same scores, same batches: sharing costs the task that comes first nothing at all."""
    build = partial(dense_network, width=24, depth=2)
    alone, _ = dedicated(build, group[0], density=0.25, **SHORT)
    net = build(group)
    fit_sequence(net, [group], 0.25, **SHORT)
    assert predict(alone, group[0]).equal(predict(net, group[0]))


def test_every_control_of_every_task_is_recorded_under_every_rule(group):
    run = Run("E1", notebook="02_parallel_dense", profile="quick", seed=0)
    build, rules = partial(dense_network, width=24, depth=2), [AUTHORS, CONVERGED]
    histories = controls(run, build, group, 0.25, rules, epochs=1)
    assert {arm: len(found) for arm, found in histories.items()} == {arm: 2 for arm in CONTROLS}
    expected = {(t.name, a + end) for t in group for a in CONTROLS for end in ("", ", converged")}
    assert {(row["task"], row["arm"]) for row in run.results} == expected
    assert run.data == {task.name: task.description for task in group}
    only = Run("E1", notebook="02_parallel_dense", profile="quick", seed=0)
    controls(only, build, group[:1], 0.25, rules, arms=["small"], epochs=1)
    assert [row["arm"] for row in only.results] == ["small", "small, converged"]


def test_the_comparison_lists_a_tasks_arms_together(group, monkeypatch):
    monkeypatch.delenv("MSNLIB_REPORTS", raising=False)
    run = Run("E1", notebook="02_parallel_dense", profile="laptop", seed=0)
    for arm, value in (("dedicated", 97.0), ("multitask", 98.0)):
        for task in ("mnist", "fashion"):
            run.add(task=task, arm=arm, metric="accuracy", value=value)
    table = comparison(run)
    assert list(table.index) == [(t, a) for t in ("mnist", "fashion") for a in ("dedicated", "multitask")]
    assert table.loc[("mnist", "multitask"), ["mean", "published", "difference"]].tolist() == [
        "98.00",
        "97.58",
        "+0.42",
    ]


def test_a_record_leaves_the_net_at_the_first_rule(group):
    net = dense_network(group, width=24, depth=2)
    history = fit_sequence(net, [group], 0.25, epochs=3, stopping=[AUTHORS, CONVERGED]).histories[0]
    before = predict(net, group[0])
    run = Run("E1", notebook="02_parallel_dense", profile="quick", seed=0)
    record(run, net, history, group, "multitask", [AUTHORS, CONVERGED])
    assert torch.equal(predict(net, group[0]), before)


def test_a_record_says_what_the_cap_ended_and_how_many_outputs_own_no_weight(group):
    net = dense_network(group, width=24, depth=2)
    rules = [AUTHORS, CONVERGED]
    with pytest.warns(DeadOutputWarning):
        history = fit_sequence(net, [group], 0.02, epochs=4, stopping=rules).histories[0]
    run = Run("E1", notebook="02_parallel_dense", profile="quick", seed=0)
    record(run, net, history, group, "multitask", rules)
    for row in run.results:
        weight = net.heads[row["task"]].weight
        assert row["dead_outputs"] == 10 - len(weight.unit_of(weight[row["task"]].positions).unique()) > 0
        rule = CONVERGED if row["arm"].endswith("converged") else AUTHORS
        assert row["capped"] == history.capped[rule.name, row["task"]]
    assert {row["capped"] for row in run.results if row["arm"].endswith("converged")} == {True}  # five epochs to wait
    plain = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert dead_outputs(plain, "digits") is None


def test_the_comparison_takes_other_seeds_of_the_same_pool_only(tmp_path, monkeypatch):
    monkeypatch.setenv("MSNLIB_RECORDS", str(tmp_path))
    monkeypatch.setenv("MSNLIB_REPORTS", str(tmp_path))

    def run(seed, value, density=0.1, notebook="02_a", **versions):
        made = Run("E1", notebook=notebook, profile="laptop", seed=seed, density=density)
        made.add(task="mnist", arm="multitask", metric="accuracy", value=value)
        path = made.save()
        if versions:
            path.write_text(path.read_text().replace('"numerics": 1', '"numerics": 0'))
        return made

    run(1, 90.0)
    run(2, 10.0, density=0.2)
    run(3, 10.0, notebook="02_b")
    run(4, 10.0, numerics=0)
    row = comparison(run(0, 92.0)).loc["mnist"].loc["multitask"]
    assert row[["this run", "mean", "seeds"]].tolist() == ["92.00", "91.00", 2]


def test_a_record_says_which_rows_were_tested_where_the_test_part_was_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("MSNLIB_RECORDS", str(tmp_path))
    tasks = load_task("diabetes", test_seed=5), load_task("wine")
    run = Run("E3", notebook="03_a", profile="quick", seed=5)
    controls(run, partial(dense_network, width=8, depth=1), tasks, 0.25, [AUTHORS], arms=["dedicated"], epochs=1)
    stored = read_examples(run.save())
    assert stored["diabetes", TEST_ROWS].tolist() == list(tasks[0].test_rows)
    assert set(stored) == {("diabetes", TEST_ROWS), ("diabetes", "dedicated"), ("wine", "dedicated")}
