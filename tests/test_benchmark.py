"""The benchmark: every arm trains its tasks, counts what it holds, and a race measures them, each in a process."""

import pytest
import torch
from torch import nn

from msnlib.lab.arms import BUILDERS, Case, dense, extracted, owner_map, products, shared
from msnlib.lab.benchmark import held, race, ratio

pytestmark = [pytest.mark.usefixtures("seeded"), pytest.mark.filterwarnings("ignore::msnlib.DeadOutputWarning")]
SIZES = [12, 8, 8, 4]
CONV = dict(channels=(2, 4), width=16, pool_stride=2)
SMALL = dict(sizes=SIZES, inputs=SIZES[:1], tasks=2, examples=6, density=0.25)


def data(case):
    x = torch.rand(case.tasks, case.examples, *case.inputs)
    y = torch.randint(case.sizes[-1], (case.tasks, case.examples))
    return list(zip(x, y, strict=True))


def cases(**common):
    """Every arm that trains; the released library is not installed here."""
    options = [dict(build="dense"), dict(build="owner_map"), dict(build="shared"), dict(build="shared", below=1)]
    images = dict(sizes=[784, 10], inputs=[28, 28], conv=CONV)
    options += [images | dict(build=build) for build in ("dense", "shared")]
    return [Case(**common | other) for other in options]


@pytest.mark.parametrize("case", cases(**SMALL | dict(density=0.5)), ids=lambda case: case.build)
def test_a_step_trains_every_task(case):
    built = BUILDERS[case.build](case)
    parameters = [p for module in built.modules for p in module.parameters()]
    before, batches = [p.detach().clone() for p in parameters], data(case)
    built.step(batches)
    moved = [not p.equal(old) for p, old in zip(parameters, before, strict=True)]
    assert sum(moved) > 0.8 * len(moved)  # a task may own no weight that is reached
    assert len(built.optimizers) == (1 if case.build == "owner_map" else case.tasks)


def test_what_training_holds_is_counted_to_the_byte():
    case = Case(build="dense", **SMALL)
    built = dense(case)
    entries = case.tasks * sum(a * b + b for a, b in zip(SIZES[:-1], SIZES[1:], strict=True))
    assert held(built)["optimizer"] == held(built)["gradients"] == 0
    built.step(data(case))
    steps = 4 * case.tasks * 2 * (len(SIZES) - 1)  # Adam counts the steps of every tensor, in float32
    found = {"values": 4 * entries, "positions, masks": 0, "gradients": 4 * entries, "optimizer": 8 * entries + steps}
    assert held(built) == found
    owned = held(shared(Case(build="shared", **SMALL)))
    assert owned["values"] / found["values"] == pytest.approx(0.25, abs=0.1) and owned["positions, masks"] > 0


def test_tasks_of_an_owner_map_share_no_entry():
    built = owner_map(Case(build="owner_map", **SMALL))
    trunk, heads = built.modules
    for layer in trunk[::2]:
        counts = torch.bincount(layer.weight_owner.flatten().int(), minlength=3).tolist()
        assert counts[1] == counts[2] == round(0.25 * layer.weight.numel()) and sum(counts) == layer.weight.numel()
    assert len(heads) == 2


def test_products_are_those_of_a_plain_networks_step():
    """Counted by torch itself: multiplications of a step of plain layers, forward and backward."""
    from torch.utils.flop_counter import FlopCounterMode

    case = Case(build="dense", **SMALL)
    counts = []
    for built in (dense(case), products(case)):
        batches = data(case)
        with FlopCounterMode(display=False) as counter:
            built.step(batches)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("format", ["dense", "compact", "csr"])
def test_a_prediction_is_made_by_the_format_asked_for(format, monkeypatch):
    from msnlib.lab import arms

    asked = []
    monkeypatch.setattr(arms, "extract", lambda net, task, kind, batch_size: asked.append(kind) or nn.Flatten())
    case = Case(build="extracted", format=format, **SMALL | dict(tasks=1))
    extracted(case).step(data(case))
    assert asked == [format]


def test_a_race_measures_every_arm_in_every_round():
    arms = {"plain": dict(build="dense"), "masked": dict(build="shared"), "score": dict(build="allocating", tasks=2)}
    found = race(arms, [2, 6], rounds=2, profiled=[("plain", 2)], **SMALL)
    assert {batch: {arm: len(s) for arm, s in rows.items()} for batch, rows in found.seconds.items()} == {
        batch: dict.fromkeys(arms, 2) for batch in (2, 6)
    }
    assert all(second > 0 for rows in found.seconds.values() for seconds in rows.values() for second in seconds)
    assert found.state["plain"]["values"] > found.state["masked"]["values"] > 0
    for peak in filter(None, found.peaks.values()):
        assert 0 <= peak["building"] <= peak["training"]
    assert any("addmm" in name for name, count, share in found.profiles["plain", 2])


def test_an_arm_that_cannot_be_built_is_named():
    with pytest.raises(ValueError, match="build is 'denser', but must be one of dense, shared"):
        race({"plain": dict(build="denser")}, [2], rounds=1, **SMALL)
    with pytest.raises(RuntimeError, match="arm 'greedy': CapacityError: .*"):
        race({"greedy": dict(build="shared", density=0.9)}, [2], rounds=1, **SMALL)


def test_a_ratio_is_taken_within_rounds():
    """A round in which the machine was three times as slow changes no ratio."""
    middle, low, high = ratio({"slow": [2.0, 6.0, 2.0], "fast": [1.0, 3.0, 1.0]}, "slow", "fast")
    assert (middle, low, high) == (2, 2, 2)
    assert ratio({"slow": [1.0, 2.0, 3.0], "fast": [1.0, 1.0, 1.0]}, "slow", "fast") == (2, 1.5, 2.5)
