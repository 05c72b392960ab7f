"""Training at its edges: single examples, random layers, losses that blow up, rules and optimizers that cannot work."""

import copy
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from msnlib import (
    AUTHORS,
    CONVERGED,
    Stopping,
    allocate,
    convert,
    dense_network,
    evaluate,
    fit,
    fit_sequence,
    load,
    predict,
    prune,
    release,
    save,
    scores,
    task_parameters,
    tasks,
)

pytestmark = pytest.mark.usefixtures("seeded")


def converted(*layers, names=("a",)):
    net = convert(nn.Sequential(nn.Linear(4, 16), *layers, nn.Linear(16, 3)))
    for name in names:
        allocate(net, name, 0.3, method="random")
    return net


# ------------------------------------------------------------------------------------ a batch of one


@pytest.mark.parametrize("examples", [9, 25, 33])
@pytest.mark.parametrize("norm", [nn.BatchNorm1d(16), nn.BatchNorm1d(16, track_running_stats=False)])
def test_a_single_example_left_over_joins_the_batch_before_batch_statistics(examples, norm, make_task):
    task, seen = make_task("a", examples=examples), []
    net = converted(copy.deepcopy(norm))
    net[1].register_forward_pre_hook(lambda module, x: seen.append(len(x[0])) if module.training else None)
    fit(net, task, epochs=2)
    assert seen == ([8] * (examples // 8 - 1) + [9]) * 2
    assert predict(net, task, "train", batch_size=8).isfinite().all()


def test_beside_other_layers_a_single_example_stays_a_batch(make_task):
    task, seen = make_task("a", examples=17), []
    net = converted(nn.LayerNorm(16))
    net[0].register_forward_hook(lambda module, x, out: seen.append(len(out)) if module.training else None)
    fit(net, task, epochs=1)
    assert seen == [8, 8, 1]


@pytest.mark.parametrize(("examples", "size", "what"), [(1, 8, "1 training example"), (9, 1, "batch_size 1")])
def test_what_batch_statistics_cannot_do_with_is_refused_by_name(examples, size, what, make_task, snapshot, same):
    net = converted(nn.BatchNorm1d(16))
    before = snapshot(net)
    with pytest.raises(ValueError, match=f"task 'a': 1 .BatchNorm1d. takes batches of two or more, not {what}"):
        task = make_task("a", examples=9)
        fit(net, replace(task, train=tuple(part[:examples] for part in task.train)), batch_size=size)
    assert same(snapshot(net), before)


def test_pictures_may_come_one_at_a_time(make_task):
    net = convert(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)))
    allocate(net, "a", 0.5, method="random")
    task = make_task("a", inputs=(1, 4, 4), examples=3)
    assert len(fit(net, task, epochs=1, batch_size=1).table) == 1


# ------------------------------------------------------------------------------------- random layers


class Noisy(nn.Module):
    """Draws in forward without a module of torch's for it."""

    def forward(self, x):
        return F.dropout(x, 0.3, self.training) + (0.1 * torch.randn_like(x) if self.training else 0)


RANDOM = {"dropout": nn.Dropout(0.5), "alpha": nn.AlphaDropout(0.3), "rrelu": nn.RReLU(), "own": Noisy()}


@pytest.mark.parametrize("layer", RANDOM)
def test_random_layers_give_a_task_its_own_numbers_alone_or_beside_another(layer, make_task, same):
    a, b, found = make_task("a"), make_task("b", examples=40), {}
    net = converted(nn.ReLU(), RANDOM[layer], names="ab")
    torch.rand(5)  # whatever was drawn before
    state = torch.get_rng_state()
    for label, group, seed in (("alone", [a], 0), ("first", [a, b], 0), ("second", [b, a], 0), ("other", [a], 1)):
        twin = copy.deepcopy(net)
        # Five steps an epoch in every group: the longest task's.
        fit(twin, group, epochs=3, stopping=CONVERGED, seed=seed, batch_size=8 if b in group else 5)
        found[label] = predict(twin, a)
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(3)
        state = torch.get_rng_state()
    assert torch.equal(found["first"], found["second"]) and not torch.equal(found["alone"], found["other"])
    twin = copy.deepcopy(net)
    fit(twin, [a, make_task("b", examples=24)], epochs=3, stopping=CONVERGED, seed=0)
    alone = copy.deepcopy(net)
    fit(alone, a, epochs=3, stopping=CONVERGED, seed=0)
    assert torch.equal(predict(twin, a), predict(alone, a))


def test_two_tasks_do_not_get_the_same_random_numbers(make_task):
    drawn, names = {}, "ab"

    class Listening(nn.Module):
        def forward(self, x):
            if self.training:
                drawn.setdefault(len(drawn), torch.rand(4))
            return x

    net = converted(Listening(), names=names)
    fit(net, [make_task(name, examples=8) for name in names], epochs=2)
    assert len(drawn) == 4 and len({tuple(numbers.tolist()) for numbers in drawn.values()}) == 4


# ---------------------------------------------------------------------------------- ends in an error


def breaking(step, error=None):
    """An optimizer that destroys its values, or raises, in its ``step``-th step."""

    class Breaking(torch.optim.SGD):
        def step(self, closure=None):
            self.count = getattr(self, "count", 0) + 1
            if self.count == step:
                if error:
                    raise error
                for values in self.param_groups[0]["params"]:
                    values.data.fill_(math.nan)
            return super().step(closure)

    return Breaking


def two(make_task):
    group = [make_task("a"), make_task("b", "regression", outputs=1)]
    net = dense_network(group, inputs=4, width=16, depth=2)
    for task in group:
        allocate(net, task.name, 0.25, method="random")
    return net, group


@pytest.mark.parametrize("rules", [[AUTHORS], [CONVERGED, AUTHORS]])
@pytest.mark.parametrize(
    ("raised", "error"), [(FloatingPointError, None), (KeyboardInterrupt, KeyboardInterrupt()), (OSError, OSError())]
)
def test_whatever_ends_training_the_best_weights_are_put_back(rules, raised, error, make_task, same):
    net, group = two(make_task)
    good = copy.deepcopy(net)
    fit(good, group, epochs=4, stopping=rules, optimizer=torch.optim.SGD, learning_rate=0.01)
    with pytest.raises(raised):
        fit(net, group, epochs=9, stopping=rules, optimizer=breaking(3 * 4 + 2, error), learning_rate=0.01)
    assert same(dict(net.state_dict()), dict(good.state_dict()))


def test_without_a_good_epoch_the_first_weights_are_put_back(make_task, snapshot, same):
    net, group = two(make_task)
    before = snapshot(net)["state"]
    with pytest.raises(FloatingPointError, match="task 'a': the training loss is nan in epoch 1"):
        fit(net, group, optimizer=breaking(2), learning_rate=0.01)
    assert same(snapshot(net)["state"], before)


def test_statistics_that_a_module_puts_in_place_of_old_ones_are_kept_with_the_weights(make_task):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            if self.training:
                self.seen = self.seen + 1  # another tensor, as many modules do
            return x

    net = converted(Counting())
    with pytest.raises(FloatingPointError):
        fit(net, make_task("a"), optimizer=breaking(3 * 2 + 1), learning_rate=0.01, stopping=CONVERGED)
    assert [float(b) for name, b in net.named_buffers() if name.endswith("seen")] == [6.0]


# ------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("patience", [0, -1, 2.5, math.inf, math.nan, None, "3", True])
def test_a_rule_that_cannot_wait_is_refused(patience):
    with pytest.raises(ValueError, match=r"rule 'x': patience .* must be at least 1, a whole number"):
        Stopping("x", patience, 0.0, True)


@pytest.mark.parametrize("min_delta", [math.nan, math.inf, None, "0"])
def test_a_rule_that_nothing_satisfies_is_refused(min_delta):
    with pytest.raises(ValueError, match=r"rule 'x': min_delta .* must be a number below infinity"):
        Stopping("x", 3, min_delta, True)


def test_rules_may_count_in_numpys_numbers_but_need_a_name():
    assert Stopping("x", np.int64(3), np.float32(0.5), True).patience == 3
    for name in ("", None, 3):
        with pytest.raises(ValueError, match="a stopping rule's name is"):
            Stopping(name, 3, 0.0, True)


REFUSED = {
    "closure": ("optimizer LBFGS: its step wants closure", dict(optimizer=torch.optim.LBFGS)),
    "closure, partial": ("optimizer LBFGS", dict(optimizer=partial(torch.optim.LBFGS, max_iter=2))),
    "rules": ("two stopping rules have one name: x, x", dict(stopping=[Stopping("x", 3, d, True) for d in (0, 1)])),
    "epochs": ("epochs 2.5 must be at least 1, a whole number", dict(epochs=2.5)),
    "text": ("epochs '3' must be at least 1, a whole number", dict(epochs="3")),
    "size": ("batch_size 2.5 must be at least 1, a whole number", dict(batch_size=2.5)),
    "rate": ("learning_rate '0.1' must be a number above 0 and finite", dict(learning_rate="0.1")),
    "rate of 0": ("learning_rate 0 must be a number above 0", dict(learning_rate=0)),
    "rate nan": ("learning_rate nan must be a number above 0", dict(learning_rate=math.nan)),
    "name of a rule": ("stopping 'converged' must be a Stopping, like msnlib.CONVERGED", dict(stopping="converged")),
    "none of a rule": ("stopping None must be a Stopping", dict(stopping=None)),
    "names of rules": ("stopping 'x' must be a Stopping, like", dict(stopping=["x"])),
    "name of an optimizer": ("optimizer 'adam' must be one to call, like torch.optim.Adam", dict(optimizer="adam")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_work_is_refused_before_any_work(case, make_task, snapshot, same):
    message, arguments = REFUSED[case]
    net, group = two(make_task)
    before = snapshot(net)
    with pytest.raises(ValueError, match=message) as error:
        fit(net, group, **arguments)
    assert same(snapshot(net), before) and "\n" not in str(error.value)
    if "optimizer" not in arguments:
        empty = dense_network(group, inputs=4, width=16, depth=2)
        with pytest.raises(ValueError, match=message):
            fit_sequence(empty, [group], 0.2, "random", **arguments)
        assert tasks(empty) == []


def pruned(net, path):
    prune(net, "a", 0.1)


def anew(net, path):
    release(net, "a")
    allocate(net, "a", 0.25, method="random")


def loaded(net, path):
    other = copy.deepcopy(net)
    release(other, "a")
    allocate(other, "a", 0.25, method="random", seed=7)
    save(other, path)
    load(path, net)


CHANGES = {"prune": pruned, "release": lambda net, path: release(net, "a"), "allocate": anew, "load": loaded}


@pytest.mark.parametrize("change", CHANGES)
def test_epochs_kept_of_what_was_changed_since_are_refused(change, make_task, snapshot, same, tmp_path):
    net, group = two(make_task)
    history = fit(net, group, epochs=4, stopping=[AUTHORS, CONVERGED])
    CHANGES[change](net, tmp_path / "net.safetensors")
    before = snapshot(net)
    for rule in (AUTHORS, CONVERGED):
        with pytest.raises(ValueError, match="task 'a' was pruned, released, allocated or loaded since") as error:
            history.use(rule)
        assert "\n" not in str(error.value)
    assert same(snapshot(net), before)


def test_what_leaves_the_task_alone_leaves_its_epochs(make_task):
    net, group = two(make_task)
    history = fit(net, group[0], epochs=4, stopping=[AUTHORS, CONVERGED], learning_rate=0.1)
    release(net, "b")
    allocate(net, "b", 0.1, method="random")
    fit(net, group[1], epochs=1)
    history.use(CONVERGED)
    rows = history.table.set_index("epoch")
    kept = rows.loc[history.best["converged", "a"], "valid_loss"]
    assert evaluate(net, group[0], "valid")["a"]["loss"] == kept


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda task: replace(task, name="my task"), "task name 'my task' must be"),
        (lambda task: task.map_inputs(torch.Tensor.double), "task 'b': x is float64, the network float32"),
        (lambda task: replace(task, outputs=5), "task 'b': outputs 5, but the network was given outputs 3"),
    ],
)
@pytest.mark.parametrize("density", [0.2, lambda name, shape: 0.2])
def test_a_later_phase_that_does_not_fit_is_refused_before_the_first(change, said, density, make_task, snapshot, same):
    a, b = make_task("a"), make_task("b")
    net = dense_network([a, b], width=16, depth=2)
    before = snapshot(net)
    with pytest.raises(ValueError, match=said):
        fit_sequence(net, [a, change(b)], density, "random", epochs=1)
    assert same(snapshot(net), before) and tasks(net) == []


@pytest.mark.parametrize("density", [lambda name, shape: 0.2 * ("heads.b" not in name), {"trunk.0.weight": 0.2}])
def test_a_density_that_a_later_phase_cannot_have_is_refused_before_the_first(density, make_task):
    a, b = make_task("a"), make_task("b")
    net = dense_network([a], width=16, depth=2)
    with pytest.raises(ValueError, match="density"):
        fit_sequence(net, [a, b], density, "random", epochs=1)
    assert tasks(net) == [] and list(net.declared) == ["a"]


def test_tasks_of_one_name_are_not_measured_as_one(make_task):
    net, (a, _) = two(make_task)
    for measure in (evaluate, scores):
        with pytest.raises(ValueError, match="a task is given more than once: a, a"):
            measure(net, [a, a])


def test_a_released_task_starts_as_new_if_it_was_frozen(make_task):
    task = make_task("words", vocabulary=5)
    net = dense_network([task], width=16, depth=1)
    allocate(net, "words", 0.2, "random")
    net.requires_grad_(False)
    release(net, "words")
    allocate(net, "words", 0.2, "random")
    assert all(parameter.requires_grad for parameter in task_parameters(net, "words"))
    assert any(parameter.dim() == 2 for parameter in task_parameters(net, "words"))  # the embedding
