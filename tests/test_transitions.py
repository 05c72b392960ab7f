"""From one state of a network to the next: what is refused changes nothing, what leaves leaves nothing behind."""

import copy
import warnings

import pytest
import torch
from torch import nn

from msnlib import (
    CapacityError,
    DeadOutputWarning,
    FrozenTaskError,
    MaskedLinear,
    PerTask,
    SharedParameterWarning,
    allocate,
    convert,
    dense_network,
    fit,
    predict,
    prune,
    release,
    set_values,
    shared_tensors,
    task_parameters,
    tasks,
    using,
)

pytestmark = pytest.mark.usefixtures("seeded")


def by_hand():
    return nn.Sequential(MaskedLinear(4, 6), PerTask({t: nn.BatchNorm1d(6) for t in "ab"}), MaskedLinear(6, 3))


def converted():
    return convert(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)))


def built():
    net = dense_network(inputs=4, width=6, depth=1)
    for task in "ab":
        net.add_task(task, (5,), 3)
    return net


NETWORKS = {"by hand": by_hand, "converted": converted, "built": built}
every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def holding(make, *names):
    net = make()
    for name in names:
        allocate(net, name, 0.3, method="random")
    return net


# ------------------------------------------------------------------------------------------- loading


def foreign(state):
    return {"0.weight": torch.zeros(6, 4)}


def narrow(state):
    return holding(lambda: nn.Sequential(MaskedLinear(4, 2)), "a").state_dict()


def of_another_shape(state):
    name = next(name for name in reversed(state) if name.endswith("weight.a.values"))
    return state | {name: torch.zeros(1)}


def without_the_last(state):
    return dict(list(state.items())[:-1])


def with_one_more(state):
    return state | {"more": torch.zeros(1)}


def out_of_range(state):
    return {n: t + 1000 if n.endswith("weight.a.positions") else t for n, t in state.items()}


def twice(state):
    return {n: torch.zeros_like(t) if n.endswith("weight.a.positions") else t for n, t in state.items()}


def without_values(state):
    return {n: t for n, t in state.items() if not n.endswith("weight.b.values")}


def of_another_task_in_one_layer(state):
    last = next(name for name in reversed(state) if name.endswith("weight.a.values")).removesuffix("a.values")
    return {name.replace(f"{last}a.", f"{last}c."): t for name, t in state.items() if name.startswith(last)}


def without_a_layer_of_a_task(state):
    last = next(name for name in reversed(state) if name.endswith("weight.a.values")).removesuffix("values")
    return {name: tensor for name, tensor in state.items() if not name.startswith(last)}


def without_a_copy(state):
    of_copies = [name for name in state if ".copies.a." in name or ".a.running_" in name or name.endswith("a.values")]
    return {name: tensor for name, tensor in state.items() if name != of_copies[0]}


ALWAYS = [of_another_shape, out_of_range, twice, without_values]
STRICTLY = [foreign, narrow, without_a_layer_of_a_task, without_a_copy, without_the_last, with_one_more]


@every_network
@pytest.mark.parametrize(
    ("damage", "strict"),
    [(damage, True) for damage in ALWAYS + STRICTLY]
    + [(damage, False) for damage in [*ALWAYS, of_another_task_in_one_layer]],
)
def test_a_refused_state_dict_changes_nothing(make, damage, strict, snapshot, same):
    net, state = holding(make, "a", "b"), holding(make, "b", "a").state_dict()
    before = snapshot(net)
    with pytest.raises(RuntimeError):
        net.load_state_dict(damage(state), strict=strict)
    assert same(snapshot(net), before)
    net.load_state_dict(state)
    assert tasks(net) == ["b", "a"]


@every_network
def test_a_part_of_a_state_dict_changes_what_it_names_alone(make):
    net, other = holding(make, "a", "b"), holding(make, "a", "b")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    before = {name: t.clone() for name, t in net.state_dict().items()}
    last = list(shared_tensors(net))[-1]
    part = {name: t for name, t in other.state_dict().items() if name.startswith(last)}
    assert part
    net.load_state_dict(part, strict=False)
    assert tasks(net) == ["a", "b"]
    for name, tensor in net.state_dict().items():
        assert tensor.equal((part if name in part else before)[name]), name
    net.load_state_dict({}, strict=False)
    assert tasks(net) == ["a", "b"]


# ------------------------------------------------------------------------------------------- release


@pytest.mark.parametrize("kind", ["images", "words", "norms of its own", "converted", "part by hand"])
def test_a_released_task_starts_as_new(kind, make_task):
    a = make_task("a", inputs=(5,), outputs=3, vocabulary=9 if kind == "words" else None)
    b = make_task("b", inputs=(5,), outputs=3, vocabulary=9 if kind == "words" else None)
    make = {
        "images": lambda: dense_network([a, b], inputs=4, width=8, depth=1),
        "words": lambda: dense_network([a, b], inputs=4, width=8, depth=1),
        "norms of its own": lambda: nn.Sequential(
            MaskedLinear(5, 8), PerTask({t: nn.BatchNorm1d(8) for t in "ab"}), MaskedLinear(8, 3)
        ),
        "converted": lambda: convert(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.PReLU(), nn.Linear(8, 3))),
        "part by hand": lambda: nn.Sequential(PerTask({t: nn.Linear(5, 5) for t in "ab"}), MaskedLinear(5, 3)),
    }[kind]
    torch.manual_seed(0)
    net = make()

    def start():
        for task in (a, b):
            if task.name not in tasks(net):
                allocate(net, task.name, 0.3, batches=task.batches(), loss=task.loss, seed=1)

    start()
    new = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    fit(net, b, epochs=2, learning_rate=0.1, seed=1)
    of_b = predict(net, b)
    assert not all(tensor.equal(new[name]) for name, tensor in net.state_dict().items())
    release(net, "b")
    assert predict(net, a).isfinite().all() and not [p for p in net.parameters() if p.grad is not None]
    start()
    assert all(tensor.equal(new[name]) for name, tensor in net.state_dict().items())
    fit(net, b, epochs=2, learning_rate=0.1, seed=1)
    assert predict(net, b).equal(of_b)


# ---------------------------------------------------------------------------------------- set_values


@every_network
def test_values_of_a_task_are_set_where_it_owns_entries_and_nowhere_else(make, snapshot, same):
    net = holding(make, "a", "b")
    before = {name: tensor.dense("b").clone() for name, tensor in shared_tensors(net, "b").items()}
    clipped = {name: tensor.dense("a").detach().clamp(-0.01, 0.01) for name, tensor in shared_tensors(net, "a").items()}
    set_values(net, "a", clipped)
    for name, tensor in shared_tensors(net, "a").items():
        assert tensor.dense("a").equal(clipped[name])
    set_values(net, "a", {name: torch.ones(t.shape) for name, t in shared_tensors(net, "a").items()})
    assert all(bool((t["a"].values == 1).all()) for t in shared_tensors(net, "a").values())
    assert all(tensor.dense("b").equal(before[name]) for name, tensor in shared_tensors(net, "b").items())


@every_network
def test_values_that_do_not_fit_are_refused_before_any_is_set(make, snapshot, same):
    net = holding(make, "a", "b")
    ones = {name: torch.ones(tensor.shape) for name, tensor in shared_tensors(net, "a").items()}
    before, last = snapshot(net), list(ones)[-1]
    for task, values, says in (
        ("c", ones, "no task 'c'"),
        ("a", ones | {"weight": torch.ones(1)}, "'a' owns nothing in 'weight', only in: "),
        ("a", ones | {last: torch.ones(9, 9)}, rf"{last} has shape \(.*\), the values given \(9, 9\)"),
        ("a", ones | {last: ones[last].numpy()}, f"{last} must be given a dense tensor of real numbers, not ndarray"),
        ("a", ones | {last: ones[last].to(torch.complex64)}, r"not Tensor \(torch.strided, torch.complex64, cpu\)"),
        ("a", ones | {last: ones[last].to_sparse()}, r"not Tensor \(torch.sparse_coo, torch.float32, cpu\)"),
        ("a", ones | {last: ones[last].to("meta")}, r"not Tensor \(torch.strided, torch.float32, meta\)"),
    ):
        with pytest.raises(ValueError, match=says):
            set_values(net, task, values)
    assert same(snapshot(net), before)
    reader = holding(converted, "a")
    allocate(reader, "reader", 0.2, method="random", reads="all")
    with pytest.raises(FrozenTaskError, match="task 'a' cannot be changed: task 'reader' reads"):
        set_values(reader, "a", {})


# ----------------------------------------------------------------------------------------- isolation


class Centre(nn.Module):
    def __init__(self, persistent):
        super().__init__()
        self.register_buffer("mean", torch.zeros(4), persistent)

    def forward(self, x):
        if self.training:
            self.mean.lerp_(x.detach().mean(0), 0.1)
        return x - self.mean


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda: Centre(True), r"1\.mean \(Centre\)"),
        (lambda: Centre(False), r"1\.mean \(Centre\)"),
        (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm1d(4)), r"1\.1\.running_mean \(BatchNorm1d\)"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_a_buffer_of_all_tasks_is_refused_by_name(make, where, late, snapshot, same):
    module = make()
    if late:
        net = convert(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)))
        net[1] = module
    else:
        net = nn.Sequential(MaskedLinear(4, 4), module, MaskedLinear(4, 3))
    before = snapshot(net)
    with pytest.raises(ValueError, match=f"^{where} is of all tasks at once: give each its own"):
        allocate(net, "a", 0.3, method="random")
    assert same(snapshot(net), before)
    net[1] = PerTask({"a": copy.deepcopy(module), "b": copy.deepcopy(module)})
    allocate(net, "a", 0.3, method="random")
    release(net, "a")
    net[1] = convert(nn.Sequential(nn.Linear(4, 4), module))
    allocate(net, "a", 0.3, method="random")


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: nn.Linear(4, 3), r"2\.weight, 2\.bias"),
        (lambda: nn.LayerNorm(4), r"2\.weight, 2\.bias"),
        (lambda: nn.PReLU(), r"2\.weight"),
        (lambda: nn.Sequential(nn.Embedding(4, 4)), r"2\.0\.weight"),
    ],
)
@pytest.mark.parametrize("late", [False, True])
def test_parameters_that_no_task_owns_are_named_in_a_warning(make, names, late):
    module = make()
    if late:
        net = convert(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)))
        net[2] = module
    else:
        net = nn.Sequential(MaskedLinear(4, 4), nn.ReLU(), module)
    with pytest.warns(SharedParameterWarning, match=f"^{names}: shared by all tasks and trained by fit for none"):
        allocate(net, "a", 0.3, method="random")
    assert not {id(p) for p in module.parameters()} & {id(p) for p in task_parameters(net, "a")}
    module.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        allocate(net, "b", 0.3, method="random")


# -------------------------------------------------------------------------------------------- limits


def test_a_layer_with_one_output_can_be_converted_for_many_tasks():
    net = convert(nn.Sequential(nn.Linear(4, 50), nn.ReLU(), nn.Linear(50, 1)), outputs=["2"])
    x, outputs = torch.randn(3, 4), {}
    for task in ("a", "b", "c"):
        allocate(net, task, 0.1, method="random")
        with using(net, task):
            outputs[task] = net(x).detach()
    biases = [net[2].copies[task].bias for task in ("a", "b", "c")]
    assert len({id(bias) for bias in biases}) == 3
    for task, bias in zip("abc", biases, strict=True):
        assert id(bias) in {id(p) for p in task_parameters(net, task)}
    for task, expected in outputs.items():
        with using(net, task):
            assert net(x).equal(expected)
    one = convert(nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 1), nn.Linear(1, 4)), "old")
    prune(one, "old", 0.5)
    allocate(one, "new", 0.5, method="random")
    assert tasks(one) == ["old", "new"]


@pytest.mark.parametrize(("width", "held"), [(1, 1), (5, 5), (3, 3)])
def test_biases_that_run_out_say_why_and_what_to_do(width, held):
    net = nn.Sequential(MaskedLinear(40, width))
    for k in range(held):
        allocate(net, f"t{k}", 0.1, method="random")
    with pytest.raises(CapacityError, match=r"^0\.bias: asked for 1 .* takes at least one .*bias=False.*") as error:
        allocate(net, "more", 0.1, method="random")
    assert "\n" not in str(error.value)
    without = nn.Sequential(MaskedLinear(40, width, bias=False))
    for k in range(held + 1):
        allocate(without, f"t{k}", 0.1, method="random")


@pytest.mark.parametrize("cut", [0.1, 0.3, 1.0])
def test_pruning_warns_of_outputs_that_it_leaves_without_weights(cut):
    net = dense_network(inputs=8, width=20, depth=1)
    net.add_task("a", (8,), 4)
    allocate(net, "a", "free")
    head = net.heads["a"].weight
    set_values(net, "a", {"heads.a.weight": head.dense("a").detach() * torch.tensor([1e-6, 1, 1e-6, 1])[:, None]})
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        prune(net, "a", cut, rule="largest")
    dead = (head.used_per_unit("a") == 0).nonzero().flatten().tolist()
    assert dead == ([] if cut == 1 else [0, 2])
    said = [str(w.message) for w in seen if issubclass(w.category, DeadOutputWarning)]
    assert said == ([f"heads.a.weight: outputs {dead} of task 'a' got no entries"] if dead else [])
    assert all(w.filename == __file__ for w in seen)
