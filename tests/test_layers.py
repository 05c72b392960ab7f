"""Masked layers, the switch between tasks, and who owns what, on tensors small enough to work out by hand."""

import copy
import doctest

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import msnlib.layers
from msnlib import (
    FrozenTaskError,
    MaskedConv2d,
    MaskedLinear,
    PerTask,
    allocate,
    dense_network,
    owner_map,
    release,
    task_parameters,
    tasks,
    using,
)

pytestmark = pytest.mark.usefixtures("seeded")


def hold(tensor, task, positions, values, order=1, reads=False):
    """Give a task exactly these entries."""
    tensor.own(task, torch.tensor(positions), torch.tensor(values, dtype=torch.float32), order, reads)


def scattered(tensor, task):
    """The task's dense tensor, put together one entry at a time."""
    dense = torch.zeros(tensor.numel())
    for position, value in zip(tensor[task].positions.tolist(), tensor[task].values.tolist(), strict=True):
        dense[position] = value
    return dense.view(tensor.shape).requires_grad_()


def by_hand():
    """A 5 x 2 weight of 0..9 shared by a (0, 3, 9) and b (1, 4), the rest free."""
    layer = MaskedLinear(2, 5, bias=False)
    hold(layer.weight, "a", [0, 3, 9], [0.5, 3, 9], order=1)
    hold(layer.weight, "b", [1, 4], [1, 4], order=2)
    return layer


def test_a_new_layer_holds_nothing_and_draws_no_random_number():
    before = torch.get_rng_state()
    layers = [MaskedLinear(4, 3), MaskedConv2d(2, 3, 3)]
    assert torch.equal(torch.get_rng_state(), before)
    for layer in layers:
        assert list(layer.parameters()) == [] and tasks(layer) == []
        assert [(m == 0).sum().item() for m in owner_map(layer).values()] == [layer.weight.numel(), 3]


def test_output_and_gradient_by_hand():
    layer = by_hand()
    x = torch.tensor([[10.0, 1.0]])
    with using(layer, "a"):
        assert layer(x).tolist() == [[5, 3, 0, 0, 9]]  # rows (.5, 0) (0, 3) (0, 0) (0, 0) (0, 9)
        layer(x).sum().backward()
    with using(layer, "b"):
        assert layer(x).tolist() == [[1, 0, 40, 0, 0]]  # rows (0, 1) (0, 0) (4, 0) (0, 0) (0, 0)
    assert layer.weight["a"].values.grad.tolist() == [10, 1, 1]
    assert layer.weight["b"].values.grad is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("density", [0.3, 1.0])
def test_linear_agrees_with_torch_on_the_scattered_weight(bias, density):
    layer = MaskedLinear(5, 4, bias=bias)
    allocate(layer, "other", 0.2 if density < 1 else 1.0, "random")
    if density == 1:
        release(layer, "other")
    allocate(layer, "a", density, "random")
    if bias:
        layer.bias["a"].values.data.normal_()
    x, dense_x = (torch.randn(3, 5, generator=torch.manual_seed(1)).requires_grad_() for _ in range(2))
    weight = scattered(layer.weight, "a")
    added = scattered(layer.bias, "a") if bias else None
    expected = F.linear(dense_x, weight, added)
    with using(layer, "a"):
        out = layer(x)
    assert torch.equal(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    assert torch.equal(x.grad, dense_x.grad)
    own = layer.weight["a"]
    assert torch.equal(own.values.grad, weight.grad.flatten()[own.positions])
    if bias:
        assert torch.equal(layer.bias["a"].values.grad, added.grad[layer.bias["a"].positions])


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": (3, 1), "dilation": (2, 1), "bias": False},
        {"kernel_size": 3, "padding": "same", "groups": 2},
        {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
        {"kernel_size": 3, "padding": (2, 1), "padding_mode": "reflect", "bias": False},
    ],
    ids=lambda a: "-".join(str(k) for k in a),
)
def test_conv_agrees_with_torch_on_the_scattered_weight(arguments):
    layer = MaskedConv2d(4, 6, **arguments)
    allocate(layer, "other", 0.4, "random")
    allocate(layer, "a", 0.3, "random")
    weight = scattered(layer.weight, "a")
    added = None
    if layer.bias is not None:
        layer.bias["a"].values.data.normal_()
        added = scattered(layer.bias, "a")
    x, dense_x = (torch.randn(2, 4, 7, 7, generator=torch.manual_seed(1)).requires_grad_() for _ in range(2))
    padding, mode = arguments.get("padding", 0), arguments.get("padding_mode")
    padded = dense_x
    if mode:
        rows, columns = (padding, padding) if isinstance(padding, int) else padding
        padded, padding = F.pad(dense_x, (columns, columns, rows, rows), mode=mode), 0
    rest = {k: arguments[k] for k in ("stride", "dilation", "groups") if k in arguments}
    expected = F.conv2d(padded, weight, added, padding=padding, **rest)
    with using(layer, "a"):
        out = layer(x)
    assert torch.equal(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    assert torch.allclose(x.grad, dense_x.grad, rtol=1e-5, atol=1e-6)
    own = layer.weight["a"]
    assert torch.allclose(own.values.grad, weight.grad.flatten()[own.positions], rtol=1e-5, atol=1e-6)
    assert own.values.grad.count_nonzero() > 0


def test_a_reader_sees_its_own_and_all_earlier_entries_and_trains_its_own():
    layer = by_hand()
    hold(layer.weight, "c", [2, 8], [20, 80], order=3, reads=True)
    hold(layer.weight, "d", [5], [50], order=4, reads=False)
    hold(layer.weight, "e", [6], [60], order=5, reads=True)
    assert layer.weight.dense("c").tolist() == [[0.5, 1], [20, 3], [4, 0], [0, 0], [80, 9]]
    assert layer.weight.dense("d").tolist() == [[0, 0], [0, 0], [0, 50], [0, 0], [0, 0]]
    assert layer.weight.dense("e").tolist() == [[0.5, 1], [20, 3], [4, 50], [60, 0], [80, 9]]
    with using(layer, "c"):
        layer(torch.tensor([[10.0, 1.0]])).sum().backward()
    assert [t for t in "abcde" if layer.weight[t].values.grad is not None] == ["c"]
    assert layer.weight["c"].values.grad.tolist() == [10, 10]


def test_where_read_tasks_overlap_the_latest_counts_also_after_a_state_dict():
    layer = MaskedLinear(2, 2, bias=False)
    hold(layer.weight, "z", [0, 1], [1, 1], order=1)
    hold(layer.weight, "a", [1, 2], [2, 2], order=2)  # what the rule released_percentile can do
    hold(layer.weight, "m", [3], [3], order=3, reads=True)
    assert layer.weight.dense("m").tolist() == [[1, 2], [2, 3]]
    assert owner_map(layer)["weight"].tolist() == [[1, 2], [2, 3]]
    fresh = MaskedLinear(2, 2, bias=False)
    fresh.load_state_dict(layer.state_dict())
    assert fresh.weight.dense("m").tolist() == [[1, 2], [2, 3]]
    assert tasks(fresh) == ["z", "a", "m"]


@pytest.mark.parametrize("verb", ["trained", "released"])
def test_a_task_that_is_read_can_be_neither_trained_nor_released(verb, snapshot, same):
    layer = by_hand()
    hold(layer.weight, "c", [2], [20], order=3, reads=True)
    hold(layer.weight, "d", [5], [50], order=4)
    before = snapshot(layer)
    act = {"trained": task_parameters, "released": release}[verb]
    for name in "ab":
        with pytest.raises(FrozenTaskError, match=f"task '{name}' cannot be {verb}: task 'c' reads its entries"):
            act(layer, name)
    assert same(snapshot(layer), before)
    act(layer, "d")  # later than the reader: nobody reads it
    act(layer, "c")
    release(layer, "c") if verb == "trained" else None
    act(layer, "a")


def test_owner_map_numbers_the_tasks_in_the_order_of_their_allocation():
    layer = by_hand()
    assert tasks(layer) == ["a", "b"]
    assert owner_map(layer)["weight"].tolist() == [[1, 2], [0, 1], [2, 0], [0, 0], [0, 1]]
    assert owner_map(layer)["weight"].dtype == torch.int64


def test_release_frees_exactly_the_tasks_entries_and_renumbers():
    layer = by_hand()
    hold(layer.weight, "c", [2, 8], [20, 80], order=3)
    kept = {t: (layer.weight[t].values, layer.weight[t].values.detach().clone()) for t in "ac"}
    release(layer, "b")
    assert tasks(layer) == ["a", "c"]
    assert owner_map(layer)["weight"].tolist() == [[1, 0], [2, 1], [0, 0], [0, 0], [2, 1]]
    assert layer.weight.free().tolist() == [1, 4, 5, 6, 7]
    for task, (parameter, bits) in kept.items():
        assert layer.weight[task].values is parameter and torch.equal(parameter, bits)
    allocate(layer, "d", 0.5, "random")
    assert layer.weight["d"].positions.tolist() == [1, 4, 5, 6, 7]
    assert owner_map(layer)["weight"].tolist() == [[1, 3], [2, 1], [3, 3], [3, 3], [2, 1]]


def test_a_task_allocated_after_a_release_is_still_the_latest():
    layer = MaskedLinear(5, 4, bias=False)
    for task in "abc":
        allocate(layer, task, 0.2, "random")
    release(layer, "a")
    allocate(layer, "d", 0.2, "random", reads="all")
    assert tasks(layer) == ["b", "c", "d"] and layer.weight.read_by("d") == ["b", "c"]
    assert layer.weight.dense("d").count_nonzero() == 12


def test_releasing_an_unknown_task_is_an_error_that_lists_the_known():
    with pytest.raises(ValueError, match="no task 'x' in this network; it holds: a, b"):
        release(by_hand(), "x")


def test_using_nests_and_restores():
    layer = by_hand()
    x = torch.tensor([[10.0, 1.0]])
    with using(layer, "a"):
        a = layer(x)
        with using(layer, "b") as inner:
            assert inner is layer
            assert not torch.equal(layer(x), a)
        assert torch.equal(layer(x), a)
        with pytest.raises(KeyError), using(layer, "b"):
            raise KeyError
        assert torch.equal(layer(x), a)
    with pytest.raises(RuntimeError, match=r"no task is active.*tasks: a, b"):
        layer(x)


def test_using_an_unknown_task_is_an_error_and_leaves_the_active_one():
    layer = by_hand()
    with using(layer, "a"):
        with pytest.raises(ValueError, match="no task 'x' in this network; it holds: a, b"), using(layer, "x"):
            pass
        assert layer.weight.active == "a"
    with pytest.raises(ValueError, match="holds: none"), using(MaskedLinear(2, 2), "a"):
        pass


def test_a_builders_network_takes_the_task_by_name(small_network):
    net, (a, b, _) = small_network
    allocate(net, "a", 0.5, "random")
    with using(net, "a"):
        assert torch.equal(net(a.test[0]), net(a.test[0], task="a"))
    with pytest.raises(RuntimeError, match="no task is active: call net"):
        net(a.test[0])
    with pytest.raises(ValueError, match="no task 'b' in this network; it holds: a"):
        net(b.test[0], task="b")


def test_a_task_released_while_active_has_no_entries():
    layer = by_hand()
    with using(layer, "a"):
        release(layer, "a")
        with pytest.raises(RuntimeError, match="task 'a' has no entries here"):
            layer(torch.ones(1, 2))


def test_a_module_used_twice_is_counted_once():
    shared = MaskedLinear(4, 4)
    net = nn.Sequential(nn.Sequential(shared, nn.ReLU(), shared), shared)
    allocate(net, "a", 0.25, "random")
    assert list(owner_map(net)) == ["0.0.weight", "0.0.bias"]
    assert [len(p) for p in task_parameters(net, "a")] == [4, 1]


def test_a_parameter_tied_inside_a_private_part_is_trained_once():
    head = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    head[1].weight = head[0].weight
    net = nn.Sequential(MaskedLinear(4, 4, bias=False), PerTask({"a": head}))
    allocate(net, "a", 0.5, "random")
    assert [id(p) for p in task_parameters(net, "a")] == [id(net[0].weight["a"].values), id(head[0].weight)]


def test_task_parameters_are_the_own_values_and_own_stem_and_head_and_nothing_else(small_network):
    net, group = small_network
    for task in group:
        allocate(net, task.name, 0.2, "random")
    names = {id(p): name for name, p in net.named_parameters()}
    found = {t.name: [names[id(p)] for p in task_parameters(net, t.name)] for t in group}
    trunk = ["trunk.0.weight", "trunk.0.bias", "trunk.2.weight", "trunk.2.bias"]
    head = ["weight", "bias"]
    assert found == {
        "a": [f"{n}.a.values" for n in trunk] + [f"heads.a.{n}.a.values" for n in head],
        "b": [f"stems.b.1.{n}.b.values" for n in head]
        + [f"{n}.b.values" for n in trunk]
        + [f"heads.b.{n}.b.values" for n in head],
        "c": ["stems.c.0.weight"]
        + [f"stems.c.2.{n}.c.values" for n in head]
        + [f"{n}.c.values" for n in trunk]
        + [f"heads.c.{n}.c.values" for n in head],
    }
    assert sum(map(len, found.values())) == len(names)


def test_optimizer_state_is_as_large_as_the_tasks_share():
    net = nn.Sequential(MaskedLinear(20, 20), nn.ReLU(), MaskedLinear(20, 20))
    allocate(net, "a", 0.1, "random")
    allocate(net, "b", 0.5, "random")
    state = {}
    for task in ("a", "b"):
        optimizer = torch.optim.Adam(task_parameters(net, task))
        with using(net, task):
            net(torch.ones(2, 20)).sum().backward()
        optimizer.step()
        state[task] = sum(s[k].numel() for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq"))
    assert state == {"a": 2 * 2 * (40 + 2), "b": 2 * 2 * (200 + 10)}


def test_a_state_dict_fills_a_fresh_module_that_holds_no_tasks(same):
    layer = by_hand()
    hold(layer.weight, "c", [2], [20], order=3, reads=True)
    fresh = MaskedLinear(2, 5, bias=False)
    hold(fresh.weight, "stale", [0, 1, 2], [7, 7, 7])
    fresh.load_state_dict(layer.state_dict())
    assert tasks(fresh) == ["a", "b", "c"]
    assert same(dict(fresh.state_dict()), dict(layer.state_dict()))
    assert fresh.weight.dense("c").tolist() == layer.weight.dense("c").tolist()
    with torch.no_grad():
        fresh.weight["a"].values.zero_()
    assert layer.weight["a"].values.tolist() == [0.5, 3, 9]


@pytest.mark.parametrize(
    "other",
    [
        lambda: MaskedLinear(2, 4, bias=False),
        lambda: MaskedLinear(5, 2, bias=False),
        lambda: MaskedLinear(2, 5, bias=True),
        lambda: nn.Sequential(MaskedLinear(2, 5, bias=False)),
    ],
    ids=["smaller", "transposed", "with a bias", "other names"],
)
def test_a_state_dict_of_another_structure_is_refused(other):
    with pytest.raises(RuntimeError):
        other().load_state_dict(by_hand().state_dict())


def test_a_deep_copy_is_independent():
    layer = by_hand()
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        twin.weight["a"].values.zero_()
    release(twin, "b")
    assert layer.weight["a"].values.tolist() == [0.5, 3, 9] and tasks(layer) == ["a", "b"]
    assert tasks(twin) == ["a"] and twin.weight["a"].values.requires_grad


def test_a_layer_moved_to_float64_gives_float64_to_old_and_new_tasks():
    layer = by_hand().to(torch.float64)
    allocate(layer, "c", 0.2, "random")
    assert layer.weight["a"].positions.dtype == torch.int64
    for task in "abc":
        with using(layer, task):
            assert layer(torch.ones(1, 2, dtype=torch.float64)).dtype == torch.float64


def test_a_task_declared_on_a_float64_network_gets_float64_parts(make_task):
    net = dense_network([make_task("a")], width=6, depth=1).to(torch.float64)
    net.add_task("b", (3,), 2)
    net.add_task("words", (3,), 2, vocabulary=5)
    for task, x in {"b": torch.ones(1, 3, dtype=torch.float64), "words": torch.zeros(1, 3, dtype=torch.int64)}.items():
        allocate(net, task, 0.5, "random")
        assert net(x, task).dtype == torch.float64


@pytest.mark.parametrize("name", ["", "a.b", "values", "shape", "a b", "a\n", "active", "like", "forward", 3, None])
def test_a_string_that_cannot_name_a_task_is_refused(name, make_task):
    net = dense_network([make_task("a")], width=6, depth=1)
    for act in (lambda: allocate(net, name, 0.5, "random"), lambda: net.add_task(name, (4,), 2)):
        with pytest.raises(ValueError, match="task name") as error:
            act()
        assert "\n" not in str(error.value)
    assert tasks(net) == [] and list(net.declared) == ["a"]


@pytest.mark.parametrize("name", ["fashion", "0", "E1-a_b", "weight", "bias", "positions", "order"])
def test_any_other_name_goes_through_everything(name, same):
    layer = MaskedLinear(4, 4)
    allocate(layer, name, 0.5, "random")
    fresh = MaskedLinear(4, 4)
    fresh.load_state_dict(layer.state_dict())
    assert same(dict(fresh.state_dict()), dict(layer.state_dict())) and tasks(fresh) == [name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", (4,), 2), "task 'a' is declared already"),
        (("b", (4,), 0), "must be whole numbers, at least 1"),
        (("b", (0, 4), 2), "must be whole numbers, at least 1"),
    ],
)
def test_a_builders_network_refuses_what_it_cannot_declare(arguments, message, make_task):
    net = dense_network([make_task("a")], width=6, depth=1)
    with pytest.raises(ValueError, match=message):
        net.add_task(*arguments)
    assert list(net.declared) == list(net.heads) == list(net.stems) == ["a"]


def test_the_builder_makes_the_authors_network():
    net = dense_network(inputs=784)
    net.add_task("boston", (13,), 1)
    shapes = {name: tuple(m.shape) for name, m in owner_map(net).items() if name.endswith("weight")}
    assert shapes == {
        "stems.boston.1.weight": (784, 13),
        "trunk.0.weight": (1000, 784),
        **{f"trunk.{2 * k}.weight": (1000, 1000) for k in range(1, 6)},
        "heads.boston.weight": (1, 1000),
    }
    for bad in ({}, {"inputs": 0}, {"inputs": 4, "width": 0}, {"inputs": 4, "depth": 0}):
        with pytest.raises(ValueError):
            dense_network(**bad)


def test_the_examples_in_the_docstrings_run():
    names = {"torch": torch, "allocate": allocate, "using": using}
    assert doctest.testmod(msnlib.layers, extraglobs=names) == (0, 3)


@pytest.mark.parametrize("layer", [MaskedLinear(300, 300), MaskedLinear(4, 4), MaskedConv2d(4, 4, 1)], ids=str)
def test_a_hook_on_a_weight_runs(layer):
    allocate(layer, "a", 0.1, "random")
    layer.weight.register_forward_hook(lambda module, x, weight: 0 * weight)
    shape = (2, 4, 3, 3) if isinstance(layer, MaskedConv2d) else (2, layer.in_features)
    with using(layer, "a"):
        assert not layer(torch.ones(shape)).any()
