"""Isolation at its edges: what could harm a task is refused, or warned of, by name before anything has changed."""

from __future__ import annotations

import copy
import math
import sys
import warnings
from typing import Any

from torch import Tensor, nn

from msnlib.layers import SharedTensor
from msnlib.subnetworks import check_known, shared_tensors, tasks, walk
from msnlib.switches import PerTask, TaskCopies
from msnlib.task import Task


class SharedParameterWarning(UserWarning):
    """A network has parameters that no task owns: an optimizer that is given them would move every task."""


def check_fits(net: nn.Module, task: Task, *splits: str, targets: bool = True) -> None:
    """Raise ValueError unless the network holds the task at its sizes, and the task has examples in these splits.

    Sizes are those that a network declares. Without ``targets`` its outputs may be what they like.
    """
    check_known(net, task.name)
    for split in splits:
        if not len(task.split(split)[0]):
            raise ValueError(f"task {task.name!r}: no examples in its {split} part")
    check_sizes(net, task, targets)


def check_sizes(net: nn.Module, task: Task, targets: bool = True) -> None:
    """Raise ValueError unless the network would take the task's inputs and, with ``targets``, give its outputs."""
    if declared := getattr(net, "declared", {}).get(task.name):
        meant = {name: declared[name] for name in ("inputs", "vocabulary", "outputs")}
        given = {"inputs": list(task.inputs), "vocabulary": task.vocabulary, "outputs": task.outputs}
        # Any shape of as many inputs passes a Flatten; a head may be wider than a task has classes.
        if math.prod(given["inputs"]) == math.prod(meant["inputs"]):
            del given["inputs"]
        if not targets or (task.kind == "classification" and task.outputs <= meant["outputs"]):
            del given["outputs"]
        for what, value in given.items():
            if value != meant[what]:
                raise ValueError(f"task {task.name!r}: {what} {value}, but the network was given {what} {meant[what]}")
    check_dtype(net, task.name, task.train[0])


def check_dtype(net: nn.Module, task: str, x: Tensor) -> None:
    """Raise ValueError if x is floating and of another dtype than the network."""
    dtype = next((tensor.like.dtype for tensor in shared_tensors(net).values()), x.dtype)
    if x.is_floating_point() and x.dtype != dtype:
        x_is, net_is = (str(d).removeprefix("torch.") for d in (x.dtype, dtype))
        raise ValueError(f"task {task!r}: x is {x_is}, the network {net_is}: convert one, say x.to(torch.{net_is})")


def check_isolated(net: nn.Module) -> None:
    """Refuse by name what moves in training whoever trains: buffers of all, memory of a private part given to two.

    Of parameters that are neither shared out nor one task's alone, and not frozen, it warns.
    """
    spans = [
        (*_span(tensor), task, name)
        for name, switch in net.named_modules()
        for task, own in (switch.items() if isinstance(switch, PerTask) else ())
        for tensor in (*own.parameters(), *own.buffers())
    ]
    trained = []
    for name, module, private in walk(net, None):
        if private or isinstance(module, SharedTensor):
            continue
        prefix = f"{name}." if name else ""
        for label in (n for n, b in module._buffers.items() if b is not None):
            raise ValueError(
                f"{prefix}{label} ({type(module).__name__}) is of all tasks at once: give each its own "
                "(convert, PerTask); a constant can be a parameter with requires_grad=False"
            )
        own = {f"{prefix}{n}": p for n, p in module._parameters.items() if p is not None}
        spans += [(*_span(p), "", label) for label, p in own.items()]
        trained += [label for label, p in own.items() if p.requires_grad]
    _check_apart(spans)
    if trained:
        message = (
            f"{', '.join(trained)}: shared by all tasks and trained by fit for none; give each task its own (convert, "
            "PerTask), or freeze them (requires_grad_(False))"
        )
        warnings.warn(message, SharedParameterWarning, stacklevel=3)


def _span(tensor: Tensor) -> tuple[str, int, int]:
    """Where a tensor lies in memory: the device, its first byte and the one behind its last; one without, its id."""
    if not tensor.numel() or not tensor.data_ptr():
        return "none", id(tensor), id(tensor) + 1
    steps = ((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return str(tensor.device), tensor.data_ptr(), tensor.data_ptr() + (sum(steps) + 1) * tensor.element_size()


def _check_apart(spans: list[tuple[str, int, int, str, str]]) -> None:
    """Refuse parts of two tasks, or of one and of all (""), that share memory: (device, begin, end, task, name)."""
    last: tuple[str, int, int, str, str] | None = None
    for span in sorted(spans):
        device, begin, end, task, name = span
        if last is not None and device == last[0] and begin < last[2] and task != last[3]:
            if task and last[3]:
                first, second = (last, span) if last[3] < task else (span, last)
                raise ValueError(
                    f"{second[4]}: tasks {first[3]!r} and {second[3]!r} share a module or its memory; give each its own"
                )
            private, public = (span, last) if task else (last, span)
            raise ValueError(
                f"{private[4]}: a part of task {private[3]!r} alone is {public[4]} too, which is of all tasks; "
                "give the task its own"
            )
        if last is None or device != last[0] or end > last[2]:
            last = span


def check_declared(net: nn.Module, task: str) -> None:
    """Refuse a task that could not run: some part that every task has its own of holds none for it."""
    for name, module, _ in walk(net, task):
        if isinstance(module, PerTask) and not isinstance(module, TaskCopies) and task not in module:
            raise ValueError(f"{name}: nothing declared for task {task!r}, only for: {', '.join(module) or 'none'}")


def load_whole(net: nn.Module) -> None:
    """Let ``net.load_state_dict`` refuse before anything has changed, and refuse what would leave a task in parts.

    Builders, ``convert``, ``allocate`` and ``load`` do this to the network that they are given. A hand-made one that
    has met none of them, and a module of which it is a part, fill what fits before they refuse, as torch does.
    """
    if not any(getattr(hook, "hook", None) is _try for hook in net._load_state_dict_pre_hooks.values()):
        net.register_load_state_dict_pre_hook(_try)


def load_freely(net: nn.Module) -> nn.Module:
    """The network without what :func:`load_whole` did."""
    for key, hook in list(net._load_state_dict_pre_hooks.items()):
        if getattr(hook, "hook", None) is _try:
            del net._load_state_dict_pre_hooks[key]
    return net


def _try(net: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    if prefix:  # part of a larger module, which does not say what else it loads
        return
    trial = copy.deepcopy(net)
    load_freely(trial)
    strict = _strict()
    trial.load_state_dict(state_dict, strict)
    before, after = _in_parts(net), _in_parts(trial)
    whole = set(tasks(net)) if strict else set(tasks(trial))  # a strict state may hold what a task does not reach
    for task in whole & (after.keys() - before.keys()):
        raise RuntimeError(f"task {task!r} would have no entries in {after[task]}: load all of a task, or nothing")


def _strict() -> bool:
    """Whether the load that is under way is strict: torch tells its hooks that all are."""
    frame = sys._getframe()
    while frame.f_code is not nn.Module.load_state_dict.__code__:
        frame = frame.f_back
    return frame.f_locals["strict"]


def _in_parts(net: nn.Module) -> dict[str, str]:
    """Tasks that have entries in some of the tensors that they reach, and the name of one where they have none."""
    found = {}
    for task in tasks(net):
        lacking = [name for name, tensor in shared_tensors(net, task).items() if task not in tensor]
        found |= {task: lacking[0]} if lacking else {}
    return found
