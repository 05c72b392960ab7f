"""What holds whatever is done to a network: exact counts, disjoint entries, and no bit of a task that is not touched.

Random networks go through random sequences of allocate, fit, prune, release, save, load, copy. The sequences are the
same in every run; ``MSNLIB_EXAMPLES=2000 pytest tests/test_invariants.py`` tries that many others.
"""

import copy
import os
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import nn

from msnlib import (
    CapacityError,
    FrozenTaskError,
    MaskedConv2d,
    MaskedLinear,
    PerTask,
    Task,
    allocate,
    conv_network,
    convert,
    dense_network,
    entries,
    extract,
    fit,
    load,
    owner_map,
    predict,
    prune,
    release,
    save,
    seed_everything,
    shared_tensors,
    task_parameters,
    tasks,
)
from msnlib.isolation import load_whole
from msnlib.seeding import stream

RULES = ["largest", "even_outputs", "constant_fan_in"]  # that keep exact counts of single entries
NAMES = ("a", "b", "c", "d")
EXAMPLES = int(os.environ.get("MSNLIB_EXAMPLES", "0"))


def problem(name, kind, inputs, outputs, vocabulary=None):
    data = stream("data of a test", name, seed=0)
    x = torch.randn(8, *inputs, generator=data)
    if vocabulary is not None:
        x = torch.randint(vocabulary, (8, *inputs), generator=data)
    y = torch.randint(outputs if kind == "classification" else 2, (8,), generator=data)
    y = y if kind == "classification" else y[:, None].float()
    return Task(name, kind, (x, y), (x, y), (x, y), outputs, 4, vocabulary)


def alike(*inputs):
    return [problem(name, "classification", inputs, 3) for name in NAMES]


def dense(width, depth):
    group = [
        problem("a", "classification", (5,), 3),
        problem("b", "regression", (2, 2), 1),
        problem("c", "binary", (3,), 1, vocabulary=4),
        problem("d", "classification", (7,), 2),
    ]
    return group, lambda: dense_network(group, width=width, depth=depth)


def conv(width, depth):
    group = [
        problem(name, "classification", (channels, 6, 6), 3) for name, channels in zip(NAMES, (1, 3, 1, 2), strict=True)
    ]
    return group, lambda: conv_network(group, channels=(width, 2), width=4, pool_stride=depth)


def by_hand(width, depth):
    def make():
        layers = [PerTask({n: nn.Conv2d(2, 2, 1) for n in NAMES}), MaskedConv2d(2, width, 3, padding=1)]
        layers += [PerTask({n: nn.BatchNorm2d(width) for n in NAMES}), nn.ReLU()] * depth
        net = nn.Sequential(*layers, nn.Flatten(), MaskedLinear(width * 9, 3, bias=depth == 1))
        load_whole(net)  # as allocate and load do: torch's own load_state_dict may be the first that such a net meets
        return net

    return alike(2, 3, 3), make


def plain(width, depth):
    norms = [nn.LayerNorm(2 * width), nn.BatchNorm1d(2 * width)]
    hidden = [layer for k in range(depth) for layer in (nn.Linear(2 * width, 2 * width), norms[k % 2], nn.PReLU())]
    return nn.Sequential(nn.Linear(5, 2 * width), *hidden, nn.Linear(2 * width, 3))


def converted(width, depth):
    return alike(5), lambda: convert(plain(width, depth))


def pretrained(width, depth):
    return alike(5), lambda: convert(plain(width, depth), "a")


class Network(RuleBasedStateMachine):
    """A network, and of each of its tasks the outputs that it must have."""

    @initialize(
        family=st.sampled_from([dense, conv, by_hand, converted, pretrained]),
        width=st.integers(1, 5),
        depth=st.integers(1, 2),
        seed=st.integers(0, 3),
    )
    def build(self, family, width, depth, seed):
        seed_everything(seed, threads=1)
        group, self.make = family(width, depth)
        self.tasks = {task.name: task for task in group}
        self.net, self.known, self.readers = self.make(), {}, set()
        if family is pretrained:
            seed_everything(seed, threads=1)
            whole = plain(width, depth).eval()
            seed_everything(seed, threads=1)
            self.net = self.make()
            self.known["a"] = predict(self.net, self.tasks["a"])
            assert self.known["a"].equal(whole(self.tasks["a"].test[0]).detach())

    def held(self):
        return tasks(self.net)

    def frozen(self, task):
        """Whether a later task reads this one."""
        order = self.held()
        return any(order.index(reader) > order.index(task) for reader in self.readers)

    def counts(self, task):
        return {name: len(t[task].positions) for name, t in shared_tensors(self.net, task).items()}

    @rule(
        task=st.sampled_from(NAMES),
        density=st.one_of(st.sampled_from(["free", 1.0]), st.floats(0.01, 0.5)),
        method=st.sampled_from(["random", "gradient"]),
        reads=st.sampled_from(["none", "none", "all"]),
        chosen=st.sampled_from(RULES),
    )
    def allocate(self, task, density, method, reads, chosen):
        problem, state = self.tasks[task], self.state()
        free = {name: len(tensor.free()) for name, tensor in shared_tensors(self.net, task).items()}
        asked = {
            n: free[n] if density == "free" else entries(t.numel(), density)
            for n, t in shared_tensors(self.net, task).items()
        }
        refused = ValueError if task in self.held() else CapacityError
        try:
            rule = "even_outputs" if density == "free" else chosen
            allocate(self.net, task, density, method, problem.batches(), problem.loss, reads=reads, rule=rule)
        except refused:
            assert refused is ValueError or any(max(asked[name], 1) > free[name] for name in asked)
            assert self.state() == state
            return
        assert refused is CapacityError and self.counts(task) == asked and self.held()[-1] == task
        self.known[task] = predict(self.net, problem)
        if reads == "all":
            self.readers.add(task)

    def refused_if_frozen(self, act, group):
        state, frozen = self.state(), any(self.frozen(task) for task in group)
        try:
            act()
        except FrozenTaskError:
            assert frozen and self.state() == state
            return True
        assert not frozen
        return False

    @precondition(lambda self: self.known)
    @rule(data=st.data(), rate=st.sampled_from([1e-3, 0.05]))
    def fit(self, data, rate):
        group = data.draw(st.lists(st.sampled_from(self.held()), min_size=1, max_size=2, unique=True))
        before = {task: self.counts(task) for task in group}
        how = dict(epochs=1, learning_rate=rate, optimizer=torch.optim.AdamW, seed=0)
        if not self.refused_if_frozen(lambda: fit(self.net, [self.tasks[task] for task in group], **how), group):
            for task in group:
                assert self.counts(task) == before[task]
                self.known[task] = predict(self.net, self.tasks[task])

    @precondition(lambda self: self.known)
    @rule(data=st.data(), share=st.floats(0.01, 1))
    def prune(self, data, share):
        task = data.draw(st.sampled_from(self.held()))
        tensors, before, state = shared_tensors(self.net, task), self.counts(task), self.state()
        after = {name: entries(tensor.numel(), share) for name, tensor in tensors.items()}
        try:
            refused = self.refused_if_frozen(lambda: prune(self.net, task, share), [task])
        except CapacityError:
            assert any(after[name] > before[name] for name in after) and self.state() == state
            return
        if not refused:
            assert self.counts(task) == after
            self.known[task] = predict(self.net, self.tasks[task])

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def release(self, data):
        task = data.draw(st.sampled_from(self.held()))
        if not self.refused_if_frozen(lambda: release(self.net, task), [task]):
            del self.known[task]
            self.readers.discard(task)
            assert task not in self.held() and not [n for n in self.net.state_dict() if n.endswith(f".{task}.values")]

    @rule()
    def save_and_load(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "net.safetensors")
            save(self.net, path)
            self.net = load(path, net=self.make())

    @rule()
    def carry_over(self):
        other = self.make()
        other.load_state_dict(self.net.state_dict())
        self.net = other

    @rule()
    def copy(self):
        self.net = copy.deepcopy(self.net)

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def refuse_a_broken_state(self, data):
        state = self.net.state_dict()
        broken = copy.copy(state)  # with the versions that torch keeps beside it
        broken.pop(data.draw(st.sampled_from(sorted(state))))
        before = self.state()
        with pytest.raises(RuntimeError):
            self.net.load_state_dict(broken)
        assert self.state() == before

    def state(self):
        return {name: (tensor.dtype, tensor.numpy().tobytes()) for name, tensor in self.net.state_dict().items()}

    @invariant()
    def no_task_moves_that_is_not_touched(self):
        for task, outputs in getattr(self, "known", {}).items():
            assert predict(self.net, self.tasks[task]).equal(outputs), task

    @invariant()
    def every_entry_is_owned_once_and_known_to_the_map(self):
        if not hasattr(self, "net"):
            return
        assert set(self.held()) == set(self.known)
        maps = owner_map(self.net)
        for name, tensor in shared_tensors(self.net).items():
            assert int(tensor.owners().max()) <= 1
            for number, task in enumerate(self.held(), start=1):
                owned = tensor[task].positions if task in tensor else torch.zeros(0, dtype=torch.int64)
                assert (maps[name].flatten() == number).nonzero().flatten().equal(owned), name

    @invariant()
    def no_parameter_is_of_two_tasks(self):
        if hasattr(self, "net"):
            own = [id(p) for task in self.held() if not self.frozen(task) for p in task_parameters(self.net, task)]
            assert len(own) == len(set(own))

    @invariant()
    def what_is_extracted_gives_the_same(self):
        for task, outputs in getattr(self, "known", {}).items():
            plain = extract(self.net, task).eval()
            with torch.no_grad():
                given = plain(self.tasks[task].test[0])
            if hasattr(self.net, "trunk") and self.tasks[task].test[0].dim() == 4:
                torch.testing.assert_close(given, outputs, rtol=0, atol=1e-5 * max(1.0, float(outputs.abs().max())))
            else:
                assert given.equal(outputs)


Network.TestCase.settings = settings(
    max_examples=EXAMPLES or 80,
    stateful_step_count=12,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


class TestNetwork(Network.TestCase):
    def runTest(self):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().runTest()
