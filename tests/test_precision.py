"""Training in bfloat16: where it is taken, that it is recorded and part of every key, and that it computes the same."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from msnlib import AUTHORS, Task, allocate, conv_network, fit, predict, seed_everything, using
from msnlib import images as fast
from msnlib.command.verify import repetition
from msnlib.lab import precision as lab_precision
from msnlib.lab.experiments import start
from msnlib.lab.fingerprint import facts
from msnlib.lab.parameters import ParameterError
from msnlib.lab.pooling import fixed
from msnlib.lab.precision import PRECISIONS, choose_precision
from msnlib.learner import Learner, Schedule

pytestmark = pytest.mark.usefixtures("seeded")
CPU, GPU = torch.device("cpu"), torch.device("cuda")
HALF = torch.bfloat16
CONVERGING = replace(AUTHORS, patience=9)


@pytest.fixture
def pictures():
    """60 noisy pictures of three bars: a task that a small network learns in a few epochs."""
    noise = torch.Generator().manual_seed(0)
    y = torch.arange(60) % 3
    x = torch.rand(60, 9, 8, generator=noise) / 2
    for row, label in enumerate(y):
        x[row, 3 * label : 3 * label + 2] += 0.5
    parts = [(x[k : k + 20], y[k : k + 20]) for k in (0, 20, 40)]
    return Task("bars", "classification", *parts, outputs=3, batch_size=10)


def network(task, density=0.5, **how):
    net = conv_network([task], **{"channels": (5, 6), "width": 16, **how})
    allocate(net, task.name, density, "random")
    return net


@pytest.mark.parametrize("asked", PRECISIONS)
@pytest.mark.parametrize("profile", ["paper", "laptop", "quick"])
@pytest.mark.parametrize("is_fast", [True, False])
@pytest.mark.parametrize("device", [CPU, GPU])
def test_bfloat16_is_taken_in_paper_where_the_device_is_fast_at_it_or_on_request(
    asked, profile, is_fast, device, monkeypatch
):
    monkeypatch.setattr(lab_precision, "fast_bfloat16", lambda where: is_fast and where == device)
    half = asked == "bfloat16" or (asked == "auto" and profile == "paper" and is_fast)
    assert choose_precision(asked, profile, device, torch.float32) == ("bfloat16" if half else "float32")
    if asked == "auto":
        assert choose_precision(asked, profile, device, torch.float64) == "float64"


@pytest.mark.parametrize("asked", ["float16", "half", "BFLOAT16", "", "float64"])
def test_another_precision_is_refused_in_a_line_that_says_what_is_allowed(asked):
    with pytest.raises(ValueError, match=f"^precision is '{asked}', but must be one of auto, float32, bfloat16$"):
        choose_precision(asked, "paper", CPU, torch.float32)


@pytest.mark.parametrize("asked", ["float32", "bfloat16"])
def test_where_weights_are_in_float64_there_is_nothing_to_choose(asked, pictures):
    with pytest.raises(ValueError, match=f"^precision is '{asked}', but must be auto where weights are float64"):
        choose_precision(asked, "quick", CPU, torch.float64)
    parts = {part: (pictures.split(part)[0].double(), pictures.split(part)[1]) for part in ("train", "valid", "test")}
    double = replace(pictures, **parts)
    with pytest.raises(ValueError, match="^task 'bars': precision bfloat16 is for weights in float32, not float64$"):
        fit(network(double).double(), double, epochs=1, precision=HALF)


@pytest.mark.parametrize("wrong", [torch.float16, torch.float32, "bfloat16", True])
def test_fit_takes_no_other_precision(wrong, pictures):
    net = network(pictures)
    before = predict(net, pictures)
    with pytest.raises(ValueError, match=r"must be torch.bfloat16, or None for that of the weights$"):
        fit(net, pictures, epochs=1, precision=wrong)
    assert predict(net, pictures).equal(before)


def opening(asked, profile="paper"):
    settings = {"paper": {"size": 9}, "laptop": {"size": 3}, "quick": {"size": 1, "dtype": torch.float64}}
    return start("E2", "04_a", settings, profile=profile, seed=0, device="cpu", threads=1, precision=asked)


@pytest.mark.parametrize("is_fast", [True, False])
def test_a_run_records_the_precision_it_has_and_gives_it_to_fit(is_fast, monkeypatch):
    monkeypatch.setattr(lab_precision, "fast_bfloat16", lambda device: is_fast)
    for asked, profile, found in [
        ("auto", "paper", "bfloat16" if is_fast else "float32"),
        ("auto", "laptop", "float32"),
        ("auto", "quick", "float64"),
        ("float32", "paper", "float32"),
        ("bfloat16", "laptop", "bfloat16"),
    ]:
        run, setting, _ = opening(asked, profile)
        assert run.configuration["precision"] == found
        assert setting["precision"] is (HALF if found == "bfloat16" else None)
    run, setting, _ = start("E1", "02_a", {"quick": {}}, profile="quick", seed=0, device="cpu")
    assert "precision" not in run.configuration and "precision" not in setting  # a notebook without the parameter
    with pytest.raises((ValueError, ParameterError), match="must be one of auto, float32, bfloat16"):
        opening("float16")


def test_runs_of_two_precisions_are_never_pooled_and_older_ones_had_that_of_their_weights():
    pools = {name: fixed({"density": 0.2, "seed": 3} | ({"precision": name} if name else {}), {}, {"numerics": 1})
             for name in ("bfloat16", "float32", "float64", None)}  # fmt: skip
    assert pools["bfloat16"] != pools["float32"] == pools["float64"] == pools[None]


@pytest.mark.parametrize(("then", "now"), [("bfloat16", "bfloat16"), ("float32", "float32"), ("float64", "auto")])
def test_a_repetition_takes_the_precision_that_the_run_had(then, now, tmp_path):
    root = Path(__file__).resolve().parent.parent
    record = json.loads((root / "reports" / "04_parallel_conv" / "laptop-seed0" / "record.json").read_text())
    record["configuration"]["precision"] = then
    (tmp_path / "record.json").write_text(json.dumps(record))
    assert repetition(tmp_path, root / "notebooks").configuration["precision"] == now


def test_the_precision_is_part_of_a_trainings_key_and_none_leaves_the_key_as_it_was(pictures):
    def decide(**how):
        seed_everything(0, threads=1)
        schedule = Schedule(9, 2, 10, torch.optim.Adam, 1e-3, 0, **how)
        return facts(Learner(network(pictures), pictures, schedule))

    plain, none, half = decide(), decide(precision=None), decide(precision=HALF)
    assert plain == none and "autocast" not in none
    assert half != none and {name for name in half if half[name] != none.get(name)} == {"autocast"}


@pytest.mark.parametrize("shape", [(3, 4, 7, 5), (1, 1, 2, 2), (2, 3, 2, 6)])
def test_maxima_of_neighbours_are_torchs_to_the_last_bit_where_no_two_are_equal(shape):
    count = torch.Size(shape).numel()
    x = torch.randperm(count).double().view(shape).to(memory_format=torch.channels_last)
    grad = torch.randn(*shape[:2], shape[2] - 1, shape[3] - 1, dtype=torch.float64)
    found = []
    for pool in (fast._Maxima.apply, nn.MaxPool2d(2, 1)):
        leaf = x.clone().requires_grad_()
        y = pool(leaf)
        y.backward(grad)
        found.append((y, leaf.grad))
    (y, own), (expected, torchs) = found
    assert y.equal(expected)
    torch.testing.assert_close(own, torchs, rtol=1e-14, atol=1e-14)


def test_of_two_equal_neighbours_one_has_the_gradient_and_none_is_lost():
    x = torch.randint(3, (2, 3, 6, 6)).float().to(memory_format=torch.channels_last).requires_grad_()
    y = fast._Maxima.apply(x)
    (grad,) = torch.autograd.grad(y, x, torch.ones_like(y))
    assert grad.sum() == y.numel() and grad.min() == 0
    assert (x[grad > 0] >= 1).float().mean() > 0.9  # where it is, something large stands


def gradients(net, task, precision, x, y):
    learner = Learner(net, task, Schedule(1, 1, len(x), torch.optim.Adam, 1e-3, 0, precision))
    learner.optimizer.zero_grad()
    with using(net, task.name):
        with learner._precision():
            outputs = net(x)
        task.loss(outputs.float(), y).backward()
    return outputs.float().detach(), torch.cat([value.grad for value in learner.values])


@pytest.mark.parametrize("how", [{}, {"pool_stride": 2}, {"own_first": True}, {"channels": (4, 4)}])
@pytest.mark.parametrize("density", [1.0, 0.4])
@pytest.mark.parametrize("part", [1, 7, 64])
def test_bfloat16_gives_what_float32_gives_up_to_its_rounding(how, density, part, pictures, monkeypatch):
    net = network(pictures, density, **how)
    calls, own = [], fast.images
    monkeypatch.setattr("msnlib.networks.images", lambda *args: calls.append(1) or own(*args))
    monkeypatch.setattr(fast, "PART", part)
    exact = gradients(net, pictures, None, *pictures.train)
    assert not calls
    found = gradients(net, pictures, HALF, *pictures.train)
    assert calls
    monkeypatch.setattr("msnlib.networks.available", lambda *_: False)
    layer_by_layer = gradients(net, pictures, HALF, *pictures.train)
    for ours, torchs, meant in zip(found, layer_by_layer, exact, strict=True):
        assert not ours.equal(meant)
        assert (ours - meant).norm() < 1.5 * (torchs - meant).norm() + 0.01 * meant.norm()
    assert (found[0] - exact[0]).norm() < 0.02 * exact[0].norm()


def test_a_trunk_of_other_layers_is_computed_as_it_is(pictures):
    x = torch.rand(4, 1, 9, 8)
    with torch.autocast("cpu", HALF):
        assert fast.available(network(pictures).trunk, x)
        for other in (nn.Linear(3, 3), nn.Sequential(nn.BatchNorm2d(1), *network(pictures).trunk), nn.Sequential(),
                      nn.Sequential(*network(pictures).trunk[:6])):  # fmt: skip
            assert not fast.available(other, x)
    assert not fast.available(network(pictures).trunk, x)
    with torch.autocast("cpu", torch.float16):
        assert not fast.available(network(pictures).trunk, x)


def test_a_subnetwork_learns_in_bfloat16_what_it_learns_in_float32_and_moves_no_other(pictures):
    other = replace(pictures, name="other")
    scores = {}
    for precision in (None, HALF):
        net = conv_network([pictures, other], channels=(5, 6), width=16)
        for task in (pictures, other):
            allocate(net, task.name, 0.4, "random")
        before = predict(net, other)
        history = fit(net, pictures, 8, CONVERGING, 1e-2, precision=precision)
        assert predict(net, other).equal(before)
        assert all(value.dtype == torch.float32 for value in net.parameters())
        assert predict(net, pictures).dtype == torch.float32
        scores[precision] = history.table.valid_loss
    half, whole = scores[HALF], scores[None]
    assert abs(half.iloc[0] / whole.iloc[0] - 1) < 0.05
    assert min(whole) < 0.6 * whole.iloc[0] and min(half) < 0.6 * half.iloc[0]  # both learn


@pytest.mark.parametrize("place", ["trunk", "trunk.0", "trunk.1"])
def test_hooks_run_in_bfloat16_too(place, pictures):
    net, seen = network(pictures), []
    net.get_submodule(place).register_forward_hook(lambda *_: seen.append(1))
    fit(net, pictures, 1, CONVERGING, 1e-2, precision=HALF)
    assert len(seen) == 3  # two batches, and validation


def test_whole_units_compute_with_their_block(pictures):
    net = conv_network([pictures], channels=(6, 6), width=16)
    allocate(net, "bars", 0.5, "random", rule="whole_units")
    outputs, grads = gradients(net, pictures, None, *pictures.train)
    half_outputs, half_grads = gradients(net, pictures, HALF, *pictures.train)
    assert (half_outputs - outputs).norm() < 0.02 * outputs.norm()
    assert (half_grads - grads).norm() < 0.1 * grads.norm()
