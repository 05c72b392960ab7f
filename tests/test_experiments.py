"""The controls: what each arm is, and that arms differ in one thing only."""

from functools import partial

import pytest
import torch

from msnlib import (
    AUTHORS,
    CONVERGED,
    DeadOutputWarning,
    allocate,
    conv_network,
    dense_network,
    fit_sequence,
    load_task,
    owner_map,
    predict,
)
from msnlib.lab.examples import TEST_ROWS, read_examples
from msnlib.lab.experiments import (
    CONTROLS,
    SUFFIXES,
    comparison,
    controls,
    print_forgetting,
    record,
    record_phases,
    start,
)
from msnlib.lab.networks import dead_outputs, dedicated, describe, narrow, permuted, shared_network
from msnlib.lab.parameters import ParameterError
from msnlib.lab.records import Run
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


@pytest.fixture
def opening():
    """`start` with what a notebook gives it; torch's state is put back afterwards."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    settings = {"quick": dict(width=8, dtype=torch.float64), "laptop": dict(width=16, dtype=torch.float32)}
    given = dict(profile="quick", seed=3, device="cpu", threads=1, density=0.5)
    yield lambda **other: start("E1", "02_parallel_dense", settings, **given | other)
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


def test_a_run_starts_with_its_setting_and_everything_that_decides_its_results(opening):
    drawn = []
    for profile, dtype in (("quick", torch.float64), ("laptop", torch.float32)):
        run, setting, device = opening(profile=profile)
        assert run.configuration == dict(profile=profile, seed=3, device="cpu", threads=1, density=0.5)
        assert (torch.get_default_dtype(), torch.get_num_threads(), device) == (dtype, 1, torch.device("cpu"))
        drawn.append((setting["width"], torch.initial_seed(), torch.rand(4, dtype=torch.float64).tolist()))
    assert drawn[0][0] == 8 and drawn[1][0] == 16 and drawn[0][1:] == drawn[1][1:]
    run, _, device = opening(device="auto", threads=None, dtype=torch.float32)
    assert run.configuration["device"] == "auto" and device.type in ("cpu", "cuda")
    assert "threads" not in run.configuration and torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    "other, error, words",
    [
        (dict(profile="huge"), ParameterError, "profile is 'huge'"),
        (dict(seed=-1), ParameterError, "seed is -1"),
        (dict(threads=0), ValueError, "threads 0 must be at least 1"),
        (dict(device="cuda:99"), ValueError, "device 'cuda:99': torch sees no such GPU here"),
        (dict(profile="paper"), ValueError, "'paper' has no setting in 02_parallel_dense, which has quick, laptop"),
    ],
)
def test_a_run_that_cannot_start_says_why_and_changes_nothing(opening, other, error, words):
    torch.manual_seed(11)
    before = torch.initial_seed(), torch.get_default_dtype()
    with pytest.raises(error, match=words):
        opening(**other)
    assert (torch.initial_seed(), torch.get_default_dtype()) == before


def test_phases_are_recorded_under_the_names_that_notebooks_look_up(group, capsys):
    build, phases = partial(dense_network, inputs=64, width=24, depth=2), [group[:1], group[1:]]
    rules = [AUTHORS, CONVERGED]
    net = build(group[:1])
    sequence = fit_sequence(net, phases, 0.25, epochs=1, stopping=rules)
    run = Run("E3", notebook="03_sequential_unrelated", profile="quick", seed=0)
    record_phases(run, net, sequence, phases, "multitask", rules)
    expected = {(task.name, "multitask" + suffix) for task in group for suffix in SUFFIXES.values()}
    assert set(zip(run.table()["task"], run.table()["arm"], strict=True)) == expected
    print_forgetting(sequence, "here, ")
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"here, {task.name}: forgetting 0.0, largest change of any output 0.0" for task in group]


@pytest.mark.parametrize("method", ["gradient", "random"])
def test_a_shared_network_is_the_loop_over_allocate_in_the_order_asked_for(group, method):
    build = partial(dense_network, width=24, depth=2)
    for order in (None, group[::-1]):
        net, expected = shared_network(build, group, 0.25, method, order=order, sample=40, seed=5), build(group)
        for task in order or group:
            allocate(expected, task.name, 0.25, method, task.batches("train", limit=40), task.loss, seed=5)
        assert all(owner.equal(owner_map(expected)[name]) for name, owner in owner_map(net).items())
        assert all(tensor.equal(net.state_dict()[name]) for name, tensor in expected.state_dict().items())


def test_a_dead_output_is_one_that_no_input_moves(group):
    net = shared_network(partial(dense_network, width=24, depth=1), group, 0.02)
    for task in group:
        weight = net.heads[task.name].weight.dense(task.name)
        dead = [k for k in range(task.outputs) if not weight[k].any()]
        assert 0 < len(dead) < task.outputs and dead_outputs(net)[task.name] == dead


def test_a_permuted_task_has_the_same_pixels_in_one_other_order(group):
    other, again, third = permuted(group[0], 7), permuted(group[0], 7, "other"), permuted(group[0], 8)
    assert (other.name, again.name) == ("digits_permuted_7", "other")
    for split in ("train", "valid", "test"):
        (x, y), (moved, label) = group[0].split(split), other.split(split)
        assert moved.shape == x.shape and label.equal(y) and not moved.equal(x)
        assert moved.flatten(1).sort(1).values.equal(x.flatten(1).sort(1).values)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(7))
    assert other.test[0].flatten(1).equal(group[0].test[0].flatten(1)[:, order])
    assert again.test[0].equal(other.test[0]) and not third.test[0].equal(other.test[0])


def test_tasks_are_described_by_the_sizes_of_their_parts(group, capsys):
    describe(group)
    sizes = [[len(task.split(part)[0]) for part in ("train", "valid", "test")] for task in group]
    assert capsys.readouterr().out.splitlines() == [
        f"{task.name}: {a} train, {b} validation, {c} test" for task, (a, b, c) in zip(group, sizes, strict=True)
    ]


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
    assert dead_outputs(torch.nn.Sequential(torch.nn.Linear(2, 2))) == {}


def test_the_comparison_takes_other_seeds_of_the_same_pool_only(tmp_path, monkeypatch):
    monkeypatch.setenv("MSNLIB_RECORDS", str(tmp_path))
    monkeypatch.setenv("MSNLIB_REPORTS", str(tmp_path))

    def run(seed, value, density=0.1, notebook="02_a", **versions):
        made = Run("E1", notebook=notebook, profile="laptop", seed=seed, density=density)
        made.add(task="mnist", arm="multitask", metric="accuracy", value=value)
        if seed:  # what this run may have later, and has not yet
            made.add(task="mnist", arm="small", metric="accuracy", value=value)
        path = made.save()
        if versions:
            path.write_text(path.read_text().replace('"numerics": 1', '"numerics": 0'))
        return made

    run(1, 90.0)
    run(2, 10.0, density=0.2)
    run(3, 10.0, notebook="02_b")
    run(4, 10.0, numerics=0)
    table = comparison(run(0, 92.0)).loc["mnist"]
    assert table.loc["multitask", ["this run", "mean", "seeds"]].tolist() == ["92.00", "91.00", 2]
    assert table.index.tolist() == ["multitask"]


def test_a_record_says_which_rows_were_tested_where_the_test_part_was_drawn(tmp_path, monkeypatch):
    monkeypatch.setenv("MSNLIB_RECORDS", str(tmp_path))
    tasks = load_task("diabetes", test_seed=5), load_task("wine")
    run = Run("E3", notebook="03_a", profile="quick", seed=5)
    controls(run, partial(dense_network, width=8, depth=1), tasks, 0.25, [AUTHORS], arms=["dedicated"], epochs=1)
    stored = read_examples(run.save())
    assert stored["diabetes", TEST_ROWS].tolist() == list(tasks[0].test_rows)
    assert set(stored) == {("diabetes", TEST_ROWS), ("diabetes", "dedicated"), ("wine", "dedicated")}
