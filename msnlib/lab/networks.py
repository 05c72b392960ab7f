"""The networks of the experiments: alone, narrow or shared, and tables of what tasks own in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn

from msnlib.allocation import allocate
from msnlib.lab.plots import owners
from msnlib.networks import MultitaskNetwork
from msnlib.selection import Choose, Rule, entries
from msnlib.subnetworks import owner_map, shared_tensors, tasks
from msnlib.task import Task
from msnlib.training import History, fit_sequence

Builder = Callable[..., MultitaskNetwork]


def dedicated(
    build: Builder,
    task: Task,
    device: torch.device | str = "cpu",
    density: float = 1.0,
    method: str = "gradient",
    sample: int | None = None,
    rule: str | Rule | Choose = "even_outputs",
    **training: Any,
) -> tuple[MultitaskNetwork, History]:
    """A control: a network of the task's own, from the same builder.

    Args:
        build: makes the network.
        task: its only one.
        device: where the network is.
        density: share of the weights that the task keeps; at 1 it owns every entry.
        method: how weights are scored, at a density below 1.
        sample: training examples that weights are scored on; None takes all.
        rule: which of them are kept, as for :func:`~msnlib.allocate`.
        training: passed to :func:`~msnlib.fit`.

    Returns:
        The network and its training.
    """
    net = build([task]).to(device)
    method = method if density < 1 else "random"  # where every entry is kept, scores decide nothing
    return net, fit_sequence(net, [task], density, method, sample=sample, rule=rule, **training).histories[0]


def narrow(build: Builder, task: Task, density: float) -> Builder:
    """The same builder with fewer units: its dense network has the size of a subnetwork of this density.

    Args:
        build: takes ``scale``, as :func:`~msnlib.dense_network` and :func:`~msnlib.conv_network` do.
        task: whose input and output the network has.
        density: of the subnetwork.

    Returns:
        A builder of the largest network with at most as many weights and biases as the task would own (or of the
        smallest there is).
    """
    budget = sum(entries(tensor.numel(), density) for tensor in shared_tensors(build([task])).values())
    low, high = 0.0, 1.0
    for _ in range(12):  # to within a unit of 1000
        middle = (low + high) / 2
        size = sum(tensor.numel() for tensor in shared_tensors(build([task], scale=middle)).values())
        low, high = (middle, high) if size <= budget else (low, middle)
    return partial(build, scale=low or high)


def shared_network(
    build: Builder,
    group: Sequence[Task],
    density: float,
    method: str = "gradient",
    device: torch.device | str = "cpu",
    *,
    order: Sequence[Task] | None = None,
    sample: int | None = None,
    rule: str | Rule | Choose = "even_outputs",
    **how: Any,
) -> MultitaskNetwork:
    """A fresh network with a subnetwork for each task, untrained.

    Args:
        build: makes the network, from the tasks.
        group: the network's tasks.
        density: share of the weights that each task keeps.
        method: how weights are scored.
        device: where the network is.
        order: in which tasks choose their weights; None is that of ``group``.
        sample: training examples that weights are scored on; None takes all.
        rule: which of them are kept, as for :func:`~msnlib.allocate`.
        how: passed to :func:`~msnlib.allocate`.
    """
    net = build(group).to(device)
    for task in group if order is None else order:
        allocate(net, task.name, density, method, task.batches(limit=sample), task.loss, rule=rule, **how)
    return net


def allocation_table(net: nn.Module) -> pd.DataFrame:
    """A row per masked tensor: its entries, those of each task, and the free ones."""
    names, rows = tasks(net), {}
    for name, owner in owner_map(net).items():
        count = torch.bincount(owner.flatten(), minlength=len(names) + 1).tolist()
        rows[name] = {"entries": owner.numel(), **dict(zip(names, count[1:], strict=True)), "free": count[0]}
    return pd.DataFrame.from_dict(rows, orient="index")


def idle_units(net: nn.Module) -> pd.DataFrame:
    """A row per weight of the trunk: its units, and for each task those that keep no input and so send a constant."""
    rows = {}
    for name, tensor in shared_tensors(net).items():
        if len(tensor.shape) > 1 and len(tensor) == len(tasks(net)):
            idle = {task: int((tensor.used_per_unit(task) == 0).sum()) for task in tasks(net)}
            rows[name] = {"units": tensor.shape[0], **idle}
    return pd.DataFrame.from_dict(rows, orient="index")


def dead_outputs(net: nn.Module) -> dict[str, list[int]]:
    """Task -> the outputs of its head that got no weight, so that no input can move them; no head, no entry."""
    found: dict[str, list[int]] = {}
    for task in tasks(net):
        for tensor in shared_tensors(net, task).values():
            if tensor.is_output and len(tensor.shape) > 1 and task in tensor:
                found.setdefault(task, []).extend((tensor.used_per_unit(task) == 0).nonzero().flatten().tolist())
    return found


def trunk_owners(net: MultitaskNetwork, window: int = 60) -> None:
    """Draw who owns what in the first, the middle and the last matrix of the trunk: a window in the middle of each."""
    maps, weights = owner_map(net), list(idle_units(net).index)
    shown = dict.fromkeys((weights[0], weights[len(weights) // 2], weights[-1]))
    owners({name: maps[name] for name in shown}, tasks(net), window=window)


def permuted(task: Task, number: int, name: str | None = None) -> Task:
    """The task with the pixels of all its inputs in another order, the number's.

    Args:
        task: its inputs of any shape keep that shape.
        number: seed of the order, the same one for every task of as many pixels.
        name: of the new task; None is ``"NAME_permuted_NUMBER"``.
    """
    order = torch.randperm(math.prod(task.inputs), generator=torch.Generator().manual_seed(number))
    order = order.to(task.train[0].device)
    return task.map_inputs(lambda x: x.flatten(1)[:, order].view_as(x), name or f"{task.name}_permuted_{number}")


def describe(group: Sequence[Task]) -> None:
    """Print how many examples the parts of each task have."""
    for task in group:
        train, valid, test = (len(task.split(part)[0]) for part in ("train", "valid", "test"))
        print(f"{task.name}: {train} train, {valid} validation, {test} test")
