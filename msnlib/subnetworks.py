"""Subnetworks of a whole network: whose turn it is, who owns what, what a task trains, and how a task leaves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from msnlib.layers import SharedTensor
from msnlib.switches import ByTask, PerTask, TaskCopies, Turn


@contextmanager
def using(net: nn.Module, task: str) -> Iterator[nn.Module]:
    """Run one task's subnetwork of any module inside the ``with`` block.

    The block counts for the thread (or coroutine) that entered it: others run what they say themselves, at the same
    time. A copy of the network made inside is at no task. Blocks nest. A generator that yields inside the block leaves
    its caller in it until it goes on.

    Where part of the network is computed again in backward (``torch.utils.checkpoint``), ``backward`` belongs inside
    the same block; elsewhere it is refused.

    Raises:
        ValueError: the network holds no such task.
        RuntimeError: at the end, if it is entangled with another block, as those of two generators can be.
    """
    found = switches(net)
    if not any(isinstance(switch, SharedTensor) and task in switch for switch in found):
        check_known(net, task)
    with activated(found, task):
        yield net


def sparse_products(net: nn.Module, below: float | None = None) -> None:
    """Say which product linear layers take: with a matrix that is mostly zeros, or with a task's own weights alone.

    Leaving out the zeros is faster on a CPU where layers are large and densities small, in training and in prediction.
    By itself a layer chooses by a fixed table over the task's density, the matrix and the examples
    (:mod:`msnlib.products`; notebook 80 shows what it was made from), never by a clock. Results are the same up to
    rounding, isolation holds bit for bit, and training holds about as many bytes either way.

    Zeros stay, whatever is set, on any device but a CPU with MKL, in half precision, under autocast and
    ``torch.compile``, for whole units, and for a task that reads others. A product without them can be differentiated
    once; who needs second derivatives sets 0.

    Args:
        net: any module with masked layers; tasks may be allocated before or after.
        below: the density under which zeros are left out, whatever the table says: 0 always keeps them, 1 never. None
            goes back to the table.

    Raises:
        ValueError: ``below`` is no density.
    """
    if below is not None and not 0 <= below <= 1:
        raise ValueError(f"below is {below!r}, but must be from 0 to 1, or None")
    for tensor in shared_tensors(net).values():
        tensor.sparse_below = below
        for own in tensor.values():
            own.expand()


def switches(net: nn.Module) -> frozenset[ByTask]:
    """Everything in the network that depends on the task."""
    return frozenset(module for module in net.modules() if isinstance(module, ByTask))


def activated(found: frozenset[ByTask], task: str) -> Turn:
    """Let these switches stand at the task inside the block: :func:`using` for who has found them already."""
    return Turn(found, task)


def shared_tensors(net: nn.Module, task: str | None = None) -> dict[str, SharedTensor]:
    """Name of parameter -> shared tensor, in the module's order; only those ``task`` can reach, if one is named."""
    return {name: module for name, module, _ in walk(net, task) if isinstance(module, SharedTensor)}


def tasks(net: nn.Module) -> list[str]:
    """The tasks a network holds, in the order in which they were allocated."""
    order = {task: sub.order for tensor in shared_tensors(net).values() for task, sub in tensor.items()}
    return sorted(order, key=order.__getitem__)


def task_parameters(net: nn.Module, task: str) -> list[nn.Parameter]:
    """What this task trains, and nothing else: the values it owns and the parameters of its own stem and head.

    Those that are frozen (``requires_grad=False``) are left out.

    Give these, not ``net.parameters()``, to an optimizer: one that holds other tasks' values moves them once their
    gradients are zeros instead of None. Allocating, pruning and loading make new parameters: make it after those.

    Raises:
        ValueError: the network holds no such task.
        FrozenTaskError: a later task reads this one's entries, so training it would move that task.
    """
    check_known(net, task)
    check_not_read(net, task, "trained")
    found: list[nn.Parameter] = []
    for _, module, private in walk(net, task):
        if isinstance(module, SharedTensor):
            found += [module[task].values] if task in module else []
        elif private:
            found.extend(module.parameters(recurse=False))
    return [p for p in dict.fromkeys(found) if p.requires_grad]  # tied ones once


def task_buffers(net: nn.Module, task: str) -> list[Tensor]:
    """Buffers of modules that are this task's alone, say its batch statistics."""
    return [buffer for _, module, private in walk(net, task) if private for buffer in module.buffers(recurse=False)]


def owner_map(net: nn.Module) -> dict[str, Tensor]:
    """Name of parameter -> int64 tensor of its shape: 0 is free, k belongs to the k-th of :func:`tasks`.

    Where ``released_percentile`` made subnetworks overlap, the latest owner is shown.
    """
    number = {task: k for k, task in enumerate(tasks(net), start=1)}
    maps = {}
    for name, tensor in shared_tensors(net).items():
        flat = torch.zeros(tensor.numel(), dtype=torch.int64, device=tensor.like.device)
        for task in sorted(tensor, key=number.__getitem__):
            flat[tensor[task].positions] = number[task]
        maps[name] = flat.view(tensor.shape)
    return maps


def release(net: nn.Module, task: str) -> None:
    """Forget a task: its entries are free again, every other task is untouched bit for bit.

    Stems and heads that a network declares for the task stay declared and hold again what they did when the task was
    allocated first (or, in a network that was loaded, declared), so that it can be allocated anew and starts as new.

    Raises:
        ValueError: the network holds no such task.
        FrozenTaskError: a later task reads this one's entries.
    """
    check_known(net, task)
    check_not_read(net, task, "released")
    discard(net, task)
    for module in net.modules():
        if isinstance(module, PerTask) and task in module:
            module.reset(task)


def discard(net: nn.Module, task: str) -> None:
    """Take the task's entries out of every tensor, and its copies of what is not shared, unchecked."""
    for module in net.modules():
        if isinstance(module, SharedTensor | TaskCopies) and task in module:
            del module[task]


@torch.no_grad()
def set_values(net: nn.Module, task: str, values: Mapping[str, Tensor]) -> None:
    """Set what a task's entries hold: the way to write a task's weights from outside, say to clip or draw them anew.

    Args:
        net: holds the task.
        task: its name.
        values: name as in :func:`shared_tensors` -> tensor of its shape, of which the task's own entries are taken.

    Raises:
        ValueError: unknown task or name, no real tensor, another shape; nothing was set.
        FrozenTaskError: a later task reads this one's entries.

    Example:
        >>> weights = {name: tensor.dense("a").clamp(-0.1, 0.1) for name, tensor in shared_tensors(net, "a").items()}
        >>> set_values(net, "a", weights)
    """
    check_known(net, task)
    check_not_read(net, task, "changed")
    held = {name: tensor for name, tensor in shared_tensors(net, task).items() if task in tensor}
    for name, value in values.items():
        if name not in held:
            raise ValueError(f"task {task!r} owns nothing in {name!r}, only in: {', '.join(held)}")
        usual = isinstance(value, Tensor) and value.layout is torch.strided
        if not usual or value.is_complex() or value.is_meta:
            raise ValueError(f"{name} must be given a dense tensor of real numbers, not {_kind(value)}")
        if value.shape != held[name].shape:
            raise ValueError(f"{name} has shape {tuple(held[name].shape)}, the values given {tuple(value.shape)}")
    for name, value in values.items():
        own = held[name][task]
        own.values.copy_(value.flatten().to(own.values.device)[own.positions])


class FrozenTaskError(RuntimeError):
    """A task that others read was to be trained or released."""


def _kind(value: Any) -> str:
    kind = type(value).__name__
    return f"{kind} ({value.layout}, {value.dtype}, {value.device})" if isinstance(value, Tensor) else kind


def _short(task: Any) -> str:
    """A name as it is, of anything else its type: a whole Task would fill the screen."""
    hint = " (give its name, task.name)" if hasattr(task, "name") else ""
    return repr(task) if isinstance(task, str) else f"of type {type(task).__name__}{hint}"


def check_known(net: nn.Module, task: str) -> None:
    """Raise ValueError unless the network holds the task."""
    known = tasks(net)
    if not isinstance(task, str) or task not in known:
        raise ValueError(f"no task {_short(task)} in this network; it holds: {', '.join(known) or 'none'}")


def check_not_read(net: nn.Module, task: str, verb: str) -> None:
    """Raise FrozenTaskError if another task uses this one's entries."""
    for tensor in shared_tensors(net).values():
        for reader in tensor:
            if task in tensor and task in tensor.read_by(reader):
                raise FrozenTaskError(f"task {task!r} cannot be {verb}: task {reader!r} reads its entries")


_RESERVED = frozenset(dir(SharedTensor((1,)))) | frozenset(dir(PerTask())) | {"fresh", "template"}


def check_name(task: str) -> None:
    """Raise ValueError unless the string can name a task: letters, digits, _ and -, and no attribute of a module."""
    if not isinstance(task, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", task):
        raise ValueError(f"task name {_short(task)} must be one or more letters, digits, '_' or '-'")
    if task in _RESERVED:
        raise ValueError(f"task name {task!r} is taken by an attribute of torch modules; choose another")


def walk(
    net: nn.Module, task: str | None, name: str = "", private: bool = False, seen: set[int] | None = None
) -> Iterator[tuple[str, nn.Module, bool]]:
    """Modules (name, module, belongs to one task alone), each once; with a task, without other tasks' branches."""
    seen = set() if seen is None else seen
    if id(net) in seen:
        return
    seen.add(id(net))
    yield name, net, private
    if isinstance(net, SharedTensor):
        return
    owned = isinstance(net, PerTask)
    for child_name, child in net.named_children():
        if not owned or task is None or child_name == task:
            path = f"{name}.{child_name}" if name else child_name
            yield from walk(child, task, path, private or owned, seen)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; afterwards every module is in the mode it was in."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
