"""fan_in="constant": the same number of entries, spread evenly over the units."""

import warnings

import pytest
import torch

from msnlib import MaskedConv2d, MaskedLinear, allocate, dense_network, fit_sequence, owner_map
from msnlib.allocation import top

pytestmark = pytest.mark.usefixtures("seeded")


def test_top_of_groups_by_hand():
    scores = torch.tensor([9.0, 8, 7, 1, 2, 3])
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    assert top(scores, 3).tolist() == [0, 1, 2]
    assert top(scores, 2, groups).tolist() == [0, 5]
    assert top(scores, 3, groups).tolist() == [0, 1, 5]  # of the second of each, the larger
    assert top(scores, 6, groups).tolist() == list(range(6))
    assert top(scores, 4, torch.tensor([3, 3, 3, 3, 3, 1])).tolist() == [0, 1, 2, 5]  # who has one gives one
    ties = torch.ones(6)
    assert top(ties, 3, groups).tolist() == [0, 1, 3]  # of equal scores the lower index
    assert top(torch.zeros(0), 0, torch.zeros(0, dtype=torch.int64)).tolist() == []


@pytest.mark.parametrize("method", ["gradient", "random"])
@pytest.mark.parametrize("make", [lambda: MaskedLinear(30, 20), lambda: MaskedConv2d(6, 20, 3)], ids=["linear", "conv"])
def test_every_unit_keeps_as_many_inputs_as_any_other(make, method):
    layer = make()
    x = torch.randn(16, 30) if isinstance(layer, MaskedLinear) else torch.randn(16, 6, 5, 5)
    batches, counts = [(x, x)], {}

    def loss(y, _):
        return (y.square().flatten(1) * torch.arange(y[0].numel())).mean()

    for fan_in in ("free", "constant"):
        for task in (f"{fan_in}_1", f"{fan_in}_2"):
            allocate(layer, task, 0.07, method, batches, loss, fan_in=fan_in)
            used = layer.weight.used_per_unit(task)
            counts[task] = int(used.sum())
            assert (int(used.max() - used.min()) <= 1) == (fan_in == "constant")
    assert set(counts.values()) == {round(0.07 * layer.weight.numel())}
    assert layer.weight.owners().max() == 1  # and disjoint


def test_a_unit_keeps_its_best(monkeypatch):
    layer = MaskedLinear(8, 3, bias=False)
    scores = torch.rand(24)
    monkeypatch.setattr("msnlib.allocation._scores", lambda *_: {"weight": scores})
    allocate(layer, "a", 0.5, "random", fan_in="constant")
    kept = owner_map(layer)["weight"] == 1
    for row, mask in zip(scores.view(3, 8), kept, strict=True):
        assert row[mask].min() > row[~mask].max() and mask.sum() == 4


def test_who_has_too_few_free_leaves_them_to_the_others():
    layer = MaskedLinear(4, 3, bias=False)
    layer.weight.own("first", torch.tensor([0, 1, 2]), torch.ones(3), order=1)  # one left in the first unit
    allocate(layer, "a", 8 / 12, "random", fan_in="constant")
    assert layer.weight.used_per_unit("a").tolist() in ([1, 4, 3], [1, 3, 4])
    allocate(layer, "rest", 1 / 12, "random", fan_in="constant")
    assert layer.weight.owners().tolist() == [1] * 12


def test_no_unit_and_no_output_is_left_without_inputs(make_task):
    task = make_task("a", inputs=(30,), outputs=10, examples=64)
    idle = {}
    for fan_in in ("free", "constant"):
        net = dense_network([task], width=40, depth=2)
        with warnings.catch_warnings(record=True) as warned:
            allocate(net, "a", 0.04, "gradient", task.batches(), task.loss, fan_in=fan_in)
        assert bool(warned) == (fan_in == "free")  # of outputs without entries
        weights = [layer.weight for layer in (net.trunk[0], net.trunk[2], net.heads["a"])]
        idle[fan_in] = sum(int((weight.used_per_unit("a") == 0).sum()) for weight in weights)
    assert idle["free"] > 10 and idle["constant"] == 0


def test_a_sequence_passes_it_on(small_network):
    net, (a, b, _) = small_network
    fit_sequence(net, [a, b], 0.3, fan_in="constant", epochs=1)
    for task in (a, b):
        used = net.trunk[2].weight.used_per_unit(task.name)
        assert used.max() - used.min() <= 1
