"""Arms of a benchmark: ways to train several tasks that do the same work, each made for a case's size and tasks.

A builder (`BUILDERS`) returns what does one training step of every task, and what it keeps in memory.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from msnlib.allocation import allocate
from msnlib.exchange.export import extract
from msnlib.networks import MultitaskNetwork, conv_network, dense_network
from msnlib.subnetworks import release, sparse_products, task_parameters, using

Data = Sequence[tuple[Tensor, Tensor]]  # inputs and classes, a pair per task


@dataclass(frozen=True)
class Case:
    """What an arm builds.

    Attributes:
        build: its builder, a name in `BUILDERS`.
        sizes: units of every layer, from the inputs to the classes; hidden layers are all of one width.
        inputs: shape of an example, as the network takes it.
        tasks: how many.
        examples: how many of each task there are to train on.
        density: share of the weights a task keeps.
        how: more for :func:`~msnlib.allocate`.
        below: density under which tasks multiply their own weights alone, see :func:`~msnlib.sparse_products`; None is
            the default, by the table.
        conv: what :func:`~msnlib.conv_network` takes, where the network is one.
        precision: of forward and backward, float32 or bfloat16.
        format: of an extracted task.
        folder: where the package ``beyondml`` lies.
        threads: CPU threads of the process.
        seed: of weights, masks and data.
        device: where they are.
    """

    build: str
    sizes: Sequence[int]
    inputs: Sequence[int]
    tasks: int
    examples: int
    density: float = 1.0
    how: Mapping[str, Any] = field(default_factory=dict)
    below: float | None = None
    conv: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    format: str = "dense"
    folder: str = ""
    threads: int = 1
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.build not in BUILDERS:
            raise ValueError(f"build is {self.build!r}, but must be one of {', '.join(BUILDERS)}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is {self.precision!r}, but must be float32 or bfloat16")

    def network(self) -> MultitaskNetwork:
        """A network with room for the tasks, which are not declared yet."""
        if self.conv:
            return conv_network(inputs=(1, *self.inputs), **self.conv)
        return dense_network(inputs=self.sizes[0], width=self.sizes[1], depth=len(self.sizes) - 2)


class Built(NamedTuple):
    """An arm: one training step of every task, and what holds memory from one step to the next."""

    step: Callable[[Data], Any]
    modules: Sequence[nn.Module] = ()
    optimizers: Sequence[torch.optim.Optimizer] = ()


def _plain(case: Case) -> nn.Module:
    """A network of plain PyTorch for one task."""
    if not case.conv:
        layers = [m for a, b in pairwise(case.sizes) for m in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers[:-1])
    net = case.network()
    net.add_task("alone", case.inputs, case.sizes[-1])
    allocate(net, "alone", 1.0, "random")
    return extract(net, "alone").train().to(memory_format=torch.channels_last)


def _declared(case: Case, names: Sequence[str]) -> MultitaskNetwork:
    net = case.network()
    for name in names:
        net.add_task(name, case.inputs, case.sizes[-1])
    return net


def dense(case: Case) -> Built:
    """A network of plain PyTorch for each task, and an Adam for each."""
    nets = [_plain(case) for _ in range(case.tasks)]
    optimizers = [torch.optim.Adam(net.parameters()) for net in nets]

    def step(data: Data) -> None:
        for net, optimizer, (x, y) in zip(nets, optimizers, data, strict=True):
            optimizer.zero_grad()
            cross_entropy(net(x), y).backward()
            optimizer.step()

    return Built(step, nets, optimizers)


def shared(case: Case) -> Built:
    """Subnetworks in one network, as :func:`~msnlib.fit` trains them: an Adam for each task, over its own values."""
    names = [f"task_{k}" for k in range(case.tasks)]
    net = _declared(case, names)
    for name in names:
        allocate(net, name, case.density, "random", **case.how)
    sparse_products(net, case.below)
    optimizers = [torch.optim.Adam(task_parameters(net, name)) for name in names]

    def step(data: Data) -> None:
        for name, optimizer, (x, y) in zip(names, optimizers, data, strict=True):
            optimizer.zero_grad()
            with using(net, name):
                with torch.autocast(x.device.type, torch.bfloat16, enabled=case.precision == "bfloat16"):
                    outputs = net(x)
                cross_entropy(outputs.float(), y).backward()
            optimizer.step()

    return Built(step, [net], optimizers)


class _Owned(nn.Linear):
    """A linear layer with an owner for each entry of its weight and bias."""

    def __init__(self, inputs: int, units: int, tasks: int, density: float):
        super().__init__(inputs, units)
        for name in ("weight", "bias"):
            tensor = getattr(self, name)
            owner = torch.zeros(tensor.numel(), dtype=torch.uint8)
            count = max(1, round(density * tensor.numel()))
            for k, part in enumerate(torch.randperm(tensor.numel()).split(count)[:tasks]):
                owner[part] = k + 1
            self.register_buffer(f"{name}_owner", owner.view(tensor.shape))
        self.task = 0

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * (self.weight_owner == self.task)
        return nn.functional.linear(x, weight, self.bias * (self.bias_owner == self.task))


def owner_map(case: Case) -> Built:
    """One dense weight and the number of each entry's owner: all tasks' gradients add up, and one Adam serves all.

    The product with the mask also masks the gradient. (In a sequence the step would have to be masked too: Adam's
    momentum and any weight decay still move entries whose gradient is 0.)
    """
    hidden = [m for a, b in pairwise(case.sizes[:-1]) for m in (_Owned(a, b, case.tasks, case.density), nn.ReLU())]
    trunk = nn.Sequential(*hidden)
    heads = nn.ModuleList(_Owned(*case.sizes[-2:], 1, case.density) for _ in range(case.tasks))
    optimizer = torch.optim.Adam([*trunk.parameters(), *heads.parameters()])

    def step(data: Data) -> None:
        optimizer.zero_grad()
        for k, (x, y) in enumerate(data):
            for layer in trunk[::2]:
                layer.task = k + 1
            heads[k].task = 1
            cross_entropy(heads[k](trunk(x)), y).backward()
        optimizer.step()

    return Built(step, [trunk, heads], [optimizer])


def beyondml_layer(folder: str | os.PathLike, name: str) -> type[nn.Module]:
    """A PyTorch layer of the released library, whose package imports TensorFlow: its file is loaded alone."""
    path = Path(folder) / "beyondml" / "pt" / "layers" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, name)


def beyondml(case: Case) -> Built:
    """The released library: a layer takes the inputs of all tasks, and holds a copy of weight and mask for each."""
    layer = beyondml_layer(case.folder, "MultiMaskedDense")
    layers = nn.ModuleList(layer(a, b, case.tasks) for a, b in pairwise(case.sizes))
    for one in layers:
        one.prune(round(100 * (1 - case.density)))
    optimizer = torch.optim.Adam(layers.parameters())  # after pruning, which replaces the parameters

    def step(data: Data) -> None:
        optimizer.zero_grad()
        values = [x for x, _ in data]
        for one in layers[:-1]:
            values = [value.relu() for value in one(values)]
        sum(cross_entropy(out, y) for out, (_, y) in zip(layers[-1](values), data, strict=True)).backward()
        optimizer.step()

    return Built(step, [layers], [optimizer])


def products(case: Case) -> Built:
    """The three matrix products of every layer (the first has no gradient of its input) and nothing else."""
    weights = [torch.randn(b, a) for a, b in pairwise(case.sizes)]

    def step(data: Data) -> None:
        for x, _ in data:
            for k, weight in enumerate(weights):
                inputs = x if k == 0 else torch.ones(len(x), weight.shape[1])
                outputs = inputs @ weight.T
                outputs.T @ inputs
                if k:
                    outputs @ weight

    return Built(step)


def one_pass(case: Case) -> Built:
    """Forward and backward over all images of one task, in batches of 512, without an optimizer."""
    net = _plain(case)

    def step(data: Data) -> None:
        for x, y in zip(*(tensor.split(512) for tensor in data[0]), strict=True):
            net.zero_grad()
            cross_entropy(net(x), y).backward()

    return Built(step, [net])


def allocating(case: Case) -> Built:
    """The second task scored on all images, in batches of 512, and placed among what the first has left."""
    net = _declared(case, ("first", "second"))
    for name in ("first", "second"):
        allocate(net, name, case.density, "random")

    def step(data: Data) -> None:
        release(net, "second")
        batches = zip(*(tensor.split(512) for tensor in data[0]), strict=True)
        allocate(net, "second", case.density, "gradient", batches, cross_entropy)

    return Built(step, [net])


def extracted(case: Case) -> Built:
    """Predictions of one task that was taken out of its network, a module for each size of batch."""
    net = _declared(case, ["task"]).eval()
    allocate(net, "task", case.density, "random")
    modules: dict[int, nn.Module] = {}

    @torch.inference_mode()
    def step(data: Data) -> None:
        x = data[0][0]
        if len(x) not in modules:
            modules[len(x)] = extract(net, "task", case.format, batch_size=len(x))
        for _ in range(max(1, 64 // len(x))):  # a small batch takes less time than the clock's noise
            modules[len(x)](x)

    return Built(step)


BUILDERS: dict[str, Callable[[Case], Built]] = {
    builder.__name__: builder
    for builder in (dense, shared, owner_map, beyondml, products, one_pass, allocating, extracted)
}
