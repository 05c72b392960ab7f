"""The store of trainings: what was killed goes on to the same bits, and no training is made twice."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FunctionType

import pytest
import torch
import torch.nn.functional as F
from filelock import FileLock
from tiny import PACKAGE, RECORD, full_disk, good_notebook, msn, write_notebook
from torch import nn

from msnlib import (
    AUTHORS,
    CONVERGED,
    MultitaskNetwork,
    Task,
    allocate,
    conv_network,
    convert,
    dense_network,
    fit,
    fit_sequence,
    load_task,
    prune,
    seed_everything,
    task_parameters,
    using,
)
from msnlib.command.clean import kept_trainings
from msnlib.command.environment import store_of
from msnlib.command.jobs import plan
from msnlib.command.runner import lock
from msnlib.command.sweep import state as state_of
from msnlib.files import write_json
from msnlib.lab import fingerprint, stored
from msnlib.lab.experiments import controls, record
from msnlib.lab.networks import dedicated
from msnlib.lab.notebooks import read_notebook, source_of
from msnlib.lab.records import Run
from msnlib.lab.stored import Store
from msnlib.layers import MaskedLinear
from msnlib.learner import Learner, Schedule, train_with

pytestmark = pytest.mark.usefixtures("seeded")
RULES = [AUTHORS, CONVERGED]


@pytest.fixture(autouse=True)
def no_store_is_left_in_use():
    yield
    train_with(None)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def plain(net, task):
    allocate(net, task.name, 0.5, "random")
    return net


def dropping(task, parts=()):
    layers = [MaskedLinear(4, 8), nn.ReLU(), nn.Dropout(0.3), MaskedLinear(8, 8), *parts]
    net = MultitaskNetwork(nn.Sequential(*layers), 4, 8)
    net.add_task(task.name, task.inputs, task.outputs)
    return plain(net, task)


def normed(task):
    return plain(convert(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))), task)


def dense(task):
    return plain(dense_network([task], width=8, depth=2), task)


def reading(task):
    net = dense_network([task], width=8, depth=2)
    net.add_task("first", task.inputs, 3)
    allocate(net, "first", 0.3, "random")
    allocate(net, task.name, 0.3, "random", reads="all")
    return net


class Scaled(nn.Module):
    """Of a user's own making: neither torch's nor msnlib's."""

    def __init__(self, factor=2.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return half(self.factor * x) if self.training else x


def half(x):
    return x * SHARE


SHARE = 0.5


class Scores(nn.Module):
    """With a parameter of its own, dropout, a call of another method, and a property after `convert`."""

    def __init__(self):
        super().__init__()
        self.dense, self.drop, self.token = nn.Linear(4, 8), nn.Dropout(0.3), nn.Parameter(torch.zeros(8))

    def forward(self, x):
        return self.shifted(self.drop(self.dense(x))).relu()

    def shifted(self, x):
        return x + self.token


def of_own(task):
    return plain(convert(nn.Sequential(Scores(), Scaled(), nn.Linear(8, 3))), task)


NETWORKS = [dense, dropping, normed, reading, of_own]


def table(history):
    return history.table.drop(columns="seconds").to_dict("records")


def state(net):
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def trained(build, task, learner=Learner, **how):
    seed_everything(0, threads=1)
    net = build(task)
    how = {"epochs": 5, "stopping": RULES, "learning_rate": 0.02, **how}
    history = fit(net, task, learner=learner, **how)
    found = {}
    for rule in RULES:
        history.use(rule)
        found[rule.name] = state(net)
    return table(history), history.best, found


def count_training(monkeypatch):
    """The epochs that are trained from now on."""
    count, own = [], Learner.epoch
    monkeypatch.setattr(Learner, "epoch", lambda self, number: count.append(number) or own(self, number))
    return count


@pytest.mark.parametrize("build", NETWORKS)
def test_what_is_stored_is_read_and_what_is_not_goes_on_to_the_same_bits(build, make_task, store, same, monkeypatch):
    task = make_task("a", examples=25)
    uninterrupted = trained(build, task, epochs=6)
    for epochs in (2, 3, 6):
        count = count_training(monkeypatch)
        assert len(trained(build, task, store, epochs=epochs)[0]) == epochs
        expected = {2: [1, 2], 3: [3], 6: [4, 5, 6]}[epochs]
        assert count == expected, "the epochs that a lower cap left out, and no others"
        monkeypatch.undo()
    count = count_training(monkeypatch)
    again = trained(build, task, store, epochs=6)
    assert not count
    for found in (again, trained(build, task, Store(store.root.with_name("other")), epochs=6)):
        assert found[0] == uninterrupted[0] and found[1] == uninterrupted[1]
        assert same(found[2], uninterrupted[2])


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, partial(torch.optim.AdamW, weight_decay=0.1)])
def test_any_optimizer_goes_on(optimizer, make_task, store, same):
    task = make_task("a")
    trained(dense, task, store, epochs=2, optimizer=optimizer)
    one, other = (trained(dense, task, learner, epochs=4, optimizer=optimizer) for learner in (Learner, store))
    assert one[0] == other[0] and same(one[2], other[2])


def test_the_first_task_pruned_alone_is_its_training_beside_others(store, monkeypatch):
    group = [load_task(name, limit=200) for name in ("digits", "digits_permuted")]
    build = partial(dense_network, width=20, depth=2)
    how = dict(epochs=3, stopping=RULES, learner=store)
    _, alone = dedicated(build, group[0], density=0.3, **how)
    count = count_training(monkeypatch)
    net = build(group)
    beside = fit_sequence(net, [group], 0.3, **how).histories[0]
    assert count == [1, 2, 3]  # the second task's
    assert table(alone) == [row for row in table(beside) if row["task"] == "digits"]
    first, again, _ = store.trainings
    assert first["key"] == again["key"] and again["read"] == 3


@pytest.fixture(scope="module")
def transformer():
    """What the cell of notebook 16 defines that makes its network, small."""
    path = Path(__file__).resolve().parent.parent / "notebooks" / "16_transformer.ipynb"
    cells = [source_of(cell) for cell in read_notebook(path)["cells"] if cell["cell_type"] == "code"]
    (imports,) = (text.split("from msnlib.lab")[0] for text in cells if text.startswith("import warnings"))
    (network,) = (text for text in cells if text.startswith("class Block"))
    scope = {"setting": dict(width=8, heads=2, hidden=12, part=4), "device": "cpu", "__name__": "__main__"}
    exec(imports + network, scope)
    return scope


def texts(examples=20):
    noise = torch.Generator().manual_seed(1)
    parts = [(torch.randint(9, (examples, 6), generator=noise), torch.arange(examples) % 3) for _ in range(3)]
    return Task("wires", "classification", *parts, outputs=3, vocabulary=9, batch_size=7)


def test_the_transformer_goes_on_to_the_same_bits_and_a_second_task_in_it_too(transformer, store, same, monkeypatch):
    def sequence(learner, epochs):
        seed_everything(0, threads=1)
        first, second = texts(), replace(texts(), name="reviews")
        net, how = transformer["build"]([first]), dict(stopping=RULES, learning_rate=0.01, learner=learner)
        tables = []
        for task in (first, second):
            if task is second:
                net.add(second)
            allocate(net, task.name, "free")
            fit(net, task, epochs=2, **how)
            prune(net, task.name, 0.3)
            tables += table(fit(net, task, epochs=epochs, **how))
        return tables, state(net)

    expected = sequence(Learner, 4)
    sequence(store, 2)
    count = count_training(monkeypatch)
    found = sequence(store, 4)
    assert all("key" in training for training in store.trainings)
    assert found[0] == expected[0] and same(found[1], expected[1])
    assert count == [3, 4, 3, 4]  # of each task, cut
    monkeypatch.undo()
    count = count_training(monkeypatch)
    assert sequence(store, 4)[0] == expected[0] and not count


def test_the_transformers_parts_change_outputs_and_gradients_by_rounding_alone(transformer):
    task, found = texts(), []
    for part in (1, 3, 20, 99):
        seed_everything(0, threads=1)
        net = transformer["build"]([task])
        net.part, net.block.dropout.p = part, 0.0
        allocate(net, "wires", 0.5, "random")
        with using(net, "wires"):
            outputs = net(task.train[0])
        values = task_parameters(net, "wires")
        found.append([outputs, *torch.autograd.grad(task.loss(outputs, task.train[1]), values)])
        with torch.no_grad(), using(net.eval(), "wires"):
            assert torch.allclose(net(task.train[0]), outputs, rtol=1e-5, atol=1e-6)
    for other in found[:-1]:
        for ours, whole in zip(other, found[-1], strict=True):
            torch.testing.assert_close(ours, whole, rtol=1e-4, atol=1e-6)


def key(store, net, task, **how):
    schedule = dict(epochs=3, steps=3, batch_size=8, optimizer=torch.optim.Adam, learning_rate=0.01, seed=0) | how
    return store(net, task, Schedule(**schedule)).job.key


def test_whatever_decides_a_training_is_in_its_key_and_nothing_else_is(make_task, store, monkeypatch):
    task = make_task("a")

    def built(density=0.5, **how):
        seed_everything(0, threads=1)
        net = dense_network([task], **{"width": 8, "depth": 2, **how})
        allocate(net, "a", density, "random")
        return net

    own = key(store, built(), task)
    assert own == key(store, built(), task) == key(store, built(), task, epochs=99)
    crowd = built()
    crowd.add_task("b", (4,), 2)
    allocate(crowd, "b", 0.2, "random")
    assert key(store, crowd, task) == own

    other = built()
    next(iter(other["a"].values() if isinstance(other, nn.ModuleDict) else other.parameters())).data.flatten()[0] += 1
    found = [key(store, net, task) for net in (built(0.4), built(width=9), built(depth=3), other, built().double())[:4]]
    for how in ({"learning_rate": 0.02}, {"batch_size": 4}, {"steps": 4}, {"seed": 1}, {"optimizer": torch.optim.SGD}):
        found.append(key(store, built(), task, **how))
    moved = make_task("a")
    moved.train[0][0, 0] += 1e-6
    valid = make_task("a")
    valid.valid[1][0] = (valid.valid[1][0] + 1) % 3
    found += [key(store, built(), moved), key(store, built(), valid), key(store, built(), make_task("a", examples=23))]
    torch.set_num_threads(2)
    net = built()
    torch.set_num_threads(2)
    found.append(key(store, net, task))
    torch.set_num_threads(1)
    monkeypatch.setattr(fingerprint, "NUMERICS", fingerprint.NUMERICS + 1)
    found.append(key(store, built(), task))
    assert len({own, *found}) == 1 + len(found)


def calling(forward, base=Scaled):
    """A module with this forward, as if a cell had been run."""
    return type("Cell", (base,), {"forward": forward, "__module__": "__main__"})()


def elsewhere(share):
    """`half` as another module would define it, with a global of another value."""
    return FunctionType(half.__code__, {"SHARE": share})


def test_code_of_the_users_own_is_in_the_key_with_all_it_refers_to(make_task, store, monkeypatch):
    task = make_task("a")

    def found(part):
        seed_everything(0, threads=1)
        return key(store, dropping(task, [part]), task)

    def nested(give):
        return calling(lambda self, x: give(x), nn.Module)

    own = found(Scaled())
    assert own == found(Scaled())
    bodies = [
        lambda self, x: self.factor * x,
        lambda self, x: x * self.factor,
        lambda self, x: x.relu(),
        lambda self, x: x.tanh(),
        lambda self, x: x + 1,
        lambda self, x: x + 2,
        lambda self, x, k=1: x + k,
        lambda self, x, k=2: x + k,
        lambda self, x: half(x),
        lambda self, x: F.relu(x),
        lambda self, x: sum(part for part in (x, 1)),
        lambda self, x: sum(part for part in (x, 2)),
    ]
    parts = [Scaled(3.0), *map(calling, bodies), nested(half), nested(elsewhere(0.6))]
    keys = [found(part) for part in parts]
    assert len({own, *keys}) == 1 + len(keys)
    again = [Scaled(3.0), *map(calling, bodies), nested(elsewhere(0.5))]
    assert [found(part) for part in again] == keys[:-1]
    monkeypatch.setitem(globals(), "SHARE", 0.25)
    changed = [found(part) for part in (Scaled(), calling(bodies[8]), calling(bodies[0]))]
    assert changed[0] != own and changed[1] != keys[9] and changed[2] != keys[1]  # a base's code may be called as well
    monkeypatch.undo()
    monkeypatch.setattr(Scaled, "extra", lambda self: 1, raising=False)
    assert found(Scaled()) != own


def test_code_has_one_key_in_every_process():
    program = "from test_stored import Scaled, Scores; from msnlib.lab.content import value; "
    program += "from msnlib.lab.records import digest; print(digest([value(k, 'it') for k in (Scaled, Scores)]))"
    seen = set()
    for number in ("1", "2"):
        environment = dict(os.environ, PYTHONHASHSEED=number, PYTHONPATH=os.pathsep.join([*sys.path, "tests"]))
        how = dict(env=environment, capture_output=True, check=True)
        seen.add(subprocess.run([sys.executable, "-c", program], **how).stdout)
    assert len(seen) == 1 and len(seen.pop().strip()) == 64


class Counting(Scaled):
    def __init__(self, kept):
        super().__init__()
        self.kept = kept

    def forward(self, x):
        if isinstance(self.kept, list):
            self.kept.append(1)
        else:
            self.kept = self.kept + 1
        return x * (1 + 0.1 * len(self.kept) if isinstance(self.kept, list) else 1 + 0.1 * self.kept)


@pytest.mark.parametrize("kept", [0, []])
def test_a_module_that_keeps_more_than_tensors_is_trained_as_ever_and_says_so(kept, make_task, store, same):
    task = make_task("a")
    expected = trained(lambda task: dropping(task, [Counting(copy(kept))]), task)
    for _ in range(2):
        found = trained(lambda task: dropping(task, [Counting(copy(kept))]), task, store)
        assert found[:2] == expected[:2] and same(found[2], expected[2])
        assert set(store.trainings[-1]) == {"task", "not_stored"}
    assert not weights(store)


HELD, GENERATOR = object(), torch.Generator()
UNTOLD = {
    "global": lambda self, x: (HELD, x)[1],
    "module": lambda self, x: (sys.path, x)[1],  # whose functions may draw, or look at the machine
    "generator": lambda self, x, g=GENERATOR: x,
}


@pytest.mark.parametrize("what", [*UNTOLD, "attribute", "hook", "instance", "optimizer"])
def test_what_no_value_tells_is_trained_as_ever_and_says_so(what, make_task, store):
    task, how = make_task("a"), {}
    net = dropping(task, [calling(UNTOLD[what])] if what in UNTOLD else [])
    if what == "attribute":
        net.trunk[1].given = HELD
    if what == "hook":
        net.trunk[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    if what == "instance":
        net.trunk[1].forward = partial(torch.relu)
    if what == "optimizer":
        how["optimizer"] = type("Own", (torch.optim.SGD,), {"__module__": "here"})
    fit(net, task, epochs=1, learner=store, **how)
    (training,) = store.trainings
    assert set(training) == {"task", "not_stored"} and len(training["not_stored"].splitlines()) == 1
    assert not list(store.root.iterdir())


def weights(store):
    return sorted(store.root.glob("*/*/[0-9]*.pt"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
@pytest.mark.parametrize("file", ["last.pt", "0002.pt", "0003.pt"])
def test_a_damaged_file_is_named_and_made_again(damage, file, make_task, store, same, caplog):
    task = make_task("a")
    expected = trained(dense, task, epochs=5)
    trained(dense, task, store, epochs=3)
    (path,) = store.root.glob(f"*/*/{file}")
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        for at in range(len(content) // 4, len(content) // 2):  # some of what lies between the tensors is padding
            content[at] ^= 255
    if damage == "foreign":
        torch.save({"key": "of another", "rows": [], "tensors": []}, path)
    else:
        path.write_bytes({"cut": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])
    for epochs in (2, 3, 5):
        found = trained(dense, task, store, epochs=epochs)
        assert found[0] == expected[0][:epochs]
    assert same(found[2], expected[2])
    named = [entry.getMessage() for entry in caplog.records]
    assert all(file in line and "\n" not in line and str(store.root) not in line for line in named)
    assert named or file == "0002.pt"


@pytest.mark.parametrize("room, before", [(0, 0), (2000, 0), (2000, 2), (10_000, 2)])
def test_a_full_disk_names_the_store_and_costs_no_epoch_that_is_stored(room, before, make_task, store, same):
    task = make_task("a")
    expected = trained(dense, task, epochs=5)
    if before:
        trained(dense, task, store, epochs=before)
    files = {path: path.read_bytes() for path in store.root.rglob("*.*") if path.is_file()}
    with full_disk(room), pytest.raises(OSError) as refused:
        trained(dense, task, store, epochs=5)
    said = str(refused.value)
    assert said.startswith(f"the store {store.root} cannot be written (") and "\n" not in said
    assert said.endswith("): make room (msn clean lists what is stored), or run with --no-store")
    assert {path: path.read_bytes() for path in files} == files
    found = trained(dense, task, store, epochs=5)
    assert found[0] == expected[0] and same(found[2], expected[2])


def test_weights_that_have_gone_are_trained_again(make_task, store, same, monkeypatch):
    task = make_task("a")
    expected = trained(dense, task, epochs=5)
    monkeypatch.setattr(stored, "SPARE", 0)
    first = trained(dense, task, store)
    kept = {f"{epoch:04}.pt" for epoch in first[1].values()} | {"0005.pt"}
    assert {path.name for path in weights(store)} <= kept
    for path in weights(store):
        path.unlink()
    again = trained(dense, task, store)
    assert again[0] == expected[0] and same(again[2], expected[2])
    longer, other = trained(dense, task, store, epochs=7), trained(dense, task, epochs=7)
    assert longer[0] == other[0] and same(longer[2], other[2])


def test_numbers_that_a_store_cannot_have_made_are_refused(make_task, store):
    task = make_task("a")
    trained(dense, task, store)
    (last,) = store.root.glob("*/*/last.pt")
    content = torch.load(last, weights_only=True)
    content["rows"][0]["valid_loss"] += 1e-9
    torch.save(content, last)
    for path in weights(store):
        path.unlink()
    with pytest.raises(RuntimeError, match="epoch 1 gives another loss"):
        trained(dense, task, store)


PROCESS = """
import os, signal, sys
import torch
from msnlib import AUTHORS, CONVERGED, allocate, dense_network, fit, load_task, seed_everything
from msnlib.lab.stored import Store
from msnlib.learner import Learner

store, out, kill = sys.argv[1:]
seed_everything(0, threads=1)
task = load_task("digits", limit=200)
net = dense_network([task], width=20, depth=2)
allocate(net, "digits", 0.3, "random")
own, count, steps = Learner.epoch, [], []
Learner.epoch = lambda self, number: count.append(number) or own(self, number)
step = torch.optim.Adam.step
def dying(self, *given):
    steps.append(1)
    if len(steps) == int(kill):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *given)
torch.optim.Adam.step = dying
history = fit(net, task, epochs=5, stopping=[AUTHORS, CONVERGED], learner=Store(store) if store else Learner)
found = [history.table.drop(columns="seconds").to_dict("records"), history.best, net.state_dict(), len(count)]
torch.save(found, out)
"""


def start(*arguments):
    return subprocess.Popen([sys.executable, "-c", PROCESS, *map(str, arguments)], env=dict(os.environ))


def test_a_process_killed_in_its_third_epoch_goes_on_to_the_same_bits(tmp_path, same):
    steps = 3  # of an epoch: 160 images in batches of 64
    killed = start(tmp_path / "store", tmp_path / "none", 2 * steps + 2)
    whole = start("", tmp_path / "whole", 0)
    assert killed.wait() == -signal.SIGKILL and whole.wait() == 0
    assert not (tmp_path / "none").exists() and len(weights(Store(tmp_path / "store"))) == 2
    assert start(tmp_path / "store", tmp_path / "resumed", 0).wait() == 0
    expected, found = (torch.load(tmp_path / name, weights_only=False) for name in ("whole", "resumed"))
    assert found[3] == 3 and expected[3] == 5
    assert found[:2] == expected[:2] and same(dict(found[2]), dict(expected[2]))


def test_of_two_processes_one_trains_an_epoch_and_the_other_waits(tmp_path, same):
    both = [start(tmp_path / "store", tmp_path / name, 0) for name in ("one", "other")]
    assert [process.wait() for process in both] == [0, 0]
    one, other = (torch.load(tmp_path / name, weights_only=False) for name in ("one", "other"))
    assert one[3] + other[3] == 5
    assert one[:2] == other[:2] and same(dict(one[2]), dict(other[2]))


def experiment(learner=None):
    """What notebook 02 does, small, under whatever store is in use."""
    seed_everything(0, threads=1)
    how = {} if learner is None else {"learner": learner}
    group = [load_task(name, limit=120) for name in ("digits", "digits_permuted")]
    build = partial(dense_network, width=12, depth=2)
    run = Run("E1", notebook="02_parallel_dense", profile="quick", seed=0, device="cpu")
    controls(run, build, group, 0.3, RULES, epochs=4, learning_rate=5e-3, **how)
    net = build(group)
    for task in group:
        allocate(net, task.name, 0.3, "gradient", task.batches(), task.loss)
    record(run, net, fit(net, group, epochs=4, stopping=RULES, learning_rate=5e-3, **how), group, "multitask", RULES)
    results = [{name: value for name, value in row.items() if name != "seconds"} for row in run.results]
    return results, run.examples


class Killed(BaseException):
    pass


def test_an_experiment_stopped_anywhere_gives_the_same_record(store, same, monkeypatch):
    expected = experiment()
    own, left = Learner.epoch, [0]

    def dying(self, number):
        left[0] -= 1
        if not left[0]:
            raise Killed
        return own(self, number)

    monkeypatch.setattr(Learner, "epoch", dying)
    for after in (3, 6, 11):
        left[0] = after
        with pytest.raises(Killed):
            experiment(store)
    monkeypatch.undo()
    found = experiment(store)
    assert found[0] == expected[0] and same(found[1], expected[1])
    count = count_training(monkeypatch)
    assert same(experiment(store)[1], expected[1]) and not count


def test_the_store_is_used_where_the_environment_names_one(tmp_path, make_task, monkeypatch):
    task = make_task("a")
    monkeypatch.delenv("MSNLIB_STORE", raising=False)
    assert stored.activate() is None
    monkeypatch.setenv("MSNLIB_STORE", str(tmp_path / "store"))
    trainings = stored.activate()
    for read in (0, 2):
        seed_everything(0, threads=1)
        fit(dense(task), task, epochs=2)
        assert trainings[-1] == {"task": "a", "key": trainings[-1]["key"], "epochs": 2, "read": read}
    (tmp_path / "file").touch()
    monkeypatch.setenv("MSNLIB_STORE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="MSNLIB_STORE .*file"):
        stored.activate()


@pytest.mark.parametrize(
    ("build", "losses"),
    [
        (
            partial(dense_network, width=20, depth=2),
            [2.2921872350900, 2.2519782466480, 2.2363506240360, 2.2672778237600, 2.2358488350132, 2.2180635044110],
        ),
        (
            partial(conv_network, channels=(2, 3), width=8),
            [2.2934351323156, 2.2766423639251, 2.2616751896841, 2.2783144874868, 2.2659593703144, 2.2393538842221],
        ),
    ],
)
def test_the_numbers_are_those_of_this_revision(build, losses):
    """Whoever changes them raises `NUMERICS` in `msnlib.lab.records`, and writes the new ones here."""
    seed_everything(0, threads=1)
    torch.set_default_dtype(torch.float64)
    try:
        task = load_task("digits", limit=100)
        net = build([task])
        allocate(net, "digits", 0.3, "gradient", task.batches(), task.loss, rule="largest")
        found = fit(net, task, epochs=3, batch_size=32, learning_rate=1e-2).table
    finally:
        torch.set_default_dtype(torch.float32)
    assert [*found.train_loss, *found.valid_loss] == pytest.approx(losses, rel=1e-8)


def test_clean_lists_first_and_removes_only_when_it_is_told(make_task, store, monkeypatch, capsys):
    monkeypatch.setenv("MSNLIB_STORE", str(store.root))
    trained(dense, make_task("a"), store)
    trained(dense, make_task("b"), store)
    one, other = kept_trainings(store.root)
    assert {one.task, other.task} == {"a", "b"} and one.epochs == 5 and one.bytes > 5000
    assert msn("clean") == msn("clean", "--yes", "--older-than", 1) == 0
    assert len(kept_trainings(store.root)) == 2
    with FileLock(one.folder / "lock"):
        msn("clean", "--yes", "--job", one.key[:10])
    assert len(kept_trainings(store.root)) == 2
    msn("clean", "--yes", "--job", one.key[:10])
    assert [training.key for training in kept_trainings(store.root)] == [other.key]
    assert "1 trainings" in capsys.readouterr().out
    for path in other.folder.iterdir():
        os.utime(path, (0, 0))
    assert len(kept_trainings(store.root, days=30)) == 1
    trained(dense, make_task("b"), store)  # only reads it
    assert not kept_trainings(store.root, days=30)


@pytest.mark.parametrize("days", ["-30", "-0.5", "nan", "1e400", "inf", "month"])
def test_clean_takes_no_days_that_are_none(days, capsys):
    with pytest.raises(SystemExit) as refused:
        msn("clean", "--yes", "--older-than", days)
    assert refused.value.code == 2
    said = f"argument --older-than: {days!r} is not a number of days, 0 or more"
    assert capsys.readouterr().err == f"msn: {said} (see msn clean --help)\n"


def test_clean_names_what_stays_and_counts_what_went(make_task, store, monkeypatch, capsys):
    monkeypatch.setenv("MSNLIB_STORE", str(store.root))
    for name in "abc":
        trained(dense, make_task(name), store)
    busy, stuck, other = kept_trainings(store.root)

    def remove(folder, *given, _remove=shutil.rmtree, **how):
        if Path(folder) != stuck.folder:
            return _remove(folder, *given, **how)
        if not how.get("ignore_errors"):
            raise PermissionError(errno.EACCES, "Permission denied", "0001.pt")

    monkeypatch.setattr(shutil, "rmtree", remove)
    with FileLock(busy.folder / "lock"):
        assert msn("clean", "--yes") == 1
    shown = capsys.readouterr()
    assert shown.err.splitlines() == [
        f"msn: {busy.key[:12]} is being trained; it stays",
        f"msn: {stuck.folder} cannot be removed: Permission denied",
    ]
    assert shown.out.splitlines()[-1] == f"1 trainings, {other.bytes / 1e6:.1f} MB in {store.root}; removed"
    assert {kept.key for kept in kept_trainings(store.root)} == {busy.key, stuck.key}


def test_which_runs_use_a_store(monkeypatch, tmp_path):
    monkeypatch.delenv("MSNLIB_STORE", raising=False)
    used = [bool(store_of(*how)["MSNLIB_STORE"]) for how in (("quick", True), ("laptop", True), ("paper", False))]
    assert used == [False, True, False]
    monkeypatch.setenv("MSNLIB_STORE", str(tmp_path))
    assert store_of("quick", True) == {"MSNLIB_STORE": str(tmp_path)} and store_of("quick", False)["MSNLIB_STORE"] == ""


@pytest.mark.parametrize("given", ["", "~nobody-of-that-name/store"])
def test_without_a_home_nothing_runs_until_the_store_has_a_place(given, tmp_path, monkeypatch, capsys):
    def homeless(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setenv("MSNLIB_STORE", given)
    if not given:
        monkeypatch.setattr(Path, "expanduser", homeless)
    good_notebook(tmp_path / "nb", "01_a")
    run = ("run", "--notebooks", tmp_path / "nb", "--out", tmp_path / "out", "--profile", "laptop")
    folder = given or "~/.cache/msnlib-store"
    for command in (("clean",), run):
        assert msn(*command) == 2
        assert capsys.readouterr().err == (
            f"msn: {folder}: there is no such home folder; set MSNLIB_STORE to the folder for stored trainings\n"
        )
    assert not (tmp_path / "out").exists()
    assert msn(*run, "--no-store") == 0


SEEN = """import json, os
from pathlib import Path
progress = {"task": "mnist", "epoch": 7, "seconds": 1.25}
Path(os.environ["MSNLIB_PROGRESS"]).write_text(json.dumps(progress))
print("store:", os.environ["MSNLIB_STORE"])"""


def test_a_run_sees_the_store_unless_told_not_to_and_leaves_only_results(tmp_path, monkeypatch):
    name = "01_a"
    write_notebook(tmp_path / "notebooks", name, PACKAGE, SEEN, RECORD.replace("NAME", repr(name)))
    monkeypatch.setenv("MSNLIB_STORE", str(tmp_path / "store"))
    shown = []
    for out, more in (("with", []), ("without", ["--no-store"])):
        assert msn("run", 1, "--notebooks", tmp_path / "notebooks", "--out", tmp_path / out, *more) == 0
        shown.append((tmp_path / out / name / "quick-seed0" / f"{name}.ipynb").read_text())
        assert {path.name for path in (tmp_path / out / name / "quick-seed0").iterdir()} == {
            "record.json",
            f"{name}.ipynb",
        }
    assert f"store: {tmp_path / 'store'}" in shown[0] and f"{tmp_path}" not in shown[1] and "store: " in shown[1]


def test_status_says_which_epoch_of_which_task_is_trained(tmp_path):
    (job,) = plan([good_notebook(tmp_path / "notebooks", "01_a")], "quick", [0])
    part = tmp_path / "out" / "01_a" / ".quick-seed0.x"
    part.mkdir(parents=True)
    write_json(part / "run.json", {"host": "here", "pid": 1, "started": time.time()})
    write_json(part / "progress.json", {"task": "mnist", "epoch": 7, "seconds": 1.25})
    with lock(job, tmp_path / "out"):
        assert "mnist epoch 7 (1.2 s an epoch)" in state_of(job, tmp_path / "out").note
