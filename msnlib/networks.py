"""Networks of the experiments: input stems and heads of each task's own around one shared masked trunk.

One builder makes the multitask network and its dedicated control: a dedicated dense network is the same network
with one task at density 1, a dedicated pruned one the same with one task at the multitask density.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from msnlib.layers import MaskedLinear, PerTask, check_name, shared_tensors, using
from msnlib.seeding import stream
from msnlib.task import Task


class MultitaskNetwork(nn.Module):
    """Stem of the task -> shared trunk -> head of the task.

    Args:
        trunk: module with masked layers that all tasks share, (N, inputs) -> (N, features).
        inputs, features: widths at the trunk's two ends.
        config: how a builder made the network; :func:`~msnlib.save` stores it and :func:`~msnlib.load` rebuilds
            from it. None for a hand-made trunk.
    """

    def __init__(self, trunk: nn.Module, inputs: int, features: int, config: dict[str, Any] | None = None):
        super().__init__()
        self.stems, self.trunk, self.heads = PerTask(), trunk, PerTask()
        self.inputs, self.features = inputs, features
        self.config = config
        self.declared: dict[str, dict[str, Any]] = {}

    def add_task(self, name: str, inputs: Iterable[int], outputs: int, vocabulary: int | None = None) -> None:
        """Declare a task's input and output; its entries come later, from :func:`~msnlib.allocate`.

        Inputs as wide as the trunk enter it as they are; others pass a masked layer of the task's own first. Word
        indices are embedded in two dimensions each before that (the authors' E4).

        Args:
            name: the task.
            inputs: shape of one example, say (28, 28) or (13,).
            outputs: number of outputs.
            vocabulary: number of words, for int64 inputs of word indices.

        Raises:
            ValueError: unusable or repeated name, sizes below 1.
        """
        check_name(name)
        inputs = tuple(inputs)
        if name in self.declared:
            raise ValueError(f"task {name!r} is declared already")
        if min((outputs, *inputs), default=0) < 1:
            raise ValueError(f"task {name!r}: inputs {inputs} and outputs {outputs} must be at least 1")
        stem, width = [nn.Flatten()], math.prod(inputs)
        if vocabulary is not None:
            words = torch.randn(vocabulary, 2, generator=stream("embedding", name))
            stem, width = [nn.Embedding.from_pretrained(words, freeze=False), nn.Flatten()], 2 * width
        if width != self.inputs:
            stem += [MaskedLinear(width, self.inputs), nn.ReLU()]
        like = next((tensor.like for tensor in shared_tensors(self.trunk).values()), torch.empty(0))
        self.stems[name] = nn.Sequential(*stem).to(like)
        self.heads[name] = MaskedLinear(self.features, outputs).to(like)
        self.heads[name].weight.is_output = True
        self.declared[name] = {"inputs": list(inputs), "outputs": outputs, "vocabulary": vocabulary}

    def forward(self, x: Tensor, task: str | None = None) -> Tensor:
        """(N, \\*inputs of the task) -> (N, outputs of the task).

        Args:
            x: a batch.
            task: whose subnetwork to run; None inside ``with using(net, ...)``.

        Raises:
            ValueError: the network holds no such task.
            RuntimeError: no task named and none active.
        """
        if task is not None:
            with using(self, task):
                return self(x)
        return self.heads(self.trunk(self.stems(x)))

    def plain(self, task: str) -> nn.Sequential:
        """The three parts of one task in a row; see :func:`~msnlib.extract`."""
        row = nn.Sequential(self.stems[task], self.trunk, self.heads[task])
        row.training = self.training
        return row


def dense_network(
    tasks: Iterable[Task] = (), inputs: int | None = None, width: int = 1000, depth: int = 6
) -> MultitaskNetwork:
    """The authors' fully connected network: inputs - depth x width ReLU - outputs (E1, E3).

    Args:
        tasks: tasks to declare; more can follow with ``add_task``.
        inputs: width the trunk takes; None takes the first task's number of inputs (784 for MNIST).
        width: units in a hidden layer.
        depth: number of hidden layers.

    Raises:
        ValueError: no task to take the inputs from, or a size below 1.
    """
    tasks = list(tasks)
    if inputs is None:
        if not tasks:
            raise ValueError("dense_network needs inputs= when no task is given")
        inputs = math.prod(tasks[0].inputs)
    if min(inputs, width, depth) < 1:
        raise ValueError(f"inputs {inputs}, width {width} and depth {depth} must be at least 1")
    sizes = [inputs] + [width] * depth
    layers = [m for a, b in zip(sizes, sizes[1:], strict=False) for m in (MaskedLinear(a, b), nn.ReLU())]
    config = {"builder": "dense_network", "inputs": inputs, "width": width, "depth": depth}
    net = MultitaskNetwork(nn.Sequential(*layers), inputs, width, config)
    for task in tasks:
        net.add_task(task.name, task.inputs, task.outputs, task.vocabulary)
    return net


BUILDERS = {"dense_network": dense_network}
