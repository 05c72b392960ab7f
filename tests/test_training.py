"""Training in parallel and in sequence, stopping, measuring: exact, paired, and nothing else is touched."""

import copy
import math
import random
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from jupyter_client.manager import start_new_kernel
from torch import nn

from msnlib import (
    AUTHORS,
    CONVERGED,
    FrozenTaskError,
    MaskedLinear,
    MultitaskNetwork,
    Stopping,
    Task,
    allocate,
    convert,
    dense_network,
    evaluate,
    extract,
    fit,
    fit_sequence,
    learner,
    owner_map,
    predict,
    prune,
    seed_everything,
    tasks,
    training,
    using,
)
from msnlib.seeding import stream

pytestmark = pytest.mark.usefixtures("seeded")


def network(*group, density=0.25, width=16, reads="none"):
    net = dense_network(group, inputs=4, width=width, depth=2)
    for task in group:
        allocate(net, task.name, density, batches=task.batches(), loss=task.loss, reads=reads)
    return net


def values(net, task):
    """Every value the task owns, by name."""
    return {n: p.detach().clone() for n, p in net.named_parameters() if n.endswith(f"{task}.values")}


def rows(history, task):
    return history.table[history.table.task == task].drop(columns="seconds").reset_index(drop=True)


# ------------------------------------------------------------------------------------------ pairing


def test_a_task_in_parallel_is_the_same_task_alone_bit_for_bit(make_task, same):
    a, b, c = make_task("a"), make_task("b", "regression", outputs=1), make_task("c", "binary", outputs=1)
    alone, beside = network(a), network(a, b, c)
    start = values(alone, "a")
    assert same(values(beside, "a"), start) and len(start) == 6
    one = fit(alone, a, epochs=40, stopping=CONVERGED, learning_rate=0.02)
    three = fit(beside, [b, a, c], epochs=40, stopping=CONVERGED, learning_rate=0.02)
    assert not same(values(alone, "a"), start)
    assert same(values(beside, "a"), values(alone, "a"))
    pd.testing.assert_frame_equal(rows(three, "a"), rows(one, "a"), check_exact=True)
    assert 1 < three.best["converged", "a"] == one.best["converged", "a"] < len(rows(one, "a"))


def test_the_authors_rule_sums_losses_so_it_can_stop_elsewhere(make_task, same):
    a, b = make_task("a"), make_task("b", "regression", outputs=1)
    alone, beside = network(a), network(a, b)
    one = fit(alone, a, epochs=60, learning_rate=0.05)
    two = fit(beside, [a, b], epochs=60, learning_rate=0.05)
    common = min(len(rows(one, "a")), len(rows(two, "a")))
    pd.testing.assert_frame_equal(rows(two, "a")[:common], rows(one, "a")[:common], check_exact=True)
    assert one.best["authors", "a"] != two.best["authors", "a"] == two.best["authors", "b"]
    assert not same(values(beside, "a"), values(alone, "a"))


def test_the_same_seed_gives_the_same_bits_and_another_does_not(make_task, same):
    def run(seed):
        seed_everything(seed, threads=1)
        net = network(a, b)
        history = fit(net, [a, b], epochs=4)
        return values(net, "a") | values(net, "b"), history.table.drop(columns="seconds")

    a, b = make_task("a"), make_task("b", "binary", outputs=1, vocabulary=6)
    first, again, other = run(3), run(3), run(4)
    assert same(first[0], again[0]) and first[1].equals(again[1])
    assert not same(first[0], other[0]) and not first[1].equals(other[1])


def test_the_seed_of_fit_orders_the_batches_alone(make_task, same):
    a = make_task("a")
    net = network(a)
    found = {}
    for seed in (None, 0, 1):
        twin = copy.deepcopy(net)
        fit(twin, a, epochs=2, seed=seed)
        found[seed] = values(twin, "a")
    assert same(found[None], found[0]) and not same(found[0], found[1])


@pytest.mark.parametrize("seed", [-1, -7, 2**64])
def test_unusable_seeds_and_threads_are_refused(seed):
    with pytest.raises(ValueError, match=f"seed {seed} must be at least 0"):
        seed_everything(seed)
    with pytest.raises(ValueError, match="threads 0 must be at least 1"):
        seed_everything(0, threads=0)


def test_seed_everything_fixes_every_generator():
    def draws():
        return random.random(), np.random.rand(), torch.rand(1).item()

    seed_everything(5)
    first, second = draws(), draws()
    for five in (5, np.int64(5)):
        seed_everything(five)
        assert draws() == first != second


# ----------------------------------------------------------------------------------------- stopping


@pytest.mark.parametrize("order", [(AUTHORS, CONVERGED), (CONVERGED, AUTHORS)], ids=lambda rules: rules[0].name)
def test_two_rules_in_one_run_are_two_runs(order, make_task, same):
    group = [make_task("a"), make_task("b", "regression", outputs=1)]
    net = network(*group)
    both = copy.deepcopy(net)
    history = fit(both, group, epochs=60, stopping=order, learning_rate=0.1)
    kept = {order[0]: {task: values(both, task) for task in ("a", "b")}}
    for rule in reversed(order):  # there and back
        history.use(rule)
        kept.setdefault(rule, {task: values(both, task) for task in ("a", "b")})
    assert same({task: values(both, task) for task in ("a", "b")}, kept[order[0]])
    for rule in order:
        alone = copy.deepcopy(net)
        single = fit(alone, group, epochs=60, stopping=rule, learning_rate=0.1)
        for task in ("a", "b"):
            assert same(values(alone, task), kept[rule][task])
            assert history.best[rule.name, task] == single.best[rule.name, task]
            count = single.best[rule.name, task]
            assert rows(history, task)[:count].equals(rows(single, task)[:count])
            seconds = history.table[(history.table.task == task) & (history.table.epoch <= count)].seconds
            assert history.seconds(rule, task) == pytest.approx(seconds.sum())
    assert not same(kept[AUTHORS]["a"], kept[CONVERGED]["a"])
    with pytest.raises(ValueError, match=r"fit kept nothing for the rule 'x'; it kept: \['authors', 'converged'\]"):
        history.use(Stopping("x", 1, 0, True))


@pytest.fixture
def scripted(monkeypatch):
    """Make fit believe these validation losses: task -> one for each epoch."""

    def script(**losses):
        left = {task: iter(found) for task, found in losses.items()}

        def measured(net, task, split):
            assert split == "valid"
            return {task.metric: 0.0, "loss": next(left[task.name])}

        monkeypatch.setattr(learner, "measured", measured)

    return script


SEQUENCES = {  # losses: (epochs run, best epoch) by hand; min_delta 0.01, patience 3
    (1.0, 0.995, 0.99, 0.985, 0.98, 0.976, 0.9755, 0.1): (7, 4),  # 0.99 is not below 1 - 0.01; 0.985 is
    (1.0, 2.0, 3.0, 4.0, 0.1): (4, 1),
    (1.0, 1.5, 1.5, 0.5, 0.6, 0.6, 0.6, 0.1): (7, 4),  # the third epoch's improvement is in time
    (1.0, 0.9, 0.8, 0.7): (4, 4),
    (1.0, 0.9, 0.895, 0.7, 0.7): (5, 4),
    (0.5, 0.492, 0.484, 0.476, 0.1): (5, 5),  # steps under 0.01; two of them make an improvement
    (0.5, 0.495, 0.4925, 0.4901, 0.1): (4, 1),
}


@pytest.mark.parametrize("losses", SEQUENCES)
def test_the_authors_rule_is_keras_early_stopping(losses, scripted, make_task, same):
    a, (ran, best) = make_task("a"), SEQUENCES[losses]
    start = network(a)
    net, unstopped = copy.deepcopy(start), copy.deepcopy(start)
    scripted(a=losses)
    history = fit(net, a, epochs=len(losses), stopping=AUTHORS)
    assert (len(history.table), history.best) == (ran, {("authors", "a"): best})
    assert history.table.epoch.tolist() == list(range(1, ran + 1))
    assert history.table.valid_loss.tolist() == list(losses[:ran])
    scripted(a=range(best, 0, -1))
    fit(unstopped, a, epochs=best)
    assert same(values(net, "a"), values(unstopped, "a"))
    if best > 1:
        scripted(a=range(best, 0, -1))
        fewer = copy.deepcopy(start)
        fit(fewer, a, epochs=best - 1)
        assert not same(values(net, "a"), values(fewer, "a"))


def keras(losses, patience, min_delta):
    """tf.keras.callbacks.EarlyStopping, mode min, as released: (epochs run, best epoch, whether none was left)."""
    best, wait, best_epoch = math.inf, 0, 0
    for epoch, loss in enumerate(losses, start=1):
        wait += 1
        if loss < best - min_delta:
            best, wait, best_epoch = loss, 0, epoch
        elif wait >= patience:
            return epoch, best_epoch, False
    return len(losses), best_epoch, True


@pytest.mark.parametrize("rule", [AUTHORS, CONVERGED, Stopping("x", 3, 0.02, True)], ids=lambda r: r.name)
def test_every_rule_is_keras_early_stopping_on_random_losses(rule, scripted, make_task):
    a = make_task("a", examples=4)
    net, rng, seen = network(a), np.random.default_rng(0), set()
    for _ in range(15):
        losses = (np.linspace(1, 0.9, 14) + rng.normal(0, 0.03, 14)).round(2).tolist()
        scripted(a=losses)
        history = fit(net, a, epochs=14, stopping=rule)
        expected = keras(losses, rule.patience, rule.min_delta)
        assert (len(history.table), *(found[rule.name, "a"] for found in (history.best, history.capped))) == expected
        seen.add(expected)
    assert len(seen) > 3


def test_converged_watches_each_task_and_authors_their_sum(scripted, make_task, same):
    a, b = make_task("a"), make_task("b")
    falling = [1 - 0.025 * k for k in range(20)]
    flat = [0.5, 0.4] + [0.45] * 18
    start = network(a, b)
    found = {}
    for rule in (CONVERGED, AUTHORS):
        net = copy.deepcopy(start)
        scripted(a=falling, b=flat)
        history = fit(net, [a, b], epochs=20, stopping=rule)
        found[rule.name] = {t: (len(rows(history, t)), history.best[rule.name, t]) for t in ("a", "b")}
        assert history.capped == {(rule.name, "a"): True, (rule.name, "b"): rule is AUTHORS}
    assert found["converged"] == {"a": (20, 20), "b": (7, 2)}  # five epochs after the second
    assert found["authors"] == {"a": (20, 20), "b": (20, 20)}  # sums 1.5, 1.375, 1.4, 1.375, 1.35, 1.325, ...


def test_an_unwatched_end_keeps_the_best_epoch_too(scripted, make_task, same):
    a = make_task("a")
    start = network(a)
    net, one = copy.deepcopy(start), copy.deepcopy(start)
    scripted(a=[0.1, 0.5])
    assert fit(net, a, epochs=2, stopping=CONVERGED).best == {("converged", "a"): 1}
    scripted(a=[0.1])
    fit(one, a, epochs=1, stopping=CONVERGED)
    assert same(values(net, "a"), values(one, "a"))


# ---------------------------------------------------------------------------------------------- fit


def test_fit_learns(make_task):
    group = [make_task("a", examples=96), make_task("b", "regression", outputs=1, examples=96)]
    net = network(*group, density=0.4, width=24)
    before = evaluate(net, group)
    fit(net, group, epochs=15, learning_rate=0.03, stopping=CONVERGED, batch_size=16)
    after = evaluate(net, group)
    assert before["a"]["accuracy"] < 60 < 80 < after["a"]["accuracy"]
    assert after["b"]["mse"] < 0.3 * before["b"]["mse"]


def test_fit_on_a_dense_network_is_the_plain_torch_loop(make_task):
    a = make_task("a", examples=26)
    net = network(a, density=1.0)
    plain = extract(net, "a")
    fit(net, a, epochs=3, stopping=Stopping("last", 9, -math.inf, True), learning_rate=0.01)
    optimizer, order = torch.optim.Adam(plain.parameters(), lr=0.01), stream("batches", "a", seed=0)
    for _ in range(3):
        for x, y in a.batches("train", generator=order):
            optimizer.zero_grad()
            a.loss(plain(x), y).backward()
            optimizer.step()
    for ours, theirs in zip(extract(net, "a").parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_an_epoch_ends_with_the_longest_task_and_the_group_takes_the_largest_batch(make_task):
    steps = {}

    class Counting(torch.optim.SGD):
        def step(self):
            steps[self] = steps.get(self, 0) + 1
            super().step()

    a, b = make_task("a", examples=26, batch_size=4), make_task("b", examples=5, batch_size=8)
    net = network(a, b)
    fit(net, [a, b], epochs=1, optimizer=Counting)
    assert list(steps.values()) == [4, 4]  # 26 in batches of 8; five examples four times
    steps.clear()
    fit(net, [a, b], epochs=2, optimizer=Counting, batch_size=13)
    assert list(steps.values()) == [4, 4]
    steps.clear()
    fit(net, b, epochs=3, optimizer=Counting, batch_size=2)
    assert list(steps.values()) == [9]


def test_fit_trains_in_training_mode_and_measures_in_evaluation_mode(make_task):
    a, modes = make_task("a"), []
    net = network(a).eval()
    net.trunk.register_forward_hook(lambda module, x, out: modes.append(module.training))
    fit(net, a, epochs=2)
    assert modes == [True, True, True, False] * 2  # three steps, one validation


def test_an_epoch_visits_every_example_once_in_an_order_of_its_own(make_task, monkeypatch):
    a = make_task("a", examples=26)
    net, seen = network(a), []
    monkeypatch.setattr(type(a), "loss", lambda self, p, y: seen.append(p.tolist()) or p.sum())
    monkeypatch.setattr(learner, "measured", lambda net, task, split: {"accuracy": 0.0, "loss": 0.0})
    fit(net, a, epochs=2, optimizer=partial(torch.optim.SGD, weight_decay=0), learning_rate=1e-30)
    epochs = [[tuple(row) for batch in seen[k : k + 4] for row in batch] for k in (0, 4)]
    with using(net, "a"):
        expected = sorted((tuple(row) for row in net(a.train[0]).tolist()), key=sum)
    assert [len(batch) for batch in seen] == [8, 8, 8, 2] * 2
    for epoch in epochs:
        assert np.allclose(sorted(epoch, key=sum), expected, atol=1e-6)
    assert epochs[0] != epochs[1]


def test_the_table_has_a_row_per_epoch_and_task(make_task):
    a, b = make_task("a"), make_task("b", "regression", outputs=1)
    net = network(a, b)
    table = fit(net, [a, b], epochs=3, stopping=CONVERGED).table
    assert list(table.columns) == ["epoch", "task", "train_loss", "valid_loss", "valid_score", "seconds"]
    assert list(zip(table.epoch, table.task, strict=True)) == [(e, t) for e in (1, 2, 3) for t in ("a", "b")]
    assert (table.seconds > 0).all() and table.notna().all().all()
    last = table.iloc[-1]
    measured = evaluate(net, b, "valid")["b"]
    assert (last.valid_loss, last.valid_score) == (measured["loss"], measured["mse"])


REFUSED = {
    "unknown task": ("no task 'x' in this network; it holds: a, b", {"tasks": "x"}),
    "epochs": ("epochs 0 must be at least 1", {"epochs": 0}),
    "rate 0": ("learning_rate 0 ", {"learning_rate": 0}),
    "rate nan": ("learning_rate nan", {"learning_rate": math.nan}),
    "rate inf": ("learning_rate inf", {"learning_rate": math.inf}),
    "rate below 0": ("learning_rate -1", {"learning_rate": -1}),
    "batch 0": ("batch_size 0", {"batch_size": 0}),
    "batch below 0": ("batch_size -8", {"batch_size": -8}),
    "no task": ("at least one task", {"tasks": []}),
    "no rule": ("one stopping rule", {"stopping": []}),
    "twice": ("more than once", {"tasks": "aa"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_fit_refuses_is_refused_before_any_work(case, make_task, snapshot, same):
    message, arguments = REFUSED[case]
    a, b = make_task("a"), make_task("b")
    net = network(a, b).eval()
    before = snapshot(net)
    named = [{"a": a, "x": make_task("x")}[name] for name in arguments.get("tasks", "a")]
    with pytest.raises(ValueError, match=message) as error:
        fit(net, **{**arguments, "tasks": [a, *named] if case == "unknown task" else named})
    assert "\n" not in str(error.value)
    assert same(snapshot(net), before)


def test_fit_refuses_a_task_that_is_read(make_task, snapshot, same):
    a, b = make_task("a"), make_task("b")
    net = network(a, b, reads="all")
    before = snapshot(net)
    with pytest.raises(FrozenTaskError, match="task 'a' cannot be trained: task 'b' reads its entries"):
        fit(net, [b, a], epochs=1)
    assert same(snapshot(net), before)
    fit(net, b, epochs=1)
    assert same(values(net, "a"), {n: before["state"][n] for n in values(net, "a")})


@pytest.mark.parametrize("epochs", [1, 5])
def test_a_loss_that_is_not_finite_is_named(epochs, make_task):
    a = make_task("a", "regression", outputs=1)
    with pytest.raises(FloatingPointError, match=r"task 'a': the \w+ loss is (nan|inf) in epoch \d; .*learning_rate"):
        fit(network(a), a, epochs=epochs, learning_rate=1e30, batch_size=24)


# ----------------------------------------------------------------------------- evaluate and predict


def test_evaluate_counts_by_hand(make_task):
    a, b, c = make_task("a"), make_task("b", "regression", outputs=1), make_task("c", "binary", outputs=1)
    net = network(a, b, c)
    found = evaluate(net, [a, b, c])
    outputs = {t.name: predict(net, t).tolist() for t in (a, b, c)}
    hits = sum(row.index(max(row)) == y for row, y in zip(outputs["a"], a.test[1].tolist(), strict=True))
    assert found["a"]["accuracy"] == pytest.approx(100 * hits / 12, abs=1e-12)
    errors = [(p - y) ** 2 for (p,), (y,) in zip(outputs["b"], b.test[1].tolist(), strict=True)]
    assert found["b"]["mse"] == found["b"]["loss"] == pytest.approx(sum(errors) / 12, rel=1e-5)
    hits = sum((p > 0) == (y == 1) for (p,), (y,) in zip(outputs["c"], c.test[1].tolist(), strict=True))
    assert found["c"]["accuracy"] == pytest.approx(100 * hits / 12, abs=1e-12)
    assert evaluate(net, a, "train")["a"] != evaluate(net, a, "valid")["a"] != found["a"]


def test_predict_agrees_with_the_network_in_any_batch_size_and_in_order(make_task):
    a = make_task("a")
    net = network(a)
    expected = net(a.train[0], "a")
    for size in (1, 5, 100):
        found = predict(net, a, "train", size)
        assert torch.allclose(found, expected, atol=1e-6) and not found.requires_grad
    with pytest.raises(ValueError, match="split 'x' is not one of train, valid, test"):
        predict(net, a, "x")
    with pytest.raises(ValueError, match="no task 'a' in this network; it holds: none"):
        predict(dense_network([a]), a)


def test_measuring_leaves_everything_as_found(make_task, snapshot, same):
    a, b = make_task("a"), make_task("b", "regression", outputs=1)
    trunk = nn.Sequential(MaskedLinear(4, 8), nn.Dropout(), nn.Dropout(), MaskedLinear(8, 8))
    net = training_network(trunk, a, b)
    net.trunk[2].eval()  # mixed modes
    a.loss(net(a.train[0], "a"), a.train[1]).backward()
    others = random.getstate(), np.random.get_state()[1].tolist()
    before = snapshot(net)
    with using(net, "b"):
        active = snapshot(net)["switches"]
        first = evaluate(net, [a, b]), predict(net, a)
        with pytest.raises(ValueError, match="no task 'x' in this network; it holds: a, b"):
            evaluate(net, [a, make_task("x")])
        with pytest.raises(ValueError, match="no task 'x'"):
            predict(net, make_task("x"))
        with pytest.raises(ValueError, match="split 'x'"):
            evaluate(net, a, "x")
        assert snapshot(net)["switches"] == active
        again = evaluate(net, [a, b]), predict(net, a)
    assert first[0] == again[0] and torch.equal(first[1], again[1])  # no dropout in either
    assert same(snapshot(net), before)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == others


def training_network(trunk, *group):
    net = MultitaskNetwork(trunk, 4, 8)
    for task in group:
        net.add_task(task.name, task.inputs, task.outputs)
        allocate(net, task.name, 0.3, "random")
    return net


# ------------------------------------------------------------------------------------- fit_sequence


def test_a_sequence_measures_before_and_after_and_forgets_nothing(make_task):
    a, b = make_task("a"), make_task("b", "binary", inputs=(2, 2), outputs=1)
    c, d = make_task("c", "regression", inputs=(3,), outputs=1), make_task("d", "binary", (5,), 1, vocabulary=6)
    net = dense_network(inputs=4, width=16, depth=2)
    found = fit_sequence(net, [[a, b], c, d], density=0.25, epochs=3, learning_rate=0.02, stopping=CONVERGED)
    assert tasks(net) == list(net.declared) == ["a", "b", "c", "d"]
    matrix = found.matrix
    assert list(matrix.columns) == ["a", "b", "c", "d"]
    assert list(matrix.index) == [f"{when} {phase}" for phase in ("a + b", "c", "d") for when in ("before", "after")]
    known = matrix.notna().values.tolist()
    assert known == [[True, True, False, False]] * 2 + [[True, True, True, False]] * 2 + [[True] * 4] * 2
    for task in (a, b, c, d):
        column = matrix[task.name].dropna()
        assert column.iloc[1:].nunique() == 1 and column.iloc[1] == evaluate(net, task)[task.name][task.metric]
    assert matrix.c["before c"] != matrix.c["after c"]
    assert found.forgetting == found.moved == dict.fromkeys("abcd", 0.0)
    assert [h.table.task.unique().tolist() for h in found.histories] == [["a", "b"], ["c"], ["d"]]


def test_a_sequence_is_allocate_and_fit_phase_by_phase(make_task, same):
    a, b = make_task("a"), make_task("b", "regression", inputs=(3,), outputs=1)
    sequence, by_hand = (dense_network(inputs=4, width=16, depth=2) for _ in range(2))
    fit_sequence(sequence, [a, b], 0.25, "snip", "all", "authors", sample=5, seed=7, epochs=2)
    for task, reads in ((a, "none"), (b, "all")):  # the first has nothing earlier to read
        by_hand.add_task(task.name, task.inputs, task.outputs)
        first = [(task.train[0][:5], task.train[1][:5])]
        allocate(by_hand, task.name, 0.25, "snip", first, task.loss, reads, "authors", seed=7)
        fit(by_hand, task, epochs=2, seed=7)
    assert same(dict(sequence.state_dict()), dict(by_hand.state_dict()))


def test_tasks_learned_in_parallel_first_can_be_read_later(make_task):
    a, b, c = make_task("a"), make_task("b", "regression", outputs=1), make_task("c", "binary", outputs=1)
    net = dense_network(inputs=4, width=16, depth=2)
    found = fit_sequence(net, [[a, b], c], 0.25, reads="all", epochs=2)
    assert [net.trunk[0].weight.read_by(task) for task in "abc"] == [[], [], ["a", "b"]]
    assert found.forgetting == found.moved == dict.fromkeys("abc", 0.0)


def test_a_leak_would_show_as_forgetting_with_the_right_sign(make_task, monkeypatch):
    def leaky(net, phase, **fitting):
        history = fit(net, phase, **fitting)
        if phase[0].name == "c":
            net.heads["a"].weight["a"].values.data.mul_(-3)
            net.heads["b"].bias["b"].values.data.sub_(100)
        return history

    monkeypatch.setattr(training, "fit", leaky)
    a, b, c = make_task("a", examples=96), make_task("b", "regression", outputs=1, examples=96), make_task("c")
    net = dense_network(inputs=4, width=24, depth=1)
    found = fit_sequence(net, [a, b, c], 0.3, epochs=12, learning_rate=0.03, batch_size=16)
    lost = found.matrix.loc["after a", "a"] - found.matrix.loc["after c", "a"]
    grown = found.matrix.loc["after c", "b"] - found.matrix.loc["after b", "b"]
    assert found.forgetting == {"a": lost, "b": grown, "c": 0.0} and lost > 10 and grown > 5000
    assert found.moved["a"] > 0.1 and found.moved["b"] == pytest.approx(100, rel=1e-3) and found.moved["c"] == 0


# ---------------------------------------------------------------------------- train, prune, retrain


def test_train_prune_retrain_leaves_room_for_the_next_task(make_task, same):
    a, b = make_task("a"), make_task("b")
    net = dense_network([a, b], width=10, depth=1)
    allocate(net, "a", "free")
    assert all((m == 1).all() for n, m in owner_map(net).items() if n.startswith("trunk"))
    fit(net, a, epochs=3)
    dense = {name: p.detach().clone() for name, p in net.named_parameters()}
    prune(net, "a", 0.4, rule="largest")
    kept = values(net, "a")
    assert {n: len(v) for n, v in kept.items()} == {
        "trunk.0.weight.a.values": 16,
        "trunk.0.bias.a.values": 4,
        "heads.a.weight.a.values": 12,
        "heads.a.bias.a.values": 1,
    }
    for name, kept_values in kept.items():
        magnitudes = dense[name].abs()
        threshold = magnitudes.sort(descending=True).values[len(kept_values) - 1]
        assert torch.equal(kept_values, dense[name][magnitudes >= threshold])
    history = fit(net, a, epochs=3)
    assert not same(values(net, "a"), kept) and history.best["authors", "a"] >= 1
    before = predict(net, a)
    allocate(net, "b", 0.6, batches=b.batches(), loss=b.loss)
    fit(net, b, epochs=3)
    assert torch.equal(predict(net, a), before)
    assert len(net.trunk[0].weight.free()) == 0 and (owner_map(net)["trunk.0.weight"] == 2).sum() == 24


def test_a_sequence_checks_its_schedule_before_it_allocates(make_task):
    task = make_task("a")
    net = dense_network([task], width=8, depth=1)
    with pytest.raises(ValueError, match="epochs 0 must be at least 1"):
        fit_sequence(net, [task], density=0.5, method="random", epochs=0)
    assert tasks(net) == []


@pytest.mark.parametrize(
    ("phases", "options", "error", "match"),
    [
        ("a b", {"reads": "ALL"}, ValueError, "reads 'ALL'"),
        ("a b", {"reads": "all", "rule": "whole_units"}, ValueError, "goes with reads='none'"),
        ("a b+c", {"reads": "all"}, ValueError, "b and c would freeze each other"),
        ("a a", {}, ValueError, "task 'a' is in the network, or earlier"),
        ("a d", {}, ValueError, "task 'd' is in the network, or earlier"),
        ("a ", {}, ValueError, "needs at least one task"),
        ("a empty", {}, ValueError, "task 'empty' has no valid and no test examples"),
        ("a b", {"epoch": 3}, TypeError, "epoch"),
    ],
)
def test_a_sequence_refuses_before_its_first_phase_what_a_later_one_could_not_do(
    make_task, phases, options, error, match
):
    made = {name: make_task(name) for name in "abcd"}
    x, y = made["b"].train
    made["empty"] = Task("empty", "classification", (x, y), (x[:0], y[:0]), (x[:0], y[:0]), 3)
    net = dense_network([made["d"]], width=16, depth=1)
    allocate(net, "d", 0.1, "random")
    before = {name: value.clone() for name, value in net.state_dict().items() if isinstance(value, torch.Tensor)}
    group = [[made[name] for name in phase.split("+") if name] for phase in phases.split(" ")]
    with pytest.raises(error, match=match):
        fit_sequence(net, group, 0.1, "random", **options)
    after = net.state_dict()
    assert tasks(net) == ["d"] and all(torch.equal(after[name], value) for name, value in before.items())


def test_fit_leaves_every_module_in_the_mode_it_was_in(make_task):
    task = make_task("a")
    net = convert(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 3)))
    allocate(net, "a", 0.5, "random")
    net.eval()
    net[1].train()
    fit(net, task, epochs=1)
    assert [module.training for module in net.children()] == [False, True, False] and not net.training
    with pytest.raises(ZeroDivisionError):
        fit(net, task, epochs=1, optimizer=lambda *_, **__: 1 / 0)
    assert [module.training for module in net.children()] == [False, True, False]


def test_outputs_have_the_dtype_of_the_weights_whatever_constants_come_first(make_task):
    class Ordered(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.order = torch.nn.Parameter(torch.tensor([3, 2, 1, 0]), requires_grad=False)
            self.layer = MaskedLinear(4, 1)

        def forward(self, x):
            return self.layer(x[:, self.order])

    net, task = Ordered(), make_task("r", "regression", outputs=1)
    allocate(net, "r", 1.0, "random")
    with using(net, "r"), torch.no_grad():
        expected = net(task.test[0])
    assert predict(net, task).dtype == torch.float32 and torch.equal(predict(net, task), expected)


def test_training_shows_its_progress_to_who_watches_and_leaves_no_trace_in_a_notebook_run_headless():
    manager, client = start_new_kernel(kernel_name="python3", extra_arguments=["--IPKernelApp.log_level=ERROR"])
    code = """
import msnlib
msnlib.seed_everything(0, threads=1)
task = msnlib.load_task("digits", limit=50)
net = msnlib.dense_network([task], width=5, depth=1)
msnlib.allocate(net, "digits", 0.5, "random")
msnlib.fit(net, task, epochs=2).best"""
    try:
        texts = []
        for watched in (True, False):
            found = []
            client.execute_interactive(code, allow_stdin=watched, output_hook=found.append, timeout=120)
            texts.append("".join(m["content"]["text"] for m in found if m["msg_type"] == "stream"))
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert "digits: " in texts[0] and "/2 [" in texts[0] and texts[0].endswith("\r")
    assert texts[1] == ""
