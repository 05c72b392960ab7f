"""Networks in files, whole and damaged, and tasks taken out of msnlib as plain torch."""

import copy
import json
import math
import os
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import full_disk
from torch import nn

from msnlib import (
    MaskedConv2d,
    MaskedLinear,
    MultitaskNetwork,
    PerTask,
    allocate,
    dense_network,
    export_onnx,
    extract,
    inspect,
    load,
    owner_map,
    predict,
    release,
    save,
    tasks,
    using,
)
from msnlib.command.cli import main
from msnlib.exchange import storage
from msnlib.exchange.storage import decode, encode
from msnlib.subnetworks import shared_tensors

pytestmark = pytest.mark.usefixtures("seeded")

USERS_MODULE = '''
from torch import nn


class Net(nn.Module):
    """Written by a user; knows torch alone."""

    def __init__(self, stem, conv, norm, middle, head):
        super().__init__()
        self.stem, self.conv, self.norm, self.middle, self.head = stem, conv, norm, middle, head

    def forward(self, x):
        x = self.norm(self.conv(self.stem(x)).relu()).flatten(1)
        return self.head(self.middle(self.middle(x)))
'''


@pytest.fixture
def users_module(tmp_path, monkeypatch):
    (tmp_path / "users_module.py").write_text(USERS_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "users_module", raising=False)
    import users_module

    return users_module


def convolutional(users_module):
    """A user's module with msnlib's layers in it; ``middle`` runs twice."""
    return users_module.Net(
        PerTask({"a": nn.Identity(), "b": nn.Conv2d(1, 2, 1)}),
        MaskedConv2d(2, 4, 3, stride=2, padding="valid", groups=2, bias=False),
        PerTask({"a": nn.BatchNorm2d(4), "b": nn.Identity()}),
        MaskedLinear(16, 16),
        MaskedLinear(16, 3),
    )


@pytest.fixture
def network(small_network):
    """A builder's network with everything in it: a hole, a reader, an overlap, a task declared and not allocated."""
    net, group = small_network
    net.add_task("later", (4,), 2)
    net.add_task("z", (4,), 2)
    allocate(net, "z", 0.2, "random")
    allocate(net, "b", 0.2, "random")
    allocate(net, "c", 0.2, "random", reads="all")
    release(net, "c")
    release(net, "b")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        allocate(net, "c", 0.25, "random", reads="all")
        allocate(net, "a", 0.2, "magnitude", rule="released_percentile")  # all biases, owned or not
        allocate(net, "b", 0.3, "random", rule="released_percentile")
    for parameter in net.parameters():
        parameter.data.uniform_(0.1, 1)  # no unit is dead
    return net, group


def bits(net):
    return dict(net.state_dict())


# ------------------------------------------------------------------------------------ save and load


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_builders_network_comes_back_bit_for_bit(dtype, network, same, tmp_path):
    net, group = network
    net.to(dtype)
    for parameter in net.parameters():  # in digits that float32 has not
        parameter.data.mul_(1 / 3)
    path = tmp_path / "net.safetensors"
    save(net, path)
    loaded = load(str(path))
    assert tasks(loaded) == tasks(net) == ["z", "c", "a", "b"]
    assert same(bits(loaded), bits(net)) and loaded.declared == net.declared and loaded.config == net.config
    assert next(loaded.parameters()).dtype == dtype
    assert same(owner_map(loaded), owner_map(net))
    for task in group:
        x = task.train[0] if task.vocabulary else task.train[0].to(dtype)
        assert torch.equal(loaded(x, task.name), net(x, task.name))
    assert [loaded.trunk[0].weight[t].reads for t in tasks(net)] == [False, True, False, False]


def test_a_loaded_network_goes_on_as_the_saved_one_would(make_task, same, tmp_path):
    net = dense_network([make_task("a")], width=8, depth=1)
    allocate(net, "a", 0.2, "random")
    save(net, tmp_path / "net.safetensors")
    loaded, task = load(tmp_path / "net.safetensors"), make_task("b")
    for one in (net, loaded):
        one.add_task("b", task.inputs, task.outputs)
        allocate(one, "b", 0.3, batches=task.batches(), loss=task.loss)
        release(one, "a")
        allocate(one, "a", 0.3, "magnitude")
    assert same(bits(net), bits(loaded))


def test_the_header_is_readable(network, tmp_path):
    net, _ = network
    save(net, tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["msnlib"])
    assert header["format"] == 3
    assert header["network"]["builder"] == "dense_network" and header["network"]["dtype"] == "float32"
    assert header["network"]["declared"]["c"] == {"inputs": [5], "outputs": 1, "vocabulary": 7}
    assert list(header["tasks"]) == ["z", "c", "a", "b"] and header["tasks"]["c"]["reads"] == "all"
    # z: trunk 48 + 12 + 144 + 12 and head 24 + 2 entries at 0.2: 10 + 2 + 29 + 2 + 5 + 1 of 242
    assert header["tasks"]["z"] == {"entries": 49, "density": round(49 / 242, 6), "reads": "none"}


def test_the_file_is_as_small_as_the_entries_held(tmp_path):
    net = nn.Sequential(MaskedLinear(300, 300, bias=False))
    allocate(net, "a", 0.1, "random")
    save(net, tmp_path / "net.safetensors")
    assert 9000 * 4 < (tmp_path / "net.safetensors").stat().st_size < 9000 * (4 + 4.8 / 8) + 1000


def test_a_users_module_is_filled(users_module, same, tmp_path):
    path, x = tmp_path / "net.safetensors", torch.randn(4, 2, 5, 5)
    net = convolutional(users_module).eval()
    for task in ("a", "b"):
        allocate(net, task, 0.3, "random")
    save(net, path)
    with pytest.raises(
        ValueError, match=r"net\.safetensors: not made by a builder of msnlib, or .*; give load\(path, net="
    ):
        load(path)
    other = convolutional(users_module).eval()
    allocate(other, "a", 1.0, "random")
    assert load(path, net=other) is other
    assert tasks(other) == ["a", "b"] and same(bits(other), bits(net))
    for task, inputs in (("a", x), ("b", x[:, :1])):
        with using(net, task), using(other, task):
            assert torch.equal(net(inputs), other(inputs))


@pytest.mark.parametrize(
    "other",
    [
        lambda: nn.Sequential(MaskedLinear(4, 3), MaskedLinear(3, 4)),
        lambda: nn.Sequential(MaskedLinear(3, 4), MaskedLinear(4, 4)),
        lambda: nn.Sequential(MaskedLinear(3, 4), MaskedLinear(4, 3), MaskedLinear(3, 3)),
        lambda: nn.Sequential(MaskedLinear(3, 4)),
        lambda: nn.Sequential(MaskedLinear(3, 4), MaskedLinear(4, 3)).double(),
    ],
    ids=["transposed", "wider", "deeper", "shallower", "float64"],
)
def test_a_module_that_does_not_fit_is_refused_in_one_line(other, tmp_path):
    net = nn.Sequential(MaskedLinear(3, 4), MaskedLinear(4, 3))
    allocate(net, "a", 0.5, "random")
    save(net, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match=r"net\.safetensors: ") as error:
        load(tmp_path / "net.safetensors", net=other())
    assert "\n" not in str(error.value)


def test_a_module_used_twice_can_be_saved(same, tmp_path):
    shared = MaskedLinear(4, 4)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    allocate(net, "a", 0.5, "random")
    save(net, tmp_path / "net.safetensors")
    fresh = MaskedLinear(4, 4)
    loaded = load(tmp_path / "net.safetensors", net=nn.Sequential(fresh, nn.ReLU(), fresh))
    assert same(bits(loaded), bits(net)) and loaded[0] is loaded[2]


class _Louder(MultitaskNetwork):
    def forward(self, x, task=None):
        return 2 * super().forward(x, task)


def _hooked(net):
    net.trunk[0].register_forward_hook(lambda module, inputs, output: 2 * output)


def _own_forward(net):
    net.heads["a"].forward = torch.relu


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.trunk.__setitem__(1, nn.Tanh()),
        lambda net: net.trunk.append(nn.Dropout(0.9)),
        lambda net: net.trunk.__setitem__(1, nn.LeakyReLU(0.5)),
        lambda net: net.stems.__setitem__("a", nn.Flatten(1, 2)),
        lambda net: setattr(net, "__class__", _Louder),
        _hooked,
        _own_forward,
        lambda net: net.trunk[1].register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],)),
        lambda net: setattr(net.trunk[1], "forward", torch.tanh),
    ],
    ids=[
        *("other module", "one more", "other setting", "other stem", "other class", "hook", "forward"),
        *("hook of a plain module", "forward of a plain module"),
    ],
)
def test_a_builders_network_that_was_changed_is_not_rebuilt_as_it_was(change, same, tmp_path):
    """What was built anew would take the weights and give other outputs."""

    def built():
        net = dense_network(inputs=6, width=5, depth=2)
        net.add_task("a", (6,), 2)
        change(net)
        return net

    net = built()
    allocate(net, "a", 0.5, "random")
    save(net, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="not made by a builder of msnlib, or changed afterwards"):
        load(tmp_path / "net.safetensors")
    assert same(bits(load(tmp_path / "net.safetensors", built())), bits(net))


@pytest.mark.parametrize(
    "change, message",
    [
        (_hooked, "trunk.0 has a forward hook, which its plain copy would not have: remove it"),
        (_own_forward, "heads.a has a forward of its own, which its plain copy would not have: remove it"),
        (lambda net: setattr(net, "__class__", _Louder), "the network has a forward of its own, which "),
        (lambda net: net.heads.register_forward_hook(lambda *_: None), "heads has a forward hook, which "),
        (lambda net: net.trunk[0].bias.register_forward_hook(print), "trunk.0.bias has a forward hook, which "),
    ],
)
def test_what_a_plain_copy_would_lose_is_refused(change, message, same, tmp_path):
    net = dense_network(inputs=6, width=5, depth=2)
    net.add_task("a", (6,), 2)
    allocate(net, "a", 0.5, "random")
    change(net)
    before = bits(copy.deepcopy(net))
    for ask in (lambda: extract(net, "a"), lambda: export_onnx(net, "a", tmp_path / "net.onnx")):
        with pytest.raises(ValueError) as error:
            ask()
        assert str(error.value).startswith(message)
    assert same(bits(net), before) and list(tmp_path.iterdir()) == []


def test_what_only_other_tasks_use_does_not_matter_to_an_extracted_one():
    net = dense_network(inputs=6, width=5, depth=2)
    for task in ("a", "b"):
        net.add_task(task, (6,), 2)
        allocate(net, task, 0.3, "random")
    _own_forward(net)
    net.trunk[1].register_forward_hook(lambda module, inputs, output: 2 * output)  # copied with its module
    assert torch.equal(extract(net, "b")(torch.ones(1, 6)), net(torch.ones(1, 6), "b"))


def test_a_network_without_tasks_can_be_saved(tmp_path):
    save(dense_network(inputs=4, width=3, depth=1), tmp_path / "net.safetensors")
    assert tasks(load(tmp_path / "net.safetensors")) == []


def test_saving_changes_nothing(network, snapshot, same, tmp_path):
    net, _ = network
    before = snapshot(net)
    save(net, tmp_path / "net.safetensors")
    assert same(snapshot(net), before)
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]
    assert (tmp_path / "net.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda net: setattr(net, "1", MaskedLinear(4, 4)), "a tensor of shape (3, 4) does not fit one of (4, 4)"),
        (lambda net: net.append(MaskedLinear(3, 3)), "Missing key(s)"),
    ],
    ids=["wider", "deeper"],
)
def test_a_module_that_does_not_fit_is_left_as_it_was(change, message, snapshot, same, tmp_path):
    """The first layer would fit: without a rehearsal it held the file's entries by then."""
    net = nn.Sequential(MaskedLinear(3, 4), MaskedLinear(4, 3))
    allocate(net, "a", 0.5, "random")
    save(net, tmp_path / "net.safetensors")
    other = copy.deepcopy(net)
    release(other, "a")
    change(other)
    allocate(other, "b", 0.3, "random")
    before = snapshot(other)
    with pytest.raises(ValueError) as error:
        load(tmp_path / "net.safetensors", net=other)
    assert message in str(error.value) and same(snapshot(other), before)


# ---------------------------------------------------------------------------------------- positions


PATTERNS = {
    "empty": [],
    "the first": [0],
    "one": [41],
    "far": [2**40, 2**40 + 1],
    "full": range(1000),
    "every other": range(0, 1000, 2),
    "clustered": [*range(10), *range(10_000, 10_100), 99_999],
    **{f"random {d}": sorted(np.random.default_rng(1).permutation(5000)[: int(5000 * d)]) for d in (0.01, 0.1, 0.9)},
}


@pytest.mark.parametrize("positions", PATTERNS.values(), ids=PATTERNS)
def test_positions_come_back_from_their_code(positions):
    positions = np.array(positions, np.int64)
    code = encode(positions)
    assert code.dtype == np.uint8 and np.array_equal(decode(code), positions)
    assert decode(code).dtype == np.int64


@pytest.mark.parametrize("density", [0.001, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("pattern", ["random", "rows", "few inputs"])
def test_the_code_is_near_the_entropy_whatever_the_pattern(density, pattern):
    """Of random positions, and of such as gradients choose: some units or inputs have most of them."""
    side, draw = 1000, np.random.default_rng(0)
    score = draw.random((side, side))
    if pattern != "random":
        score = score * draw.lognormal(0, 1, (side, 1) if pattern == "rows" else (1, side))
    k = round(density * side**2)
    positions = np.sort(np.argpartition(-score.ravel(), k)[:k])
    bound = 4 * k + storage._choices(side**2, k) / 8
    start = time.perf_counter()
    code = encode(positions)
    assert 4 * k + len(code) <= 1.015 * bound and np.array_equal(decode(code), positions)
    assert time.perf_counter() - start < 5  # a tenth of a second on an idle machine


@pytest.mark.parametrize("code", [b"", b"\0", b"\3abc", b"\1\2\0", bytes([1]) + b"\xff" * 9, bytes([9]) + bytes(8)])
def test_no_code_is_an_error(code):
    with pytest.raises(ValueError, match="no code of positions"):
        decode(np.frombuffer(code, np.uint8))
    whole = encode(np.arange(0, 400, 3))
    with pytest.raises(ValueError, match="no code of positions"):
        decode(whole[:-2])


@pytest.mark.parametrize("rule", ["largest", "whole_units"])
def test_a_file_is_within_a_twentieth_of_the_bound(rule, make_task, same, tmp_path):
    group = [make_task(name, inputs=(100,)) for name in "abc"]
    net = dense_network(group, width=400, depth=2)
    for name in "abc":
        allocate(net, name, 0.1, "random", rule=rule)
    path = tmp_path / "net.safetensors"
    save(net, path)
    held = inspect(path)
    payload = held["bytes"]["file"] - held["bytes"]["header"]
    assert held["bound"] <= payload <= 1.05 * held["bound"]
    assert held["bytes"]["header"] < 12_000
    if rule == "whole_units":
        assert held["bytes"]["positions"] < 0.05 * held["bytes"]["values"]
    assert same(bits(load(path)), bits(net))


# ------------------------------------------------------------------------------------------- damage


@pytest.fixture
def saved(tmp_path):
    """(path, its bytes) of a small file."""
    layer = MaskedLinear(2, 2, bias=False)
    allocate(layer, "a", 0.5, "random")
    save(layer, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors", (tmp_path / "net.safetensors").read_bytes()


def refusal(path):
    with pytest.raises(ValueError) as error:
        load(path, net=MaskedLinear(2, 2, bias=False))
    message = str(error.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < 400
    return message


def test_no_altered_byte_goes_unnoticed(saved):
    path, whole = saved
    for k in range(len(whole)):
        path.write_bytes(whole[:k] + bytes([whole[k] ^ (1 << k % 8)]) + whole[k + 1 :])
        refusal(path)
    path.write_bytes(whole)
    load(path, net=MaskedLinear(2, 2, bias=False))


def test_no_cut_goes_unnoticed(saved):
    path, whole = saved
    for k in range(len(whole)):
        path.write_bytes(whole[:k])
        assert "cut short or not a safetensors file" in refusal(path)
    path.write_bytes(whole + b"\0")
    refusal(path)


def test_an_altered_value_or_type_or_name_is_named_as_such(saved):
    path, whole = saved
    for altered in (
        whole[:-1] + bytes([whole[-1] ^ 1]),
        whole.replace(b'"I64"', b'"F64"'),
        whole.replace(b".a.", b".b."),
    ):
        assert len(altered) == len(whole) and altered != whole
        path.write_bytes(altered)
        assert "altered" in refusal(path)


def test_foreign_and_newer_and_missing_files_are_named(saved, tmp_path, monkeypatch):
    path, _ = saved
    save_file({"w": torch.ones(2)}, path)
    assert "not one that msnlib saved" in refusal(path)
    save_file({"w": torch.ones(2)}, path, {"format": "pt"})
    assert "not one that msnlib saved" in refusal(path)
    path.write_text("a text file\n" * 20)
    assert "not a safetensors file" in refusal(path)
    torch.save({"w": torch.ones(2)}, path)
    assert "not a safetensors file" in refusal(path)
    monkeypatch.setattr(storage, "FORMAT", 2)
    save(MaskedLinear(2, 2), path)
    monkeypatch.undo()
    assert "format 2; this msnlib reads format 3" in refusal(path)
    for missing, reason in ((tmp_path / "none.safetensors", "no such file"), (tmp_path, "is a folder, not a file")):
        with pytest.raises(FileNotFoundError) as error:
            load(missing)
        assert str(error.value) == f"{missing}: {reason}"


@pytest.mark.parametrize("step", ["save_file", "os.replace"])
def test_a_failed_save_leaves_the_older_file_and_no_other(step, saved, monkeypatch):
    path, whole = saved

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"msnlib.exchange.storage.{step}", full)
    with pytest.raises(OSError, match="No space left"):
        save(MaskedLinear(2, 2), path)
    assert path.read_bytes() == whole and os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("room", [0, 500])
def test_a_full_disk_is_an_error_that_names_the_file(room, saved):
    path, whole = saved
    layer = MaskedLinear(20, 20)
    allocate(layer, "a", 0.5, "random")
    with full_disk(room), pytest.raises(OSError) as refused:
        save(layer, path)
    assert str(refused.value).startswith(f"{path} cannot be written (") and "\n" not in str(refused.value)
    assert path.read_bytes() == whole and os.listdir(path.parent) == [path.name]


def test_a_path_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "none" / "net.safetensors"):
        with pytest.raises(OSError):
            save(MaskedLinear(2, 2), path)
    assert os.listdir(tmp_path) == ["folder"] and os.listdir(tmp_path / "folder") == []


# ------------------------------------------------------------------------------------------ inspect


def test_inspecting_by_hand(tmp_path, capsys):
    """10 x 10 without a bias: a owns 10 of 100, b 20 of the 90 left."""
    net = nn.Sequential(MaskedLinear(10, 10, bias=False), nn.LayerNorm(5))
    allocate(net, "a", 0.1, "random")
    allocate(net, "b", 0.2, "random", reads="all")
    path = tmp_path / "net.safetensors"
    save(net, path)
    held = inspect(str(path))
    assert (held["format"], held["network"], held["overlap"]) == (3, None, {})
    assert held["tasks"] == {
        "a": {"entries": 10, "density": 0.1, "reads": "none"},
        "b": {"entries": 20, "density": 0.2, "reads": "all"},
    }
    bits = math.log2(math.comb(100, 10)) + math.log2(math.comb(90, 20))
    assert held["bound"] == 30 * 4 + 10 * 4 + math.ceil(bits / 8)
    size = held["bytes"]
    assert (size["values"], size["own"], size["file"]) == (120, 40, path.stat().st_size)
    assert sum(size.values()) == 2 * size["file"]
    assert main(["inspect", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: a module of its own, format 3"
    assert [line.split() for line in lines[2:4]] == [["a", "0.1000", "10", "none"], ["b", "0.2000", "20", "all"]]
    assert lines[4].startswith(f"bytes: {size['file']:,} (values 120, positions {size['positions']}, own 40, header ")


def test_an_overlap_is_counted_per_pair(network, tmp_path, capsys):
    net, _ = network
    path = tmp_path / "net.safetensors"
    save(net, path)
    held = inspect(path)
    shared = shared_tensors(net)
    owned = {
        task: {(name, k) for name, t in shared.items() if task in t for k in t[task].positions.tolist()}
        for task in tasks(net)
    }
    expected = {(a, b): len(owned[a] & owned[b]) for k, a in enumerate(owned) for b in list(owned)[k + 1 :]}
    assert held["overlap"] == {pair: n for pair, n in expected.items() if n} and held["overlap"]
    assert held["network"]["builder"] == "dense_network" and list(held["tasks"]) == tasks(net)
    main(["inspect", str(path)])
    (a, b), count = next(iter(held["overlap"].items()))
    assert f"{a} and {b} both own {count} entries" in capsys.readouterr().out


def test_a_file_without_tasks_can_be_inspected(tmp_path):
    save(dense_network(inputs=4, width=3, depth=1), tmp_path / "net.safetensors")
    assert inspect(tmp_path / "net.safetensors")["tasks"] == {}
    assert main(["inspect", str(tmp_path / "net.safetensors")]) == 0


def test_inspecting_notices_damage_to_all_that_it_tells(saved, capsys):
    path, whole = saved
    unnoticed = []
    for k in range(len(whole)):
        path.write_bytes(whole[:k] + bytes([whole[k] ^ (1 << k % 8)]) + whole[k + 1 :])
        try:
            inspect(path)
            unnoticed.append(k)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    length = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:length])
    described = whole.index(b'"msnlib":') + len(b'"msnlib":')
    looked_at = set(range(described, described + len(json.dumps(header.pop("__metadata__")["msnlib"]))))
    for name, tensor in header.items():
        if not name.endswith("values"):
            looked_at |= {length + k for k in range(*tensor["data_offsets"])}
    assert len(looked_at) > 100 and not looked_at & set(unnoticed)
    for cut in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert main(["inspect", str(path)]) == 2
        shown = capsys.readouterr()
        assert shown.out == "" and shown.err.startswith(f"msn: {path}: cut short or not a safetensors file")
    for missing, reason in ((path.parent / "none", "no such file"), (path.parent, "is a folder, not a file")):
        assert main(["inspect", str(missing)]) == 2
        assert capsys.readouterr().err == f"msn: {missing}: {reason}\n"


# ------------------------------------------------------------------------------------------ extract


def outputs(module, x):
    with torch.no_grad():
        return module(x)


def kinds(module):
    return {type(m).__module__.rpartition(".")[0] for m in module.modules()}


def test_a_builders_task_becomes_plain_torch(network, same):
    net, group = network
    before = bits(copy.deepcopy(net))
    for task in group:
        plain = extract(net, task.name)
        assert type(plain) is nn.Sequential and kinds(plain) == {"torch.nn.modules"}
        assert torch.equal(outputs(plain, task.test[0]), predict(net, task))
        assert len(set(outputs(plain, task.test[0]).flatten().tolist())) > 1
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter.add_(1)
    assert same(bits(net), before)


def test_a_task_of_a_users_module_becomes_plain_torch(users_module, same):
    net, x = convolutional(users_module), torch.randn(8, 2, 5, 5)
    for task in ("a", "b"):
        allocate(net, task, 0.3, "random", reads="all")
    with using(net, "a"):
        net(x)  # moves the statistics of a's norm
    net.eval()
    for task, inputs in (("a", x), ("b", x[:, :1])):
        plain = extract(net, task)
        assert type(plain) is users_module.Net and kinds(plain) == {"", "torch.nn.modules"}
        assert type(plain.stem) is {"a": nn.Identity, "b": nn.Conv2d}[task]
        with using(net, task):
            assert torch.equal(outputs(plain, inputs), outputs(net, inputs))
        before = bits(copy.deepcopy(net))
        with torch.no_grad():
            for tensor in plain.state_dict().values():
                tensor.add_(1)
        assert same(bits(net), before)


def test_a_module_used_under_two_names_is_one_module_still():
    shared = MaskedLinear(4, 4)
    net = nn.Sequential(shared, nn.ReLU(), shared)
    allocate(net, "a", 0.5, "random")
    plain = extract(net, "a")
    assert plain[0] is plain[2] and type(plain[0]) is nn.Linear


def test_extracting_keeps_the_modes():
    net = nn.Sequential(MaskedLinear(4, 4), nn.Dropout(), nn.Dropout())
    allocate(net, "a", 0.5, "random")
    net[1].eval()
    assert [m.training for m in extract(net, "a")] == [True, False, True] and extract(net, "a").training
    assert [m.training for m in extract(net.eval(), "a").modules()] == [False] * 4
    hand_made = MultitaskNetwork(nn.Sequential(MaskedLinear(4, 4), nn.Dropout()), 4, 4)
    hand_made.add_task("a", (4,), 2)
    allocate(hand_made, "a", 0.5, "random")
    assert not any(m.training for m in extract(hand_made.eval(), "a").modules())


def test_an_extracted_layer_has_the_tasks_dtype():
    layer = MaskedConv2d(2, 2, 3).double()
    allocate(layer, "a", 0.5, "random")
    assert {p.dtype for p in extract(layer, "a").parameters()} == {torch.float64}


def test_extracting_an_unknown_task_is_an_error(network):
    with pytest.raises(ValueError, match="no task 'later' in this network; it holds: z, c, a, b"):
        extract(network[0], "later")


def test_an_extracted_task_runs_where_msnlib_cannot_be_imported(network, users_module, tmp_path):
    net, group = network
    cases = {f"built_{t.name}": (extract(net, t.name), t.test[0]) for t in group}
    users, x = convolutional(users_module).eval(), torch.randn(3, 2, 5, 5)
    allocate(users, "a", 0.3, "random")
    cases["users"] = (extract(users, "a"), x)
    with using(users, "a"):
        expected = {"users": users(x), **{f"built_{t.name}": predict(net, t) for t in group}}
    torch.save({name: (*case, expected[name].detach()) for name, case in cases.items()}, tmp_path / "cases.pt")
    program = (
        "import sys; sys.modules['msnlib'] = None\n"
        "import torch; torch.set_num_threads(1)\n"
        "cases = torch.load('cases.pt', weights_only=False)\n"
        "print(sum(torch.equal(module(x), y) for module, x, y in cases.values()))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (ran.stdout, ran.returncode) == ("4\n", 0), ran.stderr


def test_a_network_that_left_out_zeros_is_loaded_as_its_builder_makes_it(make_task, tmp_path):
    task = make_task("a", inputs=(300,))
    net = dense_network([task], width=300, depth=1)
    allocate(net, "a", 0.1, "random")
    expected = predict(net, task)  # the first product without zeros compresses the positions
    save(net, tmp_path / "net.safetensors")
    assert inspect(tmp_path / "net.safetensors")["network"]["builder"] == "dense_network"
    assert predict(load(tmp_path / "net.safetensors"), task).equal(expected)
