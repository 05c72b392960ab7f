"""A task that is not being trained cannot move: its logits are stored, others train, its logits are the same bits."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim

from msnlib import (
    FrozenTaskError,
    MaskedConv2d,
    MaskedLinear,
    PerTask,
    allocate,
    dense_network,
    fit,
    load,
    predict,
    prune,
    release,
    save,
    task_parameters,
    tasks,
    using,
)

pytestmark = pytest.mark.usefixtures("seeded")

OPTIMIZERS = {
    "SGD": partial(optim.SGD, lr=0.02, momentum=0.9, weight_decay=0.1),
    "Adam": partial(optim.Adam, lr=0.01, weight_decay=0.1),
    "AdamW": partial(optim.AdamW, lr=0.01, weight_decay=5.0),
    "RMSprop": partial(optim.RMSprop, lr=0.003, momentum=0.9, weight_decay=0.1),
    "Adagrad": partial(optim.Adagrad, lr=0.05, weight_decay=0.1),
}
each_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


class Images(nn.Module):
    """A convolutional network as a user would write it: two input shapes, norms per task, one head for all."""

    def __init__(self):
        super().__init__()
        self.stem = PerTask({"a": nn.Identity(), "b": nn.Identity(), "c": nn.Conv2d(1, 2, 1)})
        self.first = MaskedConv2d(2, 6, 3, stride=2, padding=1, bias=False)
        self.norm = PerTask({name: nn.BatchNorm2d(6) for name in "abc"})
        self.second = MaskedConv2d(6, 6, 3, padding=2, dilation=2, groups=2, padding_mode="circular")
        self.drop = nn.Dropout(0.2)
        self.head = MaskedLinear(6 * 16, 3)

    def forward(self, x):
        x = self.norm(self.first(self.stem(x)))
        return self.head(self.drop(torch.relu(self.second(torch.relu(x)))).flatten(1))


def logits(net, task, x):
    training = net.training
    with torch.no_grad(), using(net.eval(), task):
        out = net(x)
    net.train(training)
    return out


def train(net, task, x, y, optimizer, loss=F.cross_entropy, steps=15):
    if callable(optimizer):
        optimizer = optimizer(task_parameters(net, task))
    net.train()
    for _ in range(steps):
        optimizer.zero_grad()
        with using(net, task):
            loss(net(x), y).backward()
        optimizer.step()


def image_problem():
    labels = torch.arange(3).repeat(4)
    data = {t: (torch.randn(12, 2, 8, 8), labels[torch.randperm(12)]) for t in "ab"}
    return Images(), {**data, "c": (torch.randn(12, 1, 8, 8), labels)}


@each_optimizer
def test_dense_network_with_stems_and_heads(optimizer, small_network, tmp_path):
    net, group = small_network
    outputs = {}
    for k, task in enumerate(group):
        allocate(net, task.name, 0.25, batches=task.batches(), loss=task.loss)
        start = predict(net, task)
        train(net, task.name, *task.train, optimizer, task.loss)
        outputs[task.name] = predict(net, task)
        assert not torch.equal(start, outputs[task.name])
        save(net, tmp_path / "net.safetensors")
        for earlier in group[: k + 1]:
            for model in (net, load(tmp_path / "net.safetensors")):
                assert torch.equal(predict(model, earlier), outputs[earlier.name])
    loaded = load(tmp_path / "net.safetensors")
    train(loaded, "a", *group[0].train, optimizer)
    assert [torch.equal(predict(loaded, t), outputs[t.name]) for t in group] == [False, True, True]


@each_optimizer
def test_convolutions_in_a_users_module(optimizer, tmp_path):
    net, data = image_problem()
    outputs = {}
    for k, (task, (x, y)) in enumerate(data.items()):
        allocate(net, task, 0.3, batches=[(x, y)], loss=F.cross_entropy)
        start = logits(net, task, x)
        train(net, task, x, y, optimizer)
        outputs[task] = logits(net, task, x)
        assert not torch.equal(start, outputs[task])
        save(net, tmp_path / "net.safetensors")
        for earlier in "abc"[: k + 1]:
            for model in (net, load(tmp_path / "net.safetensors", net=Images())):
                assert torch.equal(logits(model, earlier, data[earlier][0]), outputs[earlier])


@each_optimizer
def test_one_careless_optimizer_over_everything_with_stale_momentum(optimizer):
    net, data = image_problem()
    for task in data:
        allocate(net, task, 0.3, "random")
    careless = optimizer(net.parameters())
    for task in data:  # every value and every norm has momentum now
        train(net, task, *data[task], careless, steps=5)
    outputs = {task: logits(net, task, data[task][0]) for task in data}
    for trained in ("b", "c"):
        train(net, trained, *data[trained], careless)
        assert not torch.equal(logits(net, trained, data[trained][0]), outputs[trained])
        outputs[trained] = logits(net, trained, data[trained][0])
        for task in set(data) - {trained}:
            assert torch.equal(logits(net, task, data[task][0]), outputs[task])


@each_optimizer
def test_tasks_that_are_read_while_the_reader_trains(optimizer):
    net = nn.Sequential(MaskedLinear(6, 8), nn.ReLU(), MaskedLinear(8, 3, bias=False))
    x, y = torch.randn(12, 6), torch.arange(3).repeat(4)
    outputs = {}
    for task in "abc":
        allocate(net, task, 0.25, "gradient", [(x, y)], F.cross_entropy, reads="all")
        train(net, task, x, y, optimizer)
        outputs[task] = logits(net, task, x)
    allocate(net, "d", 0.25, "random", reads="none")
    train(net, "d", x, y, optimizer)
    for task in "abc":
        assert torch.equal(logits(net, task, x), outputs[task])
    with pytest.raises(FrozenTaskError, match="task 'a' cannot be trained: task 'b' reads"):
        task_parameters(net, "a")
    with torch.no_grad():  # that they are read at all shows when one is moved by force
        net[0].weight["a"].values.add_(1)
    assert [torch.equal(logits(net, task, x), outputs[task]) for task in "abc"] == [False, False, False]


def test_fit_moves_only_what_it_trains(small_network):
    net, group = small_network
    for task in group:
        allocate(net, task.name, 0.25, batches=task.batches(), loss=task.loss)
    before = {t.name: predict(net, t) for t in group}
    fit(net, group[:2], epochs=3, optimizer=OPTIMIZERS["AdamW"])
    assert [torch.equal(predict(net, t), before[t.name]) for t in group] == [False, False, True]


def test_pruning_and_releasing_and_allocating_others_moves_nothing(small_network):
    net, (a, b, c) = small_network
    allocate(net, "a", 0.25, batches=a.batches(), loss=a.loss)
    train(net, "a", *a.train, OPTIMIZERS["Adam"])
    before = predict(net, a)
    for act in (
        lambda: allocate(net, "b", "free", batches=b.batches(), loss=b.loss),
        lambda: train(net, "b", *b.train, OPTIMIZERS["AdamW"], b.loss),
        lambda: prune(net, "b", 0.25),
        lambda: train(net, "b", *b.train, OPTIMIZERS["SGD"], b.loss),
        lambda: allocate(net, "c", 0.5, batches=c.batches(), loss=c.loss, reads="none"),
        lambda: train(net, "c", *c.train, OPTIMIZERS["AdamW"], c.loss),
        lambda: release(net, "b"),
        lambda: allocate(net, "b", 0.2, "random"),
        lambda: train(net, "b", *b.train, OPTIMIZERS["RMSprop"], b.loss),
    ):
        act()
        assert torch.equal(predict(net, a), before)
    assert tasks(net) == ["a", "c", "b"]


def test_batch_statistics_of_a_task_that_is_not_trained_stay():
    net, data = image_problem()
    for task in data:
        allocate(net, task, 0.3, "random")
    before = {name: buffer.clone() for name, buffer in net.norm.named_buffers()}
    train(net, "b", *data["b"], OPTIMIZERS["Adam"])
    moved = {name.split(".")[0] for name, buffer in net.norm.named_buffers() if not torch.equal(buffer, before[name])}
    assert moved == {"b"}


def test_this_kind_of_test_can_fail_with_one_dense_weight_and_gradient_masks():
    """What others do: one weight, an owner map, gradients zeroed outside the mask. AdamW moves the rest too."""
    weight = torch.randn(3, 6).requires_grad_()
    mask = torch.arange(18).view(3, 6) % 2 == 0  # a's; b has the others
    x, y = torch.randn(12, 6), torch.arange(3).repeat(4)
    weight.register_hook(lambda grad: grad * ~mask)

    def logits_of_a():
        return F.linear(x, weight * mask).detach()

    before, optimizer = logits_of_a(), OPTIMIZERS["AdamW"]([weight])
    F.cross_entropy(F.linear(x, weight * ~mask), y).backward()
    assert not weight.grad[mask].any()
    optimizer.step()
    assert not torch.equal(logits_of_a(), before)


def test_tasks_with_the_same_data_and_head_shape_still_share_nothing(make_task):
    net = dense_network([make_task("a"), make_task("b")], width=8, depth=1)
    for task in ("a", "b"):
        allocate(net, task, 0.5, "random")
    pointers = {task: {p.data_ptr() for p in task_parameters(net, task)} for task in ("a", "b")}
    assert len(pointers["a"]) == len(pointers["b"]) == 4 and not pointers["a"] & pointers["b"]


@pytest.mark.parametrize("width", [16, 300])  # the latter leaves out zeros, and holds its positions compressed
def test_an_optimizer_goes_on_after_a_state_of_the_same_entries_is_loaded(make_task, width):
    task = make_task("a", inputs=(width,))
    net = dense_network([task], width=width, depth=1)
    allocate(net, "a", 0.2, "random")
    optimizer = optim.SGD(task_parameters(net, "a"), lr=0.1)
    predict(net, task)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    x, y = task.train
    for _ in range(2):
        before = predict(net, task)
        optimizer.zero_grad()
        task.loss(net(x, task="a"), y).backward()
        optimizer.step()
        assert not predict(net, task).equal(before)
        net.load_state_dict(state)
        assert all(value.equal(state[name]) for name, value in net.state_dict().items())


def _heads(first, second):
    return nn.Sequential(MaskedLinear(4, 4), PerTask({"a": first, "b": second}))


def _views():
    both, heads = torch.zeros(6, 4), [nn.Linear(4, 3), nn.Linear(4, 3)]
    for head, part in zip(heads, both.split(3), strict=True):
        head.weight.data = part
    return _heads(*heads)


def _one_storage():
    net = _heads(nn.Linear(4, 3), nn.Linear(4, 3))
    net[1]["b"].weight.data = net[1]["a"].weight.data[:2].view(2, 4)
    return net


def _one_module_in_two_switches():
    part = nn.Linear(4, 4)
    first, last = PerTask({"a": part, "b": nn.Linear(4, 4)}), PerTask({"a": nn.Linear(4, 4), "b": part})
    return nn.Sequential(first, MaskedLinear(4, 4), last)


def _tied_to_a_part_of_all():
    net = nn.Sequential(nn.Linear(4, 4), _heads(nn.Linear(4, 4), nn.Linear(4, 4)))
    net[1][1]["a"].weight = net[0].weight
    return net


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_one_storage, "^1: tasks 'a' and 'b' share a module or its memory; give each its own$"),
        (_one_module_in_two_switches, "^2: tasks 'a' and 'b' share a module or its memory; give each its own$"),
        (_tied_to_a_part_of_all, "^1.1: a part of task 'a' alone is 0.weight too, which is of all tasks; give the"),
    ],
)
@pytest.mark.filterwarnings("ignore::msnlib.SharedParameterWarning")
def test_memory_that_two_tasks_share_is_refused_by_name(make, said):
    net = make()
    with pytest.raises(ValueError, match=said):
        allocate(net, "a", 0.5, "random")
    assert tasks(net) == []


def test_parts_of_one_tensor_that_do_not_overlap_are_apart():
    allocate(_views(), "a", 0.5, "random")
