"""Tasks taken out of msnlib smaller, sparse or as ONNX files: the same outputs, and no msnlib needed."""

import builtins
import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import fx, nn

from msnlib import (
    MaskedConv2d,
    MaskedLinear,
    MultitaskNetwork,
    allocate,
    conv_network,
    convert,
    dense_network,
    export_onnx,
    extract,
    using,
)
from msnlib.exchange import export
from msnlib.exchange.compaction import compact_row
from msnlib.products import MANY, OWN_MM

pytestmark = [
    pytest.mark.usefixtures("seeded"),
    pytest.mark.filterwarnings("ignore::msnlib.DeadOutputWarning"),
]
FORMATS = ("compact", "csr", "auto")


def biased(net, dtype=torch.float64):
    """The network in float64 with biases that are not zero, so that constant units say something."""
    net.to(dtype)
    for name, parameter in net.named_parameters():
        if ".bias." in name:
            parameter.data.uniform_(-1, 1)
    return net


@pytest.fixture
def networks(make_task, small_network):
    """name -> (network, task, inputs): both builders, stems of every kind, single entries and whole units."""
    dense, group = small_network
    images = make_task("a", inputs=(1, 8, 8)), make_task("b", inputs=(3, 8, 8)), make_task("c", inputs=(8, 8))
    conv = conv_network(images, channels=(6, 8), width=10)
    units = dense_network(group[:1], width=12, depth=2)
    allocate(units, "a", 0.5, "random", rule="whole_units")
    units_conv = conv_network(images[:1], channels=(6, 8), width=10)
    allocate(units_conv, "a", 0.5, "random", rule="whole_units")
    found = {"units": (units, group[0]), "units, conv": (units_conv, images[0])}
    for name, net, declared in (("dense", dense, group), ("conv", conv, images)):
        for task in declared:
            allocate(net, task.name, 0.06, "random", reads="all" if task.name == "c" else "none")
            found[f"{name} {task.name}"] = net, task
    return {
        name: (biased(net), task.name, task.test[0] if task.vocabulary else task.test[0].double())
        for name, (net, task) in found.items()
    }


def outputs(module, x):
    with torch.no_grad():
        return module(x)


def weights(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_gives_the_same_outputs(format, networks, same):
    for name, (net, task, x) in networks.items():
        before = copy.deepcopy(net.state_dict())
        module, expected = extract(net, task, format=format), outputs(extract(net, task), x)
        for batch in (x, x[:1]):
            assert torch.allclose(outputs(module, batch), expected[: len(batch)], rtol=0, atol=1e-10), name
        assert same(before, net.state_dict()), name


def test_compacting_makes_layers_smaller_and_is_done_at_once(networks):
    for name, (net, task, x) in networks.items():
        dense, compact = extract(net, task), extract(net, task, "compact")
        assert type(compact) is nn.Sequential and weights(compact) <= weights(dense), name
        if "units" not in name:
            assert weights(compact) < weights(dense), name
        row = copy.deepcopy(list(compact))
        compact_row(row)
        assert [str(m) for m in row] == [str(m) for m in compact], name
        assert torch.allclose(outputs(nn.Sequential(*row), x), outputs(compact, x), rtol=0, atol=1e-10)
        assert all(m.weight.shape == (m.out_features, m.in_features) for m in compact if isinstance(m, nn.Linear))


def hand_made(net, weights):
    """The task "a" with exactly these dense weights and biases, by name of tensor."""
    allocate(net, "a", 1.0, "random")
    for name, tensor in weights.items():
        shared = net.get_submodule(name)
        shared["a"].values.data.copy_(torch.tensor(tensor).flatten())
    return net.double()


def test_compacting_by_hand():
    """2 - 4 - 3 - 1. First layer: unit 0 is live, 1 a constant 2, 2 a constant 0, 3 live and read by unit 2 alone."""
    net = dense_network(inputs=2, width=4, depth=1)
    net.trunk.extend([MaskedLinear(4, 3), nn.ReLU()])
    net.features = 3
    net.add_task("a", (2,), 1)
    given = {
        "trunk.0.weight": [[1.0, 2.0], [0.0, 0.0], [0.0, 0.0], [3.0, 0.0]],
        "trunk.0.bias": [0.5, 2.0, -1.0, 0.0],
        # Unit 0: live. Unit 1: of the constants 1 and 2 alone, so relu(5 * 2 + 1) = 11. Unit 2 feeds nothing.
        "trunk.2.weight": [[1.0, 10.0, 7.0, 0.0], [0.0, 5.0, 5.0, 0.0], [0.0, 0.0, 0.0, 1.0]],
        "trunk.2.bias": [0.25, 1.0, 0.0],
        "heads.a.weight": [[2.0, 3.0, 0.0]],
        "heads.a.bias": [0.125],
    }
    compact = extract(hand_made(net, given), "a", "compact")
    assert [str(m) for m in compact if isinstance(m, nn.Linear)] == [
        "Linear(in_features=2, out_features=1, bias=True)",
        "Linear(in_features=1, out_features=1, bias=True)",
        "Linear(in_features=1, out_features=1, bias=True)",
    ]
    first, second, head = (m for m in compact if isinstance(m, nn.Linear))
    assert (first.weight.tolist(), first.bias.tolist()) == ([[1, 2]], [0.5])
    assert (second.weight.tolist(), second.bias.tolist()) == ([[1]], [20.25])
    assert (head.weight.tolist(), head.bias.tolist()) == ([[2]], [33.125])


def test_a_constant_channel_is_folded_only_where_no_border_is(make_task):
    """A constant image under zero padding is none behind the next convolution; in front of a Flatten it stays one."""
    net = conv_network([make_task("a", inputs=(1, 8, 8))], channels=(3, 4), width=5)
    allocate(net, "a", 1.0, "random")
    biased(net)
    first, second = net.trunk[0], net.trunk[2]
    last = net.trunk[7]
    for layer, channel, bias in ((first, 0, 1.0), (first, 1, -1.0), (second, 2, 0.0), (last, 3, 2.0)):
        layer.weight["a"].values.data.view(layer.weight.shape)[channel] = 0
        layer.bias["a"].values.data[channel] = bias
    compact = extract(net, "a", "compact")
    widths = [m.out_channels for m in compact if isinstance(m, nn.Conv2d)]
    assert widths == [2, 2, 4, 3]  # the first layer's constant 1 stays
    assert next(m for m in compact if isinstance(m, nn.Linear)).in_features == 3 * 6 * 6
    x = torch.randn(5, 1, 8, 8).double()
    assert torch.allclose(outputs(compact, x), outputs(extract(net, "a"), x), rtol=0, atol=1e-10)


def test_a_dead_network_keeps_a_unit_in_each_layer(make_task):
    for net in (
        dense_network([make_task("a")], width=6, depth=3),
        conv_network([make_task("a", inputs=(1, 8, 8))], channels=(3, 4), width=5),
    ):
        allocate(net, "a", 1.0, "random")
        biased(net).heads["a"].weight["a"].values.data.zero_()
        x = torch.rand(3, *net.declared["a"]["inputs"]).double()
        for format in ("compact", "csr"):
            assert torch.equal(outputs(extract(net, "a", format), x), outputs(extract(net, "a"), x))
        layers = [m for m in extract(net, "a", "compact") if hasattr(m, "weight")]
        assert [len(m.weight) for m in layers[:-1]] == [1] * (len(layers) - 1)


def test_layers_without_biases_get_one_where_a_constant_needs_it():
    trunk = nn.Sequential(MaskedLinear(4, 6), nn.Sigmoid(), MaskedLinear(6, 5, bias=False), nn.Tanh())
    net = MultitaskNetwork(trunk, 4, 5)
    net.add_task("a", (4,), 2)
    allocate(net, "a", 0.3, "random")
    net.double()
    net.trunk[0].weight["a"].values.data[:3] = 0
    x = torch.randn(7, 4).double()
    for format in ("compact", "csr"):
        assert torch.allclose(outputs(extract(net, "a", format), x), outputs(extract(net, "a"), x), rtol=0, atol=1e-10)


def test_a_format_keeps_dtype_and_mode(networks):
    net, task, x = networks["dense b"]
    for dtype in (torch.float32, torch.float64):
        for format in FORMATS:
            module = extract(net.to(dtype), task, format)
            assert module.training and outputs(module, x.to(dtype)).dtype == dtype
            assert not any(m.training for m in extract(copy.deepcopy(net).eval(), task, format).modules())


# -------------------------------------------------------------------------------------------- csr


@pytest.mark.parametrize("batch_size", [32, MANY])
def test_csr_is_a_graph_of_torch_calls_that_can_be_copied_and_saved(networks, tmp_path, batch_size):
    for name in ("dense a", "dense c", "conv b"):
        net, task, x = networks[name]
        module = extract(net, task, "csr", batch_size)
        expected = outputs(module, x)
        assert torch.allclose(expected, outputs(extract(net, task), x), rtol=0, atol=1e-12)
        assert any(node.target is OWN_MM for node in module.graph.nodes) == (batch_size == MANY)
        assert isinstance(module, fx.GraphModule)
        torch.save(module, tmp_path / "module.pt")
        loaded = torch.load(tmp_path / "module.pt", weights_only=False)
        twin = copy.deepcopy(loaded)
        for other in (loaded, twin):
            assert list(other.state_dict()) == list(module.state_dict()) and torch.equal(outputs(other, x), expected)
        torch.save(module.state_dict(), tmp_path / "state.pt")
        for tensor in twin.state_dict().values():
            tensor.zero_()
        twin.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        assert torch.equal(outputs(twin, x), expected)


def test_csr_holds_the_entries_kept_alone(networks):
    net, task, _ = networks["dense a"]
    compact, csr = extract(net, task, "compact"), extract(net, task, "csr").state_dict()
    kept = [int((m.weight != 0).sum()) for m in compact if isinstance(m, nn.Linear)]
    assert [len(t) for n, t in csr.items() if n.startswith("values")] == kept
    assert {t.dtype for n, t in csr.items() if n.startswith(("rows", "columns"))} == {torch.int32}


def test_csr_and_compact_run_where_msnlib_cannot_be_imported(networks, tmp_path):
    cases = {}
    for name, (net, task, x) in networks.items():
        for how in (("compact",), ("csr",), ("csr", MANY)):
            module = extract(net, task, *how)
            cases[name, *how] = module, x, outputs(module, x)
    torch.save(cases, tmp_path / "cases.pt")
    program = (
        "import sys; sys.modules['msnlib'] = None\n"
        "import torch; torch.set_num_threads(1)\n"
        "cases = torch.load('cases.pt', weights_only=False)\n"
        "print(sum(torch.allclose(module(x), y, atol=1e-12) for module, x, y in cases.values()))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.stdout, ran.returncode) == (f"{len(cases)}\n", 0), ran.stderr


# -------------------------------------------------------------------------------------- auto, errors


@pytest.mark.parametrize(
    "seconds, chosen", [((3, 2, 1), 2), ((3, 1, 2), 1), ((1, 2, 3), 0), ((1, 1, 1), 0), ((1, 0.96, 0.97), 0)]
)
def test_auto_takes_the_fastest_and_dense_in_doubt(seconds, chosen, monkeypatch):
    now = [0.0]

    class Slow(nn.Module):
        def __init__(self, takes):
            super().__init__()
            self.takes, self.seen = takes, []

        def forward(self, x):
            now[0] += self.takes if len(self.seen) != 5 else 100  # one hiccup
            self.seen.append(len(x))

    monkeypatch.setattr(export.time, "perf_counter", lambda: now[0])
    modules = [Slow(takes) for takes in seconds]
    assert export._fastest(modules, torch.ones(7, 1)) is modules[chosen]
    assert {n for m in modules for n in m.seen} == {7}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_in_half_precision_there_is_no_csr_and_auto_does_without(dtype, make_task):
    task = make_task("a", inputs=(6,), examples=20)
    net = dense_network([task], width=8, depth=2)
    allocate(net, "a", 0.5, "random")
    net = net.to(dtype)
    with pytest.raises(ValueError, match=f"^format 'csr' is for float32 and float64, not {dtype}$"):
        extract(net, "a", "csr")
    assert type(extract(net, "a", "auto", batch_size=np.int64(4))) in (nn.Sequential, type(extract(net, "a")))


def test_auto_measures_at_the_batch_size_asked_for(networks, monkeypatch):
    net, task, x = networks["dense c"]
    seen = []
    monkeypatch.setattr(export, "_fastest", lambda modules, x: seen.append(x) or modules[0])
    assert torch.equal(outputs(extract(net, task, "auto", batch_size=5), x), outputs(extract(net, task), x))
    assert seen[0].shape == (5, 5) and seen[0].dtype == torch.int64 and int(seen[0].max()) < 7


class Users(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = MaskedLinear(4, 3)

    def forward(self, x):
        return self.layer(x).relu()


def with_trunk(*modules, inputs=4, features=4):
    net = MultitaskNetwork(nn.Sequential(*modules), inputs, features)
    net.add_task("a", (inputs,) if isinstance(inputs, int) else inputs, 2)
    return net


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "net, message",
    [
        (Users, "not Users"),
        (lambda: with_trunk(MaskedLinear(4, 4), nn.Dropout()), "it cannot have Dropout(p=0.5, inplace=False)"),
        (lambda: with_trunk(MaskedLinear(4, 4), nn.Flatten(), MaskedLinear(4, 4)), "does not take the units of Linear"),
        (lambda: with_trunk(MaskedConv2d(2, 2, 3, groups=2), nn.Flatten(), inputs=(2, 4, 4), features=8), "groups=2"),
        (lambda: MultitaskNetwork(Users(), 4, 3), "it cannot have Users( (layer): Linear("),
    ],
    ids=["users", "dropout", "flatten", "groups", "trunk"],
)
def test_a_network_the_format_is_not_for_is_refused_in_one_line(format, net, message):
    net = net()
    if isinstance(net, MultitaskNetwork) and "a" not in net.declared:
        net.add_task("a", (4,), 2)
    allocate(net, "a", 0.5, "random")
    with pytest.raises(ValueError) as error:
        extract(net, "a", format)
    shown = str(error.value)
    assert shown.startswith(f"format {format!r} is for networks of msnlib's builders") and message in shown
    assert "\n" not in shown
    extract(net, "a")


def test_unusable_arguments_are_refused(networks):
    net, task, _ = networks["dense a"]
    with pytest.raises(ValueError, match="format 'sparse' is not one of dense, compact, csr, auto"):
        extract(net, task, "sparse")
    for size in (0, 2.5, "32"):
        with pytest.raises(ValueError, match=f"batch_size {size!r} must be a whole number of at least 1"):
            extract(net, task, "auto", batch_size=size)
    with pytest.raises(ValueError, match="no task 'other' in this network; it holds: a, b, c"):
        extract(net, "other", "csr")


# -------------------------------------------------------------------------------------------- onnx


@pytest.fixture
def run():
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")

    def run(path, x):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        assert [i.name for i in session.get_inputs()] == ["input"]
        assert [o.name for o in session.get_outputs()] == ["output"]
        return torch.from_numpy(session.run(None, {"input": x.numpy()})[0])

    return run


@pytest.mark.parametrize("format", ["dense", "compact"])
def test_an_exported_task_gives_torchs_outputs_in_onnxruntime(format, networks, run, same, tmp_path, capfd):
    for name, (net, task, x) in networks.items():
        net.float()
        x = x if x.dtype == torch.int64 else x.float()
        path = tmp_path / f"{name}.onnx"
        before, mode = copy.deepcopy(net.state_dict()), torch.get_rng_state()
        export_onnx(net, task, path, format=format)
        assert same(before, net.state_dict()) and torch.equal(mode, torch.get_rng_state()) and net.training
        expected = outputs(extract(net, task), x)
        for batch in (x, x[:1]):
            assert torch.allclose(run(path, batch), expected[: len(batch)], atol=1e-5), name
        assert path.stat().st_mode & 0o777 == 0o644
    assert sorted(os.listdir(tmp_path)) == sorted(f"{name}.onnx" for name in networks)
    assert capfd.readouterr() == ("", "")


def test_a_users_module_is_exported_in_evaluation_mode_with_an_example(run, tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    convert(net)
    allocate(net, "a", 0.5, "random")
    x = torch.randn(3, 1, 4, 4)
    with using(net, "a"):
        net(x)
    with pytest.raises(ValueError, match="Sequential does not say what task 'a' takes: give example=, a batch of it"):
        export_onnx(net, "a", tmp_path / "a.onnx")
    export_onnx(net, "a", tmp_path / "a.onnx", example=x)
    with using(net.eval(), "a"):
        assert torch.allclose(run(tmp_path / "a.onnx", x), outputs(net, x), atol=1e-5)


def test_a_failed_export_leaves_the_older_file_and_no_other(networks, run, monkeypatch, tmp_path):
    net, task, _ = networks["dense a"]
    path = tmp_path / "a.onnx"
    path.write_bytes(b"older")

    def refusal(kind):
        with pytest.raises(kind) as error:
            export_onnx(net.float(), task, path)
        assert path.read_bytes() == b"older" and os.listdir(tmp_path) == ["a.onnx"]
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
        return str(error.value)

    def broken(*args, **kwargs):
        raise TypeError("a\nb")

    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", broken)
        assert refusal(RuntimeError) == f"{path}: torch cannot export task 'a' to ONNX (a b)"
    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", lambda module, args, file, **rest: open(file, "w").close())
        assert "onnxruntime cannot run what torch exported" in refusal(RuntimeError)

    real = torch.onnx.export

    def altered(module, *args, **kwargs):
        module = copy.deepcopy(module)
        list(module.parameters())[-1].data.add_(0.5)
        real(module, *args, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", altered)
    assert "outputs of onnxruntime and torch differ by up to 0.5, over 0.00012" in refusal(RuntimeError)


def test_what_cannot_be_exported_is_refused_before_any_work(networks, monkeypatch, tmp_path):
    net, task, _ = networks["dense a"]
    path = tmp_path / "a.onnx"
    with pytest.raises(ValueError, match="format 'csr' is not one of dense, compact"):
        export_onnx(net, task, path, format="csr")
    with pytest.raises(ValueError, match="no task 'other' in this network"):
        export_onnx(net, "other", path)
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError) as error:
        export_onnx(net, task, path)
    assert str(error.value) == "onnx is not installed: pip install 'msnlib[export]'"
    assert os.listdir(tmp_path) == []


def test_without_onnxruntime_the_file_is_written_unverified(networks, run, monkeypatch, tmp_path):
    net, task, x = networks["dense a"]
    real, imported = builtins.__import__, []
    monkeypatch.setattr(builtins, "__import__", lambda name, *rest: imported.append(name) or real(name, *rest))
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else name)
    export_onnx(net.float(), task, tmp_path / "a.onnx")
    assert "onnxruntime" not in imported
    assert torch.allclose(run(tmp_path / "a.onnx", x.float()), outputs(extract(net, task), x.float()), atol=1e-5)


@pytest.mark.parametrize("make", [lambda: nn.Bilinear(4, 4, 8), lambda: Fails(), lambda: Complex()])
def test_a_failed_export_is_one_line_and_nothing_else(make, tmp_path, capfd):
    """torch's exporter prints the graph from C++, past sys.stdout."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.out = make(), nn.Linear(8, 3)

        def forward(self, x):
            return self.out(self.first(x, x))

    net = convert(Net())
    allocate(net, "a", 0.3, method="random")
    print("before")
    with pytest.raises(RuntimeError) as error:
        export_onnx(net, "a", tmp_path / "a.onnx", example=torch.randn(2, 4))
    print("after")
    assert len(str(error.value).splitlines()) == 1 and str(error.value).startswith(str(tmp_path / "a.onnx"))
    shown = capfd.readouterr()
    assert (shown.out, shown.err) == ("before\nafter\n", "") and not list(tmp_path.iterdir())


class Fails(nn.Module):
    def forward(self, x, y):
        raise KeyError("two\nlines")


class Complex(nn.Module):
    def forward(self, x, y):
        return torch.cat([torch.fft.fft(x).abs(), torch.special.bessel_j1(y)], 1)


@pytest.mark.parametrize("images", [False, True])
@pytest.mark.parametrize("size", [(5, 7), (9, 6), (8, 8), (6, 13)])
@pytest.mark.parametrize("width", [3, 7, 16])
def test_extracted_outputs_are_the_same_bits_or_within_what_is_promised(images, size, width, make_task):
    """Odd and even sizes: of a dense network all bits; of one that lays images out channels last, up to rounding."""
    task = make_task("a", inputs=(2, *size), outputs=5)
    if images:
        net = conv_network([task], channels=(width, width + 1), width=width, pool_stride=2 if width == 3 else 1)
    else:
        net = dense_network([task], width=5 * width, depth=2)
    allocate(net, "a", 0.4, method="random")
    net.eval()
    for count in (1, 3, 8):
        x = task.train[0][:count]
        with torch.no_grad():
            expected, given = net(x, task="a"), extract(net, "a")(x)
        largest = float(expected.abs().max())
        assert largest > 0
        assert float((given - expected).abs().max()) <= 1e-5 * largest if images else given.equal(expected)


def test_a_users_convolutions_are_extracted_bit_for_bit():
    net = convert(nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 7, 3, stride=2), nn.Flatten()))
    allocate(net, "a", 0.4, method="random")
    for size in ((5, 7), (9, 6)):
        x = torch.randn(3, 3, *size)
        with using(net, "a"), torch.no_grad():
            assert extract(net, "a")(x).equal(net(x))


def _bounded(net):
    net.trunk[1].forward = torch.tanh


@pytest.mark.parametrize("format", ["compact", "csr", "auto"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda net: net.trunk.register_forward_hook(lambda *_: None), "^trunk has a forward hook, which format"),
        (lambda net: net.trunk[1].register_forward_pre_hook(lambda *_: None), "^trunk.1 has a forward hook, which"),
        (_bounded, "^trunk.1 has a forward of its own, which format"),
    ],
)
def test_what_a_smaller_network_would_not_do_is_refused(change, said, format):
    net = dense_network(inputs=6, width=8, depth=1)
    net.add_task("a", (6,), 3)
    allocate(net, "a", 0.5, "random")
    change(net)
    with pytest.raises(ValueError, match=said):
        extract(net, "a", format)
    extract(net, "a")
