"""The convolutional builder: its shapes by hand, its refusals, and that it isolates and stores like the dense one."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from msnlib import (
    Task,
    allocate,
    conv_network,
    dense_network,
    extract,
    fit,
    load,
    load_task,
    owner_map,
    predict,
    save,
    tasks,
)
from msnlib.subnetworks import shared_tensors

pytestmark = pytest.mark.usefixtures("seeded")


def images(name: str, shape: tuple[int, ...] = (28, 28), n: int = 12) -> Task:
    made = torch.Generator().manual_seed(len(name))
    x, y = torch.rand(n, *shape, generator=made), torch.randint(0, 10, (n,), generator=made)
    return Task(name, "classification", (x, y), (x, y), (x, y), outputs=10, batch_size=4)


def shapes(net: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in shared_tensors(net).items() if "weight" in name}


def test_the_published_network():
    """BothMNISTconv.py: conv 32-32, max 2 stride 1, conv 64-64, max 2 stride 1, dense 256-256-10."""
    assert shapes(conv_network([images("mnist")])) == {
        "trunk.0.weight": (32, 1, 3, 3),
        "trunk.2.weight": (32, 32, 3, 3),
        "trunk.5.weight": (64, 32, 3, 3),
        "trunk.7.weight": (64, 64, 3, 3),
        "trunk.11.weight": (256, 64 * 26 * 26),
        "trunk.13.weight": (256, 256),
        "heads.mnist.weight": (10, 256),
    }


def test_stride_2_shrinks_the_first_dense_layer():
    assert shapes(conv_network([images("mnist")], pool_stride=2))["trunk.11.weight"] == (256, 64 * 7 * 7)


def test_images_of_one_and_three_channels_meet_behind_convolutions_of_their_own():
    group = [images("cifar10", (3, 28, 28)), images("mnist")]
    net = conv_network(group, channels=(4, 6), width=8, pool_stride=2, own_first=True)
    sizes = shapes(net)
    assert sizes["stems.cifar10.0.weight"] == (4, 3, 3, 3) and sizes["stems.mnist.1.weight"] == (4, 1, 3, 3)
    assert sizes["trunk.0.weight"] == (4, 4, 3, 3)
    for task in group:
        allocate(net, task.name, 0.5, batches=task.batches(), loss=task.loss)
        assert predict(net, task).shape == (12, 10)


def test_a_late_task_with_other_channels_gets_a_stem_where_the_first_layer_is_shared():
    net = conv_network([images("mnist")], channels=(2, 2), width=4)
    net.add_task("colour", (3, 28, 28), 10)
    assert shapes(net)["stems.colour.0.weight"] == (1, 3, 3, 3)


@pytest.mark.parametrize("shape", [(28, 27), (28,), (1, 1, 28, 28), (32, 32)])
def test_other_sizes_are_refused(shape):
    net = conv_network([images("mnist")], channels=(2, 2), width=4)
    with pytest.raises(ValueError, match=r"'other'.*no images of 28 x 28"):
        net.add_task("other", shape, 10)
    with pytest.raises(ValueError, match="no images"):
        net.add_task("text", (28, 28), 1, vocabulary=9)
    assert list(net.declared) == ["mnist"]


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (dict(), "needs inputs="),
        (dict(inputs=(28,)), r"inputs \(1, 28\)"),
        (dict(inputs=(28, 28), channels=(4,)), r"channels \[4\]"),
        (dict(inputs=(28, 28), channels=(4, 0)), r"channels \[4, 0\]"),
        (dict(inputs=(28, 28), width=0), "width 0"),
        (dict(inputs=(28, 28), pool_stride=0), "pool_stride 0"),
        (dict(inputs=(2, 9)), "2 x 9 are too small"),
        (dict(inputs=(28, 28), scale=0.0), "scale 0.0 must be above 0"),
        (dict(inputs=(28, 28), scale="1"), "scale '1' must be above 0"),
        (dict(inputs=(28, 28), channels=(4.0, 4)), r"channels \[4.0, 4\]"),
        (dict(inputs=(28, 28), pool_stride=1.5), "pool_stride 1.5"),
    ],
)
def test_what_cannot_be_built_is_named(bad, says):
    with pytest.raises(ValueError, match=says):
        conv_network(**bad)


def test_scale_narrows_what_is_hidden_and_nothing_else():
    task = images("mnist", (8, 8))
    half = conv_network([task], channels=(4, 6), width=10, scale=0.5)
    assert [shape[0] for shape in shapes(half).values()] == [2, 2, 3, 3, 5, 5, 10]
    assert half.config == conv_network([task], channels=(2, 3), width=5).config
    assert [shape[0] for shape in shapes(dense_network([task], width=10, depth=2, scale=0.25)).values()] == [2, 2, 10]
    assert shapes(dense_network([task], width=10, depth=1, scale=1e-9))["trunk.0.weight"] == (1, 64)


def test_a_task_learned_later_moves_nothing():
    first, later = load_task("digits", limit=100), load_task("digits_permuted", limit=100)
    net = conv_network([first], channels=(4, 4), width=16)
    allocate(net, "digits", 0.25, batches=first.batches(), loss=first.loss)
    fit(net, first, epochs=1)
    before = predict(net, first)
    net.add_task("digits_permuted", later.inputs, later.outputs)
    allocate(net, "digits_permuted", 0.75, batches=later.batches(), loss=later.loss)
    fit(net, later, epochs=1, optimizer=torch.optim.AdamW)
    assert predict(net, first).equal(before)
    owner = owner_map(net)["trunk.7.weight"]
    assert [int((owner == k).sum()) for k in (0, 1, 2)] == [0, 36, 108]


def test_it_is_saved_loaded_and_extracted(tmp_path):
    task = load_task("digits", limit=50)
    net = conv_network([task], channels=(4, 4), width=16, own_first=True, pool_stride=2)
    allocate(net, "digits", 0.3, method="random")
    expected = predict(net, task)
    save(net, tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors")
    assert tasks(again) == ["digits"] and predict(again, task).equal(expected)
    plain = extract(net, "digits")
    assert not [m for m in plain.modules() if type(m).__module__.startswith("msnlib")]
    # in another memory format: the same sums in another order
    torch.testing.assert_close(plain(task.test[0]), expected)


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        (dict(inputs=(13,), outputs=2.0), r"inputs \(13,\), outputs 2.0 must be whole numbers, at least 1"),
        (dict(inputs=(13.5,), outputs=2), r"inputs \(13.5,\), outputs 2 must be"),
        (dict(inputs=(True,), outputs=2), r"inputs \(True,\), outputs 2 must be"),
        (dict(inputs=(), outputs=2), r"inputs \(\), outputs 2 must be"),
        (dict(inputs=(13,), outputs=0), "outputs 0 must be"),
        (dict(inputs=(13,), outputs=2, vocabulary=9.5), r"outputs 2, vocabulary 9.5 must be"),
    ],
    ids=str,
)
def test_a_task_of_no_size_is_refused_and_leaves_nothing_behind(sizes, says):
    net = dense_network(inputs=16, width=8, depth=2)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(ValueError, match=f"^task 'wine': .*{says}"):
        net.add_task("wine", **sizes)
    assert not net.declared and len(net.stems) == len(net.heads) == 0 and net.state_dict().keys() == before.keys()
    net.add_task("wine", inputs=np.array([13]), outputs=np.int64(3))  # numpy's counts are counts
    json.dumps(net.declared)


@pytest.mark.parametrize("name", ["fresh", "template"])
def test_what_a_task_keeps_its_own_tensors_under_is_no_name_of_a_task(name):
    with pytest.raises(ValueError, match=name):
        dense_network(inputs=16, width=8, depth=2).add_task(name, inputs=(4,), outputs=2)


@pytest.mark.parametrize("sizes", [dict(width=2.5), dict(depth="2"), dict(inputs=True), dict(width=0)], ids=str)
def test_a_dense_network_of_no_size_is_refused(sizes):
    given = dict(inputs=4, width=4, depth=2) | sizes
    says = "inputs {inputs!r}, width {width!r} and depth {depth!r} must be whole numbers, at least 1"
    with pytest.raises(ValueError, match=f"^{says.format(**given)}$"):
        dense_network(**given)
    net = dense_network(inputs=np.int64(4), width=np.int64(4), depth=np.int64(2))
    assert json.loads(json.dumps(net.config)) == net.config
