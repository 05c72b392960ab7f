"""rule="whole_units": a task owns whole units, and its subnetwork is a smaller dense network that runs as one."""

import pickle

import pytest
import torch

from msnlib import (
    RULES,
    CapacityError,
    MaskedLinear,
    Offer,
    allocate,
    conv_network,
    dense_network,
    evaluate,
    extract,
    fit,
    fit_sequence,
    load,
    load_task,
    owner_map,
    predict,
    prune,
    release,
    save,
    tasks,
)
from msnlib.subnetworks import shared_tensors

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.fixture
def digits():
    return load_task("digits", limit=120)


def halves(build, *group, density=0.5):
    net = build(group)
    for task in group:
        allocate(net, task.name, density, batches=task.batches(), loss=task.loss, rule="whole_units")
    return net


BUILDS = {
    "dense": lambda group: dense_network(group, width=12, depth=3),
    "conv": lambda group: conv_network(group, channels=(4, 6), width=10),
    "own first": lambda group: conv_network(group, channels=(4, 6), width=10, own_first=True),
}


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_it_is_the_small_dense_network_of_its_units(build, digits):
    """The same outputs as the full-size tensors with zeros everywhere else."""
    net = halves(build, digits)
    small = predict(net, digits)
    for tensor in shared_tensors(net, "digits").values():
        tensor["digits"].units = 0  # entries as any others: compute with the dense, mostly empty tensors
    torch.testing.assert_close(small, predict(net, digits))


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_every_layer_keeps_the_share_of_its_units_and_only_inputs_from_them(build, digits):
    net = halves(build, digits)
    for name, tensor in shared_tensors(net, "digits").items():
        if name.endswith("bias"):
            continue
        units = tensor["digits"].units
        assert units == (10 if tensor.is_output else tensor.shape[0] // 2), name
        rows = (owner_map(net)[name] > 0).flatten(1)
        assert rows.any(1).sum() == units
        assert rows[rows.any(1)].unique(dim=0).shape[0] == 1  # all its units take the same inputs


def test_the_most_salient_units_are_taken_by_hand():
    """Two layers of 1 input and of 4 units: scores are sums over a unit's entries, gradients known in closed form."""
    shapes = {"trunk.0.weight": (4, 1), "trunk.0.bias": (4,), "heads.a.weight": (1, 4), "heads.a.bias": (1,)}
    scores = {
        "trunk.0.weight": torch.tensor([1.0, 5, 2, 0]),
        "trunk.0.bias": torch.tensor([0.0, 0, 4, 1]),
        "heads.a.weight": torch.tensor([1.0, 1, 1, 1]),
        "heads.a.bias": torch.tensor([1.0]),
    }
    offers = {
        name: Offer(
            name, shape, 0.5, torch.arange(len(score)), score, torch.zeros(len(score)), name.startswith("heads")
        )
        for (name, score), shape in zip(scores.items(), shapes.values(), strict=True)
    }
    kept = RULES["whole_units"].choose(offers)
    assert {name: one.positions.tolist() for name, one in kept.items()} == {
        "trunk.0.weight": [1, 2],
        "trunk.0.bias": [1, 2],
        "heads.a.weight": [1, 2],
        "heads.a.bias": [0],
    }


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_two_halves_are_disjoint_and_a_later_one_moves_nothing(build, digits):
    other = load_task("digits_permuted", limit=120)
    net = build([digits, other])
    history = fit_sequence(net, [digits, other], 0.5, rule="whole_units", epochs=2, optimizer=torch.optim.AdamW)
    assert history.moved["digits"] == 0.0
    assert all(int(tensor.owners().max()) <= 1 for tensor in shared_tensors(net).values())
    assert [tensor.numel() // 2 for n, tensor in shared_tensors(net).items() if "bias" in n and "trunk" in n] == [
        len(tensor["digits_permuted"].positions)
        for n, tensor in shared_tensors(net).items()
        if "bias" in n and "trunk" in n
    ]


def test_a_third_half_is_refused_and_changes_nothing(digits, snapshot, same):
    other = load_task("digits_permuted", limit=120)
    net = halves(BUILDS["dense"], digits, other)
    net.add_task("wine", (64,), 3)
    before = snapshot(net)
    with pytest.raises(CapacityError, match=r"trunk.0.weight: asked for 6 units, only 0 of 12 are free") as caught:
        allocate(net, "wine", 0.5, method="random", rule="whole_units")
    assert same(before, snapshot(net))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    release(net, "digits")
    allocate(net, "wine", 0.5, method="random", rule="whole_units")
    assert tasks(net) == ["digits_permuted", "wine"]


def test_scattered_entries_and_whole_units_live_side_by_side(digits):
    other = load_task("digits_permuted", limit=120)
    net = BUILDS["dense"]([digits, other])
    allocate(net, "digits", 0.02, method="random")
    allocate(net, "digits_permuted", 0.25, method="random", rule="whole_units")
    assert all(int(tensor.owners().max()) <= 1 for tensor in shared_tensors(net).values())
    assert predict(net, digits).shape == predict(net, other).shape


def test_it_learns_and_is_saved_and_extracted_at_its_own_size(digits, tmp_path):
    net = halves(lambda group: dense_network(group, width=40, depth=2), digits)
    fit(net, digits, epochs=30, learning_rate=1e-2)
    assert evaluate(net, digits)["digits"]["accuracy"] > 70
    save(net, tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors")
    assert predict(again, digits).equal(predict(net, digits))
    assert again.trunk[0].weight["digits"].units == 20
    plain = extract(net, "digits")
    sizes = [(m.in_features, m.out_features) for m in plain.modules() if isinstance(m, torch.nn.Linear)]
    assert sizes == [(64, 20), (20, 20), (20, 10)]
    assert plain(digits.test[0]).equal(predict(net, digits))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        (dict(density="free"), "give rule 'whole_units' to prune"),
        (dict(density=0.5, reads="all"), "rule 'whole_units' goes with reads='none'"),
    ],
)
def test_what_does_not_go_together_is_refused(how, says, digits):
    net = BUILDS["dense"]([digits])
    with pytest.raises(ValueError, match=says):
        allocate(net, "digits", method="random", rule="whole_units", **how)
    assert tasks(net) == []


def test_only_layers_in_a_row_have_units_to_own():
    layer = MaskedLinear(4, 3)
    with pytest.raises(ValueError, match="networks of msnlib's builders.*not MaskedLinear"):
        allocate(layer, "a", 0.5, method="random", rule="whole_units")
    assert tasks(layer) == []


def test_whole_units_cannot_be_pruned_to_entries(digits):
    net = halves(BUILDS["dense"], digits)
    with pytest.raises(ValueError, match="'digits' owns whole units"):
        prune(net, "digits", 0.1)
