"""Products that leave out the zeros: the same results as with a dense matrix, where they are used and where not."""

import copy
import io

import pytest
import torch
from torch import nn

import msnlib.layers
from msnlib import MaskedLinear, allocate, convert, dense_network, fit, sparse_products, task_parameters, using
from msnlib.products import FEW_EXAMPLES, MANY, MANY_EXAMPLES, SMALLEST, Pattern, available, pays

pytestmark = pytest.mark.usefixtures("seeded")
mkl = pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="torch has sparse products with MKL alone")


@pytest.fixture
def sparse_calls(monkeypatch):
    """Shapes of the inputs that were multiplied without zeros."""
    shapes, multiply = [], msnlib.layers.sparse_linear

    def counted(input, *rest):
        shapes.append(tuple(input.shape))
        return multiply(input, *rest)

    monkeypatch.setattr(msnlib.layers, "sparse_linear", counted)
    return shapes


def two_tasks(density=0.1, bias=True, dtype=torch.float64, **how):
    layer = MaskedLinear(20, 30, bias=bias, dtype=dtype)
    for name in ("a", "b"):
        allocate(layer, name, density, "random", **how)
    return layer


def test_a_pattern_by_hand():
    pattern = Pattern(torch.tensor([1, 3, 5, 7]), (3, 3))  # rows .x. x.x .x.
    assert pattern.rows.tolist() == [0, 1, 3, 4] and pattern.column.tolist() == [1, 0, 2, 1]
    assert pattern.columns.tolist() == [0, 1, 3, 4] and pattern.row.tolist() == [1, 0, 2, 1]
    assert pattern.order.tolist() == [1, 0, 3, 2]
    values = torch.tensor([10.0, 20.0, 30.0, 40.0])
    dense = [[0, 10, 0], [20, 0, 30], [0, 40, 0]]
    assert pattern.matrix(values).to_dense().tolist() == dense
    assert pattern.transposed(values).to_dense().tolist() == torch.tensor(dense).T.tolist()
    assert pattern.positions().tolist() == [1, 3, 5, 7]
    wide = torch.tensor([5, 32768, 40000, 40007, 79999])  # columns beyond what two bytes hold
    assert Pattern(wide, (2, 40000)).positions().tolist() == wide.tolist()
    empty = Pattern(torch.tensor([], dtype=torch.int64), (2, 3))
    assert empty.positions().tolist() == []
    assert empty.matrix(torch.zeros(0)).to_dense().tolist() == [[0.0] * 3] * 2


@mkl
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5, 20), (2, 3, 20), (20,), (0, 20), (2, 0, 20), (MANY, 20), (2, MANY, 20)])
def test_outputs_and_gradients_are_those_of_the_dense_product(sparse_calls, shape, bias):
    layer, found = two_tasks(bias=bias), []
    for below in (0, 0.125):
        sparse_products(layer, below)
        layer.zero_grad()
        x = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape).sin().requires_grad_()
        with using(layer, "a"):
            output = layer(x)
        output.cos().sum().backward()
        found.append([output, x.grad, *(values.grad for values in task_parameters(layer, "a"))])
    assert sparse_calls == [shape]
    for dense, sparse in zip(*found, strict=True):
        torch.testing.assert_close(sparse, dense, rtol=0, atol=1e-12)
    assert all(values.grad is None for values in task_parameters(layer, "b"))


@mkl
def test_a_frozen_weight_an_input_without_gradient_and_gradcheck():
    layer = two_tasks()
    sparse_products(layer, 0.125)
    values, bias = task_parameters(layer, "a")
    x = torch.randn(4, 20, dtype=torch.float64, requires_grad=True)

    def run(x, values, bias):
        return msnlib.layers.sparse_linear(x, values, layer.weight["a"].pattern((30, 20)), bias)

    dense_bias = torch.randn(30, dtype=torch.float64, requires_grad=True)
    torch.autograd.gradcheck(run, (x, values.detach().requires_grad_(), dense_bias))
    values.requires_grad_(False)
    with using(layer, "a"):
        layer(x).sum().backward()
        assert values.grad is None and x.grad is not None
        values.requires_grad_()
        layer(x.detach()).sum().backward()
    assert values.grad is not None


@mkl
def test_training_reaches_the_same_network_and_moves_no_other_task(small_network, sparse_calls, snapshot, same):
    start, (a, b, _) = small_network
    for task in (a, b):
        allocate(start, task.name, 0.3, "random")
    found = []
    for below in (0, 0.5):
        net = copy.deepcopy(start)
        sparse_products(net, below)
        fit(net, a, epochs=5, seed=0)
        found.append(net.state_dict())
        others = [{k: v for k, v in snapshot(x)["state"].items() if ".b." in k} for x in (start, net)]
        assert others[0] and same(*others)
    assert sparse_calls
    moved = max(float((found[0][k] - v).abs().max()) for k, v in start.state_dict().items() if k.endswith("values"))
    assert moved > 0.001
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=0, atol=1e-5)


@mkl
def test_where_the_dense_product_stays(sparse_calls):
    x = torch.randn(3, 20, dtype=torch.float64)

    def run(layer, x=x, task="b"):
        sparse_calls.clear()
        with using(layer, task):
            layer(x)
        return len(sparse_calls)

    layer = two_tasks()
    assert run(layer) == 0  # nothing was asked for
    sparse_products(layer, 0.125)
    assert run(layer) == 1
    sparse_products(layer, 0)
    assert run(layer) == 0
    units = dense_network(inputs=20, width=30, depth=1).double()
    units.add_task("b", (20,), 3)
    allocate(units, "b", 0.1, "random", rule="whole_units")
    for kept in (two_tasks(density=0.2), two_tasks(reads="all"), units):
        sparse_products(kept, 0.125)
        assert run(kept) == 0
    sparse_products(layer, 0.125)
    with torch.autocast("cpu"):
        assert run(layer) == 0
    assert run(layer.bfloat16(), x.bfloat16()) == 0
    assert not available(x.to("meta"), x.to("meta"))
    layer.float()
    with pytest.raises(RuntimeError, match="dtype"):  # torch's own
        run(layer, x)


def test_compiled_it_is_the_dense_product(sparse_calls):
    layer, x = two_tasks(), torch.randn(3, 20, dtype=torch.float64)
    sparse_products(layer, 0.125)
    with using(layer, "a"):
        compiled = torch.compile(layer, backend="eager", fullgraph=True)(x)
        assert sparse_calls == []
        torch.testing.assert_close(layer(x), compiled)
        again = torch.compile(layer, backend="eager", fullgraph=True)(x)  # with a pattern in place of positions
        torch.testing.assert_close(again, compiled)


@mkl
def test_the_pattern_stands_in_for_the_positions_in_copies_and_in_files():
    layer, other = two_tasks(), two_tasks()
    x = torch.randn(3, 20, dtype=torch.float64)

    def output(layer):
        with using(layer, "a"):
            return layer(x)

    expected, before, start = output(layer), layer.state_dict(), list(layer.buffers())
    sparse_products(layer, 0.125)
    output(layer)
    held = sum(b.numel() * b.element_size() for b in layer.weight["a"].buffers())
    assert held == 60 * 8 + 4 * (31 + 21)  # no more than positions but for the beginnings of rows and columns
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    loaded, fresh = torch.load(file, weights_only=False), MaskedLinear(20, 30, dtype=torch.float64)
    fresh.load_state_dict(layer.state_dict())
    for same in (layer, copy.deepcopy(layer), loaded, fresh):
        torch.testing.assert_close(output(same), expected, rtol=0, atol=1e-13)
        state = same.state_dict()
        assert sorted(state) == sorted(before)
        assert all(state[name].equal(tensor) and state[name].dtype == tensor.dtype for name, tensor in before.items())
        sparse_products(same, 0)
        assert output(same).equal(expected)
    assert len(list(layer.buffers())) == len(start)  # positions again
    sparse_products(layer, 0.125)
    output(layer)
    layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(output(layer), output(other), rtol=0, atol=1e-13)


@mkl
def test_any_module_may_use_them(sparse_calls):
    net = convert(nn.Sequential(nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 30)).double())
    allocate(net, "a", 0.1, "random")
    x = torch.randn(3, 20, dtype=torch.float64)
    with using(net, "a"):
        dense = net(x)
        sparse_products(net, 0.125)
        torch.testing.assert_close(net(x), dense, rtol=0, atol=1e-13)
    assert sparse_calls == [(3, 20), (3, 40)]


@pytest.mark.parametrize("below", [-0.1, 1.5, float("nan")])
def test_a_limit_that_is_no_density_is_refused(below):
    with pytest.raises(ValueError, match=f"below is {below}, but must be from 0 to 1, or None"):
        sparse_products(two_tasks(), below)


def large(density, count=1, width=300):
    """A square layer with so many tasks of this density."""
    layer = MaskedLinear(width, width, dtype=torch.float64)
    for k in range(count):
        allocate(layer, f"t{k}", density, "random")
    return layer


def test_the_table_by_hand():
    assert pays(0, SMALLEST, 1) and not pays(0, SMALLEST - 1, 1)
    full = 1_000_000
    for examples, limit in [(1, FEW_EXAMPLES), (MANY - 1, FEW_EXAMPLES), (MANY, MANY_EXAMPLES), (4096, MANY_EXAMPLES)]:
        assert pays(round(limit * full), full, examples) and not pays(round(limit * full) + 1, full, examples)


@mkl
def test_the_product_follows_density_size_and_examples(sparse_calls):
    for layer, examples, expected in [
        (large(0.1), 8, 1),
        (large(0.1), MANY, 1),
        (large(0.2), 8, 1),
        (large(0.2), MANY, 0),
        (large(0.3), 8, 0),
        (large(0.02, width=200), 8, 0),
    ]:
        sparse_calls.clear()
        with using(layer, "t0"):
            layer(torch.ones(2, examples // 2, layer.in_features, dtype=torch.float64))
        assert len(sparse_calls) == expected, (layer, examples)


@mkl
def test_a_tasks_numbers_do_not_depend_on_how_many_tasks_there_are():
    x, found = torch.randn(16, 300, dtype=torch.float64), []
    for count in (1, 4):
        layer = large(0.1, count)
        with using(layer, "t0"):
            output = layer(x)
        output.square().sum().backward()
        found.append([output, *(values.grad for values in task_parameters(layer, "t0"))])
    assert all(one.equal(other) for one, other in zip(*found, strict=True))


@mkl
def test_one_argument_forces_a_product(sparse_calls):
    layer, x = large(0.1), torch.randn(8, 300, dtype=torch.float64)
    counts = []
    for below in (None, 0, 1, None):
        sparse_products(layer, below)
        sparse_calls.clear()
        with using(layer, "t0"):
            layer(x)
        counts.append(len(sparse_calls))
    assert counts == [1, 0, 1, 1]


def test_second_derivatives_are_refused_where_they_would_be_silently_zero():
    net = nn.Sequential(MaskedLinear(300, 300), nn.Tanh(), MaskedLinear(300, 3))
    allocate(net, "a", 0.1, "random", seed=0)
    x = torch.randn(1, 300, requires_grad=True)

    def curvature():
        with using(net, "a"):
            return torch.autograd.functional.hessian(lambda x: net(x).sum(), x.detach())

    def penalty():
        with using(net, "a"):
            (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
            slope.pow(2).sum().backward()

    for second in (curvature, penalty):
        with pytest.raises(RuntimeError, match=r"second derivatives: .*sparse_products\(net, 0\)"):
            second()
    sparse_products(net, 0)
    assert curvature().abs().sum() > 0
    penalty()
    with using(net, "a"):
        sparse_products(net, 1)
        net(x).sum().backward()  # first ones go on


@pytest.mark.parametrize("below", [0, 1, None])
def test_inputs_of_a_wrong_width_are_torchs_own_error_with_and_without_zeros(below):
    layer = MaskedLinear(784, 200)
    allocate(layer, "a", 0.1, "random", seed=0)
    sparse_products(layer, below)
    with using(layer, "a"), pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer(torch.rand(4, 392))
