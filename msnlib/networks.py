"""Networks of the experiments: input stems and heads of each task's own around one shared masked trunk.

One builder makes the multitask network and its dedicated control: a dedicated dense network is the same network
with one task at density 1, a dedicated pruned one the same with one task at the multitask density.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from msnlib.images import available, images
from msnlib.isolation import load_whole
from msnlib.layers import MaskedConv2d, MaskedLinear, SharedTensor
from msnlib.seeding import stream
from msnlib.subnetworks import check_name, shared_tensors, using, walk
from msnlib.switches import PerTask
from msnlib.task import Task, is_count


class MultitaskNetwork(nn.Module):
    """Stem of the task -> shared trunk -> head of the task.

    Args:
        trunk: module with masked layers that all tasks share, (N, \\*inputs) -> (N, features).
        inputs: what the trunk takes: a width, or (channels, height, width) for images.
        features: width of what it gives.
        config: how a builder made the network; :func:`~msnlib.save` stores it and :func:`~msnlib.load` rebuilds
            from it. None for a hand-made trunk.
    """

    def __init__(
        self,
        trunk: nn.Module,
        inputs: int | tuple[int, int, int],
        features: int,
        config: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.stems, self.trunk, self.heads = PerTask(), trunk, PerTask()
        self.inputs, self.features = inputs, features
        self.config = config
        self.declared: dict[str, dict[str, Any]] = {}
        load_whole(self)

    def add_task(self, name: str, inputs: Iterable[int], outputs: int, vocabulary: int | None = None) -> None:
        """Declare a task's input and output; its entries come later, from :func:`~msnlib.allocate`.

        Inputs of the trunk's size enter it as they are; others pass a masked layer of the task's own first, linear or,
        for images with other channels, a 3x3 convolution. Word indices are embedded in two dimensions each before
        that (the authors' E4).

        Args:
            name: the task.
            inputs: shape of one example, say (28, 28) or (13,).
            outputs: number of outputs.
            vocabulary: number of words, for int64 inputs of word indices.

        Raises:
            ValueError: unusable or repeated name, sizes below 1, images of another height or width than the trunk's.
        """
        check_name(name)
        inputs = tuple(inputs)
        if name in self.declared:
            raise ValueError(f"task {name!r} is declared already")
        counts = (outputs, *inputs, *([] if vocabulary is None else [vocabulary]))
        if not inputs or not all(is_count(count) for count in counts):
            words = "" if vocabulary is None else f", vocabulary {vocabulary!r}"
            raise ValueError(
                f"task {name!r}: inputs {inputs}, outputs {outputs!r}{words} must be whole numbers, at least 1"
            )
        inputs, outputs = tuple(map(int, inputs)), int(outputs)
        vocabulary = None if vocabulary is None else int(vocabulary)
        stem = self._stem(name, inputs, vocabulary)
        like = next((tensor.like for tensor in shared_tensors(self.trunk).values()), torch.empty(0))
        head = MaskedLinear(self.features, outputs).to(like)
        head.weight.is_output = True
        self.stems[name], self.heads[name] = nn.Sequential(*stem).to(like), head
        self.declared[name] = {"inputs": list(inputs), "outputs": outputs, "vocabulary": vocabulary}

    def _stem(self, name: str, inputs: tuple[int, ...], vocabulary: int | None) -> list[nn.Module]:
        if isinstance(self.inputs, int):
            stem, width = [nn.Flatten()], math.prod(inputs)
            if vocabulary is not None:
                # Keras's default. From N(0, 1) the layers behind learn reviews by heart before the embedding has moved.
                words = torch.rand(vocabulary, 2, generator=stream("embedding", name)).mul(0.1).sub(0.05)
                stem, width = [nn.Embedding.from_pretrained(words, freeze=False), nn.Flatten()], 2 * width
            return stem if width == self.inputs else [*stem, MaskedLinear(width, self.inputs), nn.ReLU()]
        channels, *size = self.inputs
        if vocabulary is not None or list(inputs[-2:]) != size or len(inputs) not in (2, 3):
            raise ValueError(
                f"task {name!r}: inputs {inputs} are no images of {size[0]} x {size[1]}, as this network takes"
            )
        stem = [nn.Unflatten(1, (1, size[0]))] if len(inputs) == 2 else []
        given = 1 if len(inputs) == 2 else inputs[0]
        return stem if given == channels else [*stem, MaskedConv2d(given, channels, 3, padding=1), nn.ReLU()]

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
        x = self.stems(x)
        if x.dim() == 4:  # convolutions are about 1.4 times as fast so on a CPU
            x = x.to(memory_format=torch.channels_last)
            if available(self.trunk, x):
                return self.heads(images(self.trunk, x))
        return self.heads(self.trunk(x))

    def plain(self, task: str) -> nn.Sequential:
        """The three parts of one task in a row; see :func:`~msnlib.extract`."""
        row = nn.Sequential(self.stems[task], self.trunk, self.heads[task])
        row.training = self.training
        return row


def behaviour(module: nn.Module) -> str | None:
    """What a module does that no module of its class, made anew, would do, if anything; of a masked layer or
    `MultitaskNetwork` also what its class does beside its plain one.
    """
    kind = next((kind for kind in (MaskedLinear, MaskedConv2d, MultitaskNetwork) if isinstance(module, kind)), None)
    own_class = kind and type(module).forward is not kind.forward and type(module).plain is kind.plain
    if own_class or "forward" in vars(module):
        return "a forward of its own"
    return "a forward hook" if module._forward_hooks or module._forward_pre_hooks else None


def dense_network(
    tasks: Iterable[Task] = (), inputs: int | None = None, width: int = 1000, depth: int = 6, scale: float = 1.0
) -> MultitaskNetwork:
    """The authors' fully connected network: inputs - depth x width ReLU - outputs (E1, E3, E4).

    Args:
        tasks: tasks to declare; more can follow with ``add_task``.
        inputs: width the trunk takes; None takes the first task's number of inputs (784 for MNIST).
        width: units in a hidden layer.
        depth: number of hidden layers.
        scale: factor for ``width``, at least one unit stays: the same network, narrower.

    Raises:
        ValueError: no task to take the inputs from, or a size below 1.
    """
    tasks = list(tasks)
    if inputs is None:
        if not tasks:
            raise ValueError("dense_network needs inputs= when no task is given")
        inputs = math.prod(tasks[0].inputs)
    if not all(is_count(size) for size in (inputs, width, depth)):
        raise ValueError(f"inputs {inputs!r}, width {width!r} and depth {depth!r} must be whole numbers, at least 1")
    inputs, width, depth = int(inputs), _scaled(width, scale), int(depth)
    sizes = [inputs] + [width] * depth
    layers = [m for a, b in zip(sizes, sizes[1:], strict=False) for m in (MaskedLinear(a, b), nn.ReLU())]
    config = {"builder": "dense_network", "inputs": inputs, "width": width, "depth": depth}
    return _declare(MultitaskNetwork(nn.Sequential(*layers), inputs, width, config), tasks)


def conv_network(
    tasks: Iterable[Task] = (),
    inputs: Iterable[int] | None = None,
    channels: Iterable[int] = (32, 64),
    width: int = 256,
    pool_stride: int = 1,
    own_first: bool = False,
    scale: float = 1.0,
) -> MultitaskNetwork:
    """The authors' convolutional network (E2, E5 to E7).

    Two 3x3 convolutions to ``channels[0]`` and a 2x2 maximum, the same to ``channels[1]``, two layers of ``width``
    units; ReLU after each. Convolutions keep the size of the image.

    Args:
        tasks: tasks to declare; more can follow with ``add_task``.
        inputs: (channels, height, width) of an image; None takes the first task's, (1, 28, 28) for MNIST.
        channels: of the two pairs of convolutions.
        width: units in each of the two dense layers.
        pool_stride: of the maxima. The authors' is 1, which makes the first dense layer wide; 2 is about 4 times as
            fast.
        own_first: leave the first convolution to the tasks, each its own, so that images of 1 and of 3 channels meet
            in the second (E5).
        scale: factor for ``channels`` and ``width``, at least one stays: the same network, narrower.

    Raises:
        ValueError: no task to take the inputs from, a size below 1, images too small for the two maxima.
    """
    tasks, channels = list(tasks), list(channels)
    if inputs is None:
        if not tasks:
            raise ValueError("conv_network needs inputs= when no task is given")
        inputs = tasks[0].inputs
    inputs = tuple(inputs) if len(inputs := list(inputs)) == 3 else (1, *inputs)
    sizes = (*inputs, *channels, width, pool_stride)
    if len(inputs) != 3 or len(channels) != 2 or not all(is_count(size) for size in sizes):
        raise ValueError(
            f"conv_network takes inputs of (channels, height, width) and two channels, whole numbers from 1 on, not "
            f"inputs {inputs}, channels {channels}, width {width}, pool_stride {pool_stride}"
        )
    inputs, pool_stride = tuple(map(int, inputs)), int(pool_stride)
    first, second = (_scaled(n, scale) for n in channels)
    width, size = _scaled(width, scale), inputs[1:]
    layers: list[nn.Module] = [] if own_first else [MaskedConv2d(inputs[0], first, 3, padding=1), nn.ReLU()]
    layers += [MaskedConv2d(first, first, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, pool_stride)]
    layers += [MaskedConv2d(first, second, 3, padding=1), nn.ReLU()]
    layers += [MaskedConv2d(second, second, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, pool_stride)]
    left = [((n - 2) // pool_stride + 1 - 2) // pool_stride + 1 for n in size]
    if min(left) < 1:
        raise ValueError(f"images of {size[0]} x {size[1]} are too small for two maxima of stride {pool_stride}")
    layers += [
        nn.Flatten(),
        MaskedLinear(second * math.prod(left), width),
        nn.ReLU(),
        MaskedLinear(width, width),
        nn.ReLU(),
    ]
    config = {"builder": "conv_network", "inputs": list(inputs), "channels": [first, second], "width": width}
    config |= {"pool_stride": pool_stride, "own_first": own_first}
    trunk_inputs = (first if own_first else inputs[0], *size)
    return _declare(MultitaskNetwork(nn.Sequential(*layers), trunk_inputs, width, config), tasks)


def _scaled(size: int, scale: float) -> int:
    if isinstance(scale, bool) or not isinstance(scale, Real) or not 0 < scale < math.inf:
        raise ValueError(f"scale {scale!r} must be above 0")
    return max(1, round(size * scale))


def _declare(net: MultitaskNetwork, tasks: Iterable[Task]) -> MultitaskNetwork:
    for task in tasks:
        net.add_task(task.name, task.inputs, task.outputs, task.vocabulary)
    return net


BUILDERS = {"dense_network": dense_network, "conv_network": conv_network}


def check_in_a_row(net: nn.Module, task: str, rule: str) -> None:
    """Refuse a network in which not every layer takes what the one before it gives.

    Raises:
        ValueError: not a network of msnlib's builders.
    """
    refusal = f"rule {rule!r} is for networks of msnlib's builders, layers in a row: "
    if not (isinstance(getattr(net, "trunk", None), nn.Sequential) and hasattr(net, "heads")):
        raise ValueError(f"{refusal}not {type(net).__name__}")
    width, is_output = None, False
    for name, module, _ in walk(net, task):
        weight = getattr(module, "weight", None)
        if not isinstance(weight, SharedTensor):
            continue
        if getattr(module, "groups", 1) != 1 or (width is not None and weight.shape[1] % width):
            raise ValueError(f"{refusal}{name} does not take the {width} units before it")
        width, is_output = weight.shape[0], weight.is_output
    if not is_output:
        raise ValueError(f"{refusal}task {task!r} has no masked head")
