"""What holds on a CPU holds on a GPU: the same entries, isolation and repetition to the last bit, the store."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from msnlib import (
    AUTHORS,
    CONVERGED,
    PerTask,
    allocate,
    conv_network,
    convert,
    dense_network,
    extract,
    fit,
    load,
    owner_map,
    predict,
    prune,
    release,
    save,
    seed_everything,
    task_parameters,
)
from msnlib.lab import allocation_table, dead_outputs, idle_units, start
from msnlib.lab.stored import Store
from msnlib.layers import MaskedLinear
from msnlib.selection import RULES, Offer

DEVICE = "cuda"
pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here"),
    pytest.mark.usefixtures("seeded"),
]
in_both = pytest.mark.parametrize("precision", [None, torch.bfloat16])


class Block(nn.Module):
    """Attention, dropout and normalisation, (N, length, width) -> (N, width)."""

    def __init__(self, width=32):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.dense, self.norm, self.dropout = nn.Linear(width, width), nn.LayerNorm(width), nn.Dropout(0.2)

    def forward(self, x):
        x = self.norm(x + self.dropout(self.attention(x, x, x, need_weights=False)[0]))
        return self.dropout(self.dense(x).relu()).mean(1)


class Texts(nn.Module):
    """Words of the task's own -> the block -> its head."""

    def __init__(self, group, width=32):
        super().__init__()
        self.words, self.block, self.heads = PerTask(), convert(Block(width)), PerTask()
        for task in group:
            self.words[task.name] = nn.Embedding(task.vocabulary, width)
            self.heads[task.name] = MaskedLinear(width, task.outputs)
            self.heads[task.name].weight.is_output = True

    def forward(self, x):
        return self.heads(self.block(self.words(x)))


def images(group):
    return conv_network(group, channels=(8, 16), width=32)  # the maxima are of stride 1


def held(build, group, density=0.3):
    """A network on the device with a subnetwork for each task, always the same."""
    seed_everything(0, threads=1)
    net = build(group).to(DEVICE)
    for task in group:
        allocate(net, task.name, density, batches=task.batches(), loss=task.loss)
    return net


def bits(net, task=None):
    """What the network holds, or what one task trains, to compare on the CPU."""
    tensors = net.state_dict() if task is None else dict(enumerate(task_parameters(net, task)))
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def rows(history, task):
    return history.table[history.table.task == task].drop(columns="seconds").to_dict("records")


@pytest.fixture
def pictures(make_task):
    return [make_task(name, inputs=(10, 10), examples=48, batch_size=16) for name in "ab"]


@pytest.fixture
def texts(make_task):
    return [make_task(name, inputs=(12,), examples=48, batch_size=16, vocabulary=20) for name in "ab"]


@pytest.mark.parametrize("rule", ["largest", "even_outputs", "constant_fan_in", "whole_units"])
def test_the_same_scores_choose_the_same_entries(rule):
    kept = []
    for device in ("cpu", DEVICE):
        made, offers = torch.Generator().manual_seed(0), {}
        for name, shape in {"0.weight": (40, 30), "0.bias": (40,), "1.weight": (7, 40), "1.bias": (7,)}.items():
            size = torch.Size(shape).numel()
            scores = torch.randint(50, (size,), generator=made).double()  # many are equal
            at, owners = torch.arange(size), torch.zeros(size, dtype=torch.int64)
            offers[name] = Offer(name, shape, 0.3, *(t.to(device) for t in (at, scores, owners)), name[0] == "1")
        kept.append({name: one.positions.cpu().tolist() for name, one in RULES[rule].choose(offers).items()})
    assert kept[0] == kept[1]


@pytest.mark.parametrize("build, tasks", [(dense_network, "pictures"), (images, "pictures"), (Texts, "texts")])
def test_outputs_are_those_of_the_cpu(build, tasks, request):
    group = request.getfixturevalue(tasks)
    net = build(group).double()
    for task in group:
        allocate(net, task.name, 0.3, "random")
    moved = deepcopy(net).to(DEVICE)
    for task in group:
        task = task if task.vocabulary else task.map_inputs(lambda x: x.double())
        here, there = predict(net, task), predict(moved, task)
        assert there.device.type == DEVICE
        torch.testing.assert_close(there.cpu(), here, rtol=1e-9, atol=1e-10)


@in_both
def test_a_seed_gives_the_same_bits_and_training_one_task_leaves_another_its(precision, pictures, same):
    a, b = pictures
    runs = []
    for _ in range(2):
        net = held(images, pictures)
        before = predict(net, a)
        history = fit(net, b, 3, AUTHORS, precision=precision)
        assert torch.equal(predict(net, a), before)
        assert torch.are_deterministic_algorithms_enabled() == (DEVICE == "cuda")
        runs.append((rows(history, "b"), bits(net)))
    assert runs[0][0] == runs[1][0] and same(runs[0][1], runs[1][1])


@in_both
@pytest.mark.parametrize("build, tasks", [(images, "pictures"), (Texts, "texts")])
def test_a_task_learns_the_same_alone_and_beside_another(build, tasks, precision, request, same):
    group = request.getfixturevalue(tasks)
    found = []
    for trained in (group[:1], group, group[::-1]):
        net = held(build, group)
        noise = torch.get_rng_state(), torch.cuda.get_rng_state()
        history = fit(net, trained, 3, CONVERGED, precision=precision)
        assert same(dict(enumerate(noise)), {0: torch.get_rng_state(), 1: torch.cuda.get_rng_state()})
        found.append((rows(history, "a"), bits(net, "a")))
    assert all(table == found[0][0] and same(kept, found[0][1]) for table, kept in found)


@in_both
def test_the_store_goes_on_to_the_same_bits(precision, texts, tmp_path, same):
    store, found = Store(tmp_path), {}
    for label, epochs, how in [("whole", 4, {}), ("cut", 2, {"learner": store}), ("resumed", 4, {"learner": store})]:
        net = held(Texts, texts)
        history = fit(net, texts[0], epochs, CONVERGED, precision=precision, **how)
        found[label] = rows(history, "a"), bits(net, "a")
    assert [training.get("read") for training in store.trainings] == [0, 2]
    assert found["resumed"][0] == found["whole"][0] and same(found["resumed"][1], found["whole"][1])


def test_files_and_plain_networks(pictures, tmp_path, same):
    net = held(images, pictures)
    save(net, tmp_path / "net.safetensors")
    x = pictures[0].test[0].to(DEVICE)
    for read in (load(tmp_path / "net.safetensors"), load(tmp_path / "net.safetensors", images(pictures).to(DEVICE))):
        assert same(bits(read), bits(net))
    assert next(read.parameters()).device.type == DEVICE
    with torch.no_grad():
        for plain in (extract(net, "a"), extract(net, "a", "compact")):
            torch.testing.assert_close(plain.eval()(x), net.eval()(x, task="a"), rtol=1e-4, atol=1e-5)


def test_what_is_owned_after_pruning_and_release(pictures):
    net = held(images, pictures)
    moved = deepcopy(net).cpu()
    for one in (net, moved):
        prune(one, "a", 0.1)
        release(one, "b")
        allocate(one, "b", 0.2, "random", seed=1)
    assert {n: o.cpu().tolist() for n, o in owner_map(net).items()} == {
        n: o.tolist() for n, o in owner_map(moved).items()
    }
    assert allocation_table(net).equals(allocation_table(moved)) and idle_units(net).equals(idle_units(moved))
    assert dead_outputs(net) == dead_outputs(moved)


def test_a_run_takes_the_gpu_and_computes_as_it_says(tmp_path):
    settings = {"paper": {}}
    run, setting, device = start(
        "E1", "02_parallel_dense", settings, profile="paper", seed=0, device="auto", precision="auto"
    )
    assert device.type == DEVICE
    fast = torch.cuda.get_device_capability(device) >= (8, 0)
    assert setting["precision"] == (torch.bfloat16 if fast else None)
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32  # float32 is float32
