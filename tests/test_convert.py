"""convert: any module holds tasks, isolated bit for bit, batch statistics too; what cannot be is refused by name."""

import copy
import os
import subprocess
import sys
import textwrap
import warnings

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import prune as torch_prune

from msnlib import (
    AUTHORS,
    CONVERGED,
    Task,
    allocate,
    convert,
    extract,
    fit,
    load,
    owner_map,
    predict,
    prune,
    release,
    save,
    task_parameters,
    tasks,
    using,
)
from msnlib.subnetworks import shared_tensors

pytestmark = pytest.mark.usefixtures("seeded")


class Own(nn.Module):
    """A user's module: nested, one linear used twice, a raw parameter, a buffer assigned in forward, attention."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.register_buffer("seen", torch.zeros(()))
        self.block = nn.ModuleDict(
            {"attention": nn.MultiheadAttention(8, 2, batch_first=True), "norm": nn.LayerNorm(8)}
        )
        self.twice = nn.Linear(8, 8)
        self.batch = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        self.seen = self.seen + 1
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        x = self.block["norm"](x + self.block["attention"](x, x, x)[0])
        x = self.twice(torch.relu(self.twice(x)))
        return self.head(self.batch(x.mean(1)))


MODELS = {
    "own": Own,
    "resnet": lambda: torchvision.models.ResNet(
        torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=5, width_per_group=64
    ),
    "vit": lambda: torchvision.models.VisionTransformer(16, 8, 2, 2, 8, 16, num_classes=5),
    "encoder": lambda: nn.Sequential(
        nn.Flatten(2),
        nn.Linear(256, 8),
        nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        nn.Flatten(),
        nn.Linear(24, 5),
    ),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def task(name: str) -> Task:
    made = torch.Generator().manual_seed(len(name))
    x, y = torch.randn(12, 3, 16, 16, generator=made), torch.randint(5, (12,), generator=made)
    return Task(name, "classification", (x, y), (x, y), (x, y), outputs=5, batch_size=6)


@torch.no_grad()
def run(module: nn.Module, task: Task) -> torch.Tensor:
    return module(task.test[0])


def both(make) -> nn.Module:
    net = convert(make(), outputs=["head"] if make is Own else ())
    for name in ("a", "later"):
        allocate(net, name, 0.3, "gradient", task(name).batches(), task(name).loss)
    return net


@every_model
def test_a_pretrained_module_keeps_its_function_when_one_task_owns_everything(make):
    module = make().eval()
    expected = run(module, task("a"))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    net = convert(copy.deepcopy(module), "a")
    assert predict(net, task("a")).equal(expected)
    back = extract(net.eval(), "a")
    assert type(back) is type(module) and back.state_dict().keys() == before.keys()
    assert all(back.state_dict()[name].equal(value) for name, value in before.items() if name != "seen")


@every_model
def test_training_one_task_changes_no_bit_of_another(make):
    net = both(make)
    fit(net, task("a"), epochs=1)
    expected, state = predict(net, task("a")), {n: t.clone() for n, t in net.state_dict().items() if ".a." in n}
    optimizer = lambda parameters, lr: torch.optim.AdamW(parameters, lr, weight_decay=0.5)  # noqa: E731
    fit(net, task("later"), epochs=2, optimizer=optimizer)
    assert all(net.state_dict()[name].equal(value) for name, value in state.items() if "seen" not in name)
    assert predict(net, task("a")).equal(expected)
    release(net, "later")
    assert predict(net, task("a")).equal(expected) and tasks(net) == ["a"]
    assert not [name for name in net.state_dict() if "later" in name]


@every_model
def test_tensors_are_disjoint_and_exact(make):
    net = both(make)
    for name, tensor in shared_tensors(net).items():
        n = tensor.numel()
        assert [int((owner_map(net)[name] == k).sum()) for k in (1, 2)] == [max(1, round(0.3 * n))] * 2, name


@every_model
def test_it_is_extracted_stored_copied_and_compiled(make, tmp_path):
    net = both(make).eval()
    x, expected = task("later").test[0], predict(net, task("later"))
    plain = extract(net, "later")
    assert not [m for m in plain.modules() if "msnlib" in type(m).__module__ or hasattr(type(m), "plain_class")]
    assert run(plain, task("later")).equal(expected) and "Linear" in repr(net)
    save(net, tmp_path / "net.safetensors")
    again = load(tmp_path / "net.safetensors", net=convert(make()))
    assert predict(again, task("later")).equal(expected) and tasks(again) == ["a", "later"]
    assert predict(copy.deepcopy(net), task("later")).equal(expected)
    with using(net, "later"), torch.no_grad():
        torch.testing.assert_close(torch.compile(net, backend="eager")(x), expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert net(x).isfinite().all()
    assert predict(net.double(), task("later").map_inputs(torch.Tensor.double)).dtype == torch.float64
    allocate(net, "third", 0.2, method="random")
    assert {p.dtype for p in task_parameters(net, "third")} == {torch.float64}


def test_batch_statistics_follow_the_stopping_rule_that_is_used():
    net = both(Own)
    history = fit(net, task("a"), epochs=4, stopping=[AUTHORS, CONVERGED], learning_rate=0.5)
    outputs = {}
    for rule in (AUTHORS, CONVERGED, AUTHORS):
        history.use(rule)
        outputs.setdefault(rule.name, []).append((predict(net, task("a")), net.batch.copies["a"].running_mean.clone()))
    assert outputs["authors"][0][1].equal(outputs["authors"][1][1])
    assert int(net.batch.copies["a"].num_batches_tracked) == 2 * history.best["authors", "a"]
    assert int(net.batch.copies["later"].num_batches_tracked) == 0


def test_a_pretrained_task_makes_room():
    net = convert(Own(), "old")
    prune(net, "old", 0.4)
    allocate(net, "new", 0.6, method="random")
    assert all(int(tensor.owners().max()) == 1 for tensor in shared_tensors(net).values())


def test_heads_of_different_sizes_are_the_users():
    from msnlib import MaskedLinear, PerTask

    net = convert(Own())
    net.head = PerTask({"a": MaskedLinear(8, 2), "b": MaskedLinear(8, 7)})
    for name, outputs in (("a", 2), ("b", 7)):
        allocate(net, name, 0.5, method="random")
        with using(net, name):
            assert net(torch.rand(4, 3, 16, 16)).shape == (4, outputs)


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    net[1].weight = net[0].weight
    return net


def old(function):
    def apply(module):
        with warnings.catch_warnings():  # they are deprecated
            warnings.simplefilter("ignore")
            return function(module)

    return apply


def pruned() -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    torch_prune.l1_unstructured(net[0], "weight", 0.5)
    return net


def pruned_norm() -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
    torch_prune.random_unstructured(net[1], "weight", 0.5)
    return net


def derived() -> nn.Module:
    net = nn.Sequential(nn.Linear(2, 2))
    net[0].raw = net[0].weight
    del net[0].weight
    net[0].weight = net[0].raw.detach() / 2
    return net


class Named(nn.Linear):
    def __init__(self, name, value):
        super().__init__(2, 2)
        setattr(self, name, value)


class Token(nn.Module):
    def __init__(self):
        super().__init__()
        self.copies, self.token = 2, nn.Parameter(torch.ones(2))


def traced():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.scale = nn.Linear(2, 2), nn.Parameter(torch.ones(2))

        def forward(self, x):
            return self.linear(x) * self.scale

    return torch.fx.symbolic_trace(Scaled())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (traced, r"\(Scaled\) is a traced graph with tensors of its own"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2)), r"1 \(LSTM\) cannot be isolated: recurrent"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2)), r"1 \(LazyLinear\) has no shape yet"),
        (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))), r"0 \(.*Linear\) is parametr"),
        (pruned, r"0 \(Linear\) computes its tensors anew in every call \(L1Unstructured\): remove"),
        (lambda: nn.Sequential(nn.Linear(2, 2), pruned()), r"1\.0 \(Linear\) computes its tensors anew"),
        (pruned_norm, r"1 \(LayerNorm\) computes its tensors anew .*RandomUnstructured"),
        (lambda: nn.Sequential(old(nn.utils.weight_norm)(nn.Linear(2, 2))), r"0 \(Linear\) .*WeightNorm"),
        (lambda: nn.Sequential(nn.utils.spectral_norm(nn.Conv2d(2, 2, 1))), r"0 \(Conv2d\) .*SpectralNorm"),
        (lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))), "0 .* is parametr"),
        (lambda: nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))), "0 .* is parametr"),
        (derived, r"0 \(Linear\) computes with 'weight', which is no parameter"),
        (lambda: nn.Sequential(Named("shared", nn.Identity())), r"0 \(Named\) has an attribute 'shared'"),
        (lambda: nn.Sequential(Named("shared", 3)), r"0 \(Named\) has an attribute 'shared'"),
        (lambda: nn.Sequential(Named("keys", nn.Parameter(torch.ones(2)))), r"0 \(Named\) has a parameter 'keys'"),
        (lambda: nn.Sequential(nn.Linear(2, 2), Token()), r"1 \(Token\) has an attribute 'copies'"),
        (lambda: torch.compile(nn.Sequential(nn.Linear(2, 2))), r"the network itself \(OptimizedModule\) wraps"),
        (lambda: nn.Sequential(nn.DataParallel(nn.Linear(2, 2))), r"0 \(DataParallel\) wraps the network"),
        (lambda: nn.Sequential(nn.Linear(2, 2), torch.jit.trace(nn.ReLU(), torch.ones(2))), "1 .* wraps the network"),
        (tied, "1.weight is the same tensor as 0.weight: untie"),
        (lambda: convert(nn.Sequential(nn.Linear(2, 2))), r"0 \(Linear\) holds tasks already"),
        (lambda: nn.ReLU(), "ReLU has no weights to share out"),
    ],
)
def test_what_cannot_be_isolated_is_refused_by_name_and_left_alone(make, says):
    net = make()
    state, kinds = list(net.state_dict()), [type(module) for module in net.modules()]
    with pytest.raises(ValueError, match=says) as error:
        convert(net, "a")
    assert (list(net.state_dict()), [type(module) for module in net.modules()]) == (state, kinds)
    assert "\n" not in str(error.value)


def test_names_are_free_where_nothing_is_added():
    """T5 and others keep their embedding as ``shared``: a module without tensors of its own may."""

    class Holder(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.copies = nn.Embedding(5, 4), nn.Linear(4, 3)

        def forward(self, x):
            return self.copies(self.shared(x))

    net, x = Holder(), torch.tensor([0, 4])
    expected = net(x)
    convert(net, "a")
    with using(net, "a"):
        assert net(x).equal(expected)


def test_what_is_frozen_stays_so_for_the_task_that_has_it():
    net = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5))
    net[0].requires_grad_(False)
    net[1].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    x, y = torch.randn(12, 2, 2, 2), torch.randint(5, (12,))
    problem = Task("old", "classification", (x, y), (x, y), (x, y), outputs=5, batch_size=6)
    convert(net, "old")
    fit(net, problem, epochs=2, learning_rate=0.1)
    after = extract(net, "old").state_dict()
    moved = {name for name in before if not after[name].equal(before[name])}
    assert moved == {"1.bias", "3.weight", "3.bias", *(n for n in before if "running" in n or "tracked" in n)}
    prune(net, "old", 0.5)
    assert len(task_parameters(net, "old")) == 3
    allocate(net, "new", 0.5, method="random")
    assert len(task_parameters(net, "new")) == 5  # the norm's copy of its weight is frozen as it was


WRITES = {
    "clamp": lambda layer: layer.weight.data.clamp_(-0.01, 0.01),
    "detached": lambda layer: layer.weight.detach().zero_(),
    "a view": lambda layer: layer.weight.detach().view(-1).mul_(2),
    "a row": lambda layer: layer.weight.data[0].fill_(1),
    "an item": lambda layer: layer.weight.data.__setitem__(0, 1.0),
    "nn.init": lambda layer: nn.init.ones_(layer.weight),
    "nn.init of noise": lambda layer: nn.init.kaiming_uniform_(layer.weight),
    "copy": lambda layer: layer.weight.copy_(torch.ones(layer.weight.shape)),
    "data": lambda layer: setattr(layer.weight, "data", torch.ones(layer.weight.shape)),
    "out": lambda layer: torch.clamp(layer.weight, -1, 1, out=layer.weight),
    "foreach": lambda layer: torch._foreach_mul_([layer.weight], 2.0),
    "plus": lambda layer: layer.weight.__iadd__(1),
    "numpy": lambda layer: layer.weight.detach().numpy().fill(1),
    "bias": lambda layer: nn.init.zeros_(layer.bias),
    "renorm": lambda layer: layer.weight.data.renorm_(2, 0, 1),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 8), lambda: nn.Conv2d(4, 8, 1)], ids=["linear", "conv"])
def test_a_write_that_would_be_lost_is_refused_and_says_what_to_do(make, write):
    net = convert(nn.Sequential(make(), nn.Flatten()))
    allocate(net, "a", 0.5, method="random")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with using(net, "a"), torch.no_grad():
        with pytest.raises((RuntimeError, ValueError), match="set_values|read-only"):
            write(net[0])
    assert all(tensor.equal(before[name]) for name, tensor in net.state_dict().items())


def test_a_weight_can_be_read_and_computed_with_and_written_where_a_task_owns_all_of_it():
    net = convert(nn.Sequential(nn.Linear(4, 8)))
    allocate(net, "a", 0.5, method="random")
    dense = shared_tensors(net)["0.shared.weight"].dense("a")
    with using(net, "a"):
        for derived in (net[0].weight.abs(), net[0].weight * 2, net[0].weight.clone(), net[0].weight @ torch.ones(4)):
            assert type(derived) is torch.Tensor
            derived.detach().zero_()
        assert net[0].weight.equal(dense) and float(net[0].weight.data.max()) == float(dense.max())
        net[0].weight.square().sum().backward()
    values = shared_tensors(net)["0.shared.weight"]["a"].values
    assert values.grad.equal(2 * values.detach())
    whole = convert(nn.Sequential(nn.Linear(4, 8)), "a")
    with using(whole, "a"), torch.no_grad():
        whole[0].weight.copy_(torch.ones(8, 4))
    assert bool((shared_tensors(whole)["0.shared.weight"]["a"].values == 1).all())


def test_an_output_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="output 'fc' is none of the modules.*: 0"):
        convert(nn.Sequential(nn.Linear(2, 2)), outputs=["fc"])
    for outputs in ("fc", 7, None):
        with pytest.raises(ValueError, match=f"^outputs {outputs!r} must be names of modules"):
            convert(nn.Sequential(nn.Linear(2, 2)), outputs=outputs)


def test_a_refused_allocation_leaves_no_copies(snapshot, same):
    from msnlib import CapacityError

    net = both(Own)
    before = snapshot(net)
    with pytest.raises(CapacityError):
        allocate(net, "third", 0.5, method="random")
    assert same(before, snapshot(net))


def test_two_processes_of_distributed_data_parallel_agree(tmp_path):
    """Each sees half of the batch; afterwards both hold the same, and the other task has not moved."""
    script = tmp_path / "ddp.py"
    script.write_text(
        textwrap.dedent("""
        import sys, torch, torch.distributed as dist, torch.multiprocessing as mp
        from torch.nn.parallel import DistributedDataParallel
        sys.path.insert(0, sys.argv[2])
        from test_convert import both, Own, task
        from msnlib import predict, seed_everything, task_parameters, using

        def work(rank, folder):
            dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
            seed_everything(0, threads=1)
            net = both(Own)
            before = predict(net, task("later"))
            parallel = DistributedDataParallel(net, find_unused_parameters=True)
            optimizer = torch.optim.Adam(task_parameters(net, "a"), lr=0.01)
            x, y = task("a").train
            for _ in range(2):
                optimizer.zero_grad()
                with using(parallel, "a"):
                    task("a").loss(parallel(x[rank::2]), y[rank::2]).backward()
                optimizer.step()
            values = torch.cat([p.detach().flatten() for p in task_parameters(net, "a")])
            gathered = [torch.empty_like(values) for _ in range(2)]
            dist.all_gather(gathered, values)
            assert gathered[0].equal(gathered[1])
            assert predict(net, task("later")).equal(before)
            dist.destroy_process_group()

        if __name__ == "__main__":
            mp.start_processes(work, (sys.argv[1],), nprocs=2, start_method="fork")
        """)
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(tmp_path), os.path.dirname(__file__)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
