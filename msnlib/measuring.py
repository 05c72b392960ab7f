"""Measuring a task: its outputs, its metric and its loss on one split of its data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from msnlib.isolation import check_fits
from msnlib.subnetworks import evaluating, shared_tensors, using, walk
from msnlib.task import Task

Batch = tuple[Tensor, Tensor]


def predict(net: nn.Module, task: Task, split: str = "test", batch_size: int = 1024) -> Tensor:
    """The task's outputs on one split, in order; the model is left as it was found.

    Shape: (N, outputs).

    Raises:
        ValueError: the network holds no such task, or unknown split.
    """
    check_fits(net, task, split, targets=False)
    return _outputs(net, task, split, batch_size)


def evaluate(net: nn.Module, tasks: Task | Sequence[Task], split: str = "test") -> dict[str, dict[str, float]]:
    """Task -> its metric (accuracy in %, or mse) and its loss on one split; the model is left as it was found.

    Raises:
        ValueError: the network holds no such task, two of one name, or unknown split.
    """
    group = group_of(tasks)
    for task in group:
        check_fits(net, task, split)
    return {task.name: measured(net, task, split) for task in group}


def group_of(tasks: Task | Sequence[Task]) -> list[Task]:
    """One task or several as a list; ValueError if two have one name."""
    group = [tasks] if isinstance(tasks, Task) else list(tasks)
    names = [task.name for task in group]
    if len(set(names)) < len(names):
        raise ValueError(f"a task is given more than once: {', '.join(names)}")
    return group


def measured(net: nn.Module, task: Task, split: str) -> dict[str, float]:
    """:func:`evaluate` of one task, for a caller who has checked that it fits."""
    prediction = _outputs(net, task, split)
    target = task.split(split)[1].to(prediction.device)
    return {task.metric: task.score(prediction, target), "loss": task.loss(prediction, target).item()}


@torch.no_grad()
def _outputs(net: nn.Module, task: Task, split: str, batch_size: int = 1024) -> Tensor:
    like = next(iter(shared_tensors(net, task.name).values())).like
    batches: Iterable[Batch] = task.batches(split, batch_size)
    if any(not norm.track_running_stats for norm in norms(net, task.name).values()):
        batches = joined(batches)
    with evaluating(net), using(net, task.name):
        return torch.cat([net(x.to(like.device)).to(like.dtype) for x, _ in batches])


def scores(net: nn.Module, group: Sequence[Task], split: str = "test") -> dict[str, float]:
    """Task -> its one metric on a split."""
    found = evaluate(net, group, split)
    return {task.name: found[task.name][task.metric] for task in group}


def norms(net: nn.Module, task: str) -> dict[str, nn.Module]:
    """Name -> layer that computes with the statistics of a batch in training."""
    return {name: m for name, m, _ in walk(net, task) if isinstance(m, nn.modules.batchnorm._BatchNorm)}


def joined(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches, but a last one of a single example is part of the one before."""
    before: Batch | None = None
    for x, y in batches:
        if before is None:
            before = x, y
        elif len(x) == 1 < len(before[0]):
            before = torch.cat([before[0], x]), torch.cat([before[1], y])
        else:
            yield before
            before = x, y
    if before is not None:
        yield before
