"""Which entries a task gets, how many, and what they start from: exact, on scores and weights known by hand."""

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from msnlib import (
    CapacityError,
    DeadOutputWarning,
    FrozenTaskError,
    MaskedConv2d,
    MaskedLinear,
    OverlapWarning,
    PerTask,
    SharedParameterWarning,
    allocate,
    dense_network,
    owner_map,
    prune,
    release,
    seed_everything,
    task_parameters,
    tasks,
    using,
)

pytestmark = pytest.mark.usefixtures("seeded")


def scoring(scores):
    """Batches and loss on which the gradient of a linear layer's weight is exactly ``scores`` (out, in)."""
    scores = torch.as_tensor(scores, dtype=torch.float32)
    return {"batches": [(torch.eye(scores.shape[1]), scores.T)], "loss": lambda p, y: (p * y).sum() / len(p)}


def positions(tensor, task="a"):
    return tensor[task].positions.tolist()


def best(scores, count, free=None):
    """The ``count`` largest, by an independent rule: sort (-score, index)."""
    free = range(len(scores)) if free is None else free
    return sorted(sorted(free, key=lambda i: (-float(scores[i]), i))[:count])


# ------------------------------------------------------------------------------------- exact counts

COUNTS = {  # density: entries of a 4 x 4 weight, of its bias
    0.001: (1, 1),
    0.1: (2, 1),  # 1.6, 0.4
    0.25: (4, 1),
    0.3: (5, 1),  # 4.8, 1.2
    0.5: (8, 2),
    0.625: (10, 2),  # 2.5 rounds to even
    0.99: (16, 4),
    1.0: (16, 4),
}


@pytest.mark.parametrize("method", ["gradient", "snip", "magnitude", "random"])
@pytest.mark.parametrize("value", [0.0, 3.0], ids=["zero scores", "equal scores"])
@pytest.mark.parametrize("density", COUNTS)
def test_counts_are_exact_whatever_the_ties(density, value, method):
    layer = MaskedLinear(4, 4)
    allocate(layer, "a", density, method, **scoring(torch.full((4, 4), value)))
    assert (len(layer.weight["a"].values), len(layer.bias["a"].values)) == COUNTS[density]
    assert [(m == 1).sum().item() for m in owner_map(layer).values()] == list(COUNTS[density])
    for tensor in (layer.weight, layer.bias):
        assert positions(tensor) == sorted(set(positions(tensor)))


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_of_equal_scores_the_lower_index_wins(value):
    layer = MaskedLinear(4, 4)
    allocate(layer, "a", 0.3, **scoring(torch.full((4, 4), value)))
    assert positions(layer.weight) == [0, 1, 2, 3, 4] and positions(layer.bias) == [0]
    allocate(layer, "b", 0.3, **scoring(torch.full((4, 4), value)))
    assert positions(layer.weight, "b") == [5, 6, 7, 8, 9] and positions(layer.bias, "b") == [1]


def test_of_a_tie_at_the_edge_the_lower_index_wins():
    layer = MaskedLinear(4, 4, bias=False)
    allocate(layer, "a", 0.25, **scoring([[0, 1, 0, 2], [2, 0, -9, 0], [0, 2, 0, 2], [2, 1, 0, 0]]))
    assert positions(layer.weight) == [3, 4, 6, 9]  # 9, then the first three of five twos


def test_zero_biases_are_counted_like_anything_else():
    layer = MaskedLinear(4, 4)
    allocate(layer, "a", 0.5, "magnitude")
    assert positions(layer.bias) == [0, 1]
    allocate(layer, "b", 0.5, "snip", **scoring(torch.ones(4, 4)))
    assert positions(layer.bias, "b") == [2, 3]


def test_counts_hold_in_every_tensor_of_a_network(small_network):
    net, group = small_network
    for task in group:
        allocate(net, task.name, 0.2, batches=task.batches(), loss=task.loss)
    counts = {n: [(m == k).sum().item() for k in (1, 2, 3)] for n, m in owner_map(net).items()}
    assert counts == {
        "stems.b.1.weight": [0, 5, 0],  # 24 entries
        "stems.b.1.bias": [0, 1, 0],  # 4
        "stems.c.2.weight": [0, 0, 8],  # 40
        "stems.c.2.bias": [0, 0, 1],
        "trunk.0.weight": [10, 10, 10],  # 48, 9.6
        "trunk.0.bias": [2, 2, 2],  # 12
        "trunk.2.weight": [29, 29, 29],  # 144, 28.8
        "trunk.2.bias": [2, 2, 2],
        "heads.a.weight": [7, 0, 0],  # 36
        "heads.a.bias": [1, 0, 0],
        "heads.b.weight": [0, 2, 0],  # 12
        "heads.b.bias": [0, 1, 0],
        "heads.c.weight": [0, 0, 2],
        "heads.c.bias": [0, 0, 1],
    }


# ------------------------------------------------------------------------------ disjoint until full


def test_ten_tasks_fill_a_tensor_and_the_eleventh_is_refused(snapshot, same):
    layer = MaskedLinear(5, 4, bias=False)
    for k in range(10):
        allocate(layer, f"t{k}", 0.1, "random")
    owners = owner_map(layer)["weight"].flatten().tolist()
    assert sorted(owners) == sorted(2 * list(range(1, 11)))
    assert sorted(p for k in range(10) for p in positions(layer.weight, f"t{k}")) == list(range(20))
    before = snapshot(layer)
    with pytest.raises(CapacityError, match="weight: asked for 2 entries, only 0 of 20 are free") as error:
        allocate(layer, "t10", 0.1, "random")
    assert (error.value.layer, error.value.asked, error.value.free) == ("weight", 2, 0)
    assert same(snapshot(layer), before)
    again = pickle.loads(pickle.dumps(error.value))  # as between processes
    assert (str(again), again.layer, again.free) == (str(error.value), "weight", 0)
    bits = {k: layer.weight[f"t{k}"].values.detach().clone() for k in range(10)}
    release(layer, "t3")
    allocate(layer, "t10", 0.1, "random")
    assert owner_map(layer)["weight"].flatten().tolist() == [{4: 10}.get(o, o - (o > 4)) for o in owners]
    assert all(torch.equal(layer.weight[f"t{k}"].values, bits[k]) for k in range(10) if k != 3)


def test_a_bias_can_be_full_first_and_no_layer_before_it_changes(snapshot, same):
    net = nn.Sequential(MaskedLinear(5, 20), nn.ReLU(), MaskedLinear(20, 4))
    for k in range(4):
        allocate(net, f"t{k}", 0.1, "random")  # 0.4 of the last bias each: one entry
    before = snapshot(net)
    for density in (0.1, "free"):
        with pytest.raises(CapacityError) as error:
            allocate(net, "t4", density, "random")
        assert (error.value.layer, error.value.asked, error.value.free) == ("2.bias", 1, 0)
        assert "2.bias: asked for 1 entries, only 0 of 4 are free" in str(error.value)
    assert same(snapshot(net), before)


def test_exactly_what_is_free_is_enough():
    layer = MaskedLinear(4, 4)
    allocate(layer, "a", 0.5, "random")
    allocate(layer, "b", 0.5, "random")
    assert layer.weight.free().tolist() == layer.bias.free().tolist() == []


# ------------------------------------------------------------------------ nothing changed on errors


def broken_loss(prediction, target):
    if len(prediction) == 1:
        raise ZeroDivisionError
    return prediction.square().mean()


def interrupted():
    yield torch.ones(2, 4), torch.ones(2, 4)
    raise KeyboardInterrupt


X, Y = torch.ones(2, 4), torch.ones(2, 4)
REFUSED = {
    "loss raises midway": (ZeroDivisionError, None, {"batches": [(X, Y), (X[:1], Y[:1])], "loss": broken_loss}),
    "interrupted": (KeyboardInterrupt, None, {"batches": interrupted(), "loss": F.mse_loss}),
    "no batches": (ValueError, "batches held no examples", {"batches": [], "loss": F.mse_loss}),
    "no examples": (ValueError, "batches held no examples", {"batches": [(X[:0], Y[:0])], "loss": broken_loss}),
    "nan": (ValueError, r"0\.weight: 8 of 8 scores of task 'b' are NaN or infinite", {"batches": [(X * math.nan, Y)]}),
    "wrong width": (RuntimeError, "shapes cannot be multiplied", {"batches": [(X[:, :2], Y)], "loss": F.mse_loss}),
    "taken": (ValueError, "task 'a' is allocated already", {"task": "a"}),
    "density 0": (ValueError, "density 0 must be in 0 < density <= 1", {"density": 0}),
    "density 1.5": (ValueError, "density 1.5 must be", {"density": 1.5}),
    "density -0.1": (ValueError, "density -0.1 must be", {"density": -0.1}),
    "density nan": (ValueError, "density nan must be", {"density": math.nan}),
    "density True": (ValueError, "density True must be", {"density": True}),
    "density x": (ValueError, "density 'x' must be", {"density": "x"}),
    "density None": (ValueError, "density None must be", {"density": None}),
    "method of free": (ValueError, "method 'x' is not one of", {"density": "free", "method": "x"}),
    "method": (ValueError, "method 'grad' is not one of gradient, snip, magnitude, random", {"method": "grad"}),
    "reads": (ValueError, "reads 'some' is not one of none, all", {"reads": "some"}),
    "init": (ValueError, "init 'zeros' is not one of he, scored, glorot, authors", {"init": "zeros"}),
    "gradient, no batches": (ValueError, "method 'gradient' needs batches", {"batches": None}),
    "gradient, no loss": (ValueError, "method 'gradient' needs batches", {"loss": None}),
    "snip, no batches": (ValueError, "method 'snip' needs batches", {"method": "snip", "batches": None}),
    "rule": (
        ValueError,
        "rule 'best' is not one of largest, even_outputs, constant_fan_in, .* of offers",
        {"rule": "best"},
    ),
    "rule that reads": (ValueError, "'released_percentile' goes with", {"rule": "released_percentile", "reads": "all"}),
    "rule of free": (
        ValueError,
        "give rule 'constant_fan_in' to prune",
        {"rule": "constant_fan_in", "density": "free"},
    ),
    "rule of a row": (ValueError, "'whole_units' is for networks of msnlib's builders", {"rule": "whole_units"}),
    "rule that keeps nothing": (ValueError, r"what is kept by name of .*, not \[\]$", {"rule": lambda offers: {}}),
    "rule of other names": (
        ValueError,
        "rule '<lambda>' must return what is kept by name of 0.weight, .*, not .'head'.$",
        {"rule": lambda offers: {"head": next(iter(offers.values())).positions}},
    ),
    "rule that says units": (
        ValueError,
        "rule '<lambda>': 5 entries of 0.weight are not 2 whole units$",
        {"rule": lambda offers: {name: (offer.positions[:5], 2) for name, offer in offers.items()}},
    ),
    "rule that returns a list": (ValueError, "what is kept by name .*, not list$", {"rule": lambda offers: []}),
    "rule that raises": (ZeroDivisionError, None, {"rule": lambda offers: 1 / 0}),
    "density of other names": (
        ValueError,
        "no other; wrong: 0.bias, 3.bias, 3.weight$",
        {"density": {"0.weight": 0.1}},
    ),
    "density by name": (
        ValueError,
        "3.bias: density 2 must be",
        {"density": lambda name, _: 2 if name == "3.bias" else 0.1},
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_allocation_changes_nothing(case, snapshot, same):
    error, message, arguments = REFUSED[case]
    net = nn.Sequential(MaskedLinear(4, 4), nn.ReLU(), nn.Dropout(), MaskedLinear(4, 4))
    net[2].eval()
    allocate(net, "a", 0.5, "random")
    task_parameters(net, "a")[0].grad = torch.ones(8)
    before = snapshot(net)
    with using(net, "a"):
        active = snapshot(net)["switches"]
        with pytest.raises(error, match=message) as raised:
            allocate(net, **{"task": "b", "density": 0.25, "batches": [(X, Y)], "loss": F.mse_loss, **arguments})
        assert snapshot(net)["switches"] == active
    if error is ValueError:
        assert "\n" not in str(raised.value)
    assert same(snapshot(net), before)


def test_nan_scores_name_the_tensor_that_has_them(monkeypatch):
    layer = MaskedLinear(4, 4)
    with pytest.raises(ValueError, match="weight: 16 of 16 scores of task 'a' are NaN or infinite"):
        allocate(layer, "a", 0.5, "snip", **scoring(torch.full((4, 4), math.nan)))
    allocate(layer, "a", "free", "random")
    layer.bias["a"].values.data[2] = math.nan
    with pytest.raises(ValueError, match="^bias: 1 of 4 scores of task 'a' are NaN or infinite"):
        prune(layer, "a", 0.5)
    assert len(layer.weight["a"].values) == 16


def test_a_network_without_masked_layers_is_refused():
    with pytest.raises(ValueError, match="no masked layers"):
        allocate(nn.Linear(4, 4), "a", 0.5, "random")


def test_allocation_leaves_grads_modes_and_random_state(small_network, snapshot, same):
    net, (a, b, _) = small_network
    allocate(net, "a", 0.2, batches=a.batches(), loss=a.loss)
    net.trunk.eval()
    a.loss(net(a.train[0], "a"), a.train[1]).backward()
    before = snapshot(net)
    allocate(net, "b", 0.2, batches=b.batches(), loss=b.loss)
    after = snapshot(net)
    assert all(same(after["state"][name], tensor) for name, tensor in before["state"].items())
    assert all(same(after["grads"][name], grad) for name, grad in before["grads"].items())
    assert all(after["parameters"][name] == number for name, number in before["parameters"].items())
    assert same(after["torch"], before["torch"])
    assert all(p.grad is None for p in task_parameters(net, "b"))
    release(net, "b")
    assert same(snapshot(net), before)


# --------------------------------------------------------------------------------- saliency by hand


def test_gradient_takes_the_largest_absolute_gradients():
    layer = MaskedLinear(4, 4)
    scores = [[0, -1, 2, -3], [4, -5, 6, -7], [8, -9, 10, 1], [3, 1, 0, 2]]
    allocate(layer, "a", 0.25, **scoring(scores))
    assert positions(layer.weight) == [7, 8, 9, 10]  # 7, 8, 9, 10
    assert positions(layer.bias) == [2]  # a bias' gradient is its row's sum: -2, -2, 10, 6
    allocate(layer, "b", 0.25, **scoring(scores))
    assert positions(layer.weight, "b") == [3, 4, 5, 6]  # -3, 4, -5, 6; the 3 of the last row comes later
    assert positions(layer.bias, "b") == [3]


def dense_twin(net, task):
    """The same network as plain torch with trainable weights, from the task's present values."""
    with torch.no_grad():
        layers = [m.plain(task) if isinstance(m, MaskedLinear) else m for m in net]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("method", ["gradient", "snip", "magnitude"])
@pytest.mark.parametrize("reads", ["none", "all"])
def test_saliency_agrees_with_autograd_on_a_dense_network(method, reads):
    x, y = torch.randn(12, 6), torch.randint(3, (12,))
    batches = [(x[:5], y[:5]), (x[5:], y[5:])]

    def network():
        net = nn.Sequential(MaskedLinear(6, 8), nn.Tanh(), MaskedLinear(8, 3))
        allocate(net, "earlier", 0.4, "random", seed=5)
        with torch.no_grad():
            for values in task_parameters(net, "earlier"):
                values.normal_(generator=torch.Generator().manual_seed(len(values)))
        return net

    scored, net = network(), network()
    free = {name: (m.flatten() == 0).nonzero().flatten().tolist() for name, m in owner_map(net).items()}
    allocate(scored, "a", "free", method="random", reads=reads)
    dense = dense_twin(scored, "a")
    F.cross_entropy(dense(x), y).backward()
    allocate(net, "a", 0.3, method, batches, F.cross_entropy, reads=reads)
    for name, parameter in dense.named_parameters():
        w, g = parameter.detach().flatten(), parameter.grad.flatten()
        scores = {"gradient": g.abs(), "snip": (w * g).abs(), "magnitude": w.abs()}[method]
        count = round(0.3 * len(w))
        layer, tensor = name.split(".")
        assert positions(getattr(net[int(layer)], tensor)) == best(scores, count, free[name]), name


def test_the_choice_does_not_depend_on_how_examples_are_batched():
    x, y = torch.randn(12, 6), torch.randn(12, 8)
    chosen = []
    for size in (1, 5, 12):
        layer = MaskedLinear(6, 8)
        allocate(layer, "a", 0.2, batches=zip(x.split(size), y.split(size), strict=True), loss=F.mse_loss)
        chosen.append((positions(layer.weight), positions(layer.bias)))
    assert chosen[0] == chosen[1] == chosen[2]


def test_gradients_are_taken_in_evaluation_mode():
    x = torch.randn(8, 6)

    def chosen(*modules):
        net = nn.Sequential(MaskedLinear(6, 8), *modules)
        allocate(net, "a", 0.2, batches=[(x, x[:, :1])], loss=F.mse_loss)
        return positions(net[0].weight)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that mse broadcasts
        assert chosen(nn.Dropout(0.9)) == chosen(nn.Identity())


def test_random_is_reproducible_per_seed_and_leaves_the_global_stream():
    def chosen(seed=None, name="a"):
        layer = MaskedLinear(10, 10, bias=False)
        allocate(layer, name, 0.3, "random", seed=seed)
        return positions(layer.weight, name)

    before = torch.get_rng_state()
    seen = {seed: chosen(seed) for seed in (0, 1, 2)}
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    assert seen == {seed: chosen(seed) for seed in (0, 1, 2)}
    assert len({tuple(p) for p in seen.values()}) == 3
    assert chosen() == seen[0] == chosen(np.int64(0))
    seed_everything(2)
    assert chosen() == seen[2] != chosen(name="b")


# ---------------------------------------------------------------------------- train, prune, retrain


def test_free_takes_everything_and_prune_keeps_the_largest_with_their_values():
    layer = MaskedLinear(4, 4)
    allocate(layer, "a", 0.25, "magnitude")
    taken = positions(layer.weight)
    allocate(layer, "b", "free")
    free = [p for p in range(16) if p not in taken]
    assert positions(layer.weight, "b") == free and positions(layer.bias, "b") == [1, 2, 3]
    assert layer.weight.free().tolist() == layer.bias.free().tolist() == []
    trained = [1.0, -12, 3, 10, -5, 5, 5, -5, 0, 11, 2, 4]
    with torch.no_grad():
        layer.weight["b"].values.copy_(torch.tensor(trained))
        layer.bias["b"].values.copy_(torch.tensor([0.0, -2, 1]))
    bits = layer.weight["a"].values.detach().clone()
    prune(layer, "b", 0.3)  # 5 of 16, 1 of 4
    kept = [free[k] for k in (1, 3, 4, 5, 9)]  # 12, 10, 11 and the first two fives
    assert positions(layer.weight, "b") == kept and layer.weight["b"].values.tolist() == [-12, 10, -5, 5, 11]
    assert positions(layer.bias, "b") == [2] and layer.bias["b"].values.tolist() == [-2]
    assert layer.weight["b"].values.requires_grad and layer.weight["b"].values.is_leaf
    assert torch.equal(layer.weight["a"].values, bits) and tasks(layer) == ["a", "b"]
    allocate(layer, "c", "free", "magnitude")
    assert sorted(positions(layer.weight, "c")) == sorted(set(free) - set(kept))
    prune(layer, "c", 0.25)
    assert len(layer.weight.free()) == 16 - 4 - 5 - 4


def test_prune_scores_present_values_by_any_method():
    layer = MaskedLinear(4, 4, bias=False)
    allocate(layer, "a", "free", "magnitude")
    scores = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15.0]])
    with torch.no_grad():
        layer.weight["a"].values.copy_((16 - scores.flatten()).pow(3))
    prune(layer, "a", 0.5, "gradient", **scoring(scores))
    assert positions(layer.weight) == list(range(8, 16))
    prune(layer, "a", 0.25, "snip", **scoring(scores))  # (16 - s)^3 s falls from 8 on
    assert positions(layer.weight) == [8, 9, 10, 11]
    prune(layer, "a", 0.125, "random", seed=3)
    assert len(positions(layer.weight)) == 2 and set(positions(layer.weight)) < {8, 9, 10, 11}


def test_prune_scores_what_is_not_trained_as_well(make_task):
    task = make_task("a", inputs=(6,), examples=20)
    kept = []
    for trained in (True, False):
        net = dense_network([task], width=8, depth=2)
        allocate(net, "a", 0.5, "random", seed=0)
        for parameter in net.parameters():
            parameter.requires_grad_(trained)
        prune(net, "a", 0.2, "gradient", task.batches(), task.loss)
        assert {parameter.requires_grad for parameter in net.parameters()} == {trained}
        kept.append({name: owner.tolist() for name, owner in owner_map(net).items()})
    assert kept[0] == kept[1]


def test_prune_refuses_and_changes_nothing(snapshot, same):
    net = nn.Sequential(MaskedLinear(4, 4), MaskedLinear(4, 4))
    allocate(net, "a", 0.25, "random")
    allocate(net, "b", 0.25, "random", reads="all")
    before = snapshot(net)
    cases = [
        (FrozenTaskError, "task 'a' cannot be pruned: task 'b' reads its entries", {"task": "a", "density": 0.1}),
        (ValueError, "no task 'x' in this network", {"task": "x"}),
        (ValueError, "density 0 must be", {"density": 0}),
        (ValueError, "density 'free' must be", {"density": "free"}),
        (ValueError, "method 'gradient' needs batches", {"method": "gradient"}),
        (CapacityError, r"0\.weight: asked for 8 entries, only 4 of 16", {"density": 0.5}),
        (ValueError, "batches held no examples", {"method": "snip", "batches": [], "loss": F.mse_loss}),
    ]
    for error, message, arguments in cases:
        with pytest.raises(error, match=message):
            prune(net, **{"task": "b", "density": 0.1, **arguments})
        assert same(snapshot(net), before), message


# -------------------------------------------------------------------------------- the released rule


def released(scores, percentile):
    """The release's rule, task by task: ``score[used == 1] = 0; keep score >= percentile; used += kept``."""
    used, found = np.zeros(len(scores[0])), []
    for score in scores:
        score = score.copy()
        score[used == 1] = 0
        kept = score >= np.percentile(score, percentile)
        used = used + kept
        found.append(kept)
    return found


def test_released_percentile_is_the_released_rule_bug_for_bug():
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(7):
        score = np.zeros((10, 10), np.float32)
        score[:, 1:] = rng.permutation(np.arange(1, 91)).reshape(10, 9)  # a dead input: ten exact zeros
        scores.append(score)
    expected = released([s.flatten() for s in scores], 80)
    assert [k.mean() for k in expected[:5]] == [0.2, 0.2, 0.2, 0.2, 1.0]
    layer, outputs, x = MaskedLinear(10, 10, bias=False), [], torch.randn(3, 10)
    for k, score in enumerate(scores):
        overlaps = any((expected[k] & e).any() for e in expected[:k])
        assert overlaps == (k >= 4)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            allocate(layer, f"t{k}", 0.2, rule="released_percentile", **scoring(score))
        assert [w.category for w in caught] == [OverlapWarning] * overlaps
        if overlaps:
            assert str(caught[0].message) == f"task 't{k}' overlaps other tasks in 1 of 1 tensors (weight)"
        assert positions(layer.weight, f"t{k}") == expected[k].nonzero()[0].tolist()
        with using(layer, f"t{k}"):
            outputs.append(layer(x).detach())
    optimizer = torch.optim.SGD(task_parameters(layer, "t4"), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        with using(layer, "t4"):
            layer(x).square().sum().backward()
        optimizer.step()
    for k, output in enumerate(outputs):
        with using(layer, f"t{k}"):
            assert torch.equal(layer(x), output) == (k != 4)


@pytest.mark.parametrize(
    ("density", "percentile"), [(0.1, 90), (0.25, 75), (0.3, 70), (0.55, 45), (0.29, 71), (1.0, 0)]
)
def test_released_percentile_at_other_densities(density, percentile):
    rng = np.random.default_rng(1)
    scores = [rng.integers(0, 20, (7, 9)).astype(np.float32) for _ in range(4)]  # many ties, some zeros
    layer = MaskedLinear(9, 7, bias=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OverlapWarning)
        for k, score in enumerate(scores):
            allocate(layer, f"t{k}", density, rule="released_percentile", **scoring(score))
    for k, kept in enumerate(released([s.flatten() for s in scores], percentile)):
        assert positions(layer.weight, f"t{k}") == kept.nonzero()[0].tolist()


def test_released_percentile_gives_every_task_all_zero_scored_biases():
    layer = MaskedLinear(10, 10)
    allocate(layer, "a", 0.2, "magnitude", rule="released_percentile")
    with pytest.warns(OverlapWarning, match=r"task 'b' overlaps other tasks in 1 of 2 tensors \(bias\)"):
        allocate(layer, "b", 0.2, "magnitude", rule="released_percentile")
    assert positions(layer.bias) == positions(layer.bias, "b") == list(range(10))
    assert [len(layer.weight[t].values) for t in "ab"] == [20, 20]
    assert owner_map(layer)["bias"].tolist() == [2] * 10


# ----------------------------------------------------------------------------------- initial values


def two_widths():
    """A 300 x 400 layer in which the first 150 units keep 10 inputs each and the others 70 (a tenth in all)."""
    scores = torch.zeros(300, 400)
    scores[:150, :10] = scores[150:, :70] = 1
    return MaskedLinear(400, 300), scoring(scores)


def spread(layer, task="a"):
    weight = layer.weight[task].values.detach()
    return weight[:1500].std().item(), weight[1500:].std().item()


def test_he_looks_at_each_units_kept_fan_in():
    layer, scored = two_widths()
    allocate(layer, "a", 0.1, **scored)
    few, many = spread(layer)
    assert few == pytest.approx(math.sqrt(2 / 10), rel=0.06)
    assert many == pytest.approx(math.sqrt(2 / 70), rel=0.03)
    assert layer.weight["a"].values.mean().abs() < 0.01
    assert layer.bias["a"].values.tolist() == [0] * 30


def test_he_counts_the_inputs_a_reader_reads():
    layer, scored = two_widths()
    allocate(layer, "a", 0.1, **scored)
    scores = torch.zeros(300, 400)
    scores[:150, 100:110] = scores[150:, 100:170] = 1
    for task, reads, kept in (("alone", "none", (10, 70)), ("reader", "all", (30, 210))):
        allocate(layer, task, 0.1, reads=reads, **scoring(scores.roll(70 if reads == "all" else 0, 1)))
        few, many = spread(layer, task)
        assert few == pytest.approx(math.sqrt(2 / kept[0]), rel=0.06)
        assert many == pytest.approx(math.sqrt(2 / kept[1]), rel=0.03)


def test_he_on_a_convolution_counts_kernel_entries():
    layer = MaskedConv2d(64, 64, 3)
    allocate(layer, "a", 1.0, "random")
    assert layer.weight["a"].values.std().item() == pytest.approx(math.sqrt(2 / (64 * 9)), rel=0.02)


def test_authors_is_normal_with_deviation_005():
    layer = MaskedLinear(400, 300)
    allocate(layer, "a", 0.1, "random", init="authors")
    values = layer.weight["a"].values
    assert values.std().item() == pytest.approx(0.05, rel=0.03)
    assert values.abs().max() > 0.15  # no uniform has tails as long
    assert layer.bias["a"].values.tolist() == [0] * 30


@pytest.mark.parametrize(
    ("layer", "bound"),
    [(MaskedLinear(400, 300), math.sqrt(6 / 700)), (MaskedConv2d(16, 48, 3, groups=2), math.sqrt(6 / (9 * (8 + 48))))],
    ids=["linear", "conv"],
)
def test_glorot_is_uniform_up_to_torchs_bound(layer, bound):
    allocate(layer, "a", 1.0, "random", init="glorot")
    values = layer.weight["a"].values.detach()
    assert 0.99 * bound < values.max() <= bound and 0.99 * bound < -values.min() <= bound
    assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    twin = nn.init.xavier_uniform_(torch.empty(layer.weight.shape))
    assert 0.99 * bound < twin.max() <= bound
    assert not layer.bias["a"].values.any()


def test_a_builders_head_starts_near_zero_and_its_trunk_does_not(make_task):
    task = make_task("a", inputs=(200,), outputs=100)
    net = dense_network([task], width=200, depth=1)
    allocate(net, "a", 0.2, "random")
    for layer, variance in ((net.trunk[0], 2.0), (net.heads["a"], 0.01)):
        kept = owner_map(layer)["weight"].sum(1, keepdim=True).expand(layer.weight.shape).flatten()
        standard = layer.weight["a"].values.detach() * kept[layer.weight["a"].positions].sqrt()
        assert standard.std().item() == pytest.approx(math.sqrt(variance), rel=0.04)


def test_scored_keeps_the_noise_that_was_scored_on_the_scale_of_he():
    layers = {init: MaskedLinear(40, 30) for init in ("he", "scored")}
    for init, layer in layers.items():
        allocate(layer, "a", 1.0, "random", init=init)
        assert layer.weight["a"].values.std().item() == pytest.approx(math.sqrt(2 / 40), rel=0.1)
    cut = MaskedLinear(40, 30)
    allocate(cut, "a", 0.1, "magnitude", init="scored")
    noise = layers["scored"].weight["a"].values.detach() * math.sqrt(40 / 2)
    kept = cut.weight.used_per_unit("a")[cut.weight.unit_of(cut.weight["a"].positions)]
    largest = noise[cut.weight["a"].positions]
    assert torch.allclose(cut.weight["a"].values, largest * (2 / kept).sqrt())
    assert (
        largest.abs().min() >= noise.abs().sort(descending=True).values[119]
    )  # magnitude took the largest, and so kept them
    assert not torch.equal(layers["he"].weight["a"].values, layers["scored"].weight["a"].values)


@pytest.mark.parametrize("init", ["he", "scored", "glorot", "authors"])
def test_an_entrys_noise_depends_on_seed_and_name_only(init):
    def values(others, seed=0, task="a"):
        layer = MaskedLinear(20, 20)
        for other in others:
            allocate(layer, other, 0.3, "random")
        allocate(layer, task, 0.5, "random", init=init, seed=seed)
        sub, found = layer.weight[task], torch.zeros(400)
        found[sub.positions] = sub.values.detach()
        if init in ("he", "scored"):  # undo each unit's own scale
            kept = (found.view(20, 20) != 0).sum(1, keepdim=True)
            found = (found.view(20, 20) * kept.sqrt()).flatten()
        return found

    alone, crowded = values([]), values(["b"])
    both = (alone != 0) & (crowded != 0)
    assert both.sum() > 50 and not torch.equal(alone, crowded)
    assert torch.allclose(alone[both], crowded[both], rtol=1e-6, atol=0)
    for other in (values([], seed=1), values([], task="z")):
        both = (alone != 0) & (other != 0)
        assert not (alone[both] == other[both]).any()


def test_an_embedding_starts_the_same_whatever_was_declared_before(make_task):
    words, other = (make_task(n, "binary", (5,), 1, vocabulary=30) for n in ("words", "other"))
    found = []
    for group in ([words], [other, words]):
        seed_everything(4)
        before = torch.get_rng_state()
        net = dense_network(group, inputs=8, width=6, depth=1)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(net.stems["words"][0].weight.detach())
    assert torch.equal(*found)
    assert 0.04 < found[0].abs().max() <= 0.05  # Keras's U(-0.05, 0.05), of which 60 numbers come near the ends
    assert not torch.equal(net.stems["words"][0].weight, net.stems["other"][0].weight)
    assert net.stems["words"][0].weight.requires_grad


# ----------------------------------------------------------------------------------------- warnings


def test_a_dead_output_is_warned_of_by_name():
    net = dense_network(inputs=4, width=4, depth=1)
    net.add_task("a", (4,), 3)
    with pytest.warns(DeadOutputWarning, match=r"heads\.a\.weight: outputs \[0, 2\] of task 'a' got no entries"):
        allocate(net, "a", 0.09, batches=[(torch.ones(2, 4), torch.ones(2, 3))], loss=lambda p, y: p[:, 1].sum())


def test_no_warning_where_every_output_lives_and_nothing_overlaps(small_network):
    net, group = small_network
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for task in group:
            allocate(net, task.name, 0.3, "random")


# ------------------------------------------------------------------------------------ normalisation


@pytest.mark.parametrize(
    "norm", [nn.BatchNorm1d(4), nn.SyncBatchNorm(4), nn.InstanceNorm1d(4, track_running_stats=True)]
)
def test_shared_batch_statistics_are_refused_by_name(norm):
    net = nn.Sequential(MaskedLinear(4, 4), nn.Sequential(norm), MaskedLinear(4, 4))
    with pytest.raises(ValueError, match=rf"^1\.0\.running_mean \({type(norm).__name__}\) .*PerTask") as error:
        allocate(net, "a", 0.5, "random")
    assert "\n" not in str(error.value) and tasks(net) == []


@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 2), lambda: nn.BatchNorm1d(4), lambda: MaskedLinear(4, 2)])
def test_a_private_part_given_to_two_tasks_is_refused_by_name(make):
    part = make()
    net = nn.Sequential(MaskedLinear(4, 4), PerTask({"a": nn.Sequential(part), "b": part, "c": make()}))
    with pytest.raises(ValueError, match="^1: tasks 'a' and 'b' share a module or its memory; give each its own$"):
        allocate(net, "c", 0.5, "random")
    stateless = nn.Flatten()
    allocate(nn.Sequential(PerTask({"a": stateless, "b": stateless}), MaskedLinear(4, 4)), "a", 0.5, "random")


def test_batch_norm_per_task_and_layer_norm_are_accepted():
    norms = PerTask({"a": nn.BatchNorm1d(4), "b": nn.BatchNorm1d(4)})
    net = nn.Sequential(MaskedLinear(4, 4), norms, nn.LayerNorm(4), nn.BatchNorm1d(4, track_running_stats=False))
    for name in "ab":
        with pytest.warns(SharedParameterWarning, match="^2.weight, 2.bias, 3.weight, 3.bias: shared by all tasks"):
            allocate(net, name, 0.5, "random")
    own = {id(norms["a"].weight), id(norms["a"].bias)}
    assert own < {id(p) for p in task_parameters(net, "a")}
    assert len(task_parameters(net, "a")) == 4


def test_a_task_without_a_head_is_refused_before_anything_changes():
    net = dense_network(inputs=4, width=6, depth=1)
    net.add_task("known", (4,), 2)
    with pytest.raises(ValueError, match="stems: nothing declared for task 'unknown', only for: known"):
        allocate(net, "unknown", 0.5, method="random")
    assert tasks(net) == []


def test_scores_that_overflow_are_refused():
    layer = MaskedLinear(4, 4, dtype=torch.float16)
    x = torch.full((512, 4), 255.0, dtype=torch.float16)
    with pytest.raises(ValueError, match="scores of task 'a' are NaN or infinite"):
        allocate(layer, "a", 0.5, batches=[(x, x)], loss=lambda out, y: 1e3 * out.mean())
    assert tasks(layer) == []
