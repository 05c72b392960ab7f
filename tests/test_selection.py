"""Selection rules and budgets: what is kept of what is on offer."""

import doctest
import inspect
import math
import warnings

import pytest
import torch

import msnlib.selection
from msnlib import (
    RULES,
    CapacityError,
    DeadOutputWarning,
    Kept,
    MaskedConv2d,
    MaskedLinear,
    Offer,
    allocate,
    conv_network,
    dense_network,
    erk,
    fit_sequence,
    owner_map,
    prune,
    shared_tensors,
    tasks,
    top,
)
from msnlib.lab import controls, dedicated, shared_network

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

    for rule in ("largest", "constant_fan_in"):
        for task in (f"{rule}_1", f"{rule}_2"):
            allocate(layer, task, 0.07, method, batches, loss, rule=rule)
            used = layer.weight.used_per_unit(task)
            counts[task] = int(used.sum())
            assert (int(used.max() - used.min()) <= 1) == (rule == "constant_fan_in")
    assert set(counts.values()) == {round(0.07 * layer.weight.numel())}
    assert layer.weight.owners().max() == 1  # and disjoint


def test_a_unit_keeps_its_best(monkeypatch):
    layer = MaskedLinear(8, 3, bias=False)
    scores = torch.rand(24)
    monkeypatch.setattr("msnlib.allocation._scores", lambda *_: {"weight": scores})
    allocate(layer, "a", 0.5, "random", rule="constant_fan_in")
    kept = owner_map(layer)["weight"] == 1
    for row, mask in zip(scores.view(3, 8), kept, strict=True):
        assert row[mask].min() > row[~mask].max() and mask.sum() == 4


def test_who_has_too_few_free_leaves_them_to_the_others():
    layer = MaskedLinear(4, 3, bias=False)
    layer.weight.own("first", torch.tensor([0, 1, 2]), torch.ones(3), order=1)  # one left in the first unit
    allocate(layer, "a", 8 / 12, "random", rule="constant_fan_in")
    assert layer.weight.used_per_unit("a").tolist() in ([1, 4, 3], [1, 3, 4])
    allocate(layer, "rest", 1 / 12, "random", rule="constant_fan_in")
    assert layer.weight.owners().tolist() == [1] * 12


def test_no_unit_and_no_output_is_left_without_inputs(make_task):
    task = make_task("a", inputs=(30,), outputs=10, examples=64)
    idle = {}
    for rule in ("largest", "constant_fan_in"):
        net = dense_network([task], width=40, depth=2)
        with warnings.catch_warnings(record=True) as warned:
            allocate(net, "a", 0.04, "gradient", task.batches(), task.loss, rule=rule)
        assert bool(warned) == (rule == "largest")  # of outputs without entries
        weights = [layer.weight for layer in (net.trunk[0], net.trunk[2], net.heads["a"])]
        idle[rule] = sum(int((weight.used_per_unit("a") == 0).sum()) for weight in weights)
    assert idle["largest"] > 10 and idle["constant_fan_in"] == 0


def test_a_sequence_passes_it_on(small_network):
    net, (a, b, _) = small_network
    fit_sequence(net, [a, b], 0.3, rule="constant_fan_in", epochs=1)
    for task in (a, b):
        used = net.trunk[2].weight.used_per_unit(task.name)
        assert used.max() - used.min() <= 1


def offer(scores, density, shape=None, owners=None, positions=None, **how):
    """An offer of these scores: of every entry, or of those at the positions."""
    scores = torch.tensor(scores)
    positions = torch.arange(len(scores)) if positions is None else torch.tensor(positions)
    owners = torch.zeros(math.prod(shape or (len(scores),)), dtype=torch.int64) if owners is None else owners
    return Offer("weight", shape or (len(scores),), density, positions, scores, owners, **how)


def kept_of(rule, one):
    return RULES[rule].choose({"weight": one})["weight"].positions.tolist()


def test_rules_by_hand():
    head = offer([9.0, 8, 7, 6, 1, 1, 0, 0], 0.5, (2, 4), is_output=True)
    assert kept_of("largest", head) == [0, 1, 2, 3]  # the second output starves
    assert kept_of("even_outputs", head) == [0, 1, 4, 5]
    hidden = offer([9.0, 8, 7, 6, 1, 1, 0, 0], 0.5, (2, 4))
    assert kept_of("even_outputs", hidden) == [0, 1, 2, 3]
    assert kept_of("constant_fan_in", hidden) == [0, 1, 4, 5]
    assert kept_of("released_percentile", offer([0.0, 0, 0, 3], 0.5, (2, 2))) == [0, 1, 2, 3]  # a percentile of 0
    owned = torch.tensor([0, 0, 0, 1])
    assert kept_of("released_percentile", offer([1.0, 2, 3, 4], 0.25, (2, 2), owners=owned)) == [2]
    few = offer([1.0, 2, 3], 0.5, (2, 4), positions=[1, 4, 7])
    with pytest.raises(CapacityError, match="weight: asked for 4 entries, only 3 of 8 are free"):
        kept_of("largest", few)


def test_whole_units_take_no_unit_that_is_not_whole():
    scores = torch.arange(12.0).view(4, 3)
    free = [k for k in range(12) if k != 10]  # the last unit, the best, has an entry taken
    one = offer(scores.flatten()[free].tolist(), 0.5, (4, 3), positions=free)
    kept = RULES["whole_units"].choose({"weight": one})["weight"]
    assert kept.units == 2 and kept.positions.tolist() == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("build", [dense_network, conv_network])
@pytest.mark.parametrize("rule", ["largest", "even_outputs", "constant_fan_in"])
def test_rules_keep_exact_counts_and_tasks_apart(build, rule, make_task):
    group = [make_task(name, inputs=(12, 12), outputs=6) for name in "abc"]
    net = build(group, width=20)
    for task in group:
        allocate(net, task.name, 0.2, "gradient", task.batches(), task.loss, rule=rule)
    for tensor in shared_tensors(net).values():
        assert tensor.owners().max() == 1
        assert {len(sub.positions) for sub in tensor.values()} == {max(1, round(0.2 * tensor.numel()))}


def test_no_output_starves_with_even_outputs(make_task):
    task = make_task("a", inputs=(30,), outputs=10, examples=64)
    counts, trunks = {}, []
    for rule in ("largest", "even_outputs"):
        net = dense_network([task], width=40, depth=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeadOutputWarning)
            allocate(net, "a", 0.04, "gradient", task.batches(), task.loss, rule=rule)
        counts[rule] = net.heads["a"].weight.used_per_unit("a")
        trunks.append(net.trunk[2].weight["a"].positions)
    assert trunks[0].equal(trunks[1])  # only heads are chosen otherwise
    assert counts["largest"].min() == 0 and counts["largest"].sum() == counts["even_outputs"].sum()
    assert counts["even_outputs"].max() - counts["even_outputs"].min() <= 1


def test_a_rule_of_ones_own(make_task):
    def every_other(offers):
        """Every other entry on offer, whatever its score."""
        return {name: one.positions[::2] for name, one in offers.items()}

    net = dense_network([make_task("a"), make_task("b")], width=10, depth=1)
    allocate(net, "a", 0.5, "random", rule=every_other)
    allocate(net, "b", 0.1, "random")
    owned = owner_map(net)["trunk.0.weight"].flatten()
    assert (owned[::2] == 1).all() and set(owned[1::2].tolist()) == {0, 2}


@pytest.mark.parametrize(
    "keep",
    [
        lambda one: one.positions[:0],
        lambda one: one.positions.flip(0),
        lambda one: one.positions.float(),
        lambda one: one.positions.tolist(),
        lambda one: torch.cat([one.positions, torch.tensor([one.numel])]),
        lambda one: one.positions[[0, 0]],
        lambda one: Kept(torch.arange(3)),  # taken by the first task
    ],
)
def test_what_is_not_on_offer_cannot_be_kept(keep):
    layer = MaskedLinear(4, 3, bias=False)
    layer.weight.own("first", torch.tensor([0, 1, 2]), torch.ones(3), order=1)
    with pytest.raises(ValueError, match="must keep some of the entries on offer in weight, ascending, int64"):
        allocate(layer, "a", 0.5, "random", rule=lambda offers: {name: keep(one) for name, one in offers.items()})
    assert tasks(layer) == ["first"]


def test_a_trained_task_is_cut_by_a_rule(make_task):
    task = make_task("a", inputs=(30,), outputs=10)
    net = dense_network([task], width=20, depth=2)
    allocate(net, "a", "free", "random")
    net.heads["a"].weight["a"].values.data[:20] = 0.0  # of the first output, which magnitude would leave without
    held = net.trunk[0].weight.dense("a").detach().clone()
    with pytest.raises(ValueError, match="rule 'released_percentile' is for allocate"):
        prune(net, "a", 0.1, rule="released_percentile")
    prune(net, "a", 0.1, rule="even_outputs")
    assert net.heads["a"].weight.used_per_unit("a").tolist() == [2] * 10
    kept = net.trunk[0].weight["a"].positions
    assert net.trunk[0].weight["a"].values.equal(held.flatten()[kept])


def test_prune_warns_of_outputs_without_entries(make_task):
    net = dense_network([make_task("a", outputs=3)], width=20, depth=1)
    allocate(net, "a", "free", "random")
    net.heads["a"].weight["a"].values.data[:20] = 0.0
    with pytest.warns(DeadOutputWarning, match=r"heads.a.weight: outputs \[0\] of task 'a' got no entries") as caught:
        prune(net, "a", 0.5, rule="largest")
    assert caught[0].filename == __file__


def test_a_budget_by_name_and_by_function(make_task):
    net = dense_network([make_task("a"), make_task("b")], width=20, depth=2)
    allocate(net, "a", lambda name, shape: 0.5 if name.startswith("heads") or len(shape) == 1 else 0.1, "random")
    counts = {n: len(t["a"].positions) / t.numel() for n, t in shared_tensors(net, "a").items()}
    assert counts["heads.a.weight"] == 0.5 and counts["trunk.2.weight"] == 0.1
    allocate(net, "b", dict.fromkeys(shared_tensors(net, "b"), 0.25), "random")
    assert len(net.trunk[2].weight["b"].positions) == 100


def test_erk_keeps_the_density_and_favours_small_tensors():
    shapes = {
        "conv": torch.ones(8, 4, 3, 3),
        "wide": torch.ones(100, 80),
        "head": torch.ones(10, 100),
        "bias": torch.ones(8),
    }
    for density, most in [(0.1, 1.0), (0.1, 0.2), (0.02, 1.0), (0.9, 1.0), (0.5, 0.5), (1.0, 1.0)]:
        found = erk(shapes, density, most)
        weights = {name: tensor.numel() for name, tensor in shapes.items() if tensor.dim() > 1}
        kept = sum(found[name] * numel for name, numel in weights.items())
        assert kept == pytest.approx(density * sum(weights.values()))
        assert found["bias"] == density and max(found[n] for n in weights) <= most + 1e-12
        assert found["wide"] <= found["head"] + 1e-12
    unbounded = erk(shapes, 0.02)  # nothing is cut: in proportion to the sum of sizes over their product
    assert unbounded["head"] / unbounded["wide"] == pytest.approx((110 / 1000) / (180 / 8000))
    with pytest.raises(ValueError, match="density 0.5 is above most, 0.4"):
        erk(shapes, 0.5, 0.4)


def test_the_examples_of_the_module_run():
    flags = doctest.ELLIPSIS
    assert doctest.testmod(msnlib.selection, extraglobs={"torch": torch}, optionflags=flags) == (0, 1)


def test_everything_that_allocates_keeps_by_the_same_rule_unless_another_is_named():
    rules = {parameters(way)["rule"].default for way in (allocate, prune, fit_sequence, dedicated, shared_network)}
    assert rules == {"even_outputs"}
    assert parameters(controls)["rule"].default == "largest", "what the paper's subnetworks are compared with"


def parameters(way):
    return inspect.signature(way).parameters


def test_what_a_rule_goes_on_with_is_its_own(make_task):
    layer, at = MaskedLinear(4, 8), {}

    def next_block(offers):
        for name, offer in offers.items():
            block = offer.positions[: offer.count]
            at[name] = at[name].copy_(block) if name in at else block.clone()
        return dict(at)

    for task in ("a", "b"):
        allocate(layer, task, 0.25, "random", rule=next_block)
    assert max(int(tensor.owners().max()) for tensor in shared_tensors(layer).values()) == 1


def test_whole_units_have_the_same_inputs():
    def scattered(offers):
        return {name: Kept(offer.positions[:6:3], 2) for name, offer in offers.items()}

    layer = MaskedLinear(4, 8)
    with pytest.raises(ValueError, match="rule 'scattered': the entries of weight are not 2 units with the same"):
        allocate(layer, "a", 0.25, "random", rule=scattered)
    assert tasks(layer) == []
